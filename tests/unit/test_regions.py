"""Highest-density regions against brute force and known shapes."""

import importlib
import itertools

import numpy as np
import pytest
from helpers import random_density, random_scalar_density
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import optimize, special, stats

from skmdn import MixtureDensity


def wild_scalar_density(n, K, seed=0):
    """Components from 0.03 to 3 wide and about as far apart."""
    rng = np.random.RandomState(seed)
    stds = np.exp(rng.normal(-1, 1, size=(n, K)))
    means = rng.normal(scale=3, size=(n, K))
    return MixtureDensity(rng.dirichlet(np.ones(K), n), means, 1 / stds)


def interval_sums(density, intervals):
    """Mass and length of each row's intervals, by quadrature and by arithmetic."""
    nodes, node_weights = np.polynomial.legendre.leggauss(200)
    mass, length = np.zeros(len(density)), np.zeros(len(density))
    for row, pieces in enumerate(intervals):
        stds = 1 / density.precision_factors[row]
        cuts = (density.means[row] + stds * np.arange(-8, 9)[:, None]).ravel()
        for low, high in pieces:
            inside = cuts[(cuts > low) & (cuts < high)]
            edges = np.sort(np.concatenate([[low], inside, [high]]))
            half = np.diff(edges)[:, None] / 2
            y = (edges[:-1, None] + half * (1 + nodes)).ravel()
            mass[row] += (half * node_weights).ravel() @ density[row].pdf(y)
            length[row] += high - low
    return mass, length


# -- regions ---------------------------------------------------------------------


