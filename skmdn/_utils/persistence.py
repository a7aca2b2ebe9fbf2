"""Sealed states: what is stored of an estimator or of a fit, as arrays and builtins.

The seal holds the version of the form, so that a form that this release does not read
is refused; a digest, so that a damaged or edited file is refused; and the versions of
the packages that wrote it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import sklearn
import torch
from scipy import sparse
from sklearn.exceptions import InconsistentVersionWarning

from skmdn._utils.warn import warn
from skmdn._version import __version__

# Raise by one whenever the form of stored states changes; `MDNRegressor` then converts
# older ones when they are opened, and tests/models keeps one of each.
STATE_VERSION = 5

SEAL = "_seal"
WRITERS = {
    "skmdn": __version__,
    "torch": str(torch.__version__),
    "scikit-learn": sklearn.__version__,
}

# Numbers of an array that are digested at once.
BLOCK_NUMBERS = 2**16


class WriterVersionWarning(InconsistentVersionWarning):  # type: ignore[misc]
    """scikit-learn's warning of another version, for any of the packages."""

    def __init__(self, name: str, package: str, stored: str, current: str) -> None:
        super().__init__(
            estimator_name=name,
            current_sklearn_version=current,
            original_sklearn_version=stored,
        )
        self.package = package

    def __str__(self) -> str:
        return (
            f"The stored {self.estimator_name} was written with {self.package} "
            f"{self.original_sklearn_version}, and is opened with {self.package} "
            f"{self.current_sklearn_version}. Its predictions may differ in the last "
            "digits; a continued fit may differ by more."
        )


def seal(state: dict[str, Any]) -> dict[str, Any]:
    """Add the versions and the digest of a state."""
    versions = {"state": STATE_VERSION, **WRITERS}
    return state | {SEAL: versions | {"digest": digest(state)}}


def unseal(name: str, state: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Check the seal of a state and remove it.

    Parameters
    ----------
    name : str
        Kind of the stored object, for the messages.
    state : dict
        As returned by `seal`.

    Returns
    -------
    state : dict
        Without the seal.
    version : int
        Version of its form.

    Raises
    ------
    ValueError
        If a newer release wrote the state, or if the state was changed since.

    Warns
    -----
    InconsistentVersionWarning
        If another version of skmdn, torch or scikit-learn wrote the state.
    """
    state = dict(state)
    try:
        found = state.pop(SEAL)
        version, writer, expected = (found[k] for k in ("state", "skmdn", "digest"))
    except (KeyError, TypeError) as exc:
        raise ValueError(
            f"The stored {name} has no seal of skmdn: it is damaged, was edited, or "
            "was not written by skmdn. Store the estimator again."
        ) from exc
    if version not in range(1, STATE_VERSION + 1):
        raise ValueError(
            f"The stored {name} was written by skmdn {writer} in version {version} of "
            f"its form, but skmdn {__version__} reads version {STATE_VERSION}. Install "
            f"skmdn>={writer}."
        )
    if digest(state) != expected:
        raise ValueError(
            f"The stored {name} differs from the one that skmdn {writer} wrote: it is "
            "damaged or was edited. Restore the file, or fit again."
        )
    for package, current in WRITERS.items():
        stored = found.get(package, current)  # older forms keep skmdn's version only
        if _public(stored) != _public(current):
            warn(WriterVersionWarning(name, package, stored, current))
    return state, version


def _public(version: str) -> str:
    """Version without the local part, which names a build such as +cpu."""
    return str(version).partition("+")[0]


def digest(item: Any) -> str:
    """Compute a digest of nested arrays and builtins."""
    total = hashlib.blake2b(digest_size=16)
    for part in _encoded(item):
        total.update(part)
    return total.hexdigest()


def _encoded(item: Any) -> Iterator[bytes]:
    """Encode an item as bytes that differ wherever items do, however they are stored.

    Functions and classes are encoded by their name, other objects, such as generators
    among the parameters, by their type.
    """
    if isinstance(item, dict):
        yield b"{%d" % len(item)
        for key in sorted(item):
            yield from _encoded(key)
            yield from _encoded(item[key])
    elif isinstance(item, (list, tuple)):
        yield b"(%d" % len(item)
        for part in item:
            yield from _encoded(part)
    elif isinstance(item, np.ndarray) and item.dtype != object:
        yield f"{item.dtype.str}{item.shape}".encode()
        # Block by block: rows may be a memory map larger than the memory.
        for block in np.nditer(
            item,
            flags=["external_loop", "buffered", "zerosize_ok"],
            order="C",
            buffersize=BLOCK_NUMBERS,
        ):
            yield np.asarray(block).tobytes()
    elif isinstance(item, np.ndarray):
        yield from _encoded(item.tolist())
    elif sparse.issparse(item):
        rows = item.tocsr()
        yield from _encoded([rows.shape, rows.data, rows.indices, rows.indptr])
    elif isinstance(item, np.generic):
        yield from _encoded(item.item())
    elif isinstance(item, (str, bytes, int, float, type(None))):
        # repr distinguishes all floats.
        yield f"{type(item).__name__}:{item!r};".encode()
    else:
        named = item if hasattr(item, "__qualname__") else type(item)
        yield f"<{named.__qualname__}>".encode()
