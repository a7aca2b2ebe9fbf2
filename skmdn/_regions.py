"""Modes and highest-density regions of Gaussian mixtures."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from skmdn import _mixture
from skmdn._arrays import row_chunks
from skmdn._mixture import LOG_2PI, Mixture
from skmdn._roots import Function, solve_increasing

__all__ = [
    "Modes",
    "Regions",
    "find_modes",
    "log_level",
    "n_level_points",
    "n_mode_points",
    "regions",
]

# Points in standard deviations around each mean. Between neighbours among all of a
# row's points, the slope of the log-density is taken to bend at most once.
NODES = (0.0, 0.5, 1.0, 1.5, 2.25, 3.0, 4.0, 6.0, 9.0, 38.0)
MAX_LEVEL_STEPS = 60
# Work that is done is dropped once no more than this share is left.
KEPT_WHILE = 0.7
# Of the mass, and of the log-level.
MASS_TOLERANCE, LEVEL_TOLERANCE = 1e-10, 1e-13
# Arithmetic on denormal numbers is a hundred times slower.
SMALLEST_LOG_SHARE = -600.0
# Several outputs: quasi-random points of a row, shared by its components.
LEVEL_POINTS = 4096

MAX_ASCENT_STEPS = 500
MAX_NEIGHBOURS = 8
# Whitened distance below which an ascent has arrived, and below which two arrivals
# are one mode.
ARRIVED, SAME = 1e-10, 1e-5

# Log-weights, means and factors (m, K) of m one-output mixtures.
Row = tuple[Tensor, Tensor, Tensor]


class Modes(NamedTuple):
    """Modes of n mixtures as a flat list, each row's by falling density."""

    rows: Tensor  # (n_modes,)
    points: Tensor  # (n_modes, d)


class Regions(NamedTuple):
    """Disjoint intervals of n rows as a flat list, in rising order."""

    log_level: Tensor  # (n,)
    rows: Tensor  # (n_intervals,)
    edges: Tensor  # (n_intervals, 2)


# -- points per row, from which memory is planned --------------------------------


def n_level_points(mixture: Mixture) -> int:
    """Points of a row at which a level looks at every component."""
    if mixture.means.shape[-1] == 1:
        return 2 * len(NODES)
    return max(LEVEL_POINTS, 32 * mixture.means.shape[1])


def n_mode_points(mixture: Mixture) -> int:
    """Points of a row at which the search for modes looks at every component."""
    if mixture.means.shape[-1] == 1:
        return 2 * len(NODES)
    return (MAX_NEIGHBOURS + 2) * mixture.means.shape[1]


# -- one output: critical points and level sets ----------------------------------


def _select_rows(mixture: Mixture, rows: Tensor) -> Mixture:
    return Mixture(*(part.index_select(0, rows) for part in mixture))


def _take(mixture: Mixture, rows: Tensor) -> Row:
    """Log-weights, means and factors (m, K) of the rows of one-output mixtures."""
    return (
        mixture.log_weights.index_select(0, rows),
        mixture.means[..., 0].index_select(0, rows),
        mixture.precision_factors[..., 0, 0].index_select(0, rows),
    )


