"""The trees view: what it computes, and that it never uses a row's own target."""

import numpy as np
import pytest
import torch
from helpers import NO_SCORES, make_folds, make_view_rows
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.tree import ExtraTreeRegressor

from skmdn._data.views import VIEWS, trees
from skmdn._data.views.forest import Tree, from_arrays, to_arrays
from skmdn._data.views.rows import ViewRows
from skmdn._data.views.trees import Trees


def change(rows, index):
    values = rows.values.clone()
    values[index] += 3.0
    return rows._replace(values=values)


# -- trees as arrays -------------------------------------------------------------------


@pytest.mark.parametrize("n", [3, 12, 700])
def test_a_tree_is_that_of_scikit_learn(n):
    rng = np.random.default_rng(n)
    X = rng.normal(size=(n, 4)).astype(np.float32)
    X[: n // 2, 0] = 0.0
    y = np.sin(X[:, :2]) + 0.1 * rng.normal(size=(n, 2))
    weight = rng.uniform(0.5, 2, size=n)
    tree = Tree.grow(X, y, np.hstack([y, y**2]), weight, seed=3)
    model = ExtraTreeRegressor(min_samples_leaf=5, max_features=0.7, random_state=3)
    model.fit(X, y, sample_weight=weight)
    # At the thresholds too.
    queries = np.vstack([X, rng.normal(size=(500, 4)).astype(np.float32)])
    at = model.tree_.threshold[model.tree_.feature >= 0]
    grid = np.repeat(at.astype(np.float32)[:, None], 4, axis=1)
    near = (np.nextafter(grid, np.float32(s)) for s in (-np.inf, np.inf))
    queries = np.vstack([queries, grid, *near])
    values = tree(queries)
    assert_allclose(values[:, :2], model.predict(queries), atol=1e-6)
    leaf, of_rows = model.apply(X), model.apply(queries)
    squares = [
        np.average(y[leaf == k] ** 2, axis=0, weights=weight[leaf == k])
        for k in of_rows
    ]
    assert_allclose(values[:, 2:], squares, atol=1e-6)
    assert values.dtype == np.float32


def test_stored_trees_have_the_same_values():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(80, 3)).astype(np.float32), rng.normal(size=(80, 1))
    grown = [Tree.grow(X, y, y, np.ones(80), seed) for seed in range(4)]
    grown.append(Tree.constant(np.array([0.5])))
    for tree, opened in zip(grown, from_arrays(to_arrays(grown)), strict=True):
        assert_array_equal(opened(X), tree(X))


# -- the view --------------------------------------------------------------------------


@pytest.mark.parametrize("n_groups", [None, 15])
@pytest.mark.parametrize("n_folds", [1, 2, 4, 8, 10])
def test_no_column_uses_a_target_that_it_must_not_see(n_folds, n_groups):
    rows = make_view_rows(n=160, n_groups=n_groups)
    # The rows of a group are in one fold.
    left_out = make_folds(160, n_folds)[:, rows.group]
    left_out[-1] = False
    # The unit of the columns is that of all rows.
    start, _ = Trees.fit(rows, NO_SCORES, left_out, 0)
    before = Trees.fit(rows, NO_SCORES, left_out, 0, start)[1]["trees"]
    assert before.dtype == torch.float32
    assert before.isfinite().all()
    assert before.shape == (n_folds, 160, 4)
    for i in (0, 80, 159):
        changed = change(rows, i)
        after = Trees.fit(changed, NO_SCORES, left_out, 0, start)[1]["trees"]
        is_same = (before == after).all(-1)
        own = rows.group == rows.group[i]
        assert is_same[:, own].all()
        assert is_same[left_out[:, i]].all()
        assert not is_same[-1].all()


