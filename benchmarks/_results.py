"""Results of the benchmarks: rows of a CSV file, arguments that they share."""

from __future__ import annotations

import argparse
import csv
import os
import platform
from pathlib import Path
from typing import Any

import torch


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


def read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def append(path: Path, row: dict[str, Any]) -> None:
    """Append a row; its keys must be the columns of the file in their order."""
    is_new = not path.exists()
    if not is_new:
        with path.open(newline="", encoding="utf-8") as file:
            columns = next(csv.reader(file))
        if columns != list(row):
            raise ValueError(f"{path} has the columns {columns}, not {list(row)}")
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row))
        if is_new:
            writer.writeheader()
        writer.writerow(row)
