"""Hard cases of scores, moments and quantiles, against mpmath and identities."""

import mpmath as mp
import numpy as np
import pytest
from helpers import random_density
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import special

from skmdn import MixtureDensity
from skmdn.metrics import crps, energy_score, variogram_score

seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(autouse=True)
def many_digits():
    with mp.workdps(700):
        yield


def gaussian(mean, std=1.0, n_outputs=2):
    factor = np.eye(n_outputs) / std
    return MixtureDensity([[1.0]], [[np.full(n_outputs, mean)]], [[factor]])


def parameters_of(density, row=0):
    """Return exact weights, means and standard deviations of one output."""
    weights = [mp.mpf(w) for w in density.weights[row]]
    means = [mp.mpf(m) for m in density.means[row]]
    stds = [1 / mp.mpf(f) for f in density.precision_factors[row]]
    return [w / sum(weights) for w in weights], means, stds


# -- scores ----------------------------------------------------------------------


@given(st.integers(-(10**12), 10**12), seeds)
def test_energy_score_does_not_depend_on_the_origin(shift, seed):
    density = random_density(3, 2, 2, seed=seed % 1000)
    # Multiples of a power of two, which are exact after the shift.
    means = np.round(density.means * 2**10) / 2**10
    y = np.round(means[:, 0] * 2**9) / 2**9
    scores = [
        energy_score(
            y + by,
            MixtureDensity(density.weights, means + by, density.precision_factors),
        )
        for by in (0, shift)
    ]
    assert_allclose(*scores, rtol=0, atol=1e-9)


@pytest.mark.parametrize("mean", [0.0, 1e6, 1e9, 1e15])
def test_energy_score_of_a_gaussian_at_its_mean(mean):
    # E|Z| - E|Z - Z'| / 2 of two standard normal outputs.
    expected = np.sqrt(np.pi / 2) * (1 - 1 / np.sqrt(2))
    y = [[mean, mean]]
    score, error = energy_score(y, gaussian(mean), n_samples=2000, return_error=True)
    assert abs(score[0] - expected) < 4 * error[0] < 0.05


@pytest.mark.parametrize("order", [0.5, 1, 2, 3.3, 10])
@pytest.mark.parametrize("difference", [1.0, 1e-7, 1e-8, 1e-10])
def test_variogram_score_of_nearly_equal_outputs(difference, order):
    # Y_1 - Y_2 has the standard deviation `difference`, each output has about one.
    a = 1 / difference
    density = MixtureDensity([[1.0]], [[[0.0, 0.0]]], [[[[a, -a], [0.0, 1.0]]]])
    p = mp.mpf(order)
    moment = 2 ** (p / 2) * mp.gamma((1 + p) / 2) / mp.sqrt(mp.pi) / mp.mpf(a) ** p
    found = variogram_score([[0.0, 0.0]], density, order=order)
    assert_allclose(found, float(moment**2), rtol=1e-12)


@pytest.mark.parametrize("order", [0.1, 0.5, 1, 2, 3.3, 7.7, 10, 15.5])
@pytest.mark.parametrize("mean", [0.0, 0.3, 5.0, 9.9, 10.1, 31.0, 33.0, 1e4])
def test_variogram_score_of_any_order(mean, order):
    density = MixtureDensity([[1.0]], [[[mean, 0.0]]], [[np.diag([1.0, 1.0])]])
    p, half = mp.mpf(order), mp.mpf(mean) ** 2 / 4
    moment = 2**p * mp.gamma((1 + p) / 2) / mp.sqrt(mp.pi)
    moment *= mp.hyp1f1(-p / 2, 0.5, -half)
    found = variogram_score([[0.0, 0.0]], density, order=order)
    assert_allclose(found, float(moment**2), rtol=1e-11)


def exact_crps(density, y):
    def mean_absolute(mean, variance):
        std = mp.sqrt(variance)
        return 2 * std * mp.npdf(mean / std) + mean * mp.erf(mean / std / mp.sqrt(2))

    weights, means, stds = parameters_of(density)
    each = list(zip(weights, means, stds, strict=True))
    score = sum(w * mean_absolute(y - m, s**2) for w, m, s in each)
    for w, m, s in each:
        score -= sum(w * v * mean_absolute(m - k, s**2 + t**2) for v, k, t in each) / 2
    return float(score)


