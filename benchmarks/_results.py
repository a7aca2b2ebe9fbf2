"""Results of the benchmarks: rows of a CSV file, arguments that they share."""

from __future__ import annotations

import argparse
import csv
import os
import platform
import subprocess
import time
from datetime import UTC, datetime
from math import nan
from pathlib import Path
from typing import Any

import sklearn
import torch
from _summary import PROVENANCE, read


def names(text: str) -> list[str]:
    return text.split(",")


def integers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def parser_of(doc: str | None, out: str) -> argparse.ArgumentParser:
    """Return a parser with the options of every benchmark that writes results."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of the data sets")
    parser.add_argument("--out", type=Path, default=Path(out), help="results")
    parser.add_argument("--threads", type=int, default=1)
    return parser


def machine(threads: int) -> str:
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, {threads} threads, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def commit_of(folder: Path) -> str:
    """Return the short hash of the checkout at a folder, "+" if its code was changed.

    Return "" if the folder is not the top of a checkout, as for an installed package.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != folder.resolve():
            return ""
        changed = git("status", "--porcelain", "--", "skmdn", "benchmarks/*.py")
        return git("rev-parse", "--short=7", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):  # no git, or no checkout
        return ""


def provenance(threads: int) -> dict[str, Any]:
    """Return the columns of PROVENANCE that are the same for all rows of a run."""
    try:
        import skmdn
    except ImportError:  # the environment of a peer that needs other versions
        version, commit = "", ""
    else:
        version = skmdn.__version__
        commit = commit_of(Path(skmdn.__file__).resolve().parents[1])
    return {
        "skmdn": version,
        "commit": commit,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "scikit_learn": sklearn.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "threads": threads,
    }


class Results:
    """A results file, to which a run appends rows with their provenance."""

    def __init__(self, path: Path | None, threads: int) -> None:
        self.path = path  # None: nothing is written
        self.rows = read(path) if path else []  # of earlier runs
        self.source = provenance(threads)
        self.start = time.perf_counter()

    def append(self, row: dict[str, Any]) -> None:
        """Append a row; its keys must be the columns of the file in their order."""
        if self.path is None:
            return
        end = time.perf_counter()
        source = self.source | {
            "date": datetime.now(UTC).date().isoformat(),
            "seconds": f"{end - self.start:.1f}",
        }
        self.start = end
        write(self.path, row | {name: source[name] for name in PROVENANCE})

    def append_medians(
        self, part: str, case: str, seconds: dict[str, float], mebibytes: float = nan
    ) -> None:
        """Append a row for each of the tasks that were timed in turn."""
        for task, median in seconds.items():
            row = {"part": part, "case": case, "task": task, "median_s": median}
            self.append(row | {"mebibytes": mebibytes})


def write(path: Path, row: dict[str, Any]) -> None:
    """Append a row to a file, with a header if it is new."""
    is_new = not path.exists()
    if not is_new:
        with path.open(newline="", encoding="utf-8") as file:
            columns = next(csv.reader(file))
        if columns != list(row):
            raise ValueError(
                f"{path} has the columns {columns}, not {list(row)}: give another --out"
            )
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(row)
