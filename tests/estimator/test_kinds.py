"""Kinds of networks that compete in one fit."""

import io
import pickle
import warnings

import joblib
import numpy as np
import pytest
import skops.io
from helpers import (
    WITHOUT_VIEWS,
    linear_data,
    needs_callbacks,
    plain_network,
    quick,
    standardised,
    two_kinds,
)
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.base import clone
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV

from skmdn._data.scaling import RANGE_MARGIN
from skmdn._fit import session as session_module
from skmdn._training.kinds import KINDS
from skmdn.callbacks import Checkpoint
from skmdn.datasets import make_inverse_sine

X, Y = make_inverse_sine(80, random_state=0)
TYPE = "skmdn._regressor.MDNRegressor"


@pytest.fixture(scope="module")
def mdn():
    """A fit that keeps two kinds; not to be changed."""
    mdn = two_kinds().fit(X, Y)
    assert set(mdn.portfolio_weights_) == {"linear", "bins"}
    return mdn


def kinds_of(mdn):
    return [kind for part in mdn._model.sizes for kind in part]


def assert_same_fit(ours, theirs):
    assert_array_equal(ours.loss_curve_, theirs.loss_curve_)
    assert_array_equal(ours.validation_scores_, theirs.validation_scores_)
    assert_array_equal(ours.predict(X), theirs.predict(X))
    assert_array_equal(ours.score_samples(X, Y), theirs.score_samples(X, Y))
    assert ours.portfolio_weights_ == theirs.portfolio_weights_
    assert ours.portfolio_scores_ == theirs.portfolio_scores_


# -- parameters ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ({}, WITHOUT_VIEWS),
        ({"portfolio": None}, ["periodic_0.3"]),
        ({"portfolio": None, "embedding": "bins"}, ["bins"]),
        ({"portfolio": None, "embedding": None}, ["plain"]),
        ({"portfolio": ["plain", "linear"]}, ["plain", "linear"]),
        ({"portfolio": ("bins",)}, ["bins"]),
        ({"embedding": "bins"}, ["bins"]),
        ({"embedding": None}, ["plain"]),
        (
            {"embedding": "periodic"},
            ["periodic_0.1", "periodic_0.3", "periodic_1", "linear"],
        ),
        ({"embedding": "bins", "portfolio": ["plain", "bins"]}, ["bins"]),
        ({"network": plain_network}, ["network"]),
        ({"network": plain_network, "portfolio": ["bins", "plain"]}, ["network"]),
        # Too few epochs to compare kinds.
        ({"max_iter": 4}, ["periodic_0.3"]),
        ({"max_iter": 4, "portfolio": ["linear", "periodic_0.3"]}, ["periodic_0.3"]),
        ({"max_iter": 4, "portfolio": ["bins", "plain"]}, ["bins"]),
    ],
)
def test_these_kinds_compete(options, kinds):
    mdn = quick(**options).fit(X, Y)
    assert set(mdn.portfolio_scores_) == set(kinds)
    assert set(mdn.portfolio_weights_) <= set(kinds)
    embedding = options.get("embedding", "auto")
    if embedding != "auto":
        found = {network.arguments["embedding"] for network in mdn.network_.networks}
        assert found == {embedding}


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({}, "periodic_0.3"),
        ({"embedding": "bins"}, "bins"),
        ({"portfolio": ["plain", "bins"]}, "plain"),
        ({"portfolio": ["linear"]}, "linear"),
        ({"network": plain_network}, "network"),
    ],
)
def test_without_held_out_rows_there_is_one_kind(options, kind):
    fits = [
        quick(early_stopping=False, **options).fit(X, Y),
        quick(**options).partial_fit(X, Y).partial_fit(X, Y),
    ]
    for mdn in fits:
        assert mdn.portfolio_weights_ == pytest.approx({kind: 1.0}, rel=1e-12)
        assert not hasattr(mdn, "portfolio_scores_")


