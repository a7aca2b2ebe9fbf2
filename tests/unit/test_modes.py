"""Modes against brute force and known shapes."""

from itertools import product

import numpy as np
import pytest
from helpers import random_density
from numpy.testing import assert_allclose
from scipy import optimize, stats
from scipy.special import logsumexp, softmax

from skmdn import MixtureDensity


def wild_scalar_density(n, K, seed=0):
    """Components from 0.03 to 3 wide and about as far apart."""
    rng = np.random.RandomState(seed)
    stds = np.exp(rng.normal(-1, 1, size=(n, K)))
    means = rng.normal(scale=3, size=(n, K))
    return MixtureDensity(rng.dirichlet(np.ones(K), n), means, 1 / stds)


def long_components(n, K, d, seed):
    """Components up to a hundred times longer than wide, in all directions."""
    rng = np.random.RandomState(seed)
    axes, _ = np.linalg.qr(rng.normal(size=(n, K, d, d)))
    stds = 10 ** rng.uniform(-1.5, 0.5, size=(n, K, 1, d))
    covariances = (axes * stds**2) @ axes.swapaxes(-1, -2)
    means = 2 * rng.normal(size=(n, K, d))
    return MixtureDensity.from_covariances(
        rng.dirichlet(np.ones(K), n), means, covariances
    )


def shares_and_pulls(row, y):
    """Return responsibilities (s, K) and P (m - y), (s, K, d), of a density of one."""
    offsets = row.means[0] - y[:, None]
    pulls = np.einsum("kij,skj->ski", row.precisions[0], offsets)
    _, log_det = np.linalg.slogdet(row.precisions[0])
    with np.errstate(divide="ignore"):
        heights = np.log(row.weights[0]) + (log_det - (offsets * pulls).sum(-1)) / 2
    return softmax(heights, axis=1), pulls


def mean_shift_length(row, y):
    """Return how far fixed-point steps from y (s, d) go, in standard deviations."""
    shares, pulls = shares_and_pulls(row, y)
    gradient = np.einsum("sk,ski->si", shares, pulls)
    precision = np.einsum("sk,kij->sij", shares, row.precisions[0])
    step = np.linalg.solve(precision, gradient[..., None])[..., 0]
    return np.sqrt((gradient * step).sum(-1)), step


def slow_modes(row, n_draws=150, n_steps=2000):
    """Climb by fixed-point steps from draws and means; keep the ends that settle."""
    y = np.concatenate([row.sample(n_draws, random_state=0)[0], row.means[0]])
    for _ in range(n_steps):
        length, step = mean_shift_length(row, y)
        y = y + step
        if length.max() < 1e-10:
            break
    return y[length < 1e-9]


def distances(row, ends, modes):
    """Return distances (s, n_modes) in the metric of the mean precision at each end."""
    shares, _ = shares_and_pulls(row, ends)
    precision = np.einsum("sk,kij->sij", shares, row.precisions[0])
    apart = ends[:, None] - modes
    return np.sqrt(np.einsum("smi,sij,smj->sm", apart, precision, apart))


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
    density = random_density(8, 4, d)
    rng = np.random.RandomState(0)
    steps = np.repeat([1e-3, 1e-2], 100)[:, None, None] * rng.normal(size=(200, 1, d))
    for row, modes in enumerate(density.modes()):
        one = density[row]
        here = one.logpdf(modes)
        assert (np.diff(here) <= 1e-12).all()
        around = one.logpdf((modes + steps).reshape(-1, d)).reshape(200, -1)
        assert (around <= here + 1e-12).all()
        assert_allclose(density.mode()[row], modes[0])
        # No mean is higher than the highest mode.
        assert one.logpdf(density.means[row]).max() <= here[0] + 1e-12


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


# -- several outputs against slow ascents ------------------------------------------


@pytest.mark.parametrize(
    "density",
    [
        random_density(3, 6, 2),
        long_components(3, 5, 2, seed=0),
        long_components(3, 6, 3, seed=1),
        long_components(2, 4, 5, seed=2),
    ],
    ids=["round", "long", "long in three", "long in five"],
)
def test_slow_ascents_from_draws_find_no_other_mode(density):
    for row in range(len(density)):
        one, modes = density[row], density[row].modes()[0]
        ends = slow_modes(one)
        assert len(ends) > 10
        assert distances(one, ends, modes).min(axis=1).max() < 1e-3
        assert mean_shift_length(one, modes)[0].max() < 1e-8


