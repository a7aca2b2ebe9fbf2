"""The command: scores, pictures, saved models, predictions, and wrong arguments."""

import contextlib
import functools
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from command_runs import command_frame, error_of, make_table, run
from helpers import random_scalar_density, run_python

pd = pytest.importorskip("pandas", reason="needs the extra 'cli'")

import skmdn
from skmdn import MDNRegressor
from skmdn import __main__ as command
from skmdn._command import (
    baselines,
    evaluation,
    pictures,
)
from skmdn._command.table import read_table
from skmdn._data.supports import Support
from skmdn._fit.session import FitSession
from skmdn.metrics import coverage

MODELS = ["MDNRegressor", "unconditional Gaussian mixture"]
MODELS += ["ridge with Gaussian residuals"]
pytestmark = pytest.mark.usefixtures("small_networks")


@contextlib.contextmanager
def without_module(name):
    """Make the import of a module fail; others may have loaded it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, name, None)
        yield


# -- scores and pictures ---------------------------------------------------------


@pytest.mark.full
def test_geyser_run_prints_scores_and_draws(tmp_path):
    pytest.importorskip("matplotlib")
    printed = run_python("-m", "skmdn", "--picture", "out.png", cwd=tmp_path)
    lines = printed.splitlines()
    assert "78 eruptions" in printed
    nll = [
        float(next(line for line in lines if line.startswith(name)).split()[-4])
        for name in MODELS
    ]
    assert nll[0] < min(nll[1:]) - 0.2
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("targets", [["price"], ["price", "cost"]])
@pytest.mark.parametrize("group", [[], ["--group", "shop"]])
def test_scores_are_of_held_out_rows(tmp_path, capsys, table, targets, group):
    pytest.importorskip("matplotlib")
    flags = [flag for target in targets for flag in ("--target", target)]
    run(table, *flags, *group, "--json", "out.json")
    printed = capsys.readouterr().out
    assert ("CRPS" if len(targets) == 1 else "energy score") in printed
    assert (tmp_path / "skmdn.png").read_bytes().startswith(b"\x89PNG")
    result = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert list(result["scores"]) == MODELS
    frame = command_frame(printed)
    mdn = evaluation.MDNRegressor(random_state=0).fit(
        frame["X"], frame["y"], groups=frame["table"]["shop"] if group else None
    )
    nll = result["scores"]["MDNRegressor"]["nll"]
    np.testing.assert_allclose(nll, -mdn.oof_score_, rtol=1e-6)
    assert f"{nll:.4f}" in printed


def test_names_of_columns_may_be_anything(tmp_path, table, capsys):
    pytest.importorskip("matplotlib")
    names = {"price": "$ {x} per $^ \"m'", "size": "a\\b, 尺寸 [days]"}
    make_table().rename(columns=names).to_csv(table, index=False)
    run(table, "--target", names["price"], "--drop", "cost", "--save", "model.skops")
    assert (tmp_path / "skmdn.png").exists()
    assert names["size"] in command_frame(capsys.readouterr().out)["X"]
    run("predict", "model.skops", table, "--out", "out.csv")
    assert names["price"] in pd.read_csv("out.csv")


def test_calibration_of_the_picture_is_of_central_intervals():
    density = random_scalar_density(200, 3)
    y = density.sample(1, random_state=0)[:, 0]
    display = pictures._calibration(density, y)
    expected = [
        coverage(y, density, level, region="interval").mean()
        for level in display.nominal
    ]
    np.testing.assert_array_equal(display.observed, expected)


@pytest.mark.parametrize(
    ("most", "part"), [(2000, "held-out rows"), (20, "20 of 60 held-out rows")]
)
def test_titles_of_the_picture_say_which_rows(table, monkeypatch, most, part):
    figure = pytest.importorskip("matplotlib.figure")
    seen = []
    save = figure.Figure.savefig
    monkeypatch.setattr(pictures, "MAX_ROWS", most)
    monkeypatch.setattr(
        figure.Figure,
        "savefig",
        lambda self, *args, **options: (
            seen.append(self),
            save(self, *args, **options),
        ),
    )
    run(table, "--target", "price")
    left, right = seen[0].axes[:2]
    assert left.get_title() == f"Density of {part}"
    assert right.get_title() == f"Calibration of price, {part}"
    assert right.get_xlabel() == "probability of the central interval"


def test_json_says_what_was_done(tmp_path, table):
    run(table, "--target", "price", "--drop", "cost", "--seed", "3", "--json", "a.json")
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    result = json.loads(text, parse_constant=pytest.fail)
    assert result["targets"] == ["price"]
    assert result["n_rows"] == result["n_rows_scored"] == 60
    assert result["seed"] == 3
    assert result["columns"] == {
        "size": "number",
        "colour": "category",
        "sold [days]": "number",
        "sold [day of year]": "number",
        "sold [weekday]": "category",
        "is new": "number",
        "shop": "category",
    }
    assert result["versions"]["skmdn"] == skmdn.__version__
    assert sum(result["portfolio_weights"].values()) == pytest.approx(1)
    assert result["seconds"] > 0
    assert "is new: True is 1 and False is 0." in result["notes"]
    for scores in result["scores"].values():
        assert set(scores) == {"nll", "crps", "coverage_90"}
        assert 0 <= scores["coverage_90"] <= 1


def test_rows_without_one_of_several_targets_are_not_scored(tmp_path, table, capsys):
    frame = make_table()
    frame.loc[:4, "cost"] = None
    frame.to_csv(table, index=False)
    run(table, "--target", "price", "--target", "cost", "--json", "a.json")
    result = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert (result["n_rows"], result["n_rows_scored"]) == (60, 55)
    assert "The scores are of the 55 rows" in capsys.readouterr().out


def test_few_common_rows_mean_no_scores(tmp_path, table, capsys):
    frame = make_table()
    frame.loc[:30, "cost"] = None
    frame.loc[35:, "price"] = None
    frame.to_csv(table, index=False)
    run(table, "--target", "price", "--target", "cost", "--json", "a.json")
    result = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert result["scores"] == {}
    assert "all targets are known in 4 rows only" in capsys.readouterr().out


def test_bounds_hold_for_all_scored_densities(tmp_path, table, capsys):
    targets = ["--target", "price", "--target", "cost"]
    options = [*targets, "--support", "0", "1e6", "--json", "a.json"]
    run(table, *options)
    result = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert result["target_support"] == [0, 1e6]
    assert list(result["scores"]) == MODELS
    printed = capsys.readouterr().out
    assert "outside of (0, 1e+06), those of the baselines too" in printed
    assert "always positive" not in printed
    assert "target_support=(0.0, 1000000.0)" in printed


def test_baselines_with_bounds_are_those_of_the_logarithm(tmp_path):
    frame = make_table()
    frame["price"] = np.exp(frame["price"] / 10)
    frame["log"] = np.log(frame["price"])
    frame.to_csv("t.csv", index=False)
    parts = []
    for target, support in (("price", Support(0, None)), ("log", None)):
        drop = ["log" if target == "price" else "price"]
        table = read_table(tmp_path / "t.csv", [target], drop, support=support)
        rows = np.arange(60)
        parts.append(evaluation._baseline_parts(MODELS[2], table, rows, 0))
    for (rows, ours), (_, theirs) in zip(*parts, strict=True):
        y = frame["price"].to_numpy()[rows]
        expected = theirs.logpdf(np.log(y)[:, None]) - np.log(y)
        np.testing.assert_allclose(ours.logpdf(y[:, None]), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("targets", "price", "note"),
    [
        (["price"], 1.0, "price is always positive: --support 0 inf keeps its"),
        (["price", "cost"], 1.0, "price and cost are always positive: "),
        (["price"], 0.0, None),
        (["cost", "price"], -1.0, None),
    ],
)
def test_a_note_names_bounds_for_positive_targets(table, capsys, targets, price, note):
    frame = make_table()
    frame.loc[5, "price"] = price
    frame.loc[7, "cost"] = None
    frame.to_csv(table, index=False)
    run(table, *(flag for name in targets for flag in ("--target", name)))
    printed = capsys.readouterr().out
    assert "always positive" not in printed if note is None else note in printed


@pytest.mark.parametrize("group", [[], ["--group", "shop"]])
def test_fits_without_folds_are_scored_by_further_fits(
    tmp_path, table, capsys, monkeypatch, group
):
    one = functools.partial(evaluation.MDNRegressor, n_estimators=1)
    monkeypatch.setattr(evaluation, "MDNRegressor", one)
    frame = make_table()
    frame["shop"] = np.where(frame["shop"] < "d", "a", "b")
    frame.to_csv(table, index=False)
    run(table, "--target", "price", *group, "--json", "a.json")
    assert "its scores are those of further fits" in capsys.readouterr().out
    result = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    scores = result["scores"]["MDNRegressor"]
    assert all(isinstance(score, float) for score in scores.values())


@pytest.mark.parametrize("last", [5.0, 6.0])
def test_a_constant_target_is_scored_and_saved(tmp_path, table, last):
    pytest.importorskip("skops")
    frame = make_table().assign(price=[*[5.0] * 59, last])
    frame.to_csv(table, index=False)
    run(table, "--target", "price", "--save", "a.skops", "--json", "a.json")
    assert (tmp_path / "a.skops").exists()
    result = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert list(result["scores"]) == MODELS
    assert all(np.isfinite(scores["nll"]) for scores in result["scores"].values())


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
@pytest.mark.parametrize("name", baselines.BASELINES)
def test_the_floor_of_the_baselines_is_that_of_the_estimator(name):
    X = make_table()[["size", "cost"]]
    predict = baselines.BASELINES[name](X, np.full((60, 1), 5.0), 0)
    floor = MDNRegressor().reg_covar ** 0.5  # the scale of a constant target is one
    np.testing.assert_allclose(predict(X).mean(), 5, rtol=1e-9)
    np.testing.assert_allclose(predict(X).std(), floor, rtol=1e-6)


def test_a_score_or_a_picture_that_fails_does_not_lose_the_fit(
    tmp_path, table, capsys, monkeypatch
):
    pytest.importorskip("skops")

    def fails(*args, **kwargs):
        raise ValueError("too\nnarrow")

    monkeypatch.setitem(baselines.BASELINES, MODELS[2], fails)
    monkeypatch.setattr(pictures, "_position", fails)
    run(table, "--target", "price", "--save", "a.skops", "--json", "a.json")
    printed = capsys.readouterr().out
    assert f"{MODELS[2]} has no scores: too narrow\n" in printed
    assert "No picture: too narrow\n" in printed
    assert "The same in Python" in printed
    result = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert list(result["scores"]) == MODELS[:2]
    monkeypatch.setattr(evaluation, "_held_out", fails)
    error = error_of(capsys, table, "--target", "price", "--save", "b.skops")
    assert "too narrow" in error
    assert (tmp_path / "b.skops").exists()


def test_quiet_prints_the_scores_only(table, capsys):
    run(table, "--target", "price", "--quiet")
    printed = capsys.readouterr().out
    assert printed.strip().startswith("cross-validated")
    assert printed.strip().endswith("should cover 90 %.")


def test_warnings_are_lines(table, capsys):
    frame = make_table()
    frame["price"] = frame["price"].round(-1)
    frame.to_csv(table, index=False)
    run(table, "--target", "price")
    (line,) = [
        line
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("Warning: ") and "distinct values" in line
    ]
    assert "target_resolution" in line


# -- packages that are not installed ---------------------------------------------


def test_without_matplotlib_the_rest_is_done(table, capsys):
    with without_module("matplotlib.figure"):
        run(table, "--target", "price")
    printed = capsys.readouterr().out
    assert "No picture: matplotlib is not installed" in printed
    assert "The same in Python" in printed


def test_without_pandas_or_skops_an_error_names_the_extra(table, capsys):
    with without_module("pandas"):
        assert "'skmdn[cli]'" in error_of(capsys, table, "--target", "price")
    with without_module("skops"), without_module("skops.io"):
        error = error_of(capsys, table, "--target", "price", "--save", "a.skops")
    assert "Models need skops" in error


# -- arguments and exit codes ----------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table.csv"], "pass --target COLUMN"),
        (["nowhere.csv", "--target", "price"], "There is no file nowhere.csv"),
        (["--target", "price"], "--target needs a file. Type skmdn FILE.csv"),
        (["--sep", ";"], "--sep needs a file"),
        (["table.csv", "--target"], "expected one argument. Type skmdn --help"),
        (["table.csv", "--folds", "2"], "unrecognized arguments: --folds 2"),
        (["--target", "a", "--drop", "a"], "'a' is both --target and --drop"),
        (["--target", "a", "--group", "a"], "'a' is both --target and --group"),
        (["--target", "a", "--seed", "-1"], "--seed must be between 0 and"),
        (["--target", "a", "--seed", "x"], "invalid int value: 'x'"),
        (["--target", "a", "--support", "0"], "--support: expected 2 arguments"),
        (["--target", "a", "--support", "-inf", "x"], "for no bound, got 'x'"),
        (["--target", "a", "--support", "nan", "1"], "for no bound, got 'nan'"),
        (["--target", "a", "--support", "1", "-1"], "needs LOW < HIGH, got 1 -1"),
        (["--target", "a", "--support", "-inf", "inf"], "at least one bound that is"),
        (["--target", "a", "--sep", ";;"], "--sep must be one character"),
        (["--target", "a", "--sep", ",", "--decimal", ","], "are both ','"),
        (["--target", "a", "--decimal", ";"], "--decimal: invalid choice"),
        (["--target", "a", "--encoding", "utf-3"], "--encoding 'utf-3' is unknown"),
        (["--target", "a", "--json", "a.txt"], "--json must end in .json"),
        (["--target", "a", "--save", "a.pkl"], "--save must end in .skops"),
        (["--target", "a", "--picture", "a.gif"], "--picture must end in .png or"),
        (["--target", "a", "--json", "no/a.json"], "no/a.json cannot be written"),
        (["--target", "a", "--picture", "folder.png"], "folder.png cannot be written"),
        (["predict"], "the following arguments are required: MODEL.skops"),
        (["predict", "no.skops", "table.csv", "--out", "a.csv"], "There is no model"),
        (["predict", "m", "no.csv", "--out", "a.csv"], "There is no file no.csv"),
        (["predict", "table.csv", "table.csv", "--out", "table.csv"], "that is read"),
        (["predict", "m", "table.csv", "--out", "a.txt"], "There is no model m"),
        (
            ["predict", "table.csv", "table.csv", "--out", "a.txt"],
            "--out must end in .csv",
        ),
        (
            ["predict", "m", "table.csv", "--out", "a.csv", "--quantiles", "0.5", "1"],
            "--quantiles must be between 0 and 1, got 1",
        ),
    ],
)
def test_arguments_are_checked_before_any_work(
    tmp_path, capsys, table, arguments, message
):
    (tmp_path / "folder.png").mkdir()
    if arguments[0] == "--target" and "a" in arguments:
        arguments = [table, *arguments]
    assert message in error_of(capsys, *arguments)


def test_version(capsys):
    with pytest.raises(SystemExit) as exit_:
        command.main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"skmdn {skmdn.__version__}\n"


def test_a_full_disk_is_one_line(table, capsys, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    arguments = [table, "--target", "price", "--json", "a.json"]
    assert "No space left" in error_of(capsys, *arguments)


def test_ctrl_c_ends_the_command_with_its_exit_code(monkeypatch, capsys):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(FitSession, "step", interrupted)
    assert command.main([]) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.full
def test_exit_codes_of_the_process(tmp_path):
    arguments = [sys.executable, "-m", "skmdn", "größe.csv", "--target", "a"]
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        arguments, capture_output=True, text=True, cwd=tmp_path, env=ascii_only
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
