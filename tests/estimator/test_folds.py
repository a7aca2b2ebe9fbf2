"""Out-of-fold densities and validation rows."""

from functools import partial

import helpers
import numpy as np
import pytest
from helpers import fold_densities, linear_data, member_densities, two_kinds
from numpy.testing import assert_allclose, assert_array_equal

from skmdn import MDNRegressor
from skmdn._fit import pooling
from skmdn.datasets import make_inverse_sine

quick = partial(helpers.quick, n_estimators=2, hidden_layer_sizes=(16,), max_iter=20)


def test_out_of_fold_densities_come_from_networks_that_did_not_see_the_row():
    X, y = linear_data()
    mdn = quick(n_estimators=4).fit(X, y)
    members = member_densities(mdn, X, y)
    # Each row's value is that of exactly one network, and each network has a fold.
    matches = np.isclose(np.exp(mdn.oof_log_density_), members, rtol=1e-9)
    assert_array_equal(matches.sum(axis=0), np.ones(80))
    assert_array_equal(matches.sum(axis=1), np.full(4, 20))
    assert_allclose(mdn.oof_score_, mdn.oof_log_density_.mean())
    # The networks stopped on the very rows they held out.
    assert_allclose(mdn.best_validation_score_, mdn.oof_score_, rtol=1e-4)


@pytest.mark.parametrize(
    ("mdn", "n_kinds"), [(quick(n_estimators=11), 1), (two_kinds(), 2)]
)
def test_networks_that_share_a_fold_are_pooled(mdn, n_kinds, monkeypatch):
    # Otherwise the networks end sharper than those of one fold should be.
    monkeypatch.setattr(pooling, "extrapolate", lambda alone, pooled, *_: pooled)
    X, y = make_inverse_sine(80, random_state=0)
    mdn.fit(X, y)
    assert len(mdn.portfolio_weights_) == n_kinds
    folds = fold_densities(mdn, X, y, 8)
    matches = np.isclose(np.exp(mdn.oof_log_density_), folds, rtol=1e-9)
    assert_array_equal(matches.sum(axis=0), np.ones(80))
    assert_array_equal(matches.sum(axis=1), np.full(8, 10))
    assert_allclose(mdn.best_validation_score_, mdn.oof_score_, rtol=1e-4)


def test_out_of_fold_of_weightless_rows_is_the_pooled_density():
    X, y = linear_data()
    weight = np.ones(80)
    weight[:10] = 0
    mdn = quick(n_estimators=4).fit(X, y, sample_weight=weight)
    expected = mdn.score_samples(X[:10], y[:10])
    assert_allclose(mdn.oof_log_density_[:10], expected, rtol=1e-9)
    assert_allclose(mdn.oof_score_, mdn.oof_log_density_[10:].mean())


def test_rows_of_no_weight_do_not_count_whatever_they_hold():
    X, y = linear_data(d=1)
    y, weight = y[:, 0].copy(), np.ones(80)
    y[0], weight[0] = 1e200, 0.0
    mdn = quick(n_estimators=4).fit(X, y, sample_weight=weight)
    assert mdn.oof_log_density_[0] == -np.inf
    assert_allclose(mdn.oof_score_, mdn.oof_log_density_[1:].mean())
    assert_allclose(mdn.score(X, y, weight), mdn.score(X[1:], y[1:]))


def test_folds_predict_the_score_of_new_rows():
    X, y = make_inverse_sine(1000, random_state=0)
    X_test, y_test = make_inverse_sine(5000, random_state=1)
    mdn = MDNRegressor(n_estimators=4, max_iter=40, random_state=0).fit(X, y)
    assert abs(mdn.oof_score_ - mdn.score(X_test, y_test)) < 0.1


def test_no_out_of_fold_attributes_without_folds():
    X, y = linear_data()
    folds = quick(n_estimators=4)
    assert hasattr(folds.fit(X, y), "oof_score_")
    assert not hasattr(folds.fit(X, y, X_val=X, y_val=y), "oof_score_")
    assert not hasattr(quick(n_estimators=3).fit(X, y), "oof_score_")
    without = quick(n_estimators=4, early_stopping=False).fit(X, y)
    assert not hasattr(without, "oof_score_")
    assert not hasattr(without, "validation_scores_")


def test_given_validation_rows_are_those_that_count():
    X, y = linear_data()
    X_val, y_val = linear_data(40, seed=1)
    weight = np.arange(40.0)
    mdn = quick(n_estimators=1).fit(
        X, y, X_val=X_val, y_val=y_val, sample_weight_val=weight
    )
    expected = mdn.score(X_val, y_val, sample_weight=weight)
    assert_allclose(mdn.best_validation_score_, expected, rtol=1e-5)


def test_curves_are_in_nats_of_the_unit_of_y():
    X, y = linear_data(400)
    options = {"n_estimators": 4, "max_iter": 16, "n_iter_no_change": 16}
    quick = partial(helpers.quick, portfolio=None, **options)
    mdn = quick().fit(X, 1000 * y)
    assert mdn.n_iter_ == 16
    assert mdn.loss_curve_.shape == mdn.validation_scores_.shape == (16,)
    unscaled = quick().fit(X, y)
    shift = 2 * np.log(1000)
    assert_allclose(mdn.loss_curve_, unscaled.loss_curve_ + shift, rtol=1e-3)
    # The last calibration is more accurate than those of the epochs.
    assert_allclose(mdn.best_validation_score_, mdn.validation_scores_.max(), atol=1e-4)


def test_a_continued_fit_is_scored_on_rows_that_its_networks_never_saw():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(200, 3)), rng.normal(size=200)
    kinds = ["periodic_1", "bins"]
    mdn = quick(portfolio=kinds, n_estimators=8, max_iter=60, warm_start=True).fit(X, y)
    mdn.set_params(max_iter=5).fit(X, y)
    new = rng.normal(size=(2000, 3)), rng.normal(size=2000)
    assert mdn.best_validation_score_ == pytest.approx(mdn.oof_score_, abs=1e-6)
    assert mdn.best_validation_score_ < mdn.score(*new) + 0.1
