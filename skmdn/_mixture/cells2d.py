"""Cells of the plane that hold the boundary of a region of high density."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from skmdn._mixture.core import LOG_2PI, Mixture, mean
from skmdn._mixture.factors import invert_factors, log_det
from skmdn._utils.arrays import PASS_MEBIBYTES, row_chunks

# Largest half-diagonal of a cell, in standard deviations of the components there.
FINEST = 0.35
# A component whose density is below this log-share of the level, divided by the number
# of components, does not matter.
SMALLEST_LOG_SHARE = -5.0
# Levels of the tree of cells: the first one, and the last one.
FIRST_LEVEL, LAST_LEVEL = 2, 20
# Cells of one row at most, before they are no longer divided.
MOST_CELLS = 2**15
# The frame is wider than the region by this share.
MARGIN = 0.02


class Frame(NamedTuple):
    """Mixtures of two outputs in coordinates t of a square that holds the region.

    The whitened point of component k is z = A_k t - b_k; all (n, K).
    """

    log_peaks: Tensor  # log-densities at the means, less the log-level
    factors: tuple[Tensor, ...]  # the four entries of A, row by row
    offsets: tuple[Tensor, ...]  # the two entries of b
    origin: Tensor  # (n, 2)
    axes: Tensor  # (n, 2, 2), y = origin + axes t

    def to_y(self, rows: Tensor, t: Tensor) -> Tensor:
        """Map points t (m, 2) of rows (m,) to y."""
        return self.origin[rows] + (self.axes[rows] @ t[..., None])[..., 0]


class Cells(NamedTuple):
    """Square cells of n rows, all (m,)."""

    rows: Tensor
    levels: Tensor  # the side is 2^-level
    x: Tensor  # integers, in units of the side
    y: Tensor


def frame(mixture: Mixture, log_levels: Tensor) -> Frame:
    """Find a parallelogram that holds all points above log-levels (n,).

    Where p exceeds c, one of K components exceeds c / K: the region lies in the union
    of their ellipses. The axes are those of the mean covariance of the components, so
    that the cells suit any unit and correlation, also where components lie far apart.
    """
    log_weights, means, factors = mixture
    n_components = means.shape[1]
    log_peaks = log_weights + log_det(factors) - LOG_2PI - log_levels[:, None]
    squares = 2 * (log_peaks + math.log(n_components))
    normal = mixture._replace(log_weights=log_weights.log_softmax(-1))
    centre = mean(normal)
    roots = invert_factors(factors)
    shares = normal.log_weights.exp()[..., None, None]
    axes, failed = torch.linalg.cholesky_ex((shares * (roots @ roots.mT)).sum(1))
    identity = torch.eye(2, dtype=means.dtype, device=means.device)
    axes = torch.where((failed == 0)[:, None, None], axes, identity)
    whitened = factors @ axes[:, None]
    inverse = torch.linalg.inv(whitened)
    middle = torch.linalg.solve_triangular(
        axes, (means - centre[:, None]).mT, upper=False
    ).mT
    reach = squares.clamp(min=0).sqrt()[..., None] * inverse.square().sum(-1).sqrt()
    is_in = (squares > 0)[..., None]
    low = torch.where(is_in, middle - reach, torch.inf).amin(1)
    high = torch.where(is_in, middle + reach, -torch.inf).amax(1)
    # As wide as high, so that cells are no longer than they are wide.
    side = (1 + 2 * MARGIN) * (high - low).amax(-1, keepdim=True).expand_as(low)
    low = low - MARGIN * (high - low)
    scaled = whitened * side[:, None, None]
    offsets = (whitened @ (middle - low[:, None])[..., None])[..., 0]
    return Frame(
        log_peaks,
        tuple(scaled.flatten(2).unbind(-1)),
        tuple(offsets.unbind(-1)),
        centre + (axes @ low[..., None])[..., 0],
        axes * side[:, None],
    )


def excess_at(frame: Frame, rows: Tensor, t: Tensor) -> Tensor:
    """Compute log-densities less the log-levels at points t (m, 2) of rows (m,)."""
    parts = []
    for piece in row_chunks(len(rows), 8 * frame.log_peaks.shape[1], PASS_MEBIBYTES):
        row = rows[piece]
        squares = _squares(frame, row, t[piece])
        parts.append(squares.mul_(-0.5).add_(frame.log_peaks[row]).logsumexp(-1))
    return torch.cat(parts) if parts else t[:, 0]


def _squares(frame: Frame, rows: Tensor, t: Tensor) -> Tensor:
    """Compute |z|^2 of every component at points t (m, 2), (m, K)."""
    a, b, c, d = (part.index_select(0, rows) for part in frame.factors)
    first, second = (part.index_select(0, rows) for part in frame.offsets)
    x, y = t[:, :1], t[:, 1:]
    a.mul_(x).addcmul_(b, y).sub_(first)
    c.mul_(x).addcmul_(d, y).sub_(second)
    return a.square_().addcmul_(c, c)


def boundary_cells(frame: Frame, finest: float = FINEST) -> Cells:
    """Divide the frame until cells that hold a piece of the boundary are small.

    Their half-diagonals are then `finest` standard deviations of the components there.
    In a cell of half-diagonal r around a point, in the metric of a component, |z| lies
    within r of its value there. Both bounds of the density leave out the cells that
    are inside or outside of the region, whatever the density.
    """
    n, device = len(frame.origin), frame.origin.device
    side = 2**FIRST_LEVEL
    place = torch.arange(side, device=device)
    rows = torch.arange(n, device=device).repeat_interleave(side**2)
    x, y = place.repeat_interleave(side).repeat(n), place.repeat(side * n)
    a, b, c, d = frame.factors
    # Half-diagonals for a cell of half-side one.
    plus, minus = (
        (a + b).square() + (c + d).square(),
        (a - b).square() + (c - d).square(),
    )
    reach = torch.maximum(plus, minus).sqrt()
    found = []
    for level in range(FIRST_LEVEL, LAST_LEVEL + 1):
        is_open, is_coarse = _classify(frame, reach, rows, x, y, 0.5**level, finest)
        if level == LAST_LEVEL:
            is_coarse = torch.zeros_like(is_coarse)
        # Limit the memory where components are very long.
        crowded = torch.bincount(rows[is_open], minlength=n) > MOST_CELLS
        is_coarse &= ~crowded[rows]
        last = is_open & ~is_coarse
        levels = torch.full_like(x[last], level)
        found.append(Cells(rows[last], levels, x[last], y[last]))
        split = is_open & is_coarse
        if not split.any():
            break
        rows = rows[split].repeat(4)
        x = torch.cat([2 * x[split] + i for i in (0, 1, 0, 1)])
        y = torch.cat([2 * y[split] + i for i in (0, 0, 1, 1)])
    return Cells(*map(torch.cat, zip(*found, strict=True)))


def _classify(
    frame: Frame,
    reach: Tensor,
    rows: Tensor,
    x: Tensor,
    y: Tensor,
    side: float,
    finest: float,
) -> tuple[Tensor, Tensor]:
    """Return which cells can hold the boundary, and which are too large, (m,) each."""
    centres = (torch.stack([x, y], dim=1) + 0.5).to(frame.origin) * side
    n_components = reach.shape[1]
    least = SMALLEST_LOG_SHARE - math.log(n_components)
    is_open, is_coarse = [], []
    for piece in row_chunks(len(rows), 8 * n_components, PASS_MEBIBYTES):
        row = rows[piece]
        z = _squares(frame, row, centres[piece]).sqrt_()
        radius = reach.index_select(0, row).mul_(side / 2)
        peaks = frame.log_peaks.index_select(0, row)
        most = torch.addcmul(peaks, *[(z - radius).clamp_(min=0)] * 2, value=-0.5)
        lowest = torch.addcmul(peaks, *[z.add_(radius)] * 2, value=-0.5)
        is_open.append((most.logsumexp(-1) > 0) & (lowest.logsumexp(-1) < 0))
        is_coarse.append((radius.masked_fill_(most < least, 0.0) > finest).any(-1))
    return torch.cat(is_open), torch.cat(is_coarse)
