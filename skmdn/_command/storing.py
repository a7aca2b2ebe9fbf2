"""Save models with skops, and open them without trusting anything else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skmdn._command.errors import CommandError, one_line, warnings_as_notes
from skmdn._regressor import MDNRegressor

# Attribute of saved estimators.
DATE_FORMATS = "date_formats_"
TRUSTED = f"{MDNRegressor.__module__}.{MDNRegressor.__name__}"


def skops_io() -> Any:
    """Import skops.io.

    Raises
    ------
    CommandError
        If it is not installed.
    """
    try:
        import skops.io
    except ImportError:
        raise CommandError(
            "Models need skops. Run python -m pip install 'skmdn[cli]'."
        ) from None
    return skops.io


def save(estimator: MDNRegressor, date_formats: Mapping[str, str], path: Path) -> None:
    """Write a fitted estimator, with the format of each column of dates of its file."""
    if date_formats:
        setattr(estimator, DATE_FORMATS, dict(date_formats))
    skops_io().dump(estimator, path)


def date_formats_of(estimator: MDNRegressor) -> dict[str, str]:
    """Return the formats that a model was saved with; releases before kept none."""
    return dict(getattr(estimator, DATE_FORMATS, {}))


def load(path: Path, notes: list[str]) -> MDNRegressor:
    """Open a fitted estimator.

    Raises
    ------
    CommandError
        If the file is not a model of skmdn, is damaged, or has types that this
        function does not trust.
    """
    io = skops_io()
    try:
        others = set(io.get_untrusted_types(file=path)) - {TRUSTED}
        if others:
            raise CommandError(
                f"{path} has types that are not trusted: {', '.join(sorted(others))}. "
                "Pass a model that skmdn --save wrote."
            )
        with warnings_as_notes(notes):
            estimator = io.load(path, trusted=[TRUSTED])
    except CommandError:
        raise
    except Exception as exc:  # skops raises what zip files, JSON and arrays raise
        raise CommandError(
            f"{path} cannot be opened: {one_line(exc).rstrip('.')}. Pass a model that "
            "skmdn --save wrote."
        ) from exc
    if not isinstance(estimator, MDNRegressor) or not hasattr(
        estimator, "feature_names_in_"
    ):
        raise CommandError(
            f"{path} is no MDNRegressor that was fitted to named columns. Pass a model "
            "that skmdn --save wrote."
        )
    return estimator
