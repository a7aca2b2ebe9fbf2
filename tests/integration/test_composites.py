"""Densities of pipelines, searches and frozen estimators are of the fit inside."""

from functools import partial

import helpers
import numpy as np
import pytest
from helpers import linear_data
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import NotFittedError
from sklearn.feature_selection import RFE
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    RandomizedSearchCV,
)
from sklearn.multioutput import MultiOutputRegressor, RegressorChain
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

import skmdn
from skmdn import MDNRegressor, metrics

quick = partial(helpers.quick, n_estimators=1, hidden_layer_sizes=(8,), max_iter=2)
X, BOTH = linear_data(80)
Y = BOTH[:, 0]
GRID = {"n_components": [3]}
OF_STEP = {"mdnregressor__n_components": [3]}
# What fits some estimator, and the steps that its rows pass.
COMPOSITES = {
    "regressor": (quick(), []),
    "one step": (make_pipeline(quick()), []),
    "pipeline": (make_pipeline(StandardScaler(), quick()), [StandardScaler()]),
    "omitted step": (
        make_pipeline(None, StandardScaler(), quick()),
        [StandardScaler()],
    ),
    "nested": (
        make_pipeline(
            StandardScaler(),
            Pipeline([("in", make_pipeline(PolynomialFeatures(2), quick()))]),
        ),
        [StandardScaler(), PolynomialFeatures(2)],
    ),
    "grid": (GridSearchCV(quick(), GRID, cv=2), []),
    "grid over a pipeline": (
        GridSearchCV(make_pipeline(StandardScaler(), quick()), OF_STEP, cv=2),
        [StandardScaler()],
    ),
    "grid in a pipeline": (
        make_pipeline(StandardScaler(), GridSearchCV(quick(), GRID, cv=2)),
        [StandardScaler()],
    ),
    "halving": (
        HalvingGridSearchCV(
            make_pipeline(StandardScaler(), quick()), OF_STEP, cv=2, random_state=0
        ),
        [StandardScaler()],
    ),
    "random": (
        RandomizedSearchCV(quick(), GRID, cv=2, n_iter=1, random_state=0),
        [],
    ),
}


@pytest.mark.parametrize("name", COMPOSITES)
@pytest.mark.parametrize("is_frozen", [False, True])
def test_the_density_is_that_of_the_fit_of_transformed_rows(name, is_frozen):
    estimator, steps = COMPOSITES[name]
    estimator.fit(X, BOTH)
    if is_frozen:
        estimator = FrozenEstimator(FrozenEstimator(estimator))
    rows = make_pipeline(*steps).fit_transform(X) if steps else X
    is_search = "grid" in name or name in ("halving", "random")
    alone = quick(**{"n_components": 3} if is_search else {}).fit(rows, BOTH)
    density, expected = skmdn.predict_density(estimator, X), alone.predict_density(rows)
    assert density.n_components == expected.n_components
    assert_array_equal(density.logpdf(BOTH), expected.logpdf(BOTH))
    draws = skmdn.sample(estimator, X, 3, random_state=0)
    assert draws.shape == (80, 3, 2)
    assert_array_equal(draws, alone.sample(rows, 3, random_state=0))


def test_frozen_steps_of_a_pipeline_are_used_as_they_were_fitted():
    scaler = StandardScaler().fit(X)
    mdn = quick().fit(scaler.transform(X), Y)
    pipeline = make_pipeline(FrozenEstimator(scaler), FrozenEstimator(mdn))
    pipeline.fit(X + 1, Y)
    expected = mdn.predict_density(scaler.transform(X))
    assert_array_equal(skmdn.predict_density(pipeline, X).means, expected.means)


def test_scorers_and_displays_reach_a_frozen_estimator_in_a_pipeline():
    mpl = pytest.importorskip("matplotlib")
    mpl.use("Agg")
    from matplotlib.figure import Figure

    from skmdn import plot

    one = X[:, :1]
    mdn = quick().fit(StandardScaler().fit_transform(one), Y)
    pipeline = make_pipeline(StandardScaler(), FrozenEstimator(mdn)).fit(one, Y)
    density = mdn.predict_density(StandardScaler().fit_transform(one))
    for scorer, score in (
        (metrics.neg_log_score_scorer, metrics.log_score),
        (metrics.neg_crps_scorer, metrics.crps),
        (metrics.neg_energy_score_scorer, metrics.energy_score),
    ):
        assert_allclose(scorer(pipeline, one, Y), -score(Y, density).mean())

    def new_axes():
        return Figure().subplots()

    pit = plot.PITDisplay.from_estimator(pipeline, one, Y, ax=new_axes())
    assert_array_equal(pit.u, metrics.pit(Y, density))
    lines = plot.CalibrationDisplay.from_estimator(pipeline, one, Y, ax=new_axes())
    covered = metrics.coverage(Y, density, lines.nominal)
    assert_array_equal(lines.observed, covered.mean(axis=1))
    drawn = plot.DensityDisplay.from_estimator(pipeline, one, Y, ax=new_axes())
    assert_array_equal(drawn.density.means, density.means)
    assert_array_equal(drawn.x, one[:, 0])
    curve = plot.LossCurveDisplay.from_estimator(pipeline, ax=new_axes())
    assert_array_equal(curve.training, mdn.loss_curve_)


# -- what is refused ---------------------------------------------------------------


def transformed_target():
    return TransformedTargetRegressor(quick(), transformer=StandardScaler())


@pytest.mark.parametrize("is_in_pipeline", [False, True])
@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (transformed_target(), "MDNRegressor standardises y itself"),
        (MultiOutputRegressor(quick()), r"MultiOutputRegressor fits .* Remove the wr"),
        (RegressorChain(quick()), r"RegressorChain fits .* Remove the wrapper"),
        (
            RFE(quick(), step=2, importance_getter=lambda mdn: np.ones(3)),
            "RFE predicts no density",
        ),
        (
            GridSearchCV(quick(), GRID, cv=2, refit=False),
            "GridSearchCV was fitted with",
        ),
        (LinearRegression(), "LinearRegression predicts no density. Pass a fitted MDN"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_predicts_no_density_is_refused(estimator, message, is_in_pipeline):
    if is_in_pipeline:
        estimator = make_pipeline(StandardScaler(), estimator)
    estimator.fit(X, BOTH)
    for call in (skmdn.predict_density, skmdn.sample):
        with pytest.raises(TypeError, match=message):
            call(estimator, X)


@pytest.mark.parametrize(
    "estimator",
    [
        MDNRegressor(),
        make_pipeline(StandardScaler(), MDNRegressor()),
        GridSearchCV(MDNRegressor(), GRID),
        FrozenEstimator(MDNRegressor()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_not_fitted_is_refused(estimator):
    for call in (skmdn.predict_density, skmdn.sample):
        with pytest.raises(NotFittedError):
            call(estimator, X)
