"""Notices: few rows, unequal weights, and rows outside of the scale of a network."""

import warnings

import numpy as np
import pandas as pd
import pytest
from helpers import exact_rows, quick, scaling_of_targets
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose
from scipy.sparse import csr_array

from skmdn._data.notices import (
    effective_rows,
    is_outlier,
    notices_of_few_rows,
    notices_of_outliers,
    notices_of_scale,
)
from skmdn._data.rows import merge_rows
from skmdn._data.scaling import Scaling
from skmdn.distributed import ALONE


def normal(n=60, seed=0):
    """Return X (n, 3) and y (n,) of about the scale one."""
    rng = np.random.RandomState(seed)
    X = rng.normal(size=(n, 3))
    return X, X[:, 0] + 0.5 * rng.normal(size=n)


def messages(call, *args, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(*args, **options)
    return [str(warning.message) for warning in caught]


# -- few rows ----------------------------------------------------------------------


def few(weight, **options):
    weight = np.array(weight, dtype=float)
    found = notices_of_few_rows(weight, ALONE, **{"is_piece": False} | options)
    return [notice.message for notice in found]


def test_effective_rows_are_those_of_kish():
    assert effective_rows(np.full(7, 3.0), ALONE) == pytest.approx(7)
    # Equal weights for a share p of the rows, and none for the others, count as p n.
    assert effective_rows(np.repeat([1.0, 1e-9], [5, 95]), ALONE) == pytest.approx(5)
    weight = np.random.RandomState(0).exponential(size=1000)
    scaled = weight * np.float64(1e-140)
    assert_allclose(effective_rows(weight, ALONE), effective_rows(scaled, ALONE))
    expected = weight.sum() ** 2 / (weight**2).sum()
    assert_allclose(effective_rows(weight, ALONE), expected)


def test_few_rows_or_weights_are_noted():
    assert few(np.ones(25)) == few(np.linspace(1, 2, 30)) == []
    (message,) = few(np.ones(24))
    assert message.startswith("The number of distinct rows, 24, is small: with")
    (message,) = few([1e12, *np.ones(59)])
    assert "weights of the 60 distinct rows" in message
    assert "count as 1 of equal weight" in message
    # A piece of a long training may be short, but not as unequal as this.
    assert few(np.ones(8), is_piece=True) == []
    assert few([1e12, *np.ones(59)], is_piece=True) == [message]


def test_a_fit_warns_of_few_rows_and_of_an_enormous_weight():
    X, y = normal()
    assert messages(quick().fit, X, y) == []
    (message,) = messages(quick().fit, X[:8], y[:8])
    assert message.startswith("The number of distinct rows, 8, is small")
    weight = np.ones(60)
    weight[3] = 1e12
    (message,) = messages(quick().fit, X, y, weight)
    assert "count as 1 of equal weight" in message
    # A weight means repetition: copies of few rows are few rows.
    (message,) = messages(quick().fit, np.tile(X[:20], (5, 1)), np.tile(y[:20], 5))
    assert message.startswith("The number of distinct rows, 20, is small")


def test_only_the_first_piece_of_a_long_training_must_not_be_small():
    X, y = normal()
    mdn = quick()
    (message,) = messages(mdn.partial_fit, X[:10], y[:10])
    assert message.startswith("The number of distinct rows, 10, is small")
    assert messages(mdn.partial_fit, X[10:12], y[10:12]) == []


# -- rows far outside the others ---------------------------------------------------


def scaled(X, y, weight=None):
    weight = np.ones(len(y)) if weight is None else weight
    rows = merge_rows(exact_rows(X, y, weight))
    return rows, (Scaling.fit_features(rows), scaling_of_targets(rows))


@pytest.mark.parametrize("store", [np.asarray, csr_array])
def test_outliers_are_told_from_other_rows(store):
    X, y = normal(1000)
    y = y[:, None]
    X[:, 2] = np.random.RandomState(0).standard_cauchy(1000)  # no gap, no outlier
    X[5, 1], X[7, 0], y[11] = -999999, 1e9, -1e6
    rows, scalings = scaled(store(X), y)
    found = is_outlier(rows, scalings, ALONE)
    assert sorted(rows.positions[found]) == [5, 7, 11]
    # More of them are a kind of rows that networks can learn.
    X[20:30, 1] = -999999
    rows, scalings = scaled(store(X), y)
    assert not is_outlier(rows, scalings, ALONE).any()


def outliers(X, y, names=(None, None), weight=None):
    rows, scalings = scaled(X, y, weight)
    found = notices_of_outliers(rows, scalings, names, ALONE)
    return [notice.message for notice in found]


@pytest.mark.parametrize("store", [np.asarray, csr_array])
def test_values_far_outside_the_others_are_named(store):
    X, y = normal(1000)
    y = y[:, None]
    assert outliers(store(X), y) == []
    X[5, 1] = -999999
    (message,) = outliers(store(X), y, (("a", "b", "c"), None))
    low, high = np.delete(X[:, 1], 5).min(), np.delete(X[:, 1], 5).max()
    assert message.startswith(
        "X has values far outside the others in column 'b': -999999 in 1 row, while "
        f"all others lie between {low:.3g} and {high:.3g}. If this marks missing"
    )
    X[:30, 2] = -999
    (message,) = outliers(store(X), y)
    assert "in column 1 and 1 more: -999999" in message
    y[3] = 1e6
    two = np.column_stack([y, X[:, 0]])
    ours, theirs = outliers(store(X), two, (None, ("u", "v")))
    assert ours == message
    assert theirs.startswith("y has values far outside the others in column 'u': 1000")
    assert "of little weight" in theirs


def test_several_far_rows_are_counted():
    X, y = normal(200)
    X[:3, 1] = -999, -999, -998
    (message,) = outliers(X, y[:, None])
    assert "in column 1: -999 in the furthest of 3 distinct rows, while" in message
    # A quarter of the rows is another mode.
    X[:60, 1] = -999
    assert outliers(X, y[:, None]) == []


def test_a_fit_and_the_first_piece_warn_of_outliers():
    X, y = normal(200)
    frame = pd.DataFrame(X, columns=list("abc"))
    frame.loc[:2, "b"] = -999
    for call in (quick().fit, quick().partial_fit):
        (message,) = messages(call, frame, y)
        assert "in column 'b': -999 in the furthest of 3 distinct rows" in message


TAILS = {
    "t(2)": lambda rng, size: rng.standard_t(2, size=size),
    "lognormal": lambda rng, size: rng.lognormal(sigma=1, size=size),
    "lognormal, sigma 2": lambda rng, size: rng.lognormal(sigma=2, size=size),
    "exponential": lambda rng, size: rng.exponential(size=size),
    "counts": lambda rng, size: rng.poisson(0.02, size=size) ** 3.0,
    "mostly zero": lambda rng, size: rng.gamma(1, size=size) * (rng.rand(*size) < 0.1),
    "rare flags": lambda rng, size: (rng.rand(*size) < 0.003) * 1.0,
    "amounts": lambda rng, size: np.round(rng.pareto(1.5, size=size), 2),
}


@pytest.mark.parametrize("n", [30, 300, 20_000])
@pytest.mark.parametrize("name", TAILS)
def test_heavy_tails_are_no_outliers(name, n):
    columns = TAILS[name](np.random.RandomState(0), (n, 10))
    assert outliers(columns, columns) == []


# -- rows outside of a scale -------------------------------------------------------

X, Y = normal()
RARE = (np.arange(60) == 7) * 1.0

# First piece, and a second one, of which nothing is said.
ORDINARY = {
    "another sample": ((X, Y), normal(seed=1)),
    "one row": ((X, Y), (X[:1], Y[:1])),
    "equal rows": ((X, Y), (X[:1].repeat(30, 0), Y[:1].repeat(30))),
    "a narrow range": ((X, Y), (X / 30, Y / 30)),
    "seven times wider": ((X, Y), (7 * X, 7 * Y)),
    "an outlier in a small piece": ((X, Y), (X[:3] * [[30], [1], [1]], Y[:3])),
    "heavy tails": ((X, Y), (X, Y / (0.02 + np.random.RandomState(0).rand(60)))),
    "a constant first, then scale one": ((X, 0 * Y), (X, Y)),
    "a rare value that the first piece lacks": ((X, Y), (np.c_[X[:, :2], RARE], Y)),
    "constant features": ((np.c_[X, 0 * RARE], Y), (np.c_[X, RARE], Y)),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_pieces_are_silent(name):
    first, second = ORDINARY[name]
    mdn = quick().partial_fit(*first)
    assert messages(mdn.partial_fit, *second) == []


FRAME, SERIES = pd.DataFrame(X, columns=list("abc")), pd.Series(Y, name="u")
MOVE = np.array([0, 50, 0])
TWO = np.c_[Y, X[:, 1]]
# First piece, a second one, and what is said of it.
OUTSIDE = {
    "constant y, then narrow": ((X, 0 * Y + 3), (X, 3 + 0.01 * Y), "y .* scale 1 of"),
    "constant y, then wide": ((X, 0 * Y + 3), (X, 3 + 100 * Y), "y .* scale 1 of"),
    "y twelve times wider": ((X, Y), (X, 12 * Y), "^y does not fit"),
    "y shifted": ((X, Y), (X, Y + 20), "^y .* the mean 1[0-9]"),
    "y mirrored and shifted": ((X, -(Y**2)), (X, -(Y**2) + 30), "^y .* the mean [1-9]"),
    "second output": ((X, TWO), (X, TWO * [1, 1e4]), "^y .* of column 1, these"),
    "constant X": ((0 * X, Y), (1e4 * X, Y), "^X .* column . and 2 more, these"),
    "one column of X": ((X, Y), (X * [1, 1, 20], Y), "^X .* of column 2, these"),
    "sparse X": ((csr_array(X), Y), (csr_array(X * [1, 99, 1]), Y), "^X .* column 1,"),
    "named column": ((FRAME, SERIES), (FRAME + MOVE, SERIES), "^X .* column 'b'"),
    "named output": ((FRAME, SERIES), (FRAME, SERIES + 50), "^y .* column 'u'"),
    "overflow": ((X, Y), (X, 1e200 * Y), "standard deviation inf"),
    "y a thousand times narrower": ((X, 1e3 * Y), (X, Y), "^y .* deviation 0.00"),
    "X a thousand times narrower": ((1e3 * X, Y), (X, Y), "^X .* deviation 0.00"),
    "a tenth of y extreme": ((X, Y), (X, Y * np.repeat([1, 1e6], [54, 6])), "^y does"),
    "one row": ((X, Y), (X[:1], Y[:1] + 1e5), "^y does not fit"),
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", OUTSIDE)
def test_pieces_outside_of_the_scale_are_noted(name):
    first, second, expected = OUTSIDE[name]
    mdn = quick().partial_fit(*first)
    with pytest.warns(UserWarning, match=expected) as caught:
        mdn.partial_fit(*second)
    (message,) = [str(w.message) for w in caught if "diverged" not in str(w.message)]
    assert "Fit again, or begin partial_fit again" in message


def test_continued_fits_and_validation_rows_are_compared_too():
    mdn = quick(warm_start=True).fit(X, Y)
    with pytest.warns(UserWarning, match="^y does not fit .* Fit again"):
        mdn.fit(X, 1000 * Y)
    validation = {"X_val": X, "y_val": 1000 * Y}
    with pytest.warns(UserWarning, match=r"^y_val does not fit .* Check that.*fit\.$"):
        quick().fit(X, Y, **validation)
    validation = {"X_val": X + 99, "y_val": Y, "sample_weight_val": np.ones(60)}
    with pytest.warns(UserWarning, match=r"^X_val does not fit .* and 2 more, these"):
        quick().fit(X, Y, **validation)


def test_the_numbers_are_those_of_the_scaled_column():
    rows = merge_rows(exact_rows(X, TWO, np.ones(60)))
    scalings = Scaling.fit_features(rows), scaling_of_targets(rows)
    weight = np.random.RandomState(0).rand(60)
    other = merge_rows(exact_rows(X, TWO * 40 + 70, weight))
    (notice,) = notices_of_scale(other, scalings, (None, ("u", "v")), ALONE)
    z = (TWO * 40 + 70 - TWO.mean(0)) / TWO.std(0)
    mean = np.average(z, axis=0, weights=weight)
    std = np.average((z - mean) ** 2, axis=0, weights=weight) ** 0.5
    worst = np.argmax(np.abs(mean))
    expected = f"the mean {mean[worst]:.3g} and the standard deviation "
    expected += f"{std[worst]:.3g} there"
    assert expected in notice.message.replace("\n", " ")
    assert f"column {'uv'[worst]!r} and 1 more" in notice.message


def test_a_mark_that_the_first_piece_knew_is_no_surprise():
    first, second = (normal(n, seed=n)[0] for n in (400, 60))
    first[:48, 1], second[:12, 1] = -999999, -999999
    mdn = quick()
    assert "column 1: -999999" in messages(mdn.partial_fit, first, first[:, 0])[0]
    assert messages(mdn.partial_fit, second, second[:, 0]) == []


NUMBERS = st.floats(-1e6, 1e6) | st.sampled_from([0.0, 1.0, 1e30])


@given(arrays(float, st.tuples(st.integers(2, 40), st.just(2)), elements=NUMBERS))
def test_the_rows_that_determined_a_scale_are_never_outside(columns):
    rows = merge_rows(exact_rows(columns, columns, np.ones(len(columns))))
    try:
        scalings = Scaling.fit_features(rows), scaling_of_targets(rows)
    except ValueError:  # a spread without a square
        return
    assert notices_of_scale(rows, scalings, (None, None), ALONE) == []
