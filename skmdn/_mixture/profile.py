"""Critical points of the density of one-output mixtures."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from skmdn._mixture.core import LOG_2PI, Mixture
from skmdn._mixture.panels import Spacing, lay_points
from skmdn._mixture.roots import Function, solve_increasing
from skmdn._utils.arrays import PASS_MEBIBYTES, row_chunks

# Between neighbouring points the slope of the log-density is assumed to have at most
# one extremum.
SPACING = Spacing(step=0.5, core=2.0, growth=0.4, reach=38.0)
# Rounds of further points where the slope bends sharply.
MAX_REFINEMENTS = 3
# Means in standard deviations beyond which points are offsets from a mean.
NARROWEST = 1e12
NODES = (0.0, 0.5, 1.0, 1.5, 2.25, 3.0, 4.0, 6.0, 9.0, SPACING.reach)
# Arithmetic on denormal numbers is a hundred times slower.
SMALLEST_LOG_SHARE = -600.0

# Log-weights plus log-factors, means and factors (m, K) of m one-output mixtures.
Parameters = tuple[Tensor, Tensor, Tensor]


def parameters_of(mixture: Mixture) -> Parameters:
    """Return the parameters of one-output mixtures, without the axis d."""
    factors = mixture.precision_factors[..., 0, 0]
    return mixture.log_weights + factors.log(), mixture.means[..., 0], factors


def select_parameters(parameters: Parameters, rows: Tensor) -> Parameters:
    """Return the parameters of rows (m,)."""
    log_peaks, means, factors = parameters
    return (
        log_peaks.index_select(0, rows),
        means.index_select(0, rows),
        factors.index_select(0, rows),
    )


def differentiate_log_density(
    parameters: Parameters, rows: Tensor, y: Tensor, order: int = 2
) -> list[Tensor]:
    """Compute log-densities of rows (m,) at y (m,), and derivatives up to an order.

    The order is 2 or 3; all have the shape (m,).
    """
    pieces = row_chunks(len(rows), 8 * parameters[0].shape[1], PASS_MEBIBYTES)
    parts = [
        _differentiate(y[piece], *select_parameters(parameters, rows[piece]), order)
        for piece in pieces
    ]
    if not parts:
        return [y] * (order + 1)
    return [torch.cat(part) for part in zip(*parts, strict=True)]


def _differentiate(
    y: Tensor,
    log_peaks: Tensor,
    means: Tensor,
    factors: Tensor,
    order: int,
    own: tuple[Tensor, Tensor] | None = None,
) -> list[Tensor]:
    """Differentiate for parameters (m, K), by the Hermite polynomials of each.

    Points can be known as an offset of their own component, (m, 1) each.
    """
    z = (y[:, None] - means).mul_(factors)
    if own is not None:
        z.scatter_(-1, *own)
    parts = torch.addcmul(log_peaks, z, z, value=-0.5)
    largest = parts.amax(-1, keepdim=True)
    parts.sub_(largest).clamp_(min=SMALLEST_LOG_SHARE).exp_()
    ones = torch.ones_like(parts[0])
    total = parts.mv(ones)
    pulls, squares = z.mul_(factors), factors.square_()
    # Sums of p z^i u^j with u the factors, over p.
    terms = parts * pulls
    first = terms.mv(ones) / -total
    bend = (terms * pulls).mv(ones) / total
    second = bend - parts.mul_(squares).mv(ones) / total
    found = [total.log() + largest[:, 0] - LOG_2PI / 2, first, second - first.square()]
    if order > 2:
        twist = terms.mul_(3 * squares - pulls.square()).mv(ones) / total
        found.append(twist - 3 * second * first + 2 * first**3)
    return found


class Profile(NamedTuple):
    """Log-density of one-output mixtures at sorted points, all (n, G)."""

    points: Tensor
    heights: Tensor  # log-densities
    slopes: Tensor  # derivatives of the log-density
    bends: Tensor  # its second derivatives

    def take(self, rows: Tensor) -> Profile:
        """Select rows (m,)."""
        return Profile(*(part[rows] for part in self))

    def insert(self, parameters: Parameters, rows: Tensor, points: Tensor) -> Profile:
        """Add points (m,) to rows (m,) in rising order."""
        if not len(rows):
            return self
        columns = (points, *differentiate_log_density(parameters, rows, points))
        counts = torch.bincount(rows, minlength=len(self.points))
        most, touched = int(counts.max()), counts.nonzero()[:, 0]
        number = torch.arange(len(rows), device=rows.device)
        position = number - (counts.cumsum(0) - counts)[rows]
        place = (counts > 0).cumsum(0)[rows] - 1
        merged = []
        for old, new in zip(self, columns, strict=True):
            # Rows with fewer new points are padded with copies of their first point.
            added = old[touched, :1].repeat(1, most)
            added[place, position] = new
            merged.append(torch.cat([old[touched], added], dim=1))
        order = merged[0].argsort(dim=-1, stable=True)
        parts = []
        for old, new in zip(self, merged, strict=True):
            # The other rows are padded with copies of their last point.
            part = torch.cat([old, old[:, -1:].expand(-1, most)], dim=1)
            part[touched] = new.gather(1, order)
            parts.append(part)
        return Profile(*parts)


class CriticalPoints(NamedTuple):
    """Zeros of the slope of n densities, sorted by row and position, all (m,)."""

    rows: Tensor
    points: Tensor
    heights: Tensor  # log-densities
    is_mode: Tensor  # whether it is a mode, or else an antimode


def monotone_profile(mixture: Mixture) -> tuple[Profile, CriticalPoints]:
    """Find all critical points, and a profile that includes them.

    The density is monotone between neighbouring points of the profile.
    """
    profile, found = find_critical_points(mixture)
    parameters = parameters_of(mixture)
    return profile.insert(parameters, found.rows, found.points), found


def find_critical_points(mixture: Mixture) -> tuple[Profile, CriticalPoints]:
    """Find all critical points of one-output mixtures, and a profile without them."""
    parameters = parameters_of(mixture)
    profile = _scan(parameters)
    for _ in range(MAX_REFINEMENTS):
        rows, points = _doubtful_points(profile)
        if not len(rows):
            break
        profile = profile.insert(parameters, rows, points)
    profile = _insert_extrema_of_slope(profile, parameters)

    # A slope of zero counts as falling: the change of sign is then at the next point.
    is_rising = profile.slopes > 0
    rows, left = (is_rising[:, 1:] != is_rising[:, :-1]).nonzero(as_tuple=True)
    is_mode = is_rising[rows, left]
    sign = torch.where(is_mode, -1.0, 1.0).to(profile.slopes)

    def slope(y: Tensor, row: Tensor, sign: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        _, first, second, third = differentiate_log_density(parameters, row, y, order=3)
        return sign * first, sign * second, sign * third

    share = _share_to_zero(profile, rows, left)
    y = solve_between(slope, parameters, profile.points, (rows, left), share, sign)
    heights = differentiate_log_density(parameters, rows, y)[0]
    return profile, CriticalPoints(rows, y, heights, is_mode)


def interpolate(profile: Profile, n_parts: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return middles of equal parts of each interval, log-densities and widths.

    By a cubic for the log-density; all have the shape (n, (G - 1) * n_parts).
    """
    points, heights, slopes, _ = profile
    width = points.diff(dim=-1)[..., None]
    share = (torch.arange(n_parts, device=points.device).to(points) + 0.5) / n_parts
    inner, _ = hermite(
        share,
        heights[:, :-1, None],
        heights[:, 1:, None],
        slopes[:, :-1, None] * width,
        slopes[:, 1:, None] * width,
    )
    y = points[:, :-1, None] + share * width
    return y.flatten(1), inner.flatten(1), (width / n_parts).expand_as(y).flatten(1)


