"""Hostile data give a finite, proper density or an error with a remedy."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from helpers import load_benchmark
from numpy.testing import assert_array_equal
from sklearn.exceptions import ConvergenceWarning

from skmdn import MDNRegressor

hostile = load_benchmark("_hostile")

N = 60
ROWS = hostile.hostile_rows(N, seed=0)
X, Y = (part.astype(np.float64) for part in ROWS["single precision"])
CASES = ROWS | {
    "object arrays": (X.astype(object), Y.astype(object)),
    "Fortran order": (np.asfortranarray(X), Y),
    "strided views": (np.repeat(X, 2, axis=1)[:, ::2], np.repeat(Y, 2)[::2]),
    "lists": (X.tolist(), Y.tolist()),
}
WEIGHTS = hostile.hostile_weights(N, seed=0)
RNG = np.random.RandomState(0)


def fit(X, y, sample_weight=None, **options):
    options = {"n_components": 3, "n_estimators": 4, "max_iter": 20} | options
    mdn = MDNRegressor(
        hidden_layer_sizes=(16,), random_state=0, device="cpu", **options
    )
    return mdn.fit(X, y, sample_weight)


def check_proper(mdn, X, y):
    """Check that everything is finite and the first density integrates to one."""
    assert hostile.what_is_wrong(mdn, X, y) is None


FRAME = pd.DataFrame(X, columns=["a", "b", "c"])
POLARS = pl.DataFrame(X, schema=["a", "b", "c"])
FLAG = RNG.randint(2, size=N)
TEXT = np.where(FLAG, "north", "south")
DAYS = pd.date_range("2020-01-01", periods=N)
MISSING = np.where(np.arange(N) == 7, np.nan, Y)

# What is accepted is read as the plain numbers would be.
FRAMES = {
    "nullable floats": (FRAME.convert_dtypes(), pd.Series(Y).convert_dtypes()),
    "nullable integers": (FRAME.assign(a=pd.array(FLAG, dtype="Int64")), Y),
    "nullable booleans": (FRAME.assign(a=pd.array(FLAG > 0, dtype="boolean")), Y),
    "columns of objects": (FRAME.astype(object), pd.Series(Y, dtype=object)),
    "sparse columns": (FRAME.astype(pd.SparseDtype("float", 0.0)), Y),
    "columns without names": (pd.DataFrame(X), pd.DataFrame({0: Y})),
    "an index of its own": (FRAME.set_index(DAYS), pd.Series(Y, index=DAYS[::-1])),
    "a polars frame": (POLARS, pl.Series(Y)),
    "polars of integers": (
        POLARS.with_columns(a=pl.Series(FLAG)),
        pl.DataFrame({"y": Y}),
    ),
}
UNUSABLE = {
    "text": (
        FRAME.assign(b=TEXT),
        Y,
        "text '(north|south)' in column 'b'.*astype\\('category'\\)",
    ),
    "an array of text": (
        TEXT[:, None],
        Y,
        "X must hold numbers, got text '(north|south)' in column 0",
    ),
    "dates": (FRAME.assign(c=DAYS), Y, "dates or times in column 'c'.*a unit"),
    "polars dates": (POLARS.with_columns(c=pl.Series(DAYS)), Y, "times in column 'c'"),
    "an array of dates": (
        DAYS.to_numpy()[:, None],
        Y,
        "X must .* dates or times in column 0\\.",
    ),
    "masked X": (np.ma.masked_greater(X, 1), Y, "X is a masked array.*Fill them"),
    "a decimal comma": (
        FRAME.assign(b="3150,00"),
        Y,
        "'3150,00' in column 'b'. Read .*decimal=\",\"\\)",
    ),
    "text of dates": (
        FRAME.assign(b="15.01.2025"),
        Y,
        "'15.01.2025' in column 'b'. Convert dates with pd.to_datetime",
    ),
    "one row with text": (
        FRAME.astype(object).assign(b=TEXT).iloc[0],
        Y[:1],
        r"X is a Series.* Pass one row of a data frame as df.iloc\[\[0\]\]",
    ),
    "an array of one row with text": (
        np.array([1.0, "a"], dtype=object),
        Y[:1],
        r"X must have rows and columns, got shape \(2,\)",
    ),
    "missing targets": (
        FRAME,
        pd.Series(MISSING),
        r"y contains NaN \(first in row 7\). Drop the rows without a target.$",
    ),
    "missing nullable targets": (
        FRAME,
        pd.DataFrame({"p": pd.array(MISSING, dtype="Float64")}),
        "y contains NaN",
    ),
    "missing targets as objects": (
        X,
        np.where(np.arange(N) == 7, None, Y),
        "y contains NaN",
    ),
    "polars targets with nulls": (
        POLARS,
        pl.Series(MISSING).fill_nan(None),
        "y contains NaN",
    ),
    "text as targets": (X, TEXT, "y must hold numbers.*classifier"),
    "targets with a decimal comma": (
        FRAME,
        pd.Series(["3150,00"] * N),
        "y must hold numbers, got text '3150,00'. Read .*decimal",
    ),
    "dates as targets": (FRAME, pd.Series(DAYS), "y must hold numbers.*a unit"),
    "times as targets": (FRAME, pd.Series(DAYS - DAYS[0]), "dates or times.*a unit"),
    "masked targets": (X, np.ma.masked_greater(Y, 1), "y is a masked array"),
}


@pytest.mark.parametrize("case", FRAMES)
def test_frames_give_the_bits_of_plain_arrays(case):
    rows, targets = FRAMES[case]
    mdn = fit(rows, targets)
    plain = np.asarray(rows).astype(float), np.asarray(targets).astype(float)
    assert_array_equal(mdn.predict(rows), fit(*plain).predict(plain[0]))


def test_tables_without_column_names_are_read():
    class Table:
        columns = (X[:, 0], X[:, 1])

        def __array__(self, dtype=None, copy=None):
            return np.array(X, dtype=dtype)

    assert_array_equal(fit(Table(), Y).predict(X), fit(X, Y).predict(X))


@pytest.mark.parametrize("case", UNUSABLE)
def test_unusable_frames_and_arrays_name_the_cause_and_the_remedy(case):
    rows, targets, message = UNUSABLE[case]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        fit(rows, targets)
    if isinstance(rows, type(FRAME)) and rows is not FRAME:
        with pytest.raises(ValueError, match=f"(?s){message}"):
            fit(FRAME, Y).predict(rows)


def test_masked_and_missing_weights_are_refused():
    with pytest.raises(ValueError, match="sample_weight is a masked array"):
        fit(X, Y, np.ma.masked_greater(np.abs(Y), 1))
    with pytest.raises(ValueError, match="sample_weight contains NaN"):
        fit(X, Y, pd.Series(pd.array(np.abs(MISSING), dtype="Float64")))


@pytest.mark.filterwarnings("ignore:. has values far outside the others")
# A column of few values says so; nothing else may.
@pytest.mark.filterwarnings("ignore:y has only .* distinct values:UserWarning")
@pytest.mark.parametrize("case", CASES)
def test_hostile_rows(case):
    X, y = CASES[case]
    check_proper(fit(X, y), X, y)


# Weights that leave few rows are noted.
@pytest.mark.filterwarnings("ignore:The weights of .* are so unequal:UserWarning")
@pytest.mark.parametrize("case", WEIGHTS)
def test_hostile_weights(case):
    check_proper(fit(X, Y, WEIGHTS[case]), X, Y)


@pytest.mark.parametrize("n", [2, 3])
def test_a_handful_of_rows_warns_and_fits(n):
    with pytest.warns(UserWarning, match=f"{n} distinct rows are too few"):
        mdn = fit(X[:n], Y[:n])
    assert np.isfinite(mdn.score_samples(X, Y)).all()


def test_read_only_rows():
    X_fixed, Y_fixed, weight = X.copy(), Y.copy(), np.ones(N)
    for array in (X_fixed, Y_fixed, weight):
        array.flags.writeable = False
    check_proper(fit(X_fixed, Y_fixed, weight), X_fixed, Y_fixed)
    quick = MDNRegressor(2, n_estimators=1, max_iter=2, random_state=0, device="cpu")
    rows = {"X_val": X_fixed, "y_val": Y_fixed, "sample_weight_val": weight}
    assert quick.fit(X_fixed, Y_fixed, weight, **rows).n_iter_ == 2


@pytest.mark.parametrize("covariance_type", ["full", "low_rank", "tied"])
@pytest.mark.parametrize("second", [np.ones(N), Y], ids=["constant", "the same"])
def test_hostile_second_outputs(covariance_type, second):
    y = np.column_stack([Y, second])
    mdn = fit(X, y, covariance_type=covariance_type)
    assert np.isfinite(mdn.score_samples(X, y)).all()
    assert np.isfinite(mdn.predict(X, return_cov=True)[1]).all()


def test_a_huge_learning_rate_warns_and_leaves_a_finite_model():
    with pytest.warns(ConvergenceWarning, match="Training diverged"):
        mdn = fit(X, Y, learning_rate_init=1e6, max_grad_norm=None)
    check_proper(mdn, X, Y)


def test_without_a_floor_spikes_stay_finite():
    y = np.round(Y)
    mdn = fit(X, y, reg_covar=0.0, max_iter=200)
    assert np.isfinite(mdn.score_samples(X, y)).all()


@pytest.mark.parametrize("scale", [1e-200, 1e200])
@pytest.mark.parametrize("name", ["X", "y"])
def test_units_that_overflow_are_refused(name, scale):
    rows = {"X": X, "y": Y}
    rows[name] = rows[name] * scale
    with pytest.raises(ValueError, match=f"{name} must spread over .* Change its unit"):
        fit(**rows)


@pytest.mark.parametrize("factor", [10, 1e3, 1e9])
def test_far_outside_predictions_are_finite_and_no_more_certain(factor):
    mdn = fit(X, Y)
    inside = mdn.predict(X, return_std=True)[1].mean()
    mean, std = mdn.predict(factor * X, return_std=True)
    assert np.isfinite(mean).all()
    assert np.abs(mean).max() < 10 * np.abs(Y).max()
    assert std.mean() > inside
