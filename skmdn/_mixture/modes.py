"""Modes of Gaussian mixtures, and the probabilities of their basins."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from skmdn._mixture.basins import Basins, by_row, merge
from skmdn._mixture.core import Mixture, fill_empty
from skmdn._mixture.hills import BASIN_POINTS, find_hills, n_starts
from skmdn._mixture.maps import Bounds, log_slope
from skmdn._mixture.profile import (
    CriticalPoints,
    Profile,
    find_critical_points,
    monotone_profile,
)
from skmdn._mixture.profile import interpolate as interpolate_profile
from skmdn._mixture.tilts import as_function_of_latent
from skmdn._mixture.univariate import probability_between

# One output: arrays with all components of a row that a search holds at once.
N_SEARCH_POINTS = 3
# Parts of each interval of a profile that represent its probability.
N_PARTS = 8


class Modes(NamedTuple):
    """Modes of n mixtures as one list, sorted by row and falling density."""

    rows: Tensor  # (n_modes,)
    points: Tensor  # (n_modes, d)
    masses: Tensor | None = None  # (n_modes,), probabilities of their basins


def n_mode_points(
    mixture: Mixture, bounds: Bounds | None = None, *, with_basins: bool = False
) -> int:
    """Count points per row at which `find_modes` evaluates every component."""
    _, n_components, n_outputs = mixture.means.shape
    n_intervals = 0 if bounds is None else int(bounds.is_interval.sum())
    if n_outputs == 1:
        # An interval triples both points and components.
        return N_SEARCH_POINTS * (9 if n_intervals else 1)
    n_points = n_starts(n_components, n_outputs, n_intervals)
    return n_points + (BASIN_POINTS if with_basins else 0)


def find_modes(
    mixture: Mixture,
    bounds: Bounds | None = None,
    *,
    min_mass: float = 0.0,
    with_masses: bool = False,
) -> Modes:
    """Find the modes, the maxima of the density, and the masses of their basins.

    With bounds they are those of the density of y, as points z. With a `min_mass` modes
    of less excess mass are merged, see `basins`.
    """
    mixture = fill_empty(mixture)
    needs_basins = with_masses or min_mass > 0
    if mixture.means.shape[-1] == 1:
        find = monotone_profile if needs_basins else find_critical_points
        profile, found = find(as_function_of_latent(mixture, bounds))
        rows, points, heights = (
            part[found.is_mode] for part in (found.rows, found.points, found.heights)
        )
        points = points[:, None]
        basins = _basins(mixture, bounds, profile, found) if needs_basins else []
    else:
        rows, points, heights, basins = find_hills(
            mixture, bounds, with_basins=needs_basins
        )
    masses = None
    if needs_basins:
        kept, masses = _merge_all(basins, rows, min_mass)
        rows, points, heights = rows[kept], points[kept], heights[kept]
    order = heights.argsort(descending=True)
    order = order[rows[order].argsort(stable=True)]
    return Modes(rows[order], points[order], None if masses is None else masses[order])


def _merge_all(
    basins: list[Basins], rows: Tensor, min_mass: float
) -> tuple[Tensor, Tensor]:
    """Merge the modes of all rows; return positions of those kept, and masses."""
    kept, masses = [], []
    for place, each in zip(by_row(rows, len(basins)), basins, strict=True):
        live, mass = merge(each, min_mass)
        kept.append(torch.from_numpy(live + place.start))
        masses.append(torch.from_numpy(mass))
    return torch.cat(kept), torch.cat(masses)


def _basins(
    mixture: Mixture, bounds: Bounds | None, profile: Profile, found: CriticalPoints
) -> list[Basins]:
    """Describe the basins of one output, between its antimodes."""
    rows, points, heights, is_mode = found
    inner = torch.full_like(points, torch.inf)
    # The neighbours of a mode in its row are antimodes.
    same = rows[1:] == rows[:-1]
    lower, upper = inner.neg(), inner
    lower[1:] = torch.where(same, points[:-1], lower[1:])
    upper[:-1] = torch.where(same, points[1:], upper[:-1])
    masses = probability_between(mixture, rows[is_mode], lower[is_mode], upper[is_mode])
    y, log_density, width = interpolate_profile(profile, N_PARTS)
    log_mass = (
        log_density
        if bounds is None
        else log_density + log_slope(bounds, y[..., None])[..., 0]
    )
    shares = width * log_mass.exp()
    basins = []
    mode_places = by_row(rows[is_mode], len(mixture.means))
    for i, (place, modes) in enumerate(
        zip(by_row(rows, len(mixture.means)), mode_places, strict=True)
    ):
        antimodes = points[place][~is_mode[place]]
        passes = torch.full(
            (len(antimodes) + 1,) * 2, -torch.inf, dtype=y.dtype, device=y.device
        )
        between = heights[place][~is_mode[place]]
        passes.diagonal(1).copy_(between)
        passes.diagonal(-1).copy_(between)
        basins.append(
            Basins(
                masses[modes].numpy(),
                passes.numpy(),
                torch.searchsorted(antimodes, y[i]).numpy(),
                log_density[i].numpy(),
                shares[i].numpy(),
            )
        )
    return basins
