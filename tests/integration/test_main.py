"""The command line: the geyser, tables, and files that are not tables."""

import functools
import subprocess
import sys

import numpy as np
import pytest

from skmdn import MDNRegressor
from skmdn import __main__ as command
from skmdn._fit.session import FitSession
from skmdn._utils.table import read_table


@pytest.fixture(autouse=True)
def quick_network(monkeypatch):
    """Fit small networks; the subprocess below uses the defaults."""
    quick = functools.partial(
        MDNRegressor, 2, n_estimators=1, hidden_layer_sizes=(8,), max_iter=3
    )
    monkeypatch.setattr(command, "MDNRegressor", quick)


TABLE = """# a comment
size,colour,price,weight
1.0,red,10.5,1
2.0,blue,,2
3.0,red,30.1,
,green,41.0,4
5.0,blue,52.5,5
6.0,red,60.2,6
7.0,,71.9,7
8.0,green,80.0,8
"""


def write(tmp_path, text):
    path = tmp_path / "table.csv"
    path.write_text(text)
    return path


@pytest.mark.full
def test_geyser_run_prints_scores_and_draws(tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "skmdn.png"
    result = subprocess.run(
        [sys.executable, "-m", "skmdn", "--folds", "2", "--picture", str(picture)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    lines = result.stdout.splitlines()
    assert "78 eruptions" in result.stdout
    nll = {
        name: float(next(line for line in lines if line.startswith(name)).split()[-4])
        for name in ("MDNRegressor", "unconditional", "ridge")
    }
    assert nll["MDNRegressor"] < min(nll["unconditional"], nll["ridge"]) - 0.2
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_table_is_read_with_a_line_for_each_thing_done(tmp_path):
    table = read_table(write(tmp_path, TABLE), ["price"])
    assert table.features == ["size", "colour", "weight"]
    np.testing.assert_array_equal(table.is_text, [False, True, False])
    np.testing.assert_allclose(table.y[:, 0], [10.5, 30.1, 41, 52.5, 60.2, 71.9, 80])
    assert table.X[5, 1] == "missing"
    assert table.notes == [
        "1 rows without a target were dropped.",
        "Text columns are one-hot encoded: colour.",
        "2 missing numbers are imputed by medians.",
    ]


@pytest.mark.parametrize("targets", [["price"], ["price", "size"]])
def test_user_tables_are_fitted_scored_and_drawn(tmp_path, capsys, targets):
    pytest.importorskip("matplotlib")
    path = write(tmp_path, TABLE)
    flags = [flag for target in targets for flag in ("--target", target)]
    picture = tmp_path / "out.png"
    status = command.main(
        [str(path), *flags, "--folds", "2", "--picture", str(picture)]
    )
    assert status == 0
    printed = capsys.readouterr().out
    assert ("CRPS" if len(targets) == 1 else "energy score") in printed
    assert "fold 2 of 2 done" in printed
    assert picture.exists()


def test_without_matplotlib_the_rest_is_done(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    status = command.main(
        [str(write(tmp_path, TABLE)), "--target", "price", "--folds", "2"]
    )
    assert status == 0
    assert "No picture: matplotlib is not installed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        (TABLE, ["--target", "cost"], "no column 'cost'; it has size, colour, price"),
        (TABLE, [], "Name the column to predict with --target"),
        (TABLE, ["--target", "colour"], "Target 'colour' contains text"),
        (TABLE, ["--target", "price", "--folds", "99"], "between 2 and the 7 rows"),
        ("", ["--target", "price"], "is empty"),
        ("a,b\n", ["--target", "a"], "is empty"),
        ("a,a\n1,2\n", ["--target", "a"], "two columns of the same name"),
        ("a,b\n1,2\n1\n", ["--target", "a"], "record 3 has 1 cells, not 2"),
        ("a\n1\n2\n", ["--target", "a"], "no columns besides the targets"),
        ("a,b\n1,inf\n2,3\n", ["--target", "a"], "contains infinity"),
        ("a,b\n,1\n,2\n", ["--target", "a"], "0 rows with a target"),
    ],
)
def test_errors_are_one_line(tmp_path, capsys, text, arguments, message):
    status = command.main([str(write(tmp_path, text)), *arguments])
    assert status == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00\x80"])
def test_unreadable_files_are_one_line(tmp_path, capsys, content):
    path = tmp_path / "table.csv"
    if content is not None:
        path.write_bytes(content)
    assert command.main([str(path), "--target", "a"]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_a_picture_that_cannot_be_written_is_one_line(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    arguments = [str(write(tmp_path, TABLE)), "--target", "price", "--folds", "2"]
    missing = tmp_path / "nowhere" / "out.png"
    assert command.main([*arguments, "--picture", str(missing)]) == 2
    assert "picture cannot be written" in capsys.readouterr().err


def test_ctrl_c_ends_the_command_with_its_exit_code(monkeypatch, capsys):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(FitSession, "step", interrupted)
    assert command.main(["--folds", "2"]) == 130
    assert "interrupted" in capsys.readouterr().err
