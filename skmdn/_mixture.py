"""The mathematics of Gaussian mixtures, once.

A mixture of K Gaussians over R^d is a triple of tensors with any leading axes::

    log_weights (..., K)    means (..., K, d)    factors (..., K, d, d)

A factor is the upper-triangular U with positive diagonal and U' U the inverse of
the covariance (Kruse 2020, eq. 9): the log-density then needs one matrix product
and no solve. Everything here is differentiable and keeps no state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skmdn._roots import solve_increasing

LOG_2PI = math.log(2 * math.pi)
# Outputs up to which many factors are inverted faster here than by LAPACK.
LARGEST_SMALL_FACTOR = 16


class Mixture(NamedTuple):
    """Gaussian mixtures: log-weights, means and precision factors."""

    log_weights: Tensor
    means: Tensor
    precision_factors: Tensor


# -- factors ---------------------------------------------------------------------


def factors_from_covariances(covariances: Tensor) -> Tensor:
    """Upper-triangular U with U' U = covariance^-1, (..., d, d).

    With F the reversal of the axes and C the Cholesky factor of F S F, the matrix
    F C F is upper-triangular and a square root of S; U is its inverse. S itself is
    never inverted.
    """
    reversed_root = torch.linalg.cholesky(covariances.flip(-2, -1))
    return invert_factors(reversed_root.flip(-2, -1))


def invert_factors(factors: Tensor) -> Tensor:
    """Inverse of upper-triangular matrices, (..., d, d), by back substitution.

    Row i of the inverse follows from those below it. All matrices go through each
    row together: LAPACK's solver is slow for many small ones.
    """
    d = factors.shape[-1]
    if d > LARGEST_SMALL_FACTOR or factors.requires_grad:
        identity = torch.eye(d, dtype=factors.dtype, device=factors.device)
        return torch.linalg.solve_triangular(factors, identity, upper=True)
    inverse = torch.zeros_like(factors)
    for i in reversed(range(d)):
        known = factors[..., i, i + 1 :, None] * inverse[..., i + 1 :, :]
        inverse[..., i, :] = -known.sum(-2)
        inverse[..., i, i] += 1
        inverse[..., i, :] /= factors[..., i, i, None]
    return inverse


def covariances(factors: Tensor) -> Tensor:
    """Covariance U^-1 U^-T of every component, (..., d, d)."""
    roots = invert_factors(factors)
    return roots @ roots.mT


def precisions(factors: Tensor) -> Tensor:
    """Inverse covariance U' U of every component, (..., d, d)."""
    return factors.mT @ factors


def log_det(factors: Tensor) -> Tensor:
    """Log-determinant of U, minus half that of the covariance, (...)."""
    return factors.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def reorder(factors: Tensor, order: Sequence[int]) -> Tensor:
    """Precision factors of the outputs taken in another order, (..., d', d').

    U with its columns permuted still squares to the permuted precision; the R of
    its QR decomposition is the triangular matrix with the same square. QR works on
    U and not on U' U, so the condition number is not squared.
    """
    order = list(order)
    if order == list(range(factors.shape[-1])):
        return factors
    return triangularise(factors[..., order])


def triangularise(matrices: Tensor) -> Tensor:
    """Upper-triangular R with positive diagonal and R' R = A' A, (..., d, d)."""
    # Without Q there is no derivative.
    mode = "reduced" if matrices.requires_grad else "r"
    r = torch.linalg.qr(matrices, mode=mode).R
    return r * r.diagonal(dim1=-2, dim2=-1).sign()[..., None]


# -- densities -------------------------------------------------------------------


def whiten(mixture: Mixture, y: Tensor) -> Tensor:
    """Latent code z = U (y - mean) of every component, (..., K, d)."""
    residuals = y[..., None, :] - mixture.means
    return torch.einsum("...ij,...j->...i", mixture.precision_factors, residuals)


def component_log_prob(mixture: Mixture, y: Tensor) -> Tensor:
    """Log-density of every component, -|z|^2 / 2 + log det U - d/2 log 2 pi."""
    z = whiten(mixture, y)
    constant = log_det(mixture.precision_factors) - y.shape[-1] / 2 * LOG_2PI
    return constant - z.square().sum(-1) / 2


def joint_log_prob(mixture: Mixture, y: Tensor) -> Tensor:
    """log(weight_k p_k(y)) of every component, (..., K)."""
    return mixture.log_weights + component_log_prob(mixture, y)


