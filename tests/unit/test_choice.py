"""Kinds of networks that compete in a fit: their folds, their choice, their pool."""

import numpy as np
import pytest
import torch
from helpers import WITHOUT_VIEWS, exact_targets, linear_data, session_of
from numpy.testing import assert_allclose, assert_array_equal

from skmdn._fit import building
from skmdn._fit.pooling import KindWeights
from skmdn._training.calibration import calibrate, extrapolate
from skmdn._training.early_stopping import held_out_terms
from skmdn._training.kinds import KINDS
from skmdn._training.pooling import Pooling
from skmdn.datasets import make_inverse_sine
from skmdn.nn.likelihood import Calibration

X, Y = make_inverse_sine(60, random_state=0)


def after_choice(**options):
    session = session_of(**options)
    while not session.portfolio.is_narrow:
        session.step()
    return session


def trained_rows(stack, member):
    """Return the rows that change the weights of a member."""
    return set(stack.rows.index[member][stack.rows.weight[member] > 0].tolist())


def assert_honest(portfolio):
    """No member trains on a row on which it is scored, and all rows are scored."""
    held_out = portfolio.held_out
    n_rows = len(portfolio.builder.rows.y)
    for stack in portfolio.stacks:
        n_members = len(stack.loop.values)
        assert stack.folds.shape[1] == stack.rows.index.shape[0] == n_members
        for item in stack.contenders:
            scored = set()
            own_folds = stack.folds[:, item.members]
            assert torch.equal(item.pooling.fold, own_folds.flatten())
            for member in range(item.members.start, item.members.stop):
                trained = trained_rows(stack, member)
                out = set()
                for fold in stack.folds[:, member].tolist():
                    counts = held_out.weight[fold] > 0
                    out |= set(held_out.index[fold][counts].tolist())
                assert trained.isdisjoint(out)
                assert trained | out == set(range(n_rows))
                scored |= out
            assert portfolio.builder.n_folds == 1 or scored == set(range(n_rows))


# -- folds -----------------------------------------------------------------------


@pytest.mark.parametrize("n_estimators", [1, 3, 4, 5, 8, 9, 16, 21])
def test_no_member_trains_on_rows_that_it_is_scored_on(n_estimators):
    session = session_of(n_estimators=n_estimators, portfolio=("linear", "bins"))
    portfolio = session.portfolio
    n_lists = 2 if n_estimators > 2 and portfolio.builder.n_folds > 1 else 1
    assert {len(stack.folds) for stack in portfolio.stacks} == {n_lists}
    assert_honest(portfolio)
    while not portfolio.is_narrow:
        session.step()
    assert {len(stack.folds) for stack in portfolio.stacks} == {1}
    assert_honest(portfolio)
    n_members = sum(item.n_members for item in portfolio.contenders)
    assert n_members == n_estimators


@pytest.mark.parametrize("n_groups", [2, 3, 12])
def test_groups_stay_on_one_side(n_groups):
    groups = np.arange(60) % n_groups
    options = {"n_estimators": 8, "portfolio": ("linear", "periodic_1")}
    session = session_of(groups=groups, **options)
    group_of = groups[session.data.rows.positions]
    for _ in range(2):
        assert_honest(session.portfolio)
        for stack in session.portfolio.stacks:
            for member in range(len(stack.loop.values)):
                trained = group_of[list(trained_rows(stack, member))]
                fold = int(stack.folds[0, member])
                index = session.portfolio.held_out.index[fold]
                counts = session.portfolio.held_out.weight[fold] > 0
                assert not set(trained) & set(group_of[index[counts]])
        while not session.portfolio.is_narrow:
            session.step()


