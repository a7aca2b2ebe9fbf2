"""Fits of targets that are bounded, rounded, censored or partly missing."""

import pickle

import numpy as np
import pandas as pd
import pytest
import sklearn
from helpers import linear_data, quick
from numpy.testing import assert_allclose, assert_array_equal
from scipy import integrate
from sklearn.compose import TransformedTargetRegressor
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmdn import MDNRegressor, TransformedDensity, predict_density

RNG = np.random.default_rng(0)
X, BOTH = linear_data(120)
Y = BOTH[:, 0]
POSITIVE = np.exp(0.5 * Y)
ROUNDED = np.round(2 * POSITIVE) / 2
UPPER = np.where(np.arange(120) % 3 == 0, np.inf, POSITIVE)
MISSING = np.where(RNG.random(BOTH.shape) < 0.3, np.nan, BOTH)
MISSING[0] = 1.0, np.nan
KINDS = {
    "positive": ({"target_support": (0, None)}, POSITIVE, {}),
    "share": ({"target_support": (0, 1)}, POSITIVE / (1 + POSITIVE), {}),
    "rounded": ({"target_resolution": 0.5}, ROUNDED, {}),
    "positive and rounded": (
        {"target_resolution": 0.5, "target_support": (0, None)},
        ROUNDED,
        {},
    ),
    "censored": ({}, POSITIVE, {"y_upper": UPPER}),
    "all of it": (
        {"target_resolution": 0.5, "target_support": (0, None)},
        ROUNDED,
        {"y_upper": np.where(np.isinf(UPPER), np.inf, ROUNDED)},
    ),
    "missing": ({}, MISSING, {}),
    "missing and bounded": (
        {"target_support": [(0, None), None]},
        np.exp(MISSING * [1, 0]) + MISSING * [0, 1],
        {},
    ),
    "missing and rounded": ({"target_resolution": 0.25}, np.round(MISSING * 4) / 4, {}),
}
pytestmark = pytest.mark.filterwarnings("ignore:y says nothing about:UserWarning")


def fitted(kind, **options):
    params, y, others = KINDS[kind]
    return quick(**params | options).fit(X, y, **others)


# -- all kinds ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_scores_agree_with_each_other(kind):
    _, y, others = KINDS[kind]
    mdn = fitted(kind)
    log_likelihood = mdn.score_samples(X, y, **others)
    assert np.isfinite(log_likelihood).all()
    is_known = log_likelihood != 0  # nothing was observed of the others
    assert_allclose(mdn.score(X, y, **others), log_likelihood[is_known].mean())
    assert_allclose(mdn.oof_log_density_[is_known].mean(), mdn.oof_score_)
    assert_allclose(mdn.oof_score_, mdn.best_validation_score_, rtol=1e-4, atol=1e-4)
    # The loss of the last epoch and the score are in the same unit.
    assert abs(mdn.loss_curve_[-1] + log_likelihood.mean()) < 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_the_rows_does_not_matter(kind):
    params, y, others = KINDS[kind]
    order = RNG.permutation(120)
    shuffled = {name: values[order] for name, values in others.items()}
    ours = quick(**params).fit(X[order], y[order], **shuffled)
    assert_array_equal(ours.predict(X), fitted(kind).predict(X))


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_is_a_repetition(kind):
    params, y, others = KINDS[kind]
    weight = RNG.integers(0, 3, size=120)
    repeated = np.repeat(np.arange(120), weight)
    more = {name: values[repeated] for name, values in others.items()}
    ours = quick(**params).fit(X, y, weight, **others)
    theirs = quick(**params).fit(X[repeated], y[repeated], **more)
    assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_models_are_stored(kind):
    _, y, others = KINDS[kind]
    mdn = fitted(kind)
    restored = pickle.loads(pickle.dumps(mdn))
    expected = mdn.score_samples(X, y, **others)
    assert_array_equal(restored.score_samples(X, y, **others), expected)
    assert type(restored.predict_density(X)) is type(mdn.predict_density(X))


@pytest.mark.parametrize("kind", KINDS)
def test_training_continues(kind):
    params, y, others = KINDS[kind]
    mdn = quick(warm_start=True, **params).fit(X, y, **others)
    assert np.isfinite(mdn.fit(X, y, **others).oof_score_)
    pieces = quick(**params)
    for _ in range(3):
        pieces.partial_fit(X, y, **others)
    assert pieces.score(X, y, **others) > quick(**params, max_iter=1).partial_fit(
        X, y, **others
    ).score(X, y, **others)
    pieces.partial_fit(X[:40], np.nan_to_num(y[:40], nan=1.0))  # no row is special
    mdn.set_params(target_support=(-1e6, None))
    with pytest.raises(ValueError, match=r"target_support=\(-1000000.0, None\) and"):
        mdn.fit(X, y, **others)


