"""Roots of many increasing functions at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["solve_increasing"]

MAX_STEPS = 100
# Relative to the scale on which the function bends: after a step of this size
# Halley's cubic convergence is below rounding, and after one of the other so is
# bisection.
LAST_HALLEY_STEP = 3e-5
LAST_BISECTION_STEP = 1e-15

Function = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


def solve_increasing(
    function: Function, low: Tensor, high: Tensor, start: Tensor, scale: Tensor
) -> Tensor:
    """Solve f(x) = 0 for increasing functions with their roots in [low, high].

    Halley's method; a step that leaves the bracket, which every evaluation
    shrinks, is replaced by bisection.

    Parameters
    ----------
    function : gives f, f' and f'' at x, each of the shape of x
    low, high, start : brackets, and where to begin
    scale : distance over which f bends
    """
    x = start.clamp(low, high)
    for _ in range(MAX_STEPS):
        value, slope, curvature = function(x)
        low = torch.where(value <= 0, x, low)
        high = torch.where(value >= 0, x, high)
        halley = -2 * value * slope / (2 * slope.square() - value * curvature)
        is_inside = (x + halley > low) & (x + halley < high)
        step = torch.where(is_inside, halley, (low + high) / 2 - x)
        smallest = torch.where(is_inside, LAST_HALLEY_STEP, LAST_BISECTION_STEP) * scale
        is_settled = step.abs() <= smallest + LAST_BISECTION_STEP * x.abs()
        x = torch.where(value == 0, x, x + step)
        if (is_settled | (value == 0)).all():
            break
    return x
