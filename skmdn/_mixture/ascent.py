"""Ascents on the log-density of Gaussian mixtures of several outputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from skmdn._mixture.core import Mixture, select
from skmdn._mixture.factors import precisions as precisions_of
from skmdn._mixture.profile import SMALLEST_LOG_SHARE
from skmdn._mixture.surface import Surface, joint_from_whitened, survey, whiten_points
from skmdn._utils.arrays import PASS_MEBIBYTES, row_chunks

MAX_ASCENT_STEPS = 500
# All lengths below are in standard deviations at the point: they are measured in the
# metric of the mean precision. A longer Newton step may leave the basin.
LONGEST_NEWTON_STEP = 1.0
LAST_ASCENT_STEP = 1e-10
# Relative error of coordinates and of log-densities by rounding.
ROUNDING = 1e-15
# Points in one cell of this width, in standard deviations of the component that is
# likeliest there, climb as one.
CELL = 0.25
# Points on their way that meet in one cell of this width go on as one.
MEETING_CELL = 0.02
LARGEST_PLACE, HASH_FACTOR = 2.0**40, 0x5851F42D4C957F2D


class Lift(NamedTuple):
    """The factors 4 cosh(z / 2)^2 of outputs in intervals, minus log slopes of z."""

    origin: Tensor  # (n, d), added to points to give z
    is_interval: Tensor  # (d,), zeros and ones


class Landscape(NamedTuple):
    """What derivatives of the log-densities of n mixtures need."""

    mixture: Mixture
    surface: Surface
    precisions: Tensor  # (n, K, d * d)
    pull_factors: Tensor  # (n, d, d * K), entry j, (i, k) is P_k[i, j]
    pulls_at_zero: Tensor  # (n, 1, d * K), P_k m_k
    lift: Lift | None

    @classmethod
    def of(cls, mixture: Mixture, lift: Lift | None = None) -> Landscape:
        """Arrange mixtures of several outputs."""
        precisions = precisions_of(mixture.precision_factors)
        pulls = (precisions @ mixture.means[..., None])[..., 0]
        return cls(
            mixture,
            survey(mixture),
            precisions.flatten(2),
            precisions.permute(0, 3, 2, 1).flatten(2).contiguous(),
            pulls.mT.flatten(1)[:, None],
            lift,
        )

    def take(self, rows: Tensor) -> Landscape:
        """Select rows by a mask."""
        return Landscape(
            Mixture(*(part[rows] for part in self.mixture)),
            Surface(*(part[rows] for part in self.surface)),
            self.precisions[rows],
            self.pull_factors[rows],
            self.pulls_at_zero[rows],
            self.lift and self.lift._replace(origin=self.lift.origin[rows]),
        )


class Slopes(NamedTuple):
    """Log-density at points (n, s, d), and its derivatives."""

    height: Tensor  # (n, s)
    gradient: Tensor  # (n, s, d)
    hessian: Tensor  # (n, s, d, d)
    precision: Tensor  # (n, s, d, d), the mean over the responsibilities
    nearest: Tensor  # (n, s), the likeliest component


def slopes_at(land: Landscape, x: Tensor) -> Slopes:
    """Compute the log-density and its derivatives at points (n, s, d)."""
    parts = [_slopes(land, x[:, piece]) for piece in _point_chunks(land.surface, x)]
    slopes = Slopes(*(torch.cat(part, dim=1) for part in zip(*parts, strict=True)))
    return slopes if land.lift is None else _raise(slopes, x, land.lift)


def _point_chunks(surface: Surface, x: Tensor) -> Iterator[slice]:
    """Cut points (n, s, d) into pieces with few numbers of all components."""
    return row_chunks(x.shape[1], 8 * len(x) * surface.factors.shape[2], PASS_MEBIBYTES)


def _slopes(land: Landscape, x: Tensor) -> Slopes:
    """Compute them for a few points, without a lift."""
    d = x.shape[2]
    z = whiten_points(land.surface, x)
    shares = joint_from_whitened(land.surface, z)
    largest, nearest = shares.max(-1, keepdim=True)
    shares.sub_(largest).clamp_(min=SMALLEST_LOG_SHARE).exp_()
    total = shares.sum(-1, keepdim=True)
    shares.div_(total)
    precision = torch.bmm(shares, land.precisions).unflatten(2, (d, d))
    pulls = torch.baddbmm(land.pulls_at_zero, x, land.pull_factors, beta=-1)
    pulls = pulls.unflatten(2, (d, -1))
    weighted = pulls * shares[:, :, None]
    gradient = -weighted.sum(-1)
    spread = weighted @ pulls.mT
    outer = gradient[..., :, None] * gradient[..., None, :]
    return Slopes(
        (total.log() + largest)[..., 0],
        gradient,
        spread - precision - outer,
        precision,
        nearest[..., 0],
    )


def _cells(land: Landscape, x: Tensor, nearest: Tensor, width: float) -> Tensor:
    """Return a number for the cell of each point (n, s, d), (n, s).

    A cell is a cube in the coordinates of the likeliest component (n, s).
    """
    means, factors = select(land.mixture, nearest)
    own = (factors @ (x - means)[..., None])[..., 0]
    places = (own / width).floor().clamp(-LARGEST_PLACE, LARGEST_PLACE).long()
    cells = nearest
    for output in range(x.shape[2]):
        # The products wrap around; numbers that agree by chance are one in 2^64.
        cells = cells * HASH_FACTOR + places[..., output]
    return cells


def _raise(slopes: Slopes, x: Tensor, lift: Lift) -> Slopes:
    """Add the logarithms of the factors of a lift, |z| + 2 log(1 + e^-|z|).

    Since the factor is a sum of exponentials, it tilts every component and keeps its
    precision: the fixed-point step with the new gradient climbs too.
    """
    tanh = ((x + lift.origin[:, None]) / 2).tanh()
    bend = lift.is_interval * (1 - tanh.square()) / 2
    return slopes._replace(
        height=slopes.height + _gain(x, lift),
        gradient=slopes.gradient + lift.is_interval * tanh,
        hessian=slopes.hessian + torch.diag_embed(bend),
    )


def _gain(x: Tensor, lift: Lift) -> Tensor:
    """Compute the logarithm of the factors of a lift at points (n, s, d), (n, s)."""
    size = (x + lift.origin[:, None]).abs()
    return (lift.is_interval * (size + 2 * (-size).exp().log1p())).sum(-1)


def _propose(slopes: Slopes) -> tuple[Tensor, Tensor, Tensor]:
    """Return the fixed-point step, the step to try first, and the latter's length.

    The first is the step to try where the log-density is not concave, and where it is
    longer than a Newton step may be: in the tail of a component it ends at the mean.
    """
    _, gradient, hessian, precision, _ = slopes
    shift, _ = _solve(precision, gradient)
    newton, is_concave = _solve(-hessian, gradient)
    share = (LONGEST_NEWTON_STEP / length_of(newton, precision)).clamp(max=1)
    is_shift = ~is_concave | (length_of(shift, precision) > LONGEST_NEWTON_STEP)
    step = torch.where(is_shift[..., None], shift, newton * share[..., None])
    return shift, step, length_of(step, precision)


def _solve(matrix: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
    """Solve symmetric equations (n, s, d); return which matrices are positive definite.

    The solution is that of those. Two equations have theirs in closed form.
    """
    if vector.shape[-1] != 2:
        root, failed = torch.linalg.cholesky_ex(matrix)
        return torch.cholesky_solve(vector[..., None], root)[..., 0], failed == 0
    (a, b), (_, c) = (row.unbind(-1) for row in matrix.unbind(-2))
    x, y = vector.unbind(-1)
    determinant = a * c - b * b
    solution = torch.stack([c * x - b * y, a * y - b * x], dim=-1)
    return solution / determinant[..., None], (a > 0) & (determinant > 0)


def length_of(step: Tensor, precision: Tensor) -> Tensor:
    """Compute the length of steps (n, s, d) in the metric of the precision, (n, s)."""
    squared = torch.einsum("nsi,nsij,nsj->ns", step, precision, step)
    return squared.clamp(min=0).sqrt()


def ascend(land: Landscape, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Climb from points (n, s, d).

    Newton's step is tried where the log-density is concave. Where it does not climb,
    the fixed-point step (mean shift), which always climbs, takes its place. A point
    that meets another in a small cell ends where that one does.

    Returns
    -------
    ends : Tensor of shape (n, m, d)
        Different ends; rows with fewer repeat one.
    is_settled : Tensor of shape (n, m)
        Whether each is stationary.
    position : Tensor of shape (n, s)
        Position in `ends` of the end of each point.
    """
    n, s, d = x.shape
    ends, is_settled = x.clone(), torch.zeros((n, s), dtype=torch.bool, device=x.device)
    target = torch.arange(n * s, device=x.device)
    index, is_done = target.view(n, s).clone(), is_settled
    before, shift = x, torch.zeros_like(x)
    lowest = torch.full_like(x[..., 0], -torch.inf)
    for _ in range(MAX_ASCENT_STEPS):
        slopes = slopes_at(land, x)
        falls = (slopes.height < lowest) & ~is_done
        next_shift, step, length = _propose(slopes)
        tolerance = LAST_ASCENT_STEP + ROUNDING * length_of(x, slopes.precision)
        is_done = is_done | ((length <= tolerance) & ~falls)
        # After a step back the height is not known, nor needed: mean shift climbs.
        lowest = slopes.height - 1e-11 * (1 + slopes.height.abs())
        lowest = torch.where(falls, -torch.inf, lowest)
        place = x
        before, x = x, torch.where(falls[..., None], before + shift, x + step)
        before = torch.where(falls[..., None], x, before)
        shift = next_shift
        ends.view(-1, d)[index], is_settled.view(-1)[index] = x, is_done
        live = ~is_done.all(1)
        if not live.any():
            break
        # Points that have just stepped back are not where their cell is.
        cell = _cells(land, place, slopes.nearest, MEETING_CELL)
        kept, owner = _meet(cell, is_done, falls)
        target[index] = index.gather(1, owner)
        kept = kept[live]
        x, before, shift, lowest, index, is_done = (
            part[live].take_along_dim(
                kept.view(*kept.shape, *(1,) * (part.ndim - 2)), 1
            )
            for part in (x, before, shift, lowest, index, is_done)
        )
        if not live.all():
            land = land.take(live)
    while not torch.equal(target, target[target]):
        target = target[target]
    place = target.view(n, s) - s * torch.arange(n, device=x.device)[:, None]
    is_end = place == torch.arange(s, device=x.device)
    kept = _select(is_end)
    position = (is_end.cumsum(1) - 1).gather(1, place)
    return ends.take_along_dim(kept[..., None], 1), is_settled.gather(1, kept), position


