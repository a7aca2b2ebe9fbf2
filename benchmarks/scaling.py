"""Fit the same rows on one and on several processes of one machine.

    python benchmarks/scaling.py --data DIR                     default parameters
    python benchmarks/scaling.py --data DIR --epochs 4 --batch-sizes 512 4096

The processes all-reduce over the loopback interface. Each has one thread on its own
core, and the shards have different lengths. The time of an epoch is the median over a
fit, including validation. NLL is that of the test rows of the first split, in nats with
y in its own units; lower is better. "All-reduce" is the time of one all-reduce of as
many float32 numbers as the networks have parameters, while nothing else runs; "peak" is
the memory of rank 0 beyond its rows.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import sklearn
import torch
import torch.distributed as dist

import skmdn
from skmdn import MDNRegressor
from skmdn._training.auto import auto_batch_size

REDUCTIONS = 50
# Ratio of the numbers of rows of one rank and of the rank before it.
UNEVEN = 1.02


class Clock:
    """Callback that records the end time of each epoch."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def setup(self, estimator, context) -> None: ...

    def on_fit_task_begin(self, estimator, context) -> None:
        if context.task_name == "epoch" and context.task_id == 0:
            self.ends.append(time.perf_counter())

    def on_fit_task_end(self, estimator, context) -> None:
        if context.task_name == "epoch":
            self.ends.append(time.perf_counter())

    def teardown(self, estimator, context) -> None: ...


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--set", default="large/flights2001_1m.npz")
    parser.add_argument("--rows", type=int, help="largest number of training rows")
    parser.add_argument("--epochs", type=int, help="default: that of the estimator")
    parser.add_argument("--batch-sizes", type=int, nargs="+", help="default: auto")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.out:
        fit_as_a_rank(options)
        return
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, 1 thread per process, Python "
        f"{platform.python_version()}, torch {torch.__version__}, scikit-learn "
        f"{sklearn.__version__}, skmdn {skmdn.__version__}\n\n"
        "| batch | processes | epochs | s per epoch | speed-up | ms per step | "
        "all-reduce ms | fit s | peak MiB | test NLL | minus one process |\n"
        + "|---" * 11
        + "|"
    )
    for batch_size in options.batch_sizes or ["auto"]:
        first = None
        for n_processes in options.processes:
            found = run(options, batch_size, n_processes)
            first = first or found
            print(
                f"| {found['batch_size']} | {n_processes} | {found['n_epochs']} "
                f"| {found['epoch']:.2f} | {first['epoch'] / found['epoch']:.2f} "
                f"| {1e3 * found['epoch'] / found['n_steps']:.2f} "
                f"| {1e3 * found['reduction']:.2f} | {found['fit']:.0f} "
                f"| {found['peak']:.0f} "
                f"| {found['nll']:.4f} | {found['nll'] - first['nll']:+.4f} |",
                flush=True,
            )


def run(options: argparse.Namespace, batch_size: int | str, n_processes: int) -> dict:
    """Run a fit on several processes; return the measurements of rank 0."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", str(n_processes), __file__),
            *("--data", str(options.data), "--set", options.set, "--out", str(out)),
        ]
        if options.rows:
            command += ["--rows", str(options.rows)]
        if options.epochs:
            command += ["--epochs", str(options.epochs)]
        if batch_size != "auto":
            command += ["--batch-sizes", str(batch_size)]
        subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        return json.loads(out.read_text())


def fit_as_a_rank(options: argparse.Namespace) -> None:
    """Fit the shard of this rank; rank 0 writes the measurements to `options.out`."""
    if hasattr(os, "sched_setaffinity"):
        # Otherwise processes that are woken by messages move between cores and collide.
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(os.environ["RANK"]) % len(cores)]})
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    with np.load(options.data / options.set) as file:
        X, y, is_test = file["X"], file["y"], file["test_mask"][0]
    rows = np.flatnonzero(~is_test)[: options.rows]
    shares = UNEVEN ** np.arange(size)
    edges = np.rint(np.cumsum([0.0, *shares]) / shares.sum() * len(rows)).astype(int)
    mine = rows[edges[rank] : edges[rank + 1]]
    clock = Clock()
    mdn = MDNRegressor(
        batch_size=options.batch_sizes[0] if options.batch_sizes else "auto",
        max_iter=options.epochs or "auto",
        random_state=0,
    ).set_callbacks(clock)
    X_mine, y_mine = X[mine], y[mine]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.perf_counter()
    mdn.fit(X_mine, y_mine)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    reduction = time_reduction(sum(p.numel() for p in mdn.network_.parameters()))
    if rank == 0:
        batch_size = (
            options.batch_sizes[0]
            if options.batch_sizes
            else auto_batch_size(len(rows))
        )
        found = {
            "batch_size": batch_size,
            "n_epochs": mdn.n_iter_,
            "n_steps": len(rows) * 7 / 8 / batch_size,
            "epoch": statistics.median(np.diff(clock.ends)),
            "fit": seconds,
            "reduction": reduction,
            "peak": peak,
            "nll": -mdn.score(X[is_test], y[is_test]),
        }
        options.out.write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def time_reduction(n_numbers: int) -> float:
    """Return median seconds of an all-reduce."""
    numbers, seconds = torch.zeros(n_numbers), []
    for _ in range(REDUCTIONS):
        start = time.perf_counter()
        dist.all_reduce(numbers)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
