"""Evaluate conditional densities by the protocol of a public benchmark.

    python benchmarks/ladder.py --data DIR --out ladder.csv
    python benchmarks/ladder.py --data DIR --out inner.csv --split inner --sets choice
    python benchmarks/ladder.py --data DIR --out one.csv --params '{"n_components": 1}'
    python benchmarks/ladder.py --data DIR --out new.csv --report --against old.csv

The protocol is that of Izbicki and Rodrigues, arXiv:2603.26611: n rows of a table, a
quarter of them for testing, densities on a grid of 200 points. DIR/ladder contains
NAME.npz files with the arrays X and y, and ladder_published.csv (set, n, method,
metric, mean, se) with the figures of other methods. Each (set, n, repetition) is
appended to --out as one row as soon as it is done, so that a stopped run can be
resumed. One file holds the results of one release with one choice of --split, --params
and --threads.

log_lik and nll are in nats with y in its own unit: log_lik is the mean log-density on
the grid (higher is better), nll the exact mean of -log p(y | x) (lower is better). crps
is in the unit of y. coverage_90 is that of the grid, coverage the exact one. All are
means over the test rows. The sets of --sets choice are those at positions 2, 4, ... of
the alphabetical list; parameters are chosen on these, so that the others
(--sets judgement) judge the choice. With --split inner no test row is used.
"""

from __future__ import annotations

import argparse
import csv
import json
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _grid import LEVEL, grid_of, grid_scores
from _results import Results, integers, machine, names, parser_of
from _summary import mean_and_error, read
from _tables import Array, ladder_split, load
from _timing import Clock

import skmdn
from skmdn import MDNRegressor

PRETRAINED = ("TabPFN-2.5", "RealTabPFN-2.5", "TabICLv2")
# Sets at n = 5000 whose targets take many values (Elevators takes 61).
CONTINUOUS = (
    "Bank8FM",
    "BikeSharing",
    "CPS88Wages",
    "Diamonds",
    "Elevators",
    "GridStability",
    "House16H",
    "Kin8nm",
    "NavalPropulsion",
    "Protein",
)
SCORES = (
    "log_lik",
    "crps",
    "cde_loss",
    "pit_ks",
    "coverage_90",
    "nll",
    "coverage",
    "oof_score",
    "fit_cpu",
    "fit_wall",
    "predict_cpu",
)
Rows = dict[tuple[str, int], dict[int, dict[str, float]]]


# -- evaluation ---------------------------------------------------------------------


def judge(
    X: Array, X_test: Array, y: Array, y_test: Array, params: dict[str, Any]
) -> dict[str, float]:
    clock = Clock()
    mdn = MDNRegressor(**params).fit(X, y)
    fit_cpu, fit_wall, clock = clock.cpu(), clock.wall(), Clock()
    density = mdn.predict_density(X_test)
    predict_cpu = clock.cpu()
    grid = grid_of(y)
    low, high = density.interval(LEVEL)
    return {
        **grid_scores(density.pdf(grid[:, None]).T, grid, y_test),
        "nll": float(-density.logpdf(y_test).mean()),
        "coverage": float(((y_test >= low) & (y_test <= high)).mean()),
        "oof_score": getattr(mdn, "oof_score_", np.nan),
        "fit_cpu": fit_cpu,
        "fit_wall": fit_wall,
        "predict_cpu": predict_cpu,
    }


