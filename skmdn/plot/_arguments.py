"""Arguments that the displays share: tables, features, outputs and styles."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from skmdn._data.conversion import as_real
from skmdn.density import ConditionalDensity
from skmdn.plot._axes import Floats


class Style(NamedTuple):
    """How densities are drawn; see `DensityDisplay.plot`."""

    cmap: Any
    confidences: Sequence[float]  # falling
    log: bool | None
    n_samples: int
    has_marginals: bool


def as_falling(confidence: Any) -> list[float]:
    """Return the probabilities of regions, the largest first.

    Raises
    ------
    ValueError
        If one is not between 0 and 1, or none is given.
    """
    given = np.atleast_1d(np.asarray(confidence, dtype=np.float64))
    if given.ndim != 1 or not given.size or not ((given > 0) & (given < 1)).all():
        raise ValueError(
            "confidence must be a number between 0 and 1, or a sequence of such "
            f"numbers, got {confidence!r}."
        )
    return sorted(set(given.tolist()), reverse=True)


def as_table(name: str, values: ArrayLike, shape: tuple[int, int]) -> Floats:
    """Convert values to a finite array of shape (n, n_columns).

    A single column, or a single row, may come without its axis.
    """
    table = as_real(name, values)
    if table.shape != shape and not (1 in shape and table.shape == (max(shape),)):
        raise ValueError(f"{name} must have the shape {shape}, got {table.shape}.")
    return table.reshape(shape)


def find_feature(feature: int | str, names: list[Any]) -> int:
    """Return the position of a feature given by position or name."""
    if feature in names:
        return names.index(feature)
    if isinstance(feature, (int, np.integer)) and -len(names) <= feature < len(names):
        return int(feature) % len(names)
    raise ValueError(f"Unknown feature {feature!r}; the features are {names}.")


def as_positions(name: Any, column: ArrayLike) -> Floats:
    """Convert a feature to positions on an axis, (n,).

    Raises
    ------
    ValueError
        If it is not numeric, or not known in each row.
    """
    try:
        positions = as_real("X", column, missing=True)
    except ValueError:
        raise ValueError(
            f"Feature {name!r} is not numeric and gives the rows no position. Draw it "
            f"with DependenceDisplay.from_estimator(estimator, X, [{name!r}])."
        ) from None
    n_missing = int(np.isnan(positions).sum())
    if n_missing:
        raise ValueError(
            f"Feature {name!r} is missing in {n_missing} of {len(positions)} rows of "
            "X, which have no position then. Pass X and y without these rows."
        )
    return positions


def feature_names(X: Any) -> list[Any]:
    """Return the names of the columns of X, or numbers where it has none."""
    if hasattr(X, "columns"):
        return list(X.columns)
    return [f"feature {j}" for j in range(np.shape(X)[1])]


def output_labels(
    density: ConditionalDensity, outputs: Iterable[Any]
) -> tuple[str, ...]:
    """Return the names of outputs, or their numbers, or "y" for the only one."""
    positions = density.outputs.positions(outputs)
    if density.output_names is not None:
        return tuple(density.output_names[j] for j in positions)
    if density.n_outputs == 1:
        return ("y",)
    return tuple(f"output {j}" for j in positions)
