"""User-defined modules in place of the embedding and the hidden layers."""

import inspect
import pickle
import re
import threading

import helpers
import numpy as np
import pytest
import torch
from helpers import FrozenNetwork
from helpers import busy_network as busy
from helpers import plain_network as plain
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from torch import nn
from torch.nn import functional

from skmdn._fit.session import FitSession
from skmdn._training.optimizer import FlatParameters
from skmdn.datasets import make_rotating_gaussians
from skmdn.nn import MixtureDensityNetwork
from skmdn.nn.backbones import DETERMINISTIC_LAYERS, Backbones
from skmdn.nn.backprop import AutogradPass
from skmdn.nn.isolation import (
    RoutedRandomness,
    lend_global_generators,
    overload_with_generator,
    spawn_generators,
)

X, Y = make_rotating_gaussians(80, random_state=0)


def quick(network=busy, **options):
    options = {"max_iter": 6, "hidden_layer_sizes": (64, 64)} | options
    return helpers.quick(network=network, **options)


class Noisy(nn.Module):
    """A class of the user's: noise anywhere, and a parameter without effect."""

    def __init__(self, n_features):
        super().__init__()
        self.linear = nn.Linear(n_features, 8)
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, x):
        x = functional.dropout(self.linear(x), 0.2, self.training)
        return x + 0.1 * torch.randn_like(x) if self.training else x


# -- arithmetic ------------------------------------------------------------------


def test_parameters_without_effect_have_a_gradient_of_zero():
    module = nn.Linear(2, 2, device="meta").to_empty(device="cpu")
    module.weight.data.zero_()
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, float("nan"))
    by_autograd = AutogradPass(lambda X: X @ module.weight, module.parameters())
    by_autograd.forward(torch.ones(3, 2))
    by_autograd.backward(torch.ones(3, 2))
    assert torch.equal(module.weight.grad, torch.full((2, 2), 3.0))
    assert not module.bias.grad.any()
    by_autograd.function = lambda X: X
    by_autograd.forward(torch.ones(3, 2))
    by_autograd.backward(torch.ones(3, 2))
    assert not module.weight.grad.any()


def test_parameters_are_views_of_the_rows_of_one_tensor():
    network = MixtureDensityNetwork(1, n_members=3, network=busy).eval()
    X = torch.linspace(-1, 1, 5)[:, None]
    before = network(X)
    flat = FlatParameters(network)
    for part, expected in zip(network(X), before, strict=True):
        assert torch.equal(part, expected)
    flat.values[1] += 1
    for part, expected in zip(network(X), before, strict=True):
        is_same = (part == expected).flatten(1).all(1)
        assert is_same.tolist() == [True, False, True]
    flat.values.zero_()
    normalisation = network.backbones[2][1]
    assert not normalisation.running_var.any()
    assert normalisation.running_var.grad is None
    assert normalisation.weight.grad.shape == (8,)


def test_matrices_alone_are_decayed():
    network = MixtureDensityNetwork(1, n_members=3, network=busy)
    for part in network.parameters():
        part.data.fill_(1.0)
    FlatParameters(network).decay_(1.0)
    zero = {name for name, part in network.named_parameters() if not part.any()}
    matrices = {f"backbones.{m}.{i}.weight" for m in range(3) for i in (0, 3)}
    assert zero == matrices | {"head.linear.weight"}


def test_frozen_parameters_stay_and_others_learn():
    mdn = quick(FrozenNetwork, alpha=1.0).fit(X, Y)
    assert mdn.loss_curve_[-1] < mdn.loss_curve_[0]
    for net in backbones_of(mdn):
        assert_array_equal(net.linear.weight[:, 0], np.arange(6.0))


