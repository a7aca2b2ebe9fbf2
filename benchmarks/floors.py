"""Compare with densities that no fit should lose to.

    python benchmarks/floors.py --data DIR --out floors.csv
    python benchmarks/floors.py --data DIR --out floors.csv --parts linear,few
    python benchmarks/floors.py --data DIR --out floors.csv --parts tables \
        --max-rows 10000

Each case and seed is appended to --out as one row as soon as it is done, so that a
stopped run can be resumed. All figures are NLL, the mean of -log p(y | x) in nats,
lower is better.

linear: y ~ N(0, 0.1 I), x = y + N(0, 0.1 I) with 1, 2, 5 and 10 outputs; 1000 rows for
fitting, 5000 for testing. "linear" is least squares, "truth" is N(x / 2, 0.05 I), both
on the same test rows.

few: y = x_1 + N(0, 0.5^2), x ~ N(0, I) with one column or three; 6 to 12 rows for
fitting, 500 for testing. "linear" is ridge.

tables: -oof_score_ on the training rows of the first split of each table of DIR/uci,
DIR/multi and DIR/multimodal1d, and of the first repetition of each table of DIR/ladder
at n = 1000. "linear" is ridge and "marginal" a mixture of 5 Gaussians of the
standardised y, both cross-validated with 8 folds on the same rows.

sbibm: parameters given simulations; 5000 pairs for testing. "linear" is least squares.

Linear models have Gaussian residuals with full covariance, over n minus the effective
number of coefficients; ridge is on standardised columns, its penalty is chosen by
RidgeCV from 13 values between 1e-3 and 1e3. Except for tables, "marginal" is a Gaussian
of y alone.
"""

from __future__ import annotations

import argparse
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _baselines import LinearGaussian, fit_gaussian, fit_linear, mixture_logpdf
from _results import Results, machine, names, parser_of
from _simulators import SIMULATORS
from _summary import read
from _tables import Array, as_columns, ladder_split, load
from _timing import Clock
from sklearn.model_selection import KFold

import skmdn
from skmdn import MDNRegressor

OUTPUTS = (1, 2, 5, 10)
LINEAR_ROWS, TEST_ROWS = 1000, 5000
FEW_ROWS, FEW_TEST_ROWS = (6, 8, 10, 12), 500
LADDER_ROWS = 1000
N_FOLDS = 8
TASKS = (
    ("two_moons", 10000),
    ("two_moons", 1000),
    ("bernoulli_glm", 1000),
    ("gaussian_linear_uniform", 1000),
    ("slcp", 1000),
)
SEEDS = {"linear": 3, "few": 8, "tables": 1, "sbibm": 2}
SCORES = ("nll", "linear", "marginal", "truth")
# NLL of skmdn 0.1 on other draws of these cases; one seed, three for "d = 10".
FIRST_RELEASE = {
    "d = 1": {1000: -0.062},
    "d = 2": {1000: -0.113},
    "d = 5": {1000: -0.146},
    "d = 10": {1000: 0.45},
    "two_moons": {10000: -3.27, 1000: -2.95},
    "bernoulli_glm": {1000: 4.20},
    "gaussian_linear_uniform": {1000: 2.47},
    "slcp": {1000: 7.75},
}
# Name, number of rows for fitting, and the scores at a seed.
Case = tuple[str, int, Callable[[int], dict[str, float]]]


def judge(
    train: tuple[Array, Array],
    test: tuple[Array, Array],
    seed: int,
    ridge: bool = False,
    truth: LinearGaussian | None = None,
) -> dict[str, float]:
    """Return the NLL of ours and of the baselines on test rows."""
    clock = Clock()
    mdn = MDNRegressor(random_state=seed).fit(*train)
    fit_cpu = clock.cpu()
    X, y = test
    baselines = {"linear": fit_linear(*train, ridge=ridge)}
    baselines["marginal"] = fit_gaussian(*train)
    if truth is not None:
        baselines["truth"] = truth
    return {
        "nll": float(-mdn.score_samples(X, y).mean()),
        **{name: float(-b.logpdf(X, y).mean()) for name, b in baselines.items()},
        "fit_cpu": fit_cpu,
    }


# -- the parts ----------------------------------------------------------------------


def linear_cases(options: argparse.Namespace) -> Iterator[Case]:
    def scores(d: int, seed: int) -> dict[str, float]:
        rng = np.random.RandomState(seed)
        y = rng.normal(scale=np.sqrt(0.1), size=(LINEAR_ROWS + TEST_ROWS, d))
        X = y + rng.normal(scale=np.sqrt(0.1), size=y.shape)
        if d == 1:
            y = y[:, 0]
        truth = LinearGaussian(np.zeros(d), np.eye(d) / 2, 0.05 * np.eye(d))
        train, test = split(X, y, LINEAR_ROWS)
        return judge(train, test, seed, truth=truth)

    for d in OUTPUTS:
        yield f"d = {d}", LINEAR_ROWS, lambda seed, d=d: scores(d, seed)


def few_cases(options: argparse.Namespace) -> Iterator[Case]:
    def scores(n: int, p: int, seed: int) -> dict[str, float]:
        rng = np.random.RandomState(seed)
        X = rng.normal(size=(n + FEW_TEST_ROWS, p))
        y = X[:, 0] + rng.normal(scale=0.5, size=len(X))
        truth = LinearGaussian(np.zeros(1), np.eye(p)[:, :1], np.array([[0.25]]))
        return judge(*split(X, y, n), seed, ridge=True, truth=truth)

    for p in (1, 3):
        for n in FEW_ROWS:
            yield f"p = {p}", n, lambda seed, n=n, p=p: scores(n, p, seed)


