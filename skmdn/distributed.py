"""Processes that fit one model together, each on rows of its own.

Where `torch.distributed` is initialised, as under ``torchrun``, every rank calls `fit`
with its shard, and all of them end with the same networks. Whatever depends on all
rows goes through `Ranks`: sums and maxima, and what the first rank decided. Alone, each
of these gives back what it was given.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

__all__ = ["ALONE", "Ranks", "RanksLostError", "join", "use_group"]

WORLD = "world"

_chosen: ContextVar[Any] = ContextVar("skmdn.distributed", default=WORLD)


class RanksLostError(RuntimeError):
    """Other ranks of a fit failed, died, or gave no sign for too long."""


class Ranks:
    """The processes of a group, numbered from zero.

    Every rank must call the same methods in the same order. Sums have the same bits on
    all ranks, so that what is decided by them is decided alike.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup, default=None
        None for a process alone.

    Examples
    --------
    >>> from skmdn.distributed import Ranks
    >>> ranks = Ranks()
    >>> ranks.size, ranks.sum([1.0, 2.0])
    (1, array([1., 2.]))
    """

    def __init__(self, group: Any = None) -> None:
        self.group = group
        self.rank: int = 0 if group is None else group.rank()
        self.size: int = 1 if group is None else group.size()

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sum over the ranks, in place."""
        return self._reduce_(tensor, "SUM")

    def sum(self, array: ArrayLike) -> NDArray[np.float64]:
        """Sum over the ranks, in float64."""
        return self.sum_(torch.tensor(np.asarray(array), dtype=torch.float64)).numpy()

    def max(self, array: ArrayLike) -> NDArray[np.float64]:
        """Maximum over the ranks, in float64."""
        tensor = torch.tensor(np.asarray(array), dtype=torch.float64)
        return self._reduce_(tensor, "MAX").numpy()

    def first_(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by that of rank 0, in place."""
        return self.sum_(tensor if self.rank == 0 else tensor.zero_())

    def first(self, array: ArrayLike) -> NDArray:
        """Array of rank 0; those of the others may have other shapes."""
        if self.size == 1:
            return np.asarray(array)
        data = _to_bytes(array if self.rank == 0 else [])
        room = torch.zeros(int(self.max(len(data))), dtype=torch.uint8)
        if self.rank == 0:
            room[:] = data
        return _to_array(self.sum_(room))

    def share(self, array: ArrayLike) -> list[NDArray]:
        """Array of each rank, of shapes that may differ."""
        if self.size == 1:
            return [np.asarray(array)]
        data = _to_bytes(array)
        room = torch.zeros(self.size, int(self.max(len(data))), dtype=torch.uint8)
        room[self.rank, : len(data)] = data
        return [_to_array(row) for row in self.sum_(room)]

    def leave(self, is_given: bool) -> None:
        """Let the group go; destroy it, unless it was given.

        Connections close with the last reference to it. So nothing that a traceback
        keeps may hold one.
        """
        group, self.group = self.group, None
        if group is not None and not is_given:
            dist.destroy_process_group(group)

    def _reduce_(self, tensor: Tensor, operation: str) -> Tensor:
        if self.size == 1:
            return tensor
        options = dist.AllreduceOptions()
        options.reduceOp = getattr(dist.ReduceOp, operation)
        # NCCL reduces on accelerators only.
        needs_cuda = self.group.name() == "nccl"
        room = tensor.cuda() if needs_cuda else tensor.contiguous()
        try:
            self.group.allreduce([room], options).wait()
        except RuntimeError as exc:
            raise RanksLostError(
                f"Rank {self.rank} of {self.size} has lost the others: one of them "
                "failed, died, or gave no sign for longer than the group's timeout. "
                "See its own error, and run all ranks again; with a "
                "skmdn.callbacks.Checkpoint they go on from the last epoch stored. "
                f"(torch says: {exc})"
            ) from exc
        return tensor if room is tensor else tensor.copy_(room)


ALONE = Ranks()


@contextmanager
def join() -> Iterator[Ranks]:
    """Ranks for one fit, in a group that ends with it.

    A rank that fails leaves the group, so that the others fail at once too, instead
    of waiting for it; and the group that the user made stays whole.
    """
    is_given = _chosen.get() is not WORLD
    ranks = Ranks(_chosen.get() if is_given else _group_of_the_world())
    try:
        yield ranks
    finally:
        ranks.leave(is_given)


def _group_of_the_world() -> Any:
    """Of all ranks, where there are several."""
    if not (dist.is_available() and dist.is_initialized()):
        return None
    return dist.new_group() if dist.get_world_size() > 1 else None


@contextmanager
def use_group(group: Any) -> Iterator[None]:
    """Fit on the ranks of a group, instead of on all that `torch.distributed` knows.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup or None
        Of which this process is a rank; None to fit alone. A group given here also
        serves fits that follow each other closely, for which a group of their own
        each takes long to make; but where a rank fails, the others wait for it as
        long as the group's timeout says.

    Examples
    --------
    Searches split over the ranks, each of which fits alone:

    >>> from skmdn import MDNRegressor
    >>> from skmdn.datasets import load_geyser
    >>> from skmdn.distributed import use_group
    >>> X, y = load_geyser(return_X_y=True)
    >>> with use_group(None):
    ...     mdn = MDNRegressor(max_iter=5, random_state=0).fit(X, y)
    """
    token = _chosen.set(group)
    del group  # see Ranks.leave
    try:
        yield
    finally:
        _chosen.reset(token)


def _to_bytes(array: ArrayLike) -> Tensor:
    """An array with its dtype and shape."""
    file = io.BytesIO()
    np.save(file, np.asarray(array), allow_pickle=False)
    return torch.frombuffer(file.getbuffer(), dtype=torch.uint8)


def _to_array(data: Tensor) -> NDArray:
    return np.load(io.BytesIO(data.numpy().tobytes()), allow_pickle=False)
