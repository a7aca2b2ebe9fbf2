"""Fits of tables with categories and missing values."""

import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
from helpers import quick
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score

from skmdn import MDNRegressor

RNG = np.random.default_rng(0)
N = 160
COLOURS = RNG.choice(["red", "green", "blue", "grey"], N, p=[0.4, 0.3, 0.27, 0.03])
SIZES = RNG.integers(0, 3, N)
NUMBERS = RNG.normal(size=(N, 2))
Y = NUMBERS[:, 0] + 3.0 * (COLOURS == "red") - SIZES + 0.1 * RNG.normal(size=N)
HOLES = np.where(RNG.random((N, 2)) < [0.2, 0.0], np.nan, NUMBERS)
PLAIN = pd.DataFrame(NUMBERS, columns=["a", "b"])
SEEN = np.where(RNG.random(N) < 0.1, None, COLOURS)
FRAME = pd.DataFrame(
    {
        "a": HOLES[:, 0],
        "colour": pd.Categorical(SEEN),
        "b": HOLES[:, 1],
        "size": pd.Categorical(SIZES),
    }
)
KINDS = {
    "categories": PLAIN.assign(colour=pd.Categorical(COLOURS)),
    "missing values": pd.DataFrame(HOLES, columns=["a", "b"]),
    "both": FRAME,
}


def fitted(X=FRAME, **options):
    return quick(**options).fit(X, Y)


# -- forms of a table --------------------------------------------------------------

