"""Merging, scaling and holding out rows."""

import numpy as np
import pytest
import torch
from helpers import exact_rows, exact_targets
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array
from sklearn.preprocessing import StandardScaler
from sklearn.utils import gen_batches

from skmdn._data import rows as rows_module
from skmdn._data.encoding import FeatureEncoder
from skmdn._data.feature_transform import FeatureTransform
from skmdn._data.folds import (
    count_folds,
    every_row,
    folds_of,
    hold_out,
    without_next,
)
from skmdn._data.matrices import LazyMatrix, take_rows
from skmdn._data.rows import Rows, UniqueRows, as_dense, merge_rows, orientation
from skmdn._data.scaling import Scaling


def rows_with_copies():
    rng = np.random.RandomState(0)
    X = rng.randint(3, size=(200, 2)).astype(float)
    y = rng.randint(2, size=(200, 1)).astype(float)
    return exact_rows(X, y, rng.randint(4, size=200).astype(float))


def merged(rows):
    """Unique rows as a table of X, y and weight, and the group of each row."""
    unique = merge_rows(rows)
    X = as_dense(unique.X[unique.positions])
    return np.column_stack([X, unique.y.points, unique.weight]), unique.group


def taken(rows, index):
    return Rows(rows.X[index], rows.y[index], rows.weight[index])


def test_merged_rows_are_distinct_and_add_their_weights():
    rows = rows_with_copies()
    table, group = merged(rows)
    given = np.column_stack([rows.X, rows.y.points])
    expected, where = np.unique(given, axis=0, return_inverse=True)
    weights = np.bincount(where.ravel(), weights=rows.weight)
    expected = np.column_stack([expected, weights])[weights > 0]
    assert {tuple(row) for row in table} == {tuple(row) for row in expected}
    is_used = group >= 0
    assert_array_equal(is_used, weights[where.ravel()] > 0)
    assert_array_equal(table[group[is_used], :3], given[is_used])


def test_merging_does_not_depend_on_order_repetition_dtype_or_storage():
    rows = rows_with_copies()
    table, _ = merged(rows)
    shuffled = np.random.RandomState(1).permutation(200)
    repeated = np.repeat(shuffled, rows.weight[shuffled].astype(int))
    ones = Rows(rows.X[repeated], rows.y[repeated], np.ones(len(repeated)))
    narrow = Rows(rows.X.astype(np.float32), rows.y, rows.weight)
    stored = Rows(csr_array(rows.X), rows.y, rows.weight)
    for other in (taken(rows, shuffled), ones, narrow, stored):
        other_table, _ = merged(other)
        assert_array_equal(other_table, table)


def test_equal_rows_are_merged_within_groups():
    rng = np.random.RandomState(2)
    rows = rows_with_copies()._replace(groups=rng.randint(5, size=200).astype("u8"))
    unique = merge_rows(rows)
    given = np.column_stack([rows.X, rows.y.points, rows.groups])
    expected, where = np.unique(given, axis=0, return_inverse=True)
    weights = np.bincount(where.ravel(), weights=rows.weight)
    found = np.column_stack([given[unique.positions], unique.weight])
    expected = np.column_stack([expected, weights])[weights > 0]
    assert sorted(map(tuple, found)) == sorted(map(tuple, expected))
    assert_array_equal(unique.y.points, found[:, 2:3])
    assert_array_equal(unique.codes, found[:, 3])
    is_used = unique.group >= 0
    assert_array_equal(is_used, weights[where.ravel()] > 0)
    assert_array_equal(found[unique.group[is_used], :4], given[is_used])
    # Neither codes, the size of weights nor the unit of y change the order.
    codes = rng.permutation(5).astype("u8")[rows.groups]
    for other in (
        rows._replace(groups=codes),
        rows._replace(weight=3 * rows.weight),
        rows._replace(y=exact_targets(5 - 2 * rows.y.points)),
    ):
        assert_array_equal(merge_rows(other).group, unique.group)
    # Without groups, the same rows have the same order.
    plain = merge_rows(rows._replace(groups=None))
    assert (np.diff(plain.group[unique.positions]) >= 0).all()


def test_rows_with_equal_hashes_are_compared(monkeypatch):
    monkeypatch.setattr(
        rows_module, "hash_rows", lambda X, index: np.zeros(len(X), np.uint64)
    )
    X = np.array([[1.0], [2.0]])
    assert len(merge_rows(exact_rows(X, np.zeros((2, 1)), np.ones(2))).weight) == 2


def test_signed_zeros_are_equal():
    X = np.array([[0.0], [-0.0]])
    distinct = merge_rows(exact_rows(X, np.zeros((2, 1)), np.ones(2)))
    assert_array_equal(distinct.weight, [2.0])


def distinct_rows(n):
    X = np.arange(float(n))[:, None]
    return UniqueRows(X, exact_targets(X), np.ones(n), np.arange(n), np.arange(n))


@pytest.mark.parametrize(
    ("n_members", "n_folds"), [(1, 1), (3, 1), (4, 4), (8, 8), (11, 8), (16, 8)]
)
def test_each_network_holds_out_a_fold(n_members, n_folds):
    generator = torch.Generator().manual_seed(0)
    train, held_out = hold_out(distinct_rows(30), n_members, 0.1, generator)
    assert count_folds(n_members) == len(held_out.rows) == n_folds
    assert len(train.rows) == n_folds
    folds = folds_of(n_members, n_folds).tolist()
    assert set(folds) == set(range(n_folds))
    for fold in folds:
        mine = set(train.rows[fold][train.counts[fold]].tolist())
        out = set(held_out.rows[fold][held_out.counts[fold]].tolist())
        assert mine.isdisjoint(out)
        assert len(mine) + len(out) == 30
    # Folds hold every row once; a single one, the fraction asked for.
    held = sorted(held_out.rows[held_out.counts].tolist())
    assert held == list(range(30)) if n_folds > 1 else len(held) == 3


