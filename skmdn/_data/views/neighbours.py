"""Nearest rows in the metric of a kernel, of other groups than a row's own."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from skmdn._data.views.kernel import Kernel


class Neighbours:
    """Search for the nearest of some rows.

    Parameters
    ----------
    kernel : Kernel
        Its length-scales are the unit of distance.
    X : Tensor of shape (n, n_features)
    group : Tensor of shape (n,), default=None
        Rows of a group are not neighbours of each other.
    """

    def __init__(self, kernel: Kernel, X: Tensor, group: Tensor | None = None) -> None:
        self.kernel = kernel
        self.group = None if group is None else group.numpy()
        self.size = len(X)
        self.index = NearestNeighbors().fit(kernel.scaled(X).numpy())

    def of(self, X: Tensor, n_neighbours: int) -> Tensor:
        """Return the nearest rows of each row of X, (m, n_neighbours)."""
        n_neighbours = min(n_neighbours, self.size)
        return torch.from_numpy(self._search(self.kernel.scaled(X), n_neighbours))

    def of_others(
        self, X: Tensor, group: Tensor, n_neighbours: int
    ) -> tuple[Tensor, Tensor]:
        """Return the nearest rows of other groups, and which of them exist.

        Parameters
        ----------
        X : Tensor of shape (m, n_features)
        group : Tensor of shape (m,)
        n_neighbours : int

        Returns
        -------
        neighbours : Tensor of shape (m, n_neighbours)
            Any rows where there are too few of other groups.
        exists : Tensor of shape (m, n_neighbours)
        """
        assert self.group is not None
        scaled, own = self.kernel.scaled(X), group.numpy()[:, None]
        n_neighbours = min(n_neighbours, self.size)
        found = np.zeros((len(X), n_neighbours), dtype=np.int64)
        exists = np.zeros((len(X), n_neighbours), dtype=bool)
        # Most rows are done at once; those among many of their group are searched
        # again, further away.
        left, n_searched = np.arange(len(X)), min(n_neighbours + 1, self.size)
        while len(left):
            candidates = self._search(scaled[left], n_searched)
            is_other = self.group[candidates] != own[left]
            first = np.argsort(~is_other, axis=1, kind="stable")[:, :n_neighbours]
            found[left] = np.take_along_axis(candidates, first, axis=1)
            exists[left] = np.take_along_axis(is_other, first, axis=1)
            if n_searched == self.size:
                break
            left = left[~exists[left].all(axis=1)]
            n_searched = min(2 * n_searched, self.size)
        return torch.from_numpy(found), torch.from_numpy(exists)

    def _search(self, scaled: Tensor, n_searched: int) -> NDArray[np.int64]:
        found: NDArray[np.int64] = self.index.kneighbors(
            scaled.numpy(), n_searched, return_distance=False
        )
        return found
