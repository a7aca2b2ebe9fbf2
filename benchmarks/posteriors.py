"""Estimate posteriors of simulators: the tasks of the benchmark sbibm.

    python benchmarks/posteriors.py --data DIR --n 1000 --observations 1
    python benchmarks/posteriors.py --data DIR --tasks slcp,sir --peers skmdn,sbi_nsf
    python benchmarks/posteriors.py --data DIR --report

A model is fitted to n pairs of parameters and simulations, and its density given an
observation is compared with the reference posterior. The definitions of the tasks, the
observations and 10,000 reference samples for each are those of sbibm 1.1.0 (Lueckmann
et al., "Benchmarking simulation-based inference", AISTATS 2021); DIR/sbibm has them as
NAME.npz with the arrays observations and reference_samples.

c2st is the score of that publication: the accuracy of a classifier that is trained to
tell 10,000 samples of the model from the reference samples; 0.5 is perfect, 1 is worst.
Published figures are means over ten observations, each with simulations of its own;
here one fit answers all observations. They are read from
DIR/sbibm/sbibm_published.csv: NPE with two kinds of normalising flows. That of
gaussian_mixture is the rerun of the authors after a correction, of one kind only.

skmdn: MDNRegressor with its defaults, and target_support for positive parameters.
skmdn_support: target_support also for parameters in an interval, whose priors are
uniform here; held-out log-likelihood is higher without it. skmdn_log: as skmdn, on the
logarithms of the simulations, which must be positive. sbi_nsf, sbi_maf, sbi_mdn: NPE of
the package sbi with its defaults (version: constraints-bench.txt). Samples outside the
support of the prior are drawn again.

Each (task, n, peer, seed, observation) is appended to --out as one row as soon as it is
done, so that a stopped run can be resumed. `accepted` is the share of the samples that
lie in the support.
"""

from __future__ import annotations

import argparse
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _results import Results, integers, machine, names, parser_of
from _simulators import SIMULATORS, SUPPORTS
from _summary import read
from _tables import Array
from _timing import Clock
from numpy.random import RandomState
from sklearn.model_selection import KFold, cross_val_score
from sklearn.neural_network import MLPClassifier

import skmdn
from skmdn import MDNRegressor

Support = tuple[float | None, float | None] | None
# From an observation (p,), a number of draws and a seed to draws (n, d).
Draw = Callable[[Array, int, int], Array]

N_DRAWS = 10_000
MOST_ROUNDS = 1000  # of draws, before a posterior outside its support is given up


# -- peers: fit(x, theta, support, seed) returns a function that draws ---------------


def fit_skmdn(x: Array, theta: Array, support: Support, seed: int) -> Draw:
    is_interval = support is not None and None not in support
    return fit_with_support(x, theta, None if is_interval else support, seed)


def fit_with_support(x: Array, theta: Array, support: Support, seed: int) -> Draw:
    model = MDNRegressor(target_support=support, random_state=seed).fit(x, theta)

    def draw(at: Array, n: int, seed: int) -> Array:
        return model.sample(at[None], n, random_state=seed)[0]

    return draw


def fit_on_logs(x: Array, theta: Array, support: Support, seed: int) -> Draw:
    draw = fit_skmdn(np.log(x), theta, support, seed)
    return lambda at, n, seed: draw(np.log(at), n, seed)


def fit_sbi(kind: str, x: Array, theta: Array, support: Support, seed: int) -> Draw:
    from sbi.inference import NPE

    torch.manual_seed(seed)
    inference = NPE(density_estimator=kind, show_progress_bars=False)
    inference.append_simulations(
        *(torch.as_tensor(part, dtype=torch.float32) for part in (theta, x))
    )
    model = inference.train()

    def draw(at: Array, n: int, seed: int) -> Array:
        torch.manual_seed(seed)
        condition = torch.as_tensor(at[None], dtype=torch.float32)
        with torch.no_grad():
            return model.sample((n,), condition)[:, 0].double().numpy()

    return draw


