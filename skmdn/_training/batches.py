"""Standardised rows of each member or fold, in equal batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from skmdn._data.folds import RowLists, evenly
from skmdn._data.matrices import Matrix, ScaledRows, take_rows
from skmdn.distributed import ALONE, Ranks

# Numbers gathered ahead of the steps, for all networks together.
GATHERED_NUMBERS = 2**22
# Held-out rows that are scored at most, over all folds: enough for the third digit of
# the score, and for the two numbers of the calibration.
MOST_HELD_OUT_ROWS = 2**16


@dataclass(frozen=True)
class ListedRows:
    """Standardised rows, and the list of those that each member or fold uses.

    Shapes: X (n, n_features), y (n, L * d), index and weight (n_lists, n_used), fold
    (n_lists,). `y` has the blocks of `skmdn.nn.targets`, and `n_total` is the length of
    a list, summed over all ranks.
    """

    X: Matrix
    y: Tensor
    index: Tensor
    weight: Tensor
    n_total: int
    fold: Tensor

    @classmethod
    def for_training(
        cls,
        rows: ScaledRows,
        lists: RowLists,
        ranks: Ranks = ALONE,
        fold: Tensor | None = None,
    ) -> ListedRows:
        """List the rows of each member, with weights that add up to one over all ranks.

        Weights are on the device of the rows, in their precision. The fold of each
        member matters only for rows with the columns of a view.
        """
        # One list at a time, since float64 copies for all networks would not fit.
        weights = []
        for listed, counts in zip(*lists, strict=True):
            weight = rows.weight[listed] * counts
            weights.append((weight / ranks.all_reduce_(weight.sum())).to(rows.y))
        index = lists.rows.to(rows.y.device)
        n_total = int(ranks.sum(index.shape[1]))
        fold = index.new_zeros(len(index)) if fold is None else fold.to(index.device)
        return cls(rows.X, rows.y, index, torch.stack(weights), n_total, fold)

    @classmethod
    def for_scoring(
        cls, rows: ScaledRows, lists: RowLists, ranks: Ranks = ALONE
    ) -> ListedRows:
        """List the held-out rows of each fold, or many of them at even distances.

        Weights stay on the CPU in float64.
        """
        n_folds, n_rows = lists.rows.shape
        n_total = int(ranks.sum(n_rows))
        share = MOST_HELD_OUT_ROWS / (n_folds * n_total)
        taken = evenly(n_rows, int(min(1, share) * n_rows))
        index, counts = lists.rows[:, taken], lists.counts[:, taken]
        weight = rows.weight[index] * counts
        index = index.to(rows.y.device)
        fold = torch.arange(n_folds, device=index.device)
        return cls(rows.X, rows.y, index, weight, n_total, fold)

    def batches(
        self, order: Tensor, n_batches: int
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield X, y and weight in equal batches, for an order of each member's list.

        The weights of a batch add up to about one, over all ranks.
        """
        n_members, n_used = order.shape
        edges = [n_used * i // n_batches for i in range(n_batches + 1)]
        batches = list(pairwise(edges))
        n_rows = GATHERED_NUMBERS // (n_members * (self.X.shape[1] + self.y.shape[1]))
        n_ahead = max(1, n_rows * n_batches // max(1, n_used))
        for first in range(0, n_batches, n_ahead):
            ahead = batches[first : first + n_ahead]
            positions = order[:, ahead[0][0] : ahead[-1][1]]
            rows = self.index.gather(1, positions)
            X, y = take_rows(self.X, rows, self.fold), take_rows(self.y, rows)
            weight = self.weight.gather(1, positions) * n_batches
            sizes = [end - begin for begin, end in ahead]
            yield from zip(
                *(part.split(sizes, dim=1) for part in (X, y, weight)), strict=True
            )
