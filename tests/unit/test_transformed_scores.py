"""Scores and displays of densities with bounds."""

import numpy as np
import pytest
from helpers import random_density, random_scalar_density
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from numpy.testing import assert_allclose, assert_array_equal
from scipy import integrate, stats

from skmdn import MixtureDensity, TransformedDensity, metrics
from skmdn.plot import CalibrationDisplay, DensityDisplay, PITDisplay

BOUNDS = [(0, None), (1, None), (None, 2), (0, 1), (-1, 3)]


def scalar(ends, scale=1.0, n=4, K=3, seed=0):
    rng = np.random.RandomState(seed)
    stds = scale * np.exp(rng.normal(scale=0.5, size=(n, K)))
    means = scale * rng.normal(size=(n, K))
    latent = MixtureDensity(rng.dirichlet(np.ones(K), n), means, 1 / stds)
    return TransformedDensity(latent, ends)


def vector(target_support, n=4, K=3, seed=0):
    latent = random_density(n, K, len(target_support), seed)
    factors = 2 * latent.precision_factors
    latent = MixtureDensity(latent.weights, latent.means / 3, factors)
    return TransformedDensity(latent, target_support)


# -- CRPS --------------------------------------------------------------------------


def crps_by_quadrature(density, y):
    """Integrate (F - 1[y <= t])^2 for a density of one row, in y, by panels."""
    offsets = np.arange(-25, 25.5, 0.5)[:, None]
    z = density.latent.means[0] + offsets / density.latent.precision_factors[0]
    z = np.append(z.ravel(), np.arange(-40, 41))
    cuts = np.unique(np.append(density.supports[0].from_latent(z), y))
    nodes, weights = np.polynomial.legendre.leggauss(40)
    half = np.diff(cuts)[:, None] / 2
    t = (cuts[:-1, None] + half * (1 + nodes)).ravel()
    tail = np.where(t < y, density.cdf(t[:, None])[:, 0], density.sf(t[:, None])[:, 0])
    return (half * weights).ravel() @ tail**2


@pytest.mark.parametrize("scale", [0.02, 0.5, 2.0])
@pytest.mark.parametrize("ends", BOUNDS)
def test_crps_is_the_integral(ends, scale):
    density = scalar(ends, scale)
    y = density.sample(1, 0)[:, 0]
    found = metrics.crps(y, density)
    for row in range(len(density)):
        expected = crps_by_quadrature(density[row], y[row])
        assert_allclose(found[row], expected, rtol=1e-9)


@pytest.mark.parametrize("ends", BOUNDS)
def test_crps_outside_the_bounds_adds_the_distance(ends):
    density = scalar(ends)
    for end, side in zip(ends, (-1, 1), strict=True):
        if end is None:
            continue
        at_bound = metrics.crps(np.full(4, end), density)
        beyond = metrics.crps(np.full(4, end + 0.75 * side), density)
        assert_allclose(beyond, at_bound + 0.75, rtol=1e-10)
        expected = crps_by_quadrature(density[0], float(end))
        assert_allclose(at_bound[0], expected, rtol=1e-9)


def test_crps_of_one_log_normal_is_the_formula_of_baran_and_lerch():
    mu, sigma = 0.4, 0.8
    density = TransformedDensity(
        MixtureDensity([[1]], [[mu]], [[1 / sigma]]), (0, None)
    )
    y = np.array([0.1, 1.0, 3.0, 10.0])
    normal, z = stats.norm.cdf, (np.log(y) - mu) / sigma
    mean = np.exp(mu + sigma**2 / 2)
    expected = y * (2 * normal(z) - 1)
    expected -= 2 * mean * (normal(z - sigma) + normal(sigma / np.sqrt(2)) - 1)
    assert_allclose(metrics.crps(y, density), expected, rtol=1e-13)


def test_crps_keeps_its_digits_beside_a_component_of_huge_mean():
    # Its mean is e^200, and its weight and the mass in reach of y are small.
    latent = MixtureDensity([[1 - 1e-12, 1e-12]], [[0.0, 0.0]], [[2.0, 0.05]])
    density = TransformedDensity(latent, (0, None))
    one = TransformedDensity(MixtureDensity([[1.0]], [[0.0]], [[2.0]]), (0, None))
    # The far tail adds the integral of the squared survival function.
    near = metrics.crps([1.5], one)
    tail = integrate.quad(
        lambda z: np.exp(2 * stats.norm.logsf(z / 20) + z), 0, 900, limit=999
    )
    assert_allclose(metrics.crps([1.5], density), near + 1e-24 * tail[0], rtol=1e-6)


@given(st.integers(0, 2**32 - 1), st.sampled_from(BOUNDS), st.floats(0.01, 3))
def test_closed_form_and_draws_agree(seed, ends, scale):
    density = scalar(ends, scale, n=1, seed=seed)
    y = density.sample(1, seed % 1000)[:, 0]
    exact = metrics.crps(y, density)
    sampled, error = metrics.energy_score(
        y, density, n_samples=500, random_state=0, return_error=True
    )
    if scale < 1:  # else draws seldom show the tail
        assert abs(exact - sampled) < 6 * error
    # A broadcast of one row, and the mirror image, give the same.
    assert_allclose(metrics.crps([y[0], y[0]], density), exact[[0, 0]], rtol=1e-12)


# -- other scores ------------------------------------------------------------------


