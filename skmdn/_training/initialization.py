"""The unconditional mixture of y, from which training starts."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from torch import Tensor

from skmdn._data.folds import evenly
from skmdn._data.scaling import bounded_weight
from skmdn._utils.threads import openmp_limits
from skmdn.distributed import ALONE, Ranks

MAX_ROWS = 10_000
# Relative to the unit variance of the standardised target: clusters of a single
# value would otherwise start the networks as spikes.
SMALLEST_VARIANCE = 1e-3
# Relative to the largest weight.
SMALLEST_WEIGHT = 1e-9
# Standard deviations at which k-means sees rows further out: squares lose the others.
REACH = 1e7
# Of a component: the cluster of an outlier has next to no weight, so that its product
# with the distance, which the mean contains, is small.
SMALLEST_SHARE = 1e-30


def unconditional_mixtures(
    y: NDArray[np.float64],
    weight: NDArray[np.float64],
    n_components: int,
    n_members: int,
    seed: int,
    ranks: Ranks = ALONE,
) -> tuple[Tensor, Tensor, Tensor]:
    """Cluster the standardised y by k-means, from another start for each mixture.

    Returns
    -------
    log_weights (M, K), means (M, K, d), covariance (M, d, d) within the clusters
    """
    rng = np.random.RandomState(seed % 2**32)
    bounded = bounded_weight(y, weight)
    y, weight = _subsample(y, bounded, bounded < weight, ranks)
    n_clusters = min(n_components, len(np.unique(y, axis=0)))
    # With fewer values than components, several components share a centre.
    cluster_of = np.arange(n_components) % n_clusters
    sharing = np.bincount(cluster_of)[cluster_of]
    log_weights, means, within = [], [], []
    # k-means divides by the weight of each cluster.
    floored = np.maximum(weight, SMALLEST_WEIGHT * weight.max())
    for _ in range(n_members):
        clusters = KMeans(n_clusters, n_init=1, max_iter=30, random_state=rng)
        with openmp_limits():
            clusters.fit(np.clip(y, -REACH, REACH), sample_weight=floored)
        share = np.bincount(clusters.labels_, weight, n_clusters) / weight.sum()
        centres = clusters.cluster_centers_
        if np.abs(y).max() > REACH:
            total = np.bincount(clusters.labels_, floored, n_clusters)[:, None]
            sums = [np.bincount(clusters.labels_, floored * v, n_clusters) for v in y.T]
            centres = np.transpose(sums) / np.maximum(total, floored.min())
        residuals = y - centres[clusters.labels_]
        log_weights.append(
            np.log(np.maximum(share[cluster_of] / sharing, SMALLEST_SHARE))
        )
        means.append(centres[cluster_of])
        within.append(
            (weight[:, None] * residuals).T @ residuals / weight.sum()
            + SMALLEST_VARIANCE * np.eye(y.shape[1])
        )
    return _stack(log_weights), _stack(means), _stack(within)


def _subsample(
    y: NDArray[np.float64],
    weight: NDArray[np.float64],
    is_far: NDArray[np.bool_],
    ranks: Ranks,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gather the rows of all ranks, or about `MAX_ROWS` of them.

    They are evenly spread over rows that are sorted by X, and by y within equal X.
    Rows that are far out are few, and drawn on their own: no other row stands for
    them.
    """
    parts = []
    for rows in (np.flatnonzero(~is_far), np.flatnonzero(is_far)):
        n_rows = float(ranks.sum(len(rows)))
        taken = min(1, MAX_ROWS / max(n_rows, 1))
        chosen = rows[evenly(len(rows), math.ceil(taken * len(rows)))]
        parts.append((y[chosen], weight[chosen] / taken))
    y, weight = (np.concatenate(part) for part in zip(*parts, strict=True))
    return np.concatenate(ranks.all_gather(y)), np.concatenate(ranks.all_gather(weight))


def _stack(arrays: list[NDArray[np.float64]]) -> Tensor:
    return torch.from_numpy(np.stack(arrays))
