"""Several processes fit one model: real ones, that reduce with gloo."""

import multiprocessing
import os
import re
import signal
import time
import warnings
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.distributed as dist
from conftest import needs_callbacks
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from test_backbones import plain

from skmdn import MDNRegressor
from skmdn._rows import (
    UsedRows,
    WeightedRows,
    fingerprint,
    hold_out,
    merge_rows,
    orientation,
)
from skmdn._training import Training
from skmdn.callbacks import Checkpoint
from skmdn.datasets import make_rotating_gaussians
from skmdn.distributed import Ranks, RanksLostError, join, use_group

X, Y = make_rotating_gaussians(120, random_state=0)
WEIGHT = np.random.RandomState(0).uniform(0.5, 3.0, size=len(X))
WEIGHT[:5] *= 9  # weights of the first rank are of another size
# Very unequal shards; the first has fewer rows than an epoch has batches.
SHARDS = slice(0, 5), slice(5, 120)
needs_gloo = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()),
    reason="this build of torch has no gloo",
)
pytestmark = [needs_gloo, pytest.mark.xdist_group("ranks")]


# -- two processes that do what they are told ------------------------------------


class Pair:
    """Two ranks in processes of their own; calling it runs a job on both."""

    def __init__(self, folder):
        context = multiprocessing.get_context("spawn")
        self.ends, self.processes = [], []
        for rank in range(2):
            ours, theirs = context.Pipe()
            arguments = rank, folder / "store", theirs
            process = context.Process(target=serve, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self.ends.append(ours)
            self.processes.append(process)

    def __call__(self, job, *args):
        """What each rank returned or raised; None where it died."""
        for end in self.ends:
            end.send((job, args))
        return [self.receive(end) for end in self.ends]

    def receive(self, end):
        assert end.poll(120), "a rank hangs"
        try:
            return end.recv()
        except EOFError:
            return None

    def close(self):
        for end in self.ends:
            end.close()
        for process in self.processes:
            process.kill()
            process.join()


def serve(rank, store, end):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=60),
    )
    errors = []  # kept, as an interactive session keeps its last one
    while True:
        try:
            job, args = end.recv()
        except EOFError:
            return
        try:
            end.send(job(rank, *args))
        except (Exception, KeyboardInterrupt) as exc:
            errors.append(exc)
            end.send(exc)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    pair = Pair(tmp_path_factory.mktemp("pair"))
    yield pair
    pair.close()


# -- what they are told ----------------------------------------------------------


def make(**options):
    options = {"n_estimators": 4, "max_iter": 8, "random_state": 0} | options
    options = {"hidden_layer_sizes": (8,), "batch_size": 12} | options
    return MDNRegressor(2, device="cpu").set_params(**options)


def shard(rank, rows, shards=SHARDS):
    return {name: array[shards[rank]] for name, array in rows.items()}


def fit(rank, mdn, rows, shards=SHARDS):
    return mdn.fit(**shard(rank, rows, shards))


def primitives(rank):
    with join() as ranks:
        tensor = torch.full((2, 3), rank + 1.5)
        return {
            "place": (ranks.rank, ranks.size),
            "sum": ranks.sum([rank, 1.0]),
            "sum in place": ranks.sum_(tensor).tolist(),
            "max": ranks.max([rank, -rank]),
            "first in place": ranks.first_(torch.tensor([rank + 0.1])).tolist(),
            "first": ranks.first(np.arange(3.0) if rank == 0 else []),
            "share": ranks.share(np.full((rank, 2), rank)),
            "names": ranks.share(np.array(["a", "long"][: rank + 1])),
            "hash": ranks.share(np.array([2**64 - 1 - rank], dtype=np.uint64)),
        }


def test_what_ranks_tell_one_another(pair):
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


