"""Monotone increasing maps between outputs with bounds and latent variables.

An output y with a support (low, high) has a latent variable z on the real line::

    no bound      z = y
    lower bound   z = log(y - low)
    upper bound   z = -log(high - y)
    interval      z = log((y - low) / (high - y))
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# In this range the logarithm of a ratio has more digits than a difference of two.
NEAR_ONE = 0.1, 10.0


class Bounds(NamedTuple):
    """Lower and upper bounds of d outputs, (d,) each, infinite where there is none."""

    low: Tensor
    high: Tensor

    @property
    def is_interval(self) -> Tensor:
        """Whether an output has two bounds, (d,)."""
        return self.low.isfinite() & self.high.isfinite()

    @property
    def sign(self) -> Tensor:
        """1 for a lower bound alone, -1 for an upper bound alone, else 0, (d,)."""
        return self.low.isfinite().to(self.low) - self.high.isfinite().to(self.low)

    def select(self, output: int) -> Bounds:
        """Return the bounds of one output, (1,) each."""
        return Bounds(self.low[[output]], self.high[[output]])


def to_latent(bounds: Bounds, y: Tensor) -> Tensor:
    """Map y (..., d) to z; on and outside a bound z is infinite."""
    low, high = bounds
    below, above = y - low, high - y
    ratio = below / above
    is_near = (ratio > NEAR_ONE[0]) & (ratio < NEAR_ONE[1])
    logit = torch.where(is_near, ratio.log(), below.log() - above.log())
    z = torch.where(bounds.sign > 0, below.log(), y)
    z = torch.where(bounds.sign < 0, -above.log(), z)
    z = torch.where(bounds.is_interval, logit, z)
    z = torch.where(low.isfinite() & (y <= low), -torch.inf, z)
    return torch.where(high.isfinite() & (y >= high), torch.inf, z)


def from_latent(bounds: Bounds, z: Tensor) -> Tensor:
    """Map z (..., d) to y, which lies strictly inside the bounds where z is finite."""
    low, high = bounds
    sign = bounds.sign
    distance = (sign * z).exp()
    width = high - low
    logistic = torch.where(
        z < 0, low + width * torch.sigmoid(z), high - width * torch.sigmoid(-z)
    )
    y = torch.where(sign > 0, low + distance, z)
    y = torch.where(sign < 0, high - distance, y)
    y = torch.where(bounds.is_interval, logistic, y)
    # Rounding must not move a point onto a bound.
    least, most = low.nextafter(high), high.nextafter(low)
    is_inner = z.isfinite() & (low.isfinite() | high.isfinite())
    return torch.where(is_inner, y.clamp(least, most), y)


def log_slope(bounds: Bounds, z: Tensor) -> Tensor:
    """Compute log dy/dz of every output at z (..., d)."""
    sizes = z.abs()
    logistic = (bounds.high - bounds.low).log() - sizes - 2 * (-sizes).exp().log1p()
    sign = bounds.sign
    tail = torch.where(sign == 0, 0.0, sign * z)
    return torch.where(bounds.is_interval, logistic, tail)


def log_derivative(bounds: Bounds, y: Tensor) -> Tensor:
    """Compute log dz/dy of every output at y (..., d); -inf on and outside a bound."""
    low, high = bounds
    log_below, log_above = (y - low).log(), (high - y).log()
    slope = torch.where(bounds.sign > 0, -log_below, torch.zeros_like(y))
    slope = torch.where(bounds.sign < 0, -log_above, slope)
    logistic = (high - low).log() - log_below - log_above
    slope = torch.where(bounds.is_interval, logistic, slope)
    return torch.where((y > low) & (y < high), slope, -torch.inf)
