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
# Cells by which formats are ruled out, before all of these are compared.
N_TRIAL = 50
_TIMES = ("%H:%M", "%H:%M:%S", "%H:%M:%S.%f", "%I:%M %p", "%I:%M:%S %p")
_DAYS = (
    *("%Y/%m/%d", "%d.%m.%Y", "%d.%m.%y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y"),
    *("%m-%d-%Y", "%d %b %Y", "%d-%b-%Y", "%b %d, %Y", "%d %B %Y", "%B %d, %Y"),
    *("%d/%m/%y", "%m/%d/%y", "%d %b %y", "%d-%b-%y"),
)
# pandas reads all of ISO 8601 by one name; plain numbers are years only to it.
_ISO = re.compile(r"\d{4}-\d\d(-\d\d([T ]\d\d:?\d\d.*)?)?")
_COMPACT = re.compile(r"(19|20)\d\d(0[1-9]|1[0-2])([0-2]\d|3[01])")
_TIME = re.compile(r"\d{1,2}:\d\d(:\d\d(\.\d+)?)?( [ap]m)?", re.IGNORECASE)
# What some programs write for no date.
_ZEROS = re.compile(r"[0\W]+")
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


def find_format(
    name: str, known: Sequence[str], like: str = "", can_drop: bool = True
) -> str | None:
    """Return the format of a column of dates for `pandas.to_datetime`, or None.

    Parameters
    ----------
    name : str
        Name of the column.
    known : sequence of str
        Its known cells.
    like : str
        A format whose order of day and month is tried before the others.
    can_drop : bool
        Whether an error may suggest --drop.

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
    if _matching(sample, _TIME) >= SHARE_OF_DATES:
        return next(iter(_best(sample, _TIMES)), None)
    if _matching(sample, _DAY_AND_MORE) < SHARE_OF_DATES:
        return None
    alike = [day for day in _DAYS if day == _day_of(like)]
    found = _best(sample, _with_times(alike)) or _best(sample, _with_times(_DAYS))
    if not found:
        return None
    first, *others = found
    cells = pd.Series(sample, dtype=object)
    for other in others:
        ours, theirs = parse(cells, first), parse(cells, other)
        is_other = (ours != theirs) & ours.notna() & theirs.notna()
        if is_other.any():
            example = cells[is_other.idxmax()]
            drop = f", or pass --drop {name!r}" if can_drop else ""
            raise CommandError(
                f"Column {name!r}: {example!r} may be {first} or {other}. Write dates "
                f"as 2024-12-31{drop}."
            )
    return first


def parse_like(name: str, cells: Sequence[str | None], like: str) -> tuple[Any, str]:
    """Convert dates of another file than that of the fit; return a note, too.

    Parameters
    ----------
    name : str
        Name of the column.
    cells : sequence of str or None
    like : str
        Format of the fit; it is used if the dates have it. Empty if it is not known.

    Raises
    ------
    CommandError
        If cells are no dates, or if day and month cannot be told apart.
    """
    known = [cell for cell in cells if cell is not None]
    format = like
    if known and (not like or _share(known, like) < SHARE_OF_DATES):
        format = find_format(name, known, like, can_drop=False) or like
    when = parse(pd.Series(cells, dtype=object), format or "ISO8601")
    others = [c for c, is_none in zip(cells, when.isna(), strict=True) if c and is_none]
    strange = [cell for cell in others if not _ZEROS.fullmatch(cell)]
    if (known and not format) or len(strange) > len(known) / 2:
        raise CommandError(
            f"Column {name!r} has dates in the fit{f' ({like})' if like else ''}, but "
            f"{next(iter(strange or known))!r} here. Write dates as 2024-12-31."
        )
    notes = []
    if like and format != like:
        notes.append(f"{name} is read as {format}; in the fit it was {like}.")
    if others:
        notes.append(
            f"{name}: {len(others)} cells that are no dates count as missing, such as "
            f"{others[0]!r}."
        )
    return when, " ".join(notes)


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


def parts_of(when: Any, format: str) -> list[str]:
    """Return the names of the parts that a column of times is replaced by."""
    if format in _TIMES:
        return ["hour"]
    hours = PARTS["hour"].of(when).dropna()
    return [part for part in PARTS if part != "hour" or hours.nunique() > 1]


def _with_times(days: Sequence[str]) -> list[str]:
    """Return formats of days alone, and with a time of the day."""
    return [f"{day} {time}".rstrip() for day in days for time in ("", *_TIMES)]


def _day_of(format: str) -> str:
    """Return a format without its time of the day."""
    return re.sub(r" %[HI]:.*", "", format)


def _best(cells: Sequence[str], formats: Sequence[str]) -> list[str]:
    """Return the formats that most cells have, if nearly all have them."""
    few = cells[:: 1 + len(cells) // N_TRIAL]
    shares = {f: _share(cells, f) for f in formats if _share(few, f) > 0}
    best = max(shares.values(), default=0)
    return [f for f, share in shares.items() if share == best >= SHARE_OF_DATES]


def _matching(cells: Sequence[str], pattern: re.Pattern[str]) -> float:
    return sum(pattern.fullmatch(cell) is not None for cell in cells) / len(cells)


def _share(cells: Sequence[str], format: str) -> float:
    return float(parse(pd.Series(cells, dtype=object), format).notna().mean())
