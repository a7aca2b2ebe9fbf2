"""Densities against SciPy, torch.distributions, FrEIA and dense Gaussian formulas."""

import inspect
import itertools
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import (
    random_density,
    random_parameters,
    random_scalar_density,
    scipy_logpdf,
)
from numpy.testing import assert_allclose, assert_array_equal
from scipy import integrate, stats

from skmdn import MixtureDensity, metrics

COVARIANCE_TYPES = ["full", "tied", "diag", "spherical"]
RTOL = 1e-10


# -- the density -----------------------------------------------------------------


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("K", [1, 3])
@pytest.mark.parametrize("d", [1, 3])
def test_logpdf_equals_scipy(covariance_type, K, d):
    parameters = random_parameters(20, K, d, covariance_type)
    density = MixtureDensity.from_covariances(*parameters)
    y = np.random.RandomState(1).normal(scale=3, size=(20, d))
    expected = scipy_logpdf(*parameters, y)
    assert_allclose(density.logpdf(y), expected, rtol=RTOL)
    assert_allclose(density.pdf(y), np.exp(expected), rtol=1e-9)


@pytest.mark.parametrize("d", [1, 3])
def test_logpdf_equals_torch_distributions(d):
    weights, means, covariances = random_parameters(20, 3, d)
    y = np.random.RandomState(1).normal(scale=3, size=(20, d))
    expected = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.tensor(weights)),
        torch.distributions.MultivariateNormal(
            torch.tensor(means), torch.tensor(covariances)
        ),
    ).log_prob(torch.tensor(y))
    density = MixtureDensity.from_covariances(weights, means, covariances)
    assert_allclose(density.logpdf(y), expected, rtol=RTOL)
    assert_allclose(density.to_torch().log_prob(torch.tensor(y)), expected, rtol=RTOL)


def test_one_component_of_one_output_is_normal():
    density = random_scalar_density(10, 1)
    normal = stats.norm(density.means[:, 0], density.covariances[:, 0] ** 0.5)
    y = np.linspace(-3, 3, 10)
    assert_allclose(density.logpdf(y), normal.logpdf(y), rtol=RTOL)
    assert_allclose(density.cdf(y), normal.cdf(y), rtol=RTOL)
    assert_allclose(density.ppf(0.3), normal.ppf(0.3), rtol=RTOL)
    assert_allclose(density.entropy(), normal.entropy(), rtol=RTOL)
    expected = torch.distributions.Normal(
        torch.tensor(normal.mean()), torch.tensor(normal.std())
    ).log_prob(torch.tensor(y))
    assert_allclose(density.to_torch().log_prob(torch.tensor(y)), expected, rtol=RTOL)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_density_integrates_to_one(scale):
    weights, means, covariances = random_parameters(3, 3, 1)
    density = MixtureDensity.from_covariances(
        weights, scale * means[..., 0], scale**2 * covariances[..., 0, 0]
    )
    grid = scale * np.linspace(-40, 40, 200_001)
    mass = integrate.trapezoid(density.pdf(grid[:, None]), grid, axis=0)
    assert_allclose(mass, 1, rtol=1e-9)


def test_two_output_density_integrates_to_one():
    density = random_density(2, 3, 2)
    grid = np.linspace(-25, 25, 501)
    points = np.stack(np.meshgrid(grid, grid), axis=-1)[..., None, :]
    mass = density.pdf(points).sum(axis=(0, 1)) * (grid[1] - grid[0]) ** 2
    assert_allclose(mass, 1, rtol=1e-6)


def test_order_of_components_is_irrelevant():
    weights, means, covariances = random_parameters(5, 4, 2)
    order = [2, 0, 3, 1]
    first = MixtureDensity.from_covariances(weights, means, covariances)
    second = MixtureDensity.from_covariances(
        weights[:, order], means[:, order], covariances[:, order]
    )
    y = means[:, 0]
    assert_allclose(first.logpdf(y), second.logpdf(y), rtol=1e-13)
    assert_allclose(first.cov(), second.cov(), rtol=1e-12)


def test_y_broadcasts_against_the_rows():
    density = random_density(4, 3, 2)
    grid = np.random.RandomState(0).normal(size=(6, 1, 2))
    on_grid = density.logpdf(grid)
    assert on_grid.shape == (6, 4)
    for i, point in enumerate(grid[:, 0]):
        assert_allclose(density.logpdf(point), on_grid[i], rtol=1e-12)
        assert_allclose(density.logpdf(np.tile(point, (4, 1))), on_grid[i], rtol=1e-12)
    one = density[1]
    assert_allclose(one.logpdf(grid[:, 0]), on_grid[:, 1], rtol=1e-12)


