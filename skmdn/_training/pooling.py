"""Pools of members: their densities on held-out rows, and the weights of kinds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skmdn.distributed import ALONE, Ranks

MAX_EM_STEPS = 500
# EM stops where no weight could gain more than this, in nats.
SMALLEST_EM_GAIN = 1e-5
# Of a row that has no density under any kind.
LEAST_LOG_DENSITY = -1e300


class Pooling(NamedTuple):
    """Which members are pooled for each list of rows, and with which weights.

    Parameters
    ----------
    fold : Tensor of shape (n_members,)
        List of rows that a member is evaluated on.
    log_weights : Tensor of shape (n_members,)
        Logarithms of weights that sum to one within each list.
    members : Tensor of shape (n_folds, most)
        Members of each list, padded by n_members.
    """

    fold: Tensor
    log_weights: Tensor
    members: Tensor

    @classmethod
    def of(cls, fold: Tensor, n_folds: int, weights: Tensor | None = None) -> Pooling:
        """Pool the members that hold out the same fold, with weights if given."""
        if weights is None:
            weights = torch.ones(len(fold), dtype=torch.float64, device="cpu")
        totals = weights.new_zeros(n_folds).index_add_(0, fold, weights)
        lists = [(fold == k).nonzero()[:, 0] for k in range(n_folds)]
        members = nn.utils.rnn.pad_sequence(
            lists, batch_first=True, padding_value=len(fold)
        )
        return cls(fold, (weights / totals[fold]).log(), members)

    def alone(self) -> Pooling:
        """Evaluate each member by itself."""
        n_members = len(self.fold)
        return Pooling.of(torch.arange(n_members, device="cpu"), n_members)

    def pool(self, log_densities: Tensor) -> Tensor:
        """Pool log-densities, (n_members, n) -> (n_folds, n)."""
        weighted = log_densities + self.log_weights[:, None].to(log_densities)
        if self.members.numel() > len(weighted):
            padding = weighted.new_full((1, weighted.shape[1]), -math.inf)
            weighted = torch.cat([weighted, padding])
        return weighted[self.members].logsumexp(1)

    @property
    def effective_size(self) -> float:
        """Mean effective number of members of a list, 1 / sum w^2 (Kish 1965)."""
        squares = self.log_weights.new_zeros(len(self.members))
        squares.index_add_(0, self.fold, (2 * self.log_weights).exp())
        return float(squares.reciprocal().mean())


def stack_weights(
    log_densities: Sequence[Tensor],
    weight: Tensor,
    ranks: Ranks = ALONE,
    max_steps: int = MAX_EM_STEPS,
) -> tuple[NDArray[np.float64], float]:
    """Compute the weights of a mixture that maximise its log-likelihood.

    The problem is concave. EM increases the likelihood in every step, and no weights
    gain more than max_k g_k - 1 nats, with g the gradient (Lindsay 1983).

    Parameters
    ----------
    log_densities : sequence of Tensor (n_folds, n)
        Of each kind, on the same rows.
    weight : Tensor of shape (n_folds, n)
        Zero for rows that do not count.

    Returns
    -------
    weights : ndarray of shape (n_kinds,)
    score : float
        Mean log-likelihood, in nats; minus infinity where no kind has a density.
    """
    share = weight / float(ranks.sum(float(weight.sum())))
    is_counted = share > 0
    share = share[is_counted]
    stacked = torch.stack([part[is_counted] for part in log_densities]).double()
    stacked.nan_to_num_(nan=-math.inf)
    largest = stacked.amax(0)
    densities = (stacked - largest.clamp(min=LEAST_LOG_DENSITY)).exp()
    weights = np.full(len(stacked), 1 / len(stacked))
    for _ in range(max_steps if len(stacked) > 1 else 0):
        mixed = torch.from_numpy(weights) @ densities
        gradient = ranks.sum((densities * (share / mixed)).sum(1))
        if not gradient.any() or not np.isfinite(gradient).all():
            break
        weights = weights * gradient
        weights /= weights.sum()
        if gradient.max() < 1 + SMALLEST_EM_GAIN:
            break
    mixed = torch.from_numpy(weights) @ densities
    score = float(ranks.sum(float((share * (mixed.log() + largest)).sum())))
    return weights, score if math.isfinite(score) else -math.inf


def gain_of(
    log_densities: Sequence[Tensor],
    weight: Tensor,
    weights: NDArray[np.float64],
    other_weights: NDArray[np.float64],
    group: Tensor,
) -> tuple[float, float]:
    """Compute what weights gain over others, in nats, and its standard error.

    The error is that of independent groups: gains of rows of one group go together.

    Parameters
    ----------
    log_densities : sequence of Tensor (n_folds, n)
        Of each kind, on the same rows.
    weight : Tensor of shape (n_folds, n)
        Zero for rows that do not count.
    weights, other_weights : ndarray of shape (n_kinds,)
    group : Tensor of shape (n_folds, n)
        Number of the group of each row.
    """
    is_counted = weight > 0
    share = weight[is_counted] / weight.sum()
    stacked = torch.stack([part[is_counted] for part in log_densities]).double()
    first, second = (
        (stacked + torch.from_numpy(each).log()[:, None]).logsumexp(0)
        for each in (weights, other_weights)
    )
    gain = first - second
    mean = share @ gain
    number = group[is_counted]
    of_group = gain.new_zeros(int(number.max()) + 1)
    of_group.index_add_(0, number, share * (gain - mean))
    return float(mean), float(torch.linalg.vector_norm(of_group))


def apportion(
    weights: NDArray[np.float64], n_seats: int, most_seats: int
) -> NDArray[np.intp]:
    """Distribute seats in proportion to weights, by highest averages.

    The rule of Jefferson favours large weights: of two seats the second one goes to
    another kind if this has more than half of the weight of the first.

    Parameters
    ----------
    weights : ndarray of shape (n_kinds,)
    n_seats : int
    most_seats : int
        Of one kind; times the number of kinds, at least `n_seats`.
    """
    seats = np.zeros(len(weights), dtype=np.intp)
    for _ in range(n_seats):
        averages = np.where(seats < most_seats, weights / (seats + 1), -np.inf)
        seats[np.argmax(averages)] += 1
    return seats
