"""Proper scores of Gaussian mixtures."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import special
from torch import Tensor

from skmdn._mixture.core import LOG_2PI, Mixture
from skmdn._mixture.factors import invert_factors
from skmdn._mixture.univariate import normal_cdf
from skmdn._utils.arrays import PASS_MEBIBYTES, row_chunks

# Share of E|Y - y| below which the closed form of the CRPS has lost too many digits.
MOST_CANCELLATION = 1e-5
# Edges of its panels in standard deviations, and Gauss-Legendre points per panel.
PANEL_EDGES = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 38.0)
PANEL_POINTS = 12
# Largest argument of Kummer's function, ten standard deviations from zero. Beyond it
# a quadrature with this number of nodes is exact up to rounding.
LARGEST_KUMMER, N_HERMITE = 50.0, 40


def crps(mixture: Mixture, y: Tensor) -> Tensor:
    """Compute the continuous ranked probability score of one output, y (..., 1).

    CRPS = E|Y - y| - E|Y - Y'| / 2, both weighted sums of means of absolute values of
    Gaussians (Grimit et al. 2006, eq. 5). In the unit of y, (...); lower is better.
    """
    weights, means = mixture.log_weights.exp(), mixture.means[..., 0]
    variances = mixture.precision_factors[..., 0, 0] ** -2
    to_y = _mean_absolute(y - means, variances)
    distance = (weights * to_y).sum(-1)
    score = distance - _mean_difference(weights, means, variances) / 2
    is_cancelled = score < MOST_CANCELLATION * distance
    if is_cancelled.any():
        *_, rows = is_cancelled.nonzero(as_tuple=True)
        points = y[..., 0].expand_as(score)[is_cancelled]
        rows = rows.clamp(max=len(means) - 1)  # one row for all points
        score[is_cancelled] = _crps_by_panels(mixture, rows, points)
    return score


def _mean_difference(weights: Tensor, means: Tensor, variances: Tensor) -> Tensor:
    """Compute E|Y - Y'| of mixtures (n, K), (n,).

    Of the pairs of components k and k + s, cyclically, shifts s up to K / 2 have each
    pair once, or twice for s = K / 2. With v the variance of the difference m of a
    pair, E|X| = (2 v)^1/2 (e^-x^2 / pi^1/2 + x erf x) for x = m / (2 v)^1/2.
    """
    n, n_components = means.shape
    n_shifts = n_components // 2
    total = 2 / math.sqrt(math.pi) * (weights.square() * variances.sqrt()).sum(-1)
    for rows in row_chunks(n, 8 * n_components, PASS_MEBIBYTES):
        # Rows are the last axis, so that a shift is a slice.
        own = [part[rows].T for part in (weights, means, 2 * variances)]
        cyclic = [torch.cat([part, part[:n_shifts]]) for part in own]
        inner = torch.zeros_like(cyclic[0][:n_components])
        x, scale, size = (torch.empty_like(inner) for _ in range(3))
        for shift in range(1, n_shifts + 1):
            weight, mean, double = (
                part[shift : shift + n_components] for part in cyclic
            )
            torch.add(double, cyclic[2][:n_components], out=scale).sqrt_()
            torch.sub(mean, cyclic[1][:n_components], out=x).div_(scale)
            torch.erf(x, out=size).mul_(x)
            size.add_(x.square_().neg_().exp_(), alpha=1 / math.sqrt(math.pi))
            is_twice = 2 * shift == n_components
            inner.addcmul_(size.mul_(scale), weight, value=1 if is_twice else 2)
        total[rows] += (inner * own[0]).sum(0)
    return total


def _crps_by_panels(mixture: Mixture, rows: Tensor, y: Tensor) -> Tensor:
    """Integrate (cdf(t) - 1[y <= t])^2 over t, for rows (m,) and points y (m,).

    By Gauss-Legendre quadrature between points at `PANEL_EDGES` of every component. All
    terms are positive, so that a component far away, or very wide, and of little
    weight costs no digits.
    """
    nodes, node_weights = (
        y.new_tensor(part) for part in np.polynomial.legendre.leggauss(PANEL_POINTS)
    )
    offsets = y.new_tensor([-edge for edge in PANEL_EDGES[:0:-1]] + [*PANEL_EDGES])
    scores = torch.empty_like(y)
    for i, (row, point) in enumerate(zip(rows, y, strict=True)):
        log_weights, means, factors = (part[row] for part in mixture)
        # Relative to y, where positions need the most digits.
        means, factors = means[:, 0] - point, factors[:, 0, 0]
        edges = (means[:, None] + offsets / factors[:, None]).flatten()
        edges = torch.cat([edges, edges.new_zeros(1)]).sort().values
        half = edges.diff()[:, None] / 2
        t = (edges[:-1, None] + half * (1 + nodes)).flatten()
        sign = torch.where(t > 0, -1.0, 1.0).to(t)
        z = (t[:, None] - means) * factors
        tail = (log_weights.exp() * normal_cdf(sign[:, None] * z)).sum(-1)
        scores[i] = ((half * node_weights).flatten() * tail.square()).sum()
    return scores


def _mean_absolute(mean: Tensor, variance: Tensor) -> Tensor:
    """Compute E|X| of a Gaussian X."""
    scale = variance.sqrt()
    z = mean / scale
    density = (-(z.square() + LOG_2PI) / 2).exp()
    excess: Tensor = torch.special.erf(z / math.sqrt(2))
    return 2 * scale * density + mean * excess


def energy_score(samples: Tensor) -> Tensor:
    """Estimate the energy score of y = 0 from draws (n, n_samples, d), and its error.

    Returns
    -------
    scores : Tensor of shape (2, n)
        E|Y| - E|Y - Y'| / 2 over all pairs of draws, and its standard error.
    """
    n_samples = samples.shape[1]
    to_zero = torch.linalg.vector_norm(samples, dim=-1)
    # Without matrix products, whose differences of squares lose digits.
    mode = "donot_use_mm_for_euclid_dist"
    distances = torch.cdist(samples, samples, compute_mode=mode)
    to_others = distances.sum(-1) / (n_samples - 1)
    # Influence of a draw: it enters the first mean once, and the pairs twice.
    error = (to_zero - to_others).std(dim=-1) / math.sqrt(n_samples)
    return torch.stack([(to_zero - to_others / 2).mean(-1), error])


def variogram_score(mixture: Mixture, y: Tensor, order: float) -> Tensor:
    """Compute the variogram score of several outputs, (...), for y (..., d)."""
    observed = absolute_differences(y, order)
    return (observed - mean_absolute_differences(mixture, order)).square().sum(-1)


def absolute_differences(y: Tensor, order: float) -> Tensor:
    """Compute |y_i - y_j|^p of all pairs i < j of outputs, (..., n_pairs)."""
    first, second = np.triu_indices(y.shape[-1], 1)
    return (y[..., first] - y[..., second]).abs() ** order


def mean_absolute_differences(mixture: Mixture, order: float) -> Tensor:
    """Compute E|Y_i - Y_j|^p of all pairs i < j of outputs, (n, n_pairs).

    A difference of outputs is a mixture of one output, whose absolute moments have a
    closed form.
    """
    first, second = np.triu_indices(mixture.means.shape[-1], 1)
    moments = _absolute_moments(
        mixture.means[..., first] - mixture.means[..., second],
        _variances_of_differences(mixture),
        order,
    )
    return (mixture.log_weights.exp()[..., None] * moments).sum(-2)


def _variances_of_differences(mixture: Mixture) -> Tensor:
    """Compute Var(Y_i - Y_j) of all pairs i < j of outputs, (n, K, n_pairs).

    It is |r_i - r_j|^2 with r_i the rows of U^-1: unlike differences of covariances,
    this keeps its digits if two outputs are nearly equal.
    """
    roots = invert_factors(mixture.precision_factors)
    parts = [
        (roots[..., [i], :] - roots[..., i + 1 :, :]).square().sum(-1)
        for i in range(roots.shape[-1] - 1)
    ]
    return torch.cat(parts, dim=-1)


def _absolute_moments(means: Tensor, variances: Tensor, order: float) -> Tensor:
    """Compute E|X|^p of Gaussians by Kummer's function (Winkelbauer 2012, eq. 17).

    Where X hardly ever changes its sign, by Gauss-Hermite quadrature around the mean.
    """
    is_near = means.square() < 2 * LARGEST_KUMMER * variances
    half = torch.where(is_near, means.square() / (2 * variances), 0.0)
    kummer = special.hyp1f1(-order / 2, 0.5, -half.numpy())
    scale = special.gamma((1 + order) / 2) / math.sqrt(math.pi)
    moments: Tensor = scale * (2 * variances) ** (order / 2)
    moments *= torch.from_numpy(kummer)
    nodes, weights = np.polynomial.hermite_e.hermegauss(N_HERMITE)
    means, deviations = means[~is_near, None], variances[~is_near, None].sqrt()
    powers = (means + deviations * means.new_tensor(nodes)).abs() ** order
    moments[~is_near] = powers @ means.new_tensor(weights / weights.sum())
    return moments
