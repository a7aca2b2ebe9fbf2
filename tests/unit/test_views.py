"""Views of rows: what they compute, and that they never use a row's own target."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import NO_SCORES, make_folds, make_view_rows
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import norm

from skmdn._data.views import kriging, neighbours
from skmdn._data.views.conditioning import (
    given_neighbours,
    leave_out,
    observation_covariance,
)
from skmdn._data.views.kernel import Kernel
from skmdn._data.views.kriging import Kriging
from skmdn._data.views.learning import gradient_of_likelihood
from skmdn._data.views.nearest import nearest_columns
from skmdn._data.views.neighbours import Neighbours
from skmdn._data.views.rows import NormalScores

RNG = np.random.default_rng(0)


def make_kernel(n_features=3, seed=0):
    vector = Kernel.initial(n_features).vector
    step = np.random.default_rng(seed).normal(scale=0.4, size=len(vector))
    return Kernel.from_vector(vector + torch.from_numpy(step))


def kriging_of(rows):
    nothing = torch.zeros(1, len(rows.X), dtype=torch.bool)
    return Kriging.fit(rows, NO_SCORES, nothing, 0)[0]


def every_column(groups):
    return torch.cat(list(groups.values()), dim=-1)


def oracle(kernel, x, X, values, noise):
    """Mean and variance of a new observation, written out with inverses."""
    K, k = kernel.covariance(X, X), kernel.covariance(X, x[None])[:, 0]
    K = K + kernel.noise_variance * torch.diag(noise)
    inverse = torch.linalg.inv(K)
    prior = kernel.variance(x) + kernel.noise_variance
    return k @ inverse @ values, prior - k @ inverse @ k


# -- kernel -----------------------------------------------------------------------


def test_the_kernel_has_the_formula_of_its_docstring():
    kernel = make_kernel()
    a, b = RNG.normal(size=(2, 3))
    lengths = kernel.lengths.exp().numpy()
    d = np.sqrt((((a - b) / lengths) ** 2).sum())
    u = np.sqrt(5) * d
    smooth, rough, rate, linear, constant = (float(part.exp()) for part in kernel[1:-1])
    expected = smooth * (1 + u + u**2 / 3) * np.exp(-u) + rough * np.exp(-rate * d)
    expected += linear * (a @ b) / 3 + constant
    A, B = torch.from_numpy(a[None]), torch.from_numpy(b[None])
    assert_allclose(float(kernel.covariance(A, B)), expected, rtol=1e-12)
    variance = kernel.covariance(A, A)[0]
    assert_allclose(kernel.variance(A), variance, rtol=1e-5)
    assert torch.equal(Kernel.from_vector(kernel.vector).vector, kernel.vector)


# -- conditioning ---------------------------------------------------------------------


@pytest.mark.parametrize("is_left", [False, True])
def test_values_given_neighbours_follow_the_oracle(is_left):
    kernel, rows = make_kernel(), make_view_rows()
    x, near = rows.X[:7], torch.from_numpy(RNG.integers(7, 60, size=(7, 9)))
    left_out = torch.from_numpy(RNG.random(size=(4, 7, 9)) < 0.3)
    left_out[0] = False
    left_out[1, 0] = True  # none is left
    noise = rows.weight.reciprocal()
    given = rows.X[near], rows.values[near], noise[near]
    lists = left_out if is_left else None
    mean, variance = given_neighbours(kernel, x, *given, lists)
    assert mean.shape == (4 if is_left else 1, 7, 2)
    for k in range(len(mean)):
        for i in range(7):
            kept = ~left_out[k, i]
            parts = (part[i][kept] for part in given)
            expected = oracle(kernel, x[i], *parts)
            assert_allclose(mean[k, i], expected[0], atol=1e-9)
            assert_allclose(variance[k, i], expected[1], atol=1e-9)


@pytest.mark.parametrize("n_groups", [None, 20, 3])
def test_left_out_values_follow_the_oracle(n_groups):
    kernel, rows = make_kernel(), make_view_rows(n_groups=n_groups)
    noise, left_out = rows.weight.reciprocal(), make_folds(60)[:, rows.group]
    left_out[-1] = False
    matrix = observation_covariance(kernel, rows.X, noise)
    mean = leave_out(torch.linalg.inv(matrix), rows.values, left_out, rows.group)
    for k, is_left in enumerate(left_out):
        for i in range(60):
            kept = ~is_left & (rows.group != rows.group[i])
            given = rows.X[kept], rows.values[kept], noise[kept]
            assert_allclose(mean[k, i], oracle(kernel, rows.X[i], *given)[0], atol=1e-8)


def test_the_gradient_of_the_likelihood_is_that_of_autograd():
    kernel, rows = make_kernel(), make_view_rows()
    noise = rows.weight.reciprocal()
    at, near = torch.arange(6), torch.from_numpy(RNG.integers(6, 60, size=(6, 8)))
    exists = torch.ones(6, 8, dtype=torch.bool)
    exists[2, 3:] = False
    exists[3] = False
    vector = kernel.vector.requires_grad_()
    differentiable = Kernel.from_vector(vector)
    expected = 0.0
    for i in range(6):
        near_i = near[i][exists[i]]
        given = rows.X[near_i], rows.values[near_i], noise[near_i]
        mean, variance = oracle(differentiable, rows.X[i], *given)
        variance = variance + differentiable.noise_variance * (noise[i] - 1)
        squares = (rows.values[i] - mean).square().sum()
        expected = expected + 0.5 * (squares / variance + 2 * variance.log()) / 6
    (gradient,) = torch.autograd.grad(expected, vector)
    found = gradient_of_likelihood(
        kernel,
        (rows.X[at], rows.values[at], noise[at]),
        (rows.X[near], rows.values[near], noise[near]),
        exists,
    )
    assert_allclose(found, gradient, rtol=1e-7, atol=1e-10)


# -- neighbours -----------------------------------------------------------------------


@pytest.mark.parametrize("n_groups", [None, 10, 2, 1])
def test_neighbours_are_the_nearest_of_other_groups(n_groups):
    rows, kernel = make_view_rows(n=60, n_groups=n_groups, seed=3), make_kernel()
    search = Neighbours(kernel, rows.X, rows.group)
    near, exists = search.of_others(rows.X, rows.group, 12)
    Z = kernel.scaled(rows.X)
    distance = torch.cdist(Z, Z)
    for i in range(60):
        others = (rows.group != rows.group[i]).nonzero()[:, 0]
        assert exists[i].sum() == min(12, len(others))
        found = near[i][exists[i]]
        assert (rows.group[found] != rows.group[i]).all()
        expected = distance[i, others].sort().values[: len(found)]
        assert_allclose(distance[i, found].sort().values, expected, atol=1e-7)


# -- the view -------------------------------------------------------------------------


@pytest.mark.parametrize("n_groups", [None, 15])
@pytest.mark.parametrize("is_exact", [False, True])
def test_no_column_uses_a_target_that_it_must_not_see(monkeypatch, is_exact, n_groups):
    if not is_exact:
        monkeypatch.setattr(kriging, "MOST_EXACT", 0)
    rows = make_view_rows(n=80, n_groups=n_groups)
    # The rows of a group are in one fold.
    view, left_out = kriging_of(rows), make_folds(80)[:, rows.group]
    left_out[-1] = False
    before = every_column(view.of_training_rows(rows, left_out))
    assert before.dtype == torch.float32
    assert before.isfinite().all()
    for i in (0, 1, 40, 77):
        values = view.values.clone()
        values[i] += 3.0
        changed = replace(view, values=values)
        after = every_column(changed.of_training_rows(rows, left_out))
        is_same = (before == after).all(-1)
        own = rows.group == rows.group[i]
        assert is_same[:, own].all()
        assert is_same[left_out[:, i]].all()
        assert not is_same[-1].all()


def test_the_column_of_a_held_out_row_is_that_of_a_new_one(monkeypatch):
    rows, left_out = make_view_rows(n=200), make_folds(200)
    view = kriging_of(rows)
    columns = view.of_training_rows(rows, left_out)["kriging"]
    for k in range(2):
        kept = rows.select(~left_out[k])
        part = replace(
            view,
            X=view.X[~left_out[k]],
            values=view.values[~left_out[k]],
            noise=kept.weight.reciprocal(),
        )
        new = part(rows.X[left_out[k]].float().double())["kriging"]
        assert_allclose(columns[k, left_out[k], :-1], new[:, :-1], atol=1e-4)
        # From other numbers of neighbours.
        gap = (columns[k, left_out[k], -1] - new[:, -1]).abs()
        assert gap.median() < 0.2


@pytest.mark.parametrize("is_left", [False, True])
def test_nearest_columns_are_those_of_rows_that_count(is_left):
    kernel, rows = make_kernel(), make_view_rows()
    x, others = rows.X[:7], torch.arange(7, 60)
    Z, z = kernel.scaled(rows.X[others]), kernel.scaled(x)
    distance = torch.cdist(z, Z)
    order = distance.argsort(1)[:, :9]
    near = others[order]
    left_out = torch.from_numpy(RNG.random(size=(4, 7, 9)) < 0.5)
    left_out[1, 0] = True  # none is left
    left_out[1, 1], left_out[1, 1, 4] = True, False  # one is
    given = kernel, x, rows.X[near], rows.values[near]
    columns = nearest_columns(*given, left_out if is_left else None)
    assert columns.shape == (4 if is_left else 1, 7, 7)
    for k in range(len(columns)):
        for i in range(7):
            kept = ~left_out[k, i] if is_left else torch.ones(9, dtype=torch.bool)
            index = near[i][kept][:3]
            expected = torch.zeros(7, dtype=torch.float64)
            expected[: 2 * len(index)] = rows.values[index].flatten()
            if len(index):
                square = distance[i, order[i][kept][0]] ** 2
                expected[-1] = 0.25 * (square + 1e-8).log()
            assert_allclose(columns[k, i], expected, atol=1e-6)


def test_a_few_rows_have_few_nearest():
    rows = make_view_rows(d=1).select(torch.tensor([3, 10]))
    view = kriging_of(rows)
    nothing = torch.zeros(1, 2, dtype=torch.bool)
    columns = view.of_training_rows(rows, nothing)["nearest"][0]
    assert_array_equal(columns[:, 0], rows.values[[1, 0], 0].float())
    assert_array_equal(columns[:, 1:3], np.zeros((2, 2)))
    assert (columns[:, 3] != 0).all()
    assert view(rows.X)["nearest"].shape == (2, 4)


def test_a_stored_kriging_view_has_the_same_columns():
    rows = make_view_rows(n=100)
    view = kriging_of(rows)
    opened = Kriging.from_state(view.to_state())
    for group, columns in view(rows.X).items():
        assert columns.shape == (100, view.widths[group])
        assert_array_equal(opened(rows.X)[group], columns)
    state = view.to_state()
    assert state["X"].dtype == state["values"].dtype == np.float32


def test_weights_are_repetitions():
    # Two copies of an observation have half of its noise.
    kernel, rows = make_kernel(), make_view_rows(n=30)
    noise = torch.ones(30, dtype=torch.float64)
    twice = torch.cat([rows.X, rows.X[:1]]), torch.cat([rows.values, rows.values[:1]])
    expected = oracle(kernel, rows.X[5] + 0.1, *twice, torch.ones(31).double())
    noise[0] = 0.5
    found = oracle(kernel, rows.X[5] + 0.1, rows.X, rows.values, noise)
    assert_allclose(found[0], expected[0], atol=1e-9)
    assert_allclose(found[1], expected[1], atol=1e-9)


def test_normal_scores_are_those_of_ranks():
    y, weight = RNG.normal(size=500), np.ones(500)

    def scores_of(values, weight=weight):
        values = values[:, None]
        return NormalScores.fit(values, weight)(values)[:, 0]

    scores = scores_of(y)
    assert_allclose(scores, scores_of(np.exp(y)), atol=1e-12)
    assert_allclose(scores, -scores_of(-y), atol=1e-9)
    assert_allclose(scores.std(), 1.0)
    plain = norm.ppf((y.argsort().argsort() + 0.5) / 500)
    assert_allclose(scores, plain / plain.std(), atol=1e-12)
    # Weights are repetitions, and ties have one score.
    counts = RNG.integers(1, 4, size=500)
    repeated = scores_of(np.repeat(y, counts), np.ones(counts.sum()))
    assert_allclose(np.repeat(scores_of(y, counts), counts), repeated, atol=1e-9)
    assert_array_equal(scores_of(np.full(500, 3.0)), np.zeros(500))
    # A negligible weight at the end is no infinite score.
    light = np.where(y == y.max(), 1e-20, 1.0)
    assert np.isfinite(scores_of(y, light)).all()


def test_many_scores_are_interpolated():
    y = RNG.normal(size=(20_000, 2)) ** 3
    scores = NormalScores.fit(y, np.ones(20_000))
    assert scores.knots.shape[0] == 2
    assert 500 < scores.knots.shape[1] <= 1000
    exact = norm.ppf((y.argsort(0).argsort(0) + 0.5) / 20_000)
    assert_allclose(scores(y), exact, atol=0.05)
    assert_array_equal(
        scores(y + 1e9), scores(y.max(0, keepdims=True).repeat(len(y), 0))
    )


def test_neighbours_of_large_groups_are_those_of_other_groups(monkeypatch):
    rows = make_view_rows(n=90)
    group = torch.arange(90) // 45
    expected = Neighbours(make_kernel(), rows.X, group)
    found, exists = expected.of_others(rows.X, group, 10)
    assert exists.all()
    monkeypatch.setattr(neighbours, "MOST_CANDIDATES", 1)
    again, exists = Neighbours(make_kernel(), rows.X, group).of_others(
        rows.X, group, 10
    )
    assert exists.all()
    assert_array_equal(again, found)
    lonely, exists = expected.of_others(rows.X[:3], torch.zeros(3), 60)
    assert exists.sum(1).tolist() == [45] * 3
    assert (lonely[exists] >= 45).all()
