"""Scores against closed values, quadrature and sampling."""

import pickle

import numpy as np
import pytest
from helpers import random_density, random_scalar_density
from numpy.testing import assert_allclose
from scipy import stats
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmdn import MDNRegressor, MixtureDensity
from skmdn.datasets import make_inverse_sine
from skmdn.metrics import (
    coverage,
    crps,
    energy_score,
    interval_score,
    log_score,
    neg_crps_scorer,
    neg_energy_score_scorer,
    neg_log_score_scorer,
    pit,
    variogram_score,
)


def test_crps_of_a_standard_normal_at_zero():
    density = MixtureDensity([[1.0]], [[0.0]], [[1.0]])
    expected = (np.sqrt(2) - 1) / np.sqrt(np.pi)
    assert_allclose(crps([0.0], density), expected, rtol=1e-13)
    assert_allclose(expected, 0.2336949772, atol=1e-10)


def test_crps_equals_quadrature():
    density = random_scalar_density(6, 4)
    y = np.random.RandomState(0).normal(scale=3, size=6)
    nodes, node_weights = np.polynomial.legendre.leggauss(20)
    for row in range(6):
        # Panels end at y, where the integrand jumps.
        below, above = np.linspace(-60, y[row], 400), np.linspace(y[row], 60, 400)
        total = 0.0
        for edges, step in ((below, 0.0), (above, 1.0)):
            half = np.diff(edges)[:, None] / 2
            t = (edges[:-1, None] + half * (1 + nodes)).ravel()
            height = (density[row].cdf(t) - step) ** 2
            total += ((half * node_weights).ravel() * height).sum()
        assert_allclose(crps(y[row : row + 1], density[row]), total, rtol=1e-8)


def test_log_score_is_minus_the_log_density():
    density = random_density(5, 3, 2)
    y = density.means[:, 0]
    assert_allclose(log_score(y, density), -density.logpdf(y))


def test_energy_score_of_one_output_is_the_crps():
    density = random_scalar_density(20, 3)
    y = np.random.RandomState(0).normal(size=20)
    score, error = energy_score(
        y, density, n_samples=1000, random_state=0, return_error=True
    )
    z = (score - crps(y, density)) / error
    assert np.abs(z).max() < 4
    assert 0.5 < z.std() < 1.6  # the standard error has the right size


def test_scores_are_proper():
    truth = random_scalar_density(1, 3)[np.zeros(4000, dtype=int)]
    y = truth.sample(random_state=0)[:, 0]
    wrong = MixtureDensity(
        truth.weights, truth.means + 0.5, truth.precision_factors * 1.3
    )
    for score in (log_score, crps):
        assert score(y, truth).mean() < score(y, wrong).mean()


def test_crps_equals_scoringrules():
    scoringrules = pytest.importorskip("scoringrules", reason="a test extra")
    density = random_scalar_density(10, 3)
    y = np.random.RandomState(0).normal(size=10)
    expected = scoringrules.crps_mixnorm(
        y, density.means, 1 / density.precision_factors, density.weights
    )
    assert_allclose(crps(y, density), expected, rtol=1e-10)


def test_energy_score_of_one_gaussian_is_closed():
    # E|Z| and E|Z - Z'| of standard normals in two dimensions are Rayleigh means.
    expected = np.sqrt(np.pi / 2) - np.sqrt(np.pi) / 2
    cov = np.broadcast_to(np.eye(2), (50, 1, 2, 2))
    density = MixtureDensity.from_covariances(
        np.ones((50, 1)), np.zeros((50, 1, 2)), cov
    )
    score, error = energy_score(np.zeros((50, 2)), density, return_error=True)
    assert np.abs((score - expected) / error).max() < 4


@pytest.mark.parametrize("order", [0.5, 1.0, 2.0])
def test_variogram_score_equals_sampling(order):
    density = random_density(4, 3, 3)
    y = density.means[:, 0]
    draws = density.sample(200_000, random_state=0)
    expected = np.zeros(4)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        moment = (np.abs(draws[..., i] - draws[..., j]) ** order).mean(axis=1)
        expected += (np.abs(y[:, i] - y[:, j]) ** order - moment) ** 2
    assert_allclose(variogram_score(y, density, order=order), expected, rtol=0.05)