def _derivatives(
    y: Tensor, log_weights: Tensor, means: Tensor, factors: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-density of one output and its first three derivatives, for y (m,)."""
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
    """One-output mixtures at sorted points, all (n, G).

    The points hold every critical point, so that the density is monotone between
    neighbours.
    """

    points: Tensor
    heights: Tensor  # log-density
    slopes: Tensor  # its derivative

    def insert(self, rows: Tensor, points: Tensor, parameters: Row) -> Profile:
        """Put a flat list of points among those of their rows."""
        heights, slopes, _, _ = _derivatives(points, *parameters)
        counts = torch.bincount(rows, minlength=len(self.points))
        position = torch.arange(len(rows)) - (counts.cumsum(0) - counts)[rows]
        merged = []
        for old, new in zip(self, (points, heights, slopes), strict=True):
            # Rows with fewer points are filled up with copies of their first one.
            added = old[:, :1].repeat(1, int(counts.max()))
            added[rows, position] = new
            merged.append(torch.cat([old, added], dim=1))
        order = merged[0].argsort(dim=-1, stable=True)
        return Profile(*(part.gather(1, order) for part in merged))


def _profile(mixture: Mixture) -> tuple[Profile, Tensor, Tensor]:
    """Profile of one-output mixtures, and the rows and places of their modes."""
    profile, bends = _scan(mixture)
    # A slope of one sign at both ends may dip below zero in between, where it bends
    # towards zero and back: its extremum there becomes a point.
    sign = torch.where(profile.slopes > 0, 1.0, -1.0).to(bends)
    dips = (sign[:, 1:] == sign[:, :-1]) & (sign[:, 1:] * bends[:, :-1] < 0)
    dips &= sign[:, 1:] * bends[:, 1:] > 0
    rows, left = dips.nonzero(as_tuple=True)
    parameters = _take(mixture, rows)

    def bend(y: Tensor, *arguments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        *row, sign = arguments
        _, _, second, third = _derivatives(y, *row)
        return sign * second, sign * third, torch.zeros_like(third)

    y = _solve_between(
        bend, profile.points, rows, left, (*parameters, sign[rows, left])
    )
    profile = profile.insert(rows, y, parameters)

    # A slope that is exactly zero counts as falling: its change is the next one.
    is_rising = profile.slopes > 0
    rows, left = (is_rising[:, 1:] != is_rising[:, :-1]).nonzero(as_tuple=True)
    is_mode = is_rising[rows, left]
    sign = torch.where(is_mode, -1.0, 1.0).to(bends)
    parameters = _take(mixture, rows)

    def slope(y: Tensor, *arguments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        *row, sign = arguments
        _, first, second, third = _derivatives(y, *row)
        return sign * first, sign * second, sign * third

    y = _solve_between(slope, profile.points, rows, left, (*parameters, sign))
    return profile.insert(rows, y, parameters), rows[is_mode], y[is_mode]


def _scan(mixture: Mixture) -> tuple[Profile, Tensor]:
    """Profile at fixed points around each component, and the second derivative."""
    offsets = mixture.means.new_tensor([-t for t in NODES[:0:-1]] + list(NODES))
    points = mixture.means + offsets / mixture.precision_factors[..., 0]
    points = points.flatten(1).sort(-1).values
    parts = []
    # Each of these chunks holds (rows, G, K) numbers; the rest of the work is on
    # few numbers per row and wants many rows.
    n_numbers = points.shape[1] * mixture.means.shape[1]
    for rows in row_chunks(len(points), 4 * 8 * n_numbers):
        row = (
            part[:, None] for part in _take(mixture, torch.arange(len(points))[rows])
        )
        parts.append(_scan_rows(points[rows], *row))
    heights, slopes, second = map(torch.cat, zip(*parts, strict=True))
    return Profile(points, heights, slopes), second - slopes.square()


def _scan_rows(
    points: Tensor, log_weights: Tensor, means: Tensor, factors: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-density, its slope, and p'' / p at the points (rows, G)."""
    z = (points[..., None] - means).mul_(factors)
    log_parts = (z * z).mul_(-0.5).add_(log_weights + factors.log())
    largest = log_parts.amax(-1, keepdim=True)
    shares = log_parts.sub_(largest).clamp_(min=SMALLEST_LOG_SHARE).exp_()
    total = shares.sum(-1)
    pulls = z.mul_(-factors)
    slopes = (shares * pulls).sum(-1) / total
    second = shares.mul_(pulls.square_().sub_(factors.square())).sum(-1) / total
    return total.log() + largest[..., 0] - LOG_2PI / 2, slopes, second


def _solve_between(
    function: Function,
    points: Tensor,
    rows: Tensor,
    left: Tensor,
    parameters: tuple[Tensor, ...],
    share: float | Tensor = 0.5,
) -> Tensor:
    """Solve between neighbouring points, starting a share of the way along."""
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


def regions(mixture: Mixture, confidence: float) -> Regions:
    """Highest-density regions of one output: where the density exceeds a level.

    The critical points cut the line into pieces on which the density is monotone.
    For a level, each piece that crosses it gives one edge; the level is moved by
    Newton's method until the edges hold the mass asked for.
    """
    profile, _, _ = _profile(mixture)
    level = _settle_level(mixture, profile, confidence)
    rows, edges, _ = _edges(mixture, profile, level)
    # Edges come in pairs: into the region, and out of it.
    return Regions(level, rows[::2], edges.unflatten(0, (-1, 2)))


def _settle_level(mixture: Mixture, profile: Profile, confidence: float) -> Tensor:
    """Log-level above which the mass is `confidence`, (n,)."""
    level = _first_level(profile, confidence)
    settled = level.clone()
    low, high = profile.heights.amin(-1), profile.heights.amax(-1)
    pending = torch.arange(len(level))
    for _ in range(MAX_LEVEL_STEPS):
        rows, edges, slopes = _edges(mixture, profile, level)
        excess = _mass(mixture, rows, edges) - confidence
        low = torch.where(excess >= 0, level, low)
        high = torch.where(excess <= 0, level, high)
        # Raising the log-level by one moves an edge by the inverse of its slope.
        rate = torch.zeros_like(level).index_add(0, rows, slopes.abs().reciprocal())
        step = excess / (rate * level.exp())
        is_inside = (level + step > low) & (level + step < high)
        following = torch.where(is_inside, level + step, (low + high) / 2)
        is_settled = excess.abs() <= MASS_TOLERANCE
        is_settled |= (following - level).abs() <= LEVEL_TOLERANCE
        settled[pending] = level
        level = torch.where(is_settled, level, following)
        moving = (~is_settled).nonzero()[:, 0]
        if not len(moving):
            break
        if len(moving) < KEPT_WHILE * len(level):
            pending, level, low, high = (
                part[moving] for part in (pending, level, low, high)
            )
            mixture = _select_rows(mixture, moving)
            profile = Profile(*(part[moving] for part in profile))
    return settled


def _first_level(profile: Profile, confidence: float) -> Tensor:
    """Log-level whose pieces, taken whole, hold about the mass asked for."""
    points, heights, _ = profile
    mass = points.diff(dim=-1) * (heights[:, 1:].exp() + heights[:, :-1].exp()) / 2
    middle = (heights[:, 1:] + heights[:, :-1]) / 2
    order = middle.argsort(-1, descending=True)
    covered = mass.gather(1, order).cumsum(-1)
    last = (covered < confidence * covered[:, -1:]).sum(-1, keepdim=True)
    last = last.clamp(max=middle.shape[1] - 1)
    return middle.gather(1, order).gather(1, last)[:, 0]


def _edges(
    mixture: Mixture, profile: Profile, level: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Where the log-density crosses the level: rows, positions, slopes there."""
    heights = profile.heights
    is_above = heights >= level[:, None]
    # Outside all points the density is zero.
    is_above[:, 0] = is_above[:, -1] = False
    rows, left = (is_above[:, 1:] != is_above[:, :-1]).nonzero(as_tuple=True)
    sign = torch.where(is_above[rows, left], -1.0, 1.0).to(level)
    parameters = _take(mixture, rows)

    def excess(y: Tensor, *arguments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        *row, level, sign = arguments
        value, first, second, _ = _derivatives(y, *row)
        return sign * (value - level), sign * first, sign * second

    here, there = heights[rows, left], heights[rows, left + 1]
    share = ((level[rows] - here) / (there - here)).nan_to_num(0.5).clamp(0, 1)
    y = _solve_between(
        excess, profile.points, rows, left, (*parameters, level[rows], sign), share
    )
    return rows, y, _derivatives(y, *parameters)[1]


def _mass(mixture: Mixture, rows: Tensor, edges: Tensor) -> Tensor:
    """Probability between each pair of edges, summed over the row, (n,)."""
    log_weights, means, factors = _take(mixture, rows[::2])
    lower, upper = ((e[:, None] - means) * factors for e in (edges[::2], edges[1::2]))
    # The difference of the smaller tails keeps its digits.
    flip = torch.where(lower + upper > 0, -1.0, 1.0).to(lower)
    between = _mixture.normal_cdf(upper * flip) - _mixture.normal_cdf(lower * flip)
    mass = (log_weights.exp() * between * flip).sum(-1)
    total = torch.zeros(len(mixture.means), dtype=mass.dtype)
    return total.index_add(0, rows[::2], mass)


# -- any number of outputs -------------------------------------------------------


def log_level(mixture: Mixture, confidence: float) -> Tensor:
    """Log-density exceeded with the probability given, (n,).

    One output: exact. Several: the quantile of the log-density at quasi-random
    points of every component.
    """
    if mixture.means.shape[-1] == 1:
        return regions(mixture, confidence).log_level
    n_points = n_level_points(mixture) // mixture.means.shape[1]
    y = _mixture.component_points(mixture, n_points)  # (n, K, points, d)
    inner = _mixture.add_axis(_mixture.add_axis(mixture))
    heights = _mixture.log_prob(inner, y)
    mass = (mixture.log_weights.exp() / n_points)[..., None].expand_as(heights)
    heights, order = heights.flatten(1).sort(-1, descending=True)
    covered = mass.flatten(1).gather(1, order).cumsum(-1)
    last = (covered < confidence).sum(-1, keepdim=True)
    return heights.gather(1, last.clamp(max=heights.shape[1] - 1))[:, 0]


def find_modes(mixture: Mixture) -> Modes:
    """All modes: maxima of the density."""
    if mixture.means.shape[-1] == 1:
        _, rows, y = _profile(mixture)
        points = y[:, None]
    else:
        rows, points = _ascend(mixture)
    heights = _mixture.log_prob(_select_rows(mixture, rows), points)
    order = heights.argsort(descending=True)
    order = order[rows[order].argsort(stable=True)]
    return Modes(rows[order], points[order])


def _ascend(mixture: Mixture) -> tuple[Tensor, Tensor]:
    """Climb from many starts; return the distinct maxima, (m,) and (m, d).

    Mixtures of Gaussians in several dimensions can have modes away from all means
    (Carreira-Perpinan and Williams 2003), so not only the means are starts.
    """
    starts = _starts(mixture)
    n, n_starts, _ = starts.shape
    arrived = x = starts.flatten(0, 1)
    rows = torch.arange(n).repeat_interleave(n_starts)
    pending = torch.arange(len(x))
    climbed = _select_rows(mixture, rows)
    for _ in range(MAX_ASCENT_STEPS):
        x, length = _ascent_step(climbed, x)
        arrived[pending] = x
        moving = (length > ARRIVED).nonzero()[:, 0]
        if not len(moving):
            break
        if len(moving) < KEPT_WHILE * len(x):
            pending, x = pending[moving], x[moving]
            climbed = _select_rows(climbed, moving)
    is_maximum = torch.ones(len(arrived), dtype=torch.bool)
    is_maximum[pending] = length <= SAME
    there = _select_rows(mixture, rows)
    is_maximum &= _is_maximum(there, arrived)
    is_maximum = is_maximum.view(n, -1)
    # Where two modes are just merging the curvature vanishes, and no arrival passes
    # the check; the highest one is the mode all the same.
    has_none = ~is_maximum.any(1)
    highest = _mixture.log_prob(there, arrived).view(n, -1).argmax(1)
    is_maximum[has_none, highest[has_none]] = True
    return _distinct(mixture, arrived.unflatten(0, (n, -1)), is_maximum)


def _starts(mixture: Mixture) -> Tensor:
    """Means, centres of neighbouring pairs and of all, (n, n_starts, d).

    The centre of a pair is the point where the two pull equally, weighted by their
    precisions; each component is paired with its nearest ones.
    """
    means = mixture.means
    n_components = means.shape[1]
    precisions = _mixture.precisions(mixture.precision_factors)
    pulls = (precisions @ means[..., None])[..., 0]
    starts = [
        means,
        torch.linalg.solve(precisions.sum(1), pulls.sum(1))[:, None],
        _mixture.mean(mixture)[:, None],
    ]
    n_neighbours = min(MAX_NEIGHBOURS, n_components - 1)
    if n_neighbours:
        whitened = _mixture.whiten(_mixture.add_axis(mixture), means)  # (n, K, K, d)
        distance = whitened.square().sum(-1)
        distance = distance + distance.mT
        distance.diagonal(dim1=-2, dim2=-1).fill_(torch.inf)
        nearest = distance.topk(n_neighbours, largest=False).indices.flatten(1)
        each = torch.arange(n_components).repeat_interleave(n_neighbours)
        rows = torch.arange(len(means))[:, None]
        starts.append(
            torch.linalg.solve(
                precisions[:, each] + precisions[rows, nearest],
                pulls[:, each] + pulls[rows, nearest],
            )
        )
    return torch.cat(starts, dim=1)


def _gradients(mixture: Mixture, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of the log-density at x (m, d), its Hessian, the mean precision."""
    shares = _mixture.responsibilities(mixture, x)
    factors = mixture.precision_factors
    pulls = -torch.einsum("mkji,mkj->mki", factors, _mixture.whiten(mixture, x))
    gradient = torch.einsum("mk,mki->mi", shares, pulls)
    precision = (shares[..., None, None] * _mixture.precisions(factors)).sum(1)
    spread = torch.einsum("mki,mkj->mij", shares[..., None] * pulls, pulls)
    outer = gradient[..., :, None] * gradient[..., None, :]
    return gradient, spread - precision - outer, precision


def _ascent_step(mixture: Mixture, x: Tensor) -> tuple[Tensor, Tensor]:
    """Take the Newton step where it climbs more than the fixed-point step.

    The fixed-point step (mean shift) always climbs; Newton's is fast at the end.
    Also returned: how far the step went, in mean standard deviations.
    """
    gradient, hessian, precision = _gradients(mixture, x)
    shift = torch.linalg.solve(precision, gradient)
    newton = torch.linalg.solve_ex(-hessian, gradient)[0]
    after_shift, after_newton = (
        _mixture.log_prob(mixture, x + step) for step in (shift, newton)
    )
    step = torch.where((after_newton > after_shift)[..., None], newton, shift)
    length = torch.einsum("mi,mij,mj->m", step, precision, step).clamp(min=0).sqrt()
    return x + step, length


def _is_maximum(mixture: Mixture, x: Tensor) -> Tensor:
    """Whether the curvature at stationary points is negative in every direction."""
    _, hessian, precision = _gradients(mixture, x)
    root = torch.linalg.cholesky(precision)
    half = torch.linalg.solve_triangular(root, -hessian, upper=False)
    whitened = torch.linalg.solve_triangular(root, half.mT, upper=False)
    return torch.linalg.eigvalsh(whitened)[..., 0] > SAME


def _distinct(
    mixture: Mixture, x: Tensor, is_candidate: Tensor
) -> tuple[Tensor, Tensor]:
    """Merge arrivals at the same point; the loop runs over modes, not rows."""
    scale = _mixture.var(mixture).sqrt()[:, None]
    rows, points = [], []
    while is_candidate.any():
        first = is_candidate.to(torch.int8).argmax(1)
        chosen = x[torch.arange(len(x)), first]
        is_live = is_candidate.any(1)
        rows.append(is_live.nonzero()[:, 0])
        points.append(chosen[is_live])
        distance = ((x - chosen[:, None]) / scale).abs().amax(-1)
        is_candidate = is_candidate & (distance > SAME)
    return torch.cat(rows), torch.cat(points)
