"""What happens to rows before training: merging, scaling, holding out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from skmdn._arrays import row_chunks, to_tensor
from skmdn.distributed import ALONE, Ranks

__all__ = [
    "MIN_FOLDS",
    "Distinct",
    "LazyRows",
    "ScaledRows",
    "Scaling",
    "Subset",
    "UsedRows",
    "WeightedRows",
    "as_dense",
    "count_folds",
    "evenly",
    "every_row",
    "fingerprint",
    "folds_of",
    "hold_out",
    "merge_rows",
    "orientation",
    "take_rows",
]

# From this many networks on, each holds out one of several folds of all rows; at most
# so many folds, so that more networks share them.
MIN_FOLDS = 4
MAX_FOLDS = 8

# Spread of a column whose square, and that of its inverse, are far from overflow.
LARGEST_REACH = 1e150
# Standardised numbers whose square is far from overflow in float32.
LARGEST_OUTLIER = 1e15

# What rounding may leave of the skewness of a symmetric column.
SMALLEST_SKEWNESS = 1e-9


class WeightedRows(NamedTuple):
    """Rows of X (n, n_features), dense or CSR, of y (n, d), and their weights (n,)."""

    X: Any
    y: NDArray[np.float64]
    weight: NDArray[np.float64]

    def rescaled(self, ranks: Ranks = ALONE) -> WeightedRows:
        """With the largest weight, of all ranks, between 1/2 and 1.

        Only ratios of weights count. A power of two changes nothing else, and keeps
        sums of huge and of tiny ones within reach.
        """
        _, exponent = np.frexp(ranks.max(self.weight.max()))
        return self._replace(weight=np.ldexp(self.weight, -exponent))


class Distinct(NamedTuple):
    """Distinct rows: where each first stands, its weight, and each row's number."""

    positions: NDArray[np.intp]
    weight: NDArray[np.float64]
    number: NDArray[np.intp]


class UsedRows(NamedTuple):
    """Rows to learn from: where they stand in X, y (n, d) and weight (n,)."""

    X: Any
    y: NDArray[np.float64]
    weight: NDArray[np.float64]
    positions: NDArray[np.intp]

    @classmethod
    def of(cls, given: WeightedRows, distinct: Distinct) -> UsedRows:
        """Distinct rows of positive weight."""
        is_used = distinct.weight > 0
        positions = distinct.positions[is_used]
        return cls(given.X, given.y[positions], distinct.weight[is_used], positions)


def merge_rows(rows: WeightedRows) -> Distinct:
    """Merge identical rows of (X, y), and put them in an order of their own.

    A weight then means repetition, exactly; the fit does not depend on the order
    of the rows; and copies of one row cannot lie on both sides of a split. The
    order is that of a hash of X, and of oriented y only within equal X: affine maps
    of y leave it alone, so that a fit is equivariant under them.
    """
    X, y, weight = rows
    hashes = _hash_rows(X, np.arange(len(y)))
    keys = (y * orientation(y, weight)).T[::-1]
    # The last key comes first. Sorting by weight within equal rows fixes the order
    # in which their weights are added.
    order = np.lexsort((weight, *keys, hashes))
    hashes = hashes[order]
    is_new = np.ones(len(order), dtype=bool)
    is_new[1:] = hashes[1:] != hashes[:-1]
    for column in y.T:
        column = column[order]
        is_new[1:] |= column[1:] != column[:-1]
    # Few rows are left to compare: X is never copied as a whole.
    alike = np.flatnonzero(~is_new)
    for part, block in dense_blocks(X, order[alike]):
        before = as_dense(X[order[alike[part] - 1]])
        is_new[alike[part]] = (block != before).any(axis=1)
    group = np.cumsum(is_new) - 1
    number = np.empty_like(group)
    number[order] = group
    merged = np.bincount(group, weights=weight[order]).astype(np.float64)
    return Distinct(order[is_new], merged, number)


def orientation(
    y: NDArray, weight: NDArray[np.float64], ranks: Ranks = ALONE
) -> NDArray[np.float64]:
    """Sign of the skewness of each column, and one where there is none, (d,).

    Oriented by it, a target and its mirror image are the same.
    """
    share = weight / ranks.sum(weight.sum())
    with np.errstate(over="ignore", invalid="ignore"):
        centred = y - ranks.first(y[0])
        centred -= ranks.sum(share @ centred)
        std = np.sqrt(ranks.sum(share @ centred**2))
        skewness = ranks.sum(share @ (centred / np.where(std > 0, std, 1.0)) ** 3)
    return np.where(skewness < -SMALLEST_SKEWNESS, -1.0, 1.0)


