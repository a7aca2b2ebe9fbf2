"""Distribution functions, quantiles and conversions of densities."""

import numpy as np
import pytest
import torch
from helpers import random_density, random_scalar_density
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from scipy.special import logsumexp

from skmdn import MixtureDensity, TransformedDensity


def test_derivative_of_cdf_is_pdf():
    density = random_scalar_density(5, 3)
    y, step = density.mean(), 1e-5
    slope = (density.cdf(y + step) - density.cdf(y - step)) / (2 * step)
    assert_allclose(slope, density.pdf(y), rtol=1e-7)


def test_cdf_is_that_of_torch():
    density = random_scalar_density(5, 3)
    y = np.random.RandomState(0).normal(size=5)
    assert_allclose(density.cdf(y), density.to_torch().cdf(torch.tensor(y)), rtol=1e-12)


def test_rows_convert_to_scipys_mixtures():
    if not hasattr(stats, "Mixture"):
        with pytest.raises(ImportError, match=r"SciPy 1\.15"):
            random_scalar_density(1, 3).to_scipy()
        return
    density = random_scalar_density(4, 3)
    y = np.linspace(-2, 2, 4)
    found = density.to_scipy()
    for method in ("pdf", "logpdf", "cdf", "ccdf"):
        ours = getattr(density, {"ccdf": "sf"}.get(method, method))(y)
        theirs = [getattr(row, method)(at) for row, at in zip(found, y, strict=True)]
        assert_allclose(ours, theirs, rtol=1e-9)
    assert_allclose(density.mean(), [row.mean() for row in found], rtol=1e-9)
    assert_allclose(density.std(), [row.standard_deviation() for row in found])


def test_densities_convert_to_skpros_mixtures():
    pytest.importorskip("skpro", reason="skpro is not for every version of pandas")
    density = random_scalar_density(4, 3)
    found = density.to_skpro()
    y = np.linspace(-2, 2, 4)
    for method in ("pdf", "cdf"):
        theirs = getattr(found, method)(y[:, None]).to_numpy()[:, 0]
        assert_allclose(getattr(density, method)(y), theirs, rtol=1e-6)
    assert_allclose(density.mean(), found.mean().to_numpy()[:, 0], rtol=1e-9)
    assert_allclose(density.var(), found.var().to_numpy()[:, 0], rtol=1e-9)
    named = MixtureDensity(
        density.weights, density.means, density.precision_factors, output_names=["y"]
    )
    assert list(named.to_skpro().mean().columns) == ["y"]


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("to_scipy", ()),
        ("to_skpro", ()),
        ("median", ()),
        ("recorded", (1.0,)),
        *((name, (0.5,)) for name in ("interval", "ppf", "isf", "cdf", "sf")),
        *((name, (0.5,)) for name in ("logcdf", "logsf")),
    ],
)
@pytest.mark.parametrize("support", [None, (0, None)])
def test_what_has_one_output_takes_no_more(method, arguments, support):
    density = random_density(2, 3, 2)
    density = TransformedDensity(density, support) if support else density
    if method.startswith("to_") and support:
        pytest.skip("densities with bounds are not converted")
    with pytest.raises(ValueError, match=f"^{method} needs one output"):
        getattr(density, method)(*arguments)


def test_ppf_inverts_cdf():
    rng = np.random.RandomState(0)
    stds = 10 ** rng.uniform(-3, 3, size=(200, 4))
    weights = rng.dirichlet(np.ones(4), 200)
    weights[:50, 0] = 1e-12
    weights /= weights.sum(axis=1, keepdims=True)
    density = MixtureDensity(weights, rng.uniform(-50, 50, size=(200, 4)), 1 / stds)
    levels = np.array([1e-12, 1e-6, 0.01, 0.3, 0.5, 0.9, 1 - 1e-6, 1 - 1e-12])
    quantiles = density.ppf(levels[:, None])
    assert quantiles.shape == (8, 200)
    assert (np.diff(quantiles, axis=0) >= 0).all()
    expected = np.broadcast_to(levels[:, None], quantiles.shape)
    assert_allclose(density.cdf(quantiles), expected, atol=1e-10)
    assert_allclose(density.cdf(quantiles)[0], 1e-12, rtol=1e-6)


def test_ppf_at_zero_and_one_is_infinite():
    density = random_scalar_density(3, 2)
    assert_array_equal(density.ppf(0), np.full(3, -np.inf))
    assert_array_equal(density.ppf(1), np.full(3, np.inf))


def test_interval_has_equal_tails():
    density = random_scalar_density(5, 3)
    low, high = density.interval(0.8)
    assert_allclose(density.cdf(low), 0.1, rtol=1e-9)
    assert_allclose(density.cdf(high), 0.9, rtol=1e-9)


def test_tails_keep_their_digits():
    density = MixtureDensity([[0.3, 0.7]], [[-1.0, 2.0]], [[1.0, 0.5]])
    y = np.array([-300.0, -40.0, -1.0, 3.0, 60.0, 500.0])[:, None]
    parts = [stats.norm(-1, 1), stats.norm(2, 2)]
    weights = np.log([[0.3], [0.7]])
    logcdf = logsumexp(weights + [p.logcdf(y[:, 0]) for p in parts], axis=0)
    logsf = logsumexp(weights + [p.logsf(y[:, 0]) for p in parts], axis=0)
    ours = density.logcdf(y)[:, 0], density.logsf(y)[:, 0]
    assert_allclose(ours[0][:4], logcdf[:4], rtol=1e-12)
    assert_allclose(ours[1][2:], logsf[2:], rtol=1e-12)
    # Near one the logarithm of the other tail counts: log(1 - e) = -e.
    assert_allclose(ours[0][4], -np.exp(logsf[4]), rtol=1e-9)
    assert_allclose(ours[1][1], -np.exp(logcdf[1]), rtol=1e-9)
    assert_allclose(density.sf(y)[:5, 0], np.exp(logsf[:5]), rtol=1e-10)


def test_isf_inverts_sf_and_median_halves():
    density = random_scalar_density(5, 3)
    for level in (1e-12, 0.2, 0.7):
        assert_allclose(density.sf(density.isf(level)), level, rtol=1e-8)
    assert_allclose(density.cdf(density.median()), 0.5, rtol=1e-12)
    assert_allclose(density.sf(density.median()), 0.5, rtol=1e-12)
