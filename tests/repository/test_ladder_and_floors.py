"""The scores of ladder.py and floors.py against other computations of them."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import load_benchmark
from numpy.testing import assert_allclose
from scipy import integrate, stats
from sklearn.linear_model import LinearRegression, RidgeCV
from sklearn.preprocessing import StandardScaler

from skmdn import MDNRegressor

SMALL = {"n_components": 2, "n_estimators": 1, "max_iter": 2}


@pytest.fixture(autouse=True)
def threads_are_restored():
    """Replace the guard: benchmarks set threads."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


pytestmark = pytest.mark.usefixtures("benchmark_modules")


def read(path):
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


# -- the grid of the ladder -------------------------------------------------------


def test_scores_on_the_grid_are_those_of_a_gaussian():
    from _grid import grid_of, grid_scores

    rng = np.random.RandomState(0)
    mean, std = rng.uniform(0.3, 0.7, size=400), 0.05
    y = rng.normal(mean, std)
    grid = grid_of(np.array([0.0, 1.0, 0.4]))
    assert_allclose(grid[[0, -1]], [-0.05, 1.05])
    assert len(grid) == 200
    truth = stats.norm(mean, std)
    # The densities need not be normalised.
    pdf = 7 * stats.norm(mean[:, None], std).pdf(grid)
    scores = grid_scores(pdf, grid, y)
    # Linear interpolation adds at most h^2 f'' / 8.
    step = grid[1] - grid[0]
    assert_allclose(scores["log_lik"], truth.logpdf(y).mean(), atol=(step / std) ** 2)
    z = (y - mean) / std
    crps = std * (
        z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi)
    )
    # The cumulative sum is ahead of the distribution function by half a step.
    assert_allclose(scores["crps"], crps.mean(), atol=step / 2)
    square_mass = 1 / (2 * std * np.sqrt(np.pi))
    cde_loss = square_mass - 2 * truth.pdf(y).mean()
    assert_allclose(scores["cde_loss"], cde_loss, rtol=0.01)
    pit = stats.kstest(truth.cdf(y), "uniform").statistic
    half_step = truth.pdf(mean).max() * step / 2
    assert_allclose(scores["pit_ks"], pit, atol=half_step)
    assert abs(scores["coverage_90"] - (np.abs(z) < stats.norm.ppf(0.95)).mean()) < 0.03


def test_the_grid_has_its_edges_and_its_floor():
    from _grid import grid_scores

    grid = np.linspace(0.0, 1.0, 200)
    flat = np.ones((3, 200))
    scores = grid_scores(flat, grid, np.array([0.25, 0.5, 2.0]))
    assert_allclose(scores["log_lik"], np.log(1e-10) / 3)
    assert_allclose(scores["coverage_90"], 2 / 3)
    # Between grid points the density is linear; all mass is at the point 0.
    spike = np.zeros((1, 200))
    spike[0, 0] = 1.0
    scores = grid_scores(spike, grid, grid[1:2] / 4)
    assert_allclose(scores["log_lik"], np.log(0.75 * 2 * 199))
    # A density that misses every point has no mass.
    nothing = grid_scores(np.zeros((1, 200)), grid, np.array([0.5]))
    assert_allclose(nothing["log_lik"], np.log(1e-10))
    assert_allclose(nothing["crps"], 0.5, atol=0.01)


def test_splits_of_the_ladder_are_nested_and_standardised():
    from _tables import ladder_split

    y = np.arange(200.0)
    X = np.column_stack([y**2, np.ones(200)])
    first = np.random.RandomState(42).permutation(200)[:80]
    X_train, X_test, y_train, y_test = ladder_split(X, y, 80, 3)
    assert len(y_train) == 60
    assert {*y_train, *y_test} == {*first}
    assert_allclose(X_train.mean(axis=0), 0, atol=1e-12)
    assert_allclose(X_train.std(axis=0), [1, 0], atol=1e-12)
    squares = y_train**2
    assert_allclose(X_test[:, 0], (y_test**2 - squares.mean()) / squares.std())
    inner = ladder_split(X, y, 80, 3, inner=True)
    assert {*inner[2], *inner[3]} == {*y_train}
    assert len(inner[3]) == 15