@pytest.mark.parametrize(
    "portfolio", [["foo"], ["bins", "foo"], [], (), [3], [None], [["bins"]]]
)
@pytest.mark.parametrize("options", [{}, {"early_stopping": False}, {"max_iter": 2}])
def test_unknown_kinds_are_refused(portfolio, options):
    with pytest.raises(ValueError, match=r"portfolio must be 'auto', None") as caught:
        quick(portfolio=portfolio, **options).fit(X, Y)
    assert repr(portfolio) in str(caught.value)
    assert all(repr(kind) in str(caught.value) for kind in KINDS)


@pytest.mark.parametrize("portfolio", ["linear", 3, {"bins"}])
def test_portfolios_that_are_no_sequence_are_refused(portfolio):
    with pytest.raises(ValueError, match="'portfolio' parameter"):
        quick(portfolio=portfolio).fit(X, Y)


def test_contradicting_parameters_are_refused():
    message = r"No kind of portfolio=\['bins'\] has embedding='periodic'"
    with pytest.raises(ValueError, match=message):
        quick(portfolio=["bins"], embedding="periodic").fit(X, Y)


def test_limits_of_the_portfolio_do_not_hold_for_the_only_kind(monkeypatch):
    monkeypatch.setattr("skmdn._fit.building.MOST_BINS", 3)
    monkeypatch.setattr("skmdn._training.kinds.MOST_LINEAR_FEATURES", 0)
    for kind in ("bins", "linear"):
        mdn = quick(portfolio=[kind]).fit(X, Y)
        assert list(mdn.portfolio_scores_) == [kind]
    mdn = quick(portfolio=["bins", "linear", "plain"]).fit(X, Y)
    assert list(mdn.portfolio_scores_) == ["plain"]


# -- what is kept ----------------------------------------------------------------------


@pytest.mark.parametrize("n_estimators", range(1, 18))
def test_this_many_networks_predict(n_estimators):
    mdn = two_kinds(n_estimators=n_estimators).fit(X, Y)
    density = mdn.predict_density(X[:3])
    assert density.n_components == n_estimators * mdn.n_components_
    assert mdn.network_.n_members == n_estimators
    assert_allclose(density.weights.sum(axis=1), 1)


def test_weights_are_those_of_the_mixture(mdn):
    assert_allclose(sum(mdn.portfolio_weights_.values()), 1)
    assert set(mdn.portfolio_scores_) == {"linear", "bins"}
    assert kinds_of(mdn) == list(mdn.portfolio_weights_)
    sizes = [size * mdn.n_components_ for p in mdn._model.sizes for size in p.values()]
    weights = mdn.predict_density(X).weights
    parts = np.split(weights, np.cumsum(sizes)[:-1], axis=1)
    for kind, part in zip(mdn.portfolio_weights_, parts, strict=True):
        assert_allclose(part.sum(axis=1), mdn.portfolio_weights_[kind])


def test_methods_agree_on_the_pool(mdn):
    density = mdn.predict_density(X)
    assert_allclose(mdn.predict(X), density.mean(), rtol=1e-10)
    mean, std = mdn.predict(X, return_std=True)
    assert_allclose(mean, density.mean(), rtol=1e-10)
    assert_allclose(std, density.std(), rtol=1e-10)
    assert_allclose(mdn.score_samples(X, Y), density.logpdf(Y), rtol=1e-10)


def test_the_pool_is_not_worse_than_its_kinds(mdn):
    # Weights maximise the held-out likelihood; the calibration of the pool comes after.
    assert mdn.best_validation_score_ > max(mdn.portfolio_scores_.values())


def test_scores_are_in_nats_of_the_unit_of_y(mdn):
    scaled = two_kinds().fit(X, 1000 * Y)
    for kind, score in mdn.portfolio_scores_.items():
        assert_allclose(scaled.portfolio_scores_[kind], score - np.log(1000), rtol=1e-3)


