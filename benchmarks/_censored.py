"""Tables of censored times, their features, and scores of predicted distributions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from _tables import Array
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

# All times are whole numbers of their unit.
STEP = 1.0
# Lower bound of times for models that take a logarithm.
EARLIEST = 0.5
QUARTILES = (0.25, 0.5, 0.75)
N_TIMES = 50
N_BINS = 10
GROUPS = ("all", "low", "middle", "high")


class Times(NamedTuple):
    """What is known of n times: they lie in [left, right]; right is inf if censored."""

    left: Array
    right: Array

    def __getitem__(self, rows: Any) -> Times:  # type: ignore[override]
        return Times(*(part[rows] for part in tuple(self)))

    @property
    def is_event(self) -> NDArray[np.bool_]:
        return np.asarray(self.left == self.right)

    @property
    def ends(self) -> tuple[Array, Array]:
        """Ends of the cells whose probability is scored: an event has one step."""
        half = np.where(self.is_event, STEP / 2, 0.0)
        return np.maximum(self.left - half, 0.0), self.right + half


@dataclass(frozen=True)
class CensoredTable:
    """Features, times, and whether times are known in intervals."""

    X: pd.DataFrame
    times: Times
    categorical: list[str]
    has_intervals: bool


def load_censored(folder: Path, name: str) -> CensoredTable:
    frame = pd.read_csv(folder / f"{name}.csv")
    meta = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    if has_intervals := "left" in frame:
        times = Times(*(frame[k].to_numpy(np.float64) for k in ("left", "right")))
        frame = frame.drop(columns=["left", "right", "event_type"])
    else:
        left = frame.pop("time").to_numpy(np.float64)
        times = Times(left, np.where(frame.pop("event") == 1, left, np.inf))
    if not (np.mod(times.left, STEP) == 0).all():
        raise ValueError(f"{name} has times that are not multiples of {STEP}")
    return CensoredTable(frame, times, meta["categorical"], has_intervals)


def encode(
    table: CensoredTable, train: NDArray[np.intp], test: NDArray[np.intp], linear: bool
) -> tuple[Array, Array]:
    """Return X of the training and the test rows.

    Categories are one-hot, missing numbers are medians of the training rows with an
    indicator. For a linear model the first level is dropped and numbers are
    standardised.
    """
    numeric = [name for name in table.X if name not in table.categorical]
    steps: list[Any] = [SimpleImputer(strategy="median", add_indicator=True)]
    steps += [StandardScaler()] if linear else []
    levels = OneHotEncoder(
        drop="first" if linear else None, sparse_output=False, handle_unknown="ignore"
    )
    encoder = ColumnTransformer(
        [
            ("numeric", make_pipeline(*steps), numeric),
            ("levels", levels, table.categorical),
        ]
    )
    X_train = encoder.fit_transform(table.X.iloc[train])
    X_test = encoder.transform(table.X.iloc[test])
    varies = X_train.std(axis=0) > 0
    return X_train[:, varies], X_test[:, varies]


def structured(times: Times) -> NDArray[np.void]:
    """Return the structured array of scikit-survival."""
    columns = [("event", bool), ("time", float)]
    pairs = zip(times.is_event, np.maximum(times.left, EARLIEST), strict=True)
    return np.array(list(pairs), dtype=columns)


# -- times of evaluation -------------------------------------------------------------


def brier_times(train: Times, test: Times) -> Array:
    """Return times from the 10 % to the 90 % quantile of the events of training rows.

    They end before the last time of the training rows and of the test rows, after which
    nothing is known.
    """
    low, high = np.quantile(train.left[train.is_event], [0.1, 0.9])
    high = min(high, train.left.max() - STEP, test.left.max() - STEP)
    return np.linspace(low, high, N_TIMES)


def quartiles(train: Times) -> Array:
    """Return the quartiles of the times of events in training rows."""
    return np.quantile(train.left[train.is_event], QUARTILES)


# -- scores --------------------------------------------------------------------------


def brier_score(train: Times, test: Times, survival: Array, at: Array) -> float:
    """Integrate the Brier score over times, weighted by the censoring distribution.

    Parameters
    ----------
    survival : ndarray of shape (n_test, m)
        Predicted probability to survive each time.
    at : ndarray of shape (m,)
    """
    from sksurv.metrics import integrated_brier_score

    # No weight is known beyond the last time of the training rows.
    last = train.left.max()
    is_later = test.left > last
    shown = Times(np.minimum(test.left, last), np.where(is_later, np.inf, test.right))
    score = integrated_brier_score(structured(train), structured(shown), survival, at)
    return float(score)


def calibration(test: Times, survival: Array, at: Array) -> dict[str, float]:
    """Compare predicted event probabilities with those of Kaplan and Meier.

    Returns
    -------
    scores : dict of float
        ``predicted_{q}_{group}`` and ``observed_{q}_{group}`` for each time q of `at`,
        over all test rows and over thirds of the predicted probability.
    """
    from sksurv.nonparametric import kaplan_meier_estimator

    scores = {}
    for q, (time, column) in enumerate(zip(at, 1 - survival.T, strict=True), start=1):
        thirds = np.array_split(np.argsort(column, kind="stable"), 3)
        for group, rows in zip(GROUPS, [np.arange(len(column)), *thirds], strict=True):
            known = structured(test[rows])
            steps, curve = kaplan_meier_estimator(known["event"], known["time"])
            position = np.searchsorted(steps, time, side="right") - 1
            observed = 1 - curve[position] if position >= 0 else 0.0
            scores[f"predicted_{q}_{group}"] = float(column[rows].mean())
            scores[f"observed_{q}_{group}"] = float(observed)
    return scores


def pit_shares(low: Array, high: Array) -> Array:
    """Return the share of each tenth of [0, 1] in the probability integral transform.

    A row whose transform lies in [low, high] counts for every tenth by its overlap
    (D-calibration, Haider et al. 2020). Shares of a calibrated model are equal.
    """
    edges = np.linspace(0, 1, N_BINS + 1)
    width = np.maximum(high - low, 1e-12)[:, None]
    low = low[:, None]
    reached = np.clip((edges - low) / width, 0.0, 1.0)
    reached[:, -1], reached[:, 0] = 1.0, 0.0
    return np.asarray(np.diff(reached, axis=1).mean(axis=0))
