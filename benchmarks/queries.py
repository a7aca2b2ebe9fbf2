"""Time exact queries of densities, and sampling in comparison with other libraries.

    python benchmarks/queries.py                  skmdn and SciPy
    python benchmarks/queries.py --peers          also sampling by sbi and skpro
    python benchmarks/queries.py --table TABLE.npz --before CHECKOUT
    python benchmarks/queries.py --out speed.csv  append the medians to a file

The ratios are those of medians, measured alternately in this process. Peers are not
dependencies: install those that you need (`pip install sbi skpro`).

With `--table`, which can be repeated, the default fit of each table is timed instead,
on the test rows of its first split: here, and in another checkout of skmdn. Set
OMP_NUM_THREADS=1 to compare them on one core.
"""

from __future__ import annotations

import argparse
import platform
import resource
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import scipy
import torch
from _checkouts import load_checkout
from _results import Results
from _tables import load
from _timing import time_in_turn
from scipy import stats
from sklearn.model_selection import train_test_split

import skmdn
from skmdn import MDNRegressor, MixtureDensity
from skmdn.metrics import crps

N_ROWS = 100_000
QUERIES = "hdr", "modes", "entropy", "crps"
JOINT_QUERIES = "modes", "entropy", "hdr_level"
LEVELS = np.linspace(0.1, 0.9, 9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=N_ROWS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--table", type=Path, action="append", default=[])
    parser.add_argument("--before", type=Path, help="another checkout of skmdn")
    parser.add_argument("--out", type=Path, help="results")
    options = parser.parse_args()
    results = Results(options.out, torch.get_num_threads())
    print(
        f"{platform.machine()}, {torch.get_num_threads()} threads, "
        f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"SciPy {scipy.__version__}, skmdn {skmdn.__version__}"
    )
    if options.table:
        before = load_checkout(options.before) if options.before else None
        for path in options.table:
            time_table(path, options.rows, options.repeats, before, results)
    else:
        time_queries(options.rows, options.repeats, results)
        time_sampling(options.rows, options.repeats, options.peers, results)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory of this process: {peak:.0f} MiB")


def time_queries(n_rows: int, repeats: int, results: Results) -> None:
    """Time queries of one output and 40 components, in seconds per million rows."""
    rng = np.random.RandomState(0)
    n_components = 40
    density = MixtureDensity(
        rng.dirichlet(np.ones(n_components), n_rows),
        rng.normal(size=(n_rows, n_components)),
        np.exp(rng.normal(1, 0.5, size=(n_rows, n_components))),
    )
    y = density.sample(random_state=0)[:, 0]
    levels = LEVELS[:, None]
    flat = np.broadcast_to(levels, (len(LEVELS), n_rows)).copy()
    tasks = {
        "mean": (1, density.mean),
        "standard deviation": (1, density.std),
        "9 quantiles": (9, lambda: density.ppf(levels)),
        "SciPy norm.ppf, same number": (9, lambda: stats.norm.ppf(flat)),
        "CRPS": (1, lambda: crps(y, density)),
        "90 % HDR": (1, lambda: density.hdr(0.9)),
    }
    seconds = time_in_turn({name: task for name, (_, task) in tasks.items()}, repeats)
    results.append_medians("queries", f"{n_rows} rows", seconds)
    print(f"\n{n_rows} rows, {n_components} components, 1 output")
    print(f"{'query':28}{'s':>9}  {'s per million row-queries':>26}")
    for name, (n_queries, _) in tasks.items():
        per_million = seconds[name] / (n_rows * n_queries) * 1e6
        print(f"{name:28}{seconds[name]:9.3f}  {per_million:26.3f}")
    ratio = seconds["9 quantiles"] / seconds["SciPy norm.ppf, same number"]
    print(f"quantiles / norm.ppf: {ratio:.1f}")


def time_table(
    path: Path,
    n_rows: int,
    repeats: int,
    before: ModuleType | None,
    results: Results,
) -> None:
    """Time queries of the default fit of a table, in milliseconds per row."""
    X, y, masks = load(path)
    if masks is not None:
        is_test = masks[0].astype(bool)
    else:
        _, test = train_test_split(np.arange(len(X)), test_size=0.1, random_state=0)
        is_test = np.isin(np.arange(len(X)), test)
    mdn = MDNRegressor(random_state=0).fit(X[~is_test], y[~is_test])
    density, observed = mdn.predict_density(X[is_test][:n_rows]), y[is_test][:n_rows]
    parts = density.weights, density.means, density.precision_factors
    libraries: dict[str, Any] = {"now": skmdn}
    if before is not None:
        libraries["before"] = before
    print(
        f"\n{path.stem}: {len(density)} rows, {density.n_components} components, "
        f"{density.n_outputs} outputs; ms per row"
    )
    for query in QUERIES if density.n_outputs == 1 else JOINT_QUERIES:
        tasks = {
            name: query_task(library.MixtureDensity(*parts), library, query, observed)
            for name, library in libraries.items()
        }
        seconds = time_in_turn(tasks, repeats)
        case = f"{path.stem}, {len(density)} rows"
        medians = {f"{query}, {name}": value for name, value in seconds.items()}
        results.append_medians("queries of a fit", case, medians)
        each = {name: 1e3 * value / len(density) for name, value in seconds.items()}
        columns = "  ".join(f"{name} {value:9.3f}" for name, value in each.items())
        ratio = f"  ratio {each['before'] / each['now']:6.1f}" if before else ""
        print(f"{query:12}{columns}{ratio}")


def query_task(
    density: Any, library: Any, query: str, observed: Any
) -> Callable[[], object]:
    """Return a function that answers a query by the density of one checkout."""
    tasks: dict[str, Callable[[], object]] = {
        "modes": density.modes,
        "entropy": density.entropy,
        "crps": lambda: library.metrics.crps(observed, density),
        "hdr": lambda: density.hdr(0.9),
        "hdr_level": lambda: density.hdr_level(0.9),
    }
    return tasks[query]


def time_sampling(
    n_rows: int, repeats: int, with_peers: bool, results: Results
) -> None:
    """Time 100 draws of each row, for three outputs and 10 components."""
    rng = np.random.RandomState(0)
    shape, n_draws = (n_rows, 10, 3), 100
    roots = rng.normal(size=(*shape, 3))
    covariances = roots @ roots.swapaxes(-1, -2) + 0.1 * np.eye(3)
    weights, means = rng.dirichlet(np.ones(10), n_rows), rng.normal(size=shape)
    density = MixtureDensity.from_covariances(weights, means, covariances)
    tasks: dict[str, Callable[[], object]] = {"skmdn": lambda: density.sample(n_draws)}
    if with_peers:
        tasks["sbi"] = sbi_sampler(density, n_draws)
    seconds = time_in_turn(tasks, repeats)
    if with_peers:
        # skpro loops over rows in Python: time a hundredth of the rows, once.
        few = max(1, n_rows // 100)
        sampler = skpro_sampler(density[:few], n_draws)
        seconds["skpro"] = time_in_turn({"": sampler}, 1)[""] * n_rows / few
    results.append_medians("sampling", f"{n_rows} rows", seconds)
    print(f"\n{n_rows} rows, 10 components, 3 outputs, {n_draws} draws each")
    for name, value in seconds.items():
        print(f"{name:26}{value:9.3f} s  {value / seconds['skmdn']:8.1f} x skmdn")


def sbi_sampler(density: MixtureDensity, n_draws: int) -> Callable[[], object]:
    """Return a function that samples sbi's mixture with the same parameters."""
    from sbi.neural_nets.estimators.mog import MoG

    factors = torch.tensor(density.precision_factors)
    mixture = MoG(
        logits=torch.tensor(density.weights).log(),
        means=torch.tensor(density.means),
        precisions=factors.mT @ factors,
        precision_factors=factors,
    )
    return lambda: mixture.sample(torch.Size([n_draws]))


def skpro_sampler(density: MixtureDensity, n_draws: int) -> Callable[[], object]:
    """Return a function that samples skpro's diagonal mixture, its closest model."""
    from skpro.distributions.normal_mixture import NormalMixture

    stds = np.sqrt(np.diagonal(density.covariances, axis1=-2, axis2=-1))
    mixture = NormalMixture(pi=density.weights, mu=density.means, sigma=stds)
    return lambda: mixture.sample(n_draws)


if __name__ == "__main__":
    main()
