"""Callbacks: scikit-learn's own, and checkpoints that survive a crash."""

import errno
import os
import random
import re
import subprocess
import sys
import time
from functools import partial

import helpers
import numpy as np
import pytest
from helpers import HAS_CALLBACKS, needs_callbacks
from helpers import busy_network as busy
from numpy.testing import assert_array_equal
from scipy import sparse
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmdn._utils import persistence as _persistence
from skmdn._utils.persistence import STATE_VERSION
from skmdn.callbacks import Checkpoint
from skmdn.datasets import make_rotating_gaussians
from skmdn.metrics import neg_log_score_scorer

X, Y = make_rotating_gaussians(60, random_state=0)
WEIGHT = np.random.RandomState(0).randint(1, 4, size=60).astype(float)


quick = partial(helpers.quick, max_iter=8)


class Watch:
    """Record the calls of a callback, and optionally act at the end of an epoch."""

    def __init__(self, act=lambda epoch: None):
        self.act = act
        self.calls = []

    def setup(self, estimator, context):
        self.calls.append("setup")

    def teardown(self, estimator, context):
        self.calls.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.calls.append(f"begin {context.task_name}")

    def on_fit_task_end(self, estimator, context):
        self.calls.append(f"end {context.task_name}")
        if context.task_name == "epoch":
            return self.act(context.task_id)


class Crash(BaseException):
    pass


def crashes_after(n_epochs):
    def act(epoch):
        if epoch + 1 == n_epochs:
            raise Crash

    return Watch(act)


def interrupts_after(n_epochs):
    def act(epoch):
        if epoch + 1 == n_epochs:
            raise KeyboardInterrupt

    return Watch(act)


def assert_same_fit(ours, theirs):
    assert_array_equal(ours.loss_curve_, theirs.loss_curve_)
    assert_array_equal(ours.predict(X), theirs.predict(X))
    assert_array_equal(ours.score_samples(X, Y), theirs.score_samples(X, Y))
    for name in ("validation_scores_", "oof_log_density_"):
        assert_array_equal(getattr(ours, name, 0), getattr(theirs, name, 0))


# -- scikit-learn's callbacks ----------------------------------------------------


@pytest.mark.skipif(HAS_CALLBACKS, reason="of scikit-learn before 1.9")
def test_without_callbacks_setting_one_says_what_is_needed():
    with pytest.raises(ImportError, match=r"Callbacks need scikit-learn 1\.9"):
        quick().set_callbacks(Watch())


@needs_callbacks
def test_callbacks_are_called_for_the_fit_and_its_epochs():
    watch = Watch()
    mdn = quick(max_iter=2, n_iter_no_change=2).set_callbacks(watch).fit(X, Y)
    epoch = ["begin epoch", "end epoch"]
    assert watch.calls == [
        "setup",
        "begin fit",
        *epoch,
        *epoch,
        "end fit",
        "teardown",
    ]
    assert_same_fit(mdn, quick(max_iter=2, n_iter_no_change=2).fit(X, Y))


@needs_callbacks
def test_a_callback_may_stop_the_training():
    mdn = quick().set_callbacks(Watch(lambda epoch: epoch == 2)).fit(X, Y)
    assert mdn.n_iter_ == 3
    assert np.isfinite(mdn.oof_score_)


@needs_callbacks
@pytest.mark.parametrize("options", [{}, {"early_stopping": False}, {"network": busy}])
def test_callbacks_see_the_estimator_that_stopping_would_leave(options):
    seen = []

    class Look(Watch):
        def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
            if context.task_name == "epoch":
                seen.append(fitted_estimator.predict(X))
                return context.task_id == 2

    mdn = quick(**options).set_callbacks(Look()).fit(X, Y)
    assert len(seen) == 3
    np.testing.assert_allclose(seen[-1], mdn.predict(X), rtol=1e-10)
    assert not np.allclose(seen[0], seen[-1])


