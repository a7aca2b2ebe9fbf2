"""What becomes of each column of a file: numbers, categories, parts of dates."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from skmdn._command import dates
from skmdn._command.errors import CommandError
from skmdn._command.numerals import (
    CONVENTIONS,
    MINUS,
    SHARE_OF_NUMBERS,
    SPACES,
    Convention,
    share_of_numbers,
    signs_of,
)
from skmdn._command.reading import UNNAMED, Cells

# Other words than these may be in a column of numbers: it is a column of text then.
MAX_STRAY_WORDS = 5
# Text of more levels than this is left out if more than half of its rows are distinct.
MAX_LEVELS = 50
TRUTHS = {"false": 0.0, "true": 1.0}


@dataclass
class Column:
    """Result of a column of the file.

    Parameters
    ----------
    parts : dict
        Columns of the frame that it becomes, by name; none if it is left out.
    note : str
        What was decided, in one line; empty for plain numbers.
    dtype : str or None
        Type with which pandas reads it; None for what it finds itself.
    code : list of str
        Python that makes the parts of the column of pandas.
    format : str
        Format of its dates or times; empty for all else.
    """

    parts: dict[str, Any]
    note: str = ""
    dtype: str | None = None
    code: list[str] = field(default_factory=list)
    format: str = ""

    @property
    def is_left_out(self) -> bool:
        """Whether nothing of the column is used."""
        return not self.parts


def as_feature(
    name: str, cells: Cells, convention: Convention, is_padded: bool
) -> Column:
    """Decide what becomes of a feature.

    Raises
    ------
    CommandError
        If a column of numbers has a few words, or other decimal signs than the rest,
        or if dates have two meanings.
    """
    known = [cell for cell in cells if cell is not None]
    if not known:
        return Column({}, f"{name} is left out: it is empty.")
    if _are_truths(known):
        return _truths(name, cells)
    format = dates.find_format(name, known)
    if format:
        return as_date(name, cells, format)
    words = _words(known, convention)
    n_numbers = len(known) - words.total()
    if _is_numeric(known, words):
        return as_number(name, cells, convention, can_drop=True)
    _refuse_other_signs(name, known, words, convention, can_drop=True)
    n_levels = len(set(known))
    if n_levels > MAX_LEVELS and n_levels > len(known) / 2:
        column = Column(
            {}, f"{name} is left out: text, {n_levels} of {len(known)} differ."
        )
    else:
        column = as_category(name, cells, is_padded)
    if n_numbers > len(known) / 2:
        column.note += (
            f" It has {n_numbers} numbers, but {_place(cells, words)}. Pass "
            f"{_missing(words)} if it is to be of numbers."
        )
    return column


def as_target(name: str, cells: Cells, convention: Convention) -> Column:
    """Read a target, which must be a number.

    Raises
    ------
    CommandError
        If it holds anything else.
    """
    known = [cell for cell in cells if cell is not None]
    if _are_truths(known):
        return _truths(name, cells)
    words = _words(known, convention)
    if not _is_numeric(known, words):
        _refuse_other_signs(name, known, words, convention)
        raise CommandError(
            f"Target {name!r} contains text: {_place(cells, words)}, in "
            f"{words.total()} of {len(known)} cells. Pass --target with a column of "
            "numbers, or write numbers for its words."
        )
    return as_number(name, cells, convention)


def as_number(
    name: str, cells: Cells, convention: Convention, can_drop: bool = False
) -> Column:
    """Convert a column of numbers, NaN where a value is missing.

    Errors suggest --drop if `can_drop`.

    Raises
    ------
    CommandError
        If a known cell is no number.
    """
    known = [cell for cell in cells if cell is not None]
    if _are_truths(known):
        return _truths(name, cells)
    words = _words(known, convention)
    if words:
        _refuse_other_signs(name, known, words, convention, can_drop)
        or_drop = f", or --drop {name!r}" if can_drop else ""
        raise CommandError(
            f"Column {name!r} has numbers, but {_place(cells, words)}. Pass "
            f"{_missing(words)} if it means a missing value{or_drop}."
        )
    numbers = [cell and convention.number(cell) for cell in cells]
    column = Column({name: np.array(numbers, dtype=np.float64)})
    if not all(map(convention.is_plain, known)):
        column.dtype, column.code = "str", [_code_of_number(name, known, convention)]
        signs = signs_of(known)
        if signs:
            n_signs = sum(not set(signs).isdisjoint(cell) for cell in known)
            column.note = (
                f"{name}: {' and '.join(signs)} ignored in {n_signs} of "
                f"{len(known)} cells."
            )
    return column


def as_category(name: str, cells: Cells, is_padded: bool = False) -> Column:
    """Convert text to categories."""
    category = pd.Categorical(cells)
    note = f"{name} is a category of {len(category.categories)} levels."
    if is_padded:
        code = f'table[{name!r}] = table[{name!r}].str.strip().astype("category")'
        return Column({name: category}, note, "str", [code])
    return Column({name: category}, note, "category")


def as_date(name: str, cells: Cells, format: str) -> Column:
    """Convert dates to days since 1970, the day of the year, the weekday and hours."""
    when = dates.parse(pd.Series(cells, dtype=object), format)
    names = {part: f"{name} [{part}]" for part in dates.parts_of(when, format)}
    n_strange = sum(cell is not None for cell in cells) - int(when.notna().sum())
    kind = "date" if "days" in names else "time"
    note = f"{name} is a {kind} ({format}), replaced by {', '.join(names.values())}."
    if n_strange:
        note += f" {n_strange} cells that are no {kind}s count as missing."
    return Column(
        {column: dates.PARTS[part].of(when).array for part, column in names.items()},
        note,
        "str",
        [
            dates.code_of_parse(name, format),
            *(
                f"table[{column!r}] = {dates.PARTS[part].code}"
                for part, column in names.items()
            ),
        ],
        format,
    )


def is_row_number(name: str, column: Column, cells: Cells) -> bool:
    """Tell whether a column counts the rows from 0 or 1, or is named so.

    It rises or falls then, since a year or a day can rise from row to row, too. A
    column without a name, as pandas writes the index, can be in any order.
    """
    if len(column.parts) != 1 or not all(c and c.lstrip("+-").isdigit() for c in cells):
        return False
    (values,) = column.parts.values()
    if len(values) < 2 or getattr(values, "dtype", None) != np.float64:
        return False
    steps = np.diff(values)
    if values[0] in (0, 1) and (steps == 1).all():
        return True
    if re.fullmatch(UNNAMED.format("[0-9]+"), name):
        return len(set(values)) == len(values)
    is_named = re.search(r"(^|[\W_])(id|no|nr|index|key|row|number)$", name.lower())
    return is_named is not None and bool((steps > 0).all() or (steps < 0).all())


# -- parts of these ------------------------------------------------------------------


def _are_truths(known: Sequence[str]) -> bool:
    return bool(known) and {cell.casefold() for cell in known} <= TRUTHS.keys()


def _truths(name: str, cells: Cells) -> Column:
    """Convert True and False to 1 and 0."""
    numbers = [np.nan if cell is None else TRUTHS[cell.casefold()] for cell in cells]
    written = {c: TRUTHS[c.casefold()] for c in sorted(filter(None, {*cells}))}
    code = f"table[{name!r}] = table[{name!r}].str.strip().map({written})"
    note = f"{name}: True is 1 and False is 0."
    return Column({name: np.array(numbers)}, note, "str", [code])


def _code_of_number(name: str, known: Sequence[str], convention: Convention) -> str:
    """Return the Python that removes what is not of the number."""
    found = set().union(*known)
    thousands = convention.thousands.strip()
    removed = signs_of(known) + "".join(sorted(found & set(SPACES))) + thousands
    code = f"table[{name!r}]"
    if removed:
        code += f'.str.replace(r"[{removed}]", "", regex=True)'
    for sign, replacement in ((MINUS, "-"), (convention.decimal, ".")):
        if sign in found and sign != replacement:
            code += f".str.replace({sign!r}, {replacement!r})"
    return f"table[{name!r}] = pd.to_numeric({code})"


def _words(known: Sequence[str], convention: Convention) -> Counter[str]:
    """Count the cells that are no numbers, in their order."""
    return Counter(cell for cell in known if convention.number(cell) is None)


def _is_numeric(known: Sequence[str], words: Counter[str]) -> bool:
    """Tell whether cells are numbers but for a few words, which are errors then."""
    are_few = words.total() <= (1 - SHARE_OF_NUMBERS) * len(known)
    return are_few and len(words) <= MAX_STRAY_WORDS


def _place(cells: Cells, words: Counter[str]) -> str:
    """Return the first word, its record and how many more records have it."""
    word, n_cells = next(iter(words.items()))
    more = f" and {n_cells - 1} more" if n_cells > 1 else ""
    return f"{word!r} in record {cells.index(word) + 2}{more}"


def _missing(words: Counter[str]) -> str:
    """Return the options that make some words missing values."""
    return " ".join(f"--missing {word!r}" for word in [*words][:MAX_STRAY_WORDS])


def _refuse_other_signs(
    name: str,
    known: Sequence[str],
    words: Counter[str],
    convention: Convention,
    can_drop: bool = False,
) -> None:
    """Raise an error if a column is of numbers with other signs than the file."""
    sample = [*known[:1000], *[*words][:1000]]
    share = share_of_numbers(sample, convention)
    for other in CONVENTIONS:
        if share_of_numbers(sample, other) >= max(SHARE_OF_NUMBERS, share + 1e-9):
            or_drop = f" or --drop {name!r}" if can_drop else ""
            example = next(c for c in words if other.number(c) is not None)
            raise CommandError(
                f"Column {name!r} has numbers such as {example!r}, but the decimal "
                f"sign of this file is {convention.decimal!r}. Write all numbers "
                f"alike, or pass --decimal {other.decimal!r}{or_drop}."
            )
