"""Masses of basins against an independent ascent, and the merging of modes."""

from itertools import pairwise

import numpy as np
import pytest
from helpers import random_density
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import integrate, optimize

from skmdn import MixtureDensity, TransformedDensity
from skmdn._mixture.basins import Basins, merge


def apart(n, d, seed=0, K=3):
    """Components of very different weights, of which some overlap."""
    rng = np.random.RandomState(seed)
    roots = np.eye(d) + 0.3 * rng.normal(size=(n, K, d, d))
    covariances = roots @ roots.swapaxes(-1, -2)
    means = 2 * rng.normal(size=(n, K, d))
    weights = rng.dirichlet(np.ones(K), n)
    return MixtureDensity.from_covariances(weights, means, covariances)


def climb(row, y, n_steps=4000):
    """Follow the gradient of the log-density of one row from y (s, d), by small steps.

    In the metric of the mean of the precisions at the point, so that the unit of y does
    not matter.
    """
    weights, means, precisions = row.weights[0], row.means[0], row.precisions[0]
    log_dets = np.linalg.slogdet(precisions)[1] / 2
    for _ in range(n_steps):
        offsets = means - y[:, None]
        pulls = np.einsum("kij,skj->ski", precisions, offsets)
        logs = np.log(weights) + log_dets - (offsets * pulls).sum(-1) / 2
        shares = np.exp(logs - logs.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        gradient = np.einsum("sk,ski->si", shares, pulls)
        metric = np.einsum("sk,kij->sij", shares, precisions)
        step = np.linalg.solve(metric, gradient[..., None])[..., 0]
        y = y + 0.5 * step
        if np.abs(step).max() < 1e-4:
            break
    return y


def shares_of(row, modes, n_draws, seed=0):
    """Return the share of draws of one row that climb to each mode."""
    ends = climb(row, row.sample(n_draws, random_state=seed)[0])
    distances = np.abs(ends[:, None] - modes).max(-1)
    return np.bincount(distances.argmin(1), minlength=len(modes)) / n_draws


# -- masses ------------------------------------------------------------------------


def test_masses_of_one_output_are_integrals_between_antimodes():
    density = random_density(20, 6, 1)
    modes, masses = density.modes(return_mass=True)
    for row in range(20):
        one, order = density[row], modes[row][:, 0].argsort()
        places = modes[row][order, 0]
        cuts = [
            optimize.minimize_scalar(
                lambda y, one=one: one.logpdf([y])[0], bounds=pair, method="bounded"
            ).x
            for pair in pairwise(places)
        ]
        edges = [-np.inf, *cuts, np.inf]
        expected = np.diff([one.cdf([edge])[0] for edge in edges])
        assert_allclose(masses[row][order], expected, atol=1e-5)
        assert_allclose(masses[row].sum(), 1, rtol=1e-12)


@pytest.mark.parametrize("d", [2, 3, 5])
def test_masses_are_shares_of_draws_that_climb(d):
    density = apart(4, d, seed=d)
    modes, masses = density.modes(return_mass=True)
    assert max(map(len, modes)) > 1
    for row in range(4):
        expected = shares_of(density[row], modes[row], 10_000)
        assert_allclose(masses[row], expected, atol=0.02)
        assert_allclose(masses[row].sum(), 1, rtol=1e-12)


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), d=st.integers(1, 3), K=st.integers(1, 5))
def test_masses_sum_to_one_and_modes_do_not_change(seed, d, K):
    density = apart(3, d, seed, K)
    found = density.modes()
    modes, masses = density.modes(return_mass=True)
    for row in range(3):
        assert len(modes[row]) == len(masses[row]) >= len(found[row])
        assert_allclose(masses[row].sum(), 1, rtol=1e-12)
        assert (masses[row] >= 0).all()
        assert (np.diff(density[row].logpdf(modes[row][:, None])[:, 0]) <= 1e-12).all()


def test_masses_with_bounds_are_those_of_y():
    latent = MixtureDensity([[0.3, 0.7]], [[-2.0, 2.0]], [[2.0, 2.0]])
    density = TransformedDensity(latent, (0, None))
    (modes,), (masses,) = density.modes(return_mass=True)
    low, high = np.sort(modes)
    cut = optimize.minimize_scalar(
        lambda y: density.logpdf([y])[0], bounds=(low, high), method="bounded"
    ).x
    below, _ = integrate.quad(lambda y: density.pdf([y])[0], 0, cut, points=[low])
    assert_allclose(masses[modes.argmin()], below, atol=1e-6)
    assert_allclose(masses.sum(), 1, rtol=1e-12)