def test_targets_of_held_out_rows_do_not_move_linear_starts():
    """Neither during the choice nor after it."""
    rng = np.random.RandomState(0)
    options = {"n_estimators": 8, "portfolio": ("linear", "periodic_1")}
    session = session_of(linear_data(d=1), **options)
    for _ in range(2):
        portfolio = session.portfolio
        (stack,) = [s for s in portfolio.stacks if "linear" in s.sizes]
        (linear,) = [item for item in stack.contenders if item.kind == "linear"]
        before = stack.loop.network.coefficients[linear.members].clone()
        y, rows = portfolio.builder.rows.y, portfolio.held_out
        fold = int(stack.folds[0, linear.members][0])
        index = rows.index[fold][rows.weight[fold] > 0]
        kept = y[index].clone()
        y[index] += torch.from_numpy(rng.normal(size=kept.shape)).float()
        after = portfolio.builder._network({"linear": 8}).coefficients
        y[index] = kept
        changed = (after != before).flatten(1).any(1).tolist()
        assert not changed[0]
        # During the choice, the member before holds out this fold as well.
        n_lists = len(stack.folds)
        assert changed[1:] == [True] * (8 - n_lists) + [False] * (n_lists - 1)
        while not portfolio.is_narrow:
            session.step()


# -- choice ----------------------------------------------------------------------


@pytest.mark.parametrize("covariance_type", ["full", "diag"])
@pytest.mark.parametrize("n_estimators", [3, 8, 9, 16])
def test_members_that_go_on_stand_where_they_stood(n_estimators, covariance_type):
    session = session_of(
        linear_data(60),
        n_estimators=n_estimators,
        covariance_type=covariance_type,
        learning_rate_init=0.01,
    )
    portfolio = session.portfolio
    seen = {}
    narrow = portfolio.narrow

    def watched(**options):
        for stack in portfolio.stacks:
            order = stack.loop.network.head.order
            for item in stack.contenders:
                present = stack.loop.values[item.members].clone()
                own = None if order is None else order[item.members].clone()
                folds = stack.folds[0, item.members]
                seen[item.kind] = (present, item.best.values.clone(), own, folds)
        return narrow(**options)

    portfolio.narrow = watched
    while not portfolio.is_narrow:
        session.step()
    n_members = 0
    for stack in portfolio.stacks:
        order = stack.loop.network.head.order
        for item in stack.contenders:
            present, best, own, folds = seen[item.kind]
            n = min(item.n_members, len(present))
            here = slice(item.members.start, item.members.start + n)
            assert torch.equal(stack.loop.values[here], present[:n])
            assert torch.equal(item.best.values[:n], best[:n])
            assert own is None or torch.equal(order[here], own[:n])
            assert torch.equal(stack.folds[0, here], folds[:n])
            n_members += item.n_members
    assert n_members == n_estimators
    assert covariance_type == "diag" or own is not None


def equal_weights(weights):
    """Weights with views and without, where there are none."""
    return KindWeights(*[np.array(weights)] * 3)


def test_halving_drops_the_kinds_with_the_smallest_weights():
    session = session_of(n_estimators=16, max_iter=40)
    portfolio, settings = session.portfolio, session.data.settings
    assert [item.kind for item in portfolio.contenders] == WITHOUT_VIEWS
    weights = dict(zip(WITHOUT_VIEWS, (0.0, 0.3, 0.2, 0.4, 0.1), strict=True))
    portfolio._weights = lambda: equal_weights(
        [weights[item.kind] for item in portfolio.contenders]
    )
    portfolio.halve, halve = lambda: report, portfolio.halve
    report = ""
    while session.n_epochs < settings.n_epochs_of_halving:
        session.step()
    kept = {"periodic_0.3", "periodic_1", "linear"}
    before = {
        item.kind: stack.loop.values[item.members].clone()
        for stack in portfolio.stacks
        for item in stack.contenders
    }
    report = halve()
    assert {item.kind for item in portfolio.contenders} == kept
    assert {*portfolio.scores} == {*WITHOUT_VIEWS} - kept
    assert all(kind in report for kind in portfolio.scores)
    assert not portfolio.is_narrow
    assert_honest(portfolio)
    for stack in portfolio.stacks:
        assert len(stack.folds) == 2
        for item in stack.contenders:
            assert item.n_members == 8
            assert torch.equal(stack.loop.values[item.members], before[item.kind])
    assert halve() == ""
    # A state between the rounds is restored.
    resumed = session_of(n_estimators=16, max_iter=40)
    resumed.load(session.state())
    assert {item.kind for item in resumed.portfolio.contenders} == kept
    assert_honest(resumed.portfolio)
    for portfolio in (resumed.portfolio, session.portfolio):
        portfolio._weights = lambda: equal_weights(np.ones(3) / 3)
    for each in (session, resumed):
        while not each.is_over:
            each.step()
    assert {*session.portfolio.scores} == {*WITHOUT_VIEWS}
    result, expected = resumed.finish(), session.finish()
    assert_array_equal(
        result.out_of_fold["oof_log_density_"],
        expected.out_of_fold["oof_log_density_"],
    )
    assert result.portfolio_scores == expected.portfolio_scores


