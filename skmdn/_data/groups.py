"""Groups of rows that are held out together: codes of their labels, and numbers."""

from __future__ import annotations

import hashlib
from decimal import Decimal
from numbers import Rational, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skmdn._data.conversion import open_array
from skmdn.distributed import Ranks

# -- labels ----------------------------------------------------------------------


def as_groups(groups: Any, n_rows: int) -> NDArray[np.uint64]:
    """Convert the label of each row to a code of 64 bits, (n_rows,).

    Equal labels have the same code in every process, whatever their storage.

    Raises
    ------
    TypeError
        If labels cannot be hashed, or have no text by which to recognise them.
    ValueError
        If the shape is wrong, or labels are missing.
    """
    labels = _as_labels(groups)
    if labels.shape != (n_rows,):
        raise ValueError(
            f"groups must have shape (n_samples,), got {labels.shape} for {n_rows} "
            "rows of X. Pass one label for each row."
        )
    listed = labels.tolist()
    try:
        distinct = dict.fromkeys(listed)
    except TypeError as exc:
        raise TypeError(
            f"groups must hold labels such as numbers or text, got {exc}. Convert them "
            "to text, or number the groups."
        ) from exc
    for label in distinct:
        if _is_missing(label):
            row = next(i for i, other in enumerate(listed) if other is label)
            raise ValueError(
                f"groups contains NaN or None (first in row {row}). Give these rows a "
                "label, a different one for each if they are independent, or drop them."
            )
    codes = {label: _code(label) for label in distinct}
    return np.fromiter((codes[label] for label in listed), np.uint64, n_rows)


def _as_labels(groups: Any) -> NDArray[Any]:
    """Convert labels to an array whose items are Python's, with None for NaT."""
    labels = np.asarray(open_array("groups", groups))
    if labels.dtype.kind in "US" and isinstance(groups, (list, tuple)):
        # NumPy has converted NaN and numbers among text to text.
        labels = np.array(groups, dtype=object)
    if labels.dtype.kind in "mM":
        times, labels = labels, labels.astype(str).astype(object)
        labels[np.isnat(times)] = None
    return labels


def _is_missing(label: Any) -> bool:
    # A comparison with pandas.NA is neither true nor false.
    return label is None or type(label).__name__ == "NAType" or bool(label != label)


def _code(label: Any) -> int:
    """Hash a label; Python's own hash of text differs between processes."""
    if isinstance(label, np.generic):
        label = label.item()
    to_text: Any = type(label).__repr__
    if isinstance(label, (Real, Decimal)):
        text = _text_of_number(label)
    elif to_text is object.__repr__:  # which writes an address
        raise TypeError(
            "groups must hold labels such as numbers or text, got an object of type "
            f"{type(label).__name__}. Convert it to text, or number the groups."
        )
    else:
        text = f"{type(label).__name__}: {label!r}"
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _text_of_number(number: Any) -> str:
    """Return a text that is the same for equal numbers of all types."""
    try:
        ratio = (
            (number.numerator, number.denominator)
            if isinstance(number, Rational)
            else number.as_integer_ratio()
        )
    except OverflowError:  # infinity
        return str(float(number))
    return "{:x}/{:x}".format(*map(int, ratio))


# -- numbers ---------------------------------------------------------------------


def number_groups(
    codes: NDArray[np.uint64], ranks: Ranks
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Assign numbers to the groups of all ranks, given the code of each row, (m,).

    The numbers are in the order of the unique rows, rank after rank: they do not depend
    on the labels.

    Returns
    -------
    group : ndarray of shape (m,)
        Group of each unique row.
    sizes : ndarray of shape (n_groups,)
        Unique rows of each group, on all ranks.

    Raises
    ------
    ValueError
        If there are fewer than 2 groups.
    """
    ours, first, counts = np.unique(codes, return_index=True, return_counts=True)
    order = first.argsort()
    found = np.concatenate(ranks.all_gather(ours[order]))
    counts = np.concatenate(ranks.all_gather(counts[order]))
    known, first, place = np.unique(found, return_index=True, return_inverse=True)
    if len(known) < 2:
        raise ValueError(
            "groups must have at least 2 different values in rows of positive weight, "
            "because each group is held out as a whole; got 1. Pass the label of each "
            "row's group, or omit groups."
        )
    number = first.argsort().argsort()
    sizes = np.bincount(number[place], weights=counts).astype(np.intp)
    return number[np.searchsorted(known, codes)], sizes
