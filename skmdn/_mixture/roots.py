"""Roots of many increasing functions at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

MAX_STEPS = 100
# A step of at most this size is the last, relative to the scale on which the function
# bends. Halley's method converges cubically: after it the error is below rounding.
LAST_HALLEY_STEP = 3e-5
LAST_BISECTION_STEP = 1e-15

# Iterations drop converged items once the share of the others is below this.
COMPACT_BELOW = 0.7

# Map x (n,) and parameters with a leading axis n to f, f' and f'', all (n,).
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

    By Halley's method; a step that leaves the bracket is replaced by bisection. Every
    evaluation shrinks the bracket.

    Parameters
    ----------
    function : Function
    low, high, start : Tensor of shape (n,)
        Brackets and initial points.
    scale : Tensor of shape (n,)
        Distance over which f bends.
    parameters : tuple of Tensor, each with a leading axis n
        Further arguments of `function`.

    Returns
    -------
    roots : Tensor of shape (n,)
    """
    roots = x = start.clamp(low, high)
    pending = torch.arange(len(x), device=x.device)
    for _ in range(MAX_STEPS):
        value, slope, curvature = function(x, *parameters)
        low = torch.where(value <= 0, x, low)
        high = torch.where(value >= 0, x, high)
        # Halley's correction of Newton's step is bounded, so that a small step implies
        # a small Newton step: otherwise a sharp bend would be taken for a root.
        newton = value / slope
        bend = (newton * curvature / (2 * slope)).clamp(-0.5, 0.5)
        halley = newton / (bend - 1)
        is_inside = (x + halley > low) & (x + halley < high)
        step = torch.where(is_inside, halley, (low + high) / 2 - x)
        smallest = torch.where(
            is_inside, LAST_HALLEY_STEP * scale, LAST_BISECTION_STEP * scale
        )
        is_settled = step.abs() <= smallest + LAST_BISECTION_STEP * x.abs()
        is_settled |= value == 0
        x = torch.where(value == 0, x, x + step)
        roots[pending] = x
        moving = (~is_settled).nonzero()[:, 0]
        if not len(moving):
            break
        if len(moving) < COMPACT_BELOW * len(x):
            pending, x, low, high, scale, *rest = (
                tensor.index_select(0, moving)
                for tensor in (pending, x, low, high, scale, *parameters)
            )
            parameters = tuple(rest)
    return roots
