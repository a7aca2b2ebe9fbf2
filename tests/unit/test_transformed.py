"""Densities with bounds against SciPy, quadrature and identities."""

import copy
import pickle

import numpy as np
import pytest
import sklearn
from helpers import random_density, random_scalar_density
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import integrate, special, stats

from skmdn import MixtureDensity, TransformedDensity

BOUNDS = [(0, None), (1, None), (None, 2), (0, 1), (-1, 3)]


def scalar(ends, scale=1.0, n=3, K=3, seed=0):
    """Return a density of a scalar with latent components about `scale` wide."""
    rng = np.random.RandomState(seed)
    stds = scale * np.exp(rng.normal(scale=0.3, size=(n, K)))
    means = scale * rng.normal(size=(n, K))
    latent = MixtureDensity(rng.dirichlet(np.ones(K), n), means, 1 / stds)
    return TransformedDensity(latent, ends)


def to_z(ends, y):
    """Return the latent value of y, by the definition."""
    low, high = ends
    if low is None:
        return -np.log(high - y)
    return np.log(y - low) if high is None else special.logit((y - low) / (high - low))


def panels(density, row):
    """Return cuts of y that resolve all components of a row."""
    offsets = np.arange(-25, 25.5, 0.5)[:, None]
    z = density.latent.means[row] + offsets / density.latent.precision_factors[row]
    near = np.arange(-40, 41)
    return np.unique(density.supports[0].from_latent(np.append(z.ravel(), near)))


def integral(density, row, function):
    """Integrate function(y) p(y) over y for one row, by Gauss-Legendre panels."""
    cuts = panels(density, row)
    nodes, weights = np.polynomial.legendre.leggauss(40)
    half = np.diff(cuts)[:, None] / 2
    y = (cuts[:-1, None] + half * (1 + nodes)).ravel()
    return (half * weights).ravel() @ (function(y) * density[row].pdf(y))


# -- known densities ---------------------------------------------------------------


@pytest.mark.parametrize(("low", "mu", "sigma"), [(0, 0.3, 0.5), (2, -1.0, 1.5)])
def test_one_component_with_a_lower_bound_is_log_normal(low, mu, sigma):
    latent = MixtureDensity([[1.0]], [[mu]], [[1 / sigma]])
    density = TransformedDensity(latent, (low, None))
    normal = stats.lognorm(sigma, loc=low, scale=np.exp(mu))
    y = low + np.logspace(-3, 2, 50)
    assert_allclose(density.logpdf(y[:, None])[:, 0], normal.logpdf(y), rtol=1e-10)
    assert_allclose(density.cdf(y[:, None])[:, 0], normal.cdf(y), rtol=1e-10)
    assert_allclose(density.sf(y[:, None])[:, 0], normal.sf(y), rtol=1e-10)
    q = np.linspace(0.01, 0.99, 21)
    assert_allclose(density.ppf(q[:, None])[:, 0], normal.ppf(q), rtol=1e-12)
    assert_allclose(density.isf(q[:, None])[:, 0], normal.isf(q), rtol=1e-12)
    assert_allclose(density.mean(), normal.mean(), rtol=1e-13)
    assert_allclose(density.var(), normal.var(), rtol=1e-13)
    assert_allclose(density.entropy(), normal.entropy(), rtol=1e-13)
    assert_allclose(density.median(), normal.median(), rtol=1e-13)
    assert_allclose(density.mode(), low + np.exp(mu - sigma**2), rtol=1e-13)


def test_an_upper_bound_mirrors_a_lower_one():
    lower = scalar((-2, None))
    mirrored = MixtureDensity(
        lower.latent.weights, -lower.latent.means, lower.latent.precision_factors
    )
    upper = TransformedDensity(mirrored, (None, 2))
    y = np.linspace(-1.9, 8, 50)[:, None]
    assert_allclose(upper.logpdf(-y), lower.logpdf(y), rtol=1e-12)
    assert_allclose(upper.cdf(-y), lower.sf(y), rtol=1e-12)
    assert_allclose(upper.ppf(0.2), -lower.isf(0.2), rtol=1e-12)
    assert_allclose(upper.mean(), -lower.mean(), rtol=1e-12)
    assert_allclose(upper.var(), lower.var(), rtol=1e-12)
    assert_allclose(upper.entropy(), lower.entropy(), rtol=1e-12)
    assert_allclose(upper.mode(), -lower.mode(), rtol=1e-9)