def log_prob(mixture: Mixture, y: Tensor) -> Tensor:
    """Log-density of the mixture at y, (...), in nats."""
    return torch.logsumexp(joint_log_prob(mixture, y), dim=-1)


def nll_bound(mixture: Mixture, y: Tensor) -> Tensor:
    """Jensen's upper bound of the negative log-likelihood, (...).

    With uniform weights, -log sum_k w_k p_k = -log K - log (1/K) sum_k w_k p_k
    is at most -log K - (1/K) sum_k log(w_k p_k). Kruse (2020, eq. 7 and 15) prints
    the bare sum, which is no bound where a density exceeds one.
    """
    n_components = mixture.log_weights.shape[-1]
    return -math.log(n_components) - joint_log_prob(mixture, y).mean(-1)


def responsibilities(mixture: Mixture, y: Tensor) -> Tensor:
    """Probability of every component given y, (..., K)."""
    return torch.softmax(joint_log_prob(mixture, y), dim=-1)


# -- moments ---------------------------------------------------------------------


def mean(mixture: Mixture) -> Tensor:
    """Mean of the mixture, (..., d)."""
    return (mixture.log_weights.exp()[..., None] * mixture.means).sum(-2)


def cov(mixture: Mixture) -> Tensor:
    """Covariance of the mixture by the law of total variance, (..., d, d)."""
    weights = mixture.log_weights.exp()[..., None, None]
    offsets = mixture.means - mean(mixture)[..., None, :]
    between = offsets[..., :, None] * offsets[..., None, :]
    return (weights * (covariances(mixture.precision_factors) + between)).sum(-3)


def var(mixture: Mixture) -> Tensor:
    """Variance of every output, the diagonal of `cov`, (..., d)."""
    offsets = mixture.means - mean(mixture)[..., None, :]
    within = invert_factors(mixture.precision_factors).square().sum(-1)
    weights = mixture.log_weights.exp()[..., None]
    return (weights * (within + offsets.square())).sum(-2)


def rescale(mixture: Mixture, shift: Tensor, scale: Tensor) -> Mixture:
    """Mixture of shift + scale * Y for shift and scale (d,).

    The columns of U are divided by the scale, so its determinant carries the
    Jacobian of the map; rows of a negative scale change their sign, which leaves
    U' U alone and the diagonal positive.
    """
    return Mixture(
        mixture.log_weights,
        mixture.means * scale + shift,
        mixture.precision_factors / (scale.sign()[:, None] * scale),
    )


# -- latent codes and samples ----------------------------------------------------


def unwhiten(means: Tensor, factors: Tensor, z: Tensor) -> Tensor:
    """Undo `whiten`: y = mean + U^-1 z, by back substitution."""
    if factors.shape[-1] == 1:
        return means + z / factors[..., 0]
    solved = torch.linalg.solve_triangular(factors, z[..., None], upper=True)
    return means + solved[..., 0]


def draw_components(log_weights: Tensor, uniform: Tensor) -> Tensor:
    """Component of each uniform number by inverting the weights' cdf, (n, s)."""
    cumulative = log_weights.exp().cumsum(-1)
    index = torch.searchsorted(cumulative, uniform * cumulative[..., -1:], right=True)
    return index.clamp_(max=log_weights.shape[-1] - 1)


def select(mixture: Mixture, index: Tensor) -> tuple[Tensor, Tensor]:
    """Means (n, s, d) and factors (n, s, d, d) of the components index (n, s)."""
    rows = torch.arange(len(index), device=index.device)[:, None]
    return mixture.means[rows, index], mixture.precision_factors[rows, index]


def n_uniforms(n_outputs: int) -> int:
    """Uniform numbers that one draw takes: its component, and pairs for Box-Muller."""
    return 1 + 2 * math.ceil(n_outputs / 2)


def sample(mixture: Mixture, uniform: Tensor) -> Tensor:
    """Turn uniform numbers (n_uniforms(d), n, s) into draws, (n, s, d).

    U is inverted once for each component rather than solved with for each draw, and
    every entry is handled for all draws at once.
    """
    n, n_components, d = mixture.means.shape
    rows, columns = torch.triu_indices(d, d).tolist()
    roots = invert_factors(mixture.precision_factors)[..., rows, columns]
    entries = torch.cat([mixture.means, roots], dim=-1).flatten(0, 1).T.contiguous()
    choice, *pairs = uniform
    index = draw_components(mixture.log_weights, choice)
    index = (index + n_components * torch.arange(n)[:, None]).flatten()
    noise = []
    for first, second in zip(pairs[::2], pairs[1::2], strict=True):
        # One minus a number in [0, 1) has a logarithm.
        radius = first.neg().log1p_().mul_(-2).sqrt_().flatten()
        angle = second.mul(2 * math.pi).flatten()
        noise += [radius * angle.cos(), radius * angle.sin()]
    draws = [means.index_select(0, index) for means in entries[:d]]
    for root, row, column in zip(entries[d:], rows, columns, strict=True):
        draws[row] += root.index_select(0, index) * noise[column]
    return torch.stack(draws, dim=-1).unflatten(0, (n, -1))