def test_alone_everything_is_as_it_was_given():
    ranks = Ranks()
    array = np.array([1.0, 2.0])
    assert_array_equal(ranks.sum(array), array)
    assert_array_equal(ranks.max(array), array)
    assert_array_equal(ranks.first(array), array)
    assert_array_equal(ranks.share(array), [array])


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
    """Batches of all rows, and one component: then nothing is left to chance."""
    mdn = make(
        n_components=1,
        covariance_type=covariance_type,
        shuffle=False,
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


def fit_with_validation(rank, mdn, shards):
    rows = shard(rank, {"X": X, "y": Y}, shards)
    val = shard(rank, {"X_val": X, "y_val": Y, "sample_weight_val": WEIGHT}, shards)
    return mdn.fit(**rows, **val)


def test_validation_is_that_of_all_rows(pair):
    mdn = make(n_components=1, shuffle=False, batch_size=200, max_iter=25)
    alone = fit_with_validation(0, mdn, [slice(None)])
    for ours in pair(fit_with_validation, mdn, SHARDS):
        assert_allclose(ours.validation_scores_, alone.validation_scores_, atol=1e-3)
        assert ours.n_iter_ == alone.n_iter_
        ours, theirs = ours.score_samples(X, Y), alone.score_samples(X, Y)
        assert_allclose(ours, theirs, atol=2e-3)


def sums(rank, rows, shards):
    mine = WeightedRows(*(part[shards[rank]] for part in rows))
    with join() as ranks:
        return (
            orientation(mine.y, mine.weight, ranks),
            fingerprint(mine, ranks),
        )


def test_orientation_and_fingerprint_are_those_of_all_rows(pair):
    y = np.exp(Y) * [1.0, -1.0]
    rows = WeightedRows(X, y, WEIGHT)
    for shards in (SHARDS, (slice(0, 120, 2), slice(1, 120, 2))):
        for signs, found in pair(sums, rows, shards):
            assert_array_equal(signs, orientation(y, WEIGHT))
            assert_array_equal(found, fingerprint(rows))
    other = WeightedRows(X, y, WEIGHT + (np.arange(120) == 7))
    assert fingerprint(other)[1] != fingerprint(rows)[1]


def folds(rank, rows, n_networks):
    mine = WeightedRows(*(part[rank] for part in rows))
    used = UsedRows.of(mine, merge_rows(mine))
    generator = torch.Generator().manual_seed(0)
    with join() as ranks:
        trains, held_out = hold_out(used, n_networks, 0.25, generator, ranks)
    fold_of = np.full(len(used.y), -1)
    for fold, (index, counts) in enumerate(zip(*held_out, strict=True)):
        fold_of[index[counts]] = fold
    n_trained = trains.counts.sum(1).numpy()
    return dict(zip(used.X[used.positions, 0], fold_of, strict=True)), n_trained


@pytest.mark.parametrize("n_networks", [1, 8])
def test_copies_on_two_ranks_are_held_out_together(pair, n_networks):
    x = np.random.RandomState(1).normal(size=(2, 400, 1))
    x[1, :100] = x[0, :100]
    rows = WeightedRows(x, 3 * x, np.ones((2, 400)))
    (first, n_first), (second, n_second) = pair(folds, rows, n_networks)
    for value in x[0, :100, 0]:
        assert first[value] == second[value]
    sizes = np.bincount([fold + 1 for fold in [*first.values(), *second.values()]])
    if n_networks == 1:  # a quarter is held out, the others trained on
        assert_allclose(sizes, [600, 200], atol=50)
        assert n_first + n_second == sizes[0]
    else:  # eight folds hold every row once
        assert sizes[0] == 0
        assert_allclose(sizes[1:], 100, atol=40)
        assert_array_equal(800 - n_first - n_second, sizes[1:])


# -- all ranks end alike ---------------------------------------------------------


def weights_of(mdn):
    state = mdn.network_.state_dict()
    return {name: tensor.numpy() for name, tensor in state.items()}


def assert_alike(first, second):
    theirs = weights_of(second)
    for name, array in weights_of(first).items():
        assert_array_equal(array, theirs[name])
    for name in ("loss_curve_", "validation_scores_", "y_scale_", "oof_score_"):
        assert_array_equal(getattr(first, name, 0), getattr(second, name, 0))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"covariance_type": "tied", "dropout": 0.1, "random_state": None},
        {"input_noise": 0.1, "target_noise": 0.1, "embedding": None},
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


def test_pieces_are_learnt_together(pair):
    first, second = pair(fit_in_pieces, make())
    assert first.n_iter_ == 3
    assert_alike(first, second)


def fit_twice(rank, mdn, rows):
    return fit(rank, fit(rank, mdn, rows), rows)


def test_a_continued_fit_is_a_joint_one_too(pair):
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


def test_a_group_of_the_users_own_gives_the_same_fit(pair):
    rows = {"X": X, "y": Y}
    for ours, theirs in zip(
        pair(fit_in_the_world, make(), rows), pair(fit, make(), rows), strict=True
    ):
        assert_alike(ours, theirs)


# -- what goes wrong -------------------------------------------------------------


LOST = r"Rank \d of 2 has lost the others: .*Checkpoint"


def test_a_rank_that_refuses_its_rows_is_heard_of_by_the_others(pair):
    spoiled = X.copy()
    spoiled[0] = np.nan
    start = time.monotonic()
    first, second = pair(fit, make(), {"X": spoiled, "y": Y})
    assert isinstance(first, ValueError)
    assert "NaN" in str(first)
    assert isinstance(second, RanksLostError)
    assert re.match(LOST, str(second))
    assert time.monotonic() - start < 30  # and not the group's minute
    assert_alike(*pair(fit, make(), {"X": X, "y": Y}))