@pytest.mark.parametrize("sigma", [0.1, 1.0, 5.0])
def test_moments_of_the_logit_normal_are_those_of_scipy_quad(sigma):
    mu = 0.7
    density = TransformedDensity(MixtureDensity([[1]], [[mu]], [[1 / sigma]]), (0, 1))

    def expect(function):
        return integrate.quad(
            lambda z: function(special.expit(z)) * stats.norm.pdf(z, mu, sigma),
            *(mu - 12 * sigma, mu + 12 * sigma),
            epsabs=1e-13,
            epsrel=1e-13,
            limit=500,
            points=[-20, -5, 0, 5, 20] if sigma > 2 else None,
        )[0]

    mean = expect(lambda y: y)
    assert_allclose(density.mean(), mean, rtol=1e-11)
    assert_allclose(density.var(), expect(lambda y: (y - mean) ** 2), rtol=1e-10)


def test_without_bounds_the_numbers_are_those_of_the_mixture():
    latent = random_scalar_density(5, 4)
    density = TransformedDensity(latent)
    y = np.linspace(-3, 3, 5)
    for call in (
        lambda p: p.logpdf(y),
        lambda p: p.cdf(y),
        lambda p: p.logsf(y),
        lambda p: p.ppf(0.3),
        lambda p: p.mean(),
        lambda p: p.var(),
        lambda p: p.entropy(),
        lambda p: p.mode(),
        lambda p: np.concatenate(p.hdr(0.8)),
        lambda p: p.hdr_level([0.0, 0.5, 1.0]),
        lambda p: p.sample(3, 0),
        lambda p: p.interval(0.9)[0],
    ):
        assert_allclose(call(density), call(latent), rtol=1e-13)
    joint = random_density(4, 3, 2)
    density = TransformedDensity(joint, (None, None))
    assert_allclose(density.cov(), joint.cov(), rtol=1e-12)
    assert_allclose(density.hdr_level(0.7), joint.hdr_level(0.7), rtol=1e-13)
    assert_allclose(density.mode(), joint.mode(), rtol=1e-12)


# -- one output --------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("ends", BOUNDS)
def test_density_is_the_change_of_variables_and_integrates_to_one(ends, scale):
    density = scalar(ends, scale)
    y = density.ppf(np.linspace(0.05, 0.95, 19)[:, None])
    room = [abs(y - end) for end in ends if end is not None]
    step = 1e-5 * np.min(room, axis=0)
    slope = (to_z(ends, y + step) - to_z(ends, y - step)) / (2 * step)
    expected = density.latent.pdf(to_z(ends, y)) * slope
    assert_allclose(density.pdf(y), expected, rtol=1e-6)
    for row in range(len(density)):
        # Near a bound that is not zero y has few digits.
        assert_allclose(integral(density, row, np.ones_like), 1, rtol=1e-8)


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("ends", BOUNDS)
def test_moments_and_entropy_are_integrals(ends, scale):
    density = scalar(ends, scale)
    for row in range(len(density)):
        mean = integral(density, row, lambda y: y)
        var = integral(density, row, lambda y, mean=mean: (y - mean) ** 2)
        one = density[row]
        entropy = integral(density, row, lambda y, one=one: -one.logpdf(y))
        assert_allclose(one.mean(), mean, rtol=1e-8)
        assert_allclose(one.var(), var, rtol=1e-8)
        assert_allclose(one.cov(), one.var(), rtol=1e-13)
        assert_allclose(one.entropy(), entropy, rtol=0, atol=1e-7)


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([(0, None), (None, 0), (0, 1), (None, None)]),
    st.floats(-12, np.log10(0.5)),
    st.floats(0.01, 5),
)
def test_quantiles_invert_the_cdf(seed, ends, exponent, scale):
    density, q = scalar(ends, scale, seed=seed), 10**exponent
    if ends != (None, 0):
        assert_allclose(density.cdf(density.ppf(q)), q, rtol=1e-9)
        assert_allclose(density.logcdf(density.ppf(q)), np.log(q), rtol=1e-9)
    if ends != (0, 1):  # near a bound of one y has few digits
        assert_allclose(density.sf(density.isf(q)), q, rtol=1e-9)
        assert_allclose(density.logsf(density.isf(q)), np.log(q), rtol=1e-9)


