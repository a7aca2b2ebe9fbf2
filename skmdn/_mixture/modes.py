"""Modes of Gaussian mixtures."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from skmdn._mixture import core
from skmdn._mixture.core import Mixture, select_rows
from skmdn._mixture.factors import covariances as covariances_of
from skmdn._mixture.factors import precisions as precisions_of
from skmdn._mixture.maps import Bounds
from skmdn._mixture.profile import NODES, find_critical_points
from skmdn._mixture.roots import COMPACT_BELOW
from skmdn._mixture.surface import (
    Surface,
    centre,
    joint_from_whitened,
    survey,
    whiten_points,
)
from skmdn._mixture.tilts import as_function_of_latent, tilt, tilt_one_sided
from skmdn._utils.arrays import row_chunks

# Ascents start at every mean and on the ridges between neighbours, at these shares of
# the neighbour, and at the centres of each component and up to `MAX_GROUP` neighbours.
MAX_NEIGHBOURS = 48
RIDGE_SHARES = (0.02, 0.1, 0.3)
MAX_GROUP = 8
MAX_ASCENT_STEPS = 500
# Intervals of which all combinations of tilts are starts; of the others only the means.
MAX_TILTED = 3
# All lengths below are in standard deviations at the point: they are measured in the
# metric of the mean precision. A longer Newton step may leave the basin.
LONGEST_NEWTON_STEP = 1.0
LAST_ASCENT_STEP = 1e-10
# Two maxima at a distance a have a saddle between them, with a curvature of the order
# a^2 relative to the mean precision. Curvatures below `FLAT` can be rounding errors.
SAME_MODE, FLAT = 1e-3, 1e-5
# Distance at which the density is compared where the curvature can be a rounding error.
PROBE = 0.03
# Relative error of coordinates and of log-densities by rounding.
ROUNDING = 1e-15


class Modes(NamedTuple):
    """Modes of n mixtures as one list, sorted by row and falling density."""

    rows: Tensor  # (n_modes,)
    points: Tensor  # (n_modes, d)


class Lift(NamedTuple):
    """The factors 4 cosh(z / 2)^2 of outputs in intervals, minus log slopes of z."""

    origin: Tensor  # (n, d), added to points to give z
    is_interval: Tensor  # (d,), zeros and ones


class Landscape(NamedTuple):
    """What derivatives of the log-densities of n mixtures need."""

    surface: Surface
    precisions: Tensor  # (n, K, d, d)
    lift: Lift | None = None

    def take(self, rows: Tensor) -> Landscape:
        """Select rows by a mask."""
        surface = Surface(*(part[rows] for part in self.surface))
        lift = self.lift and self.lift._replace(origin=self.lift.origin[rows])
        return Landscape(surface, self.precisions[rows], lift)


class Slopes(NamedTuple):
    """Log-density at points (n, s, d), and its derivatives."""

    height: Tensor  # (n, s)
    gradient: Tensor  # (n, s, d)
    hessian: Tensor  # (n, s, d, d)
    precision: Tensor  # (n, s, d, d), the mean over the responsibilities


def n_mode_points(mixture: Mixture, bounds: Bounds | None = None) -> int:
    """Count points per row at which `find_modes` evaluates every component."""
    _, n_components, n_outputs = mixture.means.shape
    n_intervals = 0 if bounds is None else int(bounds.is_interval.sum())
    if n_outputs == 1:
        # An interval triples both points and components.
        return 2 * len(NODES) * (9 if n_intervals else 1)
    n_neighbours = min(MAX_NEIGHBOURS, n_components - 1)
    n_starts = 1 + len(RIDGE_SHARES) * n_neighbours + min(MAX_GROUP, n_neighbours)
    n_tilts = 2 ** min(n_intervals, MAX_TILTED) if n_intervals else 0
    return n_components * (n_starts + n_tilts) + 2


def find_modes(mixture: Mixture, bounds: Bounds | None = None) -> Modes:
    """Find the modes, the maxima of the density.

    With bounds they are those of the density of y, as points z.
    """
    mixture = core.fill_empty(mixture)
    if mixture.means.shape[-1] == 1:
        mixture = as_function_of_latent(mixture, bounds)
        _, rows, y = find_critical_points(mixture)
        points = y[:, None]
        heights = core.log_prob(select_rows(mixture, rows), points)
    else:
        rows, points, heights = _climb(mixture, bounds)
    order = heights.argsort(descending=True)
    order = order[rows[order].argsort(stable=True)]
    return Modes(rows[order], points[order])


def _climb(mixture: Mixture, bounds: Bounds | None) -> tuple[Tensor, Tensor, Tensor]:
    """Climb from many starts; return rows (m,), points (m, d) and heights of maxima.

    Mixtures of Gaussians in several dimensions can have modes away from all means
    (Carreira-Perpinan and Williams 2003), so that the means alone do not suffice.
    """
    mixture = tilt_one_sided(mixture, bounds)
    log_weights = mixture.log_weights.log_softmax(-1)
    mixture, origin = centre(mixture._replace(log_weights=log_weights))
    lift = None
    if bounds is not None and bounds.is_interval.any():
        lift = Lift(origin, bounds.is_interval.to(origin))
    land = Landscape(survey(mixture), precisions_of(mixture.precision_factors), lift)
    starts = _starts(mixture, land.precisions)
    if lift is not None:
        starts = torch.cat([starts, *_tilted_means(mixture, lift)], dim=1)
    n_numbers = 4 * mixture.means.numel()
    ends, settled = zip(
        *(
            _ascend(land, starts[:, piece])
            for piece in row_chunks(starts.shape[1], 8 * n_numbers)
        ),
        strict=True,
    )
    rows, points, heights = _maxima(land, torch.cat(ends, 1), torch.cat(settled, 1))
    return rows, points + origin[rows], heights


# -- starts ------------------------------------------------------------------------


def _starts(mixture: Mixture, precisions: Tensor) -> Tensor:
    """Return means, and points on the ridges between neighbours, (n, n_starts, d).

    All stationary points lie on the ridge, the points (sum a_k P_k)^-1 sum a_k P_k m_k
    for shares a_k with the sum one (Ray and Lindsay 2005, eq. 4).
    """
    means, n_components = mixture.means, mixture.means.shape[1]
    n_neighbours = min(MAX_NEIGHBOURS, n_components - 1)
    if not n_neighbours:
        return means
    pulls = (precisions @ means[..., None])[..., 0]
    near = _crossing_distances(mixture).topk(n_neighbours, largest=False).indices
    rows = torch.arange(len(means), device=means.device)[:, None, None]
    # Precisions and pulls of (n, K, 1 or neighbours).
    terms = [(part[:, :, None], part[rows, near]) for part in (precisions, pulls)]
    sums = [
        [(1 - share) * own + share * other for own, other in terms]
        for share in RIDGE_SHARES
    ]
    sums.append([own + other[:, :, :MAX_GROUP].cumsum(2) for own, other in terms])
    sums.append([part.sum(1)[:, None, None] for part in (precisions, pulls)])
    ridges = (torch.linalg.solve_ex(*pair)[0].flatten(1, 2) for pair in sums)
    return torch.cat([means, *ridges, core.mean(mixture)[:, None]], dim=1)


def _tilted_means(mixture: Mixture, lift: Lift) -> list[Tensor]:
    """Return the means of the components times e^z or e^-z of intervals, (n, K, d)."""
    outputs = lift.is_interval.nonzero()[:, 0][:MAX_TILTED]
    means = []
    for signs in product([-1.0, 1.0], repeat=len(outputs)):
        direction = torch.zeros_like(lift.is_interval)
        direction[outputs] = direction.new_tensor(signs)
        means.append(tilt(mixture, direction).means)
    return means


def _crossing_distances(mixture: Mixture) -> Tensor:
    """Compute (m - l)' (S + T)^-1 (m - l) of all pairs, infinite on the diagonal.

    It is the smallest sum of squared distances of a point from both components, in
    their own metrics, (n, K, K): small for long components that cross.
    """
    means = mixture.means
    covariances = covariances_of(mixture.precision_factors)
    n_components = means.shape[1]
    first, second = torch.triu_indices(
        n_components, n_components, 1, device=means.device
    )
    distances = means.new_full((len(means), n_components, n_components), torch.inf)
    n_numbers = 4 * len(means) * means.shape[2] ** 2
    for piece in row_chunks(len(first), 8 * n_numbers):
        i, j = first[piece], second[piece]
        apart = means[:, i] - means[:, j]
        both = covariances[:, i] + covariances[:, j]
        distance = (apart * torch.linalg.solve_ex(both, apart)[0]).sum(-1)
        distances[:, i, j] = distances[:, j, i] = distance
    return distances


# -- ascents -----------------------------------------------------------------------


def _slopes(land: Landscape, x: Tensor) -> Slopes:
    """Compute the log-density and its derivatives at points (n, s, d)."""
    surface, precisions, lift = land
    z = whiten_points(surface, x)
    joint = joint_from_whitened(surface, z)
    height = joint.logsumexp(-1)
    shares = joint.sub_(height[..., None]).exp_()
    weighted = (z * shares[:, :, None]).flatten(2)
    gradient = -torch.bmm(weighted, surface.factors.mT)
    precision = torch.bmm(shares, precisions.flatten(2)).unflatten(2, x.shape[2:] * 2)
    pulls = _pulls(surface, z)
    spread = (pulls * shares[:, :, None]) @ pulls.mT
    outer = gradient[..., :, None] * gradient[..., None, :]
    slopes = Slopes(height, gradient, spread - precision - outer, precision)
    return slopes if lift is None else _raise(slopes, x, lift)


def _raise(slopes: Slopes, x: Tensor, lift: Lift) -> Slopes:
    """Add the logarithms of the factors of a lift, |z| + 2 log(1 + e^-|z|).

    Since the factor is a sum of exponentials, it tilts every component and keeps its
    precision: the fixed-point step with the new gradient climbs too.
    """
    z = x + lift.origin[:, None]
    tanh, size = (z / 2).tanh(), z.abs()
    gain = lift.is_interval * (size + 2 * (-size).exp().log1p())
    bend = lift.is_interval * (1 - tanh.square()) / 2
    return slopes._replace(
        height=slopes.height + gain.sum(-1),
        gradient=slopes.gradient + lift.is_interval * tanh,
        hessian=slopes.hessian + torch.diag_embed(bend),
    )


def _pulls(surface: Surface, z: Tensor) -> Tensor:
    """Compute U_k' z of every component, (n, s, d, K), from z (n, s, d, K)."""
    factors = surface.factors.unflatten(2, (z.shape[2], -1))[:, :, :, None]
    pulls = z.new_zeros(z.shape)
    for j in range(z.shape[2]):
        # Entry j sums over the rows i <= j of the triangular factor.
        for i in range(j + 1):
            pulls[:, :, j].addcmul_(z[:, :, i], factors[:, j, i])
    return pulls


