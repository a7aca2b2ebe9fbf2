"""Densities of mixed tables by skmdn and its peers: fit(split) returns a predictor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from _recorded import Density, Discrete, FromQuantiles, ZeroAdjusted
from _tables import Array
from scipy import stats
from sklearn.compose import make_column_transformer
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder

from skmdn import MDNRegressor

LEAST_PROBABILITY = 1e-6  # of a class, and of values that the classifier has not seen
MAX_CLASSES, LEAST_ROWS = 64, 5
N_NGBOOST = 500
QUANTILES = np.array([0.01, *np.arange(0.05, 0.96, 0.05).round(2), 0.99])
Predict = Callable[[Any], Density]


class Split(NamedTuple):
    """One train and test split of a table, with the step and the bound of y."""

    X: Any
    X_test: Any
    y: Array
    y_test: Array
    step: float
    low: float
    categorical: list[str]
    seed: int


# -- features -----------------------------------------------------------------------


def with_one_hot(split: Split) -> Split:
    """Encode categories; impute medians, with indicators of missing values."""
    numeric = [name for name in split.X.columns if name not in split.categorical]
    encoder = make_column_transformer(
        (
            OneHotEncoder(
                min_frequency=20,
                handle_unknown="infrequent_if_exist",
                sparse_output=False,
            ),
            split.categorical,
        ),
        (SimpleImputer(strategy="median", add_indicator=True), numeric),
    )
    X = np.asarray(encoder.fit_transform(split.X), dtype=np.float64)
    X_test = np.asarray(encoder.transform(split.X_test), dtype=np.float64)
    return split._replace(X=X, X_test=X_test)


def with_categories(split: Split) -> Split:
    """Give the categorical columns of all rows the dtype of categories."""
    X = pd.concat([split.X, split.X_test])
    X = X.astype(dict.fromkeys(split.categorical, "category"))
    n_rows = len(split.X)
    return split._replace(X=X.iloc[:n_rows], X_test=X.iloc[n_rows:])


def as_text(X: pd.DataFrame, split: Split) -> pd.DataFrame:
    """Write categories, and that one is missing, as text."""
    columns = X[split.categorical].astype(object)
    return X.assign(**columns.fillna("missing").astype(str))


def with_positive(split: Split) -> Array:
    """Return training targets with half a step in place of zeros."""
    return np.where(split.y < split.step / 2, split.step / 2, split.y)


# -- peers: fit(split) returns a function from X to a density -----------------------


def fit_skmdn(split: Split, **params: Any) -> MDNRegressor:
    given: dict[str, Any] = {"random_state": split.seed}
    if np.isfinite(split.low):
        given["target_support"] = (split.low, None)
        given["target_resolution"] = split.step
    else:
        given["target_resolution"] = "auto"
    return MDNRegressor(**(given | params)).fit(split.X, split.y)


def fit_skmdn_plain(split: Split) -> MDNRegressor:
    """Fit the defaults, which know neither a bound nor a step."""
    return MDNRegressor(random_state=split.seed).fit(split.X, split.y)


def log_normal(mean: Array, std: Array) -> Any:
    return stats.lognorm(np.maximum(std, 1e-12), scale=np.exp(mean))


def fit_ngboost(split: Split) -> Predict:
    from ngboost import NGBRegressor
    from ngboost.distns import LogNormal

    model = NGBRegressor(
        Dist=LogNormal, n_estimators=N_NGBOOST, verbose=False, random_state=split.seed
    ).fit(split.X, with_positive(split))

    def density(X: Array) -> Density:
        predicted = model.pred_dist(X)
        return log_normal(predicted.loc, predicted.scale)

    return density


def fit_catboost(split: Split) -> Predict:
    from catboost import CatBoostRegressor

    model = CatBoostRegressor(
        loss_function="RMSEWithUncertainty",
        random_seed=split.seed,
        verbose=False,
        allow_writing_files=False,
        thread_count=torch.get_num_threads(),
        cat_features=split.categorical,
    ).fit(as_text(split.X, split), np.log(with_positive(split)))

    def density(X: pd.DataFrame) -> Density:
        mean, variance = model.predict(as_text(X, split)).T
        return log_normal(mean, np.sqrt(variance))

    return density


def fit_lightgbmlss(split: Split) -> Predict:
    """Fit log-normals to y over its mean, zero-adjusted if there are zeros."""
    import lightgbm
    from lightgbmlss.distributions.LogNormal import LogNormal
    from lightgbmlss.distributions.ZALN import ZALN
    from lightgbmlss.model import LightGBMLSS

    has_zeros, unit = bool((split.y < split.step / 2).any()), split.y.mean()
    model = LightGBMLSS(ZALN() if has_zeros else LogNormal())
    threads = torch.get_num_threads()
    model.train(
        {"seed": split.seed, "verbose": -1, "num_threads": threads},
        lightgbm.Dataset(split.X, label=split.y / unit),
    )

    def density(X: Array) -> Density:
        predicted = model.predict(X, pred_type="parameters")
        parts = {name: column.to_numpy(float) for name, column in predicted.items()}
        positive = log_normal(parts["loc"] + np.log(unit), parts["scale"])
        if has_zeros:
            return ZeroAdjusted(parts["gate"], positive)
        return positive

    return density


def pooled_classes(y: Array) -> tuple[Array, Array, Array]:
    """Pool rare values with their neighbours.

    Returns the distinct values (k,), the class (k,) of each, and its share of the rows
    of the class.
    """
    values, counts = np.unique(y, return_counts=True)
    least = max(LEAST_ROWS, len(y) / MAX_CLASSES if len(values) > MAX_CLASSES else 0)
    classes, size = np.zeros(len(values), dtype=int), 0
    for place, count in enumerate(counts):
        rest = counts[place:].sum()
        starts = place > 0 and size >= least and rest >= least
        classes[place] = classes[place - 1] + starts if place else 0
        size = count if starts else size + count
    return values, classes, counts / np.bincount(classes, counts)[classes]


def fit_classifier(split: Split) -> Predict:
    values, classes, shares = pooled_classes(split.y)
    model = HistGradientBoostingClassifier(
        early_stopping=True, random_state=split.seed
    ).fit(split.X, classes[np.searchsorted(values, split.y)])

    def density(X: Array) -> Density:
        probabilities = model.predict_proba(X)[:, classes] * shares
        probabilities = np.maximum(probabilities, LEAST_PROBABILITY)
        return Discrete(values, probabilities / probabilities.sum(axis=1)[:, None])

    return density


def fit_hist_quantiles(split: Split) -> Predict:
    """Boost one model of each quantile, with categories as they are."""
    models = [
        HistGradientBoostingRegressor(
            loss="quantile",
            quantile=quantile,
            categorical_features="from_dtype",
            random_state=split.seed,
        ).fit(split.X, split.y)
        for quantile in QUANTILES
    ]

    def density(X: pd.DataFrame) -> Density:
        values = [model.predict(X) for model in models]
        return FromQuantiles.of(QUANTILES, np.column_stack(values))

    return density


def fit_catboost_quantiles(split: Split) -> Predict:
    from catboost import CatBoostRegressor

    levels = ", ".join(map(str, QUANTILES.tolist()))
    model = CatBoostRegressor(
        loss_function=f"MultiQuantile:alpha={levels}",
        random_seed=split.seed,
        verbose=False,
        allow_writing_files=False,
        thread_count=torch.get_num_threads(),
        cat_features=split.categorical,
    ).fit(as_text(split.X, split), split.y)
    return lambda X: FromQuantiles.of(QUANTILES, model.predict(as_text(X, split)))


PEERS: dict[str, Callable[[Split], Predict]] = {
    "ngboost": fit_ngboost,
    "catboost": fit_catboost,
    "lightgbmlss": fit_lightgbmlss,
    "hist_quantiles": fit_hist_quantiles,
    "catboost_quantiles": fit_catboost_quantiles,
    "classifier": fit_classifier,
}
# Estimators of ours, and those that take categories and missing values as they are.
OURS = {
    **dict.fromkeys(("skmdn", "skmdn_onehot"), fit_skmdn),
    **dict.fromkeys(("skmdn_plain", "skmdn_plain_onehot"), fit_skmdn_plain),
}
NATIVE = {
    *("skmdn", "skmdn_plain", "catboost", "hist_quantiles", "catboost_quantiles"),
}
PACKAGES = {
    **dict.fromkeys(("classifier", "hist_quantiles"), "scikit-learn"),
    "catboost_quantiles": "catboost",
}
