"""Sums over the cells of recorded values, of mixtures of one output.

A value y recorded to a step has the cell from y - step / 2 to y + step / 2. With j an
integer, the cells around a recorded value y meet at the edges y + (j + 1/2) step.
Scores and moments are sums of functions of the cdf over all edges. The edges of a panel
in which the cdf is smooth are summed by quadrature, so that the cost does not depend on
the step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from numpy.polynomial import legendre
from scipy.special import bernoulli
from torch import Tensor

from skmdn._mixture.cells import log_probability
from skmdn._mixture.core import Mixture, fill_empty, select_rows
from skmdn._mixture.maps import Bounds, from_latent, to_latent
from skmdn._mixture.panels import cut
from skmdn._mixture.univariate import normal_cdf
from skmdn._utils.arrays import row_chunks

# A component is taken as zero beyond this many standard deviations, or with one bound
# two standard deviations more: y (1 - F) dy is greatest there. Panels are no longer
# than the smallest standard deviation there, and with bounds than `LONGEST`, since the
# maps have singularities there.
REACH, LONGEST = 9.0, 1.0
# Nodes of the sum over a panel; up to this many edges are summed one by one.
N_NODES = 16
# Positions of edges, in steps, beyond which arithmetic could overflow.
FARTHEST = 1e150


def log_cell(mixture: Mixture, cell: Tensor) -> Tensor:
    """Compute the log-probability of cells in the latent output, (...).

    The last axis of a cell (..., 3) has a point, and how far the cell reaches below and
    above it.
    """
    point, below, above = cell[..., None].unbind(-2)
    factors = mixture.precision_factors[..., 0, 0]
    z = (point - mixture.means[..., 0]) * factors
    logs = log_probability(z, -below * factors, above * factors)
    return torch.logsumexp(mixture.log_weights + logs, -1)


def recorded_crps(mixture: Mixture, y: Tensor, step: float, bounds: Bounds) -> Tensor:
    """Compute the CRPS of recorded values y (..., 1), (...).

    It is the sum of step * (F(t) - 1[y <= t])^2 over all edges t.
    """
    shape = torch.broadcast_shapes(y.shape[:-1], mixture.means.shape[:1])
    rows = torch.arange(len(mixture.means), device=y.device).expand(shape).flatten()
    points = y[..., 0].expand(shape).flatten()
    scores = torch.zeros_like(points)
    for piece in row_chunks(len(rows), 8 * 6 * mixture.means.shape[1] ** 2):
        part = select_rows(mixture, rows[piece])
        scores[piece] = _sum_over_edges(
            part, points[piece], step, bounds, lambda tail, _: (tail.square(),)
        )[0]
    return (step * scores).view(shape)


def recorded_moments(
    mixture: Mixture, centre: Tensor, step: float, bounds: Bounds
) -> Tensor:
    """Compute E[J] and E[J^2] of recorded values centre + J step, (n, 2).

    The centre (n,) has components on both sides, or lies among them. With
    T(t) the probability beyond an edge t, seen from the centre, and d the distance of
    the edge in steps, E[J] = sum of +-T(t), and E[J^2] = sum of 2 d T(t).
    """
    sums = _sum_over_edges(
        mixture,
        centre,
        step,
        bounds,
        lambda tail, d: (d.sign() * tail, 2 * d.abs() * tail),
    )
    return torch.stack(sums, -1)


Summand = Callable[[Tensor, Tensor], tuple[Tensor, ...]]


def _sum_over_edges(
    mixture: Mixture, y: Tensor, step: float, bounds: Bounds, summand: Summand
) -> list[Tensor]:
    """Sum functions of the tail, and of the signed distance from y in steps, (m,) each.

    The tail is the cdf below y (m,), and 1 - cdf above it.
    """
    mixture = fill_empty(mixture)
    row, start, stop, outside = _edges_of_panels(mixture, y, step, bounds)
    # Edges beyond all components, between them and y, have a tail of one.
    sums = [outside, torch.zeros_like(y)]
    low = torch.cat([start, start.clamp(min=0)])
    high = torch.cat([stop.clamp(max=0), stop])
    row = row.repeat(2)
    index = (low < high).nonzero()[:, 0]
    n_numbers = 4 * N_NODES * mixture.means.shape[1]
    for piece in row_chunks(len(index), 8 * n_numbers):
        chosen = index[piece]
        part, at = select_rows(mixture, row[chosen]), y[row[chosen], None]
        first, length = low[chosen, None], high[chosen, None] - low[chosen, None]
        positions, weights = _nodes(first, length)
        distance = positions + 0.5
        z = to_latent(bounds, at + distance * step)
        scales = part.precision_factors[..., 0, 0] * torch.where(first < 0, 1.0, -1.0)
        tails = normal_cdf((z[..., None] - part.means[:, None, :, 0]) * scales[:, None])
        tail = (tails @ part.log_weights.exp()[..., None])[..., 0]
        for total, term in zip(sums, summand(tail, distance), strict=False):
            total.index_add_(0, row[chosen], (weights * term).sum(-1))
    return sums


def _edges_of_panels(
    mixture: Mixture, y: Tensor, step: float, bounds: Bounds
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return row, first edge and end of the edges of each panel, (n_panels,).

    Also the number of edges between y and panels that all lie on one side of it, (m,).
    """
    means, factors = mixture.means[..., 0], mixture.precision_factors[..., 0, 0]
    reach = REACH + 2 * bounds.sign.abs() / factors
    has_bounds = bool((bounds.low.isfinite() | bounds.high.isfinite()).any())
    longest = LONGEST if has_bounds else torch.inf
    panels = cut(means, factors, reach=reach, least=0, longest=longest)
    row = panels.rows

    def edge(z: Tensor, y: Tensor) -> Tensor:
        """Return the number of the first edge that does not lie below z."""
        places = (from_latent(bounds, z) - y) / step
        return (places - 0.5).ceil().clamp(-FARTHEST, FARTHEST)

    first = edge((means - reach / factors).amin(-1), y)
    last = edge((means + reach / factors).amax(-1), y)
    start = edge(means[row, panels.narrowest] + panels.start, y[row])
    # Rounding must not count an edge twice: a panel ends where the next one starts.
    is_last = torch.ones_like(row, dtype=torch.bool)
    is_last[:-1] = row[1:] != row[:-1]
    stop = torch.where(is_last, last[row], start.roll(-1))
    return row, start, stop, first.clamp(min=0) + (-last).clamp(min=0)