def _propose(slopes: Slopes) -> tuple[Tensor, Tensor, Tensor]:
    """Return the fixed-point step, the step to try first, and the latter's length.

    The first is the step to try where the log-density is not concave, and where it is
    longer than a Newton step may be: in the tail of a component it ends at the mean.
    """
    _, gradient, hessian, precision = slopes
    shift = torch.linalg.solve_ex(precision, gradient)[0]
    root, failed = torch.linalg.cholesky_ex(-hessian)
    newton = torch.cholesky_solve(gradient[..., None], root)[..., 0]
    share = (LONGEST_NEWTON_STEP / _length(newton, precision)).clamp(max=1)
    is_shift = (failed != 0) | (_length(shift, precision) > LONGEST_NEWTON_STEP)
    step = torch.where(is_shift[..., None], shift, newton * share[..., None])
    return shift, step, _length(step, precision)


def _length(step: Tensor, precision: Tensor) -> Tensor:
    """Compute the length of steps (n, s, d) in the metric of the precision, (n, s)."""
    squared = torch.einsum("nsi,nsij,nsj->ns", step, precision, step)
    return squared.clamp(min=0).sqrt()


def _ascend(land: Landscape, x: Tensor) -> tuple[Tensor, Tensor]:
    """Climb from points (n, s, d); return the ends, and whether each is stationary.

    Newton's step is tried where the log-density is concave. Where it does not climb,
    the fixed-point step (mean shift), which always climbs, takes its place.
    """
    ends, is_settled = x.clone(), torch.zeros_like(x[..., 0], dtype=torch.bool)
    index = torch.arange(is_settled.numel(), device=x.device).view(is_settled.shape)
    before, shift = x, torch.zeros_like(x)
    lowest = torch.full_like(x[..., 0], -torch.inf)
    for _ in range(MAX_ASCENT_STEPS):
        slopes = _slopes(land, x)
        falls = slopes.height < lowest
        next_shift, step, length = _propose(slopes)
        tolerance = LAST_ASCENT_STEP + ROUNDING * _length(x, slopes.precision)
        settled = (length <= tolerance) & ~falls
        is_settled.view(-1)[index] = settled
        # After a step back the height is not known, nor needed: mean shift climbs.
        lowest = slopes.height - 1e-11 * (1 + slopes.height.abs())
        lowest = torch.where(falls, -torch.inf, lowest)
        before, x = x, torch.where(falls[..., None], before + shift, x + step)
        before = torch.where(falls[..., None], x, before)
        shift = next_shift
        ends.view(-1, x.shape[-1])[index] = x
        moving = ~settled
        n_moving = int(moving.sum(1).max())
        if not n_moving:
            break
        if n_moving < COMPACT_BELOW * moving.shape[1]:
            live = moving.any(1)
            order = moving[live].to(torch.int8).argsort(dim=1, descending=True)
            order = order[:, :n_moving]
            rows = torch.arange(len(order), device=x.device)[:, None]
            x, before, shift, lowest, index = (
                part[live][rows, order] for part in (x, before, shift, lowest, index)
            )
            land = land.take(live)
    return ends, is_settled


