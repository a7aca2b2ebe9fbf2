"""Columns of views: what the networks of each fold see of the rows of a fit."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor

from skmdn._data.matrices import Matrix
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
        Of the rows of the fit, for each part.
    n_folds : int
        The first lists are of networks that hold out one fold, and further ones, if
        there are any, of those that hold out two.
    """

    def __init__(
        self, views: dict[str, View], columns: Mapping[str, Tensor], n_folds: int
    ) -> None:
        self.views = views
        self._of_rows = {part: c.split(n_folds) for part, c in columns.items()}
        self._of_new_rows: dict[str, Tensor] = {}

    @classmethod
    def fit(
        cls,
        parts: Collection[str],
        rows: ViewRows,
        scores: NormalScores,
        left_out: Tensor,
        n_folds: int,
        seed: int,
        known: Mapping[str, View],
    ) -> ViewColumns:
        """Fit the views of some parts, or continue known ones."""
        views: dict[str, View] = {}
        columns: dict[str, Tensor] = {}
        for name, view in {VIEWS[part].name: VIEWS[part] for part in parts}.items():
            views[name], of_rows = view.fit(
                rows, scores, left_out, seed, known.get(name)
            )
            # Copied, without the parts that no kind sees.
            columns |= {k: c.contiguous() for k, c in of_rows.items() if k in parts}
        return cls(views, columns, n_folds)

    def width(self, parts: Iterable[str]) -> int:
        """Return the number of columns of some parts."""
        return sum(self.views[VIEWS[part].name].widths[part] for part in parts)

    def of_rows(self, parts: Iterable[str], n_held_out: int) -> Tensor:
        """Return the columns that each fold sees, (n_folds, n, n_columns)."""
        columns = [self._of_rows[part][n_held_out - 1] for part in parts]
        return torch.cat(columns, dim=-1)

    def of_new_rows(
        self, parts: Iterable[str], X: Matrix, device: torch.device
    ) -> Tensor:
        """Compute the columns of validation rows, once, (1, n, n_columns).

        The rows are on a device; the columns are on the CPU.
        """
        if not self._of_new_rows:
            blocks = torch.arange(X.shape[0], device=device).split(BLOCK)
            found = [
                columns_of(self.views.values(), X.index_select(0, index).cpu().double())
                for index in blocks
            ]
            self._of_new_rows = {
                part: torch.cat([columns[part] for columns in found])[None].float()
                for part in found[0]
            }
        return torch.cat([self._of_new_rows[part] for part in parts], dim=-1)
