"""The network: layouts, floor, start, independence of members and of defaults."""

import math

import numpy as np
import pytest
import torch
from helpers import OTHER_DEFAULTS, random_parameters
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn

from skmdn import _mixture
from skmdn._training.optimizer import FlatParameters
from skmdn._utils.arrays import neutral_modes
from skmdn.nn import MixtureDensityNetwork, PeriodicEmbedding, mixture_nll
from skmdn.nn.activations import ACTIVATIONS
from skmdn.nn.backprop import Backpropagation
from skmdn.nn.covariance import COVARIANCE_TYPES
from skmdn.nn.embeddings import Bins
from skmdn.nn.likelihood import Calibration
from skmdn.nn.pool import NetworkPool
from skmdn.nn.terms import Terms


def make_network(seed=0, **options):
    options = {"n_features": 3, "n_outputs": 2, "n_components": 4} | options
    generator = torch.Generator().manual_seed(seed)
    return MixtureDensityNetwork(**options, generator=generator).double()


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("embedding", ["periodic", None])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_in_place_have_the_same_bits(activation, embedding):
    # Without gradients, layers overwrite what they computed, and never the rows.
    network = make_network(activation=activation, embedding=embedding)
    X = normal(10, 3)
    with torch.no_grad():
        in_place = network(X)
    assert_array_equal(X, normal(10, 3))
    for part, expected in zip(in_place, network(X), strict=True):
        assert expected.requires_grad
        assert_array_equal(part, expected.detach())