PEERS: dict[str, Callable[[Array, Array, Support, int], Draw]] = {
    "skmdn": fit_skmdn,
    "skmdn_support": fit_with_support,
    "skmdn_log": fit_on_logs,
    **{f"sbi_{kind}": partial(fit_sbi, kind) for kind in ("nsf", "maf", "mdn")},
}


# -- evaluation ---------------------------------------------------------------------


def is_inside(theta: Array, support: Support) -> Any:
    """Return which of the rows (n, d) lie in the support of the prior, (n,)."""
    low, high = support or (None, None)
    above = theta > (-np.inf if low is None else low)
    below = theta < (np.inf if high is None else high)
    return (above & below & np.isfinite(theta)).all(axis=1)


def draw_inside(draw: Draw, at: Array, support: Support, n: int) -> tuple[Array, float]:
    """Return n draws in the support, and the share of draws that were."""
    kept, n_kept, n_drawn = [], 0, 0
    for seed in range(MOST_ROUNDS):
        draws = draw(at, n, seed)
        kept.append(draws[is_inside(draws, support)])
        n_kept, n_drawn = n_kept + len(kept[-1]), n_drawn + n
        if n_kept >= n:
            return np.concatenate(kept)[:n], n_kept / n_drawn
    raise ValueError(f"{n_kept} of {n_drawn} draws are in the support of the prior")


def c2st(reference: Array, samples: Array) -> float:
    """Return the accuracy of a classifier of the two samples, each (n, d).

    The same network, folds, seed and standardisation as in sbibm.
    """
    d = reference.shape[1]
    mean, std = reference.mean(axis=0), reference.std(axis=0, ddof=1)
    classifier = MLPClassifier((10 * d, 10 * d), max_iter=1000, random_state=1)
    scores = cross_val_score(
        classifier,
        (np.concatenate([reference, samples]) - mean) / std,
        np.repeat([0, 1], [len(reference), len(samples)]),
        cv=KFold(5, shuffle=True, random_state=1),
    )
    return float(scores.mean())


def judge(
    draw: Draw, at: Array, reference: Array, support: Support
) -> dict[str, float]:
    clock = Clock()
    samples, accepted = draw_inside(draw, at, support, N_DRAWS)
    draw_cpu, clock = clock.cpu(), Clock()
    return {
        "c2st": c2st(reference, samples),
        "accepted": accepted,
        "draw_cpu": draw_cpu,
        "c2st_cpu": clock.cpu(),
    }


def version(peer: str) -> str:
    ours = peer.startswith("skmdn")  # imported, but perhaps not installed
    return skmdn.__version__ if ours else metadata.version("sbi")


def run(options: argparse.Namespace) -> None:
    """Append a row for every observation that is not in the file yet."""
    columns = ("task", "n", "peer", "seed", "observation")
    results = Results(options.out, options.threads)
    done = {tuple(row[name] for name in columns) for row in results.rows}
    for n in options.n:
        for task in options.tasks:
            for peer in options.peers:
                keys = [
                    (task, str(n), peer, str(options.seed), str(observation))
                    for observation in options.observations
                ]
                missing = [key for key in keys if key not in done]
                for row in rows_of(options, task, n, peer, missing):
                    results.append(row)
                    print(
                        f"{task:24s} {n:6d} {peer:16s} observation "
                        f"{row['observation']}  C2ST {row['c2st']:.3f}  accepted "
                        f"{row['accepted']:.3f}  fit {row['fit_cpu']:6.1f} s CPU",
                        flush=True,
                    )


