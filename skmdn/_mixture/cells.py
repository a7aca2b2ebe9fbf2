"""Standard normal probabilities of cells, and their derivatives.

A value x that is rounded or censored is known only to lie in a cell. With z that of a
point of the cell, the cell is the interval from z + below to z + above. Its width is
above - below, which the two ends alone would lose to rounding. With X a standard
normal number restricted to the cell, and every end multiplied by e^s, the
log-probability l has the derivatives

    dl/dz = -E[X]    dl/ds = 1 - E[X^2]    d^2l/ds^2 = Var[X^2] - 2 E[X^2]

at s = 0. They are those of s + log phi(e^s x) in the limit of a narrow cell at x, so
that a cell of width zero is a value that is known exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Ends beyond it, in standard deviations, count as this far: the fourth power of twice
# the number is finite in float64, and the third one in float32.
FAR = 1e12
# Cells are narrow if the logarithm of the density changes by less than this in them.
NARROW = 0.25
# Gauss-Legendre quadrature with five nodes, on [-1, 1]; the weights add up to one.
# Its relative error is below 1e-14 in narrow cells.
NODES = (
    (0.0, 64 / 225),
    (math.sqrt(5 - 2 * math.sqrt(10 / 7)) / 3, (322 + 13 * math.sqrt(70)) / 1800),
    (math.sqrt(5 + 2 * math.sqrt(10 / 7)) / 3, (322 - 13 * math.sqrt(70)) / 1800),
)
SQRT_HALF = math.sqrt(0.5)
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class Truncated(NamedTuple):
    """A standard normal number X in cells; all of the shape of the cells.

    Parameters
    ----------
    log_probability : Tensor
        Of the cell, in nats; where its width is zero, the log-density there.
    mean, square, spread : Tensor
        E[X], E[X^2] and Var[X^2] in the cell.
    at_lower, at_upper : Tensor
        Density of X at the ends: minus the derivative of the log-probability with
        respect to the lower end, and that with respect to the upper one. Without
        meaning where the width is zero.
    """

    log_probability: Tensor
    mean: Tensor
    square: Tensor
    spread: Tensor
    at_lower: Tensor
    at_upper: Tensor


class _Part(NamedTuple):
    """Results of one formula, for cells whose middle is at most zero."""

    log_probability: Tensor
    mean: Tensor
    square: Tensor
    spread: Tensor
    at_bottom: Tensor
    at_top: Tensor


def truncate(z: Tensor, below: Tensor, above: Tensor) -> Truncated:
    """Evaluate the cells from z + below to z + above.

    All digits are right in both tails: cells above zero are reflected to the lower
    tail, where the density decays away from the upper end.

    Parameters
    ----------
    z : Tensor
        Any finite numbers.
    below, above : Tensor
        Of a shape that broadcasts with z; may be infinite. At least -inf < above,
        below < inf and below <= above.

    Returns
    -------
    truncated : Truncated
    """
    low, high = z + below, z + above
    is_reflected = low + high > 0
    top = torch.where(is_reflected, -low, high).clamp(-FAR, FAR)
    # Of the whole line: from FAR to beyond -FAR.
    width = (above - below).clamp(max=4 * FAR)
    is_narrow = width * (0.5 * width - top).clamp(min=1) < NARROW
    wide = [
        torch.where(top > 0, part, other)
        for part, other in zip(_central(top, width), _tail(top, width), strict=True)
    ]
    narrow = _narrow(top, width.masked_fill(~is_narrow, 0))
    log_probability, mean, square, spread, at_bottom, at_top = (
        torch.where(is_narrow, part, other)
        for part, other in zip(narrow, wide, strict=True)
    )
    return Truncated(
        log_probability,
        torch.where(is_reflected, -mean, mean),
        square,
        spread,
        torch.where(is_reflected, at_top, at_bottom),
        torch.where(is_reflected, at_bottom, at_top),
    )


def log_probability(z: Tensor, below: Tensor, above: Tensor) -> Tensor:
    """Compute the log-probability of cells, differentiable once by autograd.

    Parameters are those of `truncate`. There is no derivative with respect to ends
    that are infinite: give them as large finite numbers, where 0 * inf can occur.
    """
    evaluate: Callable[..., Tensor] = _LogProbability.apply
    return evaluate(*torch.broadcast_tensors(z, below, above))


class _LogProbability(torch.autograd.Function):
    """`log_probability` with the derivatives of `truncate`.

    Autograd through the formulas would divide differences by zero, and lose all digits
    far out.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, below: Tensor, above: Tensor) -> Tensor:
        cell = truncate(z, below, above)
        is_point = below == above
        ctx.save_for_backward(
            -cell.mean,
            (-cell.at_lower).masked_fill_(is_point, 0),
            cell.at_upper.masked_fill(is_point, 0),
        )
        return cell.log_probability

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        slope, by_below, by_above = ctx.saved_tensors
        (gradient,) = gradients
        return gradient * slope, gradient * by_below, gradient * by_above


