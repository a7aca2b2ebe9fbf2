"""Calibration of densities by held-out rows."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.optimize import minimize

from skmdn._mixture import Mixture, log_det, log_prob, sample, whiten
from skmdn._training.calibration import calibrate, extrapolate
from skmdn._training.pooling import Pooling
from skmdn.nn.likelihood import Calibration
from skmdn.nn.terms import PointTerms


def mixtures(n_members, n, K=3, d=2, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    factors = torch.eye(d, dtype=torch.float64) + 0.3 * draw(
        n_members, n, K, d, d
    ).triu(1)
    return Mixture(
        draw(n_members, n, K).log_softmax(-1), 2 * draw(n_members, n, K, d), factors
    )


def terms_of(mixture, y):
    log_dets = log_det(mixture.precision_factors)
    distances = whiten(mixture, y).square().sum(-1)
    parts = (part.mT for part in (mixture.log_weights, log_dets, distances))
    return PointTerms(*parts, y.shape[-1])


def calibrated(mixture, log_sharpness, log_inverse_temperature):
    return Mixture(
        (math.exp(log_inverse_temperature) * mixture.log_weights).log_softmax(-1),
        mixture.means,
        math.exp(log_sharpness) * mixture.precision_factors,
    )


def pooled_by_hand(log_densities, fold, weights):
    """Average the densities of the members of each fold, with weights."""
    densities = np.exp(log_densities.numpy())
    return np.stack(
        [
            np.log(np.average(densities[fold == k], 0, weights[fold == k]))
            for k in range(max(fold) + 1)
        ]
    )


ONE = Pooling.of(torch.tensor([0]), 1)


@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize("start", [Calibration(), Calibration(1.5, -1.5)])
@pytest.mark.parametrize(("n_members", "n_folds"), [(2, 2), (5, 3), (4, 1)])
def test_newton_finds_what_a_general_optimiser_finds(
    n_members, n_folds, start, is_weighted
):
    mixture = mixtures(n_members, 40)
    fold = torch.arange(n_members).flip(0) % n_folds
    shares = 1 + torch.arange(n_members, dtype=torch.float64) * is_weighted
    pooling = Pooling.of(fold, n_folds, shares if is_weighted else None)
    generator = torch.Generator().manual_seed(1)
    y = 2 * torch.randn(n_folds, 40, 2, generator=generator, dtype=torch.float64)
    weight = torch.rand(n_folds, 40, generator=generator, dtype=torch.float64)
    weight[0, :5] = 0.0
    share = (weight / weight.sum()).numpy()

    def score(point):
        values = log_prob(calibrated(mixture, *point), y[fold])
        return (share * pooled_by_hand(values, fold.numpy(), shares.numpy())).sum()

    def loss(point):
        return -score(point) + (point**2).sum() / (2 * int((weight > 0).sum()))

    expected = minimize(loss, np.zeros(2), method="BFGS", options={"gtol": 1e-7})
    terms = terms_of(mixture, y[fold])
    exact = {"smallest_gain": 1e-12}
    found, reached = calibrate(terms, weight, pooling, start, **exact)
    assert_allclose(found, expected.x, atol=1e-4)
    assert_allclose(reached, score(found), rtol=1e-10)
    # By default, next to nothing is left to gain.
    quick, _ = calibrate(terms, weight, pooling, start)
    assert loss(np.array(quick)) < expected.fun + 1e-7


def test_true_densities_stay_and_too_sharp_ones_are_flattened():
    truth = mixtures(1, 20_000)
    uniform = torch.rand(
        3, 20_000, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    drawn = sample(Mixture(*(part[0] for part in truth)), uniform)[None, :, 0]
    weight = torch.ones(1, 20_000)
    terms = terms_of(truth, drawn)
    found, _ = calibrate(terms, weight, ONE, Calibration())
    assert_allclose(found, 0.0, atol=0.03)
    too_sure = terms_of(calibrated(truth, 0.7, 0.5), drawn)
    found, _ = calibrate(too_sure, weight, ONE, Calibration())
    assert_allclose(found, [-0.7, -0.5], atol=0.04)


def test_few_rows_change_little():
    y = torch.zeros(1, 1, 1, dtype=torch.float64)
    mixture = Mixture(
        torch.zeros(1, 1, 1).double(), y[..., None], torch.ones(1, 1, 1, 1).double()
    )
    terms = terms_of(mixture, y)
    found, _ = calibrate(terms, torch.ones(1, 1), ONE, Calibration())
    # One residual of zero calls for infinite sharpness; the prior allows exp(1):
    # the derivative of s - s^2 / 2 is zero at 1.
    assert_allclose(found, [1.0, 0.0], atol=1e-6)


def test_rows_without_a_finite_density_leave_everything_as_it_was():
    mixture = mixtures(1, 3)
    y = torch.full((1, 3, 2), torch.nan, dtype=torch.float64)
    start = Calibration(0.3, 0.1)
    terms = terms_of(mixture, y)
    found, score = calibrate(terms, torch.ones(1, 3), ONE, start)
    assert found == start
    assert score == -math.inf


def test_extrapolation_is_exact_for_gaussian_members():
    """Members N(m_g, s^2) with m_g ~ N(0, v), for a truth N(0, T).

    The mean of G members errs by T + v / G, and the pool has c_G s^2 + v (1 - 1/G):
    c_16 must come out from c_1 and c_2 alone.
    """
    truth, spread, own = 2.0, 0.9, 0.5
    at = {G: (truth + spread / G - spread * (1 - 1 / G)) / own for G in (1, 2, 16)}
    one, few, many = (Calibration(-0.5 * math.log(at[G]), 0.0) for G in (1, 2, 16))
    assert_allclose(extrapolate(one, few, 2, 16), many, rtol=1e-12)
    assert extrapolate(one, few, 16, 16) == few
    assert extrapolate(one, few, 1, 8) == few


def test_extrapolation_leaves_some_variance():
    far = extrapolate(Calibration(-3.0), Calibration(0.0), 2, 16)
    assert_allclose(far.log_sharpness, math.log(2))


def test_extrapolation_goes_no_further_than_the_distance_of_its_points():
    """Where one kind dominates a pool, few members are little more than one."""
    alone, pooled = Calibration(-0.1, -0.2), Calibration(0.0, 0.1)
    far = extrapolate(alone, pooled, 1.2, 32)
    assert_allclose(math.exp(-2 * far[0]), 2 - math.exp(0.2))
    assert_allclose(far[1], 0.4)


def test_a_second_calibration_is_relative_to_the_first():
    first, second = Calibration(0.2, 0.3), Calibration(0.5, -0.2)
    left = second.after(first)
    assert_allclose(left, [0.3, -0.5])
    assert_allclose(first.then(left), second)


def test_calibrated_terms_are_those_of_the_calibrated_mixture():
    mixture, y = mixtures(3, 20), torch.zeros(3, 20, 2, dtype=torch.float64)
    once, twice = Calibration(0.4, -0.3), Calibration(-0.2, 0.5)
    terms = terms_of(mixture, y).calibrated(once)
    expected = terms_of(calibrated(mixture, *once), y)
    for name, part in terms.parts.items():
        assert_allclose(part, expected.parts[name], rtol=1e-10, atol=1e-12)
    values = log_prob(calibrated(mixture, *once), y)
    assert_allclose(terms.log_density(), values, rtol=1e-10)
    # `then` is one calibration after the other.
    expected = terms_of(mixture, y).calibrated(once.then(twice))
    for name, part in terms.calibrated(twice).parts.items():
        assert_allclose(part, expected.parts[name], rtol=1e-10, atol=1e-12)