def test_masses_of_two_outputs_with_bounds():
    latent = apart(4, 2, seed=3)
    density = TransformedDensity(latent, [(0, None), (0, 1)])
    modes, masses = density.modes(return_mass=True)
    assert_array_equal([len(m) for m in masses], [len(m) for m in modes])
    assert_allclose([m.sum() for m in masses], 1, rtol=1e-12)


# -- merging -----------------------------------------------------------------------


def ripples(d, height=0.02):
    """Two solutions, 0.4 and 0.6, each a chain of components with a shallow ripple."""
    chain = np.arange(-2, 3) * 1.1
    means = np.concatenate([chain - 10, chain + 10])
    weights = np.repeat([0.4, 0.6], 5) / 5 * (1 + height * (-1.0) ** np.arange(10))
    points = np.zeros((1, 10, d))
    points[0, :, 0] = means
    return MixtureDensity(
        weights[None] / weights.sum(), points, np.tile(2.0 * np.eye(d), (1, 10, 1, 1))
    )


@pytest.mark.parametrize("d", [1, 2])
def test_ripples_of_two_solutions_are_two_modes(d):
    density = ripples(d)
    assert len(density.modes()[0]) == 10
    # Each basin of a ripple holds 0.08 or 0.12, but hardly stands out.
    (modes,), (masses,) = density.modes(min_mass=0.05, return_mass=True)
    assert len(modes) == 2
    assert_allclose(np.sort(masses), [0.4, 0.6], atol=0.01)
    assert_allclose(np.sort(np.sign(modes[:, 0])), [-1, 1])


@pytest.mark.parametrize("d", [1, 2])
@pytest.mark.parametrize(
    ("least", "n_modes"), [(0.0, 3), (0.04, 3), (0.06, 2), (0.4, 1)]
)
def test_modes_apart_are_merged_by_the_mass_of_their_basins(d, least, n_modes):
    means = np.zeros((1, 3, d))
    means[0, :, 0] = [-20, 0, 15]
    density = MixtureDensity(
        [[0.35, 0.6, 0.05]], means, np.tile(np.eye(d), (1, 3, 1, 1))
    )
    (modes,), (masses,) = density.modes(least, return_mass=True)
    assert len(modes) == n_modes
    expected = {3: [0.6, 0.35, 0.05], 2: [0.65, 0.35], 1: [1.0]}[n_modes]
    assert_allclose(masses, expected, atol=2e-3)
    assert_allclose(modes[0, 0], 0, atol=1e-3)
    assert_allclose(density.mode()[0], modes[0])


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), least=st.floats(0, 0.5), d=st.integers(1, 2))
def test_merged_modes_are_modes_that_hold_enough(seed, least, d):
    density = apart(2, d, seed, K=6)
    every, all_masses = density.modes(return_mass=True)
    modes, masses = density.modes(least, return_mass=True)
    for row in range(2):
        gaps = np.abs(modes[row][:, None] - every[row]).max(-1)
        assert gaps.min(1).max() < 1e-6
        assert_allclose(masses[row].sum(), 1, rtol=1e-12)
        assert len(masses[row]) == 1 or masses[row].min() >= least
        if least == 0:
            assert_allclose(masses[row], all_masses[row])


def test_a_chain_of_merges_follows_the_highest_pass():
    # Modes 0 and 1 share a high pass, 1 and 2 a low one; points hold the excess.
    passes = np.array(
        [[-np.inf, -0.1, -5], [-0.1, -np.inf, -3], [-5, -3, -np.inf]], dtype=float
    )
    labels = np.repeat([0, 1, 2], [1, 5, 4])
    basins = Basins(
        np.array([0.1, 0.5, 0.4]), passes, labels, np.zeros(10), np.full(10, 0.1)
    )
    # The excess of mode 0 is 0.1 (1 - e^-0.1).
    for least, kept, masses in [
        (0.009, [0, 1, 2], [0.1, 0.5, 0.4]),
        (0.01, [1, 2], [0.6, 0.4]),
        (0.5, [1], [1.0]),
    ]:
        found, mass = merge(basins, least)
        assert_array_equal(found, kept)
        assert_allclose(mass, masses)


@pytest.mark.parametrize("least", [-0.1, 1.1, [0.1], "half", np.nan])
def test_a_wrong_min_mass_is_named(least):
    with pytest.raises((ValueError, TypeError), match="min_mass"):
        random_density(1, 2, 1).modes(least)


def test_no_rows_have_no_modes():
    density = random_density(2, 3, 2)[:0]
    assert density.modes(0.1) == []
    assert density.modes(0.1, return_mass=True) == ([], [])
