"""Checks of what comes in, with messages that name the argument and the remedy."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import assert_all_finite
from sklearn.utils.validation import _check_sample_weight

from skmdn.distributed import Ranks

__all__ = [
    "as_finite",
    "as_targets",
    "as_weights",
    "as_widths",
    "check_confidence",
    "check_factors",
    "check_mixture_weights",
    "check_output_names",
    "check_shapes",
    "check_unmasked",
    "naming_what_is_no_number",
    "output_names",
    "warn_of_ties",
    "weighted_mean",
]

WEIGHT_SUM_ATOL = 1e-6
# So many rows for each distinct value invite spikes on the values.
ROWS_PER_VALUE = 20


# -- arguments of the estimator --------------------------------------------------


def check_unmasked(name: str, array: Any) -> None:
    """Refuse masks, which NumPy drops on conversion."""
    if np.ma.is_masked(array):
        raise ValueError(
            f"{name} is a masked array with masked entries. Fill them, or drop their "
            "rows."
        )


@contextmanager
def naming_what_is_no_number(X: Any) -> Iterator[None]:
    """Refuse dates in X, and say which column holds what is no number at all.

    Raises
    ------
    ValueError
        Before or in place of what the conversion of X to floats says.
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
                f"X must hold numbers, got dates or times{_in_column(name)}. Turn them "
                "into numbers of a unit that you choose."
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
    """Whether a dtype of NumPy, pandas or polars is of dates or times."""
    if hasattr(dtype, "is_temporal"):
        return dtype.is_temporal()
    return getattr(dtype, "kind", None) in ("m", "M")


def _is_text(column: Any) -> bool:
    try:
        np.asarray(column).astype(np.float64)
    except ValueError:
        return True
    return False


def as_targets(y: Any) -> NDArray[np.float64]:
    """Give targets as finite float64, one- or two-dimensional."""
    y = np.asarray(y)
    if np.iscomplexobj(y):
        raise ValueError("Complex data not supported: y must be real.")
    if _is_time(y.dtype):
        raise ValueError(
            f"y must hold numbers, got dtype {y.dtype}. Divide times by a unit."
        )
    try:
        y = y.astype(np.float64)
    except (TypeError, ValueError) as exc:
        raise ValueError(
            f"y must hold numbers, got dtype {y.dtype}. For labels use a classifier."
        ) from exc
    # Not known before where y was an array of objects.
    assert_all_finite(y, input_name="y")
    if y.ndim not in (1, 2) or 0 in y.shape:
        raise ValueError(
            f"y must have shape (n_samples,) or (n_samples, n_outputs), got {y.shape}."
        )
    return y


def as_weights(sample_weight: Any, X: NDArray) -> NDArray[np.float64]:
    """Give weights as float64, one for each row."""
    check_unmasked("sample_weight", sample_weight)
    weight = _check_sample_weight(sample_weight, X, dtype=np.float64)
    if (weight < 0).any():
        raise ValueError(f"sample_weight must not be negative, got {weight.min()}.")
    if not weight.any():
        raise ValueError("sample_weight must not be zero for every row.")
    return weight


def weighted_mean(values: NDArray[np.float64], sample_weight: Any) -> float:
    """Mean of values (n,); rows of no weight do not count, whatever they hold."""
    weight = as_weights(sample_weight, values)
    counts = weight > 0
    share = weight[counts] / weight.max()  # sums of which are within reach
    return float(np.average(values[counts], weights=share))


def warn_of_ties(
    y: NDArray[np.float64], scale: NDArray[np.float64], reg_covar: float, ranks: Ranks
) -> None:
    """Warn where a density may stand in spikes on the values of an output.

    Not so where reg_covar, of outputs divided by this scale (d,), is as wide as they.
    """
    n_rows = int(ranks.sum(len(y)))
    for j, column in enumerate(y.T):
        values = np.unique(column)
        if n_rows < ROWS_PER_VALUE * int(ranks.max(len(values))):
            continue
        values = np.unique(np.concatenate(ranks.share(values)))
        if n_rows < ROWS_PER_VALUE * len(values) or len(values) == 1:
            continue
        step = np.diff(values).min()
        floor = step**2 / 12 / scale[j] ** 2
        if reg_covar >= float(f"{floor:.2g}"):  # as it is printed below
            continue
        output = "" if y.shape[1] == 1 else f" in output {j}"
        warnings.warn(
            f"y has only {len(values)} distinct values in {n_rows} rows"
            f"{output}: a density can stand in spikes on them, and its "
            "log-likelihood then says little. Judge it by the CRPS or by the "
            f"probability of an interval round each value, add uniform noise of "
            f"width {step:.3g}, or set reg_covar={floor:.2g}, the variance of "
            "such noise.",
            UserWarning,
            stacklevel=5,
        )


def output_names(y: Any) -> tuple[str, ...] | None:
    """Names of the outputs, where y is a data frame or a series that has them."""
    names = getattr(y, "columns", None)
    if names is None:
        names = [getattr(y, "name", None)]
    names = list(names)
    return tuple(names) if all(isinstance(name, str) for name in names) else None


def as_widths(hidden_layer_sizes: Any) -> tuple[int, ...]:
    widths = np.atleast_1d(hidden_layer_sizes).tolist()
    if not all(isinstance(width, int) and width > 0 for width in widths):
        raise ValueError(
            "hidden_layer_sizes must be positive integers, got "
            f"hidden_layer_sizes={hidden_layer_sizes}."
        )
    return tuple(widths)


# -- arguments of densities ------------------------------------------------------


def as_finite(name: str, array: ArrayLike) -> NDArray[np.float64]:
    result = np.asarray(array, dtype=np.float64)
    if not np.isfinite(result).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity.")
    return result


def check_confidence(confidence: float) -> None:
    if not 0 <= confidence <= 1:
        raise ValueError(f"confidence must lie in [0, 1], got {confidence}.")


def check_shapes(weights: NDArray, means: NDArray, factors: NDArray) -> None:
    fits = (
        weights.ndim == 2
        and weights.shape[1] > 0
        and means.ndim == 3
        and means.shape[:2] == weights.shape
        and factors.shape == (*means.shape, means.shape[2])
    )
    if not fits:
        raise ValueError(
            "weights, means and precision_factors must have the shapes (n, K), "
            "(n, K, d) and (n, K, d, d), or (n, K) all three for scalars, got "
            f"{weights.shape}, {means.shape} and {factors.shape}."
        )


def check_mixture_weights(weights: NDArray) -> None:
    if (weights < 0).any():
        raise ValueError(f"weights must not be negative, got {weights.min()}.")
    sums = weights.sum(-1)
    if (np.abs(sums - 1) > WEIGHT_SUM_ATOL).any():
        worst = sums[np.argmax(np.abs(sums - 1))]
        raise ValueError(f"weights must sum to one in each row, got a sum of {worst}.")


def check_factors(factors: NDArray) -> None:
    if (np.diagonal(factors, axis1=-2, axis2=-1) <= 0).any():
        raise ValueError("precision_factors must have a positive diagonal.")
    if np.tril(factors, -1).any():
        raise ValueError(
            "precision_factors must be upper-triangular, U with U' U the inverse "
            "covariance. For covariances use MixtureDensity.from_covariances."
        )


def check_output_names(
    names: Sequence[str] | None, n_outputs: int
) -> tuple[str, ...] | None:
    if names is None:
        return None
    if len(names) != n_outputs or len(set(names)) != n_outputs:
        raise ValueError(
            f"output_names must be {n_outputs} different names, got {list(names)}."
        )
    return tuple(map(str, names))
