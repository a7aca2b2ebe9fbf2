"""Views: further features of a row, made from other rows and their targets.

A view is fitted on all training rows. Its columns of a training row never use the
target of that row, nor, with groups, any target of its group; and those that the
networks of a fold see never use a target of the rows that these hold out.

The columns of a view are one or more parts, of which a network sees some. A new view is
a class as `View` describes it, and entries of `VIEWS` and of `FEWEST_ROWS_OF_VIEWS`, in
`skmdn._training.kinds`, for each of its parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Protocol, Self

from torch import Tensor

from skmdn._data.views.kriging import Kriging
from skmdn._data.views.rows import NormalScores, ViewRows
from skmdn._data.views.trees import Trees


class View(Protocol):
    """A fitted view."""

    name: ClassVar[str]

    @property
    def widths(self) -> Mapping[str, int]:
        """Number of columns of each part."""

    @property
    def scores(self) -> NormalScores:
        """Map of y to the values that the view was fitted on."""

    @classmethod
    def fit(
        cls,
        rows: ViewRows,
        scores: NormalScores,
        left_out: Tensor,
        seed: int,
        start: Self | None = None,
    ) -> tuple[Self, dict[str, Tensor]]:
        """Fit a view; return it, and the columns of the rows.

        Parameters
        ----------
        rows : ViewRows
        scores : NormalScores
            Map of y to the values of the rows.
        left_out : Tensor of shape (n_lists, n)
            Rows whose values have no influence on the columns of a list.
        seed : int
        start : view, default=None
            View that networks have learned to read: its covariance function and the
            units of its columns stay.

        Returns
        -------
        view : view
        columns : dict of Tensor (n_lists, n, width)
            In float32, by part.
        """

    def __call__(self, X: Tensor) -> dict[str, Tensor]:
        """Compute the columns of new rows (m, n_features), (m, width), by part."""

    def to_state(self) -> dict[str, Any]:
        """Convert to arrays."""

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Rebuild a view; arrays are copied."""


# View of each part. One part of each view has the name of the view.
VIEWS: dict[str, type[View]] = {
    "kriging": Kriging,
    "nearest": Kriging,
    "trees": Trees,
}


def columns_of(views: Iterable[View], X: Tensor) -> dict[str, Tensor]:
    """Compute all columns of some views for new rows, by part."""
    return {part: found for view in views for part, found in view(X).items()}