@pytest.mark.parametrize("ends", BOUNDS)
def test_quantiles_near_any_bound_are_those_of_a_rounded_y(ends):
    density = scalar(ends)
    q = np.logspace(-12, -0.4, 40)[:, None]
    for quantile, probability in (
        (density.ppf, density.cdf),
        (density.isf, density.sf),
    ):
        y = quantile(q)
        steps = [np.nextafter(y, -np.inf), np.nextafter(y, np.inf)]
        low, high = np.sort([probability(step) for step in steps], axis=0)
        assert (low <= q * (1 + 1e-9)).all()
        assert (q * (1 - 1e-9) <= high).all()


@pytest.mark.parametrize("ends", BOUNDS)
def test_values_on_and_outside_the_bounds(ends):
    density = scalar(ends)
    low, high = density.supports[0].ends
    y = np.array([low - 1, low, high, high + 1])[:, None]
    zeros, ones = np.zeros(3), np.ones(3)
    assert_array_equal(density.logpdf(y), np.full((4, 3), -np.inf))
    assert_array_equal(density.cdf(y), [zeros, zeros, ones, ones])
    assert_array_equal(density.sf(y), [ones, ones, zeros, zeros])
    assert_array_equal(density.ppf([[0.0], [1.0]]), [zeros + low, zeros + high])
    assert_array_equal(density.isf([[1.0], [0.0]]), [zeros + low, zeros + high])
    assert_array_equal(density.interval(1), [zeros + low, zeros + high])
    assert_array_equal(density.hdr(1), [[[low, high]]] * 3)
    assert not density.in_hdr(y[np.isfinite(y)][:, None], 0.99).any()


@pytest.mark.parametrize("ends", BOUNDS)
def test_draws_follow_the_cdf(ends):
    density = scalar(ends, n=1)
    draws = density.sample(4000, random_state=0)[0]
    test = stats.kstest(draws, lambda y: density.cdf(y[:, None])[:, 0])
    assert test.pvalue > 0.01
    assert np.isfinite(density.logpdf(draws)).all()


def test_draws_of_very_wide_components_stay_inside():
    latent = MixtureDensity([[1.0]], [[0.0]], [[1e-3]])
    for ends in BOUNDS:
        draws = TransformedDensity(latent, ends).sample(1000, random_state=0)
        assert not TransformedDensity(latent, ends).supports[0].is_outside(draws).any()


def test_moments_beyond_the_range_of_floats_are_infinite():
    latent = MixtureDensity([[0.5, 0.5]], [[0.0, 1.0]], [[1.0, 0.01]])
    density = TransformedDensity(latent, (0, None))
    assert_array_equal(density.mean(), [np.inf])
    assert_array_equal(density.var(), [np.inf])
    assert np.isfinite(density.median()).all()


# -- rows, pools, state ------------------------------------------------------------


SUPPORTS = [(0, None), None, (-1, 3), (None, 1)]


def vector(target_support, n=4, K=3, seed=0):
    return TransformedDensity(
        random_density(n, K, len(target_support), seed), target_support
    )