def test_with_enough_steps_it_learns_what_ours_learn():
    def ours_alike(n_features):
        return nn.Sequential(
            nn.Linear(n_features, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU()
        )

    rows, targets, truth = make_rotating_gaussians(
        1000, random_state=0, return_density=True
    )
    options = {"max_iter": 40, "alpha": 0.0}
    theirs = quick(ours_alike, **options).fit(rows, targets)
    ours = quick(None, embedding=None, **options).fit(rows, targets)
    assert_allclose(theirs.oof_score_, ours.oof_score_, atol=0.1)
    assert theirs.oof_score_ > truth.logpdf(targets).mean() - 0.3


# -- state -----------------------------------------------------------------------


def backbones_of(mdn):
    (network,) = mdn.network_.networks
    return network.backbones


def assert_same_state(ours, theirs):
    ours, theirs = ours.network_.state_dict(), theirs.network_.state_dict()
    assert ours.keys() == theirs.keys()
    for name in ours:
        if not name.endswith("num_batches_tracked"):  # of no use with a momentum
            assert_array_equal(ours[name], theirs[name])


def test_a_seed_gives_the_same_bits_and_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    first, second = (quick().fit(X, Y) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert_same_state(first, second)
    weights = [net[0].weight for net in backbones_of(first)]
    assert not torch.equal(weights[0], weights[1])
    assert not np.array_equal(first.predict(X), quick(random_state=1).fit(X, Y))


def test_a_fitted_network_goes_on_without_a_generator():
    network = quick(plain).fit(X, Y).network_
    rows = torch.ones(2, 1, dtype=torch.float64)
    assert torch.equal(network.train()(rows).means, network.eval()(rows).means)


@pytest.mark.filterwarnings("ignore:Training stopped at max_iter")
def test_buffers_are_those_of_the_weights_that_are_kept(monkeypatch):
    seen, scores, step = [], [], FitSession.step

    def watched(session):
        step(session)
        (stack,) = session.portfolio.stacks
        normalisation = stack.loop.network.backbones[0][1]
        seen.append(normalisation.running_var.clone())
        scores.append(stack.contenders[0].best.score)

    monkeypatch.setattr(FitSession, "step", watched)
    options = {"max_iter": 60, "n_iter_no_change": 60, "batch_size": 50}
    rows, targets = make_rotating_gaussians(400, random_state=0)
    options |= {"learning_rate_init": 0.1, "learning_rate": "constant"}
    mdn = quick(**options).fit(rows, targets)
    best = scores.index(max(scores))  # the first epoch with the best score
    assert 0 < best < mdn.n_iter_ - 1
    kept = backbones_of(mdn)[0][1].running_var
    assert_array_equal(kept, seen[best])
    assert not np.allclose(kept, seen[-1], rtol=1e-3)


def test_stored_and_continued():
    mdn = quick(warm_start=True).fit(X, Y)
    restored = pickle.loads(pickle.dumps(mdn))
    assert_same_state(restored, mdn)
    assert_array_equal(restored.predict(X), mdn.predict(X))
    assert_same_state(restored.partial_fit(X, Y), mdn.partial_fit(X, Y))
    # Of few rows and epochs, the start would be kept.
    rows, targets = make_rotating_gaussians(400, random_state=0)
    again = clone(mdn).set_params(max_iter=40).fit(rows, targets)
    before = again.loss_curve_[0]
    assert again.fit(rows, targets).loss_curve_[0] < before - 0.1
    with pytest.raises(ValueError, match="trained further with another network"):
        mdn.set_params(network=plain).fit(X, Y)


# -- randomness ------------------------------------------------------------------


def draw_everything():
    """Draw by operations with and without a generator among their arguments."""
    x = torch.ones(2, 5)
    layer = nn.Linear(4, 3)
    return [
        torch.rand(4),
        torch.rand_like(x),
        torch.randn(2, 2, dtype=torch.float64),
        torch.randint(9, (4,)),
        torch.randint(2, 9, (4,)),
        torch.randperm(6),
        torch.empty(3).uniform_(),
        torch.bernoulli(x / 2),
        torch.multinomial(x, 2),
        torch.normal(x, x),
        torch.poisson(x),
        functional.dropout(x, 0.5),
        functional.alpha_dropout(x, 0.5, training=True),
        functional.rrelu(-x, training=True),
        functional.gumbel_softmax(x),
        nn.init.orthogonal_(torch.empty(3, 3)),
        layer.weight.detach(),
        layer.bias.detach(),
    ]


@pytest.mark.parametrize("context", [lend_global_generators, RoutedRandomness])
def test_generators_given_replace_the_global_one(context):
    device = torch.device("cpu")
    generator = torch.Generator().manual_seed(3)
    before = torch.random.get_rng_state()
    drawn = []
    for _ in range(2):
        with context(spawn_generators(generator, device)):
            drawn.append(draw_everything())
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not torch.equal(drawn[0][0], drawn[1][0])
    generator.manual_seed(3)
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        expected = draw_everything()
    for part, other in zip(drawn[0], expected, strict=True):
        assert torch.equal(part, other)


def test_a_generator_of_the_users_own_is_kept():
    ours, theirs = (torch.Generator().manual_seed(seed) for seed in (0, 1))
    expected = torch.randn(3, generator=torch.Generator().manual_seed(1))
    with RoutedRandomness([ours]):
        assert torch.equal(torch.randn(3, generator=theirs), expected)


def test_an_operation_without_a_generator_has_the_global_one_lent():
    func = torch.ops.aten.native_dropout.default
    assert overload_with_generator(func) is None
    before = torch.random.get_rng_state()
    drawn = []
    for _ in range(2):
        with RoutedRandomness([torch.Generator().manual_seed(0)]):
            drawn.append([func(torch.ones(20), 0.5, True)[0] for _ in range(2)])
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(drawn[0][1], drawn[1][1])
    assert not torch.equal(*drawn[0])


def test_deterministic_layers_draw_no_random_numbers():
    words = re.compile("dropout|bernoulli|rand|noise|rrelu|fractional")
    for layer in DETERMINISTIC_LAYERS - {nn.Module}:
        assert not words.search(inspect.getsource(layer.forward)), layer


def hooked(n_features):
    module = nn.Sequential(nn.Linear(n_features, 3), nn.Dropout(0.5))
    module[0].register_forward_hook(lambda layer, x, output: 2 * output)
    return module


@pytest.mark.parametrize(
    ("network", "is_sequential"),
    [(plain, True), (busy, True), (Noisy, False), (hooked, False)],
)
def test_layer_by_layer_or_not_the_bits_are_the_same(network, is_sequential):
    backbones = Backbones(network, 3, 2, generator=torch.Generator())
    assert backbones.is_sequential is is_sequential
    X = torch.linspace(-1, 1, 30).view(3, 5, 2)
    outputs = []
    for flag in (backbones.is_sequential, False):
        backbones.is_sequential = flag
        outputs.append(backbones(X, torch.Generator().manual_seed(2)))
    assert torch.equal(*outputs)


def test_another_thread_sees_its_own_random_numbers():
    """The stream of the global generator in a thread, while another one fits."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(7)
        undisturbed = [torch.rand(()) for _ in range(20_000)]
        torch.default_generator.manual_seed(7)
        seen, is_over = [], threading.Event()

        def draw():
            while len(seen) < len(undisturbed) and not is_over.is_set():
                seen.append(torch.rand(()))

        thread = threading.Thread(target=draw)
        thread.start()
        try:
            quick(max_iter=3).fit(X, Y)
        finally:
            is_over.set()
            thread.join()
    assert len(seen) > 100
    assert seen == undisturbed[: len(seen)]


# -- as a parameter --------------------------------------------------------------


def test_a_search_over_networks():
    search = GridSearchCV(quick(), {"network": [None, plain, busy]}, cv=2).fit(X, Y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_params_["network"] in (None, plain, busy)


def test_user_networks_count_in_the_size_of_chunks():
    wide = MixtureDensityNetwork(1, network=lambda p: nn.Linear(p, 1000))
    narrow = MixtureDensityNetwork(1, network=lambda p: nn.Linear(p, 10))
    assert wide.floats_per_row - narrow.floats_per_row >= 990


def shared():
    module = nn.Linear(1, 3)
    return lambda n_features: module


def growing():
    widths = iter(range(1, 99))
    return lambda n_features: nn.Linear(n_features, next(widths))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda p: np.zeros(p), "must build a torch.nn.Module, got ndarray"),
        (lambda p: nn.Unflatten(1, (1, p)), r"gave \(2, 1, 1\). A Flatten"),
        (lambda p: nn.Flatten(0), r"gave \(2,\)"),
        (lambda p: nn.LSTM(p, 3), r"gave <class 'tuple'>"),
        (shared(), "a new module in every call"),
        (growing(), "of equal shape in every call"),
    ],
)
def test_invalid_networks_are_refused(network, message):
    with pytest.raises(ValueError, match=message):
        quick(network).fit(X, Y)


def test_only_callables_are_taken():
    with pytest.raises(ValueError, match=r"'network' parameter .* must be a callable"):
        quick(nn.Linear).set_params(network="cnn").fit(X, Y)


class Builder:
    """Callable that cannot be copied, and that seeds torch as scripts do."""

    def __init__(self):
        self.lock = threading.Lock()

    def __call__(self, n_features):
        torch.manual_seed(0)
        module = plain(n_features)
        module.append(nn.Linear(8, 3, bias=False))
        module[-1].weight = nn.Parameter(torch.Tensor(3, 8).fill_(0.1))
        return module


def test_a_callable_object_is_shared_and_not_copied():
    mdn = quick(Builder()).partial_fit(X, Y).partial_fit(X, Y).partial_fit(X, Y)
    assert np.isfinite(mdn.predict(X)).all()
    assert mdn.n_iter_ == 3
    mdn.set_params(warm_start=True).fit(X, Y).fit(X, Y)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_builder_that_seeds_leaves_the_global_generator(seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # the builder repeats seed 0
        torch.rand(3)
        state = torch.get_rng_state()
        quick(Builder(), max_iter=1).fit(X, Y)
        assert torch.equal(torch.get_rng_state(), state)


def test_legacy_constructors_make_float32_modules():
    expected = quick(Builder()).fit(X, Y).predict(X)
    with helpers.OTHER_DEFAULTS["float64"]():
        assert_array_equal(quick(Builder()).fit(X, Y).predict(X), expected)
