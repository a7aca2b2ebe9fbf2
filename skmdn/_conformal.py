"""Intervals whose coverage has a lower bound: cross-conformal prediction.

A target has the score |F(y) - 1/2| under the density of the networks that held out its
row. A new y is in the interval unless it is stranger, under the density of fold k, than
nearly all held-out targets of fold k, over all folds k (Vovk 2015; the CV+ of Barber et
al. 2021, with the scores of Chernozhukov et al. 2021).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skmdn._mixture import Mixture, univariate
from skmdn._utils.arrays import to_tensor

N_BISECTIONS = 60
# Standard deviations from the mean within which all of a Gaussian lies, in float64.
WIDEST = 10.0


class HeldOutScores(NamedTuple):
    """Scores of held-out targets, sorted within each fold.

    Parameters
    ----------
    scores, weight : list of ndarray
        Of each fold. All weights add up to the effective number of groups, (sum w)^2 /
        sum w^2 of the weights of groups (Kish 1965); without groups, of rows.
    """

    scores: list[NDArray[np.float64]]
    weight: list[NDArray[np.float64]]

    @classmethod
    def of(
        cls,
        levels: NDArray[np.float64],
        fold: NDArray[np.int8],
        weight: NDArray[np.float64],
        codes: NDArray[np.uint64] | None = None,
    ) -> HeldOutScores:
        """Compute scores from F(y) of each row, its fold and its weight, all (n,).

        Groups, given by the code of each row, are exchangeable and their rows are not:
        a new group counts as one of them (Lee, Barber and Willett 2023).
        """
        of_group: NDArray[Any] = weight
        if codes is not None:
            of_group = np.bincount(np.unique(codes, return_inverse=True)[1], weight)
        weight = weight * (weight.sum() / np.square(of_group).sum())
        scores = np.abs(levels - 0.5)
        order = np.lexsort((scores, fold))
        edges = np.flatnonzero(np.diff(fold[order])) + 1
        return cls(np.split(scores[order], edges), np.split(weight[order], edges))

    @property
    def n_effective(self) -> float:
        """Effective number of rows, or of groups."""
        return float(sum(weight.sum() for weight in self.weight))

    def intervals(self, mixtures: Mixture, confidence: float) -> Tensor:
        """Compute the interval of each row, (n, 2), infinite where there are too few.

        Parameters
        ----------
        mixtures : Mixture
            Of one output, under the networks of each fold, (n_folds, n, K).
        confidence : float
        """
        least = (1 - confidence) * (self.n_effective + 1) - 1
        tails = [
            (to_tensor(scores), to_tensor(np.append(weight[::-1].cumsum()[::-1], 0.0)))
            for scores, weight in zip(self.scores, self.weight, strict=True)
        ]

        def is_inside(y: Tensor) -> Tensor:
            """Whether held-out targets of enough weight are as strange as y (n,)."""
            strangeness = (univariate.cdf(mixtures, y[:, None]) - 0.5).abs()
            total = torch.zeros_like(y)
            for (scores, tail), own in zip(tails, strangeness, strict=True):
                total += tail[torch.searchsorted(scores, own)]
            return total > least

        pooled = Mixture(*(part.transpose(0, 1).flatten(1, 2) for part in mixtures))
        pooled = pooled._replace(log_weights=pooled.log_weights - np.log(len(tails)))
        half = pooled.means.new_full((len(pooled.means),), 0.5)
        middle = univariate.ppf(pooled, half)[:, 0]
        spread = WIDEST / pooled.precision_factors[..., 0, 0]
        means = pooled.means[..., 0]
        ends = (means - spread).amin(1), (means + spread).amax(1)
        return torch.stack([_edge(is_inside, middle, end) for end in ends], dim=1)

    def to_state(self) -> dict[str, Any]:
        """Convert to arrays and builtins."""
        return {"scores": self.scores, "weight": self.weight}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> HeldOutScores:
        """Rebuild scores from a state."""
        return cls(*(list(map(np.array, state[name])) for name in cls._fields))


def _edge(is_inside: Any, inner: Tensor, outer: Tensor) -> Tensor:
    """Find by bisection where a set ends between two points, (n,)."""
    is_open = is_inside(outer)
    infinite = torch.where(outer > inner, torch.inf, -torch.inf).to(outer)
    for _ in range(N_BISECTIONS):
        middle = (inner + outer) / 2
        inside = is_inside(middle)
        inner, outer = (
            torch.where(inside, middle, inner),
            torch.where(inside, outer, middle),
        )
    return torch.where(is_open, infinite, outer)
