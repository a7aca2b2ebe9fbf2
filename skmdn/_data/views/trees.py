"""The trees view: what trees that were grown on other rows say of a row.

Rows are divided into blocks, and each tree is grown on some of them. The columns of a
training row come from the trees that were grown without its block, and without the rows
left out: the out-of-bag estimates of Breiman (1996), with whole blocks in the place of
bootstrap samples. Those of a new row come from all trees.

Its columns are, for each output, the mean of the normal score, and the logarithm of its
standard deviation, that within the leaves included.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skmdn._data.views.forest import Tree, from_arrays, to_arrays
from skmdn._data.views.rows import NormalScores, ViewRows
from skmdn._utils.arrays import row_chunks, to_numpy, to_tensor

# Seven for each list of rows left out, of eight folds and of eight pairs of folds.
N_TREES = 112
# Blocks of rows, at least, and the share of them that a tree is grown on: with eight
# folds, many trees know neither a row nor two folds.
N_BLOCKS, SHARE_OF_BLOCKS = 8, 3 / 8
MOST_ROWS_OF_TREE = 2**15
SMALLEST_VARIANCE = 1e-4
# Smallest scale of the logarithm of a standard deviation.
SMALLEST_SCALE = 0.1


@dataclass(frozen=True)
class Trees:
    """A fitted view.

    Parameters
    ----------
    trees : list of Tree
        Their values are the d means and mean squares of the normal scores.
    moments : Tensor of shape (2, d)
        Location and scale of the logarithms of the standard deviations.
    scores : NormalScores
        Map of y to normal scores.
    """

    name: ClassVar[str] = "trees"

    trees: list[Tree]
    moments: Tensor
    scores: NormalScores

    @property
    def widths(self) -> dict[str, int]:
        """Number of columns of each part."""
        return {"trees": 2 * self.moments.shape[1]}

    @classmethod
    def fit(
        cls,
        rows: ViewRows,
        scores: NormalScores,
        left_out: Tensor,
        seed: int,
        start: Trees | None = None,
    ) -> tuple[Trees, dict[str, Tensor]]:
        """Grow the trees; see `View`."""
        rng = np.random.default_rng(seed)
        masks = left_out.numpy()
        block = _blocks(masks, rows.group.numpy(), rng)
        blocks_of = _blocks_of_trees(block, masks, rng)
        X, d = _as_float32(rows.X), rows.values.shape[1]
        if len(blocks_of) == N_TREES:
            trees = _grow(X, rows, (is_used[block] for is_used in blocks_of), rng)
        else:  # a list leaves too few blocks to tell anything of one from others
            trees = [Tree.constant(np.repeat([0.0, 1.0], d))]
            blocks_of = np.zeros((1, block.max() + 1), dtype=bool)
        columns = _of_training_rows(trees, X, d, block, blocks_of, masks)
        moments = _moments(columns[0]) if start is None else start.moments
        view = cls(trees, moments, scores)
        return view, {"trees": view._standardised(columns)}

    def __call__(self, X: Tensor) -> dict[str, Tensor]:
        """Compute the columns of new rows (m, n_features), (m, 2 d)."""
        rows, d = _as_float32(X), self.moments.shape[1]
        columns = np.empty((len(rows), 2 * d), dtype=np.float32)
        for part in row_chunks(len(rows), 4 * (rows.shape[1] + 4 * d + 8)):
            total = np.zeros((len(rows[part]), 2 * d), dtype=np.float32)
            for tree in self.trees:
                total += tree(rows[part])
            columns[part] = _columns(total, np.array(len(self.trees)))
        return {"trees": self._standardised(columns).to(X)}

    def _standardised(self, columns: NDArray[np.float32]) -> Tensor:
        """Standardise the logarithms of the standard deviations, (..., 2 d)."""
        mean, spread = torch.from_numpy(columns).chunk(2, dim=-1)
        location, scale = self.moments.float()
        return torch.cat([mean, (spread - location) / scale], dim=-1)

    # -- state -------------------------------------------------------------------

    def to_state(self) -> dict[str, Any]:
        """Convert to arrays."""
        return {
            "trees": to_arrays(self.trees),
            "moments": to_numpy(self.moments),
            "scores": self.scores._asdict(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Trees:
        """Rebuild a view; arrays are copied."""
        trees, moments = from_arrays(state["trees"]), to_tensor(state["moments"])
        return cls(trees, moments, NormalScores.from_state(state["scores"]))


# -- blocks --------------------------------------------------------------------------


def _blocks(
    left_out: NDArray[np.bool_], group: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.intp]:
    """Return the number of the block of each row, (n,).

    The rows of a block are in the same lists of rows left out, and those of a group are
    in as few blocks as possible.
    """
    _, pattern = np.unique(left_out, axis=1, return_inverse=True)
    n_parts = -(-N_BLOCKS // (pattern.max() + 1))
    part = rng.permutation(group.max() + 1) % n_parts
    pairs = pattern.ravel() * n_parts + part[group]
    return np.unique(pairs, return_inverse=True)[1].ravel()


def _blocks_of_trees(
    block: NDArray[np.intp], left_out: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Draw the blocks that each tree is grown on, (n_trees, n_blocks).

    The lists of rows left out take turns: a tree is grown without one of them, and
    without one more block at least. A list that leaves less than two blocks gets none.
    """
    n_blocks, used = block.max() + 1, []
    for number in range(N_TREES):
        is_left = left_out[number % len(left_out)]
        others = np.setdiff1d(np.arange(n_blocks), block[is_left])
        size = min(round(SHARE_OF_BLOCKS * n_blocks), len(others) - 1)
        is_used = np.zeros(n_blocks, dtype=bool)
        is_used[rng.permutation(others)[: max(0, size)]] = True
        if size > 0:
            used.append(is_used)
    return np.array(used, dtype=bool).reshape(-1, n_blocks)


