"""Proper scores of conditional densities, and densities of composite estimators."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from skmdn import _mixture
from skmdn._mixture import Mixture
from skmdn.density import MixtureDensity

__all__ = ["crps", "energy_score", "log_score", "predict_density"]


def predict_density(estimator: Any, X: ArrayLike) -> MixtureDensity:
    """Predict the density of y given X, through pipelines and searches.

    Parameters
    ----------
    estimator : estimator
        A fitted `MDNRegressor`, a pipeline that ends in one, or a fitted search
        over either.
    X : array-like of shape (n_samples, n_features)
        Features, as the outermost estimator takes them.

    Returns
    -------
    density : MixtureDensity

    Raises
    ------
    TypeError
        If no density can be reached, or a step changes y on the way.

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skmdn import MDNRegressor, predict_density
    >>> from skmdn.datasets import load_geyser
    >>> X, y = load_geyser(return_X_y=True)
    >>> pipeline = make_pipeline(StandardScaler(), MDNRegressor(max_iter=2)).fit(X, y)
    >>> predict_density(pipeline, X[:3])
    MixtureDensity(n_rows=3, n_components=40, n_outputs=1)
    """
    if hasattr(estimator, "predict_density"):
        return estimator.predict_density(X)
    if hasattr(estimator, "best_estimator_"):
        return predict_density(estimator.best_estimator_, X)
    if isinstance(estimator, Pipeline):
        check_is_fitted(estimator)
        return predict_density(estimator[-1], estimator[:-1].transform(X))
    raise TypeError(
        f"{type(estimator).__name__} predicts no density. Give an MDNRegressor, a "
        "Pipeline that ends in one, or a fitted search over either."
    )


def log_score(y: ArrayLike, density: MixtureDensity) -> NDArray[np.float64]:
    """Negative log-density of y.

    Parameters
    ----------
    y : array-like of shape (n,) or (n, n_outputs)
        What happened, one for each row.
    density : MixtureDensity
        What was predicted.

    Returns
    -------
    score : ndarray of shape (n,)
        In nats; lower is better.

    Examples
    --------
    >>> from skmdn import MixtureDensity
    >>> from skmdn.metrics import log_score
    >>> log_score([0.0], MixtureDensity([[1.0]], [[0.0]], [[1.0]])).round(4)
    array([0.9189])
    """
    return -density.logpdf(y)


def crps(y: ArrayLike, density: MixtureDensity) -> NDArray[np.float64]:
    """Continuous ranked probability score of one output, in closed form.

    The integral over t of (cdf(t) - 1[y <= t])^2; for a point forecast the
    absolute error.

    Parameters
    ----------
    y : array-like of shape (n,), or (n, 1) where the density keeps its output axis
        What happened, one for each row.
    density : MixtureDensity
        What was predicted, of one output.

    Returns
    -------
    score : ndarray of shape (n,)
        In the unit of y; lower is better.

    References
    ----------
    E. P. Grimit et al., "The continuous ranked probability score for circular
    variables and its application to mesoscale forecast ensemble verification",
    Quarterly Journal of the Royal Meteorological Society 132, 2006.

    Examples
    --------
    >>> from skmdn import MixtureDensity
    >>> from skmdn.metrics import crps
    >>> crps([0.0], MixtureDensity([[1.0]], [[0.0]], [[1.0]])).round(6)
    array([0.233695])
    """
    density._check_one_output("crps")
    return density._over_rows(
        _mixture.crps,
        density._points("y", y, finite=True),
        axis=-1,
        n_points=density.n_components,
    )


def energy_score(
    y: ArrayLike,
    density: MixtureDensity,
    *,
    n_samples: int = 256,
    random_state: Any = 0,
    return_error: bool = False,
) -> Any:
    """Energy score E|Y - y| - E|Y - Y'| / 2, the CRPS of several outputs.

    Distances are Euclidean, so give outputs comparable units.

    Parameters
    ----------
    y : array-like of shape (n, n_outputs)
        What happened, one for each row.
    density : MixtureDensity
        What was predicted.
    n_samples : int, default=256
        Draws per row. All their pairs enter, so the estimate is unbiased.
    random_state : int, RandomState instance or None, default=0
        Seed of the draws.
    return_error : bool, default=False
        Also return the standard error of each score.

    Returns
    -------
    score : ndarray of shape (n,)
        In the unit of y; lower is better.
    error : ndarray of shape (n,)
        Monte Carlo standard error; only with `return_error`. It shrinks with the
        square root of `n_samples`.

    References
    ----------
    T. Gneiting and A. E. Raftery, "Strictly proper scoring rules, prediction, and
    estimation", Journal of the American Statistical Association 102, 2007.

    Examples
    --------
    >>> from skmdn import MixtureDensity
    >>> from skmdn.metrics import energy_score
    >>> density = MixtureDensity([[1.0]], [[[0.0, 0.0]]], [[[[1.0, 0.0], [0.0, 1.0]]]])
    >>> score, error = energy_score([[0.0, 0.0]], density, return_error=True)
    >>> bool(abs(score[0] - 0.3671) < 4 * error[0])
    True
    """
    if n_samples < 2:
        raise ValueError(f"n_samples must be at least 2, got {n_samples}.")
    points = density._points("y", y, finite=True)
    draws = density.sample(n_samples, random_state)
    samples = torch.from_numpy(draws.reshape(len(density), n_samples, -1))

    def score_and_error(mixture: Mixture, samples: Tensor, y: Tensor) -> Tensor:
        to_y = torch.linalg.vector_norm(samples - y[:, None], dim=-1)
        apart = torch.cdist(samples, samples).sum(-1) / (n_samples - 1)
        # The influence of a draw: it enters the first mean once, the pairs twice.
        error = (to_y - apart).std(dim=-1) / math.sqrt(n_samples)
        return torch.stack([(to_y - apart / 2).mean(-1), error])

    score, error = density._over_rows(score_and_error, samples, points, axis=-1)
    return (score, error) if return_error else score
