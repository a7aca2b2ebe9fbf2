"""Pools of members, and the weights of the kinds that they belong to."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import LinearConstraint, minimize
from scipy.special import logsumexp

from skmdn._training.pooling import Pooling, apportion, gain_of, stack_weights


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


# -- pools -----------------------------------------------------------------------


@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize(
    ("fold", "n_folds"),
    [([0], 1), ([0, 0, 0], 1), ([0, 1, 2, 3], 4), ([2, 0, 1, 0, 2, 2], 3)],
)
def test_a_pool_is_the_mean_density_of_the_members_of_a_fold(
    fold, n_folds, is_weighted
):
    log_densities, weights = normal(len(fold), 5), np.ones(len(fold))
    if is_weighted:
        weights = np.random.RandomState(0).uniform(0.5, 2, len(fold))
    given = torch.from_numpy(weights) if is_weighted else None
    pooling = Pooling.of(torch.tensor(fold), n_folds, given)
    is_member = np.array(fold) == np.arange(n_folds)[:, None]
    expected = [
        np.log(np.average(log_densities[mine].exp(), 0, weights[mine]))
        for mine in is_member
    ]
    assert_allclose(pooling.pool(log_densities), expected, rtol=1e-10)
    in_float32 = pooling.pool(log_densities.float())
    assert in_float32.dtype == torch.float32
    assert_allclose(in_float32, expected, rtol=1e-4, atol=1e-6)
    sizes = [weights[m].sum() ** 2 / (weights[m] ** 2).sum() for m in is_member]
    assert_allclose(pooling.effective_size, np.mean(sizes))


def test_a_member_of_weight_zero_does_not_count():
    weights = torch.tensor([1.0, 0.0, 3.0], dtype=torch.float64)
    log_densities = normal(3, 4)
    log_densities[1, 0] = -math.inf
    pooling = Pooling.of(torch.tensor([0, 0, 0]), 1, weights)
    without = Pooling.of(torch.tensor([0, 0]), 1, weights[[0, 2]])
    expected = without.pool(log_densities[[0, 2]])
    assert_allclose(pooling.pool(log_densities), expected, rtol=1e-12)
    assert_allclose(pooling.effective_size, without.effective_size)


def test_members_alone_are_pools_of_one():
    pooling = Pooling.of(torch.tensor([1, 0, 1]), 2).alone()
    log_densities = normal(3, 4)
    assert torch.equal(pooling.pool(log_densities), log_densities)
    assert pooling.effective_size == 1


# -- weights of kinds --------------------------------------------------------------


def densities(n_kinds, shape=(2, 60), seed=0):
    return list(normal(n_kinds, *shape, seed=seed))


def score_of(weights, log_densities, weight):
    stacked = np.stack([part.numpy() for part in log_densities])
    with np.errstate(divide="ignore"):
        pooled = logsumexp(stacked + np.log(weights)[:, None, None], axis=0)
    return np.average(pooled, weights=weight)


def gradient_of(weights, log_densities, weight):
    p = np.exp(np.stack([part.numpy() for part in log_densities]))
    share = weight.numpy() / weight.numpy().sum()
    return (share * p / np.tensordot(weights, p, 1)).sum((1, 2))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n_kinds", [2, 3, 6])
def test_weights_of_kinds_maximise_the_likelihood(n_kinds, seed):
    log_densities = densities(n_kinds, seed=seed)
    weight = normal(2, 60, seed=9).square()
    weight[0, :7] = 0.0
    found, score = stack_weights(log_densities, weight, max_steps=5000)
    general = minimize(
        lambda w: -score_of(np.maximum(w, 0), log_densities, weight),
        np.full(n_kinds, 1 / n_kinds),
        jac=lambda w: -gradient_of(np.maximum(w, 0), log_densities, weight),
        method="SLSQP",
        bounds=[(0, 1)] * n_kinds,
        constraints=LinearConstraint(np.ones((1, n_kinds)), 1, 1),
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert_allclose(found.sum(), 1)
    assert (found >= 0).all()
    assert_allclose(score, score_of(found, log_densities, weight), rtol=1e-12)
    # Within the gain at which EM stops.
    assert score > -general.fun - 1e-5
    assert score < -general.fun + 1e-8
    assert_allclose(found, general.x, atol=0.02)
    # Karush, Kuhn and Tucker: no kind has a gradient above that of those in use.
    assert gradient_of(found, log_densities, weight).max() < 1 + 2e-5


def test_steps_of_em_never_lower_the_score():
    log_densities, weight = densities(4), torch.ones(2, 60, dtype=torch.float64)
    scores = [stack_weights(log_densities, weight, max_steps=k)[1] for k in range(40)]
    assert (np.diff(scores) >= 0).all()
    assert_allclose(scores[0], score_of(np.full(4, 0.25), log_densities, weight))


def test_equal_kinds_share_the_weight_of_one():
    first, second = densities(2)
    weight = torch.ones(2, 60, dtype=torch.float64)
    both, score = stack_weights([first, second, second], weight, max_steps=5000)
    one, expected = stack_weights([first, second], weight, max_steps=5000)
    assert both[1] == both[2]
    assert_allclose(both[0], one[0], atol=0.02)
    assert_allclose(score, expected, atol=1e-5)
    assert_array_equal(stack_weights([first, first], weight)[0], [0.5, 0.5])


def test_a_single_kind_has_all_weight():
    (only,), weight = densities(1), normal(2, 60).square()
    weights, score = stack_weights([only], weight)
    assert weights == 1
    assert_allclose(score, np.average(only, weights=weight))


@pytest.mark.parametrize("nothing", [-math.inf, math.nan, -1e305])
def test_a_kind_without_a_density_has_no_weight(nothing):
    good, other = densities(2)
    weight = torch.ones(2, 60, dtype=torch.float64)
    found, score = stack_weights([good, torch.full_like(good, nothing), other], weight)
    expected, best = stack_weights([good, other], weight)
    assert_allclose(found, [expected[0], 0, expected[1]], atol=1e-3)
    assert_allclose(score, best, atol=1e-5)


def test_a_row_may_have_a_density_under_one_kind_only():
    first, second = densities(2)
    first[0, :5], second[1, 3:7] = -math.inf, -math.inf
    found, score = stack_weights(
        [first, second], torch.ones(2, 60, dtype=torch.float64), max_steps=5000
    )
    best = max(
        score_of(
            np.array([w, 1 - w]),
            [first, second],
            torch.ones(2, 60, dtype=torch.float64),
        )
        for w in np.linspace(0.001, 0.999, 999)
    )
    assert_allclose(score, best, atol=1e-5)
    assert 0 < found[0] < 1


def test_a_row_without_any_density_has_a_score_of_minus_infinity():
    first, second = densities(2)
    first[0, 0] = second[0, 0] = -math.inf
    weight = torch.ones(2, 60, dtype=torch.float64)
    found, score = stack_weights([first, second], weight)
    assert score == -math.inf
    assert_allclose(found.sum(), 1)
    # Unless it does not count.
    weight[0, 0] = 0.0
    found, score = stack_weights([first, second], weight)
    rest = [part.flatten()[1:][None] for part in (first, second)]
    expected, best = stack_weights(rest, torch.ones(1, 119, dtype=torch.float64))
    assert_allclose(found, expected, rtol=1e-9)
    assert_allclose(score, best, rtol=1e-12)


def test_weights_of_rows_are_repetitions():
    log_densities = densities(3, shape=(1, 20))
    counts = torch.arange(20) % 4
    weighted = stack_weights(log_densities, counts[None].double())
    repeated = stack_weights(
        [part.repeat_interleave(counts, dim=1) for part in log_densities],
        torch.ones(1, int(counts.sum()), dtype=torch.float64),
    )
    assert_allclose(weighted[0], repeated[0], rtol=1e-9)
    assert_allclose(weighted[1], repeated[1], rtol=1e-12)


@pytest.mark.parametrize("shift", [-1e4, 800.0, 1e6])
def test_densities_of_any_size_have_the_same_weights(shift):
    log_densities, weight = densities(3), torch.ones(2, 60, dtype=torch.float64)
    expected, score = stack_weights(log_densities, weight)
    found, moved = stack_weights([part + shift for part in log_densities], weight)
    assert_allclose(found, expected, rtol=1e-6)
    assert_allclose(moved - shift, score, atol=1e-8)


# -- seats -----------------------------------------------------------------------

SHARES = st.lists(st.floats(0.01, 1), min_size=1, max_size=7).map(
    lambda parts: np.array(parts) / sum(parts)
)


@given(weights=SHARES, n_seats=st.integers(1, 12))
def test_seats_are_shared_by_highest_averages(weights, n_seats):
    seats = apportion(weights, n_seats, n_seats)
    assert seats.sum() == n_seats
    assert (seats >= 0).all()
    order = np.argsort(weights, kind="stable")
    assert (np.diff(seats[order])[np.diff(weights[order]) > 0] >= 0).all()
    # Lower quota: nobody has less than the share of the seats, rounded down.
    assert (seats >= np.floor(weights * n_seats - 1e-9)).all()
    # One more seat takes none away.
    assert (apportion(weights, n_seats + 1, n_seats + 1) >= seats).all()
    # No kind without its last seat has a higher average than one with another seat.
    with_last = (weights / np.maximum(seats, 1))[seats > 0].min()
    assert with_last >= (weights / (seats + 1)).max() - 1e-12


@pytest.mark.parametrize(
    ("weights", "seats"),
    [([0.9, 0.1], [2, 0]), ([0.6, 0.4], [1, 1]), ([0.45, 0.3, 0.25], [1, 1, 0])],
)
def test_of_two_seats_another_kind_has_one_from_half_of_the_weight(weights, seats):
    assert_array_equal(apportion(np.array(weights), 2, 2), seats)


@given(weights=SHARES, n_seats=st.integers(1, 12), data=st.data())
def test_seats_beyond_the_most_of_a_kind_go_to_the_next(weights, n_seats, data):
    fewest = -(-n_seats // len(weights))
    most = data.draw(st.integers(fewest, n_seats))
    seats = apportion(weights, n_seats, most)
    assert seats.sum() == n_seats
    assert seats.max() <= most
    # Kinds below the limit share what is left as they would alone.
    is_below = seats < most
    if is_below.any():
        left = int(seats[is_below].sum())
        assert_array_equal(seats[is_below], apportion(weights[is_below], left, left))


def test_the_error_of_a_gain_counts_groups():
    """Rows that are repeated within a group say no more than one of them."""
    generator = torch.Generator().manual_seed(0)
    densities = list(torch.randn(3, 1, 50, generator=generator).double())
    weight = torch.rand(1, 50, generator=generator).double()
    weight[0, :5] = 0.0
    weights, others = np.array([0.2, 0.5, 0.3]), np.array([0.6, 0.4, 0.0])
    group = torch.arange(50)[None]
    gain, error = gain_of(densities, weight, weights, others, group)
    first, second = (
        np.log(np.exp(torch.stack(densities)[:, 0, 5:].numpy().T) @ each)
        for each in (weights, others)
    )
    share = (weight[0, 5:] / weight.sum()).numpy()
    mean = share @ (first - second)
    assert_allclose(gain, mean)
    assert_allclose(error, np.sqrt(share**2 @ (first - second - mean) ** 2))
    repeated = [part.repeat(1, 4) for part in densities]
    again = gain_of(repeated, weight.repeat(1, 4), weights, others, group.repeat(1, 4))
    assert_allclose(again, (gain, error))
    alone = torch.arange(200)[None]
    _, smaller = gain_of(repeated, weight.repeat(1, 4), weights, others, alone)
    assert_allclose(smaller, error / 2)
