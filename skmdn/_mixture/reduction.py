"""Mixtures of fewer components, with the same mean and covariance.

Two components are merged into the Gaussian of their joint weight, mean and covariance,
pair after pair. With W their weight, a and b = 1 - a their shares of it and C which of
the two it is, the Kullback-Leibler divergence that a merger adds is at most

    W (H(merged) - a H_1 - b H_2 - I(C; Y))

where H is the entropy of a Gaussian. Runnalls (2007) leaves out the information
I(C; Y), and so overrates mergers of components that lie apart. Here it is replaced by
the lower bound of Kolchinsky and Tracey (2017), in closed form:

    I >= -a log(a + b e^-B) - b log(b + a e^-B)

with B the Bhattacharyya distance of the two components.

A. R. Runnalls, "Kullback-Leibler approach to Gaussian mixture reduction", IEEE
Transactions on Aerospace and Electronic Systems 43, 2007.

A. Kolchinsky and B. D. Tracey, "Estimating mixture entropy with pairwise distances",
Entropy 19, 2017.
"""

from __future__ import annotations

import torch
from torch import Tensor

from skmdn._mixture.core import Mixture, fill_empty, mean, var
from skmdn._mixture.factors import (
    invert_factors,
    triangularise_rows,
)
from skmdn._mixture.quasirandom import joint_at_points

# Smallest weight and pivot that is divided by.
TINY = 1e-300
# Quasi-random points of the divergence.
N_POINTS = 4096


def reduction_bytes(mixture: Mixture) -> int:
    """Return the bytes per row that size chunks of rows.

    One eighth of the memory: a step reads a few of the costs of each row only, and is
    slow for few rows.
    """
    _, n_components, d = mixture.means.shape
    return n_components * (2 * n_components + 8 * (d + 1) ** 2)


def reduce(mixture: Mixture, n_components: int) -> Mixture:
    """Merge components until n_components are left, or return fewer as they are."""
    if mixture.means.shape[1] <= n_components:
        return mixture
    mixture = fill_empty(mixture)
    groups = merge_greedily(mixture, n_components)
    return _moment_matched(mixture, groups, n_components)


def divergence(mixture: Mixture, other: Mixture) -> Tensor:
    """Compute the Kullback-Leibler divergence of another mixture, (n,), in nats.

    The mean of (p log(p / q) + q - p) / r over points of r, the mixture of all
    components, of which half of the points have the weights of p and q, and half have
    equal ones: components of small weight far from the others count. The integral of
    q - p is zero; with it no summand is negative.
    """
    parts = zip(fill_empty(mixture), fill_empty(other), strict=True)
    log_weights, means, factors = (torch.cat(pair, dim=1) for pair in parts)
    n_components, n_all = mixture.means.shape[1], means.shape[1]
    drawn = (log_weights.exp() / 4 + 1 / (2 * n_all)).log()
    total = torch.zeros_like(means[:, 0, 0])
    for _, joint in joint_at_points(Mixture(drawn, means, factors), N_POINTS):
        at_drawn = joint.logsumexp(1)
        joint += (log_weights - drawn)[..., None]
        log_p = joint[:, :n_components].logsumexp(1)
        log_q = joint[:, n_components:].logsumexp(1)
        p, q = (log_p - at_drawn).exp(), (log_q - at_drawn).exp()
        total += (p * (log_p - log_q) + q - p).sum(-1)
    return total / N_POINTS


def _moment_matched(mixture: Mixture, groups: Tensor, n_groups: int) -> Mixture:
    """Replace the components of each group (n, K) by one with their moments."""
    roots, origin = invert_factors(mixture.precision_factors), mean(mixture)[:, None]
    offsets = mixture.means - origin
    weights = mixture.log_weights.exp() + TINY
    parts = []
    for group in range(n_groups):
        is_member = groups == group
        shares = weights * is_member
        shares = shares / shares.sum(-1, keepdim=True)
        inside = mixture.log_weights.masked_fill(~is_member, -torch.inf)
        parts.append((inside.logsumexp(-1), *_moments_of(shares, offsets, roots)))
    log_weights, means, factors = (
        torch.stack(part, dim=1) for part in zip(*parts, strict=True)
    )
    return Mixture(log_weights, origin + means, factors)


