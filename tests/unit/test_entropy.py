"""Entropies against quadrature and closed forms."""

import numpy as np
import pytest
from helpers import random_density
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import integrate, special, stats

from skmdn import MixtureDensity

# The stated bounds, in nats.
ONE_OUTPUT, SEVERAL_OUTPUTS = 1e-8, 1e-2
GAUSSIAN = 0.5 * np.log(2 * np.pi * np.e)


def scalar_mixtures(seed, n=20):
    """Return mixtures of one output: unequal, nearly equal, and in chains."""
    rng = np.random.RandomState(seed)
    K = rng.choice([2, 3, 5, 12])
    weights = np.exp(rng.uniform(-rng.choice([0.1, 2, 27]), 0, size=(n, K)))
    stds = 10 ** rng.uniform(-rng.choice([0, 0.3, 2, 6]), 0, size=(n, K))
    apart = 10 ** rng.uniform(-3, 1, size=(n, 1))
    means = rng.normal(size=(n, K)) if seed % 2 else np.cumsum(stds, axis=1)
    means = means * apart
    return weights / weights.sum(1, keepdims=True), means, stds


def quadrature(weights, means, stds):
    """Integrate -p log p of one row over fine panels around every component."""
    t = np.concatenate([np.arange(-9, 9.01, 0.25), [-38, -20, 20, 38]])
    edges = np.sort((means + stds * t[:, None]).ravel())
    nodes, node_weights = np.polynomial.legendre.leggauss(12)
    half = np.diff(edges)[:, None] / 2
    y = (edges[:-1, None] + half * (1 + nodes)).ravel()
    z = (y[:, None] - means) / stds
    density = (weights / stds * np.exp(-(z**2) / 2)).sum(1) / np.sqrt(2 * np.pi)
    log_density = np.log(np.where(density > 0, density, 1))
    return -((half * node_weights).ravel() * density * log_density).sum()


@pytest.mark.parametrize("seed", range(12))
def test_one_output_equals_quadrature(seed):
    weights, means, stds = scalar_mixtures(seed)
    found = MixtureDensity(weights, means, 1 / stds).entropy()
    expected = [quadrature(*row) for row in zip(weights, means, stds, strict=True)]
    assert_allclose(found, expected, rtol=0, atol=ONE_OUTPUT)


@pytest.mark.parametrize("distance", [0.5, 2.0, 4.0, 8.0, 13.0, 100.0])
def test_two_unit_gaussians_equal_adaptive_quadrature(distance):
    def gain(y):
        """Return p times the entropy of the responsibilities."""
        shares = special.expit([distance * y, -distance * y])
        density = stats.norm.pdf([y - distance / 2, y + distance / 2]).mean()
        return density * special.entr(shares).sum()

    half, _ = integrate.quad(gain, 0, 20, epsabs=1e-13)
    density = MixtureDensity([[0.5, 0.5]], [[0, distance]], [[1.0, 1.0]])
    expected = GAUSSIAN + np.log(2) - 2 * half
    assert_allclose(density.entropy(), expected, rtol=0, atol=1e-9)


def test_one_output_keeps_its_digits_far_from_zero():
    weights, means, stds = scalar_mixtures(1)
    means = np.round(means * 2**20) / 2**20  # exact after the shift
    near = MixtureDensity(weights, means, 1 / stds).entropy()
    far = MixtureDensity(weights, means + 2.0**30, 1 / stds).entropy()
    assert_allclose(far, near, rtol=0, atol=1e-12)
    scaled = MixtureDensity(weights, 1e6 * means, 1e-6 / stds).entropy()
    assert_allclose(scaled - np.log(1e6), near, rtol=0, atol=1e-9)


# -- several outputs ---------------------------------------------------------------


def turned(weights, means, variances, seed):
    """Turn the axes of diagonal mixtures (n, K, d); their entropy stays as it is."""
    d = means.shape[-1]
    rotation = stats.ortho_group.rvs(d, random_state=seed)
    covariances = np.einsum("ia,nka,ja->nkij", rotation, variances, rotation)
    return MixtureDensity.from_covariances(weights, means @ rotation.T, covariances)


@pytest.mark.parametrize(("K", "d"), [(2, 2), (3, 5), (6, 20), (15, 3)])
def test_independent_outputs_add_their_entropies(K, d):
    """The product of two mixtures has K^2 components; the other outputs are normal."""
    n = 2
    rng = np.random.RandomState(K)
    weights = rng.dirichlet(np.ones(K), size=(2, n))
    means = rng.normal(size=(2, n, K)) * 10 ** rng.uniform(-1, 1, size=(n, 1))
    stds = 10 ** rng.uniform(-1, 0.5, size=(2, n, K))
    first, second = (
        MixtureDensity(*row).entropy()
        for row in zip(weights, means, 1 / stds, strict=True)
    )
    i, j = (index.ravel() for index in np.indices((K, K)))
    full_means, variances = np.zeros((n, K**2, d)), np.ones((n, K**2, d))
    for output, index in enumerate((i, j)):
        full_means[..., output] = means[output][:, index]
        variances[..., output] = stds[output][:, index] ** 2
    both = weights[0][:, i] * weights[1][:, j]
    found = turned(both, full_means, variances, K).entropy()
    expected = first + second + (d - 2) * GAUSSIAN
    assert_allclose(found, expected, rtol=0, atol=SEVERAL_OUTPUTS)


