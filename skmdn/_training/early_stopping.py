"""Score of an epoch on held-out rows, and the best epoch so far."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from skmdn._data.matrices import take_rows
from skmdn._training.batches import ListedRows
from skmdn.nn.network import MixtureDensityNetwork
from skmdn.nn.terms import Terms

# Rows of one pass through the network while scoring.
EVALUATION_ROWS = 4096


@torch.no_grad()
def held_out_terms(
    network: MixtureDensityNetwork, folds: Tensor, rows: ListedRows
) -> Terms:
    """Compute the terms of the rows that members held out, on the CPU.

    Parameters
    ----------
    network : MixtureDensityNetwork
    folds : Tensor of shape (n_lists, n_members)
        Lists of rows that each member is evaluated on, its own fold first.
    rows : ListedRows

    Returns
    -------
    terms : Terms of n_lists * n_members cases
    """
    network.eval()
    of_lists = []
    fold = folds[0].to(rows.index.device)
    for index in rows.index[folds]:
        parts = [
            network.terms(take_rows(rows.X, part, fold), take_rows(rows.y, part))
            for part in index.split(EVALUATION_ROWS, dim=1)
        ]
        of_lists.append(Terms.cat(parts, dim=-1).map(Tensor.cpu))
    return Terms.cat(of_lists)


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
        self, score: float, values: Tensor, tol: float, n_epochs: int = 1
    ) -> bool:
        """Record the last of n epochs; keep its weights if they are the best.

        Returns
        -------
        is_best : bool
        """
        self.stale = 0 if score > self.score + tol else self.stale + n_epochs
        is_best = score > self.score
        if is_best:
            self.values.copy_(values)
            self.score = score
        return is_best
