"""Linear images of densities against dense formulas, draws and changes of variables."""

from decimal import Decimal, getcontext

import numpy as np
import pandas as pd
import pytest
from helpers import random_density, random_parameters, random_scalar_density
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from skmdn import MixtureDensity, TransformedDensity

CONTRASTS = np.array([[1.0, -1.0, 0.0], [0.5, 0.25, -2.0]])


def dense_image(density, matrix, shift):
    """Return the image by products of covariances, which lose half of the digits."""
    matrix = np.asarray(matrix)
    return MixtureDensity.from_covariances(
        density.weights,
        density.means @ matrix.T + shift,
        matrix @ density.covariances @ matrix.T,
    )


@pytest.mark.parametrize("q", [1, 2, 3])
def test_images_equal_dense_formulas(q):
    density = random_density(5, 3, 3)
    matrix = np.random.RandomState(q).normal(size=(q, 3))
    image = density.affine(matrix, np.arange(q))
    expected = dense_image(density, matrix, np.arange(q))
    assert_allclose(image.means, expected.means, rtol=1e-13, atol=1e-13)
    assert_allclose(image.covariances, expected.covariances, rtol=1e-11)
    assert_array_equal(image.weights, density.weights)
    y = np.random.RandomState(0).normal(size=(5, q))
    assert_allclose(image.logpdf(y), expected.logpdf(y), rtol=1e-9)


def test_an_invertible_map_changes_variables():
    density, y = random_density(5, 3, 3), np.random.RandomState(1).normal(size=(5, 3))
    matrix = np.array([[2.0, 1.0, 0.0], [-1.0, 3.0, 0.5], [0.0, 1.0, -1.0]])
    image = density.affine(matrix, [1.0, 2.0, 3.0])
    _, log_det = np.linalg.slogdet(matrix)
    found = image.logpdf(y @ matrix.T + [1.0, 2.0, 3.0])
    assert_allclose(found, density.logpdf(y) - log_det, rtol=1e-11)
    back = image.affine(np.linalg.inv(matrix), -np.linalg.solve(matrix, [1, 2, 3]))
    assert_allclose(back.logpdf(y), density.logpdf(y), rtol=1e-10)


def test_selections_are_marginals():
    density = random_density(4, 3, 3)
    image, expected = density.affine(np.eye(3)[[2, 0]]), density.marginal([2, 0])
    assert_allclose(image.means, expected.means, rtol=1e-14)
    assert_allclose(image.precision_factors, expected.precision_factors, rtol=1e-12)
    scalar = density.affine([0.0, 1.0, 0.0])
    assert scalar.outputs.event_shape == ()
    assert_allclose(scalar.ppf(0.3), density.marginal(1).ppf(0.3), rtol=1e-12)


def test_a_difference_of_nearly_equal_outputs_keeps_its_digits():
    """The variance of y1 - y2 is that of the noise which was added to y1."""
    getcontext().prec = 50
    noise, spread = 1e-6, 3.0
    # U' U is the precision of (x + e, x), with Var x = spread^2 and Var e = noise^2.
    factor = [[1 / noise, -1 / noise], [0.0, 1 / spread]]
    density = MixtureDensity([[1.0]], [[[0.0, 0.0]]], [[factor]])
    (variance,) = density.affine([1.0, -1.0]).var()
    # Of the matrix as it was rounded to floats, exactly.
    a, b, c = map(Decimal, (*factor[0], factor[1][1]))
    exact = 1 / a**2 + (1 / c * (1 + b / a)) ** 2
    assert abs(variance / float(exact) - 1) < 1e-12


def test_draws_of_the_image_are_images_of_draws():
    density = random_density(1, 2, 3)
    draws = density.sample(100_000, random_state=0) @ CONTRASTS.T + 1.0
    image = density.affine(CONTRASTS, 1.0)
    assert_allclose(draws.mean(1), image.mean(), atol=0.03)
    assert_allclose(np.cov(draws[0].T), image.cov()[0], rtol=0.03, atol=0.03)
    for j in range(2):
        result = stats.kstest(
            draws[0, :1000, j], lambda y, j=j: image.marginal(j).cdf(y[:, None])[:, 0]
        )
        assert result.pvalue > 1e-3


@pytest.mark.parametrize("factor", [2.0, -0.5, 1e6])
def test_scalars_are_multiplied_by_a_number(factor):
    density = random_scalar_density(4, 3)
    image = density.affine(factor, 3.0)
    assert image.outputs.event_shape == ()
    y = np.linspace(-2, 2, 4)
    assert_allclose(image.pdf(factor * y + 3) * abs(factor), density.pdf(y), rtol=1e-9)
    column = MixtureDensity(
        density.weights,
        density.means[..., None],
        density.precision_factors[..., None, None],
    )
    assert column.affine(factor).outputs.event_shape == (1,)
    assert column.affine([factor]).outputs.event_shape == ()
    assert column.affine([[factor]]).outputs.event_shape == (1,)


