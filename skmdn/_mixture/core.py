"""Densities, moments, samples, marginals and conditionals of Gaussian mixtures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from skmdn._mixture.factors import covariances, invert_factors, log_det, reorder

LOG_2PI = math.log(2 * math.pi)
# Below this log-density squared distances have lost the digits that tell components
# apart.
FAR_LOG_PROB = -1e8
# Unit of distances whose squares would overflow.
FAR_UNIT = 2.0**-400


class Mixture(NamedTuple):
    """Gaussian mixtures: log-weights, means and precision factors.

    Shapes: (..., K), (..., K, d) and (..., K, d, d).
    """

    log_weights: Tensor
    means: Tensor
    precision_factors: Tensor


# -- densities -------------------------------------------------------------------


def whiten(mixture: Mixture, y: Tensor) -> Tensor:
    """Compute z = U (y - mean) of every component, (..., K, d)."""
    residuals = y[..., None, :] - mixture.means
    return torch.einsum("...ij,...j->...i", mixture.precision_factors, residuals)


def component_log_prob(mixture: Mixture, y: Tensor) -> Tensor:
    """Compute the log-density of every component at y, (..., K).

    log p_k(y) = -|z|^2 / 2 + log det U - d/2 log 2 pi.
    """
    z = whiten(mixture, y)
    constant = log_det(mixture.precision_factors) - y.shape[-1] / 2 * LOG_2PI
    return constant - z.square().sum(-1) / 2


def joint_log_prob(mixture: Mixture, y: Tensor) -> Tensor:
    """Compute log(w_k p_k(y)) of every component, (..., K)."""
    return mixture.log_weights + component_log_prob(mixture, y)


def log_prob(mixture: Mixture, y: Tensor) -> Tensor:
    """Compute the log-density of the mixture at y, (...), in nats."""
    return torch.logsumexp(joint_log_prob(mixture, y), dim=-1)


def responsibilities(mixture: Mixture, y: Tensor) -> Tensor:
    """Compute the probability of every component given y, (..., K)."""
    return log_responsibilities(mixture, y).exp()


def log_responsibilities(mixture: Mixture, y: Tensor) -> Tensor:
    """Compute the log-probability of every component given y, (..., K)."""
    joint = joint_log_prob(mixture, y)
    is_far = joint.amax(-1, keepdim=True) < FAR_LOG_PROB
    if is_far.any():
        joint = torch.where(is_far, _far_log_prob(mixture, y), joint)
    return torch.log_softmax(joint, dim=-1)


def _far_log_prob(mixture: Mixture, y: Tensor) -> Tensor:
    """Compute `joint_log_prob` up to a constant of each y, (..., K).

    At points so far away that squares of z lose all digits, or overflow: with z_0 that
    of the nearest component, |z|^2 - |z_0|^2 = (z - z_0)' (z + z_0), where the means
    enter z - z_0 through their differences alone.
    """
    log_weights, means, factors = mixture
    y, means = y[..., None, :] * FAR_UNIT, means * FAR_UNIT
    z = torch.einsum("...ij,...j->...i", factors, y - means)
    lengths = z.abs().amax(-1).masked_fill(log_weights.isneginf(), torch.inf)
    nearest = lengths.argmin(-1)[..., None, None]
    z_0 = z.take_along_dim(nearest, -2)
    mean_0 = means.take_along_dim(nearest, -2)
    factor_0 = factors.take_along_dim(nearest[..., None], -3)
    difference = torch.einsum("...ij,...j->...i", factors - factor_0, y - mean_0)
    difference -= torch.einsum("...ij,...j->...i", factors, means - mean_0)
    squares = (difference * (z + z_0)).sum(-1)
    squares = squares.masked_fill(log_weights.isneginf(), torch.inf)
    squares -= squares.amin(-1, keepdim=True)
    return log_weights + log_det(factors) - squares / FAR_UNIT / FAR_UNIT / 2


# -- moments ---------------------------------------------------------------------


def mean(mixture: Mixture) -> Tensor:
    """Compute the mean of the mixture, (..., d)."""
    return (mixture.log_weights.exp()[..., None, :] @ mixture.means)[..., 0, :]


def cov(mixture: Mixture) -> Tensor:
    """Compute the covariance by the law of total variance, (..., d, d)."""
    weights = mixture.log_weights.exp()[..., None, :]
    offsets = mixture.means - weights @ mixture.means
    between = offsets[..., :, None] * offsets[..., None, :]
    within = covariances(mixture.precision_factors)
    total = (weights.mT[..., None] * (within + between)).sum(-3)
    shift = weights @ offsets  # see `var`
    return total - shift.mT * shift


def var(mixture: Mixture) -> Tensor:
    """Compute the variance of every output, the diagonal of `cov`, (..., d).

    The mean of the offsets is the rounding error of the mean, which far from zero can
    be large: its square is subtracted.
    """
    weights = mixture.log_weights.exp()[..., None, :]
    offsets = mixture.means - weights @ mixture.means
    within = invert_factors(mixture.precision_factors).square().sum(-1)
    total = weights @ (within + offsets.square())
    return (total - (weights @ offsets).square())[..., 0, :]


def rescale(mixture: Mixture, shift: Tensor, scale: Tensor) -> Mixture:
    """Return the mixture of shift + scale * Y for shift and scale (d,).

    The columns of U are divided by the scale, so that its determinant includes the
    Jacobian of the map. Rows of a negative scale change sign, which keeps U' U and a
    positive diagonal.
    """
    return Mixture(
        mixture.log_weights,
        mixture.means * scale + shift,
        mixture.precision_factors / (scale.sign()[:, None] * scale),
    )


# -- latent codes and samples ----------------------------------------------------


def unwhiten(means: Tensor, factors: Tensor, z: Tensor) -> Tensor:
    """Invert `whiten`: y = mean + U^-1 z, by back substitution."""
    if factors.shape[-1] == 1:
        return means + z / factors[..., 0]
    solved: Tensor = torch.linalg.solve_triangular(factors, z[..., None], upper=True)
    return means + solved[..., 0]


def draw_components(log_weights: Tensor, uniform: Tensor) -> Tensor:
    """Turn uniform numbers (n, s) into components by inverting the weights' cdf."""
    cumulative = log_weights.exp().cumsum(-1)
    index = torch.searchsorted(cumulative, uniform * cumulative[..., -1:], right=True)
    return index.clamp_(max=log_weights.shape[-1] - 1)


