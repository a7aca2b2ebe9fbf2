"""Activations of the hidden layers, with their derivatives in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from skmdn._utils.compat import aten


class Activation(NamedTuple):
    """An activation h = a(x) in the forms that inference and training need.

    Parameters
    ----------
    function : callable
        ``function(x)`` returns h, differentiable by autograd.
    write : callable
        ``write(x, h)`` writes a(x) to h and returns h.
    differentiate_ : callable
        ``differentiate_(gradient, x, h)`` multiplies the gradient with respect to h
        by a'(x) in place and returns it.
    """

    function: Callable[[Tensor], Tensor]
    write: Callable[[Tensor, Tensor], Any]
    differentiate_: Callable[[Tensor, Tensor, Tensor], Any]


ACTIVATIONS = {
    "identity": Activation(
        lambda x: x,
        lambda x, h: h.copy_(x),
        lambda g, x, h: g,
    ),
    "logistic": Activation(
        torch.sigmoid,
        lambda x, h: torch.sigmoid(x, out=h),
        lambda g, x, h: aten.sigmoid_backward.grad_input(g, h, grad_input=g),
    ),
    "tanh": Activation(
        torch.tanh,
        lambda x, h: torch.tanh(x, out=h),
        lambda g, x, h: aten.tanh_backward.grad_input(g, h, grad_input=g),
    ),
    "relu": Activation(
        torch.relu,
        lambda x, h: torch.clamp(x, min=0, out=h),
        lambda g, x, h: aten.threshold_backward.grad_input(g, h, 0, grad_input=g),
    ),
    "silu": Activation(
        nn.functional.silu,
        lambda x, h: aten.silu.out(x, out=h),
        lambda g, x, h: aten.silu_backward.grad_input(g, x, grad_input=g),
    ),
}
