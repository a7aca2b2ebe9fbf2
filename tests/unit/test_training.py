"""The training loop: batches, steps, clipping, divergence, early stopping."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from skmdn._data.folds import every_row
from skmdn._data.scaling import ScaledRows
from skmdn._training import batches as batches_module
from skmdn._training import early_stopping, optimizer
from skmdn._training.auto import TrainingSettings
from skmdn._training.batches import ListedRows
from skmdn._training.calibration import extrapolate
from skmdn._training.early_stopping import EarlyStopping, HeldOutScore
from skmdn._training.loop import TrainingLoop
from skmdn._training.optimizer import LEARNING_RATES, FlatParameters
from skmdn._utils.compat import adam
from skmdn.nn import MixtureDensityNetwork, mixture_nll
from skmdn.nn.backprop import Backpropagation
from skmdn.nn.likelihood import Calibration

SETTINGS = {
    "learning_rate_init": 1e-2,
    "learning_rate": "cosine",
    "alpha": 0.0,
    "batch_size": 10,
    "max_iter": 5,
    "warmup_iter": 0,
    "tol": 1e-4,
    "n_iter_no_change": 3,
    "max_grad_norm": None,
    "verbose": False,
}


def make_loop(n_members=2, seed=0, **settings):
    generator = torch.Generator().manual_seed(seed)
    network = MixtureDensityNetwork(
        2,
        n_components=3,
        n_members=n_members,
        embedding=None,
        hidden_layer_sizes=(8,),
        generator=generator,
    )
    return TrainingLoop(network, TrainingSettings(**SETTINGS | settings), generator)


def make_rows(n=40, n_members=2, weight=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(n, 2, generator=generator)
    y = X[:, :1] + 0.1 * torch.randn(n, 1, generator=generator)
    weight = torch.ones(n, dtype=torch.float64) if weight is None else weight
    return ListedRows.for_training(ScaledRows(X, y, weight), every_row(n, n_members))


def values_of(loop):
    return loop.values.clone()


def unshuffled(loop):
    """Let a loop take the rows in their order."""
    loop._order = lambda index: torch.arange(index.shape[1]).expand_as(index)
    return loop


def test_flat_parameters_are_views_as_are_their_gradients():
    loop = make_loop()
    parameters = loop.optimizer.parameters
    parameters.values.copy_(torch.arange(parameters.values.numel()).view(2, -1))
    parameters.gradient.copy_(parameters.values)
    seen = []
    for parameter in loop.network.parameters():
        assert torch.equal(parameter, parameter.grad)
        seen.append(parameter.detach().flatten())
    expected = parameters.values.flatten().sort().values
    assert torch.equal(torch.cat(seen).sort().values, expected)


def test_steps_by_hand_are_those_of_autograd(monkeypatch):
    rows = make_rows()
    by_hand, autograd = make_loop(), make_loop()
    by_hand.run_epoch(rows, 0)

    def differentiated(backpropagation, X, y, weight, loss):
        network = backpropagation.network
        losses = weight * mixture_nll(*network(X), y)
        parameters = list(network.parameters())
        gradients = torch.autograd.grad(losses.mean(dim=1).sum(), parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad.copy_(gradient)
        return losses.detach()

    monkeypatch.setattr(Backpropagation, "run", differentiated)
    autograd.run_epoch(rows, 0)
    assert_allclose(values_of(by_hand), values_of(autograd), rtol=1e-3, atol=1e-5)


def test_clipping_bounds_each_member_and_drops_non_finite_gradients():
    parameters = FlatParameters(make_loop(n_members=3).network)
    gradient = parameters.gradient
    gradient[0], gradient[1], gradient[2] = 10.0, 1e-6, float("nan")
    small = gradient[1].clone()
    parameters.clip_(2.0)
    assert_allclose(gradient[0].norm(), 2.0, rtol=1e-5)
    assert torch.equal(gradient[1], small)
    assert not gradient[2].any()


def test_decay_shrinks_matrices_only():
    loop = make_loop()
    with torch.no_grad():
        loop.optimizer.parameters.values.fill_(1.0)
    loop.optimizer.parameters.decay_(0.25)
    for name, parameter in loop.network.named_parameters():
        expected = 0.75 if name.endswith("weight") else 1.0
        assert_allclose(parameter.detach(), np.full(parameter.shape, expected))


def test_members_train_as_if_alone():
    pair, rows = unshuffled(make_loop(n_members=2)), make_rows(n_members=2)
    alone = unshuffled(make_loop(n_members=1))
    with torch.no_grad():
        for many, one in zip(
            pair.network.parameters(), alone.network.parameters(), strict=True
        ):
            one.copy_(many[1:])
    for iteration in range(3):
        pair.run_epoch(rows, iteration)
        alone.run_epoch(make_rows(n_members=1), iteration)
    assert_allclose(values_of(pair)[1], values_of(alone)[0], rtol=1e-4, atol=1e-6)


def test_full_batch_weights_are_repetitions():
    weight = torch.tensor([3.0, 1.0] * 20, dtype=torch.float64)
    weighted = make_loop(batch_size=1000)
    weighted.run_epoch(make_rows(weight=weight), 0)
    rows = make_rows()
    repeats = torch.arange(40).repeat_interleave(weight.long())
    repeated = make_loop(batch_size=1000)
    repeated.run_epoch(
        ListedRows.for_training(
            ScaledRows(
                rows.X[repeats],
                rows.y[repeats],
                torch.ones(80, dtype=torch.float64),
            ),
            every_row(80, 2),
        ),
        0,
    )
    assert_allclose(values_of(weighted), values_of(repeated), rtol=1e-4, atol=1e-6)


def test_each_epoch_visits_every_row_once():
    loop, rows = make_loop(), make_rows(n=43)
    order = loop._order(rows.index)
    batches = list(rows.batches(order, 5))
    sizes = [y.shape[1] for _, y, _ in batches]
    assert max(sizes) - min(sizes) <= 1
    for part, everything in zip(
        zip(*batches, strict=True), (rows.X, rows.y, 5 * rows.weight[0]), strict=True
    ):
        seen = torch.cat(part, dim=1)
        for member in range(2):
            assert torch.equal(seen[member], everything[order[member]])
    assert_array_equal(order.sort(dim=1).values, np.tile(np.arange(43), (2, 1)))
    assert not torch.equal(order[0], order[1])


def test_batches_do_not_depend_on_what_is_gathered_ahead(monkeypatch):
    loop, rows = make_loop(), make_rows(n=43)
    order = loop._order(rows.index)
    at_once = list(rows.batches(order, 5))
    for numbers in (1, 2 * 3 * 20):
        monkeypatch.setattr(batches_module, "GATHERED_NUMBERS", numbers)
        for ours, theirs in zip(rows.batches(order, 5), at_once, strict=True):
            for part, expected in zip(ours, theirs, strict=True):
                assert torch.equal(part, expected)


def make_held_out(n=40, n_lists=1, weight=None, seed=5):
    rows = make_rows(n, n_lists, weight, seed)
    weight = torch.ones(n, dtype=torch.float64) if weight is None else weight
    rows = ScaledRows(rows.X, rows.y, weight)
    return HeldOutScore(ListedRows.for_scoring(rows, every_row(n, n_lists)))


def test_held_out_score_is_the_mean_log_likelihood_of_the_calibrated_pool(monkeypatch):
    monkeypatch.setattr(early_stopping, "EVALUATION_ROWS", 7)
    weight = torch.rand(40, generator=torch.Generator().manual_seed(1)).double()
    network, held_out = make_loop(n_members=3).network, make_held_out(weight=weight)
    calibration, score = held_out.score(network, Calibration())
    network.head.calibrate_(calibration)
    nll = mixture_nll(*network(held_out.rows.X), held_out.rows.y).detach()
    pooled = nll.neg().exp().mean(0).log().numpy()
    assert_allclose(score, np.average(pooled, weights=weight), rtol=1e-4)


def test_of_many_held_out_rows_evenly_spread_ones_are_read(monkeypatch):
    monkeypatch.setattr(batches_module, "MOST_HELD_OUT_ROWS", 8)
    assert make_held_out(n_lists=2).rows.index.tolist() == [[0, 10, 20, 30]] * 2


def test_calibrations_of_all_members_go_past_those_of_a_fold():
    loop = make_loop(n_members=6, max_iter=60, learning_rate_init=0.1)
    held_out = make_held_out(n_lists=2)
    for epoch in range(60):
        loop.run_epoch(make_rows(n_members=6), epoch)
    of_fold, of_all = held_out.calibrations(loop.network)
    rows = held_out.rows
    alone = HeldOutScore(
        replace(rows, index=rows.index[[0, 1] * 3], weight=rows.weight[[0, 1] * 3])
    )
    of_one, same = alone.calibrations(loop.network)
    assert of_one == same
    assert_allclose(of_fold, held_out.score(loop.network, of_one)[0], atol=1e-4)
    assert_allclose(of_all, extrapolate(of_one, of_fold, 3, 6), atol=1e-4)
    assert of_one.log_sharpness < of_fold.log_sharpness < of_all.log_sharpness


def test_best_counts_epochs_without_progress_in_nats():
    best, stale = EarlyStopping(torch.zeros(1), score=0.0), []
    for epoch, score in enumerate([-1.0, 0.05, 0.3, float("nan"), 0.2], start=1):
        best.update(score, torch.tensor([epoch]), tol=0.1, keep_last=False)
        stale.append(best.stale)
    # 0.05 is better, but no progress.
    assert stale == [1, 2, 0, 1, 2]
    assert (best.score, best.values) == (0.3, 3.0)


@pytest.mark.parametrize("spoiled", ["losses", "gradient", "values"])
@pytest.mark.parametrize("fault", [float("nan"), float("inf")])
def test_a_fault_is_undone_and_training_goes_on_more_slowly(
    monkeypatch, spoiled, fault
):
    """Let one step of the third epoch fail in one of the networks."""
    run, calls = Backpropagation.run, []

    def faulty(self, *args, **kwargs):
        losses = run(self, *args, **kwargs)
        calls.append(None)
        if len(calls) == 10:
            if spoiled == "losses":
                losses[1] = fault
            elif spoiled == "gradient":
                loop.optimizer.parameters.gradient[1] = fault
            else:
                loop.optimizer.parameters.values[1] = fault
        return losses

    loop, rates = make_loop(), []
    monkeypatch.setattr(Backpropagation, "run", faulty)
    monkeypatch.setattr(
        optimizer,
        "adam",
        lambda *args, lr, **kwargs: rates.append(lr) or adam(*args, lr=lr, **kwargs),
    )
    losses = [loop.run_epoch_with_rollback(make_rows(), epoch) for epoch in range(5)]
    assert np.isfinite(losses).all()
    assert values_of(loop).isfinite().all()
    # A gradient alone is dropped: no state is lost with it.
    is_undone = spoiled != "gradient"
    assert loop.n_rollbacks == is_undone
    assert len(rates) == 20 + 4 * is_undone
    expected = [1e-2 * 0.5 * (1 + np.cos(np.pi * i / 20)) for i in range(20)]
    assert_allclose(rates[-8:], np.array(expected[-8:]) * 0.25**is_undone)


def test_an_undone_epoch_leaves_no_trace():
    loop, rows = unshuffled(make_loop(learning_rate="constant")), make_rows()
    twin = unshuffled(make_loop(learning_rate="constant"))
    loop.run_epoch_with_rollback(rows, 0)
    twin.run_epoch_with_rollback(rows, 0)
    poisoned = replace(rows, y=rows.y * float("nan"))
    assert loop.run_epoch_with_rollback(poisoned, 1) is None
    assert torch.equal(values_of(loop), values_of(twin))
    for ours, theirs in zip(
        loop.optimizer.state.to_arrays().values(),
        twin.optimizer.state.to_arrays().values(),
        strict=True,
    ):
        assert_array_equal(ours, theirs)


def test_cosine_anneals_to_zero():
    rates = [LEARNING_RATES["cosine"](done) for done in (0.0, 0.5, 1.0)]
    assert_allclose(rates, [1.0, 0.5, 0.0], atol=1e-15)


def test_warmup_minimises_the_bound():
    warming = make_loop(warmup_iter=1)
    loss = warming.run_epoch(make_rows(), 0)
    plain = make_loop(warmup_iter=0).run_epoch(make_rows(), 0)
    assert (loss > plain).all()


def test_optimiser_continues_from_its_moments():
    rows = make_rows()
    through = unshuffled(make_loop(learning_rate="constant"))
    through.run_epoch(rows, 0)
    resumed = unshuffled(make_loop(learning_rate="constant"))
    with torch.no_grad():
        for ours, theirs in zip(
            resumed.network.parameters(), through.network.parameters(), strict=True
        ):
            ours.copy_(theirs)
    resumed.optimizer.state.load_(through.optimizer.state.to_arrays())
    through.run_epoch(rows, 1)
    resumed.run_epoch(rows, 1)
    assert_allclose(values_of(resumed), values_of(through), rtol=1e-6)
