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
from skmdn._command.reading import Cells

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
    numbers = [convention.number(cell) for cell in known]
    n_numbers = sum(number is not None for number in numbers)
    if n_numbers == len(known):
        return as_number(name, cells, convention)
    _refuse_other_signs(name, known, convention)
    words = {c for c, number in zip(known, numbers, strict=True) if number is None}
    is_numeric = n_numbers >= SHARE_OF_NUMBERS * len(known)
    if is_numeric and len(words) <= MAX_STRAY_WORDS:
        raise _stray_word(name, cells, words)
    n_levels = len(set(known))
    if n_levels > MAX_LEVELS and n_levels > len(known) / 2:
        return Column(
            {}, f"{name} is left out: text, {n_levels} of {len(known)} differ."
        )
    return as_category(name, cells, is_padded)


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
    words = {cell for cell in known if convention.number(cell) is None}
    if len(words) > MAX_STRAY_WORDS or len(words) > (1 - SHARE_OF_NUMBERS) * len(known):
        _refuse_other_signs(name, known, convention)
        raise CommandError(
            f"Target {name!r} contains text such as {min(words)!r}. Pass --target with "
            "a column of numbers."
        )
    return as_number(name, cells, convention)


def as_number(name: str, cells: Cells, convention: Convention) -> Column:
    """Convert a column of numbers, NaN where a value is missing.

    Raises
    ------
    CommandError
        If a known cell is no number.
    """
    known = [cell for cell in cells if cell is not None]
    if _are_truths(known):
        return _truths(name, cells)
    numbers = [cell and convention.number(cell) for cell in cells]
    words = {c for c, n in zip(cells, numbers, strict=True) if c and n is None}
    if words:
        raise _stray_word(name, cells, words)
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
    """Tell whether a column counts the rows from 0 or 1, or rises and is named so.

    A year or a day can rise from row to row, too.
    """
    if len(column.parts) != 1 or not all(c and c.lstrip("+-").isdigit() for c in cells):
        return False
    (values,) = column.parts.values()
    if len(values) < 2 or getattr(values, "dtype", None) != np.float64:
        return False
    steps = np.diff(values)
    if values[0] in (0, 1) and (steps == 1).all():
        return True
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


def _stray_word(name: str, cells: Cells, words: set[str]) -> CommandError:
    """Return the error of words in a column of numbers."""
    record, word = next((i, c) for i, c in enumerate(cells, start=2) if c in words)
    n_cells = Counter(cells)[word]
    more = f" and {n_cells - 1} more" if n_cells > 1 else ""
    return CommandError(
        f"Column {name!r} has numbers, but {word!r} in record {record}"
        f"{more}. Pass --missing {word!r} if it means a missing value, or --drop "
        f"{name!r}."
    )


def _refuse_other_signs(
    name: str, known: Sequence[str], convention: Convention
) -> None:
    """Raise an error if a column is of numbers with other signs than the file."""
    sample = known[:1000]
    share = share_of_numbers(sample, convention)
    for other in CONVENTIONS:
        if share_of_numbers(sample, other) >= max(SHARE_OF_NUMBERS, share + 1e-9):
            example = next(c for c in sample if convention.number(c) is None)
            raise CommandError(
                f"Column {name!r} has numbers such as {example!r}, but the decimal "
                f"sign of this file is {convention.decimal!r}. Write all numbers "
                f"alike, or pass --decimal {other.decimal!r} or --drop {name!r}."
            )