def _moments_of(shares: Tensor, means: Tensor, roots: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean (n, d) and precision factor (n, d, d) of a part of a mixture.

    With shares (n, K), and roots R of the covariances. The root of the covariance
    follows by QR from the roots and the offsets e of the means, as that of
    [sqrt(a) R, sqrt(a) e]: the covariance is never formed.
    """
    centre = (shares[:, None] @ means)[:, 0]
    offsets = means - centre[:, None]
    columns = torch.cat([roots, offsets[..., None]], dim=-1)
    columns = shares.sqrt()[..., None, None] * columns
    root = triangularise_rows(columns.transpose(1, 2).flatten(2))
    return centre, invert_factors(root)


# -- which components are merged -------------------------------------------------


class _Clusters:
    """Clusters of components, as Gaussians, and the costs of merging any two.

    With the axes of outputs first, sums over outputs are fast: means have the shape
    (d, n, K), and covariances (d, d, n, K).
    """

    def __init__(self, weights: Tensor, means: Tensor, covs: Tensor) -> None:
        self.weights, self.means, self.covs = weights, means, covs
        self.log_dets = _eliminate(covs)[0]
        n, size = weights.shape
        self.rows = torch.arange(n, device=weights.device)
        self.is_alive = torch.ones_like(weights, dtype=torch.bool)
        self.costs = weights.new_full((n, size, size), torch.inf)
        for i in range(size - 1):
            costs = self._costs_of(torch.full_like(self.rows, i), slice(i + 1, None))
            self.costs[:, i, i + 1 :] = self.costs[:, i + 1 :, i] = costs
        self.least, self.partners = self.costs.min(-1)

    def merge_cheapest(self) -> tuple[Tensor, Tensor]:
        """Merge one pair in every row; return what was kept and what went, (n,)."""
        rows, first = self.rows, self.least.argmin(-1)
        second = self.partners[rows, first]
        self._merge(first, second)
        costs = self._costs_of(first).masked_fill_(~self.is_alive, torch.inf)
        costs[rows, first] = torch.inf
        self.costs[rows, second] = self.costs[rows, :, second] = torch.inf
        self.costs[rows, first] = self.costs[rows, :, first] = costs
        self.least[rows, second] = torch.inf
        # The cheapest partner is sought anew only where it was one of the two.
        is_stale = self.partners == first[:, None]
        is_stale |= self.partners == second[:, None]
        is_stale[rows, first] = True
        is_stale &= self.is_alive
        is_better = costs < self.least
        self.least = torch.where(is_better, costs, self.least)
        self.partners = torch.where(is_better, first[:, None], self.partners)
        stale = is_stale.nonzero(as_tuple=True)
        self.least[stale], self.partners[stale] = self.costs[stale].min(-1)
        return first, second

    def compact(self, size: int) -> Tensor:
        """Drop the clusters that went; return the new places of all, (n, K)."""
        places = self.is_alive.cumsum(-1) - 1
        kept = self.is_alive.nonzero()[:, 1].view(-1, size)
        at = self.rows[:, None], kept
        self.weights, self.log_dets = self.weights[at], self.log_dets[at]
        self.means, self.covs = self.means[:, *at], self.covs[:, :, *at]
        self.costs = self.costs[
            self.rows[:, None, None], kept[..., None], kept[:, None]
        ]
        self.is_alive = self.is_alive[at]
        self.least, self.partners = self.costs.min(-1)
        return places

    def _merge(self, first: Tensor, second: Tensor) -> None:
        """Replace the first by the merger with the second."""
        one, other = (self.rows, first), (self.rows, second)
        weight = self.weights[one] + self.weights[other]
        share = self.weights[one] / weight.clamp(min=TINY)
        mean = self.means[:, *other]
        offset = self.means[:, *one] - mean
        merged = _merged_cov(
            self.covs[:, :, *one], self.covs[:, :, *other], offset, share
        )
        self.covs[:, :, *one], self.means[:, *one] = merged, mean + share * offset
        self.weights[one], self.log_dets[one] = weight, _eliminate(merged)[0]
        self.is_alive[other] = False

    def _costs_of(self, index: Tensor, others: slice = slice(None)) -> Tensor:
        """Compute the costs of merging a cluster (n,) with others, (n, k)."""
        at = self.rows[:, None], index[:, None]
        cov, others_cov = self.covs[:, :, *at], self.covs[..., others]
        offset = self.means[:, *at] - self.means[..., others]
        weight = self.weights[at] + self.weights[:, others]
        share = self.weights[at] / weight.clamp(min=TINY)
        rest = 1 - share
        own, theirs = self.log_dets[at], self.log_dets[:, others]
        merged, _ = _eliminate(_merged_cov(cov, others_cov, offset, share))
        gap = (merged - share * own - rest * theirs) / 2
        middle, square = _eliminate((cov + others_cov) / 2, offset)
        overlap = ((own + theirs) / 4 - middle / 2 - square / 8).exp_()
        information = torch.special.xlogy(share, share + rest * overlap)
        information += torch.special.xlogy(rest, rest + share * overlap)
        costs: Tensor = weight * (gap + information).clamp_(min=0)
        return costs


def merge_greedily(mixture: Mixture, n_groups: int) -> Tensor:
    """Return the group of every component, from 0 to n_groups - 1, (n, K)."""
    scale = var(mixture).sqrt()[:, None]
    means = (mixture.means - mean(mixture)[:, None]) / scale
    roots = invert_factors(mixture.precision_factors) / scale[..., None]
    covs = (roots @ roots.mT).permute(2, 3, 0, 1).contiguous()
    weights = mixture.log_weights.exp()
    clusters = _Clusters(weights, means.permute(2, 0, 1).contiguous(), covs)
    size = weights.shape[1]
    groups = torch.arange(size, device=means.device).expand(len(means), size)
    while size > n_groups:
        target = max(n_groups, size // 2)
        for _ in range(size - target):
            kept, gone = clusters.merge_cheapest()
            groups = torch.where(groups == gone[:, None], kept[:, None], groups)
        groups, size = clusters.compact(target).gather(-1, groups), target
    return groups


def _merged_cov(one: Tensor, other: Tensor, offset: Tensor, share: Tensor) -> Tensor:
    """Return the covariance of two Gaussians together, (d, d, ...).

    For means with an offset (d, ...), and the share (...) of the first.
    """
    between = offset[:, None] * offset
    return other + share * (one - other) + share * (1 - share) * between


def _eliminate(matrices: Tensor, offset: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return log det S and e' S^-1 e of positive definite matrices S (d, d, ...).

    By Gaussian elimination of all matrices at once. Without e (d, ...) the second
    result is zero.
    """
    left = matrices.clone()
    e = torch.zeros_like(left[0]) if offset is None else offset.clone()
    determinant, square = torch.zeros_like(left[0, 0]), torch.zeros_like(left[0, 0])
    for j in range(len(left)):
        pivot = left[j, j].clamp(min=TINY)
        determinant += pivot.log()
        square += e[j].square() / pivot
        ratios = left[j + 1 :, j] / pivot
        e[j + 1 :] -= ratios * e[j]
        left[j + 1 :, j + 1 :] -= ratios[:, None] * left[j, j + 1 :]
    return determinant, square
