"""Read a CSV file into features and targets."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder

MISSING = {"", "na", "nan", "null", "none", "?"}
MAX_CATEGORIES = 20


class TableError(ValueError):
    """Error in a file; the message is one line."""


class Table(NamedTuple):
    """Rows with targets; X holds numbers and, in text columns, strings."""

    X: NDArray[Any]
    y: NDArray[np.float64]
    features: list[str]
    targets: list[str]
    is_text: NDArray[np.bool_]
    notes: list[str]


def read_table(path: Path, targets: list[str]) -> Table:
    """Read a CSV file with a header.

    Raises
    ------
    TableError
        If the file cannot be read or has no rows, or if a target is unknown or not
        numeric.
    """
    names, rows = _read_cells(path)
    for target in targets:
        if target not in names:
            raise TableError(
                f"{path} has no column {target!r}; it has {', '.join(names)}."
            )
    features = [name for name in names if name not in targets]
    if not features:
        raise TableError(f"{path} has no columns besides the targets.")
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    y = np.column_stack([_numbers(target, columns[target]) for target in targets])
    has_target = np.isfinite(y).all(axis=1)
    notes = []
    if not has_target.all():
        notes.append(f"{(~has_target).sum()} rows without a target were dropped.")
    parsed = [_parse(columns[name]) for name in features]
    is_text = np.array([column.dtype == object for column in parsed])
    X = np.empty((len(rows), len(features)), dtype=object)
    for position, column in enumerate(parsed):
        X[:, position] = column
    X = X[has_target]
    notes += _describe(X, features, is_text)
    if len(X) < 2:
        raise TableError(
            f"{path} has {len(X)} rows with a target; at least 2 are required."
        )
    return Table(X, y[has_target], features, targets, is_text, notes)


def preprocessor(table: Table) -> ColumnTransformer:
    """Return a transformer that imputes missing numbers and encodes text.

    Numbers are imputed by medians; text columns are one-hot encoded.
    """
    return ColumnTransformer(
        [
            (
                "numbers",
                SimpleImputer(strategy="median", keep_empty_features=True),
                np.flatnonzero(~table.is_text),
            ),
            (
                "text",
                OneHotEncoder(
                    handle_unknown="infrequent_if_exist",
                    max_categories=MAX_CATEGORIES,
                    sparse_output=False,
                ),
                np.flatnonzero(table.is_text),
            ),
        ]
    )


def _read_cells(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = (line for line in file if not line.startswith("#"))
            cells = [row for row in csv.reader(lines) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise TableError(f"{path} cannot be read: {exc}.") from exc
    if len(cells) < 2:
        raise TableError(f"{path} is empty: it needs a header and rows.")
    names = [name.strip() for name in cells[0]]
    if len(set(names)) < len(names):
        raise TableError(
            f"{path} has two columns of the same name: {', '.join(names)}."
        )
    for number, row in enumerate(cells[1:], start=2):
        if len(row) != len(names):
            raise TableError(
                f"{path}: record {number} has {len(row)} cells, not {len(names)}."
            )
    return names, cells[1:]


def _parse(cells: tuple[str, ...]) -> NDArray[Any]:
    """Parse a column as numbers (NaN if missing), or return it as text."""
    try:
        return np.array([np.nan if _is_missing(c) else float(c) for c in cells])
    except ValueError:
        return np.array(
            ["missing" if _is_missing(c) else c.strip() for c in cells], dtype=object
        )


def _numbers(target: str, cells: tuple[str, ...]) -> NDArray[np.float64]:
    column = _parse(cells)
    if column.dtype == object:
        raise TableError(f"Target {target!r} contains text; a target must be numeric.")
    return column


def _is_missing(cell: str) -> bool:
    return cell.strip().lower() in MISSING


def _describe(X: NDArray[Any], features: list[str], is_text: NDArray[Any]) -> list[str]:
    """Return one line for each operation on the features."""
    notes = []
    if is_text.any():
        text = [name for name, flag in zip(features, is_text, strict=True) if flag]
        notes.append(f"Text columns are one-hot encoded: {', '.join(text)}.")
    numbers = X[:, ~is_text].astype(np.float64)
    if np.isinf(numbers).any():
        raise TableError("A feature contains infinity; leave the cell empty instead.")
    n_missing = np.isnan(numbers).sum()
    if n_missing:
        notes.append(f"{n_missing} missing numbers are imputed by medians.")
    return notes
