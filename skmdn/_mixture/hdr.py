"""Highest-density regions and their levels."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from skmdn._mixture import core
from skmdn._mixture.core import Mixture
from skmdn._mixture.profile import (
    NODES,
    Profile,
    differentiate_log_density,
    find_critical_points,
    select_parameters,
    solve_between,
)
from skmdn._mixture.roots import COMPACT_BELOW
from skmdn._mixture.univariate import normal_cdf

MAX_LEVEL_STEPS = 60
# Absolute tolerances of the mass and of the log-level.
MASS_TOLERANCE, LEVEL_TOLERANCE = 1e-10, 1e-13
# Several outputs: quasi-random points per row, divided among its components.
LEVEL_POINTS = 4096


class Regions(NamedTuple):
    """Disjoint intervals of n rows as one list, sorted by row and position."""

    log_level: Tensor  # (n,)
    rows: Tensor  # (n_intervals,)
    edges: Tensor  # (n_intervals, 2)


def n_level_points(mixture: Mixture) -> int:
    """Count points per row at which `log_level` evaluates every component."""
    if mixture.means.shape[-1] == 1:
        return 2 * len(NODES)
    return max(LEVEL_POINTS, 32 * mixture.means.shape[1])


def regions(mixture: Mixture, confidence: float) -> Regions:
    """Find the highest-density regions of one output.

    The density is monotone between neighbouring critical points, and so crosses a level
    at most once between them. Newton's method finds the level above which the mass is
    `confidence`.
    """
    profile, _, _ = find_critical_points(mixture)
    level = _settle_level(mixture, profile, confidence)
    rows, edges, _ = _edges(mixture, profile, level)
    # Edges come in pairs: the lower and the upper end of an interval.
    return Regions(level, rows[::2], edges.unflatten(0, (-1, 2)))


def _settle_level(mixture: Mixture, profile: Profile, confidence: float) -> Tensor:
    """Find the log-level above which the mass is `confidence`, (n,)."""
    level = _first_level(profile, confidence)
    settled = level.clone()
    low, high = profile.heights.amin(-1), profile.heights.amax(-1)
    pending = torch.arange(len(level), device=level.device)
    for _ in range(MAX_LEVEL_STEPS):
        rows, edges, slopes = _edges(mixture, profile, level)
        excess = _mass(mixture, rows, edges) - confidence
        low = torch.where(excess >= 0, level, low)
        high = torch.where(excess <= 0, level, high)
        # The derivative of an edge with respect to the log-level is 1 / slope.
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
        if len(moving) < COMPACT_BELOW * len(level):
            pending, level, low, high = (
                part[moving] for part in (pending, level, low, high)
            )
            mixture = core.select_rows(mixture, moving)
            profile = Profile(*(part[moving] for part in profile))
    return settled


def _first_level(profile: Profile, confidence: float) -> Tensor:
    """Approximate the log-level by whole intervals between points, (n,)."""
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
    """Solve for the level: rows, positions and slopes of the edges, each (n_edges,)."""
    heights = profile.heights
    is_above = heights >= level[:, None]
    # Beyond the outermost points the density is zero.
    is_above[:, 0] = is_above[:, -1] = False
    rows, left = (is_above[:, 1:] != is_above[:, :-1]).nonzero(as_tuple=True)
    sign = torch.where(is_above[rows, left], -1.0, 1.0).to(level)
    parameters = select_parameters(mixture, rows)

    def excess(y: Tensor, *arguments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        *row, level, sign = arguments
        value, first, second, _ = differentiate_log_density(y, *row)
        return sign * (value - level), sign * first, sign * second

    here, there = heights[rows, left], heights[rows, left + 1]
    share = ((level[rows] - here) / (there - here)).nan_to_num(0.5).clamp(0, 1)
    y = solve_between(
        excess, profile.points, rows, left, (*parameters, level[rows], sign), share
    )
    return rows, y, differentiate_log_density(y, *parameters)[1]


def _mass(mixture: Mixture, rows: Tensor, edges: Tensor) -> Tensor:
    """Sum the probabilities between pairs of edges over each row, (n,)."""
    log_weights, means, factors = select_parameters(mixture, rows[::2])
    lower, upper = ((e[:, None] - means) * factors for e in (edges[::2], edges[1::2]))
    # Differences are taken in the smaller tail, where the cdf is accurate.
    flip = torch.where(lower + upper > 0, -1.0, 1.0).to(lower)
    between = normal_cdf(upper * flip) - normal_cdf(lower * flip)
    mass = (log_weights.exp() * between * flip).sum(-1)
    total = mass.new_zeros(len(mixture.means))
    return total.index_add_(0, rows[::2], mass)


def log_level(mixture: Mixture, confidence: float) -> Tensor:
    """Compute the log-density that is exceeded with probability `confidence`, (n,).

    It is exact for one output. For several it is a quantile of the log-density at
    quasi-random points of every component.
    """
    if mixture.means.shape[-1] == 1:
        return regions(mixture, confidence).log_level
    n_points = n_level_points(mixture) // mixture.means.shape[1]
    y = core.component_points(mixture, n_points)  # (n, K, points, d)
    inner = core.add_axis(core.add_axis(mixture))
    heights = core.log_prob(inner, y)
    mass = (mixture.log_weights.exp() / n_points)[..., None].expand_as(heights)
    heights, order = heights.flatten(1).sort(-1, descending=True)
    covered = mass.flatten(1).gather(1, order).cumsum(-1)
    last = (covered < confidence).sum(-1, keepdim=True)
    return heights.gather(1, last.clamp(max=heights.shape[1] - 1))[:, 0]
