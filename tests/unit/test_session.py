"""A fit under way: the weights that are kept, divergence, warnings, its state."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import ConvergenceWarning

from skmdn import MDNRegressor
from skmdn._data.checks import check_rows
from skmdn._fit.prepare import prepare
from skmdn._fit.session import FitSession
from skmdn.datasets import make_inverse_sine
from skmdn.distributed import ALONE
from skmdn.nn.likelihood import Calibration

X, Y = make_inverse_sine(60, random_state=0)


def make_session(seed=0, **params):
    params = {"n_estimators": 2, "n_components": 2, "hidden_layer_sizes": (8,)} | params
    mdn = MDNRegressor(device="cpu", **params)
    checked = check_rows(mdn, X, Y, None)
    return FitSession(prepare(checked, None, mdn.get_params(), None, ALONE), seed)


def run(session):
    while not session.is_over:
        session.step()
    return session.finish()


def values_of(session):
    return session.loop.values.clone()


def poison(session):
    """Make every later loss not a number."""
    session.rows.y.fill_(float("nan"))


def test_training_ends_at_the_best_weights():
    session = make_session(max_iter=60, learning_rate_init=0.1, n_iter_no_change=60)
    while not session.is_over:
        session.step()
    session.loop.values.copy_(session.best.values)
    _, score = session.held_out.score(session.loop.network, Calibration())
    result = session.finish()
    assert result.best_score == max(result.scores) > result.scores[-1]
    assert_allclose(score - session.data.target.log_scale, result.best_score, rtol=1e-5)


def test_networks_that_never_improve_keep_their_start():
    session = make_session(max_iter=3)
    start = values_of(session)
    poison(session)
    result = run(session)
    assert torch.equal(session.best.values, start)
    assert result.losses == []
    assert session.has_diverged
    with pytest.warns(ConvergenceWarning, match="diverged"):
        result.issue_warnings()


def test_without_held_out_rows_the_last_weights_are_kept():
    session = make_session(max_iter=3, early_stopping=False)
    seen = []
    while not session.is_over:
        session.step()
        seen.append(values_of(session))
    assert session.finish().scores == []
    assert torch.equal(session.best.values, seen[-1])


def test_a_session_stopped_in_the_warmup_keeps_its_last_weights():
    session = make_session(max_iter=9, warmup_iter=5, early_stopping=False)
    session.step()
    session.stop()
    last = values_of(session)
    session.finish()
    assert torch.equal(session.best.values, last)


@pytest.mark.parametrize(("schedule", "warns"), [("constant", True), ("cosine", False)])
def test_only_a_constant_rate_warns_at_max_iter(schedule, warns):
    result = run(make_session(max_iter=2, learning_rate=schedule))
    categories = [notice.category for notice in result.notices]
    assert categories == [ConvergenceWarning] * warns


def test_a_preview_is_the_model_of_a_session_that_stops_then():
    session = make_session(n_estimators=4, max_iter=6)
    for _ in range(3):
        session.step()
    before = session.state()
    preview = session.preview().log_prob(X, Y[:, None])
    for name, value in session.state().items():
        assert_array_equal(value, before[name], name)
    session.stop()
    model = session.finish().model
    assert_allclose(preview, model.log_prob(X, Y[:, None]), rtol=1e-6)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_loaded_session_continues_to_the_same_bits(seed):
    through, stored = make_session(max_iter=6), make_session(max_iter=6)
    for _ in range(2):
        stored.step()
    resumed = make_session(seed, max_iter=6)
    resumed.load(stored.state())
    ours, theirs = run(resumed), run(through)
    assert ours.seed == 0
    assert ours.losses == theirs.losses
    assert_array_equal(
        ours.model.log_prob(X, Y[:, None]), theirs.model.log_prob(X, Y[:, None])
    )


def test_result_holds_all_that_an_estimator_publishes():
    result = run(make_session(n_estimators=4, max_iter=2))
    names = set(result.attributes())
    mdn = MDNRegressor(2, n_estimators=4, max_iter=2, hidden_layer_sizes=(8,)).fit(X, Y)
    fitted = {name for name in vars(mdn) if name.endswith("_")} - {"n_features_in_"}
    assert names == fitted | {"_model", "_seed"}
    assert np.isfinite(result.oof_score)
