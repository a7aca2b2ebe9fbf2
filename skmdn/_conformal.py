"""Intervals whose coverage is that of held-out targets.

A target has the score |F(y) - 1/2| under the density of the networks that held out its
row (Chernozhukov et al. 2021), or of a fit without one of equal rows. The interval of a
new row has all y whose score, under the density of all networks, is not above nearly
all of these: the jackknife of Barber et al. (2021, section 2) with folds in the place
of rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

ROUNDING = 1e-9  # of numbers of rows


class HeldOutScores(NamedTuple):
    """Scores of held-out targets in increasing order.

    Parameters
    ----------
    scores, weight : ndarray of shape (n,)
        The weights add up to the effective number of groups, (sum w)^2 / sum w^2 of the
        weights of groups (Kish 1965); without groups, of rows.
    """

    scores: NDArray[np.float64]
    weight: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        levels: NDArray[np.float64],
        weight: NDArray[np.float64],
        codes: NDArray[np.uint64] | None = None,
    ) -> HeldOutScores:
        """Compute scores from F(y) of each row and its weight, both (n,).

        Groups, given by the code of each row, are exchangeable and their rows are not:
        a new group counts as one of them (Lee, Barber and Willett 2023).
        """
        of_group: NDArray[Any] = weight
        if codes is not None:
            of_group = np.bincount(np.unique(codes, return_inverse=True)[1], weight)
        weight = weight * (weight.sum() / np.square(of_group).sum())
        scores = np.abs(levels - 0.5)
        order = np.argsort(scores, kind="stable")
        return cls(scores[order], weight[order])

    @property
    def n_effective(self) -> float:
        """Effective number of rows, or of groups."""
        return float(self.weight.sum())

    def quantile(self, confidence: float) -> float:
        """Return the score that a new target exceeds with probability 1 - confidence.

        It is 1/2, the largest that there can be, where there are too few rows: of n + 1
        scores the new one is the largest with probability 1 / (n + 1).
        """
        above = (1 - confidence) * (self.n_effective + 1) - 1
        if above < -ROUNDING:
            return 0.5
        at_least = self.weight[::-1].cumsum()[::-1]
        n_inside = np.count_nonzero(at_least > above + ROUNDING)
        return float(self.scores[n_inside - 1]) if n_inside else 0.0

    def to_state(self) -> dict[str, Any]:
        """Convert to arrays."""
        return self._asdict()

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> HeldOutScores:
        """Rebuild scores from a state."""
        return cls(*(np.array(state[name]) for name in cls._fields))
