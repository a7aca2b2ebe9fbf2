"""Torch's threads: shared by concurrent fits, and limited after a fork.

Fits that run side by side in one process, as in a search under joblib's threading
backend or on a Dask worker of several threads, would wait for one another if each of
them used all threads. Worker processes are limited from outside, by joblib and Dask.

A forked child inherits the state of OpenMP's thread pool, but not its threads, so that
its first parallel region waits forever (GCC bug 58378). Such a child therefore computes
with one thread, as torch's own data loader workers do.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from threadpoolctl import threadpool_limits

# Multiply-adds of a batch's forward pass for which a thread pays: with fewer, two
# threads take over 1.2 times the processor time of one.
WORK_PER_THREAD = 3 * 2**24

_lock = threading.Lock()
_n_fits = 0
_n_threads = 1
_is_forked = False


@contextmanager
def shared_threads() -> Iterator[None]:
    """Count a fit among those that share the threads; restore the number at its end."""
    global _n_fits, _n_threads
    with _lock:
        if _n_fits == 0:  # otherwise the number may be a share, inherited from a fit
            _n_threads = torch.get_num_threads()
        _n_fits += 1
    try:
        yield
    finally:
        with _lock:
            _n_fits -= 1
            _set_threads(_n_threads)


def take_share(work: int) -> None:
    """Give the calling fit an equal share of the threads, or fewer for little work.

    Parameters
    ----------
    work : int
        Multiply-adds of a forward pass: threads with little work mostly wait for one
        another, and keep a processor busy while they wait.
    """
    if _n_fits:
        share = _n_threads // _n_fits
        _set_threads(max(1, min(share, work // WORK_PER_THREAD)))


def openmp_limits() -> AbstractContextManager[object]:
    """Limit the OpenMP of other libraries to one thread in a forked child."""
    limits: AbstractContextManager[object] = nullcontext()
    if _is_forked:
        limits = threadpool_limits(limits=1, user_api="openmp")
    return limits


def _set_threads(number: int) -> None:
    """Set the threads of the calling thread, and of those that it starts."""
    if torch.get_num_threads() != number:
        torch.set_num_threads(number)


def _after_fork() -> None:
    """Use one thread in a forked child, and reset the count of fits."""
    global _lock, _n_fits, _is_forked
    _lock, _n_fits, _is_forked = threading.Lock(), 0, True
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