def test_names_and_steps():
    parameters = random_parameters(2, 2, 2)
    density = MixtureDensity.from_covariances(*parameters, output_names=["a", "b"])
    frame = pd.DataFrame([[1.0, 2.0]], columns=["b", "a"])
    image = density.affine(frame, output_names=["sum"])
    assert image.output_names == ("sum",)
    assert density.affine([[2.0, 1.0]]).output_names is None
    assert_array_equal(image.means, density.affine([[2.0, 1.0]]).means)
    assert image.resolution is None
    density.outputs = density.outputs.recorded_to(np.array([0.5, 0.0]))
    image = density.affine([[-2.0, 0.0], [1.0, 1.0]])
    assert image.resolution == (1.0, None)
    with pytest.raises(ValueError, match="matrix has the outputs"):
        density.affine(frame.rename(columns={"a": "c"}))


@pytest.mark.parametrize(
    ("matrix", "shift", "message"),
    [
        ([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0]], 0, "independent rows, got rank 1"),
        ([[0.0, 0.0, 0.0]], 0, "independent rows, got rank 0"),
        (np.ones((4, 3)), 0, "independent rows"),
        ([[1e-300, 1e300, 0.0], [1e-300, 1e300, 0.0]], 0, "got rank 1"),
        (np.ones((2, 2)), 0, r"matrix must be of shape \(q, 3\), or \(3,\)"),
        (np.ones((0, 3)), 0, "matrix must be"),
        (np.ones((1, 1, 3)), 0, "matrix must be"),
        (2.0, 0, "matrix must be"),
        ([[np.nan, 1.0, 1.0]], 0, "matrix"),
        (CONTRASTS, [1.0], r"shift must be a number or of shape \(2,\)"),
        ([1.0, 1.0, 1.0], [1.0], "shift must be a number"),
        (np.eye(3) * 1e200, 0, "means must lie within"),
    ],
)
def test_wrong_maps_are_refused(matrix, shift, message):
    with pytest.raises(ValueError, match=message):
        random_density(2, 2, 3).affine(matrix, shift)


def test_units_of_outputs_do_not_matter_for_the_rank():
    parameters = random_parameters(2, 2, 2)
    density = MixtureDensity.from_covariances(*parameters).affine(np.diag([1, 1e20]))
    image = density.affine([[1.0, 1e-20], [1.0, 0.0]])
    expected = MixtureDensity.from_covariances(*parameters).affine([[1, 1], [1, 0]])
    assert_allclose(image.means, expected.means, rtol=1e-12)


# -- bounds ------------------------------------------------------------------------


@pytest.mark.parametrize("ends", [(0, None), (None, 2), (-1, 3), (None, None)])
@given(factor=st.floats(0.01, 100) | st.floats(-100, -0.01), shift=st.floats(-100, 100))
def test_bounded_outputs_are_rescaled_exactly(ends, factor, shift):
    latent = MixtureDensity([[0.3, 0.7]], [[-0.5, 0.7]], [[1.0, 2.0]])
    density = TransformedDensity(latent, ends)
    image = density.affine(factor, shift)
    levels = np.array([[0.05], [0.3], [0.5], [0.9]])
    y = density.ppf(levels if factor > 0 else 1 - levels)
    scale = abs(shift) + abs(factor)
    assert_allclose(
        image.ppf(levels), factor * y + shift, rtol=1e-9, atol=1e-12 * scale
    )
    assert_allclose(
        image.mean(), factor * density.mean() + shift, rtol=1e-8, atol=1e-10 * scale
    )
    entropy = density.entropy() + np.log(abs(factor))
    assert_allclose(image.entropy(), entropy, atol=1e-8)


def test_several_bounded_outputs():
    latent = random_density(3, 2, 4)
    density = TransformedDensity(latent, [(0, None), None, None, (0, 1)])
    matrix = np.array([[0, 2.0, -1.0, 0], [0, 0, 0, -3.0], [10.0, 0, 0, 0]])
    image = density.affine(matrix, [0.0, 1.0, 5.0], ["x", "share", "mass"])
    bounds = ((None, None), (-2.0, 1.0), (5.0, None))
    assert image.supports.to_state() == bounds
    draws = density.sample(50, random_state=0)
    assert_allclose(
        image.mean(), density.mean() @ matrix.T + [0.0, 1.0, 5.0], rtol=1e-10
    )
    # The distribution function of the rescaled output agrees with that of the output.
    mass = density.marginal(0).cdf(draws[:, 0, 0])
    assert_allclose(
        image.marginal("mass").cdf(10 * draws[:, 0, 0] + 5), mass, rtol=1e-10
    )
    with pytest.raises(ValueError, match=r"Row 1 of matrix combines.*Use sample"):
        density.affine([[0, 1.0, 0, 0], [1.0, 1.0, 0, 0]])


def test_recorded_values_in_another_unit():
    recorded = random_scalar_density(3, 2).recorded(0.5, offset=0.1)
    image = recorded.affine(-1.8, 32)
    assert image.step == pytest.approx(0.9)
    y = np.array([[-0.4], [0.1], [1.1]])
    assert_allclose(image.pmf(-1.8 * y + 32), recorded.pmf(y), rtol=1e-9)
    assert_allclose(image.mean(), -1.8 * recorded.mean() + 32, rtol=1e-9)
