"""Weighted quantiles, soft tails, and scales that outliers do not set."""

import numpy as np
import pytest
import torch
from helpers import exact_rows, scaling_of_targets
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array
from scipy.stats import norm

from skmdn._data.encoding import FeatureEncoder
from skmdn._data.feature_transform import FeatureTransform
from skmdn._data.matrices import FAR, LazyMatrix, ScaledRows, bounded_weight
from skmdn._data.robust import ALL_LEVELS, Spreads, limits, weighted_quantiles
from skmdn._data.rows import merge_rows
from skmdn._data.scaling import Scaling, Tails

RNG = np.random.RandomState(0)


def columns_of(X, weight=None, **options):
    weight = np.ones(X.shape[0]) if weight is None else weight
    return Spreads.of(X, weight, np.arange(X.shape[0]), **options)


def tails_of(X, weight=None):
    weight = np.ones(X.shape[0]) if weight is None else weight
    return Tails.fit(X, weight, np.arange(X.shape[0]))


# -- quantiles ---------------------------------------------------------------------

NUMBERS = st.integers(-5, 5).map(float) | st.floats(-1e6, 1e6)
COLUMNS = arrays(float, st.integers(1, 30), elements=NUMBERS)


def quantiles(values, weight):
    return weighted_quantiles(values, weight, ALL_LEVELS)


@given(COLUMNS, st.randoms(use_true_random=False))
def test_quantiles_are_those_of_repeated_values(values, random):
    counts = np.array([random.randint(1, 4) for _ in values])
    expected = np.quantile(
        np.repeat(values, counts), ALL_LEVELS, method="averaged_inverted_cdf"
    )
    ours = quantiles(values, counts / 7)
    assert_allclose(ours, expected, rtol=1e-12)
    # Merging, splitting and reordering rows changes nothing.
    order = [*range(len(values))] * 2
    random.shuffle(order)
    assert_array_equal(quantiles(values[order], counts[order] / 14), ours)


@given(COLUMNS)
def test_mirrored_values_have_mirrored_quantiles(values):
    weight = 1 + 0.1 * np.arange(len(values)) % 3
    assert_array_equal(
        quantiles(-values, weight)[[0, *range(6, 11), *range(1, 6)]],
        -quantiles(values, weight),
    )


def test_rounding_of_weights_does_not_move_a_quantile():
    values, weight = np.arange(10.0), np.full(10, 0.1)
    assert_array_equal(quantiles(values, weight)[0], 4.5)


@pytest.mark.parametrize("scale", [1e-140, 1.0, 1e140])
def test_spreads_of_a_normal_sample_are_its_standard_deviation(scale):
    X = scale * norm.ppf((np.arange(4000) + 0.5) / 4000)[:, None]
    assert_allclose(columns_of(X).spreads, scale, rtol=1e-3)


def test_spreads_of_sparse_columns_are_those_of_dense_ones():
    X = RNG.standard_normal((300, 40))
    X *= RNG.uniform(size=X.shape) < np.linspace(0, 1, 40)
    weight = RNG.uniform(size=300)
    dense, thin = columns_of(X, weight), columns_of(csr_array(X), weight)
    for ours, theirs in zip(thin, dense, strict=True):
        assert_allclose(ours, theirs, rtol=1e-12)
    assert (dense.spreads[:, 0] == 0).sum() > 5
    # Entries that are stored twice are added up.
    twice = csr_array((np.array([1.0, 2, 5]), [0, 0, 0], [0, 2, 3]), shape=(2, 1))
    assert_array_equal(columns_of(twice).median, [4.0])


def test_a_sample_of_many_rows_is_close():
    X = RNG.standard_normal((20_000, 2))
    sampled = columns_of(X, max_rows=5000)
    assert_allclose(sampled.spreads, columns_of(X).spreads, rtol=0.1)
    sampled = columns_of(csr_array(X), max_rows=5000)
    assert_allclose(sampled.spreads, columns_of(X).spreads, rtol=0.1)


def test_rounding_is_no_spread():
    noise = 1e-16 * RNG.standard_normal(400)
    X = np.column_stack([0.1 + noise, np.where(np.arange(400) < 60, 3.0, noise)])
    spreads = columns_of(X).spreads
    assert_array_equal(spreads[0], 0)
    assert_array_equal(spreads[1] > 0, [False, True, True, True, True])


# -- soft tails --------------------------------------------------------------------


@given(COLUMNS, NUMBERS, st.floats(1e-3, 1e3), st.sampled_from([-1, 1]))
def test_tails_follow_affine_maps(values, shift, scale, sign):
    X = values[:, None]
    mapped = sign * scale * X + shift
    tails, ours = tails_of(X), tails_of(mapped)
    if np.isinf(tails.high).any() or (np.ptp(X) * scale < 1e-6 * abs(shift)):
        return
    expected = sign * scale * tails.soften(X) + shift
    size = np.abs(mapped).max() + abs(shift)
    assert_allclose(ours.soften(mapped), expected, rtol=1e-6, atol=1e-9 * size)


def test_soft_tails_are_the_formula():
    X = RNG.standard_t(1, size=(501, 3))
    tails = tails_of(X)
    low, median, high = np.quantile(X, [0.25, 0.5, 0.75], axis=0)
    spread = (high - low) / (2 * norm.ppf(0.75))
    z = (X - median) / spread
    beyond = np.sign(z) * (3 + np.arcsinh(np.abs(z) - 3))
    soft = np.where(np.abs(z) <= 3, z, beyond)
    assert_allclose(tails.soften(X), median + spread * soft, rtol=0.02)
    inner = tails.soften(X) == X
    assert inner.mean() > 0.5
    assert_array_equal(inner, np.clip(X, tails.low, tails.high) == X)
    grid = np.linspace(-1e3, 1e3, 20_001)[:, None] * np.ones(3)
    slope = np.diff(tails.soften(grid), axis=0)
    assert (slope > 0).all()
    assert (slope <= np.diff(grid, axis=0) * (1 + 1e-9)).all()


