"""The training loop: batches, steps, clipping, divergence, early stopping."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from skmdn._data.folds import every_row
from skmdn._data.matrices import ScaledRows
from skmdn._training import batches as batches_module
from skmdn._training import early_stopping, optimizer
from skmdn._training.auto import TrainingSettings
from skmdn._training.batches import ListedRows
from skmdn._training.early_stopping import EarlyStopping, held_out_terms
from skmdn._training.loop import TrainingLoop
from skmdn._training.optimizer import LEARNING_RATES, FlatParameters
from skmdn._training.stack import Stack
from skmdn._utils.compat import adam
from skmdn.distributed import ALONE
from skmdn.nn import MixtureDensityNetwork, mixture_nll
from skmdn.nn.backprop import Backpropagation

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
    "n_epochs_of_halving": 1,
    "n_epochs_of_choice": 2,
    "n_epochs_per_score": 1,
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
    return ListedRows.for_scoring(rows, every_row(n, n_lists))


def test_held_out_score_is_the_mean_log_likelihood_of_the_calibrated_pool(monkeypatch):
    monkeypatch.setattr(early_stopping, "EVALUATION_ROWS", 7)
    weight = torch.rand(40, generator=torch.Generator().manual_seed(1)).double()
    loop, held_out = make_loop(n_members=3), make_held_out(weight=weight)
    folds = torch.zeros(1, 3, dtype=torch.int64)
    stack = Stack(loop, {"one": 3}, None, held_out, folds, 1)
    (contender,) = stack.contenders
    terms = stack.terms()
    calibration, score, log_density = contender.score(terms, held_out, ALONE)
    assert any(calibration)
    loop.network.head.calibrate_([calibration] * 3)
    nll = mixture_nll(*loop.network(held_out.X), held_out.y).detach()
    pooled = nll.neg().exp().mean(0).log().numpy()
    assert_allclose(log_density[0], pooled, rtol=1e-3)
    assert_allclose(score, np.average(pooled, weights=weight), rtol=1e-4)


def test_kinds_of_a_stack_are_scored_on_their_own():
    """Each by the cases of its members: pairs of a member and a fold it holds out."""
    loop, rows = make_loop(n_members=5), make_rows(30, 1)
    index = torch.arange(30).view(3, 10)
    weight = torch.rand(3, 10, generator=torch.Generator().manual_seed(1)).double()
    held_out = ListedRows(rows.X, rows.y, index, weight, 10, torch.arange(3))
    own = torch.tensor([0, 1, 2, 0, 1])
    folds = torch.stack([own, (own + 1) % 3])
    stack = Stack(loop, {"first": 3, "second": 2}, None, held_out, folds, 3)
    terms = held_out_terms(loop.network, folds, held_out)
    nll = mixture_nll(*loop.network(held_out.X), held_out.y)[..., index].detach()
    cases = zip(folds.flatten(), [*range(5)] * 2, strict=True)
    for case, (fold, member) in enumerate(cases):
        found = terms.select(torch.tensor([case])).log_density()[0]
        assert_allclose(found, -nll[member, fold], rtol=1e-4, atol=1e-5)
    first, second = stack.contenders
    assert (first.members, second.members) == (slice(0, 3), slice(3, 5))
    settings = TrainingSettings(**SETTINGS)
    stack.update(ALONE, settings, cost=0.25)
    for item in (first, second):
        of_cases = terms.select(item.cases).calibrated(item.calibration)
        case_folds = folds[:, item.members].flatten()
        assert torch.equal(item.pooling.fold, case_folds)
        assert torch.equal(folds.flatten()[item.cases], case_folds)
        p = of_cases.log_density().exp()
        pooled = [p[case_folds == fold].mean(0).log() for fold in range(3)]
        expected = torch.stack(pooled) - 0.25
        assert_allclose(item.log_density, expected, rtol=1e-4, atol=1e-5)
        mean = np.average(expected, weights=weight)
        assert_allclose(item.best.score, mean, atol=1e-4)
        assert item.cost == 0.25
        assert torch.equal(item.best.values, loop.values[item.members])
    # A worse epoch changes nothing that is kept.
    kept = first.log_density.clone(), first.best.score
    loop.values.mul_(3)
    stack.update(ALONE, settings, cost=0.25, n_epochs=4)
    assert torch.equal(first.log_density, kept[0])
    assert first.best.score == kept[1]
    assert first.best.stale == 4
    assert not torch.equal(first.best.values, loop.values[first.members])
    first.charge(0.5)
    assert_allclose(first.best.score, kept[1] - 0.5)
    assert_allclose(first.log_density, kept[0] - 0.5)


def test_of_many_held_out_rows_evenly_spread_ones_are_read(monkeypatch):
    monkeypatch.setattr(batches_module, "MOST_HELD_OUT_ROWS", 8)
    assert make_held_out(n_lists=2).index.tolist() == [[0, 10, 20, 30]] * 2


def test_best_counts_epochs_without_progress_in_nats():
    best, stale, is_best = EarlyStopping(torch.zeros(1), score=0.0), [], []
    for epoch, score in enumerate([-1.0, 0.05, 0.3, float("nan"), 0.2], start=1):
        is_best.append(best.update(score, torch.tensor([epoch]), tol=0.1))
        stale.append(best.stale)
    # 0.05 is better, but no progress.
    assert stale == [1, 2, 0, 1, 2]
    assert is_best == [False, True, True, False, False]
    assert (best.score, best.values) == (0.3, 3.0)
    best.update(0.1, torch.tensor([9]), tol=0.1, n_epochs=5)
    assert best.stale == 7


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


# -- settings ----------------------------------------------------------------------


PARAMETERS = {name for name in SETTINGS if not name.startswith("n_epochs_")}


def resolve(n_rows, **params):
    auto = dict.fromkeys(("batch_size", "max_iter", "n_iter_no_change"), "auto")
    params = {k: v for k, v in (SETTINGS | auto | params).items() if k in PARAMETERS}
    return TrainingSettings.resolve(params, n_rows)


@pytest.mark.parametrize("warmup_iter", [0, 3, 100])
@pytest.mark.parametrize("max_iter", ["auto", 101, 400])
@pytest.mark.parametrize("n_rows", [10, 1000, 10**6])
def test_kinds_are_compared_early_but_after_the_warmup(n_rows, max_iter, warmup_iter):
    if max_iter == "auto":
        warmup_iter = min(warmup_iter, 19)
    settings = resolve(n_rows, max_iter=max_iter, warmup_iter=warmup_iter)
    n_left = settings.max_iter - warmup_iter
    n_compared = settings.n_epochs_of_choice - warmup_iter
    assert 1 <= n_compared <= int(np.ceil(n_left / 4))
    n_halved = settings.n_epochs_of_halving - warmup_iter
    assert n_halved == max(1, n_compared // 2)
    assert settings.n_epochs_per_score >= 1