@pytest.mark.parametrize("confidence", [0.01, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("K", [1, 2, 4])
def test_hdr_holds_its_mass_and_is_no_longer_than_the_interval(K, confidence):
    density = wild_scalar_density(25, K)
    intervals = density.hdr(confidence)
    mass, length = interval_sums(density, intervals)
    assert_allclose(mass, confidence, atol=1e-6)
    low, high = density.interval(confidence)
    assert (length <= (high - low) * (1 + 1e-9)).all()
    level = density.hdr_level(confidence)
    for row, pieces in enumerate(intervals):
        assert_allclose(density[row].pdf(pieces.ravel()), level[row], rtol=1e-7)
        assert (np.diff(pieces.ravel()) > 0).all()


def test_hdr_of_one_gaussian_is_its_interval():
    density = random_scalar_density(5, 1)
    low, high = density.interval(0.8)
    assert_allclose(density.hdr(0.8), np.stack([low, high], axis=1)[:, None])


def test_hdr_of_separated_modes_is_disjoint():
    density = MixtureDensity([[0.2, 0.3, 0.5]], [[-20.0, 0.0, 20.0]], [[1.0, 1.0, 1.0]])
    (intervals,) = density.hdr(0.95)
    assert intervals.shape == (3, 2)
    assert_allclose(intervals.mean(axis=1), [-20, 0, 20], atol=1e-6)
    assert len(density.hdr(0.15)[0]) == 1  # the highest mode alone


def test_hdr_at_the_ends():
    density = wild_scalar_density(3, 3)
    assert_array_equal(density.hdr(1), [[[-np.inf, np.inf]]] * 3)
    assert_allclose(np.squeeze(density.hdr(0)), np.tile(density.mode(), (2, 1)).T)
    assert_array_equal(density.hdr_level(1), np.zeros(3))
    assert_allclose(density.hdr_level(0), density.pdf(density.mode()))
    assert density.in_hdr([50.0, -50.0, 0.0], 1).all()


def test_in_hdr_agrees_with_the_intervals():
    density = wild_scalar_density(10, 3)
    y = density.sample(50, random_state=0)
    inside = density.in_hdr(y.T, 0.7)
    for row, pieces in enumerate(density.hdr(0.7)):
        expected = [((pieces[:, 0] <= v) & (v <= pieces[:, 1])).any() for v in y[row]]
        assert_array_equal(inside[:, row], expected)


def exact_mass(density, intervals):
    """Probability of each row's intervals, by differences of the smaller tails."""
    rows = np.repeat(np.arange(len(density)), [len(part) for part in intervals])
    lower, upper = np.concatenate(intervals).T
    means, factors = density.means[rows], density.precision_factors[rows]
    lower, upper = ((edge[:, None] - means) * factors for edge in (lower, upper))
    sign = np.where(lower + upper > 0, -1, 1)
    between = sign * (special.ndtr(sign * upper) - special.ndtr(sign * lower))
    mass = (density.weights[rows] * between).sum(axis=1)
    return np.bincount(rows, mass, len(density))


small = st.floats(-9, np.log10(0.5)).map(lambda exponent: 10**exponent)


@given(
    st.integers(0, 2**32 - 1),
    st.integers(2, 80),
    st.one_of(small, small.map(lambda c: 1 - c), st.floats(0.01, 0.99)),
)
def test_hdr_holds_its_confidence(seed, K, confidence):
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(K, rng.choice([0.1, 1, 10])), 8)
    means = rng.normal(scale=rng.choice([0.3, 1, 3, 30]), size=(8, K))
    stds = np.exp(rng.normal(scale=rng.choice([0.1, 0.5, 1, 2]), size=(8, K)))
    if rng.random() < 0.2:  # ties
        means, stds = np.round(2 * means) / 2, np.round(2 * stds + 1) / 2
    density = MixtureDensity(weights, means, 1 / stds)
    intervals = density.hdr(confidence)
    assert_allclose(exact_mass(density, intervals), confidence, rtol=0, atol=1e-9)
    for row, pieces in enumerate(intervals):
        assert (np.diff(pieces.ravel()) > 0).all()
        # One density at all edges, up to the rounding of their positions.
        heights, slope = density[row].logpdf(pieces.ravel()), 1 / stds[row].min()
        noise = 1e-6 + 100 * slope * np.spacing(np.abs(pieces).max())
        assert np.ptp(heights) < noise


def test_hdr_whose_level_search_alternated():
    density = MixtureDensity([[0.9, 0.1]], [[0.0, 2.35]], [[1.0, 1 / 0.43]])
    assert_allclose(exact_mass(density, density.hdr(0.9)), 0.9, rtol=1e-12)


@pytest.mark.parametrize(
    "confidence", [1e-300, 1e-9, 1e-6, 1e-3, 0.5, 1 - 1e-9, 1 - 1e-12, 1 - 1e-15]
)
def test_hdr_of_a_gaussian_at_any_confidence(confidence):
    density = MixtureDensity([[1.0]], [[0.0]], [[1.0]])
    half = special.ndtri((1 - confidence) / 2)
    if confidence < 1e-6:
        half = -confidence * np.sqrt(np.pi / 2)  # the density is flat
    assert_allclose(density.hdr(confidence)[0], [[half, -half]], rtol=1e-9)


@pytest.mark.parametrize("confidence", [1e-9, 1e-3, 0.5, 1 - 1e-9])
def test_hdr_of_two_equal_modes_has_two_equal_parts(confidence):
    density = MixtureDensity([[0.5, 0.5]], [[-9.0, 9.0]], [[1.0, 1.0]])
    (pieces,) = density.hdr(confidence)
    half = -special.ndtri((1 - confidence) / 2)
    assert_allclose(pieces, [[-9 - half, -9 + half], [9 - half, 9 + half]], rtol=1e-8)


@pytest.mark.parametrize("confidence", [1e-8, 1e-4, 1e-3, 0.01, 0.5, 0.9])
def test_hdr_of_a_flat_top(confidence):
    # Two deviations apart, the second derivative at the mode is zero.
    density = MixtureDensity([[0.5, 0.5]], [[-1.0, 1.0]], [[1.0, 1.0]])
    intervals = density.hdr(confidence)
    assert_allclose(exact_mass(density, intervals), confidence, rtol=1e-8)
    assert_allclose(intervals[0].sum(), 0, atol=1e-4)  # a triple root


@pytest.mark.parametrize("confidence", [0.3, 0.9])
def test_the_search_ends_where_masses_differ_by_rounding(monkeypatch, confidence):
    # The same depth gives another mass if the number of pending rows has changed.
    search = importlib.import_module("skmdn._mixture.hdr")
    exact, n_calls = search._small_mass, itertools.count()

    def noisy(*arguments):
        mass, excess = exact(*arguments)
        is_first = next(n_calls) < 30
        return mass, excess + (excess.sign() * 1e-9 if is_first else -3e-9)

    monkeypatch.setattr(search, "_small_mass", noisy)
    density = wild_scalar_density(50, 4)
    mass = exact_mass(density, density.hdr(confidence))
    assert_allclose(mass, confidence, rtol=0, atol=1e-8)


@pytest.mark.parametrize("excess", [5e-10, 1e-9, 3e-7, 1e-5])
@pytest.mark.parametrize("confidence", [1e-4, 9e-4, 1.1e-3, 0.5])
def test_hdr_of_two_modes_that_almost_merge(excess, confidence):
    density = MixtureDensity([[0.5, 0.5]], [[0.0, 2 + excess]], [[1.0, 1.0]])
    intervals = density.hdr(confidence)
    assert_allclose(exact_mass(density, intervals), confidence, rtol=0, atol=1e-10)
    assert (np.diff(intervals[0].ravel()) > 0).all()


@pytest.mark.parametrize("spacing", [0.3, 0.5, 0.7, 0.9, 1.0, 2.0])
@pytest.mark.parametrize("confidence", [1e-6, 0.005, 0.01, 0.1, 0.5, 0.95])
def test_hdr_of_a_plateau(spacing, confidence):
    # Equally spaced components: the density is flat up to rounding, or ripples.
    means = spacing * np.arange(80.0)[None]
    density = MixtureDensity(np.full((1, 80), 1 / 80), means, np.ones((1, 80)))
    intervals = density.hdr(confidence)
    assert_allclose(exact_mass(density, intervals), confidence, rtol=0, atol=1e-9)
    assert (np.diff(intervals[0].ravel()) > 0).all()


def test_hdr_at_the_height_of_an_antimode():
    density = MixtureDensity([[0.5, 0.5]], [[-2.0, 2.0]], [[1.0, 1.0]])
    outer = optimize.brentq(lambda y: (density.pdf(y) - density.pdf(0.0))[0], 2, 9)
    confidence = 1 - 2 * density.sf(outer)[0]
    for shift in (-1e-9, -1e-12, 0, 1e-12, 1e-9):
        intervals = density.hdr(confidence + shift)
        assert_allclose(
            exact_mass(density, intervals), confidence + shift, rtol=0, atol=1e-11
        )


def test_components_narrower_than_the_rounding_of_their_mean_are_noted():
    density = MixtureDensity([[0.5, 0.5]], [[0.0, 0.1]], [[1.0, 1e30]])
    with pytest.warns(UserWarning, match="narrower than the rounding errors"):
        density.hdr(0.4)
    assert_allclose(density.modes(), [[0.1, 0.0]], atol=1e-12)
    (pieces,) = density.hdr(0.9)  # all of the narrow component and 0.8 of the other
    assert_allclose(pieces, [special.ndtri([0.1, 0.9])])


# -- levels of several outputs -----------------------------------------------------


@pytest.mark.parametrize(("d", "K"), [(2, 1), (3, 1), (5, 80), (20, 500)])
def test_level_of_equal_gaussians_is_chi_squared(d, K):
    factors = np.broadcast_to(np.eye(d), (1, K, d, d))
    density = MixtureDensity(np.full((1, K), 1 / K), np.zeros((1, K, d)), factors)
    confidences = np.array([0.01, 0.5, 0.9, 0.99])
    levels = density.hdr_level(confidences)[:, 0]
    squares = -2 * np.log(levels) - d * np.log(2 * np.pi)
    assert_allclose(stats.chi2(d).cdf(squares), confidences, rtol=0, atol=3e-4)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=15)
