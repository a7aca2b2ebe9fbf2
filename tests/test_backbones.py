"""Networks of a user's own in the place of ours."""

import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from test_gradient import check
from torch import nn

from skmdn import MDNRegressor
from skmdn._backbones import lend_global_generator
from skmdn._training import FlatParameters, Training
from skmdn.datasets import make_rotating_gaussians
from skmdn.nn import MixtureDensityNetwork

X, Y = make_rotating_gaussians(80, random_state=0)


def plain(n_features):
    return nn.Sequential(nn.Linear(n_features, 8), nn.Tanh())


def busy(n_features):
    """All that is difficult: buffers, noise, and widths known from the first rows."""
    return nn.Sequential(
        nn.Linear(n_features, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.LazyLinear(5)
    )


def quick(network=busy, **options):
    options = {"n_estimators": 4, "max_iter": 6, "random_state": 0} | options
    return MDNRegressor(2, network=network, device="cpu", **options)


class Frozen(nn.Module):
    """Fixed features, of which the last layer alone learns."""

    def __init__(self, n_features):
        super().__init__()
        self.linear = nn.Linear(n_features, 6).requires_grad_(False)
        self.linear.weight.copy_(torch.arange(6.0)[:, None])

    def forward(self, x):
        return self.linear(x).cos()


# -- arithmetic ------------------------------------------------------------------


@pytest.mark.parametrize("network", [plain, busy, Frozen, lambda p: nn.Identity()])
def test_the_gradient_is_autograds(network):
    check(network=network)


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
    normalisation = network.embedding[2][1]
    assert not normalisation.running_var.any()
    assert normalisation.running_var.grad is None
    assert normalisation.weight.grad.shape == (8,)


def test_matrices_alone_are_decayed():
    network = MixtureDensityNetwork(1, n_members=3, network=busy)
    for part in network.parameters():
        part.data.fill_(1.0)
    FlatParameters(network).decay_(1.0)
    zero = {name for name, part in network.named_parameters() if not part.any()}
    matrices = {f"embedding.{m}.{i}.weight" for m in range(3) for i in (0, 3)}
    assert zero == matrices | {"head.linear.weight"}


def test_frozen_parameters_stay_and_others_learn():
    mdn = quick(Frozen, alpha=1.0).fit(X, Y)
    assert mdn.loss_curve_[-1] < mdn.loss_curve_[0]
    for net in mdn.network_.embedding:
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
    weights = [net[0].weight for net in first.network_.embedding]
    assert not torch.equal(weights[0], weights[1])
    assert not np.array_equal(first.predict(X), quick(random_state=1).fit(X, Y))


def test_a_fitted_network_goes_on_without_a_generator():
    network = quick(plain).fit(X, Y).network_
    rows = torch.ones(2, 1, dtype=torch.float64)
    assert torch.equal(network.train()(rows).means, network.eval()(rows).means)


def test_a_lent_generator_is_a_stream_of_ours():
    generator = torch.Generator().manual_seed(3)
    before = torch.random.get_rng_state()
    drawn = []
    for _ in range(2):
        with lend_global_generator(generator):
            drawn.append(torch.rand(4))
    generator.manual_seed(3)
    with lend_global_generator(generator):
        assert torch.equal(torch.rand(4), drawn[0])
    assert not torch.equal(*drawn)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_buffers_are_those_of_the_weights_that_are_kept(monkeypatch):
    seen, run_epoch = [], Training.run_epoch

    def watched(training):
        run_epoch(training)
        normalisation = training.trainer.network.embedding[0][1]
        seen.append(normalisation.running_var.clone())

    monkeypatch.setattr(Training, "run_epoch", watched)
    mdn = quick(learning_rate_init=0.03, max_iter=12, n_iter_no_change=12).fit(X, Y)
    best = int(np.argmax(mdn.validation_scores_))
    assert best < mdn.n_iter_ - 1
    assert mdn.validation_scores_[best] == mdn.best_validation_score_
    kept = mdn.network_.embedding[0][1].running_var
    assert_array_equal(kept, seen[best])
    assert not np.allclose(kept, seen[-1], rtol=1e-3)


def test_stored_and_continued():
    mdn = quick(warm_start=True).fit(X, Y)
    restored = pickle.loads(pickle.dumps(mdn))
    assert_same_state(restored, mdn)
    assert_array_equal(restored.predict(X), mdn.predict(X))
    assert_same_state(restored.partial_fit(X, Y), mdn.partial_fit(X, Y))
    again = clone(mdn).fit(X, Y).fit(X, Y)
    assert again.loss_curve_[0] < mdn.loss_curve_[0]
    with pytest.raises(ValueError, match="trained further with another network"):
        mdn.set_params(network=plain).fit(X, Y)


# -- as a parameter --------------------------------------------------------------


def test_a_search_over_networks():
    search = GridSearchCV(quick(), {"network": [None, plain, busy]}, cv=2).fit(X, Y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_params_["network"] in (None, plain, busy)


def test_what_a_row_needs_bounds_the_rows_at_once():
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
def test_what_is_no_network_is_refused(network, message):
    with pytest.raises(ValueError, match=message):
        quick(network).fit(X, Y)


def test_only_callables_are_taken():
    with pytest.raises(ValueError, match=r"'network' parameter .* must be a callable"):
        quick(nn.Linear).set_params(network="cnn").fit(X, Y)
