"""Two densities to compare with: of y alone, and of ridge regression."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import RidgeCV
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from skmdn.density import MixtureDensity

N_COMPONENTS = 5
# Smallest variance, in units of that of y, as `reg_covar` of MDNRegressor.
REG_COVAR = 1e-6
# Rows of a level with fewer share an indicator, as in MDNRegressor.
MIN_FREQUENCY = 10

Predict = Callable[[Any], MixtureDensity]


def fit_unconditional(X: Any, y: NDArray[np.float64], seed: int) -> Predict:
    """Fit a Gaussian mixture of y (n, d) that does not depend on X."""
    scaler = StandardScaler().fit(y)
    n_components = min(N_COMPONENTS, len(y))
    mixture = GaussianMixture(n_components, reg_covar=REG_COVAR, random_state=seed)
    mixture.fit(scaler.transform(y))
    one_row = MixtureDensity.from_covariances(
        mixture.weights_[None],
        (mixture.means_ * scaler.scale_ + scaler.mean_)[None],
        (mixture.covariances_ * np.outer(scaler.scale_, scaler.scale_))[None],
    )
    return lambda X: one_row[np.zeros(len(X), dtype=int)]


def fit_ridge(X: Any, y: NDArray[np.float64], seed: int) -> Predict:
    """Fit ridge regression with Gaussian residuals of y (n, d)."""
    ridge = make_pipeline(
        _preprocessor(X), StandardScaler(), RidgeCV(np.logspace(-3, 3, 13))
    )
    residuals = y - ridge.fit(X, y).predict(X).reshape(y.shape)
    covariance = residuals.T @ residuals / len(y)
    # The scale of a constant output is one, as in the mixture above.
    covariance += REG_COVAR * np.diag(StandardScaler().fit(y).scale_ ** 2)

    def predict(X: Any) -> MixtureDensity:
        return MixtureDensity.from_covariances(
            np.ones((len(X), 1)),
            ridge.predict(X).reshape(len(X), 1, -1),
            np.broadcast_to(covariance, (len(X), 1, *covariance.shape)),
        )

    return predict


def _preprocessor(X: Any) -> ColumnTransformer:
    """Return a transformer that imputes numbers and encodes categories."""
    is_category = [isinstance(dtype, pd.CategoricalDtype) for dtype in X.dtypes]
    encoder = OneHotEncoder(
        min_frequency=MIN_FREQUENCY,
        handle_unknown="infrequent_if_exist",
        sparse_output=False,
    )
    imputer = SimpleImputer(
        strategy="median", add_indicator=True, keep_empty_features=True
    )
    return ColumnTransformer(
        [
            ("numbers", imputer, np.flatnonzero(~np.array(is_category))),
            ("categories", encoder, np.flatnonzero(is_category)),
        ]
    )


BASELINES = {
    "unconditional Gaussian mixture": fit_unconditional,
    "ridge with Gaussian residuals": fit_ridge,
}
