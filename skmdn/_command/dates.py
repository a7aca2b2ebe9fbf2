"""Dates and times as numbers: days, day of the year, weekday and hour."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pandas as pd

from skmdn._command.errors import CommandError

# Share of the known cells that must be dates.
SHARE_OF_DATES = 0.95
# Cells by which the format is detected.
N_DETECTION = 1000
_CLOCKS = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f")
_DAYS = (
    *("%Y/%m/%d", "%d.%m.%Y", "%d.%m.%y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y"),
    *("%m-%d-%Y", "%d %b %Y", "%d-%b-%Y", "%b %d, %Y", "%d %B %Y", "%B %d, %Y"),
)
# pandas reads all of ISO 8601 by one name; plain numbers are years only to it.
_ISO = re.compile(r"\d{4}-\d\d(-\d\d([T ]\d\d:?\d\d.*)?)?")
_COMPACT = re.compile(r"(19|20)\d\d(0[1-9]|1[0-2])([0-2]\d|3[01])")
_DAY_AND_MORE = re.compile(r".*\d.*[-/. ].*\d.*", re.DOTALL)


class Part(NamedTuple):
    """One column that is made of times, and the Python that makes it of `when`."""

    of: Callable[[Any], Any]
    code: str


PARTS = {
    "days": Part(
        lambda when: (when - pd.Timestamp("1970-01-01")) / pd.Timedelta(days=1),
        '(when - pd.Timestamp("1970-01-01")) / pd.Timedelta(days=1)',
    ),
    "day of year": Part(
        lambda when: when.dt.day_of_year.astype(float),
        "when.dt.day_of_year",
    ),
    "weekday": Part(
        lambda when: when.dt.day_name().str[:3].astype("category"),
        'when.dt.day_name().str[:3].astype("category")',
    ),
    "hour": Part(
        lambda when: (when - when.dt.normalize()) / pd.Timedelta(hours=1),
        "(when - when.dt.normalize()) / pd.Timedelta(hours=1)",
    ),
}


def find_format(name: str, known: Sequence[str]) -> str | None:
    """Return the format of a column of dates for `pandas.to_datetime`, or None.

    Raises
    ------
    CommandError
        If day and month cannot be told apart.
    """
    sample = known[:: 1 + len(known) // N_DETECTION]
    if not sample:
        return None
    if all(map(_COMPACT.fullmatch, known)):
        return "%Y%m%d" if _share(sample, "%Y%m%d") == 1 else None
    if _matching(sample, _ISO) >= SHARE_OF_DATES:
        return "ISO8601" if _share(sample, "ISO8601") >= SHARE_OF_DATES else None
    if _matching(sample, _DAY_AND_MORE) < SHARE_OF_DATES:
        return None
    shares = {
        day + time: _share(sample, day + time) for day in _DAYS for time in _CLOCKS
    }
    best = max(shares.values())
    if best < SHARE_OF_DATES:
        return None
    first, *others = [format for format, share in shares.items() if share == best]
    cells = pd.Series(sample, dtype=object)
    for other in others:
        ours, theirs = parse(cells, first), parse(cells, other)
        is_other = (ours != theirs) & ours.notna() & theirs.notna()
        if is_other.any():
            example = cells[is_other.idxmax()]
            raise CommandError(
                f"Column {name!r}: {example!r} may be {first} or {other}. Write dates "
                f"as 2024-12-31, or pass --drop {name!r}."
            )
    return first


def parse(cells: Any, format: str) -> Any:
    """Convert text to times of UTC without a zone, NaT where it is no time."""
    when = pd.to_datetime(cells, format=format, utc=True, errors="coerce")
    return when.dt.tz_localize(None)


def code_of_parse(name: str, format: str) -> str:
    """Return the Python of `parse`."""
    return (
        f"when = pd.to_datetime(table[{name!r}], format={format!r}, utc=True, "
        'errors="coerce").dt.tz_localize(None)'
    )


def parts_of(when: Any) -> list[str]:
    """Return the names of the parts that a column of times is replaced by."""
    hours = PARTS["hour"].of(when).dropna()
    return [part for part in PARTS if part != "hour" or hours.nunique() > 1]


def _matching(cells: Sequence[str], pattern: re.Pattern[str]) -> float:
    return sum(pattern.fullmatch(cell) is not None for cell in cells) / len(cells)


def _share(cells: Sequence[str], format: str) -> float:
    return float(parse(pd.Series(cells, dtype=object), format).notna().mean())
