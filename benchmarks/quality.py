"""Evaluate conditional densities on tables with fixed splits, for several libraries.

    python benchmarks/quality.py --data DIR                      skmdn, nine UCI sets
    python benchmarks/quality.py --data DIR --peers skmdn,ngboost,catboost
    python benchmarks/quality.py --data DIR --sets several --splits 0,1
    python benchmarks/quality.py --data DIR --params '{"n_estimators": 8}'
    python benchmarks/quality.py --report                        run nothing

DIR contains NAME.npz files, at any depth, with the arrays X, y and test_mask (n_splits,
n). Each (set, split, peer) is appended to --out as one row as soon as it is done, so
that a stopped run can be resumed. Every peer runs with its defaults, in this process,
on the raw X and y, or on standardised data if it does not standardise itself. With
--params the fit appears as one more peer, named by its parameters. NLL is in
nats, CRPS and RMSE are in the unit of y; all are means over the test rows, and lower is
better.

Peers are not dependencies: `pip install -c constraints-bench.txt '.[bench]'` installs
most of them. LightGBMLSS pins another version of torch: create a separate environment
for it, install this package there with --no-deps, and append to the same file. The same
holds for treeffuser, whose scikit-learn is too old for this package; skmdn is therefore
imported only where it is needed.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from _results import Results, integers, machine, names, parser_of
from _summary import mean_and_error, read
from _tables import Array, as_columns, load
from _timing import Clock
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

if TYPE_CHECKING:
    from skmdn import MixtureDensity

Density = Callable[[Array], "MixtureDensity"]
# Scores by set, peer, split and field.
Table = dict[str, dict[str, dict[int, dict[str, float]]]]
LEVEL = 0.9

SETS = {
    "boston": "bostonHousing",
    "concrete": "concrete",
    "energy": "energy",
    "kin8nm": "kin8nm",
    "naval": "naval-propulsion-plant",
    "power": "power-plant",
    "protein": "protein-tertiary-structure",
    "wine": "wine-quality-red",
    "yacht": "yacht",
}
# Several outputs, or one with several modes.
SEVERAL = (
    *("enb", "jura", "slump", "abalone_weights", "parkinsons"),
    *("bike_casual_registered", "sarcos_test4449", "santiago_taxi", "nycflights"),
    *("oes10", "lane2", "lane3", "melbourne_maxtemp"),
)
SCORES = ("nll", "crps", "rmse", "coverage", "fit_cpu", "fit_wall", "predict_cpu")


# -- peers: fit(X, y, seed) returns a function from X to a density ----------------


def gaussians(mean: Array, std: Array) -> MixtureDensity:
    """Return one Gaussian per row, (n,), or diagonal over several outputs, (n, d)."""
    from skmdn import MixtureDensity

    if mean.ndim == 1:
        return MixtureDensity(
            np.ones((len(mean), 1)), mean[:, None], 1 / np.maximum(std, 1e-12)[:, None]
        )
    factors = np.zeros((*mean.shape, mean.shape[1]))
    np.einsum("nii->ni", factors)[:] = 1 / np.maximum(std, 1e-12)
    return MixtureDensity(np.ones((len(mean), 1)), mean[:, None], factors[:, None])


def fit_skmdn(X: Array, y: Array, seed: int, **params: Any) -> Density:
    from skmdn import MDNRegressor

    params = {"random_state": seed, **params}
    return MDNRegressor(**params).fit(X, y).predict_density


def fit_ngboost(X: Array, y: Array, seed: int) -> Density:
    from ngboost import NGBRegressor

    model = NGBRegressor(verbose=False, random_state=seed).fit(X, y)

    def density(X: Array) -> MixtureDensity:
        predicted = model.pred_dist(X)
        return gaussians(predicted.loc, predicted.scale)

    return density


def fit_catboost(X: Array, y: Array, seed: int) -> Density:
    from catboost import CatBoostRegressor

    model = CatBoostRegressor(
        loss_function="RMSEWithUncertainty",
        random_seed=seed,
        verbose=False,
        allow_writing_files=False,
        thread_count=torch.get_num_threads(),
    ).fit(X, y)

    def density(X: Array) -> MixtureDensity:
        mean, variance = model.predict(X).T
        return gaussians(mean, np.sqrt(variance))

    return density


def fit_lightgbmlss(X: Array, y: Array, seed: int) -> Density:
    import lightgbm
    from lightgbmlss.distributions.Gaussian import Gaussian
    from lightgbmlss.model import LightGBMLSS

    model = LightGBMLSS(Gaussian())
    model.train(
        {"seed": seed, "verbose": -1, "num_threads": torch.get_num_threads()},
        lightgbm.Dataset(X, label=(y - y.mean()) / y.std()),
    )

    def density(X: Array) -> MixtureDensity:
        predicted = model.predict(X, pred_type="parameters")
        mean, std = predicted["loc"].to_numpy(), predicted["scale"].to_numpy()
        return gaussians(mean * y.std() + y.mean(), std * y.std())

    return density


def fit_sbi(X: Array, y: Array, seed: int) -> Density:
    from sbi.inference import NPE

    torch.manual_seed(seed)
    X_units, y_units = StandardScaler().fit(X), StandardScaler().fit(as_columns(y))
    d = len(y_units.mean_)

    def as_tensor(values: Array) -> torch.Tensor:
        return torch.as_tensor(values, dtype=torch.float32)

    inference = NPE(density_estimator="mdn", show_progress_bars=False)
    inference.append_simulations(
        as_tensor(y_units.transform(as_columns(y))), as_tensor(X_units.transform(X))
    )
    model = inference.train()

    def density(X: Array) -> MixtureDensity:
        with torch.no_grad():
            mixture = model.get_uncorrected_mog(as_tensor(X_units.transform(X)))
            # sbi standardises y again internally.
            origin = model._inverse_transform_input(torch.zeros(1, d))
            step = model._inverse_transform_input(torch.ones(1, d)) - origin
        weights, means, factors, origin, step = (
            part.double().numpy()
            for part in (
                mixture.weights,
                mixture.means,
                mixture.precision_factors,
                origin,
                step,
            )
        )
        return in_units(weights, means * step + origin, factors / step, y_units, y.ndim)

    return density


def fit_skpro(X: Array, y: Array, seed: int) -> Density:
    import pandas as pd
    from skpro.regression.mdn import MDNRegressor as SkproMDN

    torch.manual_seed(seed)
    X_units, y_units = StandardScaler().fit(X), StandardScaler().fit(as_columns(y))
    model = SkproMDN(random_state=seed).fit(
        pd.DataFrame(X_units.transform(X)),
        pd.DataFrame(y_units.transform(as_columns(y))),
    )

    def density(X: Array) -> MixtureDensity:
        predicted = model.predict_proba(pd.DataFrame(X_units.transform(X)))
        weights, means, stds = (
            np.asarray(predicted.get_params()[name], dtype=np.float64)
            for name in ("pi", "mu", "sigma")
        )
        factors = np.zeros((*means.shape, means.shape[-1]))
        np.einsum("nkii->nki", factors)[:] = 1 / stds
        return in_units(weights, means, factors, y_units, y.ndim)

    return density


def in_units(
    weights: Array, means: Array, factors: Array, units: StandardScaler, y_ndim: int
) -> MixtureDensity:
    """Map a density of standardised targets back; drop the output axis if y is 1-D."""
    from skmdn import MixtureDensity

    means, factors = means * units.scale_ + units.mean_, factors / units.scale_
    if y_ndim == 1:
        means, factors = means[..., 0], factors[..., 0, 0]
    return MixtureDensity(weights / weights.sum(axis=1, keepdims=True), means, factors)


def fit_with_residuals(model: Any) -> Callable[[Array, Array, int], Density]:
    """Return a fit of a point model with the residual std of a held-out fifth."""

    def fit(X: Array, y: Array, seed: int) -> Density:
        X_fit, X_out, y_fit, y_out = train_test_split(
            X, y, test_size=0.2, random_state=seed
        )
        std = (y_out - model().fit(X_fit, y_fit).predict(X_out)).std(axis=0)
        fitted = model().fit(X, y)

        def density(X: Array) -> MixtureDensity:
            mean = fitted.predict(X)
            return gaussians(mean, np.broadcast_to(std, mean.shape))

        return density

    return fit


def fit_gmm(X: Array, y: Array, seed: int) -> Density:
    """Fit a Gaussian mixture of y that does not depend on X."""
    from skmdn import MixtureDensity

    model = GaussianMixture(5, n_init=3, random_state=seed).fit(as_columns(y))

    def density(X: Array) -> MixtureDensity:
        fitted = MixtureDensity.from_covariances(
            np.broadcast_to(model.weights_, (len(X), 5)),
            np.broadcast_to(model.means_, (len(X), *model.means_.shape)),
            np.broadcast_to(model.covariances_, (len(X), *model.covariances_.shape)),
        )
        return fitted.marginal(0) if y.ndim == 1 else fitted

    return density


PEERS: dict[str, Callable[[Array, Array, int], Density]] = {
    "skmdn": fit_skmdn,
    "ngboost": fit_ngboost,
    "catboost": fit_catboost,
    "lightgbmlss": fit_lightgbmlss,
    "sbi": fit_sbi,
    "skpro": fit_skpro,
    "hgb": fit_with_residuals(HistGradientBoostingRegressor),
    "ridge": fit_with_residuals(Ridge),
    "gmm": fit_gmm,
}
ONE_OUTPUT = ("ngboost", "catboost", "lightgbmlss", "hgb", "treeffuser")
PACKAGES = {"hgb": "scikit-learn", "ridge": "scikit-learn", "gmm": "scikit-learn"}


# -- treeffuser returns samples instead of a density ------------------------------


def judge_treeffuser(
    X: Array, y: Array, X_test: Array, y_test: Array, seed: int
) -> dict[str, float]:
    from treeffuser import Treeffuser

    clock = Clock()
    model = Treeffuser(seed=seed)
    model.fit(X, y)
    fit_cpu, fit_wall, clock = clock.cpu(), clock.wall(), Clock()
    draws = np.sort(model.sample(X_test, n_samples=100).reshape(100, -1), axis=0)
    predict_cpu = clock.cpu()
    # CRPS = E|Y - y| - E|Y - Y'| / 2; unbiased second term from the sorted draws.
    rank = np.arange(100)[:, None]
    spread = 2 * ((2 * rank - 99) * draws).sum(axis=0) / (100 * 99)
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return {
        "nll": np.nan,
        "crps": float((np.abs(draws - y_test).mean(axis=0) - spread / 2).mean()),
        "rmse": float(np.sqrt(((draws.mean(axis=0) - y_test) ** 2).mean())),
        "coverage": float(((y_test >= low) & (y_test <= high)).mean()),
        "fit_cpu": fit_cpu,
        "fit_wall": fit_wall,
        "predict_cpu": predict_cpu,
    }


# -- evaluation ---------------------------------------------------------------------


def judge(
    fit: Callable[[Array, Array, int], Density],
    X: Array,
    y: Array,
    X_test: Array,
    y_test: Array,
    seed: int,
) -> dict[str, float]:
    from skmdn.metrics import crps

    clock = Clock()
    predict = fit(X, y, seed)
    fit_cpu, fit_wall, clock = clock.cpu(), clock.wall(), Clock()
    density = predict(X_test)
    predict_cpu = clock.cpu()
    error = as_columns(density.mean() - y_test)
    scores = {
        "nll": float(-density.logpdf(y_test).mean()),
        "crps": np.nan,
        "rmse": float(np.sqrt((error**2).sum(axis=1).mean())),
        "coverage": np.nan,
        "fit_cpu": fit_cpu,
        "fit_wall": fit_wall,
        "predict_cpu": predict_cpu,
    }
    if y.ndim == 1:
        scores["crps"] = float(crps(y_test, density).mean())
        low, high = density.interval(LEVEL)
        scores["coverage"] = float(((y_test >= low) & (y_test <= high)).mean())
    return scores


def find(data: Path, name: str) -> Path:
    (path,) = data.rglob(f"{SETS.get(name, name)}.npz")
    return path


def version(peer: str) -> str:
    if peer == "skmdn":  # the one that is imported, which may not be installed
        import skmdn

        return skmdn.__version__
    return metadata.version(PACKAGES.get(peer, peer))


def judge_peer(
    peer: str, parts: tuple[Array, Array, Array, Array, int], params: dict[str, Any]
) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if peer == "treeffuser":
            return judge_treeffuser(*parts)
        fit = partial(PEERS[peer], **params) if peer == "skmdn" else PEERS[peer]
        return judge(fit, *parts)


def run(options: argparse.Namespace) -> None:
    """Append a row for every set, split and peer that is not in the file yet."""
    results = Results(options.out, options.threads)
    done = {(r["set"], int(r["split"]), r["peer"]) for r in results.rows}
    for name in options.sets:
        X, y, masks = load(find(options.data, name))
        splits = range(len(masks)) if options.splits is None else options.splits
        for split in splits:
            if split >= len(masks):
                continue
            train, test = ~masks[split], masks[split]
            for peer in options.peers:
                is_changed = peer == "skmdn" and options.params
                label = f"skmdn {json.dumps(options.params)}" if is_changed else peer
                if (name, split, label) in done:
                    continue
                if y.ndim == 2 and peer in ONE_OUTPUT:
                    continue
                parts = X[train], y[train], X[test], y[test], split
                scores = judge_peer(peer, parts, options.params)
                row = {"set": name, "split": split, "peer": label, **scores}
                row["version"] = version(peer)
                results.append(row)
                print(
                    f"{name:10s} {split:3d} {label:12s} NLL {scores['nll']:8.3f}  CRPS "
                    f"{scores['crps']:9.4g}  fit {scores['fit_cpu']:6.1f} s CPU",
                    flush=True,
                )


# -- reporting ----------------------------------------------------------------------


def by_set_and_peer(path: Path) -> Table:
    table: Table = defaultdict(lambda: defaultdict(dict))
    for row in read(path):
        values = {score: float(row[score]) for score in SCORES}
        table[row["set"]][row["peer"]][int(row["split"])] = values
    return table


def report(path: Path) -> None:
    """Print means, standard errors, and paired differences on common splits."""
    print(
        "\n| set | peer | splits | NLL | CRPS | RMSE | 90 % coverage | fit CPU s | "
        "predict CPU s | NLL minus skmdn's |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    for name, peers in by_set_and_peer(path).items():
        for peer, rows in peers.items():
            cells = []
            for field in ("nll", "crps", "rmse"):
                mean, error = mean_and_error(row[field] for row in rows.values())
                cells.append(f"{mean:.4g} ± {error:.2g}")
            cells.append(f"{np.mean([r['coverage'] for r in rows.values()]):.3f}")
            for field in ("fit_cpu", "predict_cpu"):
                cells.append(f"{np.mean([r[field] for r in rows.values()]):.3g}")
            common = rows.keys() & peers.get("skmdn", {}).keys()
            difference = "-"
            if common and peer != "skmdn":
                mean, error = mean_and_error(
                    rows[split]["nll"] - peers["skmdn"][split]["nll"]
                    for split in common
                )
                difference = f"{mean:+.3g} ± {error:.2g}"
            print(
                "|", " | ".join([name, peer, str(len(rows)), *cells, difference]), "|"
            )


def main() -> None:
    parser = parser_of(__doc__, "quality.csv")
    parser.add_argument("--sets", type=names, default=list(SETS))
    parser.add_argument("--splits", type=integers)
    parser.add_argument("--peers", type=names, default=["skmdn"])
    parser.add_argument(
        "--params",
        type=json.loads,
        default={},
        help="JSON of MDNRegressor's parameters",
    )
    parser.add_argument("--report", action="store_true", help="run nothing")
    options = parser.parse_args()
    unknown = set(options.peers) - {*PEERS, "treeffuser"}
    if unknown:
        parser.error(
            f"unknown peer: {', '.join(sorted(unknown))}; known peers are "
            f"{', '.join(PEERS)}, treeffuser"
        )
    groups = {"several": SEVERAL}
    options.sets = [n for part in options.sets for n in groups.get(part, [part])]
    torch.set_num_threads(options.threads)
    print(machine(options.threads))
    if not options.report:
        if options.data is None:
            parser.error("--data DIR is needed")
        run(options)
    report(options.out)


if __name__ == "__main__":
    main()
