"""Tables of the benchmarks, and the samples that the public ladder takes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

Array = NDArray[np.float64]


def as_columns(y: Array) -> Array:
    return y.reshape(len(y), -1)


def load(path: Path) -> tuple[Array, Array, NDArray[np.bool_] | None]:
    """Return X, y and the masks of the test rows, (n_splits, n), if there are any."""
    with np.load(path) as arrays:
        X, y = arrays["X"].astype(np.float64), arrays["y"].astype(np.float64)
        masks = arrays.get("test_mask")
    return X, y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y, masks


def ladder_split(
    X: Array, y: Array, n: int, repetition: int, inner: bool = False
) -> tuple[Array, Array, Array, Array]:
    """Return X_train, X_test, y_train and y_test of a repetition at n rows.

    The rows are the first n of a fixed permutation; a quarter of them is for testing;
    X is standardised by the training rows. With `inner`, the training rows alone are
    split once more in the same way.
    """
    rows = (
        np.random.RandomState(42).permutation(len(X))[:n] if n < len(X) else slice(None)
    )
    X, y = X[rows], y[rows]
    parts = train_test_split(X, y, test_size=0.25, random_state=repetition)
    if inner:
        parts = train_test_split(
            parts[0], parts[2], test_size=0.25, random_state=repetition
        )
    X_train, X_test, y_train, y_test = parts
    units = StandardScaler().fit(X_train)
    return units.transform(X_train), units.transform(X_test), y_train, y_test
