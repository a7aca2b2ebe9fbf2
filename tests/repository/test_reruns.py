"""The committed results are reproduced by the commands that measured them."""

import sys
from pathlib import Path

import pytest
from helpers import ROOT, load_benchmark

RESULTS = ROOT / "benchmarks" / "results"
pytestmark = pytest.mark.full


@pytest.fixture
def data(request, benchmark_modules):
    folder = request.config.getoption("--data")
    if folder is None or not RESULTS.is_dir():
        pytest.skip("needs the repository and the benchmark data: SKMDN_DATA")
    return Path(folder)


def assert_reproduced(found, committed, keys, scores):
    """Compare mean scores of the same rows within three standard errors.

    Rounding differs between processors, so that fits differ like those of two seeds.
    This is less than fits differ between splits: the standard error is that of the mean
    over all committed splits of the set.
    """
    summary = load_benchmark("_summary")
    ours = [row for row in committed if row.get("peer", "skmdn") == "skmdn"]
    for name in {row["set"] for row in found}:
        before = {tuple(r[k] for k in keys): r for r in ours if r["set"] == name}
        now = {tuple(r[k] for k in keys): r for r in found if r["set"] == name}
        for score in scores:
            _, error = summary.mean_and_error(float(r[score]) for r in before.values())
            changes = [float(now[k][score]) - float(before[k][score]) for k in now]
            change, _ = summary.mean_and_error(changes)
            assert abs(change) <= 3 * error, (name, score, change, error)


def test_two_tables_of_uci(data, tmp_path, monkeypatch):
    quality, out = load_benchmark("quality"), tmp_path / "uci.csv"
    argv = ["quality.py", "--data", str(data), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", [*argv, "--sets=boston,yacht", "--splits=0,1"])
    quality.main()
    found, committed = quality.read(out), quality.read(RESULTS / "uci.csv")
    assert len(found) == 4
    assert_reproduced(found, committed, ("split",), ("nll", "crps", "rmse"))


def test_a_table_of_the_ladder(data, tmp_path):
    ladder, out = load_benchmark("ladder"), tmp_path / "ladder.csv"
    arguments = ["--data", str(data), "--out", str(out), "--sets", "SpaceGA"]
    ladder.main([*arguments, "--n", "1000", "--reps", "0"])
    found, committed = ladder.read(out), ladder.read(RESULTS / "ladder.csv")
    committed = [row for row in committed if row["n"] == "1000"]
    assert len(found) == 1
    assert_reproduced(found, committed, ("repetition",), ("log_lik", "nll", "crps"))