@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_factors_have_the_structure_of_the_covariance_type(covariance_type, d):
    network = make_network(n_outputs=d, covariance_type=covariance_type)
    with torch.no_grad():
        network.head.linear.weight.mul_(50)
        mixture = network(normal(10, 3))
    factors = mixture.precision_factors
    assert_allclose(mixture.log_weights.exp().sum(-1), torch.ones(1, 10), rtol=1e-12)
    assert_allclose(torch.tril(factors, -1), torch.zeros_like(factors))
    off_diagonal = torch.triu(factors, 1)
    is_matrix = covariance_type in ("full", "tied", "low_rank") and d > 1
    assert bool(off_diagonal.any()) is is_matrix
    differs_between_components = not torch.allclose(factors[:, :, 0], factors[:, :, 1])
    assert differs_between_components is (covariance_type != "tied")
    if covariance_type == "spherical":
        diagonal = factors.diagonal(dim1=-2, dim2=-1)
        assert_allclose(diagonal, diagonal[..., :1].expand_as(diagonal))


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_triangular_factors_take_the_outputs_in_random_orders(covariance_type):
    network = make_network(n_outputs=3, n_members=200, covariance_type=covariance_type)
    if covariance_type not in ("full", "tied"):
        assert network.head.order is None
        return
    orders, counts = network.head.order.unique(dim=0, return_counts=True)
    assert len(orders) == 6
    assert (counts > 15).all()
    # Members that differ in nothing else give the same mixture in another order.
    with torch.no_grad():
        network.head.linear.weight.mul_(20)
        for parameter in network.parameters():
            parameter.copy_(parameter[:1].expand_as(parameter).clone())
        mixture = network(normal(4, 3))
    covariances = _mixture.covariances(mixture.precision_factors)
    for member, order in enumerate(network.head.order[:20]):
        back = torch.argsort(network.head.order[0][order.argsort()])
        assert torch.equal(mixture.means[member][..., back], mixture.means[0])
        theirs = covariances[member][..., back, :][..., back]
        assert_allclose(theirs, covariances[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_floor_bounds_the_density_for_any_output_of_the_head(covariance_type):
    floor = 1e-2
    network = make_network(covariance_type=covariance_type, reg_covar=floor)
    for value in (-1e4, -50.0, 0.0, 50.0, 1e4):
        with torch.no_grad():
            network.head.linear.bias.fill_(value)
            factors = network(normal(5, 3)).precision_factors
        assert factors.isfinite().all()
        peak = _mixture.log_det(factors) - _mixture.LOG_2PI
        assert (peak <= -math.log(2 * math.pi * floor) + 1e-9).all()
        # In its own order, 1 / u^2 is the variance of an output given the later ones.
        network.head.order = None
        factors = network(normal(5, 3)).precision_factors
        assert (factors.diagonal(dim1=-2, dim2=-1) ** -2 >= floor * (1 - 1e-9)).all()


def test_floor_is_added_to_the_variance():
    network = make_network(covariance_type="diag", reg_covar=0.5)
    free = make_network(covariance_type="diag", reg_covar=0.0)
    X = normal(5, 3)
    floored, raw = (
        _mixture.covariances(net(X).precision_factors).diagonal(dim1=-2, dim2=-1)
        for net in (network, free)
    )
    assert_allclose(floored.detach(), raw.detach() + 0.5, rtol=1e-9)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_head_starts_at_the_mixture_given(covariance_type):
    weights, means, covariances = map(torch.tensor, random_parameters(2, 4, 2))
    network = make_network(n_members=2, covariance_type=covariance_type, reg_covar=1e-4)
    before = network.head.linear.bias.clone()
    network.head.start_at(slice(1, 2), weights.log()[1:], means[1:], covariances[1:, 0])
    assert torch.equal(network.head.linear.bias[0], before[0])
    network.head.start_at(slice(2), weights.log(), means, covariances[:, 0])
    with torch.no_grad():
        network.head.linear.weight.zero_()
        mixture = network(normal(5, 3))
    for row in range(5):
        assert_allclose(mixture.log_weights[:, row], weights.log(), rtol=1e-6)
        assert_allclose(mixture.means[:, row], means, rtol=1e-12)
    started = _mixture.covariances(mixture.precision_factors[:, 0, 0])
    if covariance_type in ("full", "tied", "low_rank"):
        assert_allclose(started, covariances[:, 0], rtol=1e-9)
    else:
        variances = covariances[:, 0].diagonal(dim1=-2, dim2=-1)
        if covariance_type == "spherical":
            variances = variances.mean(-1, keepdim=True).expand(-1, 2)
        assert_allclose(started, torch.diag_embed(variances), rtol=1e-9)


def test_a_low_rank_start_keeps_the_leading_axes():
    axes, _ = torch.linalg.qr(normal(7, 7))
    spread = torch.tensor([9.0, 4.0, 2.0, 0.5, 0.5, 0.5, 0.5], dtype=torch.float64)
    covariance = (axes * spread) @ axes.T
    network = make_network(n_outputs=7, covariance_type="low_rank", rank=3)
    start = torch.zeros(1, 4), torch.zeros(1, 4, 7), covariance[None]
    network.head.start_at(slice(1), *start)
    with torch.no_grad():
        network.head.linear.weight.zero_()
        factors = network(normal(1, 3)).precision_factors
    # Three axes above equal ones are a matrix that the head can hold.
    assert_allclose(_mixture.covariances(factors)[0, 0, 0], covariance, rtol=1e-6)


# The error of a factor grows as the square of the loadings.
@pytest.mark.parametrize(("size", "atol"), [(1.0, 1e-13), (1e2, 1e-9)])
@pytest.mark.parametrize(("d", "rank"), [(1, 2), (2, 4), (5, 1), (40, 3)])
def test_low_rank_factors_whiten_the_covariance(d, rank, size, atol):
    network = make_network(n_outputs=d, covariance_type="low_rank", rank=rank)
    log_precision = normal(1, 4, d, 3)
    entries = size * normal(1, 4, rank, d, 3, seed=1)
    factors = network.head.factors(log_precision, entries).numpy()
    assert_array_equal(factors, np.triu(factors))
    roots = network.head.floored(log_precision)[1].sqrt().movedim(-1, 1).numpy()
    A = entries.permute(0, 4, 1, 3, 2).numpy().astype(np.longdouble)
    covariances = np.eye(d) + A @ A.swapaxes(-1, -2)
    scaled = factors * roots[..., None, :]
    product = scaled @ covariances @ scaled.swapaxes(-1, -2)
    assert_allclose(product.astype(float), np.eye(d) + 0 * factors, atol=atol)


@pytest.mark.parametrize("d", [1, 2, 5])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_terms_mean_and_variances_are_those_of_the_mixture(covariance_type, d):
    network = make_network(n_outputs=d, covariance_type=covariance_type, n_members=2)
    X, y = normal(6, 3), normal(6, d, seed=1)
    with torch.no_grad():
        network.head.linear.weight.mul_(20)
        mixture = network(X)
        log_density = network.terms(X, y).log_density()
        means, variances = network.moments(X)
        mean = network.mean(X)
    assert_allclose(log_density, _mixture.log_prob(mixture, y), rtol=1e-9)
    assert_allclose(means.mT, _mixture.mean(mixture), rtol=1e-9)
    assert_allclose(mean, means, rtol=1e-12)
    assert_allclose(variances.mT, _mixture.var(mixture), rtol=1e-9)


def test_members_share_nothing():
    network = make_network(n_members=3)
    X, y = normal(7, 3), normal(7, 2, seed=1)
    mixture_nll(*network(X), y)[1].sum().backward()
    for parameter in network.parameters():
        assert parameter.grad[1].any()
        assert not parameter.grad[[0, 2]].any()
    own_rows = X.expand(3, 7, 3)
    for shared, own in zip(network(X), network(own_rows), strict=True):
        assert torch.equal(shared, own)


def test_pooled_density_is_the_mean_of_the_members():
    network = make_network(n_members=3)
    X, y = normal(7, 3), normal(7, 2, seed=1)
    expected = torch.logsumexp(-mixture_nll(*network(X), y), dim=0) - math.log(3)
    pooled = NetworkPool([network])
    assert_allclose(
        _mixture.log_prob(pooled(X), y).detach(), expected.detach(), rtol=1e-12
    )


def test_each_member_has_its_frequencies():
    """A scale of frequencies is a factor, and draws nothing."""
    of_one = PeriodicEmbedding(2, 3, 1.0, generator=torch.Generator().manual_seed(0))
    of_each = PeriodicEmbedding(
        2, 3, [0.1, 2.0], generator=torch.Generator().manual_seed(0)
    )
    expected = of_one.frequencies * torch.tensor([0.1, 2.0])[:, None, None]
    assert_allclose(of_each.frequencies.detach(), expected.detach(), rtol=1e-6)
    assert torch.equal(of_each.phases, of_one.phases)
    network = make_network(n_members=2, frequency_scale=[0.0, 1.0])
    varies = network.embedding.frequencies.flatten(1).any(1)
    assert varies.tolist() == [False, True]


def test_a_network_without_bins_is_constant():
    network = make_network(embedding="bins", n_bins=0)
    means = network(normal(5, 3)).means
    assert torch.equal(means[:, 1:], means[:, :-1])


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_a_skip_adds_a_linear_function_to_the_means(covariance_type):
    options = {"covariance_type": covariance_type, "n_members": 3}
    plain, network = make_network(**options), make_network(has_skip=True, **options)
    coefficients, intercept = normal(3, 3, 2, seed=1), normal(3, 2, seed=2)
    reach = normal(3, 2, seed=4).abs() + 0.5
    X, y = normal(6, 3), normal(6, 2, seed=3)
    with torch.no_grad():
        before = plain(X)
        for part, same in zip(network(X), before, strict=True):
            assert torch.equal(part, same)  # zero at first
        network.set_skip(slice(3), coefficients, intercept, reach)
        linear = torch.einsum("np,mpd->mnd", X, coefficients)
        assert (linear.abs() > reach[:, None]).any()
        shift = linear.clamp(-reach[:, None], reach[:, None]) + intercept[:, None]
        log_weights, means, factors = network(X)
        assert torch.equal(log_weights, before.log_weights)
        assert torch.equal(factors, before.precision_factors)
        assert_allclose(means, before.means + shift[:, :, None], rtol=1e-9)
        assert_allclose(network.mean(X), plain.mean(X) + shift.mT, rtol=1e-9)
        found, expected = network.moments(X), plain.moments(X)
        assert_allclose(found[0], expected[0] + shift.mT, rtol=1e-9)
        assert torch.equal(found[1], expected[1])
        moved = plain.terms(X, y - shift)
        for name, part in network.terms(X, y).parts.items():
            assert_allclose(part, moved.parts[name], rtol=1e-9)
        own_rows = network(X.expand(3, 6, 3)).means
    assert_allclose(own_rows, means, rtol=1e-12)


def test_a_skip_is_set_for_some_members():
    network = make_network(has_skip=True, n_members=3)
    network.set_skip(slice(1, 2), normal(1, 3, 2), normal(1, 2), torch.ones(1, 2))
    changed = [network.coefficients[m].any().item() for m in range(3)]
    assert changed == [False, True, False]
    assert [network.intercept[m].any().item() for m in range(3)] == changed
    assert not any("coeff" in name for name in network.parameter_groups())


@pytest.mark.parametrize("has_skip", [False, True])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_a_network_returns_to_the_standard_normal_outside_of_its_range(
    covariance_type, has_skip
):
    options = {"covariance_type": covariance_type, "n_members": 2, "has_skip": has_skip}
    plain, network = make_network(**options), make_network(has_range=True, **options)
    if has_skip:
        skip = normal(2, 3, 2), normal(2, 2), torch.ones(2, 2)
        for each in (plain, network):
            each.set_skip(slice(2), *skip)
    low, high = torch.full((3,), -2.0), torch.tensor([2.0, 2.0, math.inf])
    network.widen_range(low, high)
    network.widen_range(low + 1, high - 1)  # a range never shrinks
    X, y = normal(6, 3).clamp(-2, 2), normal(6, 2, seed=3)
    far = X.clone()
    far[:, 1] = torch.tensor([1e9, -1e9, 12.0, -12, 1e2, -1e2])
    with torch.no_grad():
        for name, rows in (("forward", (X,)), ("mean", (X,)), ("terms", (X, y))):
            ours, theirs = getattr(network, name)(*rows), getattr(plain, name)(*rows)
            if name == "terms":
                ours, theirs = ours.parts.values(), theirs.parts.values()
            for found, expected in zip(ours, theirs, strict=True):
                assert torch.equal(found, expected)  # inside, no bit changes
        expected = -0.5 * y.square().sum(1) - math.log(2 * math.pi)
        log_density = network.terms(far, y).log_density()
        assert_allclose(log_density, expected.expand(2, -1), atol=1e-5)
        per_member = network.terms(far.expand(2, -1, -1), y).log_density()
        assert_allclose(per_member, log_density, rtol=1e-12)
        mixture = _mixture.log_prob(network(far), y.expand(2, -1, -1))
        assert_allclose(mixture, log_density, rtol=1e-9)
        mean, variance = network.moments(far)
        assert_allclose(mean, 0, atol=1e-9)
        assert_allclose(variance, 1, atol=1e-5)
        # A standard deviation beyond, all raw numbers are multiplied by exp(-1/2).
        beyond = X.clone()
        beyond[:, 0], beyond[:, 2] = 3.0, 1e3
        assert_allclose(network.nearness(beyond), math.exp(-0.5), rtol=1e-12)
    assert not any(name in network.parameter_groups() for name in ("low", "high"))


# -- pools -----------------------------------------------------------------------


def make_pool(dtype=torch.float64, **options):
    """Three kinds of networks, of different structure and with unequal weights."""
    options = {"n_components": 2} | options
    bins = Bins(torch.tensor([0, 1]), torch.tensor([-1.0, 0]), torch.tensor([2.0, 1]))
    networks = [
        make_network(0, n_members=2, embedding=None, has_skip=True, **options),
        make_network(1, n_members=1, embedding="bins", n_bins=2, **options),
        make_network(2, n_members=3, hidden_layer_sizes=(5,), **options),
    ]
    networks[0].set_skip(slice(2), normal(2, 3, 2), normal(2, 2), torch.ones(2, 2))
    networks[1].embedding.set_bins(bins)
    for network in networks:
        network.head.linear.weight.data.mul_(20)
    weights = torch.tensor([1.0, 2, 3, 4, 0.5, 1.5], dtype=torch.float64)
    return NetworkPool(networks, weights).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_a_pool_of_networks_is_one_mixture(covariance_type, dtype):
    pool = make_pool(dtype, covariance_type=covariance_type)
    X, y = normal(6, 3).to(dtype), normal(6, 2, seed=1).to(dtype)
    rtol = 1e-9 if dtype is torch.float64 else 1e-3
    with torch.no_grad():
        mixture = pool(X)
        assert [part.dtype for part in mixture] == [dtype] * 3
        assert mixture.means.shape == (6, 12, 2)
        shares = mixture.log_weights.exp().unflatten(1, (6, 2)).sum(-1)
        weights = torch.tensor([1.0, 2, 3, 4, 0.5, 1.5], dtype=torch.float64) / 12
        assert_allclose(shares, weights.expand(6, 6), rtol=1e-5)
        # Members one by one, in the order of the networks.
        alone = torch.cat([-mixture_nll(*network(X), y) for network in pool])
        expected = (alone + weights.log()[:, None]).logsumexp(0)
        assert_allclose(_mixture.log_prob(mixture, y), expected, rtol=rtol)
        assert_allclose(pool.log_density(X, y), expected, rtol=rtol)
        mean, variance = pool.moments(X)
        assert_allclose(mean.mT, _mixture.mean(mixture), rtol=rtol, atol=1e-5)
        assert_allclose(pool.mean(X), mean, rtol=rtol, atol=1e-5)
        assert_allclose(variance.mT, _mixture.var(mixture), rtol=rtol)


def test_a_pool_gives_each_member_its_calibration():
    pool, X, y = make_pool(reg_covar=0.0), normal(6, 3), normal(6, 2, seed=1)
    calibrations = [Calibration(0.1 * m, 0.3 - 0.1 * m) for m in range(6)]
    with torch.no_grad():
        terms = [network.terms(X, y) for network in pool]
        terms = Terms.cat(terms)
        pool.calibrate_(calibrations)
        found = torch.cat([net.terms(X, y).log_density() for net in pool])
    for member, calibration in enumerate(calibrations):
        own = terms.select(torch.tensor([member])).calibrated(calibration)
        assert_allclose(found[member], own.log_density()[0], rtol=1e-9)


def test_weights_of_a_pool_are_equal_by_default():
    pool = NetworkPool([make_network(n_members=2), make_network(1, embedding=None)])
    assert_allclose(pool.log_weights, np.full(3, -math.log(3)))
    assert pool.n_members == 3


def test_embedding_saturates_far_outside():
    network = make_network()
    inside, edge, beyond = (
        network(s * torch.ones(1, 3).double()) for s in (1, 1e3, 1e9)
    )
    for near, far in zip(edge, beyond, strict=True):
        assert_allclose(near.detach(), far.detach(), rtol=1e-6)
    assert not torch.allclose(inside.means, beyond.means)


def test_a_component_is_never_wider_than_a_hundred_standard_deviations():
    network = make_network(embedding=None, covariance_type="diag", reg_covar=0.0)
    factors = network(1e6 * normal(50, 3)).precision_factors
    scales = 1 / factors.diagonal(dim1=-2, dim2=-1)
    assert_allclose(scales.max().detach(), 100.0)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_calibration_is_a_factor_of_the_factors_and_a_power_of_the_weights(
    covariance_type,
):
    network = make_network(n_members=2, covariance_type=covariance_type, reg_covar=0.0)
    before = network(normal(5, 3))
    calibrations = Calibration(0.4, -0.3), Calibration(-0.1, 0.2)
    network.head.calibrate_(calibrations)
    log_weights, means, factors = network(normal(5, 3))
    assert torch.equal(means, before.means)
    for member, (log_sharpness, log_power) in enumerate(calibrations):
        powers = math.exp(log_power) * before.log_weights[member]
        expected = powers.log_softmax(-1).detach()
        assert_allclose(log_weights[member].detach(), expected, rtol=1e-9)
        expected = math.exp(log_sharpness) * before.precision_factors[member]
        assert_allclose(factors[member].detach(), expected.detach(), rtol=1e-9)


def test_calibration_leaves_the_floor():
    network = make_network(reg_covar=0.1)
    network.head.calibrate_([Calibration(20.0, 0.0)])
    factors = network(normal(5, 3)).precision_factors
    assert_allclose(_mixture.log_det(factors).detach(), -math.log(0.1), rtol=1e-6)


def test_dropout_keeps_the_mean_and_is_off_in_evaluation():
    network = make_network(dropout=0.5)
    hidden = torch.ones(1, 200, 500, dtype=torch.float64)
    mask = network.draw_mask(hidden)
    assert_allclose(mask.mean(), 1, atol=0.01)
    assert_allclose((mask == 0).double().mean(), 0.5, atol=0.01)
    assert network.eval().draw_mask(hidden) is None


def test_same_generator_seed_gives_the_same_network():
    first, second, other = make_network(0), make_network(0), make_network(1)
    X = normal(5, 3)
    assert torch.equal(first(X).means, second(X).means)
    assert not torch.equal(first(X).means, other(X).means)


# -- structure -------------------------------------------------------------------


def custom(n_features):
    return nn.Sequential(nn.Linear(n_features, 6), nn.BatchNorm1d(6), nn.Dropout(0.2))


# -- torch's defaults ------------------------------------------------------------


class Branches(nn.Module):
    """A class of the user's that makes tensors by the defaults in its forward pass."""

    def __init__(self, n_features):
        super().__init__()
        self.linear = nn.Linear(n_features, 4)
        self.register_buffer("scale", torch.tensor([0.1, 0.2, 0.3, 1 / 3]))
        self.register_buffer("nodes", torch.linspace(0, 1, 4) + torch.arange(0.0, 4))

    def forward(self, x):
        x = self.linear(x) * self.scale + self.nodes + torch.full((4,), 0.1)
        return x + 0.1 * torch.rand(4) if self.training else x


def computed(**options):
    """Bits of all that a network computes, from construction to a gradient."""
    network = MixtureDensityNetwork(
        3, 2, 4, n_members=2, generator=torch.Generator().manual_seed(0), **options
    )
    flat = FlatParameters(network)
    values = flat.values.clone()
    seed = torch.Generator().manual_seed(1)
    like = {"generator": seed, "dtype": torch.float32, "device": "cpu"}
    X, y = torch.randn(2, 9, 3, **like), torch.randn(2, 9, 2, **like)
    backpropagation = Backpropagation(network, 9)
    weight = torch.ones(2, 9, dtype=torch.float32, device="cpu")
    with neutral_modes():  # as in every fit
        losses = [backpropagation.run(X, y, weight, loss) for loss in ("nll", "bound")]
    network.eval()
    with torch.no_grad():
        terms = network.terms(X, y).parts.values()
        found = [*network(X), *terms, *network.moments(X)]
    return [values, flat.gradient, flat.values, *losses, *found, network.mean(X)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"covariance_type": "low_rank"},
        {"covariance_type": "tied", "dropout": 0.2},
        {"network": custom},
        {"network": Branches},
    ],
)
@pytest.mark.parametrize("defaults", OTHER_DEFAULTS)
def test_bits_do_not_depend_on_defaults(defaults, options):
    expected = computed(**options)
    with OTHER_DEFAULTS[defaults]():
        found = computed(**options)
    for part, other in zip(found, expected, strict=True):
        assert part.dtype == torch.float32
        assert_array_equal(part.detach(), other.detach())
