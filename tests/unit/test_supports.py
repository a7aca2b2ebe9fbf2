"""Bounds of outputs: the parameter, its maps and its errors."""

import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mp
from numpy.testing import assert_allclose, assert_array_equal

from skmdn._data.outputs import Outputs
from skmdn._data.supports import Support, Supports

PAIRS = [(None, None), (0, None), (-2.5, None), (None, 0), (None, 3), (0, 1), (-1, 5)]
two = Outputs((2,), ("length", "share"))


# -- maps of one output ------------------------------------------------------------


def exact(support, z):
    """Return y and log dy/dz at z, in high precision."""
    low, high = support.ends
    z = mp.mpf(z)
    if math.isinf(low) and math.isinf(high):
        return z, mp.mpf(0)
    if math.isinf(high):
        return low + mp.exp(z), z
    if math.isinf(low):
        return high - mp.exp(-z), -z
    width = mp.mpf(high) - mp.mpf(low)
    slope = mp.log(width) - 2 * mp.log(2 * mp.cosh(z / 2))
    return low + width / (1 + mp.exp(-z)), slope


@given(st.sampled_from(PAIRS), st.floats(-300, 300))
def test_maps_are_accurate_at_any_latent_value(ends, z):
    support = Support(*ends)
    with mp.workdps(300):
        y, slope = exact(support, z)
        y, slope = float(y), float(slope)
    found = support.from_latent(np.array([z]))[0]
    scale = max([abs(y), *(abs(end) for end in support.ends if math.isfinite(end))])
    assert abs(found - y) <= 4e-16 * scale + 3e-14 * abs(y - support.ends[0])
    assert_allclose(support.log_slope(np.array([z])), slope, rtol=1e-14, atol=1e-14)
    assert support.ends[0] < found < support.ends[1]


@pytest.mark.parametrize("ends", [(0, None), (None, 0), (0, 1), (None, None)])
def test_maps_invert_each_other_where_y_has_the_digits(ends):
    support = Support(*ends)
    z = np.concatenate([-np.logspace(-12, 2.8, 60), [0.0], np.logspace(-12, 1, 60)])
    z = -z if ends == (None, 0) else z
    if ends == (0, 1):
        z = z[z < 3]  # near one y has no more digits
    y = support.from_latent(z)
    assert_allclose(support.to_latent(y), z, rtol=3e-14, atol=1e-15)
    assert_allclose(
        support.log_derivative(y), -support.log_slope(z), rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize("ends", PAIRS)
def test_maps_increase_and_reach_the_bounds_at_infinity(ends):
    support = Support(*ends)
    y = support.from_latent(np.linspace(-30, 30, 2001))
    assert (np.diff(y) >= 0).all()
    assert_array_equal(support.from_latent(np.array([-np.inf, np.inf])), support.ends)
    bounds = np.array(support.ends)
    assert_array_equal(support.to_latent(bounds), [-np.inf, np.inf])
    beyond = np.nextafter(bounds, [-np.inf, np.inf])
    assert_array_equal(support.to_latent(beyond), [-np.inf, np.inf])


@pytest.mark.parametrize("ends", [(0, None), (None, 3), (0, 1)])
def test_finite_latent_values_lie_inside_the_bounds(ends):
    support = Support(*ends)
    y = support.from_latent(np.array([-1e300, -800.0, 800.0, 1e300]))
    assert ((y > support.ends[0]) & (y < support.ends[1])).all()
    assert not support.is_outside(y).any()
    bounds = np.array([end for end in support.ends if math.isfinite(end)])
    assert support.is_outside(bounds).all()
    assert_array_equal(support.log_derivative(bounds), np.full(len(bounds), -np.inf))


def test_log_derivative_is_the_slope_of_the_map():
    y, step = np.linspace(0.05, 0.95, 19), 1e-6
    support = Support(0, 1)
    slope = (support.to_latent(y + step) - support.to_latent(y - step)) / (2 * step)
    assert_allclose(support.log_derivative(y), np.log(slope), atol=1e-8)


# -- several outputs ---------------------------------------------------------------


def test_supports_map_every_output_by_its_own():
    supports = Supports.of([(0, None), None, (0, 1)], Outputs((3,)))
    y = np.array([[1.0, -4.0, 0.5], [math.e, 2.0, 0.25]])
    assert_allclose(
        supports.to_latent(y), [[0, -4, 0], [1, 2, -math.log(3)]], atol=1e-15
    )
    assert_allclose(supports.from_latent(supports.to_latent(y)), y)
    parts = [s.log_derivative(y[:, j]) for j, s in enumerate(supports)]
    assert_allclose(supports.log_derivative(y), np.sum(parts, axis=0))
    z = torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.float32)
    assert supports.from_latent(z).dtype == torch.float64


