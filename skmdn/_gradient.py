"""Loss and gradient of the standard network by hand.

Autograd spends most of a step on bookkeeping when matrices are small. Here every
derivative is written out: a transposed product for each layer, and the head's own
(`MixtureHead.nll_and_gradient`). Gradients go straight into `.grad`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from skmdn._backbones import Backbones
from skmdn._head import MemberLinear
from skmdn.nn import MixtureDensityNetwork, PeriodicEmbedding

__all__ = ["ACTIVATIONS_IN_PLACE", "Backpropagation"]

aten = torch.ops.aten

# The activation of x, written to h; and the gradient g after it, with x and h, turned
# in place into that before it.
ACTIVATIONS_IN_PLACE: dict[str, tuple[Callable, Callable]] = {
    "identity": (
        lambda x, h: h.copy_(x),
        lambda g, x, h: g,
    ),
    "logistic": (
        lambda x, h: torch.sigmoid(x, out=h),
        lambda g, x, h: aten.sigmoid_backward.grad_input(g, h, grad_input=g),
    ),
    "tanh": (
        lambda x, h: torch.tanh(x, out=h),
        lambda g, x, h: aten.tanh_backward.grad_input(g, h, grad_input=g),
    ),
    "relu": (
        lambda x, h: torch.clamp(x, min=0, out=h),
        lambda g, x, h: aten.threshold_backward.grad_input(g, h, 0, grad_input=g),
    ),
    "silu": (
        lambda x, h: aten.silu.out(x, out=h),
        lambda g, x, h: aten.silu_backward.grad_input(g, x, grad_input=g),
    ),
}


class Backpropagation:
    """Loss and gradient of a network, for batches of one size.

    All room that layers need is taken once: fresh memory in every step costs as much
    as a part of the arithmetic.

    Parameters
    ----------
    network : MixtureDensityNetwork
        Every parameter has a `.grad` to write to.
    n_rows : int
        Rows of a batch, for each member.
    """

    def __init__(self, network: MixtureDensityNetwork, n_rows: int) -> None:
        self.network = network
        self.embedding: Embedding | ByAutograd | None = None
        if isinstance(network.embedding, PeriodicEmbedding):
            self.embedding = Embedding(network.embedding, n_rows)
        elif network.embedding is not None:
            self.embedding = ByAutograd(network, network.embedding)
        linears = [*network.hidden, network.head.linear]
        *self.hidden, self.last = (
            Layer(
                linear,
                n_rows,
                is_first=linear is linears[0] and self.embedding is None,
                is_transposed=linear is linears[-1],
            )
            for linear in linears
        )
        self.activated = [torch.empty_like(layer.output) for layer in self.hidden]
        self.numbers = network.head.split(self.last.output)
        self.by_output = torch.empty_like(self.last.output)
        self.by_numbers = network.head.split(self.by_output)
        self.activate, self.deactivate = ACTIVATIONS_IN_PLACE[network.activation]

    @torch.no_grad()
    def run(
        self, X: Tensor, y: Tensor, weight: Tensor, *, is_bound: bool = False
    ) -> Tensor:
        """Weighted negative log-likelihoods; the gradient of their sum fills `.grad`.

        Parameters
        ----------
        X : Tensor of shape (n_members, n_rows, n_features)
        y : Tensor of shape (n_members, n_rows, d)
        weight : Tensor of shape (n_members, n_rows)
        is_bound : bool, default=False
            Take `mixture_nll_bound` instead of `mixture_nll`.

        Returns
        -------
        losses : Tensor of shape (n_members, n_rows)
            In nats.
        """
        hidden, masks = X, []
        if self.embedding is not None:
            hidden = self.embedding.forward(X)
        for layer, activated in zip(self.hidden, self.activated, strict=True):
            hidden = self.activate(layer.forward(hidden), activated)
            masks.append(mask := self.network.draw_mask(hidden))
            if mask is not None:
                hidden = hidden * mask
        self.last.forward(hidden)
        losses = self.network.head.nll_and_gradient(
            self.numbers, y, weight, self.by_numbers, is_bound=is_bound
        )
        gradient = self.last.backward(self.by_output.mT)
        for layer, activated, mask in zip(
            reversed(self.hidden),
            reversed(self.activated),
            reversed(masks),
            strict=True,
        ):
            if mask is not None:
                gradient.mul_(mask)
            gradient = self.deactivate(gradient, layer.output, activated)
            gradient = layer.backward(gradient)
        if self.embedding is not None:
            self.embedding.backward(gradient)
        return losses


class Layer:
    """A linear layer: views of its parameters and gradients, and its output's room."""

    def __init__(
        self,
        linear: MemberLinear,
        n_rows: int,
        *,
        is_first: bool,
        is_transposed: bool,
    ) -> None:
        self.weight, self.bias = linear.weight.detach(), linear.bias.detach()
        assert linear.weight.grad is not None
        assert linear.bias.grad is not None
        self.by_weight, self.by_bias = linear.weight.grad, linear.bias.grad
        n_members, n_inputs, n_outputs = self.weight.shape
        shape = (n_outputs, n_rows) if is_transposed else (n_rows, n_outputs)
        self.output = self.weight.new_empty(n_members, *shape)
        self.by_input = self.weight.new_empty(n_members, n_rows, n_inputs)
        # Into a strided `out` the product would be made member by member.
        is_strided = not self.by_weight.is_contiguous()
        self.product = torch.empty_like(self.weight) if is_strided else self.by_weight
        self.is_first, self.is_transposed = is_first, is_transposed
        self.weight_mT, self.bias_mT = self.weight.mT, self.bias.mT

    def forward(self, x: Tensor) -> Tensor:
        """(n_members, n_rows, n_inputs) to outputs, or these with rows last."""
        self.x_mT = x.mT
        if self.is_transposed:
            return torch.baddbmm(
                self.bias_mT, self.weight_mT, self.x_mT, out=self.output
            )
        return torch.baddbmm(self.bias, x, self.weight, out=self.output)

    def backward(self, gradient: Tensor) -> Tensor:
        """Gradient of the parameters, and in the input, from that in the output."""
        torch.bmm(self.x_mT, gradient, out=self.product)
        if self.product is not self.by_weight:
            self.by_weight.copy_(self.product)
        torch.sum(gradient, dim=1, keepdim=True, out=self.by_bias)
        if self.is_first:  # nothing before it has a gradient
            return gradient
        return torch.bmm(gradient, self.weight_mT, out=self.by_input)


