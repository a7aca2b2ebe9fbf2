"""The data set of the package, and generators with known densities."""

from importlib import resources

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats
from sklearn.datasets import make_moons

from skmdn import datasets
from skmdn.datasets import (
    load_geyser,
    make_inverse_sine,
    make_rotating_gaussians,
    make_two_moons,
)

MAKERS = [make_inverse_sine, make_rotating_gaussians, make_two_moons]


def test_geyser_leaves_out_the_night():
    data = load_geyser()
    everything = load_geyser(drop_night_codes=False)
    assert data.data.shape == (221, 1)
    assert everything.data.shape == (299, 1)
    assert data.feature_names == ["waiting"]
    assert data.target_name == "duration"
    assert "Old Faithful" in data.DESCR
    night = np.isin(everything.target, (2, 3, 4))
    assert_allclose(everything.target[~night], data.target)
    # Azzalini and Bowman report a mean wait of 72.3 minutes over all 299.
    assert_allclose(everything.data.mean(), 72.3, atol=0.05)


@pytest.mark.parametrize("make", MAKERS)
def test_draws_follow_the_density_returned(make):
    X, y, density = make(4000, random_state=0, return_density=True)
    assert len(X) == len(y) == len(density) == 4000
    first = density if y.ndim == 1 else density.marginal(0)
    u = first.cdf(y if y.ndim == 1 else y[:, 0])
    assert stats.kstest(u, "uniform").pvalue > 0.01
    if y.ndim == 2:  # the other output given the first
        u = density.condition({0: y[:, 0]}).cdf(y[:, [1]])
        assert stats.kstest(u, "uniform").pvalue > 0.01


def test_inverse_sine_means_solve_the_equation():
    X, _, density = make_inverse_sine(500, random_state=0, return_density=True)
    t = density.means
    exists = density.weights > 0
    residuals = t + 0.3 * np.sin(2 * np.pi * t) - X
    assert_allclose(residuals[exists], 0, atol=1e-9)
    assert set(exists.sum(axis=1)) == {1, 3}


def test_moons_are_those_of_scikit_learn():
    rng = np.random.RandomState(1)
    theirs, _ = make_moons(4000, random_state=0)
    height = theirs[:, 1] + 0.1 * rng.normal(size=4000)
    X, y, density = make_two_moons(4000, random_state=0, return_density=True)
    assert stats.ks_2samp(X[:, 0], theirs[:, 0]).pvalue > 0.01
    assert stats.ks_2samp(y, height).pvalue > 0.01
    is_outer = np.abs(X[:, 0] - 0.5) > 0.5
    assert_allclose(density.weights[is_outer].max(axis=1), 1)
    # At x = 0.5 both arcs are equally steep, sqrt(3)/2 above and below.
    middle = np.abs(X[:, 0] - 0.5).argmin()
    assert_allclose(density.weights[middle], 0.5, atol=1e-3)
    assert_allclose(density.means[middle], [0.75**0.5, 0.5 - 0.75**0.5], atol=1e-3)


@pytest.mark.parametrize("make", MAKERS)
def test_generators_repeat_with_a_seed_only(make):
    assert_allclose(make(10, random_state=0)[1], make(10, random_state=0)[1])
    assert not np.array_equal(make(10)[1], make(10)[1])
    first, again = np.random.default_rng(0), np.random.default_rng(0)
    draws = [make(10, random_state=first)[1] for _ in range(2)]
    assert_allclose(make(10, random_state=again)[1], draws[0])
    assert_allclose(make(10, random_state=again)[1], draws[1])
    assert not np.array_equal(*draws)


def test_geyser_is_a_resource_of_its_package():
    assert (resources.files(datasets) / "geyser.csv").is_file()
