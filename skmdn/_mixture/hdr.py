"""Highest-density regions of one output."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from skmdn._mixture import core
from skmdn._mixture.core import Mixture
from skmdn._mixture.maps import Bounds, log_slope
from skmdn._mixture.profile import (
    Parameters,
    Profile,
    differentiate_log_density,
    monotone_profile,
    parameters_of,
    select_parameters,
    solve_between,
)
from skmdn._mixture.tilts import as_function_of_latent
from skmdn._mixture.univariate import probability_between
from skmdn._utils.warn import warn

# Newton's method with bisection, then bisection alone, which always ends.
MAX_NEWTON_STEPS, MAX_BISECTION_STEPS = 40, 80
# Steps of edges where the level has no more digits.
MAX_MOVES = 60
# Tolerances of the mass, relative to the smaller of it and its complement, and of the
# log-level, relative to its size.
MASS_TOLERANCE, LEVEL_TOLERANCE = 1e-10, 4e-16
# Up to this confidence a region can be flat: nowhere deeper below its mode, in nats.
LARGEST_FLAT, FLAT_DEPTH = 1e-3, 1e-7
# Modes whose log-densities differ by less, relative to their size, are equally high.
TIED_HEIGHTS = 1e-13
SMALLEST_SLOPE = 1e-300
# Difference of a probability from the confidence that calls for a warning.
LARGEST_MISS = 1e-7
# One output: arrays with all components of a row that a search holds at once.
N_SEARCH_POINTS = 3


class Regions(NamedTuple):
    """Disjoint intervals of n rows as one list, sorted by row and position."""

    log_level: Tensor  # (n,)
    rows: Tensor  # (n_intervals,)
    edges: Tensor  # (n_intervals, 2)


class Terrain(NamedTuple):
    """What is compared with the level, and what is integrated, as functions of z.

    Without bounds both are the density itself.
    """

    heights: Parameters  # the density of y
    masses: Mixture  # the density of z
    bounds: Bounds | None

    def take(self, rows: Tensor) -> Terrain:
        """Select rows (m,)."""
        return Terrain(
            select_parameters(self.heights, rows),
            core.select_rows(self.masses, rows),
            self.bounds,
        )

    def log_mass(self, z: Tensor, log_heights: Tensor) -> Tensor:
        """Compute the log-density of z from that of y, at any z."""
        if self.bounds is None:
            return log_heights
        return log_heights + log_slope(self.bounds, z)


def n_region_points(bounds: Bounds | None = None) -> int:
    """Count points per row at which `regions` evaluates every component."""
    # An interval triples both points and components.
    n_copies = 1 if bounds is None or not bounds.is_interval.any() else 3
    return N_SEARCH_POINTS * n_copies**2


def regions(
    mixture: Mixture, confidences: Sequence[float], bounds: Bounds | None = None
) -> list[Regions]:
    """Find the highest-density regions of one output, for each confidence.

    The density is monotone between neighbouring critical points, and so crosses a level
    at most once between them. Newton's method finds the level above which the mass is
    the confidence, in (0, 1). With bounds the level is that of y, and the edges are
    those of z.
    """
    mixture = core.fill_empty(mixture)
    heights = as_function_of_latent(mixture, bounds)
    terrain = Terrain(parameters_of(heights), mixture, bounds)
    profile, critical = monotone_profile(heights)
    rows, modes = critical.rows[critical.is_mode], critical.points[critical.is_mode]
    parts = []
    for confidence in confidences:
        if confidence > LARGEST_FLAT:
            parts.append(_steep_regions(terrain, profile, confidence))
            continue
        found, is_flat = _flat_regions(terrain, rows, modes, confidence)
        others = (~is_flat).nonzero()[:, 0]
        if len(others):
            steep = _steep_regions(
                terrain.take(others),
                profile.take(others),
                confidence,
            )
            found = _replace(found, others, steep)
        parts.append(found)
    return parts


def _replace(found: Regions, others: Tensor, steep: Regions) -> Regions:
    """Replace the regions of some rows (m,)."""
    log_level = found.log_level.index_copy(0, others, steep.log_level)
    is_kept = ~torch.isin(found.rows, others)
    rows = torch.cat([found.rows[is_kept], others[steep.rows]])
    edges = torch.cat([found.edges[is_kept], steep.edges])
    order = rows.argsort(stable=True)
    return Regions(log_level, rows[order], edges[order])


def _flat_regions(
    terrain: Terrain, rows: Tensor, modes: Tensor, confidence: float
) -> tuple[Regions, Tensor]:
    """Find regions so narrow that the density is constant on them.

    Such an interval, of width w around its mode, has the probability w p(mode), with p
    the density of z. Widths of equally high modes are proportional to 1 / sqrt(c), with
    c minus the second derivative of the log-density of y as a function of z.

    Returns
    -------
    regions : Regions
        Of all rows.
    is_flat : Tensor of shape (n,)
        Rows for which this holds.
    """
    heights, _, second = differentiate_log_density(terrain.heights, rows, modes)
    lowest = heights.new_full((len(terrain.masses.means),), -math.inf)
    top = lowest.scatter_reduce(0, rows, heights, "amax")
    below = top[rows] - heights
    is_top = below <= TIED_HEIGHTS * (1 + top.abs())[rows]
    # Of equally high modes that are closer than the region is wide, the first is kept.
    index = is_top.nonzero()[:, 0]
    mass_density = terrain.log_mass(modes, top[rows]).exp()
    width = confidence / mass_density[index]
    is_near = (rows[index].diff() == 0) & (modes[index].diff() < width[1:])
    is_top = is_top.index_fill(0, index[1:][is_near], value=False)
    shares = (-second).clamp(min=torch.finfo(second.dtype).tiny).rsqrt() * is_top
    masses = torch.zeros_like(top).index_add_(0, rows, shares * mass_density)
    half = shares * confidence / masses[rows] / 2
    depth = torch.zeros_like(top)
    for end in (modes - half, modes + half):
        drop = top[rows] - differentiate_log_density(terrain.heights, rows, end)[0]
        depth.scatter_reduce_(0, rows, drop * is_top, "amax")
    is_near = ~is_top & (below <= 4 * depth[rows])
    is_flat = (depth < FLAT_DEPTH).index_fill(0, rows[is_near], value=False)
    edges = torch.stack([modes - half, modes + half], dim=1)[is_top]
    return _without_empty(Regions(top - depth, rows[is_top], edges)), is_flat


def _steep_regions(terrain: Terrain, profile: Profile, confidence: float) -> Regions:
    """Find the other regions, by the log-level above which the mass is `confidence`.

    The unknown is the depth of the level below the highest mode.
    """
    peak = profile.heights.amax(-1)
    depth = peak - _first_level(terrain, profile, confidence)
    low, high = torch.zeros_like(peak), peak - profile.heights.amin(-1)
    levels = torch.empty_like(peak)
    pending = torch.arange(len(peak), device=peak.device)
    found = []
    for n_steps in range(MAX_NEWTON_STEPS + MAX_BISECTION_STEPS):
        level = peak - depth
        rows, edges, slopes = _edges(terrain.heights, profile, level)
        mass, excess = _small_mass(terrain.masses, rows, edges, confidence)
        low = torch.where(excess <= 0, depth, low)
        high = torch.where(excess >= 0, depth, high)
        # The derivative of an edge with respect to the log-level is 1 / slope.
        speeds = slopes.abs().clamp(min=SMALLEST_SLOPE).reciprocal()
        gains = speeds * terrain.log_mass(edges, level[rows]).exp()
        rate = torch.zeros_like(level).index_add_(0, rows, gains)
        step = (excess * mass / rate).nan_to_num(0.0)
        is_exact = excess.abs() <= MASS_TOLERANCE
        is_closed = high - low <= LEVEL_TOLERANCE * (1 + peak.abs() + depth)
        levels[pending] = level
        is_last = is_exact[rows]
        found.append((pending[rows[is_last]], edges[is_last]))
        loose = (is_closed & ~is_exact).nonzero()[:, 0]
        if len(loose):
            ends = [(peak - end)[loose] for end in (low, high)]
            rows, edges = _loose_edges(
                terrain.take(loose), profile.take(loose), ends, confidence
            )
            found.append((pending[loose[rows]], edges))
        is_settled = is_exact | is_closed
        moving = (~is_settled).nonzero()[:, 0]
        if not len(moving):
            return _as_regions(levels, found)
        if confidence < 0.5:
            # The logarithm of a small mass is nearly linear in that of the depth.
            step = -depth * torch.expm1(-step / depth)
        depth = _next_depth(depth - step, low, high, bisect=n_steps >= MAX_NEWTON_STEPS)
        pending, peak, depth, low, high = (
            part[moving] for part in (pending, peak, depth, low, high)
        )
        terrain, profile = terrain.take(moving), profile.take(moving)
    raise ArithmeticError(f"The regions of {len(pending)} rows were not found.")


def _next_depth(wanted: Tensor, low: Tensor, high: Tensor, *, bisect: bool) -> Tensor:
    """Return the wanted depths inside their brackets, or else the middles of these."""
    middle = (low + high) / 2
    if bisect:
        return middle
    return torch.where((wanted > low) & (wanted < high), wanted, middle)


def _loose_edges(
    terrain: Terrain, profile: Profile, ends: list[Tensor], confidence: float
) -> tuple[Tensor, Tensor]:
    """Return rows and edges of regions whose level has no more digits.

    Of the log-levels on both sides (n,), a row takes the one with more intervals, since
    the density is flat where one appears: at a mode at the lower level, at an antimode
    at the upper one. Otherwise it takes the lower one.
    """
    upper, lower = (_edges(terrain.heights, profile, level) for level in ends)
    counts = [
        torch.bincount(rows, minlength=len(terrain.masses.means))
        for rows, *_ in (upper, lower)
    ]
    is_split = counts[0] > counts[1]
    parts = [
        [part[is_taken[side[0]]] for part in side]
        for side, is_taken in ((upper, is_split), (lower, ~is_split))
    ]
    rows, edges, slopes = (torch.cat(pair) for pair in zip(*parts, strict=True))
    order = rows.argsort(stable=True)
    rows, edges = rows[order], edges[order]
    speeds = slopes[order].abs().clamp(min=SMALLEST_SLOPE).reciprocal()
    return rows, _move(terrain.masses, rows, edges, speeds, confidence)


def _move(
    mixture: Mixture, rows: Tensor, edges: Tensor, speeds: Tensor, confidence: float
) -> Tensor:
    """Move edges until the mass is `confidence`.

    Where the density is flat, a rounding error of the level moves an edge far. Edges
    move in proportion to their speeds, the derivatives with respect to the log-level.
    Warn if no floats are edges of a region that holds its probability.
    """
    lower, upper = edges.unflatten(0, (-1, 2)).unbind(1)
    heights = differentiate_log_density(parameters_of(mixture), rows, edges)[0]
    gains = (speeds * heights.exp()).unflatten(0, (-1, 2)).sum(1)
    speeds = speeds.unflatten(0, (-1, 2))
    speed, inner = speeds.sum(1), rows[::2]
    share = speeds[:, 0] / speed
    # Intervals that grow end in the middle between them.
    is_next = inner[1:] == inner[:-1]
    middle = torch.where(is_next, (upper[:-1] + lower[1:]) / 2, torch.inf)
    least, most = torch.full_like(lower, -torch.inf), torch.full_like(upper, torch.inf)
    least[1:], most[:-1] = torch.where(is_next, middle, -torch.inf), middle
    wanted = confidence if confidence < 0.5 else confidence - 1
    for _ in range(MAX_MOVES):
        moved = torch.stack([lower, upper], dim=1).flatten()
        _, excess = _small_mass(mixture, rows, moved, confidence)
        # Mass inside minus the confidence.
        surplus = wanted * (excess * math.copysign(1, wanted)).expm1()
        if (surplus.abs() <= MASS_TOLERANCE * abs(wanted)).all():
            break
        is_open = lower < upper
        flow = torch.zeros_like(surplus)
        flow.index_add_(0, inner, gains * is_open)
        # Reduction of the length of each interval, at most all of it.
        loss = ((surplus / flow)[inner] * speed).nan_to_num(0.0).minimum(upper - lower)
        lower = (lower + share * loss * is_open).maximum(least)
        upper = (upper - (1 - share) * loss * is_open).minimum(most).maximum(lower)
    miss = surplus.abs().max()
    if miss > LARGEST_MISS:
        warn(
            f"The probability of a highest-density region differs from {confidence} "
            f"by {miss:.2g}: a component is narrower than the rounding errors of its "
            "mean. Subtract an offset from y."
        )
    return moved


def _as_regions(levels: Tensor, found: list[tuple[Tensor, Tensor]]) -> Regions:
    """Sort rows and edges, of which pairs are the ends of an interval."""
    rows, edges = map(torch.cat, zip(*found, strict=True))
    rows, edges = rows[::2], edges.unflatten(0, (-1, 2))
    order = rows.argsort(stable=True)
    return _without_empty(Regions(levels, rows[order], edges[order]))


def _without_empty(regions: Regions) -> Regions:
    """Omit intervals without length where the row has others."""
    _, rows, edges = regions
    is_empty = edges[:, 0] == edges[:, 1]
    if not is_empty.any():
        return regions
    has_length = torch.zeros_like(regions.log_level, dtype=torch.bool)
    has_length[rows[~is_empty]] = True
    is_kept = ~(is_empty & has_length[rows])
    return regions._replace(rows=rows[is_kept], edges=edges[is_kept])


def _first_level(terrain: Terrain, profile: Profile, confidence: float) -> Tensor:
    """Approximate the log-level by whole intervals between points, (n,)."""
    points, heights = profile.points, profile.heights
    density = terrain.log_mass(points, heights).exp()
    mass = points.diff(dim=-1) * (density[:, 1:] + density[:, :-1]) / 2
    middle = (heights[:, 1:] + heights[:, :-1]) / 2
    order = middle.argsort(-1, descending=True)
    covered = mass.gather(1, order).cumsum(-1)
    last = (covered < confidence * covered[:, -1:]).sum(-1, keepdim=True)
    last = last.clamp(max=middle.shape[1] - 1)
    return middle.gather(1, order).gather(1, last)[:, 0]


def _edges(
    parameters: Parameters, profile: Profile, level: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Solve for the level: rows, positions and slopes of the edges, each (n_edges,)."""
    heights = profile.heights
    is_above = heights >= level[:, None]
    # Beyond the outermost points the density is zero.
    is_above[:, 0] = is_above[:, -1] = False
    rows, left = (is_above[:, 1:] != is_above[:, :-1]).nonzero(as_tuple=True)
    sign = torch.where(is_above[rows, left], -1.0, 1.0).to(level)

    def excess(
        y: Tensor, row: Tensor, level: Tensor, sign: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        value, first, second = differentiate_log_density(parameters, row, y)
        return sign * (value - level), sign * first, sign * second

    level = level[rows]
    share = _share_of_way(profile, rows, left, level)
    y = solve_between(
        excess, parameters, profile.points, (rows, left), share, level, sign
    )
    return rows, y, differentiate_log_density(parameters, rows, y)[1]


def _share_of_way(
    profile: Profile, rows: Tensor, left: Tensor, level: Tensor
) -> Tensor:
    """Approximate where the log-density reaches a level between two points, in [0, 1].

    By the parabola through both points, with the slope at the flatter one.
    """
    slopes = profile.slopes[rows, left], profile.slopes[rows, left + 1]
    is_mirrored = slopes[0].abs() > slopes[1].abs()
    start, end = left + is_mirrored.long(), left + (~is_mirrored).long()
    width = profile.points[rows, end] - profile.points[rows, start]
    height = profile.heights[rows, start]
    rise, target = profile.heights[rows, end] - height, level - height
    linear = profile.slopes[rows, start] * width
    root = (linear.square() + 4 * (rise - linear) * target).clamp(min=0).sqrt()
    share = 2 * target / (linear + torch.where(rise > 0, root, -root))
    share = share.nan_to_num(0.5).clamp(0, 1)
    return torch.where(is_mirrored, 1 - share, share)


def _small_mass(
    mixture: Mixture, rows: Tensor, edges: Tensor, confidence: float
) -> tuple[Tensor, Tensor]:
    """Compute the mass inside pairs of edges, or outside for large confidences.

    Returns
    -------
    mass : Tensor of shape (n,)
    excess : Tensor of shape (n,)
        Log-ratio of the mass to its target; positive where too much is inside.
    """
    lower, upper, inner = edges[::2], edges[1::2], rows[::2]
    if confidence < 0.5:
        mass = _mass(mixture, inner, lower, upper)
        return mass, (mass / confidence).log()
    is_first = torch.ones_like(inner, dtype=torch.bool)
    is_first[1:] = inner[1:] != inner[:-1]
    before = torch.where(is_first, -torch.inf, upper.roll(1))
    last = upper[is_first.roll(-1)]
    mass = _mass(mixture, inner, before, lower)
    mass += _mass(mixture, inner[is_first], last, torch.full_like(last, torch.inf))
    return mass, (mass / (1 - confidence)).log().neg()


def _mass(mixture: Mixture, rows: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Sum the probabilities of intervals (m,) of rows (m,) over each row, (n,)."""
    mass = probability_between(mixture, rows, lower, upper)
    return mass.new_zeros(len(mixture.means)).index_add_(0, rows, mass)