def select(mixture: Mixture, index: Tensor) -> tuple[Tensor, Tensor]:
    """Return means (n, s, d) and factors (n, s, d, d) of components (n, s)."""
    rows = torch.arange(len(index), device=index.device)[:, None]
    return mixture.means[rows, index], mixture.precision_factors[rows, index]


# -- marginals and conditionals --------------------------------------------------


def marginal(mixture: Mixture, outputs: Sequence[int]) -> Mixture:
    """Return the joint density of some outputs, in the order given."""
    return _split(mixture, outputs)[0]


def condition(mixture: Mixture, outputs: Sequence[int], values: Tensor) -> Mixture:
    """Return the density of the other outputs given that `outputs` equal `values`.

    Values have the shape (..., len(outputs)). With the free outputs a before the given
    ones b, U = [[A, B], [0, D]]: the conditional of a has the factor A and the mean
    m_a - A^-1 B (y_b - m_b), and each component's weight is multiplied by its marginal
    density at y_b.
    """
    given, free, factors = _split(mixture, outputs)
    n_free = len(free)
    residuals = values[..., None, :] - given.means
    shift = torch.einsum("...ij,...j->...i", factors[..., :n_free, n_free:], residuals)
    free_factors = factors[..., :n_free, :n_free]
    return Mixture(
        log_responsibilities(given, values),
        unwhiten(mixture.means[..., free], free_factors, -shift),
        free_factors,
    )


def _split(
    mixture: Mixture, outputs: Sequence[int]
) -> tuple[Mixture, list[int], Tensor]:
    """Return the marginal of `outputs`, the other outputs, and U with `outputs` last.

    The trailing block of a triangular factor is the factor of the trailing
    outputs' marginal.
    """
    rest = [j for j in range(mixture.means.shape[-1]) if j not in outputs]
    factors = reorder(mixture.precision_factors, [*rest, *outputs])
    trailing = Mixture(
        mixture.log_weights,
        mixture.means[..., list(outputs)],
        factors[..., len(rest) :, len(rest) :],
    )
    return trailing, rest, factors


# -- points at which a mixture is evaluated ----------------------------------------


def select_rows(mixture: Mixture, rows: Tensor) -> Mixture:
    """Take the mixtures of rows (m,) of the first axis."""
    return Mixture(*(part.index_select(0, rows) for part in mixture))


def fill_empty(mixture: Mixture) -> Mixture:
    """Move components (n, K) of weight zero onto the heaviest one of their row.

    They then add nothing to any sum, whatever their means and factors were.
    """
    is_empty = mixture.log_weights == -torch.inf
    if not is_empty.any():
        return mixture
    rows = torch.arange(len(is_empty), device=is_empty.device)
    heaviest = mixture.log_weights.argmax(-1)
    _, means, factors = mixture
    return Mixture(
        mixture.log_weights,
        torch.where(is_empty[..., None], means[rows, heaviest][:, None], means),
        torch.where(
            is_empty[..., None, None], factors[rows, heaviest][:, None], factors
        ),
    )
