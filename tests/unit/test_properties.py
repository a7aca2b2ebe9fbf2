"""Properties of every mixture, tested by hypothesis."""

import math

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose
from scipy import stats

from skmdn import MixtureDensity
from skmdn.metrics import crps, log_score, pit

# Locations and scales are multiples of a unit, which may be tiny or huge.
units = st.sampled_from([1e-12, 1e-3, 1.0, 1e6])
moderate = st.floats(-30, 30, allow_subnormal=False).map(lambda x: round(x, 6))
confidences = st.floats(0.001, 0.999)


@st.composite
def densities(draw, min_outputs=1, max_outputs=3):
    """A density, and the unit in which it has moderate numbers."""
    n, K = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    d, unit = draw(st.integers(min_outputs, max_outputs)), draw(units)
    shares = draw(hnp.arrays(float, (n, K), elements=st.floats(1e-6, 1)))
    means = draw(hnp.arrays(float, (n, K, d), elements=moderate))
    upper = draw(hnp.arrays(float, (n, K, d, d), elements=st.floats(-3, 3)))
    diagonal = draw(hnp.arrays(float, (n, K, d), elements=st.floats(0.05, 20)))
    factors = np.triu(upper, 1) + diagonal[..., None] * np.eye(d)
    weights = shares / shares.sum(axis=1, keepdims=True)
    return MixtureDensity(weights, unit * means, factors / unit), unit


@st.composite
def densities_with_rows(draw, **sizes):
    """A density, its unit, and a y for each row near one of its components."""
    density, unit = draw(densities(**sizes))
    n, d = len(density), density.n_outputs
    offsets = draw(hnp.arrays(float, (n, d), elements=st.floats(-5, 5)))
    component = draw(hnp.arrays(int, n, elements=st.integers(0, 9)))
    component %= density.n_components
    return density, unit, density.from_latent(offsets, component)


def scalar(density):
    return density.marginal(0)


# -- mixtures --------------------------------------------------------------------


@given(densities_with_rows())
def test_logpdf_is_that_of_scipy_mixed_by_hand(drawn):
    density, _, y = drawn
    # SciPy takes near-singular covariances for singular ones.
    assume(np.linalg.cond(density.covariances).max() < 1e8)
    expected = []
    for i, row in enumerate(y):
        parts = [
            stats.multivariate_normal.logpdf(row, mean, cov, allow_singular=True)
            for mean, cov in zip(density.means[i], density.covariances[i], strict=True)
        ]
        expected.append(np.logaddexp.reduce(np.log(density.weights[i]) + parts))
    assert_allclose(density.logpdf(y), expected, rtol=1e-5, atol=1e-5)


@given(densities_with_rows(min_outputs=2), st.data())
def test_joint_is_marginal_times_conditional(drawn, data):
    density, _, y = drawn
    d = density.n_outputs
    known = data.draw(st.sets(st.integers(0, d - 1), min_size=1, max_size=d - 1))
    rest = [j for j in range(d) if j not in known]
    marginal = density.marginal(sorted(known)).logpdf(y[:, sorted(known)])
    conditional = density.condition({j: y[:, j] for j in known})
    total = marginal + conditional.logpdf(y[:, rest])
    assert_allclose(total, density.logpdf(y), rtol=1e-6, atol=1e-6)


@given(densities_with_rows(min_outputs=3), st.permutations(range(3)))
def test_marginals_of_marginals_are_marginals(drawn, order):
    density, _, y = drawn
    first, second, _ = order
    through = density.marginal([second, first]).marginal([1])
    expected = density.marginal([first]).logpdf(y[:, [first]])
    assert_allclose(through.logpdf(y[:, [first]]), expected, rtol=1e-8, atol=1e-8)
    turned = density.marginal(list(order)).logpdf(y[:, list(order)])
    assert_allclose(turned, density.logpdf(y), rtol=1e-8, atol=1e-8)


@given(densities_with_rows(), st.data())
def test_order_and_splitting_of_components_are_irrelevant(drawn, data):
    density, _, y = drawn
    order = data.draw(st.permutations(range(density.n_components)))
    weights = np.repeat(density.weights[:, order] / 2, 2, axis=1)
    means = np.repeat(density.means[:, order], 2, axis=1)
    factors = np.repeat(density.precision_factors[:, order], 2, axis=1)
    same = MixtureDensity(weights, means, factors)
    assert_allclose(same.logpdf(y), density.logpdf(y), rtol=1e-9, atol=1e-9)
    mixed = MixtureDensity.mix([density, same], weights=[0.3, 0.7])
    assert_allclose(mixed.logpdf(y), density.logpdf(y), rtol=1e-9, atol=1e-9)
    assert_allclose(same.mean(), density.mean())


