"""Basins of attraction of modes, and the merging of those that hold little.

Basins of n rows are one list, sorted by row. Points that represent the density of a row
tell by how much a mode stands out: its excess mass is the integral of p - c over its
basin, as far as p > c, with log c the highest pass to another basin (Mueller and
Sawitzki 1991). It is the probability that must move for the mode to vanish: close to
that of the basin where the modes are apart, and small for ripples.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]


class Basins(NamedTuple):
    """The basins of one row with m modes, and N points that represent the density."""

    masses: Floats  # (m,)
    passes: Floats  # (m, m), log-densities; -inf on the diagonal and if not neighbours
    labels: NDArray[np.intp]  # (N,), the basin of each point
    heights: Floats  # (N,), log-densities
    shares: Floats  # (N,), probabilities


def merge(basins: Basins, min_mass: float) -> tuple[NDArray[np.intp], Floats]:
    """Merge the mode of the least excess mass while it is below a mass.

    It goes to the neighbour across the highest pass.

    Returns
    -------
    kept : ndarray of shape (k,)
        Positions of the modes that remain, in rising order.
    masses : ndarray of shape (k,)
        Probabilities of their basins.
    """
    masses, passes = basins.masses.copy(), basins.passes.copy()
    labels = basins.labels.copy()
    live = np.arange(len(masses))
    while len(live) > 1:
        levels = passes.max(axis=1)
        gains = -np.expm1(np.minimum(levels[labels] - basins.heights, 0.0))
        excess = np.bincount(labels, gains * basins.shares, minlength=len(masses))
        least = live[excess[live].argmin()]
        if excess[least] >= min_mass:
            break
        other = int(passes[least].argmax())
        masses[other] += masses[least]
        labels[labels == least] = other
        passes[other] = np.maximum(passes[other], passes[least])
        passes[other, other] = -np.inf
        passes[least], passes[:, least] = -np.inf, -np.inf
        passes[:, other] = passes[other]
        live = live[live != least]
    return live, masses[live]


def by_row(rows: Tensor, n_rows: int) -> list[slice]:
    """Return the places of each row in a list sorted by rows (m,)."""
    ends = np.searchsorted(rows.numpy(), np.arange(n_rows), side="right")
    return [slice(*pair) for pair in zip([0, *ends[:-1]], ends, strict=True)]
