"""Ranks that fail, disagree or are killed."""

import os
import re
import signal
import time
import warnings
from functools import partial

import helpers
import numpy as np
import pandas as pd
import pytest
from helpers import SHARDS, RankPair, needs_callbacks, needs_gloo, shard
from helpers import assert_same_networks as assert_alike
from helpers import fit_shard as fit
from helpers import plain_network as plain
from numpy.testing import assert_array_equal
from scipy import sparse

from skmdn import distributed
from skmdn._fit.session import FitSession
from skmdn._utils.compat import parse_version
from skmdn.callbacks import Checkpoint
from skmdn.datasets import make_rotating_gaussians
from skmdn.distributed import RanksLostError

X, Y = make_rotating_gaussians(120, random_state=0)
pytestmark = [needs_gloo, pytest.mark.xdist_group("ranks")]
make = partial(helpers.quick, max_iter=8, batch_size=12)
LOST = r"Rank \d of 2 lost the other ranks: .*Checkpoint"


def test_an_error_on_one_rank_reaches_the_others(pair):
    spoiled = X.copy()
    spoiled[0] = np.inf
    start = time.monotonic()
    first, second = pair(fit, make(), {"X": spoiled, "y": Y})
    assert isinstance(first, ValueError)
    assert "infinity" in str(first)
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


def fit_with_groups_on_one(rank):
    groups = {"groups": np.arange(115) % 9} if rank else {}
    return make().fit(X[SHARDS[rank]], Y[SHARDS[rank]], **groups)


def test_groups_must_be_given_on_all_ranks(pair):
    for error in pair(fit_with_groups_on_one):
        assert "differ in groups" in str(error)


def test_ranks_must_agree_on_their_columns(pair):
    others = (
        np.c_[X, X],
        sparse.csr_array(X),
        pd.DataFrame(X).astype("category"),
    )
    for other in others:
        shards = [X[SHARDS[0]], other[SHARDS[1]]]
        for error in pair(fit_differently, [{}, {}], shards):
            assert "differ in features" in str(error)


def fit_with_validation_on_one(rank, mdn, rows):
    more = {"X_val": X[:20], "y_val": Y[:20]} if rank == 0 else {}
    return mdn.fit(**shard(rank, rows), **more)


def test_ranks_must_agree_on_validation_rows(pair):
    for error in pair(fit_with_validation_on_one, make(), {"X": X, "y": Y}):
        assert "differ in X_val" in str(error)


def stopping(rank, action, mdn, rows):
    """Fit, and let rank 1 act after its third epoch."""
    step = FitSession.step

    def acting(session):
        step(session)
        if rank == 1 and session.n_epochs == 3:
            action(session)

    FitSession.step = acting
    try:
        return fit(rank, mdn, rows)
    finally:
        FitSession.step = step


def stop(session):
    session.stop()


def interrupt(session):
    raise KeyboardInterrupt


def fail(session):
    raise MemoryError("not enough memory")


def kill_itself(session):
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
def test_a_killed_rank_ends_all_and_a_checkpoint_resumes(pair, tmp_path):
    rows, path = {"X": X, "y": Y}, tmp_path / "fit.npz"
    disposable = RankPair(tmp_path)
    start = time.monotonic()
    survivor, killed = disposable(stopping, kill_itself, checkpointed(path), rows)
    assert killed is None
    assert re.match(LOST, str(survivor))
    assert time.monotonic() - start < 30
    disposable.close()
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


def fit_with_torch_2_7(rank, mdn, rows):
    version = distributed.TORCH_VERSION
    distributed.TORCH_VERSION = parse_version("2.7.1")
    try:
        return warnings_of(rank, mdn, rows, SHARDS)
    finally:
        distributed.TORCH_VERSION = version


def test_several_ranks_warn_with_a_torch_that_can_hang(pair):
    for messages in pair(fit_with_torch_2_7, make(max_iter=1), {"X": X, "y": Y}):
        assert any("Install torch>=2.8" in message for message in messages)


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
