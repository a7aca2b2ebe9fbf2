"""Summaries of results files, for the scripts and for the tables of the documentation.

Standard library only: the documentation imports this module while it is built.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import sub, truediv
from pathlib import Path

Row = dict[str, str]
Line = tuple[str, ...]
# What a row says about how it was measured. `seconds` is the wall time since the row
# before it; `commit` is that of the imported skmdn, with "+" if files were changed.
PROVENANCE = (
    *("skmdn", "commit", "date", "python", "torch", "scikit_learn"),
    *("machine", "threads", "seconds"),
)
LOWER_IS_BETTER = ("nll", "crps", "rmse", "ibs", "c2st", "gap")
HIGHER_IS_BETTER = ("log_lik", "log_cell", "reached")
# Columns that number the repetitions of a measurement; the first in the file is used.
REPETITIONS = ("fold", "repetition", "observation", "split", "seed")


def read(path: Path) -> list[Row]:
    """Return the rows of a results file; none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def mean_and_error(values: Iterable[float]) -> tuple[float, float]:
    """Return the mean and its standard error, which is NaN for one value."""
    numbers = list(values)
    n = len(numbers)
    if n == 0:
        return math.nan, math.nan
    mean = sum(numbers) / n
    if n == 1:
        return mean, math.nan
    squares = sum((value - mean) * (value - mean) for value in numbers)
    return mean, math.sqrt(squares / (n - 1) / n)


def repetition_of(row: Row) -> str:
    """Return the number of the repetition that a row is; "" for published figures."""
    return next((row[name] for name in REPETITIONS if row.get(name)), "")


def value_of(row: Row, column: str) -> str:
    """Return the value of a column; rows without it are of skmdn."""
    return (row.get(column) or "skmdn") if column else ""


def pivot(
    rows: Iterable[Row], keys: Sequence[str], column: str, score: str
) -> dict[Line, dict[str, dict[str, float]]]:
    """Return a score by the values of `keys`, the value of `column`, and repetition.

    Rows without the score are left out. The orders are those of the rows.
    """
    table: dict[Line, dict[str, dict[str, float]]] = {}
    for row in rows:
        number = float(row.get(score) or "nan")
        if math.isnan(number):
            continue
        cells = table.setdefault(tuple(value_of(row, key) for key in keys), {})
        values = cells.setdefault(value_of(row, column), {})
        values[repetition_of(row)] = number
    return table


def best(values: dict[str, dict[str, float]], score: str) -> str | None:
    """Return the key of the best finite mean over the repetitions that all have.

    Published figures are means already. None where no direction is better, or where no
    repetition is shared.
    """
    own = [set(found) for found in values.values() if "" not in found]
    shared = set.intersection(*own) if own else set()
    means = {
        key: found[""]
        if "" in found
        else mean_and_error(found[name] for name in shared)[0]
        for key, found in values.items()
    }
    finite = {key: mean for key, mean in means.items() if math.isfinite(mean)}
    choose: Callable[..., str] = min if score in LOWER_IS_BETTER else max
    if score not in (*LOWER_IS_BETTER, *HIGHER_IS_BETTER) or len(finite) < 2:
        return None
    return choose(finite, key=finite.__getitem__)


def text_of(mean: float, error: float) -> str:
    """Write a mean to two digits of its error, or to four digits if that is unknown."""
    if not math.isfinite(mean):
        return "inf" if mean > 0 else "-"
    if abs(mean) >= 1e7 or (0 < abs(mean) < 1e-4 and not math.isfinite(error)):
        return f"{mean:.1e}"
    size = error if math.isfinite(error) and error > 0 else abs(mean) / 100
    decimals = max(0, 1 - math.floor(math.log10(size))) if size else 0
    text = f"{mean:,.{decimals}f}"
    return f"{text} ± {error:,.{decimals}f}" if math.isfinite(error) else text


def sources(rows: Sequence[Row], version: str) -> str:
    """Say how the rows were measured, for the caption of a table.

    Rows of published figures, which have no date, are left out.
    """
    own = [row for row in rows if row.get("date")]

    def found(name: str) -> list[str]:
        return list(dict.fromkeys(row[name] for row in own if row[name]))

    commits, dates = found("commit"), sorted(found("date"))
    if not all(row["commit"] for row in own):
        commits.append("not recorded" if not commits else "of some rows not recorded")
    days = " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else "no date"
    torch = [text.split("+")[0] for text in found("torch")]
    parts = [
        f"skmdn {', '.join(found('skmdn'))}",
        f"commit {', '.join(commits)}",
        days,
        f"torch {', '.join(dict.fromkeys(torch))}",
        f"scikit-learn {', '.join(found('scikit_learn'))}",
        f"threads: {', '.join(found('threads'))}",
    ]
    is_old = any(found_version != version for found_version in found("skmdn"))
    return ", ".join(parts) + (", measured with an earlier version" if is_old else "")


