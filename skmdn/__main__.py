"""Cross-validate an `MDNRegressor` and two baselines, and draw the densities.

python -m skmdn                                    data of the Old Faithful geyser
python -m skmdn FILE.csv --target COLUMN           a user's table
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmdn import metrics
from skmdn._regressor import MDNRegressor
from skmdn._utils.table import Table, TableError, preprocessor, read_table
from skmdn.datasets import load_geyser
from skmdn.density import MixtureDensity
from skmdn.density.transformed import Density

CONFIDENCE = 0.9
N_BASELINE_COMPONENTS = 5

Fit = Callable[[NDArray[Any], NDArray[Any]], Callable[[NDArray[Any]], Density]]


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        table = _load(options)
        return _run(table, options)
    except TableError as exc:
        print(f"skmdn: {exc}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("skmdn: interrupted.", file=sys.stderr)
        return 130  # 128 + SIGINT, as shells report it


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m skmdn",
        description="Cross-validate a mixture density network and two baselines.",
    )
    parser.add_argument(
        "file", nargs="?", type=Path, metavar="FILE.csv", help="default: geyser data"
    )
    parser.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="COLUMN",
        help="column to predict; repeat the option for several outputs",
    )
    parser.add_argument("--folds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--picture",
        type=Path,
        default=Path("skmdn.png"),
        metavar="FILE.png",
        help="default: %(default)s",
    )
    return parser


def _load(options: argparse.Namespace) -> Table:
    if options.file is not None:
        if not options.target:
            raise TableError("Name the column to predict with --target COLUMN.")
        return read_table(options.file, options.target)
    if options.target:
        raise TableError("--target requires a FILE.csv.")
    data = load_geyser()
    n_night = len(load_geyser(drop_night_codes=False).target) - len(data.target)
    notes = [f"{n_night} eruptions recorded at night as 2, 3 or 4 only are left out."]
    return Table(
        data.data,
        data.target[:, None],
        [f"{data.feature_names[0]} (minutes)"],
        [f"{data.target_name} (minutes)"],
        np.array([False]),
        notes,
    )


def _run(table: Table, options: argparse.Namespace) -> int:
    n_rows, n_features = table.X.shape
    if not 2 <= options.folds <= n_rows:
        raise TableError(
            f"--folds must be between 2 and the {n_rows} rows, got {options.folds}."
        )
    print(f"{n_rows} rows, {n_features} features; target: {', '.join(table.targets)}.")
    for note in table.notes:
        print(note)
    scores = _cross_validate(table, options)
    _print_scores(scores, n_outputs=len(table.targets))
    return _draw(table, options)


# -- the three models ------------------------------------------------------------


def fit_network(table: Table, seed: int) -> Fit:
    """Return a fit of the mixture density network with its defaults."""

    def fit(X: NDArray[Any], y: NDArray[Any]) -> Callable[[NDArray[Any]], Density]:
        model = make_pipeline(preprocessor(table), MDNRegressor(random_state=seed))
        model.fit(X, y)
        return lambda X: metrics.predict_density(model, X)

    return fit


def fit_unconditional(table: Table, seed: int) -> Fit:
    """Return a fit of a Gaussian mixture of y that does not depend on X."""

    def fit(X: NDArray[Any], y: NDArray[Any]) -> Callable[[NDArray[Any]], Density]:
        scaler = StandardScaler().fit(y)
        n_components = min(N_BASELINE_COMPONENTS, len(y))
        mixture = GaussianMixture(n_components, random_state=seed)
        mixture.fit(scaler.transform(y))
        scale = np.outer(scaler.scale_, scaler.scale_)

        def predict(X: NDArray[Any]) -> MixtureDensity:
            one_row = MixtureDensity.from_covariances(
                mixture.weights_[None],
                (mixture.means_ * scaler.scale_ + scaler.mean_)[None],
                (mixture.covariances_ * scale)[None],
            )
            return one_row[np.zeros(len(X), dtype=int)]

        return predict

    return fit


def fit_ridge(table: Table, seed: int) -> Fit:
    """Return a fit of ridge regression with Gaussian residuals."""

    def fit(X: NDArray[Any], y: NDArray[Any]) -> Callable[[NDArray[Any]], Density]:
        ridge = make_pipeline(
            preprocessor(table), StandardScaler(), RidgeCV(np.logspace(-3, 3, 13))
        )
        residuals = y - ridge.fit(X, y).predict(X).reshape(y.shape)
        covariance = residuals.T @ residuals / len(y)
        covariance += 1e-9 * np.diag(y.var(axis=0) + np.finfo(np.float64).tiny)

        def predict(X: NDArray[Any]) -> MixtureDensity:
            return MixtureDensity.from_covariances(
                np.ones((len(X), 1)),
                ridge.predict(X).reshape(len(X), 1, -1),
                np.broadcast_to(covariance, (len(X), 1, *covariance.shape)),
            )

        return predict

    return fit


MODELS = {
    "MDNRegressor": fit_network,
    "unconditional Gaussian mixture": fit_unconditional,
    "ridge with Gaussian residuals": fit_ridge,
}


# -- scores and picture ----------------------------------------------------------


def _cross_validate(
    table: Table, options: argparse.Namespace
) -> dict[str, NDArray[np.float64]]:
    """Return out-of-fold scores of every model, each (n_rows, 3)."""
    scores = {name: np.empty((len(table.y), 3)) for name in MODELS}
    folds = KFold(options.folds, shuffle=True, random_state=options.seed)
    start = time.perf_counter()
    for number, (train, test) in enumerate(folds.split(table.X), start=1):
        for name, model in MODELS.items():
            fit = model(table, options.seed)
            density = fit(table.X[train], table.y[train])(table.X[test])
            scores[name][test] = _scores(table.y[test], density)
        elapsed = time.perf_counter() - start
        print(
            f"fold {number} of {options.folds} done after {elapsed:.0f} s", flush=True
        )
    return scores


def _scores(y: NDArray[Any], density: Density) -> NDArray[np.float64]:
    """Return log score, CRPS or energy score, and coverage of each row, (n, 3)."""
    has_one_output = y.shape[1] == 1
    distance = metrics.crps if has_one_output else metrics.energy_score
    region = "interval" if has_one_output else "hdr"
    return np.column_stack(
        [
            metrics.log_score(y, density),
            distance(y, density),
            metrics.coverage(y, density, CONFIDENCE, region=region),
        ]
    )


def _print_scores(scores: dict[str, NDArray[np.float64]], n_outputs: int) -> None:
    distance = "CRPS" if n_outputs == 1 else "energy score"
    width = max(map(len, scores))
    print(f"\n{'cross-validated':{width}}  {'NLL':>9}  {distance:>12}  90 % coverage")
    for name, table in scores.items():
        nll, score, covered = table.mean(axis=0)
        print(f"{name:{width}}  {nll:9.4f}  {score:12.4g}  {100 * covered:11.1f} %")
    region = "central intervals" if n_outputs == 1 else "highest-density regions"
    print(
        f"\nNLL in nats and {distance} in the unit of the target: lower is better.\n"
        f"The {region} of 90 % should cover 90 %."
    )


def _draw(table: Table, options: argparse.Namespace) -> int:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print(
            "No picture: matplotlib is not installed (install the extra skmdn[plot])."
        )
        return 0
    from skmdn.plot import DensityDisplay

    density = fit_network(table, options.seed)(table.X, table.y)(table.X)
    n_outputs = len(table.targets)
    figure = Figure(figsize=(7, 4 * n_outputs), layout="constrained")
    axes = figure.subplots(n_outputs, squeeze=False)[:, 0]
    has_one_number = len(table.features) == 1 and not table.is_text[0]
    x: Any = table.X[:, 0].astype(np.float64) if has_one_number else None
    for output, (ax, target) in enumerate(zip(axes, table.targets, strict=True)):
        DensityDisplay.from_predictions(
            density,
            table.y,
            x=x,
            output=output,
            x_label=table.features[0] if has_one_number else None,
            y_label=target,
            ax=ax,
        )
    axes[0].set_title("MDNRegressor: density of the target, and the data")
    try:
        figure.savefig(options.picture, dpi=150)
    except OSError as exc:
        raise TableError(f"The picture cannot be written: {exc}.") from exc
    print(f"Picture: {options.picture}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