# -- maxima ------------------------------------------------------------------------


def _maxima(
    land: Landscape, x: Tensor, is_settled: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows, points and heights of the distinct maxima among points (n, s, d).

    The curvature of a mode is zero where two modes merge. Where it can be a rounding
    error, the densities on both sides decide.
    """
    slopes = _slopes(land, x)
    is_settled = is_settled | ~is_settled.any(1, keepdim=True)
    highest = slopes.height.masked_fill(~is_settled, -torch.inf).argmax(1)
    curvature, direction = _least_curvature(slopes)
    is_maximum = is_settled & (curvature > -FLAT)
    is_flat = is_maximum & (curvature < FLAT)
    if is_flat.any():
        for step in (-PROBE * direction, PROBE * direction):
            is_lower = _slopes(land, x + step).height < slopes.height
            is_maximum &= ~is_flat | is_lower
    # The highest point is a maximum whatever its curvature.
    is_maximum[torch.arange(len(x), device=x.device), highest] = True
    rows, index = _distinct(x, slopes, is_maximum)
    return rows, x[rows, index], slopes.height[rows, index]


def _least_curvature(slopes: Slopes) -> tuple[Tensor, Tensor]:
    """Return the least of the relative curvatures (n, s), and its direction (n, s, d).

    A curvature is that of the negative log-density relative to the mean precision. The
    direction has length one in the metric of the mean precision.
    """
    precision = slopes.precision
    root = torch.linalg.cholesky_ex(precision)[0]
    half = torch.linalg.solve_triangular(root, -slopes.hessian, upper=False)
    whitened = torch.linalg.solve_triangular(root, half.mT, upper=False)
    curvatures, directions = torch.linalg.eigh(whitened)
    direction = torch.linalg.solve_triangular(root.mT, directions[..., :1], upper=True)
    return curvatures[..., 0], direction[..., 0]


def _distinct(x: Tensor, slopes: Slopes, is_candidate: Tensor) -> tuple[Tensor, Tensor]:
    """Merge candidates (n, s) at the same point, the highest first; return positions.

    Loops over modes, not rows.
    """
    rows, index = [], []
    each = torch.arange(len(x), device=x.device)
    while is_candidate.any():
        heights = slopes.height.masked_fill(~is_candidate, -torch.inf)
        first = heights.argmax(1)
        is_live = is_candidate.any(1)
        rows.append(is_live.nonzero()[:, 0])
        index.append(first[is_live])
        chosen = x[each, first][:, None]
        precision = slopes.precision[each, first][:, None]
        radius = SAME_MODE + ROUNDING * _length(chosen, precision)
        is_candidate = is_candidate & (_length(x - chosen, precision) > radius)
        is_candidate[each, first] = False
    return torch.cat(rows), torch.cat(index)
