"""What each kind of networks contributes to a default fit, and what it costs.

    python benchmarks/kinds.py --data DIR --sets concrete,power,naval \
        --picture docs/kinds.png

Held-out score and weight of each part of the portfolio in a fit with all of them, and
the test NLL and CPU of a fit without it. DIR has files NAME.npz as for quality.py. The
results are appended to --out, and sets, splits and parts that it contains are skipped.
Rows of test_mask are for the report only: no default was chosen by them.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _results import Results, integers, machine, names, parser_of
from _summary import mean_and_error, read
from _tables import Array, load
from _timing import Clock
from quality import find

# Kinds of each part.
PARTS = {
    "periodic_0.1": ("periodic_0.1",),
    "periodic_0.3": ("periodic_0.3",),
    "periodic_1": ("periodic_1",),
    "linear": ("linear",),
    "bins": ("bins",),
    "views": ("views_0.1", "views_1", "nearest_0.1"),
}
KINDS = [kind for kinds in PARTS.values() for kind in kinds]


def judge(
    portfolio: str | list[str],
    X: Array,
    y: Array,
    X_test: Array,
    y_test: Array,
    split: int,
) -> dict[str, Any]:
    """Fit a portfolio; return the results, and the scores and weights of kinds."""
    from skmdn import MDNRegressor

    clock = Clock()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mdn = MDNRegressor(portfolio=portfolio, random_state=split).fit(X, y)
    fit_cpu, clock = clock.cpu(), Clock()
    nll = -mdn.score(X_test, y_test)
    return {
        "nll": nll,
        "fit_cpu": fit_cpu,
        "score_cpu": clock.cpu(),
        **{f"score_{kind}": mdn.portfolio_scores_.get(kind) for kind in KINDS},
        **{f"weight_{kind}": mdn.portfolio_weights_.get(kind, 0.0) for kind in KINDS},
    }


def run(options: argparse.Namespace) -> None:
    """Append a row for every set, split and part that is not in the file yet."""
    results = Results(options.out, options.threads)
    done = {(r["set"], int(r["split"]), r["without"]): r for r in results.rows}
    for name in options.sets:
        X, y, masks = load(find(options.data, name))
        for split in options.splits:
            rows = X[~masks[split]], y[~masks[split]], X[masks[split]], y[masks[split]]
            competing: list[str] = []  # fewer on small tables
            for part in ("", *PARTS):
                row = done.get((name, split, part))
                if row is None:
                    left = [kind for kind in competing if kind not in PARTS[part]]
                    row = judge(left if part else "auto", *rows, split)
                    labels = {"set": name, "split": split, "without": part}
                    results.append(labels | row)
                    print(
                        f"{name:10s} {split:3d} without {part or 'nothing':12s} NLL "
                        f"{row['nll']:8.3f}  fit {row['fit_cpu']:6.1f} s CPU",
                        flush=True,
                    )
                if not part:
                    competing = [kind for kind in KINDS if row[f"score_{kind}"]]


def report(path: Path) -> None:
    """Print the mean weight of each part, and what fits without it lose."""
    rows = read(path)
    print(
        "\n| set | part | weight | NLL without it, minus with it | CPU with it, over "
        "without it |\n|---|---|---|---|---|"
    )
    for name in dict.fromkeys(row["set"] for row in rows):
        of_set = {(int(r["split"]), r["without"]): r for r in rows if r["set"] == name}
        for part, kinds in PARTS.items():
            pairs = [
                (row, of_set[split, part])
                for (split, without), row in of_set.items()
                if not without and (split, part) in of_set
            ]
            weight = np.mean(
                [sum(float(row[f"weight_{k}"]) for k in kinds) for row, _ in pairs]
            )
            loss, error = mean_and_error(
                float(without["nll"]) - float(row["nll"]) for row, without in pairs
            )
            cost = [float(row["fit_cpu"]) / float(w["fit_cpu"]) for row, w in pairs]
            print(
                f"| {name} | {part} | {weight:.2f} | {loss:+.3f} ± {error:.2g} | "
                f"{np.mean(cost):.2f} |"
            )


def draw(path: Path, picture: Path) -> None:
    """Draw the held-out score of each kind, and its weight, for every set."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    rows = [row for row in read(path) if not row["without"]]
    sets = list(dict.fromkeys(row["set"] for row in rows))
    figure, axes = plt.subplots(
        1, len(sets), figsize=(3.6 * len(sets), 3.2), layout="constrained", sharey=True
    )
    for ax, name in zip(np.atleast_1d(axes), sets, strict=True):
        of_set = [row for row in rows if row["set"] == name]
        for position, kind in enumerate(KINDS):
            scores = [row[f"score_{kind}"] for row in of_set if row[f"score_{kind}"]]
            weight = np.mean([float(row[f"weight_{kind}"]) for row in of_set])
            if not scores:
                continue
            score = np.mean([float(value) for value in scores])
            color = "#005a9c" if weight > 0 else "#bbbbbb"
            ax.plot(score, position, "o", color=color)
            ax.annotate(
                f"{weight:.2f}" if weight > 0 else "",
                (score, position),
                xytext=(0, 5),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
        ax.set(title=name, yticks=range(len(KINDS)), yticklabels=KINDS)
        ax.margins(x=0.15, y=0.12)
        ax.grid(axis="x", alpha=0.3)
    figure.supxlabel(
        "held-out log-likelihood of each kind when it was last trained (nats; higher "
        "is better), and its weight",
        fontsize=9,
    )
    figure.savefig(picture, dpi=120)


def main() -> None:
    parser = parser_of(__doc__, "kinds.csv")
    parser.add_argument("--sets", type=names, default=["concrete", "power", "naval"])
    parser.add_argument("--splits", type=integers, default=[0])
    parser.add_argument("--picture", type=Path, help="draw scores and weights")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine(options.threads), flush=True)
    if options.data is not None:
        run(options)
    report(options.out)
    if options.picture is not None:
        draw(options.out, options.picture)


if __name__ == "__main__":
    main()
