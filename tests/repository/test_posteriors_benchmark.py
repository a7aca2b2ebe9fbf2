"""The benchmark of posteriors runs, resumes and prints correct numbers."""

import csv

import numpy as np
import pytest
from helpers import load_benchmark
from numpy.testing import assert_allclose
from scipy import integrate, stats

from skmdn import MDNRegressor


@pytest.fixture
def posteriors(monkeypatch, benchmark_modules):
    module = load_benchmark("posteriors")

    def small(**params):
        return MDNRegressor(2, n_estimators=1, max_iter=2, **params)

    monkeypatch.setattr(module, "MDNRegressor", small)
    monkeypatch.setattr(module, "N_DRAWS", 200)
    return module


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "sbibm"
    folder.mkdir()
    rng = np.random.RandomState(0)
    np.savez(
        folder / "two_moons.npz",
        observations=rng.normal(size=(3, 2)),
        reference_samples=rng.uniform(-1, 1, size=(3, 200, 2)),
    )
    header = "table,task,algorithm,num_simulations,c2st_mean,c2st_min,c2st_max\n"
    rows = (
        "main_paper,two_moons,NPE,60,0.625,0.6,0.65\n"
        "supplement_hyperparameters_snpe,two_moons,NPE-MAF,60,0.875,0.8,0.9\n"
        "main_paper,gaussian_mixture,NPE,60,0.9,0.9,0.9\n"
        "gaussian_mixture_rerun,gaussian_mixture,NPE,60,0.7,0.65,0.75\n"
    )
    (folder / "sbibm_published.csv").write_text(header + rows)
    return tmp_path


def test_every_observation_is_judged_once(posteriors, data, capsys):
    out = data / "out.csv"
    arguments = ["--data", str(data), "--out", str(out), "--tasks", "two_moons"]
    arguments += ["--n", "60", "--peers", "skmdn,skmdn_support", "--observations"]
    posteriors.main([*arguments, "2"])
    posteriors.main([*arguments, "1,2,3"])
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    keys = [(row["peer"], row["observation"]) for row in rows]
    assert len(keys) == len(set(keys)) == 6
    assert {float(row["accepted"]) for row in rows[1:2]} == {1.0}  # of the support
    values = [float(row["c2st"]) for row in rows if row["peer"] == "skmdn"]
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith(f"| two_moons | 60 | {np.mean(values):.3f} (3) |")
    assert "| 0.625 (0.60 to 0.65) | 0.875 (0.80 to 0.90) |" in line


def test_published_figures_of_the_mixture_are_the_rerun(posteriors, data):
    found = posteriors.published(data)
    assert found["gaussian_mixture", 60] == {"NPE-NSF": "0.700 (0.65 to 0.75)"}
    assert posteriors.published(None) == {}


def test_unknown_peers_are_named(posteriors, data, capsys):
    with pytest.raises(SystemExit):
        posteriors.main(["--data", str(data), "--peers", "nobody"])
    assert "unknown peer: nobody; known peers are skmdn" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_c2st_is_the_accuracy_of_the_best_classifier(posteriors, shift):
    """Between N(0, I) and N(shift, I), along one axis, it is Phi(shift / 2)."""
    rng = np.random.RandomState(0)
    reference = 5 + 3 * rng.normal(size=(2000, 2))
    samples = 5 + 3 * rng.normal([shift, 0], size=(2000, 2))
    expected = stats.norm.cdf(shift / 2)
    assert_allclose(posteriors.c2st(reference, samples), expected, atol=0.025)


def test_draws_are_those_in_the_support(posteriors):
    def draw(at, n, seed):
        return at + np.random.RandomState(seed).normal(size=(n, 2))

    for support, share in (
        ((-1.0, 1.0), (2 * stats.norm.cdf(1) - 1) ** 2),
        ((0.0, None), 0.25),
        (None, 1.0),
    ):
        draws, accepted = posteriors.draw_inside(draw, np.zeros(2), support, 5000)
        assert draws.shape == (5000, 2)
        assert posteriors.is_inside(draws, support).all()
        assert_allclose(accepted, share, atol=0.02)
    with pytest.raises(ValueError, match="draws are in the support"):
        posteriors.draw_inside(draw, np.full(2, 99.0), (-1.0, 1.0), 2)


def test_trajectories_are_those_of_an_adaptive_solver(posteriors):
    from _simulators import infected, log_populations

    beta, gamma = 0.7, 0.13

    def epidemic(t, state):
        s, i = state
        return [-beta * s * i, beta * s * i - gamma * i]

    times = 17.0 * np.arange(10)
    options = {"rtol": 1e-10, "atol": 1e-14}
    found = integrate.solve_ivp(
        epidemic, (0, 154), [1 - 1e-6, 1e-6], t_eval=times, **options
    )
    assert_allclose(infected(np.array([[beta, gamma]]))[0], found.y[1], rtol=1e-4)

    a, b, c, d = 0.7, 0.06, 1.2, 0.05

    def populations(t, state):
        prey, predators = state
        return [a * prey - b * prey * predators, d * prey * predators - c * predators]

    times = 2.1 * np.arange(10)
    found = integrate.solve_ivp(
        populations, (0, 19), [30.0, 1.0], t_eval=times, **options
    )
    logs = log_populations(np.array([[a, b, c, d]]))[0]
    assert_allclose(np.exp(logs), found.y.ravel(), rtol=1e-6)