def test_verbose_prints_what_was_kept(capsys, mdn):
    verbose = two_kinds(verbose=True).fit(X, Y)
    lines = capsys.readouterr().out.splitlines()
    first, line, last = [line for line in lines if not line.startswith("Epoch")]
    assert first.endswith(f"; kinds that compete: {', '.join(mdn.portfolio_scores_)}")
    for kind, weight in mdn.portfolio_weights_.items():
        assert f"{kind} (weight {weight:.2f})" in last
    for kind in mdn.portfolio_scores_:
        (size,) = [part[kind] for part in mdn._model.sizes if kind in part]
        assert f"{kind} " in line
        assert f"{size} networks" in line
    assert_same_fit(verbose, mdn)


def test_curves_are_of_all_epochs(mdn):
    assert mdn.n_iter_ == len(mdn.loss_curve_) == len(mdn.validation_scores_)
    assert np.isfinite(mdn.validation_scores_).all()


def test_a_single_epoch_without_progress_is_not_the_end():
    """Epochs are counted even if only some are scored."""
    for patience in (2, 3, 7):
        mdn = quick(
            portfolio=None, max_iter=40, n_iter_no_change=patience, tol=100.0
        ).fit(X, Y)
        # The start is progress, and nothing after it.
        assert mdn.n_iter_ == patience


# -- few rows and linear truths ------------------------------------------------------


@pytest.mark.parametrize("n", [4, 6, 12, 24])
def test_few_rows_give_the_linear_model(n):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The number of distinct rows")
        mdn = quick(n_estimators=16).fit(X[:n], Y[:n])
    assert mdn.portfolio_weights_ == pytest.approx({"linear": 1.0}, rel=1e-12)
    assert mdn.n_iter_ == len(mdn.loss_curve_) == len(mdn.validation_scores_) == 0
    assert np.isfinite([mdn.best_validation_score_, mdn.oof_score_]).all()
    features, mean = standardised(mdn, X), mdn.predict(X)
    # The line is bounded, and bent outside of the range of the rows.
    margin = RANGE_MARGIN[0] + RANGE_MARGIN[1] / n
    low, high = (margin * end(features[:n], axis=0) for end in (np.min, np.max))
    is_inside = (np.abs(features) < 3) & (features > low) & (features < high)
    is_inside = is_inside.all(axis=1)
    assert is_inside.sum() > 20
    features, mean = features[is_inside], mean[is_inside]
    line = LinearRegression().fit(features, mean)
    assert_allclose(line.predict(features), mean, atol=1e-4)


@pytest.mark.parametrize("d", [1, 2])
def test_a_linear_truth_costs_little(d):
    rows, targets = linear_data(2000, d=d)
    X, y, X_test, y_test = rows[:300], targets[:300], rows[300:], targets[300:]
    ours = quick(n_estimators=8, max_iter=20).fit(X, y)
    line = LinearRegression().fit(X, y)
    residuals = y - line.predict(X)
    cov = residuals.T @ residuals / (len(X) - 4)
    errors = y_test - line.predict(X_test)
    distances = np.einsum("ni,ij,nj->n", errors, np.linalg.inv(cov), errors)
    log_det = np.linalg.slogdet(2 * np.pi * cov)[1]
    theirs = np.mean(-0.5 * distances - 0.5 * log_det)
    assert ours.score(X_test, y_test) > theirs - 0.1


# -- rows ------------------------------------------------------------------------------


def test_a_sample_weight_means_repetition(mdn):
    weight = np.random.RandomState(0).randint(1, 4, size=len(X))
    repeated = two_kinds().fit(np.repeat(X, weight, axis=0), np.repeat(Y, weight))
    weighted = two_kinds().fit(X, Y, sample_weight=weight)
    assert len(weighted.portfolio_weights_) == 2
    assert_same_fit(weighted, repeated)


def test_the_order_of_the_rows_has_no_effect(mdn):
    order = np.random.RandomState(0).permutation(len(X))
    assert_same_fit(two_kinds().fit(X[order], Y[order]), mdn)


