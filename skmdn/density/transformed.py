"""Densities of outputs with bounds: Gaussian mixtures seen through monotone maps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from skmdn import _mixture
from skmdn._data.outputs import Outputs, check_one_output
from skmdn._data.supports import Supports
from skmdn._mixture.core import Mixture
from skmdn._utils.arrays import to_numpy
from skmdn.density import MixtureDensity
from skmdn.density._algebra import AlgebraMethods
from skmdn.density._checks import as_given
from skmdn.density._parameters import from_mixture
from skmdn.density._regions import RegionMethods
from skmdn.density.rowwise import as_points, map_rows

# Nodes of the quadrature of the moments of one component and output; see `_mixture`.
N_NODES = 350


class TransformedDensity(AlgebraMethods, RegionMethods):
    """A Gaussian mixture seen through a monotone map of each output.

    A batch of densities of outputs y with bounded supports. The latent outputs
    z = g(y) have a Gaussian mixture as density, with one map for each output: y itself
    without bounds, log(y - low) with a lower bound, -log(high - y) with an upper bound,
    and the logit of (y - low) / (high - low) with both. Immutable, float64.

    Parameters
    ----------
    latent : MixtureDensity
        Density of the latent outputs z.
    target_support : None, pair, sequence or dict, default=None
        A pair (low, high), in the unit of y, is the support of every output; None
        stands for an open end. A sequence has one pair or None for each output, and a
        dict pairs by name or position: with two outputs ``(0, None)`` is one pair for
        both, and ``[(0, None), None]`` has one entry for each. Outputs without an
        entry have no bound.

    Attributes
    ----------
    latent : MixtureDensity
        Density of the latent outputs.
    supports : Supports
        The supports of the outputs, with the maps `to_latent` and `from_latent`.
    mixture : Mixture
        The parameters of `latent` as tensors.
    outputs : Outputs
        Names and shape of the outputs, as in `MixtureDensity`.
    n_components, n_outputs : int
        Number of components of a mixture, and of outputs.
    output_names : tuple of str or None
        Names of the outputs.

    See Also
    --------
    MixtureDensity : Density of outputs without bounds.

    Notes
    -----
    The density is zero on and outside the bounds, and `logpdf` -inf. Quantiles,
    intervals, conditionals, marginals and draws are those of the latent mixture,
    mapped. They are exact up to the rounding of y: a number near a bound that is not
    zero has few digits of its distance from the bound. A finite z is always mapped
    strictly inside the bounds.

    Where components have standard deviations above about 37 in the logarithm of the
    distance from a bound, mean and variance are infinite in floating point.

    References
    ----------
    J. Aitchison and S. M. Shen, "Logistic-normal distributions: some properties and
    uses", Biometrika 67, 1980.

    Examples
    --------
    >>> from skmdn import MixtureDensity, TransformedDensity
    >>> latent = MixtureDensity([[1.0]], [[0.0]], [[2.0]])
    >>> density = TransformedDensity(latent, (0, None))  # log-normal
    >>> density.median(), density.mean().round(4), density.mode().round(4)
    (array([1.]), array([1.1331]), array([0.7788]))
    >>> density.logpdf([[-1.0], [0.0], [1.0]]).round(4)
    array([[   -inf],
           [   -inf],
           [-0.2258]])
    """

    def __init__(self, latent: MixtureDensity, target_support: Any = None) -> None:
        if not isinstance(latent, MixtureDensity):
            raise TypeError(
                "latent must be a MixtureDensity, got an object of type "
                f"{type(latent).__name__}."
            )
        self._assign(latent, Supports.of(target_support, latent.outputs))

    def _assign(self, latent: MixtureDensity, supports: Supports) -> None:
        """Set the attributes; what carries the resolution of y is not public."""
        self._carrier, self.supports = latent, supports
        self.outputs, self.mixture = latent.outputs, latent.mixture

    @classmethod
    def _build(cls, mixture: Mixture, outputs: Outputs, supports: Supports) -> Self:
        return cls(from_mixture(MixtureDensity, mixture, outputs), supports)

    def __getstate__(self) -> dict[str, Any]:
        """Return a state of arrays and builtins."""
        state = self._carrier.__getstate__()
        return {**state, "target_support": self.supports.to_state()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        latent = MixtureDensity.__new__(MixtureDensity)
        latent.__setstate__(state)
        self._assign(latent, Supports.from_state(state["target_support"]))

    # -- rows and parameters -----------------------------------------------------

    @property
    def latent(self) -> MixtureDensity:
        """Density of the latent outputs, without the resolution of the outputs."""
        outputs = replace(self.outputs, resolution=None)
        return from_mixture(MixtureDensity, self.mixture, outputs)

    @property
    def n_components(self) -> int:
        """Number of components of a mixture."""
        return self._carrier.n_components

    def __len__(self) -> int:
        return len(self._carrier)

    def __getitem__(self, rows: Any) -> Self:
        return type(self)(self._carrier[rows], self.supports)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(n_rows={len(self)}, "
            f"n_components={self.n_components}, n_outputs={self.n_outputs}, "
            f"target_support={self.supports.to_state()})"
        )

    # -- density -----------------------------------------------------------------

    def logpdf(self, y: ArrayLike) -> NDArray[np.float64]:
        """Compute the log-density at y.

        Parameters
        ----------
        y : array-like of shape (n, n_outputs) or broadcastable to it
            As in `MixtureDensity.logpdf`.

        Returns
        -------
        logpdf : ndarray of shape (n,), or (m, n) for a grid
            In nats: natural logarithm of a density in one over the unit of y; -inf on
            and outside the bounds.

        Examples
        --------
        >>> from skmdn import MixtureDensity, TransformedDensity
        >>> latent = MixtureDensity([[1.0]], [[0.0]], [[1.0]])
        >>> TransformedDensity(latent, (0, 1)).logpdf([[0.5], [2.0]]).round(4)
        array([[0.4674],
               [  -inf]])
        """
        points = as_points("y", y, self)
        log_slopes = to_numpy(self.supports.log_derivative(points))
        return self._carrier.logpdf(self._latent(points)) + log_slopes

    def responsibilities(self, y: ArrayLike) -> NDArray[np.float64]:
        """Compute the probability of every component given y.

        Parameters
        ----------
        y : array-like of shape (n, n_outputs) or broadcastable to it
            As in `logpdf`, inside the bounds.

        Returns
        -------
        responsibilities : ndarray of shape (n, n_components)
            Each row sums to one; (m, n, n_components) for a grid.
        """
        points = as_points("y", y, self, finite=True)
        self._check_inside("y", points.numpy(), range(self.n_outputs))
        return self._carrier.responsibilities(self._latent(points))

    def entropy(self) -> NDArray[np.float64]:
        """Compute the differential entropy of every row.

        Returns
        -------
        entropy : ndarray of shape (n,)
            In nats: the entropy of z, with the error of `MixtureDensity.entropy`, plus
            the mean of log dy/dz, whose error is below 1e-12.

        Examples
        --------
        >>> from skmdn import MixtureDensity, TransformedDensity
        >>> latent = MixtureDensity([[1.0]], [[0.0]], [[1.0]])
        >>> TransformedDensity(latent, (0, 1)).entropy().round(4)
        array([-0.1932])
        """
        return self._carrier.entropy() + self._map_moments(
            _mixture.mean_log_slope, axis=-1
        )

    # -- moments -----------------------------------------------------------------

    def mean(self) -> NDArray[np.float64]:
        """Compute the mean of every row.

        Returns
        -------
        mean : ndarray of shape (n, n_outputs)
            In the unit of y; scalars have no last axis. In closed form, for intervals
            by quadrature with a relative error below 1e-11.
        """
        mean = self._map_moments(_mixture.bounded_mean, axis=0)
        return self.outputs.squeeze(mean)

    def var(self) -> NDArray[np.float64]:
        """Compute the variance of every output.

        Returns
        -------
        var : ndarray of shape (n, n_outputs)
            In squared units of y; scalars have no last axis. Errors are those of `cov`.
        """
        return self.outputs.squeeze(self._map_moments(_mixture.bounded_var, axis=0))

    def cov(self) -> NDArray[np.float64]:
        """Compute the covariance matrix of the outputs.

        Returns
        -------
        cov : ndarray of shape (n, n_outputs, n_outputs)
            In squared units of y; scalars have no output axes.

        Notes
        -----
        In closed form, but for outputs in intervals by quadrature with an error below
        1e-11, relative to the product of the standard deviations. For the covariance of
        two intervals this holds for components with standard deviations of the logits
        up to 32; for 200 the error is 1e-4.
        """
        cov = self._map_moments(_mixture.bounded_cov, axis=0)
        return self.outputs.squeeze_matrix(cov)

    def _map_moments(self, function: Any, *, axis: int) -> NDArray[np.float64]:
        """Apply a function of a mixture and all bounds to chunks of rows."""
        function = partial(function, bounds=self.supports.all_bounds)
        n_points = N_NODES if self.supports.all_bounds.is_interval.any() else 1
        n_points = max(n_points, self.n_outputs)
        return map_rows(function, self.mixture, axis=axis, n_points=n_points)

    # -- one output --------------------------------------------------------------

    def cdf(self, y: ArrayLike) -> NDArray[np.float64]:
        check_one_output("cdf", self.outputs)
        return self._carrier.cdf(self._latent(as_points("y", y, self)))

    def sf(self, y: ArrayLike) -> NDArray[np.float64]:
        check_one_output("sf", self.outputs)
        return self._carrier.sf(self._latent(as_points("y", y, self)))

    def logcdf(self, y: ArrayLike) -> NDArray[np.float64]:
        check_one_output("logcdf", self.outputs)
        return self._carrier.logcdf(self._latent(as_points("y", y, self)))

    def logsf(self, y: ArrayLike) -> NDArray[np.float64]:
        check_one_output("logsf", self.outputs)
        return self._carrier.logsf(self._latent(as_points("y", y, self)))

    def ppf(self, q: ArrayLike) -> NDArray[np.float64]:
        """Compute quantiles, the inverse of `cdf`, for one output.

        Parameters
        ----------
        q : array-like
            Levels in [0, 1], broadcast as in `MixtureDensity.ppf`.

        Returns
        -------
        ppf : ndarray of shape (n,) or (m, n)
            In the unit of y; the bounds at 0 and 1. A density with an output axis adds
            a last axis of length one.

        Examples
        --------
        >>> from skmdn import MixtureDensity, TransformedDensity
        >>> latent = MixtureDensity([[1.0]], [[0.0]], [[1.0]])
        >>> density = TransformedDensity(latent, (0, 1))
        >>> density.ppf([[0.0], [0.1], [0.5], [1.0]]).round(4)
        array([[0.    ],
               [0.2173],
               [0.5   ],
               [1.    ]])
        """
        return self._observed(self._carrier.ppf(q))

    def isf(self, q: ArrayLike) -> NDArray[np.float64]:
        return self._observed(self._carrier.isf(q))

    # -- marginals, conditionals, pools, samples ---------------------------------

    def marginal(self, outputs: Any) -> Self:
        is_scalar = isinstance(outputs, str) or not np.iterable(outputs)
        outputs = outputs if is_scalar else list(outputs)
        positions = self.outputs.positions([outputs] if is_scalar else outputs)
        return type(self)(
            self._carrier.marginal(outputs), self.supports.select(positions)
        )

    def condition(self, given: Mapping[Any, ArrayLike]) -> Self:
        """Return the density of the other outputs given the values of some.

        Parameters
        ----------
        given : dict of {output: value}
            Outputs by position or name; a value is one number or one per row, in the
            unit of y and inside the bounds.

        Returns
        -------
        density : TransformedDensity
            Of the outputs that are not given, in their order.

        Examples
        --------
        >>> from skmdn import MixtureDensity, TransformedDensity
        >>> covariance = [[[[1.0, 0.9], [0.9, 1.0]]]]
        >>> latent = MixtureDensity.from_covariances([[1.0]], [[[0, 0]]], covariance)
        >>> joint = TransformedDensity(latent, [(0, None), None])
        >>> joint.condition({0: 2.0}).mean().round(4)
        array([[0.6238]])
        """
        positions, values = as_given(given, self.outputs, len(self))
        self._check_inside("given", values, positions)
        z = self.supports.select(positions).to_latent(values)
        free = self.outputs.others(positions)
        conditional = self._carrier.condition(dict(zip(positions, z.T, strict=True)))
        return type(self)(conditional, self.supports.select(free))

    @classmethod
    def mix(cls, densities: Iterable[Self], weights: ArrayLike | None = None) -> Self:
        """Pool densities of the same rows and supports.

        Parameters
        ----------
        densities : iterable of TransformedDensity
            Equal in rows, outputs and supports, as in `MixtureDensity.mix`.
        weights : array-like of shape (n_densities,), default=None
            Non-negative; scaled to sum to one. Equal by default.

        Returns
        -------
        density : TransformedDensity

        Examples
        --------
        >>> from skmdn import MixtureDensity, TransformedDensity
        >>> latents = [MixtureDensity([[1.0]], [[m]], [[1.0]]) for m in (0.0, 1.0)]
        >>> both = TransformedDensity.mix(
        ...     [TransformedDensity(latent, (0, None)) for latent in latents]
        ... )
        >>> both.cdf(1.0).round(4)
        array([0.3293])
        """
        densities = [densities] if isinstance(densities, cls) else list(densities)
        for density in densities:
            if not isinstance(density, cls):
                raise TypeError(
                    f"densities must hold {cls.__name__}, got an object of type "
                    f"{type(density).__name__}."
                )
        pooled = MixtureDensity.mix([d._carrier for d in densities], weights)
        supports = [_supports_of(density, pooled.outputs) for density in densities]
        if len(set(supports)) > 1:
            raise ValueError(
                "densities must have the same supports, got "
                f"{', '.join(str(each.to_state()) for each in supports)}."
            )
        return cls(pooled, supports[0])

    def sample(
        self, n_samples: int = 1, random_state: Any = None
    ) -> NDArray[np.float64]:
        return self._observed(self._carrier.sample(n_samples, random_state))

    # -- maps --------------------------------------------------------------------

    def _latent(self, points: Tensor) -> NDArray[np.float64]:
        """Map points (..., d) of y to z (..., *event_shape)."""
        return to_numpy(self.outputs.squeeze(self.supports.to_latent(points)))

    def _observed(self, z: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map z (..., *event_shape) to y."""
        points = z if self.outputs.event_shape else z[..., None]
        return self.outputs.squeeze(self.supports.from_latent(points))

    def _check_inside(
        self, name: str, values: NDArray[np.float64], positions: Iterable[int]
    ) -> None:
        """Raise ValueError unless values (..., p) lie inside the bounds of outputs."""
        for column, position in enumerate(positions):
            support = self.supports[position]
            outside = values[..., column][support.is_outside(values[..., column])]
            if outside.size:
                output = (self.output_names or range(self.n_outputs))[position]
                raise ValueError(
                    f"{name} must lie inside ({support.low:g}, {support.high:g}) for "
                    f"output {output!r}, got {outside.flat[0]:g}."
                )


# Densities with bounds and without: both have a `mixture` and `supports`.
Density: TypeAlias = MixtureDensity | TransformedDensity


def _supports_of(density: TransformedDensity, outputs: Outputs) -> Supports:
    """Return the supports in the order of outputs of the same names."""
    names = density.output_names
    if names in (None, outputs.names):
        return density.supports
    assert names is not None
    return density.supports.select(outputs.order_of("densities", names))