def test_regions_of_several_outputs_hold_their_confidence(seed):
    rng = np.random.default_rng(seed)
    d, K = int(rng.choice([2, 3, 5, 20])), int(rng.choice([2, 20, 80]))
    weights = rng.dirichlet(np.full(K, rng.choice([0.1, 1, 10])), 1)
    means = rng.normal(scale=rng.choice([0.1, 1, 10]), size=(1, K, d))
    factors = np.triu(rng.normal(scale=rng.choice([0.1, 1]), size=(1, K, d, d)), 1)
    factors += np.exp(rng.normal(size=(1, K, d)))[..., None] * np.eye(d)
    density = MixtureDensity(weights, means, factors)
    confidences = np.array([0.1, 0.5, 0.9, 0.99])
    draws = np.moveaxis(density.sample(5000, random_state=0), 1, 0)
    covered = density.in_hdr(draws, confidences).mean(axis=(1, 2))
    error = 4 * np.sqrt(confidences * (1 - confidences) / 5000)
    assert (np.abs(covered - confidences) < 0.01 + error).all()


def test_regions_compare_log_densities():
    # At 50 outputs of this width every density underflows.
    density = MixtureDensity([[1.0]], np.zeros((1, 1, 50)), [[1e-7 * np.eye(50)]])
    assert (density.hdr_level(0.9) == 0).all()
    radius = 1e7 * np.sqrt(stats.chi2(50).ppf(0.9) / 50)
    inside, outside = np.full((2, 50), radius) * [[0.99], [1.01]]
    assert density.in_hdr(inside, 0.9).all()
    assert not density.in_hdr(outside, 0.9).any()


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.99])
def test_hdr_of_several_outputs_covers_draws(confidence):
    density = random_density(4, 3, 2)
    draws = np.moveaxis(density.sample(20_000, random_state=0), 1, 0)
    covered = density.in_hdr(draws, confidence).mean(axis=0)
    error = np.sqrt(confidence * (1 - confidence) / 20_000)
    assert_allclose(covered, confidence, atol=4 * error + 0.005)


