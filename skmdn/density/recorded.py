"""Distributions of recorded values: probabilities of the cells of a density."""

from __future__ import annotations

from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from skmdn import _mixture
from skmdn._data.conversion import as_real
from skmdn._data.outputs import check_one_output
from skmdn._data.supports import Supports
from skmdn._data.targets import latent_cells
from skmdn._mixture.core import Mixture
from skmdn._utils.arrays import make_seed, to_numpy, to_tensor
from skmdn.density._checks import as_confidences, as_levels
from skmdn.density._distribution import Distribution
from skmdn.density._grid import Grid
from skmdn.density._recorded_algebra import RecordedAlgebra
from skmdn.density.rowwise import as_points, map_rows

Floats = NDArray[np.float64]

# Panels of each component, times their nodes, in the sums over all cells.
N_SUM_POINTS = 20 * 16


class RecordedDensity(RecordedAlgebra):
    """The distribution of values that were recorded to a step.

    A batch of discrete distributions: a value y before rounding, whose density is
    given, is recorded as the next multiple of the step. The probability of a recorded
    value is that of its cell, from y - step / 2 to y + step / 2. Immutable, float64.

    Parameters
    ----------
    density : MixtureDensity or TransformedDensity
        Density of the values before rounding, of one output.
    resolution : float, default=None
        Step, in the unit of y; that of the density by default.
    offset : float, default=0.0
        A recorded value, in the unit of y: all are the offset plus a multiple of the
        step.

    Attributes
    ----------
    density : MixtureDensity or TransformedDensity
        Density of the values before rounding.
    step : float
        Distance of neighbouring recorded values.
    offset : float
        As given.
    outputs : Outputs
        Name and shape of the output, as in `MixtureDensity`.
    output_names : tuple of str or None
        Name of the output.

    Raises
    ------
    ValueError
        If the density has several outputs, or no step is known.

    See Also
    --------
    MixtureDensity.recorded : The same, with the step of the density.

    Notes
    -----
    Methods at a given y evaluate the cell around y itself: recorded values need no
    offset there. Quantiles, `mode`, `mean` and `sample` return recorded values, or
    their moments, and use the grid.

    A bound of the density cuts the cell in which it lies. The values of a positive
    target that are recorded as zero have the cell from 0 to step / 2.

    References
    ----------
    D. F. Heitjan, "Inference from grouped continuous data: a review", Statistical
    Science 4, 1989.

    Examples
    --------
    >>> from skmdn import MixtureDensity, RecordedDensity
    >>> density = MixtureDensity([[1.0]], [[0.3]], [[1.0]])
    >>> recorded = RecordedDensity(density, 1.0)
    >>> recorded.pmf([[-1.0], [0.0], [1.0]]).round(4)
    array([[0.1759],
           [0.3674],
           [0.3057]])
    >>> recorded.median(), recorded.interval(0.9)
    (array([0.]), (array([-1.]), array([2.])))
    """

    density: Any

    def __init__(
        self, density: Any, resolution: float | None = None, offset: float = 0.0
    ) -> None:
        if not isinstance(density, Distribution) or not hasattr(density, "supports"):
            raise TypeError(
                "density must be a MixtureDensity or TransformedDensity, got an object "
                f"of type {type(density).__name__}."
            )
        check_one_output("RecordedDensity", density.outputs)
        known = density.outputs.resolution
        if resolution is None and known is not None:
            (resolution,) = known
        if resolution is None:
            raise ValueError(
                "The density has no resolution. Give the step to which y was recorded, "
                "density.recorded(step), or fit with target_resolution."
            )
        step, start = as_real("resolution", resolution), as_real("offset", offset)
        if step.ndim or not step > 0:
            raise ValueError(
                f"resolution must be a positive number, got {resolution!r}."
            )
        if start.ndim:
            raise ValueError(f"offset must be a number, got {offset!r}.")
        self.density, self.outputs = density, density.outputs
        self.step, self.offset = float(step), float(start)

    def __len__(self) -> int:
        return len(self.density)

    def __getitem__(self, rows: Any) -> Self:
        return type(self)(self.density[rows], self.step, self.offset)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.density!r}, resolution={self.step:g}, "
            f"offset={self.offset:g})"
        )

    # -- probabilities -----------------------------------------------------------

    def logpmf(self, y: ArrayLike) -> Floats:
        """Compute the log-probability of the recorded value y.

        Parameters
        ----------
        y : array-like of shape (n,), or broadcastable to it
            As in `MixtureDensity.logpdf`.

        Returns
        -------
        logpmf : ndarray of shape (n,), or (m, n) for a grid
            In nats, accurate in both tails and for cells of any width; -inf where the
            cell lies outside of the bounds. Less the logarithm of the step it is
            `MDNRegressor.score_samples` of a fit with `target_resolution`.

        Examples
        --------
        >>> from skmdn import MixtureDensity
        >>> recorded = MixtureDensity([[1.0]], [[0.0]], [[1.0]]).recorded(1.0)
        >>> recorded.logpmf([[0.0], [40.0]]).round(4)
        array([[  -0.9599],
               [-784.7209]])
        """
        points = as_points("y", y, self).numpy()
        low, high = (ends.numpy() for ends in self._supports.all_bounds)
        half = self.step / 2
        lower, upper = (np.clip(points + h, low, high) for h in (-half, half))
        is_empty = ~(lower < upper) | np.isinf(points)
        inside = self._supports.from_latent(np.zeros(1))
        lower = np.where(is_empty, inside, lower)
        upper = np.where(is_empty, inside, upper)
        point, *ends = latent_cells(self._supports, points, lower, upper)
        cells = np.concatenate([point, point - ends[0], ends[1] - point], axis=-1)
        logs = map_rows(_mixture.log_cell, self._latent, to_tensor(cells), axis=-1)
        return np.where(is_empty[..., 0], -np.inf, np.minimum(logs, 0.0))

    def pmf(self, y: ArrayLike) -> Floats:
        """Compute the probability of the recorded value y.

        Parameters
        ----------
        y : array-like of shape (n,), or broadcastable to it
            As in `MixtureDensity.logpdf`.

        Returns
        -------
        pmf : ndarray of shape (n,), or (m, n) for a grid
            The sum over all recorded values is one.

        Examples
        --------
        >>> from skmdn import MixtureDensity, TransformedDensity
        >>> latent = MixtureDensity([[1.0]], [[0.0]], [[1.0]])
        >>> recorded = TransformedDensity(latent, (0, None)).recorded(1.0)
        >>> recorded.pmf([[-1.0], [0.0], [1.0]]).round(4)
        array([[0.    ],
               [0.2441],
               [0.4133]])
        """
        return np.exp(self.logpmf(y))

    def cdf(self, y: ArrayLike) -> Floats:
        return self._at_edge("cdf", y)

    def sf(self, y: ArrayLike) -> Floats:
        return self._at_edge("sf", y)

    def logcdf(self, y: ArrayLike) -> Floats:
        return self._at_edge("logcdf", y)

    def logsf(self, y: ArrayLike) -> Floats:
        return self._at_edge("logsf", y)

    def _at_edge(self, method: str, y: ArrayLike, side: float = 1.0) -> Floats:
        """Evaluate a method of the density at an end of the cell around y."""
        edges = as_points("y", y, self) + side * self.step / 2
        values: Floats = getattr(self.density, method)(
            to_numpy(self.outputs.squeeze(edges))
        )
        return values

    # -- quantiles ---------------------------------------------------------------

    def ppf(self, q: ArrayLike) -> Floats:
        """Compute quantiles: the smallest recorded value with a cdf of at least q.

        Parameters
        ----------
        q : array-like
            Levels in [0, 1], broadcast as in `MixtureDensity.ppf`.

        Returns
        -------
        ppf : ndarray of shape (n,) or (m, n)
            In the unit of y; at 0 and 1 the extreme recorded values, infinite without
            a bound. A density with an output axis adds a last axis of length one.

        Examples
        --------
        >>> from skmdn import MixtureDensity
        >>> recorded = MixtureDensity([[1.0]], [[0.2]], [[1.0]]).recorded(0.5)
        >>> recorded.ppf([[0.1], [0.5], [0.9]])
        array([[-1. ],
               [ 0. ],
               [ 1.5]])
        """
        levels = as_levels(q)
        return self._grid.smallest(
            self.density.ppf(levels),
            lambda y: self._with_axis(self.cdf(y) >= levels),
            self._with_axis(levels == 0),
        )

    def isf(self, q: ArrayLike) -> Floats:
        """Compute the smallest recorded value with a probability of exceedance up to q.

        Parameters
        ----------
        q : array-like
            Probabilities of exceedance in [0, 1]; broadcast as in `ppf`.

        Returns
        -------
        isf : ndarray of shape (n,) or (m, n)
            In the unit of y; shapes as in `ppf`.
        """
        levels = as_levels(q)
        return self._grid.smallest(
            self.density.isf(levels),
            lambda y: self._with_axis(self.sf(y) <= levels),
            self._with_axis(levels == 1),
        )

    # -- moments and mode --------------------------------------------------------

    def mean(self) -> Floats:
        """Compute the mean of every row.

        Returns
        -------
        mean : ndarray of shape (n,), or (n, 1) with an output axis
            In the unit of y; with an absolute error below 1e-10 of the sum of the
            standard deviation and the step.
        """
        centre, moments = self._moments()
        return self._shaped(centre + self.step * moments[:, 0])

    def var(self) -> Floats:
        """Compute the variance of every row.

        Returns
        -------
        var : ndarray of shape (n,), or (n, 1) with an output axis
            In squared units of y. The relative error is below 1e-9, or the absolute one
            below 1e-18 squared steps.

        Examples
        --------
        >>> from skmdn import MixtureDensity
        >>> density = MixtureDensity([[1.0]], [[0.0]], [[1.0]])
        >>> density.recorded(1.0).var().round(6)  # one twelfth of step^2 more
        array([1.083333])
        """
        _, moments = self._moments()
        variance = moments[:, 1] - moments[:, 0] ** 2
        return self._shaped(self.step**2 * np.maximum(variance, 0.0))

    def _moments(self) -> tuple[Floats, Floats]:
        """Return a recorded value (n,), and moments about it in steps (n, 2)."""
        latent = self._latent
        middle = map_rows(_mixture.mean, latent, axis=0)
        places = self._grid.places(self._supports.from_latent(middle))
        centre = to_tensor(self._grid.values(places))
        moments = partial(_moments_at, step=self.step, bounds=self._supports.all_bounds)
        return to_numpy(centre[:, 0]), map_rows(
            moments, latent, centre, axis=0, n_points=N_SUM_POINTS
        )

    def mode(self) -> Floats:
        """Find the recorded value of the greatest probability.

        Returns
        -------
        mode : ndarray of shape (n,), or (n, 1) with an output axis
            In the unit of y. The candidates are the cells at and beside the modes of
            the density, and those of the medians of its components.
        """
        medians = self._supports.from_latent(to_numpy(self._latent.means))[..., 0]
        modes = self.density.modes()
        most = max((len(points) for points in modes), default=1)
        highest = np.empty((len(self), most))
        for row, points in enumerate(modes):
            highest[row] = np.resize(points, most)
        middles, tops = map(self._grid.places, (medians.T, highest.T))
        near = np.concatenate([middles, tops - 1, tops, tops + 1])
        candidates = self._grid.values(self._grid.limit(near))
        grid = candidates.reshape(*candidates.shape, *self.outputs.event_shape)
        best = self.logpmf(grid).argmax(0)
        return self._shaped(np.take_along_axis(candidates, best[None], 0)[0])

    # -- score and samples -------------------------------------------------------

    def crps(self, y: ArrayLike) -> Floats:
        """Compute the ranked probability score of the recorded value y.

        The step times the sum over all recorded values k of (cdf(k) - 1[y <= k])^2: the
        continuous ranked probability score of a distribution of recorded values.

        Parameters
        ----------
        y : array-like of shape (n,), or broadcastable to it
            As in `MixtureDensity.logpdf`, finite.

        Returns
        -------
        crps : ndarray of shape (n,), or (m, n) for a grid
            In the unit of y; lower is better. The relative error is below 1e-9, or the
            absolute one below 1e-18 steps; the cost does not grow with the cells.

        References
        ----------
        T. Gneiting and A. E. Raftery, "Strictly proper scoring rules, prediction, and
        estimation", Journal of the American Statistical Association 102, 2007.

        Examples
        --------
        >>> from skmdn import MixtureDensity
        >>> recorded = MixtureDensity([[1.0]], [[0.0]], [[1.0]]).recorded(1.0)
        >>> recorded.crps([[0.0], [3.0]]).round(4)
        array([[0.1994],
               [2.4363]])
        """
        points = as_points("y", y, self, finite=True)
        score = partial(
            _mixture.recorded_crps, step=self.step, bounds=self._supports.all_bounds
        )
        return map_rows(score, self._latent, points, axis=-1, n_points=N_SUM_POINTS)

    def pit(self, y: ArrayLike, random_state: Any = None) -> Floats:
        """Draw the probability integral transform of y, uniformly within its cell.

        Parameters
        ----------
        y : array-like of shape (n,), or broadcastable to it
            As in `MixtureDensity.logpdf`.
        random_state : int, RandomState, Generator or None, default=None
            Seed. With `None` every call gives new draws.

        Returns
        -------
        u : ndarray of shape (n,), or (m, n) for a grid
            In [0, 1]; uniform if the distribution is true.

        References
        ----------
        C. Czado, T. Gneiting and L. Held, "Predictive model assessment for count data",
        Biometrics 65, 2009.
        """
        below, width = self._at_edge("cdf", y, -1.0), self.pmf(y)
        draws = np.random.default_rng(make_seed(random_state)).random(below.shape)
        return np.minimum(below + draws * width, 1.0)

    def share_inside(self, y: ArrayLike, confidence: ArrayLike) -> Floats:
        """Compute the share of the cell of y inside of a central interval.

        Parameters
        ----------
        y : array-like of shape (n,), or broadcastable to it
            As in `MixtureDensity.logpdf`.
        confidence : float or array-like of shape (k,)
            Probability of the interval of the density before rounding, in [0, 1].
            Several confidences add a first axis to the result.

        Returns
        -------
        share : ndarray of shape (n,), or (m, n) for a grid
            Probability of the part of the cell in the interval, divided by that of the
            cell. Its mean over y, if the distribution is true, is the confidence.

        Examples
        --------
        >>> from skmdn import MixtureDensity
        >>> recorded = MixtureDensity([[1.0]], [[0.0]], [[1.0]]).recorded(1.0)
        >>> recorded.share_inside([[0.0], [1.0], [2.0]], 0.8).round(4)
        array([[1.    ],
               [0.8627],
               [0.    ]])
        """
        low = self._at_edge("cdf", y, -1.0)
        high = self._at_edge("cdf", y)
        above, below = self._at_edge("sf", y, -1.0), self._at_edge("sf", y)
        # Seen from the nearer end of the line, where probabilities are accurate.
        is_lower = low <= below
        start, stop = np.where(is_lower, low, below), np.where(is_lower, high, above)
        confidences = as_confidences(confidence)
        tail = (1 - confidences.reshape(*confidences.shape, *(1,) * low.ndim)) / 2
        inside = np.minimum(stop, 1 - tail) - np.maximum(start, tail)
        width = stop - start
        is_wide = width > 0
        share = np.maximum(inside, 0.0) / np.where(is_wide, width, 1.0)
        return np.where(is_wide, np.minimum(share, 1.0), (start >= tail) & (tail < 0.5))

    def sample(self, n_samples: int = 1, random_state: Any = None) -> Floats:
        """Draw independent recorded values from every row.

        Parameters
        ----------
        n_samples : int, default=1
            Draws per row.
        random_state : int, RandomState, Generator or None, default=None
            Seed. With `None` every call gives new draws.

        Returns
        -------
        samples : ndarray of shape (n, n_samples), or (n, n_samples, 1)
            Draws of the density, rounded; in the unit of y.

        Examples
        --------
        >>> from skmdn import MixtureDensity
        >>> recorded = MixtureDensity([[1.0]], [[0.0]], [[1.0]]).recorded(0.5)
        >>> recorded.sample(5, random_state=0)
        array([[ 1. , -0.5, -0.5, -1. ,  0. ]])
        """
        draws = self.density.sample(n_samples, random_state)
        return self._grid.values(self._grid.places(draws))

    # -- privates ----------------------------------------------------------------

    @property
    def _grid(self) -> Grid:
        return Grid.within(self.step, self.offset, self._supports[0].ends)

    @property
    def _supports(self) -> Supports:
        supports: Supports = self.density.supports
        return supports

    @property
    def _latent(self) -> Mixture:
        mixture: Mixture = self.density.mixture
        return mixture

    def _with_axis(self, values: Any) -> NDArray[Any]:
        """Add the output axis, if there is one, to values (...) for rows."""
        array: NDArray[Any] = np.asarray(values)
        has_axis = self.outputs.event_shape and array.ndim
        return array[..., None] if has_axis else array

    def _shaped(self, values: Floats) -> Floats:
        """Add the output axis, if there is one, to values (n,)."""
        return values.reshape(len(self), *self.outputs.event_shape)


def _moments_at(mixture: Mixture, centre: Tensor, step: float, bounds: Any) -> Tensor:
    """Compute moments about points (n, 1), (n, 2)."""
    points = centre[..., 0].expand(len(mixture.means))
    return _mixture.recorded_moments(mixture, points, step, bounds)
