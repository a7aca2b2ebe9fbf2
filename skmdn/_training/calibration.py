"""Calibration of the densities on held-out rows.

Networks are overconfident on the rows that they trained on. Two numbers, shared by all
networks, are fitted to held-out rows: a factor of all precision factors, and an inverse
temperature of all weights. Neither moves a mean, so that networks can train as long as
their means improve, beyond the minimum of their own held-out loss.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from skmdn._training.pooling import Pooling
from skmdn.distributed import ALONE, Ranks
from skmdn.nn.likelihood import Calibration
from skmdn.nn.terms import Terms

MAX_NEWTON_STEPS = 20
# In nats: about what is left to gain at the end.
SMALLEST_GAIN = 1e-7
# Numbers per block of rows; blocks of this size stay in the cache.
BLOCK_NUMBERS = 2**17
# Smallest ratio of the extrapolated variance to the pooled one.
SMALLEST_EXTRAPOLATION = 0.25


def calibrate(
    terms: Terms,
    weight: Tensor,
    pooling: Pooling,
    start: Calibration,
    ranks: Ranks = ALONE,
    smallest_gain: float = SMALLEST_GAIN,
) -> tuple[Calibration, float]:
    """Maximise the pooled log-likelihood of held-out rows by Newton's method.

    A standard normal prior on both logarithms limits the influence of few rows.

    Parameters
    ----------
    terms : Terms
    weight : Tensor of shape (n_folds, n)
        Zero for rows that do not count.
    pooling : Pooling
    start : Calibration
        First point of the iteration.
    ranks : Ranks
    smallest_gain : float
        The iteration ends before a step that would gain less, in nats.

    Returns
    -------
    calibration : Calibration
    score : float
        Mean log-likelihood under it, in nats; minus infinity, with `start` as it
        was, where the terms are not finite.
    """
    if ranks.max([not terms.is_finite]).any():
        return start, -math.inf
    blocks = Blocks.of(terms, weight, pooling, ranks)
    point = torch.tensor(start, dtype=torch.float64, device="cpu")
    score, objective, gradient, hessian = _objective(point, blocks)
    for _ in range(MAX_NEWTON_STEPS):
        # The absolute curvature gives a direction of ascent where the objective is
        # not concave.
        curvatures, axes = torch.linalg.eigh(hessian)
        step = axes @ ((axes.T @ gradient) / curvatures.abs().clamp(min=1e-3))
        step /= max(1.0, float(step.norm()))
        ranks.broadcast_(step)  # the last bit can differ between processors
        if float(gradient @ step) / 2 < smallest_gain:
            break
        trial = _objective(point + step, blocks)
        while trial[1] < objective and float(step.norm()) > 1e-6:
            step = step / 4
            trial = _objective(point + step, blocks)
        if trial[1] < objective:
            break
        point, (score, objective, gradient, hessian) = point + step, trial
    return Calibration(*point.tolist()), score


class Blocks(NamedTuple):
    """Terms and shares (n_folds, n) of rows in blocks that stay in the cache.

    Over all ranks, the shares add up to one, and `n_rows` counts the rows.
    """

    terms: list[Terms]
    shares: list[Tensor]
    pooling: Pooling
    n_rows: int
    ranks: Ranks

    @classmethod
    def of(
        cls,
        terms: Terms,
        weight: Tensor,
        pooling: Pooling,
        ranks: Ranks,
    ) -> Blocks:
        """Split rows (..., n) into blocks."""
        length = max(1, BLOCK_NUMBERS // terms.floats_per_row)
        total, n_rows = ranks.sum([weight.double().sum(), (weight > 0).sum()])
        share = weight.double() / total
        return cls(
            terms.map(Tensor.double).split(length),
            list(share.split(length, dim=-1)),
            pooling,
            int(n_rows),
            ranks,
        )


def extrapolate(
    alone: Calibration, pooled: Calibration, n_pooled: float, n_members: float
) -> Calibration:
    """Calibrate all members, given calibrations of one and of a few that held rows out.

    With v the variance of the members' means, the mean of a pool of G members errs by
    v / G and by an error common to all members; and the spread of the members already
    supplies v (1 - 1/G) of the variance that this requires. The remainder, exp(-2 s) of
    the members' own variance, is linear in 1/G, and two points of the line give its
    value at 1/n_members. The inverse temperature is taken to be linear in 1/G too.
    The step beyond the second point is at most the distance of the two: where one kind
    dominates a pool of few, they lie close together, and say little.
    """
    if not 1 < n_pooled < n_members:
        return pooled
    ratio = min(1.0, (1 / n_pooled - 1 / n_members) / (1 - 1 / n_pooled))
    one, few = math.exp(-2 * alone[0]), math.exp(-2 * pooled[0])
    variance = max(few - ratio * (one - few), SMALLEST_EXTRAPOLATION * few)
    log_inverse_temperature = pooled.log_inverse_temperature + ratio * (
        pooled.log_inverse_temperature - alone.log_inverse_temperature
    )
    return Calibration(-0.5 * math.log(variance), log_inverse_temperature)


def _objective(point: Tensor, rows: Blocks) -> tuple[float, float, Tensor, Tensor]:
    """Compute score and penalised score, and gradient and Hessian of the latter."""
    blocks = [
        _derivatives(point, terms, share, rows.pooling)
        for terms, share in zip(rows.terms, rows.shares, strict=True)
    ]
    score, *others = rows.ranks.all_reduce_(torch.stack(blocks).sum(0))
    gradient, hessian = torch.stack(others).split([2, 4])
    objective = float(score - point.square().sum() / (2 * rows.n_rows))
    gradient = gradient - point / rows.n_rows
    prior = torch.eye(2, dtype=hessian.dtype, device="cpu") / rows.n_rows
    return float(score), objective, gradient, hessian.view(2, 2) - prior


def _derivatives(
    point: Tensor, terms: Terms, share: Tensor, pooling: Pooling
) -> Tensor:
    """Compute the summed log-likelihood, its gradient (2) and its Hessian (4), (7,).

    With s the log-sharpness and t the log-inverse-temperature, the joint log-density
    of a component is e^t a - log sum e^(e^t a) + b(s), and that of the pool is the
    logsumexp over components and members. The derivatives are means under the
    responsibilities r: E_r[l'] and E_r[l''] + Cov_r[l'].
    """
    logits = math.exp(float(point[1])) * terms.log_weights
    log_weights = logits.log_softmax(1)
    joint, constant, grad_sharpness, bend_sharpness = terms.sharpen(
        log_weights, float(point[0])
    )
    pooled = pooling.pool(joint.logsumexp(1))

    fold = pooling.fold
    shift = pooled[fold] - pooling.log_weights[:, None]
    r = (joint - shift[:, None]).exp()
    pooled = pooled + constant
    weights = log_weights.exp()
    logit_mean = (weights * logits).sum(1, keepdim=True)
    grad_temperature = logits - logit_mean
    bend = grad_temperature - (weights * grad_temperature.square()).sum(1, keepdim=True)

    def mean(values: Tensor) -> Tensor:
        """Average under the responsibilities, (n_folds, n)."""
        total = (r * values).sum(1)
        return total.new_zeros(pooled.shape).index_add_(0, fold, total)

    first = torch.stack([mean(grad_sharpness), mean(grad_temperature)])
    cross = mean(grad_sharpness * grad_temperature)
    second = torch.stack(
        [
            mean(grad_sharpness.square() + bend_sharpness),
            cross,
            cross,
            mean(grad_temperature.square() + bend),
        ]
    ).unflatten(0, (2, 2))
    second = second - first[:, None] * first[None, :]
    values = torch.cat([pooled[None], first, second.flatten(0, 1)])
    return (share * values).sum((1, 2))
