"""Held-out rows: what they say of the networks, and which epoch was the best."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from skmdn._calibration import Calibration, Terms, calibrate, extrapolate
from skmdn._rows import LazyRows, ScaledRows, Subset, evenly, folds_of, take_rows
from skmdn.distributed import ALONE, Ranks
from skmdn.nn import MixtureDensityNetwork

__all__ = ["Best", "HeldOut"]

# Rows of one pass through the network while validating.
EVALUATION_ROWS = 4096
# Held-out rows that validation reads at most, over all folds: enough for the score's
# third digit, and for two numbers of calibration.
MOST_HELD_OUT_ROWS = 2**16


@dataclass(frozen=True)
class HeldOut:
    """Held-out rows in lists, one for each fold.

    Shapes: X (n, n_features), y (n, d), index and weight (n_folds, n_held_out).
    """

    X: Tensor | LazyRows
    y: Tensor
    index: Tensor
    weight: Tensor
    ranks: Ranks = ALONE

    @classmethod
    def of(cls, rows: ScaledRows, subset: Subset, ranks: Ranks = ALONE) -> HeldOut:
        """Take the rows of a subset, or many of them evenly spread over its lists."""
        n_folds, n_rows = subset.rows.shape
        share = MOST_HELD_OUT_ROWS / (n_folds * float(ranks.sum(n_rows)))
        taken = evenly(n_rows, int(min(1, share) * n_rows))
        index, counts = subset.rows[:, taken], subset.counts[:, taken]
        weight = rows.weight[index] * counts
        return cls(rows.X, rows.y, index.to(rows.y.device), weight, ranks)

    def score(
        self, network: MixtureDensityNetwork, start: Calibration
    ) -> tuple[Calibration, float]:
        """Calibrate the pooled density of the members that held each row out.

        Returns
        -------
        calibration : Calibration
        score : float
            Weighted mean log-likelihood under it, in nats. The floor of the variances
            is scaled with them here, while `calibrate_` leaves it in place: where it
            acts, the score is a little too high.
        """
        return self._calibrate(self._terms(network), self.weight, start)

    def calibrations(
        self, network: MixtureDensityNetwork
    ) -> tuple[Calibration, Calibration]:
        """Calibrations of the members that share a fold, and of all members."""
        n_members, n_folds = network.n_members, len(self.index)
        terms = self._terms(network)
        pooled, _ = self._calibrate(terms, self.weight, Calibration())
        if n_folds == n_members:
            return pooled, pooled
        weight = self.weight[folds_of(n_members, n_folds)]
        alone, _ = self._calibrate(terms, weight, pooled)
        return pooled, extrapolate(alone, pooled, n_members / n_folds, n_members)

    def _calibrate(
        self, terms: Terms, weight: Tensor, start: Calibration
    ) -> tuple[Calibration, float]:
        return calibrate(terms, weight, self.y.shape[1], start, self.ranks)

    @torch.no_grad()
    def _terms(self, network: MixtureDensityNetwork) -> Terms:
        network.eval()
        index = self.index[folds_of(network.n_members, len(self.index))]
        parts = [
            network.terms(take_rows(self.X, part), take_rows(self.y, part))
            for part in index.split(EVALUATION_ROWS, dim=1)
        ]
        return Terms(
            *(torch.cat(part, dim=-1).cpu() for part in zip(*parts, strict=True))
        )


class Best:
    """The best epoch so far, and for how many the score has not progressed.

    Scores are compared in nats, absolutely: a relative rule takes a worse loss for
    progress where it is negative.
    """

    def __init__(self, score: float, values: Tensor) -> None:
        self.score = score
        self.values = values.clone()
        self.stale = 0

    def update(
        self, score: float, values: Tensor, tol: float, *, keep_last: bool
    ) -> None:
        """Take in one epoch."""
        self.stale = 0 if score > self.score + tol else self.stale + 1
        if score > self.score or keep_last:
            self.values.copy_(values)
        self.score = max(self.score, score)
