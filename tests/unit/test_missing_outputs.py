"""Targets that are missing or in cells: layout, values and gradients."""

import itertools
import math

import numpy as np
import pytest
import torch
from helpers import OTHER_DEFAULTS, busy_network
from numpy.testing import assert_allclose, assert_array_equal
from partial_targets import ALL_BLOCKS, draw, joint_by_hand, make_network, stack
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from skmdn import _mixture
from skmdn._training.optimizer import FlatParameters
from skmdn._utils.arrays import neutral_modes
from skmdn._utils.compat import TorchDispatchMode
from skmdn.nn import MixtureDensityNetwork, NetworkPool
from skmdn.nn.backprop import Backpropagation
from skmdn.nn.covariance import COVARIANCE_TYPES
from skmdn.nn.likelihood import LOSSES
from skmdn.nn.targets import Targets
from skmdn.nn.terms import CellTerms, PartialTerms, PointTerms

KINDS_OF_TERMS = {1: PointTerms, 2: PartialTerms, 3: CellTerms, 4: CellTerms}


# -- targets ------------------------------------------------------------------------


@pytest.mark.parametrize("n_blocks", ALL_BLOCKS)
def test_blocks_of_targets(n_blocks):
    y, lower, upper, observed = draw(n_blocks, 4, 3)
    given = stack(n_blocks, y, lower, upper, observed, junk=math.nan)
    targets = Targets.split(given, 3)
    is_known = observed > 0
    assert torch.equal(targets.points, torch.where(is_known, y, 0))
    assert (targets.observed is None) is (n_blocks % 2 == 1)
    assert (targets.below is None) is (targets.above is None) is (n_blocks < 3)
    if targets.observed is not None:
        assert torch.equal(targets.observed, is_known)
    if targets.below is not None:
        for found, bound in ((targets.below, lower), (targets.above, upper)):
            is_finite = is_known & bound.isfinite()
            assert torch.equal(found[is_finite], (bound - y)[is_finite])
            assert (found[~is_finite].abs() >= 1e18).all()
        assert (targets.below <= targets.above).all()
    moved = targets.minus(torch.ones(3))
    assert torch.equal(moved.points, targets.points - 1)
    assert all(a is b for a, b in zip(moved[1:], targets[1:], strict=True))


@pytest.mark.parametrize("n_columns", [1, 4, 15])
def test_targets_of_no_known_layout_are_refused(n_columns):
    with pytest.raises(ValueError, match=f"4 blocks of 3 columns .* got {n_columns}"):
        Targets.split(torch.zeros(2, n_columns), 3)


# -- values ---------------------------------------------------------------------------


@pytest.mark.parametrize("has_skip", [False, True])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_missing_outputs_leave_the_marginal_density(covariance_type, has_skip):
    """For every pattern of four outputs, and several orders of the regressions."""
    d = 4
    options = {"covariance_type": covariance_type, "has_skip": has_skip}
    network = make_network(d, n_members=4, **options)
    observed = torch.tensor(list(itertools.product([0.0, 1.0], repeat=d)))
    y = draw(1, 16, d)[0]
    X = draw(1, 16, 3, seed=2)[0]
    targets = stack(2, y, y, y, observed, junk=-3e30)
    with torch.no_grad():
        terms = network.terms(X, targets)
        found = terms.log_density()
        log_weights, means, factors = network(X)
    assert isinstance(terms, PartialTerms)
    covariances = _mixture.covariances(factors)
    expected = np.zeros((4, 16))
    for m, i in itertools.product(range(4), range(1, 16)):
        known = np.flatnonzero(observed[i])
        of_components = [
            multivariate_normal(
                means[m, i, k][known], covariances[m, i, k][known][:, known]
            ).logpdf(y[i][known])
            for k in range(3)
        ]
        expected[m, i] = logsumexp(of_components + log_weights[m, i].numpy())
    assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
    pooled = NetworkPool([network]).log_density(X, targets).detach()
    assert_allclose(pooled, found.logsumexp(0) - math.log(4), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("n_blocks", [3, 4])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_probabilities_of_all_cells_add_up_to_one(covariance_type, n_blocks):
    network = make_network(2, covariance_type=covariance_type, n_members=3)
    edges = torch.tensor([-math.inf, -1.2, -0.3, 0.0, 0.9, 1.5, math.inf]).double()
    points = torch.tensor([-1.4, -0.5, -0.1, 0.2, 1.0, 2.0], dtype=torch.float64)
    first, second = torch.cartesian_prod(torch.arange(6), torch.arange(6)).T
    index = torch.stack([first, second], dim=1)
    bounds = [edges[index + side] - points[index] for side in (0, 1)]
    blocks = [points[index], *bounds]
    if n_blocks == 4:
        blocks.append(torch.ones(36, 2))
        blocks[3][:, 1] = 0
    X = torch.full((36, 3), 0.3, dtype=torch.float64)
    with torch.no_grad():
        log_density = network.terms(X, torch.cat(blocks, 1)).log_density()
    # Each cell of the first output was counted once for each one of the second.
    assert_allclose(log_density.exp().sum(1), 6 if n_blocks == 4 else 1, rtol=1e-12)


# -- gradients ------------------------------------------------------------------------


def gradient_of(network, X, targets, weight, loss):
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, math.nan)
    losses = Backpropagation(network, X.shape[1]).run(X, targets, weight, loss)
    return losses, [p.grad.clone() for p in network.parameters() if p.requires_grad]


