"""Roots of many increasing functions at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["Function", "solve_increasing"]

MAX_STEPS = 100
# Relative to the scale on which the function bends: after a step of this size
# Halley's cubic convergence is below rounding, and after one of the other so is
# bisection.
LAST_HALLEY_STEP = 3e-5
LAST_BISECTION_STEP = 1e-15

# Roots that are found are dropped once this share of them is.
COMPACTION = 0.3

Function = Callable[..., tuple[Tensor, Tensor, Tensor]]


def solve_increasing(
    function: Function,
    low: Tensor,
    high: Tensor,
    start: Tensor,
    scale: Tensor,
    parameters: tuple[Tensor, ...],
) -> Tensor:
    """Solve f(x) = 0 for n increasing functions with their roots in [low, high].

    Halley's method; a step that leaves the bracket, which every evaluation
    shrinks, is replaced by bisection.

    Parameters
    ----------
    function : gives f, f' and f'' at x, all (n,), from x and the parameters
    low, high, start : brackets, and where to begin, (n,)
    scale : distance over which f bends, (n,)
    parameters : tensors with a leading axis n
    """
    roots = x = start.clamp(low, high)
    pending = torch.arange(len(x), device=x.device)
    for _ in range(MAX_STEPS):
        value, slope, curvature = function(x, *parameters)
        low = torch.where(value <= 0, x, low)
        high = torch.where(value >= 0, x, high)
        # Halley's correction of Newton's step, bounded, so that a small step means
        # a small Newton step: otherwise a sharp bend would pass for a root.
        newton = value / slope
        bend = (newton * curvature / (2 * slope)).clamp(-0.5, 0.5)
        halley = newton / (bend - 1)
        is_inside = (x + halley > low) & (x + halley < high)
        step = torch.where(is_inside, halley, (low + high) / 2 - x)
        smallest = torch.where(is_inside, LAST_HALLEY_STEP, LAST_BISECTION_STEP) * scale
        is_settled = step.abs() <= smallest + LAST_BISECTION_STEP * x.abs()
        is_settled |= value == 0
        x = torch.where(value == 0, x, x + step)
        roots[pending] = x
        n_settled = int(is_settled.sum())
        if n_settled == len(x):
            break
        if n_settled > COMPACTION * len(x):
            open_ones = (~is_settled).nonzero()[:, 0]
            pending, x, low, high, scale, *rest = (
                tensor.index_select(0, open_ones)
                for tensor in (pending, x, low, high, scale, *parameters)
            )
            parameters = tuple(rest)
    return roots
