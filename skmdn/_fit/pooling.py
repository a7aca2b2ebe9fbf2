"""The networks of a fit as one calibrated density."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skmdn._training.batches import ListedRows
from skmdn._training.calibration import calibrate, extrapolate
from skmdn._training.pooling import Pooling, gain_of, stack_weights
from skmdn._training.stack import Contender, Stack
from skmdn.distributed import Ranks
from skmdn.nn.likelihood import Calibration
from skmdn.nn.network import MixtureDensityNetwork
from skmdn.nn.pool import NetworkPool
from skmdn.nn.terms import Terms

# A view is kept if it gains more than this over all other kinds, in standard errors.
STANDARD_ERRORS = 2.0


@dataclass(frozen=True)
class PooledNetworks:
    """Networks at their best weights, and their calibrations.

    Parameters
    ----------
    pool : NetworkPool
    sizes : list of dict
        Members of each kind, for each network of the pool.
    views : list of tuple of str
        Parts of views whose columns each network of the pool uses.
    of_fold, of_all : list of Calibration
        Of each member where only those that hold a row out are pooled, and where all
        are.
    scores : dict of float
        Mean held-out log-likelihood of each kind, in nats, less the cost of training.
    score : float
        That of the pool; minus infinity without held-out rows.
    """

    pool: NetworkPool
    sizes: list[dict[str, int]]
    views: list[tuple[str, ...]]
    of_fold: list[Calibration]
    of_all: list[Calibration]
    scores: dict[str, float]
    score: float


def pool_last_weights(
    stacks: Sequence[Stack], weights: Tensor | None = None
) -> PooledNetworks:
    """Pool networks without held-out rows, and so without calibration."""
    pool = NetworkPool([stack.best_network() for stack in stacks], weights)
    neutral = [Calibration()] * pool.n_members
    sizes, views = [s.sizes for s in stacks], [s.views for s in stacks]
    return PooledNetworks(pool, sizes, views, neutral, neutral, {}, -math.inf)


def pool_best_weights(
    stacks: Sequence[Stack], rows: ListedRows, group: Tensor, ranks: Ranks
) -> PooledNetworks:
    """Weight and calibrate the best weights of all kinds by held-out rows.

    Each kind is calibrated first, then weighted by the likelihood that the mixture of
    all members is expected to have; and then the mixture is calibrated as a whole.
    """
    candidates = [
        candidate for stack in stacks for candidate in _candidates(stack, rows, ranks)
    ]
    scores = {each.item.kind: each.score for each in candidates}
    is_viewed = np.array([bool(each.stack.views) for each in candidates])
    log_densities = [each.log_density for each in candidates]
    weights = weights_of_kinds(log_densities, is_viewed, rows, group, ranks).chosen
    # Networks without weight are dropped: a view would be computed in vain.
    used = {each.stack for each, w in zip(candidates, weights, strict=True) if w > 0}
    is_left = np.array([each.stack in used for each in candidates])
    candidates, weights = list(compress(candidates, is_left)), weights[is_left]
    contenders = [each.item for each in candidates]
    shares = _shares(weights, [item.n_members for item in contenders])
    of_cases = _shares(weights, [len(item.cases) for item in contenders])
    fold = torch.cat([item.pooling.fold for item in contenders])
    pooling = Pooling.of(fold, len(rows.index), of_cases)
    terms = Terms.cat([each.terms for each in candidates])
    n_all = float(1 / shares.square().sum())
    of_fold, of_all, score = _calibrations(terms, pooling, n_all, rows, ranks)
    own = [each.calibration for each in candidates for _ in range(each.item.n_members)]
    networks = {each.stack: each.network for each in candidates}
    return PooledNetworks(
        NetworkPool(networks.values(), shares),
        [stack.sizes for stack in networks],
        [stack.views for stack in networks],
        [calibration.then(of_fold) for calibration in own],
        [calibration.then(of_all) for calibration in own],
        scores,
        score,
    )


class _Candidate(NamedTuple):
    """A kind at its best weights, calibrated: its terms, for all of its cases.

    The log-density is that expected of the mixture of all members.
    """

    stack: Stack
    network: MixtureDensityNetwork
    item: Contender
    calibration: Calibration
    score: float
    log_density: Tensor
    terms: Terms


def _candidates(stack: Stack, rows: ListedRows, ranks: Ranks) -> list[_Candidate]:
    """Calibrate each kind of a stack."""
    network, candidates = stack.best_network(), []
    terms = stack.terms(network)
    for item in stack.contenders:
        calibration, score, log_density = item.score(terms, rows, ranks)
        disagreement = item.find_disagreement(terms, rows, ranks, score)
        gain = item.gain_of_pooling(disagreement, item.n_members)
        candidates.append(
            _Candidate(
                stack,
                network,
                item,
                calibration,
                score - item.cost,
                log_density - item.cost + gain,
                terms.select(item.cases).calibrated(calibration),
            )
        )
    return candidates


class KindWeights(NamedTuple):
    """Weights of kinds in a mixture.

    Parameters
    ----------
    best : ndarray of shape (n_kinds,)
        Those of the highest likelihood.
    chosen : ndarray of shape (n_kinds,)
        The same if kinds with a view gain more than noise, or else those without them.
    without_views : ndarray of shape (n_kinds,)
        Those of kinds with a view are zero, unless there are no others.
    """

    best: NDArray[np.float64]
    chosen: NDArray[np.float64]
    without_views: NDArray[np.float64]


def weights_of_kinds(
    log_densities: Sequence[Tensor],
    is_viewed: NDArray[np.bool_],
    rows: ListedRows,
    group: Tensor,
    ranks: Ranks,
) -> KindWeights:
    """Weight kinds by EM; those with a view only if they gain more than noise.

    A view makes predictions slower, and the model larger.

    Parameters
    ----------
    log_densities : sequence of Tensor (n_folds, n)
        Of each kind, on the held-out rows.
    is_viewed : ndarray of shape (n_kinds,)
        Whether a kind has a view.
    rows : ListedRows
    group : Tensor of shape (n_folds, n)
        Number of the group of each of these rows.
    ranks : Ranks
    """
    weights, _ = stack_weights(log_densities, rows.weight, ranks)
    if is_viewed.all() or not is_viewed.any():
        return KindWeights(weights, weights, weights)
    without = np.zeros_like(weights)
    plain = list(compress(log_densities, ~is_viewed))
    without[~is_viewed], _ = stack_weights(plain, rows.weight, ranks)
    gain, error = gain_of(log_densities, rows.weight, weights, without, group)
    is_gain = gain > STANDARD_ERRORS * error
    return KindWeights(weights, weights if is_gain else without, without)


def _shares(weights: NDArray[np.float64], counts: Sequence[int]) -> Tensor:
    """Distribute the weight of each kind over its members or cases."""
    n_each = torch.tensor(counts, dtype=torch.int64, device="cpu")
    return torch.from_numpy(weights / counts).repeat_interleave(n_each)


def _calibrations(
    terms: Terms, pooling: Pooling, n_all: float, rows: ListedRows, ranks: Ranks
) -> tuple[Calibration, Calibration, float]:
    """Calibrate the members that hold out a row, and all members.

    Parameters
    ----------
    terms : Terms
        Of all cases.
    pooling : Pooling
    n_all : float
        Effective number of all members.
    rows : ListedRows
    ranks : Ranks

    Returns
    -------
    of_fold, of_all : Calibration
    score : float
        Mean log-likelihood under the former, in nats.
    """
    n_pooled = pooling.effective_size
    pooled, score = calibrate(terms, rows.weight, pooling, Calibration(), ranks)
    if not 1 < n_pooled < n_all:
        return pooled, pooled, score
    weight = rows.weight[pooling.fold] * pooling.log_weights.exp()[:, None]
    alone, _ = calibrate(terms, weight, pooling.alone(), pooled, ranks)
    return pooled, extrapolate(alone, pooled, n_pooled, n_all), score