def test_the_best_kind_is_kept():
    """A linear truth, which a linear model knows from the start."""
    session = after_choice(rows=linear_data(d=1), n_estimators=8)
    assert [item.kind for item in session.portfolio.contenders] == ["linear"]
    result = session.finish()
    assert set(result.portfolio_scores) == set(WITHOUT_VIEWS)
    best = max(result.portfolio_scores, key=result.portfolio_scores.get)
    assert best == "linear"


@pytest.mark.parametrize(("n_estimators", "most"), [(16, 8), (27, 19), (32, 16)])
def test_no_kind_has_more_than_half_of_the_groups(n_estimators, most):
    """Although held-out rows prefer the linear model to all others."""
    session = after_choice(rows=linear_data(d=1), n_estimators=n_estimators)
    sizes = {item.kind: item.n_members for item in session.portfolio.contenders}
    assert sizes["linear"] == most
    assert sum(sizes.values()) == n_estimators
    assert len(sizes) > 1


@pytest.mark.parametrize("n_estimators", [8, 16])
def test_the_gain_of_pooling_is_linear_in_the_inverse_of_the_number(n_estimators):
    session = after_choice(rows=linear_data(d=1), n_estimators=n_estimators)
    rows, ranks = session.portfolio.held_out, session.data.ranks
    for stack in session.portfolio.stacks:
        terms = stack.terms()
        for item in stack.contenders:
            before = item.disagreement
            pooled = item.score(terms, rows, ranks)[1]
            found = item.find_disagreement(terms, rows, ranks, pooled)
            n_pooled = item.n_members // 8
            if n_pooled == 1:  # one network says nothing of disagreement
                assert found == before
            else:
                fold, of_kind = item.pooling.fold, terms.select(item.cases)
                alone = Pooling.of(torch.arange(len(fold)), len(fold))
                weight = rows.weight[fold]
                score = calibrate(of_kind, weight, alone, Calibration())[1]
                expected = (pooled - score) / (1 - 1 / n_pooled)
                assert_allclose(found, max(0, expected), atol=1e-5)
            assert item.gain_of_pooling(found, n_pooled) == 0
            gain = found * (1 / n_pooled - 1 / 32)
            assert_allclose(item.gain_of_pooling(found, 32), gain, rtol=1e-9)
    assert session.portfolio.contenders[0].disagreement > 0


@pytest.mark.parametrize("n_estimators", [2, 8, 16, 19])
def test_a_session_that_stops_before_the_choice_keeps_trained_kinds(n_estimators):
    session = session_of(n_estimators=n_estimators, max_iter=40)
    session.step()
    assert not session.portfolio.is_narrow
    session.stop()
    result = session.finish()
    assert_honest(session.portfolio)
    n_folds = session.portfolio.builder.n_folds
    sizes = [size for part in result.model.sizes for size in part.values()]
    # A network that joined now would be untrained.
    assert set(sizes) == {min(n_estimators, 8)}
    assert result.model.n_estimators == n_estimators
    assert np.isfinite(result.model.log_prob(X, exact_targets(Y[:, None]))).all()
    assert ("oof_score_" not in result.out_of_fold) == (n_folds == 1)


