"""Score of an epoch on held-out rows, and the best epoch so far."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from skmdn._data.folds import folds_of
from skmdn._data.scaling import take_rows
from skmdn._training.batches import ListedRows
from skmdn._training.calibration import calibrate, extrapolate
from skmdn.distributed import ALONE, Ranks
from skmdn.nn.likelihood import Calibration, Terms
from skmdn.nn.network import MixtureDensityNetwork

# Rows of one pass through the network while scoring.
EVALUATION_ROWS = 4096


class HeldOutScore:
    """Score and calibration of networks on the rows that each fold holds out."""

    def __init__(self, rows: ListedRows, ranks: Ranks = ALONE) -> None:
        self.rows = rows
        self.ranks = ranks

    def score(
        self, network: MixtureDensityNetwork, start: Calibration
    ) -> tuple[Calibration, float]:
        """Calibrate the pooled density of the members that held each row out.

        Returns
        -------
        calibration : Calibration
        score : float
            Weighted mean log-likelihood under it, in nats; higher is better. The
            floor of the variances is scaled with them here, while `calibrate_` leaves
            it in place: where it acts, the score is slightly too high.
        """
        return self._calibrate(self._terms(network), self.rows.weight, start)

    def calibrations(
        self, network: MixtureDensityNetwork
    ) -> tuple[Calibration, Calibration]:
        """Calibrate the members that share a fold, and all members."""
        n_members, n_folds = network.n_members, len(self.rows.index)
        terms = self._terms(network)
        pooled, _ = self._calibrate(terms, self.rows.weight, Calibration())
        if n_folds == n_members:
            return pooled, pooled
        weight = self.rows.weight[folds_of(n_members, n_folds)]
        alone, _ = self._calibrate(terms, weight, pooled)
        return pooled, extrapolate(alone, pooled, n_members / n_folds, n_members)

    def _calibrate(
        self, terms: Terms, weight: Tensor, start: Calibration
    ) -> tuple[Calibration, float]:
        return calibrate(terms, weight, self.rows.y.shape[1], start, self.ranks)

    @torch.no_grad()
    def _terms(self, network: MixtureDensityNetwork) -> Terms:
        network.eval()
        rows = self.rows
        index = rows.index[folds_of(network.n_members, len(rows.index))]
        parts = [
            network.terms(take_rows(rows.X, part), take_rows(rows.y, part))
            for part in index.split(EVALUATION_ROWS, dim=1)
        ]
        return Terms(
            *(torch.cat(part, dim=-1).cpu() for part in zip(*parts, strict=True))
        )


class EarlyStopping:
    """Best score and weights so far, and the number of epochs without progress.

    Scores are compared in nats, absolutely: a relative tolerance would count a
    decrease of a negative score as progress.
    """

    def __init__(self, values: Tensor, score: float = -math.inf) -> None:
        self.score = score
        self.values = values.clone()
        self.stale = 0

    def update(
        self, score: float, values: Tensor, tol: float, *, keep_last: bool
    ) -> None:
        """Record one epoch, and its weights if they are the best or `keep_last`."""
        self.stale = 0 if score > self.score + tol else self.stale + 1
        if score > self.score or keep_last:
            self.values.copy_(values)
        self.score = max(self.score, score)