@given(densities_with_rows())
def test_latent_codes_are_inverted_with_their_jacobian(drawn):
    density, unit, y = drawn
    z, log_det = density.to_latent(y)
    assert_allclose(density.from_latent(z), y[:, None] + 0 * z, rtol=1e-7, atol=unit)
    joint = np.log(density.weights) + log_det + stats.norm.logpdf(z).sum(-1)
    total = np.logaddexp.reduce(joint, axis=1)
    assert_allclose(total, density.logpdf(y), rtol=1e-9, atol=1e-9)


@given(densities())
def test_covariance_is_within_plus_between(drawn):
    density, unit = drawn
    weights = density.weights[..., None, None]
    apart = density.means - density.mean()[:, None]
    between = apart[..., :, None] * apart[..., None, :]
    expected = (weights * (density.covariances + between)).sum(axis=1)
    assert_allclose(density.cov(), expected, rtol=1e-9, atol=1e-9 * unit**2)
    variances = np.diagonal(density.cov(), axis1=1, axis2=2)
    assert_allclose(density.var(), variances, rtol=1e-9)
    assert_allclose(density.std() ** 2, density.var(), rtol=1e-12)


@given(densities_with_rows())
def test_responsibilities_are_shares(drawn):
    density, _, y = drawn
    shares = density.responsibilities(y)
    assert (shares >= 0).all()
    assert_allclose(shares.sum(axis=-1), 1, rtol=1e-12)
    assert_allclose(-log_score(y, density), density.logpdf(y))


@given(densities())
def test_entropy_is_at_most_that_of_the_gaussian_of_equal_covariance(drawn):
    density, _ = drawn
    assume(np.linalg.cond(density.cov()).max() < 1e8)
    d = density.n_outputs
    _, log_det = np.linalg.slogdet(density.cov())
    gaussian = 0.5 * (d * math.log(2 * math.pi * math.e) + log_det)
    assert (density.entropy() <= gaussian + 0.02).all()


@given(densities(max_outputs=1), confidences, confidences)
def test_quantiles_invert_the_distribution_function(drawn, p, q):
    density = scalar(drawn[0])
    assert_allclose(density.cdf(density.ppf(q)), q, rtol=1e-9)
    assert_allclose(density.sf(density.isf(q)), q, rtol=1e-9)
    assert_allclose(density.cdf(density.ppf(q)) + density.sf(density.ppf(q)), 1)
    low, high = sorted((p, q))
    assert (density.ppf(low) <= density.ppf(high)).all()
    # The quantile of a mixture lies between those of its components.
    components = stats.norm.ppf(q, density.means, 1 / density.precision_factors)
    rounding = 1e-9 * np.abs(components).max(axis=1)
    assert (density.ppf(q) >= components.min(axis=1) - rounding).all()
    assert (density.ppf(q) <= components.max(axis=1) + rounding).all()


@given(densities(max_outputs=1), confidences)
def test_intervals_and_regions_have_their_mass(drawn, confidence):
    density = scalar(drawn[0])
    low, high = density.interval(confidence)
    assert_allclose(density.cdf(high) - density.cdf(low), confidence, rtol=1e-6)
    for i, pieces in enumerate(density.hdr(confidence)):
        row = density[i : i + 1]
        mass = sum(float(row.cdf(b)[0] - row.cdf(a)[0]) for a, b in pieces)
        assert_allclose(mass, confidence, atol=1e-6)
        length = sum(b - a for a, b in pieces)
        assert length <= (high[i] - low[i]) * (1 + 1e-4)


@given(densities(max_outputs=1))
def test_no_point_of_a_grid_is_higher_than_the_mode(drawn):
    density = scalar(drawn[0])
    grid = (
        density.means[:, :, None]
        + np.linspace(-3, 3, 25) / (density.precision_factors[:, :, None])
    )
    values = density.logpdf(grid.reshape(len(density), -1).T)
    assert (density.logpdf(density.mode()) >= values.max(axis=0) - 1e-6).all()


@given(densities_with_rows(max_outputs=1))
def test_scores_are_proper_numbers(drawn):
    density, unit, y = scalar(drawn[0]), drawn[1], drawn[2][:, 0]
    score = crps(y, density)
    assert (score >= 0).all()
    # E|Y - y| - E|Y - Y'| / 2 is at most the first term, and that at most its square's.
    distance = np.sqrt(density.var() + (density.mean() - y) ** 2)
    assert (score <= distance * (1 + 1e-9) + 1e-12 * unit).all()
    assert_allclose(pit(y, density), density.cdf(y), rtol=1e-12)


@given(densities_with_rows(), st.floats(-1e3, 1e3), st.sampled_from([1e-6, 2.0, 1e9]))
def test_densities_change_their_unit(drawn, shift, scale):
    density, unit, y = drawn
    shift *= unit
    moved = MixtureDensity(
        density.weights,
        scale * density.means + scale * shift,
        density.precision_factors / scale,
    )
    expected = density.logpdf(y) - density.n_outputs * math.log(scale)
    assert_allclose(moved.logpdf(scale * y + scale * shift), expected, atol=1e-5)
