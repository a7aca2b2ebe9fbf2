"""Pipelines, searches and cross-validation, as with any regressor."""

import re
from functools import partial
from html import unescape
from itertools import permutations

import helpers
import numpy as np
import pytest
import sklearn
from helpers import SKLEARN_VERSION
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import StackingRegressor, VotingRegressor
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.inspection import PartialDependenceDisplay, permutation_importance
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    cross_val_predict,
    cross_val_score,
    learning_curve,
)
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from sklearn.utils import estimator_html_repr
from sklearn.utils.fixes import parse_version

from skmdn import MDNRegressor, predict_density
from skmdn.datasets import make_inverse_sine, make_rotating_gaussians

needs_table_of_parameters = pytest.mark.skipif(
    parse_version("1.7") > SKLEARN_VERSION,
    reason="the HTML of scikit-learn before 1.7 has no table of parameters",
)
needs_table_of_attributes = pytest.mark.skipif(
    parse_version("1.9") > SKLEARN_VERSION,
    reason="the HTML of scikit-learn before 1.9 has no table of attributes",
)


quick = partial(helpers.quick, n_estimators=1, hidden_layer_sizes=(16,), max_iter=10)


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
    X, y = make_rotating_gaussians(500, random_state=0)
    pipeline = Pipeline([("scale", StandardScaler()), ("mdn", quick(max_iter=20))])
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


def test_r2_is_available_as_scoring():
    X, y = make_inverse_sine(200, random_state=0)
    scores = cross_val_score(quick(), X, y, scoring="r2", cv=2)
    predictions = cross_val_predict(quick(), X, y, cv=2)
    r2 = 1 - np.mean((y - predictions) ** 2) / np.var(y)
    assert abs(scores.mean() - r2) < 0.1


def test_outputs_can_be_fitted_separately():
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


# -- metadata routing ------------------------------------------------------------


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


def weighted_rows():
    X, y = make_inverse_sine(120, random_state=0)
    return X, y, np.random.RandomState(0).randint(1, 5, size=120).astype(float)


def scores_by_hand(folds, weigh_fit, weigh_score):
    """Scores of folds of the weighted rows, with weights in either place."""
    X, y, weight = weighted_rows()
    for train, test in folds.split(X):
        mdn = quick().fit(X[train], y[train], weight[train] if weigh_fit else None)
        density = mdn.predict_density(X[test])
        weights = weight[test] if weigh_score else None
        yield np.average(density.logpdf(y[test]), weights=weights)


@pytest.mark.parametrize(
    ("weigh_fit", "weigh_score"), [(True, False), (False, True), (True, True)]
)
def test_weights_reach_what_requests_them(routing, weigh_fit, weigh_score):
    X, y, weight = weighted_rows()
    mdn = quick().set_fit_request(sample_weight=weigh_fit)
    mdn.set_score_request(sample_weight=weigh_score)
    folds, params = KFold(3), {"sample_weight": weight}
    scores = cross_val_score(mdn, X, y, cv=folds, params=params)
    assert_allclose(scores, [*scores_by_hand(folds, weigh_fit, weigh_score)])
    others = [*scores_by_hand(folds, not weigh_fit, weigh_score)]
    assert np.abs(scores - others).min() > 1e-4


def test_a_search_routes_weights_to_every_fit_and_score(routing):
    X, y, weight = weighted_rows()
    mdn = quick().set_fit_request(sample_weight=True)
    mdn.set_score_request(sample_weight=True)
    folds = KFold(2)
    search = GridSearchCV(mdn, {"n_components": [2]}, cv=folds)
    search.fit(X, y, sample_weight=weight)
    results = [search.cv_results_[f"split{i}_test_score"][0] for i in range(2)]
    assert_allclose(results, [*scores_by_hand(folds, True, True)])
    assert_allclose(search.predict(X), quick().fit(X, y, weight).predict(X))
    by_hand = np.average(search.best_estimator_.score_samples(X, y), weights=weight)
    assert_allclose(search.score(X, y, sample_weight=weight), by_hand)


@pytest.mark.parametrize("name", ["sample_weight", "X_val", "y_val"])
def test_rows_that_nobody_requested_are_refused(routing, name):
    X, y, weight = weighted_rows()
    given = {"sample_weight": weight, "X_val": X, "y_val": y}
    with pytest.raises(UnsetMetadataPassedError, match=name):
        make_pipeline(quick()).fit(X, y, **{name: given[name]})


