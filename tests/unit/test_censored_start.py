"""The linear start of targets that are partly censored."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import optimize, stats

from skmdn import MDNRegressor
from skmdn._data.censored import PRIOR_VARIANCE, fit_censored, known_ends
from skmdn._data.folds import every_row
from skmdn._data.matrices import ScaledRows
from skmdn._training import initialization
from skmdn._training.initialization import (
    RIDGE_PENALTIES,
    SMALLEST_RESIDUAL,
    LinearModels,
)
from skmdn.distributed import ALONE

RANGE = RIDGE_PENALTIES[0], RIDGE_PENALTIES[-1]


def make_rows(n=80, p=3, seed=0, cut=0.3, noise=0.5):
    """Return X, y, side: linear targets of which those above `cut` are censored."""
    rng = np.random.RandomState(seed)
    X = rng.normal(size=(n, p))
    y = X @ np.linspace(1, 0, p) + noise * rng.normal(size=n)
    side = np.where(y > cut, 1.0, 0.0)
    return X, np.minimum(y, cut), side


def objective(parameters, X, y, side, weight, penalty):
    """Minus the log-posterior of coefficients, intercept and the logarithm of s."""
    *b, c, log_s = parameters
    s = np.exp(log_s)
    r = (y - X @ b - c) / s
    exact = stats.norm.logpdf(r) - log_s
    censored = np.where(side > 0, stats.norm.logsf(r), stats.norm.logcdf(r))
    prior = penalty * weight.sum() * np.square(b).sum() + PRIOR_VARIANCE
    log_likelihood = weight @ np.where(side == 0, exact, censored)
    return -log_likelihood + prior / (2 * s**2) + log_s


@pytest.mark.parametrize("seed", range(5))
def test_the_fit_maximises_the_posterior(seed):
    X, y, side = make_rows(seed=seed)
    side[:10], y[:10] = -1, y[:10] + 0.2
    weight = np.random.RandomState(seed).exponential(size=len(y))
    penalty = 10.0 ** (-seed)
    found = fit_censored(X, y, side, weight, PRIOR_VARIANCE, (penalty, penalty), ALONE)
    given = X, y, side, weight, penalty
    best = optimize.minimize(objective, np.zeros(5), given, tol=1e-10).x
    assert_allclose(found.coefficients, best[:3], atol=1e-4)
    assert_allclose(found.intercept, best[3], atol=1e-4)
    assert_allclose(found.variance, np.exp(2 * best[4]), rtol=1e-4)


def test_without_censored_rows_the_fit_is_that_of_ridge():
    X, y, side = make_rows(200, cut=np.inf)
    rows = ScaledRows(*map(torch.from_numpy, (X, y[:, None], np.ones(200))))
    ridge = LinearModels.fit(rows, every_row(200, 1), ALONE)
    tobit = LinearModels.fit(rows, every_row(200, 1), ALONE, torch.from_numpy(side))
    # The evidence is that of one variance, and differs in the prior of s alone.
    for ours, theirs in zip(tobit, ridge, strict=True):
        assert_allclose(ours, theirs, rtol=0.02, atol=2e-3)
    found = fit_censored(X, y, side, np.ones(200), PRIOR_VARIANCE, RANGE, ALONE)
    assert_allclose(found.n_rows, 200)
    freedom = 1 + found.freedom
    inflation = 200 / (201 - freedom) * (1 + freedom / 200)
    expected = found.variance * inflation + SMALLEST_RESIDUAL
    assert_allclose(tobit.covariance[0, 0, 0], expected, rtol=1e-3)


def test_features_without_effect_have_no_coefficients():
    X, y, side = make_rows(400, 6)
    noise = np.random.RandomState(1).normal(size=X.shape)
    found = fit_censored(noise, y, side, np.ones(400), PRIOR_VARIANCE, RANGE, ALONE)
    assert found.freedom < 1
    assert np.abs(found.coefficients).max() < 0.05
    found = fit_censored(X, y, side, np.ones(400), PRIOR_VARIANCE, RANGE, ALONE)
    assert_allclose(found.coefficients, np.linspace(1, 0, 6), atol=0.12)
    assert_allclose(found.variance, 0.25, rtol=0.25)
    # A censored row tells less than an observed one, but not nothing.
    assert (side == 0).sum() < found.n_rows < 400


def test_weights_are_repetitions_and_their_sum_counts():
    X, y, side = make_rows()
    weight = np.arange(80) % 3.0
    repeats = np.repeat(np.arange(80), weight.astype(int))
    given = PRIOR_VARIANCE, RANGE, ALONE
    ours = fit_censored(X, y, side, weight, *given)
    rows = X[repeats], y[repeats], side[repeats], np.ones(len(repeats))
    for left, right in zip(ours, fit_censored(*rows, *given), strict=True):
        assert_allclose(left, right, rtol=1e-6)
    # Of `LinearModels`, the sum is the effective number, whatever the unit of weights.
    variances = []
    for factor in (1.0, 1e-3):
        parts = X, y[:, None], factor * weight
        scaled = ScaledRows(*map(torch.from_numpy, parts))
        models = LinearModels.fit(
            scaled, every_row(80, 1), ALONE, torch.from_numpy(side)
        )
        variances.append(models.covariance.item())
    assert_allclose(*variances)


@pytest.mark.parametrize("seed", range(40))
def test_any_rows_have_a_finite_fit(seed):
    rng = np.random.RandomState(seed)
    n, p = rng.randint(1, 100), rng.randint(0, 12)
    X = rng.normal(size=(n, p))
    X[:, rng.rand(p) < 0.2] = 0
    y = X @ rng.normal(size=p) + 10 ** rng.uniform(-4, 1) * rng.standard_t(1, size=n)
    y = np.clip(y, -1e3, 1e3)
    side = rng.choice([-1.0, 0.0, 1.0], size=n, p=rng.dirichlet([0.5] * 3))
    weight = rng.exponential(size=n)
    found = fit_censored(X, y, side, weight, PRIOR_VARIANCE, RANGE, ALONE)
    assert all(np.isfinite(part).all() for part in found)
    assert found.variance > 0
    assert 0 <= found.freedom <= min(n, p)
    assert 0 < found.n_rows <= weight.sum() * (1 + 1e-9)


def test_known_ends_of_cells():
    inf = np.inf
    y = torch.tensor(
        [
            [1.0, 0.0, 0.0],  # known
            [1.0, -0.5, 0.5],  # a cell counts as its point
            [1.0, -0.5, inf],
            [1.0, -inf, 0.25],
        ]
    )
    for table in (y, torch.cat([y, torch.ones(4, 1)], dim=1)):
        ends, side = known_ends(table)
        assert_array_equal(ends[:, 0], [1.0, 1.0, 0.5, 1.25])
        assert_array_equal(side, [0, 0, 1, -1])


def test_many_rows_are_read_in_part(monkeypatch):
    X, y, side = make_rows()
    rows = ScaledRows(*map(torch.from_numpy, (X, y[:, None], np.ones(80))))
    monkeypatch.setattr(initialization, "MOST_CENSORED_ROWS", 40)
    found = LinearModels.fit(rows, every_row(80, 1), ALONE, torch.from_numpy(side))
    half = fit_censored(
        X[::2], y[::2], side[::2], np.ones(40), PRIOR_VARIANCE, RANGE, ALONE
    )
    assert_allclose(found.coefficients[0, :, 0], half.coefficients)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_fit_starts_at_the_model_of_censored_rows(sign):
    """Seven of eight rows are censored; mirrored rows are censored from below."""
    rng = np.random.RandomState(0)
    X = rng.normal(size=(600, 2))
    y = X @ [1.0, -0.5] + 0.5 * rng.normal(size=600)
    cut = np.quantile(y, 1 / 8)
    ends = np.minimum(y, cut), np.where(y > cut, np.inf, y)
    lower, upper = ends if sign > 0 else (-ends[1], -ends[0])
    mdn = MDNRegressor(portfolio=["linear"], max_iter=1, random_state=0)
    mdn.fit(X, lower, y_upper=upper)
    X_test = rng.normal(size=(500, 2))
    found = mdn.predict(X_test)
    assert_allclose(found, sign * (X_test @ [1.0, -0.5]), atol=0.7)
    error = found - sign * (X_test @ [1.0, -0.5])
    assert np.sqrt(np.mean(error**2)) < 0.25


@pytest.mark.parametrize("size", [1e3, 1e4, 1e6])
def test_far_bounds_do_not_stop_the_iteration(size):
    """Two rows are known to lie far out, and give the residuals their size."""
    rng = np.random.default_rng(0)
    X, y, side = rng.normal(size=(200, 2)), rng.normal(size=200), np.zeros(200)
    y[:2], side[:2] = (size, -size), (1, -1)
    arguments = X, y, side, np.ones(200), PRIOR_VARIANCE, RANGE, ALONE
    model = fit_censored(*arguments)
    given = *model.coefficients, model.intercept, 0.5 * np.log(model.variance)
    square = model.coefficients @ model.coefficients / model.variance
    penalty = np.clip(model.freedom / square / 200, *RANGE)
    others = X, y, side, np.ones(200), penalty
    best = optimize.minimize(objective, given, others).fun
    assert objective(given, *others) - best < 1e-3
