"""Identities of the functions on mixtures below MixtureDensity."""

import math

import numpy as np
import pytest
import torch
from helpers import OTHER_DEFAULTS, random_parameters
from numpy.testing import assert_allclose, assert_array_equal
from scipy import special

from skmdn import _mixture
from skmdn._mixture import Mixture
from skmdn._mixture.factors import reorder
from skmdn._mixture.quasirandom import normal_points
from skmdn._mixture.univariate import normal_cdf
from skmdn.nn import mixture_nll, mixture_nll_bound


def random_mixture(n, K, d, covariance_type="full"):
    weights, means, covariances = map(
        torch.tensor, random_parameters(n, K, d, covariance_type)
    )
    factors = _mixture.factors_from_covariances(covariances)
    return Mixture(weights.log(), means, factors)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_factors_square_to_the_precision(d):
    covariances = torch.tensor(random_parameters(4, 3, d)[2])
    factors = _mixture.factors_from_covariances(covariances)
    assert_allclose(factors.mT @ factors, torch.linalg.inv(covariances), rtol=1e-9)
    assert_allclose(_mixture.covariances(factors), covariances, rtol=1e-9, atol=1e-12)
    assert (factors.diagonal(dim1=-2, dim2=-1) > 0).all()
    assert_allclose(torch.tril(factors, -1), torch.zeros_like(factors), atol=1e-12)
    assert_allclose(
        _mixture.log_det(factors), -torch.linalg.slogdet(covariances)[1] / 2, rtol=1e-9
    )


def test_reordered_factors_square_to_the_permuted_precision():
    factors = random_mixture(4, 3, 4).precision_factors
    order = [2, 0, 3, 1]
    reordered = reorder(factors, order)
    expected = _mixture.precisions(factors)[..., order, :][..., order]
    assert_allclose(_mixture.precisions(reordered), expected, rtol=1e-9, atol=1e-10)
    assert (reordered.diagonal(dim1=-2, dim2=-1) > 0).all()


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_gradients_equal_finite_differences(covariance_type):
    mixture = random_mixture(3, 2, 2, covariance_type)
    y = torch.zeros(3, 2, dtype=torch.float64)
    leaves = [part.clone().requires_grad_() for part in mixture]

    def objective(log_weights, means, factors):
        factors = torch.triu(factors)
        arguments = log_weights.log_softmax(-1), means, factors, y
        return torch.stack([mixture_nll(*arguments), mixture_nll_bound(*arguments)])

    assert torch.autograd.gradcheck(objective, leaves)


def test_bound_is_above_the_nll_also_where_densities_exceed_one():
    for scale in (1e-3, 1.0, 1e3):
        mixture = random_mixture(200, 4, 2)
        narrow = mixture._replace(precision_factors=mixture.precision_factors / scale)
        y = mixture.means[:, 0]
        nll, bound = mixture_nll(*narrow, y), mixture_nll_bound(*narrow, y)
        assert (bound >= nll).all()
    assert (nll < 0).any() or scale > 1


def test_bound_is_tight_where_all_components_agree():
    mixture = random_mixture(5, 1, 2)
    copies = Mixture(
        torch.full((5, 3), -math.log(3), dtype=torch.float64),
        mixture.means.expand(5, 3, 2),
        mixture.precision_factors.expand(5, 3, 2, 2),
    )
    y = torch.zeros(5, 2, dtype=torch.float64)
    assert_allclose(mixture_nll_bound(*copies, y), mixture_nll(*copies, y), rtol=1e-12)


def test_nll_is_finite_far_away_and_for_tiny_weights():
    mixture = random_mixture(3, 2, 2)
    log_weights = torch.tensor([[-800.0, 0.0]], dtype=torch.float64).expand(3, 2)
    y = torch.full((3, 2), 1e6, dtype=torch.float64)
    assert mixture_nll(*mixture._replace(log_weights=log_weights), y).isfinite().all()


@pytest.mark.parametrize("scale", [[1e-6, 1e3], [-1e-6, 1e3], [-2.0, -3.0]])
def test_rescaling_shifts_the_log_density_by_the_jacobian(scale):
    mixture = random_mixture(5, 3, 2)
    shift, scale = torch.tensor([3.0, -1.0]).double(), torch.tensor(scale).double()
    y = mixture.means[:, 0]
    rescaled = _mixture.rescale(mixture, shift, scale)
    moved = _mixture.log_prob(rescaled, y * scale + shift)
    expected = _mixture.log_prob(mixture, y) - scale.abs().log().sum()
    assert_allclose(moved, expected, rtol=1e-10)
    assert (rescaled.precision_factors.diagonal(dim1=-2, dim2=-1) > 0).all()


def test_normal_cdf_keeps_its_digits_in_the_tail():
    z = np.linspace(-37, 8, 500)
    ours = normal_cdf(torch.tensor(z))
    assert_allclose(ours, special.ndtr(z), rtol=1e-12)


def test_components_are_drawn_by_their_weights():
    weights = torch.tensor([[0.1, 0.0, 0.6, 0.3]], dtype=torch.float64)
    uniform = torch.rand(1, 100_000, generator=torch.Generator().manual_seed(0))
    index = _mixture.draw_components(weights.log(), uniform.double())
    frequencies = torch.bincount(index[0], minlength=4) / 100_000
    assert_allclose(frequencies, weights[0], atol=0.005)
    edges = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    assert _mixture.draw_components(weights.log(), edges).tolist() == [[0, 3]]


def computed(mixture, y, uniform, q):
    """All that depends on points or iterations, for one or several outputs."""
    normal_points.cache_clear()
    found = [
        _mixture.log_prob(mixture, y),
        _mixture.responsibilities(mixture, y),
        _mixture.cov(mixture),
        _mixture.var(mixture),
        _mixture.entropy(mixture),
        _mixture.log_levels(mixture, [0.8]),
        _mixture.sample(mixture, uniform),
        *_mixture.find_modes(mixture),
    ]
    if mixture.means.shape[-1] > 1:
        return [*found, *_mixture.condition(mixture, [1], y[:, 1:])]
    return [
        *found,
        *_mixture.regions(mixture, [0.8])[0],
        _mixture.ppf(mixture, q),
        _mixture.log_cdf(mixture, y),
        _mixture.crps(mixture, y),
    ]


@pytest.mark.parametrize("d", [1, 2])
@pytest.mark.parametrize("defaults", OTHER_DEFAULTS)
def test_bits_do_not_depend_on_defaults(defaults, d):
    mixture = random_mixture(6, 3, d)
    y = mixture.means[:, 0] + 0.1
    generator = torch.Generator().manual_seed(0)
    shape = _mixture.n_uniforms(d), 6, 4
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
    expected = computed(mixture, y, uniform, uniform[0, 0, :, None].expand(4, 6))
    with OTHER_DEFAULTS[defaults]():
        found = computed(mixture, y, uniform, uniform[0, 0, :, None].expand(4, 6))
    for part, other in zip(found, expected, strict=True):
        assert_array_equal(part, other)
