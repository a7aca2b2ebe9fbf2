"""Distributions of recorded values against SciPy, brute-force sums and sampling."""

import copy
import pickle

import numpy as np
import pytest
from helpers import quick, random_density
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from skmdn import MixtureDensity, RecordedDensity, TransformedDensity
from skmdn._data.outputs import Outputs
from skmdn._mixture.edge_sums import N_NODES, _nodes
from skmdn._utils.arrays import to_tensor
from skmdn.density._parameters import from_mixture
from skmdn.metrics import (
    coverage,
    crps,
    energy_score,
    interval_score,
    log_score,
    neg_crps_scorer,
    neg_log_score_scorer,
    pit,
)

ENDS = [None, (0, None), (None, 2), (-2, 3), (0.5, None)]


def normal(mean, std):
    return MixtureDensity([[1.0]], [[mean]], [[1 / std]])


def density_of(ends, scale=1.0, n=3, n_components=3, seed=0):
    """Return a random density of a scalar with latent components of given width."""
    rng = np.random.RandomState(seed)
    stds = scale * np.exp(rng.normal(scale=0.3, size=(n, n_components)))
    means = scale * rng.normal(size=(n, n_components))
    weights = rng.dirichlet(np.ones(n_components), n)
    latent = MixtureDensity(weights, means, 1 / stds)
    return latent if ends is None else TransformedDensity(latent, ends)


def grid_of(recorded, tail=1e-17):
    """Return all recorded values of more than negligible probability, (m, 1)."""
    low, high = recorded.ppf(tail).min(), recorded.isf(tail).max()
    count = round((high - low) / recorded.step)
    return low + recorded.step * np.arange(-1, count + 2)[:, None]


# -- probabilities -----------------------------------------------------------------


@pytest.mark.parametrize("ends", ENDS, ids=str)
@pytest.mark.parametrize("step", [0.25, 1.0, 3.0])
def test_probabilities_sum_to_one(ends, step):
    recorded = density_of(ends, 0.4).recorded(step)
    grid = grid_of(recorded)
    assert_allclose(recorded.pmf(grid).sum(0), 1, rtol=1e-12)
    assert_allclose(recorded.cdf(grid), recorded.pmf(grid).cumsum(0), atol=1e-13)
    assert_allclose(recorded.cdf(grid) + recorded.sf(grid), 1, rtol=1e-13)


@pytest.mark.parametrize("offset", [-30, -8, 0, 8, 30])
def test_pmf_of_a_normal_in_both_tails(offset):
    y = np.arange(offset - 3.0, offset + 4)
    reflected = np.where(y > 0, -y, y)  # where the cdf has digits
    upper, lower = (stats.norm.logcdf(reflected + h) for h in (0.5, -0.5))
    expected = upper + np.log1p(-np.exp(lower - upper))
    actual = normal(0.0, 1.0).recorded(1.0).logpmf(y[:, None])[:, 0]
    assert_allclose(actual, expected, rtol=1e-12)


def test_pmf_of_a_log_normal_and_the_cell_of_its_bound():
    recorded = TransformedDensity(normal(0.3, 0.5), (0, None)).recorded(1.0)
    y = np.arange(-2.0, 12)
    law = stats.lognorm(0.5, scale=np.exp(0.3))
    expected = law.cdf(y + 0.5) - law.cdf(y - 0.5)
    assert_allclose(recorded.pmf(y[:, None])[:, 0], expected, rtol=1e-9, atol=1e-300)
    assert_allclose(recorded.pmf(0.0), law.cdf(0.5), rtol=1e-12)
    assert_allclose(recorded.sf(0.0), law.sf(0.5), rtol=1e-12)
    assert_array_equal(recorded.logpmf([[-1.0], [np.inf]]), -np.inf)


def test_narrow_cells_have_the_probability_of_density_times_step():
    density = density_of((0, None))
    y = density.sample(1, 0)[:, 0]
    logs = density.recorded(1e-9).logpmf(y) - np.log(1e-9)
    assert_allclose(logs, density.logpdf(y), atol=1e-7)


def test_logarithms_are_those_of_the_probabilities():
    recorded = density_of((0, 4)).recorded(0.5)
    y = np.arange(0.5, 4, 0.5)[:, None]
    assert_allclose(np.exp(recorded.logcdf(y)), recorded.cdf(y), rtol=1e-12)
    assert_allclose(np.exp(recorded.logsf(y)), recorded.sf(y), rtol=1e-12)
    assert_allclose(np.exp(recorded.logpmf(y)), recorded.pmf(y), rtol=1e-12)


