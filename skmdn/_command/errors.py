"""Errors of the command, and warnings as lines."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


class CommandError(Exception):
    """Error of the user's input; the message is one line that says what to type."""


def one_line(message: object) -> str:
    """Return a message without line breaks."""
    return " ".join(str(message).split())


def without_breaks(text: str) -> str:
    """Return a text whose line breaks, such as those of a name, are spaces."""
    return " ".join(text.splitlines())


@contextmanager
def warnings_as_notes(notes: list[str]) -> Iterator[None]:
    """Append each warning of a block to the notes, once and in one line."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    notes += dict.fromkeys(f"Warning: {one_line(entry.message)}" for entry in caught)


@contextmanager
def errors_of_the_estimator() -> Iterator[None]:
    """Turn the errors of a fit or a prediction into one line."""
    try:
        yield
    except (ValueError, TypeError) as exc:
        raise CommandError(one_line(exc)) from exc
