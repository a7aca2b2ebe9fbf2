"""Operations of a training step on a GPU, captured as CUDA graphs.

The matrices of a step are so small that a GPU multiplies them faster than Python
launches the next product. A captured graph launches all operations at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from skmdn.nn.covariance import CholeskyHead
from skmdn.nn.network import MixtureDensityNetwork

# Calls before the capture: they allocate what CUDA's libraries keep.
N_PLAIN_CALLS = 3

# CUDA captures for one thread at a time.
_lock = threading.Lock()


class Captured:
    """A function of tensors on a GPU that is replayed after its first calls.

    Parameters
    ----------
    function : callable
        Its arguments are tensors of fixed shapes, or numbers. What it returns is
        overwritten by the next call.
    device : torch.device
    """

    def __init__(self, function: Callable[..., Any], device: torch.device) -> None:
        self.function = function
        self.device = device
        self.n_calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *arguments: Tensor | float) -> Any:
        """Call the function, or replay it with the values of these arguments."""
        self.n_calls += 1
        if self.n_calls == N_PLAIN_CALLS + 1:
            self._capture(arguments)
        if self.graph is None:
            return self.function(*arguments)
        # A graph reads fixed addresses.
        for buffer, values in zip(self.buffers, arguments, strict=True):
            if isinstance(values, Tensor):
                buffer.copy_(values)
            else:
                buffer.fill_(values)
        self.graph.replay()
        return self.result

    def _capture(self, arguments: tuple[Tensor | float, ...]) -> None:
        """Record the operations without running them.

        Another thread that waits for the whole GPU meanwhile ends the capture; the
        function is then called as before.
        """
        options: dict[str, Any] = {"dtype": torch.float32, "device": self.device}
        self.buffers = [
            values.clone()
            if isinstance(values, Tensor)
            else torch.tensor(values, **options)
            for values in arguments
        ]
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            with _lock, torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self.result = self.function(*self.buffers)
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError:
            # torch does not leave the stream of a capture that fails at its end.
            torch.cuda.set_stream(stream)
            return
        self.graph = graph


def can_capture(network: MixtureDensityNetwork) -> bool:
    """Return whether the operations of a step can be captured.

    Autograd, modules of users and some factorisations may wait for the GPU, and dropout
    draws from a generator.
    """
    weight = network.head.linear.weight
    return (
        weight.is_cuda
        # A graph is captured on the current device.
        and weight.get_device() == torch.cuda.current_device()
        and network.backbones is None
        and network.dropout == 0
        and isinstance(network.head, CholeskyHead)
    )
