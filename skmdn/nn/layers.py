"""Layers that evaluate all members of a network in one computation."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class MemberLinear(nn.Module):
    """Linear layers of all members as one batched matrix product.

    Shape: (n_members, n, n_inputs) -> (n_members, n, n_outputs).

    Parameters
    ----------
    n_members, n_inputs, n_outputs : int
    gain : float, default=1.0
        The initial weights have standard deviation gain / sqrt(n_inputs).
    generator : torch.Generator
        Source of the initial weights, on the CPU.
    """

    def __init__(
        self,
        n_members: int,
        n_inputs: int,
        n_outputs: int,
        *,
        gain: float = 1.0,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        weight = torch.randn(
            n_members,
            n_inputs,
            n_outputs,
            generator=generator,
            device="cpu",
            dtype=torch.float32,
        )
        self.weight = nn.Parameter(weight * gain / math.sqrt(max(1, n_inputs)))
        bias = torch.zeros(n_members, 1, n_outputs, device="cpu", dtype=torch.float32)
        self.bias = nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)

    def transposed(self, x: Tensor, n_outputs: int | None = None) -> Tensor:
        """Return the first outputs, or all, with rows on the last axis."""
        weight, bias = self.weight[..., :n_outputs], self.bias[..., :n_outputs]
        return torch.baddbmm(bias.mT, weight.mT, x.mT)


def draw_dropout_mask(
    hidden: Tensor, probability: float, generator: torch.Generator | None
) -> Tensor:
    """Return factors 0, with the probability given, and 1 / (1 - probability).

    `torch.nn.functional.dropout` draws the same numbers, but from the global
    generator only.
    """
    keep = 1 - probability
    mask = torch.empty_like(hidden).bernoulli_(keep, generator=generator)
    return mask.div_(keep)
