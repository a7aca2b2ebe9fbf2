"""The interface of conditional densities, and what follows from its primitives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skmdn._data.outputs import Outputs
from skmdn.density._checks import as_confidences


class ConditionalDensity(ABC):
    """Abstract base class of a batch of densities p(y | x), one for each row of X.

    Axis 0 of every result is the row and the last axis the outputs; a density of a
    scalar, as after fitting a one-dimensional `y`, has no output axis. A subclass
    implements the abstract methods; the others are derived from them.

    Attributes
    ----------
    outputs : Outputs
        Names of the outputs, and `event_shape`, the shape of one observation of y:
        ``()`` for a scalar, else ``(n_outputs,)``.
    n_outputs : int
        Number of outputs.
    output_names : tuple of str or None
        Names of the outputs.

    See Also
    --------
    MixtureDensity : Batch of Gaussian mixtures.
    """

    outputs: Outputs

    # -- rows and outputs --------------------------------------------------------

    @property
    def n_outputs(self) -> int:
        """Number of outputs."""
        return self.outputs.size

    @property
    def output_names(self) -> tuple[str, ...] | None:
        """Names of the outputs, or None."""
        return self.outputs.names

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of rows."""

    @abstractmethod
    def __getitem__(self, rows: Any) -> Self:
        """Select rows by integer, slice, mask or indices.

        Parameters
        ----------
        rows : int, slice or array-like of bool or int
            As in NumPy, but an integer selects a batch of one row.

        Returns
        -------
        density : density of the same type
        """

    # -- density -----------------------------------------------------------------

    @abstractmethod
    def logpdf(self, y: ArrayLike) -> NDArray[np.float64]:
        """Compute the log-density at y.

        Parameters
        ----------
        y : array-like of shape (n, n_outputs) or broadcastable to it
            As in SciPy, `y` broadcasts against the rows: (n, n_outputs) pairs them,
            (n_outputs,) is one point for all, and (m, 1, n_outputs) is a grid for
            every row. Scalars have no last axis.

        Returns
        -------
        logpdf : ndarray of shape (n,), or (m, n) for a grid
            In nats: natural logarithm of a density in one over the unit of y.

        Examples
        --------
        >>> from skmdn import MixtureDensity
        >>> density = MixtureDensity([[1.0]], [[0.0]], [[1.0]])
        >>> density.logpdf(0.0).round(4)
        array([-0.9189])
        """

    def pdf(self, y: ArrayLike) -> NDArray[np.float64]:
        """Compute the density at y.

        Parameters
        ----------
        y : array-like of shape (n, n_outputs) or broadcastable to it
            As in `logpdf`.

        Returns
        -------
        pdf : ndarray of shape (n,), or (m, n) for a grid
            In one over the unit of y.
        """
        return np.exp(self.logpdf(y))

    @abstractmethod
    def entropy(self) -> NDArray[np.float64]:
        """Compute the differential entropy of every row.

        Returns
        -------
        entropy : ndarray of shape (n,)
            In nats.
        """

    # -- moments -----------------------------------------------------------------

    @abstractmethod
    def mean(self) -> NDArray[np.float64]:
        """Compute the mean of every row.

        Returns
        -------
        mean : ndarray of shape (n, n_outputs)
            In the unit of y; scalars have no last axis.
        """

    @abstractmethod
    def var(self) -> NDArray[np.float64]:
        """Compute the variance of every output.

        Returns
        -------
        var : ndarray of shape (n, n_outputs)
            In squared units of y; scalars have no last axis.
        """

    def std(self) -> NDArray[np.float64]:
        """Compute the standard deviation of every output.

        Returns
        -------
        std : ndarray of shape (n, n_outputs)
            In the unit of y; scalars have no last axis.
        """
        return np.sqrt(self.var())

    @abstractmethod
    def cov(self) -> NDArray[np.float64]:
        """Compute the covariance matrix of the outputs.

        Returns
        -------
        cov : ndarray of shape (n, n_outputs, n_outputs)
            In squared units of y; scalars have no output axes.
        """

    # -- one output --------------------------------------------------------------

    @abstractmethod
    def cdf(self, y: ArrayLike) -> NDArray[np.float64]:
        """Compute the probability P(Y <= y), for one output.

        Parameters
        ----------
        y : array-like
            Broadcasts against the rows as in `logpdf`.

        Returns
        -------
        cdf : ndarray of shape (n,), or (m, n) for a grid

        Raises
        ------
        ValueError
            If there are several outputs: select one with `marginal` first.
        """

    @abstractmethod
    def sf(self, y: ArrayLike) -> NDArray[np.float64]:
        """Compute the probability P(Y > y), for one output.

        Parameters
        ----------
        y : array-like
            Broadcasts against the rows as in `logpdf`.

        Returns
        -------
        sf : ndarray of shape (n,), or (m, n) for a grid
            1 - cdf, accurate in the upper tail.

        Examples
        --------
        >>> from skmdn import MixtureDensity
        >>> print(MixtureDensity([[1.0]], [[0.0]], [[1.0]]).sf(10.0))
        [7.61985302e-24]
        """

    @abstractmethod
    def logcdf(self, y: ArrayLike) -> NDArray[np.float64]:
        """Compute the logarithm of `cdf`, accurate in both tails.

        Parameters
        ----------
        y : array-like
            Broadcasts against the rows as in `logpdf`.

        Returns
        -------
        logcdf : ndarray of shape (n,), or (m, n) for a grid
        """

    @abstractmethod
    def logsf(self, y: ArrayLike) -> NDArray[np.float64]:
        """Compute the logarithm of `sf`, accurate in both tails.

        Parameters
        ----------
        y : array-like
            Broadcasts against the rows as in `logpdf`.

        Returns
        -------
        logsf : ndarray of shape (n,), or (m, n) for a grid
        """

    @abstractmethod
    def ppf(self, q: ArrayLike) -> NDArray[np.float64]:
        """Compute quantiles, the inverse of `cdf`, for one output.

        Parameters
        ----------
        q : array-like
            Levels in [0, 1], broadcast against the rows: a number applies to every
            row, (n,) pairs levels with rows, (m, 1) gives m levels of every row.

        Returns
        -------
        ppf : ndarray of shape (n,) or (m, n)
            In the unit of y; -inf at 0 and inf at 1. A density with an output axis
            adds a last axis of length one.

        Raises
        ------
        ValueError
            If a level lies outside [0, 1], or there are several outputs.

        Examples
        --------
        >>> from skmdn import MixtureDensity
        >>> MixtureDensity([[1.0]], [[0.0]], [[1.0]]).ppf([[0.025], [0.5]]).round(2)
        array([[-1.96],
               [ 0.  ]])
        """

    @abstractmethod
    def isf(self, q: ArrayLike) -> NDArray[np.float64]:
        """Compute the inverse of `sf`, for one output.

        Parameters
        ----------
        q : array-like
            Probabilities of exceedance in [0, 1]; broadcast as in `ppf`.

        Returns
        -------
        isf : ndarray of shape (n,) or (m, n)
            Value exceeded with probability q, in the unit of y; shapes as in `ppf`.
        """

    def median(self) -> NDArray[np.float64]:
        """Compute the median, `ppf(0.5)`, for one output.

        Returns
        -------
        median : ndarray of shape (n,)
            In the unit of y; shapes as in `ppf`.
        """
        return self.ppf(0.5)

    def interval(
        self, confidence: ArrayLike
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Compute the central interval, with equal tail probabilities, of one output.

        Parameters
        ----------
        confidence : float or array-like of shape (m,)
            Probability of the interval, in [0, 1].

        Returns
        -------
        lower, upper : ndarray of shape (n,), or (m, n) for several confidences
            In the unit of y; shapes as in `ppf`.

        Examples
        --------
        >>> from skmdn import MixtureDensity
        >>> lower, upper = MixtureDensity([[1.0]], [[0.0]], [[1.0]]).interval(0.95)
        >>> lower.round(2), upper.round(2)
        (array([-1.96]), array([1.96]))
        """
        confidences = as_confidences(confidence)
        tail = (1 - (confidences[:, None] if confidences.ndim else confidences)) / 2
        return self.ppf(tail), self.isf(tail)

    # -- modes and highest-density regions ---------------------------------------

    @abstractmethod
    def modes(self) -> list[NDArray[np.float64]]:
        """Find all modes of every row, the local maxima of its density.

        Returns
        -------
        modes : list of n ndarrays of shape (n_modes, n_outputs)
            Sorted by decreasing density, in the unit of y; scalars have no last
            axis.
        """

    def mode(self) -> NDArray[np.float64]:
        """Find the highest mode of every row.

        Returns
        -------
        mode : ndarray of shape (n, n_outputs)
            In the unit of y; scalars have no last axis.
        """
        modes = np.array([points[0] for points in self.modes()], dtype=np.float64)
        return modes.reshape(len(self), *self.outputs.event_shape)

    @abstractmethod
    def hdr(self, confidence: ArrayLike) -> list[Any]:
        """Compute the highest-density region of one output.

        It is the smallest set of the given probability.

        Parameters
        ----------
        confidence : float or array-like of shape (m,)
            Probability of the region, in [0, 1].

        Returns
        -------
        intervals : list of n ndarrays of shape (n_intervals, 2)
            Disjoint, in increasing order, in the unit of y. For several confidences
            a list of m such lists.

        See Also
        --------
        hdr_level, in_hdr : For any number of outputs.

        References
        ----------
        R. J. Hyndman, "Computing and graphing highest density regions", The
        American Statistician 50, 1996.

        Examples
        --------
        >>> from skmdn import MixtureDensity
        >>> density = MixtureDensity([[0.5, 0.5]], [[-3.0, 3.0]], [[2.0, 2.0]])
        >>> density.hdr(0.9)[0].round(2)
        array([[-3.82, -2.18],
               [ 2.18,  3.82]])
        """

    @abstractmethod
    def hdr_level(self, confidence: ArrayLike) -> NDArray[np.float64]:
        """Compute the density at the boundary of the highest-density region.

        Parameters
        ----------
        confidence : float or array-like of shape (m,)
            Probability of the region, in [0, 1].

        Returns
        -------
        level : ndarray of shape (n,), or (m, n) for several confidences
            In one over the unit of y.
        """

    @abstractmethod
    def in_hdr(self, y: ArrayLike, confidence: ArrayLike) -> NDArray[np.bool_]:
        """Return whether y lies in the highest-density region, for any outputs.

        Parameters
        ----------
        y : array-like of shape (n, n_outputs) or broadcastable to it
            As in `logpdf`.
        confidence : float or array-like of shape (m,)
            Probability of the region, in [0, 1]. Several confidences add a first axis
            to the result.

        Returns
        -------
        in_hdr : ndarray of bool of shape (n,), or (m, n) for a grid

        Examples
        --------
        >>> from skmdn import MixtureDensity
        >>> density = MixtureDensity([[0.5, 0.5]], [[-3.0, 3.0]], [[2.0, 2.0]])
        >>> density.in_hdr([[0.0], [3.5]], 0.9)
        array([[False],
               [ True]])
        """

    # -- marginals, conditionals, samples ----------------------------------------

    @abstractmethod
    def marginal(self, outputs: Any) -> Self:
        """Return the joint density of some of the outputs.

        Parameters
        ----------
        outputs : int, str or sequence of these
            Outputs by position or name, in the order of the result. A single one
            that is not in a sequence gives the density of a scalar.

        Returns
        -------
        density : density of the same type

        Examples
        --------
        >>> from skmdn import MixtureDensity
        >>> covariance = [[[[1.0, 0.9], [0.9, 4.0]]]]
        >>> joint = MixtureDensity.from_covariances([[1.0]], [[[0, 3]]], covariance)
        >>> joint.marginal(1).mean(), joint.marginal(1).std()
        (array([3.]), array([2.]))
        """

    @abstractmethod
    def condition(self, given: Mapping[Any, ArrayLike]) -> Self:
        """Return the density of the other outputs given the values of some.

        Parameters
        ----------
        given : dict of {output: value}
            Outputs by position or name; a value is one number or one per row, in
            the unit of y.

        Returns
        -------
        density : density of the same type
            Of the outputs that are not given, in their order.

        Examples
        --------
        >>> from skmdn import MixtureDensity
        >>> covariance = [[[[1.0, 0.9], [0.9, 1.0]]]]
        >>> joint = MixtureDensity.from_covariances([[1.0]], [[[0, 0]]], covariance)
        >>> joint.condition({0: 1.0}).mean().round(3)
        array([[0.9]])
        """

    @abstractmethod
    def sample(
        self, n_samples: int = 1, random_state: Any = None
    ) -> NDArray[np.float64]:
        """Draw independent samples from every row.

        Parameters
        ----------
        n_samples : int, default=1
            Draws per row.
        random_state : int, RandomState, Generator or None, default=None
            Seed. With `None` every call gives new draws.

        Returns
        -------
        samples : ndarray of shape (n, n_samples, n_outputs)
            In the unit of y; scalars have no last axis.

        Examples
        --------
        >>> from skmdn import MixtureDensity
        >>> density = MixtureDensity([[1.0]] * 2, [[0.0]] * 2, [[1.0]] * 2)
        >>> density.sample(3, random_state=0).shape
        (2, 3)
        """