def product_mixture(rng, n_components):
    """Return a product of independent mixtures, one per output, and its entropy."""
    parts = []
    for K in n_components:
        means = rng.normal(size=K) * 10 ** rng.uniform(-1, 1)
        parts.append((rng.dirichlet(np.ones(K)), means, 10 ** rng.uniform(-1, 0, K)))
    index = [i.ravel() for i in np.indices(n_components)]
    chosen = [
        [values[i] for values in part] for part, i in zip(parts, index, strict=True)
    ]
    weights, means, stds = (np.stack(c, axis=-1) for c in zip(*chosen, strict=True))
    entropy = sum(quadrature(*part) for part in parts)
    return weights.prod(axis=1), means, stds, entropy


@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(1, 4), min_size=2, max_size=3).filter(lambda K: max(K) > 1),
)
def test_linear_map_of_independent_outputs_adds_its_log_determinant(seed, n_components):
    rng = np.random.RandomState(seed)
    weights, means, stds, entropy = product_mixture(rng, n_components)
    d = len(n_components)
    mixing = rng.normal(size=(d, d)) + 3 * np.eye(d)
    roots = mixing * stds[:, None]
    density = MixtureDensity.from_covariances(
        weights[None], (means @ mixing.T)[None], (roots @ roots.swapaxes(1, 2))[None]
    )
    expected = entropy + np.linalg.slogdet(mixing)[1]
    assert_allclose(density.entropy(), [expected], rtol=0, atol=SEVERAL_OUTPUTS)


@pytest.mark.parametrize(("K", "seed"), [(2, 0), (5, 1), (20, 2), (60, 3)])
def test_two_outputs_equal_quadrature_on_a_grid(K, seed):
    rng = np.random.RandomState(seed)
    axes, _ = np.linalg.qr(rng.normal(size=(K, 2, 2)))
    stds = 10 ** rng.uniform(-0.7, 0.3, size=(K, 1, 2))
    covariances = (axes * stds**2) @ axes.swapaxes(1, 2)
    weights, means = rng.dirichlet(np.ones(K)), 2 * rng.normal(size=(K, 2))
    grid, step = np.linspace(-20, 20, 601, retstep=True)
    y = np.stack(np.meshgrid(grid, grid), axis=-1)
    pdf = sum(
        weights[k] * stats.multivariate_normal(means[k], covariances[k]).pdf(y)
        for k in range(K)
    )
    assert abs(pdf.sum() * step**2 - 1) < 1e-6
    expected = special.entr(pdf).sum() * step**2
    density = MixtureDensity.from_covariances([weights], [means], [covariances])
    assert_allclose(density.entropy(), [expected], rtol=0, atol=SEVERAL_OUTPUTS)


@pytest.mark.parametrize(("K", "d"), [(1, 3), (80, 5), (300, 2)])
def test_components_that_differ_in_weight_alone_are_one_gaussian(K, d):
    gaussian = random_density(2, 1, d)
    weights = np.random.RandomState(0).dirichlet(np.full(K, 0.1), 2)
    means = np.repeat(gaussian.means, K, axis=1)
    factors = np.repeat(gaussian.precision_factors, K, axis=1)
    _, log_det = np.linalg.slogdet(gaussian.covariances[:, 0])
    expected = d * GAUSSIAN + log_det / 2
    found = MixtureDensity(weights, means, factors).entropy()
    assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("d", [1, 2, 20])
def test_components_far_apart_add_the_entropy_of_the_weights(d):
    near = random_density(3, 5, d)
    weights, factors = near.weights, near.precision_factors
    means = near.means + 1e4 * np.arange(5)[:, None]
    _, log_det = np.linalg.slogdet(near.covariances)
    gaussians = d * GAUSSIAN + log_det / 2
    expected = (weights * (gaussians - np.log(weights))).sum(axis=1)
    found = MixtureDensity(weights, means, factors).entropy()
    assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("d", [1, 2])
def test_components_of_weight_zero_do_not_count(d):
    few = random_density(4, 3, d)
    factors = np.broadcast_to(1e150 * np.eye(d), (4, 1, d, d))
    empty = MixtureDensity(np.ones((4, 1)), np.full((4, 1, d), 1e150), factors)
    more = MixtureDensity.mix([few, empty], weights=[1, 0])
    assert_allclose(more.entropy(), few.entropy(), rtol=1e-10)


@pytest.mark.parametrize("seed", [3842, *range(20)])
def test_mixtures_along_one_direction_have_the_entropy_of_one_output(seed):
    rng = np.random.default_rng(seed)
    weights, means = rng.dirichlet(np.ones(3)), 2 * rng.normal(size=3)
    stds = np.exp(rng.normal(scale=0.5, size=3))
    axes = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    covariances = np.array([axes @ np.diag([s**2, 1, 1, 1, 1]) @ axes.T for s in stds])
    joint = MixtureDensity.from_covariances(
        [weights], [np.outer(means, axes[:, 0])], [covariances]
    )
    along = MixtureDensity([weights], [means], [1 / stds])
    others = 4 * stats.norm().entropy()
    assert_allclose(joint.entropy(), along.entropy() + others, atol=SEVERAL_OUTPUTS)
