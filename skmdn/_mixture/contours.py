"""Outlines of highest-density regions of two outputs, by marching triangles.

The cells that hold the boundary are cut into triangles from their centres to their
sides. A side on which a smaller cell has a corner is cut there, so that neighbouring
triangles share their sides and the pieces of the boundary join to closed outlines.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skmdn._mixture.cells2d import (
    FINEST,
    FIRST_LEVEL,
    LAST_LEVEL,
    Cells,
    Frame,
    boundary_cells,
    excess_at,
    frame,
)
from skmdn._mixture.core import Mixture
from skmdn._utils.arrays import PASS_MEBIBYTES, row_chunks

# Coordinates of vertices are integers in half-sides of the smallest cell.
BITS = LAST_LEVEL + 2
UNIT = 0.5 ** (LAST_LEVEL + 1)
# Steps by which a crossing is refined, and the log-ratio to the level that ends them.
MAX_CROSSING_STEPS, CROSSING_TOLERANCE = 20, 1e-7
# The same for a point between two crossings.
BULGE_STEPS, BULGE_TOLERANCE = 4, 1e-4
# Gauss-Legendre points of the integral along each piece of an outline. Beyond `FAR`
# standard deviations of a component the angle of a piece is computed.
GREEN_POINTS, FAR, SMALLEST_SQUARE = 3, 3.0, 1e-200


class Contour(NamedTuple):
    """Closed curves of n rows as one list of points, all (m, ...)."""

    rows: Tensor
    points: Tensor  # (m, 2)
    following: Tensor  # the position of the next point of the curve


def trace(mixture: Mixture, log_levels: Tensor, finest: float = FINEST) -> Contour:
    """Trace where the density of two outputs equals levels, given as logs (n,).

    The region is on the left: curves run counter-clockwise around it, and clockwise
    around its holes.
    """
    square = frame(mixture, log_levels)
    starts, ends, rows, points = _segments(square, boundary_cells(square, finest))
    following = torch.empty_like(starts)
    following[starts] = ends
    bent, between = _bulge(square, rows, points, points[following])
    place = torch.arange(len(bent), device=rows.device) + len(rows)
    onwards = following[bent]
    following[bent] = place
    return Contour(
        torch.cat([rows, rows[bent]]),
        square.to_y(torch.cat([rows, rows[bent]]), torch.cat([points, between])),
        torch.cat([following, onwards]),
    )


def _bulge(
    square: Frame, rows: Tensor, start: Tensor, end: Tensor
) -> tuple[Tensor, Tensor]:
    """Move the middles of pieces (m, 2) along their normals onto the boundary.

    By the secant method, over less than half of the length of a piece. Return the
    positions (k,) of pieces for which it ends there, and the points (k, 2).
    """
    middle, step = (start + end) / 2, end - start
    normal = torch.stack([step[:, 1], -step[:, 0]], dim=1)
    before, share = torch.zeros_like(middle[:, 0]), torch.full_like(middle[:, 0], 0.05)
    last = excess_at(square, rows, middle)
    pending = torch.arange(len(rows), device=rows.device)
    found = [(pending[:0], middle[:0])]
    for _ in range(BULGE_STEPS):
        place = middle[pending] + share[:, None] * normal[pending]
        value = excess_at(square, rows[pending], place)
        is_found = value.abs() < BULGE_TOLERANCE
        found.append((pending[is_found], place[is_found]))
        following = share - value * (share - before) / (value - last)
        following = following.nan_to_num(0.0).clamp(-0.5, 0.5)
        pending, before, last, share = (
            part[~is_found] for part in (pending, share, value, following)
        )
    positions, points = map(torch.cat, zip(*found, strict=True))
    return positions, points


def outlines(contour: Contour) -> tuple[list[int], list[Tensor]]:
    """Return the rows of closed curves, in rising order, and their points (m, 2)."""
    following, rows = contour.following.tolist(), contour.rows.tolist()
    is_left, found = [True] * len(following), []
    for first, row in enumerate(rows):
        place, outline = first, []
        while is_left[place]:
            is_left[place] = False
            outline.append(place)
            place = following[place]
        if outline:
            found.append((row, outline))
    found.sort(key=lambda pair: pair[0])
    return [row for row, _ in found], [contour.points[part] for _, part in found]


def mass_inside(mixture: Mixture, contour: Contour) -> Tensor:
    """Compute the probability inside of the curves of each row, (n,).

    By Green's theorem that of a component is the integral of (1 - e^(-r^2 / 2)) / 2 pi
    over the angle of its whitened point z along the curves, with r = |z|. Far from the
    mean the angle of a piece is exact, and the rest is nearly zero, so that pieces can
    be longer than a component that does not matter there.
    """
    weights, means, factors = mixture.log_weights.exp(), *mixture[1:]
    parameters = (
        *(weights, means[..., 0], means[..., 1]),
        *(factors[..., 0, 0], factors[..., 0, 1], factors[..., 1, 1]),
    )
    ends = contour.points[contour.following]
    nodes, shares = np.polynomial.legendre.leggauss(GREEN_POINTS)
    mass = means.new_zeros(len(means))
    for piece in row_chunks(len(ends), 8 * means.shape[1], PASS_MEBIBYTES):
        rows = contour.rows[piece]
        weight, *part = (each.index_select(0, rows) for each in parameters)
        x, y = _whiten(contour.points[piece], *part)
        end_x, end_y = _whiten(ends[piece], *part)
        step_x, step_y = end_x - x, end_y - y
        cross = x * step_y - y * step_x
        smooth, singular = torch.zeros_like(x), torch.zeros_like(x)
        for node, share in zip((1 + nodes) / 2, shares / 2, strict=True):
            square = (x + node * step_x).square_()
            square.add_((y + node * step_y).square_()).clamp_(min=SMALLEST_SQUARE)
            singular.add_(square.reciprocal(), alpha=share)
            smooth.sub_((square * -0.5).expm1_().div_(square), alpha=share)
        angle = torch.atan2(cross, x * end_x + y * end_y)
        middle = (x + end_x).square() + (y + end_y).square()
        is_far = middle > (2 * FAR) ** 2
        total = cross * smooth + is_far * (angle - cross * singular)
        mass.index_add_(0, rows, (weight * total).sum(-1) / (2 * math.pi))
    return mass


def _whiten(
    y: Tensor, first: Tensor, second: Tensor, a: Tensor, b: Tensor, c: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute z = U (y - m) for points (m, 2), two of (m, K)."""
    apart = y[:, 1:] - second
    return ((y[:, :1] - first) * a).addcmul_(apart, b), apart * c


