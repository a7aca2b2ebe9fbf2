"""Outlines of the regions of two outputs against draws, formulas and other grids."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from skmdn import MixtureDensity, TransformedDensity


def mixtures(n, K, seed=0, least=0.01, spread=2.0):
    """Random components, some of which are long and narrow."""
    rng = np.random.RandomState(seed)
    roots = rng.normal(size=(n, K, 2, 2))
    covariances = roots @ roots.swapaxes(-1, -2) + least * np.eye(2)
    means = spread * rng.normal(size=(n, K, 2))
    return MixtureDensity.from_covariances(
        rng.dirichlet(np.ones(K), n), means, covariances
    )


def area(outline):
    """Return the signed area of a polygon: positive if counter-clockwise."""
    x, y = outline.T
    return (x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def windings(outlines, points):
    """Return how often outlines turn around points (m, 2), by crossings of a ray."""
    total = np.zeros(len(points), dtype=int)
    for outline in outlines:
        (x0, y0), (x1, y1) = outline.T, np.roll(outline, -1, axis=0).T
        for place, (x, y) in enumerate(points):
            rises = (y0 <= y) & (y1 > y)
            falls = (y0 > y) & (y1 <= y)
            with np.errstate(divide="ignore", invalid="ignore"):
                at = x0 + (y - y0) / (y1 - y0) * (x1 - x0)
            total[place] += (rises & (at > x)).sum() - (falls & (at > x)).sum()
    return total


# -- probability -------------------------------------------------------------------


@pytest.mark.parametrize("confidence", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("K", [1, 3, 10])
def test_outlines_hold_their_probability(K, confidence):
    density = mixtures(16, K, seed=K)
    levels, n_draws = density.hdr_level(confidence), 200_000
    # Draws above the level of the outlines; see the next test for draws inside.
    error = 4 * np.sqrt(confidence * (1 - confidence) / n_draws)
    for row, level in enumerate(levels):
        draws = density[row].sample(n_draws, random_state=row)[0]
        share = (density[row].pdf(draws[:, None])[:, 0] >= level).mean()
        assert abs(share - confidence) < 0.002 + error


@pytest.mark.parametrize("confidence", [0.8, 0.95])
@pytest.mark.parametrize("std", [0.3, 0.01, 1e-4])
def test_narrow_components_far_inside_count(std, confidence):
    # Pieces of the outline are long in comparison with the narrow ones.
    factors = np.eye(2) / np.array([3.0, std, std])[:, None, None]
    means = [[[0, 0], [0.5, 0.2], [-1, -0.7]]]
    density = MixtureDensity([[0.5, 0.3, 0.2]], means, [factors])
    level = density.hdr_level(confidence)
    # At the level the wide component is alone: beyond r it holds e^(-r^2 / 2).
    outside = 0.5 * level / (0.5 / (2 * np.pi * 9))
    assert_allclose(1 - outside, confidence, atol=1e-3)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10**6), K=st.integers(1, 8), confidence=st.floats(0.05, 0.98)
)
def test_points_are_inside_of_outlines_where_the_density_is_above_the_level(
    seed, K, confidence
):
    density = mixtures(1, K, seed)
    (outlines,) = density.hdr(confidence)
    level = density.hdr_level(confidence)[0]
    points = density.sample(300, random_state=0)[0]
    height = density.logpdf(points[:, None])[:, 0] - np.log(level)
    around = windings(outlines, points)
    assert set(around) <= {0, 1}
    # A polygon cuts corners of the boundary, where the density is close to the level.
    is_clear = np.abs(height) > 0.02
    assert_array_equal(around[is_clear] == 1, height[is_clear] > 0)
    for outline in outlines:
        assert_allclose(
            density.logpdf(outline[:, None])[:, 0], np.log(level), atol=1e-4
        )


def test_the_outline_of_a_gaussian_is_its_ellipse():
    covariance = np.array([[4.0, 1.8], [1.8, 1.0]])
    density = MixtureDensity.from_covariances([[1.0]], [[[3, -1]]], [[covariance]])
    for confidence in (0.05, 0.5, 0.9, 0.999):
        ((outline,),) = density.hdr(confidence)
        square = stats.chi2.ppf(confidence, 2)
        assert_allclose(
            area(outline),
            np.pi * square * np.sqrt(np.linalg.det(covariance)),
            rtol=1e-3,
        )
        apart = outline - [3, -1]
        found = np.einsum("mi,ij,mj->m", apart, np.linalg.inv(covariance), apart)
        assert_allclose(found, square, rtol=2e-2)
        expected = np.exp(-square / 2) / (
            2 * np.pi * np.sqrt(np.linalg.det(covariance))
        )
        assert_allclose(density.hdr_level(confidence), expected, rtol=2e-3)


# -- shapes ------------------------------------------------------------------------


def ring(n=24, radius=4.0, std=0.6):
    angles = 2 * np.pi * np.arange(n) / n
    means = radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    factors = np.broadcast_to(np.eye(2) / std, (1, n, 2, 2))
    return MixtureDensity(np.full((1, n), 1 / n), means[None], factors)


def test_a_ring_has_a_hole_that_is_clockwise():
    ((first, second),) = ring().hdr(0.9)
    outer, hole = sorted([first, second], key=area, reverse=True)
    assert area(outer) > 0 > area(hole)
    assert area(outer) > -area(hole)
    lengths = [np.linalg.norm(outline, axis=1) for outline in (outer, hole)]
    assert lengths[1].max() < 4 < lengths[0].min()
    # Around the centre the two windings cancel.
    assert_array_equal(windings([outer, hole], [[0.0, 0.0], [4.0, 0.1]]), [0, 1])


def test_parts_far_apart_are_outlines_of_their_own():
    means = [[[0, 0], [1e3, 0], [0, 1e3], [5e3, 5e3]]]
    stds = np.array([1.0, 0.01, 30.0, 1.0])
    factors = np.eye(2) / stds[:, None, None]
    density = MixtureDensity([[0.3, 0.3, 0.4, 1e-9]], means, [factors])
    (outlines,) = density.hdr(0.95)
    assert len(outlines) == 3
    places = sorted(np.round(outline.mean(0) / 1e3, 1).tolist() for outline in outlines)
    assert_allclose(places, [[0, 0], [0, 1], [1, 0]], atol=0.1)


@pytest.mark.parametrize("ratio", [1e2, 1e4])
def test_long_components_that_cross(ratio):
    covariances = [[np.diag([1.0, ratio**-2]), np.diag([ratio**-2, 1.0])]]
    density = MixtureDensity.from_covariances(
        [[0.5, 0.5]], np.zeros((1, 2, 2)), covariances
    )
    (outlines,) = density.hdr(0.8)
    (cross,) = outlines
    draws = density.sample(2000, random_state=0)[0]
    assert_allclose((windings([cross], draws) == 1).mean(), 0.8, atol=0.03)


@pytest.mark.parametrize("units", [[1e-6, 1e6], [1e3, 1.0]])
def test_outlines_move_with_the_units(units):
    density, units = mixtures(5, 4, seed=2), np.array(units)
    covariances = density.covariances * units[:, None] * units
    moved = MixtureDensity.from_covariances(
        density.weights, density.means * units, covariances
    )
    for here, there in zip(density.hdr(0.8), moved.hdr(0.8), strict=True):
        assert len(here) == len(there)
        areas = [sum(map(area, outlines)) for outlines in (here, there)]
        assert_allclose(areas[1], areas[0] * units.prod(), rtol=1e-6)


# -- bounds and ends ---------------------------------------------------------------


@pytest.mark.parametrize(
    "ends", [[(0, None), None], [(0, 1), (None, 2)], [(-1, 3), (0, 1)]]
)
def test_outlines_with_bounds_are_those_of_y(ends):
    density = TransformedDensity(mixtures(6, 3, seed=4, spread=1.0), ends)
    level = density.hdr_level(0.8)
    for row, outlines in enumerate(density.hdr(0.8)):
        one = density[row]
        for outline in outlines:
            heights = one.logpdf(outline[:, None])[:, 0]
            assert_allclose(heights, np.log(level[row]), atol=2e-3)
        draws = one.sample(100_000, random_state=row)[0]
        share = (one.pdf(draws[:, None])[:, 0] >= level[row]).mean()
        assert_allclose(share, 0.8, atol=0.007)


def test_regions_of_probability_zero_and_one():
    density = mixtures(2, 3)
    for row, (point,) in enumerate(density.hdr(0)):
        assert_allclose(point, density.mode()[[row]])
    ((corners,), _) = density.hdr(1)
    assert_array_equal(np.isinf(corners), np.ones((4, 2)))
    bounded = TransformedDensity(density, [(0, 1), (2, 5)])
    ((corners,), _) = bounded.hdr(1)
    assert area(corners) == 3


def test_several_confidences_and_no_rows():
    density = mixtures(3, 2)
    several = density.hdr([0.5, 0.9])
    assert len(several) == 2
    for found, confidence in zip(several, (0.5, 0.9), strict=True):
        for one, other in zip(found, density.hdr(confidence), strict=True):
            for outline, expected in zip(one, other, strict=True):
                assert_array_equal(outline, expected)
    assert density[:0].hdr(0.5) == []
    assert density[:0].hdr_level(0.5).shape == (0,)


def test_points_are_in_the_region_where_the_density_reaches_the_level():
    density = mixtures(40, 4, seed=7)
    levels = density.hdr_level([0.3, 0.8])
    y = density.sample(50, random_state=1).swapaxes(0, 1)
    for level, is_in in zip(levels, density.in_hdr(y, [0.3, 0.8]), strict=True):
        assert_array_equal(is_in, density.pdf(y) >= level)


def test_three_outputs_have_no_outlines():
    density = MixtureDensity([[1.0]], np.zeros((1, 1, 3)), [[np.eye(3)]])
    with pytest.raises(ValueError, match="in_hdr and hdr_level"):
        density.hdr(0.9)


@pytest.mark.parametrize("confidence", [1e-6, 1e-4, 1e-3, 0.999, 0.99999])
def test_small_and_large_regions_of_one_gaussian(confidence):
    density = MixtureDensity([[1.0]], [[[0.0, 0.0]]], [[np.eye(2)]])
    ((outline,),) = density.hdr(confidence)
    # Beyond r the probability is e^(-r^2 / 2), and 2 pi times the density there.
    outside = 2 * np.pi * density.hdr_level(confidence)[0]
    assert_allclose(outside, 1 - confidence, rtol=0.01, atol=2e-4)
    radii = np.linalg.norm(outline, axis=1)
    assert_allclose(np.exp(-(radii**2) / 2), outside, rtol=1e-3)
    assert density.in_hdr([[0.0, 0.0]], confidence).all()


@pytest.mark.parametrize("confidence", [1e-6, 1e-4, 1e-3, 0.01])
def test_small_regions_are_not_empty(confidence):
    density = mixtures(20, 8, 0)
    draws = density.sample(20_000, random_state=0).transpose(1, 0, 2)
    inside = (density.pdf(draws) >= density.hdr_level(confidence)).mean(axis=0)
    assert_allclose(inside, confidence, atol=0.004)  # 4 standard errors, and 0.001
    assert all(len(outlines) for outlines in density.hdr(confidence))


@pytest.mark.parametrize("distance", [1e2, 1e4, 1e5])
@pytest.mark.parametrize("scale", [1.0, 1e-2])
def test_components_far_apart(distance, scale):
    factors = np.eye(2) / np.array([1.0, scale])[:, None, None]
    means = [[[0.0, 0.0], [distance, 0.0]]]
    density = MixtureDensity([[0.5, 0.5]], means, [factors])
    (outlines,) = density.hdr(0.6)
    assert len(outlines) == 2
    level = density.hdr_level(0.6)[0]
    # Each has the weight 1/2 and holds 1/2 - 2 pi s^2 times the level.
    inside = 1 - 2 * np.pi * (1 + scale**2) * level
    assert_allclose(inside, 0.6, atol=0.002)


def test_regions_whose_parts_are_too_small_for_outlines_are_noted():
    means = 1e6 * np.random.default_rng(0).normal(size=(1, 12, 2))
    covariances = np.broadcast_to(np.eye(2), (1, 12, 2, 2))
    density = MixtureDensity.from_covariances(
        np.full((1, 12), 1 / 12), means, covariances
    )
    with pytest.warns(UserWarning, match="parts of it are too small beside their"):
        density.hdr(0.5)
