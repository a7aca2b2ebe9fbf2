"""Time training and prediction against what they cannot do without.

    python benchmarks/speed.py                  steps, epochs, prediction, outputs
    python benchmarks/speed.py --only steps

Every ratio is of medians measured in turn in this one process. "Products" are the
matrix products of the step, forward and backward, of the same shapes and dtype, and
nothing else. The plain loop is the same network with one `nn.Linear` a layer,
`MixtureSameFamily`, autograd and `torch.optim.Adam`.
"""

from __future__ import annotations

import argparse
import platform
import resource
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import sklearn
import torch
from sklearn.neural_network import MLPRegressor
from torch import Tensor, distributions, nn

import skmdn
from skmdn import MDNRegressor
from skmdn._rows import every_row
from skmdn._training import MemberRows, Trainer, TrainingSettings
from skmdn.nn import MixtureDensityNetwork

STEPS = 20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=int, default=1_000_000, help="to predict")
    parser.add_argument("--only", choices=PARTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"{platform.machine()}, {options.threads} threads, Python "
        f"{platform.python_version()}, torch {torch.__version__}, scikit-learn "
        f"{sklearn.__version__}, skmdn {skmdn.__version__}"
    )
    for name, part in PARTS.items():
        if options.only in (None, name):
            part(options)


