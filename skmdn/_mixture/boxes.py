"""Probabilities of boxes.

One output: the cells of `cells`. Two outputs: the bivariate normal cdf by Owen's T
function, at the corners of the box. More outputs: the separation of variables by Genz,
at quasi-random points. In the latent code z = U (y - m) the last output depends on z_d
alone, the one before on z_d and z_(d-1), and so on: given the outputs after it, an
output lies in its interval if z_i does, and U itself is the triangular factor that the
method needs.

A. Genz, "Numerical computation of multivariate normal probabilities", Journal of
Computational and Graphical Statistics 1, 1992.

D. B. Owen, "Tables for computing bivariate normal probabilities", Annals of
Mathematical Statistics 27, 1956.
"""

from __future__ import annotations

import torch
from scipy import special
from torch import Tensor

from skmdn._mixture.core import Mixture, fill_empty, select_rows
from skmdn._mixture.edge_sums import log_cell
from skmdn._mixture.factors import invert_factors, triangularise
from skmdn._mixture.quasirandom import sobol_points
from skmdn._mixture.univariate import normal_cdf
from skmdn._utils.arrays import row_chunks

# Quasi-random points of a component.
N_POINTS = 1024
# Components are left out whose bound on what they add is at most this share of the
# largest bound.
SMALLEST_PART = 1e-9
# The normal cdf is zero or one in floating point beyond this many standard deviations.
FARTHEST = 40.0


def box_probability(mixture: Mixture, lower: Tensor, upper: Tensor) -> Tensor:
    """Compute the probability of boxes, (...).

    Lower and upper ends (..., n or 1, d), which may be infinite, pair with the rows.
    """
    mixture = fill_empty(mixture)
    n, n_components, d = mixture.means.shape
    shape = torch.broadcast_shapes(lower.shape, upper.shape, (n, d))
    rows = torch.arange(n, device=lower.device).expand(shape[:-1]).flatten()
    lower = lower.expand(shape).reshape(-1, d)
    upper = upper.expand(shape).reshape(-1, d)
    evaluate = {1: _of_one_output, 2: _of_two_outputs}.get(d, _of_many_outputs)
    probability = torch.zeros_like(lower[:, 0])
    for piece in row_chunks(len(rows), 8 * n_components * (d + 4) ** 2):
        part = select_rows(mixture, rows[piece])
        probability[piece] = evaluate(part, lower[piece], upper[piece])
    is_empty = (lower >= upper).any(-1)
    return probability.masked_fill_(is_empty, 0.0).clamp_(0, 1).view(shape[:-1])


def _of_one_output(mixture: Mixture, lower: Tensor, upper: Tensor) -> Tensor:
    """Compute the probability of cells (b, 1), (b,), accurately in both tails."""
    point = torch.where(lower.isfinite(), lower, upper)
    point = torch.where(point.isfinite(), point, 0.0)
    is_empty = lower >= upper  # its width is no matter
    below = torch.where(is_empty, 1.0, point - lower)
    above = torch.where(is_empty, 1.0, upper - point)
    return log_cell(mixture, torch.cat([point, below, above], dim=-1)).exp()


# -- two outputs -----------------------------------------------------------------


def _of_two_outputs(mixture: Mixture, lower: Tensor, upper: Tensor) -> Tensor:
    """Compute the probability of rectangles (b, 2), (b,)."""
    roots = invert_factors(mixture.precision_factors)
    stds = torch.linalg.vector_norm(roots, dim=-1)
    correlation = roots[..., 0, 1] / stds[..., 0]
    remainder = roots[..., 0, 0] / stds[..., 0]  # sqrt(1 - correlation^2)
    low, high = (
        ((ends[:, None] - mixture.means) / stds).clamp(-FARTHEST, FARTHEST)
        for ends in (lower, upper)
    )
    # Towards the lower tail, where the cdf is small and the corners lose few digits.
    is_reflected = low + high > 0
    low, high = (
        torch.where(is_reflected, -high, low),
        torch.where(is_reflected, -low, high),
    )
    is_turned = is_reflected[..., 0] != is_reflected[..., 1]
    correlation = torch.where(is_turned, -correlation, correlation)
    total = torch.zeros_like(correlation)
    for sign, first, second in (
        (1, high, high),
        (-1, low, high),
        (-1, high, low),
        (1, low, low),
    ):
        corner = first[..., 0], second[..., 1]
        total += sign * bivariate_cdf(*corner, correlation, remainder)
    return (mixture.log_weights.exp() * total.clamp(min=0)).sum(-1)


