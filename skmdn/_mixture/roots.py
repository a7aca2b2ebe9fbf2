"""Roots of many increasing functions at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Steps of Halley's method, or arithmetic bisection, before the bisection of the floats
# in the bracket, of which there are fewer than 2^64.
MAX_HALLEY_STEPS, MAX_BISECTION_STEPS = 40, 65
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
    evaluation shrinks the bracket. Brackets that are still open after
    `MAX_HALLEY_STEPS` are bisected down to neighbouring floats.

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

    Raises
    ------
    ArithmeticError
        If a function is NaN inside its bracket.
    """
    roots = x = start.clamp(low, high)
    pending = torch.arange(len(x), device=x.device)
    for n_steps in range(MAX_HALLEY_STEPS + MAX_BISECTION_STEPS):
        value, slope, curvature = function(x, *parameters)
        low = torch.where(value <= 0, x, low)
        high = torch.where(value >= 0, x, high)
        if n_steps < MAX_HALLEY_STEPS:
            following, is_settled = _halley(
                x, low, high, scale, (value, slope, curvature)
            )
        else:
            following = middle_float(low, high)
            is_settled = (following == low) | (following == high)
        is_settled |= value == 0
        x = torch.where(value == 0, x, following)
        roots[pending] = x
        moving = (~is_settled).nonzero()[:, 0]
        if not len(moving):
            return roots
        if len(moving) < COMPACT_BELOW * len(x):
            pending, x, low, high, scale, *rest = (
                tensor.index_select(0, moving)
                for tensor in (pending, x, low, high, scale, *parameters)
            )
            parameters = tuple(rest)
    raise ArithmeticError(f"{len(moving)} equations have no root in their bracket.")


def _halley(
    x: Tensor,
    low: Tensor,
    high: Tensor,
    scale: Tensor,
    derivatives: tuple[Tensor, Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    """Take Halley's step, or that of a bisection; return whether it is the last too."""
    value, slope, curvature = derivatives
    # Halley's correction of Newton's step is bounded, so that a small step implies a
    # small Newton step: otherwise a sharp bend would be taken for a root.
    newton = value / slope
    bend = (newton * curvature / (2 * slope)).clamp(-0.5, 0.5)
    step = newton / (bend - 1)
    following = x + step
    is_last = step.abs() <= LAST_HALLEY_STEP * scale
    # A last step below rounding stays on the end of the bracket at which it starts.
    is_outside = ~((following > low) & (following < high) | is_last & (following == x))
    if is_outside.any():
        middle = low + (high - low) / 2
        following = torch.where(is_outside, middle, following)
        is_short = (middle - x).abs() <= LAST_BISECTION_STEP * scale
        # A value that is not a number moves neither end of the bracket.
        is_last = torch.where(is_outside, is_short & ~value.isnan(), is_last)
        is_last |= (following == x) & ~value.isnan()
    return following, is_last


def middle_float(low: Tensor, high: Tensor) -> Tensor:
    """Return the float64 with as many floats below it in [low, high] as above it."""
    first, last = _rank(low.view(torch.int64)), _rank(high.view(torch.int64))
    middle = (first & last) + ((first ^ last) >> 1)  # cannot overflow
    return _rank(middle).view(torch.float64)


def _rank(bits: Tensor) -> Tensor:
    """Map the bits of floats to integers in the same order, and back."""
    return bits ^ ((bits >> 63) & torch.iinfo(torch.int64).max)