@pytest.mark.parametrize("kind", KINDS)
def test_every_covariance_type_and_warm_up(kind):
    _, y, others = KINDS[kind]
    for covariance_type in ("full", "tied", "diag", "spherical", "low_rank"):
        mdn = fitted(kind, covariance_type=covariance_type, warmup_iter=2, max_iter=4)
        assert np.isfinite(mdn.score(X, y, **others))


# -- supports ----------------------------------------------------------------------


def test_a_positive_target_is_fitted_by_its_logarithm():
    mdn = fitted("positive")
    latent = quick().fit(X, np.log(POSITIVE))
    shift = np.log(POSITIVE)
    expected = latent.score_samples(X, shift) - shift
    assert_allclose(mdn.score_samples(X, POSITIVE), expected, rtol=1e-9)
    assert_allclose(mdn.oof_log_density_, latent.oof_log_density_ - shift, rtol=1e-9)
    density = mdn.predict_density(X)
    assert isinstance(density, TransformedDensity)
    assert_array_equal(density.latent.means, latent.predict_density(X).means)
    assert_array_equal(density.cdf(0.0), 0)
    for row in range(2):
        total, _ = integrate.quad(
            lambda y, d=density[row]: d.pdf(y)[0], 0, 60, limit=200
        )
        assert_allclose(total, 1, rtol=1e-6)


def test_a_mirrored_support_gives_the_mirrored_fit():
    mirrored = quick(target_support=(None, 0)).fit(X, -POSITIVE)
    assert_allclose(mirrored.predict(X), -fitted("positive").predict(X), rtol=1e-9)


@pytest.mark.parametrize("kind", ["positive", "share", "missing and bounded"])
def test_predictions_are_those_of_the_density(kind):
    mdn = fitted(kind)
    density = mdn.predict_density(X[:9])
    assert_allclose(mdn.predict(X[:9]), density.mean())
    mean, std = mdn.predict(X[:9], return_std=True)
    assert_allclose(mean, density.mean())
    assert_allclose(std, density.std())
    assert_allclose(mdn.predict(X[:9], return_cov=True)[1], density.cov())
    assert_allclose(mdn.score_samples(X[:9]), -density.entropy())
    draws = mdn.sample(X[:9], 500, random_state=0)
    assert_allclose(draws.mean(1), density.mean(), atol=6 * density.std().max() / 22)
    low, high = {"positive": (0, np.inf), "share": (0, 1)}.get(kind, (0, np.inf))
    first = draws[..., 0] if draws.ndim == 3 else draws
    assert ((first > low) & (first < high)).all()


def test_supports_are_given_by_name():
    frame = pd.DataFrame({"price": POSITIVE, "change": Y})
    by_name = quick(target_support={"price": (0, None)}).fit(X, frame)
    by_place = quick(target_support=[(0, None), None]).fit(X, frame)
    assert_array_equal(by_name.predict(X), by_place.predict(X))
    price = by_name.predict_density(X).marginal("price")
    assert_array_equal(price.cdf(0.0), 0)


def test_a_transformed_target_regressor_is_refused_with_the_remedy():
    wrapped = TransformedTargetRegressor(quick(), func=np.log, inverse_func=np.exp)
    with pytest.raises(TypeError, match="target_support"):
        predict_density(wrapped.fit(X, POSITIVE), X)


# -- steps -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rounded", "positive and rounded"])
def test_the_likelihood_of_a_recorded_value_is_that_of_its_cell(kind):
    mdn = fitted(kind)
    density = mdn.predict_density(X)
    probability = density.cdf(ROUNDED + 0.25) - density.cdf(ROUNDED - 0.25)
    assert_allclose(mdn.score_samples(X, ROUNDED), np.log(probability / 0.5), rtol=1e-6)
    assert (mdn.score_samples(X, ROUNDED) <= -np.log(0.5)).all()


def test_spikes_gain_nothing():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 1))
    y = np.round(x[:, 0] / 2)
    options = {"max_iter": 60, "reg_covar": 1e-9, "n_components": 4}
    with pytest.warns(UserWarning, match="set target_resolution, for example to 1:"):
        spikes = quick(**options).fit(x, y)
    cells = quick(**options, target_resolution=1.0).fit(x, y)
    assert spikes.score(x, y) > 0.5  # a density has no bound
    assert -1 < cells.score(x, y) <= 0


def test_auto_finds_the_step():
    auto = fitted("rounded", target_resolution="auto")
    assert_array_equal(auto.predict(X), fitted("rounded").predict(X))
    exact = quick(target_resolution="auto").fit(X, Y)
    assert_array_equal(exact.predict(X), quick().fit(X, Y).predict(X))


