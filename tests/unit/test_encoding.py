"""Encoding of categories and missing values, against scikit-learn's encoders."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from helpers import exact_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder

from skmdn._data.encoding import (
    UNKNOWN,
    FeatureEncoder,
    categorical_columns,
    with_codes,
)
from skmdn._data.feature_transform import FEWEST_ROWS, FeatureTransform
from skmdn._data.rows import merge_rows

RNG = np.random.default_rng(0)
N = 200
NUMBERS = RNG.normal(size=(N, 2))
NUMBERS[::9, 1] = np.nan
COLOURS = RNG.choice(["red", "green", "blue", "grey"], N, p=[0.5, 0.3, 0.17, 0.03])
SIZES = RNG.integers(0, 5, N)
TABLE = pd.DataFrame(
    {
        "a": NUMBERS[:, 0],
        "colour": pd.Categorical(COLOURS),
        "b": NUMBERS[:, 1],
        "size": pd.Categorical(SIZES),
    }
)
EVERY_WEIGHT = np.ones(N)


def encoded(table, columns=(1, 3), weight=EVERY_WEIGHT, **options):
    """Return the encoder of a table, and the table encoded by it."""
    codes, levels = with_codes(table, columns)
    codes = np.asarray(codes, dtype=float)
    encoder = FeatureEncoder.fit(codes, levels, weight, **options)
    return encoder, encoder.encode(codes, levels)


def in_polars(table):
    """Convert a table to polars without pyarrow."""
    return pl.DataFrame({name: column.tolist() for name, column in table.items()})


def transform_of(table, weight=EVERY_WEIGHT):
    """Return the transform of a table, and the table as networks see it."""
    encoder, rows = encoded(table, weight=weight)
    unique = merge_rows(exact_rows(rows, np.zeros((len(rows), 1)), weight))
    features = FeatureTransform.fit(encoder, unique)
    return features, features.transform(rows).numpy()


def missing_colours(share):
    """Return the table with a share of the colours missing."""
    lost = pd.Series(COLOURS, dtype=object).where(RNG.random(N) > share, None)
    return TABLE.assign(colour=lost.astype("category"))


# -- codes -----------------------------------------------------------------------------


def test_codes_are_positions_among_sorted_levels():
    table = missing_colours(0.2)
    encoder, rows = encoded(table)
    assert encoder.levels == {1: sorted(set(COLOURS)), 3: [0, 1, 2, 3, 4]}
    assert encoder.with_missing == [2]
    expected = [4 if pd.isna(c) else encoder.levels[1].index(c) for c in table.colour]
    assert_array_equal(rows[:, 1], expected)
    assert_array_equal(rows[:, 3], SIZES)
    imputer = SimpleImputer(strategy="median", add_indicator=True)
    assert_array_equal(rows[:, [0, 2, 4]], imputer.fit_transform(NUMBERS))


FORMS = {
    "pandas": lambda: TABLE,
    "polars": lambda: in_polars(TABLE),
    "text": lambda: TABLE.assign(colour=COLOURS),
    "an array of objects": lambda: TABLE.astype(object).to_numpy(),
    "unused categories": lambda: TABLE.assign(
        colour=TABLE.colour.cat.add_categories(["amber", "zinc"])
    ),
    "another order": lambda: TABLE.assign(
        colour=TABLE.colour.cat.reorder_categories(["red", "grey", "blue", "green"])
    ),
    "floats as levels": lambda: TABLE.assign(size=SIZES.astype(float)),
    "objects as levels": lambda: TABLE.assign(size=SIZES.astype(object)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_table_has_the_same_codes(form):
    encoder, rows = encoded(FORMS[form]())
    expected_encoder, expected = encoded(TABLE)
    assert encoder.levels == expected_encoder.levels
    assert_array_equal(rows, expected)


def test_levels_that_the_fit_had_not_are_unknown():
    encoder, _ = encoded(TABLE)
    new = TABLE.assign(colour="violet", size=7)
    codes, levels = with_codes(new, [1, 3])
    rows = encoder.encode(np.asarray(codes, dtype=float), levels)
    assert (rows[:, [1, 3]] == UNKNOWN).all()


def test_levels_of_rows_without_weight_do_not_count():
    weight = np.where(COLOURS == "grey", 0.0, 1.0)
    encoder, rows = encoded(TABLE, weight=weight)
    kept = COLOURS != "grey"
    expected_encoder, expected = encoded(TABLE[kept], weight=weight[kept])
    assert encoder.levels == expected_encoder.levels
    assert_array_equal(encoder.median, expected_encoder.median)
    assert_array_equal(rows[kept], expected)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.one_of(
            st.none(),
            st.text(max_size=3),
            st.integers(-5, 5),
            st.sampled_from([0.5, np.nan, True, pd.NA, pd.Timestamp("2020-01-01")]),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_cells_of_any_type_are_the_same_level_where_they_are_equal(cells):
    column = np.empty((len(cells), 1), dtype=object)
    column[:, 0] = cells
    encoder, rows = encoded(column, [0], np.ones(len(cells)))
    for code, cell in zip(rows[:, 0].astype(int), cells, strict=True):
        if pd.isna(cell):
            assert code == len(encoder.levels[0])
        else:
            level = encoder.levels[0][code]
            assert level == (cell if isinstance(cell, int | float | str) else str(cell))
    again = FeatureEncoder.from_state(encoder.to_state())
    assert_array_equal(again.encode(*_codes_of(column)), rows)


def _codes_of(column):
    codes, levels = with_codes(column, [0])
    return np.asarray(codes, dtype=float), levels


def test_columns_of_unknown_content_are_found():
    encoder, _ = encoded(TABLE)
    new = TABLE.assign(colour="violet", a=np.nan)
    codes, levels = with_codes(new, [1, 3])
    found = encoder.strangers(np.asarray(codes, dtype=float), levels)
    assert list(found.values()) == [[0], [1]]
    codes, levels = with_codes(TABLE.iloc[:20], [1, 3])
    assert encoder.strangers(np.asarray(codes, dtype=float), levels) == {}


# -- what networks see -----------------------------------------------------------------


def test_indicators_are_those_of_a_one_hot_encoder():
    table = missing_colours(0.2)
    features, seen = transform_of(table)
    texts = table.colour.astype(object).fillna("missing").to_numpy()[:, None]
    for levels, part in ((texts, seen[:, :4]), (SIZES[:, None], seen[:, 4:9])):
        expected = OneHotEncoder(sparse_output=False).fit_transform(levels)
        # Not the columns of few rows.
        expected = expected[:, expected.sum(axis=0) >= FEWEST_ROWS]
        assert part.shape == expected.shape
        # The same columns in any order.
        assert_array_equal(part[:, np.lexsort(part)], expected[:, np.lexsort(expected)])
    assert_array_equal(seen[:, 9], np.isnan(NUMBERS[:, 1]))
    assert features.n_indicators == 10
    assert features.width == seen.shape[1] == 12
    assert_allclose(seen[:, 10:].mean(axis=0), 0, atol=1e-9)


def test_levels_of_few_rows_share_an_indicator_with_unknown_ones():
    few = np.array([f"rare{i % 4}" for i in range(24)] + ["often"] * (N - 24))
    features, seen = transform_of(TABLE.assign(colour=few))
    assert features.places[1].tolist() == [1, 0, 1, 1, 1, 1, 1]
    assert_array_equal(seen[:, 1], np.arange(N) < 24)


def test_indicators_of_many_levels_are_smaller():
    many = np.array([f"level{i % 16:02}" for i in range(N)])
    table = TABLE.assign(colour=many)
    _, seen = transform_of(table)
    expected = OneHotEncoder(sparse_output=False).fit_transform(many[:, None])
    assert_allclose(seen[:, :16], 0.75 * expected)


def test_repeated_rows_are_not_more_rows_of_a_level():
    rare = np.where(np.arange(N) < FEWEST_ROWS - 1, "rare", "often")
    table = TABLE.assign(colour=rare)
    features, _ = transform_of(table)
    twice, _ = transform_of(pd.concat([table, table]), np.ones(2 * N))
    for one, other in zip(features.places.values(), twice.places.values(), strict=True):
        assert_array_equal(one, other)


def test_the_range_of_new_rows_leaves_indicators_free():
    features, _ = transform_of(TABLE)
    _, rows = encoded(TABLE)
    low, high = features.range_of(rows, np.arange(N), N)
    assert len(low) == features.width
    n = features.n_indicators
    is_free = torch.isinf(low) & torch.isinf(high)
    assert is_free.tolist() == [True] * n + [False] * (features.width - n)


def test_a_table_of_known_numbers_is_left_as_it_is():
    X = np.ascontiguousarray(NUMBERS[:, :1])
    encoder, rows = encoded(X, [])
    assert rows is X
    assert encoder.is_identity


# -- categorical_features --------------------------------------------------------------


@pytest.mark.parametrize(
    "asked",
    [
        "from_dtype",
        ["colour", "size"],
        [3, 1],
        np.array([False, True, False, True]),
        pd.Index(["size", "colour"]),
    ],
    ids=str,
)
def test_columns_are_found_by_dtype_name_position_and_mask(asked):
    assert categorical_columns(asked, TABLE) == [1, 3]
    frame = in_polars(TABLE).with_columns(
        pl.col("colour").cast(pl.Categorical),
        pl.col("size").cast(str).cast(pl.Categorical),
    )
    assert categorical_columns(asked, frame) == [1, 3]


def test_nothing_is_categorical_where_nothing_says_so():
    assert categorical_columns("from_dtype", NUMBERS) == []
    assert categorical_columns(None, TABLE) == []
    assert categorical_columns([], TABLE) == []


@pytest.mark.parametrize(
    ("asked", "table", "message"),
    [
        (["colour"], NUMBERS, "X has no column names"),
        (["hue"], TABLE, r"got names \['hue'\], and the columns of X are \['a'"),
        ([4], TABLE, r"the 4 columns of X, got positions \[4\]"),
        ([-1], NUMBERS, r"got positions \[-1\]"),
        ([True], NUMBERS, r"got a mask of shape \(1,\)"),
    ],
)
def test_columns_that_do_not_exist_are_refused(asked, table, message):
    with pytest.raises(ValueError, match=message):
        categorical_columns(asked, table)