# -- quantiles ---------------------------------------------------------------------


@pytest.mark.parametrize("ends", ENDS, ids=str)
@pytest.mark.parametrize(("step", "offset"), [(0.1, 0.0), (1.0, 0.25), (4.0, 0.0)])
def test_ppf_is_the_smallest_value_that_reaches_the_level(ends, step, offset):
    recorded = RecordedDensity(density_of(ends), step, offset)
    q = np.random.RandomState(0).uniform(size=(200, 1))
    values = recorded.ppf(q)
    assert (recorded.cdf(values) >= q).all()
    assert (recorded.cdf(values - step) < q).all()
    values = recorded.isf(q)
    assert (recorded.sf(values) <= q).all()
    assert (recorded.sf(values - step) > q).all()
    places = (values - offset) / step
    assert_allclose(places, np.round(places), atol=1e-9)


@pytest.mark.parametrize("ends", ENDS, ids=str)
def test_ppf_inverts_the_cdf(ends):
    recorded = density_of(ends).recorded(0.5)
    y = np.arange(-1.5, 2.5, 0.5)[:, None]
    y = y[(recorded.pmf(y) > 1e-10).all(1)]
    assert_array_equal(recorded.ppf(recorded.cdf(y)), np.broadcast_to(y, (len(y), 3)))
    assert_array_equal(recorded.isf(recorded.sf(y)), np.broadcast_to(y, (len(y), 3)))


def test_quantiles_in_a_gap_are_at_its_lower_end():
    gap = MixtureDensity([[0.5, 0.5]], [[-1000.0, 1000.0]], [[1.0, 1.0]])
    recorded = gap.recorded(1.0)
    assert_array_equal(recorded.median(), recorded.ppf(recorded.cdf(0.0)))
    assert -1000 < recorded.median()[0] < -985
    assert -1000 < recorded.isf(0.5)[0] < -985


def test_extreme_levels_give_the_extreme_recorded_values():
    inner = density_of((0, 2.2)).recorded(1.0)
    assert_array_equal(inner.ppf([[0.0], [1.0]]), [[0] * 3, [2] * 3])
    assert_array_equal(inner.isf([[1.0], [0.0]]), [[0] * 3, [2] * 3])
    assert_array_equal(density_of((0.5, 2.5)).recorded(1.0).ppf(0.0), 1)
    assert_array_equal(density_of((0.5, 2.5)).recorded(1.0).ppf(1.0), 2)
    outer = density_of(None).recorded(1.0)
    assert_array_equal(outer.ppf([[0.0], [1.0]]), [[-np.inf] * 3, [np.inf] * 3])


def test_recorded_values_are_the_nearest_decimal_numbers():
    recorded = density_of(None, n=1, scale=3).recorded(0.1)
    values = recorded.sample(200, 0)
    assert_array_equal(values, np.round(values, 1))


def test_an_output_axis_is_kept():
    scalar = density_of(None)
    vector = MixtureDensity(
        scalar.weights,
        scalar.means[..., None],
        scalar.precision_factors[..., None, None],
    )
    plain, recorded = scalar.recorded(0.5), vector.recorded(0.5)
    assert_array_equal(recorded.ppf(0.3), plain.ppf(0.3)[:, None])
    levels = np.array([[0.0], [0.3], [0.8]])
    assert_array_equal(recorded.ppf(levels), plain.ppf(levels)[..., None])
    assert_array_equal(recorded.isf([0.1, 0.2, 0.3])[:, 0], plain.isf([0.1, 0.2, 0.3]))
    for method in ("mean", "var", "std", "mode", "median"):
        expected = getattr(plain, method)()
        assert_allclose(getattr(recorded, method)(), expected[:, None], rtol=1e-14)
    assert_array_equal(recorded.sample(5, 0), plain.sample(5, 0)[..., None])
    y = recorded.sample(1, 0)[:, 0]
    assert_array_equal(recorded.pmf(y), plain.pmf(y[:, 0]))
    assert_allclose(recorded.crps(y), plain.crps(y[:, 0]), rtol=1e-14)
    assert pit(y, recorded, 0).shape == (3, 1)
    assert interval_score(y, recorded, [0.5, 0.9]).shape == (2, 3)


# -- samples, moments, mode --------------------------------------------------------


