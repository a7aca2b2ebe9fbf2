"""Arrays in other forms, which are equal to the plain one, and arrays to refuse."""

import datetime

import numpy as np
import pandas as pd
import polars as pl
import torch
from scipy import sparse

from skmdn import MixtureDensity


def strided(array):
    """Return a view of every second entry of each axis of a larger array."""
    large = np.full([2 * size for size in array.shape], 9.0)
    view = large[tuple(slice(None, None, 2) for _ in array.shape)]
    view[...] = array
    return view


def reversed_view(array):
    every = tuple(slice(None, None, -1) for _ in array.shape)
    return array[every].copy()[every]


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def frame(array, **columns):
    """Return a data frame, with columns replaced, of an array of any shape."""
    table = array.reshape(len(array), -1)
    return pd.DataFrame(table, columns=[f"c{j}" for j in range(table.shape[1])]).assign(
        **columns
    )


# Equal to the array of float64, where its numbers are short.
FORMS = {
    "strided": strided,
    "reversed": reversed_view,
    "Fortran order": np.asfortranarray,
    "read-only": read_only,
    "single precision": lambda a: a.astype(np.float32),
    "half precision": lambda a: a.astype(np.float16),
    "big endian": lambda a: a.astype(">f8"),
    "long double": lambda a: a.astype(np.longdouble),
    "objects": lambda a: a.astype(object),
    "list": lambda a: a.tolist(),
    "tuple": lambda a: tuple(a.tolist()),
    "list of arrays": list,
    "masked without masked entries": np.ma.array,
    "tensor": torch.tensor,
    "narrow tensor": lambda a: torch.tensor(a).to(torch.bfloat16),
    "list of tensors": lambda a: [torch.tensor(row) for row in a],
}
# The same for arrays of one and of two axes.
TABLES = {
    "pandas": lambda a: pd.Series(a) if a.ndim == 1 else pd.DataFrame(a),
    "nullable": lambda a: TABLES["pandas"](a).convert_dtypes(),
    "columns of objects": lambda a: TABLES["pandas"](a).astype(object),
    "polars": lambda a: pl.Series(a) if a.ndim == 1 else pl.DataFrame(a),
}


def with_first(array, cell, dtype=object):
    """Return an array of objects with another first cell."""
    array = array.astype(dtype)
    array[(0,) * array.ndim] = cell
    return array


DAYS = pd.date_range("2020-01-01", periods=3)

