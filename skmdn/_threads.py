"""Torch's threads, shared by the fits that run side by side in one process.

As in a search under joblib's threading backend, or on a Dask worker of several threads:
if each of them took all threads, they would wait for one another. Worker processes are
bounded from outside, by joblib and Dask.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["shared_threads", "take_share"]

_lock = threading.Lock()
_n_fits = 0
_n_threads = 1


@contextmanager
def shared_threads() -> Iterator[None]:
    """Count a fit among those that share the threads; at its end, give them back."""
    global _n_fits, _n_threads
    with _lock:
        if _n_fits == 0:  # else the number may be a share, inherited from a fit
            _n_threads = torch.get_num_threads()
        _n_fits += 1
    try:
        yield
    finally:
        with _lock:
            _n_fits -= 1
            _set_threads(_n_threads)


def take_share() -> None:
    """Let torch use this fit's share of the threads, as many fits as there are now."""
    _set_threads(max(1, _n_threads // _n_fits))


def _set_threads(number: int) -> None:
    """Set the threads of the calling thread, and of those that it starts."""
    if torch.get_num_threads() != number:
        torch.set_num_threads(number)
