"""What happens to rows before training: merging, scaling, holding out."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "MIN_FOLDS",
    "Scaling",
    "Subset",
    "WeightedRows",
    "count_folds",
    "every_row",
    "hold_out",
    "merge_rows",
]

# From this many networks on, network m holds out fold m % n_folds of all rows; at
# most so many folds, so that more networks share them.
MIN_FOLDS = 4
MAX_FOLDS = 8


class WeightedRows(NamedTuple):
    """Rows of X (n, n_features) and y (n, d) and their weights (n,)."""

    X: NDArray
    y: NDArray[np.float64]
    weight: NDArray[np.float64]

    def where(self, mask: NDArray[np.bool_]) -> WeightedRows:
        return WeightedRows(*(part[mask] for part in self))


def merge_rows(rows: WeightedRows) -> tuple[WeightedRows, NDArray[np.intp]]:
    """Merge identical rows of (X, y), and put them in an order of their own.

    A weight then means repetition, exactly; the fit does not depend on the order
    of the rows; and copies of one row cannot lie on both sides of a split. The
    order is that of a hash of X, and of y only within equal X: affine maps of y
    leave it alone, so that a fit is equivariant under them.

    Returns
    -------
    distinct : WeightedRows
    inverse : where each of the given rows is among the distinct ones, (n,)
    """
    hashes = _hash_rows(rows.X)
    # The last key comes first. Sorting by weight within equal rows fixes the order
    # in which their weights are added.
    order = np.lexsort((rows.weight, *rows.y.T[::-1], hashes))
    X, y = rows.X[order], rows.y[order]
    is_new = np.ones(len(X), dtype=bool)
    is_new[1:] = (X[1:] != X[:-1]).any(axis=1) | (y[1:] != y[:-1]).any(axis=1)
    group = np.cumsum(is_new) - 1
    inverse = np.empty_like(group)
    inverse[order] = group
    weight = np.bincount(group, weights=rows.weight[order]).astype(np.float64)
    return WeightedRows(X[is_new], y[is_new], weight), inverse


def _hash_rows(X: NDArray) -> NDArray[np.uint64]:
    """Hash of every row, equal for equal numbers whatever their dtype."""
    hashes = np.zeros(len(X), dtype=np.uint64)
    for column in X.T:
        # Adding zero turns -0.0 into 0.0.
        bits = (column.astype(np.float64) + 0.0).view(np.uint64)
        hashes = _mix_bits(hashes ^ bits)
    return hashes


def _mix_bits(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One round of splitmix64 (Steele, Lea and Flood 2014), a bijection of 64 bits."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class Scaling(NamedTuple):
    """Location and scale of each column, (n_columns,)."""

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]

    @classmethod
    def of(cls, array: NDArray, weight: NDArray[np.float64]) -> Scaling:
        """Weighted mean and standard deviation; constant columns get scale one."""
        mean = np.average(array, axis=0, weights=weight)
        std = np.sqrt(np.average((array - mean) ** 2, axis=0, weights=weight))
        is_constant = std <= 10 * np.finfo(np.float64).eps * np.abs(mean)
        return cls(mean, np.where(is_constant, 1.0, std))

    def apply(self, array: NDArray) -> Tensor:
        """Standardise, in float64."""
        return torch.from_numpy((array - self.mean) / self.scale)


class Subset(NamedTuple):
    """Rows of each network or fold as indices (n_lists, n), and whether each counts.

    Lists may differ by one row; the shorter ones are filled up with rows that do
    not count.
    """

    rows: Tensor
    counts: Tensor


def every_row(n_rows: int, n_lists: int) -> Subset:
    """Give every network or fold every row."""
    return _subset(torch.ones(n_lists, n_rows, dtype=torch.bool))


def count_folds(n_networks: int) -> int:
    """Number of different sets of rows that the networks hold out."""
    return min(n_networks, MAX_FOLDS) if n_networks >= MIN_FOLDS else 1


def hold_out(
    n_rows: int, n_networks: int, fraction: float, generator: torch.Generator
) -> tuple[Subset, Subset]:
    """Draw the rows on which each network trains, and those of each fold.

    From `MIN_FOLDS` networks on the folds are disjoint and together hold every row
    once; fewer networks all hold out the same `fraction` of the rows.

    Returns
    -------
    trains : Subset of n_networks lists
    held_out : Subset of n_folds lists; network m holds out number m % n_folds

    Raises
    ------
    ValueError
        If a network would hold out nothing, or train on nothing.
    """
    n_folds = count_folds(n_networks)
    order = torch.randperm(n_rows, generator=generator)
    if n_folds == 1:
        is_held_out = (order < math.ceil(fraction * n_rows))[None]
    else:
        is_held_out = (order % n_folds) == torch.arange(n_folds)[:, None]
    n_held_out = is_held_out.sum(1)
    if n_held_out.min() == 0 or n_held_out.max() == n_rows:
        raise ValueError(f"{n_rows} distinct rows are too few to hold any out.")
    fold = torch.arange(n_networks) % n_folds
    return _subset(~is_held_out[fold]), _subset(is_held_out)


def _subset(mask: Tensor) -> Subset:
    """Column indices of the true entries, padded to equal length, and which count."""
    n_true = mask.sum(1)
    # A stable sort brings the true entries to the front, in their order.
    rows = (~mask).to(torch.int8).argsort(dim=1, stable=True)[:, : n_true.max()]
    return Subset(rows, torch.arange(rows.shape[1]) < n_true[:, None])