def rows_of(
    options: argparse.Namespace,
    task: str,
    n: int,
    peer: str,
    keys: Sequence[tuple[str, ...]],
) -> Any:
    """Fit once, if there are keys, and yield a row for each of them."""
    if not keys:
        return
    seed, support = options.seed, SUPPORTS.get(task)
    theta, x = SIMULATORS[task](n, RandomState(seed), options.data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the peers
        clock = Clock()
        draw = PEERS[peer](x, theta, support, seed)
        costs = {"fit_cpu": clock.cpu(), "fit_wall": clock.wall()}
    with np.load(options.data / "sbibm" / f"{task}.npz") as arrays:
        observations = arrays["observations"].astype(np.float64)
        references = arrays["reference_samples"].astype(np.float64)
    for key in keys:
        i = int(key[-1]) - 1
        row: dict[str, Any] = dict(
            zip(("task", "n", "peer", "seed", "observation"), key, strict=True)
        )
        row |= judge(draw, observations[i], references[i], support)
        yield row | costs | {"version": version(peer)}


# -- reporting ----------------------------------------------------------------------


def published(folder: Path | None) -> dict[tuple[str, int], dict[str, str]]:
    """Return mean and range of the published C2ST by task and number of simulations."""
    found: dict[tuple[str, int], dict[str, str]] = defaultdict(dict)
    for row in read(folder / "sbibm" / "sbibm_published.csv") if folder else []:
        is_rerun = row["table"] == "gaussian_mixture_rerun"
        if is_rerun != (row["task"] == "gaussian_mixture"):
            continue
        # NPE of the main tables has neural spline flows.
        kind = {"NPE": "NPE-NSF"}.get(row["algorithm"], row["algorithm"])
        key = row["task"], int(row["num_simulations"])
        mean, low, high = (
            float(row[f"c2st_{name}"]) for name in ("mean", "min", "max")
        )
        found[key][kind] = f"{mean:.3f} ({low:.2f} to {high:.2f})"
    return found


def report(path: Path, folder: Path | None) -> None:
    """Print the mean C2ST over observations, and the CPU seconds of a fit.

    The number of observations is in brackets; of published figures it is the range.
    """
    table: dict[Any, dict[str, list[dict[str, str]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for row in read(path):
        table[row["task"], int(row["n"])][row["peer"]].append(row)
    peers = [peer for peer in PEERS if any(peer in rows for rows in table.values())]
    theirs = published(folder)
    kinds = ("NPE-NSF", "NPE-MAF")
    columns = [*peers, *(f"published {kind}" for kind in kinds)]
    columns += [f"fit of {peer}, CPU s" for peer in peers]
    print("\n| task | n |", " | ".join(columns), "|")
    print("|---" * (len(columns) + 2) + "|")
    for key in sorted(table):
        rows = table[key]
        cells = [key[0], str(key[1])]
        for peer in peers:
            values = [float(row["c2st"]) for row in rows.get(peer, [])]
            cells.append(f"{np.mean(values):.3f} ({len(values)})" if values else "-")
        cells += [theirs.get(key, {}).get(kind, "-") for kind in kinds]
        for peer in peers:
            seconds = [float(row["fit_cpu"]) for row in rows.get(peer, [])]
            cells.append(f"{np.mean(seconds):.0f}" if seconds else "-")
        print("|", " | ".join(cells), "|")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__, "posteriors.csv")
    parser.add_argument("--tasks", type=names, default=list(SIMULATORS))
    parser.add_argument("--n", type=integers, default=[1000, 10000])
    parser.add_argument("--observations", type=integers, default=[1, 2, 3])
    parser.add_argument("--peers", type=names, default=["skmdn"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", action="store_true", help="run nothing")
    options = parser.parse_args(arguments)
    unknown = {*options.peers} - {*PEERS}
    if unknown:
        parser.error(
            f"unknown peer: {', '.join(sorted(unknown))}; known peers are "
            f"{', '.join(PEERS)}"
        )
    torch.set_num_threads(options.threads)
    print(machine(options.threads))
    if not options.report:
        if options.data is None:
            parser.error("--data DIR is needed")
        run(options)
    report(options.out, options.data)


if __name__ == "__main__":
    main()
