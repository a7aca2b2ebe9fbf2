"""Critical points of the density of one-output mixtures."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from skmdn._mixture.core import LOG_2PI, Mixture
from skmdn._mixture.roots import Function, solve_increasing
from skmdn._utils.arrays import row_chunks

# Points in standard deviations around each mean. Between neighbours among all points of
# a row, the slope of the log-density is assumed to have at most one extremum.
NODES = (0.0, 0.5, 1.0, 1.5, 2.25, 3.0, 4.0, 6.0, 9.0, 38.0)
# Arithmetic on denormal numbers is a hundred times slower.
SMALLEST_LOG_SHARE = -600.0

# Log-weights, means and factors (m, K) of m one-output mixtures.
Parameters = tuple[Tensor, Tensor, Tensor]


def select_parameters(mixture: Mixture, rows: Tensor) -> Parameters:
    """Return log-weights, means and factors (m, K) of rows (m,), without the axis d."""
    return (
        mixture.log_weights.index_select(0, rows),
        mixture.means[..., 0].index_select(0, rows),
        mixture.precision_factors[..., 0, 0].index_select(0, rows),
    )


def differentiate_log_density(
    y: Tensor, log_weights: Tensor, means: Tensor, factors: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the log-density and its first three derivatives, all (m,), at y (m,)."""
    z = (y[:, None] - means) * factors
    log_parts = log_weights + factors.log() - z.square() / 2
    log_total = log_parts.logsumexp(-1)
    shares = (log_parts - log_total[:, None]).clamp_(min=SMALLEST_LOG_SHARE).exp_()
    # Ratios p^(i) / p from the Hermite polynomials of each component.
    first = -(shares * z * factors).sum(-1)
    second = (shares * (z.square() - 1) * factors.square()).sum(-1)
    third = (shares * (3 - z.square()) * z * factors**3).sum(-1)
    return (
        log_total - LOG_2PI / 2,
        first,
        second - first.square(),
        third - 3 * second * first + 2 * first**3,
    )


class Profile(NamedTuple):
    """Log-density of one-output mixtures at sorted points, all (n, G)."""

    points: Tensor
    heights: Tensor  # log-densities
    slopes: Tensor  # derivatives of the log-density

    def insert(self, rows: Tensor, points: Tensor, parameters: Parameters) -> Profile:
        """Add points (m,) to rows (m,) in rising order, given their parameters."""
        heights, slopes, _, _ = differentiate_log_density(points, *parameters)
        counts = torch.bincount(rows, minlength=len(self.points))
        number = torch.arange(len(rows), device=rows.device)
        position = number - (counts.cumsum(0) - counts)[rows]
        merged = []
        for old, new in zip(self, (points, heights, slopes), strict=True):
            # Rows with fewer new points are padded with copies of their first point.
            added = old[:, :1].repeat(1, int(counts.max()))
            added[rows, position] = new
            merged.append(torch.cat([old, added], dim=1))
        order = merged[0].argsort(dim=-1, stable=True)
        return Profile(*(part.gather(1, order) for part in merged))