def _grow(
    X: NDArray[np.float32],
    rows: ViewRows,
    is_used: Iterable[NDArray[np.bool_]],
    rng: np.random.Generator,
) -> list[Tree]:
    """Grow a tree on each of some masks of rows X, or on some of these rows."""
    y, weight = to_numpy(rows.values), to_numpy(rows.weight)
    values, trees = np.concatenate([y, y**2], axis=1), []
    for mask in is_used:
        index = np.flatnonzero(mask)
        if len(index) > MOST_ROWS_OF_TREE:
            index = rng.choice(index, MOST_ROWS_OF_TREE, replace=False)
        taken = X[index], y[index], values[index], weight[index]
        trees.append(Tree.grow(*taken, int(rng.integers(2**31))))
    return trees


# -- columns -------------------------------------------------------------------------


def _of_training_rows(
    trees: list[Tree],
    X: NDArray[np.float32],
    d: int,
    block: NDArray[np.intp],
    blocks_of: NDArray[np.bool_],
    left_out: NDArray[np.bool_],
) -> NDArray[np.float32]:
    """Compute the columns of training rows, (n_lists, n, 2 d).

    Trees that know a row, or a row of the list, have no part in their mean.
    """
    knows_list = np.stack([blocks_of[:, block[mask]].any(1) for mask in left_out])
    can_serve = (~knows_list).astype(np.float32)  # (n_lists, n_trees)
    columns = np.empty((len(left_out), len(X), 2 * d), dtype=np.float32)
    for part in row_chunks(len(X), 4 * (2 * d + 4) * (len(trees) + len(left_out))):
        is_new = (~blocks_of[:, block[part]]).astype(np.float32)  # (n_trees, rows)
        values = np.zeros((len(trees), *columns[0, part].shape), dtype=np.float32)
        for tree, found, is_free in zip(trees, values, is_new, strict=True):
            found[:] = tree(X[part]) * is_free[:, None]
        total = np.tensordot(can_serve, values, axes=1)
        columns[:, part] = _columns(total, can_serve @ is_new)
    return columns


def _columns(
    total: NDArray[np.float32], count: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Compute means and logarithms of standard deviations, (..., 2 d).

    A row that no tree serves gets those of all values.

    Parameters
    ----------
    total : ndarray of shape (..., 2 d)
        Sums of the values of trees.
    count : ndarray of shape (...)
        Number of these trees.
    """
    mean, square = np.split(total / np.maximum(count, 1)[..., None], 2, axis=-1)
    square = np.where(count[..., None] > 0, square, 1.0)
    variance = np.maximum(square - mean**2, SMALLEST_VARIANCE)
    return np.concatenate([mean, 0.5 * np.log(variance)], axis=-1)


def _moments(columns: NDArray[np.float32]) -> Tensor:
    """Compute location and scale of the logarithms of columns (n, 2 d), (2, d)."""
    spread = torch.from_numpy(columns).double().chunk(2, dim=1)[1]
    scale = spread.std(0, correction=0).clamp(min=SMALLEST_SCALE)
    return torch.stack([spread.mean(0), scale])


def _as_float32(X: Tensor) -> NDArray[np.float32]:
    """Convert rows to finite numbers in float32."""
    rows: NDArray[np.float32] = X.float().nan_to_num().numpy()
    return rows
