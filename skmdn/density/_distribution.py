"""The interface of batches of distributions, of densities and of recorded values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skmdn._data.outputs import Outputs
from skmdn.density._checks import as_confidences


class Distribution(ABC):
    """A batch of distributions, one for each row of X.

    The base of densities and of `RecordedDensity`.
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

    # -- samples -----------------------------------------------------------------

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
