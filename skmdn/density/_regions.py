"""Modes and highest-density regions, of mixtures with and without bounds."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from skmdn import _mixture
from skmdn._data.supports import Supports
from skmdn._mixture.core import Mixture
from skmdn._utils.arrays import to_numpy, to_tensor
from skmdn.density._base import ConditionalDensity
from skmdn.density._checks import as_confidences, as_min_mass
from skmdn.density.rowwise import map_ragged, map_rows, point_chunks, take_rows

# Evaluations of every component that the search for outlines holds at once, per row.
N_OUTLINE_POINTS = 100


class RegionMethods(ConditionalDensity):
    """Modes and regions of a mixture, seen through the maps of the supports.

    A base of `MixtureDensity` and `TransformedDensity`. `mixture` is the density of
    latent variables z, and y the image of z under the maps of `supports`.
    """

    mixture: Mixture
    supports: Supports

    @overload
    def modes(
        self, min_mass: float = 0.0, return_mass: Literal[False] = False
    ) -> list[NDArray[np.float64]]: ...
    @overload
    def modes(self, min_mass: float = 0.0, return_mass: bool = False) -> Any: ...
    def modes(self, min_mass: float = 0.0, return_mass: bool = False) -> Any:
        """Find the modes of every row, the local maxima of its density.

        Parameters
        ----------
        min_mass : float, default=0.0
            Least probability, in [0, 1], by which a mode stands out; 0 returns all.
            A mode's excess mass is the integral of p - c over its basin of attraction,
            as far as p exceeds c, the density at the highest pass to another basin. It
            is at most the probability of the basin, and close to it where modes are
            apart, but small for a ripple. The mode of the least excess mass is merged
            into the basin across its highest pass, whose mode is kept, until none has
            less than `min_mass`. So two solutions are two modes.
        return_mass : bool, default=False
            Whether to return the probabilities of the basins.

        Returns
        -------
        modes : list of n ndarrays of shape (n_modes, n_outputs)
            Sorted by decreasing density, in the unit of y; scalars have no last
            axis.
        masses : list of n ndarrays of shape (n_modes,)
            Probabilities of the basins; their sum is one. Only if `return_mass`.

        Notes
        -----
        One output: every zero of the slope is found, between points spaced by half
        a standard deviation of each component. Basins end at antimodes, and their
        probabilities are exact. Several outputs: Newton's method,
        safeguarded by mean-shift steps so that the density increases, starts at
        every mean and on the ridges between each component and its 48 nearest,
        since Gaussian mixtures can have modes away from their means. Starts that lie,
        or ascents that meet, in a small cell go on as one. Maxima closer
        than 1e-3 standard deviations at the point are one mode. The search is not
        exhaustive: on 2869 random mixtures of 2 to 40 components and 2, 3 or 5
        outputs the search without cells found all but 2 of the 25054 modes that one
        from hundreds of starts found, and with cells it found the same modes on 1860
        more. No row is without a mode, and components of weight zero have none.

        The probabilities for several outputs are shares of 4096 quasi-random points
        that climb too; their error is below 0.02. A pass is the lowest point on the
        line between two modes, or on the ridge between two Gaussians with the
        curvatures of the modes, whichever is higher.

        With bounds the modes are those of the density of y, which is a Gaussian
        mixture as a function of z too: the same search finds them. An output in an
        interval adds starts beside every mean.

        References
        ----------
        M. A. Carreira-Perpinan, "Mode-finding for mixtures of Gaussian
        distributions", IEEE Transactions on Pattern Analysis and Machine
        Intelligence 22, 2000.

        S. Ray and B. G. Lindsay, "The topography of multivariate normal mixtures",
        Annals of Statistics 33, 2005.

        D. W. Mueller and G. Sawitzki, "Excess mass estimates and tests for
        multimodality", Journal of the American Statistical Association 86, 1991.

        Examples
        --------
        >>> from skmdn import MixtureDensity
        >>> density = MixtureDensity(
        ...     [[0.3, 0.695, 0.005]], [[-3.0, 3.0, 9.0]], [[1.0, 1.0, 1.0]]
        ... )
        >>> density.modes()[0].round(3)
        array([ 3., -3.,  9.])
        >>> modes, masses = density.modes(min_mass=0.01, return_mass=True)
        >>> modes[0].round(3), masses[0].round(3)
        (array([ 3., -3.]), array([0.7, 0.3]))
        """
        least, bounds = as_min_mass(min_mass), self.supports.bounds

        def find(mixture: Mixture) -> tuple[Tensor, Tensor]:
            found = _mixture.find_modes(
                mixture, bounds, min_mass=least, with_masses=return_mass
            )
            points = self.supports.from_latent(found.points)
            if found.masses is None:
                return found.rows, points
            return found.rows, torch.cat([points, found.masses[:, None]], dim=1)

        n_points = _mixture.n_mode_points(
            self.mixture, bounds, with_basins=return_mass or least > 0
        )
        found = map_ragged(find, self.mixture, n_points=n_points)
        modes = [self.outputs.squeeze(row[:, : self.n_outputs]) for row in found]
        if not return_mass:
            return modes
        return modes, [row[:, -1] for row in found]

    def hdr(self, confidence: ArrayLike) -> list[Any]:
        if self.n_outputs > 2:
            raise ValueError(
                f"hdr needs one or two outputs, got {self.n_outputs}. Use in_hdr and "
                "hdr_level for any number of outputs, or select outputs with marginal."
            )
        confidences = as_confidences(confidence)
        if confidences.ndim:
            return [self.hdr(each) for each in confidences]
        if confidences == 1:
            return [_whole_space(self.supports) for _ in range(len(self))]
        if confidences == 0:
            points = self.mode().reshape(len(self), 1, self.n_outputs)
            if self.n_outputs == 1:
                return [np.tile(point, 2) for point in points]
            return [[point] for point in points]
        find = _intervals if self.n_outputs == 1 else _outlines
        return find(self, float(confidences))

    def hdr_level(self, confidence: ArrayLike) -> NDArray[np.float64]:
        """Compute the density at the boundary of the highest-density region.

        Parameters
        ----------
        confidence : float or array-like of shape (m,)
            Probability of the region, in [0, 1].

        Returns
        -------
        level : ndarray of shape (n,), or (m, n) for several confidences
            In one over the unit of y. Exact for one output. For two the probability
            of the region differs from `confidence` by less than 0.002, or by 0.01
            where components are 1e5 of their standard deviations apart. For more the
            level is a quantile of the density at 8192 quasi-random points of the row,
            and the probability differs by at most 0.01.

        Examples
        --------
        >>> from skmdn import MixtureDensity
        >>> MixtureDensity([[1.0]], [[0.0]], [[1.0]]).hdr_level(0.95).round(4)
        array([0.0584])
        """
        confidences = as_confidences(confidence)
        levels = _log_levels(self, np.atleast_1d(confidences))
        return np.exp(levels if confidences.ndim else levels[0])

    def in_hdr(self, y: ArrayLike, confidence: ArrayLike) -> NDArray[np.bool_]:
        log_density, confidences = self.logpdf(y), as_confidences(confidence)
        levels = _log_levels(self, np.atleast_1d(confidences), log_density)
        levels = levels if confidences.ndim else levels[0]
        if levels.ndim > 1:  # insert the axes of a grid of y
            levels = np.expand_dims(levels, (*range(1, log_density.ndim),))
        # The region of the confidence 1 is the support.
        is_inside: NDArray[np.bool_] = (log_density >= levels) & (log_density > -np.inf)
        return is_inside


def _intervals(density: RegionMethods, confidence: float) -> list[Any]:
    """Return the regions of one output, an array (n_intervals, 2) for each row."""
    supports, bounds = density.supports, density.supports.bounds

    def find(mixture: Mixture) -> tuple[Tensor, Tensor]:
        (found,) = _mixture.regions(mixture, [confidence], bounds)
        return found.rows, supports.from_latent(found.edges[..., None])[..., 0]

    n_points = _mixture.n_region_points(bounds)
    return map_ragged(find, density.mixture, n_points=n_points)


def _outlines(density: RegionMethods, confidence: float) -> list[Any]:
    """Return the outlines of two outputs, a list of arrays (m, 2) for each row."""
    levels, errors = map(to_tensor, _sampled_levels(density, [confidence]))
    outlines: list[list[NDArray[np.float64]]] = [[] for _ in range(len(density))]
    for rows in point_chunks(density.mixture, N_OUTLINE_POINTS):
        contour = _mixture.trace_regions(
            take_rows(density.mixture, rows),
            confidence,
            levels[0, rows],
            errors[0, rows],
            density.supports.bounds,
        )
        for row, points in zip(*_mixture.outlines(contour), strict=True):
            outline = to_numpy(density.supports.from_latent(points))
            outlines[rows.start + row].append(outline)
    return outlines


def _whole_space(supports: Supports) -> Any:
    """Return the region of probability one."""
    low, high = (ends.numpy() for ends in supports.all_bounds)
    if len(supports) == 1:
        return np.column_stack([low, high])
    (left, lower), (right, upper) = low, high
    return [np.array([[left, lower], [right, lower], [right, upper], [left, upper]])]


def _log_levels(
    density: RegionMethods,
    confidences: NDArray[np.float64],
    log_density: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Return log-densities at the boundaries of the regions, (m, n).

    Given log-densities (..., n) that are compared with the levels, levels of two
    outputs that decide for none of them are approximate.
    """
    levels = np.full((len(confidences), len(density)), -np.inf)  # of the confidence 1
    if (confidences == 0).any():
        levels[confidences == 0] = density.logpdf(density.mode())
    inner = np.flatnonzero((confidences > 0) & (confidences < 1))
    if not len(inner):
        return levels
    levels[inner], errors = _sampled_levels(density, confidences[inner].tolist())
    if density.n_outputs != 2:
        return levels
    for index, error in zip(inner, errors, strict=True):
        rows = np.arange(len(density))
        if log_density is not None:
            is_near = np.abs(log_density - levels[index]) <= error
            rows = np.flatnonzero(is_near.any(axis=(*range(is_near.ndim - 1),)))
        if len(rows):
            levels[index, rows] = map_rows(
                partial(_corrected_levels, density.supports, confidences[index]),
                take_rows(density.mixture, to_tensor(rows, torch.int64)),
                to_tensor(np.column_stack([levels[index], error])[rows]),
                axis=0,
                n_points=N_OUTLINE_POINTS,
            )
    return levels


def _corrected_levels(
    supports: Supports, confidence: float, mixture: Mixture, sampled: Tensor
) -> Tensor:
    """Return exact log-levels (n,) from approximate ones and their errors (n, 2)."""
    level, error = sampled.unbind(1)
    return _mixture.exact_levels(mixture, confidence, level, error, supports.bounds)


def _sampled_levels(
    density: RegionMethods, confidences: list[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return log-levels and bounds of their errors, (m, n) each."""
    bounds = density.supports.bounds
    found = map_rows(
        partial(_mixture.log_levels, confidences=confidences, bounds=bounds),
        density.mixture,
        axis=-1,
        n_points=_mixture.n_level_points(density.mixture, bounds),
    )
    return found[: len(confidences)], found[len(confidences) :]
