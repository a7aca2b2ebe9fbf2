"""A fit under way: the weights that are kept, divergence, warnings, its state."""

import numpy as np
import pytest
import torch
from helpers import exact_targets
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import ConvergenceWarning

from skmdn import MDNRegressor
from skmdn._data.checks import check_rows
from skmdn._fit.prepare import prepare
from skmdn._fit.session import FitSession
from skmdn.datasets import make_inverse_sine
from skmdn.distributed import ALONE

X, Y = make_inverse_sine(60, random_state=0)


def make_session(seed=0, **params):
    """Start a fit of one kind of network, unless a portfolio is given."""
    params = {"n_estimators": 2, "n_components": 2, "hidden_layer_sizes": (8,)} | params
    params = {"portfolio": None} | params
    mdn = MDNRegressor(device="cpu", **params)
    checked = check_rows(mdn, X, Y, None)
    return FitSession(prepare(checked, None, mdn.get_params(), None, ALONE), seed)


def run(session):
    while not session.is_over:
        session.step()
    return session.finish()


def values_of(session):
    """Return the present weights of all networks."""
    return [stack.loop.values.clone() for stack in session.portfolio.stacks]


def assert_kept(session, values):
    """The best weights are those given."""
    for stack, expected in zip(session.portfolio.stacks, values, strict=True):
        assert torch.equal(stack.best_values(), expected)


def poison(session):
    """Make every later loss not a number."""
    for stack in session.portfolio.stacks:
        stack.rows.y.fill_(float("nan"))


def test_training_ends_at_the_best_weights():
    options = {"learning_rate_init": 0.1, "n_iter_no_change": 60}
    session = make_session(max_iter=60, batch_size=10, **options)
    portfolio, (stack,) = session.portfolio, session.portfolio.stacks
    assert session.data.settings.n_epochs_per_score > 1
    # Epochs that are not scored repeat the score before.
    kept = []
    while not session.is_over:
        session.step()
        kept.append(stack.best_values())
    best = int(np.argmax(session.history.scores))
    assert_kept(session, [kept[best]])
    cost = stack.contenders[0].cost
    result = session.finish()
    assert cost == portfolio.cost > 0
    assert max(result.scores) > result.scores[-1]
    stack.loop.values.copy_(kept[best])
    item, rows = stack.contenders[0], portfolio.held_out
    _, score, _ = item.score(stack.terms(), rows, ALONE)
    score = portfolio.in_unit_of_y(score)
    assert_allclose(score, max(result.scores), atol=3e-4)
    assert_allclose(result.portfolio_scores[item.kind], score - cost, atol=1e-6)
    # A second calibration, of the pool, can only gain.
    assert score <= result.best_score < score + 0.02
    pooled = portfolio.pooled()
    pooled.pool.calibrate_(pooled.of_fold)
    with torch.no_grad():
        index = rows.index[0]
        log_density = pooled.pool.log_density(rows.X[index], rows.y[index])
    score = portfolio.in_unit_of_y(np.average(log_density, weights=rows.weight[0]))
    assert_allclose(score, result.best_score, atol=1e-3)


def test_networks_that_never_improve_keep_their_start():
    session = make_session(max_iter=3)
    start = values_of(session)
    poison(session)
    result = run(session)
    assert_kept(session, start)
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
    assert_kept(session, seen[-1])


def test_a_session_stopped_in_the_warmup_keeps_its_last_weights():
    session = make_session(max_iter=9, warmup_iter=5, early_stopping=False)
    session.step()
    session.stop()
    last = values_of(session)
    session.finish()
    assert_kept(session, last)


@pytest.mark.parametrize(("schedule", "warns"), [("constant", True), ("cosine", False)])
def test_only_a_constant_rate_warns_at_max_iter(schedule, warns):
    settings = {"max_iter": 2, "n_iter_no_change": 3}
    result = run(make_session(learning_rate=schedule, **settings))
    categories = [notice.category for notice in result.notices]
    assert categories == [ConvergenceWarning] * warns


@pytest.mark.parametrize(
    ("portfolio", "n_steps"), [(None, 3), ("auto", 4), (("linear", "bins"), 4)]
)
def test_a_preview_is_the_model_of_a_session_that_stops_then(portfolio, n_steps):
    session = make_session(n_estimators=4, max_iter=8, portfolio=portfolio)
    for _ in range(n_steps):
        session.step()
    assert session.portfolio.is_narrow
    before = session.state()
    preview = session.preview().log_prob(X, exact_targets(Y[:, None]))
    for name, value in session.state().items():
        assert_array_equal(value, before[name], name)
    session.stop()
    model = session.finish().model
    assert_allclose(preview, model.log_prob(X, exact_targets(Y[:, None])), rtol=1e-6)


def test_a_preview_before_the_choice_leaves_no_trace():
    options = {"n_estimators": 4, "max_iter": 8, "portfolio": "auto"}
    session, undisturbed = make_session(**options), make_session(**options)
    session.step()
    before = session.state()
    session.preview()
    for name, value in session.state().items():
        assert_array_equal(value, before[name], name)
    ours, theirs = run(session), run(undisturbed)
    assert ours.scores == theirs.scores
    y = exact_targets(Y[:, None])
    assert_array_equal(ours.model.log_prob(X, y), theirs.model.log_prob(X, y))


# With two kinds and twice the members, the sizes after the choice can be those before.
@pytest.mark.parametrize(
    ("portfolio", "n_estimators", "n_steps"),
    [
        (None, 2, 2),
        ("auto", 4, 1),
        ("auto", 4, 4),
        ("auto", 9, 4),
        (("periodic_0.3", "periodic_1"), 16, 1),
        (("periodic_0.3", "periodic_1"), 16, 4),
        (("linear", "bins"), 16, 4),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_loaded_session_continues_to_the_same_bits(
    seed, portfolio, n_estimators, n_steps
):
    options = {"portfolio": portfolio, "n_estimators": n_estimators, "max_iter": 9}
    through, stored = make_session(**options), make_session(**options)
    for _ in range(n_steps):
        stored.step()
    state = stored.state()
    resumed = make_session(seed, **options)
    resumed.load(state)
    for name, value in resumed.state().items():
        assert_array_equal(value, state[name], name)
    for ours, theirs in zip(
        resumed.portfolio.stacks, stored.portfolio.stacks, strict=True
    ):
        for name, part in ours.loop.network.state_dict().items():
            assert_array_equal(part, theirs.loop.network.state_dict()[name], name)
        assert torch.equal(ours.rows.index, theirs.rows.index)
        assert torch.equal(ours.rows.weight, theirs.rows.weight)
        assert torch.equal(ours.folds, theirs.folds)
    ours, theirs = run(resumed), run(through)
    assert ours.seed == 0
    assert ours.losses == theirs.losses
    assert ours.scores == theirs.scores
    assert ours.portfolio_scores == theirs.portfolio_scores
    assert_array_equal(
        ours.model.log_prob(X, exact_targets(Y[:, None])),
        theirs.model.log_prob(X, exact_targets(Y[:, None])),
    )


def test_result_holds_all_that_an_estimator_publishes():
    result = run(make_session(n_estimators=4, max_iter=5, portfolio="auto"))
    names = set(result.attributes())
    mdn = MDNRegressor(2, n_estimators=4, max_iter=5, hidden_layer_sizes=(8,)).fit(X, Y)
    fitted = {name for name in vars(mdn) if name.endswith("_")} - {"n_features_in_"}
    assert names == fitted | {"_model", "_seed", "_out_of_fold"}
    assert np.isfinite(result.out_of_fold["oof_score_"])