OBJECTS = FRAME.astype(object).to_numpy()
FORMS = {
    "polars": (
        pl.DataFrame(
            {
                "a": HOLES[:, 0],
                "colour": pl.Series(SEEN.tolist(), dtype=pl.Categorical),
                "b": HOLES[:, 1],
                "size": pl.Series(SIZES.astype(str), dtype=pl.Categorical),
            }
        ),
        "from_dtype",
    ),
    "named columns of text": (
        FRAME.astype({"colour": object, "size": int}),
        ["colour", "size"],
    ),
    "objects": (OBJECTS, [1, 3]),
    "lists": (OBJECTS.tolist(), [False, True, False, True]),
    "a nullable column": (FRAME.astype({"a": "Float64"}), "from_dtype"),
    "None among numbers": (
        FRAME.assign(a=FRAME.a.astype(object).where(FRAME.a.notna(), None)),
        "from_dtype",
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_table_gives_the_same_fit(form):
    table, categorical_features = FORMS[form]
    mdn = fitted(table, categorical_features=categorical_features)
    expected = fitted().predict(FRAME)
    assert_array_equal(mdn.predict(table), expected)
    assert mdn.n_features_in_ == 4
    if isinstance(table, pd.DataFrame):  # scikit-learn reads names of polars by pyarrow
        assert list(mdn.feature_names_in_) == list(FRAME.columns)


def test_rows_are_read_by_the_levels_of_the_fit():
    mdn = fitted()
    expected = mdn.predict(FRAME)
    text = FRAME.astype({"colour": object, "size": float})
    assert_array_equal(mdn.predict(text), expected)
    one = FRAME.iloc[[0]].astype(object)
    assert_allclose(mdn.predict(one), expected[:1], rtol=1e-12)


# -- invariances -------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_the_rows_does_not_matter(kind):
    X, order = KINDS[kind], RNG.permutation(N)
    ours = quick().fit(X.iloc[order], Y[order])
    assert_array_equal(ours.predict(X), fitted(X).predict(X))


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_is_a_repetition(kind):
    X, weight = KINDS[kind], RNG.integers(0, 3, size=N)
    repeated = np.repeat(np.arange(N), weight)
    ours = quick().fit(X, Y, weight)
    theirs = quick().fit(X.iloc[repeated], Y[repeated])
    assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-4, atol=1e-6)


def test_rows_without_weight_do_not_count():
    new = FRAME.iloc[:30].assign(colour="violet", b=np.nan)
    more = pd.concat([FRAME.astype({"colour": object}), new])
    more = more.astype({"colour": "category", "size": "category"})
    weight = np.repeat([1.0, 0.0], [N, 30])
    ours = quick().fit(more, np.append(Y, np.zeros(30)), weight)
    assert_array_equal(ours.predict(FRAME), fitted().predict(FRAME))


def test_names_of_levels_do_not_matter():
    other = {"red": "1", "green": "2", "blue": "3", "grey": "4"}
    # The order is the same: it decides the folds.
    sorted_names = dict(zip(sorted(other), "1234", strict=True))
    renamed = FRAME.assign(colour=FRAME.colour.cat.rename_categories(sorted_names))
    assert_array_equal(fitted(renamed).predict(renamed), fitted().predict(FRAME))


# -- learning ----------------------------------------------------------------------


def test_categories_and_missing_values_are_learned():
    rng = np.random.default_rng(1)
    n = 600
    colour = rng.choice(["red", "green", "blue"], n)
    is_missing = rng.random(n) < 0.3
    X = pd.DataFrame(
        {
            "a": np.where(is_missing, np.nan, rng.normal(size=n)),
            "colour": pd.Categorical(colour),
        }
    )
    # What is missing says something, beyond the number that would stand there.
    y = np.where(is_missing, -2.0, X.a.fillna(0.0)) + 4.0 * (colour == "blue")
    y += 0.1 * rng.normal(size=n)
    mdn = MDNRegressor(n_estimators=4, max_iter=60, random_state=0, portfolio=None)
    mdn.fit(X[:400], y[:400])
    assert mdn.score(X[400:], y[400:]) > 0.0  # the best is 0.88
    assert np.abs(mdn.predict(X[400:]) - y[400:]).mean() < 0.25


def test_views_see_the_encoded_rows():
    mdn = fitted(portfolio=["trees_0.1", "kriging_0.1"], max_iter=8)
    assert np.isfinite(mdn.score(FRAME, Y))
    assert set(mdn._model.views) <= {"trees", "kriging"}


# -- what the fit has not seen -----------------------------------------------------


def test_what_is_new_in_a_column_is_warned_of():
    mdn = fitted(KINDS["categories"])
    new = KINDS["categories"].assign(b=np.nan)
    with pytest.warns(UserWarning, match="missing in column 'b' of X, but"):
        ours = mdn.predict(new)
    median = KINDS["categories"].assign(b=PLAIN.b.median())
    assert_array_equal(ours, mdn.predict(median))
    with pytest.warns(UserWarning, match="None of .* in column 'colour' of X occ"):
        mdn.predict(KINDS["categories"].assign(colour="violet"))
    with pytest.warns(UserWarning, match="in column 'colour' of X_val occurred"):
        quick().fit(
            *(KINDS["categories"], Y),
            X_val=KINDS["categories"].assign(colour="violet"),
            y_val=Y,
        )


def test_levels_of_few_rows_predict_as_unknown_ones_do():
    rare = np.where(np.arange(N) < 12, [f"rare{i % 4}" for i in range(N)], "often")
    X = PLAIN.assign(colour=pd.Categorical(rare))
    mdn = fitted(X)
    unknown = X[:12].assign(colour=["new", "rare0"] * 6)
    assert_array_equal(mdn.predict(unknown), mdn.predict(X[:12]))


def test_a_column_of_nothing_says_nothing():
    X = FRAME.assign(b=np.nan)
    mdn = fitted(X)
    assert_array_equal(mdn.predict(X), mdn.predict(FRAME.assign(b=np.nan)))


# -- further training, storage and searches ----------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_training_continues(kind):
    X = KINDS[kind]
    mdn = quick(warm_start=True).fit(X, Y)
    assert np.isfinite(mdn.fit(X, Y).oof_score_)
    pieces = quick(max_iter=1)
    for _ in range(3):
        pieces.partial_fit(X, Y)
    pieces.partial_fit(X[:50], Y[:50])  # no column is special
    assert np.isfinite(pieces.score(X, Y))


@pytest.mark.parametrize("kind", KINDS)
def test_models_are_stored(kind):
    X = KINDS[kind]
    mdn = fitted(X)
    restored = pickle.loads(pickle.dumps(mdn))
    assert_array_equal(restored.predict(X), mdn.predict(X))
    assert restored.feature_encoder_.levels == mdn.feature_encoder_.levels


def test_searches_and_cross_validation():
    scores = cross_val_score(quick(), FRAME, Y, cv=3, error_score="raise")
    assert np.isfinite(scores).all()
    grid = {"categorical_features": ["from_dtype", [1, 3], ["colour", "size"]]}
    search = GridSearchCV(quick(), grid, cv=2, error_score="raise").fit(FRAME, Y)
    results = search.cv_results_["mean_test_score"]
    assert_allclose(results, results[0], rtol=1e-9)
    assert clone(search.best_estimator_).categorical_features == "from_dtype"


# -- what is refused ---------------------------------------------------------------


def test_text_is_refused_with_a_remedy():
    X = FRAME.assign(town="Ulm")
    with pytest.raises(ValueError, match=r"text 'Ulm' in column 'town'.*astype\('cat"):
        quick().fit(X, Y)
    with pytest.raises(ValueError, match=r"text '.*' in column 'colour'"):
        quick(categorical_features=None).fit(FRAME, Y)
    with pytest.raises(ValueError, match="infinity in column 'a'"):
        quick().fit(FRAME.assign(a=np.inf), Y)


def test_columns_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match=r"categorical_features must be names"):
        quick(categorical_features=["hue"]).fit(FRAME, Y)
    with pytest.raises(ValueError, match="needs dense X, got a sparse matrix"):
        quick(categorical_features=[0]).fit(sparse.csr_array(NUMBERS), Y)
    with pytest.raises(ValueError, match="feature names should match"):
        fitted().predict(FRAME.rename(columns={"colour": "hue"}))
    with pytest.raises(ValueError, match="X has 3 features, but"):
        fitted(OBJECTS, categorical_features=[1, 3]).predict(OBJECTS[:, :3])