# -- marginals and conditionals --------------------------------------------------


def marginal(mixture: Mixture, outputs: Sequence[int]) -> Mixture:
    """Joint density of some outputs, in the order given."""
    return _split(mixture, outputs)[0]


def condition(mixture: Mixture, outputs: Sequence[int], values: Tensor) -> Mixture:
    """Density of the other outputs where `outputs` equal `values` (..., len(outputs)).

    With the free outputs a before the given ones b, U = [[A, B], [0, D]]: the
    conditional of a has factor A and mean m_a - A^-1 B (y_b - m_b), and each
    component's weight is multiplied by its marginal density of y_b.
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
    """Marginal of `outputs`, the other outputs, and U with `outputs` moved last.

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


# -- entropy ---------------------------------------------------------------------

# Panel edges of the quadrature in standard deviations of each component, and
# Gauss-Legendre points per panel: 5e-7 nats off at worst on random mixtures.
PANEL_EDGES = (-6.0, -3.0, -1.0, 1.0, 3.0, 6.0)
PANEL_POINTS = 6
# Quasi-random points per component where there are several outputs.
SOBOL_POINTS = 128


def entropy(mixture: Mixture) -> Tensor:
    """Differential entropy, (...), in nats.

    With C the component, H(Y) = H(Y | C) + H(C) - H(C | Y). The first two are
    closed; H(C | Y), the mean entropy of the responsibilities, is bounded by log K
    and zero where components do not overlap: only it is integrated.
    """
    weights = mixture.log_weights.exp()
    n_outputs = mixture.means.shape[-1]
    gaussian = n_outputs / 2 * (1 + LOG_2PI) - log_det(mixture.precision_factors)
    integrate = _ambiguity_by_panels if n_outputs == 1 else _ambiguity_by_sobol
    known = (weights * gaussian + torch.special.entr(weights)).sum(-1)
    return known - integrate(mixture)


def _ambiguity_by_panels(mixture: Mixture) -> Tensor:
    """H(C | Y) of one output by Gauss-Legendre between the components' edges."""
    means, factors = mixture.means, mixture.precision_factors[..., 0]
    edges = means + means.new_tensor(PANEL_EDGES) / factors  # (..., K, n_edges)
    edges = edges.flatten(-2).sort(-1).values
    half_width = edges.diff(dim=-1)[..., None] / 2
    points, point_weights = (
        means.new_tensor(part) for part in np.polynomial.legendre.leggauss(PANEL_POINTS)
    )
    y = edges[..., :-1, None] + half_width * (1 + points)  # (..., n_panels, points)
    joint = joint_log_prob(add_axis(mixture), y.flatten(-2)[..., None])
    ambiguity = torch.special.entr(joint.softmax(-1)).sum(-1)
    measure = (half_width * point_weights).flatten(-2) * joint.logsumexp(-1).exp()
    return (measure * ambiguity).sum(-1)


def _ambiguity_by_sobol(mixture: Mixture) -> Tensor:
    """H(C | Y) of several outputs by the same quasi-random normal points in each."""
    y = component_points(mixture, SOBOL_POINTS)
    joint = joint_log_prob(add_axis(add_axis(mixture)), y)
    ambiguity = torch.special.entr(joint.softmax(-1)).sum(-1).mean(-1)
    return (mixture.log_weights.exp() * ambiguity).sum(-1)


def component_points(mixture: Mixture, n_points: int) -> Tensor:
    """The same quasi-random normal points in every component, (..., K, n_points, d)."""
    noise = _sobol_normal(mixture.means.shape[-1], n_points).to(mixture.means)
    return unwhiten(
        mixture.means[..., None, :], mixture.precision_factors[..., None, :, :], noise
    )


