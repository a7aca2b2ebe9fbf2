"""Densities, moments, samples, marginals and conditionals of Gaussian mixtures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from skmdn._mixture.factors import covariances, invert_factors, log_det, reorder

LOG_2PI = math.log(2 * math.pi)


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
    return torch.softmax(joint_log_prob(mixture, y), dim=-1)


# -- moments ---------------------------------------------------------------------


def mean(mixture: Mixture) -> Tensor:
    """Compute the mean of the mixture, (..., d)."""
    return (mixture.log_weights.exp()[..., None] * mixture.means).sum(-2)


def cov(mixture: Mixture) -> Tensor:
    """Compute the covariance by the law of total variance, (..., d, d)."""
    weights = mixture.log_weights.exp()[..., None, None]
    offsets = mixture.means - mean(mixture)[..., None, :]
    between = offsets[..., :, None] * offsets[..., None, :]
    return (weights * (covariances(mixture.precision_factors) + between)).sum(-3)


def var(mixture: Mixture) -> Tensor:
    """Compute the variance of every output, the diagonal of `cov`, (..., d)."""
    offsets = mixture.means - mean(mixture)[..., None, :]
    within = invert_factors(mixture.precision_factors).square().sum(-1)
    weights = mixture.log_weights.exp()[..., None]
    return (weights * (within + offsets.square())).sum(-2)


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


def n_uniforms(n_outputs: int) -> int:
    """Count uniform numbers per draw: the component, and pairs for Box-Muller."""
    return 1 + 2 * math.ceil(n_outputs / 2)


def sample(mixture: Mixture, uniform: Tensor) -> Tensor:
    """Turn uniform numbers (n_uniforms(d), n, s) into draws, (n, s, d).

    U is inverted once for each component instead of solving for each draw, and each
    entry of the inverse is applied to all draws at once.
    """
    n, n_components, d = mixture.means.shape
    rows, columns = torch.triu_indices(d, d, device="cpu").tolist()
    roots = invert_factors(mixture.precision_factors)[..., rows, columns]
    entries = torch.cat([mixture.means, roots], dim=-1).flatten(0, 1).T.contiguous()
    choice, *pairs = uniform
    index = draw_components(mixture.log_weights, choice)
    first_of_row = n_components * torch.arange(n, device=index.device)[:, None]
    index = (index + first_of_row).flatten()
    noise = []
    for first, second in zip(pairs[::2], pairs[1::2], strict=True):
        # For u in [0, 1), log(1 - u) is finite.
        radius = first.neg().log1p_().mul_(-2).sqrt_().flatten()
        angle = second.mul(2 * math.pi).flatten()
        noise += [radius * angle.cos(), radius * angle.sin()]
    draws = [means.index_select(0, index) for means in entries[:d]]
    for root, row, column in zip(entries[d:], rows, columns, strict=True):
        draws[row] += root.index_select(0, index) * noise[column]
    return torch.stack(draws, dim=-1).view(*choice.shape, d)


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
        torch.log_softmax(joint_log_prob(given, values), dim=-1),
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


def add_axis(mixture: Mixture) -> Mixture:
    """Add an axis of points before that of components."""
    return Mixture(
        mixture.log_weights[..., None, :],
        mixture.means[..., None, :, :],
        mixture.precision_factors[..., None, :, :, :],
    )


def select_rows(mixture: Mixture, rows: Tensor) -> Mixture:
    """Take the mixtures of rows (m,) of the first axis."""
    return Mixture(*(part.index_select(0, rows) for part in mixture))


def component_points(mixture: Mixture, n_points: int) -> Tensor:
    """Return quasi-random normal points of every component, (..., K, n_points, d).

    In the metric of the component they are the same points for all.
    """
    noise = _sobol_normal(mixture.means.shape[-1], n_points).to(mixture.means)
    return unwhiten(
        mixture.means[..., None, :], mixture.precision_factors[..., None, :, :], noise
    )


@lru_cache(maxsize=32)
def _sobol_normal(n_outputs: int, n_points: int) -> Tensor:
    """Return scrambled Sobol points mapped to a standard normal, (n_points, d)."""
    engine = torch.quasirandom.SobolEngine(n_outputs, scramble=True, seed=0)
    # The engine divides integers for the first point, in the default dtype.
    first = engine.quasi.to(torch.float32) / 2**engine.MAXBIT
    uniform = engine.draw(n_points, dtype=torch.float64)
    uniform[0] = first
    normal: Tensor = torch.special.ndtri(uniform.clamp(1e-12, 1 - 1e-12))
    return normal
