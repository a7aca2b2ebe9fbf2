"""Densities of y as a function of one feature."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skmdn._data.conversion import columns_of, is_frame
from skmdn._data.encoding import categorical_columns
from skmdn.density.transformed import Density
from skmdn.plot._arguments import feature_names, find_feature
from skmdn.plot._axes import Count, Floats
from skmdn.plot._grid import Rows

DECILES = np.arange(1, 10) / 10
# Categories that are shown, the most frequent ones.
MAX_CATEGORIES = 20


class Dependence(NamedTuple):
    """The density of y at the values of one feature."""

    name: str
    values: NDArray[Any]  # (n_values,), rising numbers or categories
    is_categorical: bool
    density: Density  # of a scalar, n_values rows
    deciles: Floats  # (9,) of the feature; none of a categorical one
    left_out: Count  # categories that are too many


class Rowset:
    """Rows of X of which one feature is replaced.

    Parameters
    ----------
    X : frame of pandas or polars, or ndarray of shape (n, n_features)
    categorical_features : None, or sequence of bool, int or str
        Features without an order, besides those of a frame whose dtype is not numeric.
    """

    def __init__(self, X: Any, categorical_features: Any = None) -> None:
        self.X = X if is_frame(X) else np.asarray(X)
        if np.ndim(self.X) != 2 or not len(self.X):
            raise ValueError(
                f"X must be a table with at least one row, got shape {np.shape(X)}."
            )
        self.names = feature_names(self.X)
        self.columns = [np.asarray(column) for _, column in columns_of(self.X)]
        self.is_categorical = [not _is_numeric(column) for column in self.columns]
        for position in categorical_columns(categorical_features, self.X):
            self.is_categorical[position] = True

    def values_of(
        self, position: int, grid_resolution: int, percentiles: tuple[float, float]
    ) -> NDArray[Any]:
        """Return the values of a feature at which the density is shown.

        The most frequent values of a categorical feature, and all between two
        percentiles of one with no more than `grid_resolution`; else an even grid.
        """
        present = self._present(position)
        if self.is_categorical[position]:
            frequent = Counter(present.tolist()).most_common(MAX_CATEGORIES)
            kept = {value for value, _ in frequent}
            ordered = [value for value in _in_order(present.tolist()) if value in kept]
            return np.array(ordered, dtype=object)
        numbers = present.astype(np.float64)
        distinct = np.unique(numbers)
        if len(distinct) < 2:
            raise ValueError(
                f"Feature {self.names[position]!r} has the only value {distinct[0]:g}: "
                "there is nothing to draw the density against."
            )
        ends: Floats = np.quantile(numbers, percentiles)
        inside = distinct[(distinct >= ends[0]) & (distinct <= ends[1])]
        if len(distinct) <= grid_resolution and len(inside) > 1:
            return np.asarray(inside)
        low, high = ends if ends[0] < ends[1] else distinct[[0, -1]]
        return np.linspace(low, high, grid_resolution)

    def deciles_of(self, position: int) -> Floats:
        """Return the deciles of a numeric feature."""
        if self.is_categorical[position]:
            return np.empty(0)
        deciles: Floats = np.quantile(
            self._present(position).astype(np.float64), DECILES
        )
        return deciles

    def count_left_out(self, position: int) -> Count:
        """Count the categories that `values_of` does not return."""
        n = len(set(self._present(position).tolist()))
        is_categorical = self.is_categorical[position]
        n_left_out = max(n - MAX_CATEGORIES, 0) if is_categorical else 0
        return n_left_out, n, "categories are left out"

    def typical_row(self, fixed: Mapping[Any, Any] | None) -> Rowset:
        """Return one row of given values; the others are medians, or most frequent."""
        given = {find_feature(name, self.names): v for name, v in (fixed or {}).items()}
        table = self.take(np.zeros(1, dtype=np.intp))
        for position, name in enumerate(self.names):
            value = given.get(position, self._typical(position))
            if self.is_categorical[position]:
                self._check_category(name, value, self._present(position).tolist())
            table = self._replaced(table, position, np.array([value], dtype=object))
        return self.like(table)

    def like(self, table: Any) -> Rowset:
        """Return other rows of the same features."""
        return Rowset(table, self.is_categorical)

    def take(self, rows: Rows) -> Any:
        """Return some rows of X."""
        if hasattr(self.X, "iloc"):
            return self.X.iloc[rows]
        return self.X[rows]

    def crossed(self, position: int, values: NDArray[Any]) -> Any:
        """Return every row with every value of a feature, the rows of a value adjacent.

        The table has n_values * n rows.
        """
        rows = np.tile(np.arange(len(self.X)), len(values))
        return self._replaced(self.take(rows), position, np.repeat(values, len(self.X)))

    def _replaced(self, table: Any, position: int, values: NDArray[Any]) -> Any:
        """Return a table with other values of a feature, of the same dtype."""
        if not is_frame(table):
            if not self.is_categorical[position] and table.dtype.kind in "iub":
                table = table.astype(np.float64)
            table = table.copy()
            table[:, position] = values
            return table
        numbers = values if self.is_categorical[position] else values.astype(np.float64)
        if hasattr(table, "isetitem"):
            table = table.copy(deep=False)
            column = type(table.iloc[:, position])(numbers, index=table.index)
            if self.is_categorical[position]:
                column = column.astype(table.dtypes.iloc[position])
            table.isetitem(position, column)
            return table
        column = table.get_columns()[position]
        dtype = column.dtype if self.is_categorical[position] else None
        new = type(column)(column.name, numbers.tolist(), dtype=dtype)
        return table.with_columns(new)

    @staticmethod
    def _check_category(name: Any, value: Any, present: list[Any]) -> None:
        """Raise unless a value is missing or is one of the categories."""
        if value is not None and value == value and value not in present:
            raise ValueError(
                f"Feature {name!r} has the categories {_in_order(present)}, got "
                f"{value!r}."
            )

    def _present(self, position: int) -> NDArray[Any]:
        """Return the values of a feature that are not missing."""
        column = self.columns[position]
        present = column[[cell is not None and cell == cell for cell in column]]
        if not len(present):
            raise ValueError(f"Feature {self.names[position]!r} has no values.")
        return present

    def _typical(self, position: int) -> Any:
        """Return the median of a numeric feature, and the most frequent category."""
        present = self._present(position)
        if not self.is_categorical[position]:
            return float(np.median(present.astype(np.float64)))
        counts = Counter(present.tolist())
        return max(_in_order(present.tolist()), key=lambda value: counts[value])


def dependence(
    predict: Callable[[Any], Density],
    rows: Rowset,
    feature: int | str,
    *,
    shown: Rowset,
    grid_resolution: int,
    percentiles: tuple[float, float],
) -> Dependence:
    """Return the mean density of rows, with one feature replaced by each of its values.

    Parameters
    ----------
    predict : callable
        Returns the density of a scalar for rows of features.
    rows : Rowset
        Those over which the density is averaged.
    feature : int or str
    shown : Rowset
        Those whose values the feature takes.
    grid_resolution : int
    percentiles : pair of float
    """
    position = find_feature(feature, shown.names)
    values = shown.values_of(position, grid_resolution, percentiles)
    density = predict(rows.crossed(position, values))
    n = len(rows.X)
    if n > 1:
        # Row i of every value is one density of n_values rows.
        parts = [density[np.arange(i, len(density), n)] for i in range(n)]
        density = type(density).mix(parts)  # type: ignore[arg-type]
    return Dependence(
        str(shown.names[position]),
        values,
        shown.is_categorical[position],
        density,
        shown.deciles_of(position),
        shown.count_left_out(position),
    )


def _is_numeric(column: NDArray[Any]) -> bool:
    """Return whether all known cells are numbers, and no truth values."""
    if column.dtype.kind in "iuf":
        return True
    if column.dtype.kind != "O":
        return False
    cells = [cell for cell in column if cell is not None and cell == cell]
    return all(
        isinstance(cell, (int, float, np.number)) and not isinstance(cell, bool)
        for cell in cells
    )


def _in_order(cells: list[Any]) -> list[Any]:
    """Return distinct values in order, or as they occur if they have none."""
    distinct = list(dict.fromkeys(cells))
    try:
        return sorted(distinct)
    except TypeError:
        return distinct