# -- triangles ---------------------------------------------------------------------


def _segments(square: Frame, cells: Cells) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the pieces of the boundary in all triangles.

    Returns
    -------
    starts, ends : Tensor of shape (n_pieces,)
        Positions of crossings.
    rows : Tensor of shape (n_crossings,)
    points : Tensor of shape (n_crossings, 2)
        Coordinates t.
    """
    centres, first, second = _triangles(cells)
    keys = torch.stack([centres, first, second], dim=1)
    vertices, corner = keys.unique(return_inverse=True)
    excess = excess_at(square, *_place(vertices))
    is_in = excess[corner] > 0
    is_cut = is_in.any(1) & ~is_in.all(1)
    corner, is_in = corner[is_cut], is_in[is_cut]
    turned, turned_in = corner.roll(-1, 1), is_in.roll(-1, 1)
    # Around a triangle the region is left and entered once.
    pairs = [
        torch.stack([corner[sides], turned[sides]], dim=1)
        for sides in (is_in & ~turned_in, ~is_in & turned_in)
    ]
    pairs[1] = pairs[1].flip(1)  # the inner vertex first
    first, second = torch.cat(pairs).unbind(1)
    packed, position = (first * len(vertices) + second).unique(return_inverse=True)
    sides = torch.stack([packed // len(vertices), packed % len(vertices)], dim=1)
    starts, ends = position.chunk(2)
    rows, inner = _place(vertices[sides[:, 0]])
    _, outer = _place(vertices[sides[:, 1]])
    share = _cross(square, rows, (inner, outer), excess[sides])
    return starts, ends, rows, inner + share[:, None] * (outer - inner)


def _triangles(cells: Cells) -> tuple[Tensor, Tensor, Tensor]:
    """Cut cells into triangles, as keys of the centres and of two more vertices."""
    rows, levels, x, y = cells
    length = 2 ** (LAST_LEVEL + 1 - levels)
    left, low = x * length, y * length
    corners = _corners(rows, left, low, length)
    known = torch.cat([*corners, *_middles_of_ancestors(cells)]).unique()
    centres = _key(rows, left + length // 2, low + length // 2).repeat(4)
    first = torch.cat(corners)
    second = torch.cat([*corners[1:], corners[0]])
    found = [[part[:0] for part in (centres, first, second)]]
    while len(first):
        # Keys are linear in the coordinates.
        middle = (first + second) // 2
        place = torch.searchsorted(known, middle).clamp(max=len(known) - 1)
        is_split = (known[place] == middle) & ((first - second).abs() > 1)
        found.append([part[~is_split] for part in (centres, first, second)])
        centres, middle = centres[is_split].repeat(2), middle[is_split]
        first = torch.cat([first[is_split], middle])
        second = torch.cat([middle, second[is_split]])
    centres, first, second = map(torch.cat, zip(*found, strict=True))
    return centres, first, second


def _corners(rows: Tensor, x: Tensor, y: Tensor, length: Tensor) -> list[Tensor]:
    """Return the keys of the corners of squares, counter-clockwise."""
    steps = (0, 0), (1, 0), (1, 1), (0, 1)
    return [_key(rows, x + i * length, y + j * length) for i, j in steps]


def _middles_of_ancestors(cells: Cells) -> list[Tensor]:
    """Return the keys of the middles of the sides of all cells that were divided."""
    rows, levels, x, y = cells
    found = []
    for level in range(
        int(levels.max()) - 1 if len(levels) else 0, FIRST_LEVEL - 1, -1
    ):
        is_below = levels > level
        shift = levels[is_below] - level
        half = 2 ** (LAST_LEVEL - level)
        left, low = (part[is_below] >> shift for part in (x, y))
        keys = _key(rows[is_below], left * 2 * half, low * 2 * half).unique()
        steps = (
            half << BITS,
            half,
            (half << BITS) + 2 * half,
            (2 * half << BITS) + half,
        )
        found += [keys + step for step in steps]
    return found


def _key(rows: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Pack rows and coordinates of vertices into integers."""
    return (rows << 2 * BITS) + (x << BITS) + y


