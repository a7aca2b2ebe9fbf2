"""Training and calibration with targets that are missing or in cells."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from partial_targets import ALL_BLOCKS, draw, make_network, stack

from skmdn._data.folds import every_row
from skmdn._data.matrices import ScaledRows
from skmdn._training import loop as loop_module
from skmdn._training.auto import TrainingSettings
from skmdn._training.batches import ListedRows
from skmdn._training.calibration import calibrate
from skmdn._training.early_stopping import held_out_terms
from skmdn._training.loop import TrainingLoop
from skmdn._training.pooling import Pooling
from skmdn.nn import MixtureDensityNetwork
from skmdn.nn.covariance import COVARIANCE_TYPES
from skmdn.nn.likelihood import Calibration
from skmdn.nn.terms import Terms

# -- training -------------------------------------------------------------------------

SETTINGS = {
    "learning_rate_init": 1e-2,
    "learning_rate": "cosine",
    "alpha": 0.0,
    "batch_size": 50,
    "max_iter": 12,
    "warmup_iter": 1,
    "tol": 1e-4,
    "n_iter_no_change": 3,
    "max_grad_norm": None,
    "verbose": False,
    "n_epochs_of_halving": 1,
    "n_epochs_of_choice": 2,
    "n_epochs_per_score": 1,
}


def make_rows(n_blocks, n=200):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(n, 3, generator=generator)
    y, lower, upper, observed = draw(n_blocks, n, 2)
    shift = X[:, :2].double()
    y, lower, upper = (0.3 * part + shift for part in (y, lower, upper))
    targets = stack(n_blocks, y, lower, upper, observed, junk=1e20).float()
    return ScaledRows(X, targets, torch.ones(n, dtype=torch.float64))


def make_loop(covariance_type):
    generator = torch.Generator().manual_seed(0)
    options = {"n_members": 2, "covariance_type": covariance_type}
    network = MixtureDensityNetwork(
        3, 2, 3, embedding=None, has_skip=True, **options, generator=generator
    )
    return TrainingLoop(network, TrainingSettings(**SETTINGS), generator)


@pytest.mark.parametrize("n_blocks", ALL_BLOCKS)
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_training_lowers_the_loss_and_the_held_out_one(covariance_type, n_blocks):
    loop, rows = make_loop(covariance_type), make_rows(n_blocks)
    listed = ListedRows.for_training(rows, every_row(200, 2))
    held_out = ListedRows.for_scoring(rows, every_row(200, 1))
    folds = torch.zeros(1, 2, dtype=torch.int64)
    before = held_out_terms(loop.network, folds, held_out).log_density().mean()
    losses = [
        loop.run_epoch_with_rollback(listed, epoch)
        for epoch in range(SETTINGS["max_iter"])
    ]
    assert loop.n_rollbacks == 0
    assert losses[-1] < losses[1] - 0.2
    terms = held_out_terms(loop.network, folds, held_out)
    assert terms.log_density().mean() > before + 0.2


@pytest.mark.parametrize("n_blocks", ALL_BLOCKS)
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_only_gradients_by_hand_are_captured(monkeypatch, covariance_type, n_blocks):
    captured, calls, grad = [], [], torch.autograd.grad

    def capture(function, device):
        captured.append(function)
        return function

    def watched(*args, **kwargs):
        calls.append(args)
        return grad(*args, **kwargs)

    monkeypatch.setattr(loop_module, "can_capture", lambda network: True)
    monkeypatch.setattr(loop_module, "Captured", capture)
    loop = make_loop(covariance_type)
    captured.clear()  # the step of the optimizer
    monkeypatch.setattr(torch.autograd, "grad", watched)
    listed = ListedRows.for_training(make_rows(n_blocks), every_row(200, 2))
    loop.run_epoch(listed, 2)
    uses_autograd = {"full": [4], "tied": [4], "low_rank": [3, 4]}
    assert bool(calls) is (n_blocks in uses_autograd.get(covariance_type, []))
    assert bool(captured) is not bool(calls)


# -- calibration ----------------------------------------------------------------------


def terms_of(n_blocks, n=60, seed=5, **options):
    network = make_network(**options)
    X = draw(1, 2, n, 3, seed=seed)[0]
    with torch.no_grad():
        return network.terms(X, stack(n_blocks, *draw(n_blocks, 2, n, 3)))


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("n_blocks", ALL_BLOCKS)
def test_derivatives_in_the_sharpness_are_those_of_differences(
    n_blocks, covariance_type
):
    terms = terms_of(n_blocks, covariance_type=covariance_type)

    def at(s):
        return terms.sharpen(terms.log_weights, s)

    s, step = 0.2, 1e-5
    left, middle, right = (at(s + k * step) for k in (-1, 0, 1))
    slope = right.joint - left.joint + right.constant - left.constant
    assert_allclose(middle.first, slope / (2 * step), rtol=1e-6, atol=1e-6)
    bend = (right.first - left.first) / (2 * step)
    assert_allclose(middle.second, bend, rtol=1e-6, atol=1e-6)
    total = (middle.joint + middle.constant).logsumexp(1)
    expected = terms.calibrated(Calibration(s)).log_density()
    assert_allclose(total, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("n_blocks", ALL_BLOCKS)
def test_calibrated_terms_are_those_of_calibrated_networks(n_blocks, covariance_type):
    options = {"covariance_type": covariance_type, "reg_covar": 0.0}
    network = make_network(**options)
    X, targets = draw(1, 2, 20, 3)[0], stack(n_blocks, *draw(n_blocks, 2, 20, 3))
    calibrations = [Calibration(0.4, -0.3), Calibration(-0.2, 0.5)]
    with torch.no_grad():
        terms = network.terms(X, targets)
        network.head.calibrate_(calibrations)
        expected = network.terms(X, targets).log_density()
    for member, calibration in enumerate(calibrations):
        own = terms.select(torch.tensor([member])).calibrated(calibration)
        assert_allclose(own.log_density()[0], expected[member], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("n_blocks", ALL_BLOCKS)
def test_terms_are_split_and_joined(n_blocks):
    terms = terms_of(n_blocks)
    expected = terms.log_density()
    blocks = terms.split(17)
    assert [b.log_weights.shape[-1] for b in blocks] == [17, 17, 17, 9]
    assert torch.equal(Terms.cat(blocks, dim=-1).log_density(), expected)
    cases = [terms.select(torch.tensor([case])) for case in (1, 0)]
    assert torch.equal(Terms.cat(cases).log_density(), expected.flip(0))
    sizes = [part[..., 0].numel() for part in terms.parts.values()]
    assert terms.floats_per_row == max(sizes)
    assert terms.map(lambda part: part[..., :0]).floats_per_row == max(sizes)
    assert terms.is_finite
    broken = terms.log_weights.clone()
    broken[0, 0, 3] = math.nan
    assert not replace(terms, log_weights=broken).is_finite


@pytest.mark.parametrize("n_blocks", ALL_BLOCKS)
def test_calibration_recovers_the_sharpness(n_blocks):
    """Of targets drawn from densities that are wider than those given."""
    n, log_scale = 20_000, 0.5
    generator = torch.Generator().manual_seed(3)
    # A point in a cell stands for the value where others are predicted from it, which
    # is exact for independent outputs only.
    independent = {"covariance_type": "diag" if n_blocks >= 3 else "full"}
    network = make_network(2, n_members=1, n_components=1, reg_covar=0.0, **independent)
    X = torch.zeros(n, 3, dtype=torch.float64)
    with torch.no_grad():
        _, means, factors = network(X[:1])
    root = torch.linalg.inv(factors[0, 0, 0])
    noise = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    y = means[0, 0, 0] + math.exp(log_scale) * noise @ root.T
    lower, upper, observed = y.clone(), y.clone(), torch.ones_like(y)
    if n_blocks >= 3:
        # The first output is rounded down to multiples of 1, the second one censored.
        lower[:, 0], upper[:, 0] = y[:, 0].floor(), y[:, 0].floor() + 1
        y[:, 0] = y[:, 0].floor() + 0.5
        is_high = y[:, 1] > means[0, 0, 0, 1]
        y[:, 1] = lower[:, 1] = torch.where(is_high, means[0, 0, 0, 1], y[:, 1])
        upper[:, 1] = torch.where(is_high, math.inf, y[:, 1])
    if n_blocks % 2 == 0:
        observed = (torch.rand(n, 2, generator=generator) < 0.6).double()
    with torch.no_grad():
        terms = network.terms(X, stack(n_blocks, y, lower, upper, observed))
    one = Pooling.of(torch.tensor([0]), 1)
    found, score = calibrate(terms, torch.ones(1, n), one, Calibration())
    assert_allclose(found.log_sharpness, -log_scale, atol=0.03)
    values = terms.calibrated(found).log_density()
    assert_allclose(score, values.mean(), rtol=1e-9)


@pytest.mark.parametrize("n_blocks", ALL_BLOCKS)
def test_calibration_is_at_a_maximum(n_blocks):
    terms = terms_of(n_blocks)
    pooling = Pooling.of(torch.zeros(2, dtype=torch.int64), 1)
    weight = torch.rand(1, 60, generator=torch.Generator().manual_seed(0)).double()
    exact = {"smallest_gain": 1e-13}
    found, score = calibrate(terms, weight, pooling, Calibration(), **exact)

    def penalised(point):
        values = pooling.pool(terms.calibrated(Calibration(*point)).log_density())
        mean = float((weight * values).sum() / weight.sum())
        return mean - float(np.square(point).sum()) / (2 * 60)

    best = penalised(found)
    assert_allclose(score, best + np.square(found).sum() / 120, rtol=1e-10)
    for direction in itertools.product([-1, 0, 1], repeat=2):
        if any(direction):
            near = np.array(found) + 1e-3 * np.array(direction)
            assert best - 1e-5 < penalised(near) < best
