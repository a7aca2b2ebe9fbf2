"""The loop: steps, clipping, early stopping, interruption."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import ConvergenceWarning

from skmdn import _training
from skmdn._rows import every_row
from skmdn._training import (
    EarlyStopping,
    FlatParameters,
    MemberRows,
    Trainer,
    TrainingSettings,
    evaluate,
    train,
)
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
        hidden_layer_sizes=(8,),
        generator=generator,
    )
    return Trainer(network, TrainingSettings(**SETTINGS | settings), generator)


def make_rows(n=40, n_members=2, weight=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(n, 2, generator=generator)
    y = X[:, :1] + 0.1 * torch.randn(n, 1, generator=generator)
    weight = torch.ones(n, dtype=torch.float64) if weight is None else weight
    return MemberRows.of(X, y, weight, every_row(n, n_members))


def values_of(trainer):
    return trainer.parameters.values.clone()


def test_flat_parameters_are_views_and_their_gradient_is_autograd_s():
    trainer, rows = make_trainer(), make_rows()
    reference = make_trainer().network
    columns = torch.arange(40).expand(2, -1)
    X, y, _ = rows.take(columns)
    trainer.parameters.differentiate(mixture_nll(*trainer.network(X), y).sum())
    mixture_nll(*reference(X), y).sum().backward()
    by_name = dict(reference.named_parameters())
    for name, parameter in trainer.network.named_parameters():
        position = next(
            i for i, view in enumerate(trainer.parameters.views) if view is parameter
        )
        sizes = [view[0].numel() for view in trainer.parameters.views]
        start = sum(sizes[:position])
        flat = trainer.parameters.gradient[:, start : start + sizes[position]]
        assert_allclose(flat, by_name[name].grad.flatten(1), rtol=1e-5, atol=1e-6)
    trainer.parameters.values.zero_()
    assert not any(parameter.any() for parameter in trainer.network.parameters())


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
            rows.X[repeats],
            rows.y[repeats],
            torch.ones(80, dtype=torch.float64),
            every_row(80, 2),
        ),
        0,
    )
    assert_allclose(values_of(weighted), values_of(repeated), rtol=1e-4, atol=1e-6)


def test_each_epoch_visits_every_row_once():
    trainer, rows = make_trainer(), make_rows(n=43)
    batches = trainer._batches(rows.index)
    sizes = [batch.shape[1] for batch in batches]
    assert max(sizes) <= 10
    assert max(sizes) - min(sizes) <= 1
    order = torch.cat(batches, dim=1)
    assert_array_equal(order.sort(dim=1).values, np.tile(np.arange(43), (2, 1)))
    assert not torch.equal(order[0], order[1])


def test_evaluate_is_the_weighted_mean_log_likelihood(monkeypatch):
    monkeypatch.setattr(_training, "EVALUATION_ROWS", 7)
    weight = torch.rand(40, generator=torch.Generator().manual_seed(1)).double()
    trainer, rows = make_trainer(), make_rows(weight=weight)
    nll = mixture_nll(*trainer.network(rows.X), rows.y).detach().numpy()
    expected = [-np.average(member, weights=weight) for member in nll]
    assert_allclose(evaluate(trainer.network, rows), expected, rtol=1e-5)


def test_training_ends_at_the_best_validated_weights():
    trainer = make_trainer(max_iter=60, learning_rate_init=0.1, n_iter_no_change=60)
    validation = make_rows(seed=5)
    history = train(trainer, make_rows(), validation, offset=0.5)
    scores = np.array(history.scores)
    assert_allclose(history.best_scores, scores.max(axis=0))
    assert (scores[-1] < scores.max(axis=0)).any()
    assert_allclose(evaluate(trainer.network, validation) - 0.5, history.best_scores)


def test_members_stop_on_their_own():
    stopping = EarlyStopping(np.array([0.0, 0.0, np.nan]), torch.zeros(3, 1))
    settings = TrainingSettings(**SETTINGS | {"tol": 0.1, "n_iter_no_change": 2})
    for epoch, scores in enumerate(
        [[-1.0, 0.05, 1.0], [-1.0, 0.3, 2.0], [9.0, 0.2, np.nan]], start=1
    ):
        values = torch.full((3, 1), float(epoch))
        stopping.update(np.array(scores), values, settings, keep_last=False)
    # The first stopped after two bad epochs, before its best; the second saw small
    # progress only at first; the third had a non-finite epoch.
    assert_array_equal(stopping.is_active(2), [False, True, True])
    assert_array_equal(stopping.best_scores, [0.0, 0.3, 2.0])
    assert_array_equal(stopping.best_values[:, 0], [0.0, 2.0, 2.0])


def test_members_that_never_improve_keep_their_start():
    trainer = make_trainer(max_iter=3)
    start = values_of(trainer)
    rows = make_rows()
    poisoned = MemberRows(rows.X, rows.y * float("nan"), rows.index, rows.weight)
    train(trainer, poisoned, rows, offset=0.0)
    assert torch.equal(values_of(trainer), start)


def test_without_validation_the_last_weights_are_kept():
    trainer = make_trainer(max_iter=3)
    seen = []
    step = trainer.run_epoch
    trainer.run_epoch = lambda *a: (step(*a), seen.append(values_of(trainer)))[0]
    history = train(trainer, make_rows(), None, offset=0.0)
    assert history.scores == []
    assert torch.equal(values_of(trainer), seen[-1])


@pytest.mark.parametrize(("schedule", "warns"), [("constant", True), ("cosine", False)])
def test_only_a_constant_rate_warns_at_max_iter(schedule, warns, recwarn):
    train(make_trainer(max_iter=2, learning_rate=schedule), make_rows(), None, 0.0)
    assert [w.category for w in recwarn] == [ConvergenceWarning] * warns


def test_cosine_anneals_to_zero():
    rates = [_training.LEARNING_RATES["cosine"](done) for done in (0.0, 0.5, 1.0)]
    assert_allclose(rates, [1.0, 0.5, 0.0], atol=1e-15)


def test_interruption_keeps_the_best_weights_and_warns():
    trainer, validation = make_trainer(max_iter=50), make_rows(seed=5)
    step, seen = trainer.run_epoch, []

    def interrupted(rows, iteration):
        if iteration == 4:
            raise KeyboardInterrupt
        seen.append(step(rows, iteration))
        return seen[-1]

    trainer.run_epoch = interrupted
    with pytest.warns(UserWarning, match="interrupted; the best weights"):
        history = train(trainer, make_rows(), validation, offset=0.0)
    assert len(history.losses) == 4
    assert_allclose(evaluate(trainer.network, validation), history.best_scores)


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
