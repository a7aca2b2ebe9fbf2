"""Densities and draws of pipelines, searches and frozen estimators."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.compose import TransformedTargetRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.multioutput import MultiOutputRegressor, RegressorChain
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from skmdn._regressor import MDNRegressor
from skmdn.density.transformed import Density


def predict_density(estimator: Any, X: ArrayLike) -> Density:
    """Predict the conditional density of y by an estimator, pipeline or search.

    Parameters
    ----------
    estimator : estimator
        A fitted `MDNRegressor`; or a pipeline whose last step is one, a search over
        one, or a `FrozenEstimator` of one. These can be nested.
    X : array-like of shape (n_samples, n_features)
        Features, in the form that the outermost estimator expects.

    Returns
    -------
    density : MixtureDensity or TransformedDensity
        The second where the outputs have bounds.

    Raises
    ------
    NotFittedError
        If the estimator is not fitted.
    TypeError
        If the estimator predicts no density, or transforms y.

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skmdn import MDNRegressor, predict_density
    >>> from skmdn.datasets import load_geyser
    >>> X, y = load_geyser(return_X_y=True)
    >>> pipeline = make_pipeline(StandardScaler(), MDNRegressor(max_iter=2)).fit(X, y)
    >>> predict_density(pipeline, X[:3])
    MixtureDensity(n_rows=3, n_components=96, n_outputs=1)
    """
    regressor, rows = find_regressor(estimator, X)
    return regressor.predict_density(rows)


def sample(
    estimator: Any, X: ArrayLike, n_samples: int = 1, random_state: Any = None
) -> NDArray[np.float64]:
    """Draw targets from the density of an estimator, pipeline or search.

    Parameters
    ----------
    estimator : estimator
        Fitted; any that `predict_density` accepts.
    X : array-like of shape (n_rows, n_features)
        Features, in the form that the outermost estimator expects.
    n_samples : int, default=1
        Draws for each row.
    random_state : int, RandomState, Generator or None, default=None
        Seed. With `None` every call gives new draws.

    Returns
    -------
    y : ndarray of shape (n_rows, n_samples) or (n_rows, n_samples, n_outputs)
        Independent draws, in the unit of y, as of `MDNRegressor.sample`.

    Raises
    ------
    NotFittedError
        If the estimator is not fitted.
    TypeError
        If the estimator predicts no density, or transforms y.

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skmdn import MDNRegressor, sample
    >>> from skmdn.datasets import load_geyser
    >>> X, y = load_geyser(return_X_y=True)
    >>> mdn = MDNRegressor(max_iter=2, random_state=0)
    >>> pipeline = make_pipeline(StandardScaler(), mdn).fit(X, y)
    >>> draws = sample(pipeline, [[60.0], [80.0]], n_samples=1000, random_state=0)
    >>> draws.mean(axis=1).round()  # minutes
    array([4., 3.])
    """
    regressor, rows = find_regressor(estimator, X)
    return regressor.sample(rows, n_samples, random_state)


def find_regressor(estimator: Any, X: Any = None) -> tuple[MDNRegressor, Any]:
    """Return the fitted MDNRegressor inside an estimator, and X as it reaches it.

    Without X no step of a pipeline transforms.
    """
    while not isinstance(estimator, MDNRegressor):
        if isinstance(estimator, FrozenEstimator):
            estimator = estimator.estimator
        elif hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        elif isinstance(estimator, Pipeline):
            check_is_fitted(estimator)
            if X is not None and len(estimator) > 1:
                X = estimator[:-1].transform(X)
            estimator = estimator[-1]
        else:
            raise _refusal(estimator)
    check_is_fitted(estimator)
    return estimator, X


def _refusal(estimator: Any) -> Exception:
    """Return the error for an estimator in which there is no fitted MDNRegressor."""
    name = type(estimator).__name__
    if hasattr(estimator, "refit"):  # a search
        check_is_fitted(estimator)
        return TypeError(
            f"{name} was fitted with refit=False, and has no best_estimator_. Set "
            "refit=True, and fit it again."
        )
    if isinstance(estimator, TransformedTargetRegressor):
        return TypeError(
            "A TransformedTargetRegressor transforms y, and the density of y itself "
            "is in general not a Gaussian mixture. Remove the wrapper: MDNRegressor "
            "standardises y itself, and target_support=(0, None) takes logarithms of "
            "positive targets. For the density of the transformed y, pass the "
            "attribute regressor_."
        )
    if isinstance(estimator, (MultiOutputRegressor, RegressorChain)):
        return TypeError(
            f"{name} fits an estimator for each output, and predicts no joint density. "
            "Remove the wrapper: MDNRegressor takes y of shape (n_samples, n_outputs). "
            "For the density of one output, pass an element of the attribute "
            "estimators_."
        )
    return TypeError(
        f"{name} predicts no density. Pass a fitted MDNRegressor, or a Pipeline that "
        "ends in one, a search over one, or a FrozenEstimator of one."
    )
