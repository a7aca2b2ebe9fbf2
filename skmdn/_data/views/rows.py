"""Training rows as views see them: standardised features and normal scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from torch import Tensor

from skmdn._data.folds import evenly

# Pairs of a value and its score that are kept of each output.
MOST_KNOTS = 1000
# Bounds of the weight of a row, relative to the mean. Its noise is the inverse, without
# which float32 could not store it, or a covariance matrix could be singular.
WEIGHT_RANGE = 1e-6, 1e4


class NormalScores(NamedTuple):
    """A monotone map of each output to normal scores.

    Parameters
    ----------
    knots, scores : ndarray of shape (d, n_knots)
        Values, ascending, and their scores; linear in between, constant outside.
    """

    knots: NDArray[np.float64]
    scores: NDArray[np.float64]

    @classmethod
    def fit(cls, y: NDArray[np.float64], weight: NDArray[np.float64]) -> NormalScores:
        """Find the normal quantiles of the ranks of y, (n, d), of unit variance.

        The level of a value is the weight below it and half of that of its ties; a
        constant becomes zero.
        """
        columns = [_scores_of_column(column, weight) for column in y.T]
        size = max(len(knots) for knots, _ in columns)
        padded = [
            [np.pad(part, (0, size - len(part)), mode="edge") for part in pair]
            for pair in columns
        ]
        knots, scores = np.stack(padded, axis=1)
        return cls(knots, scores)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> NormalScores:
        """Rebuild a map from its arrays, which are copied."""
        return cls(np.array(state["knots"]), np.array(state["scores"]))

    def __call__(self, y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map y, (n, d)."""
        columns = zip(y.T, *self, strict=True)
        return np.stack([np.interp(*column) for column in columns], axis=1)


def _scores_of_column(
    values: NDArray[np.float64], weight: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    distinct, rank = np.unique(values, return_inverse=True)
    of_rank = np.bincount(rank, weights=weight)
    level = (of_rank.cumsum() - 0.5 * of_rank) / of_rank.sum()
    eps = np.finfo(np.float64).eps
    scores = ndtri(level.clip(eps, 1 - eps))
    std = np.sqrt(of_rank @ scores**2 / of_rank.sum())
    kept = np.arange(len(distinct))
    if len(distinct) > MOST_KNOTS:
        # Half of them evenly by number, and half by score, for the tails.
        ends = np.linspace(scores[0], scores[-1], MOST_KNOTS // 2)
        by_score = scores.searchsorted(ends)
        kept = np.union1d(evenly(len(distinct), MOST_KNOTS // 2), by_score)
    return distinct[kept], scores[kept] / (std if std > 0 else 1.0)


class ViewRows(NamedTuple):
    """Training rows as views see them, on the CPU in float64.

    Parameters
    ----------
    X : Tensor of shape (n, n_features)
        Standardised.
    values : Tensor of shape (n, d)
        Normal scores of y.
    weight : Tensor of shape (n,)
        Of mean one, within `WEIGHT_RANGE`.
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
        values: NDArray[np.float64],
        weight: NDArray[np.float64],
        group: Tensor,
    ) -> ViewRows:
        """Scale the weights."""
        return cls(
            X.to("cpu", torch.float64),
            torch.from_numpy(values),
            torch.from_numpy(np.clip(weight / weight.mean(), *WEIGHT_RANGE)),
            group,
        )

    def select(self, index: Tensor) -> ViewRows:
        """Return some of the rows."""
        return ViewRows(*(part[index] for part in self))
