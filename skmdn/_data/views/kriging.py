"""The kriging view: what the other rows say of a row, by a Gaussian process.

Its part "kriging" has the mean of the normal score of each output, and the logarithm
of the standard deviation that the outputs share: they have one covariance function,
learned from the likelihood of rows given their neighbours (Vecchia 1988). Means use all
rows where these are few, and the nearest ones otherwise, in the unit of the
length-scales; standard deviations always use the nearest ones.

Its part "nearest" has the scores of the nearest rows themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from skmdn._data.folds import evenly
from skmdn._data.views.conditioning import (
    given_neighbours,
    leave_out,
    observation_covariance,
)
from skmdn._data.views.kernel import Kernel
from skmdn._data.views.learning import learn_kernel
from skmdn._data.views.nearest import N_NEAREST, nearest_columns
from skmdn._data.views.neighbours import N_NEIGHBOURS, Neighbours
from skmdn._data.views.rows import NormalScores, ViewRows
from skmdn._utils.arrays import row_chunks, to_numpy, to_tensor

# Rows that a view keeps, and computes its columns from.
MOST_ANCHORS = 2**16
# Up to so many anchors, means use all of them.
MOST_EXACT = 2048
# Neighbours of a new row: about as many as a training row has when those are left out
# that its fold holds out.
N_NEIGHBOURS_OF_NEW = 28
# Matrices of the size of a covariance that are needed to compute it.
COPIES = 8
# Rows from which the moments of the logarithm of the standard deviation are computed,
# and its smallest scale.
ROWS_OF_MOMENTS, SMALLEST_SCALE = 1000, 0.1


@dataclass(frozen=True)
class Kriging:
    """A fitted view.

    Parameters
    ----------
    kernel : Kernel
    X : Tensor of shape (n_anchors, n_features)
    values : Tensor of shape (n_anchors, d)
    noise : Tensor of shape (n_anchors,)
        Inverse weights.
    moments : Tensor of shape (2,)
        Location and scale of the logarithm of the standard deviation.
    scores : NormalScores
        Map of y to the values.
    """

    name: ClassVar[str] = "kriging"

    kernel: Kernel
    X: Tensor
    values: Tensor
    noise: Tensor
    moments: Tensor
    scores: NormalScores

    @property
    def widths(self) -> dict[str, int]:
        """Number of columns of each part."""
        d = self.values.shape[1]
        return {"kriging": d + 1, "nearest": N_NEAREST * d + 1}

    @property
    def is_exact(self) -> bool:
        """Whether means use all anchors."""
        return len(self.X) <= MOST_EXACT

    @cached_property
    def neighbours(self) -> Neighbours:
        """Search among the anchors."""
        return Neighbours(self.kernel, self.X)

    @cached_property
    def solved(self) -> Tensor:
        """Inverse covariance of the anchors times their values, (n_anchors, d)."""
        covariance = observation_covariance(self.kernel, self.X, self.noise)
        return torch.cholesky_solve(self.values, torch.linalg.cholesky(covariance))

    # -- fitting -----------------------------------------------------------------

    @classmethod
    def fit(
        cls,
        rows: ViewRows,
        scores: NormalScores,
        left_out: Tensor,
        seed: int,
        start: Kriging | None = None,
    ) -> tuple[Kriging, dict[str, Tensor]]:
        """Learn the covariance function, and keep the anchors; see `View`.

        With a start, the covariance function and the unit of the standard deviation
        stay.
        """
        view = cls._fitted(rows, scores, seed, start)
        return view, view.of_training_rows(rows, left_out)

    @classmethod
    def _fitted(
        cls, rows: ViewRows, scores: NormalScores, seed: int, start: Kriging | None
    ) -> Kriging:
        anchors = rows.select(anchors_of(len(rows.X)))
        kernel = learn_kernel(anchors, seed) if start is None else start.kernel
        # As they are stored: a stored view has the same columns.
        kept = (anchors.X, anchors.values, anchors.weight.reciprocal())
        X, values, noise = (part.float().double() for part in kept)
        if start is not None:
            return cls(kernel, X, values, noise, start.moments, scores)
        neutral = torch.tensor([0.0, 1.0], dtype=torch.float64, device="cpu")
        view = cls(kernel, X, values, noise, neutral, scores)
        taken = torch.from_numpy(evenly(len(X), min(len(X), ROWS_OF_MOMENTS)))
        search = Neighbours(kernel, X, anchors.group)
        near, exists = search.of_others(X[taken], anchors.group[taken], N_NEIGHBOURS)
        spread = view._columns(X[taken], near, ~exists[None])[0, :, values.shape[1]]
        scale = spread.std(correction=0).clamp(min=SMALLEST_SCALE)
        return replace(view, moments=torch.stack([spread.mean(), scale]))

    def of_training_rows(self, rows: ViewRows, left_out: Tensor) -> dict[str, Tensor]:
        """Compute the columns of the rows of the fit, (n_lists, n, width), in float32.

        Parameters
        ----------
        rows : ViewRows
            Those of `fit`.
        left_out : Tensor of shape (n_lists, n)
            Rows whose values have no influence on those of a list.
        """
        columns = self._local_columns(rows, left_out)
        if self.is_exact:
            matrix = observation_covariance(self.kernel, self.X, self.noise)
            inverse = torch.cholesky_inverse(torch.linalg.cholesky(matrix))
            means = leave_out(inverse, self.values, left_out, rows.group)
            columns[..., : means.shape[-1]] = means.float()
        return self._by_part(columns)

    def _local_columns(self, rows: ViewRows, left_out: Tensor) -> Tensor:
        """Compute the columns from neighbours, (n_lists, n, n_columns)."""
        at = anchors_of(len(rows.X))
        search = Neighbours(self.kernel, self.X, rows.group[at])
        is_left = left_out[:, at]
        shape = *left_out.shape, sum(self.widths.values())
        columns = torch.empty(shape, dtype=torch.float32, device="cpu")
        for part in row_chunks(len(rows.X), self._bytes_per_row(len(left_out))):
            x = rows.X[part].float().double()
            near, exists = search.of_others(x, rows.group[part], N_NEIGHBOURS)
            local = self._columns(x, near, is_left[:, near] | ~exists)
            columns[:, part] = local.float()
        return columns

    # -- new rows ----------------------------------------------------------------

    def __call__(self, X: Tensor) -> dict[str, Tensor]:
        """Compute the columns of new rows (m, n_features), (m, width), by part."""
        columns = X.new_empty(len(X), sum(self.widths.values()))
        n_means = len(self.X) if self.is_exact else 0
        n_bytes = self._bytes_per_row(1) + COPIES * 8 * n_means
        for part in row_chunks(len(X), n_bytes):
            near = self.neighbours.of(X[part], N_NEIGHBOURS_OF_NEW)
            columns[part] = self._columns(X[part], near)[0]
            if self.is_exact:
                covariance = self.kernel.covariance(X[part], self.X)
                columns[part, : self.solved.shape[1]] = covariance @ self.solved
        return self._by_part(columns)

    def _columns(
        self, x: Tensor, near: Tensor, left_out: Tensor | None = None
    ) -> Tensor:
        """Compute all columns of rows x (b, n_features), (n_lists, b, n_columns)."""
        X, values = self.X[near], self.values[near]
        given = self.kernel, x, X, values
        mean, variance = given_neighbours(*given, self.noise[near], left_out)
        location, scale = self.moments
        spread = (0.5 * variance.log() - location) / scale
        nearest = nearest_columns(*given, left_out)
        return torch.cat([mean, spread[..., None], nearest], dim=-1)

    def _by_part(self, columns: Tensor) -> dict[str, Tensor]:
        widths = self.widths
        parts = columns.split(list(widths.values()), dim=-1)
        return dict(zip(widths, parts, strict=True))

    def _bytes_per_row(self, n_lists: int) -> int:
        """Peak memory of a row while its columns are computed."""
        n_features, m = self.X.shape[1], N_NEIGHBOURS
        return 8 * m * (n_features + COPIES * m + n_lists * m)

    # -- state -------------------------------------------------------------------

    def to_state(self) -> dict[str, Any]:
        """Convert to arrays; the anchors are stored in float32."""
        return {
            "kernel": to_numpy(self.kernel.vector),
            "X": self.X.float().numpy(),
            "values": self.values.float().numpy(),
            "noise": self.noise.float().numpy(),
            "moments": to_numpy(self.moments),
            "scores": self.scores._asdict(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Kriging:
        """Rebuild a view; arrays are copied."""
        names = ("X", "values", "noise", "moments")
        return cls(
            Kernel.from_vector(to_tensor(state["kernel"])),
            **{name: to_tensor(state[name]) for name in names},
            scores=NormalScores.from_state(state["scores"]),
        )


def anchors_of(n_rows: int) -> Tensor:
    """Return the rows that a view keeps, (n_anchors,)."""
    return torch.from_numpy(evenly(n_rows, min(n_rows, MOST_ANCHORS)))
