"""Mixtures of one output: cdf and quantiles."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from skmdn._mixture.core import Mixture, mean, var, whiten
from skmdn._mixture.roots import solve_increasing


def normal_cdf(z: Tensor) -> Tensor:
    """Compute the standard normal cdf, accurately in the lower tail.

    `torch.special.ndtr` has no correct digits in the far tail.
    """
    return torch.erfc(z * -math.sqrt(0.5)) / 2


def reflect(mixture: Mixture) -> Mixture:
    """Return the mixture of -Y: upper tails become lower ones."""
    return mixture._replace(means=-mixture.means)


def cdf(mixture: Mixture, y: Tensor) -> Tensor:
    """Compute P(Y <= y) of one output, (...), for y of shape (..., 1)."""
    z = whiten(mixture, y)[..., 0]
    # The weights sum to one up to rounding.
    return (mixture.log_weights.exp() * normal_cdf(z)).sum(-1).clamp(max=1)


def probability_between(
    mixture: Mixture, rows: Tensor, lower: Tensor, upper: Tensor
) -> Tensor:
    """Compute the probabilities of intervals (m,) of rows (m,) of one output, (m,).

    Differences are taken in the smaller tail, where the cdf is accurate.
    """
    weights, means, factors = (
        part.flatten(1).index_select(0, rows)
        for part in (mixture.log_weights.exp(), *mixture[1:])
    )
    lower, upper = ((edge[:, None] - means) * factors for edge in (lower, upper))
    flip = torch.where(lower + upper > 0, -1.0, 1.0).to(lower)
    between = normal_cdf(upper * flip) - normal_cdf(lower * flip)
    return (weights * between * flip).sum(-1)


def log_cdf(mixture: Mixture, y: Tensor) -> Tensor:
    """Compute log P(Y <= y) of one output, (...), accurately in both tails."""
    z = whiten(mixture, y)[..., 0]
    lower = torch.logsumexp(mixture.log_weights + torch.special.log_ndtr(z), -1)
    upper = (mixture.log_weights.exp() * normal_cdf(-z)).sum(-1)
    return torch.where(upper < 0.5, torch.log1p(-upper), lower)


def ppf(mixture: Mixture, q: Tensor) -> Tensor:
    """Compute the quantiles of one output, (..., n, 1) for levels q (..., n).

    The quantile of a mixture lies between the smallest and the largest quantile of its
    components, since its cdf is the weighted mean of their cdfs. Levels above one half
    are solved for in the reflected mixture, where 1 - q is accurate. The equation is
    solved for log cdf, which is concave and nearly quadratic in the tail.
    """
    shape, q = q.shape, q.flatten()
    rows = torch.arange(len(mixture.means), device=q.device).expand(shape).flatten()
    sign = torch.where(q > 0.5, -1.0, 1.0).to(q)
    level = torch.where(q > 0.5, 1 - q, q)
    is_infinite = level == 0
    level = torch.where(is_infinite, 0.5, level)
    weights = mixture.log_weights.exp()
    factors = mixture.precision_factors[..., 0, 0]
    # With this scale, erfc(z) and exp(-z^2) need no further factors.
    scales = factors * math.sqrt(0.5)
    log_peaks = (weights * scales).log() - math.log(math.pi) / 2
    # One row per quantile.
    means, stds, scales_of, weights_of, log_peaks = (
        part.index_select(0, rows)
        for part in (mixture.means[..., 0], 1 / factors, scales, weights, log_peaks)
    )
    means.mul_(sign[:, None])
    z = torch.special.ndtri(level)
    quantiles = means + z[:, None] * stds
    centre, spread = mean(mixture)[:, 0], var(mixture)[:, 0].sqrt()
    low, high = quantiles.aminmax(dim=-1)
    if (weights == 0).any():
        is_empty = weights_of == 0
        low = quantiles.masked_fill(is_empty, torch.inf).amin(-1)
        high = quantiles.masked_fill(is_empty, -torch.inf).amax(-1)
    y = solve_increasing(
        _log_cdf_above_level,
        low,
        high,
        # The quantile of a Gaussian with the mixture's moments.
        start=sign * centre.index_select(0, rows) + z * spread.index_select(0, rows),
        scale=stds.amin(-1),
        parameters=(means, scales_of, weights_of, log_peaks, level),
    )
    return (sign * torch.where(is_infinite, -torch.inf, y)).reshape(shape)[..., None]


def _log_cdf_above_level(
    y: Tensor,
    means: Tensor,
    scales: Tensor,
    weights: Tensor,
    log_peaks: Tensor,
    level: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute log cdf - log level and its first two derivatives."""
    z = (means - y[:, None]).mul_(scales)
    below = torch.erfc(z).mul_(weights).sum(-1) / 2
    heights = (z * z).sub_(log_peaks).neg_().exp_()
    slope = heights.sum(-1) / below
    curvature = 2 * heights.mul_(z).mul_(scales).sum(-1) / below - slope.square()
    return below.log() - level.log(), slope, curvature
