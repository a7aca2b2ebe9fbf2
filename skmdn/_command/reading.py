"""Read a CSV file into columns of text: encoding, separator, header and records."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from skmdn._command.errors import CommandError, one_line
from skmdn._command.numerals import POINT, Convention, is_numeral

SEPARATORS = ",;\t|"
# Name of a column without one, as pandas gives it.
UNNAMED = "Unnamed: {}"
# Records by which the separator is detected.
N_DETECTION = 100
# The markers of missing values that pandas.read_csv has.
OF_PANDAS = {
    *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND"),
    *("1.#QNAN", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
}
MISSING = {marker.casefold() for marker in OF_PANDAS}
MISSING |= {"?", "-", "--", "n.a.", "missing", "."}

Cells = list[str | None]


class Hints(NamedTuple):
    """What the user says about the file; None for what is to be detected."""

    sep: str | None = None
    decimal: str | None = None
    encoding: str | None = None
    missing: tuple[str, ...] = ()


@dataclass
class RawTable:
    """Columns of text, and the options by which pandas reads the same.

    Parameters
    ----------
    path : Path
    sep : str
    columns : dict of list
        Cells without spaces around them, None where a value is missing.
    options : dict
        Options of `pandas.read_csv` that differ from its defaults.
    notes : list of str
        What was decided, a line each.
    padded : dict of set
        Known cells with spaces around them, of each column that has such cells.
    """

    path: Path
    sep: str
    columns: dict[str, Cells]
    options: dict[str, Any]
    notes: list[str]
    padded: dict[str, set[str]] = field(default_factory=dict)

    @property
    def n_rows(self) -> int:
        """Number of records below the header."""
        return len(next(iter(self.columns.values())))

    def check_columns(self, option: str, names: Iterable[str]) -> None:
        """Raise an error if an option names a column that the header does not have."""
        for name in names:
            if name not in self.columns:
                raise CommandError(
                    f"{self.path} has no column {name!r}. Pass {option} with one of "
                    f"{', '.join(self.columns)}."
                )

    def mark_numbers(self, markers: Iterable[str], convention: Convention) -> None:
        """Mark cells that are the numbers of markers: -999.0 for -999, as pandas does.

        This needs the signs of numbers, and so is done after their detection. Markers
        may have a decimal point in any file, and pandas looks for both spellings.
        """
        read = (convention.number, POINT.number)
        numbers = {number(marker.strip()) for marker in markers for number in read}
        numbers -= {None}
        spellings = set(map(str, numbers))
        found = Counter[str]()
        for cells in self.columns.values() if numbers else ():
            for row, cell in enumerate(cells):
                if cell is None:
                    continue
                if cell in spellings or convention.number(cell) in numbers:
                    cells[row] = None
                    found[cell] += 1
        if found:
            # pandas compares text, with its spaces, where it does not read numbers.
            padded = set().union(*self.padded.values())
            texts = [*found, *sorted(t for t in padded if t.strip() in found)]
            self.options["na_values"] = [*self.options.get("na_values", []), *texts]
        self.notes += _note_of_missing(found)


def read_raw(path: Path, hints: Hints) -> RawTable:
    """Read a CSV file with a header.

    Raises
    ------
    CommandError
        If it cannot be read, or has no header, no rows, two columns of one name or
        records of different lengths.
    """
    notes: list[str] = []
    text, encoding = _decode(path, hints.encoding, notes)
    text, declared = _without_separator_line(text)
    sep = hints.sep or declared or _detect_separator(text)
    options: dict[str, Any] = {
        "sep": sep,
        "encoding": encoding,
        "skiprows": int(declared is not None),
    }
    header, *rows = _records(path, text, sep)
    names = _names(path, header)
    rows = _of_equal_width(path, names, rows, options)
    if [name for name in names if name] != [name for name in header if name]:
        options["header"], options["names"] = 0, names
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    for name, given in zip(names, header, strict=True):
        if not given.strip() and not any(map(str.strip, columns[name])):
            notes.append(
                f"Column {names.index(name) + 1} has no name and is empty: left out."
            )
            del columns[name]
    table = RawTable(path, sep, {}, options, notes)
    _mark_missing(table, columns, hints.missing)
    defaults = {"sep": ",", "encoding": "utf-8", "skiprows": 0, "na_values": []}
    table.options = {k: v for k, v in options.items() if v != defaults.get(k)}
    return table


# -- text --------------------------------------------------------------------------


def _decode(path: Path, encoding: str | None, notes: list[str]) -> tuple[str, str]:
    """Return the text of a file, and its encoding."""
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise CommandError(f"{path} cannot be read: {exc.strerror}.") from exc
    if encoding is None:
        encoding, guess = "utf-8", "cp1252"
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            encoding = guess = "utf-16"
    else:
        guess = encoding
    for attempt in (encoding, guess):
        try:
            text = content.decode(attempt)
        except UnicodeError:
            continue
        if attempt != encoding:
            notes.append(
                f"The file is not UTF-8 and is read as {attempt}; pass --encoding if "
                "letters are wrong."
            )
        return text.removeprefix("\ufeff"), attempt
    raise CommandError(
        f"{path} cannot be read as {guess}. Pass --encoding with its encoding, such as "
        "latin-1 or utf-16."
    )


def _without_separator_line(text: str) -> tuple[str, str | None]:
    """Split off the line `sep=;` of Excel, and return the separator it declares."""
    line = re.match(r'"?sep=([^\r\n])"?[ ,;\t]*(\r\n|\r|\n)', text, re.IGNORECASE)
    return (text[line.end() :], line[1]) if line else (text, None)


def _split(text: str, sep: str) -> Iterator[list[str]]:
    """Yield the records, which are the lines that are not blank.

    In a file of one column, a blank line before the last record is a missing value.
    """
    width = n_blank = 0
    for record in csv.reader(io.StringIO(text, newline=""), delimiter=sep):
        # A blank line has no cell, and an empty cell in quotes is one.
        if len(record) > 1 or record == [""] or (record and record[0].strip()):
            yield from [[""]] * n_blank
            yield record
            width, n_blank = width or len(record), 0
        elif width == 1:
            n_blank += 1


def _detect_separator(text: str) -> str:
    """Return the separator with which most of the first records are as the header."""
    ranks = {}
    for sep in SEPARATORS:
        try:
            widths = [len(record) for record in islice(_split(text, sep), N_DETECTION)]
        except csv.Error:
            continue
        if widths and widths[0] > 1:
            (width, count), *_ = Counter(widths).most_common(1)
            agrees = width - widths[0] in (0, 1)  # one more at the end of each record
            ranks[sep] = (agrees, count / len(widths), width)
    return max(ranks, key=ranks.__getitem__, default=",")


def _records(path: Path, text: str, sep: str) -> list[list[str]]:
    if "\0" in text:
        raise CommandError(
            f"{path} has NUL characters, and is no text in this encoding. Pass "
            "--encoding utf-16, or export it as CSV."
        )
    try:
        records = list(_split(text, sep))
    except csv.Error as exc:
        raise CommandError(
            f"{path} cannot be read: {one_line(exc)}. Close each quote, or pass --sep."
        ) from exc
    if not records:
        raise CommandError(f"{path} is empty. Give it a header and rows.")
    if len(records) == 1:
        raise CommandError(f"{path} has a header only. Give it rows.")
    return records


# -- header and records --------------------------------------------------------------


def _names(path: Path, header: list[str]) -> list[str]:
    """Return the names of columns; those without one are named as pandas does."""
    given = [name.strip() for name in header]
    if all(map(is_numeral, filter(None, given))):
        raise CommandError(
            f"{path} has no header: its first record is all numbers. Put a line with "
            "the names of the columns before it."
        )
    names = [name or UNNAMED.format(number) for number, name in enumerate(given)]
    (name, count), *_ = Counter(names).most_common(1)
    if count > 1:
        raise CommandError(
            f"{path} has {count} columns of the name {name!r}. Rename all but one of "
            "them in its first line."
        )
    return names


def _of_equal_width(
    path: Path, names: list[str], rows: list[list[str]], options: dict[str, Any]
) -> list[list[str]]:
    """Check that records are as long as the header, but for a separator at the end."""
    width = len(names)
    if all(len(row) == width + 1 and not row[-1].strip() for row in rows):
        options["index_col"] = False  # or pandas takes the first column for an index
        return [row[:-1] for row in rows]
    for number, row in enumerate(rows, start=2):
        if len(row) != width:
            raise CommandError(
                f"{path}: record {number} has {len(row)} cells, and the header "
                f"{width}. Correct it, put quotes around cells with the separator "
                f"{options['sep']!r}, or pass another --sep."
            )
    return rows


# -- missing values ------------------------------------------------------------------


def _mark_missing(
    table: RawTable, columns: dict[str, list[str]], extra: tuple[str, ...]
) -> None:
    """Fill a table with stripped cells, and None for markers of missing values."""
    markers = MISSING | {marker.strip().casefold() for marker in extra}
    unknown_to_pandas: dict[str, None] = {}  # a set in the order of the file
    found = Counter[str]()
    for name, raw in columns.items():
        cells: Cells = []
        for given in raw:
            cell = given.strip()
            if cell.casefold() in markers:
                cells.append(None)
                found[cell] += 1
                if given not in OF_PANDAS:
                    unknown_to_pandas[given] = None
                continue
            cells.append(cell)
            if len(cell) < len(given):
                table.padded.setdefault(name, set()).add(given)
        table.columns[name] = cells
    table.options["na_values"] = list(unknown_to_pandas)
    table.notes += _note_of_missing(found)


def _note_of_missing(found: Counter[str]) -> list[str]:
    """Return a line on the markers of missing values, if any is not an empty cell."""
    counts = [f"{n} of {marker!r}" for marker, n in found.items() if marker]
    counts += [f"{found['']} empty"] if found[""] else []
    return [f"Cells counted as missing: {', '.join(counts)}."] if any(found) else []
