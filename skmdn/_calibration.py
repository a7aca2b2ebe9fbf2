"""How sharp the densities should be, learnt from held-out rows.

A network that has seen a row is too sure of it. Two numbers, shared by all networks,
put that right where no network has: a factor of all precision factors, and a power
of all weights. Neither moves a mean, so networks may train as long as their means
improve, past the point at which their own log-likelihood turns.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from skmdn import _mixture
from skmdn._rows import folds_of
from skmdn.distributed import ALONE, Ranks

__all__ = ["Calibration", "Terms", "calibrate", "extrapolate", "pool_by_fold"]

MAX_NEWTON_STEPS = 20
# A step that promises less, in nats, is the last.
SMALLEST_GAIN = 1e-7
# Numbers of one kind that are handled at once.
BLOCK_NUMBERS = 2**17
# Share of the variance that an extrapolation leaves at least.
SMALLEST_EXTRAPOLATION = 0.25


class Calibration(NamedTuple):
    """Logarithms of the factor of the precision factors and the power of the weights.

    Zero and zero leave a density as it is.
    """

    log_sharpness: float = 0.0
    log_power: float = 0.0

    def after(self, first: Calibration) -> Calibration:
        """What turns a density calibrated by `first` into one calibrated by this."""
        return Calibration(
            *(ours - theirs for ours, theirs in zip(self, first, strict=True))
        )


class Terms(NamedTuple):
    """What the log-density of a row is made of, each (n_members, K, n).

    log p = logsumexp_k(log_weight_k + log_det_k - distance_k / 2) - d/2 log 2 pi.
    """

    log_weights: Tensor
    log_dets: Tensor
    distances: Tensor

    def log_density(self, n_outputs: int) -> Tensor:
        """Log-density under each member, (n_members, n)."""
        joint = self.log_weights + self.log_dets - 0.5 * self.distances
        return joint.logsumexp(1) - 0.5 * n_outputs * _mixture.LOG_2PI


def pool_by_fold(log_densities: Tensor, n_folds: int) -> Tensor:
    """Pool the members of each fold, (n_members, n) -> (n_folds, n).

    Members of a fold hold out the same rows.
    """
    n_members = len(log_densities)
    if n_missing := -n_members % n_folds:
        padding = log_densities.new_full((n_missing, log_densities.shape[1]), -math.inf)
        log_densities = torch.cat([log_densities, padding])
    grouped = log_densities.unflatten(0, (-1, n_folds))
    n_pooled = folds_of(n_members, n_folds).bincount().to(grouped)
    return grouped.logsumexp(0) - n_pooled.log()[:, None]


def calibrate(
    terms: Terms,
    weight: Tensor,
    n_outputs: int,
    start: Calibration,
    ranks: Ranks = ALONE,
) -> tuple[Calibration, float]:
    """Maximise the pooled log-likelihood of held-out rows by Newton's method.

    A standard normal prior on both logarithms keeps few rows from saying too much.

    Parameters
    ----------
    terms : Terms
    weight : Tensor of shape (n_folds, n)
        Zero for rows that do not count.
    n_outputs : int
    start : Calibration

    Returns
    -------
    calibration : Calibration
    score : float
        Mean log-likelihood under it, in nats; minus infinity, with `start` as it
        was, where the terms are not finite.
    """
    if ranks.max([not part.isfinite().all() for part in terms]).any():
        return start, -math.inf
    rows = Rows.of(terms, weight, n_outputs, ranks)
    point = torch.tensor(start, dtype=torch.float64)
    score, objective, gradient, hessian = _objective(point, rows)
    for _ in range(MAX_NEWTON_STEPS):
        # Where it is not concave, minus the absolute curvature still points upwards.
        curvatures, axes = torch.linalg.eigh(hessian)
        step = axes @ ((axes.T @ gradient) / curvatures.abs().clamp(min=1e-3))
        step /= max(1.0, float(step.norm()))
        ranks.first_(step)  # processors may differ in the last bit
        promised = float(gradient @ step) / 2
        trial = _objective(point + step, rows)
        while trial[1] < objective and float(step.norm()) > 1e-6:
            step = step / 4
            trial = _objective(point + step, rows)
        if trial[1] < objective:
            break
        point, (score, objective, gradient, hessian) = point + step, trial
        if promised < SMALLEST_GAIN:
            break
    return Calibration(*point.tolist()), score


class Rows(NamedTuple):
    """Terms and shares (n_folds, n) of rows, in blocks that stay in the cache.

    Shares add up to one, and n_rows counts, over all ranks.
    """

    terms: list[Terms]
    shares: list[Tensor]
    n_outputs: int
    n_rows: int
    ranks: Ranks

    @classmethod
    def of(cls, terms: Terms, weight: Tensor, n_outputs: int, ranks: Ranks) -> Rows:
        n_members, n_components, _ = terms.log_weights.shape
        length = max(1, BLOCK_NUMBERS // (n_members * n_components))
        blocks = (part.double().split(length, dim=-1) for part in terms)
        total, n_rows = ranks.sum([weight.double().sum(), (weight > 0).sum()])
        share = weight.double() / total
        return cls(
            [Terms(*block) for block in zip(*blocks, strict=True)],
            list(share.split(length, dim=-1)),
            n_outputs,
            int(n_rows),
            ranks,
        )


def extrapolate(
    alone: Calibration, pooled: Calibration, n_pooled: float, n_members: int
) -> Calibration:
    """Calibration of all members from those of one and of a few that held rows out.

    With v the variance of the members' means, the mean of a pool of G errs by v / G
    and by what the members have in common; and their spread already supplies
    v (1 - 1/G) of the variance this calls for. So the rest, exp(-2 s) of the
    members' own, is linear in 1/G, and two points of the line give its value at
    1/n_members. The power is taken to be linear there too.
    """
    if not 1 < n_pooled < n_members:
        return pooled
    ratio = (1 / n_pooled - 1 / n_members) / (1 - 1 / n_pooled)
    one, few = math.exp(-2 * alone[0]), math.exp(-2 * pooled[0])
    variance = max(few - ratio * (one - few), SMALLEST_EXTRAPOLATION * few)
    power = pooled.log_power + ratio * (pooled.log_power - alone.log_power)
    return Calibration(-0.5 * math.log(variance), power)


def _objective(point: Tensor, rows: Rows) -> tuple[float, float, Tensor, Tensor]:
    """Score, penalised score, and the gradient and Hessian of the latter."""
    blocks = [
        _derivatives(point, terms, share, rows.n_outputs)
        for terms, share in zip(rows.terms, rows.shares, strict=True)
    ]
    score, *others = rows.ranks.sum_(torch.stack(blocks).sum(0))
    gradient, hessian = torch.stack(others).split([2, 4])
    objective = float(score - point.square().sum() / (2 * rows.n_rows))
    gradient = gradient - point / rows.n_rows
    hessian = hessian.view(2, 2) - torch.eye(2, dtype=hessian.dtype) / rows.n_rows
    return float(score), objective, gradient, hessian


def _derivatives(point: Tensor, terms: Terms, share: Tensor, n_outputs: int) -> Tensor:
    """Summed log-likelihood, its gradient (2) and Hessian (4), in a row of seven.

    With s the log of the sharpness and t that of the power, a component's joint
    log-density is e^t a - log sum e^(e^t a) + d s + b - e^(2s) q / 2, and that of
    the pool the logsumexp over components and members. The derivatives are means
    under the responsibilities r: first ones E_r[l'], second ones E_r[l''] + Cov_r[l'].
    """
    sharpness, power = math.exp(2 * float(point[0])), math.exp(float(point[1]))
    logits = power * terms.log_weights
    log_weights = logits.log_softmax(1)
    distances = sharpness * terms.distances
    joint = log_weights + terms.log_dets - 0.5 * distances
    constant = n_outputs * (float(point[0]) - 0.5 * _mixture.LOG_2PI)
    pooled = pool_by_fold(joint.logsumexp(1), len(share)) + constant

    fold = folds_of(len(joint), len(share))
    n_pooled = torch.bincount(fold).to(joint)
    shift = pooled - constant + n_pooled.log()[:, None]
    r = (joint - shift[fold, None]).exp()
    weights = log_weights.exp()
    logit_mean = (weights * logits).sum(1, keepdim=True)
    by_sharpness = n_outputs - distances
    by_power = logits - logit_mean
    power_bend = by_power - (weights * by_power.square()).sum(1, keepdim=True)

    def mean(values: Tensor) -> Tensor:
        """Expectation under the responsibilities, (n_folds, n)."""
        total = (r * values).sum(1)
        return total.new_zeros(pooled.shape).index_add_(0, fold, total)

    first = torch.stack([mean(by_sharpness), mean(by_power)])
    cross = mean(by_sharpness * by_power)
    second = torch.stack(
        [
            mean(by_sharpness.square() - 2 * distances),
            cross,
            cross,
            mean(by_power.square() + power_bend),
        ]
    ).unflatten(0, (2, 2))
    second = second - first[:, None] * first[None, :]
    values = torch.cat([pooled[None], first, second.flatten(0, 1)])
    return (share * values).sum((1, 2))
