"""Features, targets and groups of a file, as the estimator takes them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skmdn._command import columns, numerals
from skmdn._command.errors import CommandError
from skmdn._command.numerals import Convention
from skmdn._command.reading import Hints, RawTable, read_raw
from skmdn._data.supports import Support, Supports
from skmdn.datasets import load_geyser

MIN_ROWS = 10
# Notes of columns that are left out, in the error that no column is left.
MAX_NOTES = 5


@dataclass
class Table:
    """Rows with targets.

    Parameters
    ----------
    X : DataFrame of shape (n, n_features)
        Numbers and categories.
    y : Series or DataFrame of shape (n,) or (n, n_outputs)
    groups : ndarray of shape (n,) or None
        Label of the group of each row.
    source : str
        Name of the data.
    code : list of str
        Python that makes X and y.
    notes : list of str
        What was decided, a line each.
    group : str or None
        Name of the column of groups.
    date_formats : dict of str
        Format of each column of dates or times.
    support : Support or None
        Bounds of all targets.
    """

    X: Any
    y: Any
    groups: NDArray[Any] | None
    source: str
    code: list[str]
    notes: list[str]
    group: str | None = None
    date_formats: dict[str, str] = field(default_factory=dict)
    support: Support | None = None

    @property
    def targets(self) -> list[str]:
        """Names of the outputs."""
        return list(pd.DataFrame(self.y).columns)

    @property
    def target_support(self) -> tuple[float | None, float | None] | None:
        """The bounds of all targets as the estimator takes them."""
        return None if self.support is None else Supports((self.support,)).to_state()[0]

    @property
    def points(self) -> NDArray[np.float64]:
        """Targets, (n, n_outputs)."""
        return np.asarray(self.y, dtype=np.float64).reshape(len(self.y), -1)


def geyser() -> Table:
    """Return the eruptions of Old Faithful."""
    data = load_geyser()
    n_night = len(load_geyser(drop_night_codes=False).target) - len(data.target)
    feature, target = (
        f"{data.feature_names[0]} (minutes)",
        f"{data.target_name} (minutes)",
    )
    return Table(
        pd.DataFrame(data.data, columns=[feature]),
        pd.Series(data.target, name=target),
        None,
        "Old Faithful geyser",
        [
            "from skmdn.datasets import load_geyser",
            "data = load_geyser()",
            f"X = pd.DataFrame(data.data, columns=[{feature!r}])",
            f"y = pd.Series(data.target, name={target!r})",
        ],
        [f"{n_night} eruptions recorded at night as 2, 3 or 4 only are left out."],
    )


def read_table(
    path: Path,
    targets: list[str],
    drop: list[str] | None = None,
    group: str | None = None,
    hints: Hints | None = None,
    support: Support | None = None,
) -> Table:
    """Read a CSV file with a header.

    Raises
    ------
    CommandError
        If the file cannot be read, or if its columns are not as the options say.
    """
    hints = hints or Hints()
    raw = read_raw(path, hints)
    raw.check_columns("--target", targets)
    raw.check_columns("--drop", drop or [])
    raw.check_columns("--group", [group] if group else [])
    unused = {*targets, *(drop or []), group}
    features = [name for name in raw.columns if name not in unused]
    convention = find_convention(raw, [*targets, *features], hints)
    raw.mark_numbers(hints.missing, convention)
    y = {
        name: columns.as_target(name, raw.columns[name], convention) for name in targets
    }
    for name, column in y.items():
        _check_support(name, column.parts[name], support or Support())
    X = _features(raw, features, convention)
    _check_names({**y, **X}, group)
    made = {
        part: values for column in X.values() for part, values in column.parts.items()
    }
    if not made:
        notes = [column.note for column in X.values()][:MAX_NOTES]
        raise CommandError(
            " ".join(
                [
                    f"{path} has no features besides --target, --drop and --group.",
                    *notes,
                ]
            )
        )
    raw.notes += [column.note for column in (*y.values(), *X.values()) if column.note]
    frame = pd.DataFrame(made)
    answers = pd.DataFrame({name: column.parts[name] for name, column in y.items()})
    labels = np.array(raw.columns[group], dtype=object) if group else None
    code = _code(raw, {**y, **X}, list(made), targets, group)
    table = _with_targets(raw, frame, answers, labels, code)
    formats = {name: column.format for name, column in X.items() if column.format}
    return replace(table, group=group, date_formats=formats, support=support)


def _check_support(name: str, y: NDArray[np.float64], support: Support) -> None:
    """Check that a target lies inside of its bounds.

    Raises
    ------
    CommandError
        If it does not.
    """
    rows = np.flatnonzero(support.is_outside(y))
    if not len(rows):
        return
    low, high = support.ends
    value = y[rows[0]]
    more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
    remedy = "Correct or delete these records, or pass a wider --support"
    ends = ""
    if np.isin(y[rows], support.ends).all():
        ends = ", which excludes its ends"
        remedy += "; in Python, target_resolution allows values at a bound"
    raise CommandError(
        f"Target {name!r} is {value:g} in record {rows[0] + 2}{more}, outside of "
        f"--support {low:g} {high:g}{ends}. {remedy}."
    )


def _check_names(found: dict[str, columns.Column], group: str | None) -> None:
    """Check that no other column has the name of a part of dates.

    Raises
    ------
    CommandError
        If one has.
    """
    used = {name for name, column in found.items() if column.parts} | {group}
    for name, column in found.items():
        for part in column.parts if column.format else ():
            if part in used:
                raise CommandError(
                    f"Column {part!r} has the name of a part of the dates {name!r}. "
                    f"Rename it, or pass --drop {name!r}."
                )


def find_convention(raw: RawTable, names: list[str], hints: Hints) -> Convention:
    """Detect the signs of numbers in some columns, and note unusual ones."""
    known = [[cell for cell in raw.columns[name] if cell] for name in names]
    convention = numerals.detect(known, hints.decimal, raw.sep)
    decimal, thousands = convention
    if convention != numerals.POINT:
        between = f", {thousands!r} between thousands" if thousands else ""
        raw.notes.append(f"Numbers have the decimal sign {decimal!r}{between}.")
    if not hints.decimal:
        raw.notes += _notes_of_ambiguous(known, convention, raw.sep)
    is_plain = [
        cell for cells in known for cell in cells if thousands and thousands in cell
    ]
    raw.options |= {"decimal": decimal} if decimal != "." else {}
    raw.options |= {"thousands": thousands} if is_plain else {}
    return convention


def _notes_of_ambiguous(
    known: list[list[str]], convention: Convention, sep: str
) -> list[str]:
    """Return what numbers such as 1.250 are taken for, if nothing tells what they are.

    A point is expected between decimals in a file with commas between cells.
    """
    decimal, thousands = convention
    remedies = [(decimal, "," if decimal == "." else ".", "thousands")]
    remedies = [] if (decimal, sep) == (".", ",") else remedies
    if thousands in (".", ","):
        remedies.append((thousands, thousands, "decimals"))
    examples = [numerals.find_ambiguous(known, convention, r[0]) for r in remedies]
    return [
        f"{example!r} is read as {convention.number(example)}; pass --decimal "
        f"{remedy!r} if it has {meaning}."
        for example, (_, remedy, meaning) in zip(examples, remedies, strict=True)
        if example
    ]


def _features(
    raw: RawTable, names: list[str], convention: Convention
) -> dict[str, columns.Column]:
    """Decide what becomes of each feature; row numbers are left out."""
    found = {
        name: columns.as_feature(
            name, raw.columns[name], convention, is_padded=name in raw.padded
        )
        for name in names
    }
    numbers = [
        n for n, c in found.items() if columns.is_row_number(n, c, raw.columns[n])
    ]
    if len(numbers) < sum(not column.is_left_out for column in found.values()):
        for name in numbers:
            note = f"{name} is left out: it numbers the rows."
            found[name] = columns.Column({}, note)
    return found


def _with_targets(
    raw: RawTable, X: Any, y: Any, labels: NDArray[Any] | None, code: list[str]
) -> Table:
    """Keep the rows of which a target is known."""
    is_known = y.notna().any(axis=1).to_numpy()
    n_known, path = int(is_known.sum()), raw.path
    if n_known < len(y):
        raw.notes.append(f"{len(y) - n_known} rows without a target are left out.")
    if n_known < MIN_ROWS:
        raise CommandError(
            f"{path} has {n_known} rows with a target. Give it at least {MIN_ROWS}."
        )
    for name in y.columns[y[is_known].isna().all()]:
        raise CommandError(f"Target {name!r} is empty. Pass another --target.")
    if labels is not None:
        labels = labels[is_known]
        missing = np.flatnonzero(is_known)[[label is None for label in labels]]
        if len(missing):
            raise CommandError(
                f"The column of --group is empty in record {missing[0] + 2}. Give each "
                "row a group, or leave out --group."
            )
        if len(set(labels)) < 2:
            raise CommandError(
                "The column of --group has one group. Pass another --group."
            )
    X, y = X[is_known].reset_index(drop=True), y[is_known].reset_index(drop=True)
    return Table(
        X, y if y.shape[1] > 1 else y.iloc[:, 0], labels, str(path), code, raw.notes
    )


def _code(
    raw: RawTable,
    found: dict[str, columns.Column],
    features: list[str],
    targets: list[str],
    group: str | None,
) -> list[str]:
    """Return the Python by which pandas reads the same table."""
    options = dict(raw.options)
    dtype = {name: c.dtype for name, c in found.items() if c.dtype and c.parts}
    dtype |= {group: "str"} if group else {}
    options |= {"dtype": dtype} if dtype else {}
    given = "".join(f", {name}={value!r}" for name, value in options.items())
    strip = (
        [f"table[{group!r}] = table[{group!r}].str.strip()"]
        if group in raw.padded
        else []
    )
    y = targets if len(targets) > 1 else targets[0]
    return [
        f"table = pd.read_csv({str(raw.path)!r}{given})",
        *(line for column in found.values() if column.parts for line in column.code),
        *strip,
        f'table = table.dropna(subset={targets!r}, how="all")',
        f"X, y = table[{features!r}], table[{y!r}]",
    ]
