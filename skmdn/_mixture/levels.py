"""Densities exceeded with given probabilities, of any number of outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from skmdn._mixture.contours import Contour, mass_inside, trace
from skmdn._mixture.core import Mixture, fill_empty, select_rows
from skmdn._mixture.hdr import n_region_points, regions
from skmdn._mixture.maps import Bounds, log_slope
from skmdn._mixture.quasirandom import joint_at_points
from skmdn._mixture.tilts import as_function_of_latent

# Several outputs: quasi-random points per row, and the difference of the probabilities
# between which the slope of the level is measured.
LEVEL_POINTS, SLOPE_WIDTH = 8192, 0.04
# The probability of the points above a level differs from the confidence by less.
LARGEST_ERROR = 0.01
# Two outputs: a correction of the log-probability on the smaller side that is below
# this is the last one. Its relative error is a few per cent.
LAST_CORRECTION, MAX_CORRECTIONS = 0.03, 6


def n_level_points(mixture: Mixture, bounds: Bounds | None = None) -> int:
    """Count points per row at which `log_levels` evaluates every component."""
    return n_region_points(bounds) if mixture.means.shape[-1] == 1 else LEVEL_POINTS


def log_levels(
    mixture: Mixture, confidences: Sequence[float], bounds: Bounds | None = None
) -> Tensor:
    """Compute log-densities exceeded with given probabilities, (2 * n_confidences, n).

    The second half are their errors: the differences that belong to `LARGEST_ERROR`.
    For one output they are those of `regions`. For several they are quantiles of the
    log-density at points that represent the mixture.
    """
    if mixture.means.shape[-1] == 1:
        levels = [r.log_level for r in regions(mixture, confidences, bounds)]
        return torch.stack([*levels, *map(torch.zeros_like, levels)])
    parts = []
    for points, joint in joint_at_points(mixture, LEVEL_POINTS):
        part = joint.logsumexp(1)
        if bounds is not None:
            part -= log_slope(bounds, points).sum(-1)
        parts.append(part)
    heights = torch.cat(parts, dim=1).sort(-1, descending=True).values.T

    def quantile(confidence: float) -> Tensor:
        index = math.ceil(confidence * LEVEL_POINTS) - 1
        return heights[min(max(index, 0), LEVEL_POINTS - 1)]

    levels, errors = [], []
    for confidence in confidences:
        width = min(SLOPE_WIDTH, confidence, 1 - confidence)
        rise = quantile(confidence - width / 2) - quantile(confidence + width / 2)
        levels.append(quantile(confidence))
        errors.append(LARGEST_ERROR / width * rise)
    return torch.stack([*levels, *errors])


def trace_regions(
    mixture: Mixture,
    confidence: float,
    log_level: Tensor,
    error: Tensor,
    bounds: Bounds | None = None,
) -> Contour:
    """Trace the boundaries of regions of two outputs that hold their probability.

    From what `log_levels` returned for this confidence, (n,) each. The contour is in
    the coordinates z.
    """
    mixture = fill_empty(mixture)
    heights = as_function_of_latent(mixture, bounds)
    level = exact_levels(mixture, confidence, log_level, error, bounds)
    return trace(heights, level)


def exact_levels(
    mixture: Mixture,
    confidence: float,
    log_level: Tensor,
    error: Tensor,
    bounds: Bounds | None = None,
) -> Tensor:
    """Correct log-levels (n,) of two outputs by the probabilities inside of outlines.

    The logarithm of the smaller of the probabilities inside and outside is nearly
    linear in the log-level. Its slope is first that of the points, `error` per
    `LARGEST_ERROR`, and then that of the last step.
    """
    mixture = fill_empty(mixture)
    heights = as_function_of_latent(mixture, bounds)
    level, least = log_level.clone(), min(confidence, 1 - confidence)
    sign = 1.0 if confidence < 0.5 else -1.0
    rate = (error / LARGEST_ERROR * least).clamp(min=1e-3)
    before = step = torch.full_like(level, torch.nan)
    pending = torch.arange(len(level), device=level.device)
    for _ in range(MAX_CORRECTIONS):
        part = select_rows(mixture, pending)
        contour = trace(select_rows(heights, pending), level[pending])
        inside = mass_inside(part, contour).clamp(0, 1)
        mass = inside if confidence < 0.5 else 1 - inside
        # Positive where too much is inside: the level must rise.
        excess = sign * (mass.clamp(min=1e-3 * least) / least).log()
        secant = (step / (before - excess)).nan_to_num(-1.0)
        is_usable = (secant > rate / 4) & (secant < 4 * rate)
        rate = torch.where(is_usable, secant, rate)
        step = (excess * rate).clamp(-1.0, 1.0)
        level[pending] += step
        moving = excess.abs() > LAST_CORRECTION
        pending, before, step, rate = (
            each[moving] for each in (pending, excess, step, rate)
        )
        if not len(pending):
            break
    return level
