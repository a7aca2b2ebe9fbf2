"""Joint fits of two real processes that communicate by gloo."""

import contextlib
import io
import warnings
from collections import Counter
from functools import partial

import helpers
import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist
from helpers import SHARDS, exact_rows, needs_gloo, shard
from helpers import assert_same_networks as assert_alike
from helpers import fit_shard as fit
from helpers import plain_network as plain
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from skmdn._data.folds import hold_out
from skmdn._data.groups import as_groups
from skmdn._data.rows import merge_rows, orientation
from skmdn.datasets import make_inverse_sine, make_rotating_gaussians
from skmdn.distributed import Ranks, join, use_group

X, Y = make_rotating_gaussians(120, random_state=0)
WEIGHT = np.random.RandomState(0).uniform(0.5, 3.0, size=len(X))
WEIGHT[:5] *= 9  # weights of the first rank are of another size
pytestmark = [needs_gloo, pytest.mark.xdist_group("ranks")]
make = partial(helpers.quick, max_iter=8, batch_size=12)


# -- communication ---------------------------------------------------------------


def primitives(rank):
    with join() as ranks:
        tensor = torch.full((2, 3), rank + 1.5)
        return {
            "place": (ranks.rank, ranks.size),
            "sum": ranks.sum([rank, 1.0]),
            "sum in place": ranks.all_reduce_(tensor).tolist(),
            "max": ranks.max([rank, -rank]),
            "first in place": ranks.broadcast_(torch.tensor([rank + 0.1])).tolist(),
            "first": ranks.broadcast(np.arange(3.0) if rank == 0 else []),
            "share": ranks.all_gather(np.full((rank, 2), rank)),
            "names": ranks.all_gather(np.array(["a", "long"][: rank + 1])),
            "hash": ranks.all_gather(np.array([2**64 - 1 - rank], dtype=np.uint64)),
        }


def test_ranks_exchange_arrays(pair):
    for rank, found in enumerate(pair(primitives)):
        assert found["place"] == (rank, 2)
        assert_array_equal(found["sum"], [1.0, 2.0])
        assert found["sum in place"] == [[4.0] * 3] * 2
        assert_array_equal(found["max"], [1.0, 0.0])
        assert_allclose(found["first in place"], [0.1])
        assert_array_equal(found["first"], np.arange(3.0))
        assert [part.shape for part in found["share"]] == [(0, 2), (1, 2)]
        assert [part.tolist() for part in found["names"]] == [["a"], ["a", "long"]]
        assert [int(part[0]) for part in found["hash"]] == [2**64 - 1, 2**64 - 2]


def test_a_single_rank_returns_its_arguments():
    ranks = Ranks()
    array = np.array([1.0, 2.0])
    assert_array_equal(ranks.sum(array), array)
    assert_array_equal(ranks.max(array), array)
    assert_array_equal(ranks.broadcast(array), array)
    assert_array_equal(ranks.all_gather(array), [array])


# -- the arithmetic of all rows --------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("is_sparse", [False, True])
def test_the_scaling_is_that_of_all_rows(pair, weighted, is_sparse):
    stored = sparse.csr_array(X) if is_sparse else X
    # Exponentials are skewed, and mirrored ones have a negative scale.
    y = np.exp(Y) * [1.0, -1.0]
    rows = {"X": stored, "y": y} | ({"sample_weight": WEIGHT} if weighted else {})
    mdn = make(max_iter=1)
    alone = fit(0, mdn, rows, [slice(None)])
    for ours in pair(fit, mdn, rows):
        for name in ("X_mean_", "X_scale_", "y_mean_", "y_scale_"):
            assert_allclose(getattr(ours, name), getattr(alone, name), rtol=1e-12)
    assert alone.y_scale_.min() < 0 < alone.y_scale_.max()


@pytest.mark.parametrize("covariance_type", ["full", "diag"])
def test_a_step_is_that_of_all_rows(pair, covariance_type):
    """Use batches of all rows and one component, which leaves no randomness."""
    mdn = make(
        n_components=1,
        covariance_type=covariance_type,
        early_stopping=False,
        batch_size=200,
        max_iter=25,
    )
    rows = {"X": X, "y": Y, "sample_weight": WEIGHT}
    alone = fit(0, mdn, rows, [slice(None)])
    for ours in pair(fit, mdn, rows):
        assert_allclose(ours.loss_curve_, alone.loss_curve_, rtol=1e-4)
        assert_allclose(ours.predict(X), alone.predict(X), rtol=1e-3, atol=1e-3)
        ours, theirs = ours.score_samples(X, Y), alone.score_samples(X, Y)
        assert_allclose(ours, theirs, atol=2e-3)