def fingerprint(rows: WeightedRows, ranks: Ranks = ALONE) -> NDArray[np.uint64]:
    """Number and sum of the hashes of the rows: neither order nor rank counts."""
    index = np.arange(len(rows.y))
    hashes = np.zeros(len(index), dtype=np.uint64)
    for part in (rows.X, rows.y, rows.weight[:, None]):
        hashes = _hash_rows(part, index, start=hashes)
    ours = np.array([len(index), hashes.sum()], dtype=np.uint64)
    return np.sum(ranks.share(ours), axis=0, dtype=np.uint64)


def as_dense(block: Any) -> NDArray:
    return block.toarray() if sparse.issparse(block) else block


def dense_blocks(
    X: Any, index: NDArray[np.intp]
) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Rows of X in the order of an index, in float64 blocks of bounded size."""
    for part in row_chunks(len(index), 8 * X.shape[1]):
        yield part, as_dense(X[index[part]]).astype(np.float64)


def _hash_rows(
    X: Any, index: NDArray[np.intp], start: NDArray[np.uint64] | int = 0
) -> NDArray[np.uint64]:
    """Hash of each row, equal for equal numbers whatever their dtype or storage."""
    hashes = np.full(len(index), start, dtype=np.uint64)
    for part, block in dense_blocks(X, index):
        for column in block.T:
            # Adding zero turns -0.0 into 0.0.
            bits = (column + 0.0).view(np.uint64)
            hashes[part] = _mix_bits(hashes[part] ^ bits)
    return hashes


def _mix_bits(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One round of splitmix64 (Steele, Lea and Flood 2014), a bijection of 64 bits."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class Scaling(NamedTuple):
    """Location and scale of each column, (n_columns,); negative ones mirror it."""

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        name: str,
        X: Any,
        weight: NDArray[np.float64],
        index: NDArray[np.intp],
        ranks: Ranks = ALONE,
    ) -> Scaling:
        """Weighted mean and standard deviation of the rows of an index.

        Weights are those of the index; constant columns get scale one.

        Raises
        ------
        ValueError
            If the spread of a column cannot be squared in float64; it names X or y.
        """
        # Sums are taken of differences from a row: exact where a column is constant.
        origin = ranks.first(as_dense(X[index[:1]]).astype(np.float64))
        share = weight / ranks.sum(weight.sum())
        shift, reach = np.zeros(X.shape[1]), np.zeros(X.shape[1])
        with np.errstate(over="ignore", invalid="ignore"):
            for part, block in dense_blocks(X, index):
                block -= origin
                shift += share[part] @ block
                reach = np.maximum(reach, np.abs(block).max(axis=0))
        shift, reach = ranks.sum(shift), ranks.max(reach)
        if (
            (reach > LARGEST_REACH) | ((reach > 0) & (reach < 1 / LARGEST_REACH))
        ).any():
            worst = reach[np.argmax(np.abs(np.log(np.where(reach > 0, reach, 1.0))))]
            raise ValueError(
                f"{name} must spread over less than {LARGEST_REACH:.0g} and, where it "
                f"is not constant, over more than {1 / LARGEST_REACH:.0g} in each "
                f"column, got {worst:.3g}. Change its unit."
            )
        mean = origin[0] + shift
        variance = ranks.sum(
            sum(
                share[part] @ (block - mean) ** 2
                for part, block in dense_blocks(X, index)
            )
        )
        # Rows of next to no weight may lie further out than float32 can say.
        std = np.maximum(np.sqrt(variance), reach / LARGEST_OUTLIER)
        is_constant = std <= 10 * np.finfo(np.float64).eps * np.abs(mean)
        return cls(mean, np.where(is_constant, 1.0, std))

    @property
    def log_scale(self) -> float:
        """What standardising adds to a log-density, in nats."""
        return float(np.log(np.abs(self.scale)).sum())

    def apply(self, array: NDArray) -> Tensor:
        """Standardise, in float64."""
        return torch.from_numpy((array - self.mean) / self.scale)

    def tensor(
        self,
        X: Any,
        index: NDArray[np.intp],
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Standardised rows of an index; no float64 copy of all of them is made."""
        result = torch.empty(len(index), X.shape[1], dtype=dtype, device=device)
        for part, block in dense_blocks(X, index):
            result[part] = self.apply(block).to(device, dtype)
        return result


