"""Fit tables in which a third of the targets is missing, and evaluate all outputs.

    python benchmarks/missing.py --data DIR
    python benchmarks/missing.py --data DIR --sets enb --splits 0,1

DIR contains NAME.npz files, at any depth, with the arrays X, y (n, d) and test_mask
(n_splits, n). A third of the entries of y in the training rows is removed at random.
Three fits with the defaults are compared: of the complete table, of the incomplete one
(NaN in y), and of those of its rows that are complete. The NLL of all outputs of the
test rows is in nats; lower is better. Each (set, split) is appended to --out as one row
as soon as it is done, so that a stopped run can be resumed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from _results import append, integers, machine, names, parser_of, read
from _tables import Array, load

from skmdn import MDNRegressor

SHARE = 1 / 3
SETS = "enb,abalone_weights"


def nll(X: Array, y: Array, X_test: Array, y_test: Array) -> float:
    return -MDNRegressor(random_state=0).fit(X, y).score(X_test, y_test)


def compare(X: Array, y: Array, mask: Any, split: int) -> dict[str, float]:
    """Return the NLL of the three fits on the rows of a mask."""
    test = X[mask], y[mask]
    X, y = X[~mask], y[~mask]
    is_missing = np.random.default_rng(split).random(y.shape) < SHARE
    is_complete = ~is_missing.any(axis=1)
    return {
        "complete table": nll(X, y, *test),
        "missing outputs": nll(X, np.where(is_missing, np.nan, y), *test),
        "complete rows": nll(X[is_complete], y[is_complete], *test),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of(__doc__, "missing.csv")
    parser.add_argument("--sets", type=names, default=names(SETS))
    parser.add_argument("--splits", type=integers, default=[0])
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    print(machine(options.threads))
    done = {(row["set"], int(row["split"])) for row in read(options.out)}
    for name in options.sets:
        X, y, masks = load(next(options.data.rglob(f"{name}.npz")))
        assert masks is not None
        for split in options.splits:
            if (name, split) not in done:
                scores = compare(X, y, masks[split], split)
                append(options.out, {"set": name, "split": split} | scores)
    for row in read(options.out):
        scores = {k: f"{float(v):.3f}" for k, v in row.items() if " " in k}
        print(row["set"], row["split"], *(f"{k} {v}" for k, v in scores.items()))


if __name__ == "__main__":
    main()
