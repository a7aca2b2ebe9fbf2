"""What training starts from: the mixture of y alone, or the linear model; and bins."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from torch import Tensor

from skmdn._data.censored import PRIOR_VARIANCE, fit_censored
from skmdn._data.folds import RowLists, evenly
from skmdn._data.matrices import ScaledRows, bounded_weight
from skmdn._data.robust import weighted_quantiles
from skmdn._data.scaling import RANGE_MARGIN
from skmdn._utils.threads import openmp_limits
from skmdn.distributed import ALONE, Ranks
from skmdn.nn.embeddings import Bins
from skmdn.nn.network import LINEAR_REACH, MixtureDensityNetwork

MAX_ROWS = 10_000
# Relative to the unit variance of the standardised target: clusters of a single
# value would otherwise start the networks as spikes.
SMALLEST_VARIANCE = 1e-3
# Relative to the largest weight.
SMALLEST_WEIGHT = 1e-9
# Added to the variance of the residuals of the linear model: a noise-free start.
SMALLEST_RESIDUAL = 1e-6
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


# -- linear model --------------------------------------------------------------------

# Ratios of the noise to the prior variance of the coefficients that are tried, for
# features and an output of unit variance.
RIDGE_PENALTIES = np.logspace(-7, 3, 41)
# Rows of each fold that determine the coefficients; more add no digit that matters.
MOST_LINEAR_ROWS = 2**15
# The same if some are censored, which takes tens of steps.
MOST_CENSORED_ROWS = 2**13
# Of the variance of the residuals; the means of the components differ by the rest, so
# that training can tell them apart.
COMPONENT_SHARE = 0.9
# Shrinks the initial weights of the head, which would otherwise add noise of the size
# of the residuals.
LINEAR_HEAD_GAIN = 0.01


class LinearModels(NamedTuple):
    """Linear models of y with Gaussian residuals, one for each fold.

    Shapes: coefficients (n_folds, n_features, d), intercept (n_folds, d), covariance of
    the residuals of new rows (n_folds, d, d), largest distance of a prediction from the
    intercept (n_folds, d).
    """

    coefficients: Tensor
    intercept: Tensor
    covariance: Tensor
    reach: Tensor

    def of(self, fold: Tensor) -> LinearModels:
        """Return those of some folds."""
        return LinearModels(*(part[fold] for part in self))

    @classmethod
    def fit(
        cls,
        rows: ScaledRows,
        trains: RowLists,
        ranks: Ranks,
        side: Tensor | None = None,
    ) -> LinearModels:
        """Fit a ridge regression to the training rows of each fold.

        The penalty of each output maximises the evidence (MacKay 1992). With the `side`
        of each row, (n,), on which one output is censored (see `known_ends`), this is a
        Tobit model.
        """
        n_rows = trains.rows.shape[1]
        most_rows = MOST_LINEAR_ROWS if side is None else MOST_CENSORED_ROWS
        taken = evenly(n_rows, min(n_rows, most_rows))
        models = []
        for index, counts in zip(
            trains.rows[:, taken], trains.counts[:, taken], strict=True
        ):
            weight = rows.weight[index] * counts
            n_effective = float(
                ranks.sum(weight.sum()) ** 2 / ranks.sum(weight.square().sum())
            )
            index = index.to(rows.y.device)
            X, y = rows.X.index_select(0, index), rows.y.index_select(0, index)
            X = X.clamp(-LINEAR_REACH, LINEAR_REACH)
            table = torch.cat([torch.ones_like(y[:, :1]), X, y], dim=1).cpu().double()
            if side is None:
                products = ranks.sum(table.T @ (weight[:, None] * table))
                model = _ridge(products, X.shape[1], n_effective)
            else:
                repetitions = weight * n_effective / float(ranks.sum(weight.sum()))
                side_of = side.index_select(0, index).cpu()
                model = _tobit(
                    table.numpy(), side_of.numpy(), repetitions.numpy(), ranks
                )
            coefficients, intercept, covariance = model
            distance = (X.cpu().double() @ coefficients).abs()[weight > 0]
            with_zero = torch.cat([torch.zeros_like(intercept)[None], distance])
            reach = torch.from_numpy(ranks.max(with_zero.amax(0)))
            reach *= RANGE_MARGIN[0] + RANGE_MARGIN[1] / n_effective
            models.append((coefficients, intercept, covariance, reach))
        return cls(*map(torch.stack, zip(*models, strict=True)))


def _ridge(
    products: NDArray[np.float64], n_features: int, n_rows: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Fit a ridge regression to the products of all columns (1, X, y).

    Returns
    -------
    coefficients (n_features, d), intercept (d,), covariance (d, d)
    """
    products = products / products[0, 0]
    mean = products[0, 1:]
    S = products[1:, 1:] - mean[:, None] * mean
    S_xx, S_xy, S_yy = (
        S[:n_features, :n_features],
        S[:n_features, n_features:],
        S[n_features:, n_features:],
    )
    values, axes = np.linalg.eigh(S_xx)
    values = np.maximum(values, 0)[:, None]
    projected = axes.T @ S_xy
    spread = np.maximum(S_yy.diagonal(), 1e-12)
    evidence = []
    for penalty in RIDGE_PENALTIES:
        explained = (projected**2 / (values + penalty)).sum(axis=0)
        residual = np.maximum(spread - explained, 0) + PRIOR_VARIANCE * spread / n_rows
        log_det = np.log1p(values / penalty).sum()
        evidence.append(-0.5 * (n_rows * np.log(residual) + log_det))
    penalty = RIDGE_PENALTIES[np.argmax(evidence, axis=0)]
    shrinkage = values / (values + penalty)
    coefficients = axes @ (projected / (values + penalty))
    cross = coefficients.T @ S_xy
    covariance = S_yy - cross - cross.T + coefficients.T @ S_xx @ coefficients
    covariance += np.diag(PRIOR_VARIANCE * spread / n_rows)
    inflation = np.sqrt(_inflation(n_rows, shrinkage.sum(axis=0)))
    covariance = covariance * inflation * inflation[:, None]
    covariance += SMALLEST_RESIDUAL * np.eye(len(covariance))
    intercept = mean[n_features:] - mean[:n_features] @ coefficients
    return (
        torch.from_numpy(coefficients),
        torch.from_numpy(intercept),
        torch.from_numpy(covariance),
    )


