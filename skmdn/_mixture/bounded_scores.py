"""Scores of mixtures seen through the maps of bounded outputs."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from skmdn._mixture.core import Mixture, fill_empty, select_rows
from skmdn._mixture.maps import Bounds, from_latent, log_slope, to_latent
from skmdn._mixture.panels import cut
from skmdn._mixture.quasirandom import points_of
from skmdn._mixture.scores import (
    MOST_CANCELLATION,
    absolute_differences,
    mean_absolute_differences,
)
from skmdn._mixture.univariate import normal_cdf
from skmdn._utils.arrays import row_chunks

# A component is taken as zero beyond this many standard deviations, or with one bound
# half a standard deviation more: (1 - F)^2 e^z is greatest there. Panels are no
# longer than the smallest standard deviation there, and than `LONGEST`, since the slope
# of an interval's map has poles at a distance of pi.
REACH, LONGEST, PANEL_POINTS = 9.0, 2.0, 12
# Quasi-random points per row for expectations of several outputs.
N_POINTS = 2**13


def bounded_crps(mixture: Mixture, y: Tensor, bounds: Bounds) -> Tensor:
    """Compute the CRPS of one bounded output, y (..., 1), (...).

    In closed form for one bound, and otherwise by quadrature.
    """
    mixture = fill_empty(mixture)
    shape = torch.broadcast_shapes(y.shape[:-1], mixture.means.shape[:1])
    rows = torch.arange(len(mixture.means), device=y.device).expand(shape).flatten()
    points = y[..., 0].expand(shape).flatten()
    if bounds.is_interval.any():
        return _crps_by_panels(mixture, rows, points, bounds).view(shape)
    scores, distance = _log_normal_crps(mixture, y, bounds)
    scores = scores.expand(shape).flatten()
    is_kept = scores >= MOST_CANCELLATION * distance.expand(shape).flatten()
    index = (~is_kept).nonzero()[:, 0]
    scores = scores.index_copy(
        0, index, _crps_by_panels(mixture, rows[index], points[index], bounds)
    )
    return scores.view(shape)


def _log_normal_crps(
    mixture: Mixture, y: Tensor, bounds: Bounds
) -> tuple[Tensor, Tensor]:
    """Compute the CRPS and E|X - x| of log-normal mixtures, (...) each.

    X is the distance from the bound, and CRPS = E|X - x| - E|X - X'| / 2 with, for the
    mean M and the variance s^2 of a log-normal component,

        E|X - x| = x (2 F(x) - 1) + M (1 - 2 F(x e^-(s^2)))
        E|X - X'| = M erf((m - m' + s^2) / (2 v)^1/2)
                  + M' erf((m' - m + s'^2) / (2 v)^1/2), v = s^2 + s'^2

    (Baran and Lerch 2015, eqs. 5 and 6, for one component).
    """
    sign = bounds.sign[0]
    bound = torch.where(sign > 0, bounds.low, bounds.high)
    x = (sign * (y - bound))[..., 0, None]
    weights, means = mixture.log_weights.exp(), sign * mixture.means[..., 0]
    factors = mixture.precision_factors[..., 0, 0]
    variances = factors**-2
    sizes = (means + variances / 2).exp()
    z = (x.clamp(min=0).log() - means) * factors
    excess = 1 - 2 * normal_cdf(z - 1 / factors)
    to_x = x * (1 - 2 * normal_cdf(-z)) + sizes * excess
    both = (2 * (variances[..., :, None] + variances[..., None, :])).sqrt()
    lead = (means + variances)[..., :, None] - means[..., None, :]
    # Of a pair, each of the two terms is one of these.
    to_each_other = (weights * sizes)[..., :, None] * torch.erf(lead / both)
    distance = (weights * to_x).sum(-1)
    return distance - (to_each_other * weights[..., None, :]).sum((-2, -1)), distance


def _crps_by_panels(
    mixture: Mixture, rows: Tensor, y: Tensor, bounds: Bounds
) -> Tensor:
    """Integrate (cdf(t) - 1[y <= t])^2 over t, for rows (m,) and points y (m,).

    The integral is one over z, with the factor dt/dz. All terms are positive, so that
    no digits cancel.
    """
    scores = torch.zeros_like(y)
    n_components = mixture.means.shape[1]
    for piece in row_chunks(len(rows), 8 * 6 * n_components**2):
        part = select_rows(mixture, rows[piece])
        scores[piece] = _integrate_crps(part, y[piece], bounds)
    return scores


def _integrate_crps(mixture: Mixture, y: Tensor, bounds: Bounds) -> Tensor:
    """Integrate for one point y (m,) of each row, (m,)."""
    means, factors = mixture.means[..., 0], mixture.precision_factors[..., 0, 0]
    reach = REACH + bounds.sign.abs() / factors / 2
    panels = cut(means, factors, reach=reach, least=0, longest=LONGEST)
    row = panels.rows
    start = means[row, panels.narrowest] + panels.start
    end = start + 2 * panels.half_width
    first = (means - reach / factors).amin(-1)
    last = (means + reach / factors).amax(-1)
    at = to_latent(bounds, y)
    # Beyond the components the cdf is zero or one.
    inner = at.clamp(first, last)
    nearest = from_latent(bounds, inner)
    scores = torch.where(at == inner, 0.0, (y - nearest).abs())
    point = inner[row]
    low = torch.cat([start, torch.maximum(start, point)])
    high = torch.cat([torch.minimum(end, point), end])
    is_upper = torch.arange(len(low), device=y.device) >= len(start)
    index = (low < high).nonzero()[:, 0]
    row, is_gap = row.repeat(2), (panels.n_there == 0).repeat(2)
    for piece in row_chunks(len(index), 8 * 4 * PANEL_POINTS * means.shape[1]):
        chosen = index[piece]
        parts = _integrate_panels(
            select_rows(mixture, row[chosen]),
            low[chosen, None],
            high[chosen, None],
            is_upper[chosen, None],
            is_gap[chosen],
            bounds,
        )
        scores.index_add_(0, row[chosen], parts)
    return scores


def _integrate_panels(
    mixture: Mixture,
    low: Tensor,
    high: Tensor,
    is_upper: Tensor,
    is_gap: Tensor,
    bounds: Bounds,
) -> Tensor:
    """Integrate the squares of tails over t from low to high (m, 1) in z, (m,).

    The tail is 1 - cdf where `is_upper`, and else the cdf. Between components, where
    `is_gap`, it is constant.
    """
    nodes, node_weights = (
        low.new_tensor(part) for part in np.polynomial.legendre.leggauss(PANEL_POINTS)
    )
    half = (high - low) / 2
    z = low + half * (1 + nodes)
    sign = torch.where(is_upper, -1.0, 1.0).to(low)
    scales = sign * mixture.precision_factors[..., 0, 0]
    apart = z[..., None] - mixture.means[:, None, :, 0]
    tails = normal_cdf(apart * scales[:, None])
    tail = (tails @ mixture.log_weights.exp()[..., None])[..., 0]
    # The slope can overflow where the tail underflows.
    integrand = (2 * tail.log() + log_slope(bounds, z)).exp()
    length = (from_latent(bounds, high) - from_latent(bounds, low))[:, 0]
    integrals = (half * node_weights * integrand).sum(-1)
    return torch.where(is_gap, tail.square().mean(-1) * length, integrals)


def bounded_variogram_score(
    mixture: Mixture, y: Tensor, order: float, bounds: Bounds
) -> Tensor:
    """Compute the variogram score of several bounded outputs, (...), for y (..., d).

    Expectations for pairs without bounds have a closed form, and the others are means
    over quasi-random points.
    """
    mixture = fill_empty(mixture)
    expected = mean_absolute_differences(mixture, order)
    first, second = np.triu_indices(y.shape[-1], 1)
    has_bounds = bounds.low.isfinite() | bounds.high.isfinite()
    is_drawn = has_bounds[first] | has_bounds[second]
    expected[:, is_drawn] = 0
    for points in points_of(mixture, N_POINTS):
        drawn = absolute_differences(from_latent(bounds, points), order)
        expected += is_drawn * drawn.sum(1) / N_POINTS
    return (absolute_differences(y, order) - expected).square().sum(-1)
