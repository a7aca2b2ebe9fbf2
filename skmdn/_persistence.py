"""The state of an estimator that is stored: arrays and builtins, under a seal.

The seal is a version, so that a form this release does not know is refused, and a
digest, so that a file that was damaged or edited is refused too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from skmdn._arrays import to_numpy, to_tensor
from skmdn._version import __version__
from skmdn.nn import MixtureDensityNetwork

__all__ = [
    "digest",
    "network_from_arrays",
    "network_to_arrays",
    "seal",
    "unseal",
]

# Raised by one whenever stored states change their form; older ones are then brought
# up to date when they are opened, and tests/models keeps one of each.
STATE_VERSION = 2

SEAL = "_seal"

# Numbers of an array that are digested at once.
BLOCK_NUMBERS = 2**16


def seal(state: dict[str, Any]) -> dict[str, Any]:
    """Add the version and the digest of a state."""
    versions = {"state": STATE_VERSION, "skmdn": __version__}
    return state | {SEAL: versions | {"digest": digest(state)}}


def unseal(name: str, state: dict[str, Any]) -> dict[str, Any]:
    """Check the seal of a state and take it off.

    Parameters
    ----------
    name : str
        What the state is of, for the messages.
    state : dict
        As `seal` gives it.

    Raises
    ------
    ValueError
        If a newer release wrote the state, or if it is not as it was written.
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
            f"The stored {name} is not as skmdn {writer} wrote it: it is damaged or "
            "was edited. Restore the file, or fit again."
        )
    return state


def digest(item: Any) -> str:
    """Digest of arrays and builtins, nested in any way."""
    total = hashlib.blake2b(digest_size=16)
    for part in _encoded(item):
        total.update(part)
    return total.hexdigest()


def _encoded(item: Any) -> Iterator[bytes]:
    """Bytes that differ wherever items do, and not by where they are stored.

    Of functions and classes only the name is known, of other objects, such as
    generators among the parameters, the type.
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
        # repr tells every float from every other.
        yield f"{type(item).__name__}:{item!r};".encode()
    else:
        named = item if hasattr(item, "__qualname__") else type(item)
        yield f"<{named.__qualname__}>".encode()


def network_to_arrays(network: MixtureDensityNetwork) -> dict[str, NDArray]:
    """Parameters by name."""
    return {name: to_numpy(p) for name, p in network.state_dict().items()}


def network_from_arrays(
    structure: dict[str, Any], arrays: dict[str, NDArray]
) -> MixtureDensityNetwork:
    """Rebuild a network; arrays are copied, so they may be read-only memory maps."""
    network = MixtureDensityNetwork(**structure).to(torch.float64).eval()
    network.load_state_dict({name: to_tensor(array) for name, array in arrays.items()})
    return network
