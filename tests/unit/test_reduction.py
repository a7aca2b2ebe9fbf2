"""Mixtures of fewer components: moments, divergence by quadrature, greedy choices."""

import itertools

import numpy as np
import pytest
import torch
from helpers import random_density, random_scalar_density
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import integrate

from skmdn import MixtureDensity, TransformedDensity
from skmdn._mixture import reduction


def assert_same_moments(reduced, density, rtol=1e-10):
    std = density.std()
    assert_allclose((reduced.mean() - density.mean()) / std, 0, atol=rtol)
    scale = std[..., None] * std[..., None, :] if std.ndim > 1 else std**2
    assert_allclose((reduced.cov() - density.cov()) / scale, 0, atol=rtol)


def divergence_by_quadrature(density, other):
    stds = 1 / density.precision_factors
    low, high = (density.means - 12 * stds).min(1), (density.means + 12 * stds).max(1)
    y = low + np.linspace(0, 1, 40_001)[:, None] * (high - low)
    log_p, log_q = density.logpdf(y), other.logpdf(y)
    return integrate.trapezoid(np.exp(log_p) * (log_p - log_q), y, axis=0)


@given(st.integers(0, 1000), st.integers(1, 12), st.integers(1, 4), st.integers(1, 13))
def test_mean_and_covariance_are_kept(seed, K, d, n_components):
    density = random_density(3, K, d, seed=seed)
    reduced = density.reduce(n_components)
    assert reduced.n_components == min(K, n_components)
    assert_allclose(reduced.weights.sum(-1), 1, rtol=1e-12)
    assert_same_moments(reduced, density)


@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e9])
def test_moments_are_kept_in_any_unit_and_far_from_zero(unit):
    density = random_density(4, 20, 3).affine(unit * np.eye(3), 1e3 * unit)
    assert_same_moments(density.reduce(4), density)


def test_one_component_has_the_moments():
    density = random_density(5, 6, 2)
    reduced = density.reduce(1)
    assert_allclose(reduced.means[:, 0], density.mean(), rtol=1e-12)
    assert_allclose(reduced.covariances[:, 0], density.cov(), rtol=1e-11)


def test_a_density_of_no_more_components_stays():
    density = random_density(3, 4, 2)
    for n_components in (4, 9):
        reduced, divergence = density.reduce(n_components, return_divergence=True)
        assert_array_equal(reduced.precision_factors, density.precision_factors)
        assert_allclose(divergence, 0, atol=1e-12)


def test_copies_of_components_are_found():
    """A mixture whose components were split, and shuffled, is restored."""
    density = random_density(6, 5, 2)
    order = np.random.RandomState(0).permutation(20)
    copies = MixtureDensity(
        (np.repeat(density.weights, 4, axis=1) / 4)[:, order],
        np.repeat(density.means, 4, axis=1)[:, order],
        np.repeat(density.precision_factors, 4, axis=1)[:, order],
    )
    reduced, divergence = copies.reduce(5, return_divergence=True)
    y = np.random.RandomState(1).normal(scale=2, size=(6, 2))
    assert_allclose(reduced.logpdf(y), density.logpdf(y), rtol=1e-8)
    assert_allclose(divergence, 0, atol=1e-12)


def test_components_of_weight_zero_go_first():
    density = random_density(3, 3, 2)
    empty = np.full((3, 4), 0.0)
    padded = MixtureDensity(
        np.concatenate([empty, density.weights], axis=1),
        np.concatenate([np.full((3, 4, 2), 1e6), density.means], axis=1),
        np.concatenate(
            [density.precision_factors[:, [0] * 4], density.precision_factors], 1
        ),
    )
    y = np.random.RandomState(1).normal(size=(3, 2))
    assert_allclose(padded.reduce(3).logpdf(y), density.logpdf(y), rtol=1e-9)
    assert_allclose(padded.reduce(5).logpdf(y), density.logpdf(y), rtol=1e-9)


def cost_by_loop(weights, means, covs, i, j):
    """The cost of the docstring of the module, for one pair."""
    weight = weights[i] + weights[j]
    a, b = weights[i] / weight, weights[j] / weight
    offset = means[i] - means[j]
    merged = a * covs[i] + b * covs[j] + a * b * np.outer(offset, offset)
    middle = (covs[i] + covs[j]) / 2
    log_det = [np.linalg.slogdet(c)[1] for c in (merged, covs[i], covs[j], middle)]
    distance = offset @ np.linalg.solve(middle, offset) / 8
    distance += (log_det[3] - (log_det[1] + log_det[2]) / 2) / 2
    overlap = np.exp(-distance)
    information = -a * np.log(a + b * overlap) - b * np.log(b + a * overlap)
    gain = (log_det[0] - a * log_det[1] - b * log_det[2]) / 2
    return weight * (gain - information), merged


