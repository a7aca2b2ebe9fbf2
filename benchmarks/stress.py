"""Count how fits to hostile data end: skmdn against plain Adam.

    python benchmarks/stress.py
    python benchmarks/stress.py --seeds 1 --n-rows 60

Every case of `_hostile` is fitted with every covariance type, with one output and with
two (the second is the square of the first), and with every seed; some cases have fewer
rows than there are components. A fit is proper if all predictions are finite and its
densities integrate to one. It is refused if `fit` raises an error that states the
reason. Otherwise it is broken, and listed. The plain network is that of `collapse.py`
with 500 steps, on standardised and on raw rows; it is counted if its NLL of the
training rows is not finite.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import warnings
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from _hostile import hostile_rows, hostile_weights, what_is_wrong
from collapse import fit_plain
from numpy.typing import NDArray

import skmdn
from skmdn import MDNRegressor

COVARIANCE_TYPES = ("full", "tied", "diag", "spherical", "low_rank")
PLAIN = {"scaled": {"standardise": True}, "unscaled": {"standardise": False}}
PLAIN_STEPS = 500


def cases(n: int, seed: int) -> dict[str, tuple[NDArray, NDArray, NDArray | None]]:
    rows = hostile_rows(n, seed)
    X, y = rows["single precision"]
    weighted = {name: (X, y, w) for name, w in hostile_weights(n, seed).items()}
    few = {f"{m} rows": (X[:m], y[:m], None) for m in (2, 3)}
    return {name: (*pair, None) for name, pair in rows.items()} | few | weighted


def with_square(y: NDArray) -> NDArray:
    """Return two outputs; the second is a function of the first in the same unit."""
    y = y.astype(np.float64)
    scale = y.std() or 1.0
    return np.column_stack([y, scale * ((y - y.mean()) / scale) ** 2])


def outcome(X: NDArray, y: NDArray, weight: NDArray | None, kind: str) -> str:
    """Fit, and return "proper", "refused: ..." or what is wrong."""
    mdn = MDNRegressor(
        6,
        covariance_type=kind,
        n_estimators=4,
        hidden_layer_sizes=(16,),
        max_iter=30,
        random_state=0,
        device="cpu",
    )
    try:
        mdn.fit(X, y, weight)
    except ValueError as exc:
        return f"refused: {exc}"
    return what_is_wrong(mdn, X, y) or "proper"


def is_plain_finite(X: NDArray, y: NDArray, seed: int, standardise: bool) -> bool:
    X, y = X.astype(np.float64), y.astype(np.float64)
    fitted = fit_plain(X, y, seed, steps=PLAIN_STEPS, standardise=standardise)
    return bool(np.isfinite(fitted(X, y)))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--n-rows", type=lambda text: [*map(int, text.split(","))], default=[60, 500]
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # few rows, few values, divergence
    print(
        f"{platform.machine()}, 1 thread, Python {platform.python_version()}, "
        f"torch {torch.__version__}, skmdn {skmdn.__version__}"
    )
    print(
        "| case | fits | proper | refused | broken "
        "| plain not finite | plain, unscaled, not finite |"
    )
    print("|---|---|---|---|---|---|---|")
    names, total, reasons = list(cases(60, 0)), Counter[str](), Counter[str]()
    for name in names:
        counts = Counter[str]()
        for n, seed in itertools.product(options.n_rows, range(options.seeds)):
            X, y, weight = cases(n, seed)[name]
            for targets in (y, with_square(y)):
                for kind in COVARIANCE_TYPES:
                    end = outcome(X, targets, weight, kind)
                    kind_of_end = end.split(":")[0]
                    is_named = kind_of_end in ("proper", "refused")
                    counts[kind_of_end if is_named else "broken"] += 1
                    counts["fits"] += 1
                    if kind_of_end != "proper":
                        reasons[f"{name}: {end}"] += 1
                if weight is None:
                    for key in PLAIN:
                        counts[key] += not is_plain_finite(
                            X, targets, seed, **PLAIN[key]
                        )
                    counts["plain"] += 1
        total += counts
        print(_line(name, counts), flush=True)
    print(_line("all", total))
    for reason, count in reasons.items():
        print(f"{count} times {reason}")


def _line(name: str, counts: Counter[str]) -> str:
    ours = " | ".join(str(counts[k]) for k in ("fits", "proper", "refused", "broken"))
    plain = [f"{counts[key]} of {counts['plain']}" for key in PLAIN]
    if not counts["plain"]:  # the plain network does not support weights
        plain = ["", ""]
    return f"| {name} | {ours} | {' | '.join(plain)} |"


if __name__ == "__main__":
    main()
