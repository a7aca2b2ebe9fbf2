"""Modes and highest-density regions against brute force and known shapes."""

import numpy as np
import pytest
from helpers import random_density, random_scalar_density
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

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


def test_level_of_one_gaussian_is_chi_squared():
    for d in (2, 3):
        density = random_density(5, 1, d)
        peak = density.pdf(density.means[:, 0])
        for confidence in (0.5, 0.9, 0.99):
            distance = 2 * np.log(peak / density.hdr_level(confidence))
            assert_allclose(stats.chi2(d).cdf(distance), confidence, atol=0.005)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.99])
def test_hdr_of_several_outputs_covers_draws(confidence):
    density = random_density(4, 3, 2)
    draws = np.moveaxis(density.sample(20_000, random_state=0), 1, 0)
    covered = density.in_hdr(draws, confidence).mean(axis=0)
    error = np.sqrt(confidence * (1 - confidence) / 20_000)
    assert_allclose(covered, confidence, atol=4 * error + 0.005)


# -- modes -----------------------------------------------------------------------


def test_modes_of_one_output_are_those_of_a_fine_grid():
    density = wild_scalar_density(60, 4)
    for row, modes in enumerate(density.modes()):
        stds = 1 / density.precision_factors[row]
        near = (density.means[row] + stds * np.linspace(-4, 4, 401)[:, None]).ravel()
        grid = np.sort(np.concatenate([np.linspace(-15, 15, 5001), near]))
        height = density[row].logpdf(grid)
        is_peak = (np.diff(height)[:-1] > 0) & (np.diff(height)[1:] < 0)
        expected = grid[1:-1][is_peak]
        assert len(modes) == len(expected)
        assert_allclose(np.sort(modes), expected, atol=0.02)
        assert (np.diff(density[row].pdf(modes)) <= 0).all()


def test_shoulder_that_is_just_a_mode_is_found():
    # A weak component on the flank of a strong one.
    strong, weak = [0.98, 0.02], [0.97, 0.03]
    means, stds = [0.0, 3.0], [1.0, 0.35]
    density = MixtureDensity([strong, weak], [means] * 2, 1 / np.array([stds] * 2))
    assert [len(m) for m in density.modes()] == [2, 2]
    lower = MixtureDensity([[0.996, 0.004]], [means], 1 / np.array([stds]))
    assert [len(m) for m in lower.modes()] == [1]


def three_corners(std):
    angles = 2 * np.pi * np.arange(3) / 3
    corners = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    cov = np.broadcast_to(std**2 * np.eye(2), (1, 3, 2, 2))
    return MixtureDensity.from_covariances(np.full((1, 3), 1 / 3), [corners], cov)


@pytest.mark.parametrize(("std", "n_modes"), [(0.5, 3), (0.72, 4), (0.8, 1)])
def test_three_gaussians_can_have_four_modes(std, n_modes):
    (modes,) = three_corners(std).modes()
    assert len(modes) == n_modes
    if n_modes != 3:
        assert np.abs(modes).sum(axis=1).min() < 1e-8  # the centre


def test_crossing_gaussians_have_a_mode_away_from_both_means():
    covariances = [[np.diag([0.05, 4.0]), np.diag([4.0, 0.05])]]
    means = [[[0.0, 2.0], [2.0, 0.0]]]
    density = MixtureDensity.from_covariances([[0.5, 0.5]], means, covariances)
    (modes,) = density.modes()
    assert len(modes) == 3
    assert_allclose(modes[0], [0.025, 0.025], atol=0.01)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_modes_are_maxima_and_the_first_is_the_highest(d):
    density = random_density(20, 4, d)
    rng = np.random.RandomState(0)
    for row, modes in enumerate(density.modes()):
        here = density[row].logpdf(modes)
        assert (np.diff(here) <= 1e-12).all()
        for scale in (1e-3, 1e-2):
            steps = scale * rng.normal(size=(200, 1, d))
            around = np.array([density[row].logpdf(modes + step) for step in steps])
            assert (around <= here + 1e-12).all()
        assert_allclose(density.mode()[row], modes[0])
        # No mean is higher than the highest mode.
        assert density[row].logpdf(density.means[row]).max() <= here[0] + 1e-12


def test_modes_that_are_just_merging_are_one():
    # Two unit Gaussians 2 apart: the curvature at the centre is exactly zero.
    cov = np.broadcast_to(np.eye(2), (1, 2, 2, 2))
    means = [[[-1.0, 0.0], [1.0, 0.0]]]
    density = MixtureDensity.from_covariances([[0.5, 0.5]], means, cov)
    (modes,) = density.modes()
    assert_allclose(modes, [[0.0, 0.0]], atol=1e-3)
    assert_allclose(density.mode(), modes)


def test_equal_components_share_one_mode():
    density = MixtureDensity([[0.5, 0.5]], [[1.0, 1.0]], [[2.0, 2.0]])
    assert_allclose(density.modes(), [[1.0]])
    twice = MixtureDensity.mix([three_corners(0.5)] * 2)
    assert len(twice.modes()[0]) == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p.hdr(0.5), r"hdr needs one output.*has 2.*marginal"),
        (lambda p: p.marginal(0).hdr(1.5), r"confidence must lie in \[0, 1\], got 1.5"),
        (lambda p: p.hdr_level(-0.1), r"confidence must lie in \[0, 1\], got -0.1"),
        (lambda p: p.in_hdr([0, np.nan], 0.5), "must not contain NaN"),
    ],
)
def test_invalid_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(random_density(2, 2, 2))