def check_gradient(n_blocks, loss, **options):
    """Compare values and gradient with those of autograd through dense formulas."""
    network = make_network(**options)
    n, d = 7, network.head.n_outputs
    X = draw(1, 2, n, 3, seed=3)[0]
    weight = draw(1, 2, n, seed=4)[0].abs()
    parts = draw(n_blocks, 2, n, d)
    joint = joint_by_hand(network, X, *parts)
    expected = weight * LOSSES[loss].value(joint)
    gradients = torch.autograd.grad(
        expected.sum(),
        list(network.parameters()),
        allow_unused=True,
        materialize_grads=True,
    )
    targets = stack(n_blocks, *parts, junk=7e8)
    losses, found = gradient_of(network, X, targets, weight, loss)
    assert_allclose(losses, expected.detach(), rtol=1e-10, atol=1e-12)
    for part, gradient in zip(found, gradients, strict=True):
        assert_allclose(part, gradient, rtol=1e-9, atol=1e-10)
    with torch.no_grad():
        terms = network.terms(X, targets)
        assert isinstance(terms, KINDS_OF_TERMS[n_blocks])
        values = joint.logsumexp(-1)
        assert_allclose(terms.log_density(), values, rtol=1e-10, atol=1e-12)
        # What a missing output is has no influence on any bit.
        again = gradient_of(network, X, stack(n_blocks, *parts), weight, loss)
    assert torch.equal(again[0], losses)
    assert all(torch.equal(a, b) for a, b in zip(again[1], found, strict=True))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("n_blocks", ALL_BLOCKS)
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_gradients_are_those_of_autograd(covariance_type, n_blocks, loss):
    check_gradient(n_blocks, loss, covariance_type=covariance_type, d=4)


@pytest.mark.parametrize("n_blocks", ALL_BLOCKS)
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_gradients_with_a_skip_connection(covariance_type, n_blocks):
    check_gradient(n_blocks, "nll", covariance_type=covariance_type, has_skip=True)


@pytest.mark.parametrize("n_blocks", ALL_BLOCKS)
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("n_components", [1, 3])
def test_gradients_of_one_output(covariance_type, n_blocks, n_components):
    options = {"covariance_type": covariance_type, "n_components": n_components}
    check_gradient(n_blocks, "nll", d=1, **options)


