"""Mixtures arranged for evaluations at many points."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from skmdn._mixture.core import LOG_2PI, Mixture
from skmdn._mixture.factors import log_det


class Surface(NamedTuple):
    """The log-densities of the components of n mixtures as one matrix product.

    An axis d * K has the entries of the first output first.
    """

    constants: Tensor  # (n, 1, K), log-weights plus the log-densities at the means
    factors: Tensor  # (n, d, d * K), entry j, (i, k) is U_k[i, j]
    whitened_means: Tensor  # (n, 1, d * K), U_k m_k


def survey(mixture: Mixture) -> Surface:
    """Arrange mixtures of several outputs; see `centre` for the coordinates."""
    log_weights, means, factors = mixture
    n_outputs = means.shape[-1]
    whitened = (factors @ means[..., None])[..., 0]
    constants = log_weights + log_det(factors) - n_outputs / 2 * LOG_2PI
    return Surface(
        constants[:, None],
        factors.permute(0, 3, 2, 1).flatten(2).contiguous(),
        whitened.mT.flatten(1)[:, None],
    )


def whiten_points(surface: Surface, x: Tensor) -> Tensor:
    """Compute z = U x - U m of every component at points (n, s, d), (n, s, d, K)."""
    z = torch.baddbmm(surface.whitened_means, x, surface.factors, beta=-1)
    whitened: Tensor = z.unflatten(2, (x.shape[-1], -1))
    return whitened


def joint_from_whitened(surface: Surface, z: Tensor) -> Tensor:
    """Compute log(w_k p_k) from whitened points (n, s, d, K), (n, s, K)."""
    # A loop over the outputs is faster than a sum over an inner axis.
    squares = z[:, :, 0].square()
    for output in range(1, z.shape[2]):
        squares.addcmul_(z[:, :, output], z[:, :, output])
    return squares.mul_(-0.5).add_(surface.constants)


def centre(mixture: Mixture) -> tuple[Mixture, Tensor]:
    """Move the narrowest component to zero; return the mixture, and its origin (n, d).

    Coordinates lose digits with the distance from zero, and the narrowest component
    needs the most.
    """
    narrowest = log_det(mixture.precision_factors).argmax(-1)
    rows = torch.arange(len(narrowest), device=narrowest.device)
    origin = mixture.means[rows, narrowest]
    return mixture._replace(means=mixture.means - origin[:, None]), origin