def test_a_fine_step_is_that_of_an_exact_number():
    """float32 must not lose the width of cells far from zero."""
    y = np.round(Y, 6) + 1000
    fine = quick(target_resolution=1e-6).fit(X, y)
    exact = quick().fit(X, y)
    assert_allclose(fine.score_samples(X, y), exact.score_samples(X, y), atol=1e-2)


# -- intervals ---------------------------------------------------------------------


def test_intervals_have_the_probability_of_the_density():
    mdn = fitted("censored")
    density = mdn.predict_density(X)
    lower, upper = POSITIVE, POSITIVE + 1
    expected = np.log(density.cdf(upper) - density.cdf(lower))
    assert_allclose(mdn.score_samples(X, lower, y_upper=upper), expected, rtol=1e-6)
    open_above = mdn.score_samples(X, lower, y_upper=np.full(120, np.inf))
    assert_allclose(open_above, density.logsf(lower), rtol=1e-9)
    open_below = mdn.score_samples(X, np.full(120, -np.inf), y_upper=upper)
    assert_allclose(open_below, density.logcdf(upper), rtol=1e-9)
    observed = mdn.score_samples(X, POSITIVE, y_upper=POSITIVE)
    assert_allclose(observed, density.logpdf(POSITIVE), rtol=1e-9)


def test_observed_intervals_are_observed_targets():
    plain = quick().fit(X, POSITIVE)
    same = quick().fit(X, POSITIVE, y_upper=POSITIVE)
    assert_array_equal(same.predict(X), plain.predict(X))


