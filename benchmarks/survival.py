"""Evaluate predicted distributions of censored times, for skmdn and survival models.

    python benchmarks/survival.py --data DIR --out survival.csv
    python benchmarks/survival.py --data DIR --sets rossi,gbsg2 --models skmdn,cox
    python benchmarks/survival.py --data DIR --models skmdn --params '{"alpha": 0.1}'
    python benchmarks/survival.py --data DIR --out inner.csv --split inner
    python benchmarks/survival.py --out survival.csv --report

DIR/censored contains NAME.csv with the columns time and event (1 seen, 0 censored from
the right), or left and right, and the features; and NAME.json with a list
"categorical". The folds are those of KFold(5, shuffle=True, random_state=42) on the
rows in their order. With --split inner a quarter of the training rows is held out, and
no test row is used. Each (set, fold, model) is appended to --out as one row as soon as
it is done, so that a stopped run can be resumed. One file holds one kind of --split.
With --params the fit appears as one more model, named by its parameters.

log_lik is the mean over the test rows, in nats, higher is better: of log S(t) for a row
that is censored at t, of log(S(left) - S(right)) for an interval, and for an event at t
of log(S(t - 1/2) - S(t + 1/2)). All times are whole days, weeks or years: spikes on
them gain nothing. All models are scored in this way; "skmdn" is fitted with
target_resolution=1, "skmdn, no step" without. Times of 0 are 0.5 for the others.

ibs is the Brier score, weighted by the inverse probability of censoring and integrated
over the 10 % to the 90 % quantile of the times of events; lower is better. calibration
compares the mean predicted probability of an event before the quartiles of these times
with the estimate of Kaplan and Meier, over the test rows and over thirds of the
predicted probability. Shares of the probability integral transform are those of
D-calibration: 0.1 in each tenth if calibrated.

Peers are not dependencies: `pip install lifelines scikit-survival`.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _censored import (
    GROUPS,
    N_BINS,
    QUARTILES,
    CensoredTable,
    brier_score,
    brier_times,
    calibration,
    encode,
    load_censored,
    pit_shares,
    quartiles,
)
from _results import Results, integers, machine, names, parser_of
from _summary import mean_and_error, read
from _survival_models import LINEAR, MODELS, PARAMETRIC
from _tables import Array
from _timing import Clock
from numpy.typing import NDArray
from sklearn.model_selection import KFold, train_test_split

import skmdn

SETS = ("aids", "gbsg2", "rossi", "diabetes_interval", "flchain")
N_FOLDS = 5
PIT = [f"pit_{i}" for i in range(1, N_BINS + 1)]
CALIBRATION = [
    f"{side}_{q}_{group}"
    for q in range(1, len(QUARTILES) + 1)
    for group in GROUPS
    for side in ("predicted", "observed")
]
SCORES = ("log_lik", "ibs", "oof_score", "fit_cpu", "fit_wall", *CALIBRATION, *PIT)
# The targets: better than every parametric model, and within this ratio of the best.
BRIER_RATIO = 1.02
# Scores by set, model, fold and field.
Table = dict[str, dict[str, dict[int, dict[str, float]]]]


# -- evaluation ---------------------------------------------------------------------


def split(table: CensoredTable, fold: int, inner: bool) -> list[NDArray[np.intp]]:
    """Return the rows to train on and those to score."""
    folds = KFold(N_FOLDS, shuffle=True, random_state=42).split(table.X)
    train, test = list(folds)[fold]
    if inner:
        return list(train_test_split(train, test_size=0.25, random_state=fold))
    return [train, test]


def judge(
    table: CensoredTable,
    train: NDArray[np.intp],
    test: NDArray[np.intp],
    model: str,
    params: dict[str, Any],
) -> dict[str, float]:
    X, X_test = encode(table, train, test, model in LINEAR)
    known, known_test = table.times[train], table.times[test]
    clock = Clock()
    prediction = MODELS[model](X, known, X_test, params)
    scores = dict.fromkeys(SCORES, np.nan)
    scores |= {"fit_cpu": clock.cpu(), "fit_wall": clock.wall()}
    scores["oof_score"] = prediction.oof_score
    lower, upper = known_test.ends
    if prediction.log_mass is not None:
        scores["log_lik"] = float(prediction.log_mass(lower, upper).mean())
    shares = pit_shares(prediction.cdf(lower), prediction.cdf(upper))
    scores |= dict(zip(PIT, shares.tolist(), strict=True))
    if not table.has_intervals:
        at = brier_times(known, known_test)
        scores["ibs"] = brier_score(known, known_test, prediction.survival(at), at)
        at = quartiles(known)
        scores |= calibration(known_test, prediction.survival(at), at)
    return scores


def run(options: argparse.Namespace) -> None:
    """Append a row for every set, fold and model that is not in the file yet."""
    results = Results(options.out, options.threads)
    if any(row["split"] != options.split for row in results.rows):
        raise SystemExit(f"{options.out} has rows of another --split: give another")
    done = {(row["set"], int(row["fold"]), row["model"]) for row in results.rows}
    for name in options.sets:
        table = load_censored(options.data / "censored", name)
        for fold in options.folds:
            for model in options.models:
                label = f"{model} {json.dumps(options.params)}"
                label = label if options.params else model
                is_step = table.has_intervals and model in ("cox", "forest")
                if is_step or (name, fold, label) in done:
                    continue
                parts = split(table, fold, options.split == "inner")
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of peers, and few distinct times
                    scores = judge(table, *parts, model, options.params)
                row = {"set": name, "fold": fold, "model": label, **scores}
                results.append(
                    row | {"split": options.split, "version": version(model)}
                )
                print(
                    f"{name:17s} {fold} {label:14s} log-lik {scores['log_lik']:8.4f}  "
                    f"IBS {scores['ibs']:7.4f}  fit {scores['fit_cpu']:6.2f} s CPU",
                    flush=True,
                )


def version(model: str) -> str:
    if model.startswith("skmdn"):  # the one that is imported, maybe not installed
        return skmdn.__version__
    package = "lifelines" if model in PARAMETRIC else "scikit-survival"
    return metadata.version(package)


# -- reporting ----------------------------------------------------------------------


def by_set_and_model(path: Path) -> Table:
    table: Table = defaultdict(lambda: defaultdict(dict))
    for row in read(path):
        scores = {name: float(row[name]) for name in SCORES}
        table[row["set"]][row["model"]][int(row["fold"])] = scores
    return table


def mean_of(folds: Iterable[dict[str, float]], field: str) -> float:
    return float(np.mean([scores[field] for scores in folds]))


def best_of(
    models: dict[str, dict[int, dict[str, float]]], field: str, lowest: bool
) -> str | None:
    """Return the peer with the best mean of a field."""
    means = {
        model: mean_of(folds.values(), field) * (1 if lowest else -1)
        for model, folds in models.items()
        if not model.startswith("skmdn")
    }
    means = {model: mean for model, mean in means.items() if np.isfinite(mean)}
    return min(means, key=means.__getitem__, default=None)


def report_scores(table: Table) -> None:
    columns = ["set", "model", "folds", "log-lik", "minus best parametric"]
    columns += ["out-of-fold", "IBS", "ratio to the best peer", "fit CPU s"]
    print(f"\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    targets = []
    for name, models in table.items():
        parametric = {key: models[key] for key in PARAMETRIC if key in models}
        likeliest = best_of(parametric, "log_lik", lowest=False)
        sharpest = best_of(models, "ibs", lowest=True)
        for model, folds in models.items():
            cells = [name, model, str(len(folds))]
            cells.append(f"{mean_of(folds.values(), 'log_lik'):.4f}")
            gain = differences(folds, models.get(likeliest or ""), "log_lik")
            mean, error = mean_and_error(gain) if gain else (np.nan, np.nan)
            cells.append(f"{mean:+.4f} ± {error:.4f}")
            cells.append(f"{mean_of(folds.values(), 'oof_score'):.4f}")
            ibs = mean_of(folds.values(), "ibs")
            peer = models[sharpest] if sharpest else {}
            shared = [peer[fold] for fold in folds if fold in peer]
            ratio = ibs / mean_of(shared, "ibs") if shared else np.nan
            cells += [f"{ibs:.4f}", f"{ratio:.4f}"]
            cells.append(f"{mean_of(folds.values(), 'fit_cpu'):.2f}")
            print("|", " | ".join(cells), "|")
        if "skmdn" in models and likeliest:
            targets.append(target_text(name, models, likeliest, sharpest))
    print("", *targets, sep="\n")


def target_text(
    name: str,
    models: dict[str, dict[int, dict[str, float]]],
    likeliest: str,
    sharpest: str | None,
) -> str:
    """Say which targets are met."""
    ours = models["skmdn"]
    gain = np.mean(differences(ours, models[likeliest], "log_lik"))
    text = f"{name}: log-likelihood {'met' if gain > 0 else 'missed'} ({likeliest})"
    if sharpest:
        both = ours.keys() & models[sharpest].keys()
        ratio = mean_of([ours[k] for k in both], "ibs")
        ratio /= mean_of([models[sharpest][k] for k in both], "ibs")
        text += f", Brier {'met' if ratio <= BRIER_RATIO else 'missed'} ({sharpest})"
    return text


def differences(
    folds: dict[int, dict[str, float]],
    others: dict[int, dict[str, float]] | None,
    field: str,
) -> list[float]:
    """Return the differences to another model in the folds of both."""
    both = sorted(folds.keys() & (others or {}).keys())
    return [folds[fold][field] - (others or {})[fold][field] for fold in both]


def report_calibration(table: Table) -> None:
    """Print predicted / observed probabilities of events, means over the folds."""
    columns = [f"{group} Q{q}" for group in GROUPS for q in (1, 2, 3)]
    print(f"\n| set | model | {' | '.join(columns)} |\n{'|---' * (2 + len(columns))}|")
    for name, models in table.items():
        for model, folds in models.items():
            if np.isnan(mean_of(folds.values(), CALIBRATION[0])):
                continue
            cells = [
                " / ".join(
                    f"{mean_of(folds.values(), f'{side}_{q}_{group}'):.3f}"
                    for side in ("predicted", "observed")
                )
                for group in GROUPS
                for q in (1, 2, 3)
            ]
            print("|", " | ".join([name, model, *cells]), "|")


def report_pit(table: Table) -> None:
    print(f"\n| set | model | {' | '.join(PIT)} | largest deviation from 0.1 |")
    print("|---" * (3 + len(PIT)) + "|")
    for name, models in table.items():
        for model, folds in models.items():
            shares: Array = np.array([mean_of(folds.values(), part) for part in PIT])
            cells = [f"{share:.3f}" for share in shares]
            largest = np.abs(shares - 1 / N_BINS).max()
            print("|", " | ".join([name, model, *cells, f"{largest:.3f}"]), "|")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__, "survival.csv")
    parser.add_argument("--sets", type=names, default=list(SETS))
    parser.add_argument("--folds", type=integers, default=list(range(N_FOLDS)))
    parser.add_argument(
        "--models", type=names, default=list(MODELS), help=f"of {', '.join(MODELS)}"
    )
    parser.add_argument("--split", choices=("test", "inner"), default="test")
    parser.add_argument(
        "--params", type=json.loads, default={}, help="JSON of MDNRegressor's"
    )
    parser.add_argument("--report", action="store_true", help="run nothing")
    options = parser.parse_args(arguments)
    if options.data is None and not options.report:
        parser.error("--data DIR is needed")
    torch.set_num_threads(options.threads)
    print(machine(options.threads))
    if not options.report:
        run(options)
    table = by_set_and_model(options.out)
    report_scores(table)
    report_calibration(table)
    report_pit(table)


if __name__ == "__main__":
    main()