@lru_cache(maxsize=32)
def _sobol_normal(n_outputs: int, n_points: int) -> Tensor:
    """Scrambled Sobol points mapped to a standard normal, (n_points, d)."""
    engine = torch.quasirandom.SobolEngine(n_outputs, scramble=True, seed=0)
    uniform = engine.draw(n_points, dtype=torch.float64)
    return torch.special.ndtri(uniform.clamp(1e-12, 1 - 1e-12))


def add_axis(mixture: Mixture) -> Mixture:
    """Let every mixture meet a further axis of points."""
    return Mixture(
        mixture.log_weights[..., None, :],
        mixture.means[..., None, :, :],
        mixture.precision_factors[..., None, :, :, :],
    )


# -- one output ------------------------------------------------------------------


def normal_cdf(z: Tensor) -> Tensor:
    """Standard normal cdf; torch's own has no correct digits left in the far tail."""
    return torch.erfc(z * -math.sqrt(0.5)) / 2


def reflect(mixture: Mixture) -> Mixture:
    """Mixture of -Y, which turns upper tails into lower ones."""
    return mixture._replace(means=-mixture.means)


def cdf(mixture: Mixture, y: Tensor) -> Tensor:
    """P(Y <= y) of one output, (...), for y of shape (..., 1)."""
    z = whiten(mixture, y)[..., 0]
    return (mixture.log_weights.exp() * normal_cdf(z)).sum(-1)


def log_cdf(mixture: Mixture, y: Tensor) -> Tensor:
    """log P(Y <= y) of one output, (...), with its digits in both tails."""
    z = whiten(mixture, y)[..., 0]
    lower = torch.logsumexp(mixture.log_weights + torch.special.log_ndtr(z), -1)
    upper = (mixture.log_weights.exp() * normal_cdf(-z)).sum(-1)
    return torch.where(upper < 0.5, torch.log1p(-upper), lower)


def ppf(mixture: Mixture, q: Tensor) -> Tensor:
    """Quantile of one output, (..., 1) for q (...), in an exact bracket.

    A mixture's quantile lies between the smallest and the largest quantile of its
    components, since its cdf is an average of theirs. Levels above one half are
    solved in the reflected mixture, where 1 - q keeps its digits. The equation is
    solved for log cdf, which is concave and nearly quadratic in the tail.
    """
    shape, q = q.shape, q.flatten()
    rows = torch.arange(len(mixture.means)).expand(shape).flatten()
    sign = torch.where(q > 0.5, -1.0, 1.0).to(q)
    level = torch.where(q > 0.5, 1 - q, q)
    is_infinite = level == 0
    level = torch.where(is_infinite, 0.5, level)
    weights = mixture.log_weights.exp()
    factors = mixture.precision_factors[..., 0, 0]
    # Scaled so that erfc(z) and exp(-z^2) need no further factors.
    scales = factors * math.sqrt(0.5)
    log_peaks = (weights * scales).log() - math.log(math.pi) / 2
    # One row for each quantile asked for.
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
    """log cdf - log level and its two derivatives, for `solve_increasing`."""
    z = (means - y[:, None]).mul_(scales)
    below = torch.erfc(z).mul_(weights).sum(-1) / 2
    heights = (z * z).sub_(log_peaks).neg_().exp_()
    slope = heights.sum(-1) / below
    curvature = 2 * heights.mul_(z).mul_(scales).sum(-1) / below - slope.square()
    return below.log() - level.log(), slope, curvature


def crps(mixture: Mixture, y: Tensor) -> Tensor:
    """Continuous ranked probability score of one output, (...), for y (..., 1).

    CRPS = E|Y - y| - E|Y - Y'| / 2, where both are means of absolute values of
    Gaussians (Grimit et al. 2006, eq. 5).
    """
    weights, means = mixture.log_weights.exp(), mixture.means[..., 0]
    variances = mixture.precision_factors[..., 0, 0] ** -2
    to_y = _mean_absolute(y - means, variances)
    to_each_other = _mean_absolute(
        means[..., :, None] - means[..., None, :],
        variances[..., :, None] + variances[..., None, :],
    )
    pairs = weights[..., :, None] * weights[..., None, :]
    return (weights * to_y).sum(-1) - (pairs * to_each_other).sum((-2, -1)) / 2


def _mean_absolute(mean: Tensor, variance: Tensor) -> Tensor:
    """E|X| of a Gaussian X."""
    scale = variance.sqrt()
    z = mean / scale
    density = (-(z.square() + LOG_2PI) / 2).exp()
    return 2 * scale * density + mean * torch.special.erf(z / math.sqrt(2))
