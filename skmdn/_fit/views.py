"""Columns of views: what the networks of each fold see of the rows of a fit."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor

from skmdn._data.scaling import Matrix
from skmdn._data.views import VIEWS, View, columns_of
from skmdn._data.views.rows import NormalScores, ViewRows

# Validation rows whose columns are computed together.
BLOCK = 2**14


class ViewColumns:
    """Views of a fit, and their columns.

    Parameters
    ----------
    views : dict of View
        By name.
    columns : mapping of Tensor (n_lists, n, width)
        Of the rows of the fit, for each group.
    n_folds : int
        The first lists are of networks that hold out one fold, and further ones, if
        there are any, of those that hold out two.
    """

    def __init__(
        self, views: dict[str, View], columns: Mapping[str, Tensor], n_folds: int
    ) -> None:
        self.views = views
        self._of_rows = {group: c.split(n_folds) for group, c in columns.items()}
        self._of_new_rows: dict[str, Tensor] = {}

    @classmethod
    def fit(
        cls,
        groups: Collection[str],
        rows: ViewRows,
        scores: NormalScores,
        left_out: Tensor,
        n_folds: int,
        seed: int,
        known: Mapping[str, View],
    ) -> ViewColumns:
        """Fit the views of some groups, or continue known ones."""
        views: dict[str, View] = {}
        columns: dict[str, Tensor] = {}
        for name, view in {VIEWS[group].name: VIEWS[group] for group in groups}.items():
            views[name], of_rows = view.fit(
                rows, scores, left_out, seed, known.get(name)
            )
            # Copied, without the groups that no kind sees.
            columns |= {k: c.contiguous() for k, c in of_rows.items() if k in groups}
        return cls(views, columns, n_folds)

    def width(self, groups: Iterable[str]) -> int:
        """Return the number of columns of some groups."""
        return sum(self.views[VIEWS[group].name].widths[group] for group in groups)

    def of_rows(self, groups: Iterable[str], n_held_out: int) -> Tensor:
        """Return the columns that each fold sees, (n_folds, n, n_columns)."""
        parts = [self._of_rows[group][n_held_out - 1] for group in groups]
        return torch.cat(parts, dim=-1)

    def of_new_rows(
        self, groups: Iterable[str], X: Matrix, device: torch.device
    ) -> Tensor:
        """Compute the columns of validation rows, once, (1, n, n_columns).

        The rows are on a device; the columns are on the CPU.
        """
        if not self._of_new_rows:
            parts = torch.arange(X.shape[0], device=device).split(BLOCK)
            found = [
                columns_of(self.views.values(), X.index_select(0, part).cpu().double())
                for part in parts
            ]
            self._of_new_rows = {
                group: torch.cat([columns[group] for columns in found])[None].float()
                for group in found[0]
            }
        return torch.cat([self._of_new_rows[group] for group in groups], dim=-1)