def _tobit(
    table: NDArray[np.float64],
    side: NDArray[np.float64],
    weight: NDArray[np.float64],
    ranks: Ranks,
) -> tuple[Tensor, Tensor, Tensor]:
    """Fit a linear model to a table (1, X, y) of one censored output; see `_ridge`."""
    penalties = float(RIDGE_PENALTIES[0]), float(RIDGE_PENALTIES[-1])
    X, y = table[:, 1:-1], table[:, -1]
    model = fit_censored(X, y, side, weight, PRIOR_VARIANCE, penalties, ranks)
    inflation = _inflation(model.n_rows, np.array(model.freedom))
    variance = model.variance * inflation + SMALLEST_RESIDUAL
    return (
        torch.from_numpy(model.coefficients[:, None]),
        torch.from_numpy(np.array([model.intercept])),
        torch.from_numpy(np.reshape(variance, (1, 1))),
    )


def _inflation(n_rows: float, freedom: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the variance of the errors of new rows, relative to the residuals.

    The factors are those of the degrees of freedom, and of the error of the mean of a
    new row (Akaike 1969).
    """
    freedom = 1 + freedom
    n_left = np.maximum(n_rows - freedom, 0) + 1  # and the row of the prior
    inflation: NDArray[np.float64] = n_rows / n_left * (1 + freedom / n_rows)
    return inflation


@torch.no_grad()
def start_at_linear_models(
    network: MixtureDensityNetwork,
    members: slice,
    models: LinearModels,
    generator: torch.Generator,
) -> None:
    """Set some members to linear models, with Gaussian residuals.

    Parameters
    ----------
    network : MixtureDensityNetwork
    members : slice
    models : LinearModels
        One for each member.
    generator : torch.Generator
    """
    network.set_skip(members, models.coefficients, models.intercept, models.reach)
    covariance = models.covariance
    n_members, n_outputs = covariance.shape[:2]
    n_components = network.head.sizes[0]
    offsets = torch.zeros(
        n_members, n_components, n_outputs, dtype=torch.float64, device="cpu"
    )
    if n_components > 1:
        offsets.normal_(generator=generator)
        offsets -= offsets.mean(1, keepdim=True)
        # Of a few components, the spread would differ much from draw to draw.
        offsets /= offsets.square().mean(1, keepdim=True).sqrt()
        offsets *= math.sqrt(1 - COMPONENT_SHARE)
        offsets = offsets @ torch.linalg.cholesky(covariance).mT
        covariance = COMPONENT_SHARE * covariance
    log_weights = torch.full_like(offsets[..., 0], -math.log(n_components))
    network.head.start_at(members, log_weights, offsets, covariance)
    smallest = torch.linalg.eigvalsh(models.covariance)[:, 0].sqrt()
    weight = network.head.linear.weight[members]
    weight *= LINEAR_HEAD_GAIN
    n_weights, n_means = network.head.sizes[:2]
    weight[..., n_weights : n_weights + n_means] *= smallest[:, None, None]


# -- bins ----------------------------------------------------------------------------

BINS_PER_FEATURE = 24


def quantile_bins(rows: ScaledRows, ranks: Ranks = ALONE) -> Bins:
    """Divide the range of every feature by quantiles of the rows.

    A feature of few values has a bin between each two neighbours; a constant has none.
    """
    n_rows = len(rows.y)
    taken = torch.from_numpy(evenly(n_rows, min(n_rows, MAX_ROWS)))
    X = rows.X.index_select(0, taken.to(rows.y.device)).cpu().numpy()
    X = np.concatenate(ranks.all_gather(X))
    weight = np.concatenate(ranks.all_gather(rows.weight[taken].numpy()))
    levels = np.linspace(0, 1, BINS_PER_FEATURE + 1)
    features, lower, width = [], [], []
    for j, column in enumerate(X.T):
        edges = np.unique(weighted_quantiles(column, weight, levels))
        features.append(np.full(len(edges) - 1, j))
        lower.append(edges[:-1])
        width.append(np.diff(edges))
    return Bins(
        *(torch.from_numpy(np.concatenate(part)) for part in (features, lower, width))
    )


def _stack(arrays: list[NDArray[np.float64]]) -> Tensor:
    return torch.from_numpy(np.stack(arrays))
