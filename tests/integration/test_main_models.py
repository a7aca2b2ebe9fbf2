"""Models that the command saves, their equivalent Python, and their predictions."""

import os

import numpy as np
import pytest
from command_runs import command_frame, error_of, make_table, python_in, run
from helpers import run_python
from hypothesis import given
from hypothesis import strategies as st

pd = pytest.importorskip("pandas", reason="needs the extra 'cli'")

from skmdn._command import prediction

pytestmark = pytest.mark.usefixtures("small_networks")


@pytest.mark.parametrize(
    "options",
    [
        ["table.csv", "--target", "price"],
        ["table.csv", "--target", "price", "--target", "cost", "--group", "shop"],
        ["table.csv", "--target", "price", "--support", "-inf", "1e3"],
        [],
    ],
)
def test_printed_python_gives_the_saved_model(table, capsys, options):
    io = pytest.importorskip("skops.io")
    run(*options, "--seed", "2", "--save", "model.skops")
    names = {}
    printed = capsys.readouterr().out
    before = open_model(io)
    exec(python_in(printed), names)
    X = names["X"]
    np.testing.assert_array_equal(before.predict(X), names["mdn"].predict(X))
    np.testing.assert_array_equal(before.predict(X), open_model(io).predict(X))


def open_model(io):
    return io.load("model.skops", trusted=["skmdn._regressor.MDNRegressor"])


def test_predict_in_a_new_process_gives_the_bits_of_the_model(capsys, table, tmp_path):
    io = pytest.importorskip("skops.io")
    targets = ["price", "cost"]
    run(table, "--target", "price", "--target", "cost", "--save", "model.skops")
    mdn = open_model(io)
    X = command_frame(capsys.readouterr().out)["X"]
    arguments = ["predict", "model.skops", table, "--out", "out.csv"]
    run_python("-m", "skmdn", *arguments, "--quantiles", "0.1", "0.5", cwd=tmp_path)
    predicted = pd.read_csv("out.csv", dtype=str)
    suffixes = ["", "_std", "_q0.1", "_q0.5"]
    assert list(predicted) == [t + suffix for t in targets for suffix in suffixes]
    density = mdn.predict_density(X)
    for j, target in enumerate(targets):
        one = density.marginal(j)
        expected = [one.mean(), one.std(), one.ppf(0.1), one.ppf(0.5)]
        for suffix, values in zip(suffixes, expected, strict=True):
            ours = list(map(float, predicted[target + suffix]))
            np.testing.assert_array_equal(ours, np.ravel(values))


def test_predict_reads_other_files_by_the_columns_of_the_fit(tmp_path, table, capsys):
    pytest.importorskip("skops")
    run(table, "--target", "price", "--drop", "cost", "--save", "model.skops")
    run("predict", "model.skops", table, "--out", "first.csv", "--quiet")
    frame = make_table().drop(columns=["price", "cost"])
    frame["sold"] = frame["sold"].dt.strftime("%d.%m.%Y")
    frame["size"] = frame["size"].astype(str).str.replace(".", ",").replace("nan", "?")
    frame["note"] = "not of the fit"
    frame.iloc[:, ::-1].to_csv("other.csv", sep=";", index=False, encoding="latin-1")
    run("predict", "model.skops", "other.csv", "--out", "second.csv")
    first, second = (tmp_path / name for name in ("first.csv", "second.csv"))
    assert first.read_bytes() == second.read_bytes()
    assert "60 rows predicted: second.csv" in capsys.readouterr().out


