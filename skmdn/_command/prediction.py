"""The subcommand predict: mean, std and quantiles of the rows of a file."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skmdn._command import columns, dates
from skmdn._command.errors import (
    CommandError,
    errors_of_the_estimator,
    warnings_as_notes,
    without_breaks,
)
from skmdn._command.numerals import Convention
from skmdn._command.reading import Cells, Hints, RawTable, read_raw
from skmdn._command.storing import date_formats_of, load
from skmdn._command.table import find_convention
from skmdn._regressor import MDNRegressor

# Rows that are predicted together; the memory for more would be for their mixtures.
N_ROWS = 10_000


def run_predict(options: argparse.Namespace) -> None:
    """Predict the rows of a file with a saved model, and write a file."""
    notes: list[str] = []
    estimator = load(options.model, notes)
    hints = Hints(
        options.sep, options.decimal, options.encoding, tuple(options.missing)
    )
    raw = read_raw(options.file, hints)
    X = _features(raw, estimator, hints)
    with errors_of_the_estimator(), warnings_as_notes(notes):
        chunks = [X.iloc[start : start + N_ROWS] for start in range(0, len(X), N_ROWS)]
        predicted = [_predict(estimator, rows, options.quantiles) for rows in chunks]
    out = pd.concat(predicted, ignore_index=True)
    out.to_csv(options.out, index=False)
    if not options.quiet:
        for note in raw.notes + notes:
            print(without_breaks(note))
        print(f"{len(out)} rows predicted: {options.out}")


def _features(raw: RawTable, estimator: MDNRegressor, hints: Hints) -> Any:
    """Make the columns of the fit, by their names and the levels of categories.

    Raises
    ------
    CommandError
        If columns are missing, or are not as those of the fit.
    """
    names = list(estimator.feature_names_in_)
    formats = date_formats_of(estimator)
    origins = {name: _origin(name, names, raw, formats) for name in names}
    wanted = list(dict.fromkeys(base for base, _ in origins.values()))
    missing = [base for base in wanted if base not in raw.columns]
    if missing:
        raise CommandError(
            f"{raw.path} has no column {', '.join(map(repr, missing))}. Give it the "
            f"columns of the fit: {', '.join(wanted)}."
        )
    levels = {names[j]: each for j, each in estimator.feature_encoder_.levels.items()}
    texts = {name for name, each in levels.items() if any(map(_is_text, each))}
    numbers = [name for name in names if not origins[name][1] and name not in texts]
    convention = find_convention(raw, numbers, hints)
    raw.mark_numbers(hints.missing, convention)
    made: dict[str, Any] = {}
    times: dict[str, Any] = {}
    for name, (base, part) in origins.items():
        cells = raw.columns[base]
        if not part:
            made |= _column(name, cells, convention, is_text=name in texts).parts
            continue
        if base not in times:
            times[base], note = dates.parse_like(base, cells, formats.get(base, ""))
            raw.notes += [note] if note else []
        made[name] = dates.PARTS[part].of(times[base]).array
    return pd.DataFrame(made)


def _column(
    name: str, cells: Cells, convention: Convention, is_text: bool
) -> columns.Column:
    if is_text:
        return columns.as_category(name, cells)
    return columns.as_number(name, cells, convention)


def _is_text(level: Any) -> bool:
    return isinstance(level, str)


def _origin(
    name: str, names: list[str], raw: RawTable, formats: dict[str, str]
) -> tuple[str, str]:
    """Return the column of a feature, and which part of its dates or none.

    Models of earlier releases have no formats: their names tell.
    """
    base, _, part = name.removesuffix("]").rpartition(" [")
    is_date = base in formats
    if not formats and name not in raw.columns:
        parts = {f"{base} [{other}]" for other in dates.PARTS if other != "hour"}
        is_date = base in raw.columns or parts <= set(names)
    is_part = name.endswith("]") and part in dates.PARTS
    return (base, part) if is_date and is_part else (name, "")


def _predict(estimator: MDNRegressor, X: Any, quantiles: list[float]) -> Any:
    """Return mean, std and quantiles of each output of some rows."""
    density = estimator.predict_density(X)
    names = estimator.output_names_ or [
        "target" if density.n_outputs == 1 else f"target_{j}"
        for j in range(density.n_outputs)
    ]
    values = _values(density, quantiles)
    return pd.DataFrame(dict(zip(_labels(list(names), quantiles), values, strict=True)))


def _values(density: Any, quantiles: list[float]) -> Iterator[NDArray[np.float64]]:
    for j in range(density.n_outputs):
        marginal = density.marginal(j)
        yield np.ravel(marginal.mean())
        yield np.ravel(marginal.std())
        for level in quantiles:
            yield np.ravel(marginal.ppf(level))


def _labels(names: list[str], quantiles: list[float]) -> list[str]:
    """Return the names of the columns of `_values`, all of them different.

    If another output is called a_std, the standard deviation of a is a__std.
    """
    labels: list[str] = []
    for name in names:
        labels.append(name)
        for suffix in ("std", *(f"q{level!r}" for level in quantiles)):
            label = f"{name}_{suffix}"
            while label in (*names, *labels):
                label = label.removesuffix(suffix) + f"_{suffix}"
            labels.append(label)
    return labels