def _narrow(top: Tensor, width: Tensor) -> _Part:
    """Integrate over narrow cells by quadrature, relative to the density in the middle.

    With m the middle, phi(m + x) = phi(m) exp(-x (m + x / 2)).
    """
    half = 0.5 * width
    middle = top - half
    total = mean = excess = squares = torch.zeros_like(middle)
    for node, share in NODES:
        for sign in (-1, 1) if node else (1,):
            x = sign * node * half
            part = share * (-x * (middle + 0.5 * x)).exp()
            change = x * (2 * middle + x)  # of the square
            total = total + part
            mean = mean + part * x
            excess = excess + part * change
            squares = squares + part * change.square()
    mean, excess, squares = mean / total, excess / total, squares / total
    length = width.masked_fill(width == 0, 1)  # the density of a point
    scale = length * total
    return _Part(
        scale.log() - 0.5 * middle.square() - HALF_LOG_2PI,
        middle + mean,
        middle.square() + excess,
        (squares - excess.square()).clamp(min=0),
        (half * (middle - 0.5 * half)).exp() / scale,
        (-half * (middle + 0.5 * half)).exp() / scale,
    )


def _central(top: Tensor, width: Tensor) -> _Part:
    """Subtract both tails from one, for wide cells around zero."""
    bottom = top - width
    outside = 0.5 * (torch.erfc(top * SQRT_HALF) + torch.erfc(bottom * -SQRT_HALF))
    at_ends = [
        (-0.5 * end.square() - HALF_LOG_2PI).exp() / (1 - outside)
        for end in (bottom, top)
    ]
    return _wide(torch.log1p(-outside), bottom, top, *at_ends)


def _tail(top: Tensor, width: Tensor) -> _Part:
    """Use the Mills ratio M(t) = Phi(-t) / phi(t), for wide cells below zero.

    With t minus the upper end and w the width,
    P / phi(t) = M(t) - exp(-w (t + w / 2)) M(t + w).
    """
    t = -top
    decay = (-width * (t + 0.5 * width)).exp()
    ratio = _mills(t) - decay * _mills(t + width)
    log_probability = ratio.log() - 0.5 * t.square() - HALF_LOG_2PI
    return _wide(log_probability, top - width, top, decay / ratio, 1 / ratio)


def _wide(
    log_probability: Tensor,
    bottom: Tensor,
    top: Tensor,
    at_bottom: Tensor,
    at_top: Tensor,
) -> _Part:
    """Integrate by parts: E[X^(k+1)] = k E[X^(k-1)] - [x^k p(x)] between the ends."""
    square = 1 - top * at_top + bottom * at_bottom
    cubes = top**3 * at_top - bottom**3 * at_bottom
    spread = (3 * square - cubes - square.square()).clamp(min=0)
    return _Part(log_probability, at_bottom - at_top, square, spread, at_bottom, at_top)


def _mills(t: Tensor) -> Tensor:
    """Compute Phi(-t) / phi(t) for t >= 0."""
    scaled: Tensor = torch.special.erfcx(t * SQRT_HALF)
    return math.sqrt(math.pi / 2) * scaled
