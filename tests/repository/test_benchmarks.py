"""The benchmarks run, resume and print correct numbers."""

import csv
import os
import sys

import helpers
import numpy as np
import pytest
import torch
from helpers import ROOT, WITHOUT_VIEWS, load_benchmark
from numpy.testing import assert_allclose
from scipy import stats
from sklearn.linear_model import Ridge
from sklearn.model_selection import train_test_split

import skmdn
from skmdn import MDNRegressor
from skmdn._training.kinds import AUTO_KINDS


@pytest.fixture(autouse=True)
def global_state_is_untouched():
    """Replace the guard: benchmarks set threads, and peers use global generators."""
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    yield
    torch.set_num_threads(threads)
    torch.set_rng_state(state)


pytestmark = pytest.mark.usefixtures("benchmark_modules")


@pytest.fixture
def quality(monkeypatch):
    module = load_benchmark("quality")

    def small(X, y, seed, max_iter=2):
        mdn = MDNRegressor(2, n_estimators=1, max_iter=max_iter, random_state=seed)
        return mdn.fit(X, y).predict_density

    monkeypatch.setitem(module.PEERS, "skmdn", small)
    return module


@pytest.fixture
def data(tmp_path):
    rng = np.random.RandomState(0)
    X = rng.normal(size=(80, 2))
    y = X @ [[1.0, 0.5], [0.0, 2.0]] + rng.normal(size=(80, 2))
    masks = np.arange(80) % 4 == np.arange(2)[:, None]
    np.savez(tmp_path / "one.npz", X=X, y=y[:, 0], test_mask=masks)
    np.savez(tmp_path / "two.npz", X=X, y=y, test_mask=masks)
    return tmp_path


