"""Standardisation of rows, in blocks of bounded size."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from skmdn._data.rows import UniqueRows, as_dense, dense_blocks, orientation
from skmdn._utils.arrays import to_tensor
from skmdn.distributed import ALONE, Ranks

# Largest spread of a column whose square, and that of its inverse, cannot overflow.
LARGEST_REACH = 1e150
# Largest standardised number whose square cannot overflow in float32.
LARGEST_OUTLIER = 1e15


class Scaling(NamedTuple):
    """Location and scale of each column, (n_columns,); a negative scale mirrors it."""

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]

    @classmethod
    def fit_features(cls, rows: UniqueRows, ranks: Ranks = ALONE) -> Scaling:
        """Standardise X by its weighted mean and standard deviation."""
        return cls.fit("X", rows.X, rows.weight, rows.positions, ranks)

    @classmethod
    def fit_targets(cls, rows: UniqueRows, ranks: Ranks = ALONE) -> Scaling:
        """Standardise y, and mirror targets of negative skewness."""
        index = np.arange(len(rows.y))
        mean, scale = cls.fit("y", rows.y, rows.weight, index, ranks)
        return cls(mean, scale * orientation(rows.y, rows.weight, ranks))

    @classmethod
    def fit(
        cls,
        name: str,
        X: Any,
        weight: NDArray[np.float64],
        index: NDArray[np.intp],
        ranks: Ranks = ALONE,
    ) -> Scaling:
        """Compute the weighted mean and standard deviation of the rows of an index.

        Weights belong to the rows of the index; constant columns get scale one.

        Raises
        ------
        ValueError
            If the spread of a column cannot be squared in float64. The message
            contains `name`.
        """
        # Sums are taken of differences from a row: exact where a column is constant.
        origin = ranks.broadcast(as_dense(X[index[:1]]).astype(np.float64))
        share = weight / ranks.sum(weight.sum())
        shift, reach = np.zeros(X.shape[1]), np.zeros(X.shape[1])
        with np.errstate(over="ignore", invalid="ignore"):
            for part, block in dense_blocks(X, index):
                block -= origin
                shift += share[part] @ block
                reach = np.maximum(reach, np.abs(block).max(axis=0))
        shift, reach = ranks.sum(shift), ranks.max(reach)
        _check_reach(name, reach)
        mean = origin[0] + shift
        variance = ranks.sum(
            sum(
                share[part] @ (block - mean) ** 2
                for part, block in dense_blocks(X, index)
            )
        )
        # Rows of negligible weight may lie further out than float32 can represent.
        std = np.maximum(np.sqrt(variance), reach / LARGEST_OUTLIER)
        is_constant = std <= 10 * np.finfo(np.float64).eps * np.abs(mean)
        return cls(mean, np.where(is_constant, 1.0, std))

    @property
    def log_scale(self) -> float:
        """Nats that standardising adds to a log-density."""
        return float(np.log(np.abs(self.scale)).sum())

    def transform(self, array: NDArray[Any]) -> Tensor:
        """Standardise, in float64."""
        return torch.from_numpy((array - self.mean) / self.scale)

    def transform_rows(
        self,
        X: Any,
        index: NDArray[np.intp],
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Standardise the rows of an index without a float64 copy of all of them."""
        result = torch.empty(len(index), X.shape[1], dtype=dtype, device=device)
        for part, block in dense_blocks(X, index):
            result[part] = self.transform(block).to(device, dtype)
        return result


def _check_reach(name: str, reach: NDArray[np.float64]) -> None:
    """Refuse columns (n_columns,) whose spread, or its inverse, has no square."""
    if ((reach > LARGEST_REACH) | ((reach > 0) & (reach < 1 / LARGEST_REACH))).any():
        worst = reach[np.argmax(np.abs(np.log(np.where(reach > 0, reach, 1.0))))]
        raise ValueError(
            f"{name} must spread over less than {LARGEST_REACH:.0g} and, where it "
            f"is not constant, over more than {1 / LARGEST_REACH:.0g} in each "
            f"column, got {worst:.3g}. Change its unit."
        )


class LazyMatrix:
    """Standardised rows of an index of X, computed when they are taken.

    For sparse matrices, of which a dense copy may not fit into memory.
    """

    def __init__(
        self,
        X: Any,
        index: NDArray[np.intp],
        scaling: Scaling,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> None:
        self.X = X
        self.index = index
        self.scaling = scaling
        self.dtype = dtype
        self.device = torch.device(device)
        self.shape = (len(index), X.shape[1])

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """Take rows as :meth:`torch.Tensor.index_select` does for `dim` 0."""
        block = as_dense(self.X[self.index[index.cpu().numpy()]])
        return self.scaling.transform(block).to(self.device, self.dtype)


class ScaledRows(NamedTuple):
    """Standardised rows: X (n, n_features) and y (n, d) on a device, weight (n,)."""

    X: Tensor | LazyMatrix
    y: Tensor
    weight: Tensor

    @classmethod
    def of(
        cls,
        rows: UniqueRows,
        features: Scaling,
        target: Scaling,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> ScaledRows:
        """Standardise rows on a device; weights stay on the CPU in float64."""
        X = (
            LazyMatrix(rows.X, rows.positions, features, dtype, device)
            if sparse.issparse(rows.X)
            else features.transform_rows(rows.X, rows.positions, dtype, device)
        )
        y = target.transform(rows.y).to(device, dtype)
        return cls(X, y, to_tensor(rows.weight))


def take_rows(source: Tensor | LazyMatrix, index: Tensor) -> Tensor:
    """Take the rows of a matrix of indices, (n_lists, n, n_columns)."""
    # Several times faster than indexing with a matrix.
    taken: Tensor = source.index_select(0, index.flatten())
    result: Tensor = taken.unflatten(0, index.shape)
    return result
