"""Evaluate densities of targets that were recorded to a step, many of them zero.

    python benchmarks/recorded.py --data DIR --part tables
    python benchmarks/recorded.py --data DIR --sets ames,taxi_tips --folds 0
    python benchmarks/recorded.py --data DIR --part discrete --sets Abalone --n 1000
    python benchmarks/recorded.py --data DIR --split inner --params '{"alpha": 0.1}'
    python benchmarks/recorded.py --out recorded.csv --report

Part "tables": mixed tables with missing values and a positive target, DIR/tables and
DIR/positive (NAME.csv.gz, and NAME.json with the target and the categorical columns);
KFold(5, shuffle=True, random_state=42) on the rows in file order. skmdn has the support
(0, None) and the recording step of the table, skmdn_plain neither; the peers are
NGBoost (LogNormal), CatBoost (RMSEWithUncertainty of log y; catboost_quantiles has
MultiQuantile), 21 quantiles of HistGradientBoostingRegressor, and LightGBMLSS
(log-normal, zero-adjusted where there are zeros; its gamma distributions diverge on
such tables). NGBoost, LightGBMLSS and the estimators named onehot have one-hot columns,
and medians and indicators of missing values; all others the table as it is.

Part "discrete": targets of few values, DIR/ladder (protocol of ladder.py: n rows,
repetitions) and the masks of wine in DIR/uci. skmdn finds the step itself; the peer is
HistGradientBoostingClassifier on the distinct values, rare ones pooled.

Each (part, set, n, fold, peer) is appended to --out as one row as soon as it is done,
so that a stopped run can be resumed; n = 0 means all rows. All scores are computed by
`_recorded.py` from cdf, sf and ppf of each density: log_lik is the mean logarithm of
the probability of the cell of the recorded value over the step, in nats (log_cell
without the step; higher is better); crps and rmse are in the unit of y (lower is
better); coverage is that of the central 90 % interval, inside_50 to inside_95 those of
predict_interval; zeros is the predicted share of zeros. With --params the fit appears
as one more peer; with --split inner the training rows alone are split once more.

LightGBMLSS pins another version of torch: see quality.py.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from _recorded import recorded_scores
from _results import Results, integers, machine, names, parser_of
from _summary import mean_and_error, read
from _table_models import (
    LEAST_PROBABILITY,
    NATIVE,
    OURS,
    PACKAGES,
    PEERS,
    Split,
    with_categories,
    with_one_hot,
)
from _tables import Array, ladder_split, load
from _timing import Clock
from sklearn.model_selection import KFold, train_test_split

import skmdn

# The finest step on which all values lie.
STEPS = {
    "ames": 1.0,  # USD; 9 of 10 prices are multiples of 100, the others of 1
    "births14": 0.01,  # lb, with two decimals
    "diamonds": 1.0,  # whole USD
    "epa2021": 1.0,  # whole miles a gallon
    "hotel_rates": 0.01,  # EUR, cents
    "penguins": 25.0,  # g
    "seoul_bike": 1.0,  # a count
    "stackoverflow": 1.0,  # USD; a third are converted from other currencies
    "car_claims": 0.01,  # AUD, cents stored in single precision
    "innsbruck_rain": 0.1,  # mm
    "seattle_rain": 0.1,  # mm, rounded from steps of 0.254
    "taxi_tips": 0.01,  # USD, cents
}
WINE = "wine"
DISCRETE_STEPS = {
    WINE: 1.0,  # quality, whole points
    "Abalone": 1.0,  # rings, a count
    "Elevators": 0.001,
    "WhiteWine": 1.0,
    "Bank8FM": 1.0,  # USD; most prices are multiples of 100
    "NavalPropulsion": 0.001,
}
CONFIDENCES = (0.5, 0.8, 0.9, 0.95)
INSIDE = tuple(f"inside_{confidence:.0%}"[:-1] for confidence in CONFIDENCES)
SCORES = (
    *("log_lik", "log_cell", "crps", "rmse", "zeros", "zeros_seen", "negative"),
    *("coverage", "oof_score", "fit_cpu", "predict_cpu"),
    *INSIDE,
)


# -- splits -------------------------------------------------------------------------


def table_split(folder: Path, name: str, fold: int, inner: bool) -> Split:
    (path,) = (
        *folder.glob(f"tables/{name}.json"),
        *folder.glob(f"positive/{name}.json"),
    )
    meta = json.loads(path.read_text())
    X = pd.read_csv(path.with_suffix(".csv.gz"))
    y = X.pop(meta["target"]).to_numpy(np.float64)
    train, test = list(KFold(5, shuffle=True, random_state=42).split(X))[fold]
    if inner:
        train, test = train_test_split(train, test_size=0.25, random_state=fold)
    rows = X.iloc[train], X.iloc[test], y[train], y[test]
    return Split(*rows, STEPS[name], 0.0, meta["categorical"], fold)


def discrete_split(
    folder: Path, name: str, n: int, fold: int, inner: bool
) -> Split | None:
    """Return None where the table has fewer than n rows."""
    if name == WINE:
        X, y, masks = load(folder / "uci" / "wine-quality-red.npz")
        assert masks is not None
        train, test = np.flatnonzero(~masks[fold]), np.flatnonzero(masks[fold])
        if inner:
            train, test = train_test_split(train, test_size=0.25, random_state=fold)
        parts = X[train], X[test], y[train], y[test]
    else:
        X, y, _ = load(folder / "ladder" / f"{name}.npz")
        if n > len(y):
            return None
        parts = ladder_split(X, y, n, fold, inner)
    return Split(*parts, DISCRETE_STEPS[name], -np.inf, [], fold)


def splits(options: argparse.Namespace) -> Iterator[tuple[str, str, int, int, Any]]:
    """Yield part, set, n (0: all rows), fold, and a function that loads the split."""
    inner = options.split == "inner"
    if options.part in ("tables", "all"):
        for name in [name for name in STEPS if is_chosen(name, options)]:
            for fold in options.folds:
                load_split = partial(table_split, options.data, name, fold, inner)
                yield "tables", name, 0, fold, load_split
    if options.part in ("discrete", "all"):
        for name in [name for name in DISCRETE_STEPS if is_chosen(name, options)]:
            for n in [0] if name == WINE else options.n:
                for fold in options.folds:
                    load_split = partial(
                        discrete_split, options.data, name, n, fold, inner
                    )
                    yield "discrete", name, n, fold, load_split


def is_chosen(name: str, options: argparse.Namespace) -> bool:
    return options.sets == ["all"] or name in options.sets


# -- evaluation ---------------------------------------------------------------------


def judge(part: str, peer: str, split: Split, params: dict[str, Any]) -> dict[str, Any]:
    if part == "tables":
        split = with_categories(split) if peer in NATIVE else with_one_hot(split)
    clock, oof_score, kinds, model = Clock(), np.nan, "", None
    if peer in OURS:
        model = OURS[peer](split, **params)
        predict = model.predict_density
        oof_score = getattr(model, "oof_score_", np.nan)
        weights = getattr(model, "portfolio_weights_", {})
        kinds = " ".join(f"{name}:{weight:.2f}" for name, weight in weights.items())
    else:
        predict = PEERS[peer](split)
    fit_cpu, clock = clock.cpu(), Clock()
    density = predict(split.X_test)
    scores = recorded_scores(
        density,
        split.y_test,
        split.step,
        low=split.low,
        origin=0.0 if np.isfinite(split.low) else split.y.min(),
        **({"floor": LEAST_PROBABILITY} if peer == "classifier" else {}),
    )
    costs = {"oof_score": oof_score, "fit_cpu": fit_cpu, "predict_cpu": clock.cpu()}
    scores |= costs
    if hasattr(model, "oof_score_"):  # folds were held out
        intervals = model.predict_interval(split.X_test, CONFIDENCES)
        inside = coverage_of(intervals, split.y_test)
        scores |= dict(zip(INSIDE, inside, strict=True))
    return {name: scores.get(name, np.nan) for name in SCORES} | {"kinds": kinds}


def coverage_of(intervals: Array, y: Array) -> Array:
    """Compute the share of y (n,) inside each of intervals (n, 2, m)."""
    lower, upper = intervals.transpose(1, 2, 0)
    return np.mean((lower <= y) & (y <= upper), axis=1)


def peers_of(part: str, chosen: list[str]) -> list[str]:
    in_part = (
        ["skmdn", "classifier"]
        if part == "discrete"
        else [*OURS, *(name for name in PEERS if name != "classifier")]
    )
    return in_part if chosen == ["all"] else [p for p in in_part if p in chosen]


def version(peer: str) -> str:
    if peer in OURS:  # the one that is imported, which may not be installed
        return skmdn.__version__
    return metadata.version(PACKAGES.get(peer, peer))


def run(options: argparse.Namespace) -> None:
    """Append a row for every fold of every set and peer that is not in the file yet."""
    columns = ("part", "set", "n", "fold", "peer", "split")
    results = Results(options.out, options.threads)
    done = {tuple(row[name] for name in columns) for row in results.rows}
    for part, name, n, fold, load_split in splits(options):
        split = None
        for peer in peers_of(part, options.peers):
            is_changed = peer in OURS and options.params
            label = f"{peer} {json.dumps(options.params)}" if is_changed else peer
            key = part, name, str(n), str(fold), label, options.split
            if key in done:
                continue
            split = split or load_split()
            if split is None:
                break
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the peers; few distinct targets
                scores = judge(part, peer, split, options.params)
            row = dict(zip(columns, key, strict=True)) | {"step": split.step, **scores}
            results.append(row | {"version": version(peer)})
            print(
                f"{name:15s} {n:5d} {fold} {label:14s} log-lik {scores['log_lik']:8.3f}"
                f"  CRPS {scores['crps']:9.4g}  coverage {scores['coverage']:.3f}  "
                f"zeros {scores['zeros']:.3f} ({scores['zeros_seen']:.3f})  fit "
                f"{scores['fit_cpu']:6.1f} s CPU",
                flush=True,
            )


# -- reporting ----------------------------------------------------------------------


def report(path: Path) -> None:
    """Print means over the folds, and CRPS relative to skmdn's on common folds."""
    table: dict[Any, dict[str, dict[int, dict[str, float]]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    for row in read(path):
        values = {name: float(row.get(name) or "nan") for name in SCORES}
        key = row["part"], row["set"], int(row["n"]), row["split"]
        table[key][row["peer"]][int(row["fold"])] = values
    fields = (
        *("log_lik", "log_cell", "crps", "rmse", "zeros", "zeros_seen", "negative"),
        *("coverage", "oof_score", "fit_cpu", *INSIDE),
    )
    print("\n| set | n | peer | folds |", " | ".join(fields), "| CRPS / skmdn's |")
    print("|---" * (len(fields) + 5) + "|")
    for (_, name, n, kind), peers in table.items():
        label = name if kind == "test" else f"{name}, {kind}"
        for peer, rows in peers.items():
            cells = [label, str(n or "all"), peer, str(len(rows))]
            for field in fields:
                mean, _ = mean_and_error(row[field] for row in rows.values())
                cells.append(f"{mean:.4g}")
            ours = peers.get("skmdn", {})
            ratios = [rows[f]["crps"] / ours[f]["crps"] for f in rows.keys() & ours]
            mean, error = mean_and_error(ratios) if ratios else (np.nan, np.nan)
            print("|", " | ".join([*cells, f"{mean:.3f} ± {error:.2g}"]), "|")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__, "recorded.csv")
    parser.add_argument("--part", choices=("tables", "discrete", "all"), default="all")
    parser.add_argument("--sets", type=names, default=["all"])
    parser.add_argument("--peers", type=names, default=["all"])
    parser.add_argument("--folds", type=integers, default=[0, 1, 2, 3, 4])
    parser.add_argument("--n", type=integers, default=[1000, 5000])
    parser.add_argument("--split", choices=("test", "inner"), default="test")
    parser.add_argument(
        "--params",
        type=json.loads,
        default={},
        help="JSON of MDNRegressor's parameters",
    )
    parser.add_argument("--report", action="store_true", help="run nothing")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    print(machine(options.threads))
    if not options.report:
        if options.data is None:
            parser.error("--data DIR is needed")
        print(f"skmdn {skmdn.__version__} of {Path(skmdn.__file__).parent}")
        run(options)
    report(options.out)


if __name__ == "__main__":
    main()
