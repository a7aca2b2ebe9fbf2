"""Checks of rows and parameters: messages name the argument and the remedy."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_consistent_length
from sklearn.utils.validation import validate_data

from skmdn._data.conversion import (
    as_real,
    check_cells,
    check_finite,
    columns_of,
    open_array,
    too_large,
)
from skmdn._data.groups import as_groups
from skmdn._data.outputs import Outputs, output_names
from skmdn._data.rows import Rows
from skmdn._utils.compat import check_sample_weight
from skmdn.distributed import ALONE, Ranks

# Float32 input is used as it is; everything else is converted to float64.
FLOATS = (np.float64, np.float32)
# Attributes in which scikit-learn's checks record the features.
FEATURE_ATTRIBUTES = ("n_features_in_", "feature_names_in_")


# -- rows ------------------------------------------------------------------------


class CheckedRows(NamedTuple):
    """Rows to fit, their outputs, and the attributes that describe the features."""

    rows: Rows
    outputs: Outputs
    feature_attributes: dict[str, Any]


def check_rows(
    estimator: Any,
    X: Any,
    y: Any,
    sample_weight: Any,
    ranks: Ranks = ALONE,
    outputs: Outputs | None = None,
    groups: Any = None,
) -> CheckedRows:
    """Check rows to fit, and determine their features and outputs.

    The estimator is not changed. Given the outputs of networks to continue, the rows
    must be of the same kind as those the estimator was fitted with.
    """
    if outputs is not None:
        return check_known_rows(estimator, outputs, X, y, sample_weight, groups=groups)
    names = output_names(y)
    if names is not None and len(set(names)) < len(names):
        raise ValueError(
            f"y must have different names of its columns, got {list(names)}. Rename "
            "its columns, or pass an array."
        )
    draft = _draft(estimator)
    # The rows of one rank have a spread together with those of others.
    n_least = 2 if ranks.size == 1 else 1
    # scikit-learn has a message of its own for y=None.
    y = None if y is None else as_targets("y", y)
    X, y = _validated("X", draft, X, y, multi_output=True, ensure_min_samples=n_least)
    weight = as_weights("sample_weight", sample_weight, X)
    codes = _codes_of_groups(estimator, groups, len(y))
    rows = Rows(X, y.reshape(len(y), -1), weight, codes)
    return CheckedRows(rows, Outputs(y.shape[1:], names), _features_of(draft))


def check_known_rows(
    estimator: Any,
    outputs: Outputs,
    X: Any,
    y: Any,
    sample_weight: Any,
    suffix: str = "",
    groups: Any = None,
) -> CheckedRows:
    """Check rows of the kind that an estimator was fitted with.

    The suffix ends the names of the arguments in messages.
    """
    X = _validated(f"X{suffix}", estimator, X, reset=False)
    y = check_targets(estimator, outputs, X, y, suffix)
    weight = as_weights(f"sample_weight{suffix}", sample_weight, X)
    rows = Rows(X, y, weight, _codes_of_groups(estimator, groups, len(y)))
    return CheckedRows(rows, outputs, _features_of(estimator))


def _codes_of_groups(
    estimator: Any, groups: Any, n_rows: int
) -> NDArray[np.uint64] | None:
    """Convert the labels of groups to codes, if given; refuse those of no effect."""
    if groups is None:
        return None
    if not estimator.early_stopping:
        raise ValueError(
            "groups was given, but early_stopping=False holds out no rows. Set "
            "early_stopping=True, or omit groups."
        )
    return as_groups(groups, n_rows)


def check_validation_rows(
    estimator: Any, checked: CheckedRows, X: Any, y: Any, sample_weight: Any
) -> Rows | None:
    """Check validation rows, which must be of the same kind as the rows to fit."""
    if X is None and y is None:
        if sample_weight is not None:
            raise ValueError("sample_weight_val was given without X_val and y_val.")
        return None
    if X is None or y is None:
        raise ValueError(
            "X_val and y_val must be given together, got only "
            f"{'y_val' if X is None else 'X_val'}."
        )
    if not estimator.early_stopping:
        raise ValueError(
            "X_val and y_val were given, but early_stopping=False does not use "
            "them. Set early_stopping=True, or omit them."
        )
    if checked.rows.groups is not None:
        raise ValueError(
            "groups was given together with X_val and y_val, which replace the rows "
            "held out by groups. Omit groups, or omit X_val and y_val."
        )
    draft = _draft(estimator)
    draft.__dict__.update(checked.feature_attributes)
    outputs = checked.outputs
    return check_known_rows(draft, outputs, X, y, sample_weight, "_val").rows


def _draft(estimator: Any) -> Any:
    """Copy an estimator for scikit-learn's checks, which write attributes."""
    draft = object.__new__(type(estimator))
    draft.__dict__.update(vars(estimator))
    for name in FEATURE_ATTRIBUTES:
        draft.__dict__.pop(name, None)
    return draft


