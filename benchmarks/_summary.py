"""Summaries of results files, for the scripts and for the tables of the documentation.

Standard library only: the documentation imports this module while it is built.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

Row = dict[str, str]
# What a row says about how it was measured. `seconds` is the wall time since the row
# before it; `commit` is that of the imported skmdn, with "+" if files were changed.
PROVENANCE = (
    *("skmdn", "commit", "date", "python", "torch", "scikit_learn"),
    *("machine", "threads", "seconds"),
)
LOWER_IS_BETTER = ("nll", "crps", "rmse", "ibs", "c2st")
HIGHER_IS_BETTER = ("log_lik", "log_cell")
# Columns that number the repetitions of a measurement; the first in the file is used.
REPETITIONS = ("fold", "repetition", "observation", "split")


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


def pivot(
    rows: Iterable[Row], keys: Sequence[str], column: str, score: str
) -> dict[tuple[str, ...], dict[str, dict[str, float]]]:
    """Return a score by the values of `keys`, the value of `column`, and repetition.

    Rows without the score are left out. The orders are those of the rows.
    """
    table: dict[tuple[str, ...], dict[str, dict[str, float]]] = {}
    for row in rows:
        if not row.get(score):
            continue
        cells = table.setdefault(tuple(row[key] for key in keys), {})
        values = cells.setdefault(row.get(column, ""), {})
        values[repetition_of(row)] = float(row[score])
    return table


def differences(ours: dict[str, float], theirs: dict[str, float]) -> list[float]:
    """Return the differences of a score in the repetitions of both."""
    return [ours[key] - theirs[key] for key in ours if key in theirs]


def best(means: dict[str, float], score: str) -> str | None:
    """Return the key of the best finite mean; None where no direction is better."""
    finite = {key: mean for key, mean in means.items() if math.isfinite(mean)}
    choose: Callable[..., str] = min if score in LOWER_IS_BETTER else max
    if score not in (*LOWER_IS_BETTER, *HIGHER_IS_BETTER) or len(finite) < 2:
        return None
    return choose(finite, key=finite.__getitem__)


def text_of(mean: float, error: float) -> str:
    """Write a mean to two digits of its error, or to four digits if that is unknown."""
    if not math.isfinite(mean):
        return "-"
    if abs(mean) >= 1e7:
        return f"{mean:.0e}"
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
    days = " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else "no date"
    torch = [text.split("+")[0] for text in found("torch")]
    parts = [
        f"skmdn {', '.join(found('skmdn'))}",
        f"commit {', '.join(commits)}" if commits else "commit not recorded",
        days,
        f"torch {', '.join(dict.fromkeys(torch))}",
        f"scikit-learn {', '.join(found('scikit_learn'))}",
        f"threads: {', '.join(found('threads'))}",
    ]
    is_old = any(found_version != version for found_version in found("skmdn"))
    return ", ".join(parts) + (", measured with an earlier version" if is_old else "")