def test_mirrored_targets_give_the_mirrored_fit(mdn):
    mirrored = two_kinds().fit(X, -Y)
    assert kinds_of(mirrored) == kinds_of(mdn)
    assert_allclose(mirrored.predict(X), -mdn.predict(X), rtol=1e-6)
    assert_allclose(mirrored.score_samples(X, -Y), mdn.score_samples(X, Y), rtol=1e-6)


def test_sparse_rows_give_the_same_fit(mdn):
    assert_same_fit(two_kinds().fit(sparse.csr_array(X), Y), mdn)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "low_rank"])
def test_several_outputs(covariance_type):
    rows = np.column_stack([X, X**2])
    y = np.column_stack([Y, np.sin(3 * Y), X[:, 0]])
    mdn = quick(
        portfolio=["linear", "bins", "plain"],
        n_estimators=16,
        max_iter=8,
        covariance_type=covariance_type,
    ).fit(rows, y)
    density = mdn.predict_density(rows)
    assert_allclose(mdn.predict(rows), density.mean(), rtol=1e-9)
    assert_allclose(mdn.score_samples(rows, y), density.logpdf(y), rtol=1e-9)
    assert np.isfinite(mdn.oof_score_)


def test_groups_are_held_out_together():
    groups = np.arange(80) % 5
    mdn = two_kinds(n_estimators=11).fit(X, Y, groups=groups)
    assert mdn.network_.n_members == 11
    assert {sum(part.values()) % 5 for part in mdn._model.sizes} <= {0, 1}
    assert_allclose(mdn.oof_score_, mdn.oof_log_density_.mean())


def test_validation_rows_decide():
    X_val, y_val = make_inverse_sine(60, random_state=1)
    mdn = two_kinds().fit(X, Y, X_val=X_val, y_val=y_val)
    assert set(mdn.portfolio_scores_) == {"linear", "bins"}
    assert_allclose(mdn.best_validation_score_, mdn.score(X_val, y_val), rtol=1e-4)
    # Those that a kind fits best give it the weight.
    line = LinearRegression().fit(X, Y)
    mdn.fit(X, Y, X_val=X_val, y_val=line.predict(X_val))
    assert mdn.portfolio_weights_["linear"] > 0.9


# -- continued and interrupted fits ------------------------------------------------


def test_a_warm_start_continues_all_kinds(mdn):
    continued = clone(mdn).set_params(warm_start=True).fit(X, Y)
    first = continued.network_.state_dict()
    continued.fit(X, Y)
    assert kinds_of(continued) == kinds_of(mdn)
    assert continued._model.sizes == mdn._model.sizes
    assert set(continued.portfolio_scores_) == set(mdn.portfolio_scores_)
    # No worse, except for the cost of training.
    assert continued.best_validation_score_ > mdn.best_validation_score_ - 1e-3
    names = continued.network_.state_dict().keys()
    assert names == first.keys()


@pytest.mark.parametrize(
    ("n_groups", "options"),
    [
        (2, {"n_estimators": 10, "portfolio": ["linear", "plain"]}),
        (4, {"n_estimators": 10}),
        (5, {"n_estimators": 15}),
    ],
)
def test_a_warm_start_with_more_folds(n_groups, options):
    """Each kind of the first fit holds out every row of the second one."""
    mdn = two_kinds(warm_start=True, **options)
    mdn.fit(X, Y, groups=np.arange(80) % n_groups)
    assert len(mdn.portfolio_weights_) == 2
    mdn.fit(X, Y)
    assert_allclose(sum(mdn.portfolio_weights_.values()), 1)
    assert np.isfinite([mdn.best_validation_score_, mdn.oof_score_]).all()
    assert np.isfinite(mdn.oof_log_density_).all()


