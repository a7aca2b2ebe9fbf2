"""The interface between NumPy and torch: arrays, devices, randomness, memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from numbers import Integral
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn import get_config

from skmdn._utils.warn import warn

MEBIBYTE = 2**20
# Chunks that fit a processor's cache are several times faster than large ones.
CACHE_MEBIBYTES = 16
# Arrays of this size are allocated without the system, and many passes over one stay
# in the cache of a core.
PASS_MEBIBYTES = 1 / 8


def to_tensor(
    array: ArrayLike,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Copy an array to a tensor; the copy makes read-only memory maps writable."""
    array = np.asarray(array)
    if min(array.strides, default=0) < 0:  # torch refuses them
        array = array.copy()
    return torch.tensor(array, dtype=dtype, device=device)


def to_numpy(tensor: torch.Tensor) -> NDArray[np.float64]:
    """Move a tensor to a float64 array."""
    array: NDArray[np.float64] = tensor.detach().to("cpu", torch.float64).numpy()
    return array


@contextmanager
def neutral_modes() -> Iterator[None]:
    """Compute outside of the caller's autocast and inference mode.

    Default dtype and default device need no such context: every tensor states its own.
    """
    with ExitStack() as modes:
        if torch.is_inference_mode_enabled():
            modes.enter_context(torch.inference_mode(mode=False))
        for device_type in ("cpu", "cuda"):
            modes.enter_context(torch.autocast(device_type, enabled=False))
        yield


@contextmanager
def inference() -> Iterator[None]:
    """Compute without gradients, and outside of the caller's modes."""
    # In this order, since leaving the inference mode enables gradients.
    with neutral_modes(), torch.no_grad():
        yield


def resolve_device(device: str, *, fitting: bool) -> torch.device:
    """Turn the `device` parameter into a device that exists.

    Fitting raises if the device does not exist. Prediction falls back to the CPU with a
    warning, so that a model fitted on an accelerator opens on a machine without one.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as exc:
        raise ValueError(
            f"device must be 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps', "
            f"got device={device!r}."
        ) from exc
    if _is_present(resolved):
        return resolved
    if fitting:
        raise ValueError(
            f"device={device!r} is not available on this machine. Use device='auto' "
            "to use an accelerator only if there is one, or device='cpu'."
        )
    warn(f"device={device!r} is not available on this machine; predicting on the CPU.")
    return torch.device("cpu")


def _is_present(device: torch.device) -> bool:
    if device.type == "cuda":
        return (device.index or 0) < torch.cuda.device_count()
    if device.type == "mps":
        return torch.backends.mps.is_available()
    return device.type == "cpu"


def make_seed(random_state: Any, name: str = "random_state") -> int:
    """Draw a 63-bit seed.

    An integer seeds reproducibly, a generator is advanced, and `None` takes fresh
    entropy from the system: the global generators are not used.

    Raises
    ------
    ValueError
        If `random_state` has another type or is negative. The message contains `name`.
    """
    if random_state is None:
        random_state = np.random.default_rng()
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**63))
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**63 - 1, dtype=np.int64))
    is_seed = isinstance(random_state, Integral) and not isinstance(random_state, bool)
    if not is_seed or random_state < 0:
        raise ValueError(
            f"{name} must be None, a non-negative integer, a numpy.random.RandomState "
            f"or a numpy.random.Generator, got {random_state!r}."
        )
    return int(random_state)


def check_n_samples(n_samples: Any, least: int = 1) -> int:
    """Return a number of samples as int; raise if it is less than the least one."""
    is_number = isinstance(n_samples, Integral) and not isinstance(n_samples, bool)
    if not is_number or n_samples < least:
        kind = "a positive integer" if least == 1 else f"an integer of at least {least}"
        raise ValueError(f"n_samples must be {kind}, got {n_samples!r}.")
    return int(n_samples)


def draw_seed(generator: torch.Generator, bound: int = 2**62) -> int:
    """Draw a seed below a bound from a generator on any device."""
    draw = torch.randint(
        bound, (), generator=generator, device=generator.device, dtype=torch.int64
    )
    return int(draw)


def make_generator(
    seed: int, *, stream: int = 0, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Make a torch generator; each stream of a seed gives other numbers."""
    state = np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)[0]
    return torch.Generator(device=device).manual_seed(int(state) >> 1)


def rows_per_chunk(bytes_per_row: int, mebibytes: float = CACHE_MEBIBYTES) -> int:
    """Return how many rows, one at least, fit the cache and another bound."""
    budget = min(mebibytes, CACHE_MEBIBYTES) * MEBIBYTE
    return max(1, int(budget // max(1, bytes_per_row)))


def row_chunks(
    n_rows: int, bytes_per_row: int, mebibytes: float = CACHE_MEBIBYTES
) -> Iterator[slice]:
    """Cut rows into slices that fit the cache and scikit-learn's `working_memory`."""
    bound = min(mebibytes, get_config()["working_memory"])
    size = rows_per_chunk(bytes_per_row, bound)
    for start in range(0, n_rows, size):
        yield slice(start, min(start + size, n_rows))