def test_state_is_of_builtins_and_restores():
    supports = Supports.of([(0, None), None, (-1, 1)], Outputs((3,)))
    state = supports.to_state()
    assert state == ((0.0, None), (None, None), (-1.0, 1.0))
    assert Supports.from_state(state) == supports
    assert pickle.loads(pickle.dumps(supports)) == supports
    assert supports.select([2, 0]).to_state() == ((-1.0, 1.0), (0.0, None))
    assert hash(supports) == hash(Supports.from_state(state))


# -- forms of the parameter --------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, [(None, None)] * 2),
        ((0, None), [(0, None)] * 2),
        ((None, None), [(None, None)] * 2),
        ([0, 1], [(0, 1)] * 2),
        (np.array([0, np.inf]), [(0, None)] * 2),
        ([(0, None), None], [(0, None), (None, None)]),
        ([None, (0, 1)], [(None, None), (0, 1)]),
        (((-np.inf, 2), [0, 1]), [(None, 2), (0, 1)]),
        (np.array([[0, 1], [2, 3]]), [(0, 1), (2, 3)]),
        ({"share": (0, 1)}, [(None, None), (0, 1)]),
        ({-1: (0, 1), "length": None}, [(None, None), (0, 1)]),
        ({}, [(None, None)] * 2),
        (Supports((Support(0, 1), Support())), [(0, 1), (None, None)]),
    ],
)
def test_forms_of_the_parameter(given, expected):
    assert Supports.of(given, two) == Supports(tuple(Support(*p) for p in expected))
    is_open = all(pair == (None, None) for pair in expected)
    assert Supports.of(given, two).is_identity == is_open


@pytest.mark.parametrize("given", [(0, 1), [(0, 1)], {0: (0, 1)}])
def test_forms_of_the_parameter_for_one_output(given):
    assert Supports.of(given, Outputs(())) == Supports((Support(0, 1),))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((1, 0), "low < high, got .1, 0"),
        ((0, 0), "low < high"),
        ((np.nan, 1), "must not contain NaN"),
        ((-1.7e308, 1.7e308), "difference is a float"),
        ([(0, 1)] * 3, "got 3 entries for 2 outputs"),
        ([None, None, None], "got 3 entries"),
        ((0, (1, 2)), "got 0"),
        ((True, False), "got True"),
        ([(0, 1, 2), None], "not a pair"),
        ([("a", 1), None], "not a pair"),
        ("positive", "got 'positive'"),
        (5, "got 5"),
        ({"width": (0, 1)}, r"target_support: Unknown output 'width'.*length"),
        ({2: (0, 1)}, "target_support: Unknown output 2"),
        ({0.5: (0, 1)}, "target_support: An output is a position or a name"),
        (
            {0: (0, 1), "length": (0, 1)},
            "target_support: Each output may be given once",
        ),
        ({0: 3}, "got 3"),
    ],
)
def test_errors_name_the_parameter(given, message):
    with pytest.raises(ValueError, match=message) as caught:
        Supports.of(given, two)
    assert "target_support" in str(caught.value)


def test_check_names_the_output_the_count_and_the_worst_value():
    supports = Supports.of([None, (0, 1)], two)
    y = np.array([[-5.0, 0.5], [0.0, 0.0], [0.0, 1.5], [0.0, -0.25]])
    supports.check("y", y[:1])
    message = r"y must lie inside.*\(0, 1\).*output 1.*3 of 4.*worst is 1.5.*target_res"
    with pytest.raises(ValueError, match=message):
        supports.check("y", y)
