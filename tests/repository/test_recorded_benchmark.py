"""The scores of recorded.py against sums over all recorded values."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import load_benchmark
from numpy.testing import assert_allclose
from scipy import stats

Y = np.array([2.0, 0.0, 41.0])


@pytest.fixture(autouse=True)
def threads_are_restored():
    """Replace the guard: benchmarks set threads."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


pytestmark = pytest.mark.usefixtures("benchmark_modules")


def log_normals():
    return stats.lognorm(np.array([0.5, 1.0, 0.2]), scale=np.array([3.0, 5.0, 40.0]))


def densities():
    from _recorded import ZeroAdjusted

    gate = np.array([0.6, 0.2, 0.0])
    return {
        "log-normal": log_normals(),
        "zero-adjusted": ZeroAdjusted(gate, log_normals()),
    }


def test_distributions_between_quantiles_agree_with_themselves():
    from _recorded import FromQuantiles

    levels = np.array([0.1, 0.3, 0.5, 0.9])
    quantiles = np.array([[0.0, 1.0, 3.0, 4.0], [2.0, 2.0, 1.0, 5.0]])
    density = FromQuantiles.of(levels, quantiles)
    q = np.array([1e-3, 0.05, 0.1, 0.2, 0.5, 0.7, 0.95, 0.999])[:, None]
    for level, values in zip(q[:, 0], density.ppf(q), strict=True):
        assert_allclose(density.cdf(values), level, rtol=1e-9)
        assert_allclose(density.sf(values), 1 - level, rtol=1e-9)
    nodes = (np.arange(200_000)[:, None] + 0.5) / 200_000
    assert_allclose(density.mean(), density.ppf(nodes).mean(axis=0), rtol=1e-4)
    assert_allclose(density.ppf(levels[:, None])[:, 0], quantiles[0], atol=2e-5)


@pytest.mark.parametrize("name", ["log-normal", "zero-adjusted"])
def test_scores_of_recorded_values_are_sums_over_cells(name):
    from _recorded import cell_probability, recorded_crps

    density, grid = densities()[name], np.arange(5000.0)[:, None]
    below = np.where(grid > 0, density.cdf(grid - 0.5), 0.0)
    masses = density.cdf(grid + 0.5) - below  # (5000, 3), of 0, 1, 2, ...
    assert_allclose(masses.sum(axis=0), 1, atol=1e-9)
    probability = cell_probability(density, Y, 1.0, 0.0)
    assert_allclose(probability, masses[Y.astype(int), range(3)], rtol=1e-9)
    crps = ((masses.cumsum(axis=0) - (grid >= Y)) ** 2).sum(axis=0)
    assert_allclose(recorded_crps(density, Y, 1.0, 0.0), crps, rtol=0.01)


def test_cells_are_accurate_in_the_upper_tail():
    from _recorded import cell_probability

    density, y = stats.norm(np.zeros(1), 1.0), np.array([20.0])
    truth = density.pdf(y) * 1e-3
    assert_allclose(cell_probability(density, y, 1e-3, -np.inf), truth, rtol=1e-3)


def test_coverage_counts_the_part_of_a_cell_inside_the_interval():
    from _recorded import cell_coverage

    # The interval is [0.05, 0.95]; the cells are [-0.05, 0.15], [0.4, 0.6], [1.9, 2.1].
    density = stats.uniform(np.zeros(3), 1.0)
    coverage = cell_coverage(density, np.array([0.05, 0.5, 2.0]), 0.2, -np.inf)
    assert_allclose(coverage, [2 / 3, 1, 0])


def test_a_discrete_density_has_its_masses():
    from _recorded import Discrete, recorded_scores

    masses = np.array([[0.2, 0.3, 0.5], [0.1, 0.9, 0.0]])
    density = Discrete(np.array([3.0, 4.0, 6.0]), masses)
    y = np.array([4.0, 5.0])
    assert_allclose(density.cdf(np.array([3.5, 6.0])), [0.2, 1.0])
    assert_allclose(density.ppf(np.array([[0.1], [0.4]])), [[3, 3], [4, 4]])
    scores = recorded_scores(density, y, 1.0, origin=3.0, floor=1e-6)
    assert_allclose(scores["log_cell"], (np.log(0.3) + np.log(1e-6)) / 2)
    # Sums of (F - 1{y <= t})^2 over [3, 4), [4, 5), [5, 6).
    crps = 0.2**2 + 2 * 0.5**2, 0.1**2 + 1.0**2 + 0.0**2
    assert_allclose(scores["crps"], np.mean(crps), rtol=0.02)
    assert_allclose(scores["rmse"], np.sqrt(((4.8 - 4) ** 2 + (3.9 - 5) ** 2) / 2))
    assert scores["zeros_seen"] == scores["negative"] == 0


def test_rare_values_are_pooled_with_their_neighbours():
    module = load_benchmark("_table_models")
    y = np.repeat([1.0, 2.0, 3.0, 9.0], [6, 2, 9, 1])
    values, classes, shares = module.pooled_classes(y)
    assert_allclose(values, [1, 2, 3, 9])
    assert classes.tolist() == [0, 1, 1, 1]
    assert_allclose(shares, [1, 2 / 12, 9 / 12, 1 / 12])
    _, classes, _ = module.pooled_classes(np.arange(1000.0))
    assert 32 <= classes.max() + 1 <= module.MAX_CLASSES


def test_it_runs_and_resumes(tmp_path, capsys):
    module = load_benchmark("recorded")
    folder = tmp_path / "tables"
    folder.mkdir()
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"a": rng.normal(size=60), "b": rng.choice(["u", "v"], size=60)})
    X.loc[3, "a"] = np.nan
    X.loc[4, "b"] = None
    table = X.assign(mass=25.0 * rng.integers(0, 9, size=60))
    table.to_csv(folder / "penguins.csv.gz", index=False)
    meta = {"target": "mass", "categorical": ["b"]}
    (folder / "penguins.json").write_text(json.dumps(meta))
    small = {"n_components": 2, "n_estimators": 4, "max_iter": 2}
    arguments = [
        *("--data", str(tmp_path), "--out", str(tmp_path / "out.csv")),
        *("--sets", "penguins", "--folds", "1", "--peers", "skmdn"),
        *("--params", json.dumps(small), "--split", "inner"),
    ]
    module.main(arguments)
    first = capsys.readouterr().out
    module.main(arguments)
    assert "log-lik" in first
    (row,) = module.read(tmp_path / "out.csv")
    assert (row["set"], row["fold"], row["step"]) == ("penguins", "1", "25.0")
    assert float(row["negative"]) == 0
    inside = [float(row[name]) for name in module.INSIDE]
    assert 0 <= inside[0] <= inside[1] <= inside[2] <= inside[3] <= 1
    given = SimpleNamespace(split="inner", data=tmp_path, part="tables", folds=[1])
    given.sets = ["penguins"]
    ((*_, load_split),) = module.splits(given)
    assert len(load_split().y_test) == 12
