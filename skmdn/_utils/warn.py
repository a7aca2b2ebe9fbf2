"""Warnings that point to the caller's line."""

from __future__ import annotations

import sys
import warnings
from types import FrameType
from typing import NamedTuple

# Code of these packages is never the caller: public methods are also called by the
# decorators, pipelines and searches of the others.
LIBRARIES = {"skmdn", "sklearn", "joblib", "torch", "skops"}
LIBRARIES |= {"contextlib", "copy", "functools", "pickle"}


class Notice(NamedTuple):
    """Message and category of a warning that is issued later."""

    message: str
    category: type[Warning] = UserWarning


def warn(message: str | Warning, category: type[Warning] = UserWarning) -> None:
    """Issue a warning that reports the first line outside of the libraries."""
    warnings.warn(message, category, stacklevel=_caller_level())


def _caller_level() -> int:
    """Return the `stacklevel` of the caller for a `warnings.warn` in `warn`."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and _is_library(frame):
        frame, level = frame.f_back, level + 1
    return level


def _is_library(frame: FrameType) -> bool:
    module = str(frame.f_globals.get("__name__", ""))
    return module.partition(".")[0] in LIBRARIES
