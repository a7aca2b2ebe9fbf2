"""Probabilities of boxes against SciPy, distribution functions and identities."""

import itertools

import numpy as np
import pytest
import torch
from helpers import random_density, random_parameters, random_scalar_density
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import integrate, special, stats

from skmdn import MixtureDensity, TransformedDensity
from skmdn._mixture.boxes import bivariate_cdf


def scipy_probability(parameters, lower, upper):
    accuracy = {"abseps": 1e-7, "releps": 0, "maxpts": 10**6}
    normal = type(stats.multivariate_normal)(seed=0)

    def of_row(weights, means, covariances, low, high):
        parts = [
            # The frozen distribution takes no accuracy in SciPy 1.11.
            normal.cdf(high, mean, cov, lower_limit=low, **accuracy)
            for mean, cov in zip(means, covariances, strict=True)
        ]
        return weights @ parts

    rows = zip(*parameters, lower, upper, strict=True)
    return np.array([of_row(*row) for row in rows])


def random_boxes(n, d, seed=0):
    """Return boxes of which a third of the ends is infinite."""
    rng = np.random.RandomState(seed)
    lower = rng.normal(size=(n, d)) - 1.5
    upper = lower + rng.exponential(3, size=(n, d))
    lower[rng.random_sample((n, d)) < 0.3] = -np.inf
    upper[rng.random_sample((n, d)) < 0.3] = np.inf
    return lower, upper


@pytest.mark.parametrize(
    ("d", "atol"), [(1, 1e-12), (2, 1e-9), (3, 3e-4), (5, 3e-4), (8, 3e-4)]
)
def test_boxes_equal_scipy(d, atol):
    parameters = random_parameters(10, 3, d)
    lower, upper = random_boxes(10, d)
    found = MixtureDensity.from_covariances(*parameters).probability(lower, upper)
    expected = scipy_probability(parameters, lower, upper)
    assert_allclose(found, expected, rtol=0, atol=atol)
    assert abs(found - expected).mean() < max(atol / 5, 1e-12)


@pytest.mark.parametrize("covariance_type", ["diag", "spherical"])
@pytest.mark.parametrize("d", [2, 3, 4])
def test_boxes_of_independent_outputs_are_products(d, covariance_type):
    weights, means, covariances = random_parameters(10, 3, d, covariance_type)
    lower, upper = random_boxes(10, d)
    stds = np.sqrt(np.diagonal(covariances, axis1=-2, axis2=-1))
    sides = special.ndtr((upper[:, None] - means) / stds)
    sides -= special.ndtr((lower[:, None] - means) / stds)
    expected = (weights * sides.prod(-1)).sum(-1)
    density = MixtureDensity.from_covariances(weights, means, covariances)
    assert_allclose(density.probability(lower, upper), expected, atol=1e-13)


# -- one output ----------------------------------------------------------------------


def test_intervals_keep_all_digits_in_both_tails():
    density = MixtureDensity([[1.0]], [[0.0]], [[1.0]])
    for low, high in [(10.0, 11.0), (30.0, np.inf)]:
        expected = special.ndtr(-low) - special.ndtr(-high)
        assert_allclose(density.probability(low, high), expected, rtol=1e-12)
        assert_allclose(density.probability(-high, -low), expected, rtol=1e-12)
    narrow = density.probability(1.0, np.nextafter(1.0, 2))
    assert_allclose(narrow, np.spacing(1.0) * density.pdf(1.0), rtol=1e-12)


@given(st.floats(-5, 5), st.floats(0, 10))
def test_intervals_are_differences_of_the_cdf(low, width):
    for density in (
        random_scalar_density(3, 4),
        TransformedDensity(random_scalar_density(3, 4), (0, None)),
        TransformedDensity(random_scalar_density(3, 4), (-1, 3)),
    ):
        expected = density.cdf(low + width) - density.cdf(low)
        found = density.probability(low, low + width)
        assert_allclose(found, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_special_boxes(d):
    density = random_density(4, 3, d)
    everything = density.probability(-np.inf, np.inf)
    assert_allclose(everything, 1, rtol=1e-13)
    for end in (0.3, np.inf, -np.inf):
        assert_array_equal(density.probability(end, end), np.zeros(4))
    empty = density[:0].probability(0.0, 1.0)
    assert empty.shape == (0,)
    grid = np.random.RandomState(0).normal(size=(5, 1, d))
    found = density.probability(grid - 1, grid + 1)
    assert found.shape == (5, 4)
    assert_allclose(found[2], density.probability(grid[2] - 1, grid[2] + 1), rtol=1e-12)
    many = density[0].probability(grid[:, 0] - 1, grid[:, 0] + 1)
    assert_allclose(many, found[:, 0], rtol=1e-12)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_components_of_weight_zero_add_nothing(d):
    density = random_density(2, 2, d)
    padded = MixtureDensity(
        np.column_stack([density.weights, np.zeros(2)]),
        np.concatenate([density.means, np.zeros((2, 1, d))], axis=1),
        np.concatenate(
            [density.precision_factors, np.tile(np.eye(d), (2, 1, 1, 1))], axis=1
        ),
    )
    box = [-1.0] * d, [1.0] * d
    assert_allclose(padded.probability(*box), density.probability(*box), rtol=1e-12)


# -- two outputs -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "correlation", [-1 + 1e-12, -0.999, -0.5, 0, 1e-9, 0.7, 0.95, 1 - 1e-9]
)
def test_quadrants_have_their_angle(correlation):
    """Sheppard (1899): P(X > 0, Y > 0) = 1/4 + asin(r) / (2 pi)."""
    remainder = np.sqrt((1 - correlation) * (1 + correlation))
    factor = [[1 / remainder, -correlation / remainder], [0.0, 1.0]]
    density = MixtureDensity([[1.0]], [[[3.0, -1.0]]], [[factor]])
    expected = 0.25 + np.arctan2(correlation, remainder) / (2 * np.pi)
    found = density.probability([3.0, -1.0], np.inf)
    assert_allclose(found, expected, atol=1e-13)
    opposite = density.probability([3.0, -np.inf], [np.inf, -1.0])
    assert_allclose(found + opposite, 0.5, atol=1e-13)