@pytest.mark.parametrize("name", ["Elevators", "Kin8nm"])
def test_the_protocol_reproduces_a_published_baseline(name, request):
    """Least squares, constant sigma over n - p - 1: the authors' LinearGauss-Homo."""
    from _grid import grid_of, grid_scores
    from _tables import ladder_split, load

    data = request.config.getoption("--data")
    if data is None or not (Path(data) / "ladder").exists():
        pytest.skip("needs the ladder: --data DIR or SKMDN_DATA")
    folder = Path(data) / "ladder"
    (row,) = (r for r in read(folder / "ladder_sets.csv") if r["set"] == name)
    X, y, _ = load(folder / f"{name}.npz")
    found = []
    for repetition in range(int(row["reps1000"])):
        X_train, X_test, y_train, y_test = ladder_split(X, y, 1000, repetition)
        model = LinearRegression().fit(X_train, y_train)
        df = len(y_train) - X.shape[1] - 1
        std = np.sqrt(((y_train - model.predict(X_train)) ** 2).sum() / df)
        grid = grid_of(y_train)
        pdf = stats.norm(model.predict(X_test)[:, None], std).pdf(grid)
        found.append(grid_scores(pdf, grid, y_test)["log_lik"])
    assert round(np.mean(found), 4) == float(row["lin1000"])
    # The published mean of Kin8nm differs by 4e-4, a fiftieth of its standard error.
    assert_allclose(np.mean(found), float(row["pub1000"]), atol=5e-4)