@pytest.mark.parametrize("n_blocks", ALL_BLOCKS)
def test_user_networks_learn_from_all_kinds_of_targets(n_blocks):
    network = MixtureDensityNetwork(
        3, 2, n_members=2, network=busy_network, generator=torch.Generator()
    ).double()
    X, parts = draw(1, 2, 7, 3)[0], draw(n_blocks, 2, 7, 2)
    targets, weight = stack(n_blocks, *parts), torch.ones(2, 7, dtype=torch.float64)
    network.generator.manual_seed(1)
    losses, found = gradient_of(network, X, targets, weight, "nll")
    network.generator.manual_seed(1)
    joint = joint_by_hand(network, X, *parts)
    expected = torch.autograd.grad(
        -joint.logsumexp(-1).sum(),
        [p for p in network.parameters() if p.requires_grad],
        allow_unused=True,
        materialize_grads=True,
    )
    assert_allclose(losses, -joint.logsumexp(-1).detach(), rtol=1e-9, atol=1e-12)
    for part, gradient in zip(found, expected, strict=True):
        assert_allclose(part, gradient, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_blocks_that_say_nothing_change_nothing(covariance_type, loss):
    network = make_network(covariance_type=covariance_type, has_skip=True)
    X, weight = draw(1, 2, 7, 3, seed=3)[0], torch.ones(2, 7).double()
    parts = draw(1, 2, 7, 3)
    expected = gradient_of(network, X, stack(1, *parts), weight, loss)
    for n_blocks in (2, 3, 4):
        found = gradient_of(network, X, stack(n_blocks, *parts), weight, loss)
        assert_allclose(found[0], expected[0], rtol=1e-12)
        for part, other in zip(found[1], expected[1], strict=True):
            assert_allclose(part, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("n_blocks", [2, 4])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_a_row_without_any_output_counts_for_nothing(covariance_type, n_blocks):
    network = make_network(covariance_type=covariance_type)
    X, weight = draw(1, 2, 1, 3)[0], torch.ones(2, 1, dtype=torch.float64)
    zeros = torch.zeros(2, 1, 3, dtype=torch.float64)
    targets = stack(n_blocks, zeros, zeros, zeros, zeros, junk=3.0)
    losses, gradients = gradient_of(network, X, targets, weight, "nll")
    assert_allclose(losses, 0, atol=1e-15)
    for gradient in gradients:
        assert_allclose(gradient, 0, atol=1e-12)
    with torch.no_grad():
        assert_allclose(network.terms(X, targets).log_density(), 0, atol=1e-15)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("n_blocks", [2, 3, 4])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_single_precision_is_finite_for_sharp_components(
    covariance_type, n_blocks, loss
):
    """Standard deviations of 1e-3, and rows that are hundreds of them away."""
    network = make_network(4, covariance_type=covariance_type, reg_covar=1e-6).float()
    head = network.head
    start = head.sizes[0] + head.sizes[1]
    head.linear.bias.data[..., start : start + head.sizes[2]] += 12.0
    X = draw(1, 2, 30, 3, seed=3)[0].float()
    parts = draw(n_blocks, 2, 30, 4)
    targets = stack(n_blocks, *parts)
    double = make_network(4, covariance_type=covariance_type, reg_covar=1e-6)
    double.load_state_dict(network.state_dict())
    weight = torch.ones(2, 30)
    losses, found = gradient_of(network, X, targets.float(), weight, loss)
    exact, expected = gradient_of(
        double, X.double(), targets.float().double(), weight.double(), loss
    )
    assert exact.max() > 1e4
    assert_allclose(losses, exact, rtol=1e-3, atol=1e-2)
    for part, other in zip(found, expected, strict=True):
        assert part.isfinite().all()
        assert_allclose(part, other, rtol=1e-2, atol=1e-2 * float(other.abs().max()))


class Recorder(TorchDispatchMode):
    """Record the names of all operations."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("covariance_type", "n_blocks"),
    [
        *itertools.product(["diag", "spherical"], ALL_BLOCKS),
        *itertools.product(["full", "tied"], ALL_BLOCKS[:3]),
    ],
)
def test_no_operation_waits_for_a_gpu(covariance_type, n_blocks):
    """Steps with such operations, or copies of numbers to a GPU, are not captured."""
    network = make_network(covariance_type=covariance_type)
    X, weight = draw(1, 2, 7, 3)[0], torch.ones(2, 7).double()
    targets = stack(n_blocks, *draw(n_blocks, 2, 7, 3))
    with Recorder() as recorder:
        gradient_of(network, X, targets, weight, "nll")
    assert "hardtanh_backward" in recorder.names
    waiting = {"_local_scalar_dense", "nonzero", "scalar_tensor", "is_nonzero"}
    assert not recorder.names & waiting


# -- torch's defaults -----------------------------------------------------------------


@pytest.mark.parametrize("n_blocks", ALL_BLOCKS)
@pytest.mark.parametrize("covariance_type", ["full", "low_rank"])
@pytest.mark.parametrize("defaults", OTHER_DEFAULTS)
def test_bits_do_not_depend_on_defaults(defaults, covariance_type, n_blocks):
    X = draw(1, 2, 9, 3)[0].float()
    targets = stack(n_blocks, *draw(n_blocks, 2, 9, 2)).float()
    weight = torch.ones(2, 9)

    def computed():
        network = MixtureDensityNetwork(
            3,
            2,
            4,
            n_members=2,
            covariance_type=covariance_type,
            generator=torch.Generator().manual_seed(0),
        )
        flat = FlatParameters(network)
        with neutral_modes():  # as in every fit
            losses = Backpropagation(network, 9).run(X, targets, weight)
        with torch.no_grad():
            terms = network.terms(X, targets)
        return [losses, flat.gradient, *terms.parts.values()]

    expected = computed()
    with OTHER_DEFAULTS[defaults]():
        found = computed()
    for part, other in zip(found, expected, strict=True):
        assert part.dtype == torch.float32
        assert_array_equal(part, other)