def _select(is_kept: Tensor) -> Tensor:
    """Return positions of true entries (n, s), (n, m); rows with fewer repeat one."""
    n_kept = int(is_kept.sum(1).max())
    kept = is_kept.to(torch.int8).argsort(dim=1, descending=True, stable=True)
    kept = kept[:, :n_kept]
    return torch.where(is_kept.gather(1, kept), kept, kept[:, :1])


def _meet(cell: Tensor, is_done: Tensor, is_alone: Tensor) -> tuple[Tensor, Tensor]:
    """Let the points (n, s) of one cell go on as one, a settled one if there is any.

    Settled points do not meet each other, nor do points that are alone.

    Returns
    -------
    kept : Tensor of shape (n, m)
        Positions of points that go on; rows with fewer repeat one.
    owner : Tensor of shape (n, s)
        Position of the point that each one follows, or its own.
    """
    n, s = cell.shape
    own = torch.arange(s, device=cell.device).expand(n, s)
    first = is_done.logical_not().to(torch.int8).argsort(dim=1, stable=True)
    order = first.gather(1, cell.gather(1, first).argsort(dim=1, stable=True))
    sorted_cell, goes_alone = (
        cell.gather(1, order),
        (is_done | is_alone).gather(1, order),
    )
    is_first = torch.ones_like(goes_alone)
    is_first[:, 1:] = sorted_cell[:, 1:] != sorted_cell[:, :-1]
    leader = torch.where(is_first, own, 0).cummax(1).values
    leader = torch.where(goes_alone, own, leader)
    owner = torch.empty_like(order).scatter_(1, order, order.gather(1, leader))
    return _select(owner == own), owner


