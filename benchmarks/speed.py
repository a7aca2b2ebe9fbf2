"""Time training and prediction relative to their matrix products.

    python benchmarks/speed.py                  all parts
    python benchmarks/speed.py --only steps
    python benchmarks/speed.py --out speed.csv  append the medians to a file

The ratios are those of medians, measured alternately in this process. "Products" are
the forward and backward matrix products of the same shapes and dtype, without any other
operation; "factors" are the orthogonal factors of Muon's steps. The plain loop is the
same network with one `nn.Linear` per layer, `MixtureSameFamily`, autograd and
`torch.optim.Adam`. sbi and skpro are timed if installed
(`pip install -c constraints-bench.txt '.[bench]'`).
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import platform
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

import numpy as np
import sklearn
import torch
from _results import Results
from _timing import peak_memory, resident_memory, time_in_turn
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.neural_network import MLPRegressor
from torch import Tensor, distributions, nn

import skmdn
from skmdn import MDNRegressor
from skmdn._data.folds import every_row
from skmdn._data.matrices import ScaledRows
from skmdn._training.auto import TrainingSettings
from skmdn._training.batches import ListedRows
from skmdn._training.loop import TrainingLoop
from skmdn._training.optimizer import FlatParameters, orthogonal_factors
from skmdn.nn import MixtureDensityNetwork

Array = np.ndarray
STEPS = 20
PREDICTED_ROWS = 100_000  # beside boosted trees
# Fits of one small network.
N_ROWS, N_EPOCHS, BATCH = 10_000, 10, 200
ROW_COUNTS = (10_000, 100_000, 1_000_000)
MAP_SHAPE, MAP_PIECE = (10_000_000, 20), 250_000
OUTPUTS = {"full": [2**k for k in range(7)], "low_rank": [2**k for k in range(10)]}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows to predict")
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--out", type=Path, help="results")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    options.results = Results(options.out, options.threads)
    print(
        f"{platform.machine()}, {options.threads} threads, Python "
        f"{platform.python_version()}, torch {torch.__version__}, scikit-learn "
        f"{sklearn.__version__}, skmdn {skmdn.__version__}"
    )
    for name, part in PARTS.items():
        if options.only in (None, name):
            part(options)


def make_loop(batch_size: int, **network_options) -> TrainingLoop:
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
        verbose=False,
        n_epochs_of_halving=1,
        n_epochs_of_choice=1,
        n_epochs_per_score=1,
    )
    return TrainingLoop(network, settings, generator)


def make_rows(
    n_rows: int, n_features: int, n_outputs: int, n_members: int = 1
) -> ListedRows:
    generator = torch.Generator().manual_seed(1)
    X = torch.randn(n_rows, n_features, generator=generator)
    y = torch.randn(n_rows, n_outputs, generator=generator)
    weight = torch.ones(n_rows, dtype=torch.float64)
    return ListedRows.for_training(
        ScaledRows(X, y, weight), every_row(n_rows, n_members)
    )


def products(loop: TrainingLoop, batch_size: int) -> Callable[[], None]:
    """Return a function that computes the matrix products of an epoch.

    They are the forward products and the gradients by weight and by input.
    """
    network = loop.network
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


def orthogonalise(parameters: FlatParameters) -> None:
    """Compute the orthogonal factors of the steps of Muon in an epoch."""
    for _ in range(STEPS):
        for matrices in parameters.hidden_layers(parameters.values):
            orthogonal_factors(matrices)


def steps(options: argparse.Namespace) -> None:
    """Time a training step relative to its matrix products."""
    print(
        "\n| networks | features | width | K | d | batch | embedding | products us | "
        "factors us | step us | ratio |\n" + "|---" * 11 + "|"
    )
    for n_members, n_features, width, K, d, batch, embedding in (
        (8, 8, 128, 5, 1, 128, "periodic"),
        (1, 8, 64, 5, 1, 200, None),
        (16, 8, 64, 5, 1, 32, "periodic"),
        (16, 8, 64, 5, 1, 512, "periodic"),
    ):
        loop = make_loop(
            batch,
            n_features=n_features,
            n_outputs=d,
            n_components=K,
            n_members=n_members,
            embedding=embedding,
            hidden_layer_sizes=(width, width),
        )
        rows = make_rows(batch * STEPS, n_features, d, n_members)
        tasks = {
            "products": products(loop, batch),
            "factors": partial(orthogonalise, loop.optimizer.parameters),
            "step": partial(loop.run_epoch, rows, 0),
        }
        seconds = time_in_turn(tasks, options.repeats)
        cells = [n_members, n_features, width, K, d, batch, embedding]
        case = f"{n_members} networks {width} wide, batch {batch}"
        options.results.append_medians(
            "step", case, {name: value / STEPS for name, value in seconds.items()}
        )
        cells += [f"{seconds[name] / STEPS * 1e6:.0f}" for name in seconds]
        cells.append(f"{seconds['step'] / seconds['products']:.2f}")
        print("|", " | ".join(map(str, cells)), "|", flush=True)


def epochs(options: argparse.Namespace) -> None:
    """Time whole fits of one network of the same widths and number of epochs.

    sbi's network has a third hidden layer; the others have two, as skmdn's.
    """
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N_ROWS, 8)).astype(np.float32)
    for d in (1, 5):
        y = X[:, :d] + rng.normal(size=(N_ROWS, d)).astype(np.float32)
        y = y[:, 0] if d == 1 else y
        tasks = {name: partial(fit, X, y) for name, fit in FITS.items()}
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            for name in list(tasks):
                try:
                    tasks[name]()
                except ImportError:
                    del tasks[name]
            seconds = time_in_turn(tasks, options.repeats)
        options.results.append_medians("fit", f"d = {d}", seconds)
        print(f"\nd = {d}, {N_ROWS} rows, {N_EPOCHS} epochs of batches of {BATCH}:")
        for name, time_taken in seconds.items():
            ours = seconds["skmdn, diagonal" if "diagonal" in name else "skmdn"]
            print(
                f"{name}: {time_taken / N_EPOCHS * 1e3:.1f} ms per epoch, "
                f"{time_taken / ours:.2f} times skmdn",
                flush=True,
            )


def fit_skmdn(X: Array, y: Array, covariance_type: str = "full") -> None:
    MDNRegressor(
        5,
        covariance_type=covariance_type,
        n_estimators=1,
        embedding=None,
        batch_size=BATCH,
        max_iter=N_EPOCHS,
        n_iter_no_change=N_EPOCHS,
        early_stopping=False,
        random_state=0,
        device="cpu",
    ).fit(X, y)


def fit_mlp(X: Array, y: Array) -> None:
    MLPRegressor(
        hidden_layer_sizes=(64, 64),
        batch_size=BATCH,
        max_iter=N_EPOCHS,
        n_iter_no_change=N_EPOCHS,
        random_state=0,
    ).fit(X, y)


def fit_sbi(X: Array, y: Array) -> None:
    from sbi.inference import NPE
    from sbi.neural_nets import posterior_nn

    estimator = posterior_nn("mdn", hidden_features=64, num_components=5)
    inference = NPE(density_estimator=estimator, show_progress_bars=False)
    inference.append_simulations(
        torch.as_tensor(y.reshape(len(y), -1)), torch.as_tensor(X)
    )
    # sbi always holds out validation rows; hold out as few as possible.
    inference.train(
        training_batch_size=BATCH,
        max_num_epochs=N_EPOCHS - 1,
        stop_after_epochs=N_EPOCHS,
        validation_fraction=0.02,
    )


def fit_skpro(X: Array, y: Array) -> None:
    import pandas as pd
    from skpro.regression.mdn import MDNRegressor as SkproMDN

    model = SkproMDN(5, hidden_dims=[64, 64], epochs=N_EPOCHS, batch_size=BATCH)
    model.fit(pd.DataFrame(X), pd.DataFrame(y.reshape(len(y), -1)))


def fit_plain(X: Array, y: Array) -> None:
    y = y.reshape(len(y), -1)
    plain = PlainLoop(X.shape[1], y.shape[1], BATCH)
    for _ in range(N_EPOCHS):
        plain.run_epoch(torch.as_tensor(X), torch.as_tensor(y))


FITS = {
    "skmdn": fit_skmdn,
    "skmdn, diagonal": partial(fit_skmdn, covariance_type="diag"),
    "MLPRegressor": fit_mlp,
    "plain autograd loop": fit_plain,
    "sbi": fit_sbi,
    "skpro, diagonal": fit_skpro,
}


class PlainLoop:
    """First implementation: full covariance, autograd, Adam."""

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
    """Time `score_samples` and `predict` relative to the forward products."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(options.rows, 8))
    y = X[:, 0] + rng.normal(size=options.rows)
    kinds = ["periodic_0.3"]
    mdn = MDNRegressor(portfolio=kinds, max_iter=1, random_state=0)
    mdn.fit(X[:5000], y[:5000])
    layers = [
        layer
        for network in mdn.network_
        for layer in (*network.hidden, network.head.linear)
    ]
    chunk = 1000
    hidden = [
        torch.randn(*layer.weight.shape[:1], chunk, layer.weight.shape[1]).double()
        for layer in layers
    ]

    @torch.no_grad()
    def alone() -> None:
        for _ in range(options.rows // chunk):
            for h, layer in zip(hidden, layers, strict=True):
                torch.bmm(h, layer.weight)

    before = resident_memory()
    mdn.score_samples(X, y)
    mdn.predict(X)
    peak = peak_memory() - before
    seconds = time_in_turn(
        {
            "products": alone,
            "score_samples": lambda: mdn.score_samples(X, y),
            "predict": lambda: mdn.predict(X),
        },
        options.repeats,
    )
    case = f"{options.rows} rows"
    options.results.append_medians("prediction", case, seconds, peak)
    print(f"\n{options.rows} rows, {kinds}: products {seconds['products']:.1f} s")
    for name in ("score_samples", "predict"):
        ratio = seconds[name] / seconds["products"]
        print(f"{name}: {seconds[name]:.1f} s, {ratio:.2f} times the products")
    print(f"peak memory above the inputs: {peak:.0f} MiB")


def boosting(options: argparse.Namespace) -> None:
    """Time predictions beside those of boosted trees, by kind of network."""
    print(f"\n{PREDICTED_ROWS} rows of 8 features\n")
    print("| rows of the fit | kind | networks | s | trees: s | ratio |")
    print("|---|---|---|---|---|---|")
    rng = np.random.default_rng(0)
    X_new = rng.normal(size=(PREDICTED_ROWS, 8))
    for n_rows in (1000, 10_000):
        X = rng.normal(size=(n_rows, 8))
        y = X[:, 0] * X[:, 1] + np.sin(2 * X[:, 2]) + 0.3 * rng.normal(size=n_rows)
        trees = HistGradientBoostingRegressor(random_state=0).fit(X, y)
        for kind in ("periodic_0.3", "bins"):
            # The time of a prediction does not depend on the number of epochs.
            mdn = MDNRegressor(portfolio=[kind], max_iter=5, random_state=0).fit(X, y)
            tasks = {"networks": partial(mdn.predict, X_new)}
            tasks["trees"] = partial(trees.predict, X_new)
            seconds = time_in_turn(tasks, options.repeats)
            case = f"{n_rows} rows, {kind}"
            options.results.append_medians("boosting", case, seconds)
            print(
                f"| {n_rows} | {kind} | {mdn.network_.n_members} "
                f"| {seconds['networks']:.2f} | {seconds['trees']:.2f} "
                f"| {seconds['networks'] / seconds['trees']:.1f} |",
                flush=True,
            )


def outputs(options: argparse.Namespace) -> None:
    """Time a step of one network by the number of outputs, in separate processes."""
    print("\n| covariance | d | head outputs | step ms | MiB |")
    print("|---|---|---|---|---|")
    cases = [(kind, d) for kind, sizes in OUTPUTS.items() for d in sizes]
    context = multiprocessing.get_context("spawn")
    for covariance_type, d in cases:
        with context.Pool(1) as pool:
            size, seconds, memory = pool.apply(
                _time_outputs, (covariance_type, d, options.repeats, options.threads)
            )
        case = f"{covariance_type}, d = {d}"
        options.results.append_medians("outputs", case, {"step": seconds}, memory)
        print(
            f"| {covariance_type} | {d} | {size} | {seconds * 1e3:.2f} | {memory:.0f} |"
        )


def _time_outputs(
    covariance_type: str, d: int, repeats: int, threads: int
) -> tuple[int, float, float]:
    """Return outputs of the head, and seconds and MiB of a step.

    The step has 128 rows; the network has K = 5 and two hidden layers of 64.
    """
    torch.set_num_threads(threads)
    make = partial(make_loop, 128, n_features=8, covariance_type=covariance_type)
    make(n_outputs=1).run_epoch(make_rows(128, 8, 1), 0)
    before = peak_memory()
    loop, rows = make(n_outputs=d), make_rows(128 * 5, 8, d)
    task = {"step": partial(loop.run_epoch, rows, 0)}
    seconds = time_in_turn(task, repeats)["step"] / 5
    return sum(loop.network.head.sizes), seconds, peak_memory() - before


def rows(options: argparse.Namespace) -> None:
    """Time fits by the number of rows, and a fit from a memory map in pieces."""
    print("\n| rows | fit s | us per row and epoch | MiB above the rows |")
    print("|---|---|---|---|")
    rng = np.random.default_rng(0)
    for n_rows in ROW_COUNTS:
        X = rng.normal(size=(n_rows, 8)).astype(np.float32)
        y = X[:, 0] * X[:, 1] + rng.normal(size=n_rows)
        before = peak_memory()
        # Process the same number of rows in total, so that the setup matters little.
        n_epochs = 2 * ROW_COUNTS[-1] // n_rows
        mdn = MDNRegressor(
            5,
            portfolio=["periodic_0.3"],
            batch_size=512,
            max_iter=n_epochs,
            n_iter_no_change=n_epochs,
        )
        seconds = time_in_turn({"fit": partial(mdn.fit, X, y)}, 1)["fit"]
        memory, case = peak_memory() - before, f"{n_rows} rows"
        options.results.append_medians("rows", case, {"fit": seconds}, memory)
        print(
            f"| {n_rows} | {seconds:.1f} | {seconds / n_rows / n_epochs * 1e6:.2f} "
            f"| {memory:.0f} |",
            flush=True,
        )
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, context.Pool(1) as pool:
        seconds, memory, score = pool.apply(
            _fit_from_memory_map, (folder, MAP_SHAPE, MAP_PIECE)
        )
    case, task = f"{MAP_SHAPE[0]} rows", {"partial_fit": seconds}
    options.results.append_medians("memory map", case, task, memory)
    print(
        f"\n{MAP_SHAPE[0]} x {MAP_SHAPE[1]} float32 from a memory map, partial_fit on "
        f"pieces of {MAP_PIECE}: {seconds:.0f} s, peak resident memory {memory:.0f} "
        f"MiB, score {score:.3f} (true density: -1.419)"
    )


def _fit_from_memory_map(
    folder: str, shape: tuple[int, int], piece: int
) -> tuple[float, float, float]:
    """Write rows of y = x0 + noise piece by piece, then fit them from the file."""
    X = np.lib.format.open_memmap(f"{folder}/X.npy", "w+", np.float32, shape)
    y = np.lib.format.open_memmap(f"{folder}/y.npy", "w+", np.float32, shape[:1])
    rng = np.random.default_rng(0)
    for start in range(0, shape[0], piece):
        part = slice(start, start + piece)
        X[part] = rng.standard_normal((piece, shape[1]), dtype=np.float32)
        y[part] = X[part, 0] + rng.standard_normal(piece, dtype=np.float32)
    del X, y
    X = np.load(f"{folder}/X.npy", mmap_mode="r")
    y = np.load(f"{folder}/y.npy", mmap_mode="r")
    mdn = MDNRegressor(5, learning_rate_init=1e-3, random_state=0)
    start_time = time.perf_counter()
    for start in range(0, shape[0], piece):
        mdn.partial_fit(X[start : start + piece], y[start : start + piece])
    seconds = time.perf_counter() - start_time
    return seconds, peak_memory(), mdn.score(X[:100_000], y[:100_000])


PARTS = {
    "steps": steps,
    "epochs": epochs,
    "prediction": prediction,
    "boosting": boosting,
    "outputs": outputs,
    "rows": rows,
}


if __name__ == "__main__":
    main()
