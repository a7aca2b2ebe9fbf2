"""Modes of Gaussian mixtures."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from skmdn._mixture import core
from skmdn._mixture.core import Mixture, select_rows
from skmdn._mixture.factors import precisions as precisions_of
from skmdn._mixture.profile import NODES, find_critical_points
from skmdn._mixture.roots import COMPACT_BELOW

MAX_ASCENT_STEPS = 500
MAX_NEIGHBOURS = 8
# In standard deviations: the last step of an ascent is at most `LAST_ASCENT_STEP` long,
# and maxima that are closer than `SAME_MODE` are one mode.
LAST_ASCENT_STEP, SAME_MODE = 1e-10, 1e-5
# Smallest curvature of a maximum, relative to the mean precision.
SMALLEST_CURVATURE = 1e-5


class Modes(NamedTuple):
    """Modes of n mixtures as one list, sorted by row and falling density."""

    rows: Tensor  # (n_modes,)
    points: Tensor  # (n_modes, d)


def n_mode_points(mixture: Mixture) -> int:
    """Count points per row at which `find_modes` evaluates every component."""
    if mixture.means.shape[-1] == 1:
        return 2 * len(NODES)
    return (MAX_NEIGHBOURS + 2) * mixture.means.shape[1]


def find_modes(mixture: Mixture) -> Modes:
    """Find all modes, the maxima of the density."""
    if mixture.means.shape[-1] == 1:
        _, rows, y = find_critical_points(mixture)
        points = y[:, None]
    else:
        rows, points = _ascend(mixture)
    heights = core.log_prob(select_rows(mixture, rows), points)
    order = heights.argsort(descending=True)
    order = order[rows[order].argsort(stable=True)]
    return Modes(rows[order], points[order])


def _ascend(mixture: Mixture) -> tuple[Tensor, Tensor]:
    """Climb from many starts; return rows (m,) and points (m, d) of distinct maxima.

    Mixtures of Gaussians in several dimensions can have modes away from all means
    (Carreira-Perpinan and Williams 2003), so that the means alone do not suffice.
    """
    starts = _starts(mixture)
    n, n_starts, _ = starts.shape
    arrived = x = starts.flatten(0, 1)
    rows = torch.arange(n, device=x.device).repeat_interleave(n_starts)
    pending = torch.arange(len(x), device=x.device)
    climbed = select_rows(mixture, rows)
    for _ in range(MAX_ASCENT_STEPS):
        x, length = _ascent_step(climbed, x)
        arrived[pending] = x
        moving = (length > LAST_ASCENT_STEP).nonzero()[:, 0]
        if not len(moving):
            break
        if len(moving) < COMPACT_BELOW * len(x):
            pending, x = pending[moving], x[moving]
            climbed = select_rows(climbed, moving)
    is_maximum = torch.ones(len(arrived), dtype=torch.bool, device=x.device)
    is_maximum[pending] = length <= SAME_MODE
    there = select_rows(mixture, rows)
    is_maximum &= _is_maximum(there, arrived)
    is_maximum = is_maximum.view(n, -1)
    # Where two modes merge, the curvature is zero and no point passes the check; the
    # highest point is the mode.
    has_none = ~is_maximum.any(1)
    highest = core.log_prob(there, arrived).view(n, -1).argmax(1)
    is_maximum[has_none, highest[has_none]] = True
    return _distinct(mixture, arrived.unflatten(0, (n, -1)), is_maximum)


def _starts(mixture: Mixture) -> Tensor:
    """Return means, and centres of neighbouring pairs and of all, (n, n_starts, d).

    The centre of a pair is the mean of the two means weighted by their precisions; each
    component is paired with its nearest ones.
    """
    means = mixture.means
    n_components = means.shape[1]
    precisions = precisions_of(mixture.precision_factors)
    pulls = (precisions @ means[..., None])[..., 0]
    starts = [
        means,
        torch.linalg.solve(precisions.sum(1), pulls.sum(1))[:, None],
        core.mean(mixture)[:, None],
    ]
    n_neighbours = min(MAX_NEIGHBOURS, n_components - 1)
    if n_neighbours:
        whitened = core.whiten(core.add_axis(mixture), means)  # (n, K, K, d)
        distance = whitened.square().sum(-1)
        distance = distance + distance.mT
        distance.diagonal(dim1=-2, dim2=-1).fill_(torch.inf)
        nearest = distance.topk(n_neighbours, largest=False).indices.flatten(1)
        each = torch.arange(n_components, device=means.device)
        each = each.repeat_interleave(n_neighbours)
        rows = torch.arange(len(means), device=means.device)[:, None]
        starts.append(
            torch.linalg.solve(
                precisions[:, each] + precisions[rows, nearest],
                pulls[:, each] + pulls[rows, nearest],
            )
        )
    return torch.cat(starts, dim=1)


def _gradients(mixture: Mixture, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return gradient and Hessian of the log-density at x, and the mean precision."""
    shares = core.responsibilities(mixture, x)
    factors = mixture.precision_factors
    pulls = -torch.einsum("mkji,mkj->mki", factors, core.whiten(mixture, x))
    gradient = torch.einsum("mk,mki->mi", shares, pulls)
    precision = (shares[..., None, None] * precisions_of(factors)).sum(1)
    spread = torch.einsum("mki,mkj->mij", shares[..., None] * pulls, pulls)
    outer = gradient[..., :, None] * gradient[..., None, :]
    return gradient, spread - precision - outer, precision


def _ascent_step(mixture: Mixture, x: Tensor) -> tuple[Tensor, Tensor]:
    """Take the Newton step where it climbs more than the fixed-point step.

    The fixed-point step (mean shift) always climbs; Newton's method converges faster.
    Returns the points reached, and the lengths of the steps in the metric of the mean
    precision.
    """
    gradient, hessian, precision = _gradients(mixture, x)
    shift = torch.linalg.solve(precision, gradient)
    newton = torch.linalg.solve_ex(-hessian, gradient)[0]
    after_shift, after_newton = (
        core.log_prob(mixture, x + step) for step in (shift, newton)
    )
    step = torch.where((after_newton > after_shift)[..., None], newton, shift)
    length = torch.einsum("mi,mij,mj->m", step, precision, step).clamp(min=0).sqrt()
    return x + step, length


def _is_maximum(mixture: Mixture, x: Tensor) -> Tensor:
    """Test that the curvature at stationary points is negative in all directions."""
    _, hessian, precision = _gradients(mixture, x)
    root = torch.linalg.cholesky(precision)
    half = torch.linalg.solve_triangular(root, -hessian, upper=False)
    whitened = torch.linalg.solve_triangular(root, half.mT, upper=False)
    curvatures: Tensor = torch.linalg.eigvalsh(whitened)
    return curvatures[..., 0] > SMALLEST_CURVATURE


def _distinct(
    mixture: Mixture, x: Tensor, is_candidate: Tensor
) -> tuple[Tensor, Tensor]:
    """Merge candidates (n, n_starts) at the same point; loops over modes, not rows."""
    scale = core.var(mixture).sqrt()[:, None]
    rows, points = [], []
    while is_candidate.any():
        first = is_candidate.to(torch.int8).argmax(1)
        chosen = x[torch.arange(len(x), device=x.device), first]
        is_live = is_candidate.any(1)
        rows.append(is_live.nonzero()[:, 0])
        points.append(chosen[is_live])
        distance = ((x - chosen[:, None]) / scale).abs().amax(-1)
        is_candidate = is_candidate & (distance > SAME_MODE)
    return torch.cat(rows), torch.cat(points)