@needs_callbacks
def test_scoring_monitor_logs_each_epoch():
    from sklearn.callback import ScoringMonitor

    monitor = ScoringMonitor(scoring={"score": neg_log_score_scorer, "r2": "r2"})
    mdn = quick(max_iter=3, n_iter_no_change=9).set_callbacks(monitor)
    mdn.fit(X, Y, sample_weight=WEIGHT)
    scores = [row["score"] for row in monitor.get_logs().data]
    assert len(scores) == 3
    np.testing.assert_allclose(scores[-1], mdn.score(X, Y, WEIGHT), rtol=1e-10)


@needs_callbacks
def test_progress_bar_reaches_through_searches(capsys):
    pytest.importorskip("rich", reason="the progress bar is drawn by rich")
    from sklearn.callback import ProgressBar

    search = GridSearchCV(quick(max_iter=2), {"reg_covar": [1e-4, 1e-2]}, cv=2)
    search.set_callbacks(ProgressBar(max_propagation_depth=None)).fit(X, Y)
    assert "MDNRegressor" in capsys.readouterr().out


# -- checkpoints -----------------------------------------------------------------


@needs_callbacks
@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({}, {}),
        ({"covariance_type": "low_rank", "dropout": 0.1}, {"sample_weight": WEIGHT}),
        ({"embedding": None}, {}),
        ({"early_stopping": False, "learning_rate": "constant", "tol": 9.0}, {}),
        ({"n_estimators": 2, "warmup_iter": 6}, {}),
        ({"n_iter_no_change": 2, "learning_rate_init": 0.3}, {}),
        ({}, {"X_val": X[:9], "y_val": Y[:9]}),
        ({}, {"X": sparse.csr_array(X)}),
        ({"network": busy}, {}),
        ({"target_resolution": 0.5}, {}),
        ({}, {"y": np.where(np.arange(Y.size).reshape(Y.shape) % 7 == 3, np.nan, Y)}),
    ],
    ids=lambda value: ", ".join(value) or "-",
)
@pytest.mark.parametrize("every", [1, 3])
def test_a_resumed_fit_ends_with_the_same_bits(options, rows, every, tmp_path):
    path = tmp_path / "fit.npz"
    rows = {"X": X, "y": Y} | rows
    through = quick(**options).fit(**rows)
    checkpoint = Checkpoint(path, every=every)
    n_epochs = min(4, through.n_iter_ - 1)
    crashed = quick(**options).set_callbacks(checkpoint, crashes_after(n_epochs))
    with pytest.raises(Crash):
        crashed.fit(**rows)
    assert not hasattr(crashed, "network_")
    watch = Watch()
    resumed = quick(**options).set_callbacks(checkpoint, watch).fit(**rows)
    n_lost = n_epochs % every
    assert watch.calls.count("end epoch") == through.n_iter_ - n_epochs + n_lost
    assert_same_fit(resumed, through)
    assert not any(tmp_path.iterdir())


@needs_callbacks
def test_a_continued_fit_is_resumed(tmp_path):
    first = quick(warm_start=True).fit(X, Y)
    through = clone(first).fit(X, Y).fit(X, Y)
    checkpoint = Checkpoint(tmp_path / "fit.npz", every=1)
    with pytest.raises(Crash):
        first.set_callbacks(checkpoint, crashes_after(3)).fit(X, Y)
    assert_same_fit(first.set_callbacks(checkpoint).fit(X, Y), through)


@needs_callbacks
def test_an_unseeded_fit_is_resumed_with_its_seed(tmp_path, capsys):
    path, options = tmp_path / "fit.npz", {"random_state": None, "n_iter_no_change": 9}
    crashed = quick(**options).set_callbacks(Checkpoint(path), crashes_after(4))
    with pytest.raises(Crash):
        crashed.fit(X, Y)
    with np.load(path) as file:
        losses, stored_seed = file["losses"], int(file["seed"])
    assert len(losses) == 4
    resumed = quick(verbose=True, **options).set_callbacks(Checkpoint(path))
    resumed.fit(X, Y)
    assert_array_equal(resumed.loss_curve_[:4], losses)
    assert resumed._seed == stored_seed
    assert f"Resuming after epoch 4 from {path}" in capsys.readouterr().out


