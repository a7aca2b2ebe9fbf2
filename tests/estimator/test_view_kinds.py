"""Kinds of networks with a view of the other rows, from fit to prediction."""

import pickle

import numpy as np
import pytest
from helpers import quick
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from skmdn import MDNRegressor
from skmdn._data.views.kriging import Kriging
from skmdn._data.views.trees import Trees
from skmdn._utils import arrays
from skmdn.export import to_onnx

RNG = np.random.default_rng(0)
X = RNG.uniform(-2, 2, size=(300, 2))
# The neighbours know this after no training at all.
Y = np.sin(3 * X[:, 0]) * np.cos(3 * X[:, 1]) + 0.05 * RNG.normal(size=300)


def fitted(**options):
    return quick(max_iter=30, **{"portfolio": ["kriging_0.1"]} | options).fit(X, Y)


# -- honesty ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["kriging_0.1", "trees_0.1", "nearest_0.1"])
@pytest.mark.parametrize("n_copies", [1, 8])
def test_the_score_of_noise_is_that_of_new_rows(n_copies, kind):
    """Among copies, leaving out a row alone would tell its target."""
    rng = np.random.default_rng(1)
    points = rng.normal(size=(640 // n_copies, 3))
    old, new = np.repeat(points, n_copies, axis=0), rng.normal(size=(2000, 3))
    y, y_new = rng.normal(size=640), rng.normal(size=2000)
    mdn = MDNRegressor(random_state=0, portfolio=[kind], max_iter=60).fit(old, y)
    seen = mdn.score(old, rng.normal(size=640))
    unconditional = -0.5 * np.log(2 * np.pi) - 0.5
    noise = 3 * mdn.oof_log_density_.std() / np.sqrt(640)
    for score in (mdn.score(new, y_new), seen, unconditional):
        assert abs(mdn.oof_score_ - score) < noise + 0.05


@pytest.mark.parametrize("n_copies", [1, 8])
def test_a_view_that_gains_nothing_is_dropped(n_copies):
    rng = np.random.default_rng(2)
    points = np.repeat(rng.normal(size=(640 // n_copies, 3)), n_copies, axis=0)
    mdn = MDNRegressor(random_state=0).fit(points, rng.normal(size=640))
    assert not set(mdn.portfolio_weights_) & {"views_0.1", "views_1"}
    assert not mdn._model.views


@pytest.mark.parametrize("kind", ["kriging_0.1", "views_0.1"])
def test_a_view_that_gains_is_kept(kind):
    portfolio = ["periodic_0.1", "linear", kind]
    mdn = fitted(portfolio=portfolio)
    assert mdn.portfolio_weights_[kind] > 0.5
    without = fitted(portfolio=portfolio[:2])
    assert mdn.oof_score_ > without.oof_score_ + 0.1


@pytest.mark.parametrize("kind", ["nearest_0.1", "trees_0.1"])
def test_groups_do_not_see_their_own_targets(kind):
    # The target is that of the group: only its own rows would tell it.
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(60), 10)
    of_group = rng.normal(size=60)
    inner = rng.normal(size=(600, 2)) + 5 * rng.normal(size=(60, 2))[groups]
    y = of_group[groups] + 0.1 * rng.normal(size=600)
    mdn = MDNRegressor(portfolio=[kind], max_iter=40, random_state=0)
    known = mdn.fit(inner, y).oof_score_
    new = mdn.fit(inner, y, groups=groups).oof_score_
    assert new < known - 0.5
    assert new < -0.9


# -- queries ---------------------------------------------------------------------------


def test_predictions_do_not_depend_on_the_other_rows(monkeypatch):
    mdn = fitted(portfolio=["views_0.1", "periodic_0.1"])
    everything = mdn.score_samples(X, Y), mdn.predict(X), mdn.predict_density(X).std()
    some = mdn.score_samples(X[:7], Y[:7]), mdn.predict(X[:7])
    for whole, part in zip(everything, some, strict=False):
        assert_allclose(whole[:7], part, rtol=1e-9, atol=1e-9)
    monkeypatch.setattr(arrays, "CACHE_MEBIBYTES", 2**-6)
    chunked = mdn.score_samples(X, Y), mdn.predict(X), mdn.predict_density(X).std()
    for whole, parts in zip(everything, chunked, strict=True):
        assert_allclose(parts, whole, rtol=1e-9, atol=1e-9)


def test_views_are_computed_for_many_rows_at_once(monkeypatch):
    """Every tree costs some calls for each chunk; networks have chunks of few rows."""
    mdn = fitted(portfolio=["views_0.1"], hidden_layer_sizes=(256,))
    sizes, call = [], Trees.__call__
    monkeypatch.setattr(
        Trees,
        "__call__",
        lambda view, rows: sizes.append(len(rows)) or call(view, rows),
    )
    mdn.predict(np.tile(X, (20, 1)))
    assert sizes == [6000]


def test_several_outputs_share_a_view():
    both = np.column_stack([Y, Y + 0.1 * RNG.normal(size=300)])
    mdn = quick(portfolio=["views_0.1"], max_iter=5).fit(X, both)
    views = mdn._model.views
    assert {k: v.widths[k] for k, v in views.items()} == {"kriging": 3, "trees": 4}
    assert mdn.predict(X[:4]).shape == (4, 2)


def test_a_stored_model_predicts_the_same():
    mdn = fitted(portfolio=["views_0.1"])
    opened = pickle.loads(pickle.dumps(mdn))
    assert_array_equal(opened.predict(X), mdn.predict(X))
    assert_array_equal(opened.score_samples(X, Y), mdn.score_samples(X, Y))


def test_a_warm_start_keeps_what_the_networks_have_learned_to_read():
    mdn = fitted(warm_start=True)
    before, score = mdn._model.views["kriging"], mdn.score(X, Y)
    high = np.median(Y) < Y
    mdn.set_params(max_iter=1).fit(X[high], Y[high])
    after = mdn._model.views["kriging"]
    assert_array_equal(after.kernel.vector, before.kernel.vector)
    assert_array_equal(after.moments, before.moments)
    of_both = np.isin(before.values, after.values)
    assert of_both.sum() == high.sum()
    assert mdn.score(X[high], Y[high]) > score - 0.7
    with pytest.raises(ValueError, match="cannot be continued"):
        mdn.fit(sparse.csr_matrix(X), Y)


def test_mirrored_targets_have_mirrored_densities():
    plus, minus = fitted(), quick(portfolio=["kriging_0.1"], max_iter=30).fit(X, -Y)
    assert_allclose(
        minus.score_samples(X, -Y), plus.score_samples(X, Y), rtol=1e-4, atol=1e-3
    )


def test_validation_rows_see_the_view_of_new_rows():
    mdn = quick(portfolio=["views_0.1"], max_iter=30)
    mdn.fit(X[:200], Y[:200], X_val=X[200:], y_val=Y[200:])
    score = mdn.score(X[200:], Y[200:])
    assert mdn.best_validation_score_ == pytest.approx(score, abs=0.05)
    rows = sparse.csr_matrix(X[200:])
    of_sparse = mdn.fit(X[:200], Y[:200], X_val=rows, y_val=Y[200:])
    assert_allclose(of_sparse.score(X[200:], Y[200:]), score, atol=1e-3)


@pytest.mark.filterwarnings("ignore:The weights of the:UserWarning")
@pytest.mark.parametrize("largest", [1.0, 1e12])
def test_extreme_weights_give_finite_results(largest):
    weight = np.ones(300)
    weight[Y.argmax()], weight[0], weight[1:4] = 1e-30, 1e-60, largest
    mdn = quick(portfolio=["kriging_0.1"]).fit(X, Y, sample_weight=weight)
    assert np.isfinite(mdn.predict(X)).all()


# -- limits ----------------------------------------------------------------------------


def test_views_that_do_not_pay_must_be_asked_for(monkeypatch):
    """Few rows, many features, or few networks."""
    assert "views_0.1" not in quick().fit(X, Y).portfolio_scores_
    asked = quick(portfolio=["kriging_0.1", "bins"]).fit(X, Y)
    assert "kriging_0.1" in asked.portfolio_scores_
    rows, seen = np.tile(X, (2, 1)) + RNG.normal(size=(600, 2)), []
    fit = Kriging.fit
    monkeypatch.setattr(Kriging, "fit", lambda *args: seen.append(1) or fit(*args))
    y, many = np.tile(Y, 2), {"n_estimators": 16}
    quick(**many).fit(rows, y)
    assert seen == [1]
    quick(**many).fit(np.tile(rows, (1, 51)), y)
    quick().fit(rows, y)
    assert seen == [1]


def test_fits_without_views_say_so(tmp_path):
    with pytest.raises(ValueError, match="view of the other rows"):
        quick(portfolio=["kriging_0.1"]).fit(sparse.csr_matrix(X), Y)
    mixed = quick(portfolio=["kriging_0.1", "plain"]).fit(sparse.csr_matrix(X), Y)
    assert set(mixed.portfolio_weights_) == {"plain"}
    with pytest.raises(ValueError, match="view of the other rows"):
        quick(portfolio=["kriging_0.1"]).partial_fit(X, Y)
    mdn = fitted()
    with pytest.raises(ValueError, match="cannot be continued"):
        mdn.partial_fit(X, Y)
    with pytest.raises(ValueError, match="ONNX model cannot contain a view"):
        to_onnx(mdn, tmp_path / "model.onnx")


def _hostile():
    rng = np.random.default_rng(4)
    ones, y = np.ones((60, 1)), rng.normal(size=60)
    return {
        "copies": (np.repeat(rng.normal(size=(2, 2)), 1500, 0), rng.normal(size=3000)),
        "constant columns": (np.hstack([ones, 3 * ones]), y),
        "one constant column": (np.hstack([ones, y[:, None]]), y),
        "200 columns": (rng.normal(size=(60, 200)), y),
        "equal columns": (np.repeat(y[:, None], 4, axis=1), y),
        "few rows": (rng.normal(size=(30, 2)), rng.normal(size=30)),
        "huge": (1e100 * rng.normal(size=(60, 2)), 1e100 * y),
        "an outlier": (np.vstack([[1e9, 0]] + [rng.normal(size=2)] * 59), y),
        "two values": (rng.normal(size=(60, 2)), np.sign(y)),
    }


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", _hostile())
def test_hostile_rows_give_finite_results(name):
    rows, y = _hostile()[name]
    mdn = quick(portfolio=["views_0.1"], max_iter=5).fit(rows, y)
    far = 1e3 * rows[:5] + 1
    for each in (rows[:50], far):
        assert np.isfinite(mdn.predict(each)).all()
    assert np.isfinite(mdn.score_samples(rows, y)).all()
    assert np.isfinite(mdn.oof_score_)


def test_five_rows_and_one_target_are_fitted():
    with pytest.warns(UserWarning, match="rows"):
        mdn = quick(portfolio=["views_0.1"], max_iter=5).fit(X[:5], Y[:5])
    assert np.isfinite(mdn.predict(X)).all()
    mdn = quick(portfolio=["views_0.1"], max_iter=5).fit(X, np.ones(300))
    assert_allclose(mdn.predict(X), 1.0, atol=0.02)
