"""Which rows each network trains on, and which it holds out."""

from __future__ import annotations

import heapq
import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skmdn._data.groups import number_groups
from skmdn._data.rows import UniqueRows, hash_rows
from skmdn._utils.arrays import draw_seed
from skmdn.distributed import ALONE, Ranks

# From this number of networks on, each holds out one of several folds of all rows.
MIN_FOLDS = 4
# With more networks than this, several share a fold.
MAX_FOLDS = 8


class TooFewRowsError(ValueError):
    """There are too few distinct rows to hold any out."""


class RowLists(NamedTuple):
    """Rows of each network or fold: indices (n_lists, n), and which entries count.

    Lists may differ in length, by one row without groups and ranks; the shorter ones
    are padded with entries that do not count.
    """

    rows: Tensor
    counts: Tensor


def every_row(n_rows: int, n_lists: int) -> RowLists:
    """Give every network or fold every row."""
    index = torch.arange(n_rows, device="cpu").expand(n_lists, -1)
    counts = torch.ones(1, 1, dtype=torch.bool, device="cpu")
    return RowLists(index, counts.expand(n_lists, n_rows))


def count_folds(n_members: int, n_groups: int = MAX_FOLDS) -> int:
    """Count the different sets of rows, or of groups, that the networks hold out."""
    return min(n_members, n_groups, MAX_FOLDS) if n_members >= MIN_FOLDS else 1


def folds_of(n_members: int, n_folds: int) -> Tensor:
    """Return the fold that each network holds out, (n_members,)."""
    return torch.arange(n_members, device="cpu") % n_folds


def hold_out(
    rows: UniqueRows,
    n_members: int,
    fraction: float,
    generator: torch.Generator,
    ranks: Ranks = ALONE,
    most_folds: int = MAX_FOLDS,
) -> tuple[RowLists, RowLists]:
    """Draw the rows that the networks of each fold hold out, and all others.

    From `MIN_FOLDS` networks on the folds are disjoint and together hold every row
    once; fewer networks all hold out the same `fraction` of the rows. If the rows have
    groups, those of a group are in one fold, and folds have about equal numbers of rows
    as far as the groups allow; with fewer groups than folds, each group is a fold.
    There are at most `most_folds`.

    Returns
    -------
    trains, held_out : RowLists of n_folds lists
        `folds_of` maps networks to them.

    Raises
    ------
    TooFewRowsError
        If a network would hold out nothing, or train on nothing.
    ValueError
        If there are fewer than 2 groups.
    """
    if rows.codes is None:
        # With few rows, each is a fold; networks need more than two to train on.
        n_rows = int(ranks.sum(len(rows.y)))
        n_folds = count_folds(n_members, min(max(n_rows, MIN_FOLDS), most_folds))
        fold_of = _folds_of_rows(rows, n_folds, fraction, generator, ranks)
    else:
        group, sizes = number_groups(rows.codes, ranks)
        n_folds = count_folds(n_members, min(len(sizes), most_folds))
        fold_of_group = _folds_of_groups(sizes, n_folds, fraction, generator)
        fold_of = torch.from_numpy(fold_of_group[group])
    is_held_out = fold_of == torch.arange(n_folds, device="cpu")[:, None]
    n_rows, n_held_out = int(ranks.sum(len(rows.y))), ranks.sum(is_held_out.sum(1))
    if n_held_out.min() == 0 or n_held_out.max() == n_rows:
        raise TooFewRowsError(f"{n_rows} distinct rows are too few to hold any out.")
    return _row_lists(~is_held_out), _row_lists(is_held_out)


def _folds_of_rows(
    rows: UniqueRows,
    n_folds: int,
    fraction: float,
    generator: torch.Generator,
    ranks: Ranks,
) -> Tensor:
    """Draw the fold of each row, (n,); of a single fold, 1 for rows not in it."""
    places, n_places = _places(rows, generator, ranks)
    if n_folds == 1:
        return (places >= math.ceil(fraction * n_places)).long()
    return places % n_folds


def _folds_of_groups(
    sizes: NDArray[np.intp], n_folds: int, fraction: float, generator: torch.Generator
) -> NDArray[np.int64]:
    """Draw the fold of each group, (n_groups,); of a single fold, 1 if not in it."""
    order = torch.randperm(len(sizes), generator=generator, device="cpu").numpy()
    if n_folds == 1:
        return _single_fold(sizes, order, math.ceil(fraction * sizes.sum()))
    # The largest first, each to the emptiest fold.
    order = order[np.argsort(-sizes[order], kind="stable")]
    fold_of = np.empty(len(sizes), dtype=np.int64)
    n_rows = [(0, fold) for fold in range(n_folds)]
    for group, size in zip(order.tolist(), sizes[order].tolist(), strict=True):
        total, fold_of[group] = n_rows[0]
        heapq.heapreplace(n_rows, (total + size, n_rows[0][1]))
    return fold_of


def _single_fold(
    sizes: NDArray[np.intp], order: NDArray[np.int64], n_wanted: int
) -> NDArray[np.int64]:
    """Give 0 to groups of n_wanted rows or a few more, and 1 to one group at least.

    Groups are taken in the given order as long as they fit, and then the smallest of
    the others: a large group would leave few rows to train on.
    """
    fold_of = np.ones(len(sizes), dtype=np.int64)
    n_left = len(sizes)
    for group, size in zip(order.tolist(), sizes[order].tolist(), strict=True):
        if size <= n_wanted and n_left > 1:
            fold_of[group] = 0
            n_wanted -= size
            n_left -= 1
    left = order[fold_of[order] > 0]
    if n_wanted > 0 and n_left > 1:
        fold_of[left[sizes[left].argmin()]] = 0
    return fold_of


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
    hashes = hash_rows(rows.y.table, np.arange(n_rows), start=hashes)
    return torch.from_numpy((hashes >> np.uint64(32)).astype(np.int64)), 2**32


def without_next(held_out: RowLists) -> RowLists:
    """List the rows of all folds but one and the next one, for each fold.

    A network that trains on them holds out two folds: every row is then held out by two
    networks, of which it is known how much their mixture gains over each.
    """
    n_folds = len(held_out.rows)
    others = torch.arange(2, n_folds, device="cpu")
    folds = (torch.arange(n_folds, device="cpu")[:, None] + others) % n_folds
    return RowLists(*(part[folds].flatten(1) for part in held_out))


def evenly(n_rows: int, n_taken: int) -> NDArray[np.intp]:
    """Select some of the first n_rows integers at even distances, (n_taken,)."""
    return np.arange(n_taken) * n_rows // max(1, n_taken)


def _row_lists(mask: Tensor) -> RowLists:
    """List the true columns of each row of a mask, padded to equal length."""
    n_true = mask.sum(1)
    # A stable sort moves the true entries to the front, in their order.
    index = (~mask).to(torch.int8).argsort(dim=1, stable=True)[:, : n_true.max()]
    return RowLists(index, torch.arange(index.shape[1], device="cpu") < n_true[:, None])
