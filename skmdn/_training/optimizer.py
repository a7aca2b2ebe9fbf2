"""Muon for the hidden layers of all networks at once, and Adam for all else.

Muon steps along the orthogonal factor of the mean gradient of a matrix, so that all its
directions are learned at the same speed; weight decay is decoupled for all matrices.

K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024.

J. Liu et al., "Muon is scalable for LLM training", arXiv 2502.16982 (the size of steps
relative to those of Adam).
"""

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
# Of Muon: share of the gradient that the mean keeps in each step, and root mean square
# of the elements of a step, in units of the learning rate.
MOMENTUM, STEP_SIZE = 0.95, 0.4
# Steps of Newton and Schulz, and coefficients of X, X X' X and X X' X X' X in each: of
# Jordan et al., who chose them for a steep slope at zero.
N_ROOT_STEPS, ROOT_COEFFICIENTS = 3, (3.4445, -4.7750, 2.0315)


class FlatParameters:
    """A network's parameters and gradients as views of two (n_members, size) buffers.

    Clipping, decay, the best weights and the optimizer then work on one tensor. The
    matrices come first: only they are decayed; the first of these are those of the
    hidden layers, (n_members, n_inputs, n_outputs) each. Frozen parameters have no
    gradient, and so keep their values.
    """

    def __init__(self, network: MixtureDensityNetwork) -> None:
        hidden: list[list[Tensor]] = []
        matrices: list[list[Tensor]] = []
        others: list[list[Tensor]] = []
        for name, slot in network.parameter_groups().items():
            is_decayed = name.endswith("weight") and slot[0].ndim > 1
            if not (is_decayed and slot[0].requires_grad):
                others.append(slot)
            elif network.backbones is None and name.startswith("hidden."):
                hidden.append(slot)
            else:
                matrices.append(slot)
        slots, n_members = hidden + matrices + others, network.n_members
        blocks = [
            torch.cat([part.detach().flatten() for part in slot]).view(n_members, -1)
            for slot in slots
        ]
        sizes = [block.shape[1] for block in blocks]
        self.values = torch.cat(blocks, dim=1)
        self.gradient = torch.zeros_like(self.values)
        self.n_hidden = sum(sizes[: len(hidden)])
        self.matrices = self.values[:, : sum(sizes[: len(hidden + matrices)])]
        columns = self.values.split(sizes, dim=1), self.gradient.split(sizes, dim=1)
        for slot, *both in zip(slots, *columns, strict=True):
            views = (block.split(n_members // len(slot)) for block in both)
            for part, values, gradient in zip(slot, *views, strict=True):
                part.data = values.view_as(part)
                if part.requires_grad:
                    part.grad = gradient.view_as(part)
        self._hidden_shapes = [slot[0].shape for slot in hidden]

    def hidden_layers(self, buffer: Tensor) -> list[Tensor]:
        """View the matrices of the hidden layers in the first columns of a buffer."""
        sizes = [shape[1:].numel() for shape in self._hidden_shapes]
        parts = buffer[:, : self.n_hidden].split(sizes, dim=1)
        return [
            part.view(shape)
            for part, shape in zip(parts, self._hidden_shapes, strict=True)
        ]

    def clip_(self, max_norm: float | None) -> None:
        """Scale each member's gradient to at most max_norm; zero non-finite ones."""
        norm = torch.linalg.vector_norm(self.gradient, dim=1, keepdim=True)
        # Branch-free, and so without a synchronisation: a non-finite norm makes the
        # scale or its product NaN, which is zeroed below.
        scale = 1 + 0 * norm if max_norm is None else (max_norm / norm).clamp_(max=1)
        self.gradient.mul_(scale).nan_to_num_(0.0, 0.0, 0.0)

    def decay_(self, factor: float | Tensor) -> None:
        """Shrink the matrices by a share of their size."""
        self.matrices.mul_(1 - factor)


class OptimizerState(NamedTuple):
    """Mean gradients of Muon, first and second moments of Adam, and the step count.

    Shapes: (n_members, n_hidden) and (n_members, size) twice. Updated in place.
    """

    momentum: Tensor
    mean: Tensor
    square: Tensor
    n_steps: Tensor

    @classmethod
    def zeros_like(cls, parameters: FlatParameters) -> OptimizerState:
        """Start with no history."""
        values = parameters.values
        momentum = torch.zeros_like(values[:, : parameters.n_hidden])
        n_steps = torch.zeros((), dtype=torch.float32, device=values.device)
        return cls(
            momentum, torch.zeros_like(values), torch.zeros_like(values), n_steps
        )

    def to_arrays(self, prefix: str = "") -> dict[str, NDArray[Any]]:
        """Copy the state to arrays by name, after a prefix."""
        return {
            f"{prefix}{name}": part.cpu().numpy().copy()
            for name, part in self._asdict().items()
        }

    def load_(self, arrays: Mapping[str, NDArray[Any]], prefix: str = "") -> None:
        """Continue from arrays of `to_arrays`.

        Earlier releases had Adam only, whose mean gradients of the hidden layers become
        those of Muon.
        """
        for name, part in self._asdict().items():
            if f"{prefix}{name}" in arrays:
                part.copy_(torch.from_numpy(arrays[f"{prefix}{name}"]))
        if f"{prefix}momentum" not in arrays:
            n_hidden = self.momentum.shape[1]
            self.momentum.copy_(self.mean[:, :n_hidden])
            self.mean[:, :n_hidden] = 0
            self.square[:, :n_hidden] = 0


@torch.no_grad()
def orthogonal_factors(matrices: Tensor) -> Tensor:
    """Compute about U V' of the singular value decompositions U S V' of matrices.

    Few steps of Newton and Schulz take all but the smallest singular values to about
    one, between 0.7 and 1.2. Zero stays zero. The steps are those of the Gram matrix,
    the smaller of the two: each multiplies X by a polynomial of it, and these commute.

    Parameters
    ----------
    matrices : Tensor of shape (n_members, n_rows, n_columns)
    """
    linear, cubic, quintic = ROOT_COEFFICIENTS
    norm = torch.linalg.vector_norm(matrices, dim=(-2, -1), keepdim=True)
    # A norm that underflows in its square would otherwise divide by zero.
    X: Tensor = matrices / norm.clamp_(min=torch.finfo(matrices.dtype).tiny)
    is_high = X.shape[-2] > X.shape[-1]
    gram = torch.bmm(X.mT, X) if is_high else torch.bmm(X, X.mT)
    product = None
    for step in range(N_ROOT_STEPS):
        factor = torch.baddbmm(gram, gram, gram, beta=cubic, alpha=quintic)
        factor.diagonal(dim1=-2, dim2=-1).add_(linear)
        product = factor if product is None else torch.bmm(factor, product)
        if step + 1 < N_ROOT_STEPS:
            gram = torch.bmm(torch.bmm(factor, gram), factor)
    assert product is not None
    return torch.bmm(X, product) if is_high else torch.bmm(product, X)


class Optimizer:
    """Parameters of a network, and the state of Muon and Adam for them."""

    def __init__(
        self, network: MixtureDensityNetwork, settings: TrainingSettings, ranks: Ranks
    ) -> None:
        self.settings = settings
        self.ranks = ranks
        self.parameters = FlatParameters(network)
        self.state = OptimizerState.zeros_like(self.parameters)
        ranks.broadcast_(self.parameters.values)

    def rate(self, done: float) -> float:
        """Return the learning rate after a share of the training."""
        schedule = LEARNING_RATES[self.settings.learning_rate]
        return self.settings.learning_rate_init * schedule(done)

    def step(self, rate: float | Tensor) -> None:
        """Take one step against the gradient, summed over the ranks.

        Parameters
        ----------
        rate : float or Tensor of shape ()
            Learning rate.
        """
        settings, parameters = self.settings, self.parameters
        self.ranks.all_reduce_(parameters.gradient)
        parameters.clip_(settings.max_grad_norm)
        parameters.decay_(rate * settings.alpha)
        self._step_hidden(rate)
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

    def _step_hidden(self, rate: float | Tensor) -> None:
        """Take a step of Muon in the hidden layers, and hide their gradient."""
        parameters, momentum = self.parameters, self.state.momentum
        if parameters.n_hidden == 0:
            return
        gradient = parameters.gradient[:, : parameters.n_hidden]
        momentum.lerp_(gradient, 1 - MOMENTUM)
        layers = parameters.hidden_layers(parameters.values)
        # Nesterov's: the mean gradient after one more step like this.
        ahead = parameters.hidden_layers(gradient.lerp(momentum, MOMENTUM))
        for weight, direction in zip(layers, ahead, strict=True):
            size = rate * STEP_SIZE * math.sqrt(max(weight.shape[1:]))
            weight.sub_(orthogonal_factors(direction).mul_(size))
        gradient.zero_()

    def snapshot(self) -> list[Tensor]:
        """Copy parameters and state."""
        return [part.clone() for part in (self.parameters.values, *self.state)]

    def restore_(self, snapshot: list[Tensor]) -> None:
        """Return to a snapshot."""
        for part, saved in zip(
            (self.parameters.values, *self.state), snapshot, strict=True
        ):
            part.copy_(saved)