def test_predict_of_one_row_with_categories_that_look_like_numbers(table):
    pytest.importorskip("skops")
    frame = make_table()
    frame["colour"] = np.where(frame["colour"] == "red", "7", "7a")
    frame.to_csv(table, index=False)
    run(table, "--target", "price", "--save", "model.skops")
    frame[frame["colour"] == "7"].iloc[:1].to_csv("one.csv", index=False)
    run("predict", "model.skops", table, "--out", "all.csv")
    run("predict", "model.skops", "one.csv", "--out", "out.csv")
    row = frame.index[frame["colour"] == "7"][0]
    np.testing.assert_allclose(
        pd.read_csv("out.csv").iloc[0], pd.read_csv("all.csv").iloc[row], rtol=1e-9
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.drop(columns=["size", "sold"]),
            "no column 'size', 'sold'. ",
        ),
        (
            lambda t: t.assign(size=["wide", *["1"] * 59]),
            "'wide' in record 2. Pass --missing 'wide' if it means a missing value.\n",
        ),
        (
            lambda t: t.assign(sold="soon"),
            "'sold' has dates in the fit (ISO8601), but 'soon' here",
        ),
        (
            lambda t: t.assign(sold="03/04/2024"),
            "Write dates as 2024-12-31.\n",
        ),
    ],
)
def test_predict_refuses_other_columns(table, capsys, change, message):
    pytest.importorskip("skops")
    run(table, "--target", "price", "--save", "model.skops")
    capsys.readouterr()
    change(make_table()).to_csv("other.csv", index=False)
    arguments = ["predict", "model.skops", "other.csv", "--out", "out.csv"]
    assert message in error_of(capsys, *arguments)
    assert not os.path.exists("out.csv")


@pytest.mark.parametrize("quoted", [True, False])
def test_predict_keeps_the_rows_of_one_column(table, quoted):
    io = pytest.importorskip("skops.io")
    frame = make_table()[["size", "price"]]
    frame.to_csv(table, index=False)
    run(table, "--target", "price", "--save", "model.skops")
    X = frame[["size"]].iloc[:12]  # the first and the tenth are missing
    text = X.to_csv(index=False)
    assert text.count('""') == 2
    with open("one.csv", "w") as file:
        file.write(text if quoted else text.replace('""', "") + "\n\n")
    run("predict", "model.skops", "one.csv", "--out", "out.csv")
    predicted = pd.read_csv("out.csv")["price"]
    np.testing.assert_allclose(predicted, open_model(io).predict(X), rtol=1e-12)


def test_predictions_have_a_column_each(table):
    io = pytest.importorskip("skops.io")
    names = ["price", "price_std"]
    frame = make_table().rename(columns={"cost": names[1]}).drop(columns="sold")
    frame.to_csv(table, index=False)
    run(table, "--target", "price", "--target", "price_std", "--save", "model.skops")
    levels = ["0.1234561", "0.1234562", "0.9999999"]
    arguments = ["predict", "model.skops", table, "--out", "out.csv", "--quantiles"]
    run(*arguments, *levels)
    predicted = pd.read_csv("out.csv")
    stds = ["price__std", "price_std_std"]
    columns = [
        [name, std, *(f"{name}_q{level}" for level in levels)]
        for name, std in zip(names, stds, strict=True)
    ]
    assert list(predicted) == [*columns[0], *columns[1]]
    X = pd.read_csv(table, dtype={"colour": "category", "shop": "category"})
    density = open_model(io).predict_density(X[["size", "colour", "is new", "shop"]])
    np.testing.assert_allclose(predicted[stds], density.std(), rtol=1e-9)
    np.testing.assert_allclose(predicted[names], density.mean(), rtol=1e-9)


@pytest.mark.parametrize(
    ("bounds", "support"),
    [
        (["0", "inf"], (0, None)),
        (["-INF", "100"], (None, 100)),
        (["-1e1", "100"], (-10, 100)),
    ],
)
def test_bounds_hold_in_predictions(table, bounds, support):
    io = pytest.importorskip("skops.io")
    frame = make_table()
    frame[["price", "cost"]] = 99 * np.exp(-frame[["price", "cost"]].abs())
    frame.to_csv(table, index=False)
    targets = ["--target", "price", "--target", "cost"]
    run(table, *targets, "--support", *bounds, "--save", "model.skops")
    assert open_model(io).target_support == support
    levels = ["1e-9", "0.999999999"]
    arguments = ["predict", "model.skops", table, "--out", "out.csv", "--quantiles"]
    run(*arguments, *levels)
    predicted = pd.read_csv("out.csv")
    for target in ("price", "cost"):
        low, high = (predicted[f"{target}_q{float(level)}"] for level in levels)
        assert (low < high).all()
        assert support[0] is None or (low > support[0]).all()
        assert support[1] is None or (high < support[1]).all()


@given(st.permutations(["a", "a_std", "a__std", "a_q0.5", "b"]))
def test_labels_of_predictions_are_unique(names):
    labels = prediction._labels(names, [0.5, 0.1 + 0.2, 0.3])
    assert len(set(labels)) == len(labels) == 5 * len(names)
    assert labels[::5] == names