def test_rectangles_of_a_partition_add_up_to_one():
    density = random_density(3, 4, 2)
    cuts = np.array([-np.inf, -2.0, -0.5, 0.0, 1.0, 4.0, np.inf])
    low = np.stack(np.meshgrid(cuts[:-1], cuts[:-1]), -1).reshape(-1, 1, 2)
    high = np.stack(np.meshgrid(cuts[1:], cuts[1:]), -1).reshape(-1, 1, 2)
    assert_allclose(density.probability(low, high).sum(0), 1, rtol=1e-12)


# -- several outputs, bounds and recorded values ---------------------------------------


@pytest.mark.parametrize("d", [2, 3, 4])
def test_boxes_that_leave_outputs_open_are_those_of_marginals(d):
    density = random_density(5, 3, d)
    lower, upper = np.full(d, -np.inf), np.full(d, np.inf)
    lower[1], upper[1] = -0.5, 1.0
    expected = density.marginal(1).probability(-0.5, 1.0)
    assert_allclose(density.probability(lower, upper), expected, atol=1e-12)


def test_boxes_of_bounded_outputs_are_mapped():
    latent = random_density(4, 3, 3)
    density = TransformedDensity(latent, [(0, None), None, (0, 1)])
    lower, upper = np.array([-1.0, -0.5, 0.2]), np.array([2.0, 1.0, 5.0])
    z_low = np.array([-np.inf, -0.5, special.logit(0.2)])
    z_high = np.array([np.log(2.0), 1.0, np.inf])
    expected = latent.probability(z_low, z_high)
    assert_array_equal(density.probability(lower, upper), expected)
    draws = density.sample(40_000, random_state=0)
    share = ((draws > lower) & (draws < upper)).all(-1).mean(1)
    assert_allclose(expected, share, atol=0.01)
    assert_array_equal(density.probability([-3, 0, 0], [-1, 1, 1]), np.zeros(4))


def test_recorded_values_from_lower_to_upper():
    recorded = random_scalar_density(3, 2).recorded(0.5)
    values = np.arange(-2, 3)[:, None] * 0.5
    assert_allclose(
        recorded.probability(-1.0, 1.0), recorded.pmf(values).sum(0), rtol=1e-12
    )
    assert_allclose(recorded.probability(values, values), recorded.pmf(values))
    assert_allclose(recorded.probability(-np.inf, 0.5), recorded.cdf(0.5), rtol=1e-13)


def test_wrong_boxes_are_refused():
    density = random_density(3, 2, 2)
    for lower, upper, message in [
        ([0.0, 1.0], [1.0, 0.5], "lower must not exceed upper, got 1 and 0.5"),
        ([0.0, np.nan], 1.0, "lower"),
        (0.0, [1.0], "last axis of upper"),
        (np.zeros((2, 2)), 1.0, "lower must have one entry for each"),
        (np.zeros((2, 1, 2)), np.ones((4, 1, 2)), "shapes that broadcast"),
        ("a", 1.0, "lower"),
    ]:
        with pytest.raises(ValueError, match=message):
            density.probability(lower, upper)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("below_one", [1e-4, 1e-8, 1e-12, 1e-15])
@pytest.mark.parametrize("ends", [(0.5, 0.5000001), (1, 1.000001), (0.3, -0.2)])
def test_outputs_that_nearly_determine_each_other(ends, below_one, sign):
    h, k = ends
    r, s = sign * (1 - below_one), np.sqrt(below_one * (2 - below_one))

    def integrand(x):
        return stats.norm.pdf(x) * stats.norm.cdf((k - r * x) / s)

    steps = [x for x in (k / r - 10 * s, k / r, k / r + 10 * s) if -9 < x < h]
    edges = [-9, *sorted(steps), h]
    parts = itertools.pairwise(edges)
    expected = sum(integrate.quad(integrand, *part, epsabs=1e-13)[0] for part in parts)
    found = bivariate_cdf(*(torch.tensor(v, dtype=torch.float64) for v in (h, k, r, s)))
    assert_allclose(found, expected, atol=1e-13)
