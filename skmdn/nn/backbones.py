"""User-defined modules in place of the embedding and the hidden layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from skmdn.nn.isolation import (
    RoutedRandomness,
    lend_global_generators,
    neutral_defaults,
    seed_restored,
    spawn_generators,
)
from skmdn.nn.layers import draw_dropout_mask

# Layers of torch whose forward pass draws no random numbers.
DETERMINISTIC_LAYERS = {
    layer
    for file in (
        nn.modules.activation,
        nn.modules.batchnorm,
        nn.modules.conv,
        nn.modules.flatten,
        nn.modules.instancenorm,
        nn.modules.linear,
        nn.modules.normalization,
        nn.modules.padding,
    )
    for layer in vars(file).values()
    if isinstance(layer, type) and issubclass(layer, nn.Module)
} - {nn.RReLU, nn.MultiheadAttention}


class Backbones(nn.ModuleList):
    """User-defined modules, one per member; each maps the rows of its member.

    While training, nested :class:`torch.nn.Sequential` of deterministic layers of torch
    and :class:`torch.nn.Dropout` are run layer by layer, and dropout draws from the
    generator given. Any other module may draw random numbers anywhere: during its
    forward pass the global generators are seeded from the generator given, and
    restored afterwards. Another thread that draws from a global generator at that
    time is disturbed.

    Shape: (n_members, n, n_features) -> (n_members, n, n_outputs).

    Parameters
    ----------
    network : callable
        ``network(n_features)`` builds a module (n, n_features) -> (n, width).
    n_members, n_features : int
    generator : torch.Generator
        Source of the initial parameters.

    Raises
    ------
    ValueError
        If `network` returns no module, or one that shares parameters with another or
        differs from it in shape, or that does not map rows to rows.
    """

    def __init__(
        self,
        network: Callable[[int], nn.Module],
        n_members: int,
        n_features: int,
        *,
        generator: torch.Generator,
    ) -> None:
        cpu = torch.device("cpu")
        with (
            neutral_defaults(cpu),
            seed_restored(),
            RoutedRandomness(spawn_generators(generator, cpu)),
        ):
            members = [network(n_features) for _ in range(n_members)]
            for member in members:
                if not isinstance(member, nn.Module):
                    raise ValueError(
                        "network must build a torch.nn.Module, got "
                        f"{type(member).__name__}."
                    )
                member.to(torch.float32)
            # Lazy modules take their shapes from the first rows they see.
            probes = [_probe(member, n_features) for member in members]
        super().__init__(members)
        self.n_outputs, self.floats_per_row = probes[0]
        _check_alike(members)
        self.is_sequential = all(map(_is_sequential, members))

    def forward(self, X: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Map the rows of each member; while training, draw from `generator`."""
        with neutral_defaults(X.device):
            if not self.training or generator is None:
                return self._map(X, nn.Module.__call__)
            generators = spawn_generators(generator, X.device)
            if self.is_sequential:
                return self._map(X, lambda net, x: _run(net, x, generators[-1]))
            with lend_global_generators(generators):
                return self._map(X, nn.Module.__call__)

    def _map(self, X: Tensor, call: Callable[[nn.Module, Tensor], Any]) -> Tensor:
        return torch.stack([call(net, x) for net, x in zip(self, X, strict=True)])

    def parameter_groups(self) -> dict[str, list[Tensor]]:
        """Floating-point parameters and buffers by name, each a list over members."""
        named = [_floats(member) for member in self]
        return {name: [floats[name] for floats in named] for name in named[0]}


# -- evaluation layer by layer -----------------------------------------------------


def _is_sequential(module: nn.Module) -> bool:
    """Whether `_run` computes what calling the module does."""
    return all(
        type(part) in DETERMINISTIC_LAYERS | {nn.Sequential, nn.Dropout}
        and not part._forward_hooks
        and not part._forward_pre_hooks
        and "forward" not in vars(part)
        for part in module.modules()
    )


def _run(module: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
    """Call a module in which dropout draws from `generator`."""
    if type(module) is nn.Sequential:
        for part in module:
            x = _run(part, x, generator)
        return x
    if type(module) is nn.Dropout and module.training and 0 < module.p < 1:
        return x * draw_dropout_mask(x, module.p, generator)
    return cast(Tensor, module(x))


# -- checks ------------------------------------------------------------------------


@torch.no_grad()
def _probe(module: nn.Module, n_features: int) -> tuple[int, int]:
    """Return the width of the output, and the floats that all layers make per row."""
    n_rows, made = 2, []
    hooks = [
        part.register_forward_hook(lambda part, rows, output: made.append(output))
        for part in module.modules()
    ]
    was_training = module.training
    rows = torch.zeros(n_rows, n_features, device="cpu", dtype=torch.float32)
    output = module.eval()(rows)
    module.train(was_training)
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
    tensors = [item for item in made if isinstance(item, Tensor)]
    return output.shape[1], sum(map(Tensor.numel, tensors)) // n_rows


def _check_alike(members: list[nn.Module]) -> None:
    """Check that members have parameters of equal shapes, and none in common."""
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


def _floats(module: nn.Module) -> dict[str, Tensor]:
    """Floating-point parameters and buffers by name."""
    named = dict(module.named_parameters()) | dict(module.named_buffers())
    return {name: item for name, item in named.items() if item.is_floating_point()}