@pytest.mark.parametrize("ends", ENDS, ids=str)
def test_samples_follow_the_probabilities(ends):
    recorded = density_of(ends, n=1).recorded(0.5)
    values, counts = np.unique(recorded.sample(20000, 0), return_counts=True)
    expected = 20000 * recorded.pmf(values[:, None])[:, 0]
    is_rare = expected < 20
    observed = [*counts[~is_rare], counts[is_rare].sum() + 20]
    expected = [*expected[~is_rare], 20000 - expected[~is_rare].sum() + 20]
    assert stats.chisquare(observed, expected).pvalue > 1e-3


@pytest.mark.parametrize("ends", ENDS, ids=str)
@pytest.mark.parametrize("step", [0.02, 0.3, 2.0])
@pytest.mark.parametrize("offset", [0.0, 0.1])
def test_moments_and_mode_equal_sums(ends, step, offset):
    recorded = RecordedDensity(density_of(ends, 0.4), step, offset)
    grid = grid_of(recorded)
    share = recorded.pmf(grid)
    mean = (share * grid).sum(0)
    assert_allclose(recorded.mean(), mean, rtol=1e-10, atol=1e-10)
    var = (share * (grid - mean) ** 2).sum(0)
    assert_allclose(recorded.var(), var, rtol=1e-9, atol=1e-14)
    assert_allclose(recorded.std(), np.sqrt(recorded.var()))
    assert_allclose(recorded.pmf(recorded.mode()), share.max(0), rtol=1e-9)


def test_moments_of_wide_normals_have_the_correction_of_sheppard():
    recorded = normal(0.3, 1e5).recorded(0.01)
    assert_allclose(recorded.mean(), 0.3, rtol=1e-9)
    assert_allclose(recorded.var(), 1e10 + 0.01**2 / 12, rtol=1e-13)
    assert_allclose(normal(0.3, 2.0).recorded(1.0).var(), 4 + 1 / 12, rtol=1e-13)


def test_components_much_narrower_and_wider_than_the_step():
    density = MixtureDensity([[0.5, 0.5]], [[3.2, 0.0]], [[100.0, 0.01]])
    recorded = density.recorded(1.0)
    wide = normal(0.0, 100.0).recorded(1.0)
    assert_allclose(recorded.mean(), 1.5, rtol=1e-11)
    second = 0.5 * 9 + 0.5 * wide.var()
    assert_allclose(recorded.var(), second - 1.5**2, rtol=1e-12)
    assert_array_equal(recorded.mode(), 3)


@pytest.mark.parametrize("length", [1, 5, N_NODES, N_NODES + 1, 40, 1000])
def test_sums_over_edges_are_exact_for_polynomials(length):
    places, weights = _nodes(to_tensor([[3.0]]), to_tensor([[float(length)]]))
    edges = 3.0 + np.arange(length)
    for degree in range(N_NODES):
        scale = 3.0 + length
        actual = (weights * (places / scale) ** degree).sum()
        assert_allclose(actual, ((edges / scale) ** degree).sum(), rtol=1e-12)


# -- scores ------------------------------------------------------------------------


@pytest.mark.parametrize("ends", ENDS, ids=str)
@pytest.mark.parametrize("step", [0.02, 0.3, 2.0])
def test_crps_equals_the_sum_over_all_cells(ends, step):
    recorded = density_of(ends, 0.4).recorded(step)
    grid = grid_of(recorded)
    for y in recorded.ppf([[0.01], [0.5], [0.99], [1 - 1e-9]]):
        is_above = grid > y - step / 2
        tails = np.where(is_above, recorded.sf(grid), recorded.cdf(grid))
        expected = step * (tails**2).sum(0)
        assert_allclose(recorded.crps(y), expected, rtol=1e-9, atol=1e-30)


def test_crps_far_from_the_components_and_outside_of_the_bounds():
    recorded = density_of((0, None), 0.3).recorded(1.0)
    values = [-50.0, 1e4]
    spread = recorded.sample(2000, 0)
    spread = np.abs(spread[:, :, None] - spread[:, None, :1000]).mean((1, 2)) / 2
    for y in values:
        expected = np.abs(y - recorded.mean()) - spread
        assert_allclose(recorded.crps(y), expected, atol=0.05)


def test_crps_equals_an_estimate_from_samples():
    recorded = density_of((0, None), 0.8).recorded(1.0)
    y = recorded.sample(1, 1)[:, 0]
    first, second = recorded.sample(400000, 0).reshape(3, 2, -1).swapaxes(0, 1)
    terms = np.abs(first - y[:, None]) - np.abs(first - second) / 2
    error = terms.std(1) / np.sqrt(terms.shape[1])
    assert (np.abs(terms.mean(1) - recorded.crps(y)) < 4 * error).all()


