"""Scores of the estimator on held-out rows, and of the baselines in five folds."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold, KFold

from skmdn import metrics
from skmdn._command.baselines import BASELINES
from skmdn._command.errors import (
    errors_of_the_estimator,
    one_line,
    warnings_as_notes,
)
from skmdn._command.table import MIN_ROWS, Table
from skmdn._regressor import MDNRegressor
from skmdn.density.transformed import Density, TransformedDensity

CONFIDENCE = 0.9
N_FOLDS = 5
Rows = NDArray[np.intp]


@dataclass
class Evaluation:
    """A fit to all rows, and what is known of it on held-out rows.

    Parameters
    ----------
    estimator : MDNRegressor
    held_out : list of (rows, density)
        Densities of rows by networks that did not see them, in parts.
    rows : ndarray of shape (m,)
        Rows of which all targets are known.
    scores : dict of ndarray (m, 3)
        Of each model: log score, CRPS or energy score, and whether the region of 90 %
        holds the targets. Empty if too few rows have all targets.
    """

    estimator: MDNRegressor
    held_out: list[tuple[Rows, Density]]
    rows: Rows
    scores: dict[str, NDArray[np.float64]]


def fit(table: Table, seed: int) -> MDNRegressor:
    """Fit the estimator to all rows; notes are added to those of the table."""
    with errors_of_the_estimator(), warnings_as_notes(table.notes):
        estimator = MDNRegressor(random_state=seed, target_support=table.target_support)
        return estimator.fit(table.X, table.y, groups=table.groups)


def evaluate(estimator: MDNRegressor, table: Table, seed: int) -> Evaluation:
    """Score a fitted estimator and the baselines.

    Notes are added to those of the table. A model without scores is left out with one.
    """
    with errors_of_the_estimator():
        held_out = _held_out(estimator, table, seed)
    rows = np.flatnonzero(np.isfinite(table.points).all(axis=1))
    if len(rows) < MIN_ROWS:
        table.notes.append(
            f"Without scores: all targets are known in {len(rows)} rows only."
        )
        return Evaluation(estimator, held_out, rows, {})
    if len(rows) < len(table.points):
        table.notes.append(
            f"The scores are of the {len(rows)} rows of which all targets are known."
        )
    parts: dict[str, Any] = {"MDNRegressor": held_out}
    for name in BASELINES:
        parts[name] = _baseline_parts(name, table, rows, seed)
    scores: dict[str, NDArray[np.float64]] = {}
    for name, densities in parts.items():
        try:
            scores[name] = _scores_of_parts(table.points, densities)[rows]
        except ValueError as exc:  # one model must not cost the scores of the others
            table.notes.append(f"{name} has no scores: {one_line(exc)}")
    return Evaluation(estimator, held_out, rows, scores)


def _held_out(
    estimator: MDNRegressor, table: Table, seed: int
) -> list[tuple[Rows, Density]]:
    """Return the densities of held-out rows."""
    every_row = np.arange(len(table.X))
    try:
        return [(every_row, estimator.out_of_fold_density(table.X))]
    except ValueError:
        table.notes.append(
            "The fit holds out no folds of so few rows or groups: its scores are those "
            "of further fits."
        )
    parts = []
    for train, test in _folds(table, every_row, seed):
        known = table.groups is not None and len(set(table.groups[train])) > 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = MDNRegressor(
                random_state=seed, target_support=table.target_support
            ).fit(
                table.X.iloc[train],
                table.y.iloc[train],
                groups=table.groups[train]
                if known and table.groups is not None
                else None,
            )
            parts.append((test, model.predict_density(table.X.iloc[test])))
    return parts


def _baseline_parts(
    name: str, table: Table, rows: Rows, seed: int
) -> Iterator[tuple[Rows, Density]]:
    """Yield the densities of a baseline for the rows of each fold.

    With bounds the baseline is one of the mapped targets, such as their logarithm.
    """
    y = table.points if table.support is None else table.support.to_latent(table.points)
    for train, test in _folds(table, rows, seed):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            predict = BASELINES[name](table.X.iloc[train], y[train], seed)
            density = predict(table.X.iloc[test])
        if table.support is None:
            yield test, density
        else:
            yield test, TransformedDensity(density, table.target_support)


def _folds(table: Table, rows: Rows, seed: int) -> Iterator[tuple[Rows, Rows]]:
    """Yield the training and the test rows of each fold; groups stay together."""
    groups = None if table.groups is None else table.groups[rows]
    if groups is None or len(set(groups)) < 2:
        splits = KFold(N_FOLDS, shuffle=True, random_state=seed).split(rows)
    else:
        n_folds = min(N_FOLDS, len(set(groups)))
        splits = GroupKFold(n_folds).split(rows, groups=groups)
    for train, test in splits:
        yield rows[train], rows[test]


def _scores_of_parts(y: NDArray[np.float64], parts: Any) -> NDArray[np.float64]:
    """Return the scores of rows (n, 3), NaN where a target is unknown."""
    scores = np.full((len(y), 3), np.nan)
    for rows, density in parts:
        is_known = np.isfinite(y[rows]).all(axis=1)
        if is_known.any():
            known = np.flatnonzero(is_known)
            scores[rows[known]] = _scores(y[rows[known]], density[known])
    return scores


def _scores(y: NDArray[np.float64], density: Density) -> NDArray[np.float64]:
    """Return log score, CRPS or energy score, and coverage of each row, (n, 3)."""
    has_one_output = y.shape[1] == 1
    distance = metrics.crps if has_one_output else metrics.energy_score
    region = "interval" if has_one_output else "hdr"
    return np.column_stack(
        [
            metrics.log_score(y, density),
            distance(y, density),
            metrics.coverage(y, density, CONFIDENCE, region=region),
        ]
    )