def validated_pipeline():
    mdn = quick().set_fit_request(X_val=True, y_val=True)
    steps = [("scale", StandardScaler()), ("mdn", mdn)]
    return Pipeline(steps, transform_input=["X_val"])


def split_far_from_zero():
    """Return training and validation rows far from zero."""
    X, y = make_inverse_sine(200, random_state=0)
    X = 100 + 7 * X
    return X[:150], y[:150], X[150:], y[150:]


def test_validation_rows_pass_the_steps_before(routing):
    X, y, X_val, y_val = split_far_from_zero()
    pipeline = validated_pipeline().fit(X, y, X_val=X_val, y_val=y_val)
    scaler, mdn = StandardScaler().fit(X), pipeline[-1]
    rows = scaler.transform(X), y
    alone = quick().fit(*rows, X_val=scaler.transform(X_val), y_val=y_val)
    assert_array_equal(mdn.validation_scores_, alone.validation_scores_)
    assert_array_equal(pipeline.predict(X), alone.predict(rows[0]))
    # Rows that were not scaled would lie far out.
    with pytest.warns(UserWarning, match="X_val does not fit the scale"):
        astray = quick().fit(*rows, X_val=X_val, y_val=y_val)
    assert mdn.best_validation_score_ > astray.best_validation_score_ + 0.1


def test_validation_rows_that_pass_no_step_are_warned_of_with_the_remedy(routing):
    X, y, X_val, y_val = split_far_from_zero()
    pipeline = validated_pipeline().set_params(transform_input=None)
    with pytest.warns(
        UserWarning, match=r"^X_val does not fit .* transform_input=\['X_val'\]"
    ):
        pipeline.fit(X, y, X_val=X_val, y_val=y_val)
    # By the name of the step neither.
    with (
        sklearn.config_context(enable_metadata_routing=False),
        pytest.warns(UserWarning, match=r"^X_val .* transform_input=\['X_val'\]"),
    ):
        pipeline.fit(X, y, mdn__X_val=X_val, mdn__y_val=y_val)


def test_validation_rows_pass_through_searches(routing):
    X, y, X_val, y_val = split_far_from_zero()
    folds = KFold(2)
    search = GridSearchCV(validated_pipeline(), {"mdn__n_components": [2]}, cv=folds)
    search.fit(X, y, X_val=X_val, y_val=y_val)
    for i, (train, test) in enumerate(folds.split(X)):
        scaler = StandardScaler().fit(X[train])
        mdn = quick().fit(
            scaler.transform(X[train]),
            y[train],
            X_val=scaler.transform(X_val),
            y_val=y_val,
        )
        score = mdn.score(scaler.transform(X[test]), y[test])
        assert_allclose(search.cv_results_[f"split{i}_test_score"], [score])


# -- data frames -----------------------------------------------------------------


def in_frames(library):
    """Rows of two features and two outputs: arrays, and named frames of them."""
    frames = pytest.importorskip(library)
    X, y = make_rotating_gaussians(100, random_state=0)
    X = np.column_stack([X, np.random.RandomState(0).normal(size=100)])

    def frame(values, names):
        return frames.DataFrame(dict(zip(names, values.T, strict=True)))

    return X, y, frame(X, ["angle", "noise"]), frame(y, ["north", "east"])


