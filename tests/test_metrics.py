"""Scores against closed values, quadrature and sampling."""

import numpy as np
import pytest
from conftest import random_density, random_scalar_density
from numpy.testing import assert_allclose
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmdn import MDNRegressor, MixtureDensity, predict_density
from skmdn.datasets import make_inverse_sine
from skmdn.metrics import crps, energy_score, log_score


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
    assert 0.5 < z.std() < 1.6  # the error is neither boasted nor padded


def test_scores_are_proper():
    truth = random_scalar_density(1, 3)[np.zeros(4000, dtype=int)]
    y = truth.sample(random_state=0)[:, 0]
    wrong = MixtureDensity(
        truth.weights, truth.means + 0.5, truth.precision_factors * 1.3
    )
    for score in (log_score, crps):
        assert score(y, truth).mean() < score(y, wrong).mean()


def test_predict_density_reaches_through_pipelines_and_searches():
    X, y = make_inverse_sine(100, random_state=0)
    mdn = MDNRegressor(2, n_estimators=1, max_iter=3, random_state=0)
    pipeline = make_pipeline(StandardScaler(), mdn)
    search = GridSearchCV(pipeline, {"mdnregressor__n_components": [2]}, cv=2)
    search.fit(X, y)
    best = search.best_estimator_
    expected = best[-1].predict_density(best[0].transform(X)).logpdf(y)
    for estimator in (search, best):
        assert_allclose(predict_density(estimator, X).logpdf(y), expected)


def test_predict_density_refuses_what_has_none():
    with pytest.raises(TypeError, match="LinearRegression predicts no density"):
        predict_density(LinearRegression(), [[0.0]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: crps([[0, 0]], random_density(1, 2, 2)), "crps needs one output"),
        (lambda: crps([np.nan], random_scalar_density(1, 2)), "must not contain NaN"),
        (
            lambda: energy_score([[0, 0]], random_density(1, 2, 2), n_samples=1),
            "n_samples must be at least 2, got 1",
        ),
    ],
)
def test_wrong_use_is_told(call, message):
    with pytest.raises(ValueError, match=message):
        call()
