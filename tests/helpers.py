"""Helpers shared by the tests: paths, small estimators, random mixtures, ranks."""

import importlib.util
import multiprocessing
import subprocess
import sys
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import sklearn
import torch
import torch.distributed as dist
from numpy.testing import assert_array_equal
from scipy import stats
from scipy.special import logsumexp
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    RandomizedSearchCV,
)
from sklearn.utils.fixes import parse_version
from torch import nn

import skmdn
from skmdn import MDNRegressor, MixtureDensity
from skmdn._data.checks import check_rows, check_validation_rows
from skmdn._data.rows import Rows
from skmdn._data.scaling import Scaling
from skmdn._data.targets import Targets
from skmdn._data.views.rows import NormalScores, ViewRows
from skmdn._fit.prepare import prepare
from skmdn._fit.session import FitSession
from skmdn._training.kinds import AUTO_KINDS, KINDS
from skmdn.datasets import make_inverse_sine
from skmdn.distributed import ALONE

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path(skmdn.__file__).parent

SKLEARN_VERSION = parse_version(sklearn.__version__)
HAS_CALLBACKS = parse_version("1.9") <= SKLEARN_VERSION
needs_callbacks = pytest.mark.skipif(
    not HAS_CALLBACKS, reason="callbacks came with scikit-learn 1.9"
)
needs_gloo = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()),
    reason="this build of torch has no gloo",
)


# -- surroundings of a call --------------------------------------------------------


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


