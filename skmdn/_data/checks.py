"""Checks of rows and parameters: messages name the argument and the remedy."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.utils import check_consistent_length
from sklearn.utils.validation import validate_data

from skmdn._data.conversion import (
    as_objects,
    as_real,
    check_cells,
    check_finite,
    check_is_table,
    columns_of,
    is_frame,
    open_array,
    too_large,
    without_markers,
)
from skmdn._data.encoding import (
    Coded,
    FeatureEncoder,
    categorical_columns,
    with_codes,
)
from skmdn._data.groups import as_groups
from skmdn._data.outputs import Outputs, output_names
from skmdn._data.resolution import per_output
from skmdn._data.rows import Rows
from skmdn._data.targets import Recording, Targets
from skmdn._utils.compat import check_sample_weight
from skmdn._utils.warn import warn
from skmdn.distributed import ALONE, Ranks

# Float32 input is used as it is; everything else is converted to float64.
FLOATS = (np.float64, np.float32)
NOTHING_OBSERVED = (
    "{} has no observed value in rows of positive weight. Give rows of which something "
    "was observed."
)
# Attributes in which scikit-learn's checks record the features.
FEATURE_ATTRIBUTES = ("n_features_in_", "feature_names_in_")


# -- rows ------------------------------------------------------------------------


class Fitted(NamedTuple):
    """What an estimator was fitted with: outputs, how they were recorded, features."""

    outputs: Outputs
    recording: Recording
    encoder: FeatureEncoder


class CheckedRows(NamedTuple):
    """Rows to fit, their targets as given, and what describes targets and features."""

    rows: Rows
    y: NDArray[np.float64]
    fitted: Fitted
    feature_attributes: dict[str, Any]
    has_intervals: bool = False


def check_rows(
    estimator: Any,
    X: Any,
    y: Any,
    sample_weight: Any,
    ranks: Ranks = ALONE,
    fitted: Fitted | None = None,
    groups: Any = None,
    y_upper: Any = None,
) -> CheckedRows:
    """Check rows to fit, and determine their features and outputs.

    The estimator is not changed. Given the outputs of networks to continue, the rows
    must be of the same kind as those the estimator was fitted with.
    """
    params = estimator.target_support, estimator.target_resolution
    if fitted is not None:
        _check_same_recording(params, fitted)
        checked = check_known_rows(
            estimator, fitted, X, y, sample_weight, groups=groups, y_upper=y_upper
        )
        return checked._replace(rows=_shared(checked.rows, ranks))
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
    y = None if y is None else as_targets("y", y, infinite=y_upper is not None)
    known = None if y is None else np.where(np.isfinite(y), y, 0.0)
    X, coded = _validated(
        "X", draft, X, None, known, multi_output=True, ensure_min_samples=n_least
    )
    weight = as_weights("sample_weight", sample_weight, X)
    encoder = FeatureEncoder.fit(X, coded, weight, ranks)
    codes = _codes_of_groups(estimator, groups, len(y))
    outputs = Outputs(y.shape[1:], names)
    flat = y.reshape(len(y), -1)
    upper = as_upper("y_upper", y_upper, flat)
    recording = _recording(params, outputs, flat, upper, ranks)
    _check_ends(flat[weight > 0], upper if upper is None else upper[weight > 0], ranks)
    targets = recording.targets("y", flat, upper)
    X = encoder.encode(X, coded)
    rows = Rows(X, targets, targets.weight_of_known(weight), codes)
    rows = _shared(rows, ranks)
    _check_observed(rows, ranks)
    fitted, attributes = Fitted(outputs, recording, encoder), _features_of(draft)
    return CheckedRows(rows, y, fitted, attributes, _has_intervals(flat, upper, ranks))


def _recording(
    params: tuple[Any, Any],
    outputs: Outputs,
    y: NDArray[np.float64],
    upper: NDArray[np.float64] | None,
    ranks: Ranks,
) -> Recording:
    """Describe how targets (n, d) were recorded; steps to find are those of all ranks.

    Only observed values say anything of a step, and ends of intervals do not.
    """
    values = y if upper is None else np.where(y == upper[:, None], y, np.nan)
    if any(isinstance(step, str) for step in per_output(params[1], outputs)):
        values = np.concatenate(ranks.all_gather(values))
    return Recording.of(*params, outputs, values)


def check_known_rows(
    estimator: Any,
    fitted: Fitted,
    X: Any,
    y: Any,
    sample_weight: Any,
    suffix: str = "",
    groups: Any = None,
    y_upper: Any = None,
) -> CheckedRows:
    """Check rows of the kind that an estimator was fitted with.

    The suffix ends the names of the arguments in messages.
    """
    X = check_features(estimator, X, fitted.encoder, f"X{suffix}")
    flat = as_known_targets(estimator, fitted.outputs, X, y, y_upper, suffix)
    upper = as_upper(f"y_upper{suffix}", y_upper, flat)
    targets = fitted.recording.targets(f"y{suffix}", flat, upper)
    weight = as_weights(f"sample_weight{suffix}", sample_weight, X)
    weight = targets.weight_of_known(weight)
    rows = Rows(X, targets, weight, _codes_of_groups(estimator, groups, len(flat)))
    y, has_intervals = fitted.outputs.squeeze(flat), _has_intervals(flat, upper)
    return CheckedRows(rows, y, fitted, _features_of(estimator), has_intervals)


def _check_same_recording(params: tuple[Any, Any], fitted: Fitted) -> None:
    """Refuse to continue networks with other supports or steps."""
    support, resolution = params
    outputs, known = fitted.outputs, fitted.recording.resolution.tolist()
    steps = [
        (found or None) if isinstance(step, str) else step
        for step, found in zip(per_output(resolution, outputs), known, strict=True)
    ]
    asked = Recording.of(support, steps, outputs, np.zeros((1, outputs.size)))
    if not asked.is_same(fitted.recording):
        raise ValueError(
            f"target_support={support!r} and target_resolution={resolution!r} differ "
            "from those of the networks to continue. Fit again without them, or "
            "restore the parameters."
        )


def _has_intervals(
    y: NDArray[np.float64], upper: NDArray[np.float64] | None, ranks: Ranks = ALONE
) -> bool:
    """Whether some targets are known to lie in an interval only."""
    return bool(ranks.max(upper is not None and (y[:, 0] != upper).any()))


def _check_ends(
    y: NDArray[np.float64], upper: NDArray[np.float64] | None, ranks: Ranks
) -> None:
    """Refuse intervals that are all open on the same side."""
    if not ranks.max(upper is not None):
        return
    ends = y[:, 0], y[:, 0] if upper is None else upper
    has_ends = ranks.max([np.isfinite(end).any() for end in ends])
    for where, has_end in zip(("below", "above"), has_ends, strict=True):
        if not has_end:
            raise ValueError(
                f"No row of y and y_upper is bounded {where}: nothing is known of how "
                f"far the targets reach {where}. Give rows whose target was observed, "
                "or is known to lie in a finite interval."
            )


def _shared(rows: Rows, ranks: Ranks) -> Rows:
    """Give the targets of all ranks equal blocks."""
    targets = rows.y
    cells, missing = ranks.max([targets.has_cells, targets.is_observed is not None])
    if not ranks.max(rows.weight.max(initial=0.0)):
        raise ValueError(NOTHING_OBSERVED.format("y"))
    targets = targets.with_blocks(cells=bool(cells), observed=bool(missing))
    return rows._replace(y=targets)


def _check_observed(rows: Rows, ranks: Ranks) -> None:
    """Refuse outputs that were never observed."""
    known = rows.y.is_observed
    if known is None:
        return
    n_known = ranks.sum((known & (rows.weight > 0)[:, None]).sum(axis=0))
    if (n_known == 0).any():
        raise ValueError(
            f"y has no observed value in output {int(np.argmin(n_known))}. Give rows "
            "in which it was observed, or remove the output."
        )


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
    rows = check_known_rows(draft, checked.fitted, X, y, sample_weight, "_val").rows
    if not rows.weight.any():
        raise ValueError(NOTHING_OBSERVED.format("y_val"))
    return rows


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


def check_features(
    estimator: Any, X: Any, encoder: FeatureEncoder, name: str = "X"
) -> Any:
    """Check and encode features of the kind that an estimator was fitted with.

    Warns
    -----
    UserWarning
        If a column holds what the fit learned nothing of.
    """
    X, coded = _validated(name, estimator, X, encoder, reset=False)
    labels = np.asarray(
        getattr(estimator, "feature_names_in_", range(X.shape[1]))
    ).tolist()
    for what, columns in encoder.strangers(X, coded).items():
        named = ", ".join(repr(labels[j]) for j in columns)
        plural = "s" if len(columns) > 1 else ""
        warn(what.format(columns=f"column{plural} {named} of {name}"))
    return encoder.encode(X, coded)


def _validated(
    name: str,
    estimator: Any,
    X: Any,
    encoder: FeatureEncoder | None,
    *y: Any,
    **options: Any,
) -> tuple[Any, Coded]:
    """Check features, and targets (n, ...), by scikit-learn; convert to floats.

    Returns
    -------
    X : ndarray or CSR matrix of shape (n, n_features)
        With codes for categories, and NaN for missing values.
    coded : mapping
        Levels of the codes.

    Raises
    ------
    TypeError, ValueError
        Where a cell of X is neither a finite number nor missing nor a category, our
        error, which names its column.
    """
    asked = estimator.categorical_features
    if isinstance(X, (list, tuple)) and not isinstance(asked, (str, type(None))):
        X = as_objects(name, X)  # numbers beside text stay numbers
    X = open_array(name, X)
    check_is_table(name, X)
    columns = (
        categorical_columns(asked, X) if encoder is None else sorted(encoder.levels)
    )
    is_named = encoder is not None and hasattr(estimator, "feature_names_in_")
    if columns and is_named and is_frame(X):  # codes are made by position
        validate_data(estimator, X, reset=False, skip_check_array=True)
    X, coded = with_codes(X, columns)
    can_miss = not sparse.issparse(X)
    check_cells(name, X, missing=can_miss)
    if can_miss:
        X = without_markers(X)
    try:
        X = validate_data(
            estimator,
            X,
            *y,
            accept_sparse="csr",
            dtype=FLOATS,
            ensure_all_finite="allow-nan" if can_miss else True,
            **options,
        )
    except OverflowError as exc:
        raise too_large(name) from exc
    except ValueError:
        check_finite(name, columns_of(X), missing=can_miss)
        raise
    return (X[0] if y else X), coded


def check_targets(
    estimator: Any, fitted: Fitted, X: Any, y: Any, y_upper: Any = None
) -> Targets:
    """Check targets of the outputs that an estimator was fitted with."""
    flat = as_known_targets(estimator, fitted.outputs, X, y, y_upper)
    return fitted.recording.targets("y", flat, as_upper("y_upper", y_upper, flat))


def as_known_targets(
    estimator: Any,
    outputs: Outputs,
    X: Any,
    y: Any,
    y_upper: Any = None,
    suffix: str = "",
) -> NDArray[np.float64]:
    """Convert targets of known outputs, (n, n_outputs)."""
    name = f"y{suffix}"
    y = as_targets(name, outputs.align(name, y), infinite=y_upper is not None)
    check_consistent_length(X, y)
    flat: NDArray[np.float64] = y.reshape(len(y), -1)
    if flat.shape[1] != outputs.size:
        raise ValueError(
            f"{name} has {flat.shape[1]} outputs, but {type(estimator).__name__} was "
            f"fitted with {outputs.size}."
        )
    return flat


def as_targets(name: str, y: Any, *, infinite: bool = False) -> NDArray[np.float64]:
    """Convert targets to float64 of shape (n,) or (n, d).

    NaN is allowed, for an output that was not observed, where there are others.
    """
    is_several = _n_columns(y) > 1
    targets = as_real(name, y, infinite=infinite, missing=is_several)
    if targets.ndim not in (1, 2) or 0 in targets.shape:
        raise ValueError(
            f"{name} must have shape (n_samples,) or (n_samples, n_outputs), "
            f"got {targets.shape}."
        )
    return targets


def _n_columns(y: Any) -> int:
    """Return the number of columns of targets that are not converted yet."""
    if isinstance(y, (list, tuple)):
        return len(y[0]) if len(y) and np.ndim(y[0]) == 1 else 1
    shape: tuple[int, ...] = getattr(y, "shape", ())
    return int(shape[1]) if len(shape) == 2 else 1


def as_upper(
    name: str, y_upper: Any, y: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """Convert upper ends of intervals to (n,); the lower ends are y (n, 1)."""
    if y_upper is None:
        return None
    if y.shape[1] > 1:
        raise ValueError(
            f"{name} needs one output, but y has {y.shape[1]}. Fit one estimator for "
            "each output with intervals."
        )
    upper = as_real(name, y_upper, infinite=True)
    if upper.shape not in (y.shape, y.shape[:1]):
        raise ValueError(
            f"{name} must have one value for each of the {len(y)} rows of y, got "
            f"shape {upper.shape}."
        )
    upper, lower = upper.reshape(-1), y[:, 0]
    is_wrong = (lower > upper) | (lower == np.inf) | (upper == -np.inf)
    if is_wrong.any():
        row = int(is_wrong.argmax())
        raise ValueError(
            f"{name} must not be below y: row {row} has the interval [{lower[row]}, "
            f"{upper[row]}], and {is_wrong.sum()} rows have no value between y and "
            f"{name}. Equal ends mean an observed value; -inf in y, or inf in {name}, "
            "an open end."
        )
    return upper


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


def mean_of_known(
    values: NDArray[np.float64], targets: Targets, sample_weight: Any
) -> float:
    """Average values (n,) over the rows of whose targets something was observed."""
    weight = targets.weight_of_known(as_weights("sample_weight", sample_weight, values))
    if not weight.any():
        raise ValueError(NOTHING_OBSERVED.format("y"))
    return weighted_mean(values, weight)


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
