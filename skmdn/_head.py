"""From the last layer's numbers to Gaussian mixtures, and back to their gradient.

Rows lie on the last axis here: torch vectorises along it, while sums over the short
axes of components and outputs then run through whole vectors. With M networks, K
components, d outputs and n rows::

    raw (M, size, n)    logits (M, K, n)    means (M, K, d, n)

What follows the means is the covariance's, and differs between the heads of
`_covariance`. Where that depends on the order of the outputs, each network takes them
in an order of its own (`MixtureHead.order`), and all of the above is in that order.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from skmdn import _mixture
from skmdn._calibration import Calibration, Terms
from skmdn._mixture import Mixture

__all__ = ["MemberLinear", "MixtureHead", "Whitened"]

# Standard deviations of an output given the others lie between these, in the unit of
# the standardised y: wider than any component needs, and far from overflow.
LARGEST_SCALE, SMALLEST_SCALE = 100.0, 1e-15
LOG_PRECISION_RANGE = (-math.log(LARGEST_SCALE), -math.log(SMALLEST_SCALE))

# Scale of the head's weights at the start, small so that every row begins with the
# unconditional mixture that the biases hold.
HEAD_GAIN = 0.1


class MemberLinear(nn.Module):
    """Linear layers of several members, one batched matrix product.

    Shape: (n_members, n, n_inputs) -> (n_members, n, n_outputs).
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
        weight = torch.randn(n_members, n_inputs, n_outputs, generator=generator)
        self.weight = nn.Parameter(weight * gain / math.sqrt(max(1, n_inputs)))
        self.bias = nn.Parameter(torch.zeros(n_members, 1, n_outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)

    def transposed(self, x: Tensor, n_outputs: int | None = None) -> Tensor:
        """The first outputs, or all, with rows on the last axis."""
        weight, bias = self.weight[..., :n_outputs], self.bias[..., :n_outputs]
        return torch.baddbmm(bias.mT, weight.mT, x.mT)


class Whitened(NamedTuple):
    """Residuals in the metric of each component.

    Shapes: log_dets and distances (M, K, n), with one for K where components share a
    matrix; `saved` is what the head's `differentiate` needs again.
    """

    log_dets: Tensor
    distances: Tensor
    saved: tuple[Tensor, ...]


class MixtureHead(nn.Module, ABC):
    """Read the parameters of a mixture off the last hidden layer.

    The floor is added to the variance of each output given what explains it, before
    anything uses it: so quadratic form and determinant agree, and the density cannot
    exceed (2 pi reg_covar)^(-d/2).

    Shape: (n_members, n, width) -> Mixture with leading axes (n_members, n).
    """

    def __init__(
        self,
        n_members: int,
        width: int,
        n_components: int,
        n_outputs: int,
        *shapes: tuple[int, ...],
        reg_covar: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.shapes = [(n_components,), (n_components, n_outputs), *shapes]
        self.sizes = [math.prod(shape) for shape in self.shapes]
        self.reg_covar = reg_covar
        self.order: Tensor | None
        self.register_buffer("order", None)
        self.linear = MemberLinear(
            n_members, width, sum(self.sizes), gain=HEAD_GAIN, generator=generator
        )

    @property
    def n_outputs(self) -> int:
        return self.shapes[1][1]

    def split(self, raw: Tensor) -> list[Tensor]:
        """Logits, means, raw log-diagonal and the other numbers, as views."""
        n_members, _, n = raw.shape
        return [
            part.view(n_members, *shape, n)
            for part, shape in zip(
                raw.split(self.sizes, dim=1), self.shapes, strict=True
            )
        ]

    def ordered(self, outputs: Tensor) -> Tensor:
        """Outputs on the last axis but one, in each network's order, (M, ..., d, n)."""
        return outputs if self.order is None else _taken(outputs, self.order)

    def restored(self, outputs: Tensor) -> Tensor:
        """Undo `ordered`."""
        return outputs if self.order is None else _taken(outputs, self.order.argsort())

    def forward(self, hidden: Tensor) -> Mixture:
        raw = self.linear.transposed(hidden)
        logits, means, *spread = self.split(raw)
        factors = self.factors(*spread)
        if self.order is not None:
            factors = _mixture.triangularise(self.restored(factors.mT).mT)
        n_members, n_components, d, n = means.shape
        factors = factors.expand(n_members, n, n_components, d, d)
        means = self.restored(means).permute(0, 3, 1, 2).contiguous()
        return Mixture(logits.log_softmax(1).mT, means, factors)

    def mean(self, hidden: Tensor) -> Tensor:
        """Mean of each member's mixture, (n_members, d, n), without the factors."""
        n_weights, n_means = self.sizes[:2]
        raw = self.linear.transposed(hidden, n_weights + n_means)
        weights = raw[:, :n_weights].softmax(1)
        means = raw[:, n_weights:].unflatten(1, self.shapes[1])
        return self.restored((weights[:, :, None] * means).sum(1))

    def moments(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variances of each member's mixture, (n_members, d, n)."""
        logits, means, *spread = self.split(self.linear.transposed(hidden))
        weights = logits.softmax(1)[:, :, None]
        mean = (weights * means).sum(1)
        second = self.variances(*spread) + (means - mean[:, None]).square()
        return self.restored(mean), self.restored((weights * second).sum(1))

    def terms(self, hidden: Tensor, y: Tensor) -> Terms:
        """What the log-density of y, (n, d) or (n_members, n, d), is made of."""
        raw = self.linear.transposed(hidden)
        logits, means, log_precision, entries = self.split(raw)
        _, variances = self.floored(log_precision)
        residuals = self.ordered(y.mT).unsqueeze(-3) - means
        white = self.whiten(residuals, variances.rsqrt(), entries)
        return Terms(logits.log_softmax(1), white.log_dets, white.distances)

    def nll_and_gradient(
        self,
        numbers: list[Tensor],
        y: Tensor,
        weight: Tensor,
        by_numbers: list[Tensor],
        *,
        is_bound: bool,
    ) -> Tensor:
        """Weighted negative log-likelihood, or bound; write the gradient of its sum.

        With j the joint log-densities of components, up to the normaliser of the
        logits, the gradient in them is minus the responsibilities R, and that of the
        normaliser the weights: d / d logit = weight - R. The bound replaces R by 1/K.

        Parameters
        ----------
        numbers, by_numbers : lists of Tensor
            What `split` gives of the last layer's output and of its gradient.
        y : Tensor of shape (n_members, n, d)
        weight : Tensor of shape (n_members, n)
        is_bound : bool

        Returns
        -------
        losses : Tensor of shape (n_members, n)
        """
        logits, means, log_precision, entries = numbers
        by_logits, by_means, by_log_precision, by_entries = by_numbers
        residuals = self.ordered(y.mT).unsqueeze(-3) - means
        above, variances = self.floored(log_precision)
        u = variances.rsqrt()
        log_dets, distances, saved = self.whiten(residuals, u, entries)
        both = torch.empty((2, *logits.shape), dtype=logits.dtype, device=logits.device)
        both[0] = logits
        joint = torch.add(logits, log_dets, out=both[1]).sub_(distances, alpha=0.5)
        n_components = logits.shape[1]
        bound = joint.mean(1) + math.log(n_components) if is_bound else None
        log_normaliser, log_sum = _softmax_(both)
        if bound is not None:
            log_sum = bound
            both[1] = 1 / n_components
        nll = log_normaliser - log_sum
        # With minus the weights and responsibilities, few signs are left to change.
        both *= weight.neg().unsqueeze(1)
        minus_weights, minus_r = both.unbind()
        torch.sub(minus_r, minus_weights, out=by_logits)
        by_log_u = self.differentiate(
            minus_r.unsqueeze(2), residuals, u, entries, saved, by_means, by_entries
        )
        # The floor passes on the share of the variance above it; `clamp`, nothing.
        by_log_u = _summed_like(by_log_u, log_precision).mul_(above.div_(variances))
        torch.ops.aten.hardtanh_backward.grad_input(
            by_log_u, log_precision, *LOG_PRECISION_RANGE, grad_input=by_log_precision
        )
        return nll.add_(0.5 * self.n_outputs * _mixture.LOG_2PI).mul_(weight)

    @abstractmethod
    def factors(self, log_precision: Tensor, entries: Tensor) -> Tensor:
        """Precision factors U, (M, n, K or 1, d, d)."""

    @abstractmethod
    def variances(self, log_precision: Tensor, entries: Tensor) -> Tensor:
        """Variance of each output, (M, K or 1, d, n)."""

    @abstractmethod
    def whiten(self, residuals: Tensor, u: Tensor, entries: Tensor) -> Whitened:
        """Distances and log-determinants for residuals (M, K, d, n)."""

    @abstractmethod
    def differentiate(
        self,
        minus_r: Tensor,
        residuals: Tensor,
        u: Tensor,
        entries: Tensor,
        saved: tuple[Tensor, ...],
        by_means: Tensor,
        by_entries: Tensor,
    ) -> Tensor:
        """Differentiate -sum_k R_k log p_k, given -R, (M, K, 1, n).

        Writes the gradients in the means and in the other numbers; returns that in
        log u, (M, K, d, n).
        """

    @abstractmethod
    def numbers_of(self, covariance: Tensor) -> tuple[Tensor, Tensor]:
        """Raw log-diagonal and other numbers, (M, groups, ...), for (M, d, d)."""

    def floored(self, log_precision: Tensor) -> tuple[Tensor, Tensor]:
        """Variance above the floor, and with it: 1 / u^2."""
        above = log_precision.clamp(*LOG_PRECISION_RANGE).mul(-2).exp()
        return above, above + self.reg_covar

    def unfloored(self, variances: Tensor) -> Tensor:
        """Raw log-diagonal of given variances, from which the floor is taken off."""
        return -0.5 * (variances - self.reg_covar).clamp(min=0.1 * variances).log()

    @torch.no_grad()
    def calibrate_(self, calibration: Calibration) -> None:
        """Sharpen or flatten all densities; the floor stays where it is."""
        n_components, n_means, n_diagonal, _ = self.sizes
        power = math.exp(calibration.log_power)
        self.linear.weight[..., :n_components] *= power
        self.linear.bias[..., :n_components] *= power
        start = n_components + n_means
        self.linear.bias[..., start : start + n_diagonal] += calibration.log_sharpness

    @torch.no_grad()
    def start_at(self, log_weights: Tensor, means: Tensor, covariance: Tensor) -> None:
        """Set the biases to an unconditional mixture with one covariance per member.

        Parameters
        ----------
        log_weights : Tensor of shape (n_members, K)
        means : Tensor of shape (n_members, K, d)
        covariance : Tensor of shape (n_members, d, d)
        """
        _, _, diagonal, entries = self.shapes
        covariance = self.ordered(self.ordered(covariance).mT)
        log_precision, others = self.numbers_of(covariance)
        parts = [
            log_weights,
            self.ordered(means.mT).mT.flatten(1),
            log_precision.repeat(1, diagonal[0]),
            others.flatten(1).repeat(1, entries[0]),
        ]
        self.linear.bias.copy_(torch.cat(parts, dim=1)[:, None])


def _taken(outputs: Tensor, order: Tensor) -> Tensor:
    """Take from (d, n) or (M, ..., d, n) in the order of each network, (M, d)."""
    if outputs.ndim == 2:
        outputs = outputs[None]
    n_between = outputs.ndim - 3
    index = order.view(len(order), *[1] * n_between, -1, 1)
    shape = (len(order), *outputs.shape[1:])
    return outputs.expand(shape).gather(-2, index.expand(shape))


def _softmax_(x: Tensor) -> Tensor:
    """Turn x into its softmax along the last axis but one; return its logsumexp."""
    largest = x.amax(-2, keepdim=True)
    total = x.sub_(largest).exp_().sum(-2, keepdim=True)
    x /= total
    return total.log_().add_(largest).squeeze(-2)


def _summed_like(gradient: Tensor, shared: Tensor) -> Tensor:
    """Sum over what one number was used for: components, or outputs."""
    for axis in (1, 2):
        if shared.shape[axis] == 1 < gradient.shape[axis]:
            gradient = gradient.sum(axis, keepdim=True)
    return gradient