def tables(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.npz"))


def chosen(sets: list[str], folder: Path) -> list[str]:
    """Return the names of the sets; "choice" and "judgement" are halves of all."""
    known = tables(folder)
    halves = {"all": known, "choice": known[1::2], "judgement": known[::2]}
    return [name for part in sets for name in halves.get(part, [part])]


def run(options: argparse.Namespace) -> None:
    """Append a row for every set, n and repetition that is not in the file yet."""
    fixed = {
        "split": options.split,
        "params": json.dumps(options.params),
    }
    results = Results(options.out, options.threads)
    expected = fixed | {"threads": str(options.threads)}
    for row in results.rows:
        if expected != (found := {name: row[name] for name in expected}):
            raise SystemExit(
                f"{options.out} has results with {found}, not {expected}: give another "
                "--out"
            )
    done = {(row["set"], int(row["n"]), int(row["repetition"])) for row in results.rows}
    folder = options.data / "ladder"
    for name in chosen(options.sets, folder):
        X, y, _ = load(folder / f"{name}.npz")
        for n in options.n:
            for repetition in options.reps if n <= len(X) else []:
                if (name, n, repetition) in done:
                    continue
                parts = ladder_split(X, y, n, repetition, options.split == "inner")
                params = {"random_state": repetition, **options.params}
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # few distinct targets
                    scores = judge(*parts, params)
                row = {"set": name, "n": n, "repetition": repetition, **scores, **fixed}
                results.append(row)
                print(
                    f"{name:15s} {n:6d} {repetition:2d} log-lik "
                    f"{scores['log_lik']:8.3f}  CRPS {scores['crps']:10.4g}  fit "
                    f"{scores['fit_cpu']:6.1f} s CPU",
                    flush=True,
                )


# -- reporting ----------------------------------------------------------------------


def by_set_and_n(path: Path) -> Rows:
    table: Rows = defaultdict(dict)
    for row in read(path):
        scores = {name: float(row[name]) for name in SCORES}
        table[row["set"], int(row["n"])][int(row["repetition"])] = scores
    return table


def best_published(data: Path) -> dict[tuple[str, int, str, bool], float]:
    """Return the best mean of each (set, n, metric, is pretrained)."""
    best: dict[tuple[str, int, str, bool], float] = {}
    with (data / "ladder" / "ladder_published.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["metric"] not in ("log_lik", "crps"):
                continue
            key = row["set"], int(row["n"]), row["metric"], row["method"] in PRETRAINED
            better = max if row["metric"] == "log_lik" else min
            value = float(row["mean"])
            best[key] = better(value, best.get(key, value))
    return best


def report(path: Path, data: Path) -> None:
    """Print our means beside the best published figures."""
    best, table = best_published(data), by_set_and_n(path)
    print(
        "\n| set | n | repetitions | log-lik: skmdn | from scratch | pretrained "
        "| CRPS: skmdn | from scratch | pretrained | 90 % coverage, exact "
        "| on the grid | NLL, exact | fit CPU s | predict CPU s |\n" + "|---" * 14 + "|"
    )
    distances: dict[tuple[int, bool], list[float]] = defaultdict(list)
    for (name, n), rows in sorted(table.items(), key=lambda item: item[0][::-1]):
        mean = means(rows.values())
        cells = [name, str(n), str(len(rows))]
        for metric, form in (("log_lik", ".3f"), ("crps", ".4g")):
            cells.append(f"{mean[metric]:{form}}")
            for is_pretrained in (False, True):
                value = best.get((name, n, metric, is_pretrained), np.nan)
                cells.append(f"{value:{form}}")
                if metric == "log_lik" and name in CONTINUOUS:
                    distances[n, is_pretrained].append(mean[metric] - value)
        cells += [f"{mean[k]:.3f}" for k in ("coverage", "coverage_90", "nll")]
        cells += [f"{mean[k]:.3g}" for k in ("fit_cpu", "predict_cpu")]
        print("|", " | ".join(cells), "|")
    print()
    for (n, is_pretrained), values in sorted(distances.items()):
        print(
            f"n = {n}, mean log-lik over {len(values)} sets with a continuous target, "
            f"minus the best {'pretrained' if is_pretrained else 'from scratch'}: "
            f"{np.mean(values):+.4f}"
        )


def compare(path: Path, other: Path) -> None:
    """Print differences to another file, paired by repetition."""
    ours, theirs = by_set_and_n(path), by_set_and_n(other)
    print(
        f"\n{path} minus {other}:\n| set | n | repetitions | log-lik | exact "
        "log-lik | CRPS, % | coverage: this | other | fit CPU, ratio | predict CPU, "
        "ratio |\n" + "|---" * 10 + "|"
    )
    summary: dict[tuple[int, str], list[list[float]]] = defaultdict(list)
    for name, n in sorted(ours.keys() & theirs.keys(), key=lambda key: key[::-1]):
        both = ours[name, n].keys() & theirs[name, n].keys()
        pairs = [(ours[name, n][r], theirs[name, n][r]) for r in sorted(both)]
        if not pairs:
            continue
        gains = [
            [a["log_lik"] - b["log_lik"] for a, b in pairs],
            [b["nll"] - a["nll"] for a, b in pairs],
            [100 * (a["crps"] / b["crps"] - 1) for a, b in pairs],
        ]
        this, that = (means(side) for side in zip(*pairs, strict=True))
        costs = [this[k] / that[k] for k in ("fit_cpu", "predict_cpu")]
        cells = [name, str(n), str(len(pairs)), *map(with_error, gains)]
        cells += [f"{mean['coverage']:.3f}" for mean in (this, that)]
        print("|", " | ".join([*cells, *(f"{cost:.2f}" for cost in costs)]), "|")
        entry = [*(float(np.mean(gain)) for gain in gains), *costs]
        summary[n, "all"].append(entry)
        if name in CONTINUOUS:
            summary[n, "continuous"].append(entry)
    print()
    for (n, kind), entries in sorted(summary.items()):
        log_lik, exact, crps, fit, predict = np.mean(entries, axis=0)
        print(
            f"n = {n}, mean over {len(entries)} sets ({kind}): log-lik {log_lik:+.4f}, "
            f"exact {exact:+.4f}, CRPS {crps:+.2f} %, fit CPU x {fit:.2f}, predict CPU "
            f"x {predict:.2f}"
        )


def means(rows: Iterable[dict[str, float]]) -> dict[str, float]:
    rows = list(rows)
    return {name: float(np.mean([row[name] for row in rows])) for name in SCORES}


def with_error(values: Iterable[float]) -> str:
    mean, error = mean_and_error(values)
    return f"{mean:+.3f} ± {error:.2g}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__, "ladder.csv")
    parser.add_argument("--sets", type=names, default=["all"])
    parser.add_argument("--n", type=integers, default=[1000, 5000])
    parser.add_argument("--reps", type=integers, default=[0, 1, 2, 3])
    parser.add_argument("--split", choices=("test", "inner"), default="test")
    parser.add_argument(
        "--params",
        type=json.loads,
        default={},
        help="JSON of MDNRegressor's parameters",
    )
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--against", type=Path, help="another CSV file to compare with")
    options = parser.parse_args(arguments)
    if options.data is None:
        parser.error("--data DIR is needed, for the published figures too")
    torch.set_num_threads(options.threads)
    print(machine(options.threads))
    if not options.report:
        print(f"skmdn {skmdn.__version__} of {Path(skmdn.__file__).parent}")
        run(options)
    report(options.out, options.data)
    if options.against is not None:
        compare(options.out, options.against)


if __name__ == "__main__":
    main()
