"""Which rows each network trains on, and which it holds out."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skmdn._data.rows import UniqueRows, hash_rows
from skmdn._utils.arrays import draw_seed
from skmdn.distributed import ALONE, Ranks

# From this number of networks on, each holds out one of several folds of all rows.
MIN_FOLDS = 4
# With more networks than this, several share a fold.
MAX_FOLDS = 8


class RowLists(NamedTuple):
    """Rows of each network or fold: indices (n_lists, n), and which entries count.

    Lists may differ by one row; the shorter ones are padded with entries that do not
    count.
    """

    rows: Tensor
    counts: Tensor


def every_row(n_rows: int, n_lists: int) -> RowLists:
    """Give every network or fold every row."""
    index = torch.arange(n_rows, device="cpu").expand(n_lists, -1)
    counts = torch.ones(1, 1, dtype=torch.bool, device="cpu")
    return RowLists(index, counts.expand(n_lists, n_rows))


def count_folds(n_members: int) -> int:
    """Count the different sets of rows that the networks hold out."""
    return min(n_members, MAX_FOLDS) if n_members >= MIN_FOLDS else 1


def folds_of(n_members: int, n_folds: int) -> Tensor:
    """Return the fold that each network holds out, (n_members,)."""
    return torch.arange(n_members, device="cpu") % n_folds


def hold_out(
    rows: UniqueRows,
    n_members: int,
    fraction: float,
    generator: torch.Generator,
    ranks: Ranks = ALONE,
) -> tuple[RowLists, RowLists]:
    """Draw the rows on which each network trains, and those of each fold.

    From `MIN_FOLDS` networks on the folds are disjoint and together hold every row
    once; fewer networks all hold out the same `fraction` of the rows.

    Returns
    -------
    trains : RowLists of n_members lists
    held_out : RowLists of n_folds lists; `folds_of` maps networks to them

    Raises
    ------
    ValueError
        If a network would hold out nothing, or train on nothing.
    """
    n_folds = count_folds(n_members)
    places, n_places = _places(rows, generator, ranks)
    if n_folds == 1:
        is_held_out = (places < math.ceil(fraction * n_places))[None]
    else:
        fold = torch.arange(n_folds, device="cpu")
        is_held_out = (places % n_folds) == fold[:, None]
    n_rows, n_held_out = int(ranks.sum(len(rows.y))), ranks.sum(is_held_out.sum(1))
    if n_held_out.min() == 0 or n_held_out.max() == n_rows:
        raise ValueError(f"{n_rows} distinct rows are too few to hold any out.")
    fold = folds_of(n_members, n_folds)
    trains = _row_lists(~is_held_out)
    return RowLists(trains.rows[fold], trains.counts[fold]), _row_lists(is_held_out)


def _places(
    rows: UniqueRows, generator: torch.Generator, ranks: Ranks
) -> tuple[Tensor, int]:
    """Draw a random place for each row, and return the number of places.

    On several ranks, copies of a row must get the same place: there it is drawn by a
    hash of the row, while a permutation gives folds of equal size.
    """
    n_rows = len(rows.y)
    if ranks.size == 1:
        return torch.randperm(n_rows, generator=generator, device="cpu"), n_rows
    seed = draw_seed(generator)
    hashes = hash_rows(rows.X, rows.positions, start=seed)
    hashes = hash_rows(rows.y, np.arange(n_rows), start=hashes)
    return torch.from_numpy((hashes >> np.uint64(32)).astype(np.int64)), 2**32


def evenly(n_rows: int, n_taken: int) -> NDArray[np.intp]:
    """Select some of the first n_rows integers at even distances, (n_taken,)."""
    return np.arange(n_taken) * n_rows // max(1, n_taken)


def _row_lists(mask: Tensor) -> RowLists:
    """List the true columns of each row of a mask, padded to equal length."""
    n_true = mask.sum(1)
    # A stable sort moves the true entries to the front, in their order.
    index = (~mask).to(torch.int8).argsort(dim=1, stable=True)[:, : n_true.max()]
    return RowLists(index, torch.arange(index.shape[1], device="cpu") < n_true[:, None])