def _place(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows (m,) and coordinates t (m, 2) of keys (m,)."""
    mask = (1 << BITS) - 1
    places = torch.stack([(keys >> BITS) & mask, keys & mask], dim=1)
    return keys >> 2 * BITS, places.to(torch.float64) * UNIT


def _cross(
    square: Frame, rows: Tensor, ends: tuple[Tensor, Tensor], excess: Tensor
) -> Tensor:
    """Solve for zero excess between two points (m, 2) each, as shares of the way.

    By the method of the false position with the weights of Anderson and Bjoerck.
    """
    inner, step = ends[0], ends[1] - ends[0]
    shares = torch.zeros_like(excess[:, 0])
    pending = torch.arange(len(rows), device=rows.device)
    (low_value, high_value), low = excess.unbind(1), shares.clone()
    high = torch.ones_like(low)
    for _ in range(MAX_CROSSING_STEPS):
        share = low + (high - low) * low_value / (low_value - high_value)
        place = inner[pending] + share[:, None] * step[pending]
        value = excess_at(square, rows[pending], place)
        shares[pending] = share
        is_in = value > 0
        ratio = 1 - value / torch.where(is_in, low_value, high_value)
        weight = torch.where(ratio > 0, ratio, 0.5)
        high_value = torch.where(is_in, high_value * weight, value)
        low_value = torch.where(is_in, value, low_value * weight)
        low, high = torch.where(is_in, share, low), torch.where(is_in, high, share)
        moving = (value.abs() > CROSSING_TOLERANCE).nonzero()[:, 0]
        pending, low, high, low_value, high_value = (
            part[moving] for part in (pending, low, high, low_value, high_value)
        )
        if not len(pending):
            break
    return shares
