"""Starts of training: linear models with Gaussian residuals, and bins of features."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from sklearn.linear_model import BayesianRidge, Ridge

from skmdn import _mixture
from skmdn._data.folds import RowLists, every_row
from skmdn._data.matrices import ScaledRows
from skmdn._data.scaling import RANGE_MARGIN
from skmdn._training import initialization
from skmdn._training.initialization import (
    PRIOR_VARIANCE,
    RIDGE_PENALTIES,
    SMALLEST_RESIDUAL,
    LinearModels,
    _ridge,
    quantile_bins,
    start_at_linear_models,
)
from skmdn.distributed import ALONE
from skmdn.nn import MixtureDensityNetwork
from skmdn.nn.covariance import COVARIANCE_TYPES
from skmdn.nn.network import LINEAR_REACH


def make_table(n=50, p=4, d=2, noise=0.5, seed=0):
    """Return correlated features and linear targets, about standardised."""
    rng = np.random.RandomState(seed)
    X = rng.normal(size=(n, p)) @ (np.eye(p) + 0.5 * rng.normal(size=(p, p)))
    X = (X - X.mean(0)) / X.std(0)
    y = X @ rng.normal(size=(p, d)) / np.sqrt(p) + noise * rng.normal(size=(n, d))
    return X, y


def ridge_of(X, y, weight=None, n_rows=None):
    """Apply `_ridge` to a table, as arrays."""
    weight = np.ones(len(X)) if weight is None else weight
    table = np.column_stack([np.ones(len(X)), X, y])
    products = table.T @ (weight[:, None] * table)
    n_rows = len(X) if n_rows is None else n_rows
    return [part.numpy() for part in _ridge(products, X.shape[1], n_rows)]


def log_evidence(X, y, penalty):
    """Log-density of y, without its mean.

    Coefficients have variance s / (n penalty), the noise has variance s, and s has the
    inverse gamma prior of one row: the density is that of a multivariate t.
    """
    n = len(y)
    # Rows of an orthonormal basis of all that is orthogonal to the mean.
    contrasts = np.linalg.svd(np.ones((1, n)))[2][1:]
    Z, z = contrasts @ X, contrasts @ y
    covariance = np.eye(n - 1) + Z @ Z.T / (n * penalty)
    prior = PRIOR_VARIANCE * y.var()
    return stats.multivariate_t(shape=prior * covariance, df=1).logpdf(z)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("n", "p", "noise"), [(50, 4, 0.5), (12, 4, 1.0), (20, 30, 0.3), (40, 3, 20.0)]
)
def test_the_linear_model_is_ridge_of_the_largest_evidence(n, p, noise, seed):
    X, y = make_table(n, p, noise=noise, seed=seed)
    y /= y.std(0)
    coefficients, intercept, _ = ridge_of(X, y)
    for output in range(2):
        evidence = [log_evidence(X, y[:, output], c) for c in RIDGE_PENALTIES]
        best = RIDGE_PENALTIES[np.argmax(evidence)]
        model = Ridge(alpha=n * best).fit(X, y[:, output])
        assert_allclose(coefficients[:, output], model.coef_, rtol=1e-6, atol=1e-9)
        assert_allclose(intercept[output], model.intercept_, atol=1e-9)


def test_the_linear_model_is_about_that_of_bayesian_ridge():
    X, y = make_table(200, 6)
    coefficients, _, covariance = ridge_of(X, y)
    for output in range(2):
        model = BayesianRidge().fit(X, y[:, output])
        assert_allclose(coefficients[:, output], model.coef_, atol=0.01)
        assert_allclose(covariance[output, output], 1 / model.alpha_, rtol=0.1)


def test_residuals_are_those_of_new_rows():
    """For least squares, n / (n - f) (1 + f / n) with f = p + 1 (Akaike 1969).

    The prior adds one row.
    """
    X, y = make_table(40, 5, noise=0.1)
    coefficients, intercept, covariance = ridge_of(X, y)
    residuals = y - X @ coefficients - intercept
    inflation = 40 / (40 - 6 + 1) * (1 + 6 / 40)
    prior = np.diag(PRIOR_VARIANCE * y.var(0))
    expected = inflation * (residuals.T @ residuals + prior) / 40
    assert_allclose(covariance, expected + SMALLEST_RESIDUAL * np.eye(2), rtol=0.01)
    new = []
    for seed in range(300):
        X, y = make_table(40 + 1, 5, d=1, noise=0.5, seed=seed)
        coefficients, intercept, covariance = ridge_of(X[1:], y[1:])
        error = y[0] - X[0] @ coefficients - intercept
        new.append(error**2 / covariance[0])
    # The standard error is about 0.1.
    assert_allclose(np.mean(new), 1, atol=0.3)


@pytest.mark.parametrize(("n", "p"), [(1, 1), (2, 1), (2, 5), (3, 40)])
def test_few_rows_have_a_finite_positive_covariance(n, p):
    rng = np.random.RandomState(0)
    for part in (rng.normal(size=(n, 3)), np.zeros((n, 3)), np.ones((n, 3))):
        X = rng.normal(size=(n, p))
        coefficients, intercept, covariance = ridge_of(X, part)
        assert np.isfinite(coefficients).all()
        assert np.isfinite(intercept).all()
        assert np.linalg.eigvalsh(covariance).min() > 0.5 * SMALLEST_RESIDUAL


def test_constant_and_repeated_columns_add_nothing():
    X, y = make_table()
    coefficients, intercept, covariance = ridge_of(X, y)
    wide = np.column_stack([X, np.zeros(50), np.full(50, 3.0)])
    found = ridge_of(wide, y)
    assert_allclose(found[0][:4], coefficients, atol=1e-9)
    assert_allclose(found[0][4:], 0, atol=1e-9)
    assert_allclose(found[1], intercept, atol=1e-9)
    assert_allclose(found[2], covariance, atol=1e-9)
    twice = ridge_of(np.column_stack([X, X[:, 0]]), y)
    assert_allclose(twice[0][0], twice[0][4], rtol=1e-6)


def as_rows(X, y, weight=None):
    weight = np.ones(len(X)) if weight is None else weight
    return ScaledRows(*map(torch.from_numpy, (X, y, weight)))


def test_weights_are_repetitions_for_a_given_number_of_rows():
    X, y = make_table()
    weight = np.arange(50) % 4.0
    repeats = np.repeat(np.arange(50), weight.astype(int))
    for ours, theirs in zip(
        ridge_of(X, y, weight, n_rows=40),
        ridge_of(X[repeats], y[repeats], n_rows=40),
        strict=True,
    ):
        assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)
    # The unit of weights has no effect, and the rows are counted by Kish's formula.
    n_effective = weight.sum() ** 2 / (weight**2).sum()
    expected = ridge_of(X, y, weight, n_rows=n_effective)
    for factor in (1.0, 1e-3):
        rows = as_rows(X, y, factor * weight)
        found = LinearModels.fit(rows, every_row(50, 1), ALONE)
        for ours, theirs in zip(found[:3], expected, strict=True):
            assert_allclose(ours[0], theirs, rtol=1e-6, atol=1e-9)


def test_each_fold_has_the_model_of_the_rows_that_count(monkeypatch):
    X, y = make_table()
    index = torch.stack([torch.arange(0, 30), torch.arange(20, 50)])
    counts = torch.ones(2, 30, dtype=torch.bool)
    counts[1, 25:] = False
    models = LinearModels.fit(as_rows(X, y), RowLists(index, counts), ALONE)
    for fold, mine in enumerate((slice(0, 30), slice(20, 45))):
        for ours, theirs in zip(models[:3], ridge_of(X[mine], y[mine]), strict=True):
            assert_allclose(ours[fold], theirs, rtol=1e-6, atol=1e-9)
    picked = models.of(torch.tensor([1, 0, 1]))
    assert torch.equal(picked.coefficients[2], models.coefficients[1])
    # Of many rows, evenly spread ones are read.
    monkeypatch.setattr(initialization, "MOST_LINEAR_ROWS", 25)
    models = LinearModels.fit(as_rows(X, y), every_row(50, 1), ALONE)
    for ours, theirs in zip(models[:3], ridge_of(X[::2], y[::2]), strict=True):
        assert_allclose(ours[0], theirs, rtol=1e-6, atol=1e-9)


def test_predictions_stay_near_those_of_the_training_rows():
    X, y = make_table()
    weight = np.ones(50)
    weight[:5] = 0  # rows that do not count
    models = LinearModels.fit(as_rows(X, y, weight), every_row(50, 1), ALONE)
    bounded = X.clip(-LINEAR_REACH, LINEAR_REACH)
    distance = np.abs(bounded @ models.coefficients[0].numpy())
    assert distance[:5].max() > distance[5:].max(0).min()
    factor = RANGE_MARGIN[0] + RANGE_MARGIN[1] / 45
    assert_allclose(models.reach[0], factor * distance[5:].max(0))


# -- networks that start there -----------------------------------------------------


def started(covariance_type, n_outputs, n_components, embedding="periodic"):
    """Return networks with two of three members at linear models, and the models."""
    X, y = make_table(60, 3, n_outputs)
    models = LinearModels.fit(as_rows(X, y), every_row(60, 1), ALONE)
    models = models.of(torch.zeros(2, dtype=torch.int64))
    generator = torch.Generator().manual_seed(0)
    network = MixtureDensityNetwork(
        3,
        n_outputs,
        n_components,
        n_members=3,
        covariance_type=covariance_type,
        has_skip=True,
        generator=generator,
        embedding=embedding,
    ).double()
    start_at_linear_models(network, slice(1, 3), models, generator)
    return network, models, torch.from_numpy(X)


def gaussian(models, X, y):
    """Log-density of y under the first linear model."""
    mean = X @ models.coefficients[0] + models.intercept[0]
    residuals = (y - mean).numpy()
    cov = models.covariance[0].numpy()
    return stats.multivariate_normal(cov=cov).logpdf(residuals)


@pytest.mark.parametrize("n_outputs", [1, 3])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_a_start_of_one_component_is_the_gaussian_of_the_linear_model(
    covariance_type, n_outputs
):
    network, models, X = started(covariance_type, n_outputs, 1)
    covariance = models.covariance[0]
    variances = covariance.diagonal()
    if covariance_type == "spherical":
        variances = variances.mean().expand(n_outputs)
    if covariance_type in ("diag", "spherical"):
        diagonal = torch.diag(variances).expand(2, -1, -1)
        models = models._replace(covariance=diagonal)
    root = torch.linalg.cholesky(models.covariance[0])
    noise = torch.randn(
        60, n_outputs, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    y = X @ models.coefficients[0] + models.intercept[0] + noise @ root.T
    with torch.no_grad():
        found = network.terms(X, y).log_density()[1:]
    expected = gaussian(models, X, y)
    # Small weights of the head distinguish the rows, so that training can begin.
    assert_allclose(found, np.tile(expected, (2, 1)), atol=0.05)
    assert not np.allclose(found, np.tile(expected, (2, 1)), atol=1e-6)
    with torch.no_grad():
        network.head.linear.weight.zero_()
        found = network.terms(X, y).log_density()[1:]
    assert_allclose(found, np.tile(expected, (2, 1)), atol=2e-5)


@pytest.mark.parametrize("n_components", [2, 5, 16])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_components_start_near_the_gaussian_of_the_linear_model(
    covariance_type, n_components
):
    network, models, X = started(covariance_type, 1, n_components)
    root = models.covariance[0].sqrt()
    noise = torch.linspace(-1.5, 1.5, 60, dtype=torch.float64)[:, None]
    y = X @ models.coefficients[0] + models.intercept[0] + noise * root
    with torch.no_grad():
        found = network.terms(X, y).log_density()[1:]
        mixture = network(X)
    assert_allclose(found, np.tile(gaussian(models, X, y), (2, 1)), atol=0.5)
    # In the mean over the Gaussian, the difference is much smaller.
    p = np.exp(-0.5 * noise[:, 0].numpy() ** 2)
    difference = found.numpy() - gaussian(models, X, y)
    assert_allclose(np.average(difference, 1, np.tile(p, (2, 1))), 0, atol=0.03)
    means = mixture.means[1:, :, :, 0]
    # Components differ, and their mean is that of the linear model.
    assert (means.std(-1) > 0.01 * root).all()
    shift = network.shift(X)[1:, :, 0]
    assert_allclose(_mixture.mean(mixture)[1:, :, 0], shift, atol=0.02)


def test_other_members_stay():
    network, _, X = started("full", 2, 3)
    assert not network.shift(X)[0].any()
    assert network.shift(X)[1:].abs().min() > 0
    assert not network.head.linear.bias[0].any()


# -- bins --------------------------------------------------------------------------


def test_bins_of_few_values_lie_between_neighbours():
    column = np.array([0.0, 0.0, 1.0, 4.0, 4.0, 4.0, 7.0])
    X = np.column_stack([column, np.full(7, 2.0), -column])
    bins = quantile_bins(as_rows(X, X))
    assert bins.feature.tolist() == [0, 0, 0, 2, 2, 2]
    assert bins.lower.tolist() == [0, 1, 4, -7, -4, -1]
    assert bins.width.tolist() == [1, 3, 3, 3, 3, 1]


def test_bins_hold_equal_shares_of_the_rows():
    X = np.random.RandomState(0).exponential(size=(2400, 2)).astype(np.float32)
    bins = quantile_bins(as_rows(X, X))
    for feature, column in enumerate(X.T):
        mine = bins.feature == feature
        edges = bins.lower[mine].numpy()
        assert len(edges) == initialization.BINS_PER_FEATURE
        upper = edges + bins.width[mine].numpy()
        assert_allclose(upper[:-1], edges[1:], rtol=1e-6)
        assert (edges[0], upper[-1]) == (column.min(), column.max())
        inner = np.quantile(column, np.arange(1, 24) / 24)
        assert_allclose(edges[1:], inner, rtol=0.02)


def test_weights_of_bins_are_repetitions():
    X = np.random.RandomState(0).normal(size=(200, 1))
    weight = np.arange(200) % 3.0 + 1
    repeats = np.repeat(np.arange(200), weight.astype(int))
    ours = quantile_bins(as_rows(X, X, weight))
    theirs = quantile_bins(as_rows(X[repeats], X[repeats]))
    for part, other in zip(ours, theirs, strict=True):
        assert_array_equal(part, other)


@pytest.mark.parametrize("n", [1, 5])
def test_constant_features_have_no_bins(n):
    bins = quantile_bins(as_rows(np.ones((n, 2)), np.ones((n, 1))))
    assert [len(part) for part in bins] == [0, 0, 0]
