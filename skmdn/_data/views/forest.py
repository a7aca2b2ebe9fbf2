"""Regression trees as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.tree import ExtraTreeRegressor

# Of a leaf; with fewer rows, its mean square says nothing of the noise.
FEWEST_ROWS_OF_LEAF = 5
# Share of the features among which a split is chosen.
MAX_FEATURES = 0.7


class Tree(NamedTuple):
    """Nodes of a tree, the root first, and the two children of a node side by side.

    Parameters
    ----------
    feature : ndarray of shape (n_nodes,)
        Feature of the split.
    threshold : ndarray of shape (n_nodes,)
        Rows above it, in float32, go to the second child; infinite for leaves.
    child : ndarray of shape (n_nodes,)
        First child; a leaf is its own.
    values : ndarray of shape (n_nodes, n_values)
        Weighted means of the rows of a leaf; zero elsewhere.
    depth : int
    """

    feature: NDArray[np.int32]
    threshold: NDArray[np.float32]
    child: NDArray[np.int32]
    values: NDArray[np.float32]
    depth: int

    @classmethod
    def grow(
        cls,
        X: NDArray[np.float32],
        y: NDArray[np.float64],
        values: NDArray[np.float64],
        weight: NDArray[np.float64],
        seed: int,
    ) -> Tree:
        """Grow a tree with random thresholds (Geurts et al. 2006).

        Parameters
        ----------
        X : ndarray of shape (n, n_features)
        y : ndarray of shape (n, d)
            The variance of which the splits reduce.
        values : ndarray of shape (n, n_values)
            What the leaves keep.
        weight : ndarray of shape (n,)
        seed : int
        """
        model = ExtraTreeRegressor(
            min_samples_leaf=FEWEST_ROWS_OF_LEAF,
            max_features=MAX_FEATURES,
            random_state=seed,
        ).fit(X, y, sample_weight=weight)
        tree = model.tree_
        place, child = _by_level(tree.children_left, tree.children_right)
        is_leaf = tree.children_left < 0
        feature = np.where(is_leaf, 0, tree.feature).astype(np.int32)
        # The largest number in float32 that is not above the threshold.
        threshold = tree.threshold.astype(np.float32)
        is_above = threshold > tree.threshold
        threshold[is_above] = np.nextafter(threshold[is_above], np.float32(-np.inf))
        threshold[is_leaf] = np.inf
        leaf = model.apply(X)
        sums = [np.bincount(leaf, weight * v, len(child)) for v in values.T]
        total = np.bincount(leaf, weight, len(child))
        means = np.stack(sums, axis=1) / np.where(total > 0, total, 1.0)[:, None]
        order = place.argsort()
        return cls(
            feature[order],
            threshold[order],
            child,
            means[order].astype(np.float32),
            int(tree.max_depth),
        )

    @classmethod
    def constant(cls, values: NDArray[np.float64]) -> Tree:
        """Return a tree of a single leaf."""
        return cls(
            np.zeros(1, dtype=np.int32),
            np.full(1, np.inf, dtype=np.float32),
            np.zeros(1, dtype=np.int32),
            values.astype(np.float32)[None],
            depth=0,
        )

    def __call__(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the values of the leaves of rows (m, n_features), (m, n_values)."""
        flat, begin = X.ravel(), np.arange(len(X)) * X.shape[1]
        node = np.zeros(len(X), dtype=np.int32)
        for _ in range(self.depth):
            is_above = flat.take(begin + self.feature.take(node)) > self.threshold.take(
                node
            )
            node = self.child.take(node) + is_above
        return self.values[node]


def _by_level(
    left: NDArray[np.intp], right: NDArray[np.intp]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Renumber the nodes level by level, with siblings side by side.

    Returns
    -------
    place : ndarray of shape (n_nodes,)
        New number of each node.
    child : ndarray of shape (n_nodes,)
        First child of each node, in the new order; a leaf is its own.
    """
    place = np.zeros(len(left), dtype=np.int32)
    child = np.arange(len(left), dtype=np.int32)
    level, n_placed = np.zeros(1, dtype=np.intp), 1
    while len(level):
        inner = level[left[level] >= 0]
        level = np.stack([left[inner], right[inner]], axis=1).ravel()
        place[level] = n_placed + np.arange(len(level))
        child[place[inner]] = place[left[inner]]
        n_placed += len(level)
    return place, child


def to_arrays(trees: list[Tree]) -> dict[str, Any]:
    """Concatenate the arrays of trees."""
    names = Tree._fields[:-1]
    arrays = {k: np.concatenate([getattr(t, k) for t in trees]) for k in names}
    sizes = np.array([len(tree.child) for tree in trees])
    return arrays | {"sizes": sizes, "depths": np.array([t.depth for t in trees])}


def from_arrays(arrays: Mapping[str, Any]) -> list[Tree]:
    """Undo `to_arrays`; arrays are copied."""
    ends = np.cumsum(arrays["sizes"])[:-1]
    parts = [np.split(np.array(arrays[name]), ends) for name in Tree._fields[:-1]]
    return [Tree(*tree) for tree in zip(*parts, arrays["depths"].tolist(), strict=True)]
