"""Modes and highest-density regions, of mixtures with and without bounds."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from skmdn import _mixture
from skmdn._data.supports import Supports
from skmdn._mixture.core import Mixture
from skmdn.density._base import ConditionalDensity
from skmdn.density._checks import as_confidences, as_min_mass
from skmdn.density.rowwise import check_one_output, map_ragged, map_rows


class RegionMethods(ConditionalDensity):
    """Modes and regions of a mixture, seen through the maps of the supports.

    A base of `MixtureDensity` and `TransformedDensity`. `mixture` is the density of
    latent variables z, and y the image of z under the maps of `supports`.
    """

    mixture: Mixture
    supports: Supports

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
        outputs it found all but 2 of the 25054 modes that a search from hundreds of
        starts found. No row is without a mode, and components of weight zero have
        none.

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
        check_one_output("hdr", self.outputs)
        confidences = as_confidences(confidence)
        if confidences.ndim:
            return [self.hdr(each) for each in confidences]
        bounds = self.supports.bounds
        if confidences == 1:
            low, high = (ends.numpy() for ends in self.supports.all_bounds)
            return [np.column_stack([low, high]) for _ in range(len(self))]
        if confidences == 0:
            return [np.array([[mode, mode]]) for mode in self.mode().ravel()]

        def find(mixture: Mixture) -> tuple[Tensor, Tensor]:
            (found,) = _mixture.regions(mixture, [float(confidences)], bounds)
            edges = self.supports.from_latent(found.edges[..., None])[..., 0]
            return found.rows, edges

        n_points = _mixture.n_level_points(self.mixture, bounds)
        return map_ragged(find, self.mixture, n_points=n_points)

    def hdr_level(self, confidence: ArrayLike) -> NDArray[np.float64]:
        """Compute the density at the boundary of the highest-density region.

        Parameters
        ----------
        confidence : float or array-like of shape (m,)
            Probability of the region, in [0, 1].

        Returns
        -------
        level : ndarray of shape (n,), or (m, n) for several confidences
            In one over the unit of y. Exact for one output; for several the
            quantile of the density at 8192 quasi-random points of the row, so that
            the probability of the region differs from `confidence` by at most 0.01.

        Examples
        --------
        >>> from skmdn import MixtureDensity
        >>> MixtureDensity([[1.0]], [[0.0]], [[1.0]]).hdr_level(0.95).round(4)
        array([0.0584])
        """
        return np.exp(_log_levels(self, confidence))

    def in_hdr(self, y: ArrayLike, confidence: ArrayLike) -> NDArray[np.bool_]:
        log_density, levels = self.logpdf(y), _log_levels(self, confidence)
        if levels.ndim > 1:  # insert the axes of a grid of y
            levels = np.expand_dims(levels, (*range(1, log_density.ndim),))
        is_inside: NDArray[np.bool_] = log_density >= levels
        return is_inside


def _log_levels(density: RegionMethods, confidence: ArrayLike) -> NDArray[np.float64]:
    """Return log-densities at the boundaries of the regions, (n,) or (m, n)."""
    confidences = as_confidences(confidence)
    each, n, bounds = np.atleast_1d(confidences), len(density), density.supports.bounds
    levels = np.full((len(each), n), -np.inf)  # of the confidence 1
    if (each == 0).any():
        levels[each == 0] = density.logpdf(density.mode())
    is_inner = (each > 0) & (each < 1)
    if is_inner.any():
        wanted = each[is_inner].tolist()
        levels[is_inner] = map_rows(
            partial(_mixture.log_levels, confidences=wanted, bounds=bounds),
            density.mixture,
            axis=-1,
            n_points=_mixture.n_level_points(density.mixture, bounds),
        )
    return levels if confidences.ndim else levels[0]