@pytest.mark.parametrize("store", [np.asarray, csr_array])
def test_features_are_standardised_after_their_tails(store):
    X = RNG.standard_t(2, size=(400, 3))
    X[:, 1] *= np.arange(400) % 5 == 0
    X[:3, 2] = -1e30
    weight = 1.0 + np.arange(400) % 3
    rows = merge_rows(exact_rows(store(X), X[:, :1], weight))
    scaling = Scaling.fit_features(rows)
    features = FeatureTransform(FeatureEncoder({}, scaling.mean), scaling, {})
    y = torch.zeros(len(rows.y), 1, dtype=torch.float64)
    scaled = ScaledRows.of(rows, features, y, torch.float64)
    ours = scaled.X.index_select(0, torch.arange(400)).numpy()
    mean = np.average(ours, axis=0, weights=rows.weight)
    assert_allclose(mean, 0, atol=1e-12)
    centre, spread = scaling.knees.mean(axis=0), scaling.spread
    clipped = np.clip(X, centre - 10 * spread, centre + 10 * spread)
    clipped -= np.average(clipped, axis=0, weights=weight)
    variance = np.average(clipped**2, axis=0, weights=weight)
    assert_allclose(scaling.scale, np.sqrt(variance))
    assert np.abs(ours).max() < 40
    lazy = LazyMatrix(rows.X, rows.positions, features, torch.float64)
    assert_allclose(lazy.index_select(0, torch.arange(400)), ours, atol=1e-12)
    again = Scaling.from_state(scaling.to_state())
    assert_array_equal(again.transform(X), scaling.transform(X))


def test_rare_values_and_constants_have_no_tails():
    X = np.zeros((1000, 3))
    X[:5, 1] = 1.0
    X[:, 2] = 0.1
    assert np.isinf(tails_of(X).high).all()
    assert np.isinf(tails_of(csr_array(X)).low).all()
    # A column of two values, neither rare, hardly changes.
    X[:200, 0] = 7.0
    rows = merge_rows(exact_rows(X, RNG.standard_normal((1000, 1)), np.ones(1000)))
    plain = Scaling.fit("X", X, rows.weight, rows.positions)
    ours = Scaling.fit_features(rows)
    assert np.isfinite(ours.knees[:, 0]).all()
    assert_allclose(ours.transform(X), plain.transform(X), atol=0.1)


def test_states_without_tails_are_affine():
    state = {"mean": np.array([1.0]), "scale": np.array([2.0])}
    scaling = Scaling.from_state(state)
    assert_array_equal(scaling.transform(np.array([[1e9]])), [[(1e9 - 1) / 2]])
    assert_array_equal(scaling.knees, [[-np.inf], [np.inf]])
    assert_array_equal(scaling.spread, [1.0])
    assert scaling.to_state().keys() == state.keys()


# -- targets -----------------------------------------------------------------------


def targets_of(y, weight=None):
    weight = np.ones(len(y)) if weight is None else weight
    index = np.arange(len(y), dtype=float)[:, None]
    return scaling_of_targets(merge_rows(exact_rows(index, y, weight)))


@pytest.mark.parametrize("draw", ["standard_normal", "standard_exponential", "rand"])
def test_ordinary_targets_have_their_mean_and_standard_deviation(draw):
    y = getattr(np.random.RandomState(1), draw)(1000)[:, None]
    rows = merge_rows(exact_rows(np.arange(1000.0)[:, None], y, np.ones(1000)))
    plain = Scaling.fit("y", rows.y.points, rows.weight, np.arange(1000))
    assert_array_equal(targets_of(y).mean, plain.mean)
    assert_array_equal(np.abs(targets_of(y).scale), plain.scale)
    assert_array_equal(bounded_weight((y - plain.mean) / plain.scale, y[:, 0]), y[:, 0])


@pytest.mark.parametrize("value", [1e4, 1e6, -1e6, 1e12])
def test_one_outlier_moves_the_scale_of_targets_little(value):
    y = np.random.RandomState(1).standard_exponential((1000, 1))
    clean = targets_of(y)
    y[7] = value
    spoilt = targets_of(y)
    assert_allclose(spoilt.mean, clean.mean, atol=0.02)
    assert_allclose(spoilt.scale, clean.scale, rtol=0.1)
    mirrored = targets_of(3 - 2 * y)
    assert_allclose(mirrored.scale, -2 * spoilt.scale)
    assert_allclose(mirrored.mean, 3 - 2 * spoilt.mean)


def test_limits_keep_the_wider_of_two_modes():
    y = np.append(RNG.normal(size=700), 1e4 + 1e3 * RNG.normal(size=300))[:, None]
    low, high = limits(y, np.ones(1000))
    assert ((low < y) & (y < high)).all()
    # Nearly constant targets have no limits.
    y = np.append(np.zeros(995), np.arange(5.0))[:, None]
    assert_array_equal(limits(y, np.ones(1000)), [[-np.inf], [np.inf]])


def test_the_weight_of_far_targets_bounds_their_squared_distance():
    y = np.array([[0.0, FAR], [2 * FAR, 1.0], [0.0, -1e9]])
    weight = bounded_weight(y, np.array([2.0, 2.0, 2.0]))
    assert_array_equal(weight[0], 2)
    assert_allclose(weight * np.abs(y).max(axis=1) ** 2, 2 * FAR**2)