def test_validation_rows_choose():
    session = session_of(validation=(X[:20], Y[:20]), n_estimators=9)
    portfolio = session.portfolio
    assert portfolio.builder.n_folds == 1
    for stack in portfolio.stacks:
        assert trained_rows(stack, 0) == set(range(len(portfolio.builder.rows.y)))
    while not session.is_over:
        session.step()
    result = session.finish()
    assert portfolio.is_narrow
    assert sum(size for part in result.model.sizes for size in part.values()) == 9
    assert np.isfinite(result.scores).all()


@pytest.mark.parametrize("portfolio", [None, "auto", ("linear", "bins")])
@pytest.mark.parametrize("batch_size", [20, "auto"])
def test_every_epoch_has_a_score(portfolio, batch_size):
    """Also epochs before the first one that is scored."""
    options = {"portfolio": portfolio, "batch_size": batch_size, "max_iter": 20}
    session = session_of(n_estimators=4, n_iter_no_change=20, **options)
    start = session.portfolio.in_unit_of_y(session.portfolio.score)
    while not session.is_over:
        session.step()
    scores = session.finish().scores
    assert len(scores) == 20
    assert np.isfinite(scores).all()
    assert scores[0] == start


def test_patience_counts_epochs():
    """A table so small that only some epochs are scored."""
    options = {"max_iter": 100, "n_iter_no_change": 20, "learning_rate_init": 1e-12}
    session = session_of(n_estimators=4, portfolio=None, batch_size=30, **options)
    assert session.data.settings.n_epochs_per_score == 16
    while not session.is_over:
        session.step()
    assert len(session.history.losses) == 32


def test_choice_waits_for_the_end_of_the_warmup():
    session = after_choice(n_estimators=4, max_iter=30, warmup_iter=20)
    assert 20 < session.n_epochs < 30


def test_kinds_that_diverged_do_not_keep_the_fit_going():
    session = after_choice(n_estimators=16, portfolio=("linear", "bins"), max_iter=30)
    first = session.portfolio.stacks[0]
    first.has_diverged = True
    stale = session.portfolio.stale
    session.step()
    session.step()
    others = [s for s in session.portfolio.stacks if s is not first]
    expected = min((c.best.stale for s in others for c in s.contenders), default=0)
    assert session.portfolio.stale == expected >= stale


def test_state_is_restored_where_sizes_are_those_before_the_choice():
    options = {"portfolio": ("periodic_0.3", "periodic_1"), "n_estimators": 16}
    session, resumed = session_of(**options), session_of(**options)
    session.portfolio._weights = lambda: equal_weights([0.5, 0.5])
    while not session.portfolio.is_narrow:
        session.step()
    sizes = {item.kind: item.n_members for item in session.portfolio.contenders}
    assert sizes == {i.kind: i.n_members for i in resumed.portfolio.contenders}
    resumed.load(session.state())
    assert resumed.portfolio.is_narrow
    assert_honest(resumed.portfolio)
    for ours, theirs in zip(
        resumed.portfolio.stacks, session.portfolio.stacks, strict=True
    ):
        assert torch.equal(ours.folds, theirs.folds)
        assert torch.equal(ours.rows.index, theirs.rows.index)
        assert torch.equal(ours.loop.values, theirs.loop.values)


# -- pool ------------------------------------------------------------------------


