"""Conversion of mixtures to the distributions of other libraries."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from skmdn import _mixture
from skmdn._data.outputs import Outputs
from skmdn._mixture.core import Mixture
from skmdn._utils.arrays import to_numpy


def to_torch(
    mixture: Mixture, outputs: Outputs
) -> torch.distributions.MixtureSameFamily:
    """Return a torch distribution of batch shape (n,) and the outputs' event shape."""
    log_weights, means, factors = mixture
    # The checks of torch cannot reshape a batch without rows.
    validate_args = None if len(means) else False
    components: torch.distributions.Distribution
    if outputs.event_shape:
        # The lower-triangular root of U^-1 U^-T by QR of U^-1: forming the product
        # would square the condition number.
        roots = _mixture.triangularise(_mixture.invert_factors(factors).mT)
        components = torch.distributions.MultivariateNormal(
            means, scale_tril=roots.mT, validate_args=validate_args
        )
    else:
        components = torch.distributions.Normal(
            means[..., 0], 1 / factors[..., 0, 0], validate_args=validate_args
        )
    return torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(
            logits=log_weights, validate_args=validate_args
        ),
        components,
        validate_args=validate_args,
    )


def to_scipy(mixture: Mixture) -> list[Any]:
    """Return one `scipy.stats.Mixture` for each row of a mixture of one output."""
    if not hasattr(stats, "Mixture"):
        raise ImportError("to_scipy needs SciPy 1.15 or newer.")
    return [
        stats.Mixture(
            [stats.Normal(mu=mu, sigma=sigma) for mu, sigma in zip(*row, strict=True)],
            weights=weights,
        )
        for weights, *row in zip(*_normals(mixture), strict=True)
    ]


def to_skpro(mixture: Mixture, outputs: Outputs) -> Any:
    """Return skpro's `NormalMixture` of a mixture of one output."""
    from skpro.distributions.normal_mixture import NormalMixture

    weights, means, deviations = _normals(mixture)
    return NormalMixture(
        weights, means[..., None], deviations[..., None], columns=outputs.names
    )


def _normals(mixture: Mixture) -> tuple[NDArray[np.float64], ...]:
    """Return weights, means and standard deviations of one output, (n, K) each."""
    log_weights, means, factors = mixture
    return (
        to_numpy(log_weights.exp()),
        to_numpy(means[..., 0]),
        to_numpy(1 / factors[..., 0, 0]),
    )
