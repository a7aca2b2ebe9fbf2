"""The gradient by hand equals autograd's."""

import pytest
import torch
from numpy.testing import assert_allclose

from skmdn._covariance import COVARIANCE_TYPES
from skmdn._gradient import ACTIVATIONS_IN_PLACE, Backpropagation
from skmdn.nn import (
    ACTIVATIONS,
    MixtureDensityNetwork,
    mixture_nll,
    mixture_nll_bound,
)


def check(*, is_bound=False, **options):
    generator = torch.Generator().manual_seed(0)
    options = {"n_features": 3, "n_outputs": 2, "n_components": 4} | options
    options = {"n_members": 2, "hidden_layer_sizes": (7, 6)} | options
    network = MixtureDensityNetwork(**options, generator=generator).double()
    for parameter in network.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    X = torch.randn(2, 11, 3, generator=generator).double()
    y = torch.randn(2, 11, network.head.shapes[1][1], generator=generator).double()
    weight = torch.rand(2, 11, generator=generator).double()
    objective = mixture_nll_bound if is_bound else mixture_nll
    network.generator.manual_seed(1)
    expected = weight * objective(*network(X), y)
    expected.sum().backward()
    learned = [p for p in network.parameters() if p.requires_grad]
    gradients = [parameter.grad.clone() for parameter in learned]
    for parameter in learned:
        parameter.grad.fill_(float("nan"))
    network.generator.manual_seed(1)
    losses = Backpropagation(network, 11).run(X, y, weight, is_bound=is_bound)
    assert_allclose(losses, expected.detach(), rtol=1e-12)
    for parameter, gradient in zip(learned, gradients, strict=True):
        assert_allclose(parameter.grad, gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("n_components", [1, 4])
@pytest.mark.parametrize("n_outputs", [1, 2, 4])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_every_covariance(covariance_type, n_outputs, n_components):
    check(
        covariance_type=covariance_type, n_outputs=n_outputs, n_components=n_components
    )


@pytest.mark.parametrize("embedding", ["periodic", None])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_and_embedding(activation, embedding):
    assert ACTIVATIONS_IN_PLACE.keys() == ACTIVATIONS.keys()
    check(activation=activation, embedding=embedding)


@pytest.mark.parametrize("hidden_layer_sizes", [(), (5,), (4, 5, 6)])
@pytest.mark.parametrize("embedding", ["periodic", None])
def test_every_depth(hidden_layer_sizes, embedding):
    check(hidden_layer_sizes=hidden_layer_sizes, embedding=embedding)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("n_outputs", [1, 3])
def test_the_bound(covariance_type, n_outputs):
    check(covariance_type=covariance_type, n_outputs=n_outputs, is_bound=True)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_dropout(activation):
    check(activation=activation, dropout=0.3)


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_every_rank(rank):
    check(n_outputs=4, covariance_type="low_rank", rank=rank)


@pytest.mark.parametrize("reg_covar", [0.0, 1e-6, 0.5])
def test_every_floor(reg_covar):
    check(reg_covar=reg_covar)