def test_memory_limit_does_not_change_results():
    import sklearn

    density = random_density(50, 3, 2)
    y = density.means[:, 0]

    def results():
        return [
            density.logpdf(y),
            density.entropy(),
            density.sample(5, 0),
            density.var(),
            density.cov(),
            density.marginal([0]).precision_factors,
            density.condition({0: y[:, 0]}).logpdf(y[:, 1:]),
        ]

    expected = results()
    with sklearn.config_context(working_memory=1e-3):
        chunked = results()
    for ours, theirs in zip(chunked, expected, strict=True):
        assert_allclose(ours, theirs, rtol=1e-13)


def test_large_grids_are_cut_into_pieces():
    density = random_density(2, 3, 2)
    grid = np.random.RandomState(0).normal(size=(500, 3, 1, 2))
    import sklearn

    with sklearn.config_context(working_memory=1e-2):
        cut = density.logpdf(grid)
    assert cut.shape == (500, 3, 2)
    assert_allclose(cut, density.logpdf(grid), rtol=1e-12)


def test_density_at_infinity_is_zero():
    density = random_density(2, 3, 2)
    assert_array_equal(density.logpdf([np.inf, 0.0]), [-np.inf, -np.inf])
    scalar = random_scalar_density(2, 3)
    assert_array_equal(scalar.cdf(-np.inf), [0, 0])
    assert_array_equal(scalar.cdf(np.inf), [1, 1])


def test_responsibilities_are_bayes_rule():
    weights, means, covariances = random_parameters(5, 3, 2)
    density = MixtureDensity.from_covariances(weights, means, covariances)
    y = means[:, 1]
    parts = np.array(
        [
            [
                stats.multivariate_normal(m, S).pdf(p)
                for m, S in zip(ms, Ss, strict=True)
            ]
            for ms, Ss, p in zip(means, covariances, y, strict=True)
        ]
    )
    expected = weights * parts
    expected /= expected.sum(axis=1, keepdims=True)
    assert_allclose(density.responsibilities(y), expected, rtol=RTOL)


# -- moments ---------------------------------------------------------------------


def test_moments_are_those_of_torch():
    density = random_density(5, 3, 2)
    mixture = density.to_torch()
    assert_allclose(density.mean(), mixture.mean, rtol=RTOL)
    assert_allclose(density.var(), mixture.variance, rtol=RTOL)
    assert_allclose(density.std() ** 2, density.var(), rtol=RTOL)
    diagonal = np.diagonal(density.cov(), axis1=1, axis2=2)
    assert_allclose(diagonal, density.var(), rtol=RTOL)


def test_covariance_is_the_integral_of_the_outer_product():
    density = random_density(1, 3, 2)
    grid = np.linspace(-25, 25, 501)
    points = np.stack(np.meshgrid(grid, grid), axis=-1)[..., None, :]
    mass = density.pdf(points)[..., 0] * (grid[1] - grid[0]) ** 2
    offsets = points[..., 0, :] - density.mean()[0]
    expected = np.einsum("ab,abi,abj->ij", mass, offsets, offsets)
    assert_allclose(density.cov()[0], expected, rtol=1e-6)


# -- marginals and conditionals --------------------------------------------------


SUBSETS = [s for size in (1, 2, 3) for s in itertools.combinations(range(4), size)]


@pytest.mark.parametrize("given", SUBSETS)
def test_condition_equals_dense_gaussian_formulas(given):
    weights, means, covariances = random_parameters(6, 3, 4)
    density = MixtureDensity.from_covariances(weights, means, covariances)
    free = [j for j in range(4) if j not in given]
    values = np.random.RandomState(1).normal(size=(6, len(given)))
    conditional = density.condition(dict(zip(given, values.T, strict=True)))

    for row, component in itertools.product(range(6), range(3)):
        mean, cov = means[row, component], covariances[row, component]
        gain = np.linalg.solve(cov[np.ix_(given, given)], cov[np.ix_(given, free)]).T
        assert_allclose(
            conditional.means[row, component],
            mean[free] + gain @ (values[row] - mean[list(given)]),
            rtol=1e-9,
            atol=1e-10,
        )
        assert_allclose(
            conditional.covariances[row, component],
            cov[np.ix_(free, free)] - gain @ cov[np.ix_(given, free)],
            rtol=1e-9,
            atol=1e-11,
        )

    # The weights too: conditional = joint / marginal.
    y = np.random.RandomState(2).normal(size=(6, 4))
    y[:, list(given)] = values
    joint_minus_marginal = density.logpdf(y) - density.marginal(given).logpdf(values)
    assert_allclose(conditional.logpdf(y[:, free]), joint_minus_marginal, rtol=RTOL)