def find_critical_points(mixture: Mixture) -> tuple[Profile, Tensor, Tensor]:
    """Find all critical points of one-output mixtures.

    Returns
    -------
    profile : Profile
        Its points include every critical point, so that the density is monotone between
        neighbours.
    rows, modes : Tensor of shape (n_modes,)
        Modes, and the rows to which they belong.
    """
    profile = _insert_extrema_of_slope(*_scan(mixture), mixture)

    # A slope of zero counts as falling: the change of sign is then at the next point.
    is_rising = profile.slopes > 0
    rows, left = (is_rising[:, 1:] != is_rising[:, :-1]).nonzero(as_tuple=True)
    is_mode = is_rising[rows, left]
    sign = torch.where(is_mode, -1.0, 1.0).to(profile.slopes)
    parameters = select_parameters(mixture, rows)

    def slope(y: Tensor, *arguments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        *row, sign = arguments
        _, first, second, third = differentiate_log_density(y, *row)
        return sign * first, sign * second, sign * third

    y = solve_between(slope, profile.points, rows, left, (*parameters, sign))
    return profile.insert(rows, y, parameters), rows[is_mode], y[is_mode]


def _insert_extrema_of_slope(
    profile: Profile, bends: Tensor, mixture: Mixture
) -> Profile:
    """Add extrema of the slope where it may change its sign between two points.

    A slope with the same sign at neighbouring points may change it twice in between,
    where it approaches zero and returns.
    """
    sign = torch.where(profile.slopes > 0, 1.0, -1.0).to(bends)
    dips = (sign[:, 1:] == sign[:, :-1]) & (sign[:, 1:] * bends[:, :-1] < 0)
    dips &= sign[:, 1:] * bends[:, 1:] > 0
    rows, left = dips.nonzero(as_tuple=True)
    parameters = select_parameters(mixture, rows)

    def bend(y: Tensor, *arguments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        *row, sign = arguments
        _, _, second, third = differentiate_log_density(y, *row)
        return sign * second, sign * third, torch.zeros_like(third)

    y = solve_between(bend, profile.points, rows, left, (*parameters, sign[rows, left]))
    return profile.insert(rows, y, parameters)


def _scan(mixture: Mixture) -> tuple[Profile, Tensor]:
    """Compute the profile at fixed points around each mean, and second derivatives."""
    offsets = mixture.means.new_tensor([-t for t in NODES[:0:-1]] + list(NODES))
    points = mixture.means + offsets / mixture.precision_factors[..., 0]
    points, order = points.flatten(1).sort(dim=-1, stable=True)
    component, node = order // len(offsets), order % len(offsets)
    parts = []
    # Only here are (rows, G, K) numbers needed, hence the chunks.
    n_numbers = points.shape[1] * mixture.means.shape[1]
    all_rows = torch.arange(len(points), device=points.device)
    for rows in row_chunks(len(points), 4 * 8 * n_numbers):
        parameters = select_parameters(mixture, all_rows[rows])
        own = component[rows, :, None], offsets[node[rows], None]
        parts.append(
            _scan_rows(points[rows], *own, *(part[:, None] for part in parameters))
        )
    heights, slopes, second = map(torch.cat, zip(*parts, strict=True))
    return Profile(points, heights, slopes), second - slopes.square()


def _scan_rows(
    points: Tensor,
    component: Tensor,
    offset: Tensor,
    log_weights: Tensor,
    means: Tensor,
    factors: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the log-density, its slope, and p'' / p at points (rows, G).

    A point is an offset (rows, G, 1) of a component (rows, G, 1): it may differ from
    the mean by less than the rounding of the point.
    """
    z = (points[..., None] - means).mul_(factors)
    z.scatter_(-1, component, offset)
    log_parts = (z * z).mul_(-0.5).add_(log_weights + factors.log())
    largest = log_parts.amax(-1, keepdim=True)
    shares = log_parts.sub_(largest).clamp_(min=SMALLEST_LOG_SHARE).exp_()
    total = shares.sum(-1)
    pulls = z.mul_(-factors)
    slopes = (shares * pulls).sum(-1) / total
    second = shares.mul_(pulls.square_().sub_(factors.square())).sum(-1) / total
    return total.log() + largest[..., 0] - LOG_2PI / 2, slopes, second


def solve_between(
    function: Function,
    points: Tensor,
    rows: Tensor,
    left: Tensor,
    parameters: tuple[Tensor, ...],
    share: float | Tensor = 0.5,
) -> Tensor:
    """Solve between points `left` and `left + 1`, starting at a share of the way."""
    low, high = points[rows, left], points[rows, left + 1]
    factors = parameters[2]
    return solve_increasing(
        function,
        low,
        high,
        start=low + share * (high - low),
        scale=1 / factors.amax(-1),
        parameters=parameters,
    )