@pytest.mark.parametrize(
    ("params", "y", "others"),
    [
        ({"target_support": (0, None)}, np.exp(Y), {}),
        ({"target_resolution": "auto"}, np.round(Y), {}),
        ({}, np.where(np.arange(240).reshape(120, 2) % 7 == 0, np.nan, Y), {}),
        # The first rank, of five rows, has no value of the second output.
        ({}, np.where((np.arange(120)[:, None] < 5) & [False, True], np.nan, Y), {}),
        # Only the second rank has intervals.
        (
            {"target_support": (0, None)},
            np.exp(Y[:, 0]),
            {"y_upper": np.where(np.arange(120) % 9 == 8, np.inf, np.exp(Y[:, 0]))},
        ),
    ],
)
def test_targets_of_any_kind_are_those_of_all_rows(pair, params, y, others):
    mdn = make(
        n_components=1, early_stopping=False, batch_size=200, max_iter=25, **params
    )
    rows = {"X": X, "y": y, "sample_weight": WEIGHT} | others
    alone = fit(0, mdn, rows, [slice(None)])
    for ours in pair(fit, mdn, rows):
        assert_allclose(ours.y_mean_, alone.y_mean_, rtol=1e-9)
        assert_allclose(ours.loss_curve_, alone.loss_curve_, rtol=1e-4, atol=1e-4)
        assert_allclose(ours.predict(X), alone.predict(X), rtol=1e-3, atol=1e-3)


def test_tables_are_those_of_all_ranks(pair):
    names = np.array(["red", "green", "blue", "grey"])[np.arange(120) % 4]
    names[:5] = ["red", "violet", "red", "red", "red"]  # of the first rank
    table = pd.DataFrame(
        {
            "a": np.where(np.arange(120) % 7 == 6, np.nan, X[:, 0]),
            "colour": pd.Categorical(names),
        }
    )
    mdn = make(n_components=1, early_stopping=False, batch_size=200, max_iter=25)
    rows = {"X": table, "y": Y, "sample_weight": WEIGHT}
    alone = fit(0, mdn, rows, [slice(None)])
    for ours in pair(fit, mdn, rows):
        assert ours.feature_encoder_.levels == alone.feature_encoder_.levels
        assert_array_equal(ours.feature_encoder_.median, alone.feature_encoder_.median)
        assert_allclose(ours.loss_curve_, alone.loss_curve_, rtol=1e-4, atol=1e-4)
        assert_allclose(ours.predict(table), alone.predict(table), rtol=1e-3, atol=1e-3)


def fit_with_validation(rank, mdn, shards):
    rows = shard(rank, {"X": X, "y": Y}, shards)
    val = shard(rank, {"X_val": X, "y_val": Y, "sample_weight_val": WEIGHT}, shards)
    return mdn.fit(**rows, **val)


def test_validation_is_that_of_all_rows(pair):
    mdn = make(n_components=1, batch_size=200, max_iter=25)
    alone = fit_with_validation(0, mdn, [slice(None)])
    for ours in pair(fit_with_validation, mdn, SHARDS):
        assert_allclose(ours.validation_scores_, alone.validation_scores_, atol=1e-3)
        assert ours.n_iter_ == alone.n_iter_
        ours, theirs = ours.score_samples(X, Y), alone.score_samples(X, Y)
        assert_allclose(ours, theirs, atol=2e-3)


def test_kinds_compete_on_the_rows_of_all_ranks(pair):
    rows = dict(zip("Xy", make_inverse_sine(120, random_state=0), strict=True))
    mdn = helpers.two_kinds(portfolio=["linear", "bins", "plain"])
    first, second = pair(fit, mdn, rows)
    assert_alike(first, second)
    assert set(first.portfolio_scores_) == {"linear", "bins", "plain"}
    for name in ("portfolio_weights_", "portfolio_scores_"):
        assert getattr(first, name) == getattr(second, name)
    assert first.network_.n_members == mdn.n_estimators
    assert_allclose(first.best_validation_score_, first.oof_score_, rtol=1e-3)
    assert_allclose(sum(first.portfolio_weights_.values()), 1)


def sums(rank, rows, shards):
    mine = exact_rows(*(part[shards[rank]] for part in rows))
    with join() as ranks:
        return (
            orientation(mine.y.points, mine.weight, ranks),
            mine.fingerprint(ranks),
        )


def test_orientation_and_fingerprint_are_those_of_all_rows(pair):
    y = np.exp(Y) * [1.0, -1.0]
    rows = X, y, WEIGHT
    for shards in (SHARDS, (slice(0, 120, 2), slice(1, 120, 2))):
        for signs, found in pair(sums, rows, shards):
            assert_array_equal(signs, orientation(y, WEIGHT))
            assert_array_equal(found, exact_rows(*rows).fingerprint())
    other = exact_rows(X, y, WEIGHT + (np.arange(120) == 7))
    assert other.fingerprint()[1] != exact_rows(*rows).fingerprint()[1]


