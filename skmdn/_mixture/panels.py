"""Panels of the real line that resolve the components of one-output mixtures."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from skmdn._mixture.roots import COMPACT_BELOW


class Panels(NamedTuple):
    """Panels of n mixtures as one list, sorted by row and position, all (n_panels,)."""

    rows: Tensor
    narrowest: Tensor  # the narrowest component there
    start: Tensor  # lower end, relative to the mean of that component
    half_width: Tensor
    n_there: Tensor  # number of components there


def cut(
    means: Tensor,
    factors: Tensor,
    *,
    reach: float | Tensor,
    least: int,
    longest: float = torch.inf,
    relative: float = 1.0,
) -> Panels:
    """Cut the real line into panels for means and factors (n, K) of one output.

    The ends of the components, `reach` standard deviations (a number or (n, K)) from
    their means, cut it into pieces. A piece with at least `least` components is cut
    into panels no longer than `longest`, and `relative` times the smallest standard
    deviation there. A piece without components is one panel.
    """
    stds = 1 / factors
    offsets = torch.cat([-reach * stds, reach * stds], dim=1)
    centres = means.repeat(1, 2)
    order = (centres + offsets).argsort(dim=1, stable=True)
    place = order.argsort(dim=1)[:, None]  # (n, 1, 2 K)
    lower, upper = place.chunk(2, dim=-1)
    n_pieces = order.shape[1] - 1
    piece = torch.arange(n_pieces, device=means.device)[:, None]
    is_there = (lower <= piece) & (piece < upper)  # (n, pieces, K)
    width = torch.where(is_there, stds[:, None], torch.inf)
    smallest, narrowest = width.min(-1)
    offsets, centres = offsets.gather(1, order), centres.gather(1, order)
    reference = means.gather(1, narrowest)
    start = centres[:, :-1] - reference + offsets[:, :-1]
    length = centres[:, 1:] - reference + offsets[:, 1:] - start
    n_there = is_there.sum(-1)
    most = torch.where(n_there > 0, (relative * smallest).clamp(max=longest), torch.inf)
    count = (length / most).ceil().clamp(min=1)
    is_kept = (n_there >= least) & (length > 0)
    count = torch.where(is_kept, count, 0).long().flatten()
    of_piece = count.nonzero()[:, 0].repeat_interleave(count[count > 0])
    first = (count.cumsum(0) - count)[of_piece]
    number = torch.arange(len(of_piece), device=means.device) - first
    step = length.flatten()[of_piece] / count[of_piece]
    return Panels(
        of_piece // n_pieces,
        narrowest.flatten()[of_piece],
        start.flatten()[of_piece] + number * step,
        step / 2,
        n_there.flatten()[of_piece],
    )


class Spacing(NamedTuple):
    """Largest distance of neighbouring points, in standard deviations of a component.

    It is `step` within `core` standard deviations of the mean, and grows by `growth`
    for each further one, up to `reach`.
    """

    step: float
    core: float
    growth: float
    reach: float


def lay_points(
    means: Tensor, factors: Tensor, spacing: Spacing
) -> tuple[Tensor, Tensor]:
    """Lay points (n, G) from left to right, and return their numbers (n,).

    The next point is as far as any component allows, here and there.
    """
    step, core, growth, reach = spacing
    stds = 1 / factors
    y = (means - reach * stds).amin(-1)
    last = (means + reach * stds).amax(-1)
    counts = torch.ones(len(means), dtype=torch.int64, device=means.device)
    steps, lag = step * stds, (step - core * growth) * stds
    live = torch.arange(len(means), device=means.device)
    columns = [y.clone()]
    buffers = torch.empty_like(means), torch.empty_like(means)
    while len(live):
        away, towards = (buffer[: len(live)] for buffer in buffers)
        torch.sub(y[:, None], means, out=towards)
        torch.add(lag, towards, alpha=growth, out=away)
        torch.add(lag, towards, alpha=-growth, out=towards)
        torch.maximum(away, towards.mul_(1 / (1 + growth)), out=away)
        ahead = torch.maximum(away, steps, out=away).amin(-1)
        is_open = y < last
        # At least to the next float.
        y = torch.where(is_open, torch.maximum(y + ahead, y.nextafter(last)), y)
        counts[live] += is_open
        column = columns[-1].clone()
        column[live] = y
        columns.append(column)
        n_open = int(is_open.sum())
        if n_open < COMPACT_BELOW * len(live):
            kept = is_open.nonzero()[:, 0]
            live, y, last, means, steps, lag = (
                part.index_select(0, kept)
                for part in (live, y, last, means, steps, lag)
            )
    return torch.stack(columns, dim=1), counts