# -- tables of the documentation ---------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """A mean and its standard error over the repetitions of a measurement.

    ``count`` is their number, and 0 for a published figure.
    """

    mean: float
    error: float
    count: int


@dataclass(frozen=True)
class Choice:
    """Which scores of which rows a table shows.

    ``keys`` are the columns of the file that name the lines, ``column`` that whose
    values (of peers, for example) become columns of the table; "" for one column per
    score. With ``minus``, the other columns are paired differences to that one; with
    ``over``, they are ratios to it.
    """

    keys: Sequence[str]
    scores: Sequence[str]
    column: str = ""
    values: Sequence[str] = ()
    where: Mapping[str, str] = field(default_factory=dict)
    minus: str = ""
    over: str = ""

    @classmethod
    def of(cls, options: Mapping[str, str]) -> Choice:
        """Read the options of a directive, which docs/_ext/results.py describes."""
        column, _, values = options.get("columns", "").partition("=")
        where = [part.partition("=") for part in options.get("where", "").split(";")]
        return cls(
            keys=words(options["rows"]),
            scores=words(options["scores"]),
            column=column.strip(),
            values=words(values),
            where={name.strip(): value.strip() for name, _, value in where if name},
            minus=options.get("minus", ""),
            over=options.get("over", ""),
        )

    def rows(self, rows: Iterable[Row]) -> list[Row]:
        """Return the rows that the table is made of."""
        return [
            row
            for row in rows
            if all(row.get(name) == value for name, value in self.where.items())
            and (not self.values or value_of(row, self.column) in self.values)
        ]

    @property
    def reference(self) -> str:
        """Column that the others are compared with; "" for none."""
        return self.minus or self.over

    def cells(self, rows: Iterable[Row], score: str) -> dict[Line, dict[str, Cell]]:
        """Return the cells of a score by line and value of ``column``."""
        table = {}
        for line, found in pivot(rows, self.keys, self.column, score).items():
            reference = found.get(self.reference)
            cells = table[line] = {}
            for name, values in found.items():
                numbers = list(values.values())
                if reference is not None and name != self.reference:
                    compare = truediv if self.over else sub
                    shared = [key for key in values if key in reference]
                    numbers = [compare(values[key], reference[key]) for key in shared]
                count = 0 if "" in values else len(numbers)
                cells[name] = Cell(*mean_and_error(numbers), count)
        return table

    def head_and_lines(
        self, rows: Sequence[Row]
    ) -> tuple[list[str], list[list[tuple[str, bool]]]]:
        """Return the head, and the lines: texts, and whether they are the best."""
        found = dict.fromkeys(value_of(row, self.column) for row in rows)
        values = self.values or list(found)
        tables = {score: self.cells(rows, score) for score in self.scores}
        numbers = {s: pivot(rows, self.keys, self.column, s) for s in self.scores}
        lines = {
            line: [(key, False) for key in line]
            for table in tables.values()
            for line in table
        }
        for score, table in tables.items():
            largest = max(c.count for cells in table.values() for c in cells.values())
            for line, texts in lines.items():
                cells = table.get(line, {})
                compared = numbers[score].get(line, {})
                first = None if self.reference else best(compared, score)
                for value in values:
                    is_difference = bool(self.minus) and value != self.minus
                    text = text_of_cell(cells.get(value), largest, is_difference)
                    texts.append((text, value == first))
        labels = [self._label(score, value) for score in tables for value in values]
        return [*self.keys, *labels], list(lines.values())

    def _label(self, score: str, value: str) -> str:
        if not self.column:
            return score
        label = value
        if self.reference not in ("", value):
            label = f"{value} {'/' if self.over else '-'} {self.reference}"
        return label if len(self.scores) == 1 else f"{label}, {score}"

    def caption(self, rows: Sequence[Row], files: Sequence[str], version: str) -> str:
        """Say what the cells are, and how the rows of the first file were measured."""
        own = [row for row in rows if row.get("date")]
        noun = next((name for name in REPETITIONS if own[0].get(name)), "run")
        counts = {
            cell.count
            for score in self.scores
            for cells in self.cells(own, score).values()
            for cell in cells.values()
        }
        text = f"{', '.join(map(with_direction, self.scores))}: one {noun}"
        if (most := max(counts)) > 1:
            text = text.replace(f"one {noun}", f"mean ± standard error, {most} {noun}s")
            text += ", or the number in brackets" if len(counts) > 1 else ""
        if self.minus:
            text += f"; differences to {self.minus} are paired by {noun}"
        published = "".join(f" Published figures: {file}." for file in files[1:])
        return f"{text}. {files[0]}: {sources(own, version)}.{published}"


def words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def with_direction(score: str) -> str:
    if score in LOWER_IS_BETTER:
        return f"{score} (lower is better)"
    return f"{score} (higher is better)" if score in HIGHER_IS_BETTER else score


def text_of_cell(cell: Cell | None, largest: int, is_difference: bool) -> str:
    if cell is None:
        return "-"
    text = text_of(cell.mean, cell.error)
    if is_difference and cell.mean > 0:
        text = f"+{text}"
    return f"{text} ({cell.count})" if 0 < cell.count < largest else text