def folds(rank, rows, n_members):
    mine = exact_rows(*(part[rank] for part in rows))
    used = merge_rows(mine)
    generator = torch.Generator().manual_seed(0)
    with join() as ranks:
        trains, held_out = hold_out(used, n_members, 0.25, generator, ranks)
    fold_of = np.full(len(used.y), -1)
    for fold, (index, counts) in enumerate(zip(*held_out, strict=True)):
        fold_of[index[counts]] = fold
    n_trained = trains.counts.sum(1).numpy()
    return dict(zip(used.X[used.positions, 0], fold_of, strict=True)), n_trained


@pytest.mark.parametrize("n_members", [1, 8])
def test_copies_on_two_ranks_are_held_out_together(pair, n_members):
    x = np.random.RandomState(1).normal(size=(2, 400, 1))
    x[1, :100] = x[0, :100]
    rows = x, 3 * x, np.ones((2, 400))
    (first, n_first), (second, n_second) = pair(folds, rows, n_members)
    for value in x[0, :100, 0]:
        assert first[value] == second[value]
    sizes = np.bincount([fold + 1 for fold in [*first.values(), *second.values()]])
    if n_members == 1:  # a quarter is held out, the others trained on
        assert_allclose(sizes, [600, 200], atol=50)
        assert n_first + n_second == sizes[0]
    else:  # eight folds hold every row once
        assert sizes[0] == 0
        assert_allclose(sizes[1:], 100, atol=40)
        assert_array_equal(800 - n_first - n_second, sizes[1:])


def groups_of_folds(rank, rows, labels, n_members):
    used = merge_rows(
        exact_rows(*(part[rank] for part in rows), as_groups(labels[rank], 400))
    )
    generator = torch.Generator().manual_seed(0)
    with join() as ranks:
        trains, held_out = hold_out(used, n_members, 0.25, generator, ranks)
    return [
        [
            labels[rank][used.positions[index[counts].numpy()]].tolist()
            for index, counts in zip(*lists, strict=True)
        ]
        for lists in (trains, held_out)
    ]


@pytest.mark.parametrize("n_members", [1, 8])
@pytest.mark.parametrize("n_groups", [3, 40, 400])
def test_groups_on_two_ranks_are_held_out_together(pair, n_members, n_groups):
    rng = np.random.RandomState(1)
    # Some rows are equal, in one group or in several.
    x = rng.randint(200, size=(2, 400, 1)).astype(float)
    rows = x, 3 * x, np.ones((2, 400))
    # The first rank has few groups; numbers on one rank are floats on the other.
    integers = rng.randint(n_groups, size=(2, 400))
    labels = [integers[0], integers[1].astype(float)]
    labels[0] = labels[0] % (n_groups // 2)
    distinct = [set(zip(x[i, :, 0], labels[i], strict=True)) for i in range(2)]
    counts = Counter(label for found in distinct for _, label in found)
    both = pair(groups_of_folds, rows, labels, n_members)
    (trains, folds), (others, other_folds) = both
    sides = [sorted(a + b) for a, b in zip(trains, others, strict=True)]
    held_out = [sorted(a + b) for a, b in zip(folds, other_folds, strict=True)]
    assert len(held_out) == (1 if n_members == 1 else min(8, n_groups))
    for member, side in enumerate(sides):
        fold = held_out[member % len(held_out)]
        assert set(side).isdisjoint(fold)
        assert Counter(side + fold) == counts
    sizes = [len(fold) for fold in held_out]
    if n_members == 1:
        assert sizes[0] >= counts.total() / 4
    else:
        assert sum(sizes) == counts.total()
        assert max(sizes) - min(sizes) <= max(counts.values())


def fit_with_groups(rank, mdn, labels, shards):
    return mdn.fit(**shard(rank, {"X": X, "y": Y, "groups": labels}, shards))


def test_a_rank_may_have_a_single_group(pair):
    labels = np.array(["a"] * 60 + ["b"] * 60)
    shards = slice(0, 60), slice(60, 120)
    for n_estimators in (1, 4):
        found = pair(fit_with_groups, make(n_estimators=n_estimators), labels, shards)
        assert_alike(*found)
        assert np.isfinite(found[0].validation_scores_).all()
    for error in pair(fit_with_groups, make(), np.zeros(120), shards):
        assert "groups must have at least 2 different values" in str(error)


# -- all ranks end alike ---------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"covariance_type": "tied", "dropout": 0.1, "random_state": None},
        {"embedding": None},
        {"n_estimators": 1, "warmup_iter": 2, "covariance_type": "diag"},
        {"n_estimators": 11, "covariance_type": "low_rank", "rank": 1},
        {"early_stopping": False, "covariance_type": "spherical"},
        {"n_components": "auto", "batch_size": "auto", "max_iter": "auto"},
        {"network": plain},
    ],
    ids=lambda options: ", ".join(options) or "-",
)
def test_all_ranks_end_with_the_same_networks(pair, options):
    first, second = pair(fit, make(**options), {"X": X, "y": Y})
    assert_alike(first, second)
    if hasattr(first, "oof_score_"):
        assert len(first.oof_log_density_) == 5
        assert len(second.oof_log_density_) == 115
        both = np.r_[first.oof_log_density_, second.oof_log_density_]
        assert_allclose(first.oof_score_, both.mean())


