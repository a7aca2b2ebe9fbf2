"""The loop: steps, clipping, early stopping, interruption."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import ConvergenceWarning
from torch.optim.adam import adam

from skmdn import _training, _validation
from skmdn._calibration import Calibration, extrapolate
from skmdn._gradient import Backpropagation
from skmdn._rows import ScaledRows, every_row
from skmdn._training import (
    FlatParameters,
    MemberRows,
    Trainer,
    Training,
    TrainingSettings,
    train,
)
from skmdn._validation import Best, HeldOut
from skmdn.nn import MixtureDensityNetwork, mixture_nll

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
    "input_noise": 0.0,
    "target_noise": 0.0,
    "shuffle": True,
    "verbose": False,
}


def make_trainer(n_members=2, seed=0, **settings):
    generator = torch.Generator().manual_seed(seed)
    network = MixtureDensityNetwork(
        2,
        n_components=3,
        n_members=n_members,
        embedding=None,
        hidden_layer_sizes=(8,),
        generator=generator,
    )
    return Trainer(network, TrainingSettings(**SETTINGS | settings), generator)


def make_rows(n=40, n_members=2, weight=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(n, 2, generator=generator)
    y = X[:, :1] + 0.1 * torch.randn(n, 1, generator=generator)
    weight = torch.ones(n, dtype=torch.float64) if weight is None else weight
    return MemberRows.of(ScaledRows(X, y, weight), every_row(n, n_members))


def values_of(trainer):
    return trainer.parameters.values.clone()


def test_flat_parameters_are_views_as_are_their_gradients():
    trainer = make_trainer()
    parameters = trainer.parameters
    parameters.values.copy_(torch.arange(parameters.values.numel()).view(2, -1))
    parameters.gradient.copy_(parameters.values)
    seen = []
    for parameter in trainer.network.parameters():
        assert torch.equal(parameter, parameter.grad)
        seen.append(parameter.detach().flatten())
    expected = parameters.values.flatten().sort().values
    assert torch.equal(torch.cat(seen).sort().values, expected)


def test_steps_by_hand_are_those_of_autograd(monkeypatch):
    rows = make_rows()
    by_hand, autograd = make_trainer(), make_trainer()
    by_hand.run_epoch(rows, 0)

    def differentiated(backpropagation, X, y, weight, is_bound):
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
    parameters = FlatParameters(make_trainer(n_members=3).network)
    gradient = parameters.gradient
    gradient[0], gradient[1], gradient[2] = 10.0, 1e-6, float("nan")
    small = gradient[1].clone()
    parameters.clip_(2.0)
    assert_allclose(gradient[0].norm(), 2.0, rtol=1e-5)
    assert torch.equal(gradient[1], small)
    assert not gradient[2].any()


def test_decay_shrinks_matrices_only():
    trainer = make_trainer()
    with torch.no_grad():
        trainer.parameters.values.fill_(1.0)
    trainer.parameters.decay_(0.25)
    for name, parameter in trainer.network.named_parameters():
        expected = 0.75 if name.endswith("weight") else 1.0
        assert_allclose(parameter.detach(), np.full(parameter.shape, expected))


def test_members_train_as_if_alone():
    pair, rows = make_trainer(n_members=2, shuffle=False), make_rows(n_members=2)
    alone = make_trainer(n_members=1, shuffle=False)
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
    weighted = make_trainer(batch_size=1000)
    weighted.run_epoch(make_rows(weight=weight), 0)
    rows = make_rows()
    repeats = torch.arange(40).repeat_interleave(weight.long())
    repeated = make_trainer(batch_size=1000)
    repeated.run_epoch(
        MemberRows.of(
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
    trainer, rows = make_trainer(), make_rows(n=43)
    order = trainer._order(rows.index)
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
    trainer, rows = make_trainer(), make_rows(n=43)
    order = trainer._order(rows.index)
    at_once = list(rows.batches(order, 5))
    for numbers in (1, 2 * 3 * 20):
        monkeypatch.setattr(_training, "GATHERED_NUMBERS", numbers)
        for ours, theirs in zip(rows.batches(order, 5), at_once, strict=True):
            for part, expected in zip(ours, theirs, strict=True):
                assert torch.equal(part, expected)


def make_held_out(n=40, n_lists=1, weight=None, seed=5):
    rows = make_rows(n, n_lists, weight, seed)
    weight = torch.ones(n, dtype=torch.float64) if weight is None else weight
    return HeldOut.of(ScaledRows(rows.X, rows.y, weight), every_row(n, n_lists))


def test_held_out_score_is_the_mean_log_likelihood_of_the_calibrated_pool(monkeypatch):
    monkeypatch.setattr(_validation, "EVALUATION_ROWS", 7)
    weight = torch.rand(40, generator=torch.Generator().manual_seed(1)).double()
    network, held_out = make_trainer(n_members=3).network, make_held_out(weight=weight)
    calibration, score = held_out.score(network, Calibration())
    network.head.calibrate_(calibration)
    nll = mixture_nll(*network(held_out.X), held_out.y).detach()
    pooled = nll.neg().exp().mean(0).log().numpy()
    assert_allclose(score, np.average(pooled, weights=weight), rtol=1e-4)


def test_of_many_held_out_rows_evenly_spread_ones_are_read(monkeypatch):
    monkeypatch.setattr(_validation, "MOST_HELD_OUT_ROWS", 8)
    assert make_held_out(n_lists=2).index.tolist() == [[0, 10, 20, 30]] * 2


def test_calibrations_of_all_members_go_past_those_of_a_fold():
    trainer = make_trainer(n_members=6, max_iter=60, learning_rate_init=0.1)
    held_out = make_held_out(n_lists=2)
    train(Training(trainer, make_rows(n_members=6), None, 0.0))
    of_fold, of_all = held_out.calibrations(trainer.network)
    alone = HeldOut(
        held_out.X,
        held_out.y,
        held_out.index[[0, 1] * 3],
        held_out.weight[[0, 1] * 3],
    )
    of_one, same = alone.calibrations(trainer.network)
    assert of_one == same
    assert_allclose(of_fold, held_out.score(trainer.network, of_one)[0], atol=1e-4)
    assert_allclose(of_all, extrapolate(of_one, of_fold, 3, 6), atol=1e-4)
    assert of_one.log_sharpness < of_fold.log_sharpness < of_all.log_sharpness


def test_training_ends_at_the_best_weights():
    trainer = make_trainer(max_iter=60, learning_rate_init=0.1, n_iter_no_change=60)
    held_out = make_held_out()
    history = train(Training(trainer, make_rows(), held_out, offset=0.5))
    assert history.best_score == max(history.scores) > history.scores[-1]
    _, score = held_out.score(trainer.network, Calibration())
    assert_allclose(score - 0.5, history.best_score, rtol=1e-5)


def test_best_counts_epochs_without_progress_in_nats():
    best, stale = Best(0.0, torch.zeros(1)), []
    for epoch, score in enumerate([-1.0, 0.05, 0.3, float("nan"), 0.2], start=1):
        best.update(score, torch.tensor([epoch]), tol=0.1, keep_last=False)
        stale.append(best.stale)
    # 0.05 is better, but no progress.
    assert stale == [1, 2, 0, 1, 2]
    assert (best.score, best.values) == (0.3, 3.0)


def test_networks_that_never_improve_keep_their_start():
    trainer = make_trainer(max_iter=3)
    start = values_of(trainer)
    rows = make_rows()
    poisoned = replace(rows, y=rows.y * float("nan"))
    with pytest.warns(ConvergenceWarning, match="diverged"):
        history = train(Training(trainer, poisoned, make_held_out(), offset=0.0))
    assert torch.equal(values_of(trainer), start)
    assert history.losses == []


@pytest.mark.parametrize("spoiled", ["losses", "gradient", "values"])
@pytest.mark.parametrize("fault", [float("nan"), float("inf")])
def test_a_fault_is_undone_and_training_goes_on_more_slowly(
    monkeypatch, spoiled, fault
):
    """One step of the third epoch goes wrong, in one of the networks."""
    run, calls = Backpropagation.run, []

    def faulty(self, *args, **kwargs):
        losses = run(self, *args, **kwargs)
        calls.append(None)
        if len(calls) == 10:
            if spoiled == "losses":
                losses[1] = fault
            elif spoiled == "gradient":
                trainer.parameters.gradient[1] = fault
            else:
                trainer.parameters.values[1] = fault
        return losses

    trainer, rates = make_trainer(), []
    monkeypatch.setattr(Backpropagation, "run", faulty)
    monkeypatch.setattr(
        _training,
        "adam",
        lambda *args, lr, **kwargs: rates.append(lr) or adam(*args, lr=lr, **kwargs),
    )
    history = train(Training(trainer, make_rows(), make_held_out(), offset=0.0))
    assert len(history.losses) == 5
    assert np.isfinite(history.losses).all()
    assert values_of(trainer).isfinite().all()
    # A gradient alone is dropped: no state is lost with it.
    is_undone = spoiled != "gradient"
    assert trainer.n_rollbacks == is_undone
    assert len(rates) == 20 + 4 * is_undone
    expected = [1e-2 * 0.5 * (1 + np.cos(np.pi * i / 20)) for i in range(20)]
    assert_allclose(rates[-8:], np.array(expected[-8:]) * 0.25**is_undone)


def test_an_undone_epoch_leaves_no_trace():
    trainer, rows = make_trainer(shuffle=False, learning_rate="constant"), make_rows()
    twin = make_trainer(shuffle=False, learning_rate="constant")
    trainer.advance(rows, 0)
    twin.advance(rows, 0)
    poisoned = replace(rows, y=rows.y * float("nan"))
    assert trainer.advance(poisoned, 1) is None
    assert torch.equal(values_of(trainer), values_of(twin))
    for ours, theirs in zip(
        trainer.moments().values(), twin.moments().values(), strict=True
    ):
        assert_array_equal(ours, theirs)


def test_without_validation_the_last_weights_are_kept():
    trainer = make_trainer(max_iter=3)
    seen = []
    step = trainer.run_epoch
    trainer.run_epoch = lambda *a: (step(*a), seen.append(values_of(trainer)))[0]
    history = train(Training(trainer, make_rows(), None, offset=0.0))
    assert history.scores == []
    assert torch.equal(values_of(trainer), seen[-1])


@pytest.mark.parametrize(("schedule", "warns"), [("constant", True), ("cosine", False)])
def test_only_a_constant_rate_warns_at_max_iter(schedule, warns, recwarn):
    trainer = make_trainer(max_iter=2, learning_rate=schedule)
    train(Training(trainer, make_rows(), None, 0.0))
    assert [w.category for w in recwarn] == [ConvergenceWarning] * warns


def test_cosine_anneals_to_zero():
    rates = [_training.LEARNING_RATES["cosine"](done) for done in (0.0, 0.5, 1.0)]
    assert_allclose(rates, [1.0, 0.5, 0.0], atol=1e-15)


def test_interruption_keeps_the_best_weights_and_warns():
    trainer, held_out = make_trainer(max_iter=50), make_held_out()
    step, seen = trainer.run_epoch, []

    def interrupted(rows, iteration):
        if iteration == 4:
            raise KeyboardInterrupt
        seen.append(step(rows, iteration))
        return seen[-1]

    trainer.run_epoch = interrupted
    with pytest.warns(UserWarning, match="interrupted; the best weights"):
        history = train(Training(trainer, make_rows(), held_out, offset=0.0))
    assert len(history.losses) == len(history.scores) == 4
    assert history.best_score == max(history.scores)


def test_warmup_minimises_the_bound():
    warming = make_trainer(warmup_iter=1)
    loss = warming.run_epoch(make_rows(), 0)
    plain = make_trainer(warmup_iter=0).run_epoch(make_rows(), 0)
    assert (loss > plain).all()


def test_noise_is_redrawn_at_every_step():
    trainer = make_trainer()
    zeros = torch.zeros(2, 5000, 1)
    first, second = trainer._perturbed(zeros, 0.3), trainer._perturbed(zeros, 0.3)
    assert_allclose(first.std(), 0.3, rtol=0.05)
    assert not torch.equal(first, second)
    assert trainer._perturbed(zeros, 0.0) is zeros


def test_optimiser_continues_from_its_moments():
    rows = make_rows()
    through = make_trainer(shuffle=False, learning_rate="constant")
    through.run_epoch(rows, 0)
    resumed = make_trainer(shuffle=False, learning_rate="constant")
    with torch.no_grad():
        for ours, theirs in zip(
            resumed.network.parameters(), through.network.parameters(), strict=True
        ):
            ours.copy_(theirs)
    resumed = Trainer(
        resumed.network, resumed.settings, resumed.generator, through.moments()
    )
    through.run_epoch(rows, 1)
    resumed.run_epoch(rows, 1)
    assert_allclose(values_of(resumed), values_of(through), rtol=1e-6)