def test_crps_of_fine_steps_is_that_of_the_density():
    density = density_of((0, 1))
    y = np.round(density.sample(1, 0)[:, 0], 6)
    assert_allclose(density.recorded(1e-6).crps(y), crps(y, density), rtol=1e-9)


def test_metrics_of_recorded_values():
    recorded = density_of((0, None), 0.8).recorded(0.5)
    y = recorded.sample(1, 0)[:, 0]
    expected = -np.log(recorded.pmf(y) / 0.5)
    assert_allclose(log_score(y, recorded), expected, rtol=1e-12)
    assert_array_equal(crps(y, recorded), recorded.crps(y))
    low, high = recorded.interval(0.8)
    assert_allclose(interval_score(high, recorded, 0.8), high - low)
    assert_allclose(interval_score(high + 1, recorded, 0.8), high - low + 10)
    with pytest.raises(TypeError, match=r"energy_score .* Use crps"):
        energy_score(y, recorded)
    with pytest.raises(ValueError, match="region must be 'interval'"):
        coverage(y, recorded, region="hdr")


def test_randomised_pit_is_uniform_and_has_a_seed():
    recorded = density_of((0, None), 0.8, n=1).recorded(1.0)
    y = recorded.sample(4000, 0)[0]
    u = pit(y, recorded, random_state=1)
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    assert_array_equal(u, pit(y, recorded, random_state=1))
    assert (u != pit(y, recorded, random_state=2)).any()
    cdf = recorded.cdf(y)
    assert ((cdf - recorded.pmf(y) <= u + 1e-15) & (u <= cdf)).all()


@pytest.mark.parametrize("ends", [None, (0, None)], ids=str)
def test_expected_coverage_is_the_confidence(ends):
    recorded = density_of(ends, 0.5).recorded(1.0)
    grid = grid_of(recorded)
    confidences = np.array([0.0, 0.1, 0.5, 0.9, 0.99, 1.0])
    share = recorded.share_inside(grid, confidences)
    assert (share >= 0).all()
    assert (share <= 1).all()
    expected = (recorded.pmf(grid) * share).sum(1)
    assert_allclose(expected, np.repeat(confidences[:, None], 3, 1), atol=1e-12)
    y = recorded.sample(1, 0)[:, 0]
    assert coverage(y, recorded, confidences).shape == (6, 3)
    by_cells = recorded.share_inside(y, confidences)
    assert_array_equal(coverage(y, recorded, confidences), by_cells)
    assert_array_equal(coverage(y, recorded, 0.9), by_cells[3])
    assert_array_equal(coverage([-1e3, 1e3, 40.0], normal(0, 1).recorded(1.0)), 0)


# -- the step of a density ---------------------------------------------------------


def fitted(**params):
    rng = np.random.RandomState(0)
    X = rng.uniform(size=(120, 1))
    y = np.round(np.exp(X[:, 0] + rng.normal(scale=0.5, size=120)) * 2)
    return X, y, quick(random_state=0, **params).fit(X, y)


@pytest.mark.parametrize("target_support", [None, (0, None)])
def test_score_samples_are_log_probabilities_less_the_log_step(target_support):
    X, y, mdn = fitted(target_resolution=1.0, target_support=target_support)
    density = mdn.predict_density(X)
    assert density.resolution == (1.0,)
    recorded = density.recorded()
    scores = mdn.score_samples(X, y)
    assert_allclose(recorded.logpmf(y), scores, rtol=1e-9)
    assert_allclose(log_score(y, recorded), -scores, rtol=1e-9)
    assert_allclose(neg_log_score_scorer(mdn, X, y), scores.mean(), rtol=1e-9)
    assert_allclose(neg_crps_scorer(mdn, X, y), -recorded.crps(y).mean())
    half = np.arange(len(y)) % 2
    weighted = -np.average(recorded.crps(y), weights=half)
    assert_allclose(neg_crps_scorer(mdn, X, y, half), weighted)


def test_log_score_divides_by_other_steps_too():
    X, y, mdn = fitted(target_resolution=2.0)
    y = 2 * np.round(y / 2)
    recorded = mdn.predict_density(X).recorded()
    assert_allclose(recorded.logpmf(y) - np.log(2), mdn.score_samples(X, y), rtol=1e-9)


def test_a_fit_of_exact_values_has_no_resolution():
    X, y, mdn = fitted(target_support=(-1, None))
    density = mdn.predict_density(X)
    assert density.resolution is None
    assert_allclose(neg_crps_scorer(mdn, X, y), -crps(y, density).mean())
    with pytest.raises(ValueError, match="no resolution"):
        density.recorded()


