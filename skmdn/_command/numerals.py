"""Numbers as people write them: decimal signs, thousands, currencies and percent."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import NamedTuple

SIGNS = "€$£¥%"
# Characters between thousands that look like a space, and the Swiss apostrophe.
SPACES = " \u00a0\u202f\u2009'\u2019"
MINUS = "\u2212"
# Share of numbers among the known cells of a column of numbers with stray words.
SHARE_OF_NUMBERS = 0.9
# Cells of a column by which the decimal sign is detected.
N_DETECTION = 2000


class _Signs(NamedTuple):
    decimal: str
    thousands: str


class Convention(_Signs):
    """Decimal sign and sign between thousands; the second may be empty."""

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Match a number, with groups of three digits where there are thousands.

        No thousands follow a first group that begins with 0: 0.125 is a decimal.
        """
        whole = "[0-9]+"
        if self.thousands:
            grouped = rf"[1-9][0-9]{{0,2}}(?:[{re.escape(self._removed)}][0-9]{{3}})+"
            whole = f"(?:{grouped}|{whole})"
        point = re.escape(self.decimal)
        digits = rf"(?:{whole}(?:{point}[0-9]*)?|{point}[0-9]+)"
        return re.compile(rf"[+-]?{digits}(?:[eE][+-]?[0-9]+)?")

    @property
    def _removed(self) -> str:
        """Characters between thousands."""
        return SPACES if self.thousands == " " else self.thousands

    @cached_property
    def _to_python(self) -> dict[int, str | None]:
        return {ord(sign): None for sign in self._removed} | {ord(self.decimal): "."}

    def number(self, text: str) -> float | None:
        """Return the finite number that a cell contains, None for other text."""
        if not self.pattern.fullmatch(text):
            text = undecorated(text)
            if not self.pattern.fullmatch(text):
                return None
        number = float(text.translate(self._to_python))
        return number if math.isfinite(number) else None

    def is_plain(self, text: str) -> bool:
        """Tell whether pandas reads a number without further help."""
        is_ascii = text.isascii() and "'" not in text
        return is_ascii and self.pattern.fullmatch(text) is not None


POINT, COMMA = Convention(".", ""), Convention(",", "")
CONVENTIONS = (
    POINT,
    Convention(".", ","),
    COMMA,
    Convention(",", "."),
    Convention(".", " "),
    Convention(",", " "),
)


def undecorated(text: str) -> str:
    """Remove currency signs, percent signs and spaces around a number."""
    around = f"[{re.escape(SIGNS)}\\s]*"
    match = re.fullmatch(rf"([+-]?){around}(.*?){around}", text.replace(MINUS, "-"))
    return match[1] + match[2] if match else text


def signs_of(cells: Iterable[str]) -> str:
    """Return the currency and percent signs in some cells."""
    return "".join(sorted(set().union(*cells) & set(SIGNS)))


def is_numeral(text: str) -> bool:
    """Tell whether a cell is a number in any convention."""
    return any(convention.number(text) is not None for convention in CONVENTIONS)


def detect(
    columns: Iterable[Sequence[str]], decimal: str | None, sep: str
) -> Convention:
    """Return the convention in which most cells of columns of numbers are numbers.

    Parameters
    ----------
    columns : iterable of sequence
        Known cells of each column.
    decimal : str or None
        Decimal sign, if it is known.
    sep : str
        Separator of the file. With a semicolon, commas may be decimal signs: of equally
        good conventions one without thousands wins.
    """
    samples = [cells[:: 1 + len(cells) // N_DETECTION] for cells in columns]
    candidates = [c for c in CONVENTIONS if decimal in (None, c.decimal)]
    if sep == ";":
        candidates.sort(key=lambda c: c.thousands != "")

    def count(convention: Convention) -> int:
        return sum(_count_numbers(sample, convention) for sample in samples)

    return max(candidates, key=count)


def share_of_numbers(cells: Sequence[str], convention: Convention) -> float:
    """Return the share of numbers among known cells."""
    return sum(convention.number(c) is not None for c in cells) / max(1, len(cells))


def _count_numbers(cells: Sequence[str], convention: Convention) -> int:
    """Return how many cells are numbers, zero unless nearly all are."""
    share = share_of_numbers(cells, convention)
    return round(share * len(cells)) if share >= SHARE_OF_NUMBERS else 0


def find_ambiguous(
    columns: Iterable[Sequence[str]], convention: Convention, sign: str
) -> str | None:
    """Return a number such as 1.250, if no number tells what the sign is.

    Parameters
    ----------
    columns : iterable of sequence
        Known cells of each column.
    convention : Convention
        How they are read.
    sign : str
        Point or comma, by which the convention separates decimals or thousands.
    """
    either = re.compile(rf"[+-]?[1-9][0-9]{{0,2}}{re.escape(sign)}[0-9]{{3}}")
    example = None
    for cells in columns:
        if share_of_numbers(cells[:N_DETECTION], convention) < SHARE_OF_NUMBERS:
            continue
        for cell in cells:
            if sign not in cell or convention.number(cell) is None:
                continue
            if not either.fullmatch(undecorated(cell)):
                return None
            example = cell
    return example
