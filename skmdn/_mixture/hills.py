"""Modes of Gaussian mixtures of several outputs, and their basins of attraction."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from skmdn._mixture import core
from skmdn._mixture.ascent import (
    ROUNDING,
    Landscape,
    Lift,
    Slopes,
    ascend,
    heights_at,
    length_of,
    slopes_at,
    thin,
)
from skmdn._mixture.basins import Basins, by_row
from skmdn._mixture.core import Mixture
from skmdn._mixture.factors import covariances as covariances_of
from skmdn._mixture.factors import precisions as precisions_of
from skmdn._mixture.maps import Bounds
from skmdn._mixture.quasirandom import points_of
from skmdn._mixture.surface import centre
from skmdn._mixture.tilts import tilt, tilt_one_sided
from skmdn._utils.arrays import row_chunks

# Ascents start at every mean and on the ridges between neighbours, at these shares of
# the neighbour, and at the centres of each component and up to `MAX_GROUP` neighbours.
MAX_NEIGHBOURS = 48
RIDGE_SHARES = (0.02, 0.1, 0.3)
MAX_GROUP = 8
# Intervals of which all combinations of tilts are starts; of the others only the means.
MAX_TILTED = 3
# Lengths are in standard deviations at the point, in the metric of the mean precision.
# Two maxima at a distance a have a saddle between them, with a curvature of the order
# a^2 relative to the mean precision. Curvatures below `FLAT` can be rounding errors.
SAME_MODE, FLAT = 1e-3, 1e-5
# Distance at which the density is compared where the curvature can be a rounding error.
PROBE = 0.03
# Quasi-random points per row by which the masses of basins are measured, and points on
# each of the curves between two modes on which the lowest one is searched.
BASIN_POINTS, CURVE_POINTS = 4096, 24


class Hills(NamedTuple):
    """Modes of n mixtures as one list, sorted by row, and their basins if wanted."""

    rows: Tensor  # (n_modes,)
    points: Tensor  # (n_modes, d)
    heights: Tensor  # (n_modes,)
    basins: list[Basins]  # of each row


def n_starts(n_components: int, n_outputs: int, n_intervals: int) -> int:
    """Count the points per row from which the search starts."""
    n_neighbours = min(MAX_NEIGHBOURS, n_components - 1)
    n_each = 1 + len(RIDGE_SHARES) * n_neighbours + min(MAX_GROUP, n_neighbours)
    n_tilts = 2 ** min(n_intervals, MAX_TILTED) if n_intervals else 0
    return n_components * (n_each + n_tilts) + 2


def find_hills(
    mixture: Mixture, bounds: Bounds | None, *, with_basins: bool = False
) -> Hills:
    """Climb from many starts.

    Mixtures of Gaussians in several dimensions can have modes away from all means
    (Carreira-Perpinan and Williams 2003), so that the means alone do not suffice.
    """
    latent = mixture
    mixture = tilt_one_sided(mixture, bounds)
    log_weights = mixture.log_weights.log_softmax(-1)
    mixture, origin = centre(mixture._replace(log_weights=log_weights))
    lift = None
    if bounds is not None and bounds.is_interval.any():
        lift = Lift(origin, bounds.is_interval.to(origin))
    land = Landscape.of(mixture, lift)
    starts = [_starts(mixture)]
    if lift is not None:
        starts += _tilted_means(mixture, lift)
    if with_basins:
        points = torch.cat(list(points_of(latent, BASIN_POINTS)), dim=1)
        starts.append(points - origin[:, None])
    x = torch.cat(starts, dim=1)
    chosen, cells = thin(land, x)
    ends, is_settled, end_of = ascend(land, x.take_along_dim(chosen[..., None], 1))
    rows, index, slopes = _maxima(land, ends, is_settled)
    order = rows.argsort(stable=True)
    rows, index = rows[order], index[order]
    basins = []
    if with_basins:
        end_of_points = end_of.gather(1, cells[:, -BASIN_POINTS:])
        basins = _basins(land, x[:, -BASIN_POINTS:], end_of_points, ends, (rows, index))
    points = ends[rows, index] + origin[rows]
    return Hills(rows, points, slopes.height[rows, index], basins)


# -- starts ------------------------------------------------------------------------


def _starts(mixture: Mixture) -> Tensor:
    """Return means, and points on the ridges between neighbours, (n, n_starts, d).

    All stationary points lie on the ridge, the points (sum a_k P_k)^-1 sum a_k P_k m_k
    for shares a_k with the sum one (Ray and Lindsay 2005, eq. 4).
    """
    means, n_components = mixture.means, mixture.means.shape[1]
    n_neighbours = min(MAX_NEIGHBOURS, n_components - 1)
    if not n_neighbours:
        return means
    precisions = precisions_of(mixture.precision_factors)
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


# -- maxima ------------------------------------------------------------------------


def _maxima(
    land: Landscape, x: Tensor, is_settled: Tensor
) -> tuple[Tensor, Tensor, Slopes]:
    """Return rows and places of the distinct maxima among points (n, s, d), and slopes.

    The curvature of a mode is zero where two modes merge. Where it can be a rounding
    error, the densities on both sides decide.
    """
    slopes = slopes_at(land, x)
    is_settled = is_settled | ~is_settled.any(1, keepdim=True)
    highest = slopes.height.masked_fill(~is_settled, -torch.inf).argmax(1)
    curvature, direction = _least_curvature(slopes)
    is_maximum = is_settled & (curvature > -FLAT)
    is_flat = is_maximum & (curvature < FLAT)
    if is_flat.any():
        for step in (-PROBE * direction, PROBE * direction):
            is_lower = slopes_at(land, x + step).height < slopes.height
            is_maximum &= ~is_flat | is_lower
    # The highest point is a maximum whatever its curvature.
    is_maximum[torch.arange(len(x), device=x.device), highest] = True
    return *_distinct(x, slopes, is_maximum), slopes


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
        radius = SAME_MODE + ROUNDING * length_of(chosen, precision)
        is_candidate = is_candidate & (length_of(x - chosen, precision) > radius)
        is_candidate[each, first] = False
    return torch.cat(rows), torch.cat(index)


# -- basins ------------------------------------------------------------------------


def _basins(
    land: Landscape,
    points: Tensor,
    end_of: Tensor,
    ends: Tensor,
    at: tuple[Tensor, Tensor],
) -> list[Basins]:
    """Describe the basins of modes, (row, position) of ends, by points (n, N, d)."""
    rows, index = at
    pieces = by_row(rows, len(ends))
    most = max(piece.stop - piece.start for piece in pieces)
    # Positions of modes (n, m); rows with fewer repeat the first one.
    modes = torch.stack(
        [
            torch.cat([index[piece], index[piece.start].repeat(most)])[:most]
            for piece in pieces
        ]
    )
    slopes = slopes_at(land, ends)
    places = ends.take_along_dim(modes[..., None], 1)
    apart = ends[:, :, None] - places[:, None]
    squares = torch.einsum("nsmi,nsij,nsmj->nsm", apart, slopes.precision, apart)
    labels = squares.argmin(-1).gather(1, end_of)
    counts = [piece.stop - piece.start for piece in pieces]
    heights = (
        heights_at(land, points) if most > 1 else points.new_zeros(points.shape[:2])
    )
    curvatures = -slopes.hessian.take_along_dim(modes[..., None, None], 1)
    passes = _passes(land, places, curvatures)
    share = 1 / points.shape[1]
    return [
        Basins(
            torch.bincount(labels[i], minlength=m).numpy() * share,
            passes[i, :m, :m].numpy(),
            labels[i].numpy(),
            heights[i].numpy(),
            torch.full_like(heights[i], share).numpy(),
        )
        for i, m in enumerate(counts)
    ]


def _passes(land: Landscape, modes: Tensor, curvatures: Tensor) -> Tensor:
    """Approximate the highest passes between modes (n, m, d), log-densities (n, m, m).

    A pass is the lowest point of a curve between two modes: the higher one of the line
    and of the ridge between two Gaussians of the curvatures at the modes, on which the
    saddles of two components lie (Ray and Lindsay 2005, eq. 4).
    """
    n, m, d = modes.shape
    passes = modes.new_full((n, m, m), -torch.inf)
    first, second = torch.triu_indices(m, m, 1, device=modes.device)
    share = torch.arange(1, CURVE_POINTS + 1, device=modes.device).to(modes)
    share = (share / (CURVE_POINTS + 1))[:, None]
    pulls = (curvatures @ modes[..., None])[..., 0]
    n_numbers = 2 * CURVE_POINTS * n * (d + 1) ** 2
    for piece in row_chunks(len(first), 8 * n_numbers):
        i, j = first[piece], second[piece]

        def between(part: Tensor, i: Tensor = i, j: Tensor = j) -> Tensor:
            weight = share.view(-1, *(1,) * (part.ndim - 2))
            return (1 - weight) * part[:, i, None] + weight * part[:, j, None]

        ridge = torch.linalg.solve_ex(between(curvatures), between(pulls))[0]
        curves = torch.stack([between(modes), ridge.nan_to_num(0.0)], dim=1)
        heights = heights_at(land, curves.flatten(1, 3)).view(n, 2, -1, CURVE_POINTS)
        lowest = heights.amin(-1).amax(1)
        passes[:, i, j] = passes[:, j, i] = lowest
    return passes