def skip_where_names_are_not_read(frame):
    is_old = parse_version("1.9") > SKLEARN_VERSION
    if is_old and not (hasattr(frame, "iloc") or hasattr(frame, "__dataframe__")):
        pytest.skip("scikit-learn before 1.9 reads no column names of polars 2")


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_names_made_by_transformers_reach_the_estimator(library):
    _, y, frame, targets = in_frames(library)
    skip_where_names_are_not_read(frame)
    pipeline = make_pipeline(StandardScaler(), PolynomialFeatures(2), quick())
    pipeline.set_output(transform=library).fit(frame, targets)
    mdn = pipeline[-1]
    names = ["1", "angle", "noise", "angle^2", "angle noise", "noise^2"]
    assert_array_equal(mdn.feature_names_in_, names)
    assert mdn.output_names_ == ("north", "east")
    features = pipeline[:-1].transform(frame)
    assert type(features) is type(frame)
    # Scalers sum frames in another order than arrays, so compare behind them.
    plain = quick().fit(np.asarray(features), y)
    assert not hasattr(plain, "feature_names_in_")
    assert_array_equal(pipeline.predict(frame), plain.predict(np.asarray(features)))
    east = predict_density(pipeline, frame).marginal("east")
    assert_allclose(east.mean(), pipeline.predict(frame)[:, 1])


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames_are_split_as_their_arrays(library):
    X, y, frame, targets = in_frames(library)
    ours, theirs = (
        cross_val_score(quick(), *rows, cv=2) for rows in ((frame, targets), (X, y))
    )
    assert_array_equal(ours, theirs)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_names_are_kept_by_routed_validation_rows(library, routing):
    _, y, frame, _ = in_frames(library)
    skip_where_names_are_not_read(frame)
    pipeline = validated_pipeline().set_output(transform=library)
    pipeline.fit(frame[:60], y[:60], X_val=frame[60:], y_val=y[60:])
    assert_array_equal(pipeline[-1].feature_names_in_, ["angle", "noise"])
    rows = np.asarray(pipeline[:-1].transform(frame))
    alone = quick().fit(rows[:60], y[:60], X_val=rows[60:], y_val=y[60:])
    assert_array_equal(pipeline[-1].validation_scores_, alone.validation_scores_)
    assert_array_equal(pipeline.predict(frame), alone.predict(rows))


# -- what a notebook shows -------------------------------------------------------


def rows_of_kind(html, kind):
    """Names and values in the rows of a class in the table of parameters."""
    rows = re.findall(rf'<tr class="{kind}">(.*?)</tr>', html, re.DOTALL)
    text = [unescape(re.sub(r"<[^>]*>", " ", row)).split(maxsplit=1) for row in rows]
    return {name: value.strip() for name, value in text}


def links(html):
    return set(re.findall(r'href="([^"#]*)', html))


def test_html_shows_the_class_and_what_was_changed():
    html = quick(alpha=0.5)._repr_html_()
    assert "<pre>MDNRegressor(alpha=0.5, device=" in html
    assert "Not fitted" in html
    fitted = quick().fit(*make_inverse_sine(50, random_state=0))
    assert "Not fitted" not in fitted._repr_html_()


@needs_table_of_parameters
def test_html_tells_changed_parameters_from_defaults():
    mdn = MDNRegressor(3, alpha=0.5, rank=4)
    html = mdn._repr_html_()
    assert rows_of_kind(html, "user-set") == {"n_components": "3", "alpha": "0.5"}
    defaults = rows_of_kind(html, "default")
    assert defaults.keys() == mdn.get_params().keys() - {"n_components", "alpha"}
    assert defaults["reg_covar"] == "1e-06"


@needs_table_of_attributes
def test_html_shows_what_was_learned():
    mdn = quick(n_estimators=4, max_iter=3).fit(*make_inverse_sine(80, random_state=0))
    shown = rows_of_kind(mdn._repr_html_(), "default")
    assert shown["n_iter_"].split() == ["int", "3"]
    assert shown["oof_score_"].split() == ["float", f"{mdn.oof_score_:.4g}"]
    assert not any(name.startswith("_") for name in shown)


def test_html_links_only_to_existing_pages():
    pipeline = make_pipeline(StandardScaler(), quick())
    of_sklearn = {
        link for link in links(estimator_html_repr(pipeline)) if "scikit-learn" in link
    }
    pages = {link.rpartition("/")[2] for link in of_sklearn}
    assert pages == {
        "sklearn.pipeline.Pipeline.html",
        "sklearn.preprocessing.StandardScaler.html",
    }
    assert not {link for link in links(quick()._repr_html_()) if "scikit" in link}


def test_html_of_a_pipeline_has_a_box_for_each_step():
    pipeline = Pipeline([("scale", StandardScaler()), ("mdn", quick(alpha=0.5))])
    html = estimator_html_repr(pipeline)
    boxes = re.findall(r"<label[^>]*>(.*?)</label>", html, re.DOTALL)
    shown = [re.sub(r"<[^>]*>", " ", box).split()[0] for box in boxes]
    assert shown == ["Pipeline", "StandardScaler", "MDNRegressor"]


