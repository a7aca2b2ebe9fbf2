"""Loss and gradient of a network without autograd.

Autograd spends most of a step on bookkeeping when matrices are small. Here every
derivative is written out: a transposed product for each layer, and that of the head
(`MixtureHead.loss_and_gradient`). Gradients are written to `.grad`. Only modules
without a hand-written backward pass are differentiated by autograd.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from skmdn._utils.compat import foreach_copy_
from skmdn.nn.activations import ACTIVATIONS
from skmdn.nn.embeddings import HandDifferentiated, Pass
from skmdn.nn.layers import MemberLinear
from skmdn.nn.network import MixtureDensityNetwork
from skmdn.nn.targets import Targets


class Backpropagation:
    """Loss and gradient of a network, for batches of one size.

    All buffers that layers need are allocated once: allocating them in every step takes
    as long as part of the arithmetic.

    Parameters
    ----------
    network : MixtureDensityNetwork
        Every trained parameter has a `.grad` to write to.
    n_rows : int
        Rows of a batch, for each member.
    """

    def __init__(self, network: MixtureDensityNetwork, n_rows: int) -> None:
        self.network = network
        self.first = _first_pass(network, n_rows)
        has_parameters = self.first is not None and not isinstance(
            self.first, FixedPass
        )
        linears: list[MemberLinear] = [*network.hidden, network.head.linear]
        *self.hidden, self.last = (
            LinearPass(
                linear,
                n_rows,
                needs_grad_input=linear is not linears[0] or has_parameters,
                is_transposed=linear is linears[-1],
            )
            for linear in linears
        )
        self.activated = [torch.empty_like(layer.output) for layer in self.hidden]
        self.numbers = network.head.split(self.last.output)
        self.grad_output = torch.empty_like(self.last.output)
        self.grad_numbers = network.head.split(self.grad_output)
        self.activation = ACTIVATIONS[network.activation]

    @torch.no_grad()
    def run(self, X: Tensor, y: Tensor, weight: Tensor, loss: str = "nll") -> Tensor:
        """Compute the weighted loss of each row; write the gradient of the sum.

        Parameters
        ----------
        X : Tensor of shape (n_members, n_rows, n_features)
        y : Tensor of shape (n_members, n_rows, L * d)
            With the blocks of `Targets`.
        weight : Tensor of shape (n_members, n_rows)
        loss : {"nll", "bound"}, default="nll"
            Name in `skmdn.nn.likelihood.LOSSES`.

        Returns
        -------
        losses : Tensor of shape (n_members, n_rows)
            In nats.
        """
        hidden, masks = X, []
        if self.first is not None:
            hidden = self.first.forward(X)
        for layer, activated in zip(self.hidden, self.activated, strict=True):
            hidden = self.activation.write(layer.forward(hidden), activated)
            masks.append(mask := self.network.draw_mask(hidden))
            if mask is not None:
                hidden = hidden * mask
        self.last.forward(hidden)
        head = self.network.head
        targets = Targets.split(y, head.n_outputs)
        if self.network.has_skip:
            targets = targets.minus(self.network.shift(X))
        losses = head.loss_and_gradient(
            self.numbers, targets, weight, self.grad_numbers, loss
        )
        gradient = self.last.backward(self.grad_output.mT)
        for layer, activated, mask in zip(
            reversed(self.hidden),
            reversed(self.activated),
            reversed(masks),
            strict=True,
        ):
            if mask is not None:
                gradient.mul_(mask)
            gradient = self.activation.differentiate_(gradient, layer.output, activated)
            gradient = layer.backward(gradient)
        if self.first is not None:
            self.first.backward(gradient)
        return losses


class LinearPass:
    """Forward and backward pass of a linear layer, with its buffers."""

    def __init__(
        self,
        linear: MemberLinear,
        n_rows: int,
        *,
        needs_grad_input: bool,
        is_transposed: bool,
    ) -> None:
        self.weight, self.bias = linear.weight.detach(), linear.bias.detach()
        assert linear.weight.grad is not None
        assert linear.bias.grad is not None
        self.grad_weight, self.grad_bias = linear.weight.grad, linear.bias.grad
        n_members, n_inputs, n_outputs = self.weight.shape
        shape = (n_outputs, n_rows) if is_transposed else (n_rows, n_outputs)
        self.output = self.weight.new_empty(n_members, *shape)
        self.grad_input = self.weight.new_empty(n_members, n_rows, n_inputs)
        # Into a strided `out` the product would be computed member by member.
        is_strided = not self.grad_weight.is_contiguous()
        self.product = torch.empty_like(self.weight) if is_strided else self.grad_weight
        self.needs_grad_input = needs_grad_input
        self.is_transposed = is_transposed
        self.weight_mT, self.bias_mT = self.weight.mT, self.bias.mT

    def forward(self, x: Tensor) -> Tensor:
        """Map x (n_members, n_rows, n_inputs) to outputs; rows last if transposed."""
        self.x_mT = x.mT
        if self.is_transposed:
            return torch.baddbmm(
                self.bias_mT, self.weight_mT, self.x_mT, out=self.output
            )
        return torch.baddbmm(self.bias, x, self.weight, out=self.output)

    def backward(self, gradient: Tensor) -> Tensor:
        """Write the gradient of the parameters; return that of the input."""
        torch.bmm(self.x_mT, gradient, out=self.product)
        if self.product is not self.grad_weight:
            self.grad_weight.copy_(self.product)
        torch.sum(gradient, dim=1, keepdim=True, out=self.grad_bias)
        if not self.needs_grad_input:
            return gradient
        return torch.bmm(gradient, self.weight_mT, out=self.grad_input)


class AutogradPass:
    """Forward and backward pass of any module, by autograd.

    Gradients are computed apart and copied to `.grad`: what autograd accumulates there
    itself should have the strides of the parameter, and ours are views of one buffer.
    """

    def __init__(
        self, function: Callable[[Tensor], Tensor], parameters: Iterable[nn.Parameter]
    ) -> None:
        self.function = function
        self.parameters: list[Tensor] = []
        self.gradients: list[Tensor] = []
        for parameter in parameters:
            if parameter.requires_grad and parameter.grad is not None:
                self.parameters.append(parameter)
                self.gradients.append(parameter.grad)

    def forward(self, X: Tensor) -> Tensor:
        """Return the output for X."""
        with torch.enable_grad():
            self.output = self.function(X)
        return self.output.detach()

    def backward(self, gradient: Tensor) -> None:
        """Write `.grad`: zeros for parameters that the output does not depend on."""
        output = self.output
        del self.output
        if not output.requires_grad:
            for buffer in self.gradients:
                buffer.zero_()
            return
        gradients = torch.autograd.grad(
            output, self.parameters, gradient, allow_unused=True, materialize_grads=True
        )
        foreach_copy_(self.gradients, gradients)


class FixedPass:
    """Forward pass of a module without parameters."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.forward = function

    def backward(self, gradient: Tensor) -> None:
        """Do nothing."""


def _first_pass(network: MixtureDensityNetwork, n_rows: int) -> Pass | None:
    """Return the pass of what comes before the hidden layers, if anything."""
    module = network.backbones if network.embedding is None else network.embedding
    if module is None:
        return None
    if isinstance(module, HandDifferentiated):
        return module.by_hand(n_rows)
    if next(module.parameters(), None) is None:
        return FixedPass(network.embed)
    return AutogradPass(network.embed, module.parameters())