def test_rows_are_those_of_the_latent_mixture():
    density = vector(SUPPORTS)
    y = density.sample(1, 0)[:, 0]
    assert_array_equal(density[[2, 0]].logpdf(y[[2, 0]]), density.logpdf(y)[[2, 0]])
    assert len(density[1:3]) == 2
    assert repr(density[0]).startswith("TransformedDensity(n_rows=1, n_components=3")


def test_mix_pools_densities_of_equal_supports():
    first, second = scalar((0, 1)), scalar((0, 1), seed=1)
    pooled = TransformedDensity.mix([first, second], weights=[3, 1])
    y = np.linspace(0.1, 0.9, 3)
    assert_allclose(pooled.pdf(y), 0.75 * first.pdf(y) + 0.25 * second.pdf(y))
    with pytest.raises(ValueError, match="same supports"):
        TransformedDensity.mix([first, scalar((0, 2))])
    with pytest.raises(TypeError, match="must hold TransformedDensity"):
        TransformedDensity.mix([first, first.latent])


def named(names, target_support):
    parts = random_density(3, 2, 2)
    latent = MixtureDensity(parts.weights, parts.means, parts.precision_factors, names)
    return TransformedDensity(latent, target_support)


def test_mix_matches_supports_by_name():
    first = named(["a", "b"], {"a": (0, None)})
    second = named(["b", "a"], {"a": (0, None)})
    pooled = TransformedDensity.mix([first, second])
    assert pooled.supports == first.supports
    y = first.sample(1, 0)[:, 0]
    both = (first.pdf(y) + second.pdf(y[:, ::-1])) / 2
    assert_allclose(pooled.pdf(y), both)


def test_state_is_of_arrays_and_builtins():
    density = vector(SUPPORTS)
    kinds = {type(value) for value in density.__getstate__().values()}
    assert kinds == {np.ndarray, tuple, type(None)}
    y = density.sample(1, 0)[:, 0]
    for twin in (pickle.loads(pickle.dumps(density)), copy.deepcopy(density)):
        assert twin.supports == density.supports
        assert_array_equal(twin.logpdf(y), density.logpdf(y))


def test_memory_limit_does_not_change_results():
    density = vector([(0, None), (0, 1)], n=30)

    def results():
        return [density.mean(), density.cov(), density.entropy(), density.mode()]

    expected = results()
    with sklearn.config_context(working_memory=1e-3):
        for ours, theirs in zip(results(), expected, strict=True):
            assert_allclose(ours, theirs, rtol=1e-9)


def test_a_batch_without_rows_has_empty_results():
    density = vector([(0, None), (0, 1)])[:0]
    assert density.mean().shape == (0, 2)
    assert density.cov().shape == (0, 2, 2)
    assert density.entropy().shape == (0,)
    assert density.sample(3, 0).shape == (0, 3, 2)
    assert density.marginal(1).ppf(0.5).shape == (0,)
    assert density.hdr_level(0.5).shape == (0,)
    assert density.modes() == []


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda p: TransformedDensity(p), TypeError, "latent must be a MixtureDensity"),
        (lambda p: TransformedDensity(p.latent, (1, 0)), ValueError, "target_support"),
        (lambda p: p.cdf([0.5, 0.5]), ValueError, "one output"),
        (lambda p: p.interval(0.5), ValueError, "one output"),
        (
            lambda p: p.condition({0: -1.0}),
            ValueError,
            r"inside \(0, inf\) .* 0, got -1",
        ),
        (lambda p: p.condition({1: 1.0}), ValueError, r"inside \(0, 1\) .* 1, got 1"),
        (lambda p: p.condition([1.0]), TypeError, "dict"),
        (lambda p: p.condition({0: 1, 1: 0.5}), ValueError, "at least one free output"),
        (lambda p: p.responsibilities([0.0, 0.5]), ValueError, "y must lie inside"),
        (lambda p: p.logpdf([np.nan, 0.5]), ValueError, "NaN"),
        (lambda p: p.marginal("a"), ValueError, "Unknown output"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call(vector([(0, None), (0, 1)]))