@pytest.fixture
def ladder_folder(tmp_path):
    rng = np.random.RandomState(0)
    folder = tmp_path / "ladder"
    folder.mkdir()
    for name in ("Bank8FM", "one"):
        X = rng.normal(size=(90, 2))
        np.savez(folder / f"{name}.npz", X=X, y=X[:, 0] + rng.normal(size=90))
    with (folder / "ladder_published.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["set", "n", "method", "metric", "mean", "se"])
        for method, log_lik, crps in (
            ("MDN", -7, 3.5),
            ("FlexCode-RF", -9, 4.5),
            ("TabICLv2", -5, 0.125),
        ):
            writer.writerow(["Bank8FM", 80, method, "log_lik", log_lik, 0.1])
            writer.writerow(["Bank8FM", 80, method, "crps", crps, 0.1])
    return tmp_path


def test_ladder_runs_resumes_and_compares(ladder_folder, capsys):
    ladder = load_benchmark("ladder")
    out, other = ladder_folder / "out.csv", ladder_folder / "other.csv"

    def run(path, *arguments, params=SMALL):
        ladder.main(
            [
                *("--data", str(ladder_folder), "--out", str(path), "--n", "80,500"),
                *("--params", json.dumps(params), *arguments),
            ]
        )
        return read(path)

    first = run(out, "--sets", "Bank8FM", "--reps", "1")
    rows = run(out, "--reps", "0,1")
    assert rows[0] == first[0]
    keys = [(row["set"], row["n"], row["repetition"]) for row in rows]
    assert sorted(keys) == [(s, "80", r) for s in ("Bank8FM", "one") for r in "01"]
    mean = np.mean([float(r["log_lik"]) for r in rows if r["set"] == "Bank8FM"])
    printed = capsys.readouterr().out
    assert f"| Bank8FM | 80 | 2 | {mean:.3f} | -7.000 | -5.000 |" in printed
    assert "| 3.5 | 0.125 |" in printed
    assert f"minus the best pretrained: {mean + 5:+.4f}" in printed
    with pytest.raises(SystemExit, match="give another --out"):
        run(out, params=SMALL | {"max_iter": 3})
    later = run(other, "--reps", "1", params=SMALL | {"max_iter": 3})
    capsys.readouterr()
    run(out, "--report", "--against", str(other))
    gain = float(first[0]["log_lik"]) - float(later[0]["log_lik"])
    assert f"| Bank8FM | 80 | 1 | {gain:+.3f} ± nan |" in capsys.readouterr().out
    # The second set of the alphabet is for choices; inner splits have other test rows.
    inner = run(ladder_folder / "inner.csv", "--sets", "choice", "--split", "inner")
    assert {row["set"] for row in inner} == {"one"}
    assert inner[1]["nll"] != rows[-1]["nll"]


def test_ladder_scores_are_exact_where_no_grid_is_needed():
    ladder = load_benchmark("ladder")
    rng = np.random.RandomState(0)
    X, y = rng.normal(size=(60, 1)), rng.normal(size=60)
    scores = ladder.judge(X[:40], X[40:], y[:40], y[40:], SMALL | {"random_state": 0})
    density = MDNRegressor(**SMALL, random_state=0).fit(X[:40], y[:40])
    density = density.predict_density(X[40:])
    assert_allclose(scores["nll"], -density.logpdf(y[40:]).mean())
    tails = density.cdf(y[40:])
    assert_allclose(scores["coverage"], ((tails > 0.05) & (tails < 0.95)).mean())


# -- the baselines of floors.py -----------------------------------------------------


@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("ridge", [False, True])
def test_linear_models_are_those_of_scikit_learn(d, ridge):
    from _baselines import ALPHAS, fit_linear

    rng = np.random.RandomState(0)
    X = rng.normal(size=(40, 5)) * [1, 10, 0.1, 1, 1] + [0, 5, 0, 0, 0]
    X[:, 4] = 2 * X[:, 0]  # the rank is 4
    y = X[:, :d] + rng.normal(size=(40, d))
    found = fit_linear(X, y[:, 0] if d == 1 else y, ridge)
    Z = StandardScaler().fit_transform(X)
    model = (RidgeCV(ALPHAS) if ridge else LinearRegression()).fit(Z, y)
    assert_allclose(found.mean(X), model.predict(Z).reshape(40, d))
    # Trace of the matrix that maps y to its fitted values, by columns of the identity.
    alpha = model.alpha_ if ridge else 1e-10
    hat = Z @ np.linalg.solve(Z.T @ Z + alpha * np.eye(5), Z.T)
    residuals = y - model.predict(Z).reshape(40, d)
    cov = residuals.T @ residuals / (40 - 1 - np.trace(hat))
    assert_allclose(found.cov, cov, rtol=1e-6)
    expected = [
        stats.multivariate_normal(mean, found.cov).logpdf(target)
        for mean, target in zip(found.mean(X), y, strict=True)
    ]
    assert_allclose(found.logpdf(X, y), expected)


def test_baselines_of_y_alone_are_densities():
    from _baselines import fit_gaussian, mixture_logpdf

    rng = np.random.RandomState(0)
    y = 1e-4 * np.concatenate([rng.normal(size=100), rng.normal(9, 2, size=100)])
    grid = 1e-4 * np.linspace(-20, 40, 4001)
    mass = integrate.trapezoid(np.exp(mixture_logpdf(y, grid, 0)), grid)
    assert_allclose(mass, 1, rtol=1e-6)
    X = np.zeros((200, 3))
    expected = stats.norm(y.mean(), y.std(ddof=1)).logpdf(y)
    assert_allclose(fit_gaussian(X, y).logpdf(X, y), expected)


def test_simulators_have_the_moments_of_their_definitions(tmp_path):
    from _simulators import SIMULATORS

    rng, n = np.random.RandomState(0), 20000
    design = np.column_stack([np.ones(100), rng.normal(size=(100, 9))])
    (tmp_path / "sbibm").mkdir()
    np.savez(tmp_path / "sbibm" / "bernoulli_glm.npz", design_matrix=design)
    # The trajectories of the others are tested with the benchmark of posteriors.
    drawn = {
        name: make(n, rng, tmp_path)
        for name, make in SIMULATORS.items()
        if name not in ("sir", "lotka_volterra")
    }

    theta, x = drawn["two_moons"]
    centre = [0.25, 0] + np.column_stack(
        [-np.abs(theta.sum(axis=1)), np.diff(theta, axis=1)[:, 0]]
    ) / np.sqrt(2)
    radius = np.linalg.norm(x - centre, axis=1)
    assert_allclose([radius.mean(), radius.std()], [0.1, 0.01], rtol=0.05)
    assert (x[:, 0] >= centre[:, 0]).all()  # half a moon

    theta, x = drawn["gaussian_linear_uniform"]
    assert_allclose(np.cov((x - theta).T), 0.1 * np.eye(10), atol=0.005)
    assert_allclose(theta.var(axis=0), 1 / 3, rtol=0.05)

    theta, x = drawn["gaussian_linear"]
    assert_allclose(np.cov((x - theta).T), 0.1 * np.eye(10), atol=0.005)
    assert_allclose(np.cov(theta.T), 0.1 * np.eye(10), atol=0.005)

    theta, x = drawn["gaussian_mixture"]
    assert_allclose(theta.var(axis=0), 400 / 12, rtol=0.03)
    # Both coordinates have the same standard deviation: 0.1, or 1 as often.
    is_near = (np.abs(x - theta) < 0.3).all(axis=1).mean()
    both = [(2 * stats.norm.cdf(0.3 / std) - 1) ** 2 for std in (0.1, 1.0)]
    assert_allclose(is_near, np.mean(both), atol=0.01)

    theta, x = drawn["slcp"]
    assert x.shape == (n, 8)
    z = (x.reshape(n, 4, 2) - theta[:, None, :2]) / theta[:, None, 2:4] ** 2
    wide = np.abs(theta[:, 2:4]).min(axis=1) > 0.3
    products = z[wide].prod(axis=2).mean(axis=1) - np.tanh(theta[wide, 4])
    assert_allclose(products.mean(), 0, atol=0.03)
    assert_allclose(z[wide].var(axis=(0, 1)), 1, rtol=0.03)
    assert abs(np.corrcoef(z[wide, 0, 0], z[wide, 1, 0])[0, 1]) < 0.03

    theta, x = drawn["bernoulli_glm"]
    F = np.diag(np.sqrt(np.arange(9) / 9))
    for i in range(9):
        for lag, value in enumerate((1, -2, 1)):
            if i >= lag:
                F[i, i - lag] += value
    expected = np.zeros((10, 10))
    expected[0, 0], expected[1:, 1:] = 2, np.linalg.inv(F.T @ F)
    assert_allclose(np.cov(theta.T), expected, atol=0.05 * expected.max())
    spikes = 1 / (1 + np.exp(-theta @ design.T))
    assert_allclose(x.mean(axis=0), (spikes @ design).mean(axis=0), atol=0.4)


@pytest.fixture
def floors(monkeypatch):
    module = load_benchmark("floors")
    monkeypatch.setattr(module, "MDNRegressor", small_with_folds)
    return module


def small_with_folds(**params):
    return MDNRegressor(2, n_estimators=4, max_iter=2, **params)


def test_floors_compare_with_every_baseline(floors, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(floors, "OUTPUTS", (1, 2))
    monkeypatch.setattr(floors, "LINEAR_ROWS", 100)
    monkeypatch.setattr(floors, "FEW_ROWS", (12,))
    monkeypatch.setattr(floors, "TASKS", (("two_moons", 60),))
    monkeypatch.setattr(floors, "SEEDS", dict.fromkeys(floors.SEEDS, 1))
    rng = np.random.RandomState(0)
    X, y = rng.normal(size=(90, 2)), rng.normal(size=(90, 2))
    masks = np.arange(90)[None] < 9
    for name, arrays in {
        "multi/joint": {"y": y, "test_mask": masks},
        "ladder/single": {"y": y[:, 0]},
    }.items():
        path = tmp_path / f"{name}.npz"
        path.parent.mkdir()
        np.savez(path, X=X, **arrays)
    out = tmp_path / "out.csv"
    arguments = ["--data", str(tmp_path), "--out", str(out)]
    floors.main([*arguments, "--parts", "linear"])
    floors.main([*arguments, "--max-rows", "80"])
    rows = {(row["part"], row["case"]): row for row in read(out)}
    assert len(read(out)) == len(rows) == 2 + 2 + 1 + 1
    for d in (1, 2):
        row = rows["linear", f"d = {d}"]
        # The entropy of N(., 0.05 I); least squares lose a little.
        entropy = d / 2 * np.log(2 * np.pi * np.e * 0.05)
        assert_allclose(float(row["truth"]), entropy, atol=0.05)
        assert 0 < float(row["linear"]) - float(row["truth"]) < 0.2
        marginal = d / 2 * np.log(2 * np.pi * np.e * 0.1)
        assert_allclose(float(row["marginal"]), marginal, atol=0.1)
    assert_allclose(
        float(rows["few", "p = 3"]["truth"]),
        stats.norm(scale=0.5).entropy(),
        atol=0.1,
    )
    # Joint has 81 rows for fitting and is left out; single has 3/4 of 90.
    assert rows["tables", "ladder/single"]["n"] == "67"
    assert float(rows["tables", "ladder/single"]["distinct"]) == 1.0
    assert f"| d = 1 | 100 | 1 | {float(rows['linear', 'd = 1']['nll']):.3f} |" in (
        capsys.readouterr().out
    )


def test_out_of_fold_likelihood_is_compared_with_cross_validated_ones(floors):
    from _baselines import fit_linear

    rng = np.random.RandomState(0)
    X = rng.normal(size=(160, 2))
    y = X @ [[1.0, 0.0], [0.5, 1.0]] + rng.normal(size=(160, 2))
    scores = floors.out_of_fold(X, y, 0)
    expected = -fit_linear(X, y, ridge=True).logpdf(X, y).mean()
    assert_allclose(scores["linear"], expected, atol=0.1)
    assert scores["linear"] > expected
    total = stats.multivariate_normal(y.mean(axis=0), np.cov(y.T)).logpdf(y).mean()
    assert_allclose(scores["marginal"], -total, atol=0.3)
    mdn = small_with_folds(random_state=0).fit(X, y)
    assert_allclose(scores["nll"], -mdn.oof_score_)
