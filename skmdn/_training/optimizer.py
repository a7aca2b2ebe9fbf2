"""Adam with decoupled weight decay on the parameters of all networks at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

from skmdn._training.auto import TrainingSettings
from skmdn._utils.compat import adam
from skmdn.distributed import Ranks
from skmdn.nn.network import MixtureDensityNetwork

# Factor of the initial learning rate after a share of the training.
LEARNING_RATES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
}


class FlatParameters:
    """A network's parameters and gradients as views of two (n_members, size) buffers.

    Clipping, decay, the best weights and the optimizer then work on one tensor. The
    matrices come first: only they are decayed. Frozen parameters have no gradient,
    and so keep their values.
    """

    def __init__(self, network: MixtureDensityNetwork) -> None:
        matrices: list[list[Tensor]] = []
        others: list[list[Tensor]] = []
        for name, slot in network.parameter_groups().items():
            is_decayed = name.endswith("weight") and slot[0].ndim > 1
            is_matrix = is_decayed and slot[0].requires_grad
            (matrices if is_matrix else others).append(slot)
        slots, n_members = matrices + others, network.n_members
        blocks = [
            torch.cat([part.detach().flatten() for part in slot]).view(n_members, -1)
            for slot in slots
        ]
        sizes = [block.shape[1] for block in blocks]
        self.values = torch.cat(blocks, dim=1)
        self.gradient = torch.zeros_like(self.values)
        self.matrices = self.values[:, : sum(sizes[: len(matrices)])]
        columns = self.values.split(sizes, dim=1), self.gradient.split(sizes, dim=1)
        for slot, *both in zip(slots, *columns, strict=True):
            views = (block.split(n_members // len(slot)) for block in both)
            for part, values, gradient in zip(slot, *views, strict=True):
                part.data = values.view_as(part)
                if part.requires_grad:
                    part.grad = gradient.view_as(part)

    def clip_(self, max_norm: float | None) -> None:
        """Scale each member's gradient to at most max_norm; zero non-finite ones."""
        norm = torch.linalg.vector_norm(self.gradient, dim=1, keepdim=True)
        # Branch-free, and so without a synchronisation: a non-finite norm makes the
        # scale or its product NaN, which is zeroed below.
        scale = 1 + 0 * norm if max_norm is None else (max_norm / norm).clamp_(max=1)
        self.gradient.mul_(scale).nan_to_num_(0.0, 0.0, 0.0)

    def decay_(self, factor: float) -> None:
        """Shrink the matrices by a share of their size."""
        self.matrices.mul_(1 - factor)


class AdamState(NamedTuple):
    """First and second moments of the gradient (n_members, size), and the step count.

    Updated in place.
    """

    mean: Tensor
    square: Tensor
    n_steps: Tensor

    @classmethod
    def zeros_like(cls, values: Tensor) -> AdamState:
        """Start with no history."""
        n_steps = torch.zeros((), dtype=torch.float32, device=values.device)
        return cls(torch.zeros_like(values), torch.zeros_like(values), n_steps)

    def to_arrays(self, prefix: str = "") -> dict[str, NDArray[Any]]:
        """Copy the state to arrays by name, after a prefix."""
        return {
            f"{prefix}{name}": part.cpu().numpy().copy()
            for name, part in self._asdict().items()
        }

    def load_(self, arrays: Mapping[str, NDArray[Any]], prefix: str = "") -> None:
        """Continue from arrays of `to_arrays`."""
        for name, part in self._asdict().items():
            part.copy_(torch.from_numpy(arrays[f"{prefix}{name}"]))


class Optimizer:
    """Parameters of a network, and Adam's state for them."""

    def __init__(
        self, network: MixtureDensityNetwork, settings: TrainingSettings, ranks: Ranks
    ) -> None:
        self.settings = settings
        self.ranks = ranks
        self.parameters = FlatParameters(network)
        self.state = AdamState.zeros_like(self.parameters.values)
        ranks.broadcast_(self.parameters.values)

    def step(self, done: float, damping: float) -> None:
        """Take one step against the gradient, summed over the ranks.

        Parameters
        ----------
        done : float
            Share of the training that is done, which sets the learning rate.
        damping : float
            Further factor of the learning rate.
        """
        settings, parameters = self.settings, self.parameters
        schedule = LEARNING_RATES[settings.learning_rate]
        rate = settings.learning_rate_init * schedule(done)
        rate *= damping
        self.ranks.all_reduce_(parameters.gradient)
        parameters.clip_(settings.max_grad_norm)
        parameters.decay_(rate * settings.alpha)
        # The function takes half the time of the optimizer class for small networks.
        adam(
            [parameters.values],
            [parameters.gradient],
            [self.state.mean],
            [self.state.square],
            [],
            [self.state.n_steps],
            lr=rate,
            beta1=0.9,
            beta2=0.999,
            eps=1e-8,
            weight_decay=0.0,
            amsgrad=False,
            maximize=False,
            fused=True,
        )

    def snapshot(self) -> list[Tensor]:
        """Copy parameters and state."""
        return [part.clone() for part in (self.parameters.values, *self.state)]

    def restore_(self, snapshot: list[Tensor]) -> None:
        """Return to a snapshot."""
        for part, saved in zip(
            (self.parameters.values, *self.state), snapshot, strict=True
        ):
            part.copy_(saved)
