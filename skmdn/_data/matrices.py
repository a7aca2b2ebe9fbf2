"""Rows as networks take them: standardised matrices, computed at once or lazily."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from skmdn._data.feature_transform import FeatureTransform
from skmdn._data.rows import UniqueRows, as_dense, dense_blocks
from skmdn._utils.arrays import to_tensor

# Standard deviations from the mean from which on targets count less in training.
FAR = 30.0


class LazyMatrix:
    """Standardised rows of an index of X, computed when they are taken.

    For sparse matrices, of which a dense copy may not fit into memory.
    """

    def __init__(
        self,
        X: Any,
        index: NDArray[np.intp],
        features: FeatureTransform,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> None:
        self.X = X
        self.index = index
        self.features = features
        self.dtype = dtype
        self.device = torch.device(device)
        self.shape = (len(index), features.width)

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """Take rows as :meth:`torch.Tensor.index_select` does for `dim` 0."""
        block = as_dense(self.X[self.index[index.cpu().numpy()]])
        return self.features.transform(block).to(self.device, self.dtype)


class ViewedMatrix:
    """Standardised rows with the columns of a view, which differ between folds.

    Its row k n + i is row i of X, with the columns that networks of fold k see.

    Parameters
    ----------
    X : Tensor or LazyMatrix of shape (n, n_features)
    columns : Tensor of shape (n_folds, n, n_columns)
    """

    def __init__(self, X: Tensor | LazyMatrix, columns: Tensor) -> None:
        self.X = X
        self.columns = columns.flatten(0, 1)
        self.n_rows = columns.shape[1]
        self.shape = (len(self.columns), X.shape[1] + self.columns.shape[1])

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """Take rows as :meth:`torch.Tensor.index_select` does for `dim` 0."""
        X = self.X.index_select(0, index % self.n_rows)
        columns = self.columns.index_select(0, index).to(X)
        return torch.cat([X, columns], dim=1)


Matrix = Tensor | LazyMatrix | ViewedMatrix


class ScaledRows(NamedTuple):
    """Standardised rows: X (n, n_features) and targets y on a device, weight (n,).

    `y` (n, n_blocks * n_outputs) is what the likelihood takes; see `TargetTransform`.
    """

    X: Matrix
    y: Tensor
    weight: Tensor

    @classmethod
    def of(
        cls,
        rows: UniqueRows,
        features: FeatureTransform,
        y: Tensor,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> ScaledRows:
        """Standardise rows on a device; weights stay on the CPU in float64."""
        X = (
            LazyMatrix(rows.X, rows.positions, features, dtype, device)
            if sparse.issparse(rows.X)
            else _standardised(rows, features, dtype, device)
        )
        points = y[:, : rows.y.n_outputs].numpy()
        weight = bounded_weight(points, rows.weight)
        return cls(X, y.to(device, dtype), to_tensor(weight))


def _standardised(
    rows: UniqueRows,
    features: FeatureTransform,
    dtype: torch.dtype,
    device: torch.device | str,
) -> Tensor:
    """Standardise rows without a float64 copy of all of them."""
    n_rows = len(rows.positions)
    result = torch.empty(n_rows, features.width, dtype=dtype, device=device)
    for part, block in dense_blocks(rows.X, rows.positions):
        result[part] = features.transform(block).to(device, dtype)
    return result


def bounded_weight(
    y: NDArray[np.float64], weight: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return weights (n,) under which no standardised y (n, d) dominates a fit.

    The squared distance of a row further out than `FAR` counts as that of a row at
    `FAR`, and its pull on the mean falls with its distance. A component can still lie
    there, of little weight. Other rows keep their weight, bit for bit.
    """
    distance = np.abs(y).max(axis=1, initial=FAR)
    bounded: NDArray[np.float64] = weight * (FAR / distance) ** 2
    return bounded


def take_rows(source: Matrix, index: Tensor, fold: Tensor | None = None) -> Tensor:
    """Take the rows of a matrix of indices, (n_lists, n, n_columns).

    Parameters
    ----------
    source : Tensor, LazyMatrix or ViewedMatrix
    index : Tensor of shape (n_lists, n)
    fold : Tensor of shape (n_lists,), default=None
        Fold of the networks that use a list, for a source with the columns of a view.
    """
    if isinstance(source, ViewedMatrix):
        assert fold is not None  # every fold sees other columns
        index = index + source.n_rows * fold[:, None]
    # Several times faster than indexing with a matrix.
    taken: Tensor = source.index_select(0, index.flatten())
    result: Tensor = taken.unflatten(0, index.shape)
    return result