# Contexts that change torch's defaults and modes; results do not depend on them.
OTHER_DEFAULTS = {
    "float64": lambda: default_dtype(torch.float64),
    "float16": lambda: default_dtype(torch.float16),
    "default device": lambda: default_device("meta"),
    "device context": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


# -- rows --------------------------------------------------------------------------


def exact_targets(y):
    """Return targets y (n, d) that are known exactly."""
    y = np.asarray(y, dtype=float)
    return Targets(y, np.zeros(len(y)), y.shape[1])


def exact_rows(X, y, weight, groups=None):
    return Rows(X, exact_targets(y), weight, groups)


def scaling_of_targets(rows):
    return Scaling.fit_targets(rows.y.points, rows.weight)


# -- the repository and other processes ------------------------------------------


def package_modules():
    """Return the path of each module of the installed package by its dotted name.

    Names are relative to skmdn; a folder is named by its ``__init__``, and the
    package itself is "".
    """
    modules = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        modules[".".join(parts)] = path
    return modules


def load_benchmark(name):
    """Return a script of benchmarks/ as a module."""
    path = ROOT / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_python(*arguments, **options):
    """Return what another Python process prints; raise where it fails."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        **options,
    )
    return done.stdout


# -- estimators and networks -----------------------------------------------------


# Kinds of portfolio="auto" on tables that are too small for a view.
WITHOUT_VIEWS = [name for name in AUTO_KINDS if not KINDS[name].views]


def quick(**parameters):
    """Return an estimator that is fitted in a fraction of a second."""
    options = {
        "n_components": 2,
        "n_estimators": 4,
        "hidden_layer_sizes": (8,),
        "max_iter": 5,
        "random_state": 0,
        "device": "cpu",
    }
    return MDNRegressor(**options | parameters)


def linear_data(n=80, d=2, seed=0):
    """Return Gaussian X (n, 3) and y (n, d) that is linear in X."""
    rng = np.random.RandomState(seed)
    X = rng.normal(size=(n, 3))
    y = X @ rng.normal(size=(3, d)) + 0.3 * rng.normal(size=(n, d))
    return X, y


def signed_scales(mdn):
    """Return the divisor of the factors: a negative scale also flips its row."""
    return np.sign(mdn.y_scale_)[:, None] * mdn.y_scale_


def standardised(mdn, X):
    """Return the features of the networks, by the formula of the documentation."""
    inside = np.clip(X, *mdn.X_knees_)
    soft = inside + mdn.X_spread_ * np.arcsinh((X - inside) / mdn.X_spread_)
    return (soft - mdn.X_mean_) / mdn.X_scale_


def member_densities(mdn, X, y):
    """Return the density of y under each network alone, (n_members, n)."""
    densities = []
    for network in mdn.network_.networks:
        with torch.no_grad():
            parts = [
                part.numpy() for part in network(torch.tensor(standardised(mdn, X)))
            ]
        densities += [
            MixtureDensity(
                np.exp(log_weights),
                means * mdn.y_scale_ + mdn.y_mean_,
                factors / signed_scales(mdn),
            ).pdf(y.reshape(len(y), -1))
            for log_weights, means, factors in zip(*parts, strict=True)
        ]
    return np.array(densities)


def fold_densities(mdn, X, y, n_folds):
    """Return the density of y under the networks of each fold, (n_folds, n)."""
    sizes = [size for part in mdn._model.sizes for size in part.values()]
    fold = np.concatenate([np.arange(size) % n_folds for size in sizes])
    weights = mdn.network_.log_weights.exp().numpy()
    densities = member_densities(mdn, X, y)
    return np.array(
        [
            np.average(densities[fold == k], axis=0, weights=weights[fold == k])
            for k in range(n_folds)
        ]
    )


def two_kinds(**parameters):
    """Return a quick estimator of which `make_inverse_sine(80)` keeps two kinds."""
    options = {"portfolio": ["linear", "bins"], "n_estimators": 19, "max_iter": 20}
    return quick(**options | parameters)


def plain_network(n_features):
    """Build a user-defined network without state or noise."""
    return nn.Sequential(nn.Linear(n_features, 8), nn.Tanh())


def busy_network(n_features):
    """Build a network with buffers, noise and widths set by the first rows."""
    return nn.Sequential(
        nn.Linear(n_features, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.LazyLinear(5)
    )


class FrozenNetwork(nn.Module):
    """Fixed cosines of the features; only the head behind them learns."""

    def __init__(self, n_features):
        super().__init__()
        self.linear = nn.Linear(n_features, 6).requires_grad_(False)
        self.linear.weight.copy_(torch.arange(6.0)[:, None])

    def forward(self, x):
        return self.linear(x).cos()


SETTINGS = {"reg_covar": [1e-4, 1e-2], "n_components": [1, 3]}
SEARCHES = {
    "grid": lambda **options: GridSearchCV(quick(), SETTINGS, cv=2, **options),
    "randomized": lambda **options: RandomizedSearchCV(
        quick(), SETTINGS, n_iter=3, cv=2, random_state=0, **options
    ),
    "halving": lambda **options: HalvingGridSearchCV(
        quick(), SETTINGS, cv=2, min_resources=20, random_state=0, **options
    ),
}


def assert_same_search(ours, theirs, X):
    """Two fitted searches chose alike from equal scores and predict the same bits."""
    assert ours.best_params_ == theirs.best_params_
    for name in ("params", "mean_test_score", "split0_test_score", "rank_test_score"):
        assert_array_equal(ours.cv_results_[name], theirs.cv_results_[name])
    assert_array_equal(ours.predict(X), theirs.predict(X))


# -- random mixtures -------------------------------------------------------------


def random_parameters(n, K, d, covariance_type="full", seed=0):
    """Return weights, means and covariances (n, K, d, d) of random mixtures."""
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


def scipy_logpdf(weights, means, covariances, y):
    """Return the log-density of each row by SciPy's multivariate normal."""
    return np.array(
        [
            logsumexp(
                [
                    np.log(w) + stats.multivariate_normal(m, S).logpdf(point)
                    for w, m, S in zip(*row, strict=True)
                ]
            )
            for *row, point in zip(weights, means, covariances, y, strict=True)
        ]
    )


def random_density(n, K, d, covariance_type="full", seed=0):
    parameters = random_parameters(n, K, d, covariance_type, seed)
    return MixtureDensity.from_covariances(*parameters)


def random_scalar_density(n, K, seed=0):
    weights, means, covariances = random_parameters(n, K, 1, seed=seed)
    return MixtureDensity.from_covariances(
        weights, means[..., 0], covariances[..., 0, 0]
    )


# -- workers and ranks -----------------------------------------------------------


@contextmanager
def dask_client(n_workers=2, processes=True):
    """Start workers of one thread each on this machine, and stop them at the end."""
    distributed = pytest.importorskip("distributed", reason="needs the extra 'dask'")
    with (
        distributed.LocalCluster(
            n_workers=n_workers,
            threads_per_worker=1,
            processes=processes,
            dashboard_address=":0",
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


# Very unequal shards of 120 rows; an epoch has more batches than the first has rows.
SHARDS = slice(0, 5), slice(5, 120)


def shard(rank, rows, shards=SHARDS):
    """Return the rows of a rank."""
    return {name: array[shards[rank]] for name, array in rows.items()}


def fit_shard(rank, mdn, rows, shards=SHARDS):
    """Fit the rows of a rank, a job for `RankPair`."""
    return mdn.fit(**shard(rank, rows, shards))


def assert_same_networks(first, second):
    """Two estimators have the same weights, curves and scale of y."""
    ours, theirs = (mdn.network_.state_dict() for mdn in (first, second))
    for name, tensor in ours.items():
        assert_array_equal(tensor, theirs[name])
    for name in ("loss_curve_", "validation_scores_", "y_scale_", "oof_score_"):
        assert_array_equal(getattr(first, name, 0), getattr(second, name, 0))


class RankPair:
    """Two ranks in processes of their own; calling it runs a job on both."""

    def __init__(self, folder):
        context = multiprocessing.get_context("spawn")
        self.ends, self.processes = [], []
        for rank in range(2):
            ours, theirs = context.Pipe()
            arguments = rank, folder / "store", theirs
            process = context.Process(target=serve_rank, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self.ends.append(ours)
            self.processes.append(process)

    def __call__(self, job, *args):
        """Return what each rank returned or raised; None where it crashed."""
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


def serve_rank(rank, store, end):
    """Join a gloo group of two and run the jobs that arrive through a pipe."""
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


def session_of(rows=None, groups=None, validation=None, **params):
    """Prepare a fit of small networks, by default of 60 rows of an inverse sine."""
    rows = make_inverse_sine(60, random_state=0) if rows is None else rows
    params = {"n_components": 2, "hidden_layer_sizes": (8,), "max_iter": 8} | params
    mdn = MDNRegressor(device="cpu", **params)
    checked = check_rows(mdn, *rows, None, groups=groups)
    if validation is not None:
        validation = check_validation_rows(mdn, checked, *validation, None)
    data = prepare(checked, validation, mdn.get_params(), None, ALONE)
    return FitSession(data, 0)


# A map that views of rows with scores of their own do not use.
NO_SCORES = NormalScores(np.zeros((2, 1)), np.zeros((2, 1)))


def make_view_rows(n=60, n_features=3, d=2, n_groups=None, seed=0):
    """Draw rows as views see them, with copies that have other targets."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, n_features))
    X[n // 2 : n // 2 + 5] = X[:5]
    y = np.sin(X[:, :1]) + 0.3 * rng.normal(size=(n, d))
    group = np.arange(n) if n_groups is None else rng.integers(n_groups, size=n)
    weight = rng.uniform(0.5, 2, size=n)
    values = NormalScores.fit(y, weight)(y)
    return ViewRows.of(torch.from_numpy(X), values, weight, torch.from_numpy(group))


def make_folds(n, n_folds=4, seed=1):
    """Draw the rows of each fold, (n_folds, n)."""
    fold = torch.from_numpy(np.random.default_rng(seed).permutation(n) % n_folds)
    return fold == torch.arange(n_folds)[:, None]
