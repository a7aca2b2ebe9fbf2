"""Expectations of functions of Gaussians whose singularities are those of the logit.

The functions are analytic but for poles at an imaginary distance of pi from a centre,
as 1 / (1 + e^-z) with the centre zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from skmdn._mixture.core import LOG_2PI
from skmdn._utils.arrays import row_chunks

# Up to this standard deviation the trapezoidal rule is used, with this step and reach
# in standard deviations. Poles and the step give errors of exp(-2 pi^2 / step).
LARGEST_NARROW, NARROW_STEP, NARROW_REACH = 1.0, 0.5, 10.0
# Otherwise Gauss-Legendre panels with these edges, in standard deviations around the
# mean and absolute around the centres. The first reach far, since functions that decay
# as e^z shift the largest contributions by the standard deviation.
WIDE_EDGES = (0.0, 1.5, 3.0, 4.5, 6.0, 7.5, 9.0, 11.0, 13.5)
CENTRE_EDGES = (0.0, 4.0, 8.0, 16.0, 28.0, 40.0)
PANEL_POINTS = 12
# Two Gaussians: trapezoidal rule with this step over the larger standard deviation,
# which is rounded up to a power of two, and at least one, but at most this.
PAIR_STEP, PAIR_REACH, WIDEST_PAIR = 0.5, 7.0, 32.0


def expectation(
    function: Callable[..., Tensor],
    means: Tensor,
    variances: Tensor,
    *parameters: Tensor,
    shift: Tensor | None = None,
) -> Tensor:
    """Compute E f(Z, *parameters) of Gaussians, all of one shape, as are parameters.

    Poles have the centres zero and -shift.
    """
    shape = means.shape
    stds = variances.sqrt().flatten()
    shifts = torch.zeros_like(stds) if shift is None else shift.flatten()
    arguments = [part.flatten() for part in (means, stds, shifts, *parameters)]
    result = torch.empty_like(stds)
    for is_chosen, rule in (
        (stds <= LARGEST_NARROW, _narrow_rule),
        (stds > LARGEST_NARROW, _wide_rule),
    ):
        index = is_chosen.nonzero()[:, 0]
        for piece in row_chunks(len(index), 8 * 6 * 350):
            chosen = index[piece]
            mean, std, shift, *rest = (part[chosen, None] for part in arguments)
            z, weights = rule(mean, std, shift)
            result[chosen] = (weights * function(z, *rest)).sum(-1)
    return result.view(shape)


def _narrow_rule(means: Tensor, stds: Tensor, shifts: Tensor) -> tuple[Tensor, Tensor]:
    """Return nodes (m, P) and weights of Gaussians (m, 1) by the trapezoidal rule."""
    t, weights = normal_trapezoid(NARROW_STEP, NARROW_REACH, means)
    return means + stds * t, weights


def _wide_rule(means: Tensor, stds: Tensor, shifts: Tensor) -> tuple[Tensor, Tensor]:
    """Return nodes (m, P) and weights of Gaussians (m, 1) on panels."""
    own, other = (
        means.new_tensor([-edge for edge in edges[:0:-1]] + [*edges])
        for edges in (WIDE_EDGES, CENTRE_EDGES)
    )
    edges = torch.cat([means + stds * own, other.expand(len(means), -1)], dim=1)
    if shifts.any():
        edges = torch.cat([edges, other - shifts], dim=1)
    edges = edges.sort(-1).values[..., None]
    nodes, node_weights = (
        means.new_tensor(part) for part in np.polynomial.legendre.leggauss(PANEL_POINTS)
    )
    half = edges.diff(dim=1) / 2
    z = (edges[:, :-1] + half * (1 + nodes)).flatten(1)
    t = (z - means) / stds
    density = (-(t.square() + LOG_2PI) / 2).exp() / stds
    return z, (half * node_weights).flatten(1) * density


def normal_trapezoid(step: float, reach: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return nodes and weights of the standard normal density, (P,) each."""
    n_steps = math.ceil(reach / step)
    t = step * torch.arange(-n_steps, n_steps + 1, device=like.device).to(like)
    weights = (-t.square() / 2).exp()
    return t, weights / weights.sum()


def covariance_of_pairs(
    rise: Callable[[Tensor, Tensor], Tensor], means: Tensor, covariances: Tensor
) -> Tensor:
    """Compute Cov(f(Z_1), f(Z_2)) for means (m, 2) and covariances (m, 2, 2), (m,).

    By the trapezoidal rule in independent variables, with steps that follow the larger
    standard deviation. `rise` maps z and an offset to f(z + offset) - f(z), which
    keeps the digits of small standard deviations.
    """
    stds = covariances.diagonal(dim1=-2, dim2=-1).sqrt()
    correlation = (covariances[:, 0, 1] / stds.prod(-1)).clamp(-1, 1)
    result = torch.empty_like(correlation)
    level = stds.amax(-1).log2().ceil().clamp(0, math.log2(WIDEST_PAIR))
    for exponent in level.unique().tolist():
        index = (level == exponent).nonzero()[:, 0]
        t, weights = normal_trapezoid(PAIR_STEP / 2**exponent, PAIR_REACH, means)
        for piece in row_chunks(len(index), 8 * 6 * len(t) ** 2):
            rows = index[piece]
            rho = correlation[rows, None, None]
            mean, std = means[rows, :, None, None], stds[rows, :, None, None]
            first = rise(mean[:, 0], std[:, 0] * t[:, None])  # (rows, P, 1)
            mixed = rho * t[:, None] + (1 - rho.square()).sqrt() * t
            second = rise(mean[:, 1], std[:, 1] * mixed)  # (rows, P, P)
            first = first[..., 0] * weights
            total = (second @ weights) * (first - first.sum(-1, keepdim=True) * weights)
            result[rows] = total.sum(-1)
    return result