@pytest.mark.parametrize("known", [0, 1])
def test_condition_on_a_correlated_output(known):
    cov = [[[[1.0, 0.9], [0.9, 1.0]]]]
    density = MixtureDensity.from_covariances([[1.0]], [[[0.0, 0.0]]], cov)
    other = density.condition({known: 1.0})
    assert_allclose(other.mean(), [[0.9]], rtol=RTOL)
    assert_allclose(other.var(), [[0.19]], rtol=RTOL)


@pytest.mark.parametrize("outputs", [*SUBSETS, (3, 1), (2, 0, 1)])
def test_marginal_takes_blocks_of_the_covariance(outputs):
    weights, means, covariances = random_parameters(6, 3, 4)
    density = MixtureDensity.from_covariances(weights, means, covariances)
    marginal = density.marginal(outputs)
    block = covariances[..., list(outputs), :][..., list(outputs)]
    assert_allclose(marginal.means, means[..., list(outputs)])
    assert_allclose(marginal.covariances, block, rtol=1e-9)
    assert_array_equal(marginal.weights, density.weights)


def test_marginal_of_one_output_is_a_scalar_and_of_a_list_is_not():
    density = random_density(5, 3, 2)
    assert density.marginal(1).mean().shape == (5,)
    assert_allclose(density.marginal(1).mean(), density.mean()[:, 1])
    assert_allclose(density.marginal([1]).mean(), density.mean()[:, [1]])
    assert_allclose(density.marginal([1]).ppf(0.3)[:, 0], density.marginal(1).ppf(0.3))


def test_outputs_are_selected_by_name():
    parameters = random_parameters(3, 2, 3)
    density = MixtureDensity.from_covariances(*parameters, output_names=["a", "b", "c"])
    assert density.marginal(["c", "a"]).output_names == ("c", "a")
    conditional = density.condition({"b": 0.5})
    assert conditional.output_names == ("a", "c")
    assert_allclose(conditional.mean(), density.condition({1: 0.5}).mean())


def test_precisions_and_covariances_are_inverse():
    density = random_density(4, 3, 3)
    identity = np.broadcast_to(np.eye(3), density.covariances.shape)
    assert_allclose(density.precisions @ density.covariances, identity, atol=1e-9)
    factors = density.precision_factors
    assert_array_equal(np.tril(factors, -1), np.zeros_like(factors))


# -- rows, pooling, persistence --------------------------------------------------


def test_rows_are_taken_as_in_numpy():
    density = random_density(6, 3, 2)
    mask = np.array([True, False, True, False, False, True])
    for rows in (slice(1, 5, 2), mask, [4, 0], -1):
        expected = density.means[rows].reshape(-1, 3, 2)
        assert_array_equal(density[rows].means, expected)
    assert len(density[2]) == 1
    with pytest.raises(IndexError):
        density[6]


def test_mix_pools_the_densities():
    first, second = random_density(5, 3, 2), random_density(5, 2, 2, seed=1)
    y = first.means[:, 0]
    pooled = MixtureDensity.mix([first, second], weights=[3, 1])
    expected = 0.75 * first.pdf(y) + 0.25 * second.pdf(y)
    assert_allclose(pooled.pdf(y), expected, rtol=RTOL)
    assert_allclose(
        MixtureDensity.mix([first, second]).pdf(y),
        (first.pdf(y) + second.pdf(y)) / 2,
        rtol=RTOL,
    )


def test_parameters_are_read_only_and_rebuild_the_density():
    for density in (random_density(4, 3, 2), random_scalar_density(4, 3)):
        with pytest.raises(ValueError, match="read-only"):
            density.weights[0] = 1
        with pytest.raises(AttributeError):
            density.means = 0
        rebuilt = MixtureDensity(
            density.weights, density.means, density.precision_factors
        )
        restored = pickle.loads(pickle.dumps(density))
        y = density.mean()
        assert_allclose(rebuilt.logpdf(y), density.logpdf(y), rtol=1e-13)
        assert_array_equal(restored.logpdf(y), density.logpdf(y))


# -- errors ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "means", "factors", "message"),
    [
        ([[0.5, 0.6]], [[0, 1]], [[1, 1]], "sum of 1.1"),
        ([[1.5, -0.5]], [[0, 1]], [[1, 1]], "must not be negative, got -0.5"),
        ([[0.5, 0.5]], [[0, np.nan]], [[1, 1]], "Input means contains NaN"),
        ([[0.5, 0.5]], [[0, 1]], [[1, 0]], "positive diagonal"),
        ([[0.5, 0.5]], [[0, 1, 2]], [[1, 1, 1]], r"shapes \(n, K\)"),
        ([[1.0]], [[[0, 0]]], [[[[1, 0], [1, 1]]]], "upper-triangular"),
    ],
)
def test_construction_names_what_is_wrong(weights, means, factors, message):
    with pytest.raises(ValueError, match=message):
        MixtureDensity(weights, means, factors)


