"""The interface of conditional densities, and what follows from its primitives."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Literal, Self, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skmdn._data.outputs import check_one_output
from skmdn.density._distribution import Distribution
from skmdn.density.recorded import RecordedDensity


class ConditionalDensity(Distribution):
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
    resolution : tuple of float or None
        Step to which each output was recorded, None for an exact one; None if all are
        exact. `MDNRegressor` sets it from `target_resolution`.

    See Also
    --------
    MixtureDensity : Batch of Gaussian mixtures.
    """

    @property
    def resolution(self) -> tuple[float | None, ...] | None:
        """Step to which each output was recorded, or None."""
        return self.outputs.resolution

    def recorded(
        self, resolution: float | None = None, offset: float = 0.0
    ) -> RecordedDensity:
        """Return the distribution of the values recorded to a step, of one output.

        Parameters
        ----------
        resolution : float, default=None
            Step, in the unit of y; that of the density by default.
        offset : float, default=0.0
            A recorded value. All are the offset plus a multiple of the step: give it if
            zero is not on their grid.

        Returns
        -------
        recorded : RecordedDensity

        Raises
        ------
        ValueError
            If there are several outputs, or no step is known.

        Examples
        --------
        >>> from skmdn import MixtureDensity
        >>> density = MixtureDensity([[1.0]], [[0.0]], [[1.0]])
        >>> density.recorded(1.0).pmf([[0.0], [1.0]]).round(4)
        array([[0.3829],
               [0.2417]])
        """
        check_one_output("recorded", self.outputs)
        return RecordedDensity(self, resolution, offset)

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
    def cov(self) -> NDArray[np.float64]:
        """Compute the covariance matrix of the outputs.

        Returns
        -------
        cov : ndarray of shape (n, n_outputs, n_outputs)
            In squared units of y; scalars have no output axes.
        """

    # -- modes and highest-density regions ---------------------------------------

    @overload
    @abstractmethod
    def modes(
        self, min_mass: float = 0.0, return_mass: Literal[False] = False
    ) -> list[NDArray[np.float64]]: ...
    @overload
    @abstractmethod
    def modes(self, min_mass: float = 0.0, return_mass: bool = False) -> Any: ...
    @abstractmethod
    def modes(self, min_mass: float = 0.0, return_mass: bool = False) -> Any:
        """Find the modes of every row, the local maxima of its density.

        Parameters
        ----------
        min_mass : float, default=0.0
            Least probability, in [0, 1], by which a mode stands out; see
            `MixtureDensity.modes`.
        return_mass : bool, default=False
            Whether to return the probabilities of the basins of attraction.

        Returns
        -------
        modes : list of n ndarrays of shape (n_modes, n_outputs)
            Sorted by decreasing density, in the unit of y; scalars have no last
            axis.
        masses : list of n ndarrays of shape (n_modes,)
            Only if `return_mass`.
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
        """Compute the highest-density region of one or two outputs.

        It is the smallest set of the given probability.

        Parameters
        ----------
        confidence : float or array-like of shape (m,)
            Probability of the region, in [0, 1].

        Returns
        -------
        regions : list of n regions
            For several confidences a list of m such lists. A region of one output is
            an ndarray of shape (n_intervals, 2): disjoint intervals in increasing
            order, in the unit of y. A region of two outputs is a list of outlines,
            ndarrays of shape (n_points, 2), in the unit of y: counter-clockwise around
            the parts of the region, and clockwise around holes. The last point of an
            outline is joined to the first.

        Raises
        ------
        ValueError
            If there are more than two outputs.

        See Also
        --------
        hdr_level, in_hdr : For any number of outputs.

        Notes
        -----
        Two outputs: the plane is divided into cells until those that can hold the
        boundary are small, by bounds of the density in each, so that no part or hole
        that is wider than a third of a standard deviation of the components there is
        missed, unless it is narrower than a millionth of the whole region. Points of
        the outlines lie on the boundary. The probability inside, which is an integral
        along the outlines, differs from `confidence` by less than 0.002; by 0.01 where
        parts are missed, with a warning if by more. An output in an interval whose
        correlation with the other is beyond 1 - 1e-5 has a region so narrow that the
        points of its outline are too far apart.

        References
        ----------
        R. J. Hyndman, "Computing and graphing highest density regions", The
        American Statistician 50, 1996.

        Examples
        --------
        >>> import numpy as np
        >>> from skmdn import MixtureDensity
        >>> density = MixtureDensity([[0.5, 0.5]], [[-3.0, 3.0]], [[2.0, 2.0]])
        >>> density.hdr(0.9)[0].round(2)
        array([[-3.82, -2.18],
               [ 2.18,  3.82]])

        The area of a region of two outputs, holes taken off, here of an ellipse:

        >>> factors = [[np.diag([1.0, 0.5])]]
        >>> normal = MixtureDensity([[1.0]], [[[0.0, 0.0]]], factors)
        >>> def area(outline):
        ...     x, y = outline.T
        ...     return (x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
        >>> outlines = normal.hdr(0.9)[0]
        >>> len(outlines), round(float(sum(map(area, outlines))), 1)
        (1, 28.9)
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

    # -- fewer components ----------------------------------------------------------

    @overload
    @abstractmethod
    def reduce(
        self, n_components: int, return_divergence: Literal[False] = False
    ) -> Self: ...
    @overload
    @abstractmethod
    def reduce(self, n_components: int, return_divergence: bool = False) -> Any: ...
    @abstractmethod
    def reduce(self, n_components: int, return_divergence: bool = False) -> Any:
        """Return a mixture of fewer components with the same mean and covariance.

        Components are merged in pairs, those first whose merger loses least.

        Parameters
        ----------
        n_components : int
            Components of the result. A density that has no more is returned as it is.
        return_divergence : bool, default=False
            Whether to return how much was lost.

        Returns
        -------
        density : density of the same type
            Mean and covariance are equal up to rounding: with bounds, those of the
            latent outputs.
        divergence : ndarray of shape (n,)
            Kullback-Leibler divergence of the result from this density, in nats: the
            mean log-likelihood that the result loses. By 4096 quasi-random points, with
            an error of about 1e-3 where it is 0.02, and 1e-4 where it is 1e-3. Only if
            `return_divergence` is True.

        Notes
        -----
        How many components are needed depends on the data. For `MDNRegressor` with
        default parameters, 8 components of 64 to 96 lost 0.0003 nats on average for one
        output with one or two modes. Of 128 for two strongly dependent outputs with
        narrow components, 8 lost 0.02 nats, 16 lost 0.007 and 24 lost 0.003.

        References
        ----------
        A. R. Runnalls, "Kullback-Leibler approach to Gaussian mixture reduction", IEEE
        Transactions on Aerospace and Electronic Systems 43, 2007.

        Examples
        --------
        >>> from skmdn import MixtureDensity
        >>> density = MixtureDensity(
        ...     [[0.25, 0.25, 0.5]], [[-4.0, -2.0, 2.0]], [[1.0, 1.0, 1.0]]
        ... )
        >>> reduced, divergence = density.reduce(2, return_divergence=True)
        >>> reduced.means, reduced.weights
        (array([[-3.,  2.]]), array([[0.5, 0.5]]))
        >>> reduced.var().round(6), density.var().round(6)
        (array([7.75]), array([7.75]))
        >>> divergence.round(3)  # nats
        array([0.004])
        """