def test_censored_targets_are_learned():
    """A fit to the censored values alone would predict less than the limit."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 2, size=(600, 1))
    y = 3 * x[:, 0] + 0.5 * rng.normal(size=600)
    limit = 2.0
    lower, upper = np.minimum(y, limit), np.where(y > limit, np.inf, y)
    options = {"max_iter": 60, "n_estimators": 4, "portfolio": None}
    mdn = quick(**options).fit(x, lower, y_upper=upper)
    naive = quick(**options).fit(x, lower)
    beyond = np.array([[1.2], [1.5]])
    assert (mdn.predict_density(beyond).sf(limit) > 0.9).all()
    assert mdn.score(x, y) > naive.score(x, y) + 1


def test_y_upper_is_routed_like_other_metadata():
    with sklearn.config_context(enable_metadata_routing=True):
        mdn = quick(max_iter=3)
        mdn.set_fit_request(y_upper=True).set_score_request(y_upper=True)
        pipeline = make_pipeline(StandardScaler(), mdn)
        scores = cross_val_score(
            pipeline, X, POSITIVE, params={"y_upper": UPPER}, cv=3, error_score="raise"
        )
        assert np.isfinite(scores).all()


def test_parameters_are_searched():
    grid = {"target_support": [None, (0, None)]}
    search = GridSearchCV(quick(max_iter=5), grid, cv=2).fit(X, POSITIVE)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


# -- missing outputs ---------------------------------------------------------------


def test_outputs_that_were_not_observed_are_integrated_out():
    mdn = fitted("missing")
    density = mdn.predict_density(X)
    expected = np.zeros(120)
    is_known = ~np.isnan(MISSING)
    for outputs in ([0], [1], [0, 1]):
        rows = (is_known == np.isin([0, 1], outputs)).all(axis=1)
        marginal = density[rows].marginal(outputs)
        expected[rows] = marginal.logpdf(MISSING[rows][:, outputs])
    assert_allclose(mdn.score_samples(X, MISSING), expected, rtol=1e-9, atol=1e-12)


def test_validation_rows_may_lack_outputs():
    """They are in the unit of y, and rows without any output do not count."""
    far = BOTH + 1000
    y = np.where(np.arange(120)[:, None] % 2 == [1, 0], far, np.nan)
    mdn = quick().fit(X, far, X_val=X, y_val=y)
    assert_allclose(mdn.best_validation_score_, mdn.score(X, y), rtol=1e-3)
    more = np.concatenate([y, np.full_like(y, np.nan)])
    diluted = quick().fit(X, far, X_val=np.tile(X, (2, 1)), y_val=more)
    assert_allclose(diluted.validation_scores_, mdn.validation_scores_)
    assert_allclose(mdn.score(np.tile(X, (2, 1)), more), mdn.score(X, y))


def test_frames_of_objects_may_lack_outputs():
    frame = pd.DataFrame(MISSING, columns=["a", "b"]).astype(object)
    frame = frame.where(frame.notna(), None)
    mdn = quick().fit(X, frame)
    assert_array_equal(mdn.predict(X), fitted("missing").predict(X))


def test_few_events_are_not_few_values():
    """Distinct values are counted among those that are known."""
    rows, y = np.tile(X, (4, 1)) + 1e-3 * RNG.normal(size=(480, 3)), np.zeros(480)
    y[:14], upper = RNG.normal(size=14), np.full(480, np.inf)
    upper[:14] = y[:14]
    quick(max_iter=2).fit(rows, y, y_upper=upper)  # a warning is an error


def test_outliers_are_shown_in_the_unit_of_y():
    y = np.exp(0.01 * Y)
    y[7] = 1e30
    with pytest.warns(UserWarning, match=r"1e\+30 in 1 row, while all .* between 0\.9"):
        quick(target_support=(0, None), max_iter=2).fit(X, y)


def test_a_piece_may_lack_an_output():
    mdn = quick().partial_fit(X, BOTH)
    mdn.partial_fit(X[:30], BOTH[:30] * [1, np.nan])
    assert np.isfinite(mdn.score(X, BOTH))


def test_rows_of_which_nothing_was_observed_are_dropped_with_a_warning():
    y = BOTH.copy()
    y[[3, 5]] = np.nan
    with pytest.warns(UserWarning, match="y says nothing about 2 rows"):
        mdn = quick().fit(X, y)
    known = np.delete(np.arange(120), [3, 5])
    plain = quick().fit(X[known], y[known])
    # Their scale determines the clipping of weights, and nothing else.
    assert_allclose(mdn.predict(X), plain.predict(X), rtol=1e-4)
    assert_array_equal(mdn.oof_log_density_[[3, 5]], 0)


# -- errors ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: quick(target_support=(0, None)).fit(X, Y), "open interval"),
        (lambda: fitted("positive").score(X, Y), "open interval"),
        (lambda: quick(target_support=(2, 1)).fit(X, Y), "low < high"),
        (lambda: quick(target_support=[(0, 1)] * 3).fit(X, BOTH), "3 entries for 2"),
        (lambda: quick(target_resolution=0).fit(X, Y), "target_resolution"),
        (lambda: quick(target_resolution=1e-20).fit(X, Y), "finer than float64"),
        (lambda: quick().fit(X, Y, y_upper=Y - 1), "must not be below y: row 0"),
        (lambda: quick().fit(X, Y, y_upper=Y[:5]), "one value for each of the 120"),
        (lambda: quick().fit(X, Y, y_upper=np.inf), "one value for each of the 120"),
        (
            lambda: fitted("censored").score_samples(X, y_upper=UPPER),
            "y_upper was given without y",
        ),
        (
            lambda: quick().fit(
                X,
                Y,
                np.arange(120) % 2,
                y_upper=np.where(np.arange(120) % 2, np.inf, Y),
            ),
            "bounded above",
        ),
        (lambda: fitted("missing").score(X, BOTH * np.nan), "no observed value"),
        (
            lambda: quick().fit(X, BOTH, X_val=X, y_val=BOTH * np.nan),
            "y_val has no observed value",
        ),
        (lambda: quick().fit(X, BOTH, y_upper=Y), "y_upper needs one output, but y"),
        (lambda: quick().fit(X, Y, y_upper=np.full(120, np.inf)), "bounded above"),
        (lambda: quick().fit(X, np.full(120, -np.inf), y_upper=Y), "bounded below"),
        (lambda: quick().fit(X, Y, y_upper=np.where(Y > 0, np.nan, Y)), "NaN"),
        (lambda: quick().fit(X, np.where(Y > 1, np.inf, Y), y_upper=Y), "interval"),
        (
            lambda: quick().fit(X, BOTH * [1, np.nan]),
            "no observed value in output 1",
        ),
        (lambda: quick().fit(X, BOTH * np.nan), "no observed value in rows of"),
    ],
)
def test_bad_targets_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_refused_fit_changes_nothing():
    mdn = fitted("positive")
    before = mdn.predict(X)
    with pytest.raises(ValueError, match="open interval"):
        mdn.fit(X, Y)
    assert_array_equal(mdn.predict(X), before)


@pytest.mark.parametrize(
    ("params", "y"),
    [
        ({"target_support": (0, None)}, np.full(40, 3.0)),
        ({"target_support": (0, None), "target_resolution": 1.0}, np.zeros(40)),
        ({"target_support": (0, None), "target_resolution": 1.0}, np.arange(40) % 2),
        ({"target_support": (0, 1)}, np.repeat([1e-12, 1 - 1e-12], 20)),
        ({"target_resolution": 1e6}, np.repeat([0.0, 1e6], 20)),
        ({"target_support": (0, None)}, np.geomspace(1e-100, 1e100, 40)),
    ],
)
@pytest.mark.filterwarnings("ignore:y has only .* distinct values:UserWarning")
@pytest.mark.filterwarnings("ignore:X has values far outside:UserWarning")
def test_odd_targets_give_finite_predictions(params, y):
    rows = X[:40]
    mdn = MDNRegressor(random_state=0, max_iter=5, **params).fit(rows, y)
    assert np.isfinite(mdn.score_samples(rows, y)).all()
    assert np.isfinite(mdn.predict_density(rows).median()).all()
