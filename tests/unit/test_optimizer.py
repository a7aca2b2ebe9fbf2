"""Muon in the hidden layers, and Adam for all else."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from skmdn._training.auto import TrainingSettings
from skmdn._training.optimizer import (
    MOMENTUM,
    N_ROOT_STEPS,
    ROOT_COEFFICIENTS,
    STEP_SIZE,
    FlatParameters,
    Optimizer,
    OptimizerState,
    orthogonal_factors,
)
from skmdn.distributed import ALONE
from skmdn.nn import MixtureDensityNetwork

RATE = 0.02


def make_optimizer(n_members=3, dtype=torch.float64, **options):
    generator = torch.Generator().manual_seed(0)
    network = MixtureDensityNetwork(
        4,
        n_members=n_members,
        hidden_layer_sizes=(6, 5),
        generator=generator,
        **options,
    ).to(dtype)
    settings = {
        "learning_rate_init": RATE,
        "learning_rate": "constant",
        "alpha": 0.1,
        "batch_size": 10,
        "max_iter": 10,
        "warmup_iter": 0,
        "tol": 0.0,
        "n_iter_no_change": 5,
        "max_grad_norm": None,
        "verbose": False,
    }
    settings = TrainingSettings.resolve(settings, 100)
    return network, Optimizer(network, settings, ALONE)


def curve(values):
    """Apply the polynomial of the iteration to singular values."""
    a, b, c = ROOT_COEFFICIENTS
    for _ in range(N_ROOT_STEPS):
        values = a * values + b * values**3 + c * values**5
    return values


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    size=st.sampled_from([1e-150, 1e-8, 1.0, 1e8]),
    seed=st.integers(0, 1000),
)
def test_factors_are_orthogonal_up_to_the_curve_of_singular_values(shape, size, seed):
    matrices = np.random.RandomState(seed).normal(size=shape) * size
    factors = orthogonal_factors(torch.from_numpy(matrices)).numpy()
    u, s, vh = np.linalg.svd(matrices, full_matrices=False)
    s /= np.linalg.norm(s, axis=-1, keepdims=True)
    assert_allclose(factors, (u * curve(s)[:, None, :]) @ vh, atol=1e-7)


def test_singular_values_become_about_one():
    # Those below a tenth of the norm are still on their way.
    values = np.linspace(0.1, 1, 500)
    assert curve(values).min() > 0.67
    assert curve(values).max() < 1.21
    assert curve(0.02) > 0.5


def test_zero_stays_zero():
    for dtype in (torch.float32, torch.float64):
        zero = torch.zeros(2, 3, 4, dtype=dtype)
        assert torch.equal(orthogonal_factors(zero), zero)


def test_hidden_layers_step_along_the_orthogonal_factor_of_the_mean_gradient():
    network, optimizer = make_optimizer()
    weights = [layer.weight for layer in network.hidden]
    expected = [weight.detach().clone() for weight in weights]
    means = [torch.zeros_like(weight) for weight in expected]
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        for parameter in network.parameters():
            parameter.grad.normal_(generator=generator)
        gradients = [weight.grad.clone() for weight in weights]
        optimizer.step(0.5 * optimizer.rate(0.0))
        for weight, mean, gradient in zip(expected, means, gradients, strict=True):
            mean *= MOMENTUM
            mean += (1 - MOMENTUM) * gradient
            ahead = MOMENTUM * mean + (1 - MOMENTUM) * gradient
            weight *= 1 - 0.5 * RATE * 0.1
            size = 0.5 * RATE * STEP_SIZE * max(weight.shape[1:]) ** 0.5
            weight -= size * orthogonal_factors(ahead)
        for found, weight in zip(weights, expected, strict=True):
            assert_allclose(found.detach(), weight, rtol=1e-12)


def test_all_else_steps_as_adam_does():
    network, optimizer = make_optimizer()
    others = [p for n, p in network.named_parameters() if not n.startswith("hidden.")]
    others += [layer.bias for layer in network.hidden]
    copies = [torch.nn.Parameter(p.detach().clone()) for p in others]
    decayed = [p.ndim > 1 and p is network.head.linear.weight for p in others]
    adam = torch.optim.Adam(copies, lr=RATE)
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        for parameter in network.parameters():
            parameter.grad.normal_(generator=generator)
        for copy, parameter, is_decayed in zip(copies, others, decayed, strict=True):
            copy.grad = parameter.grad.clone()
            if is_decayed:
                copy.data *= 1 - RATE * 0.1
        adam.step()
        optimizer.step(optimizer.rate(0.0))
        for copy, parameter in zip(copies, others, strict=True):
            assert_allclose(parameter.detach(), copy.detach(), rtol=1e-9, atol=1e-12)


def test_members_step_alone():
    """Each network of a stack takes the step that it takes on its own."""
    network, optimizer = make_optimizer()
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        parameter.grad.normal_(generator=generator)
    before = optimizer.parameters.values.clone()
    gradient = optimizer.parameters.gradient.clone()
    optimizer.step(optimizer.rate(0.0))
    for member in range(3):
        _, alone = make_optimizer(n_members=1)
        alone.parameters.values.copy_(before[[member]])
        alone.parameters.gradient.copy_(gradient[[member]])
        alone.step(alone.rate(0.0))
        ours = optimizer.parameters.values[[member]]
        assert_allclose(alone.parameters.values, ours, rtol=1e-12)


@pytest.mark.parametrize("hidden", [True, False])
def test_a_state_of_adam_alone_is_continued(hidden):
    """Earlier releases stored the mean gradients of the hidden layers with the rest."""
    options = {} if hidden else {"network": lambda n: torch.nn.Linear(n, 3)}
    _, optimizer = make_optimizer(dtype=torch.float32, **options)
    state, n_hidden = optimizer.state, optimizer.parameters.n_hidden
    assert (n_hidden > 0) == hidden
    rng = np.random.RandomState(0)
    earlier = {
        name: rng.uniform(size=state.mean.shape).astype(np.float32)
        for name in ("mean", "square")
    } | {"n_steps": np.array(7, dtype=np.float32)}
    state.load_({f"0.{name}": part for name, part in earlier.items()}, "0.")
    assert_array_equal(state.momentum, earlier["mean"][:, :n_hidden])
    for name in ("mean", "square"):
        found = getattr(state, name)
        assert not found[:, :n_hidden].any()
        assert_array_equal(found[:, n_hidden:], earlier[name][:, n_hidden:])
    assert float(state.n_steps) == 7


def test_a_state_is_stored_and_continued():
    network, optimizer = make_optimizer()
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        parameter.grad.normal_(generator=generator)
    optimizer.step(optimizer.rate(0.0))
    arrays = optimizer.state.to_arrays("1.")
    assert sorted(arrays) == ["1.mean", "1.momentum", "1.n_steps", "1.square"]
    assert arrays["1.momentum"].any()
    other = OptimizerState.zeros_like(FlatParameters(make_optimizer()[0]))
    other.load_(arrays, "1.")
    for name, part in other.to_arrays("1.").items():
        assert_array_equal(part, arrays[name])
