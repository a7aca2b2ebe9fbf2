"""Nearest rows in the metric of a kernel, of other groups than a row's own."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from skmdn._data.views.kernel import Kernel

# Neighbours of a training row.
N_NEIGHBOURS = 32
# Candidates of a row before its own group is taken out of the search.
MOST_CANDIDATES = 256


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
        self.rows = kernel.scaled(X).numpy()
        self.index = NearestNeighbors().fit(self.rows)

    def of(self, X: Tensor, n_neighbours: int) -> Tensor:
        """Return the nearest rows of each row of X, (m, n_neighbours)."""
        n_neighbours = min(n_neighbours, self.size)
        scaled = self.kernel.scaled(X).numpy()
        return torch.from_numpy(self._search(scaled, n_neighbours))

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
        scaled, own = self.kernel.scaled(X).numpy(), group.numpy()
        n_neighbours = min(n_neighbours, self.size)
        found = np.zeros((len(X), n_neighbours), dtype=np.int64)
        exists = np.zeros((len(X), n_neighbours), dtype=bool)
        # Most rows are done at once; those among many of their group are searched
        # again, further away.
        left, n_searched = np.arange(len(X)), min(n_neighbours + 1, self.size)
        while len(left) and n_searched <= max(MOST_CANDIDATES, n_neighbours + 1):
            candidates = self._search(scaled[left], n_searched)
            is_other = self.group[candidates] != own[left, None]
            first = np.argsort(~is_other, axis=1, kind="stable")[:, :n_neighbours]
            found[left] = np.take_along_axis(candidates, first, axis=1)
            exists[left] = np.take_along_axis(is_other, first, axis=1)
            if n_searched == self.size:
                return torch.from_numpy(found), torch.from_numpy(exists)
            left = left[~exists[left].all(axis=1)]
            n_searched = min(2 * n_searched, self.size)
        for number in np.unique(own[left]):
            members = left[own[left] == number]
            others = np.flatnonzero(self.group != number)
            n_found = min(n_neighbours, len(others))
            exists[members] = np.arange(n_neighbours) < n_found
            if n_found:
                index = NearestNeighbors().fit(self.rows[others])
                near = index.kneighbors(scaled[members], n_found, return_distance=False)
                found[members, :n_found] = others[near]
        return torch.from_numpy(found), torch.from_numpy(exists)

    def _search(
        self, scaled: NDArray[np.float64], n_searched: int
    ) -> NDArray[np.int64]:
        found: NDArray[np.int64] = self.index.kneighbors(
            scaled, n_searched, return_distance=False
        )
        return found
