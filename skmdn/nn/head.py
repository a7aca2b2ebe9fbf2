"""The head: from the outputs of the last layer to Gaussian mixtures.

Rows lie on the last axis here: torch vectorises along it, so that sums over the short
axes of components and outputs run over whole vectors. With M members, K components,
d outputs and n rows::

    raw (M, size, n)    logits (M, K, n)    means (M, K, d, n)
    log_precision (M, K or 1, d or 1, n)    entries (M, K or 1, ..., n)

`log_precision` is the raw logarithm of u, where 1 / u^2 is the variance of an output
given those that explain it. `entries` are the other numbers of the covariance, which
differ between the heads of `covariance`. Where the family of covariances depends on
the order of the outputs, each member has its own order (`MixtureHead.order`), and all
of the above is in that order.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from skmdn import _mixture
from skmdn._mixture import Mixture
from skmdn._utils.compat import aten
from skmdn.nn.layers import MemberLinear
from skmdn.nn.likelihood import LOSSES, Calibration, Terms

# Bounds of the standard deviation of an output given the others, in the unit of the
# standardised y: wider than any component needs, and far from overflow.
LARGEST_SCALE, SMALLEST_SCALE = 100.0, 1e-15
LOG_PRECISION_RANGE = (-math.log(LARGEST_SCALE), -math.log(SMALLEST_SCALE))

# Scale of the initial weights, small so that every row starts with the unconditional
# mixture of the biases.
HEAD_GAIN = 0.1


class Whitened(NamedTuple):
    """Residuals in the metric of each component.

    Shapes: log_dets and distances (M, K, n), with 1 for K where components share a
    matrix; `saved` holds intermediate results for `MixtureHead.differentiate`.
    """

    log_dets: Tensor
    distances: Tensor
    saved: tuple[Tensor, ...] = ()


class MixtureHead(nn.Module, ABC):
    """Linear layer whose outputs are the parameters of a mixture.

    `reg_covar` is added to the variance of each output given those that explain it,
    before anything else uses it: quadratic form and determinant agree, and the density
    cannot exceed (2 pi reg_covar)^(-d/2).

    A subclass defines `factors`, `variances`, `whiten` and `numbers_of`; it may
    override `differentiate` by a faster gradient.

    Shape: (n_members, n, width) -> Mixture with leading axes (n_members, n).

    Parameters
    ----------
    n_members, width, n_components, n_outputs : int
    log_precision_shape, entries_shape : tuple of int
        Shapes of these numbers for one row of one member; the first axis is K or 1.
    reg_covar : float
    generator : torch.Generator
        Source of the initial weights, on the CPU.
    """

    order: Tensor | None

    def __init__(
        self,
        n_members: int,
        width: int,
        n_components: int,
        n_outputs: int,
        log_precision_shape: tuple[int, ...],
        entries_shape: tuple[int, ...],
        *,
        reg_covar: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.n_outputs = n_outputs
        self.shapes: list[tuple[int, ...]] = [
            (n_components,),
            (n_components, n_outputs),
            log_precision_shape,
            entries_shape,
        ]
        self.sizes = [math.prod(shape) for shape in self.shapes]
        self.reg_covar = reg_covar
        self.register_buffer("order", None)
        self.linear = MemberLinear(
            n_members, width, sum(self.sizes), gain=HEAD_GAIN, generator=generator
        )

    # -- defined by the covariance type --------------------------------------------

    @abstractmethod
    def factors(self, log_precision: Tensor, entries: Tensor) -> Tensor:
        """Return the precision factors U, (M, n, K or 1, d, d)."""

    @abstractmethod
    def variances(self, log_precision: Tensor, entries: Tensor) -> Tensor:
        """Return the variance of each output, (M, K or 1, d, n)."""

    @abstractmethod
    def whiten(self, residuals: Tensor, u: Tensor, entries: Tensor) -> Whitened:
        """Compute distances and log-determinants of residuals (M, K, d, n).

        The precisions u, (M, K or 1, d or 1, n), have the floor inside.
        """

    @abstractmethod
    def numbers_of(self, covariance: Tensor) -> tuple[Tensor, Tensor]:
        """Return `log_precision` and `entries` without rows for matrices (M, d, d).

        The first axis after M is 1: all components start with the same covariance.
        """

    def differentiate(
        self,
        minus_r: Tensor,
        residuals: Tensor,
        u: Tensor,
        entries: Tensor,
        saved: tuple[Tensor, ...],
        grad_means: Tensor,
        grad_entries: Tensor,
    ) -> Tensor:
        """Differentiate -sum_k R_k log p_k(y) by autograd through `whiten`.

        Parameters
        ----------
        minus_r : Tensor of shape (M, K, 1, n)
            Minus the responsibilities, times the weight of the row.
        residuals, u, entries, saved
            Arguments of `whiten`, and what it saved; an override may overwrite `saved`.
        grad_means, grad_entries : Tensor
            Buffers for the gradients with respect to means and entries.

        Returns
        -------
        grad_log_u : Tensor of shape (M, K, d, n) or that of u
            Gradient with respect to log u, before the sum over what shares a number.
        """
        inputs = [part.detach().requires_grad_() for part in (residuals, u, entries)]
        with torch.enable_grad():
            log_dets, distances, _ = self.whiten(*inputs)
            joint = (log_dets - 0.5 * distances).expand(minus_r.squeeze(2).shape)
        grad_residuals, grad_u, grad_others = torch.autograd.grad(
            joint, inputs, minus_r.squeeze(2), allow_unused=True, materialize_grads=True
        )
        torch.neg(grad_residuals, out=grad_means)
        grad_entries.copy_(grad_others)
        return grad_u * u

    # -- evaluation ----------------------------------------------------------------

    def split(self, raw: Tensor) -> list[Tensor]:
        """Return logits, means, log_precision and entries as views of raw outputs."""
        n_members, _, n = raw.shape
        return [
            part.view(n_members, *shape, n)
            for part, shape in zip(
                raw.split(self.sizes, dim=1), self.shapes, strict=True
            )
        ]

    def ordered(self, outputs: Tensor) -> Tensor:
        """Put outputs, on the last axis but one, in each member's order."""
        return outputs if self.order is None else _take(outputs, self.order)

    def restored(self, outputs: Tensor) -> Tensor:
        """Undo `ordered`."""
        return outputs if self.order is None else _take(outputs, self.order.argsort())

    def raw(
        self, hidden: Tensor, nearness: Tensor | None, size: int | None = None
    ) -> Tensor:
        """Compute the first raw outputs, or all, (n_members, size, n).

        They are multiplied by the nearness of the rows, (n,) or (n_members, n), if
        given: numbers that are all zero are those of the standard normal.
        """
        raw = self.linear.transposed(hidden, size)
        return raw if nearness is None else raw * nearness.unsqueeze(-2)

    def forward(self, hidden: Tensor, nearness: Tensor | None = None) -> Mixture:
        logits, means, *spread = self.split(self.raw(hidden, nearness))
        factors = self.factors(*spread)
        if self.order is not None:
            factors = _mixture.triangularise(self.restored(factors.mT).mT)
        n_members, n_components, d, n = means.shape
        factors = factors.expand(n_members, n, n_components, d, d)
        means = self.restored(means).permute(0, 3, 1, 2).contiguous()
        return Mixture(logits.log_softmax(1).mT, means, factors)

    def mean(self, hidden: Tensor, nearness: Tensor | None = None) -> Tensor:
        """Compute the mean of each mixture, (n_members, d, n), without covariances."""
        n_weights, n_means = self.sizes[:2]
        raw = self.raw(hidden, nearness, n_weights + n_means)
        weights = raw[:, :n_weights].softmax(1)
        means = raw[:, n_weights:].unflatten(1, self.shapes[1])
        return self.restored((weights[:, :, None] * means).sum(1))

    def moments(
        self, hidden: Tensor, nearness: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compute mean and variances of each mixture, (n_members, d, n)."""
        logits, means, *spread = self.split(self.raw(hidden, nearness))
        weights = logits.softmax(1)[:, :, None]
        mean = (weights * means).sum(1)
        second = self.variances(*spread) + (means - mean[:, None]).square()
        return self.restored(mean), self.restored((weights * second).sum(1))

    def terms(self, hidden: Tensor, y: Tensor, nearness: Tensor | None = None) -> Terms:
        """Compute the terms of the log-density of y, (n, d) or (n_members, n, d)."""
        raw = self.raw(hidden, nearness)
        logits, means, log_precision, entries = self.split(raw)
        _, variances = self.floored(log_precision)
        residuals = self.ordered(y.mT).unsqueeze(-3) - means
        white = self.whiten(residuals, variances.rsqrt(), entries)
        return Terms(logits.log_softmax(1), white.log_dets, white.distances)

    def floored(self, log_precision: Tensor) -> tuple[Tensor, Tensor]:
        """Return the variances without and with the floor; the latter are 1 / u^2."""
        above = log_precision.clamp(*LOG_PRECISION_RANGE).mul(-2).exp()
        return above, above + self.reg_covar

    def unfloored(self, variances: Tensor) -> Tensor:
        """Return `log_precision` for variances from which the floor is subtracted."""
        return -0.5 * (variances - self.reg_covar).clamp(min=0.1 * variances).log()

    # -- training ------------------------------------------------------------------

    def loss_and_gradient(
        self,
        numbers: list[Tensor],
        y: Tensor,
        weight: Tensor,
        grad_numbers: list[Tensor],
        loss: str = "nll",
    ) -> Tensor:
        """Compute the weighted loss, and write the gradient of its sum.

        With responsibilities R, the gradient with respect to the joint log-densities
        is -R, and that with respect to the logits is weights - R.

        Parameters
        ----------
        numbers, grad_numbers : lists of Tensor
            `split` of the last layer's output and of the buffer for its gradient.
        y : Tensor of shape (n_members, n, d)
        weight : Tensor of shape (n_members, n)
        loss : {"nll", "bound"}, default="nll"
            Name in `LOSSES`.

        Returns
        -------
        losses : Tensor of shape (n_members, n)
            In nats.
        """
        logits, means, log_precision, entries = numbers
        grad_logits, grad_means, grad_log_precision, grad_entries = grad_numbers
        residuals = self.ordered(y.mT).unsqueeze(-3) - means
        above, variances = self.floored(log_precision)
        u = variances.rsqrt()
        log_dets, distances, saved = self.whiten(residuals, u, entries)
        stacked = logits.new_empty((2, *logits.shape))
        stacked[0] = logits
        torch.add(logits, log_dets, out=stacked[1]).sub_(distances, alpha=0.5)
        losses = LOSSES[loss].respond_(stacked)
        # Negating the weights here avoids later changes of sign.
        stacked *= weight.neg().unsqueeze(1)
        minus_weights, minus_r = stacked.unbind()
        torch.sub(minus_r, minus_weights, out=grad_logits)
        grad_log_u = self.differentiate(
            minus_r.unsqueeze(2), residuals, u, entries, saved, grad_means, grad_entries
        )
        # Floor: d log u = (above / variance) d log_precision; zero where it is clamped.
        grad_log_u = sum_like(grad_log_u, log_precision).mul_(above.div_(variances))
        aten.hardtanh_backward.grad_input(
            grad_log_u,
            log_precision,
            *LOG_PRECISION_RANGE,
            grad_input=grad_log_precision,
        )
        return losses.add_(0.5 * self.n_outputs * _mixture.LOG_2PI).mul_(weight)

    @torch.no_grad()
    def start_at(
        self, members: slice, log_weights: Tensor, means: Tensor, covariance: Tensor
    ) -> None:
        """Set the biases of some members to unconditional mixtures.

        Parameters
        ----------
        members : slice
        log_weights : Tensor of shape (n_members, K)
        means : Tensor of shape (n_members, K, d)
        covariance : Tensor of shape (n_members, d, d)
            Of all components of a member.
        """
        _, _, (n_groups, *_), (n_entry_groups, *_) = self.shapes
        if self.order is not None:
            order = self.order[members]
            covariance = _take(_take(covariance, order).mT, order)
            means = _take(means.mT, order).mT
        log_precision, entries = self.numbers_of(covariance)
        parts = [
            log_weights,
            means.flatten(1),
            log_precision.repeat(1, n_groups),
            entries.flatten(1).repeat(1, n_entry_groups),
        ]
        self.linear.bias[members, 0] = torch.cat(parts, dim=1).to(self.linear.bias)

    @torch.no_grad()
    def calibrate_(self, calibrations: Sequence[Calibration]) -> None:
        """Calibrate the densities of each member; the floor of the variances stays."""
        n_components, n_means, n_diagonal, _ = self.sizes
        log_sharpness, log_power = self.linear.bias.new_tensor(calibrations).T
        power = log_power.exp()[:, None, None]
        self.linear.weight[..., :n_components] *= power
        self.linear.bias[..., :n_components] *= power
        start = n_components + n_means
        diagonal = self.linear.bias[..., start : start + n_diagonal]
        diagonal += log_sharpness[:, None, None]


def _take(outputs: Tensor, order: Tensor) -> Tensor:
    """Take outputs (d, n) or (M, ..., d, n) in the order of each member, (M, d)."""
    if outputs.ndim == 2:
        outputs = outputs[None]
    n_between = outputs.ndim - 3
    index = order.view(len(order), *[1] * n_between, -1, 1)
    shape = (len(order), *outputs.shape[1:])
    return outputs.expand(shape).gather(-2, index.expand(shape))


def sum_like(gradient: Tensor, shared: Tensor) -> Tensor:
    """Sum over the components, or outputs, that share a number."""
    for axis in (1, 2):
        if shared.shape[axis] == 1 < gradient.shape[axis]:
            gradient = gradient.sum(axis, keepdim=True)
    return gradient