def heights_at(land: Landscape, x: Tensor) -> Tensor:
    """Compute the log-density at points (n, s, d), (n, s)."""
    parts = []
    for piece in _point_chunks(land.surface, x):
        z = whiten_points(land.surface, x[:, piece])
        parts.append(joint_from_whitened(land.surface, z).logsumexp(-1))
    heights = torch.cat(parts, dim=1)
    return heights if land.lift is None else heights + _gain(x, land.lift)


# -- points that climb as one ------------------------------------------------------


def thin(land: Landscape, x: Tensor, width: float = CELL) -> tuple[Tensor, Tensor]:
    """Select one of the points (n, s, d) of each cell.

    Cells are cubes in the coordinates of the component that is likeliest at a point.

    Returns
    -------
    chosen : Tensor of shape (n, m)
        Positions of the first point of each cell; rows with fewer cells repeat one.
    cells : Tensor of shape (n, s)
        Number of the cell of each point: a position in `chosen`.
    """
    pieces = []
    for piece in _point_chunks(land.surface, x):
        z = whiten_points(land.surface, x[:, piece])
        pieces.append(joint_from_whitened(land.surface, z).argmax(-1))
    keys = _cells(land, x, torch.cat(pieces, dim=1), width)
    keys, order = keys.sort(dim=1, stable=True)
    is_first = torch.ones_like(keys, dtype=torch.bool)
    is_first[:, 1:] = keys[:, 1:] != keys[:, :-1]
    number = is_first.cumsum(1) - 1
    cells = torch.empty_like(number).scatter_(1, order, number)
    n_cells = int(number.max()) + 1 if number.numel() else 0
    chosen = order[:, :1].repeat(1, n_cells)
    rows, place = is_first.nonzero(as_tuple=True)
    chosen[rows, number[rows, place]] = order[rows, place]
    return chosen, cells