def test_without_bounds_all_scores_are_those_of_the_mixture():
    latent = random_density(5, 3, 2)
    density, y = TransformedDensity(latent), latent.sample(1, 0)[:, 0]
    for score in (
        metrics.log_score,
        metrics.energy_score,
        metrics.variogram_score,
        metrics.pit,
        metrics.coverage,
    ):
        assert_allclose(score(y, density), score(y, latent), rtol=1e-12)
    latent = random_scalar_density(5, 3)
    density, y = TransformedDensity(latent), latent.sample(1, 0)[:, 0]
    for score in (metrics.crps, metrics.interval_score):
        assert_array_equal(score(y, density), score(y, latent))


def test_pit_and_log_score_do_not_depend_on_the_map():
    density = vector([(0, None), (0, 1)])
    y = density.sample(1, 0)[:, 0]
    z = density.supports.to_latent(y)
    assert_allclose(metrics.pit(y, density), metrics.pit(z, density.latent), rtol=1e-9)
    slopes = density.supports.log_derivative(y)
    expected = metrics.log_score(z, density.latent) - slopes
    assert_allclose(metrics.log_score(y, density), expected, rtol=1e-12)


def test_pit_of_draws_is_uniform():
    density = vector([(0, 1), (0, None)], n=1)
    y = density.sample(2000, random_state=1)[0]
    u = metrics.pit(y, density[np.zeros(2000, dtype=int)])
    for column in u.T:
        assert stats.kstest(column, "uniform").pvalue > 0.01


@pytest.mark.parametrize("region", ["hdr", "interval"])
def test_coverage_of_draws_is_nominal(region):
    density = scalar((0, 1), n=1)
    y = density.sample(4000, random_state=0)[0]
    many = density[np.zeros(4000, dtype=int)]
    covered = metrics.coverage(y, many, [0.5, 0.9], region=region).mean(axis=1)
    assert_allclose(covered, [0.5, 0.9], atol=0.03)


def test_interval_score_is_that_of_the_quantiles():
    density = scalar((0, None))
    low, high = density.ppf(0.05), density.ppf(0.95)
    expected = high - low + 20 * (low - low / 2)
    assert_allclose(metrics.interval_score(low / 2, density), expected, rtol=1e-10)


@pytest.mark.parametrize("order", [0.5, 1.0])
def test_variogram_score_is_that_of_many_draws(order):
    density = vector([(0, 1), (0, 2), None, None])
    y = density.sample(1, 0)[:, 0]
    draws = density.sample(100_000, random_state=1)
    first, second = np.triu_indices(4, 1)
    expected = np.abs(draws[..., first] - draws[..., second]) ** order
    observed = np.abs(y[:, first] - y[:, second]) ** order
    expected = ((observed - expected.mean(axis=1)) ** 2).sum(axis=1)
    assert_allclose(
        metrics.variogram_score(y, density, order=order), expected, rtol=0.03
    )


def test_energy_score_of_a_degenerate_density_is_the_distance():
    factors = 1e8 * np.eye(2)[None, None]
    latent = MixtureDensity([[1.0]], [[[0.0, 1.0]]], factors)
    density = TransformedDensity(latent, [(0, None), None])
    score = metrics.energy_score([[4.0, 5.0]], density)
    assert_allclose(score, 5.0, rtol=1e-6)


# -- displays ----------------------------------------------------------------------


def axes():
    return Figure().subplots()


@pytest.mark.parametrize("kind", ["heat", "ridge"])
@pytest.mark.parametrize("ends", [(0, None), (None, 2), (0, 1)])
def test_displays_of_one_output_end_at_the_bounds(ends, kind):
    density = scalar(ends, scale=1.5, n=6)
    y = density.sample(1, 0)[:, 0]
    display = DensityDisplay.from_predictions(density, y, kind=kind, ax=axes())
    low, high = density.supports[0].ends
    (artist, *_) = display.artists_
    if kind == "heat":
        edges = artist.get_coordinates()[..., 1]
        assert np.isfinite(artist.get_array()).all()
    else:
        edges = np.concatenate([curve.get_xdata() for curve in display.artists_])
    assert edges.min() >= low
    assert edges.max() <= high


def test_curve_of_one_density_holds_its_mass():
    density = scalar((0, 1), scale=0.01, n=1)
    display = DensityDisplay.from_predictions(density, kind="heat", ax=axes())
    y, heights = display.artists_[0].get_data()
    assert_allclose(integrate.trapezoid(heights, y), 0.996, atol=0.004)


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("scale", [1e-4, 1.0])
def test_contours_end_at_the_bounds(n, scale):
    wide = vector([(0, None), (0, 1)], n=n)
    latent = MixtureDensity(
        wide.latent.weights, wide.latent.means, wide.latent.precision_factors / scale
    )
    density = TransformedDensity(latent, wide.supports)
    y = density.sample(1, 0)[:, 0]
    display = DensityDisplay.from_predictions(density, y, output=[0, 1], ax=axes())
    vertices = [path.vertices for part in display.artists_ for path in part.get_paths()]
    vertices = np.concatenate([v for v in vertices if len(v)])
    assert len(vertices) > 20
    assert (vertices > 0).all()
    assert (vertices[:, 1] < 1).all()


def test_calibration_displays_take_densities_with_bounds():
    density = vector([(0, 1), (0, None)], n=40)
    y = density.sample(1, 0)[:, 0]
    assert PITDisplay.from_predictions(density, y, ax=axes()).u.shape == (40, 2)
    display = CalibrationDisplay.from_predictions(density, y, ax=axes())
    assert_allclose(display.observed[:, -1], display.nominal, atol=0.3)