def _doubtful_points(profile: Profile) -> tuple[Tensor, Tensor]:
    """Return rows and points where the slope may have two more zeros.

    Between points with slopes of one sign, the tangent at one of them reaches zero, and
    the other does not tell that the slope returns. So it does at a sharp bend, where
    one component takes over from another.
    """
    points, _, slopes, bends = profile
    sign = torch.where(slopes > 0, 1.0, -1.0).to(slopes)
    falls, sizes = sign * bends, slopes.abs()
    width = points.diff(dim=-1)
    is_same = sign[:, 1:] == sign[:, :-1]
    first = sizes[:, :-1] / -falls[:, :-1]
    is_first = is_same & (falls[:, 1:] <= 0) & (first > 0) & (first < width)
    last = sizes[:, 1:] / falls[:, 1:]
    is_last = is_same & (falls[:, :-1] >= 0) & (last > 0) & (last < width)
    found = torch.where(is_first, points[:, :-1] + first, points[:, 1:] - last)
    rows, left = (is_first | is_last).nonzero(as_tuple=True)
    return rows, found[rows, left]


def _share_to_zero(profile: Profile, rows: Tensor, left: Tensor) -> Tensor:
    """Approximate where the slope is zero between two points, in [0, 1].

    By one step of Newton's method, from the end of the cubic with the smaller slope.
    """
    (low, high), (start, end), bends = (
        (part[rows, left], part[rows, left + 1])
        for part in (profile.points, profile.slopes, profile.bends)
    )
    width = high - low
    share = (start / (start - end)).nan_to_num(0.5)
    for _ in range(3):
        value, rate = hermite(share, start, end, bends[0] * width, bends[1] * width)
        step = torch.where(rate * (end - start) > 0, value / rate, 0.0)
        share = (share - step).clamp(0, 1)
    return share


