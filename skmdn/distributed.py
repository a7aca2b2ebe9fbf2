"""Fits of one model on several processes, each with its own rows.

If `torch.distributed` is initialised, as under ``torchrun``, every rank calls `fit`
with its shard, and all ranks end with the same networks. Everything that depends on all
rows is communicated by `Ranks`: sums, maxima, and decisions of rank 0. For a single
process, each of these operations is the identity.
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

from skmdn._utils.arrays import to_tensor
from skmdn._utils.compat import TORCH_VERSION, parse_version
from skmdn._utils.warn import warn

__all__ = ["ALONE", "Ranks", "RanksLostError", "join", "use_group"]

WORLD = "world"

_chosen: ContextVar[Any] = ContextVar("skmdn.distributed", default=WORLD)


class RanksLostError(RuntimeError):
    """Other ranks of a fit failed, died or did not respond in time."""


class Ranks:
    """Collective operations on the processes of a group, numbered from zero.

    Every rank must call the same methods in the same order. Sums have the same bits on
    all ranks, so that all ranks make the same decisions.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup, default=None
        Process group; None for a single process.

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

    def all_reduce_(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over the ranks, in place."""
        return self._reduce_(tensor, "SUM")

    def sum(self, array: ArrayLike) -> NDArray[np.float64]:
        """Return the sum over the ranks, in float64."""
        return self.all_reduce_(to_tensor(array)).numpy()

    def max(self, array: ArrayLike) -> NDArray[np.float64]:
        """Return the maximum over the ranks, in float64."""
        tensor = to_tensor(array)
        return self._reduce_(tensor, "MAX").numpy()

    def broadcast_(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by that of rank 0, in place."""
        return self.all_reduce_(tensor if self.rank == 0 else tensor.zero_())

    def broadcast(self, array: ArrayLike) -> NDArray[Any]:
        """Return the array of rank 0; arrays of other ranks may differ in shape."""
        if self.size == 1:
            return np.asarray(array)
        data = _to_bytes(array if self.rank == 0 else [])
        buffer = torch.zeros(int(self.max(len(data))), dtype=torch.uint8, device="cpu")
        if self.rank == 0:
            buffer[:] = data
        return _to_array(self.all_reduce_(buffer))

    def all_gather(self, array: ArrayLike) -> list[NDArray[Any]]:
        """Return the arrays of all ranks; their shapes may differ."""
        if self.size == 1:
            return [np.asarray(array)]
        data = _to_bytes(array)
        buffer = torch.zeros(
            self.size, int(self.max(len(data))), dtype=torch.uint8, device="cpu"
        )
        buffer[self.rank, : len(data)] = data
        return [_to_array(row) for row in self.all_reduce_(buffer)]

    def leave(self, is_given: bool) -> None:
        """Release the group, and destroy it unless the user created it.

        The connections close with the last reference to the group. Objects that are
        reachable from a traceback must therefore not hold a reference.
        """
        group, self.group = self.group, None
        if group is not None and not is_given:
            dist.destroy_process_group(group)

    def _reduce_(self, tensor: Tensor, operation: str) -> Tensor:
        if self.size == 1:
            return tensor
        options = dist.AllreduceOptions()
        options.reduceOp = getattr(dist.ReduceOp, operation)
        # NCCL supports CUDA tensors only.
        needs_cuda = self.group.name() == "nccl"
        buffer = tensor.cuda() if needs_cuda else tensor.contiguous()
        try:
            self.group.allreduce([buffer], options).wait()
        except RuntimeError as exc:
            raise RanksLostError(
                f"Rank {self.rank} of {self.size} lost the other ranks: one of them "
                "failed, died or did not respond within the timeout of the group. See "
                "the error of that rank, and run all ranks again; with a "
                "skmdn.callbacks.Checkpoint they resume from the last stored epoch. "
                f"(Error of torch: {exc})"
            ) from exc
        return tensor if buffer is tensor else tensor.copy_(buffer)


ALONE = Ranks()


@contextmanager
def join() -> Iterator[Ranks]:
    """Provide the ranks of one fit, in a process group for this fit only.

    A rank that fails leaves the group, so that the others fail at once instead of
    waiting for it. The default group remains usable.
    """
    is_given = _chosen.get() is not WORLD
    ranks = Ranks(_chosen.get() if is_given else _group_of_the_world())
    try:
        if ranks.size > 1 and parse_version("2.8") > TORCH_VERSION:
            warn(
                "Fits on several processes can hang at their end with torch "
                f"{TORCH_VERSION}, where torch destroys a gloo group. Install "
                "torch>=2.8."
            )
        yield ranks
    finally:
        ranks.leave(is_given)


def _group_of_the_world() -> Any:
    """Return a new group of all ranks, or None if there is one process."""
    if not (dist.is_available() and dist.is_initialized()):
        return None
    return dist.new_group() if dist.get_world_size() > 1 else None


@contextmanager
def use_group(group: Any) -> Iterator[None]:
    """Fit on the ranks of a given group, instead of all ranks.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup or None
        Group that contains this process; None to fit on this process only. A group
        given here is also useful for many short fits, because creating a group for
        each fit takes time. However, if a rank fails, the others wait until the timeout
        of the group.

    Examples
    --------
    Distribute a search over the ranks, each of which fits on its own:

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
    """Serialise an array with its dtype and shape."""
    file = io.BytesIO()
    np.save(file, np.asarray(array), allow_pickle=False)
    return torch.frombuffer(file.getbuffer(), dtype=torch.uint8)


def _to_array(data: Tensor) -> NDArray[Any]:
    """Restore an array from `_to_bytes`."""
    file = io.BytesIO(data.numpy().tobytes())
    array: NDArray[Any] = np.load(file, allow_pickle=False)
    return array
