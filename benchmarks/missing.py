"""Fit tables in which targets or features are missing, and evaluate the test rows.

    python benchmarks/missing.py --data DIR
    python benchmarks/missing.py --data DIR --part features --splits 0,1

DIR contains NAME.npz files, at any depth, with the arrays X, y (n, d) and test_mask
(n_splits, n). The NLL of all outputs of the test rows is in nats; lower is better.

Part "outputs": a third of the entries of y in the training rows is removed at random.
Three fits with the defaults are compared: of the complete table, of the incomplete one
(NaN in y), and of those of its rows that are complete.

Part "features": 30 % of the entries of X are removed at random, of the test rows too.
The fits are those of the complete table, of the incomplete one (NaN in X), and of a
pipeline of SimpleImputer(strategy="median", add_indicator=True) and the defaults.

Each (part, set, split) is appended to --out as one row as soon as it is done, so that a
stopped run can be resumed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from _results import Results, integers, machine, names, parser_of
from _summary import read
from _tables import Array, load
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline

from skmdn import MDNRegressor

SHARE_OF_TARGETS, SHARE_OF_CELLS = 1 / 3, 0.3
SETS = {
    "outputs": ("enb", "abalone_weights"),
    "features": ("bostonHousing", "concrete", "kin8nm", "wine-quality-red"),
}
Rows = tuple[Array, Array]


def nll(train: Rows, test: Rows, model: Any = None) -> float:
    model = model or MDNRegressor(random_state=0)
    return -float(model.fit(*train).score(*test))


def without_targets(train: Rows, test: Rows, split: int) -> dict[str, float]:
    """Return the NLL of the three fits of part "outputs"."""
    X, y = train
    is_missing = np.random.default_rng(split).random(y.shape) < SHARE_OF_TARGETS
    is_complete = ~is_missing.any(axis=1)
    return {
        "complete": nll(train, test),
        "missing": nll((X, np.where(is_missing, np.nan, y)), test),
        "other": nll((X[is_complete], y[is_complete]), test),
    }


def without_cells(train: Rows, test: Rows, split: int) -> dict[str, float]:
    """Return the NLL of the three fits of part "features"."""
    rng = np.random.default_rng(split)

    def removed(rows: Rows) -> Rows:
        X, y = rows
        return np.where(rng.random(X.shape) < SHARE_OF_CELLS, np.nan, X), y

    holes = removed(train), removed(test)
    imputer = SimpleImputer(strategy="median", add_indicator=True)
    pipeline = make_pipeline(imputer, MDNRegressor(random_state=0))
    return {
        "complete": nll(train, test),
        "missing": nll(*holes),
        "other": nll(*holes, pipeline),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of(__doc__, "missing.csv")
    parser.add_argument("--part", choices=tuple(SETS), default="outputs")
    parser.add_argument("--sets", type=names, help="default: those of the part")
    parser.add_argument("--splits", type=integers, default=[0])
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    print(machine(options.threads))
    compare = without_targets if options.part == "outputs" else without_cells
    results = Results(options.out, options.threads)
    done = {(row["part"], row["set"], int(row["split"])) for row in results.rows}
    for name in options.sets or SETS[options.part]:
        X, y, masks = load(next(options.data.rglob(f"{name}.npz")))
        assert masks is not None
        for split in options.splits:
            if (options.part, name, split) in done:
                continue
            test = masks[split]
            scores = compare((X[~test], y[~test]), (X[test], y[test]), split)
            row = {"part": options.part, "set": name, "split": split}
            results.append(row | scores)
    for row in read(options.out):
        values = {k: f"{float(row[k]):.3f}" for k in ("complete", "missing", "other")}
        print(row["part"], row["set"], row["split"], values)


if __name__ == "__main__":
    main()