@needs_callbacks
def test_ctrl_c_leaves_the_checkpoint_for_later(tmp_path):
    path = tmp_path / "fit.npz"
    watch = interrupts_after(5)
    mdn = quick(n_iter_no_change=8).set_callbacks(Checkpoint(path, every=2), watch)
    with pytest.raises(KeyboardInterrupt):
        mdn.fit(X, Y)
    assert mdn.n_iter_ == 5
    assert watch.calls[-2:] == ["end epoch", "teardown"]
    resumed = clone(mdn).set_callbacks(Checkpoint(path)).fit(X, Y)
    assert_same_fit(resumed, quick(n_iter_no_change=8).fit(X, Y))


KILLED = """
import sys
from skmdn import MDNRegressor
from skmdn._utils.persistence import STATE_VERSION
from skmdn.callbacks import Checkpoint
from skmdn.datasets import make_rotating_gaussians
X, y = make_rotating_gaussians(400, random_state=0)
mdn = MDNRegressor(
    2,
    n_estimators=4,
    batch_size=8,
    max_iter=60,
    n_iter_no_change=60,
    random_state=0,
    verbose=True,
)
if len(sys.argv) > 1:
    mdn.set_callbacks(Checkpoint(sys.argv[1], every=2))
mdn.fit(X, y)
print("Scores", mdn.score_samples(X, y).tobytes().hex())
"""


