"""Forked processes compute, although threads do not survive a fork."""

import sys

import pytest
from helpers import run_python

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")

# Rows enough for parallel regions, and more threads than one on any machine.
PARENT = """
import multiprocessing, sys
import numpy as np, torch
from sklearn.model_selection import cross_val_score
from skmdn import MDNRegressor

torch.set_num_threads(4)
rng = np.random.RandomState(0)
X = rng.normal(size=(3000, 3))
y = X[:, 0] + rng.normal(size=3000)
mdn = MDNRegressor(max_iter=1, batch_size=512, random_state=0)
mdn.fit(X, y)
density = mdn.predict_density(X)
mean, median = mdn.predict(X), density.median()
"""
CHILD = """
def child(queue):
    queue.put((
        torch.get_num_threads(),
        np.abs(mdn.predict(X) - mean).max(),
        np.abs(mdn.predict_density(X).median() - median).max(),
        np.abs(mdn.fit(X, y).predict(X) - mean).max(),
    ))

context = multiprocessing.get_context("fork")
queue = context.Queue()
process = context.Process(target=child, args=(queue,))
process.start()
n_threads, *differences = queue.get(timeout=60)
process.join(10)
assert process.exitcode == 0, process.exitcode
assert n_threads == 1, n_threads
assert max(differences[:2]) < 1e-12, differences
assert differences[2] < 0.1, differences
assert torch.get_num_threads() == 4
print("done")
"""
SEARCH = """
import joblib
with joblib.parallel_config("multiprocessing", n_jobs=2):
    scores = cross_val_score(mdn, X, y, cv=2)
assert np.isfinite(scores).all()
print("done")
"""


@pytest.mark.parametrize("code", [CHILD, SEARCH], ids=["fork", "multiprocessing"])
def test_a_forked_child_fits_and_predicts(code):
    assert run_python("-c", PARENT + code, timeout=120).strip() == "done"
