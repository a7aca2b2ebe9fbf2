"""Pipelines, searches and cross-validation, as with any regressor."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    cross_val_predict,
    cross_val_score,
)
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from skmdn import MDNRegressor
from skmdn.datasets import make_inverse_sine, make_rotating_gaussians


def quick(**parameters):
    options = {
        "n_components": 2,
        "n_estimators": 1,
        "hidden_layer_sizes": (16,),
        "max_iter": 10,
        "random_state": 0,
    }
    return MDNRegressor(**options | parameters)


def test_cross_val_score_is_the_mean_log_likelihood_by_hand():
    X, y = make_inverse_sine(200, random_state=0)
    folds = KFold(4, shuffle=True, random_state=0)
    scores = cross_val_score(make_pipeline(StandardScaler(), quick()), X, y, cv=folds)
    for score, (train, test) in zip(scores, folds.split(X), strict=True):
        scaler = StandardScaler().fit(X[train])
        mdn = quick().fit(scaler.transform(X[train]), y[train])
        density = mdn.predict_density(scaler.transform(X[test]))
        assert_allclose(score, density.logpdf(y[test]).mean(), rtol=1e-9)


def test_grid_search_picks_the_truth():
    X, y = make_rotating_gaussians(1500, random_state=0)
    pipeline = Pipeline(
        [
            ("scale", StandardScaler()),
            ("mdn", quick(max_iter=40, hidden_layer_sizes=(32,), n_estimators=2)),
        ]
    )
    grid = {
        "mdn__n_components": [1, 2],
        "mdn__covariance_type": ["full", "diag", "spherical"],
    }
    search = GridSearchCV(pipeline, grid, cv=3).fit(X, y)
    assert search.best_params_ == {
        "mdn__n_components": 2,
        "mdn__covariance_type": "full",
    }


def test_grid_search_over_the_number_of_components_prefers_the_better_density():
    X, y = make_inverse_sine(1000, random_state=0)
    search = GridSearchCV(quick(max_iter=40), {"n_components": [1, 5]}, cv=3).fit(X, y)
    assert search.best_params_ == {"n_components": 5}


def test_grid_search_in_other_processes_gives_the_same():
    X, y = make_inverse_sine(200, random_state=0)
    grid = {"n_components": [1, 2]}
    serial, parallel = (
        GridSearchCV(quick(), grid, cv=2, n_jobs=n_jobs).fit(X, y) for n_jobs in (1, 2)
    )
    assert_allclose(
        serial.cv_results_["mean_test_score"],
        parallel.cv_results_["mean_test_score"],
        rtol=1e-5,
    )


def test_pipeline_forwards_flags_and_density_methods():
    X, y = make_inverse_sine(200, random_state=0)
    pipeline = make_pipeline(PolynomialFeatures(2), quick()).fit(X, y)
    mean, std = pipeline.predict(X, return_std=True)
    features = pipeline[:-1].transform(X)
    expected = pipeline[-1].predict(features, return_std=True)
    assert_allclose(mean, expected[0])
    assert_allclose(std, expected[1])
    assert_allclose(pipeline.score_samples(X), pipeline[-1].score_samples(features))
    assert_allclose(pipeline.score(X, y), pipeline[-1].score(features, y))


def test_r2_is_one_word_away():
    X, y = make_inverse_sine(200, random_state=0)
    scores = cross_val_score(quick(), X, y, scoring="r2", cv=2)
    predictions = cross_val_predict(quick(), X, y, cv=2)
    r2 = 1 - np.mean((y - predictions) ** 2) / np.var(y)
    assert abs(scores.mean() - r2) < 0.1


def test_outputs_can_be_fitted_apart():
    X, y = make_rotating_gaussians(200, random_state=0)
    apart = MultiOutputRegressor(quick()).fit(X, y)
    assert_allclose(apart.predict(X)[:, 1], quick().fit(X, y[:, 1]).predict(X))


def test_weights_are_routed_through_a_pipeline():
    X, y = make_inverse_sine(200, random_state=0)
    weight = np.random.RandomState(0).randint(1, 4, size=200)
    pipeline = Pipeline([("scale", StandardScaler()), ("mdn", quick())])
    pipeline.fit(X, y, mdn__sample_weight=weight)
    alone = quick().fit(pipeline[:-1].transform(X), y, sample_weight=weight)
    assert_allclose(pipeline.predict(X), alone.predict(pipeline[:-1].transform(X)))


def test_complex_input_is_refused():
    X, y = make_inverse_sine(20, random_state=0)
    with pytest.raises(ValueError, match="Complex data not supported"):
        quick().fit(X, y + 1j)