def test_covariances_must_be_positive_definite():
    with pytest.raises(ValueError, match="positive definite"):
        MixtureDensity.from_covariances([[1.0]], [[[0, 0]]], [[[[1, 2], [2, 1]]]])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda p: p.cdf([0, 0]), ValueError, r"one output.*has 2.*marginal"),
        (lambda p: p.ppf(0.5), ValueError, r"one output.*has 2.*marginal"),
        (lambda p: p.marginal(0).ppf(1.5), ValueError, r"\[0, 1\], got a level of 1.5"),
        (lambda p: p.marginal(0).interval(2), ValueError, "confidence .* got 2"),
        (lambda p: p.marginal(2), ValueError, "Unknown output 2; there are 2"),
        (lambda p: p.marginal("z"), ValueError, r"Unknown output 'z'.*\['a', 'b'\]"),
        (lambda p: p.marginal(0.5), TypeError, "position or a name, got 0.5"),
        (lambda p: p.marginal([]), ValueError, "At least one output"),
        (lambda p: p.marginal([0, "a"]), ValueError, "given once"),
        (lambda p: p.condition({0: 1, 1: 1}), ValueError, "at least one free output"),
        (
            lambda p: p.condition({0: np.nan}),
            ValueError,
            r"Input given\[0\] contains NaN",
        ),
        (
            lambda p: p.condition({0: [1, 2]}),
            ValueError,
            r"one per row.*got shape \(2,\)",
        ),
        (lambda p: p.logpdf([np.nan, 0]), ValueError, "Input y contains NaN"),
        (lambda p: p.logpdf([0.0]), ValueError, "hold the 2 outputs, got shape"),
        (lambda p: p.logpdf(np.zeros((4, 2))), ValueError, "each of the 3 rows.*got 4"),
        (lambda p: p.sample(0), ValueError, "positive integer, got 0"),
        (
            lambda p: p.to_latent([0, 0], [0, 1, 9]),
            ValueError,
            "integers between 0 and 1",
        ),
        (lambda p: p.from_latent([[0, 0]]), ValueError, r"shape \(3, 2, 2\)"),
        (lambda p: MixtureDensity.mix([]), ValueError, "at least one density"),
        (lambda p: MixtureDensity.mix([p, p[:1]]), ValueError, "same rows and outputs"),
        (lambda p: MixtureDensity.mix([p], [-1]), ValueError, "non-negative"),
    ],
)
def test_wrong_use_names_the_argument_and_the_remedy(call, error, message):
    parameters = random_parameters(3, 2, 2)
    density = MixtureDensity.from_covariances(*parameters, output_names=["a", "b"])
    with pytest.raises(error, match=message):
        call(density)


def test_empty_grid_gives_an_empty_answer():
    density = random_density(3, 2, 2)
    assert density.logpdf(np.empty((0, 1, 2))).shape == (0, 3)


# -- structure -------------------------------------------------------------------


def methods(cls):
    kinds = (classmethod, property)
    return [m for m in vars(cls).values() if inspect.isfunction(m) or type(m) in kinds]


def test_the_classes_of_a_density_stay_small():
    for cls in MixtureDensity.__mro__[:-2]:  # without ABC and object
        assert len(methods(cls)) <= 45, cls


def test_metrics_and_displays_use_no_private_name_of_a_density():
    package = Path(metrics.__file__).parent
    for path in (package / "metrics.py", *package.glob("plot/*.py")):
        assert not re.search(r"density\._\w", path.read_text()), path


def test_outputs_are_described_once():
    density = random_density(2, 3, 2)
    assert density.outputs.event_shape == (2,)
    assert density.marginal(0).outputs.event_shape == ()
    assert density.marginal([0]).outputs.event_shape == (1,)
    assert density.condition({0: 0.0}).outputs.event_shape == (1,)
    with pytest.raises(AttributeError):
        density.outputs.event_shape = ()
    with pytest.raises(AttributeError):
        density.output_names = ("a", "b")


def test_rows_are_taken_in_reverse():
    density = random_density(4, 3, 2)
    assert_array_equal(density[::-1].means, density.means[::-1])


def test_probabilities_do_not_exceed_one():
    density = random_scalar_density(2000, 40)
    y = density.means.max(axis=1) + 50 / density.precision_factors.min(axis=1)
    assert density.cdf(y).max() <= 1
    assert density.sf(-y).max() <= 1
    assert (density.ppf(density.cdf(y)) >= density.median()).all()


def test_shapes_are_checked_before_the_matrices():
    message = r"weights, means and covariances must have the shapes .* \(1, 1, 2, 3\)"
    with pytest.raises(ValueError, match=message):
        MixtureDensity.from_covariances([[1.0]], [[[0, 0]]], np.ones((1, 1, 2, 3)))