def _features_of(estimator: Any) -> dict[str, Any]:
    return {
        name: getattr(estimator, name)
        for name in FEATURE_ATTRIBUTES
        if hasattr(estimator, name)
    }


def check_features(estimator: Any, X: Any) -> Any:
    """Check features of the kind that an estimator was fitted with."""
    return _validated("X", estimator, X, reset=False)


def _validated(name: str, estimator: Any, X: Any, *y: Any, **options: Any) -> Any:
    """Check features, and targets (n, ...), by scikit-learn; convert to floats.

    Raises
    ------
    TypeError, ValueError
        Where a cell of X is no finite number, our error, which names its column.
    """
    X = open_array(name, X)
    check_cells(name, X)
    try:
        return validate_data(
            estimator, X, *y, accept_sparse="csr", dtype=FLOATS, **options
        )
    except OverflowError as exc:
        raise too_large(name) from exc
    except ValueError:
        check_finite(name, columns_of(X))
        raise


def check_targets(
    estimator: Any, outputs: Outputs, X: Any, y: Any, suffix: str = ""
) -> NDArray[np.float64]:
    """Check targets of the outputs that an estimator was fitted with, (n, d)."""
    name = f"y{suffix}"
    y = as_targets(name, outputs.align(name, y))
    check_consistent_length(X, y)
    flat: NDArray[np.float64] = y.reshape(len(y), -1)
    if flat.shape[1] != outputs.size:
        raise ValueError(
            f"{name} has {flat.shape[1]} outputs, but {type(estimator).__name__} was "
            f"fitted with {outputs.size}."
        )
    return flat


def as_targets(name: str, y: Any) -> NDArray[np.float64]:
    """Convert targets to finite float64 of shape (n,) or (n, d)."""
    targets = as_real(name, y)
    if targets.ndim not in (1, 2) or 0 in targets.shape:
        raise ValueError(
            f"{name} must have shape (n_samples,) or (n_samples, n_outputs), "
            f"got {targets.shape}."
        )
    return targets


def as_weights(name: str, sample_weight: Any, X: Any) -> NDArray[np.float64]:
    """Convert weights to float64, one for each row of X."""
    if sample_weight is not None:
        sample_weight = as_real(name, sample_weight)
        if sample_weight.ndim == 0:
            sample_weight = float(sample_weight)
    weight: NDArray[np.float64] = check_sample_weight(
        sample_weight, X, dtype=np.float64
    )
    if (weight < 0).any():
        raise ValueError(f"{name} must not be negative, got {weight.min()}.")
    if not weight.any():
        raise ValueError(f"{name} must not be zero for every row.")
    return weight


def weighted_mean(values: NDArray[np.float64], sample_weight: Any) -> float:
    """Average values (n,); rows of weight zero do not count, even if not finite."""
    weight = as_weights("sample_weight", sample_weight, values)
    counts = weight > 0
    share = weight[counts] / weight.max()  # keeps their sum within range
    return float(np.average(values[counts], weights=share))


# -- parameters --------------------------------------------------------------------


def as_widths(hidden_layer_sizes: Any) -> tuple[int, ...]:
    """Convert `hidden_layer_sizes` to a tuple of positive integers."""
    widths = np.atleast_1d(hidden_layer_sizes).tolist()
    if not all(isinstance(width, int) and width > 0 for width in widths):
        raise ValueError(
            "hidden_layer_sizes must be positive integers, got "
            f"hidden_layer_sizes={hidden_layer_sizes}."
        )
    return tuple(widths)