class LazyRows:
    """Standardised rows of an index, made only when they are taken.

    For sparse matrices, of which a dense copy may not fit.
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
        """As of a tensor, for `dim` 0."""
        block = as_dense(self.X[self.index[index.cpu().numpy()]])
        return self.scaling.apply(block).to(self.device, self.dtype)


class ScaledRows(NamedTuple):
    """Standardised rows: X (n, n_features), y (n, d) and weight (n,)."""

    X: Tensor | LazyRows
    y: Tensor
    weight: Tensor

    @classmethod
    def of(
        cls,
        rows: UsedRows,
        X_scaling: Scaling,
        y_scaling: Scaling,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> ScaledRows:
        """Standardise on a device; weights stay in float64 where they are."""
        X = (
            LazyRows(rows.X, rows.positions, X_scaling, dtype, device)
            if sparse.issparse(rows.X)
            else X_scaling.tensor(rows.X, rows.positions, dtype, device)
        )
        y = y_scaling.apply(rows.y).to(device, dtype)
        return cls(X, y, to_tensor(rows.weight))


def take_rows(source: Tensor | LazyRows, index: Tensor) -> Tensor:
    """Rows of a matrix of indices, (n_lists, n, n_columns)."""
    # Several times faster than indexing with a matrix.
    return source.index_select(0, index.flatten()).unflatten(0, index.shape)


class Subset(NamedTuple):
    """Rows of each network or fold as indices (n_lists, n), and whether each counts.

    Lists may differ by one row; the shorter ones are filled up with rows that do
    not count.
    """

    rows: Tensor
    counts: Tensor


def every_row(n_rows: int, n_lists: int) -> Subset:
    """Give every network or fold every row."""
    rows = torch.arange(n_rows).expand(n_lists, -1)
    return Subset(rows, torch.ones(1, 1, dtype=torch.bool).expand(n_lists, n_rows))


def count_folds(n_networks: int) -> int:
    """Number of different sets of rows that the networks hold out."""
    return min(n_networks, MAX_FOLDS) if n_networks >= MIN_FOLDS else 1


def folds_of(n_networks: int, n_folds: int) -> Tensor:
    """Fold that each network holds out, (n_networks,)."""
    return torch.arange(n_networks) % n_folds


def hold_out(
    rows: UsedRows,
    n_networks: int,
    fraction: float,
    generator: torch.Generator,
    ranks: Ranks = ALONE,
) -> tuple[Subset, Subset]:
    """Draw the rows on which each network trains, and those of each fold.

    From `MIN_FOLDS` networks on the folds are disjoint and together hold every row
    once; fewer networks all hold out the same `fraction` of the rows.

    Returns
    -------
    trains : Subset of n_networks lists
    held_out : Subset of n_folds lists; `folds_of` says whose

    Raises
    ------
    ValueError
        If a network would hold out nothing, or train on nothing.
    """
    n_folds = count_folds(n_networks)
    places, n_places = _places(rows, generator, ranks)
    if n_folds == 1:
        is_held_out = (places < math.ceil(fraction * n_places))[None]
    else:
        is_held_out = (places % n_folds) == torch.arange(n_folds)[:, None]
    n_rows, n_held_out = int(ranks.sum(len(rows.y))), ranks.sum(is_held_out.sum(1))
    if n_held_out.min() == 0 or n_held_out.max() == n_rows:
        raise ValueError(f"{n_rows} distinct rows are too few to hold any out.")
    held_out = _subset(is_held_out)
    fold = folds_of(n_networks, n_folds)
    trains = _subset(~is_held_out)
    return Subset(trains.rows[fold], trains.counts[fold]), held_out


def _places(
    rows: UsedRows, generator: torch.Generator, ranks: Ranks
) -> tuple[Tensor, int]:
    """A random place for each row, and how many places there are.

    Copies of a row on several ranks must come to one place: there it is drawn by a
    hash of the row, while a permutation gives folds of equal size.
    """
    n_rows = len(rows.y)
    if ranks.size == 1:
        return torch.randperm(n_rows, generator=generator), n_rows
    seed = int(torch.randint(2**62, (), generator=generator))
    hashes = _hash_rows(rows.X, rows.positions, start=seed)
    hashes = _hash_rows(rows.y, np.arange(n_rows), start=hashes)
    return torch.from_numpy((hashes >> np.uint64(32)).astype(np.int64)), 2**32


def evenly(n_rows: int, n_taken: int) -> NDArray[np.intp]:
    """Some of the first n_rows numbers, evenly spread over them, (n_taken,)."""
    return np.arange(n_taken) * n_rows // max(1, n_taken)


def _subset(mask: Tensor) -> Subset:
    """Column indices of the true entries, padded to equal length, and which count."""
    n_true = mask.sum(1)
    # A stable sort brings the true entries to the front, in their order.
    rows = (~mask).to(torch.int8).argsort(dim=1, stable=True)[:, : n_true.max()]
    return Subset(rows, torch.arange(rows.shape[1]) < n_true[:, None])