# -- several confidences -----------------------------------------------------------


@pytest.mark.parametrize("d", [1, 2])
def test_several_confidences_are_those_one_by_one(d):
    density = random_density(4, 3, d) if d > 1 else random_scalar_density(4, 3)
    confidences = [0.0, 0.3, 0.95, 1.0]
    y = density.sample(7, random_state=0).swapaxes(0, 1)  # a grid
    levels, inside = density.hdr_level(confidences), density.in_hdr(y, confidences)
    assert levels.shape == (4, 4)
    assert inside.shape == (4, 7, 4)
    for i, confidence in enumerate(confidences):
        assert_array_equal(levels[i], density.hdr_level(confidence))
        assert_array_equal(inside[i], density.in_hdr(y, confidence))
    if d == 1:
        for ours, one in zip(density.hdr(confidences), confidences, strict=True):
            for pieces, expected in zip(ours, density.hdr(one), strict=True):
                assert_array_equal(pieces, expected)
        ends = np.array(density.interval(confidences))
        for i, confidence in enumerate(confidences):
            assert_allclose(ends[:, i], density.interval(confidence), rtol=1e-14)


@pytest.mark.parametrize("confidence", [-0.1, 1.1, np.nan, [0.5, 2], [[0.5]], "0.5"])
def test_confidences_outside_their_range_are_refused(confidence):
    density = random_scalar_density(2, 2)
    for method in (density.interval, density.hdr, density.hdr_level):
        with pytest.raises(ValueError, match="confidence"):
            method(confidence)
    with pytest.raises(ValueError, match="confidence"):
        density.in_hdr([0.0, 0.0], confidence)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p.hdr(1.5), "confidence must lie"),
        (lambda p: p.marginal(0).hdr(1.5), r"confidence must lie in \[0, 1\], got 1.5"),
        (lambda p: p.hdr_level(-0.1), r"confidence must lie in \[0, 1\], got -0.1"),
        (lambda p: p.in_hdr([0, np.nan], 0.5), "y contains NaN"),
    ],
)
def test_invalid_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(random_density(2, 2, 2))