@pytest.mark.parametrize(("n_rows", "n_folds"), [(30, 8), (30, 4), (9, 8), (5, 5)])
def test_a_second_fold_can_be_held_out(n_rows, n_folds):
    generator = torch.Generator().manual_seed(0)
    _, held_out = hold_out(distinct_rows(n_rows), n_folds, 0.1, generator)
    trains = without_next(held_out)
    assert len(trains.rows) == n_folds
    out = [set(r[c].tolist()) for r, c in zip(*held_out, strict=True)]
    for fold, (rows, counts) in enumerate(zip(*trains, strict=True)):
        mine = rows[counts].tolist()
        assert len(set(mine)) == len(mine)
        both = out[fold] | out[(fold + 1) % n_folds]
        assert set(mine) == set(range(n_rows)) - both


@pytest.mark.parametrize(("n_rows", "n_members"), [(1, 1), (3, 4)])
def test_too_few_rows_cannot_be_held_out(n_rows, n_members):
    with pytest.raises(ValueError, match=f"{n_rows} distinct rows are too few"):
        hold_out(distinct_rows(n_rows), n_members, 0.1, torch.Generator())


def test_every_row_counts():
    rows, counts = every_row(5, 2)
    assert rows.tolist() == [[0, 1, 2, 3, 4]] * 2
    assert counts.all()


def scaling_of(X, weight):
    return Scaling.fit("X", X, weight, np.arange(len(X)))


@pytest.mark.parametrize("store", [np.asarray, csr_array])
def test_scaling_is_that_of_standard_scaler(store, monkeypatch):
    monkeypatch.setattr(rows_module, "row_chunks", lambda n, _: gen_batches(n, 7))
    rng = np.random.RandomState(0)
    X = rng.normal(5, 3, size=(50, 3))
    index, weight = rng.permutation(50)[:40], rng.uniform(size=40)
    scaler = StandardScaler().fit(X[index], sample_weight=weight)
    scaling = Scaling.fit("X", store(X), weight, index)
    assert_allclose(scaling.mean, scaler.mean_)
    assert_allclose(scaling.scale, scaler.scale_)
    expected = scaler.transform(X[index])
    assert_allclose(scaling.transform(X[index]), expected, atol=1e-12)
    features = FeatureTransform(FeatureEncoder({}, scaling.mean), scaling, {})
    lazy = LazyMatrix(store(X), index, features, torch.float64)
    assert lazy.shape == expected.shape
    lists = torch.tensor([[3, 1, 1], [39, 0, 2]])
    assert_allclose(take_rows(lazy, lists), expected[lists.numpy()], atol=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.1, 7.0, 1e12])
def test_constant_columns_become_zero(value):
    X = np.full((5000, 1), value)
    scaling = scaling_of(X, np.random.RandomState(0).uniform(size=5000))
    assert_allclose(scaling.scale, 1)
    assert_allclose(scaling.transform(X), 0, atol=1e-3)


@pytest.mark.parametrize("scale", [1e-140, 1e-30, 1e30, 1e140])
def test_scaling_survives_extreme_units(scale):
    X = scale * np.random.RandomState(0).normal(size=(50, 1))
    scaled = scaling_of(X, np.ones(50)).transform(X)
    assert_allclose(scaled.std(correction=0), 1, rtol=1e-9)


@pytest.mark.parametrize("scale", [1e-200, 1e200, 1.7e308])
def test_a_spread_that_cannot_be_squared_is_refused(scale):
    X = np.column_stack([np.arange(4.0), [-scale, scale, 0.0, 0.0]])
    with pytest.raises(
        ValueError, match=r"X must spread .* got .*e[+-]\d+\. Change|inf"
    ):
        scaling_of(X, np.ones(4))


def test_orientation_is_the_sign_of_the_skewness():
    rng = np.random.RandomState(0)
    weight = rng.uniform(size=200)
    skewed = rng.exponential(size=200)
    symmetric = np.tile([-1.0, 1.0], 100)
    y = np.column_stack([skewed, -1e-9 * skewed + 5, symmetric, np.full(200, 0.1)])
    even = np.ones(200)
    assert_array_equal(orientation(y, weight)[:2], [1, -1])
    # Rounding is no skewness, in whatever order it is added up.
    for order in (np.arange(200), rng.permutation(200)):
        assert_array_equal(orientation(y[order], even), [1, -1, 1, 1])
    assert_array_equal(orientation(-y, even), [-1, 1, 1, 1])
    doubled = np.repeat(y, 2, axis=0), np.repeat(weight / 2, 2)
    assert_array_equal(orientation(*doubled), orientation(y, weight))


def test_ties_in_X_are_ordered_alike_for_mirrored_targets():
    rows = rows_with_copies()
    y = np.exp(rows.y.points + np.arange(200)[:, None] % 7)
    skewed = rows._replace(y=exact_targets(y))
    mirrored = skewed._replace(y=exact_targets(5 - 2 * skewed.y.points))
    plain, turned = merge_rows(skewed), merge_rows(mirrored)
    assert_array_equal(plain.positions, turned.positions)
    assert_array_equal(plain.weight, turned.weight)


def test_rows_of_tiny_weight_stay_in_the_range_of_float32():
    column, weight = np.array([[1.0], [0.0], [0.0]]), np.array([1e-300, 1.0, 1.0])
    scaling = Scaling.fit("y", column, weight, np.arange(3))
    assert_allclose(scaling.transform(column)[:, 0], [1e15, 0, 0])