def hermite(
    share: Tensor, start: Tensor, end: Tensor, first: Tensor, last: Tensor
) -> tuple[Tensor, Tensor]:
    """Evaluate the cubic on [0, 1] with given ends and slopes there; and its slope."""
    rise = end - start
    bend, twist = 3 * rise - 2 * first - last, first + last - 2 * rise
    value = start + share * (first + share * (bend + share * twist))
    return value, first + share * (2 * bend + 3 * share * twist)


def _insert_extrema_of_slope(profile: Profile, parameters: Parameters) -> Profile:
    """Add extrema of the slope where it may change its sign between two points.

    A slope with the same sign at neighbouring points may change it twice in between,
    where it approaches zero and returns.
    """
    slopes, bends = profile.slopes, profile.bends
    sign = torch.where(slopes > 0, 1.0, -1.0).to(bends)
    dips = (sign[:, 1:] == sign[:, :-1]) & (sign[:, 1:] * bends[:, :-1] < 0)
    dips &= sign[:, 1:] * bends[:, 1:] > 0
    rows, left = dips.nonzero(as_tuple=True)
    if not len(rows):
        return profile
    sign = sign[rows, left]
    share, lowest = _crossing_tangents(profile, rows, left, sign)
    # Where they cross outside, it is not convex.
    is_near = (lowest < 0) | (share <= 0) | (share >= 1)
    share = share.clamp(0, 1)

    def bend(y: Tensor, row: Tensor, sign: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        _, _, second, third = differentiate_log_density(parameters, row, y, order=3)
        return sign * second, sign * third, torch.zeros_like(third)

    at = rows[is_near], left[is_near]
    y = solve_between(
        bend, parameters, profile.points, at, share[is_near], sign[is_near]
    )
    return profile.insert(parameters, at[0], y)


def _crossing_tangents(
    profile: Profile, rows: Tensor, left: Tensor, sign: Tensor
) -> tuple[Tensor, Tensor]:
    """Bound the slope times its sign between two points from below, (m,).

    Where it falls and rises again it is convex, and lies above the tangents at both
    points. Return where these cross, as a share, and their value there.
    """
    points, _, slopes, bends = (
        (part[rows, left], part[rows, left + 1]) for part in profile
    )
    width = points[1] - points[0]
    (start, end), (first, last) = (
        (sign * low, sign * high) for low, high in (slopes, bends)
    )
    share = ((end - start) / width - last) / (first - last)
    return share, start + share * width * first


def _scan(parameters: Parameters) -> Profile:
    """Compute the profile at points that resolve every component."""
    _, means, factors = parameters
    if ((means * factors).abs() > NARROWEST).any():
        return _scan_nodes(parameters)
    points, counts = lay_points(*parameters[1:], SPACING)
    place = torch.arange(points.shape[1], device=points.device)
    rows, index = (place < counts[:, None]).nonzero(as_tuple=True)
    y = points[rows, index]
    columns = [y, *differentiate_log_density(parameters, rows, y)]
    # Shorter rows are padded with copies of their last point.
    first = counts.cumsum(0) - counts
    source = first[:, None] + place.minimum(counts[:, None] - 1)
    return Profile(*(column[source] for column in columns))


def _scan_nodes(parameters: Parameters) -> Profile:
    """Compute it at fixed points around each mean, of components as narrow as floats.

    A point is an offset of a component: it may differ from the mean by less than the
    rounding of the point.
    """
    _, means, factors = parameters
    n_components = means.shape[1]
    offsets = means.new_tensor([-t for t in NODES[:0:-1]] + list(NODES))
    points = means[..., None] + offsets / factors[..., None]
    points, order = points.flatten(1).sort(dim=-1, stable=True)
    rows = torch.arange(len(points), device=points.device).repeat_interleave(
        points.shape[1]
    )
    y, order = points.flatten(), order.flatten()
    component, offset = order // len(offsets), offsets[order % len(offsets)]
    parts = []
    for piece in row_chunks(len(y), 8 * n_components, PASS_MEBIBYTES):
        selected = select_parameters(parameters, rows[piece])
        own = component[piece, None], offset[piece, None]
        parts.append(_differentiate(y[piece], *selected, order=2, own=own))
    columns = (torch.cat(part).view_as(points) for part in zip(*parts, strict=True))
    return Profile(points, *columns)


def solve_between(
    function: Function,
    parameters: Parameters,
    points: Tensor,
    at: tuple[Tensor, Tensor],
    share: Tensor,
    *arguments: Tensor,
) -> Tensor:
    """Solve between points (row, left) and (row, left + 1), (m,) each.

    The search starts at a share of the way. The function gets y, the rows and further
    arguments, all (m,).
    """
    rows, left = at
    low, high = points[rows, left], points[rows, left + 1]
    return solve_increasing(
        function,
        low,
        high,
        start=low + share * (high - low),
        scale=1 / parameters[2].amax(-1)[rows],
        parameters=(rows, *arguments),
    )