def test_partial_fits_continue_all_kinds(mdn):
    continued = pickle.loads(pickle.dumps(mdn)).partial_fit(X, Y).partial_fit(X, Y)
    assert continued.n_iter_ == mdn.n_iter_ + 2
    assert continued.portfolio_weights_ == pytest.approx(mdn.portfolio_weights_)
    changed = [
        not np.array_equal(ours, theirs)
        for (_, ours), (_, theirs) in zip(
            continued.network_.named_parameters(),
            mdn.network_.named_parameters(),
            strict=True,
        )
    ]
    assert all(changed)


@pytest.mark.parametrize("options", [{}, {"n_estimators": 4}, {"portfolio": "auto"}])
def test_ctrl_c_before_the_choice_keeps_what_is_best_so_far(options, monkeypatch):
    step = session_module.FitSession.step

    def interrupted(session):
        if session.n_epochs == 2:
            assert not session.portfolio.is_narrow
            raise KeyboardInterrupt
        step(session)

    monkeypatch.setattr(session_module.FitSession, "step", interrupted)
    mdn = two_kinds(**options)
    with pytest.raises(KeyboardInterrupt):
        mdn.fit(X, Y)
    assert mdn.n_iter_ == 2
    assert set(mdn.portfolio_weights_) <= set(mdn.portfolio_scores_)
    assert len(mdn.portfolio_scores_) == (5 if "portfolio" in options else 2)
    assert_allclose(sum(mdn.portfolio_weights_.values()), 1)
    assert np.isfinite(mdn.oof_score_)
    assert_allclose(mdn.score_samples(X, Y), mdn.predict_density(X).logpdf(Y))
    monkeypatch.undo()
    # Fewer networks than asked for are continued.
    mdn.set_params(warm_start=True).fit(X, Y)
    assert np.isfinite(mdn.score(X, Y))


class Crash(BaseException):
    pass


class CrashAfter:
    """Callback that raises at the end of an epoch."""

    def __init__(self, n_epochs):
        self.n_epochs = n_epochs

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        if context.task_name == "epoch" and context.task_id + 1 == self.n_epochs:
            raise Crash


# The choice is made after epoch 5.
@needs_callbacks
@pytest.mark.parametrize("n_epochs", [1, 4, 5, 6, 17])
@pytest.mark.parametrize("options", [{}, {"portfolio": "auto", "dropout": 0.1}])
def test_a_resumed_fit_ends_with_the_same_bits(options, n_epochs, tmp_path):
    through = two_kinds(n_iter_no_change=20, **options)
    crashed, resumed = clone(through), clone(through)
    through.fit(X, Y)
    assert through.n_iter_ == 20
    checkpoint = Checkpoint(tmp_path / "fit.npz", every=1)
    crashed.set_callbacks(checkpoint, CrashAfter(n_epochs))
    with pytest.raises(Crash):
        crashed.fit(X, Y)
    resumed.set_callbacks(checkpoint).fit(X, Y)
    assert_same_fit(resumed, through)


# -- scikit-learn ------------------------------------------------------------------


def test_stored_pools_predict_the_same(mdn, tmp_path):
    file = io.BytesIO()
    joblib.dump(mdn, file)
    file.seek(0)
    skops.io.dump(mdn, tmp_path / "mdn.skops")
    for restored in (
        pickle.loads(pickle.dumps(mdn)),
        joblib.load(file),
        skops.io.load(tmp_path / "mdn.skops", trusted=[TYPE]),
    ):
        assert_same_fit(restored, mdn)
    assert_same_fit(clone(mdn).fit(X, Y), mdn)
    assert clone(mdn).get_params() == mdn.get_params()


def test_portfolios_are_searched():
    grid = {"portfolio": ["auto", None, ["linear"], ("linear", "plain")]}
    search = GridSearchCV(quick(), grid, cv=2).fit(X, Y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_params_["portfolio"] in grid["portfolio"]
    assert "portfolio=['linear']" in repr(quick(portfolio=["linear"]))