def test_pieces_with_rare_levels_and_few_missing_values_are_not_out_of_scale():
    pieces = quick(max_iter=1)
    n = 2000
    numbers = RNG.normal(size=(n, 2))
    numbers[:9, 1] = np.nan
    colour = np.where(np.arange(n) % 2, "red", "blue")
    table = pd.DataFrame(numbers, columns=["a", "b"]).assign(colour=colour)
    table = table.astype({"colour": "category"})
    pieces.partial_fit(table, numbers[:, 0])
    later = table.assign(
        b=np.where(np.arange(n) == 7, np.nan, RNG.normal(size=n)),
        colour=np.where(np.arange(n) == 7, "red", "blue"),
    )
    pieces.partial_fit(later, numbers[:, 0])
    assert pieces.X_mean_.shape == pieces.X_scale_.shape == (3,)
    assert pieces.X_scale_[2] == np.inf


# -- tables without a number -------------------------------------------------------


@pytest.mark.parametrize("n_columns", [1, 2])
@pytest.mark.parametrize(
    "portfolio",
    [None, ["linear"], ["bins"], ["plain"], ["periodic_1", "views_1"], ["nearest_0.1"]],
    ids=str,
)
def test_categories_alone_are_enough(portfolio, n_columns):
    colours = pd.Categorical(np.tile(COLOURS, 2))
    X = pd.DataFrame({f"c{i}": colours for i in range(n_columns)})
    y = np.where(colours == "red", 5.0, -5.0) + np.tile(Y, 2)
    means = quick(portfolio=portfolio, max_iter=40).fit(X, y).predict(X)
    for colour in ("red", "green", "blue"):  # a category of few rows is pooled
        rows = colours == colour
        assert np.ptp(means[rows]) < 1e-6
        assert abs(means[rows].mean() - y[rows].mean()) < 0.3 * y.std()


@pytest.mark.parametrize("column", [pd.Categorical(["x"] * N), np.full(N, np.nan)])
def test_a_feature_of_one_value_says_nothing(column):
    X = pd.DataFrame({"constant": column})
    assert_allclose(quick().fit(X, Y).predict(X), Y.mean(), atol=0.3 * Y.std())


# -- other forms of the same columns ---------------------------------------------------


def as_polars(frame):
    """Convert a frame without PyArrow."""
    cells = frame.astype(object).where(frame.notna(), None)
    table = pl.DataFrame({name: cells[name].tolist() for name in cells})
    return table.with_columns(pl.col(pl.String).cast(pl.Categorical))


@pytest.mark.parametrize("convert", [pd.DataFrame, as_polars])
def test_frames_with_other_columns_are_told_apart_before_categories(convert):
    mdn = fitted(convert(FRAME))
    if not hasattr(mdn, "feature_names_in_"):
        pytest.skip("this scikit-learn reads no names of columns of this polars")
    for other in (
        FRAME[["colour", "a", "b", "size"]],
        FRAME.assign(more=1.0)[["more", *FRAME]],
        FRAME[["a", "b", "size"]],
    ):
        with pytest.raises(ValueError, match="feature names should match"):
            mdn.predict(convert(other))


@pytest.mark.parametrize("unit", ["s", "us", "ns"])
@pytest.mark.parametrize("kind", ["datetime64", "timedelta64"])
def test_dates_as_categories_are_the_same_as_dates(kind, unit):
    cells = pd.Series(SIZES.astype("timedelta64[D]").astype(f"timedelta64[{unit}]"))
    if kind == "datetime64":
        cells = np.datetime64("2026-01-01", unit) + cells
    mdn = fitted(PLAIN.assign(day=pd.Categorical(cells)))
    expected = mdn.predict(PLAIN.assign(day=pd.Categorical(cells)))
    assert_array_equal(mdn.predict(PLAIN.assign(day=cells)), expected)


def test_dates_of_polars_beside_categories_are_refused():
    frame = pl.DataFrame({"c": pl.Series(["a", "b"] * 80, dtype=pl.Categorical)})
    frame = frame.with_columns(d=pl.lit("2026-01-01").str.to_date())
    with pytest.raises(ValueError, match="dates or times in column 'd'"):
        fitted(frame)


def test_tables_of_arrow_have_the_categories_of_the_fit():
    arrow = pytest.importorskip("pyarrow", reason="needs PyArrow")
    frame = PLAIN.assign(colour=COLOURS.astype(object))
    mdn = fitted(frame, categorical_features=["colour"])
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        predicted = mdn.predict(arrow.Table.from_pandas(frame))
    assert_array_equal(predicted, mdn.predict(frame))


def test_columns_of_two_levels_are_named_by_tuples():
    columns = pd.MultiIndex.from_tuples([("a", "x"), ("a", "y"), ("b", "size")])
    frame = pd.DataFrame(np.column_stack([NUMBERS, SIZES]), columns=columns)
    mdn = fitted(frame, categorical_features=[("b", "size")])
    plain = fitted(frame.to_numpy(), categorical_features=[2])
    assert_array_equal(mdn.predict(frame), plain.predict(frame.to_numpy()))
