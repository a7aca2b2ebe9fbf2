"""Networks of a user's own, one for each member, in the place of ours."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["Backbones", "lend_global_generator"]

_lock = threading.Lock()


class Backbones(nn.ModuleList):
    """Modules that a callable builds, each for the rows of its member.

    Shape: (n_members, n, n_features) -> (n_members, n, n_outputs).

    Parameters
    ----------
    network : callable
        ``network(n_features)`` builds a module (n, n_features) -> (n, width).
    n_members, n_features : int
    generator : torch.Generator
        Source of their parameters at the start.

    Raises
    ------
    ValueError
        If what it builds is no module, shares parameters or differs between calls,
        or does not map rows to rows.
    """

    def __init__(
        self,
        network: Callable[[int], nn.Module],
        n_members: int,
        n_features: int,
        *,
        generator: torch.Generator,
    ) -> None:
        with lend_global_generator(generator):
            members = [network(n_features) for _ in range(n_members)]
            for member in members:
                if not isinstance(member, nn.Module):
                    raise ValueError(
                        "network must build a torch.nn.Module, got "
                        f"{type(member).__name__}."
                    )
            # Lazy modules take their shapes from the first rows they see.
            probes = [_probe(member, n_features) for member in members]
        super().__init__(members)
        self.n_outputs, self.floats_per_row = probes[0]
        _check_alike(members)

    def forward(self, X: Tensor) -> Tensor:
        return torch.stack([net(rows) for net, rows in zip(self, X, strict=True)])

    def slots(self) -> dict[str, list[Tensor]]:
        """Parameters and buffers in floats by name, each as one of every member."""
        named = [_floats(member) for member in self]
        return {name: [floats[name] for floats in named] for name in named[0]}


@contextmanager
def lend_global_generator(
    generator: torch.Generator, device: torch.device | None = None
) -> Iterator[None]:
    """Let code that draws from torch's global generator draw from ours.

    Afterwards the global one is as it was. Other threads that ask for it wait.
    """
    is_cuda = device is not None and device.type == "cuda"
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    with _lock, torch.random.fork_rng(devices=[device] if is_cuda else []):
        torch.default_generator.manual_seed(seed)
        if is_cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


@torch.no_grad()
def _probe(module: nn.Module, n_features: int) -> tuple[int, int]:
    """Width of what a module gives, and how many numbers it makes of a row."""
    n_rows, numbers = 2, []
    hooks = [
        part.register_forward_hook(lambda part, rows, output: numbers.append(output))
        for part in module.modules()
    ]
    is_training = module.training
    output = module.eval()(torch.zeros(n_rows, n_features))
    module.train(is_training)
    for hook in hooks:
        hook.remove()
    is_fit = isinstance(output, Tensor) and output.ndim == 2 and len(output) == n_rows
    if not is_fit or 0 in output.shape:
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output)
        raise ValueError(
            "network must build modules that map (n_samples, n_features) to "
            f"(n_samples, width), but {n_rows} rows of {n_features} features gave "
            f"{found}. A Flatten at the end may be missing."
        )
    tensors = [item for item in numbers if isinstance(item, Tensor)]
    return output.shape[1], sum(map(Tensor.numel, tensors)) // n_rows


def _floats(module: nn.Module) -> dict[str, Tensor]:
    """What a module learns, and what it keeps besides, as batch normalisation does."""
    named = dict(module.named_parameters()) | dict(module.named_buffers())
    return {name: item for name, item in named.items() if item.is_floating_point()}


def _check_alike(members: list[nn.Module]) -> None:
    shapes = [
        {name: item.shape for name, item in _floats(member).items()}
        for member in members
    ]
    if any(other != shapes[0] for other in shapes):
        raise ValueError("network must build modules of equal shape in every call.")
    items = [id(item) for member in members for item in _floats(member).values()]
    if len(set(items)) < len(items):
        raise ValueError(
            "network must build a new module in every call, with parameters of its own."
        )