# -- meta-estimators -------------------------------------------------------------


def test_votes_are_averaged():
    X, y = make_inverse_sine(150, random_state=0)
    weight = np.random.RandomState(0).randint(1, 4, size=150)
    voters = [("mdn", quick()), ("line", LinearRegression())]
    voting = VotingRegressor(voters, weights=[3, 1])
    voting.fit(X, y, sample_weight=weight)
    mdn = quick().fit(X, y, weight).predict(X)
    line = LinearRegression().fit(X, y, weight).predict(X)
    assert_allclose(voting.predict(X), (3 * mdn + line) / 4)


def test_a_stack_is_fitted_to_predictions_for_rows_held_out():
    X, y = make_inverse_sine(150, random_state=0)
    folds = KFold(3)
    stack = StackingRegressor([("mdn", quick())], LinearRegression(), cv=folds)
    stack.fit(X, y)
    held_out = np.empty(150)
    for train, test in folds.split(X):
        held_out[test] = quick().fit(X[train], y[train]).predict(X[test])
    slope, intercept = np.polyfit(held_out, y, 1)
    by_hand = intercept + slope * quick().fit(X, y).predict(X)
    assert_allclose(stack.predict(X), by_hand)


def test_a_transformed_target_is_inverted():
    X, y = make_inverse_sine(150, random_state=0)
    y = np.exp(y)
    outer = TransformedTargetRegressor(quick(), func=np.log, inverse_func=np.exp)
    outer.fit(X, y)
    assert_allclose(outer.predict(X), np.exp(quick().fit(X, np.log(y)).predict(X)))


# -- inspection ------------------------------------------------------------------


def two_features():
    """Return rows whose target depends on both features."""
    X, y = make_inverse_sine(150, random_state=0)
    X = np.column_stack([X, np.random.RandomState(0).normal(size=150)])
    return X, y + X[:, 1]


@pytest.mark.parametrize("scoring", [None, "r2"])
def test_importance_is_what_permutations_cost(scoring):
    X, y = two_features()
    mdn = quick().fit(X, y)

    def score(X, y):
        if scoring is None:
            return mdn.predict_density(X).logpdf(y).mean()
        return 1 - np.mean((y - mdn.predict(X)) ** 2) / np.var(y)

    X, y = X[:3], y[:3]  # so few that every permutation comes up
    importance = permutation_importance(
        mdn, X, y, scoring=scoring, n_repeats=60, random_state=0
    )
    for column, drops in enumerate(importance.importances):
        by_hand = []
        for order in permutations(range(3)):
            permuted = X.copy()
            permuted[:, column] = X[list(order), column]
            by_hand.append(score(X, y) - score(permuted, y))
        assert_allclose(np.unique(drops.round(9)), np.sort(by_hand), atol=1e-8)


def test_partial_dependence_is_drawn_as_averages_of_predictions():
    mpl = pytest.importorskip("matplotlib")
    mpl.use("Agg")
    from matplotlib.figure import Figure

    X, y = two_features()
    mdn = quick().fit(X, y)
    display = PartialDependenceDisplay.from_estimator(
        mdn, X, [0, 1], grid_resolution=5, ax=Figure().subplots()
    )
    for column, line in enumerate(display.lines_[0]):
        grid, drawn = line.get_data()
        assert len(grid) == 5
        averages = []
        for value in grid:
            moved = X.copy()
            moved[:, column] = value
            averages.append(mdn.predict(moved).mean())
        assert_allclose(drawn, averages)


def test_a_learning_curve_scores_fits_of_the_first_rows():
    X, y = make_inverse_sine(160, random_state=0)
    folds = KFold(2)
    sizes, on_train, on_test = learning_curve(
        quick(), X, y, train_sizes=[0.5, 1.0], cv=folds
    )
    assert_array_equal(sizes, [40, 80])
    for i, size in enumerate(sizes):
        for j, (train, test) in enumerate(folds.split(X)):
            used = train[:size]
            mdn = quick().fit(X[used], y[used])
            for score, rows in ((on_train, used), (on_test, test)):
                by_hand = mdn.predict_density(X[rows]).logpdf(y[rows]).mean()
                assert_allclose(score[i, j], by_hand)
