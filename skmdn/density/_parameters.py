"""The parameters of a batch of Gaussian mixtures: checks, rows, state, conversion."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from skmdn import _mixture
from skmdn._data.conversion import as_real
from skmdn._data.outputs import Outputs, check_one_output
from skmdn._data.supports import Supports
from skmdn._mixture.core import Mixture
from skmdn._utils.arrays import to_numpy, to_tensor
from skmdn.density import _convert
from skmdn.density._checks import (
    as_parameters,
    check_factors,
    check_mixture_weights,
    check_output_names,
    check_range,
    row_positions,
    symmetrised,
)
from skmdn.density.rowwise import take_rows

Density = TypeVar("Density", bound="MixtureParameters")


class MixtureParameters:
    """Checked, immutable parameters of a batch of Gaussian mixtures.

    The base of `MixtureDensity`, which documents the parameters and attributes.
    """

    outputs: Outputs
    mixture: Mixture
    supports: Supports

    def __init__(
        self,
        weights: ArrayLike,
        means: ArrayLike,
        precision_factors: ArrayLike,
        output_names: Sequence[str] | None = None,
    ) -> None:
        weights, means, factors, is_scalar = as_parameters(
            weights, means, precision_factors, "precision_factors"
        )
        check_mixture_weights(weights)
        check_factors(factors)
        check_range(means, factors)
        weights = weights / weights.sum(-1, keepdims=True)
        self.mixture = Mixture(
            to_tensor(weights).log(), to_tensor(means), to_tensor(factors)
        )
        n_outputs = means.shape[-1]
        self.outputs = Outputs(
            () if is_scalar else (n_outputs,),
            check_output_names(output_names, n_outputs),
        )
        self.supports = Supports.without_bounds(n_outputs)

    @classmethod
    def from_covariances(
        cls,
        weights: ArrayLike,
        means: ArrayLike,
        covariances: ArrayLike,
        output_names: Sequence[str] | None = None,
    ) -> Self:
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
            If a covariance is not symmetric, up to rounding, or not positive definite.

        Examples
        --------
        >>> from skmdn import MixtureDensity
        >>> covariance = [[[[1.0, 0.9], [0.9, 1.0]]]]
        >>> joint = MixtureDensity.from_covariances([[1.0]], [[[0, 0]]], covariance)
        >>> other = joint.condition({0: 1.0})
        >>> other.mean().round(3), other.var().round(3)
        (array([[0.9]]), array([[0.19]]))
        """
        weights, means, matrices, is_scalar = as_parameters(
            weights, means, covariances, "covariances"
        )
        try:
            factors = _mixture.factors_from_covariances(
                to_tensor(symmetrised(matrices))
            )
        except torch.linalg.LinAlgError as exc:  # type: ignore[attr-defined,unused-ignore]
            raise ValueError(
                "covariances must be positive definite, and at least one is not. "
                "Add a small multiple of the identity matrix to it."
            ) from exc
        if is_scalar:
            means, factors = means[..., 0], factors[..., 0, 0]
        return cls(weights, means, to_numpy(factors), output_names)

    def __getstate__(self) -> dict[str, Any]:
        """Return a state of arrays and builtins."""
        parts = zip(Mixture._fields, map(to_numpy, self.mixture), strict=True)
        return {
            **dict(parts),
            "event_shape": self.outputs.event_shape,
            "output_names": self.outputs.names,
            "resolution": self.outputs.resolution,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "_mixture" in state:  # written before densities had a __getstate__
            self.mixture = Mixture(*state["_mixture"])
            n_outputs = self.mixture.means.shape[-1]
            event_shape = () if state["_is_scalar"] else (n_outputs,)
        else:
            self.mixture = Mixture(*(to_tensor(state[f]) for f in Mixture._fields))
            event_shape = state["event_shape"]
        # States of earlier versions have no resolution.
        resolution = state.get("resolution")
        self.outputs = Outputs(event_shape, state["output_names"], resolution)
        self.supports = Supports.without_bounds(self.outputs.size)

    # -- rows and parameters -----------------------------------------------------

    @property
    def weights(self) -> NDArray[np.float64]:
        """Mixture weights, (n, n_components)."""
        return _read_only(self.mixture.log_weights.exp())

    @property
    def means(self) -> NDArray[np.float64]:
        """Component means, (n, n_components, n_outputs)."""
        return _read_only(self.outputs.squeeze(self.mixture.means))

    @property
    def precision_factors(self) -> NDArray[np.float64]:
        """Factors U of the precisions, (n, n_components, n_outputs, n_outputs)."""
        return _read_only(self.outputs.squeeze_matrix(self.mixture.precision_factors))

    @property
    def covariances(self) -> NDArray[np.float64]:
        """Component covariances, (n, n_components, n_outputs, n_outputs)."""
        covariances = _mixture.covariances(self.mixture.precision_factors)
        return _read_only(self.outputs.squeeze_matrix(covariances))

    @property
    def precisions(self) -> NDArray[np.float64]:
        """Inverse covariances, (n, n_components, n_outputs, n_outputs)."""
        precisions = _mixture.precisions(self.mixture.precision_factors)
        return _read_only(self.outputs.squeeze_matrix(precisions))

    @property
    def n_components(self) -> int:
        """Number of components of a mixture."""
        return self.mixture.means.shape[1]

    def __len__(self) -> int:
        return len(self.mixture.means)

    def __getitem__(self, rows: Any) -> Self:
        index = to_tensor(row_positions(rows, len(self)), torch.int64)
        return from_mixture(type(self), take_rows(self.mixture, index), self.outputs)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(n_rows={len(self)}, "
            f"n_components={self.n_components}, n_outputs={self.outputs.size})"
        )

    # -- other mixtures and other libraries ----------------------------------------

    @classmethod
    def mix(cls, densities: Iterable[Self], weights: ArrayLike | None = None) -> Self:
        """Pool densities of the same rows into one mixture.

        Parameters
        ----------
        densities : iterable of MixtureDensity
            Equal in rows and outputs; the numbers of components may differ. Outputs are
            matched by name where both densities have names.
        weights : array-like of shape (n_densities,), default=None
            Non-negative; scaled to sum to one. Equal by default.

        Returns
        -------
        density : MixtureDensity

        Examples
        --------
        >>> from skmdn import MixtureDensity
        >>> first = MixtureDensity([[1.0]], [[0.0]], [[1.0]])
        >>> second = MixtureDensity([[1.0]], [[4.0]], [[1.0]])
        >>> MixtureDensity.mix([first, second], weights=[3, 1]).mean()
        array([1.])
        """
        densities = _aligned(densities)
        shares = as_real(
            "weights", np.ones(len(densities)) if weights is None else weights
        )
        if shares.shape != (len(densities),) or (shares < 0).any() or not shares.any():
            raise ValueError(
                f"weights must be {len(densities)} non-negative numbers, not all zero, "
                f"got {shares}."
            )
        log_shares = to_tensor(shares / shares.sum()).log()
        log_weights, means, factors = zip(*(d.mixture for d in densities), strict=True)
        pooled = Mixture(
            torch.cat([w + s for w, s in zip(log_weights, log_shares, strict=True)], 1),
            torch.cat(means, dim=1),
            torch.cat(factors, dim=1),
        )
        return from_mixture(cls, pooled, _common_outputs(densities))

    def to_torch(self) -> torch.distributions.MixtureSameFamily:
        """Convert to a distribution of :mod:`torch.distributions`.

        Returns
        -------
        distribution : torch.distributions.MixtureSameFamily
            Of batch shape (n,), in float64.

        Examples
        --------
        >>> from skmdn import MixtureDensity
        >>> distribution = MixtureDensity([[1.0]], [[0.0]], [[1.0]]).to_torch()
        >>> distribution.batch_shape, distribution.event_shape
        (torch.Size([1]), torch.Size([]))
        """
        return _convert.to_torch(self.mixture, self.outputs)

    def to_scipy(self) -> list[Any]:
        """Convert each row of one output to a :class:`scipy.stats.Mixture`.

        Returns
        -------
        mixtures : list of n scipy.stats.Mixture

        Raises
        ------
        ImportError
            If SciPy is older than 1.15.

        Examples
        --------
        >>> from skmdn import MixtureDensity
        >>> density = MixtureDensity([[0.3, 0.7]], [[0.0, 3.0]], [[1.0, 0.5]])
        >>> (mixture,) = density.to_scipy()
        >>> round(float(mixture.cdf(1.0)), 3)
        0.363
        """
        check_one_output("to_scipy", self.outputs)
        return _convert.to_scipy(self.mixture)

    def to_skpro(self) -> Any:
        """Convert a density of one output to skpro's `NormalMixture`.

        skpro does not represent dependence between outputs: where there are
        several, convert one `marginal` at a time.

        Returns
        -------
        distribution : skpro.distributions.NormalMixture
        """
        check_one_output("to_skpro", self.outputs)
        return _convert.to_skpro(self.mixture, self.outputs)


def _aligned(densities: Iterable[Density]) -> list[Density]:
    """Return densities of the same rows, with their outputs in the same order.

    Raises
    ------
    TypeError
        If something else than densities is given.
    ValueError
        If there are none, or if they differ in rows or outputs.
    """
    is_one = isinstance(densities, MixtureParameters)
    if is_one or not np.iterable(densities):
        raise TypeError(
            "densities must be a sequence of MixtureDensity, got an object of type "
            f"{type(densities).__name__}."
        )
    densities = list(densities)
    for density in densities:
        if not isinstance(density, MixtureParameters):
            raise TypeError(
                "densities must hold MixtureDensity, got an object of type "
                f"{type(density).__name__}."
            )
    if not densities:
        raise ValueError("densities must hold at least one density, got none.")
    if len({(len(density), density.outputs.event_shape) for density in densities}) > 1:
        raise ValueError(
            "densities must have the same rows and outputs, got "
            f"{', '.join(map(repr, densities))}."
        )
    named = (density.outputs for density in densities if density.outputs.names)
    outputs = next(named, densities[0].outputs)
    return [_ordered(density, outputs) for density in densities]


def _ordered(density: Density, outputs: Outputs) -> Density:
    """Return a density with the given outputs, in their order where it has names."""
    mixture, own = density.mixture, density.outputs
    if own.names not in (None, outputs.names):
        order = outputs.order_of("densities", own.names)
        mixture, own = _mixture.marginal(mixture, order), own.select(order)
    outputs = replace(outputs, resolution=own.resolution)
    return from_mixture(type(density), mixture, outputs)


def _common_outputs(densities: Sequence[Density]) -> Outputs:
    """Return the outputs of aligned densities, with the steps that all have."""
    first, *others = (density.outputs for density in densities)
    is_same = all(outputs.resolution == first.resolution for outputs in others)
    return first if is_same else replace(first, resolution=None)


def from_mixture(cls: type[Density], mixture: Mixture, outputs: Outputs) -> Density:
    """Build a density from float64 tensors that are known to be valid, uncopied."""
    density = cls.__new__(cls)
    density.mixture = mixture
    density.outputs = outputs
    density.supports = Supports.without_bounds(outputs.size)
    return density


def _read_only(tensor: Tensor) -> NDArray[np.float64]:
    array = to_numpy(tensor)
    array.flags.writeable = False
    return array
