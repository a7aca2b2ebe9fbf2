"""Modes and highest-density regions of densities with bounds."""

import numpy as np
import pytest
from helpers import random_density
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import special

from skmdn import MixtureDensity, TransformedDensity
from skmdn._mixture import regions

BOUNDS = [(0, None), (1, None), (None, 2), (0, 1), (-1, 3)]
at_zero = st.sampled_from([(0, None), (None, 0), (0, 1)])


def scalar(ends, scale=1.0, n=4, K=4, seed=0):
    """Return a density of a scalar with latent components from narrow to wide."""
    rng = np.random.RandomState(seed)
    stds = scale * np.exp(rng.normal(-0.7, 0.7, size=(n, K)))
    means = scale * rng.normal(size=(n, K))
    latent = MixtureDensity(rng.dirichlet(np.ones(K), n), means, 1 / stds)
    return TransformedDensity(latent, ends)


def grid_of(density, row):
    """Return y at dense latent points around all components of a row."""
    stds = 1 / density.latent.precision_factors[row]
    # The slope of the map moves peaks by a variance.
    reach = 6 * stds + stds**2
    z = density.latent.means[row] + reach * np.linspace(-1, 1, 4001)[:, None]
    z = np.sort(np.concatenate([z.ravel(), np.linspace(-20, 20, 8001)]))
    return z, density.supports[0].from_latent(z)


# -- modes -------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("ends", [(0, None), (None, 0), (0, 1)])
def test_modes_are_those_of_a_dense_grid(ends, scale):
    density = scalar(ends, scale)
    for row, modes in enumerate(density.modes()):
        z, y = grid_of(density, row)
        if ends == (0, 1):  # near one y has few digits
            z, y = z[z < 25], y[z < 25]
        height = density[row].logpdf(y[:, None])[:, 0]
        rises = np.diff(height) > 1e-13
        falls = np.diff(height) < -1e-13
        peaks = z[1:-1][rises[:-1] & falls[1:]]
        found = density.supports[0].to_latent(modes)
        distances = np.abs(found[:, None] - peaks)
        assert distances.min(axis=0).max() < 0.02  # every peak is a mode
        assert density[row].logpdf(modes[[0]])[0] >= height.max() - 1e-12
        assert (np.diff(density[row].logpdf(modes[:, None])[:, 0]) <= 1e-12).all()
        step = 1e-4 * np.minimum(y[-1] - modes, modes - y[0])
        here = density[row].logpdf(modes[:, None])
        for side in (modes - step, modes + step):
            assert (density[row].logpdf(side[:, None]) < here).all()


def test_a_wide_logit_normal_has_two_modes_near_the_bounds():
    sigma = 2.0
    density = TransformedDensity(
        MixtureDensity([[1.0]], [[0.0]], [[1 / sigma]]), (0, 1)
    )
    (modes,) = density.modes()
    assert_allclose(modes.sum(), 1)
    # The slope of the log-density is zero where z = sigma^2 tanh(z / 2).
    z = special.logit(modes)
    assert_allclose(z, sigma**2 * np.tanh(z / 2), rtol=1e-9)
    narrow = TransformedDensity(MixtureDensity([[1.0]], [[0.0]], [[1.0]]), (0, 1))
    assert_allclose(narrow.modes(), [[0.5]])


def multivariate(target_support, n, K, scale, seed):
    parts = random_density(n, K, len(target_support), seed)
    latent = MixtureDensity(
        parts.weights, scale * parts.means, parts.precision_factors / scale
    )
    return TransformedDensity(latent, target_support)


@pytest.mark.parametrize(
    "target_support",
    [
        [(0, None), (None, 1)],
        [(0, None), None],
        [(0, 1), (0, 1)],
        [(0, 1), (-1, None)],
        [(0, 1), None, (0, 2)],
    ],
)
@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_modes_of_several_outputs_are_maxima_that_ascents_cannot_exceed(
    target_support, scale
):
    density = multivariate(target_support, 4, 3, scale, seed=1)
    d = density.n_outputs
    rng = np.random.RandomState(0)
    for row, modes in enumerate(density.modes()):
        one = density[row]
        here = one.logpdf(modes)
        z = density.supports.to_latent(modes)
        for length in (1e-3, 1e-2):
            near = z + length * scale * rng.normal(size=(100, 1, d))
            around = one.logpdf(one.supports.from_latent(near)[:, :, None])[..., 0]
            assert (around <= here + 1e-9).all()
        assert one.logpdf(one.sample(5000, 0)[0]).max() <= here[0] + 1e-9
        assert_allclose(density.mode()[row], modes[0])


def test_modes_of_independent_outputs_are_products():
    first = TransformedDensity(MixtureDensity([[1.0]], [[0.0]], [[0.5]]), (0, 1))
    factors = np.diag([0.5, 0.5])[None, None]
    latent = MixtureDensity([[1.0]], np.zeros((1, 1, 2)), factors)
    joint = TransformedDensity(latent, (0, 1))
    (expected,), (modes,) = first.modes(), joint.modes()
    corners = np.array([[a, b] for a in expected for b in expected])
    assert len(modes) == 4
    assert_allclose(
        modes[np.lexsort(modes.T)], corners[np.lexsort(corners.T)], rtol=1e-8
    )


# -- regions -----------------------------------------------------------------------