def _nodes(first: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """Return nodes and weights of sums over edges, two of (p, N_NODES).

    A sum has `length` (p, 1) consecutive edges from `first` on.
    """
    nodes, table = (first.new_tensor(part) for part in _sum_rule())
    number = torch.arange(N_NODES, device=first.device)
    weights = torch.zeros_like(first)
    for coefficients in table.flip(0):
        weights = weights / length.square() + coefficients
    is_short = length <= N_NODES
    positions = torch.where(
        is_short, first + number, first - 0.5 + 0.5 * length * (1 + nodes)
    )
    counted = (number < length).to(first)
    return positions, torch.where(is_short, counted, 0.5 * length * weights)


@cache
def _sum_rule() -> tuple[np.ndarray, np.ndarray]:
    """Return nodes (N,) in [-1, 1], and coefficients (N / 2 + 1, N) of their weights.

    The weights for the sum over the middles of M equal parts of [-1, 1] are M / 2 times
    a polynomial in M^-2, and exact for polynomials of degree N - 1: those of a Legendre
    polynomial P have the sum M / 2 times

        integral of P + sum over r of B_2r(1/2) / (2 r)! (2 / M)^2r [P^(2r - 1)]

    with [.] the difference between the ends (Euler-Maclaurin, finite for polynomials).
    """
    nodes, gauss = legendre.leggauss(N_NODES)
    numbers = bernoulli(N_NODES)
    table = np.zeros((N_NODES // 2 + 1, N_NODES))
    for degree in range(0, N_NODES, 2):
        basis = np.eye(degree + 1)[degree]
        share = (degree + 0.5) * gauss * legendre.legval(nodes, basis)
        table[0] += 2 * share if degree == 0 else 0
        for r in range(1, degree // 2 + 1):
            slope = legendre.legder(basis, 2 * r - 1)
            jump = legendre.legval(1, slope) - legendre.legval(-1, slope)
            middle = (2.0 ** (1 - 2 * r) - 1) * numbers[2 * r] / math.factorial(2 * r)
            table[r] += middle * 4.0**r * jump * share
    return nodes, table
