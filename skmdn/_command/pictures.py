"""Picture of the densities of held-out rows, and of their calibration."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skmdn import metrics
from skmdn._command.errors import one_line
from skmdn._command.evaluation import Evaluation
from skmdn._command.table import Table
from skmdn.plot import CalibrationDisplay, DensityDisplay

# Rows that are drawn; more would not be seen.
MAX_ROWS = 2000


def draw(table: Table, evaluation: Evaluation, path: Path, seed: int) -> str:
    """Draw held-out rows of each target; return a line that says what was done."""
    try:
        _draw(table, evaluation, path, seed)
    except ImportError:
        return (
            "No picture: matplotlib is not installed. Run python -m pip install "
            "'skmdn[cli]'."
        )
    except ValueError as exc:  # such as of values that no axis has room for
        return f"No picture: {one_line(exc)}"
    return f"Picture of held-out rows: {path}"


def _draw(table: Table, evaluation: Evaluation, path: Path, seed: int) -> None:
    """Draw densities and calibration, a row of axes for each target."""
    from matplotlib.figure import Figure

    n_outputs = len(table.targets)
    figure = Figure(figsize=(11, 4 * n_outputs), layout="constrained")
    axes = figure.subplots(n_outputs, 2, squeeze=False)
    rows, density = evaluation.held_out[0]
    for output, (target, (left, right)) in enumerate(
        zip(table.targets, axes, strict=True)
    ):
        known = np.flatnonzero(np.isfinite(table.points[rows, output]))
        if not len(known):  # of a part of the rows
            continue
        if len(known) > MAX_ROWS:
            known = np.random.default_rng(seed).choice(known, MAX_ROWS, replace=False)
        marginal = density.marginal(output)[known]
        y = table.points[rows[known], output]
        x, label = _position(table.X.iloc[rows[known]])
        DensityDisplay.from_predictions(
            marginal, y, x=x, x_label=label, y_label=_plain(target), ax=left
        )
        _calibration(marginal, y).plot(ax=right)
        right.set(
            xlabel="probability of the central interval",
            ylabel="share of rows in the interval",
        )
        n_known = int(np.isfinite(table.points[:, output]).sum())
        part = f"{len(y)} of {n_known} " if len(y) < n_known else ""
        left.set_title(f"Density of {part}held-out rows")
        right.set_title(f"Calibration of {_plain(target)}, {part}held-out rows")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that the font does not have
        figure.savefig(path, dpi=150)


def _calibration(density: Any, y: NDArray[np.float64]) -> CalibrationDisplay:
    """Return the coverage of central intervals, as in the table of scores.

    The interval of probability c holds y if its level u = cdf(y) has |2 u - 1| <= c.
    """
    nominal = np.linspace(0.05, 0.95, 19)
    distance = np.abs(2 * metrics.pit(y, density).ravel() - 1)
    observed = (distance <= nominal[:, None]).mean(axis=1)
    return CalibrationDisplay(nominal, observed, n_rows=len(y))


def _position(X: Any) -> tuple[Any, str | None]:
    """Return the only feature and its name, if it is a known number in each row."""
    if X.shape[1] > 1 or X.dtypes.iloc[0] != np.float64 or X.isna().any(axis=None):
        return None, None
    return X.iloc[:, 0].to_numpy(), _plain(X.columns[0])


def _plain(name: str) -> str:
    """Return a name of which matplotlib makes no formula."""
    return name.replace("$", r"\$")