def test_it_learns_what_one_process_learns(pair):
    rows = dict(zip("Xy", make_rotating_gaussians(1000, random_state=1), strict=True))
    mdn = make(max_iter=40, batch_size=32, hidden_layer_sizes=(32,), n_components=5)
    alone = fit(0, mdn, rows, [slice(None)])
    first, second = pair(fit, mdn, rows, [slice(0, 200), slice(200, 1000)])
    assert_alike(first, second)
    X_test, y_test, truth = make_rotating_gaussians(
        4000, random_state=2, return_density=True
    )
    best = truth.logpdf(y_test).mean()
    assert best - 0.2 < alone.score(X_test, y_test) < best
    assert_allclose(first.score(X_test, y_test), alone.score(X_test, y_test), atol=0.1)
    assert_allclose(first.oof_score_, alone.oof_score_, atol=0.1)


def fit_in_pieces(rank, mdn):
    for start in range(0, 120, 40):
        piece = slice(start + 10 * rank, start + 10 + 30 * rank)
        mdn.partial_fit(X[piece], Y[piece])
    return mdn


def test_partial_fits_are_joint(pair):
    first, second = pair(fit_in_pieces, make())
    assert first.n_iter_ == 3
    assert_alike(first, second)


def warnings_of_fit(rank, mdn, rows, shards):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(rank, mdn, rows, shards)
    return [str(warning.message) for warning in caught]


def test_notices_are_about_the_rows_of_all_ranks(pair):
    shards = slice(0, 20), slice(20, 40)
    rows = {"X": X[:40], "y": Y[:40]}
    assert pair(warnings_of_fit, make(), rows, shards) == [[], []]
    # The first rank has one row of an enormous weight, the second equal weights.
    weight = np.where(np.arange(40) == 3, 1e12, 1.0)
    first, second = pair(
        warnings_of_fit, make(), rows | {"sample_weight": weight}, shards
    )
    assert first == second
    assert "40 distinct rows are so unequal that they count as 1 of" in first[0]


def lines_of_fit(rank, mdn, rows):
    with contextlib.redirect_stdout(io.StringIO()) as output:
        fit(rank, mdn, rows)
    return output.getvalue().splitlines()


def test_only_the_first_rank_prints_its_progress(pair):
    mdn = make(verbose=True, portfolio=None, max_iter=3)
    lines, silent = pair(lines_of_fit, mdn, {"X": X, "y": Y})
    assert silent == []
    assert lines[0].startswith(f"Fit of 120 rows and {X.shape[1]} features by 4 net")
    assert [line[:12] for line in lines[1:-1]] == [f"Epoch {i} of 3" for i in (1, 2, 3)]


def fit_twice(rank, mdn, rows):
    return fit(rank, fit(rank, mdn, rows), rows)


def test_a_continued_fit_is_joint(pair):
    first, second = pair(fit_twice, make(warm_start=True), {"X": X, "y": Y})
    assert_alike(first, second)


def fit_alone(rank, mdn, rows, shards):
    with use_group(None):
        return fit(rank, mdn, rows, shards)


def test_ranks_may_fit_alone(pair):
    rows, shards = {"X": X, "y": Y}, (slice(0, 60), slice(60, 120))
    for rank, ours in enumerate(pair(fit_alone, make(), rows, shards)):
        assert_alike(ours, fit(rank, make(), rows, shards))


def fit_in_the_world(rank, mdn, rows):
    with use_group(dist.group.WORLD):
        return fit(rank, mdn, rows)


def test_a_group_given_by_the_user_gives_the_same_fit(pair):
    rows = {"X": X, "y": Y}
    for ours, theirs in zip(
        pair(fit_in_the_world, make(), rows), pair(fit, make(), rows), strict=True
    ):
        assert_alike(ours, theirs)