@pytest.mark.parametrize(
    ("weights", "means", "stds"),
    [
        ([1 - 1e-12, 1e-12], [0, 2e23], [1, 1]),
        ([1 - 1e-12, 1e-12], [0, 0], [1, 1e23]),
        ([1 - 1e-16, 1e-16], [0, 1e30], [1, 1]),
        ([1 - 1e-9, 5e-10, 5e-10], [0, 1e9, -1e12], [1, 5, 1e10]),
        ([1.0], [1e9], [1e-6]),
    ],
)
def test_crps_with_light_components_far_away(weights, means, stds):
    density = MixtureDensity([weights], [means], 1 / np.array([stds]))
    for y in (means[0], means[0] + 0.3):
        assert_allclose(crps([y], density), exact_crps(density, y), rtol=1e-10)


@given(seeds)
def test_crps_of_wild_mixtures(seed):
    rng = np.random.default_rng(seed)
    K = rng.integers(1, 5)
    weights = rng.dirichlet(np.full(K, rng.choice([0.05, 1.0])))
    means = rng.normal(size=K) * 10.0 ** rng.integers(-3, 15, K)
    stds = 10.0 ** rng.uniform(-5, 12, K)
    density = MixtureDensity([weights], [means], [1 / stds])
    y = rng.normal() * 10.0 ** rng.integers(-3, 4)
    assert_allclose(crps([y], density), exact_crps(density, y), rtol=1e-9)


# -- moments and responsibilities --------------------------------------------------


def test_variance_far_from_zero():
    means = np.array([[1e9, 1e9 + 2e-6, 1e9 - 1e-6]])
    density = MixtureDensity([[0.2, 0.5, 0.3]], means, [[1e6, 2e6, 1e6]])
    weights, exact, stds = parameters_of(density)
    mean = sum(w * m for w, m in zip(weights, exact, strict=True))
    parts = zip(weights, exact, stds, strict=True)
    variance = float(sum(w * (s**2 + (m - mean) ** 2) for w, m, s in parts))
    assert_allclose(density.var(), variance, rtol=1e-12)
    assert_allclose(density.cov(), variance, rtol=1e-12)


@given(st.floats(-1e12, 1e12), seeds)
def test_covariance_does_not_depend_on_the_origin(shift, seed):
    density = random_density(2, 3, 2, seed=seed % 1000)
    means = density.means + shift
    far, near = (
        MixtureDensity(density.weights, m, density.precision_factors)
        for m in (means, means - shift)
    )
    assert_allclose(far.cov(), near.cov(), rtol=1e-9, atol=1e-9)
    variances = np.diagonal(far.cov(), axis1=1, axis2=2)
    assert_allclose(far.var(), variances, rtol=1e-12)


@given(seeds, st.integers(0, 300))
def test_responsibilities_and_conditions_are_right_at_any_distance(seed, exponent):
    rng = np.random.default_rng(seed)
    K, d = 3, 2
    weights, means = rng.dirichlet(np.ones(K)), rng.normal(size=(K, d))
    factors = np.triu(rng.normal(size=(K, d, d)), 1) + np.eye(d)
    if rng.random() < 0.5:  # nearly the same factors: the means then decide
        noise = np.triu(rng.uniform(size=(K, d, d)))
        factors = factors[:1] + noise * 10.0**-exponent
    y = rng.normal(size=d) * 10.0**exponent
    density = MixtureDensity([weights], [means], [factors])

    def exact_shares(outputs):
        logs = []
        for w, m, u in zip(density.weights[0], means, factors, strict=True):
            u, log = mp.matrix(u.tolist()), mp.log(w)
            z = [
                sum(u[i, j] * (mp.mpf(y[j]) - mp.mpf(m[j])) for j in outputs)
                for i in outputs
            ]
            log += sum(mp.log(u[i, i]) for i in outputs)
            logs.append(log - sum(part**2 for part in z) / 2)
        shares = [mp.exp(log - max(logs)) for log in logs]
        return [float(share / sum(shares)) for share in shares]

    assert_allclose(density.responsibilities([y])[0], exact_shares([0, 1]), atol=1e-6)
    given_last = density.condition({1: y[1]})
    assert_allclose(given_last.weights[0], exact_shares([1]), atol=1e-6)
    assert np.isfinite(given_last.means).all()


# -- quantiles -------------------------------------------------------------------