def probability(density, row, intervals):
    """Return the probability of intervals, by differences of the smaller tails."""
    one = density[row]
    low, high = intervals[:, [0]], intervals[:, [1]]
    lower = one.cdf(high) - one.cdf(low)
    upper = one.sf(low) - one.sf(high)
    return np.where(one.cdf(low) < 0.5, lower, upper).sum()


small = st.floats(-6, np.log10(0.5)).map(lambda exponent: 10**exponent)


@given(
    st.integers(0, 2**32 - 1),
    at_zero,
    st.one_of(small, small.map(lambda c: 1 - c), st.floats(0.01, 0.99)),
    st.floats(0.05, 1.5),
)
def test_hdr_holds_its_confidence_at_one_level(seed, ends, confidence, scale):
    density = scalar(ends, scale, seed=seed)
    levels = density.hdr_level(confidence)
    for row, intervals in enumerate(density.hdr(confidence)):
        found = probability(density, row, intervals)
        assert_allclose(found, confidence, rtol=0, atol=1e-8)
        assert (np.diff(intervals.ravel()) > 0).all()
        heights = density[row].logpdf(intervals.reshape(-1, 1))
        z = density.supports[0].to_latent(intervals.ravel())
        # Edges are rounded numbers, and more so near one.
        digits = 1e-6 + 1e-13 * np.exp(np.clip(z, 0, 30))
        assert (np.abs(heights[:, 0] - np.log(levels[row])) < digits / scale).all()


@pytest.mark.parametrize("confidence", [1e-9, 1e-4, 1e-3])
def test_hdr_of_equally_high_modes_has_two_mirrored_parts(confidence):
    latent = MixtureDensity([[1.0]], [[0.0]], [[0.5]])
    density = TransformedDensity(latent, (-1, 1))
    (intervals,) = density.hdr(confidence)
    assert intervals.shape == (2, 2)
    assert_allclose(intervals, -intervals[::-1, ::-1], rtol=1e-7)
    mass = (intervals[:, 1] - intervals[:, 0]).sum() * density.pdf(density.mode())
    assert_allclose(mass, confidence, rtol=1e-5)


@pytest.mark.parametrize("ends", BOUNDS)
def test_hdr_is_no_longer_than_the_interval_and_agrees_with_in_hdr(ends):
    density = scalar(ends)
    low, high = density.interval(0.8)
    draws = density.sample(200, random_state=0)
    inside = density.in_hdr(draws.T, 0.8)
    for row, intervals in enumerate(density.hdr(0.8)):
        length = np.diff(intervals, axis=1).sum()
        assert length <= (high - low)[row] * (1 + 1e-9)
        y = draws[row, :, None]
        expected = ((intervals[:, 0] <= y) & (y <= intervals[:, 1])).any(axis=1)
        assert (inside[:, row] == expected).all()


def test_hdr_at_the_ends():
    density = scalar((0, 1))
    assert_allclose(np.squeeze(density.hdr(0)), np.tile(density.mode(), (2, 1)).T)
    assert_allclose(density.hdr_level(0), density.pdf(density.mode()))
    assert_allclose(density.hdr_level(1), np.zeros(4))
    both = density.hdr([0.3, 0.9])
    assert_allclose(both[1][0], density.hdr(0.9)[0])


@given(st.integers(0, 2**32 - 1), st.floats(0.2, 1.5))
@settings(max_examples=10)
def test_regions_of_several_outputs_hold_their_confidence(seed, scale):
    rng = np.random.RandomState(seed % 2**32)
    choices = [(0, None), (None, 1), (0, 1), None]
    kinds = [choices[i] for i in rng.randint(4, size=rng.choice([2, 3]))]
    density = multivariate(kinds, 2, 3, scale, seed % 1000)
    confidences = np.array([0.1, 0.5, 0.9])
    draws = np.moveaxis(density.sample(5000, random_state=0), 1, 0)
    covered = density.in_hdr(draws, confidences).mean(axis=1)
    error = 4 * np.sqrt(confidences * (1 - confidences) / 5000)
    assert (np.abs(covered - confidences[:, None]) < 0.01 + error[:, None]).all()


@pytest.mark.parametrize("gap", [1e-6, 1e-8, 3e-9, 1e-9, 1e-10, 1e-12])
def test_a_hole_that_one_digit_of_the_level_decides_is_found(gap):
    latent = MixtureDensity([[0.5, 0.5]], [[-2.0, 2.0]], [[0.25, 1.0]])
    density = TransformedDensity(latent, (0, 1))
    (region,) = density.hdr(1 - gap)
    assert region.shape == (2, 2)
    # In y, positions near 1 have too few digits for the probability beyond them.
    (found,) = regions(latent.mixture, [1 - gap], density.supports.bounds)
    (low, left), (right, high) = found.edges.numpy()
    outside = latent.cdf(low) + latent.probability(left, right) + latent.sf(high)
    assert left < right
    assert_allclose(outside, 1 - (1 - gap), rtol=1e-6, atol=1e-15)


def test_no_point_outside_of_the_support_is_in_a_region():
    density = TransformedDensity(MixtureDensity([[1.0]], [[3.0]], [[1 / 3]]), (0, None))
    inside = density.in_hdr([[-1.0], [0.0], [1e-9], [5.0]], 1.0)
    assert inside.ravel().tolist() == [False, False, True, True]
