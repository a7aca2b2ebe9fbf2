"""Rows to learn from: as given, and merged where they are equal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from skmdn._data.robust import limits
from skmdn._data.targets import Targets
from skmdn._utils.arrays import row_chunks
from skmdn.distributed import ALONE, Ranks

# Rounding can leave a skewness of this size in a symmetric column.
SMALLEST_SKEWNESS = 1e-9


class Rows(NamedTuple):
    """Rows as given: X (n, n_features), dense or CSR, targets y (n), weight (n,).

    `groups` (n,) has the codes of the groups that are held out as a whole, or is None.
    """

    X: Any
    y: Targets
    weight: NDArray[np.float64]
    groups: NDArray[np.uint64] | None = None

    def rescaled(self, ranks: Ranks = ALONE) -> Rows:
        """Scale the weights so that the largest one of all ranks is in [1/2, 1).

        Only ratios of weights matter. The factor is a power of two, so that scaling is
        exact; sums of huge and of tiny weights then stay within range.
        """
        _, exponent = np.frexp(ranks.max(self.weight.max()))
        return self._replace(weight=np.ldexp(self.weight, -exponent))

    def fingerprint(self, ranks: Ranks = ALONE) -> NDArray[np.uint64]:
        """Compute the number and the sum of the hashes of the rows of all ranks.

        It does not depend on the order of the rows or their distribution over ranks.
        """
        index = np.arange(len(self.y))
        hashes = np.zeros(len(index), dtype=np.uint64)
        for part in (self.X, self.y.table, self.weight[:, None]):
            hashes = hash_rows(part, index, start=hashes)
        if self.groups is not None:
            hashes = _mix_bits(hashes ^ self.groups)
        ours = np.array([len(index), hashes.sum()], dtype=np.uint64)
        total: NDArray[np.uint64] = np.sum(
            ranks.all_gather(ours), axis=0, dtype=np.uint64
        )
        return total


class UniqueRows(NamedTuple):
    """Unique rows of (X, y) with positive weight, in an order determined by content.

    X is the matrix as given, so that it is never copied: unique row i is
    ``X[positions[i]]``, with targets y (m), summed weight (m,) and first position (m,).
    `group` (n,) has the unique row of each row as given, and -1 where its weight is
    zero. `codes` (m,) has the codes of the groups that are held out as a whole, or is
    None; rows of different groups may be equal.
    """

    X: Any
    y: Targets
    weight: NDArray[np.float64]
    positions: NDArray[np.intp]
    group: NDArray[np.intp]
    codes: NDArray[np.uint64] | None = None


def merge_rows(rows: Rows) -> UniqueRows:
    """Merge equal rows of (X, y), add their weights, and drop those of weight zero.

    A weight then means repetition, exactly; the fit does not depend on the order
    of the rows; and copies of one row cannot lie on both sides of a split. The
    order is that of a hash of X, and within equal X that of the oriented y: neither
    changes under affine maps of y, so that a fit is equivariant under them.

    If the rows have groups, equal rows are merged within a group only.
    """
    X, y, weight, groups = rows
    hashes = hash_rows(X, np.arange(len(y)))
    points = y.points
    sign = orientation(np.clip(points, *limits(points, weight)), weight)
    keys = np.concatenate([points * sign, y.table[:, y.n_outputs :]], axis=1).T[::-1]
    # The last key has priority. Sorting by weight within equal rows fixes the order
    # in which their weights are added.
    codes = () if groups is None else (groups,)
    order = np.lexsort((weight, *codes, *keys, hashes))
    differs = _differs_from_previous(X, y.table, hashes, order)
    is_new = differs.copy()
    if groups is not None:
        is_new[1:] |= groups[order[1:]] != groups[order[:-1]]
    sorted_group = np.cumsum(is_new) - 1
    total = np.bincount(sorted_group, weights=weight[order]).astype(np.float64)
    is_used = total > 0
    number = np.where(is_used, np.cumsum(is_used) - 1, -1)
    group = np.empty_like(sorted_group)
    group[order] = number[sorted_group]
    positions = order[is_new][is_used]
    unique = UniqueRows(X, y[positions], total[is_used], positions, group)
    if groups is None:
        return unique
    content = np.cumsum(differs, dtype=np.intp)[is_new][is_used]
    return _sort_copies(unique, content, groups[positions])


def _sort_copies(
    rows: UniqueRows, content: NDArray[np.intp], codes: NDArray[np.uint64]
) -> UniqueRows:
    """Sort equal rows of different groups by what their groups contain.

    Equal rows have equal numbers in `content` (m,), which is sorted. Sorted by the
    codes (m,), the fit would depend on the labels. Instead, each group has the sum of
    its weights, each multiplied by a hash of the row. Only groups with the same rows
    and weights tie. The codes then decide which of these copies is in which fold, and
    so its out-of-fold density; the networks are the same either way, unless other ranks
    have further rows of these groups.
    """
    _, content = np.unique(content, return_inverse=True)
    _, group = np.unique(codes, return_inverse=True)
    factors = _mix_bits(content.astype(np.uint64)).astype(np.float64)
    sums = np.bincount(group, weights=rows.weight * factors)
    order = np.lexsort((codes, sums[group], content))
    number = np.append(order.argsort(), -1)  # -1 stays -1
    return UniqueRows(
        rows.X,
        rows.y[order],
        rows.weight[order],
        rows.positions[order],
        number[rows.group],
        codes[order],
    )


def _differs_from_previous(
    X: Any,
    y: NDArray[np.float64],
    hashes: NDArray[np.uint64],
    order: NDArray[np.intp],
) -> NDArray[np.bool_]:
    """Mark the rows, taken in an order, that differ from the row before, (n,)."""
    hashes = hashes[order]
    is_new = np.ones(len(order), dtype=bool)
    is_new[1:] = hashes[1:] != hashes[:-1]
    for column in y.T:
        column = column[order]
        is_new[1:] |= column[1:] != column[:-1]
    # Hashes can collide. Few rows are left to compare, so that X is never copied.
    alike = np.flatnonzero(~is_new)
    for part, block in dense_blocks(X, order[alike]):
        before = as_dense(X[order[alike[part] - 1]])
        is_new[alike[part]] = (block != before).any(axis=1)
    return is_new


def orientation(
    y: NDArray[np.float64], weight: NDArray[np.float64], ranks: Ranks = ALONE
) -> NDArray[np.float64]:
    """Compute the sign of the skewness of each column, 1 for a symmetric one, (d,).

    A target and its mirror image are equal after multiplication by it.
    """
    share = weight / ranks.sum(weight.sum())
    with np.errstate(over="ignore", invalid="ignore"):
        centred = y - ranks.broadcast(y[0])
        centred -= ranks.sum(share @ centred)
        std = np.sqrt(ranks.sum(share @ centred**2))
        skewness = ranks.sum(share @ (centred / np.where(std > 0, std, 1.0)) ** 3)
    return np.where(skewness < -SMALLEST_SKEWNESS, -1.0, 1.0)


def as_dense(block: Any) -> NDArray[Any]:
    """Return a block of rows as an array."""
    dense: NDArray[Any] = block.toarray() if sparse.issparse(block) else block
    return dense


def dense_blocks(
    X: Any, index: NDArray[np.intp]
) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Yield the rows of an index of X in dense float64 blocks of bounded size."""
    for part in row_chunks(len(index), 8 * X.shape[1]):
        yield part, as_dense(X[index[part]]).astype(np.float64)


def hash_rows(
    X: Any, index: NDArray[np.intp], start: NDArray[np.uint64] | int = 0
) -> NDArray[np.uint64]:
    """Hash each row; equal numbers have equal hashes in any dtype or storage."""
    hashes = np.full(len(index), start, dtype=np.uint64)
    for part, block in dense_blocks(X, index):
        for column in block.T:
            # Adding zero turns -0.0 into 0.0.
            bits = (column + 0.0).view(np.uint64)
            hashes[part] = _mix_bits(hashes[part] ^ bits)
    return hashes


def _mix_bits(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Apply one round of splitmix64 (Steele, Lea and Flood 2014), a bijection."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