@given(seeds, st.sampled_from([1, 3, 10, 30, 100]))
def test_quantiles_of_any_spread(seed, decades):
    rng = np.random.default_rng(seed)
    n, K = 20, int(rng.integers(1, 41))
    weights = rng.dirichlet(np.full(K, rng.choice([0.02, 0.3, 5])), n)
    stds = 10.0 ** rng.uniform(-decades, decades, size=(n, K))
    means = rng.normal(size=(n, K)) * 10.0 ** rng.uniform(-decades, decades, (n, 1))
    density = MixtureDensity(weights, means, 1 / stds)
    q = 10 ** rng.uniform(-12, np.log10(0.5), size=n)
    for y, sign in ((density.ppf(q), 1), (density.isf(q), -1)):

        def tail(y, sign=sign):
            z = sign * (y[:, None] - means) * density.precision_factors
            return (density.weights * special.ndtr(z)).sum(axis=1)

        step = 20 * np.spacing(np.abs(y))
        ends = np.sort([tail(y - step), tail(y + step)], axis=0)
        assert (ends[0] <= q * (1 + 1e-10)).all()
        assert (ends[1] >= q * (1 - 1e-10)).all()


def test_quantiles_between_components_of_very_different_widths():
    density = MixtureDensity([[0.5, 0.5]], [[0.0, 0.0]], [[1.0, 1e-30]])
    levels = np.array([0.3, 0.6, 0.9])
    expected = [special.ndtri(0.1), special.ndtri(0.7), 1e30 * special.ndtri(0.8)]
    assert_allclose(density.ppf(levels[:, None])[:, 0], expected, rtol=1e-12)


def test_quantiles_of_narrow_components_far_away():
    density = MixtureDensity([[0.5, 0.5]], [[0.0, 1e9]], [[1.0, 1e6]])
    levels = np.linspace(0.51, 0.99, 49)
    y = density.ppf(levels[:, None])[:, 0]
    # The nearest float to the quantile of the narrow component.
    exact = 1e9 + 1e-6 * special.ndtri(2 * levels - 1)
    assert (np.abs(y - exact) <= np.spacing(1e9)).all()


def test_an_equation_without_a_root_is_not_answered():
    import torch

    from skmdn._mixture.roots import solve_increasing

    ends = torch.tensor([0.0], dtype=torch.float64), torch.ones(1, dtype=torch.float64)

    def undefined(x):
        return x * torch.nan, x, x

    with pytest.raises(ArithmeticError, match="no root"):
        solve_increasing(undefined, *ends, start=ends[0], scale=ends[1], parameters=())


def test_middle_float_halves_the_floats():
    import torch

    from skmdn._mixture.roots import middle_float

    low = torch.tensor([-1e300, 1.0, 1.0, -2.0, 0.0], dtype=torch.float64)
    high = torch.tensor([1e300, 2.0, 1 + 2**-52, -1.0, 5e-324], dtype=torch.float64)
    middle = middle_float(low, high)
    assert_array_equal(middle[:4], [0.0, 1.5, 1.0, -1.5])
    assert middle[4] in (0.0, 5e-324)


# -- units -------------------------------------------------------------------------


@pytest.mark.parametrize("unit", [1e-149, 1e-100, 1e100, 1e149])
def test_results_do_not_depend_on_the_unit(unit):
    weights, means, stds = [[0.5, 0.5]], np.array([[0.0, 1.0]]), np.array([[1.0, 0.7]])
    one = MixtureDensity(weights, means, 1 / stds)
    other = MixtureDensity(weights, means * unit, 1 / (stds * unit))
    assert_allclose(other.std() / unit, one.std())
    assert_allclose(other.entropy() - np.log(unit), one.entropy())
    assert_allclose(other.modes()[0] / unit, one.modes()[0])
    assert_allclose(other.hdr(0.9)[0] / unit, one.hdr(0.9)[0])
    assert_allclose(other.ppf([[0.01], [0.6]]) / unit, one.ppf([[0.01], [0.6]]))
    assert_allclose(crps([unit], other) / unit, crps([1.0], one))
    scores = energy_score([unit], other) / unit, energy_score([1.0], one)
    assert_allclose(*scores)


@pytest.mark.parametrize(
    ("mean", "factor", "message"),
    [
        (0.0, 1e151, r"precision_factors must lie within .* got 1e\+151"),
        (0.0, 1e-151, r"diagonal of precision_factors .* got 1e-151"),
        (-1e151, 1.0, r"means must lie within 1e\+150 of zero, got 1e\+151"),
    ],
)
def test_units_whose_squares_overflow_are_refused(mean, factor, message):
    with pytest.raises(ValueError, match=message):
        MixtureDensity([[1.0]], [[mean]], [[factor]])
