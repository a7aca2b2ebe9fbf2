"""Views: further features of a row, made from other rows and their targets.

A view is fitted on all training rows. Its columns of a training row never use the
target of that row, nor, with groups, any target of its group; and those that the
networks of a fold see never use a target of the rows that these hold out.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import rankdata
from torch import Tensor


class ViewRows(NamedTuple):
    """Training rows as views see them, on the CPU in float64.

    Parameters
    ----------
    X : Tensor of shape (n, n_features)
        Standardised.
    values : Tensor of shape (n, d)
        Normal scores of y.
    weight : Tensor of shape (n,)
        Of mean one.
    group : Tensor of shape (n,)
        Rows that are equal here do not see each other's targets; each row by itself
        where the fit has no groups.
    """

    X: Tensor
    values: Tensor
    weight: Tensor
    group: Tensor

    @classmethod
    def of(
        cls,
        X: Tensor,
        y: NDArray[np.float64],
        weight: NDArray[np.float64],
        group: NDArray[np.intp] | None = None,
    ) -> ViewRows:
        """Replace y (n, d) by normal scores, and number the groups."""
        values = np.stack([normal_scores(column, weight) for column in y.T], axis=1)
        number = np.arange(len(y)) if group is None else group
        return cls(
            X.to("cpu", torch.float64),
            torch.from_numpy(values),
            torch.from_numpy(weight / weight.mean()),
            torch.from_numpy(number.astype(np.int64)),
        )

    def select(self, index: Tensor) -> ViewRows:
        """Return some of the rows."""
        return ViewRows(*(part[index] for part in self))


def normal_scores(
    values: NDArray[np.float64], weight: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Map values (n,) to normal quantiles of their ranks, of standard deviation one.

    The level of a value is the weight below it and half of that of its ties; a
    constant becomes zero.
    """
    rank = rankdata(values, "dense") - 1
    of_rank = np.bincount(rank, weights=weight)
    level = (of_rank.cumsum() - 0.5 * of_rank) / of_rank.sum()
    scores = ndtri(level)[rank]
    std = np.sqrt(weight @ scores**2 / weight.sum())
    normalised: NDArray[np.float64] = scores / std if std > 0 else scores
    return normalised
