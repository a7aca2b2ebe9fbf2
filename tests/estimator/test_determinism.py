"""The same seed gives the same bits, in every process and thread."""

import hashlib
import mmap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers import quick, run_python
from numpy.testing import assert_array_equal

from skmdn.datasets import make_rotating_gaussians

FIT = """
import hashlib, sys, torch
torch.set_num_threads(1)
from skmdn import MDNRegressor
from skmdn.datasets import make_rotating_gaussians
X, y = make_rotating_gaussians(60, random_state=0)
mdn = MDNRegressor(
    2, n_estimators=4, hidden_layer_sizes=(8,), max_iter=5, random_state=0, device="cpu"
)
mdn.fit(X, y)
values = mdn.score_samples(X, y).tobytes() + mdn.sample(X, 2, random_state=0).tobytes()
print(hashlib.sha256(values).hexdigest())
"""


def run(code):
    return run_python("-c", code).strip()


def test_another_process_gives_the_same_bits():
    X, y = make_rotating_gaussians(60, random_state=0)
    mdn = quick().fit(X, y)
    values = (
        mdn.score_samples(X, y).tobytes() + mdn.sample(X, 2, random_state=0).tobytes()
    )
    assert run(FIT) == hashlib.sha256(values).hexdigest()


def test_import_leaves_global_state_alone():
    check = """
import random, warnings
import numpy as np, torch
import sklearn, scipy.sparse, scipy.special, scipy.cluster, sklearn.cluster
def state():
    return (random.getstate(), np.random.get_state()[1].tolist(),
            torch.get_rng_state().tolist(), torch.get_default_dtype(),
            torch.get_num_threads(), list(warnings.filters))
before = state()
import skmdn
print(before == state())
"""
    assert run(check) == "True"


def test_many_threads_on_one_estimator_give_the_serial_answer():
    X, y = make_rotating_gaussians(200, random_state=0)
    mdn = quick().fit(X, y)

    def ask(_):
        return mdn.predict(X), mdn.score_samples(X, y), mdn.sample(X, 3, random_state=1)

    serial = ask(None)
    with ThreadPoolExecutor(16) as pool:
        for answer in pool.map(ask, range(48)):
            for ours, theirs in zip(answer, serial, strict=True):
                assert_array_equal(ours, theirs)


@pytest.mark.full
@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="resident memory is read on Linux"
)
def test_many_fits_leak_no_memory():
    def resident_pages():
        return int(Path("/proc/self/statm").read_text().split()[1])

    X, y = make_rotating_gaussians(400, random_state=0)
    sizes = []
    for _ in range(4):
        for _ in range(50):
            mdn = quick(max_iter=1, hidden_layer_sizes=(64, 64)).fit(X, y)
            mdn.predict(X)
        sizes.append(resident_pages())
    grown = (sizes[-1] - sizes[0]) * mmap.PAGESIZE
    kept = sum(p.numel() * 8 for p in mdn.network_.parameters())
    # Of the last 150 fits, not even half of the networks' numbers are still held.
    assert grown < 150 * kept / 2, grown / (150 * kept)