def run(quality, monkeypatch, data, *arguments):
    out = data / "out.csv"
    argv = ["quality.py", "--data", str(data), "--sets", "one,two", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", [*argv, *arguments])
    quality.main()
    with out.open(newline="") as file:
        return list(csv.DictReader(file))


def test_quality_judges_every_split_once(quality, data, monkeypatch, capsys):
    peers = ["--peers", "skmdn,ridge,gmm,hgb"]
    first = run(quality, monkeypatch, data, *peers, "--splits", "0")
    assert len(first) == 4 + 3  # HistGradientBoosting has one output
    rows = run(quality, monkeypatch, data, *peers)
    assert rows[:7] == first
    assert len(rows) == 14
    keys = {(row["set"], row["split"], row["peer"]) for row in rows}
    assert len(keys) == 14
    assert "| one | ridge | 2 |" in capsys.readouterr().out


def test_quality_takes_changed_parameters_for_one_more_peer(
    quality, data, monkeypatch, capsys
):
    one = ["--sets", "one", "--splits", "0"]
    (first,) = run(quality, monkeypatch, data, *one)
    changed = [*one, "--params", '{"max_iter": 4}']
    for _ in range(2):  # the second run finds its row done
        rows = run(quality, monkeypatch, data, *changed)
        assert [row["peer"] for row in rows] == ["skmdn", 'skmdn {"max_iter": 4}']
    assert rows[0] == first
    assert rows[0]["nll"] != rows[1]["nll"]
    assert {row["version"] for row in rows} == {skmdn.__version__}
    difference = float(rows[1]["nll"]) - float(rows[0]["nll"])
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith(f"| {difference:+.3g} ± nan |")


def test_quality_of_ridge_is_that_by_hand(quality, data, monkeypatch):
    (row, _) = run(quality, monkeypatch, data, "--peers", "ridge", "--splits", "1")
    X, y, masks = quality.load(quality.find(data, "one"))
    X_train, y_train, X_test, y_test = (
        X[~masks[1]],
        y[~masks[1]],
        X[masks[1]],
        y[masks[1]],
    )
    parts = train_test_split(X_train, y_train, test_size=0.2, random_state=1)
    std = (parts[3] - Ridge().fit(parts[0], parts[2]).predict(parts[1])).std()
    mean = Ridge().fit(X_train, y_train).predict(X_test)
    nll = -stats.norm(mean, std).logpdf(y_test).mean()
    assert_allclose(float(row["nll"]), nll)
    assert_allclose(float(row["rmse"]), np.sqrt(((mean - y_test) ** 2).mean()))
    z = np.abs(y_test - mean) / std
    assert_allclose(float(row["coverage"]), (z < stats.norm.ppf(0.95)).mean())


def test_quality_draws_its_figures(quality, data, monkeypatch):
    pytest.importorskip("matplotlib", reason="pictures need the extra 'plot'")
    rows = run(quality, monkeypatch, data, "--peers", "skmdn,ridge")
    published = [{"set": "one", "peer": "TabPFN", "nll": "0.5", "source": "none"}]
    picture = data / "picture.png"
    load_benchmark("_quality_picture").draw(rows, published, picture)
    assert picture.stat().st_size > 5000


def test_kinds_are_left_out_one_after_the_other(data, monkeypatch, capsys):
    pytest.importorskip("matplotlib", reason="pictures need the extra 'plot'")
    kinds = load_benchmark("kinds")
    monkeypatch.setattr(skmdn, "MDNRegressor", helpers.quick)
    out, picture = data / "kinds.csv", data / "kinds.png"
    argv = ["kinds.py", "--data", str(data), "--sets", "one", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", [*argv, "--picture", str(picture)])
    for _ in range(2):  # the second run finds its rows done
        kinds.main()
        with out.open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["without"] for row in rows] == ["", *kinds.PARTS]
    for row in rows:
        of_part = kinds.PARTS.get(row["without"], ())
        scored = {kind for kind in kinds.KINDS if row[f"score_{kind}"]}
        # Views need more rows.
        assert scored == set(WITHOUT_VIEWS) - set(of_part)
        weights = {kind: float(row[f"weight_{kind}"]) for kind in kinds.KINDS}
        assert_allclose(sum(weights.values()), 1)
        assert not any(weights[kind] for kind in of_part)
    loss = float(rows[1]["nll"]) - float(rows[0]["nll"])
    assert f"{loss:+.3f} ± nan |" in capsys.readouterr().out
    assert picture.stat().st_size > 5000
    assert set(kinds.KINDS) == set(AUTO_KINDS)


def test_unknown_peers_are_named(quality, data, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(quality, monkeypatch, data, "--peers", "skmdn,nobody")
    assert "unknown peer: nobody; known peers are skmdn" in capsys.readouterr().err


@pytest.mark.full
def test_collapse_counts_runs_near_the_truth(monkeypatch, tmp_path, capsys):
    collapse = load_benchmark("collapse")
    monkeypatch.setattr(collapse, "STEPS", 2)

    def truth(X, y, seed):
        return lambda X_test, y_test: collapse.known

    def remembering(*args, **kwargs):
        made = inverse_sine(*args, **kwargs)
        if len(made) == 3:
            collapse.known = -made[2].logpdf(made[1]).mean()
        return made

    inverse_sine = collapse.SETS["inverse_sine"]
    monkeypatch.setitem(collapse.SETS, "inverse_sine", remembering)
    monkeypatch.setitem(collapse.PEERS, "skmdn", truth)
    path = tmp_path / "collapse.csv"
    arguments = ["--seeds", "2", "--sets", "inverse_sine", "--out", str(path)]
    collapse.main(arguments)
    out = capsys.readouterr().out
    assert "| inverse_sine | skmdn | 2 of 2 | 0.000 | 0.000 |" in out
    assert "| inverse_sine | plain | 0 of 2 |" in out
    before = path.read_text()
    collapse.main(arguments)  # nothing is left to run
    assert path.read_text() == before


def test_stress_counts_how_fits_end(monkeypatch, capsys):
    stress = load_benchmark("stress")
    monkeypatch.setattr(stress, "PLAIN_STEPS", 1)
    monkeypatch.setattr(stress, "COVARIANCE_TYPES", ("full",))
    rows = stress.cases(30, 0)
    X, y, _ = rows["no noise"]
    chosen = {
        "no noise": (X, y, None),
        "units": (1e200 * X, y, None),
        "tiny weights": rows["tiny weights"],
        "broken": (X + 9, y, None),
    }
    monkeypatch.setattr(stress, "cases", lambda n, seed: chosen)
    check = stress.what_is_wrong
    monkeypatch.setattr(
        stress,
        "what_is_wrong",
        lambda mdn, X, y: "odd" if X.min() > 0 else check(mdn, X, y),
    )
    stress.main(["--seeds", "1", "--n-rows", "30"])
    out = capsys.readouterr().out
    assert "| no noise | 2 | 2 | 0 | 0 | 0 of 2 | 0 of 2 |" in out
    assert "| units | 2 | 0 | 2 | 0 |" in out
    assert "| tiny weights | 2 | 2 | 0 | 0 |  |  |" in out
    assert "| broken | 2 | 0 | 0 | 2 |" in out
    assert "| all | 8 | 4 | 2 | 2 |" in out
    assert "2 times units: refused: X must spread over less than 1e+150" in out
    assert "2 times broken: odd" in out


def test_speed_measures_every_part(monkeypatch, capsys, tmp_path):
    speed = load_benchmark("speed")
    # Processes of their own could not find a module that has no name on the path.
    others = speed.multiprocessing.get_context
    monkeypatch.setattr(
        speed.multiprocessing,
        "get_context",
        lambda method=None: InProcess if method == "spawn" else others(method),
    )
    monkeypatch.setattr(speed, "STEPS", 1)
    monkeypatch.setattr(speed, "N_ROWS", 400)
    monkeypatch.setattr(speed, "N_EPOCHS", 2)
    monkeypatch.setattr(speed, "ROW_COUNTS", (100, 200))
    monkeypatch.setattr(speed, "PREDICTED_ROWS", 300)
    monkeypatch.setattr(speed, "OUTPUTS", {"full": [2], "low_rank": [3]})
    monkeypatch.setattr(speed, "MAP_SHAPE", (1000, 2))
    monkeypatch.setattr(speed, "MAP_PIECE", 500)
    path = tmp_path / "speed.csv"
    sizes = ["--repeats", "1", "--threads", "1", "--rows", "2000"]
    speed.main([*sizes, "--out", str(path)])
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    parts = {"step", "fit", "prediction", "boosting", "outputs", "rows", "memory map"}
    assert {row["part"] for row in rows} == parts
    assert all(float(row["median_s"]) > 0 for row in rows)
    out = capsys.readouterr().out
    # Each line of a table ends with a ratio or a size of its own.
    assert out.count("| periodic |") == 3
    assert out.count("| bins | ") == 2
    assert "MLPRegressor: " in out
    assert "times the products" in out
    assert "| full | 2 | 30 |" in out  # 5 * (1 + 2 + 2 + 1) numbers
    assert "| low_rank | 3 | 95 |" in out  # 5 * (1 + 3 + 3 + 4 * 3)
    assert "1000 x 2 float32 from a memory map" in out


class InProcess:
    """A pool that runs jobs in this process."""

    def __init__(self, n_processes):
        pass

    Pool = classmethod(lambda cls, n_processes: cls(n_processes))

    def __enter__(self):
        return self

    def __exit__(self, *details):
        pass

    def apply(self, function, arguments):
        return function(*arguments)


@pytest.mark.filterwarnings("ignore:y says nothing about:UserWarning")
@pytest.mark.parametrize("part", ["outputs", "features"])
def test_missing_values_are_compared_with_complete_tables(
    data, part, monkeypatch, capsys
):
    module = load_benchmark("missing")

    def small(random_state):
        return MDNRegressor(2, n_estimators=1, max_iter=9, random_state=random_state)

    monkeypatch.setattr(module, "MDNRegressor", small)
    out = data / "missing.csv"
    arguments = [
        "--data",
        str(data),
        "--part",
        part,
        "--sets",
        "two",
        "--out",
        str(out),
    ]
    for _ in range(2):  # the second run has nothing to do
        module.main([*arguments, "--splits", "0,1"])
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["split"] for row in rows] == ["0", "1"]
    with np.load(data / "two.npz") as arrays:
        X, y, (mask, _) = (arrays[name] for name in ("X", "y", "test_mask"))
    expected = -small(0).fit(X[~mask], y[~mask]).score(X[mask], y[mask])
    assert_allclose(float(rows[0]["complete"]), expected)
    assert len({row["missing"] for row in rows}) == 2
    assert rows[0]["missing"] != rows[0]["complete"]
    assert "other" in capsys.readouterr().out


TWO_CHECKOUTS = """
import sys
from pathlib import Path
import skmdn
from queries import load_checkout, query_task

before = load_checkout(Path(sys.argv[1]))
assert before is not skmdn
assert sys.modules["skmdn"] is skmdn
for library in (skmdn, before):
    density = library.MixtureDensity([[0.5, 0.5]], [[-1.0, 1.0]], [[2.0, 2.0]])
    print(query_task(density, library, "crps", [0.0])())
"""


def test_queries_of_two_checkouts_agree_and_do_not_mix():
    # In another process, where the lines of the second checkout are not counted.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COV_")}
    folder = ROOT / "benchmarks"
    printed = helpers.run_python("-c", TWO_CHECKOUTS, ROOT, cwd=folder, env=environment)
    now, before = printed.splitlines()
    assert now == before


@pytest.mark.parametrize("name", ["one", "two"])
def test_queries_of_a_table_are_timed_in_both(name, data, monkeypatch, capsys):
    queries = load_benchmark("queries")
    small = MDNRegressor(2, n_estimators=1, max_iter=2)
    monkeypatch.setattr(queries, "MDNRegressor", small.set_params)
    results = queries.Results(data / "speed.csv", 1)
    queries.time_table(data / f"{name}.npz", 3, 1, skmdn, results)
    first = {"one": queries.QUERIES, "two": queries.JOINT_QUERIES}[name][0]
    with results.path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["case"] for row in rows} == {f"{name}, 3 rows"}
    assert [row["task"] for row in rows[:2]] == [f"{first}, now", f"{first}, before"]
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[0].startswith(f"{name}: 3 rows, 2 components")
    assert all("ratio" in line for line in lines[1:])
    assert len(lines) == {"one": 5, "two": 4}[name]
