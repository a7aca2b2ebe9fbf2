"""Searches in several processes and threads equal serial ones."""

import threading
from functools import partial

import joblib
import numpy as np
import pytest
import torch
from helpers import SEARCHES, assert_same_search, quick
from joblib.externals.loky import get_reusable_executor
from numpy.testing import assert_array_equal
from sklearn.model_selection import GridSearchCV

from skmdn._fit.session import FitSession
from skmdn._training.loop import TrainingLoop
from skmdn._utils import threads
from skmdn.datasets import make_rotating_gaussians

X, Y = make_rotating_gaussians(80, random_state=0)


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_two_workers_find_what_one_finds(search, backend):
    serial = SEARCHES[search]().fit(X, Y)
    with joblib.parallel_config(backend, n_jobs=2):
        assert_same_search(SEARCHES[search]().fit(X, Y), serial, X)


def threads_in(estimator, X, y):
    return torch.get_num_threads()


def large_arrays_in(folder, estimator, X, y):
    """Count the files by which joblib sends arrays to its workers."""
    return len(list(folder.rglob("*.pkl")))


def test_a_fit_uses_several_threads_only_where_they_pay(monkeypatch):
    seen = []
    run_epoch = TrainingLoop.run_epoch

    def watched(loop, rows, epoch):
        seen.append((loop.work, torch.get_num_threads()))
        return run_epoch(loop, rows, epoch)

    before = torch.get_num_threads()
    monkeypatch.setattr(TrainingLoop, "run_epoch", watched)
    torch.set_num_threads(4)
    try:
        quick(max_iter=1).fit(X, Y)
        work, n_threads = seen.pop()
        assert work < threads.WORK_PER_THREAD
        assert n_threads == 1
        for least, expected in ((work // 2, 2), (work // 3, 3), (work // 9, 4)):
            monkeypatch.setattr(threads, "WORK_PER_THREAD", least)
            quick(max_iter=1).fit(X, Y)
            assert seen.pop() == (work, expected)
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_worker_processes_share_the_cores_and_get_the_rows_once(tmp_path):
    wide = np.random.RandomState(0).normal(size=(8000, 20))  # more than a megabyte
    assert wide.nbytes > 2**20
    search = GridSearchCV(
        quick(n_estimators=1, max_iter=1),
        {"alpha": [0.01, 0.02, 0.03]},
        scoring={"threads": threads_in, "sent": partial(large_arrays_in, tmp_path)},
        cv=2,
        refit=False,
    )
    # Workers of another test would keep to another folder.
    get_reusable_executor().shutdown()
    with joblib.parallel_config("loky", n_jobs=2, temp_folder=tmp_path):
        found = search.fit(wide, wide[:, 0]).cv_results_
    fair = max(1, joblib.cpu_count() // 2)
    assert_array_equal(found["mean_test_threads"], [fair] * 3)
    assert_array_equal(found["mean_test_sent"], [1] * 3)


def test_fits_in_one_process_share_its_threads(monkeypatch):
    seen, meet = {"one": [], "two": []}, threading.Barrier(2, timeout=60)
    step = FitSession.step

    def watched(session):
        name = threading.current_thread().name
        if name in seen and session.n_epochs == 1:
            meet.wait()  # now both have begun
        if name == "two" and session.n_epochs == 2:
            trained.wait(60)
        step(session)
        if name in seen:
            seen[name].append(torch.get_num_threads())
        if name == "one" and session.n_epochs == 4:
            trained.set()
            ended.wait(60)

    trained, ended = threading.Event(), threading.Event()
    before = torch.get_num_threads()
    monkeypatch.setattr(FitSession, "step", watched)
    monkeypatch.setattr(threads, "WORK_PER_THREAD", 1)
    torch.set_num_threads(4)
    try:
        fits = [
            threading.Thread(
                target=quick(n_iter_no_change=9, max_iter=n).fit, name=name, args=(X, Y)
            )
            for name, n in (("one", 6), ("two", 3))
        ]
        for fit in fits:
            fit.start()
        fits[1].join()
        ended.set()
        fits[0].join()
        # Shares: of two while there are two, and all when the other has ended.
        assert seen["one"][1:] == [2, 2, 2, 4, 4]
        assert seen["two"][1:] == [2, 2]
        # New threads inherit the number again.
        inherited = []
        late = threading.Thread(
            target=lambda: inherited.append(torch.get_num_threads())
        )
        late.start()
        late.join()
        assert inherited == [4]
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