def time_in_turn(
    tasks: dict[str, Callable[[], object]], repeats: int
) -> dict[str, float]:
    """Median seconds of each task; the tasks take turns, after one to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for repeat in range(repeats + 1):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def make_trainer(batch_size: int, **network_options) -> Trainer:
    generator = torch.Generator().manual_seed(0)
    network = MixtureDensityNetwork(**network_options, generator=generator)
    settings = TrainingSettings(
        learning_rate_init=1e-3,
        learning_rate="constant",
        alpha=0.01,
        batch_size=batch_size,
        max_iter=1000,
        warmup_iter=0,
        tol=0.0,
        n_iter_no_change=1000,
        max_grad_norm=5.0,
        input_noise=0.0,
        target_noise=0.0,
        shuffle=True,
        verbose=False,
    )
    return Trainer(network, settings, generator)


def make_rows(
    n_rows: int, n_features: int, n_outputs: int, n_members: int = 1
) -> MemberRows:
    generator = torch.Generator().manual_seed(1)
    X = torch.randn(n_rows, n_features, generator=generator)
    y = torch.randn(n_rows, n_outputs, generator=generator)
    weight = torch.ones(n_rows, dtype=torch.float64)
    return MemberRows.of(X, y, weight, every_row(n_rows, n_members))


def products(trainer: Trainer, batch_size: int) -> Callable[[], None]:
    """Matrix products of an epoch: forward, by weight, and by input."""
    network = trainer.network
    layers = [*network.hidden, network.head.linear]
    weights = [layer.weight.detach().clone() for layer in layers]
    hidden, after = [], []
    for weight in weights:
        n_members, n_in, n_out = weight.shape
        hidden.append(torch.randn(n_members, batch_size, n_in))
        after.append(torch.randn(n_members, batch_size, n_out))

    def epoch() -> None:
        for _ in range(STEPS):
            for i, (h, w, g) in enumerate(zip(hidden, weights, after, strict=True)):
                torch.bmm(h, w)
                torch.bmm(h.mT, g)
                if i or network.embedding is not None:
                    torch.bmm(g, w.mT)

    return epoch


def steps(options: argparse.Namespace) -> None:
    """A training step against its matrix products."""
    print(
        "\n| networks | features | width | K | d | batch | embedding | step us | "
        "products us | ratio |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    for n_members, n_features, width, K, d, batch, embedding in (
        (8, 8, 128, 5, 1, 128, "periodic"),
        (1, 8, 64, 5, 1, 200, None),
        (16, 8, 64, 5, 1, 32, "periodic"),
        (16, 8, 64, 5, 1, 512, "periodic"),
    ):
        trainer = make_trainer(
            batch,
            n_features=n_features,
            n_outputs=d,
            n_components=K,
            n_members=n_members,
            embedding=embedding,
            hidden_layer_sizes=(width, width),
        )
        rows = make_rows(batch * STEPS, n_features, d, n_members)
        alone = products(trainer, batch)
        seconds = time_in_turn(
            {
                "step": partial(trainer.run_epoch, rows, 0),
                "products": alone,
            },
            options.repeats,
        )
        cells = [n_members, n_features, width, K, d, batch, embedding]
        cells += [f"{seconds[name] / STEPS * 1e6:.0f}" for name in seconds]
        cells.append(f"{seconds['step'] / seconds['products']:.2f}")
        print("|", " | ".join(map(str, cells)), "|", flush=True)


def epochs(options: argparse.Namespace) -> None:
    """An epoch of one network against MLPRegressor and a plain autograd loop."""
    print("\n| d | epoch ms | MLPRegressor ms | ratio | plain loop ms | ratio |")
    print("|---|---|---|---|---|---|")
    n_rows, n_features, batch = 10_000, 8, 200
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_rows, n_features)).astype(np.float32)
    for d in (1, 5):
        y = rng.normal(size=(n_rows, d)).astype(np.float32)
        trainer = make_trainer(
            batch, n_features=n_features, n_outputs=d, embedding=None
        )
        rows = make_rows(n_rows, n_features, d)
        mlp = MLPRegressor(
            hidden_layer_sizes=(64, 64), batch_size=batch, max_iter=1, warm_start=True
        )
        plain = PlainLoop(n_features, d, batch)
        tensors = torch.as_tensor(X), torch.as_tensor(y)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            seconds = time_in_turn(
                {
                    "ours": partial(trainer.run_epoch, rows, 0),
                    "mlp": partial(mlp.fit, X, y.squeeze()),
                    "plain": partial(plain.run_epoch, *tensors),
                },
                options.repeats,
            )
        ours = seconds["ours"]
        print(
            f"| {d} | {ours * 1e3:.1f} | {seconds['mlp'] * 1e3:.1f} | "
            f"{ours / seconds['mlp']:.2f} | {seconds['plain'] * 1e3:.1f} | "
            f"{ours / seconds['plain']:.2f} |",
            flush=True,
        )


class PlainLoop:
    """What one writes down first: full covariance, autograd, Adam."""

    def __init__(self, n_features: int, n_outputs: int, batch_size: int) -> None:
        self.sizes = [5, 5 * n_outputs, 5 * n_outputs * n_outputs]
        self.network = nn.Sequential(
            nn.Linear(n_features, 64),
            nn.SiLU(),
            nn.Linear(64, 64),
            nn.SiLU(),
            nn.Linear(64, sum(self.sizes)),
        )
        self.batch_size = batch_size
        self.optimizer = torch.optim.Adam(self.network.parameters())

    def run_epoch(self, X: Tensor, y: Tensor) -> None:
        d = y.shape[1]
        for batch in torch.randperm(len(X)).split(self.batch_size):
            logits, means, raw = self.network(X[batch]).split(self.sizes, dim=1)
            raw = raw.unflatten(1, (5, d, d))
            diagonal = nn.functional.softplus(raw.diagonal(dim1=-2, dim2=-1))
            factors = raw.tril(-1) + torch.diag_embed(diagonal + 1e-3)
            mixture = distributions.MixtureSameFamily(
                distributions.Categorical(logits=logits),
                distributions.MultivariateNormal(
                    means.unflatten(1, (5, d)), scale_tril=factors
                ),
            )
            self.optimizer.zero_grad()
            (-mixture.log_prob(y[batch]).mean()).backward()
            self.optimizer.step()


def prediction(options: argparse.Namespace) -> None:
    """`score_samples` and `predict` against the forward products, in float64."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(options.rows, 8))
    y = X[:, 0] + rng.normal(size=options.rows)
    mdn = MDNRegressor(max_iter=1, random_state=0).fit(X[:5000], y[:5000])
    layers = [*mdn.network_.hidden, mdn.network_.head.linear]
    chunk = 1000
    hidden = [
        torch.randn(16, chunk, layer.weight.shape[1], dtype=torch.float64)
        for layer in layers
    ]

    @torch.no_grad()
    def alone() -> None:
        for _ in range(options.rows // chunk):
            for h, layer in zip(hidden, layers, strict=True):
                torch.bmm(h, layer.weight)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    mdn.score_samples(X, y)
    mdn.predict(X)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    seconds = time_in_turn(
        {
            "products": alone,
            "score_samples": lambda: mdn.score_samples(X, y),
            "predict": lambda: mdn.predict(X),
        },
        max(1, options.repeats // 2),
    )
    print(f"\n{options.rows} rows, defaults: products {seconds['products']:.1f} s")
    for name in ("score_samples", "predict"):
        ratio = seconds[name] / seconds["products"]
        print(f"{name}: {seconds[name]:.1f} s, {ratio:.2f} times the products")
    print(f"peak memory above the inputs: {peak / 1024:.0f} MiB")


def outputs(options: argparse.Namespace) -> None:
    """A step as the number of outputs grows."""
    print(
        "\n| d | numbers of the head | step ms | peak MiB so far |\n|---|---|---|---|"
    )
    for d in (2**k for k in range(7)):
        trainer = make_trainer(128, n_features=8, n_outputs=d)
        rows = make_rows(128 * 5, 8, d)
        seconds = time_in_turn(
            {"step": partial(trainer.run_epoch, rows, 0)}, options.repeats
        )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        size = sum(trainer.network.head.sizes)
        print(f"| {d} | {size} | {seconds['step'] / 5 * 1e3:.2f} | {peak:.0f} |")


PARTS = {
    "steps": steps,
    "epochs": epochs,
    "prediction": prediction,
    "outputs": outputs,
}


if __name__ == "__main__":
    main()