def groups_by_loop(weights, means, covs, n_groups):
    """Merge the cheapest pair, of all pairs, until n_groups are left."""
    members = [[k] for k in range(len(weights))]
    weights, means, covs = list(weights), list(means), list(covs)
    while len(members) > n_groups:
        pairs = list(itertools.combinations(range(len(members)), 2))
        costs = [cost_by_loop(weights, means, covs, i, j) for i, j in pairs]
        best = min(range(len(pairs)), key=lambda p: costs[p][0])
        (i, j), (_, merged) = pairs[best], costs[best]
        weight = weights[i] + weights[j]
        means[i] = (weights[i] * means[i] + weights[j] * means[j]) / weight
        weights[i], covs[i] = weight, merged
        members[i] += members[j]
        for items in (members, weights, means, covs):
            del items[j]
    return sorted(map(sorted, members))


@pytest.mark.parametrize(("d", "K"), [(1, 12), (2, 15), (3, 9)])
def test_the_cheapest_pair_is_merged(d, K):
    density = random_density(6, K, d)
    for n_groups in (2, 5):
        found = reduction.merge_greedily(density.mixture, n_groups).numpy()
        for row, labels in enumerate(found):
            groups = [np.flatnonzero(labels == g).tolist() for g in range(n_groups)]
            parts = (density.weights, density.means, density.covariances)
            expected = groups_by_loop(*(part[row] for part in parts), n_groups)
            assert sorted(groups) == expected


def test_rows_do_not_depend_on_each_other():
    density = random_density(7, 20, 2)
    together = density.reduce(4)
    for row in range(7):
        alone = density[row].reduce(4)
        assert_allclose(alone.means, together[row].means, rtol=1e-12)
    assert density[:0].reduce(4).means.shape == (0, 4, 2)


# -- divergence ----------------------------------------------------------------------


@pytest.mark.parametrize("n_components", [1, 2, 4])
def test_the_divergence_equals_quadrature(n_components):
    density = random_scalar_density(8, 10)
    reduced, divergence = density.reduce(n_components, return_divergence=True)
    expected = divergence_by_quadrature(density, reduced)
    assert_allclose(divergence, expected, rtol=0.05, atol=2e-4)


def test_the_divergence_of_two_gaussians():
    """Against the closed form, in three outputs."""
    first, second = random_density(5, 1, 3), random_density(5, 1, 3, seed=1)
    found = reduction.divergence(first.mixture, second.mixture).numpy()
    root = second.precision_factors[:, 0]
    ratio = root @ first.covariances[:, 0] @ root.swapaxes(-1, -2)
    z = np.einsum("nij,nj->ni", root, first.means[:, 0] - second.means[:, 0])
    traces = np.trace(ratio, axis1=-2, axis2=-1)
    expected = (traces - 3 + (z**2).sum(-1) - np.linalg.slogdet(ratio)[1]) / 2
    assert_allclose(found, expected, rtol=0.03)


def test_more_components_lose_less():
    density = random_density(10, 40, 2)
    lost = [density.reduce(k, return_divergence=True)[1].mean() for k in (1, 4, 16)]
    assert lost[0] > 2 * lost[1] > 4 * lost[2] > 0


def test_bounds_are_kept():
    latent = random_density(3, 8, 2)
    density = TransformedDensity(latent, [(0, None), (0, 1)])
    reduced, divergence = density.reduce(3, return_divergence=True)
    assert reduced.supports == density.supports
    assert_array_equal(reduced.latent.means, latent.reduce(3).means)
    assert_array_equal(divergence, latent.reduce(3, return_divergence=True)[1])


@pytest.mark.parametrize("n_components", [0, -1, 2.0, True, None, "3", [3], np.nan])
def test_odd_counts_are_refused(n_components):
    with pytest.raises(ValueError, match="n_components must be a positive integer"):
        random_density(2, 3, 1).reduce(n_components)


def test_elimination_equals_dense_algebra():
    roots = np.random.RandomState(0).normal(size=(7, 4, 4))
    matrices = roots @ roots.swapaxes(-1, -2)
    e = np.random.RandomState(1).normal(size=(7, 4))
    log_det, square = reduction._eliminate(
        torch.tensor(np.moveaxis(matrices, 0, -1)), torch.tensor(e.T)
    )
    assert_allclose(log_det, np.linalg.slogdet(matrices)[1], rtol=1e-10)
    solved = np.linalg.solve(matrices, e[..., None])[..., 0]
    assert_allclose(square, (e * solved).sum(-1), rtol=1e-8)