def split(
    X: Array, y: Array, n: int
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    return (X[:n], y[:n]), (X[n:], y[n:])


def table_cases(options: argparse.Namespace) -> Iterator[Case]:
    for folder in ("uci", "multi", "multimodal1d", "ladder"):
        for path in sorted((options.data / folder).glob("*.npz")):
            X, y, masks = load(path)
            if masks is None:
                X, _, y, _ = ladder_split(X, y, LADDER_ROWS, 0)
            else:
                X, y = X[~masks[0]], y[~masks[0]]
            if len(X) <= options.max_rows:
                name = f"{folder}/{path.stem}"
                yield name, len(X), lambda seed, X=X, y=y: out_of_fold(X, y, seed)


def out_of_fold(X: Array, y: Array, seed: int) -> dict[str, float]:
    clock = Clock()
    mdn = MDNRegressor(random_state=seed).fit(X, y)
    fit_cpu = clock.cpu()
    linear, marginal = np.empty(len(y)), np.empty(len(y))
    for train, test in KFold(N_FOLDS, shuffle=True, random_state=seed).split(X):
        fitted = fit_linear(X[train], y[train], ridge=True)
        linear[test] = fitted.logpdf(X[test], y[test])
        marginal[test] = mixture_logpdf(y[train], y[test], seed)
    return {
        "nll": -mdn.oof_score_,
        "linear": float(-linear.mean()),
        "marginal": float(-marginal.mean()),
        "distinct": len(np.unique(as_columns(y), axis=0)) / len(y),
        "fit_cpu": fit_cpu,
    }


def sbibm_cases(options: argparse.Namespace) -> Iterator[Case]:
    def scores(name: str, n: int, seed: int) -> dict[str, float]:
        rng = np.random.RandomState(seed)
        theta, x = SIMULATORS[name](n + TEST_ROWS, rng, options.data)
        return judge(*split(x, theta, n), seed)

    for name, n in TASKS:
        yield name, n, lambda seed, name=name, n=n: scores(name, n, seed)


PARTS: dict[str, Callable[[argparse.Namespace], Iterator[Case]]] = {
    "linear": linear_cases,
    "few": few_cases,
    "tables": table_cases,
    "sbibm": sbibm_cases,
}


def run(options: argparse.Namespace) -> None:
    """Append a row for every case and seed that is not in the file yet."""
    results = Results(options.out, options.threads)
    done = {
        (row["part"], row["case"], int(row["n"]), int(row["seed"]))
        for row in results.rows
    }
    for part in options.parts:
        for name, n, scores in PARTS[part](options):
            for seed in range(SEEDS[part]):
                if (part, name, n, seed) in done:
                    continue
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # few rows, few values
                    found = dict.fromkeys((*SCORES, "distinct"), np.nan) | scores(seed)
                row: dict[str, Any] = {"part": part, "case": name, "n": n, "seed": seed}
                results.append(row | found)
                text = "  ".join(f"{key} {found[key]:.3f}" for key in SCORES)
                print(f"{part} {name} n = {n} seed {seed}: {text}", flush=True)


# -- reporting ----------------------------------------------------------------------


COLUMNS = (
    *("n", "seeds", "skmdn", "linear", "marginal", "truth", "first release"),
    *("skmdn - linear, mean", "worst", "skmdn - marginal, mean", "worst"),
    *("skmdn - better of both, mean", "worst", "distinct y", "fit CPU s"),
)


def report(path: Path) -> None:
    """Print means over the seeds and, per case, mean and worst differences."""
    cases: dict[str, dict[tuple[str, int], list[dict[str, float]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for row in read(path):
        values = {key: float(row[key]) for key in (*SCORES, "distinct", "fit_cpu")}
        cases[row["part"]][row["case"], int(row["n"])].append(values)
    for part, rows in cases.items():
        print(f"\n| {part} | {' | '.join(COLUMNS)} |\n|{'---|' * (1 + len(COLUMNS))}")
        lines = [line(*key, values) for key, values in rows.items()]
        if part == "tables":  # the worst first
            lines.sort(reverse=True)
        for _, text in lines:
            print(text)


def line(name: str, n: int, rows: list[dict[str, float]]) -> tuple[float, str]:
    """Return the mean difference to the better baseline, and the line of a table."""
    columns = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    floor = np.minimum(columns["linear"], columns["marginal"])
    cells = [name, str(n), str(len(rows))]
    cells += [f"{columns[key].mean():.3f}" for key in SCORES]
    cells.append(f"{FIRST_RELEASE.get(name, {}).get(n, np.nan):.2f}")
    for baseline in (columns["linear"], columns["marginal"], floor):
        loss = columns["nll"] - baseline
        cells += [f"{loss.mean():+.3f}", f"{loss.max():+.3f}"]
    cells += [f"{columns['distinct'].mean():.3f}", f"{columns['fit_cpu'].mean():.1f}"]
    return float((columns["nll"] - floor).mean()), f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__, "floors.csv")
    parser.add_argument("--parts", type=names, default=list(PARTS))
    parser.add_argument(
        "--max-rows", type=int, default=10**9, help="leave larger tables out"
    )
    parser.add_argument("--report", action="store_true", help="run nothing")
    options = parser.parse_args(arguments)
    if options.data is None and not options.report:
        needs_data = {"tables", "sbibm"} & {*options.parts}
        if needs_data:
            parser.error(f"{', '.join(sorted(needs_data))} need --data DIR")
    torch.set_num_threads(options.threads)
    print(machine(options.threads))
    if not options.report:
        print(f"skmdn {skmdn.__version__} of {Path(skmdn.__file__).parent}")
        run(options)
    report(options.out)


if __name__ == "__main__":
    main()