def fit_differently(rank, options, X):
    return make(**options[rank]).fit(X[rank], Y[SHARDS[rank]])


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"alpha": 0.5}, "alpha"),
        ({"max_iter": 3, "batch_size": 7}, "batch_size, max_iter"),
        ({"network": plain}, "network"),
        ({"verbose": False, "random_state": 5, "device": "auto"}, ""),
    ],
)
def test_ranks_must_agree_on_the_model(pair, options, names):
    shards = [X[part] for part in SHARDS]
    found = pair(fit_differently, [{}, options], shards)
    if not names:
        assert_alike(*found)
        return
    for error in found:
        assert isinstance(error, ValueError)
        assert re.search(rf"ranks [01] and [01] differ in {names}\.", str(error))


def test_ranks_must_agree_on_their_columns(pair):
    shards = [X[SHARDS[0]], np.c_[X, X][SHARDS[1]]]
    for error in pair(fit_differently, [{}, {}], shards):
        assert "differ in features" in str(error)


def fit_with_validation_on_one(rank, mdn, rows):
    more = {"X_val": X[:20], "y_val": Y[:20]} if rank == 0 else {}
    return mdn.fit(**shard(rank, rows), **more)


def test_ranks_must_agree_on_what_they_validate_by(pair):
    for error in pair(fit_with_validation_on_one, make(), {"X": X, "y": Y}):
        assert "differ in X_val" in str(error)


def stopping(rank, action, mdn, rows):
    """Rank 1 does something after its third epoch."""
    run_epoch = Training.run_epoch

    def acting(training):
        run_epoch(training)
        if rank == 1 and training.n_epochs == 3:
            action(training)

    Training.run_epoch = acting
    try:
        return fit(rank, mdn, rows)
    finally:
        Training.run_epoch = run_epoch


def stop(training):
    training.is_stopped = True


def interrupt(training):
    raise KeyboardInterrupt


def fail(training):
    raise MemoryError("no room")


def die(training):
    os.kill(os.getpid(), signal.SIGKILL)


def test_one_rank_stops_all(pair):
    first, second = pair(stopping, stop, make(), {"X": X, "y": Y})
    assert first.n_iter_ == second.n_iter_ == 3
    assert_alike(first, second)


@pytest.mark.parametrize(
    ("action", "error"), [(interrupt, KeyboardInterrupt), (fail, MemoryError)]
)
def test_a_rank_that_fails_ends_all(pair, action, error):
    start = time.monotonic()
    first, second = pair(stopping, action, make(), {"X": X, "y": Y})
    assert isinstance(first, RanksLostError)
    assert re.match(LOST, str(first))
    assert isinstance(second, error)
    assert time.monotonic() - start < 30  # and not the group's minute
    assert_alike(*pair(fit, make(), {"X": X, "y": Y}))


def checkpointed(path):
    return make().set_callbacks(Checkpoint(path))


@needs_callbacks
def test_a_rank_that_dies_ends_all_and_a_checkpoint_resumes(pair, tmp_path):
    rows, path = {"X": X, "y": Y}, tmp_path / "fit.npz"
    mortal = Pair(tmp_path)
    start = time.monotonic()
    survivor, dead = mortal(stopping, die, checkpointed(path), rows)
    assert dead is None
    assert re.match(LOST, str(survivor))
    assert time.monotonic() - start < 30
    mortal.close()
    with np.load(path) as file:
        assert len(file["losses"]) == 2
        assert len(file["generators"]) == 2
    # The same ranks end with the bits of an undisturbed fit ...
    through = pair(fit, make(), rows)
    kept = path.read_bytes()
    resumed = pair(fit, checkpointed(path), rows)
    assert not path.exists()
    for ours, theirs in zip(resumed, through, strict=True):
        assert_alike(ours, theirs)
    # ... and another number of ranks goes on with other batches.
    path.write_bytes(kept)
    alone = checkpointed(path).fit(X, Y)
    assert_array_equal(alone.loss_curve_[:2], through[0].loss_curve_[:2])
    assert alone.n_iter_ > 2
    assert alone.loss_curve_[2] != through[0].loss_curve_[2]


@needs_callbacks
def test_the_checkpoint_of_other_rows_is_refused_by_all(pair, tmp_path):
    path = tmp_path / "fit.npz"
    pair(stopping, fail, checkpointed(path), {"X": X, "y": Y})
    first, second = pair(fit, checkpointed(path), {"X": X, "y": Y + 1})
    assert "another fit: it differs in rows" in str(first)
    assert "another fit: it differs in rows" in str(second)


def warnings_of(rank, mdn, rows, shards):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(rank, mdn, rows, shards)
    return [str(warning.message) for warning in caught]


def test_ties_are_counted_over_all_ranks(pair):
    y, rows = np.repeat([1.0, 2.0, 4.0], 40), {"X": X}
    sorted_by_y = slice(0, 60), slice(60, 120)
    for found in pair(warnings_of, make(max_iter=1), rows | {"y": y}, sorted_by_y):
        (message,) = found
        assert "3 distinct values in 120 rows" in message
    # Each shard has few values, all of them many.
    y = np.arange(120.0) // 2
    for found in pair(warnings_of, make(max_iter=1), rows | {"y": y}, sorted_by_y):
        assert found == []