def test_interval_score_is_its_definition_and_proper():
    density = random_scalar_density(5, 3)
    low, high = density.interval(0.8)
    assert_allclose(interval_score(low, density, 0.8), high - low)
    missed = interval_score(high + 2, density, 0.8)
    assert_allclose(missed, high - low + 2 / 0.2 * 2)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("region", ["hdr", "interval"])
def test_coverage_of_draws_is_nominal(region, confidence):
    density = random_scalar_density(1, 3)[np.zeros(5000, dtype=int)]
    y = density.sample(random_state=0)[:, 0]
    covered = coverage(y, density, confidence, region=region)
    error = np.sqrt(confidence * (1 - confidence) / 5000)
    assert abs(covered.mean() - confidence) < 3 * error


@pytest.mark.parametrize("d", [1, 3])
def test_pit_of_draws_is_uniform_and_independent(d):
    density = random_density(1, 3, d)[np.zeros(4000, dtype=int)]
    y = density.sample(random_state=0)[:, 0]
    u = pit(y, density)
    assert u.shape == (4000, d)
    for column in u.T:
        assert stats.kstest(column, "uniform").pvalue > 0.01
    if d > 1:
        off_diagonal = np.corrcoef(u.T)[np.triu_indices(d, 1)]
        assert np.abs(off_diagonal).max() < 4 / np.sqrt(4000)


def test_pit_of_scalars_is_the_cdf():
    density = random_scalar_density(5, 3)
    y = density.mean()
    assert_allclose(pit(y, density), density.cdf(y))


def test_scorers_are_minus_the_mean_score():
    X, y = make_inverse_sine(100, random_state=0)
    weight = np.arange(100.0)
    mdn = MDNRegressor(2, n_estimators=1, max_iter=3, random_state=0).fit(X, y)
    density = mdn.predict_density(X)
    for scorer, score in (
        (neg_log_score_scorer, log_score),
        (neg_crps_scorer, crps),
        (neg_energy_score_scorer, energy_score),
    ):
        expected = -np.average(score(y, density), weights=weight)
        assert_allclose(scorer(mdn, X, y, weight), expected)
        assert_allclose(pickle.loads(pickle.dumps(scorer))(mdn, X, y, weight), expected)
    scores = cross_val_score(mdn, X, y, scoring=neg_log_score_scorer, cv=2)
    assert_allclose(scores, cross_val_score(mdn, X, y, cv=2))
    search = GridSearchCV(
        make_pipeline(StandardScaler(), mdn),
        {"mdnregressor__n_components": [1, 2]},
        scoring=neg_crps_scorer,
        cv=2,
    ).fit(X, y)
    assert_allclose(search.score(X, y), neg_crps_scorer(search, X, y))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: crps([[0, 0]], random_density(1, 2, 2)), "crps needs one output"),
        (lambda: crps([np.nan], random_scalar_density(1, 2)), "y contains NaN"),
        (
            lambda: interval_score([[0, 0]], random_density(1, 2, 2)),
            "interval_score needs one output",
        ),
        (
            lambda: interval_score([0], random_scalar_density(1, 2), 1.0),
            "confidence must lie in .*got 1.0",
        ),
        (
            lambda: coverage([0], random_scalar_density(1, 2), region="box"),
            "region must be 'hdr' or 'interval', got 'box'",
        ),
        (
            lambda: variogram_score([0], random_scalar_density(1, 2)),
            "at least two outputs",
        ),
        (
            lambda: variogram_score([[0, 0]], random_density(1, 2, 2), order=0),
            "order must be a positive number, got 0",
        ),
        (
            lambda: energy_score([[0, 0]], random_density(1, 2, 2), n_samples=1),
            "n_samples must be an integer of at least 2, got 1",
        ),
    ],
)
def test_invalid_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
