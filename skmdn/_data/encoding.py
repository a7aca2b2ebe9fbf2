"""Columns of X as numbers: codes of categories, and indicators of missing values.

Rows go through `with_codes` before scikit-learn checks them, and through
`FeatureEncoder.encode` after it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from skmdn._data.conversion import MISSING, columns_of, is_frame, kind_of, with_column
from skmdn._data.robust import MAX_ROWS, sampled_columns, weighted_quantiles
from skmdn.distributed import ALONE, Ranks

# A category as it is stored: a number, or text that stands for anything else.
Level = int | float | str
# Levels of each categorical column by their code, None for missing.
Coded = Mapping[int, Sequence[Level | None]]
# Code of a level that the rows of the fit did not have.
UNKNOWN = -1
HALF = np.array([0.5])


@dataclass(frozen=True)
class FeatureEncoder:
    """Turn rows of X into numbers without missing values.

    A categorical column becomes codes: positions in its sorted levels, with one more
    for missing values, and -1 for a level that the fit did not see. In a numeric column
    the median stands for missing values; if the fit saw any there, a further column at
    the end is 1 where the value is missing.

    Parameters
    ----------
    levels : mapping
        Sorted levels of each categorical column.
    median : ndarray of shape (n_features,)
        Of the known values of each numeric column.
    with_missing : sequence of int
        Numeric columns in which the fit saw missing values.
    """

    levels: Mapping[int, Sequence[Level]]
    median: NDArray[np.float64]
    with_missing: Sequence[int] = ()

    @classmethod
    def fit(
        cls, X: Any, coded: Coded, weight: NDArray[np.float64], ranks: Ranks = ALONE
    ) -> FeatureEncoder:
        """Find the levels, the medians and the columns with missing values.

        Parameters
        ----------
        X : ndarray or CSR matrix of shape (n, n_features)
            Rows with the codes of `with_codes`, and NaN where values are missing.
        coded : mapping
            Levels of these codes.
        weight : ndarray of shape (n,)
            Rows of weight zero do not count.
        ranks : Ranks

        Raises
        ------
        ValueError
            If ranks have other columns, or other categorical ones.
        """
        _check_same_columns(X, coded, ranks)
        median = np.zeros(X.shape[1])
        if sparse.issparse(X):  # every number is known
            return cls({}, median)
        used = np.flatnonzero(weight > 0)
        levels = _levels_of_all(
            {j: _levels_in(X[used, j], levels) for j, levels in coded.items()}, ranks
        )
        is_missing = ranks.max(np.isnan(X[used]).any(axis=0)) > 0
        columns = sampled_columns(X, weight[used], used, ranks, MAX_ROWS)
        for j, (values, share) in enumerate(columns):
            known = ~np.isnan(values)
            if j not in levels and known.any():
                median[j] = weighted_quantiles(values[known], share[known], HALF)[0]
        with_missing = np.flatnonzero(is_missing).tolist()
        return cls(levels, median, [j for j in with_missing if j not in levels])

    @property
    def is_identity(self) -> bool:
        """Whether known numbers are all that it encodes."""
        return not (self.levels or self.with_missing)

    @property
    def n_features(self) -> int:
        """Number of columns of X."""
        return len(self.median)

    @property
    def numbers(self) -> list[int]:
        """Numeric columns of X."""
        return [j for j in range(self.n_features) if j not in self.levels]

    def encode(self, X: Any, coded: Coded) -> Any:
        """Encode rows, (n, n_features) -> (n, n_features + number of indicators).

        Parameters
        ----------
        X : ndarray or CSR matrix of shape (n, n_features)
            As for `fit`.
        coded : mapping
            Levels of the codes in X.
        """
        if sparse.issparse(X):
            return X
        is_missing = np.isnan(X)
        if self.is_identity and not is_missing.any():
            return X
        indicators = is_missing[:, list(self.with_missing)]
        encoded = np.concatenate([X, indicators], axis=1, dtype=X.dtype)
        for j, levels in self.levels.items():
            code_of = {level: code for code, level in enumerate([*levels, None])}
            codes = [code_of.get(level, UNKNOWN) for level in coded[j]]
            encoded[:, j] = np.array(codes)[X[:, j].astype(np.intp)]
        rows, columns = np.nonzero(is_missing)
        encoded[rows, columns] = self.median[columns]
        return encoded

    def strangers(self, X: Any, coded: Coded) -> dict[str, list[int]]:
        """Find columns of which the fit has learned nothing, by a message on them.

        Parameters
        ----------
        X, coded : ndarray or CSR matrix, and mapping
            As for `encode`.
        """
        if sparse.issparse(X):
            return {}
        new_missing = set(np.flatnonzero(np.isnan(X).any(axis=0)).tolist())
        of_levels = [
            j
            for j, levels in self.levels.items()
            if (given := set(coded[j]) - {None}) and not given & set(levels)
        ]
        found = {
            "Values are missing in {columns}, but none were in the fit: its median "
            "replaces them.": sorted(new_missing - {*self.with_missing}),
            "None of the categories in {columns} occurred in the fit: the prediction "
            "is that of an unknown category. Check their spelling.": of_levels,
        }
        return {what: columns for what, columns in found.items() if columns}

    def to_state(self) -> dict[str, Any]:
        """Convert to arrays and builtins."""
        return {
            "levels": {str(j): list(levels) for j, levels in self.levels.items()},
            "median": self.median,
            "with_missing": list(self.with_missing),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> FeatureEncoder:
        """Rebuild an encoder."""
        levels = {int(j): list(levels) for j, levels in state["levels"].items()}
        return cls(levels, np.array(state["median"]), list(state["with_missing"]))


def _check_same_columns(X: Any, coded: Coded, ranks: Ranks) -> None:
    """Refuse ranks with other columns, before they exchange anything column by column.

    Raises
    ------
    ValueError
        On all ranks.
    """
    kind = "sparse" if sparse.issparse(X) else "dense"
    ours = f"{X.shape[1]} {kind} features, of which {sorted(coded)} are categorical"
    theirs = [str(part) for part in ranks.all_gather(np.array(ours))]
    for rank, found in enumerate(theirs):
        if found != theirs[0]:
            raise ValueError(
                f"All ranks must fit the same model, but those of ranks 0 and {rank} "
                f"differ in features: rank 0 has {theirs[0]}; rank {rank} has {found}."
            )


def _levels_in(codes: NDArray[Any], levels: Sequence[Level | None]) -> list[Level]:
    """Return the known levels of some codes."""
    present = [levels[code] for code in np.unique(codes).astype(np.intp)]
    return [level for level in present if level is not None]


def _levels_of_all(
    levels: Mapping[int, Sequence[Level]], ranks: Ranks
) -> dict[int, list[Level]]:
    """Return the sorted levels of all ranks, of the same columns."""
    if ranks.size == 1:
        parts = [levels]
    else:
        ours = np.array(json.dumps(list(levels.items())))
        parts = [dict(json.loads(str(part))) for part in ranks.all_gather(ours)]
    every = {j: {level for part in parts for level in part[j]} for j in parts[0]}
    return {j: sorted(each, key=_rank_of_level) for j, each in every.items()}


def _rank_of_level(level: Level) -> tuple[bool, Level]:
    """Return a key by which numbers come before text."""
    return isinstance(level, str), level


# -- categorical columns ---------------------------------------------------------------


def categorical_columns(categorical_features: Any, X: Any) -> list[int]:
    """Find the columns that `categorical_features` names.

    Parameters
    ----------
    categorical_features : "from_dtype", array-like or None
        As in :class:`sklearn.ensemble.HistGradientBoostingRegressor`: those of a frame
        that have a categorical dtype; or names, positions or a mask of columns.
    X : frame, ndarray or sparse matrix

    Raises
    ------
    ValueError
        If there are no such columns.
    """
    if categorical_features is None:
        return []
    labels = list(X.columns) if is_frame(X) else None
    if isinstance(categorical_features, str):
        if labels is None:
            return []
        return [j for j, column in enumerate(columns_of(X)) if _is_category(column[1])]
    asked = _asked(categorical_features)
    is_table = labels is not None or sparse.issparse(X) or np.ndim(X) == 2
    n_columns = X.shape[1] if is_table else 0
    columns = _positions(asked, labels, n_columns)
    if columns and sparse.issparse(X):
        raise ValueError(
            f"categorical_features={categorical_features!r} needs dense X, got a "
            "sparse matrix. Convert it with toarray(), or encode the categories before."
        )
    return columns


def _asked(categorical_features: Any) -> NDArray[Any]:
    """Convert to an array of one axis; a tuple is one name, of several levels."""
    asked = np.asarray(categorical_features)
    if asked.ndim != 2 or not all(isinstance(n, tuple) for n in categorical_features):
        return asked
    names = np.empty(len(asked), dtype=object)
    names[:] = list(categorical_features)
    return names


def _positions(
    asked: NDArray[Any], labels: Sequence[Any] | None, n_columns: int
) -> list[int]:
    """Convert names, positions or a mask to sorted positions."""
    wrong: Any = None
    if asked.dtype.kind == "b":
        if asked.shape == (n_columns,):
            return list(map(int, np.flatnonzero(asked)))
        wrong = f"a mask of shape {asked.shape}"
    elif asked.dtype.kind in "iu" or asked.size == 0:
        if np.isin(asked, np.arange(n_columns)).all():
            return list(map(int, np.unique(asked)))
        wrong = f"positions {asked.tolist()}"
    elif labels is None:
        raise ValueError(
            f"categorical_features={asked.tolist()} names columns, but X has no column "
            "names. Pass a data frame, or positions."
        )
    else:
        names = asked.tolist()
        if all(name in labels for name in names):
            return sorted({labels.index(name) for name in names})
        wrong = f"names {names}, and the columns of X are {list(labels)}"
    raise ValueError(
        "categorical_features must be names, positions or a mask of the "
        f"{n_columns} columns of X, got {wrong}."
    )


def _is_category(column: Any) -> bool:
    """Whether a column of a frame has a categorical dtype, of pandas or polars."""
    return type(column.dtype).__name__ in ("CategoricalDtype", "Categorical", "Enum")


# -- codes -----------------------------------------------------------------------------


def with_codes(X: Any, columns: Sequence[int]) -> tuple[Any, Coded]:
    """Replace categorical columns by codes, and return the levels of these codes.

    Parameters
    ----------
    X : frame, ndarray or sparse matrix
    columns : sequence of int
        Their positions; X may have fewer columns, which is refused later.
    """
    if not len(columns) or not (is_frame(X) or np.ndim(X) == 2):
        return X, {}
    columns = [j for j in columns if j < X.shape[1]]
    coded: dict[int, Sequence[Level | None]] = {}
    if is_frame(X):
        given = [column for _, column in columns_of(X)]
        for j in columns:
            codes, coded[j] = _codes(given[j])
            X = with_column(X, j, codes)
        return X, coded
    X = X if sparse.issparse(X) else np.asarray(X)  # a table of PyArrow, for example
    numbers = X.dtype if X.dtype.kind == "f" else object
    table = X.astype(numbers)
    for j in columns:
        table[:, j], coded[j] = _codes(X[:, j])
    return table, coded


def _codes(column: Any) -> tuple[NDArray[np.float64], list[Level | None]]:
    """Return the codes of the cells of a column, and their levels."""
    if hasattr(column, "cat") and hasattr(column.cat, "codes"):  # of pandas
        codes = np.asarray(column.cat.codes, dtype=np.float64)
        levels = [_as_level(category) for category in column.cat.categories]
        codes[codes < 0] = len(levels)
        return codes, [*levels, None]
    values = np.asarray(column)
    if values.dtype.kind in "biuf":
        distinct, positions = np.unique(values, return_inverse=True)
        return positions.astype(np.float64), list(map(_as_level, distinct))
    if values.dtype.kind in "mM":  # nanoseconds would become integers
        values = values.astype(f"{values.dtype.kind}8[us]")
    code_of: dict[Level | None, int] = {}
    cells = map(_as_level, values.tolist())
    found = [code_of.setdefault(level, len(code_of)) for level in cells]
    return np.array(found, dtype=np.float64), list(code_of)


def _as_level(cell: Any) -> Level | None:
    """Return the number or the text that stands for a category, None for missing."""
    if isinstance(cell, np.generic):
        cell = cell.item()
    if kind_of(type(cell)) is MISSING or cell != cell:
        return None
    if isinstance(cell, timedelta):  # that of pandas has another text
        cell = timedelta(cell.days, cell.seconds, cell.microseconds)
    return cell if isinstance(cell, (int, float, str)) else str(cell)
