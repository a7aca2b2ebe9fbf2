"""The hand-written gradient equals that of autograd."""

import math

import pytest
import torch
from helpers import FrozenNetwork, busy_network, plain_network
from numpy.testing import assert_allclose
from torch import nn

from skmdn import MDNRegressor, _mixture
from skmdn._mixture import joint_log_prob
from skmdn._training.optimizer import FlatParameters
from skmdn.datasets import make_rotating_gaussians
from skmdn.nn import MixtureDensityNetwork
from skmdn.nn.activations import ACTIVATIONS
from skmdn.nn.backprop import Backpropagation
from skmdn.nn.covariance import COVARIANCE_TYPES, COVARIANCES, Covariance
from skmdn.nn.embeddings import EMBEDDINGS, Bins, BinsEmbedding
from skmdn.nn.head import MixtureHead, Whitened, sum_like
from skmdn.nn.likelihood import LOSSES

# Two bins of the first feature, three of the third and none of the second.
BINS = Bins(
    torch.tensor([0, 0, 2, 2, 2]),
    torch.tensor([-1.0, 0.2, -0.5, 0.0, 0.7]),
    torch.tensor([1.2, 0.4, 0.5, 0.7, 0.1]),
)


def check(*, loss="nll", **options):
    """Compare loss and gradient of `Backpropagation` with autograd's."""
    generator = torch.Generator().manual_seed(0)
    options = {"n_features": 3, "n_outputs": 2, "n_components": 4} | options
    options = {"n_members": 2, "hidden_layer_sizes": (7, 6)} | options
    if options.get("embedding") == "bins":
        options["n_bins"] = len(BINS.feature)
    network = MixtureDensityNetwork(**options, generator=generator).double()
    for parameter in network.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    if isinstance(network.embedding, BinsEmbedding):
        network.embedding.set_bins(BINS)
    if network.has_skip:
        size = options["n_features"], options["n_outputs"]
        skip = (
            torch.randn(2, *size, generator=generator),
            torch.randn(2, size[1], generator=generator),
            torch.rand(2, size[1], generator=generator),
        )
        network.set_skip(slice(2), *skip)
    X = torch.randn(2, 11, 3, generator=generator).double()
    y = torch.randn(2, 11, network.head.shapes[1][1], generator=generator).double()
    weight = torch.rand(2, 11, generator=generator).double()
    network.generator.manual_seed(1)
    expected = weight * LOSSES[loss].value(joint_log_prob(network(X), y))
    learned = [p for p in network.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(
        expected.sum(), learned, allow_unused=True, materialize_grads=True
    )
    for parameter in learned:
        parameter.grad = torch.full_like(parameter, float("nan"))
    network.generator.manual_seed(1)
    losses = Backpropagation(network, 11).run(X, y, weight, loss)
    assert_allclose(losses, expected.detach(), rtol=1e-12)
    for parameter, gradient in zip(learned, gradients, strict=True):
        assert_allclose(parameter.grad, gradient.detach(), rtol=1e-10, atol=1e-12)
    return network


@pytest.mark.parametrize(
    "network",
    [
        plain_network,
        busy_network,
        FrozenNetwork,
        lambda p: nn.Identity(),
        lambda p: nn.Dropout(0.5),
    ],
)
def test_user_networks_have_the_gradient_of_autograd(network):
    check(network=network)


@pytest.mark.parametrize("n_components", [1, 4])
@pytest.mark.parametrize("n_outputs", [1, 2, 4])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_every_covariance(covariance_type, n_outputs, n_components):
    check(
        covariance_type=covariance_type, n_outputs=n_outputs, n_components=n_components
    )


@pytest.mark.parametrize("embedding", ["periodic", "bins", None])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_and_embedding(activation, embedding):
    check(activation=activation, embedding=embedding)


@pytest.mark.parametrize("hidden_layer_sizes", [(), (5,), (4, 5, 6)])
@pytest.mark.parametrize("embedding", ["periodic", "bins", None])
def test_every_depth(hidden_layer_sizes, embedding):
    check(hidden_layer_sizes=hidden_layer_sizes, embedding=embedding)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("n_outputs", [1, 3])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss(loss, covariance_type, n_outputs):
    check(covariance_type=covariance_type, n_outputs=n_outputs, loss=loss)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_dropout(activation):
    check(activation=activation, dropout=0.3)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("n_outputs", [1, 3])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_skip_connection(loss, covariance_type, n_outputs):
    check(
        has_skip=True,
        loss=loss,
        covariance_type=covariance_type,
        n_outputs=n_outputs,
        dropout=0.2,
    )


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_every_rank(rank):
    check(n_outputs=4, covariance_type="low_rank", rank=rank)


@pytest.mark.parametrize("reg_covar", [0.0, 1e-6, 0.5])
def test_every_floor(reg_covar):
    check(reg_covar=reg_covar)


# -- extensions by one entry -------------------------------------------------------


@pytest.mark.parametrize("n_outputs", [1, 2, 4])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@torch.no_grad()
def test_heads_differentiate_as_the_default_does(covariance_type, n_outputs):
    generator = torch.Generator().manual_seed(0)
    network = MixtureDensityNetwork(
        3, n_outputs, 4, covariance_type=covariance_type, rank=2, generator=generator
    )
    head = network.head

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    numbers = head.split(normal(2, sum(head.sizes), 7))
    _, residuals, log_precision, entries = numbers
    u = log_precision.exp()
    minus_r = -normal(2, 4, 1, 7).softmax(1)

    def differentiate(cls):
        saved = head.whiten(residuals, u, entries).saved
        buffers = torch.empty_like(residuals), torch.empty_like(entries)
        grad_log_u = cls.differentiate(
            head, minus_r, residuals, u, entries, saved, *buffers
        )
        return [sum_like(grad_log_u, u), *buffers]

    default, override = differentiate(MixtureHead), differentiate(type(head))
    for ours, expected in zip(override, default, strict=True):
        assert_allclose(ours, expected, rtol=1e-10, atol=1e-10)


class EquicorrelatedHead(MixtureHead):
    """Covariance u^-2 (I + c 11'), with c the exponential of one number."""

    def matrices(self, log_precision, entries):
        _, variances = self.floored(log_precision)
        d = self.n_outputs
        ones = torch.ones(d, d, dtype=entries.dtype)
        identity = torch.eye(d, dtype=entries.dtype)
        c = entries.exp().movedim(-1, 1)[..., None]
        return variances.movedim(-1, 1)[..., None] * (identity + c * ones)

    def factors(self, log_precision, entries):
        matrices = self.matrices(log_precision, entries)
        return _mixture.factors_from_covariances(matrices)

    def variances(self, log_precision, entries):
        matrices = self.matrices(log_precision, entries)
        return matrices.diagonal(dim1=-2, dim2=-1).movedim(1, -1)

    def whiten(self, residuals, u, entries, observed=None):
        z, precision = self.regress(residuals, u, entries, observed)
        return Whitened(precision.log().sum(2), z.square().sum(2))

    def regress(self, residuals, u, entries, observed=None):
        """Predict each output from the sum of the later observed ones."""
        c, d = entries.exp().squeeze(2), self.n_outputs
        u = u.squeeze(2)
        is_known = torch.ones_like(residuals) if observed is None else observed * 1.0
        count, total, found = 0.0, 0.0, []
        for i in reversed(range(d)):
            share = c / (1 + count * c)
            precision = u * (1 + share).rsqrt()
            z = precision * (residuals[:, :, i] - share * total)
            known = is_known[:, :, i]
            found.append((z * known, precision**known))
            count, total = count + known, total + known * residuals[:, :, i]
        z, precision = zip(*found[::-1], strict=True)
        return torch.stack(z, 2), torch.stack(precision, 2)

    def numbers_of(self, covariance):
        variances = covariance.diagonal(dim1=-2, dim2=-1).mean(-1, keepdim=True)
        return self.unfloored(variances), torch.full_like(variances, -math.log(10))


def test_a_head_without_a_gradient_of_its_own_trains(monkeypatch):
    equicorrelated = Covariance(EquicorrelatedHead, lambda K, d, rank: ((K, 1), (K, 1)))
    monkeypatch.setitem(COVARIANCES, "equicorrelated", equicorrelated)
    for loss in LOSSES:
        check(covariance_type="equicorrelated", n_outputs=3, loss=loss)


@pytest.mark.parametrize("n_blocks", [2, 3, 4])
def test_a_head_without_a_gradient_of_its_own_has_all_kinds_of_targets(
    monkeypatch, n_blocks
):
    equicorrelated = Covariance(EquicorrelatedHead, lambda K, d, rank: ((K, 1), (K, 1)))
    monkeypatch.setitem(COVARIANCES, "equicorrelated", equicorrelated)
    generator = torch.Generator().manual_seed(0)
    network = MixtureDensityNetwork(
        3, 3, 2, covariance_type="equicorrelated", generator=generator
    ).double()
    X = torch.randn(1, 6, 3, generator=generator).double()
    y = torch.randn(1, 6, 3, generator=generator).double()
    observed = torch.tensor([1.0, 0.0, 1.0]).expand_as(y)
    bounds = [torch.where(y > 0.5, bound, 0.0) for bound in (-math.inf, 0.7)]
    blocks = [y, *(bounds if n_blocks > 2 else []), *([observed] * (n_blocks != 3))]
    targets = torch.cat(blocks, dim=-1)
    FlatParameters(network)
    losses = Backpropagation(network, 6).run(X, targets, torch.ones(1, 6).double())
    values = network.terms(X, targets).log_density()
    assert_allclose(losses, -values.detach(), rtol=1e-10)
    if n_blocks == 2:
        marginal = _mixture.marginal(network(X), [0, 2])
        expected = _mixture.log_prob(marginal, y[..., [0, 2]])
        assert_allclose(values.detach(), expected.detach(), rtol=1e-10)
    parameter = network.head.linear.bias
    gradient = parameter.grad.clone()
    for index in range(parameter.shape[-1]):
        ends = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                parameter[..., index] += step
                ends.append(-network.terms(X, targets).log_density().sum())
                parameter[..., index] -= step
        slope = (ends[0] - ends[1]) / 2e-5
        assert_allclose(gradient[0, 0, index], slope, rtol=1e-5, atol=1e-7)


class Bumps(nn.Module):
    """Gaussian bumps with trainable centres, and a parameter without effect."""

    def __init__(self, n_members, n_features, *, generator):
        super().__init__()
        self.n_outputs = n_features
        centres = torch.randn(n_members, 1, n_features, generator=generator)
        self.centres = nn.Parameter(centres)
        self.unused = nn.Parameter(torch.zeros(n_members, 2))

    def forward(self, x):
        return (-(x - self.centres).square()).exp()


def make_bumps(n_members, n_features, *, generator, **options):
    return Bumps(n_members, n_features, generator=generator)


def test_an_embedding_without_a_gradient_of_its_own_trains(monkeypatch):
    monkeypatch.setitem(EMBEDDINGS, "bumps", make_bumps)
    generator = torch.Generator().manual_seed(0)
    network = MixtureDensityNetwork(3, n_members=2, embedding="bumps")
    flat = FlatParameters(network)
    flat.gradient.fill_(float("nan"))
    X, y = torch.randn(2, 9, 3, generator=generator), torch.zeros(2, 9, 1)
    Backpropagation(network, 9).run(X, y, torch.ones(2, 9))
    gradient = flat.gradient.clone()
    assert not network.embedding.unused.grad.any()
    losses = LOSSES["nll"].value(joint_log_prob(network(X), y))
    parameters = list(network.parameters())
    expected = torch.autograd.grad(
        losses.sum(), parameters, allow_unused=True, materialize_grads=True
    )
    for parameter, part in zip(parameters, expected, strict=True):
        assert_allclose(parameter.grad, part.detach(), rtol=1e-4, atol=1e-5)
    assert gradient.isfinite().all()


def test_a_trained_embedding_without_a_gradient_of_its_own_lowers_the_loss(monkeypatch):
    monkeypatch.setitem(EMBEDDINGS, "periodic", make_bumps)
    settings = {"max_iter": 10, "n_estimators": 2, "random_state": 0, "device": "cpu"}
    X, y = make_rotating_gaussians(80, random_state=0)
    mdn = MDNRegressor(2, portfolio=None, **settings).fit(X, y)
    assert isinstance(mdn.network_.networks[0].embedding, Bumps)
    assert mdn.loss_curve_[-1] < mdn.loss_curve_[0]