def sold(frame, cells):
    """Return some rows of a frame without its targets, with other dates."""
    return frame.drop(columns=["price", "cost"]).iloc[: len(cells)].assign(sold=cells)


def predictions_of(frame):
    """Return what the saved model predicts of the rows of a file."""
    frame.to_csv("other.csv", index=False)
    run("predict", "model.skops", "other.csv", "--out", "out.csv")
    return pd.read_csv("out.csv").to_numpy()


@pytest.fixture
def british(table):
    """Return a frame whose dates begin with the day, as the saved model knows."""
    pytest.importorskip("skops")
    frame = make_table()
    frame["sold"] = frame["sold"].dt.strftime("%d/%m/%Y")
    frame.to_csv(table, index=False)
    run(table, "--target", "price", "--drop", "cost", "--save", "model.skops")
    return frame


def test_predict_reads_dates_by_the_format_of_the_fit(british, capsys):
    iso = predictions_of(sold(british, ["2024-04-03", "2024-06-05", None]))
    capsys.readouterr()
    ours = predictions_of(sold(british, ["03/04/2024", "05/06/2024", "00/00/0000"]))
    np.testing.assert_array_equal(ours, iso)
    assert "sold: 1 cells that are no dates count" in capsys.readouterr().out
    ours = predictions_of(sold(british, ["03/04/2024 00:00", "05/06/2024 00:00", ""]))
    np.testing.assert_array_equal(ours, iso)
    american = predictions_of(sold(british, ["04/03/2024", "06/05/2024", "12/31/2024"]))
    assert "sold is read as %m/%d/%Y; in the fit it was %d" in capsys.readouterr().out
    np.testing.assert_array_equal(american[:2], iso[:2])


def test_the_printed_python_keeps_the_formats(british, capsys):
    io = pytest.importorskip("skops.io")
    run("table.csv", "--target", "price", "--save", "model.skops")
    code = python_in(capsys.readouterr().out)
    assert open_model(io).date_formats_ == {"sold": "%d/%m/%Y"}
    os.remove("model.skops")
    exec(code, {})
    assert open_model(io).date_formats_ == {"sold": "%d/%m/%Y"}


def test_models_without_formats_detect_them_again(british, capsys):
    io = pytest.importorskip("skops.io")
    iso = predictions_of(sold(british, ["2024-04-23", "2024-06-05", None]))
    mdn = open_model(io)
    del mdn.date_formats_
    io.dump(mdn, "model.skops")
    ours = predictions_of(sold(british, ["23/04/2024", "05/06/2024", ""]))
    np.testing.assert_array_equal(ours, iso)
    capsys.readouterr()
    sold(british, ["03/04/2024"]).to_csv("other.csv", index=False)
    arguments = ["predict", "model.skops", "other.csv", "--out", "out.csv"]
    assert "--drop" not in error_of(capsys, *arguments)
    sold(british, ["soon"]).drop(columns="sold").to_csv("other.csv", index=False)
    assert "has no column 'sold'. Give" in error_of(capsys, *arguments)


def test_predict_trusts_nothing_else(table, capsys):
    io = pytest.importorskip("skops.io")
    from sklearn.linear_model import LinearRegression

    class Unknown(LinearRegression):
        pass

    arguments = ["predict", "model.skops", table, "--out", "out.csv"]
    io.dump(Unknown(), "model.skops")
    assert "has types that are not trusted" in error_of(capsys, *arguments)
    io.dump(LinearRegression(), "model.skops")
    assert "is no MDNRegressor that was fitted" in error_of(capsys, *arguments)
    with open("model.skops", "wb") as file:
        file.write(b"PK nothing")
    error = error_of(capsys, *arguments)
    assert "model.skops cannot be opened: File is not a zip file. Pass a" in error


def test_swapped_arguments_of_predict_are_named(table, capsys):
    pytest.importorskip("skops")
    run(table, "--target", "price", "--save", "model.skops")
    capsys.readouterr()
    error = error_of(capsys, "predict", table, "model.skops", "--out", "out.csv")
    assert "Type skmdn predict model.skops table.csv --out out.csv.\n" in error