def bivariate_cdf(
    h: Tensor, k: Tensor, correlation: Tensor, remainder: Tensor
) -> Tensor:
    """Compute P(X <= h, Y <= k) of standard normals, all (...), h and k finite.

    With r the correlation, s = sqrt(1 - r^2) the remainder and T Owen's function,
    P = (Phi(h) + Phi(k)) / 2 - T(h, (k / h - r) / s) - T(k, (h / k - r) / s) - c, where
    c is 1/2 if h and k have different signs, and else 0.
    """
    smallest = torch.finfo(h.dtype).tiny
    h = torch.where(h.abs() < smallest, smallest, h)
    k = torch.where(k.abs() < smallest, smallest, k)
    # k / h - r without cancellation: 1 - |r| is s^2 / (1 + |r|).
    side = torch.where(correlation < 0, -1.0, 1.0).to(h)
    rest = side * remainder / (1 + correlation.abs())
    slopes = (
        (k - side * h) / (h * remainder) + rest,
        (h - side * k) / (k * remainder) + rest,
    )
    owen = sum(
        h.new_tensor(special.owens_t(end.numpy(), slope.numpy()))
        for end, slope in zip((h, k), slopes, strict=True)
    )
    apart = torch.where((h < 0) != (k < 0), 0.5, 0.0)
    return (normal_cdf(h) + normal_cdf(k)) / 2 - owen - apart


# -- more outputs ----------------------------------------------------------------


def _of_many_outputs(mixture: Mixture, lower: Tensor, upper: Tensor) -> Tensor:
    """Compute the probability of boxes (b, d), (b,)."""
    roots = invert_factors(mixture.precision_factors)
    stds = torch.linalg.vector_norm(roots, dim=-1)
    low, high = (ends[:, None] - mixture.means for ends in (lower, upper))
    _, sides, _ = _interval_probability(low / stds, high / stds)
    bound = mixture.log_weights.exp() * sides.amin(-1)
    total = torch.zeros_like(lower[:, 0])
    is_small = bound <= SMALLEST_PART * bound.amax(-1, keepdim=True)
    boxes, components = (~is_small).nonzero(as_tuple=True)
    n_bytes = 8 * N_POINTS * (lower.shape[-1] + 6)
    for piece in row_chunks(len(boxes), n_bytes):
        at = boxes[piece], components[piece]
        # The narrowest interval first, so that the others vary little given it.
        order = sides[at].argsort(dim=-1, descending=True)
        factors = mixture.precision_factors[at]
        factors = triangularise(factors.gather(-1, order[:, None].expand_as(factors)))
        parts = _separate(
            factors, low[at].gather(-1, order), high[at].gather(-1, order)
        )
        total.index_add_(0, at[0], mixture.log_weights[at].exp() * parts)
    return total


def _separate(factors: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Average the product of conditional probabilities over points, (b,).

    For factors (b, d, d) and boxes (b, d) relative to the mean.
    """
    d = low.shape[-1]
    uniform = sobol_points(d - 1, N_POINTS).T.to(low.device)
    residuals: list[Tensor] = []  # y_d - m_d, y_(d-1) - m_(d-1), ..., (b, n_points)
    product = low.new_ones(1, 1)
    for i in reversed(range(d)):
        shift = low.new_zeros(1, 1)
        for j, residual in zip(reversed(range(d)), residuals, strict=False):
            shift = shift + factors[:, i, j, None] * residual
        scale = factors[:, i, i, None]
        ends = (scale * end[:, i, None] + shift for end in (low, high))
        start, width, sign = _interval_probability(*ends)
        product = product * width
        if i:
            z = torch.special.ndtri(start + uniform[i - 1] * width)
            z = sign * z.clamp(-FARTHEST, FARTHEST)
            residuals.append((z - shift) / scale)
    return product.mean(-1)


def _interval_probability(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return P(X <= low), P(low < X <= high) and a sign for standard normals X.

    Where the sign is -1, the interval is that of -X, nearer to the lower tail, where
    the cdf has all digits.
    """
    sign = torch.where(low + high > 0, -1.0, 1.0).to(low)
    start = normal_cdf(torch.where(sign < 0, -high, low))
    stop = normal_cdf(torch.where(sign < 0, -low, high))
    return start, (stop - start).clamp(min=0), sign
