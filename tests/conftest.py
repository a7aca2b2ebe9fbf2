"""What all tests share: random mixtures, real data, and a guard of global state."""

import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# `python -m pytest` puts the source folder first; the tests are about the package
# that is installed.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]

# Without it scikit-learn skips its check of array API input.
os.environ.setdefault("SCIPY_ARRAY_API", "1")

import numpy as np
import pytest
import sklearn
import torch
from hypothesis import HealthCheck, settings
from sklearn.utils.fixes import parse_version

from skmdn import MixtureDensity

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

HAS_CALLBACKS = parse_version(sklearn.__version__) >= parse_version("1.9")
needs_callbacks = pytest.mark.skipif(
    not HAS_CALLBACKS, reason="callbacks came with scikit-learn 1.9"
)

if "PYTEST_XDIST_WORKER" in os.environ:  # one thread for each worker
    torch.set_num_threads(1)


def pytest_addoption(parser):
    parser.addoption(
        "--data",
        default=os.environ.get("SKMDN_DATA"),
        help="folder of the benchmark data; tests that need it are skipped without",
    )


def load_benchmark(name):
    """A script of benchmarks/ as a module."""
    path = ROOT / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


def random_parameters(n, K, d, covariance_type="full", seed=0):
    """Weights, means and covariances (n, K, d, d) of random mixtures."""
    rng = np.random.RandomState(seed)
    weights = rng.dirichlet(np.ones(K), size=n)
    means = rng.normal(scale=2, size=(n, K, d))
    roots = rng.normal(size=(n, K, d, d))
    covariances = roots @ roots.swapaxes(-1, -2) + 0.1 * np.eye(d)
    if covariance_type == "tied":
        covariances = np.repeat(covariances[:, :1], K, axis=1)
    elif covariance_type == "diag":
        covariances = covariances * np.eye(d)
    elif covariance_type == "spherical":
        covariances = covariances[..., :1, :1] * np.eye(d)
    return weights, means, covariances


def random_density(n, K, d, covariance_type="full", seed=0):
    parameters = random_parameters(n, K, d, covariance_type, seed)
    return MixtureDensity.from_covariances(*parameters)


def random_scalar_density(n, K, seed=0):
    weights, means, covariances = random_parameters(n, K, 1, seed=seed)
    return MixtureDensity.from_covariances(
        weights, means[..., 0], covariances[..., 0, 0]
    )
