"""Time exact queries of densities, and sampling in comparison with other libraries.

    python benchmarks/queries.py                  skmdn and SciPy
    python benchmarks/queries.py --peers          also sampling by sbi and skpro

The ratios are those of medians, measured alternately in this process. Peers are not
dependencies: install those that you need (`pip install sbi skpro`).
"""

from __future__ import annotations

import argparse
import platform
import resource
from collections.abc import Callable

import numpy as np
import scipy
import torch
from _timing import time_in_turn
from scipy import stats

import skmdn
from skmdn import MixtureDensity
from skmdn.metrics import crps

N_ROWS = 100_000
LEVELS = np.linspace(0.1, 0.9, 9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=N_ROWS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peers", action="store_true")
    options = parser.parse_args()
    print(
        f"{platform.machine()}, {torch.get_num_threads()} threads, "
        f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"SciPy {scipy.__version__}, skmdn {skmdn.__version__}"
    )
    time_queries(options.rows, options.repeats)
    time_sampling(options.rows, options.repeats, with_peers=options.peers)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory of this process: {peak:.0f} MiB")


def time_queries(n_rows: int, repeats: int) -> None:
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
    print(f"\n{n_rows} rows, {n_components} components, 1 output")
    print(f"{'query':28}{'s':>9}  {'s per million row-queries':>26}")
    for name, (n_queries, _) in tasks.items():
        per_million = seconds[name] / (n_rows * n_queries) * 1e6
        print(f"{name:28}{seconds[name]:9.3f}  {per_million:26.3f}")
    ratio = seconds["9 quantiles"] / seconds["SciPy norm.ppf, same number"]
    print(f"quantiles / norm.ppf: {ratio:.1f}")


def time_sampling(n_rows: int, repeats: int, *, with_peers: bool) -> None:
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
