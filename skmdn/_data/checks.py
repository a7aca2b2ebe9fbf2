"""Checks of rows and parameters: messages name the argument and the remedy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import assert_all_finite, check_array
from sklearn.utils.validation import validate_data

from skmdn._data.outputs import Outputs
from skmdn._data.rows import Rows
from skmdn._utils.compat import check_sample_weight
from skmdn._utils.warn import Notice
from skmdn.distributed import ALONE, Ranks

# Float32 input is used as it is; everything else is converted to float64.
FLOATS = (np.float64, np.float32)
# Attributes in which scikit-learn's checks record the features.
FEATURE_ATTRIBUTES = ("n_features_in_", "feature_names_in_")
# With this many rows per distinct value, a density can place spikes on the values.
ROWS_PER_VALUE = 20


# -- rows ------------------------------------------------------------------------


class CheckedRows(NamedTuple):
    """Rows to fit, their outputs, and the attributes that describe the features."""

    rows: Rows
    outputs: Outputs
    feature_attributes: dict[str, Any]


def check_rows(
    estimator: Any, X: Any, y: Any, sample_weight: Any, ranks: Ranks = ALONE
) -> CheckedRows:
    """Check rows to fit, and determine their features and outputs.

    The estimator is not changed.
    """
    names = output_names(y)
    check_unmasked("y", y)
    draft = _draft(estimator)
    with naming_bad_columns(X):
        X, y = validate_data(
            draft,
            X,
            y,
            multi_output=True,
            accept_sparse="csr",
            dtype=FLOATS,
            # The rows of one rank have a spread together with those of others.
            ensure_min_samples=2 if ranks.size == 1 else 1,
        )
    y = as_targets(y)
    rows = Rows(X, y.reshape(len(y), -1), as_weights(sample_weight, X))
    return CheckedRows(rows, Outputs(y.shape[1:], names), _features_of(draft))


def check_known_rows(
    estimator: Any, outputs: Outputs, X: Any, y: Any, sample_weight: Any
) -> CheckedRows:
    """Check rows of the kind that an estimator was fitted with."""
    check_unmasked("y", y)
    with naming_bad_columns(X):
        X, y = validate_data(
            estimator,
            X,
            y,
            multi_output=True,
            accept_sparse="csr",
            dtype=FLOATS,
            reset=False,
        )
    y = check_targets(estimator, outputs, y)
    rows = Rows(X, y, as_weights(sample_weight, X))
    return CheckedRows(rows, outputs, _features_of(estimator))


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
    draft = _draft(estimator)
    draft.__dict__.update(checked.feature_attributes)
    return check_known_rows(draft, checked.outputs, X, y, sample_weight).rows


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
    with naming_bad_columns(X):
        return validate_data(
            estimator, X, reset=False, accept_sparse="csr", dtype=FLOATS
        )


def check_targets(estimator: Any, outputs: Outputs, y: Any) -> NDArray[np.float64]:
    """Check targets of the outputs that an estimator was fitted with, (n, d)."""
    check_unmasked("y", y)
    y = as_targets(check_array(y, ensure_2d=False, dtype=None, input_name="y"))
    flat: NDArray[np.float64] = y.reshape(len(y), -1)
    if flat.shape[1] != outputs.size:
        raise ValueError(
            f"y has {flat.shape[1]} outputs, but {type(estimator).__name__} was fitted "
            f"with {outputs.size}."
        )
    return flat


def check_unmasked(name: str, array: Any) -> None:
    """Refuse masks, which NumPy drops on conversion."""
    if np.ma.is_masked(array):
        raise ValueError(
            f"{name} is a masked array with masked entries. Fill them, or drop their "
            "rows."
        )


@contextmanager
def naming_bad_columns(X: Any) -> Iterator[None]:
    """Refuse dates in X, and name the column that cannot be converted to floats.

    Raises
    ------
    ValueError
        Before the conversion of X, or in place of its error.
    """
    check_unmasked("X", X)
    is_frame = hasattr(X, "columns") and hasattr(X, "dtypes")
    dtypes = (
        zip(X.columns, X.dtypes, strict=True)
        if is_frame
        else [(None, getattr(X, "dtype", None))]
    )
    for name, dtype in dtypes:
        if _is_time(dtype):
            raise ValueError(
                f"X must hold numbers, got dates or times{_in_column(name)}. Convert "
                "them to numbers in a unit of your choice."
            )
    try:
        yield
    except ValueError as exc:
        if "could not convert string" not in str(exc):
            raise
        texts = [name for name in X.columns if _is_text(X[name])] if is_frame else []
        raise ValueError(
            f"X must hold numbers, but {exc}{_in_column(*texts[:1])}. Encode "
            "categories as numbers, for example with a OneHotEncoder in a Pipeline."
        ) from exc


def _in_column(name: Any = None) -> str:
    return "" if name is None else f" in column {name!r}"


def _is_time(dtype: Any) -> bool:
    """Return whether a dtype of NumPy, pandas or polars is one of dates or times."""
    if hasattr(dtype, "is_temporal"):
        return bool(dtype.is_temporal())
    return getattr(dtype, "kind", None) in ("m", "M")


def _is_text(column: Any) -> bool:
    try:
        np.asarray(column).astype(np.float64)
    except ValueError:
        return True
    return False


def as_targets(y: Any) -> NDArray[np.float64]:
    """Convert targets to finite float64 of shape (n,) or (n, d)."""
    y = np.asarray(y)
    if np.iscomplexobj(y):
        raise ValueError("Complex data not supported: y must be real.")
    if _is_time(y.dtype):
        raise ValueError(
            f"y must hold numbers, got dtype {y.dtype}. Divide times by a unit."
        )
    try:
        targets: NDArray[np.float64] = y.astype(np.float64)
    except (TypeError, ValueError) as exc:
        raise ValueError(
            f"y must hold numbers, got dtype {y.dtype}. For labels use a classifier."
        ) from exc
    # An array of objects cannot be checked before its conversion.
    assert_all_finite(targets, input_name="y")
    if targets.ndim not in (1, 2) or 0 in targets.shape:
        raise ValueError(
            "y must have shape (n_samples,) or (n_samples, n_outputs), "
            f"got {targets.shape}."
        )
    return targets


def as_weights(sample_weight: Any, X: Any) -> NDArray[np.float64]:
    """Convert weights to float64, one for each row of X."""
    check_unmasked("sample_weight", sample_weight)
    weight: NDArray[np.float64] = check_sample_weight(
        sample_weight, X, dtype=np.float64
    )
    if (weight < 0).any():
        raise ValueError(f"sample_weight must not be negative, got {weight.min()}.")
    if not weight.any():
        raise ValueError("sample_weight must not be zero for every row.")
    return weight


def weighted_mean(values: NDArray[np.float64], sample_weight: Any) -> float:
    """Average values (n,); rows of weight zero do not count, even if not finite."""
    weight = as_weights(sample_weight, values)
    counts = weight > 0
    share = weight[counts] / weight.max()  # keeps their sum within range
    return float(np.average(values[counts], weights=share))


def output_names(y: Any) -> tuple[str, ...] | None:
    """Return the names of the outputs if y is a data frame or a named series."""
    names = getattr(y, "columns", None)
    if names is None:
        names = [getattr(y, "name", None)]
    names = list(names)
    return tuple(names) if all(isinstance(name, str) for name in names) else None


def notices_of_ties(
    y: NDArray[np.float64], scale: NDArray[np.float64], reg_covar: float, ranks: Ranks
) -> list[Notice]:
    """List the outputs on whose values a density can place spikes.

    An output is not listed if `reg_covar`, in units of the squared scale (d,), is as
    wide as the steps between its values.
    """
    n_rows = int(ranks.sum(len(y)))
    notices = []
    for j, column in enumerate(y.T):
        values = np.unique(column)
        if n_rows < ROWS_PER_VALUE * int(ranks.max(len(values))):
            continue
        values = np.unique(np.concatenate(ranks.all_gather(values)))
        if n_rows < ROWS_PER_VALUE * len(values) or len(values) == 1:
            continue
        step = np.diff(values).min()
        floor = step**2 / 12 / scale[j] ** 2
        if reg_covar >= float(f"{floor:.2g}"):  # rounded as in the message
            continue
        output = "" if y.shape[1] == 1 else f" in output {j}"
        notices.append(
            Notice(
                f"y has only {len(values)} distinct values in {n_rows} rows"
                f"{output}: a density can place spikes on them, and its "
                "log-likelihood is then not meaningful. Judge it by the CRPS or by "
                "the probability of an interval around each value, add uniform noise "
                f"of width {step:.3g}, or set reg_covar={floor:.2g}, the variance of "
                "such noise."
            )
        )
    return notices


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