def start(*args):
    return subprocess.Popen(
        [sys.executable, "-u", "-c", KILLED, *map(str, args)],
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.full
@needs_callbacks
def test_a_fit_killed_at_random_moments_loses_one_interval_at_most(tmp_path):
    def without_choice(text):
        kept = ("Resuming", "Epoch", "Scores")
        lines = [x for x in text.splitlines() if x.startswith(kept)]
        return [re.sub(r", [\w. ]+ elapsed.*", "", line) for line in lines]

    through = without_choice(start().communicate()[0])
    path, draw, reached = tmp_path / "fit.npz", random.Random(time.time_ns()), 0
    for _ in range(4):
        process = start(path)
        while not path.exists() and process.poll() is None:
            time.sleep(0.01)
        for line in process.stdout:  # one line at least, then a random moment
            assert line.startswith(("Resuming", "Fit of", "Epoch", "Networks that"))
            if line.startswith("Epoch"):
                break
        time.sleep(draw.uniform(0, 0.4))
        process.kill()
        lines = [line, *without_choice(process.communicate()[0])]
        reached = max(int(re.search(r"\d+", line)[0]) for line in lines)
        if reached == 60:
            break
    last = without_choice(start(path).communicate()[0])
    if reached < 60:
        resumed = int(re.search(r"Resuming after epoch (\d+)", last[0])[1])
        assert reached - 2 <= resumed <= reached
        assert last[1:] == through[resumed:]
    assert last[-1] == through[-1]
    assert not any(tmp_path.iterdir())


@needs_callbacks
@pytest.mark.parametrize(
    ("options", "rows", "differing"),
    [
        ({"alpha": 0.5}, {}, "alpha"),
        ({"max_iter": 9, "tol": 0.1}, {}, "max_iter, tol"),
        ({}, {"y": 2 * Y}, "rows"),
        ({}, {"X": X[::-1]}, "rows"),
        ({}, {"sample_weight": WEIGHT}, "rows"),
        ({}, {"groups": np.arange(len(Y)) % 7}, "rows"),
        ({}, {"X_val": X[:9], "y_val": Y[:9]}, "validation rows"),
    ],
)
def test_the_checkpoint_of_another_fit_is_refused(options, rows, differing, tmp_path):
    path = tmp_path / "fit.npz"
    with pytest.raises(Crash):
        quick().set_callbacks(Checkpoint(path), crashes_after(2)).fit(X, Y)
    other = quick(**options).set_callbacks(Checkpoint(path))
    with pytest.raises(ValueError, match=f"another fit: it differs in {differing}\\. "):
        other.fit(**{"X": X, "y": Y} | rows)
    assert not hasattr(other, "network_")
    # It is still there for its own fit.
    resumed = quick(verbose=True).set_callbacks(Checkpoint(path)).fit(X, Y)
    assert_same_fit(resumed, quick().fit(X, Y))


@needs_callbacks
def test_a_damaged_checkpoint_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "fit.npz"
    with pytest.raises(Crash):
        quick().set_callbacks(Checkpoint(path), crashes_after(2)).fit(X, Y)
    data = path.read_bytes()
    message = "not a checkpoint that this release can read: .* Delete it"
    for damaged in (b"", b"text", data[: len(data) // 2], data[:1000] + data[1010:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=message):
            quick().set_callbacks(Checkpoint(path)).fit(X, Y)
    np.savez(path, values=np.zeros(3))
    with pytest.raises(ValueError, match=message):
        quick().set_callbacks(Checkpoint(path)).fit(X, Y)
    path.write_bytes(data)
    monkeypatch.setattr(_persistence, "STATE_VERSION", 0)
    with pytest.raises(ValueError, match=f"in version {STATE_VERSION} of its form"):
        quick().set_callbacks(Checkpoint(path)).fit(X, Y)


@needs_callbacks
@pytest.mark.parametrize("path", ["missing/fit.npz", "file/fit.npz", "folder"])
def test_an_unwritable_path_is_an_error_before_training(path, tmp_path, capsys):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    mdn = quick(verbose=True).set_callbacks(Checkpoint(tmp_path / path))
    with pytest.raises(OSError, match=path):
        mdn.fit(X, Y)
    assert "Epoch" not in capsys.readouterr().out
    assert not (tmp_path / "folder.tmp").exists()


def full_disk(*args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@needs_callbacks
def test_a_full_disk_is_an_error_before_training(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(os, "fsync", full_disk)
    mdn = quick(verbose=True).set_callbacks(Checkpoint(tmp_path / "fit.npz"))
    with pytest.raises(
        OSError, match=r"No checkpoint .* No space left .* enough disk space"
    ):
        mdn.fit(X, Y)
    assert "Epoch" not in capsys.readouterr().out
    assert not any(tmp_path.iterdir())


@needs_callbacks
def test_a_disk_that_fills_up_later_costs_no_training(tmp_path, monkeypatch):
    path = tmp_path / "fit.npz"
    fills = Watch(
        lambda epoch: epoch == 2 and monkeypatch.setattr(os, "fsync", full_disk)
    )
    mdn = quick(n_iter_no_change=8)
    expected = clone(mdn).fit(X, Y)
    mdn.set_callbacks(Checkpoint(path), fills, crashes_after(5))
    with (
        pytest.warns(UserWarning, match="Training continues, and the last checkpoint"),
        pytest.raises(Crash),
    ):
        mdn.fit(X, Y)
    with np.load(path) as file:
        assert len(file["losses"]) == 3
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    assert_same_fit(mdn.set_callbacks(Checkpoint(path)).fit(X, Y), expected)


@needs_callbacks
def test_each_fit_of_a_search_has_a_file_of_its_own(tmp_path):
    mdn = quick(max_iter=2).set_callbacks(Checkpoint(tmp_path / "fit.npz"))
    grid = {"mdnregressor__reg_covar": [1e-4, 1e-2]}
    names = set()

    class Names(Watch):
        def on_fit_task_end(self, estimator, context):
            names.update(path.name for path in tmp_path.iterdir())

    mdn.set_callbacks(Checkpoint(tmp_path / "fit.npz"), Names())
    search = GridSearchCV(make_pipeline(StandardScaler(), mdn), grid, cv=2).fit(X, Y)
    assert len(names) == 5  # two candidates in two folds, and the refit
    assert all(re.fullmatch(r"fit(-\d+)+\.npz", name) for name in names)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert not any(tmp_path.iterdir())


@needs_callbacks
def test_checkpoints_are_of_this_estimator_only():
    other = LogisticRegression().set_callbacks(Checkpoint("fit.npz"))
    with pytest.raises(TypeError, match="fits of MDNRegressor, got LogisticRegression"):
        other.fit(X, Y[:, 0] > 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"path": 3}, "'path' .* Got 3"), ({"path": "a", "every": 0}, "'every' .* Got 0")],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Checkpoint(**arguments)