class Embedding:
    """A periodic embedding with room for what it gives."""

    def __init__(self, embedding: PeriodicEmbedding, n_rows: int) -> None:
        self.embedding = embedding
        n_members, _, n_angles = embedding.phases.shape
        self.n_features = embedding.n_outputs - n_angles
        self.output = embedding.phases.new_empty(n_members, n_rows, embedding.n_outputs)
        self.x = self.output[..., : self.n_features]
        self.cosines = self.output[..., self.n_features :]

    def forward(self, X: Tensor) -> Tensor:
        self.x.copy_(self.embedding.squash(X))
        self.angles = self.embedding.angles(self.x)
        torch.cos(self.angles, out=self.cosines)
        return self.output

    def backward(self, gradient: Tensor) -> None:
        """Of cos(f x + phase), in f and phase."""
        slope = self.angles.sin_().mul_(gradient[..., self.n_features :]).neg_()
        torch.sum(slope, dim=1, keepdim=True, out=self.embedding.phases.grad)
        slope.unflatten(-1, (-1, self.n_features)).mul_(self.x[..., None, :])
        torch.sum(slope, dim=1, keepdim=True, out=self.embedding.frequencies.grad)


class ByAutograd:
    """Modules of a user's own, whose derivatives only autograd knows."""

    def __init__(self, network: MixtureDensityNetwork, backbones: Backbones) -> None:
        self.network = network
        gradients = (parameter.grad for parameter in backbones.parameters())
        self.gradients = [part for part in gradients if part is not None]

    def forward(self, X: Tensor) -> Tensor:
        with torch.enable_grad():
            self.output = self.network.embed(X)
        return self.output.detach()

    def backward(self, gradient: Tensor) -> None:
        if self.output.requires_grad:  # else all of it is frozen
            torch._foreach_zero_(self.gradients)
            self.output.backward(gradient)
        del self.output
