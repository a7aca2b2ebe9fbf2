"""Merging, scaling and holding out rows."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.preprocessing import StandardScaler

from skmdn._rows import (
    Scaling,
    WeightedRows,
    count_folds,
    every_row,
    hold_out,
    merge_rows,
)


def rows_with_copies():
    rng = np.random.RandomState(0)
    X = rng.randint(3, size=(200, 2)).astype(float)
    y = rng.randint(2, size=(200, 1)).astype(float)
    return WeightedRows(X, y, rng.randint(4, size=200).astype(float))


def as_set(rows):
    table = np.column_stack([rows.X, rows.y, rows.weight])
    return {tuple(row) for row in table}


def test_merged_rows_are_distinct_and_add_their_weights():
    rows = rows_with_copies()
    distinct, inverse = merge_rows(rows)
    table = np.column_stack([rows.X, rows.y])
    expected, where = np.unique(table, axis=0, return_inverse=True)
    weights = np.bincount(where.ravel(), weights=rows.weight)
    assert as_set(distinct) == as_set(
        WeightedRows(expected[:, :2], expected[:, 2:], weights)
    )
    assert_array_equal(distinct.X[inverse], rows.X)
    assert_array_equal(distinct.y[inverse], rows.y)


def test_merging_does_not_depend_on_order_repetition_or_dtype():
    rows = rows_with_copies()
    distinct, _ = merge_rows(rows)
    shuffled = np.random.RandomState(1).permutation(200)
    repeated = np.repeat(shuffled, rows.weight[shuffled].astype(int))
    ones = WeightedRows(rows.X[repeated], rows.y[repeated], np.ones(len(repeated)))
    narrow = WeightedRows(rows.X.astype(np.float32), rows.y, rows.weight)
    kept = distinct.where(distinct.weight > 0)
    for other in (rows.where(shuffled), ones, narrow):
        merged, _ = merge_rows(other)
        merged = merged.where(merged.weight > 0)
        for ours, theirs in zip(kept, merged, strict=True):
            assert_array_equal(ours, theirs)


def test_both_zeros_are_one_number():
    X = np.array([[0.0], [-0.0]])
    distinct, _ = merge_rows(WeightedRows(X, np.zeros((2, 1)), np.ones(2)))
    assert_array_equal(distinct.weight, [2.0])


@pytest.mark.parametrize(
    ("n_networks", "n_folds"), [(1, 1), (3, 1), (4, 4), (8, 8), (11, 8), (16, 8)]
)
def test_network_m_holds_out_fold_m_modulo_n_folds(n_networks, n_folds):
    train, held_out = hold_out(30, n_networks, 0.1, torch.Generator().manual_seed(0))
    assert count_folds(n_networks) == len(held_out.rows) == n_folds
    assert len(train.rows) == n_networks
    for network in range(n_networks):
        fold = network % n_folds
        mine = set(train.rows[network][train.counts[network]].tolist())
        out = set(held_out.rows[fold][held_out.counts[fold]].tolist())
        assert mine.isdisjoint(out)
        assert len(mine) + len(out) == 30
    # Folds hold every row once; a single one, the fraction asked for.
    held = sorted(held_out.rows[held_out.counts].tolist())
    assert held == list(range(30)) if n_folds > 1 else len(held) == 3


@pytest.mark.parametrize(("n_rows", "n_networks"), [(1, 1), (3, 4)])
def test_too_few_rows_cannot_be_held_out(n_rows, n_networks):
    with pytest.raises(ValueError, match=f"{n_rows} distinct rows are too few"):
        hold_out(n_rows, n_networks, 0.1, torch.Generator())


def test_every_row_counts():
    rows, counts = every_row(5, 2)
    assert rows.tolist() == [[0, 1, 2, 3, 4]] * 2
    assert counts.all()


def test_scaling_is_that_of_standard_scaler():
    rng = np.random.RandomState(0)
    X = rng.normal(5, 3, size=(50, 3))
    weight = rng.uniform(size=50)
    scaler = StandardScaler().fit(X, sample_weight=weight)
    scaling = Scaling.of(X, weight)
    assert_allclose(scaling.mean, scaler.mean_)
    assert_allclose(scaling.scale, scaler.scale_)
    assert_allclose(scaling.apply(X), scaler.transform(X), atol=1e-12)


@pytest.mark.parametrize("value", [0.0, 7.0, 1e12])
def test_constant_columns_become_zero(value):
    scaling = Scaling.of(np.full((5, 1), value), np.array([0.1, 0.2, 0.3, 1.0, 2.0]))
    assert_allclose(scaling.scale, 1)
    assert_allclose(scaling.apply(np.full((5, 1), value)), 0, atol=1e-3)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scaling_survives_extreme_units(scale):
    X = np.random.RandomState(0).normal(size=(50, 1))
    scaled = Scaling.of(scale * X, np.ones(50)).apply(scale * X)
    assert_allclose(scaled.std(correction=0), 1, rtol=1e-9)