@pytest.mark.parametrize("n_folds", [3, 4, 8])
@pytest.mark.parametrize("has_two", [False, True])
def test_columns_are_those_of_the_trees_that_know_neither_row_nor_list(
    monkeypatch, has_two, n_folds
):
    rows, left_out = make_view_rows(n=120), make_folds(120, n_folds)
    if has_two:
        left_out = torch.cat([left_out, left_out | left_out.roll(-1, 0)])
    grown, grow = [], Tree.grow

    def spy(X, y, values, weight, seed):
        known = {tuple(row) for row in np.hstack([X, y]).tolist()}
        grown.append((grow(X, y, values, weight, seed), known))
        return grown[-1][0]

    monkeypatch.setattr(trees.Tree, "grow", spy)
    view, columns = Trees.fit(rows, NO_SCORES, left_out, 0)
    columns = columns["trees"]
    X = rows.X.float().numpy()
    table = np.hstack([X, rows.values.numpy()]).tolist()
    for k in (0, len(left_out) - 1):
        of_list = {tuple(table[i]) for i in left_out[k].nonzero()[:, 0]}
        for i in (0, 7, 60, 119):
            served = [
                tree(X[i : i + 1])[0]
                for tree, known in grown
                if not known & (of_list | {tuple(table[i])})
            ]
            assert len(served) >= (14 if n_folds == 8 else 3)
            mean, square = np.split(np.mean(served, axis=0), 2)
            log_std = 0.5 * np.log(square - mean**2)
            expected = (log_std - view.moments[0].numpy()) / view.moments[1].numpy()
            assert_allclose(columns[k, i, :2], mean, atol=1e-5)
            assert_allclose(columns[k, i, 2:], expected, atol=1e-4)
    of_all = np.mean([tree(X) for tree, _ in grown], axis=0)
    assert_allclose(view(rows.X)["trees"][:, :2], of_all[:, :2], atol=1e-5)
    assert len(view.trees) == len(grown) == 112


def test_a_stored_view_has_the_same_columns():
    rows = make_view_rows(n=100)
    view, _ = Trees.fit(rows, NO_SCORES, make_folds(100), 0)
    opened = Trees.from_state(view.to_state())
    assert_array_equal(opened(rows.X)["trees"], view(rows.X)["trees"])


def test_a_continued_view_keeps_its_unit():
    rows = make_view_rows(n=100)
    first, _ = Trees.fit(rows, NO_SCORES, make_folds(100), 0)
    some = rows.select(torch.arange(40))
    again, _ = Trees.fit(some, NO_SCORES, make_folds(40), 1, first)
    assert_array_equal(again.moments, first.moments)
    assert not torch.equal(again(rows.X)["trees"], first(rows.X)["trees"])


def test_trees_of_many_rows_take_some_of_them(monkeypatch):
    monkeypatch.setattr(trees, "MOST_ROWS_OF_TREE", 20)
    sizes, grow = [], Tree.grow
    monkeypatch.setattr(
        trees.Tree, "grow", lambda X, *args: sizes.append(len(X)) or grow(X, *args)
    )
    Trees.fit(make_view_rows(n=100), NO_SCORES, make_folds(100, 8), 0)
    assert set(sizes) == {20}


@pytest.mark.parametrize("group", VIEWS)
def test_a_single_group_tells_nothing(group):
    rows = make_view_rows(n=30)._replace(group=torch.zeros(30, dtype=torch.int64))
    nothing = torch.zeros(1, 30, dtype=torch.bool)
    view, columns = VIEWS[group].fit(rows, NO_SCORES, nothing, 0)
    assert_allclose(columns[group][0, :, :2], 0, atol=1e-6)
    assert columns[group].shape[2] == view.widths[group]
    assert view(rows.X)[group].isfinite().all()


def test_features_beyond_float32_are_finite():
    rows = make_view_rows(n=60)
    X = rows.X.clone()
    X[0, 0], X[1, 0] = 1e300, -1e300
    rows = ViewRows(X, *rows[1:])
    view, columns = Trees.fit(rows, NO_SCORES, make_folds(60), 0)
    assert columns["trees"].isfinite().all()
    assert view(X)["trees"].isfinite().all()