@pytest.mark.parametrize("target_support", [None, [(-20, None), None]])
def test_the_resolution_survives(target_support):
    rng = np.random.RandomState(0)
    X = rng.uniform(size=(60, 1))
    Y = np.round(rng.normal(scale=3, size=(60, 2)))
    mdn = quick(target_resolution=[0.5, None], target_support=target_support).fit(X, Y)
    density = mdn.predict_density(X[:4])
    assert density.resolution == (0.5, None)
    assert density[1:3].resolution == (0.5, None)
    assert density.marginal([1, 0]).resolution == (None, 0.5)
    assert density.marginal(0).recorded().step == 0.5
    assert density.condition({1: 0.0}).resolution == (0.5,)
    assert type(density).mix([density, density]).resolution == (0.5, None)
    for twin in (pickle.loads(pickle.dumps(density)), copy.deepcopy(density)):
        assert twin.resolution == (0.5, None)
    with pytest.raises(ValueError, match="no resolution"):
        density.marginal(1).recorded()


def with_steps(density, steps, names=None):
    density = copy.copy(density)
    state = density.__getstate__() | {"resolution": steps, "output_names": names}
    density.__setstate__(state)
    return density


def test_mixtures_of_other_steps_have_none():
    density = random_density(3, 2, 2)
    coarse = with_steps(density, (1.0, 2.0))
    assert MixtureDensity.mix([coarse, density]).resolution is None
    assert MixtureDensity.mix([coarse, coarse]).resolution == (1.0, 2.0)
    first = with_steps(density, (1.0, 2.0), ("a", "b"))
    second = with_steps(density, (2.0, 1.0), ("b", "a"))
    assert MixtureDensity.mix([first, second]).resolution == (1.0, 2.0)


def test_states_without_a_resolution_open():
    density = density_of((0, None))
    state = density.__getstate__()
    del state["resolution"]
    twin = TransformedDensity.__new__(TransformedDensity)
    twin.__setstate__(state)
    assert twin.resolution is None
    assert_array_equal(twin.mean(), density.mean())


def test_recorded_densities_are_batches_and_pickle():
    recorded = RecordedDensity(density_of((0, 5)), 0.5, 0.25)
    assert len(recorded) == 3
    assert len(recorded[1:]) == 2
    assert recorded.n_outputs == 1
    assert repr(recorded).endswith("resolution=0.5, offset=0.25)")
    for twin in (pickle.loads(pickle.dumps(recorded)), recorded[[0, 1, 2]]):
        assert (twin.step, twin.offset) == (0.5, 0.25)
        assert_array_equal(twin.ppf(0.3), recorded.ppf(0.3))
    empty = recorded[:0]
    assert empty.mean().shape == empty.mode().shape == empty.ppf(0.5).shape == (0,)
    assert empty.sample(2, 0).shape == (0, 2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: random_density(2, 2, 2).recorded(1.0), ValueError, r"marginal"),
        (lambda: density_of(None).recorded(), ValueError, "no resolution"),
        (lambda: density_of(None).recorded(0.0), ValueError, "positive number"),
        (lambda: density_of(None).recorded([1.0]), ValueError, "positive number"),
        (lambda: RecordedDensity(3.0, 1.0), TypeError, "must be a MixtureDensity"),
        (
            lambda: RecordedDensity(density_of(None), 1.0, [0.0, 1.0]),
            ValueError,
            "offset must be a number",
        ),
        (lambda: density_of(None).recorded(1.0).pmf(np.nan), ValueError, "NaN"),
        (lambda: density_of(None).recorded(1.0).ppf(1.5), ValueError, r"\[0, 1\]"),
        (lambda: density_of(None).recorded(1.0).crps(np.inf), ValueError, "inf"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_the_latent_density_has_no_step():
    """Its unit is that of z."""
    latent = MixtureDensity([[1.0]], [[0.0]], [[1.0]])
    outputs = Outputs((), None, (0.5,))
    known = from_mixture(MixtureDensity, latent.mixture, outputs)
    density = TransformedDensity(known, (0, None))
    assert density.recorded().step == 0.5
    with pytest.raises(ValueError, match="has no resolution"):
        density.latent.recorded()


def test_recorded_values_need_not_be_multiples():
    density = MixtureDensity([[1.0]], [[5.0]], [[1.0]])
    recorded = density.recorded(1.0, offset=0.3)
    assert_allclose(recorded.ppf([[0.2], [0.5], [0.8]])[:, 0] % 1, 0.3)
    assert_allclose(recorded.pmf(5.3), density.cdf(5.8) - density.cdf(4.8))
