"""Densities of several outputs with bounds against quadrature and identities."""

import itertools

import numpy as np
import pytest
from helpers import random_density
from numpy.testing import assert_allclose, assert_array_equal
from scipy import integrate, special, stats

from skmdn import MixtureDensity, TransformedDensity

SUPPORTS = [(0, None), None, (-1, 3), (None, 1)]


def vector(target_support, n=4, K=3, seed=0):
    return TransformedDensity(
        random_density(n, K, len(target_support), seed), target_support
    )


def test_logpdf_is_that_of_the_latent_mixture_and_the_slopes():
    density = vector(SUPPORTS)
    y = density.sample(1, 0)[:, 0]
    z = y.copy()
    z[:, 0] = np.log(y[:, 0])
    z[:, 2] = special.logit((y[:, 2] + 1) / 4)
    z[:, 3] = -np.log(1 - y[:, 3])
    slopes = -z[:, 0] + z[:, 3]
    slopes += np.log(1 / (y[:, 2] + 1) + 1 / (3 - y[:, 2]))
    assert_allclose(density.logpdf(y), density.latent.logpdf(z) + slopes, rtol=1e-10)
    assert_allclose(density.responsibilities(y), density.latent.responsibilities(z))
    y[1, 0] = -1
    assert_array_equal(np.isneginf(density.logpdf(y)), [False, True, False, False])


@pytest.mark.parametrize("given_outputs", list(itertools.combinations(range(4), 2)))
def test_condition_is_the_ratio_of_the_joint_and_a_marginal(given_outputs):
    density, known = vector(SUPPORTS), list(given_outputs)
    y = density.sample(1, 1)[:, 0]
    free = [j for j in range(4) if j not in known]
    conditional = density.condition(dict(zip(known, y[:, known].T, strict=True)))
    ratio = density.logpdf(y) - density.marginal(known).logpdf(y[:, known])
    assert_allclose(conditional.logpdf(y[:, free]), ratio, rtol=1e-9, atol=1e-9)
    states = [density.supports.to_state()[j] for j in free]
    assert conditional.supports.to_state() == tuple(states)


def test_marginal_integrates_the_joint():
    density = vector([(0, None), (0, 1)], n=2)
    z, low = np.linspace(-30, 30, 2001), 1.3
    share = special.expit(z)
    grid = np.stack([np.full_like(share, low), share], axis=1)[:, None]
    slope = (share * special.expit(-z))[:, None]
    expected = integrate.trapezoid(density.pdf(grid) * slope, z, axis=0)
    assert_allclose(density.marginal(0).pdf(low), expected, rtol=1e-9)
    assert density.marginal(1).supports.to_state() == ((0.0, 1.0),)
    assert density.marginal([1, 0]).supports.to_state() == ((0.0, 1.0), (0.0, None))


def latent_moments(density, row, n_nodes=80):
    """Return the covariance of a row by a product of Gauss-Hermite rules in z."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(n_nodes)
    grid = np.stack(np.meshgrid(nodes, nodes), axis=-1).reshape(-1, 2)
    products = np.outer(weights, weights).ravel() / (2 * np.pi)
    shares, points = [], []
    for k, weight in enumerate(density.latent.weights[row]):
        root = np.linalg.cholesky(density.latent.covariances[row, k])
        points.append(density.latent.means[row, k] + grid @ root.T)
        shares.append(weight * products)
    y = density.supports.from_latent(np.concatenate(points))
    shares = np.concatenate(shares)
    mean = shares @ y
    return mean, (y - mean).T @ ((y - mean) * shares[:, None])


KINDS = [(0, None), (None, 2), (-1, 3), None]


@pytest.mark.parametrize("first", KINDS)
@pytest.mark.parametrize("second", KINDS)
def test_covariances_of_all_kinds_of_maps(first, second):
    latent = random_density(2, 3, 2)
    factors = 2.5 * latent.precision_factors
    latent = MixtureDensity(latent.weights, latent.means / 2, factors)
    density = TransformedDensity(latent, [first, second])
    for row in range(2):
        mean, cov = latent_moments(density, row)
        assert_allclose(density.mean()[row], mean, rtol=1e-9)
        deviations = np.sqrt(np.diag(cov))
        scale = np.outer(deviations, deviations)
        assert_allclose(density.cov()[row] / scale, cov / scale, rtol=0, atol=2e-9)
    variances = np.diagonal(density.cov(), axis1=1, axis2=2)
    assert_allclose(density.var(), variances, rtol=1e-10)


@pytest.mark.parametrize("std", [0.5, 3.0, 8.0])
@pytest.mark.parametrize("rho", [-0.99, 0.0, 0.7])
def test_covariance_of_two_wide_intervals_is_that_of_scipy_quad(std, rho):
    means = np.array([0.5, -1.0])
    cov = std**2 * np.array([[1, rho], [rho, 1]])
    latent = MixtureDensity.from_covariances([[1.0]], [[means]], [[cov]])
    density = TransformedDensity(latent, (0, 1))
    rest = std * np.sqrt(1 - rho**2)

    def inner(z):
        """Return E expit of the second, given the first, by panels."""
        centre = means[1] + rho * (z - means[0])
        cuts = np.unique(
            [*np.linspace(-40, 40, 41), *(centre + rest * np.arange(-9, 10))]
        )
        nodes, weights = np.polynomial.legendre.leggauss(20)
        half = np.diff(cuts)[:, None] / 2
        t = (cuts[:-1, None] + half * (1 + nodes)).ravel()
        return (half * weights).ravel() @ (
            special.expit(t) * stats.norm.pdf(t, centre, rest)
        )

    ends = means[0] - 9 * std, means[0] + 9 * std
    product = integrate.quad(
        lambda z: special.expit(z) * inner(z) * stats.norm.pdf(z, means[0], std),
        *ends,
        epsabs=1e-11,
        limit=300,
    )[0]
    expected = product - density.mean()[0].prod()
    assert_allclose(density.cov()[0, 0, 1], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("std", [1e-4, 1e-6, 1e-9])
@pytest.mark.parametrize("correlation", [0.9, -0.3, 1e-6])
def test_moments_of_narrow_components_between_bounds_keep_their_digits(
    std, correlation
):
    means = np.array([0.7, -1.3])
    covariance = std**2 * np.array([[1, correlation], [correlation, 1]])
    latent = MixtureDensity.from_covariances([[1.0]], [[means]], [[covariance]])
    density = TransformedDensity(latent, (0, 1))
    share = special.expit(means)
    # Derivatives of the logistic function; the series of the moments in std^2.
    first = share * (1 - share)
    second = first * (1 - 2 * share)
    third = first * (1 - 6 * first)
    var = first**2 + std**2 * (first * third + second**2 / 2)
    assert_allclose(density.var()[0], std**2 * var, rtol=1e-14)
    cov = (
        first.prod()
        + std**2 * (third[0] * first[1] + first[0] * third[1]) / 2
        + correlation * std**2 * second.prod() / 2
    )
    # The covariance of the components is known to a rounding error of its size.
    expected = correlation * std**2 * cov
    assert_allclose(density.cov()[0, 0, 1], expected, atol=1e-14 * std**2)
