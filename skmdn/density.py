"""Conditional densities as objects: a batch of Gaussian mixtures, one per row."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from sklearn.utils import gen_batches
from torch import Tensor

from skmdn import _mixture, _regions
from skmdn._arrays import make_generator, make_seed, row_chunks, to_numpy, to_tensor
from skmdn._checks import (
    as_finite,
    check_confidence,
    check_factors,
    check_mixture_weights,
    check_output_names,
    check_shapes,
)
from skmdn._mixture import Mixture

__all__ = ["MixtureDensity"]

# Draws that are made together, few enough for a processor's cache.
DRAWS_PER_BLOCK = 2**17


def _split_rows(rows: NDArray[np.intp], items: NDArray, n: int) -> list[NDArray]:
    """Cut a flat list whose rows rise into one array for each of n rows."""
    return np.split(items, np.searchsorted(rows, np.arange(1, n)))


def _frozen(tensor: Tensor) -> NDArray[np.float64]:
    array = to_numpy(tensor)
    array.flags.writeable = False
    return array


class MixtureDensity:
    """A batch of n Gaussian mixtures over R^d, one for each row of X.

    Immutable, float64, and exact wherever a closed form exists. Axis 0 is the row
    and the last axis the outputs; a density of a scalar, as after fitting a
    one-dimensional `y`, has no output axis anywhere.

    Parameters
    ----------
    weights : array-like of shape (n, n_components)
        Mixture weights; each row sums to one.
    means : array-like of shape (n, n_components, n_outputs)
        Component means, in the unit of y; (n, n_components) for scalars.
    precision_factors : array-like of shape (n, n_components, n_outputs, n_outputs)
        Upper-triangular U with positive diagonal and U' U the inverse covariance
        of the component (Kruse 2020, eq. 9), in one over the unit of y;
        (n, n_components), one over the standard deviation, for scalars.
        scikit-learn's `precisions_cholesky_` is the other order, U U'.
    output_names : sequence of str, default=None
        Names by which `marginal` and `condition` also know the outputs.

    Attributes
    ----------
    weights, means, precision_factors, covariances, precisions : ndarray
        The parameters, read-only, in the shapes above.
    n_components, n_outputs : int
        Components of a mixture, outputs.
    output_names : tuple of str or None
        Names of the outputs.

    See Also
    --------
    MDNRegressor.predict_density : Predict one.
    MixtureDensity.from_covariances : Build one from covariance matrices.

    References
    ----------
    J. Kruse, "Training Mixture Density Networks with full covariance matrices",
    arXiv:2003.05739, 2020.

    Examples
    --------
    >>> from skmdn import MixtureDensity
    >>> density = MixtureDensity([[0.5, 0.5]], [[-1.0, 1.0]], [[2.0, 2.0]])
    >>> density.mean(), density.var()
    (array([0.]), array([1.25]))
    >>> density.cdf(0.0)
    array([0.5])
    >>> density.logpdf([[-1.0], [0.0], [1.0]]).round(3)
    array([[-0.919],
           [-2.226],
           [-0.919]])
    """

    def __init__(
        self,
        weights: ArrayLike,
        means: ArrayLike,
        precision_factors: ArrayLike,
        output_names: Sequence[str] | None = None,
    ) -> None:
        weights, means, factors = (
            as_finite(name, array)
            for name, array in (
                ("weights", weights),
                ("means", means),
                ("precision_factors", precision_factors),
            )
        )
        self._is_scalar = means.ndim == 2
        if self._is_scalar and factors.ndim == 2:
            means, factors = means[..., None], factors[..., None, None]
        check_shapes(weights, means, factors)
        check_mixture_weights(weights)
        check_factors(factors)
        weights = weights / weights.sum(-1, keepdims=True)
        self._mixture = Mixture(
            to_tensor(weights).log(), to_tensor(means), to_tensor(factors)
        )
        self.output_names = check_output_names(output_names, means.shape[-1])

    @classmethod
    def from_covariances(
        cls,
        weights: ArrayLike,
        means: ArrayLike,
        covariances: ArrayLike,
        output_names: Sequence[str] | None = None,
    ) -> MixtureDensity:
        """Build a density from covariance matrices.

        Parameters
        ----------
        weights, means, output_names
            As for `MixtureDensity`.
        covariances : array-like of shape (n, n_components, n_outputs, n_outputs)
            Positive definite, in squared units of y; (n, n_components) variances
            for scalars.

        Returns
        -------
        density : MixtureDensity

        Raises
        ------
        ValueError
            If a covariance is not positive definite.

        Examples
        --------
        >>> from skmdn import MixtureDensity
        >>> covariance = [[[[1.0, 0.9], [0.9, 1.0]]]]
        >>> joint = MixtureDensity.from_covariances([[1.0]], [[[0, 0]]], covariance)
        >>> other = joint.condition({0: 1.0})
        >>> other.mean().round(3), other.var().round(3)
        (array([[0.9]]), array([[0.19]]))
        """
        matrices = to_tensor(as_finite("covariances", covariances))
        is_scalar = matrices.ndim == 2
        if is_scalar:
            matrices = matrices[..., None, None]
        try:
            factors = _mixture.factors_from_covariances(matrices)
        except torch.linalg.LinAlgError as exc:
            raise ValueError(
                "covariances must be positive definite, and at least one is not. "
                "Add a small multiple of the identity matrix to it."
            ) from exc
        return cls(
            weights,
            means,
            to_numpy(factors[..., 0, 0] if is_scalar else factors),
            output_names,
        )

    @classmethod
    def _wrap(
        cls,
        mixture: Mixture,
        is_scalar: bool,
        output_names: Sequence[str] | None = None,
    ) -> MixtureDensity:
        """Wrap float64 tensors that are known to be a mixture."""
        density = cls.__new__(cls)
        density._mixture = mixture
        density._is_scalar = is_scalar
        density.output_names = None if output_names is None else tuple(output_names)
        return density

    # -- parameters and rows -----------------------------------------------------

    @property
    def weights(self) -> NDArray[np.float64]:
        return _frozen(self._mixture.log_weights.exp())

    @property
    def means(self) -> NDArray[np.float64]:
        return _frozen(self._drop_output(self._mixture.means))

    @property
    def precision_factors(self) -> NDArray[np.float64]:
        return _frozen(self._drop_matrix(self._mixture.precision_factors))

    @property
    def covariances(self) -> NDArray[np.float64]:
        factors = self._mixture.precision_factors
        return _frozen(self._drop_matrix(_mixture.covariances(factors)))

    @property
    def precisions(self) -> NDArray[np.float64]:
        factors = self._mixture.precision_factors
        return _frozen(self._drop_matrix(_mixture.precisions(factors)))

    @property
    def n_components(self) -> int:
        return self._mixture.means.shape[1]

    @property
    def n_outputs(self) -> int:
        return self._mixture.means.shape[2]

    def __len__(self) -> int:
        return len(self._mixture.means)

    def __getitem__(self, rows: Any) -> MixtureDensity:
        """Take rows by integer, slice, mask or indices; a single one stays a row."""
        index = torch.as_tensor(np.atleast_1d(np.arange(len(self))[rows]))
        return self._wrap(
            Mixture(*(part[index] for part in self._mixture)),
            self._is_scalar,
            self.output_names,
        )

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(n_rows={len(self)}, "
            f"n_components={self.n_components}, n_outputs={self.n_outputs})"
        )

    # -- the density -------------------------------------------------------------

    def logpdf(self, y: ArrayLike) -> NDArray[np.float64]:
        """Log-density at y.

        Parameters
        ----------
        y : array-like of shape (n, n_outputs) or broadcastable to it
            As in SciPy, `y` broadcasts against the rows: (n, n_outputs) pairs them,
            (n_outputs,) is one point for all, and (m, 1, n_outputs) is a grid for
            every row. Scalars drop the last axis.

        Returns
        -------
        logpdf : ndarray of shape (n,), or (m, n) for a grid
            In nats: natural logarithm of a density in one over the unit of y.
        """
        points = self._points("y", y)
        result = self._over_rows(_mixture.log_prob, points, axis=-1)
        return np.where(np.isinf(points.numpy()).any(-1), -np.inf, result)

    def pdf(self, y: ArrayLike) -> NDArray[np.float64]:
        """Density at y, in one over the unit of y; shapes as in `logpdf`."""
        return np.exp(self.logpdf(y))

    def responsibilities(self, y: ArrayLike) -> NDArray[np.float64]:
        """Probability of every component given y, shape (n, n_components)."""
        points = self._points("y", y, finite=True)
        return self._over_rows(_mixture.responsibilities, points, axis=-2)

    def entropy(self) -> NDArray[np.float64]:
        """Differential entropy of every row, in nats.

        Returns
        -------
        entropy : ndarray of shape (n,)

        Notes
        -----
        Deterministic. With C the component, H(Y) = H(Y | C) + H(C) - H(C | Y), and
        only the last term, which lies between zero and log K, is integrated: for
        one output by Gauss-Legendre panels (error below 1e-6 nats), for several by
        128 Sobol points in each component (about 5e-3 nats, none for components
        that do not overlap).
        """
        n_points = self.n_components * (
            (len(_mixture.PANEL_EDGES) * _mixture.PANEL_POINTS)
            if self.n_outputs == 1
            else _mixture.SOBOL_POINTS
        )
        return self._over_rows(_mixture.entropy, axis=-1, n_points=n_points)

    # -- moments -----------------------------------------------------------------

    def mean(self) -> NDArray[np.float64]:
        """Mean, shape (n, n_outputs), in the unit of y."""
        return to_numpy(self._drop_output(_mixture.mean(self._mixture)))

    def var(self) -> NDArray[np.float64]:
        """Variance of every output, shape (n, n_outputs), in squared units of y."""
        return to_numpy(self._drop_output(_mixture.var(self._mixture)))

    def std(self) -> NDArray[np.float64]:
        """Standard deviation of every output, shape (n, n_outputs)."""
        return np.sqrt(self.var())

    def cov(self) -> NDArray[np.float64]:
        """Covariance of the outputs, shape (n, n_outputs, n_outputs)."""
        return to_numpy(self._drop_matrix(_mixture.cov(self._mixture)))

    # -- one output --------------------------------------------------------------

    def cdf(self, y: ArrayLike) -> NDArray[np.float64]:
        """Probability of a value of at most y, for one output.

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
            If there are several outputs: take one with `marginal` first.
        """
        self._check_one_output("cdf")
        return self._over_rows(_mixture.cdf, self._points("y", y), axis=-1)

    def sf(self, y: ArrayLike) -> NDArray[np.float64]:
        """Probability of exceeding y, 1 - cdf with its digits; shapes as in `cdf`."""
        return self._reflected().cdf(-np.asarray(y, dtype=np.float64))

    def logcdf(self, y: ArrayLike) -> NDArray[np.float64]:
        """Logarithm of `cdf`, accurate in both far tails; shapes as in `cdf`."""
        self._check_one_output("logcdf")
        return self._over_rows(_mixture.log_cdf, self._points("y", y), axis=-1)

    def logsf(self, y: ArrayLike) -> NDArray[np.float64]:
        """Logarithm of `sf`, accurate in both far tails; shapes as in `cdf`."""
        return self._reflected().logcdf(-np.asarray(y, dtype=np.float64))

    def ppf(self, q: ArrayLike) -> NDArray[np.float64]:
        """Quantile, the inverse of `cdf`, for one output.

        Parameters
        ----------
        q : array-like
            Levels in [0, 1]; broadcast against the rows: a number serves every row,
            (n,) pairs levels with rows, (m, 1) gives m levels of every row.

        Returns
        -------
        ppf : ndarray of shape (n,), or (m, n); with a last axis of one where the
            density keeps its output axis
            In the unit of y; -inf at 0 and inf at 1.

        Raises
        ------
        ValueError
            If a level lies outside [0, 1], or there are several outputs.
        """
        self._check_one_output("ppf")
        levels = np.asarray(q, dtype=np.float64)
        if not ((levels >= 0) & (levels <= 1)).all():
            outside = levels[~((levels >= 0) & (levels <= 1))][0]
            raise ValueError(f"q must lie in [0, 1], got a level of {outside}.")
        points = to_tensor(np.atleast_1d(levels))[..., None]
        self._check_rows("q", points)

        def quantiles(mixture: Mixture, q: Tensor) -> Tensor:
            q = torch.broadcast_tensors(q[..., 0], mixture.means[:, 0, 0])[0]
            return _mixture.ppf(mixture, q)

        result = self._over_rows(quantiles, points, axis=-2)
        return result[..., 0] if self._is_scalar else result

    def isf(self, q: ArrayLike) -> NDArray[np.float64]:
        """Value exceeded with probability q, the inverse of `sf`; as in `ppf`."""
        return -self._reflected().ppf(q)

    def median(self) -> NDArray[np.float64]:
        """Median, `ppf(0.5)`, for one output, in the unit of y."""
        return self.ppf(0.5)

    def interval(
        self, confidence: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Interval with equal areas around the median, for one output.

        Parameters
        ----------
        confidence : float
            Probability inside, in [0, 1].

        Returns
        -------
        lower, upper : ndarray of shape (n,)
            In the unit of y.
        """
        check_confidence(confidence)
        tail = (1 - confidence) / 2
        return self.ppf(tail), self.isf(tail)

    # -- modes and highest-density regions ---------------------------------------

    def modes(self) -> list[NDArray[np.float64]]:
        """All modes of every row, the maxima of its density.

        Returns
        -------
        modes : list of n ndarrays of shape (n_modes, n_outputs)
            Each row's by falling density, in the unit of y; scalars drop the last
            axis.

        Notes
        -----
        One output: every zero of the slope is found, between points spaced by half
        a standard deviation of each component. Several: Newton's method, kept
        ascending by mean-shift steps, climbs from every mean and from the centres
        of neighbouring pairs, since Gaussians can have modes away from their means;
        arrivals are merged, and kept where the Hessian is negative definite.

        References
        ----------
        M. A. Carreira-Perpinan, "Mode-finding for mixtures of Gaussian
        distributions", IEEE Transactions on Pattern Analysis and Machine
        Intelligence 22, 2000.

        Examples
        --------
        >>> from skmdn import MixtureDensity
        >>> density = MixtureDensity([[0.3, 0.7]], [[-3.0, 3.0]], [[1.0, 1.0]])
        >>> density.modes()[0].round(3)
        array([ 3., -3.])
        """
        rows, points = self._modes()
        return _split_rows(rows, points, len(self))

    def mode(self) -> NDArray[np.float64]:
        """Highest mode, shape (n, n_outputs), in the unit of y."""
        rows, points = self._modes()
        return points[np.diff(rows, prepend=-1) > 0]

    def hdr(self, confidence: float) -> list[NDArray[np.float64]]:
        """Highest-density region of one output: the smallest set with a probability.

        Parameters
        ----------
        confidence : float
            Probability inside, in [0, 1].

        Returns
        -------
        intervals : list of n ndarrays of shape (n_intervals, 2)
            Disjoint, in rising order, in the unit of y.

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
        self._check_one_output("hdr")
        check_confidence(confidence)
        if confidence == 1:
            return [np.array([[-np.inf, np.inf]]) for _ in range(len(self))]
        if confidence == 0:
            return [np.array([[mode, mode]]) for mode in self.mode().ravel()]
        first, rows, edges = 0, [], []
        for chunk in self._chunks(_regions.n_level_points(self._mixture)):
            found = _regions.regions(self._rows(chunk), confidence)
            rows.append(found.rows + first)
            edges.append(found.edges)
            first += len(found.log_level)
        return _split_rows(
            torch.cat(rows).numpy(), to_numpy(torch.cat(edges)), len(self)
        )

    def hdr_level(self, confidence: float) -> NDArray[np.float64]:
        """Density at the edge of the highest-density region, for any outputs.

        Parameters
        ----------
        confidence : float
            Probability inside, in [0, 1].

        Returns
        -------
        level : ndarray of shape (n,)
            In one over the unit of y. Exact for one output; for several the
            quantile of the density at 4096 quasi-random points of the row, so that
            the region holds `confidence` within about 0.005.
        """
        check_confidence(confidence)
        if confidence == 1:
            return np.zeros(len(self))
        if confidence == 0:
            return self.pdf(self.mode())

        def log_level(mixture: Mixture) -> Tensor:
            return _regions.log_level(mixture, confidence)

        level = self._over_rows(
            log_level, axis=-1, n_points=_regions.n_level_points(self._mixture)
        )
        return np.exp(level)

    def in_hdr(self, y: ArrayLike, confidence: float) -> NDArray[np.bool_]:
        """Whether y lies in the highest-density region, for any outputs.

        Parameters
        ----------
        y : array-like of shape (n, n_outputs) or broadcastable to it
            As in `logpdf`.
        confidence : float
            Probability inside, in [0, 1].

        Returns
        -------
        in_hdr : ndarray of bool of shape (n,), or (m, n) for a grid
        """
        return self.pdf(y) >= self.hdr_level(confidence)

    # -- marginals, conditionals, mixtures of mixtures ---------------------------

    def marginal(self, outputs: Any) -> MixtureDensity:
        """Density of some outputs whatever the others are; exact.

        Parameters
        ----------
        outputs : int, str or sequence of these
            Outputs by position or name, in the order wanted. A single one, not in
            a sequence, gives the density of a scalar.

        Returns
        -------
        density : MixtureDensity
        """
        is_scalar = isinstance(outputs, str) or not isinstance(outputs, Iterable)
        positions = self._positions([outputs] if is_scalar else outputs)
        return self._wrap(
            _mixture.marginal(self._mixture, positions),
            is_scalar,
            self._names_of(positions),
        )

    def condition(self, given: Mapping[Any, ArrayLike]) -> MixtureDensity:
        """Density of the other outputs where some are known; exact.

        Parameters
        ----------
        given : dict of {output: value}
            Outputs by position or name; a value is one number or one per row.

        Returns
        -------
        density : MixtureDensity
            Of the outputs that are not given, in their order.
        """
        positions = self._positions(given)
        if len(positions) == self.n_outputs:
            raise ValueError(
                "condition needs at least one free output, but values were given for "
                f"all {self.n_outputs}. Use logpdf for the density at a point."
            )
        values = np.empty((len(self), len(positions)))
        for column, (output, value) in enumerate(given.items()):
            value = as_finite(f"the value of output {output!r}", value)
            if value.shape not in ((), (1,), (len(self),)):
                raise ValueError(
                    f"The value of output {output!r} must be one number or one per "
                    f"row, ({len(self)},), got shape {value.shape}."
                )
            values[:, column] = value
        free = [j for j in range(self.n_outputs) if j not in positions]
        return self._wrap(
            _mixture.condition(self._mixture, positions, to_tensor(values)),
            False,
            self._names_of(free),
        )

    @classmethod
    def mix(
        cls, densities: Iterable[MixtureDensity], weights: ArrayLike | None = None
    ) -> MixtureDensity:
        """Pool densities of the same rows into one mixture.

        Parameters
        ----------
        densities : iterable of MixtureDensity
            Equal in rows and outputs; their components may differ in number.
        weights : array-like of shape (n_densities,), default=None
            Non-negative, and scaled to sum to one; equal by default.

        Returns
        -------
        density : MixtureDensity
        """
        densities = list(densities)
        if not densities:
            raise ValueError("densities must hold at least one density, got none.")
        kinds = {(len(p), p.n_outputs, p._is_scalar) for p in densities}
        if len(kinds) > 1:
            raise ValueError(
                "densities must have the same rows and outputs, got "
                + ", ".join(map(repr, densities))
                + "."
            )
        if weights is None:
            weights = np.ones(len(densities))
        shares = as_finite("weights", weights)
        if shares.shape != (len(densities),) or (shares < 0).any() or not shares.any():
            raise ValueError(
                f"weights must be {len(densities)} non-negative numbers, not all zero, "
                f"got {shares}."
            )
        log_shares = to_tensor(shares / shares.sum()).log()
        log_weights, means, factors = zip(*(p._mixture for p in densities), strict=True)
        pooled = Mixture(
            torch.cat([w + s for w, s in zip(log_weights, log_shares, strict=True)], 1),
            torch.cat(means, dim=1),
            torch.cat(factors, dim=1),
        )
        return cls._wrap(pooled, densities[0]._is_scalar, densities[0].output_names)

    # -- samples and latent codes ------------------------------------------------

    def sample(
        self, n_samples: int = 1, random_state: Any = None
    ) -> NDArray[np.float64]:
        """Draw from every row.

        Parameters
        ----------
        n_samples : int, default=1
            Draws per row.
        random_state : int, RandomState instance or None, default=None
            Seed. With `None` every call gives new draws.

        Returns
        -------
        samples : ndarray of shape (n, n_samples, n_outputs)
            Independent draws, in the unit of y; scalars drop the last axis.
        """
        if not isinstance(n_samples, Integral) or n_samples < 1:
            raise ValueError(
                f"n_samples must be a positive integer, got {n_samples!r}."
            )
        generator = np.random.Generator(np.random.SFC64(make_seed(random_state)))
        n_uniforms = _mixture.n_uniforms(self.n_outputs)
        draws = np.empty((len(self), int(n_samples), self.n_outputs))
        # The blocks are fixed, whatever memory is allowed: so are the draws.
        for rows in gen_batches(len(self), max(1, DRAWS_PER_BLOCK // int(n_samples))):
            shape = (n_uniforms, rows.stop - rows.start, int(n_samples))
            uniform = torch.from_numpy(generator.random(shape))
            draws[rows] = _mixture.sample(self._rows(rows), uniform).numpy()
        return draws[..., 0] if self._is_scalar else draws

    def to_latent(
        self, y: ArrayLike, component: Any = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Map y to the latent code z = U (y - mean) of a component.

        Where y follows the component, z is standard normal. The map is invertible
        by `from_latent` with the same `component`.

        Parameters
        ----------
        y : array-like of shape (n, n_outputs)
        component : None, int or array-like of int of shape (n,), default=None
            `None` maps with all components at once; an array names one component
            per row; an integer is a seed that draws one per row from the weights.

        Returns
        -------
        z : ndarray of shape (n, n_outputs), or (n, n_components, n_outputs)
            Without unit.
        log_det : ndarray of shape (n,), or (n, n_components)
            Log-determinant of dz/dy, in nats.
        """
        points = self._points("y", y, finite=True)
        mixture = self._of_component(component)
        z = _mixture.whiten(mixture, points)
        log_det = _mixture.log_det(mixture.precision_factors)
        if component is not None:
            z, log_det = z[..., 0, :], log_det[..., 0]
        return to_numpy(self._drop_output(z)), to_numpy(log_det)

    def from_latent(self, z: ArrayLike, component: Any = None) -> NDArray[np.float64]:
        """Map latent codes back, y = mean + U^-1 z.

        Parameters
        ----------
        z : array-like of shape (n, n_outputs), or (n, n_components, n_outputs)
            With one axis more where `component` is `None`.
        component : None, int or array-like of int of shape (n,), default=None
            As in `to_latent`.

        Returns
        -------
        y : ndarray of the shape of z
            In the unit of y.
        """
        codes = to_tensor(as_finite("z", z))
        if self._is_scalar:
            codes = codes[..., None]
        expected: tuple[int, ...] = (len(self), self.n_components, self.n_outputs)
        if component is not None:
            expected = (len(self), self.n_outputs)
        if codes.shape != expected:
            raise ValueError(
                f"z must have shape {expected[: -1 if self._is_scalar else None]}, "
                f"got {np.shape(z)}."
            )
        mixture = self._of_component(component)
        if component is not None:
            codes = codes[:, None]
        y = _mixture.unwhiten(mixture.means, mixture.precision_factors, codes)
        return to_numpy(self._drop_output(y if component is None else y[:, 0]))

    def to_torch(self) -> torch.distributions.MixtureSameFamily:
        """Convert to `torch.distributions`, with batch shape (n,), in float64."""
        log_weights, means, factors = self._mixture
        components: torch.distributions.Distribution
        if self._is_scalar:
            components = torch.distributions.Normal(
                means[..., 0], 1 / factors[..., 0, 0]
            )
        else:
            # The lower root of U^-1 U^-T, by QR and without squaring its condition.
            roots = _mixture.triangularise(_mixture.invert_factors(factors).mT)
            components = torch.distributions.MultivariateNormal(
                means, scale_tril=roots.mT
            )
        return torch.distributions.MixtureSameFamily(
            torch.distributions.Categorical(logits=log_weights), components
        )

    def to_scipy(self) -> list[Any]:
        """Convert each row of one output to a :class:`scipy.stats.Mixture`.

        SciPy's mixtures are of scalars, so there is one for each row. They need
        SciPy 1.15.

        Examples
        --------
        >>> from skmdn import MixtureDensity
        >>> density = MixtureDensity([[0.3, 0.7]], [[0.0, 3.0]], [[1.0, 0.5]])
        >>> (mixture,) = density.to_scipy()
        >>> round(float(mixture.cdf(1.0)), 3)
        0.363
        """
        parameters = self._normals("to_scipy")
        if not hasattr(stats, "Mixture"):
            raise ImportError("to_scipy needs SciPy 1.15 or newer.")
        return [
            stats.Mixture(
                [
                    stats.Normal(mu=mu, sigma=sigma)
                    for mu, sigma in zip(*row, strict=True)
                ],
                weights=weights,
            )
            for weights, *row in zip(*parameters, strict=True)
        ]

    def to_skpro(self) -> Any:
        """Convert a density of one output to skpro's `NormalMixture`.

        skpro keeps no dependence between outputs, so take one `marginal` at a time
        where there are several.
        """
        weights, means, deviations = self._normals("to_skpro")
        from skpro.distributions.normal_mixture import NormalMixture

        return NormalMixture(
            weights, means[..., None], deviations[..., None], columns=self.output_names
        )

    # -- privates ----------------------------------------------------------------

    def _normals(self, what: str) -> tuple[NDArray, NDArray, NDArray]:
        """Weights, means and standard deviations of one output, (n, K)."""
        self._check_one_output(what)
        log_weights, means, factors = self._mixture
        parts = log_weights.exp(), means[..., 0], 1 / factors[..., 0, 0]
        return to_numpy(parts[0]), to_numpy(parts[1]), to_numpy(parts[2])

    def _reflected(self) -> MixtureDensity:
        """Density of -Y: its lower tails are the upper ones here."""
        reflected = _mixture.reflect(self._mixture)
        return self._wrap(reflected, self._is_scalar, self.output_names)

    def _modes(self) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """Modes as a flat list, with the row of each."""
        first, rows, points = 0, [], []
        for chunk in self._chunks(_regions.n_mode_points(self._mixture)):
            mixture = self._rows(chunk)
            found = _regions.find_modes(mixture)
            rows.append(found.rows + first)
            points.append(found.points)
            first += len(mixture.means)
        return (
            torch.cat(rows).numpy(),
            to_numpy(self._drop_output(torch.cat(points))),
        )

    def _rows(self, rows: slice) -> Mixture:
        return Mixture(*(part[rows] for part in self._mixture))

    def _chunks(self, n_points: int) -> Iterable[slice]:
        """Slices of rows whose work on n_points each fits the working memory."""
        return row_chunks(len(self), 8 * n_points * self._floats_per_point())

    def _floats_per_point(self) -> int:
        """What one point of one row needs on its way through the components."""
        return self.n_components * (self.n_outputs + 3) + self.n_outputs**2

    def _over_rows(
        self,
        function: Callable[..., Tensor],
        *points: Tensor,
        axis: int,
        n_points: int = 1,
    ) -> NDArray[np.float64]:
        """Apply a function of (mixture, points) to chunks of rows, and join them.

        `points` are (..., n or 1, d); `axis` is the axis of the rows in the result.
        A grid that is too large for one row is cut as well.
        """
        n_each = n_points
        for tensor in points:
            n_points *= math.prod(tensor.shape[: -2 if self._pairs(tensor) else -1])
        if len(points) == 1 and points[0].ndim > 2 and len(points[0]) > 1:
            per_point = 8 * self._floats_per_point() * n_points // len(points[0])
            pieces = list(row_chunks(len(points[0]), per_point))
            if len(pieces) > 1:
                cut = (points[0][piece] for piece in pieces)
                return np.concatenate(
                    [
                        self._over_rows(function, part, axis=axis, n_points=n_each)
                        for part in cut
                    ]
                )
        parts = []
        for rows in self._chunks(n_points):
            arguments = (t[..., rows, :] if self._pairs(t) else t for t in points)
            parts.append(function(self._rows(rows), *arguments))
        return to_numpy(torch.cat(parts, dim=axis))

    def _pairs(self, points: Tensor) -> bool:
        """Whether points (..., n or 1, d) are paired with rows, and cut with them."""
        return points.shape[-2] == len(self) > 1

    def _points(self, name: str, y: ArrayLike, *, finite: bool = False) -> Tensor:
        """Check points of y and give them the shape (..., n or 1, d)."""
        points = np.asarray(y, dtype=np.float64)
        if np.isnan(points).any():
            raise ValueError(f"{name} must not contain NaN.")
        if finite and np.isinf(points).any():
            raise ValueError(f"{name} must be finite.")
        if self._is_scalar:
            points = points[..., None]
        if points.ndim == 0 or points.shape[-1] != self.n_outputs:
            raise ValueError(
                f"The last axis of {name} must hold the {self.n_outputs} outputs, "
                f"got shape {points.shape}."
            )
        tensor = to_tensor(points if points.ndim > 1 else points[None])
        self._check_rows(name, tensor)
        return tensor

    def _check_rows(self, name: str, points: Tensor) -> None:
        n_given = points.shape[-2]
        if n_given not in (1, len(self)) and len(self) != 1:
            raise ValueError(
                f"{name} must have one entry for each of the {len(self)} rows, or one "
                f"for all of them, got {n_given}. For a grid of m points in every row "
                "give its rows an axis of length one: (m, 1) or (m, 1, n_outputs)."
            )

    def _check_one_output(self, what: str) -> None:
        if self.n_outputs > 1:
            raise ValueError(
                f"{what} needs one output, but this density has {self.n_outputs}. "
                "Take one of them with density.marginal(output)."
            )

    def _positions(self, outputs: Iterable[Any]) -> list[int]:
        """Turn outputs given by position or name into positions."""
        positions = [self._position(output) for output in outputs]
        if not positions:
            raise ValueError("At least one output is needed, got none.")
        if len(set(positions)) < len(positions):
            raise ValueError(f"Each output may be given once, got {list(outputs)}.")
        return positions

    def _position(self, output: Any) -> int:
        if isinstance(output, str):
            names = self.output_names or ()
            if output in names:
                return names.index(output)
            raise ValueError(
                f"Unknown output {output!r}; the outputs are named {list(names)}."
                if names
                else f"Unknown output {output!r}; the outputs have no names. Give "
                "positions, or fit on a data frame of targets."
            )
        if not isinstance(output, Integral):
            raise TypeError(
                f"An output is a position or a name, got {output!r} of type "
                f"{type(output).__name__}."
            )
        position = int(output)
        if not -self.n_outputs <= position < self.n_outputs:
            raise ValueError(
                f"Unknown output {output}; there are {self.n_outputs} outputs."
            )
        return position % self.n_outputs

    def _names_of(self, positions: Sequence[int]) -> tuple[str, ...] | None:
        names = self.output_names
        return None if names is None else tuple(names[j] for j in positions)

    def _of_component(self, component: Any) -> Mixture:
        """Mixture of all components, or of the one chosen for every row."""
        if component is None:
            return self._mixture
        if isinstance(component, Integral):
            uniform = torch.rand(
                (len(self), 1),
                generator=make_generator(make_seed(component)),
                dtype=torch.float64,
            )
            index = _mixture.draw_components(self._mixture.log_weights, uniform)
        else:
            index = torch.as_tensor(np.asarray(component))[:, None]
            if (
                index.shape != (len(self), 1)
                or index.is_floating_point()
                or not ((index >= 0) & (index < self.n_components)).all()
            ):
                raise ValueError(
                    f"component must be None, a seed, or {len(self)} integers from 0 "
                    f"to {self.n_components - 1}, got {component!r}."
                )
        means, factors = _mixture.select(self._mixture, index)
        return Mixture(torch.zeros_like(means[..., 0]), means, factors)

    def _drop_output(self, tensor: Tensor) -> Tensor:
        return tensor[..., 0] if self._is_scalar else tensor

    def _drop_matrix(self, tensor: Tensor) -> Tensor:
        return tensor[..., 0, 0] if self._is_scalar else tensor