def negative_logpdf(row):
    """Return minus the log-density of a density of one row, by SciPy."""
    parts = [
        stats.multivariate_normal(mean, covariance)
        for mean, covariance in zip(row.means[0], row.covariances[0], strict=True)
    ]
    log_weights = np.log(row.weights[0])
    return lambda y: -logsumexp(log_weights + [part.logpdf(y) for part in parts])


# Points near modes that ascents from means and centres of neighbours do not reach. A
# search from hundreds of starts found them.
@pytest.mark.parametrize(
    ("seed", "point"),
    [
        (25, [3.313, -2.536]),
        (48, [1.495, -2.590]),
        (107, [1.182, -0.280]),
        (27, [1.851, -0.908, -0.097]),
        (110, [0.964, -0.097, -1.083]),
        (134, [0.015, -0.462, 3.740]),
    ],
)
def test_mode_found_by_an_independent_search_is_among_them(seed, point):
    density = long_components(1, 5, len(point), seed)
    height = negative_logpdf(density)
    result = optimize.minimize(height, point, method="BFGS", options={"gtol": 1e-6})
    # The search moved little, and no point around its end is higher.
    assert np.abs(result.x - point).max() < 5e-3
    step = 1e-3 * np.eye(len(point))
    corners = list(product([-1, 1], repeat=len(point)))
    around = [height(result.x + move) for move in (*step, *-step, *corners @ step)]
    assert min(around) > height(result.x)
    assert distances(density, result.x[None], density.modes()[0]).min() < 1e-3


def test_modes_beside_a_far_component_stay_apart():
    means = np.array([[[0.0, 0.0], [100.0, 0.0], [1e10, 1e10]]])
    covariances = np.broadcast_to(np.eye(2), (1, 3, 2, 2))
    density = MixtureDensity.from_covariances([[0.3, 0.3, 0.4]], means, covariances)
    (modes,) = density.modes()
    assert_allclose(modes[modes[:, 0].argsort()], means[0], rtol=0, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_modes_move_with_the_units(scale):
    density = long_components(4, 5, 2, seed=3)
    units = scale * np.array([1.0, 1e6])
    shift = 2.0**30 * units
    covariances = density.covariances * units[:, None] * units
    moved = MixtureDensity.from_covariances(
        density.weights, density.means * units + shift, covariances
    )
    for here, there in zip(density.modes(), moved.modes(), strict=True):
        assert_allclose((there - shift) / units, here, rtol=0, atol=2e-6)


@pytest.mark.parametrize("d", [1, 2])
@pytest.mark.parametrize("precision", [1.0, 1e100, 1e150])
def test_components_of_weight_zero_have_no_mode(precision, d):
    few = random_density(4, 3, d)
    factors = np.broadcast_to(precision * np.eye(d), (4, 1, d, d))
    empty = MixtureDensity(np.ones((4, 1)), np.full((4, 1, d), 0.5), factors)
    more = MixtureDensity.mix([empty, few], weights=[0, 1])
    for expected, found in zip(few.modes(), more.modes(), strict=True):
        assert_allclose(found, expected, rtol=1e-9)
    assert_allclose(more.mode(), few.mode(), rtol=1e-9)


@pytest.mark.parametrize("side", [1.0, 0.999])
def test_flat_highest_mode_is_kept_beside_a_lower_one(side):
    means = [[[-side, 0.0], [side, 0.0], [0.0, 50.0]]]
    covariances = np.broadcast_to(np.eye(2), (1, 3, 2, 2))
    density = MixtureDensity.from_covariances([[0.4, 0.4, 0.2]], means, covariances)
    (modes,) = density.modes()
    assert_allclose(modes, [[0, 0], [0, 50]], atol=1e-3)
    lower = MixtureDensity.from_covariances([[0.2, 0.2, 0.6]], means, covariances)
    assert_allclose(lower.modes()[0], modes[::-1], atol=1e-3)