def test_calibrations_of_all_members_go_past_those_of_a_fold():
    session = session_of(n_estimators=16, portfolio=None, max_iter=200)
    portfolio, (stack,) = session.portfolio, session.portfolio.stacks
    portfolio.cost = 0.0
    while not session.is_over:
        session.step()
    pooled = portfolio.pooled()
    assert len(set(pooled.of_fold)) == len(set(pooled.of_all)) == 1
    rows = portfolio.held_out
    terms = held_out_terms(pooled.pool.networks[0], stack.folds, rows)
    pooling = Pooling.of(stack.folds[0], 8)
    few, _ = calibrate(terms, rows.weight, pooling, Calibration())
    weight = rows.weight[stack.folds[0]]
    one, _ = calibrate(terms, weight, pooling.alone(), Calibration())
    # Of two calibrations in a row, the second starts from the first.
    assert_allclose(pooled.of_fold[0], few, atol=0.02)
    expected = extrapolate(one, few, 2, 16)
    assert_allclose(pooled.of_all[0], expected, atol=0.04)
    assert one.log_sharpness < few.log_sharpness < expected.log_sharpness


@pytest.mark.parametrize("n_estimators", [8, 16])
def test_the_score_of_the_pool_is_that_of_rows_under_those_that_held_them_out(
    n_estimators,
):
    session = session_of(n_estimators=n_estimators, portfolio=("linear", "bins"))
    while not session.is_over:
        session.step()
    result = session.finish()
    oof_score = result.out_of_fold["oof_score_"]
    assert_allclose(oof_score, result.best_score, atol=1e-3)
    assert_allclose(np.mean(result.out_of_fold["oof_log_density_"]), oof_score)


def test_weights_of_kinds_are_shared_among_members():
    session = after_choice(n_estimators=16, portfolio=("linear", "bins"))
    pooled = session.portfolio.pooled()
    log_weights = pooled.pool.log_weights
    assert_allclose(log_weights.exp().sum(), 1)
    parts = [size for part in pooled.sizes for size in part.values()]
    for part in log_weights.split(parts):
        assert_allclose(part, part[0].expand_as(part))


# -- kinds -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_trains_alone(kind):
    session = session_of(n_estimators=4, portfolio=[kind])
    while not session.is_over:
        session.step()
    result = session.finish()
    assert result.model.weights() == {kind: pytest.approx(1)}
    assert np.isfinite(result.model.log_prob(X, exact_targets(Y[:, None]))).all()


def test_too_many_bins_leave_the_portfolio_but_not_a_fit_of_bins(monkeypatch):
    monkeypatch.setattr(building, "MOST_BINS", 10)
    names = [item.kind for item in session_of().portfolio.contenders]
    assert names == [name for name in WITHOUT_VIEWS if name != "bins"]
    session = session_of(embedding="bins", n_estimators=4)
    assert [item.kind for item in session.portfolio.contenders] == ["bins"]


@pytest.mark.parametrize("case", ["constant X", "constant y", "one feature", "d = 3"])
@pytest.mark.parametrize("portfolio", ["auto", ["bins"], ["linear"]])
def test_odd_tables(case, portfolio):
    rng = np.random.RandomState(0)
    X, y = rng.normal(size=(40, 2)), rng.normal(size=40)
    rows = {
        "constant X": (np.ones((40, 2)), y),
        "constant y": (X, np.full(40, 3.0)),
        "one feature": (X[:, :1], y),
        "d = 3": (X, rng.normal(size=(40, 3))),
    }[case]
    session = session_of(rows, portfolio=portfolio, n_estimators=5)
    while not session.is_over:
        session.step()
    result = session.finish()
    log_prob = result.model.log_prob(rows[0], exact_targets(rows[1].reshape(40, -1)))
    assert np.isfinite(log_prob).all()
    assert np.isfinite(result.scores).all()


def test_few_rows_stay_at_the_linear_model():
    session = session_of((X[:9], Y[:9]), n_estimators=8)
    assert session.is_over
    result = session.finish()
    assert result.losses == []
    assert [*result.portfolio_scores] == ["linear"]
    assert_array_equal(np.isfinite(result.out_of_fold["oof_log_density_"]), True)
