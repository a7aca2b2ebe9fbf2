"""Several confidences at once equal one at a time, with the confidences first."""

import numpy as np
import pytest
from helpers import random_density, random_scalar_density
from numpy.testing import assert_allclose

from skmdn import MixtureDensity, TransformedDensity
from skmdn.metrics import coverage, interval_score

CONFIDENCES = [0.0, 0.2, 0.5, 0.9, 1.0]
N = 4
SCALAR = random_scalar_density(N, 3)
COLUMN = MixtureDensity(
    SCALAR.weights, SCALAR.means[..., None], SCALAR.precision_factors[..., None, None]
)
OF_ONE = {
    "scalar": SCALAR,
    "column": COLUMN,
    "one row": SCALAR[:1],
    "bounded": TransformedDensity(SCALAR, (0, None)),
    "bounded column": TransformedDensity(COLUMN, (-1, 3)),
}
OF_SEVERAL = {
    "joint": random_density(N, 3, 2),
    "bounded joint": TransformedDensity(random_density(N, 3, 2), [(0, None), None]),
}
RECORDED = {"recorded": SCALAR.recorded(0.5), "recorded column": COLUMN.recorded(0.5)}
FORMS = [CONFIDENCES, tuple(CONFIDENCES), np.array(CONFIDENCES)]


def assert_one_at_a_time(function, shape):
    expected = [np.asarray(function(each)) for each in CONFIDENCES]
    assert expected[0].shape == shape
    for confidences in FORMS:
        found = np.asarray(function(confidences))
        assert found.shape == (len(CONFIDENCES), *shape)
        assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert np.asarray(function(CONFIDENCES[1:2])).shape == (1, *shape)
    assert np.asarray(function([])).shape == (0, *shape)


@pytest.mark.parametrize("kind", OF_ONE | RECORDED)
@pytest.mark.parametrize("end", [0, 1])
def test_intervals(kind, end):
    density = (OF_ONE | RECORDED)[kind]
    shape = (len(density), *density.outputs.event_shape)
    assert_one_at_a_time(lambda c: density.interval(c)[end], shape)


@pytest.mark.parametrize("kind", OF_ONE)
def test_regions_of_one_output(kind):
    density = OF_ONE[kind]
    expected = [density.hdr(each) for each in CONFIDENCES]
    for confidences in FORMS:
        found = density.hdr(confidences)
        assert len(found) == len(CONFIDENCES)
        for ours, theirs in zip(found, expected, strict=True):
            for one, other in zip(ours, theirs, strict=True):
                assert_allclose(one, other, rtol=1e-9, atol=1e-12)
    assert density.hdr([]) == []


@pytest.mark.parametrize("kind", OF_ONE | OF_SEVERAL)
def test_levels_and_membership(kind):
    density = (OF_ONE | OF_SEVERAL)[kind]
    n = len(density)
    assert_one_at_a_time(density.hdr_level, (n,))
    y = density.sample(3, random_state=0)
    assert_one_at_a_time(lambda c: density.in_hdr(y[:, 0], c), (n,))
    grid = np.moveaxis(y, 1, 0)
    assert_one_at_a_time(lambda c: density.in_hdr(grid, c), (3, n))


@pytest.mark.parametrize("kind", OF_ONE | OF_SEVERAL | RECORDED)
def test_metrics(kind):
    density = (OF_ONE | OF_SEVERAL | RECORDED)[kind]
    y = density.sample(1, random_state=0)[:, 0]
    several = kind in OF_SEVERAL
    if kind == "one row":
        y = np.linspace(-2, 2, N)
    assert_one_at_a_time(lambda c: coverage(y, density, c), (N,))
    if several:
        return
    assert_one_at_a_time(lambda c: coverage(y, density, c, region="interval"), (N,))
    below_one = CONFIDENCES[:-1]
    found = interval_score(y, density, below_one)
    expected = [interval_score(y, density, each) for each in below_one]
    assert found.shape == (len(below_one), N)
    assert_allclose(found, expected, rtol=1e-9)
    with pytest.raises(ValueError, match=r"confidence must lie in \[0, 1\), got 1"):
        interval_score(y, density, CONFIDENCES)


def test_a_confidence_outside_is_named():
    for confidences in ([0.5, 1.5], [[0.5]], [np.nan]):
        for function in (SCALAR.interval, SCALAR.hdr, SCALAR.hdr_level):
            with pytest.raises(ValueError, match="confidence"):
                function(confidences)
