"""Densities exceeded with given probabilities, of any number of outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from skmdn._mixture.cells2d import FINEST
from skmdn._mixture.contours import Contour, mass_inside, trace
from skmdn._mixture.core import Mixture, fill_empty, select_rows
from skmdn._mixture.hdr import n_region_points, regions
from skmdn._mixture.maps import Bounds, log_slope
from skmdn._mixture.quasirandom import joint_at_points
from skmdn._mixture.tilts import as_function_of_latent
from skmdn._utils.warn import warn

# Several outputs: quasi-random points per row, and the difference of the probabilities
# between which the slope of the level is measured.
LEVEL_POINTS, SLOPE_WIDTH = 8192, 0.04
# The probability of the points above a level differs from the confidence by less.
LARGEST_ERROR = 0.01
# Two outputs: a correction of the log-probability on the smaller side that is below
# this is the last one. Its relative error is a few per cent.
LAST_CORRECTION, MAX_CORRECTIONS = 0.03, 6
SMALLEST_REGION = 1e-4


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
        # At least that of one Gaussian of two outputs, where there are few points.
        least = LARGEST_ERROR / (1 - confidence)
        errors.append((LARGEST_ERROR / width * rise).clamp(min=least))
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
    return trace(heights, level, _finest(confidence))


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
    `LARGEST_ERROR`, and then that of the last step. No level is farther than `error`
    from the one that is corrected, which bounds what a wrong probability can do.
    """
    mixture = fill_empty(mixture)
    heights = as_function_of_latent(mixture, bounds)
    least, sign = min(confidence, 1 - confidence), 1.0 if confidence < 0.5 else -1.0
    level, rate = log_level.clone(), error / LARGEST_ERROR * least
    # The best level so far, below the highest one: nothing exceeds that.
    best, highest = log_level - error, log_level + error
    before = step = best_excess = torch.full_like(level, torch.inf)
    pending = torch.arange(len(level), device=level.device)
    for _ in range(MAX_CORRECTIONS):
        at = level[pending]
        contour = trace(select_rows(heights, pending), at, _finest(confidence))
        inside = mass_inside(select_rows(mixture, pending), contour).clamp(0, 1)
        mass = inside if confidence < 0.5 else 1 - inside
        # Positive where too much is inside: the level must rise.
        excess = sign * (mass.clamp(min=1e-3 * least) / least).log()
        is_empty = inside < 1e-3 * confidence
        highest = torch.where(is_empty, at, highest)
        is_best = ~is_empty & (excess.abs() < best_excess.abs())
        best = torch.where(is_best, at, best)
        best_excess = torch.where(is_best, excess, best_excess)
        secant = (step / (before - excess)).nan_to_num(-1.0)
        is_usable = (secant > rate / 4) & (secant < 4 * rate)
        rate = torch.where(is_usable, secant, rate)
        new = at + (excess * rate).clamp(-1.0, 1.0)
        new = new.maximum((log_level - error)[pending])
        new = torch.where(new < highest, new, (best + highest) / 2)
        moving = excess.abs() > LAST_CORRECTION
        level[pending] = torch.where(moving, new, at + excess * rate)
        step, before = new - at, excess
        pending, before, step, rate, best, best_excess, highest = (
            each[moving]
            for each in (pending, before, step, rate, best, best_excess, highest)
        )
        if not len(pending):
            break
    level[pending] = best
    miss = max((least * (sign * best_excess).expm1()).abs().tolist(), default=0.0)
    if miss > LARGEST_ERROR:
        warn(
            f"The probability of a highest-density region differs from {confidence} "
            f"by {miss:.2g}: parts of it are too small beside their distances. Use "
            "in_hdr for the points of interest."
        )
    return level


def _finest(confidence: float) -> float:
    """Return how small cells must be, since small regions would lie between corners.

    The region of one Gaussian has the radius sqrt(-2 log(1 - confidence)). Below
    `SMALLEST_REGION` the cells would be too many.
    """
    return FINEST * min(1.0, math.sqrt(5 * max(confidence, SMALLEST_REGION)))
