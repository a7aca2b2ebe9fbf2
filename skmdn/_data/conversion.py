"""Conversion of arrays to real numbers as float64, with errors that name the cause.

`as_real` converts targets, weights, and all arguments of densities and metrics.
scikit-learn converts the features: `open_array` and `check_cells` run before it, and
`check_finite` replaces its error.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable
from decimal import Decimal
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

NUMERIC_KINDS = "biuf"


class Kind(NamedTuple):
    """A kind of cell that is not a finite number, and what to do about it."""

    what: str
    remedy: str
    remedy_in_features: str | None = None
    remedy_in_targets: str | None = None

    def advise(self, name: str) -> str:
        """Return the remedy for an argument; only features can be encoded or filled."""
        special = {"X": self.remedy_in_features, "y": self.remedy_in_targets}
        return special.get(name[:1]) or self.remedy


MISSING = Kind(
    "NaN",
    "Replace the missing values, or drop their rows.",
    "Fill the missing values, drop their rows, or pass X as a dense array, which can "
    "have missing values.",
    "Drop the rows without a target.",
)
INFINITE = Kind("infinity", "Replace the infinite values, or drop their rows.")
TIMES = Kind("dates or times", "Convert them to numbers in a unit of your choice.")
TEXT = Kind(
    "text",
    "Convert it to numbers.",
    "Convert digits with astype(float), and categories with astype('category') in a "
    "data frame, or name their columns in categorical_features; drop columns of "
    "identifiers.",
    "Convert it to numbers, or drop these rows; for labels use a classifier.",
)
INTERVALS = Kind("intervals", "Replace each one by a number, such as its midpoint.")
COMPLEX = Kind("complex numbers", "Pass real and imaginary parts as two columns.")
OBJECTS = Kind("objects", "Convert them to numbers.")
# Kinds of cells by the kind of their dtype, by their type, and by the name of a type
# of pandas, which need not be installed.
KINDS_OF_DTYPES = {"c": COMPLEX, "m": TIMES, "M": TIMES, "S": TEXT, "U": TEXT}
KINDS_OF_TYPES: dict[Kind, tuple[type, ...]] = {
    MISSING: (type(None),),
    TEXT: (str, bytes),
    TIMES: (
        *(datetime.date, datetime.time, datetime.timedelta),
        *(np.datetime64, np.timedelta64),
    ),
    COMPLEX: (complex, np.complexfloating),
}
# Remedies for text that is a number or a date, by the pattern of a cell.
REMEDIES_OF_TEXT = {
    r"[+-]?\d{1,3}(\.\d{3})+,\d*": (
        'Read the file with pd.read_csv(..., decimal=",", thousands=".").'
    ),
    r"[+-]?\d{1,3}(,\d{3})+\.\d*|[+-]?\d{1,3}(,\d{3}){2,}": (
        'Read the file with pd.read_csv(..., thousands=",").'
    ),
    r"[+-]?\d{1,3},\d{3}": (
        'Read the file with pd.read_csv(..., decimal=",") if the comma begins the '
        'decimals, or with thousands=",".'
    ),
    r"[+-]?\d*,\d+": 'Read the file with pd.read_csv(..., decimal=",").',
    r"(\d{4}([-/.])\d{1,2}\2\d{1,2}|\d{1,2}([-/.])\d{1,2}\3(\d{2}){1,2})([T ].*)?": (
        "Convert dates with pd.to_datetime, and these to numbers such as days."
    ),
}
KINDS_OF_NAMES = {"NAType": MISSING, "Period": TIMES, "Interval": INTERVALS}


# -- conversion ------------------------------------------------------------------


def as_real(
    name: str, array: Any, *, infinite: bool = False, missing: bool = False
) -> NDArray[np.float64]:
    """Convert to a C-contiguous float64 array.

    Parameters
    ----------
    name : str
        Name of the argument, for messages.
    array : array-like
        Array, sequence, number, data frame, series or tensor.
    infinite, missing : bool, default=False
        Whether infinite values are allowed, and missing ones, which become NaN.

    Raises
    ------
    TypeError
        If a sparse matrix or a density is given.
    ValueError
        If a value is not a real number; the message names the column and a remedy.
    """
    if sparse.issparse(array):
        raise TypeError(
            f"Sparse data was passed for {name}, but dense data is required. Convert "
            "it with toarray()."
        )
    # Plain arrays of numbers are by far the most frequent.
    if type(array) is not np.ndarray or array.dtype.kind not in NUMERIC_KINDS:
        array = open_array(name, array)
        check_cells(name, array, missing=missing)
    labels = list(array.columns) if is_frame(array) else None
    if missing:
        array = without_markers(array)
    is_pandas = hasattr(type(array), "to_numpy") and hasattr(type(array), "isna")
    with np.errstate(over="ignore"):
        try:
            values = np.asarray(
                array.to_numpy(np.float64, na_value=np.nan) if is_pandas else array,
                dtype=np.float64,
                order="C",
            )
        except OverflowError as exc:
            raise too_large(name) from exc
    is_good = np.isfinite(values)
    if infinite:
        is_good |= np.isinf(values)
    if missing:
        is_good |= np.isnan(values)
    if not is_good.all():
        check_finite(name, _columns(values, labels), infinite=infinite, missing=missing)
    return values


def without_markers(array: Any) -> Any:
    """Replace markers of missing values among objects, such as None, by NaN."""
    if not is_frame(array):
        is_object = getattr(getattr(array, "dtype", None), "kind", "") == "O"
        return _with_nan(array) if is_object else array
    for position, (_, column) in enumerate(columns_of(array)):
        if getattr(column.dtype, "kind", "") == "O":
            array = with_column(array, position, _with_nan(column))
    return array


def _with_nan(array: Any) -> NDArray[Any]:
    """Copy an array of objects, with NaN for markers of missing values."""
    cells = np.array(array, dtype=object)
    for place, cell in np.ndenumerate(cells):
        if kind_of(type(cell)) is MISSING:
            cells[place] = np.nan
    return cells


def as_objects(name: str, rows: Any) -> NDArray[Any]:
    """Convert a sequence of rows to an array of objects, (n, n_columns)."""
    lengths = {np.size(row) for row in rows}
    if len(lengths) != 1:
        return np.asarray(open_array(name, rows), dtype=object)
    table = np.empty((len(rows), lengths.pop()), dtype=object)
    for place, row in zip(table, rows, strict=True):
        place[:] = row
    return table


def open_array(name: str, array: Any) -> Any:
    """Convert tensors and sequences to arrays, and refuse values that cannot be read.

    Frames, sparse matrices and what converts itself to an array are returned as given.

    Raises
    ------
    TypeError
        If a density is given.
    ValueError
        If values are masked or cannot be read.
    """
    if isinstance(array, (int, float)):
        return np.asarray(array)
    if isinstance(array, torch.Tensor):
        return _open_tensor(name, array)
    if np.ma.is_masked(array):
        raise ValueError(
            f"{name} is a masked array with masked entries. Fill them, or drop their "
            "rows."
        )
    # Frames have their columns as attributes: look at the type.
    if hasattr(type(array), "logpdf"):
        raise TypeError(
            f"{name} must hold numbers, got an object of type {type(array).__name__}. "
            "Check the order of the arguments."
        )
    if hasattr(type(array), "collect"):
        raise ValueError(
            f"{name} is a {type(array).__name__}, whose values are not computed yet. "
            f"Pass {name}.collect()."
        )
    if hasattr(array, "__array__") or is_frame(array) or sparse.issparse(array):
        return array
    if isinstance(array, (list, tuple)) and any(map(_hides, set(map(type, array)))):
        array = [open_array(name, item) for item in array]
    try:
        return np.asarray(array)
    except (TypeError, ValueError) as exc:
        raise ValueError(
            f"{name} must be an array of numbers, but NumPy cannot convert this "
            f"{type(array).__name__} to an array. All its rows need the same length."
        ) from exc


def _hides(item_type: type) -> bool:
    """Return whether NumPy would lose masks or gradients of items of a type."""
    hiding = (list, tuple, np.ma.MaskedArray, torch.Tensor)
    return issubclass(item_type, hiding) or hasattr(item_type, "logpdf")


def _open_tensor(name: str, tensor: torch.Tensor) -> NDArray[Any]:
    """Return the values of a tensor of any device; narrow floats as float32."""
    if tensor.requires_grad:
        raise ValueError(
            f"{name} is a tensor that requires gradients, which would be lost. Pass "
            f"{name}.detach()."
        )
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
        raise ValueError(
            f"{name} must be a dense tensor with values, got layout {tensor.layout}, "
            f"device {tensor.device} and dtype {tensor.dtype}. Convert it, for example "
            "with to_dense() or dequantize()."
        )
    tensor = tensor.cpu().resolve_conj().resolve_neg()
    is_narrow = tensor.is_floating_point() and tensor.element_size() < 4
    array: NDArray[Any] = (tensor.to(torch.float32) if is_narrow else tensor).numpy()
    return array


# -- cells -----------------------------------------------------------------------


def check_cells(name: str, array: Any, *, missing: bool = False) -> None:
    """Raise if a column holds anything but real numbers.

    Markers of missing values among objects, such as None, are refused unless
    ``missing``. NaN and infinity in columns of numbers are left to `check_finite`.

    Raises
    ------
    TypeError
        If a feature is an object of unknown kind, as in scikit-learn.
    ValueError
        If a cell is a date, a time, text, an interval, a complex number, another
        object, or a missing value other than NaN.
    """
    dtypes = array.dtypes if is_frame(array) else [getattr(array, "dtype", None)]
    if all(getattr(dtype, "kind", "O") in NUMERIC_KINDS for dtype in dtypes):
        return
    columns = [(None, array.data)] if sparse.issparse(array) else columns_of(array)
    for label, column in columns:
        values = np.asarray(column)
        found = _refused_cell(values, missing=missing)
        if found is not None:
            raise _refusal(name, *found, label, is_scalar=values.ndim == 0)


def check_is_table(name: str, X: Any) -> None:
    """Refuse one row or column of text, as scikit-learn does if it is of numbers.

    Raises
    ------
    ValueError
        Which says how to pass a row or a column.
    """
    kind = getattr(getattr(X, "dtype", None), "kind", "O")
    if len(getattr(X, "shape", ())) != 1 or kind in NUMERIC_KINDS:
        return
    if hasattr(X, "iloc"):
        raise ValueError(
            f"{name} is a {type(X).__name__}, but must have rows and columns. Pass one "
            "row of a data frame as df.iloc[[0]], and one column as df[['name']]."
        )
    raise ValueError(
        f"{name} must have rows and columns, got shape {X.shape}. Pass one row as "
        "[row], or reshape it."
    )


def _refused_cell(values: NDArray[Any], *, missing: bool) -> tuple[Kind, Any] | None:
    """Return the first cell of a kind that is not a real number; None without any."""
    if values.dtype.kind in KINDS_OF_DTYPES:
        return KINDS_OF_DTYPES[values.dtype.kind], next(values.flat, None)
    if values.dtype.kind in NUMERIC_KINDS:
        return None
    cells = values.astype(object).ravel().tolist()
    # There are few types: looking at each cell in Python would be slow.
    for cell_type in dict.fromkeys(map(type, cells)):
        kind = kind_of(cell_type)
        if kind is not None and not (missing and kind is MISSING):
            return kind, next(cell for cell in cells if type(cell) is cell_type)
    return None


def kind_of(cell_type: type) -> Kind | None:
    """Return the kind of cells of a type; None for real numbers."""
    for kind, types in KINDS_OF_TYPES.items():
        if issubclass(cell_type, types):
            return kind
    if issubclass(cell_type, (Real, Decimal, np.bool_)):
        return None
    is_number = hasattr(cell_type, "__float__") and not hasattr(cell_type, "__len__")
    return KINDS_OF_NAMES.get(cell_type.__name__, None if is_number else OBJECTS)


def _refusal(
    name: str, kind: Kind, cell: Any, label: Any, *, is_scalar: bool
) -> Exception:
    """Return the error for a cell that is not a real number."""
    place = _in_column(label)
    advice = _advice_on_text(name, cell) if kind is TEXT else kind.advise(name)
    if kind is MISSING and not is_scalar:
        return ValueError(f"Input {name} contains NaN{place}. {advice}")
    given = {
        MISSING: "None",
        TEXT: f"text {str(cell)[:40]!r}",
        OBJECTS: repr(cell)[:80],
    }
    what = given.get(kind, kind.what)
    message = f"{name} must hold numbers, got {what}{place}. {advice}"
    if kind is COMPLEX:
        return ValueError(f"Complex data not supported: {message}")
    if kind is OBJECTS and name.startswith("X"):
        # In the words of float(), by which scikit-learn's checks know the error.
        return TypeError(f"{message} Each argument must be a string or a real number.")
    return ValueError(message)


def _advice_on_text(name: str, cell: Any) -> str:
    """Return the remedy for text; numbers and dates are told by their form."""
    text = (cell.decode(errors="replace") if isinstance(cell, bytes) else cell).strip()
    for pattern, remedy in REMEDIES_OF_TEXT.items():
        if re.fullmatch(pattern, text):
            return remedy
    try:
        float(text)
    except ValueError:
        return TEXT.advise(name)
    if name.startswith("X"):
        return TEXT.advise(name)
    labels = "; for labels use a classifier" if name.startswith("y") else ""
    return f"Convert it with astype(float){labels}."


def too_large(name: str) -> ValueError:
    """Return the error for an integer beyond the range of float64."""
    return ValueError(
        f"{name} contains an integer too large for float64. Change its unit."
    )


def check_finite(
    name: str,
    columns: Iterable[tuple[Any, Any]],
    *,
    infinite: bool = False,
    missing: bool = False,
) -> None:
    """Raise at the first column that contains NaN or infinity, unless it is allowed.

    Columns that cannot be converted to numbers are passed over.
    """
    for label, column in columns:
        try:
            values = np.asarray(column, dtype=np.float64)
        except (TypeError, ValueError, OverflowError):
            continue
        for kind, is_bad in ((MISSING, np.isnan(values)), (INFINITE, np.isinf(values))):
            is_allowed = infinite if kind is INFINITE else missing
            if is_bad.any() and not is_allowed:
                row = f" (first in row {is_bad.argmax()})" if values.ndim == 1 else ""
                raise ValueError(
                    f"Input {name} contains {kind.what}{_in_column(label)}{row}. "
                    f"{kind.advise(name)}"
                )


# -- columns ---------------------------------------------------------------------


def is_frame(array: Any) -> bool:
    """Return whether an object is a data frame with values, not a lazy one."""
    has_columns = hasattr(type(array), "columns") and hasattr(type(array), "dtypes")
    return has_columns and not hasattr(type(array), "collect")


def with_column(frame: Any, position: int, values: NDArray[Any]) -> Any:
    """Return a frame of pandas or polars with another column."""
    if hasattr(frame, "isetitem"):
        frame = frame.copy(deep=False)
        frame.isetitem(position, values)
        return frame
    column = frame.get_columns()[position]
    return frame.with_columns(type(column)(column.name, values))


def columns_of(array: Any) -> Iterable[tuple[Any, Any]]:
    """Return the label and the values of each column of a frame, an array or a matrix.

    Of a sparse matrix only the columns that are not finite are returned.
    """
    if is_frame(array):
        if hasattr(array, "items"):
            return list(array.items())
        return list(zip(array.columns, array.get_columns(), strict=True))
    if sparse.issparse(array):
        entries = array.tocoo()
        found = np.unique(entries.col[~np.isfinite(entries.data)])
        return ((int(j), entries.tocsc()[:, [j]].toarray()[:, 0]) for j in found)
    return _columns(np.asarray(array), None)


def _columns(
    values: NDArray[Any], labels: list[Any] | None
) -> Iterable[tuple[Any, Any]]:
    """Pair the columns of a matrix with labels; another array is one column."""
    if values.ndim != 2:
        return [(None, values)]
    return zip(
        range(values.shape[1]) if labels is None else labels, values.T, strict=True
    )


def _in_column(label: Any) -> str:
    return "" if label is None else f" in column {label!r}"
