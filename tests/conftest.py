"""Settings of all tests, and a guard of global state."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]

# `python -m pytest` puts the source folder first; the tests are about the package
# that is installed.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]

# Without it scikit-learn skips its check of array API input.
os.environ.setdefault("SCIPY_ARRAY_API", "1")

pytest.register_assert_rewrite("helpers")

# The same examples every time; HYPOTHESIS_PROFILE=search draws new and more of them.
settings.register_profile(
    "steady",
    max_examples=40,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("search", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))

if "PYTEST_XDIST_WORKER" in os.environ:  # one thread for each worker
    torch.set_num_threads(1)


def pytest_addoption(parser):
    parser.addoption(
        "--data",
        default=os.environ.get("SKMDN_DATA"),
        help="folder of the benchmark data; tests that need it are skipped without",
    )


# Fixtures that start other processes: clusters of Dask, and ranks.
STARTS_PROCESSES = {"client", "disposable", "pair"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if not STARTS_PROCESSES.isdisjoint(item.fixturenames):
            item.add_marker(pytest.mark.full)


@pytest.fixture(autouse=True)
def global_state_is_untouched():
    """Fail a test that moves a global generator or changes a global default."""

    def state():
        return {
            "numpy": np.random.get_state()[1].tolist(),
            "torch": torch.get_rng_state().tolist(),
            "dtype": torch.get_default_dtype(),
            "threads": torch.get_num_threads(),
            "grad": torch.is_grad_enabled(),
        }

    before = state()
    yield
    after = state()
    changed = [name for name in before if before[name] != after[name]]
    assert not changed, f"changed global state: {changed}"


@pytest.fixture
def benchmark_modules(monkeypatch):
    """Let scripts import the modules of their folder, and restore their threads."""
    threads = torch.get_num_threads()
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def load_split(request):
    """Load split 0 of a benchmark set: X_train, y_train, X_test, y_test."""
    folder = request.config.getoption("--data")
    if folder is None:
        pytest.skip("needs the benchmark data: --data DIR or SKMDN_DATA")

    def load(name):
        with np.load(Path(folder) / name) as file:
            X, y, is_test = file["X"], file["y"], file["test_mask"][0]
        return X[~is_test], y[~is_test], X[is_test], y[is_test]

    return load
