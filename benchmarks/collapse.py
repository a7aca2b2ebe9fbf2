"""Count how often training reaches the known density: skmdn against plain Adam.

    python benchmarks/collapse.py
    python benchmarks/collapse.py --seeds 3 --sets inverse_sine
    python benchmarks/collapse.py --out collapse.csv --report

Each (set, peer, seed) is appended to --out as one row as soon as it is done, so that a
stopped run can be resumed: gap is the mean NLL of 10,000 new rows less that of the true
density, in nats, and reached is 1 if the gap is below 0.05, else 0. The plain network
has the same components, widths, activation and number of steps, torch's default
initialisation, exponentials for the scales, Adam at its default learning rate of 1e-3,
and no validation, as in a first implementation. The data, the initial weights and the
batches are determined by the seed.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _results import Results, machine, names, parser_of
from _summary import Row, read
from _timing import Clock
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

import skmdn
from skmdn import MDNRegressor, datasets

SETS: dict[str, Callable[..., Any]] = {
    "inverse_sine": datasets.make_inverse_sine,
    "two_moons": datasets.make_two_moons,
    "rotating_gaussians": datasets.make_rotating_gaussians,
}
N_ROWS, N_TEST, MARGIN = 2000, 10_000, 0.05
N_COMPONENTS, STEPS, BATCH = 5, 3000, 64


class PlainNetwork(nn.Module):
    """Network with two hidden layers and a full Cholesky factor of the precision."""

    def __init__(self, n_features: int, n_outputs: int) -> None:
        super().__init__()
        d = n_outputs
        self.sizes = [N_COMPONENTS, N_COMPONENTS * d, N_COMPONENTS * d * d]
        self.layers = nn.Sequential(
            nn.Linear(n_features, 64),
            nn.SiLU(),
            nn.Linear(64, 64),
            nn.SiLU(),
            nn.Linear(64, sum(self.sizes)),
        )

    def nll(self, X: Tensor, y: Tensor) -> Tensor:
        d = y.shape[1]
        logits, means, raw = self.layers(X).split(self.sizes, dim=1)
        raw = raw.unflatten(1, (N_COMPONENTS, d, d))
        log_diagonal = raw.diagonal(dim1=-2, dim2=-1)
        factors = raw.triu(1) + torch.diag_embed(log_diagonal.exp())
        residuals = y[:, None] - means.unflatten(1, (N_COMPONENTS, d))
        z = (factors @ residuals[..., None])[..., 0]
        log_density = log_diagonal.sum(-1) - 0.5 * z.square().sum(-1)
        constant = d / 2 * math.log(2 * math.pi)
        return constant - (logits.log_softmax(-1) + log_density).logsumexp(-1)


def fit_plain(
    X: NDArray, y: NDArray, seed: int, *, steps: int = STEPS, standardise: bool = True
) -> Callable[..., float]:
    torch.manual_seed(seed)
    y = y.reshape(len(y), -1)
    scaler = StandardScaler(with_mean=standardise, with_std=standardise)
    X_scaler, y_scaler = clone(scaler).fit(X), clone(scaler).fit(y)

    def scaled(X: NDArray, y: NDArray) -> tuple[Tensor, Tensor]:
        y = y.reshape(len(y), -1)
        parts = X_scaler.transform(X), y_scaler.transform(y)
        return tuple(torch.as_tensor(part, dtype=torch.float32) for part in parts)

    network = PlainNetwork(X.shape[1], y.shape[1])
    optimizer = torch.optim.Adam(network.parameters())
    rows = scaled(X, y)
    for _ in range(steps):
        batch = torch.randint(len(X), (BATCH,))
        optimizer.zero_grad()
        network.nll(rows[0][batch], rows[1][batch]).mean().backward()
        optimizer.step()

    @torch.no_grad()
    def nll(X: NDArray, y: NDArray) -> float:
        log_scale = np.log(y_scaler.scale_).sum() if standardise else 0.0
        return float(network.nll(*scaled(X, y)).mean() + log_scale)

    return nll


def fit_skmdn(X: NDArray, y: NDArray, seed: int) -> Callable[..., float]:
    mdn = MDNRegressor(random_state=seed).fit(X, y)
    return lambda X, y: -mdn.score(X, y)


PEERS = {"skmdn": fit_skmdn, "plain": fit_plain}


def run(options: argparse.Namespace) -> None:
    """Append a row for every set, peer and seed that is not in the file yet."""
    results = Results(options.out, options.threads)
    done = {(row["set"], row["peer"], row["seed"]) for row in results.rows}
    for name in options.sets:
        for seed in range(options.seeds):
            X, y = SETS[name](N_ROWS, random_state=seed)
            X_test, y_test, truth = SETS[name](
                N_TEST, random_state=1000 + seed, return_density=True
            )
            known = float(-truth.logpdf(y_test).mean())
            for peer, fit in PEERS.items():
                if (name, peer, str(seed)) in done:
                    continue
                clock = Clock()
                nll = fit(X, y, seed)
                cpu, gap = clock.cpu(), nll(X_test, y_test) - known
                row = {"set": name, "peer": peer, "seed": seed, "gap": gap}
                results.append(row | {"reached": int(gap < MARGIN), "fit_cpu": cpu})


def report(path: Path) -> None:
    """Print how many runs reached the truth, and the gaps."""
    print("| set | peer | within 0.05 nats | median gap | largest gap | CPU s |")
    print("|---|---|---|---|---|---|")
    by_peer: dict[tuple[str, str], list[Row]] = {}
    for row in read(path):
        by_peer.setdefault((row["set"], row["peer"]), []).append(row)
    for (name, peer), rows in by_peer.items():
        gaps = np.array([float(row["gap"]) for row in rows])
        cpu = np.mean([float(row["fit_cpu"]) for row in rows])
        reached = sum(int(row["reached"]) for row in rows)
        print(
            f"| {name} | {peer} | {reached} of {len(gaps)} | {np.median(gaps):.3f} | "
            f"{gaps.max():.3f} | {cpu:.1f} |"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__, "collapse.csv")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--sets", type=names, default=list(SETS))
    parser.add_argument("--report", action="store_true", help="run nothing")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    print(f"{machine(options.threads)}, skmdn {skmdn.__version__}; {N_ROWS} rows")
    if not options.report:
        run(options)
    report(options.out)


if __name__ == "__main__":
    main()