# Makers of arrays to refuse from a plain one of three rows; what messages must say.
REFUSED = {
    "masked": (
        lambda a: np.ma.array(a, mask=np.arange(a.size).reshape(a.shape) == 1),
        "masked array with masked entries.* Fill them",
    ),
    "list of masked arrays": (
        lambda a: [np.ma.masked_less_equal(row, a.max()) for row in a],
        "masked array with masked entries.* Fill them",
    ),
    "NaN": (
        lambda a: with_first(a, np.nan, float),
        "contains NaN.* (Fill|Replace|Drop)",
    ),
    "None": (lambda a: with_first(a, None), "contains NaN.* (Fill|Replace|Drop)"),
    "pandas' NA": (
        lambda a: with_first(a, pd.NA),
        "contains NaN.* (Fill|Replace|Drop)",
    ),
    "complex": (lambda a: a + 1j, "Complex data not supported.* as two columns"),
    "complex objects": (lambda a: with_first(a, 1j), "Complex data not supported"),
    "complex tensor": (lambda a: torch.tensor(a + 1j), "Complex data not supported"),
    "text": (lambda a: with_first(a, "north"), "must hold numbers, got text 'north'"),
    "digits": (lambda a: a.astype(str), r"must hold numbers, got text .*astype\(float"),
    "bytes": (lambda a: a.astype("S"), "must hold numbers, got text"),
    "dates": (
        lambda a: with_first(a, datetime.date(2020, 1, 1)),
        "got dates or times.* Convert them to numbers in a unit",
    ),
    "times": (lambda a: with_first(a, datetime.time(12)), "got dates or times"),
    "durations": (lambda a: (a * 8).astype("m8[s]"), "got dates or times"),
    "durations as objects": (
        lambda a: with_first(a, np.timedelta64(5, "D")),
        "got dates or times",
    ),
    "periods": (lambda a: with_first(a, pd.Period("2020")), "got dates or times"),
    "intervals": (
        lambda a: with_first(a, pd.Interval(0, 1)),
        "got intervals.*midpoint",
    ),
    "gradients": (
        lambda a: torch.tensor(a, requires_grad=True),
        r"requires gradients, .* Pass \S+.*\.detach\(\)",
    ),
    "list of gradients": (
        lambda a: [torch.tensor(row, requires_grad=True) for row in a],
        r"requires gradients, .*detach\(\)",
    ),
    "sparse tensor": (lambda a: torch.tensor(a).to_sparse(), r"dense.*to_dense\(\)"),
    "lazy frame": (lambda a: pl.LazyFrame(frame(a)), r"LazyFrame, .*\.collect\(\)"),
    "rows of other lengths": (lambda a: [[1.0], [1.0, 2.0]], "need the same length"),
    "an integer of 400 digits": (
        lambda a: with_first(a, 10**400),
        "integer too large for float64. Change its unit",
    ),
    "a density": (
        lambda a: MixtureDensity([[1.0]], [[0.0]], [[1.0]]),
        "got an object of type MixtureDensity. Check the order",
    ),
}
# Refused with TypeErrors where they are features, as by scikit-learn, or not refused.
REFUSED_BUT_FOR_FEATURES = {
    "a dict": (lambda a: {"c0": 1.0}, "must hold numbers, got {'c0': 1.0}"),
    "a function": (lambda a: len, "must hold numbers, got <built-in function len>"),
    "nothing": (lambda a: None, "must hold numbers, got None"),
    "sparse": (lambda a: sparse.csr_array(a.reshape(len(a), -1)), r"toarray\(\)"),
}
# Frames, of which the message names the column.
REFUSED_FRAMES = {
    "NaN in a frame": (
        lambda a: frame(a, c0=[1.0, np.nan, 2.0]),
        r"contains NaN in column 'c0' \(first in row 1\)",
    ),
    "nullable integers": (
        lambda a: frame(a, c0=pd.array([1, 2, None], dtype="Int64")),
        "contains NaN in column 'c0'",
    ),
    "NA among objects": (
        lambda a: frame(a, c0=pd.Series([1, 2, pd.NA], dtype=object)),
        "contains NaN in column 'c0'",
    ),
    "dates in a frame": (lambda a: frame(a, c0=DAYS), "dates or times in column 'c0'"),
    "dates with a zone": (
        lambda a: frame(a, c0=DAYS.tz_localize("UTC")),
        "dates or times in column 'c0'",
    ),
    "periods in a frame": (
        lambda a: frame(a, c0=DAYS.to_period()),
        "dates or times in column 'c0'",
    ),
    "binned numbers": (
        lambda a: frame(a, c0=pd.cut([1, 2, 3], 2)),
        "intervals in column 'c0'.*midpoint",
    ),
    "categories of text": (
        lambda a: frame(a, c0=pd.Categorical(["u", "v", "u"])),
        "text 'u' in column 'c0'",
    ),
    "complex column": (
        lambda a: frame(a, c0=[1.0, 2.0, 1j]),
        "Complex data not supported.*in column 'c0'",
    ),
    "polars nulls": (
        lambda a: pl.DataFrame(frame(a)).with_columns(c0=pl.Series([1, None, 2])),
        "contains NaN in column 'c0'",
    ),
    "polars times": (
        lambda a: pl.DataFrame(frame(a)).with_columns(c0=pl.Series(DAYS)),
        "dates or times in column 'c0'",
    ),
    "polars text": (
        lambda a: pl.DataFrame(frame(a)).with_columns(c0=pl.lit("north")),
        "text 'north' in column 'c0'",
    ),
}


def with_infinity(array):
    """Return a frame with infinity in its first column and third row."""
    return frame(array, c0=[1.0, 2.0, np.inf])


INFINITE = r"contains infinity in column 'c0' \(first in row 2\)"
