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
from skmdn._mixture import Mixture, cells
from skmdn._utils.compat import aten
from skmdn.nn.layers import MemberLinear
from skmdn.nn.likelihood import LOSSES, Calibration
from skmdn.nn.targets import Targets
from skmdn.nn.terms import CellTerms, PartialTerms, PointTerms, Terms

# Bounds of the standard deviation of an output given the others, in the unit of the
# standardised y: wider than any component needs, and far from overflow.
LARGEST_SCALE, SMALLEST_SCALE = 100.0, 1e-15

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

    A subclass defines `factors`, `variances`, `whiten`, `regress` and `numbers_of`; it
    may override `differentiate`, `evaluate_cells` and `differentiate_cells` by a faster
    gradient.

    Shape: (n_members, n, width) -> Mixture with leading axes (n_members, n).

    Parameters
    ----------
    n_members, width, n_components, n_outputs : int
    log_precision_shape, entries_shape : tuple of int
        Shapes of these numbers for one row of one member; the first axis is K or 1.
    reg_covar, largest_scale : float
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
        largest_scale: float,
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
        self.range = -math.log(largest_scale), -math.log(SMALLEST_SCALE)
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
    def whiten(
        self,
        residuals: Tensor,
        u: Tensor,
        entries: Tensor,
        observed: Tensor | None = None,
    ) -> Whitened:
        """Compute distances and log-determinants of residuals (M, K, d, n).

        The precisions u, (M, K or 1, d or 1, n), have the floor inside. With a mask
        `observed`, (M or 1, 1, d, n), they are those of the marginal of these outputs.
        """

    @abstractmethod
    def regress(
        self,
        residuals: Tensor,
        u: Tensor,
        entries: Tensor,
        observed: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Whiten each output given the later observed ones.

        Returns
        -------
        z, precision : Tensor of shape (M, K, d, n) and (M, K or 1, d or 1, n)
            Whitened residuals, zero where missing, and inverse standard deviations
            of the outputs given the later ones, one where missing.
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
        observed: Tensor | None = None,
    ) -> Tensor:
        """Differentiate -sum_k R_k log p_k(y) by autograd through `whiten`.

        Parameters
        ----------
        minus_r : Tensor of shape (M, K, 1, n)
            Minus the responsibilities, times the weight of the row.
        residuals, u, entries, observed, saved
            Arguments of `whiten`, and what it saved; an override may overwrite `saved`.
        grad_means, grad_entries : Tensor
            Buffers for the gradients with respect to means and entries.

        Returns
        -------
        grad_log_u : Tensor of shape (M, K, d, n) or that of u
            Gradient with respect to log u, before the sum over what shares a number.
        """
        inputs = residuals, u, entries = [
            part.detach().requires_grad_() for part in (residuals, u, entries)
        ]
        with torch.enable_grad():
            log_dets, distances, _ = self.whiten(residuals, u, entries, observed)
            joint = (log_dets - 0.5 * distances).expand(minus_r.squeeze(2).shape)
        return _pull_back(joint, inputs, minus_r, grad_means, grad_entries)

    # -- cells ---------------------------------------------------------------------

    def cell_terms(
        self, residuals: Tensor, u: Tensor, entries: Tensor, targets: Targets
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compute the last tensors of `CellTerms`; a precision can have 1 for d."""
        assert targets.below is not None
        assert targets.above is not None
        z, precision = self.regress(residuals, u, entries, targets.observed)
        return z, precision, targets.below, targets.above

    def evaluate_cells(
        self, residuals: Tensor, u: Tensor, entries: Tensor, targets: Targets
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Compute the log-densities of targets in cells, (M, K, n), for autograd.

        The second value is saved for `differentiate_cells`.
        """
        inputs = residuals, u, entries = [
            part.detach().requires_grad_() for part in (residuals, u, entries)
        ]
        with torch.enable_grad():
            z, precision, below, above = self.cell_terms(residuals, u, entries, targets)
            log_density = cells.log_probability(z, precision * below, precision * above)
            log_density = log_density + CellTerms.log_units(precision, below, above)
            joint = log_density.sum(2)
        return joint.detach(), (joint, *inputs)

    def differentiate_cells(
        self,
        minus_r: Tensor,
        residuals: Tensor,
        u: Tensor,
        entries: Tensor,
        saved: tuple[Tensor, ...],
        grad_means: Tensor,
        grad_entries: Tensor,
        targets: Targets,
    ) -> Tensor:
        """Do for `evaluate_cells` what `differentiate` does for `whiten`."""
        joint, *inputs = saved
        return _pull_back(joint, inputs, minus_r, grad_means, grad_entries)

    def is_by_hand(self, targets: Targets) -> bool:
        """Return whether the gradient for targets of these kinds needs no autograd."""
        return False

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

    def arranged(self, targets: Targets) -> Targets:
        """Put targets (n, d) or (n_members, n, d) in the order and layout of the head.

        Their shape becomes (n_members, 1, d, n), or (1, d, n) if they and the order are
        those of all members.
        """
        return targets.map(lambda part: self.ordered(part.mT).unsqueeze(-3))

    def terms(
        self, hidden: Tensor, targets: Targets, nearness: Tensor | None = None
    ) -> Terms:
        """Compute the terms of the log-density of targets."""
        raw = self.raw(hidden, nearness)
        logits, means, log_precision, entries = self.split(raw)
        _, variances = self.floored(log_precision)
        targets = self.arranged(targets)
        numbers = targets.points - means, variances.rsqrt(), entries
        log_weights = logits.log_softmax(1)
        if targets.below is not None:
            shape = len(means), -1, self.n_outputs, -1
            parts = self.cell_terms(*numbers, targets)
            return CellTerms(log_weights, *(part.expand(shape) for part in parts))
        log_dets, distances, _ = self.whiten(*numbers, targets.observed)
        if targets.observed is None:
            return PointTerms(log_weights, log_dets, distances, self.n_outputs)
        n_observed = targets.observed.sum(-2, dtype=means.dtype)
        n_observed = n_observed.expand(len(means), 1, -1)
        return PartialTerms(log_weights, log_dets, distances, n_observed)

    def floored(self, log_precision: Tensor) -> tuple[Tensor, Tensor]:
        """Return the variances without and with the floor; the latter are 1 / u^2."""
        above = log_precision.clamp(*self.range).mul(-2).exp()
        return above, above + self.reg_covar

    def unfloored(self, variances: Tensor) -> Tensor:
        """Return `log_precision` for variances from which the floor is subtracted."""
        return -0.5 * (variances - self.reg_covar).clamp(min=0.1 * variances).log()

    # -- training ------------------------------------------------------------------

    def loss_and_gradient(
        self,
        numbers: list[Tensor],
        targets: Targets,
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
        targets : Targets of shape (n_members, n, d)
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
        targets = self.arranged(targets)
        residuals = targets.points - means
        above, variances = self.floored(log_precision)
        u = variances.rsqrt()
        stacked = logits.new_empty((2, *logits.shape))
        stacked[0] = logits
        given = residuals, u, entries
        saved = self._add_log_densities(logits, *given, targets, out=stacked[1])
        losses = LOSSES[loss].respond_(stacked)
        # Negating the weights here avoids later changes of sign.
        stacked *= weight.neg().unsqueeze(1)
        minus_weights, minus_r = stacked.unbind()
        torch.sub(minus_r, minus_weights, out=grad_logits)
        arguments = minus_r.unsqueeze(2), *given, saved, grad_means, grad_entries
        if targets.below is None:
            grad_log_u = self.differentiate(*arguments, targets.observed)
        else:
            grad_log_u = self.differentiate_cells(*arguments, targets)
        # Floor: d log u = (above / variance) d log_precision; zero where it is clamped.
        grad_log_u = sum_like(grad_log_u, log_precision).mul_(above.div_(variances))
        aten.hardtanh_backward.grad_input(
            grad_log_u,
            log_precision,
            *self.range,
            grad_input=grad_log_precision,
        )
        return losses.add_(self._constant(targets, losses.dtype)).mul_(weight)

    def _add_log_densities(
        self,
        logits: Tensor,
        residuals: Tensor,
        u: Tensor,
        entries: Tensor,
        targets: Targets,
        out: Tensor,
    ) -> tuple[Tensor, ...]:
        """Add log-densities to the logits, plus `_constant`; return what is saved."""
        if targets.below is not None:
            log_densities, saved = self.evaluate_cells(residuals, u, entries, targets)
            torch.add(logits, log_densities, out=out)
            return saved
        white = self.whiten(residuals, u, entries, targets.observed)
        torch.add(logits, white.log_dets, out=out).sub_(white.distances, alpha=0.5)
        return white.saved

    def _constant(self, targets: Targets, dtype: torch.dtype) -> float | Tensor:
        """Return the constant of the losses, in nats; (M or 1, n) if it differs."""
        if targets.below is not None:
            return 0.0
        if targets.observed is None:
            return 0.5 * self.n_outputs * _mixture.LOG_2PI
        return 0.5 * _mixture.LOG_2PI * targets.observed.sum((-3, -2), dtype=dtype)

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


def _pull_back(
    joint: Tensor,
    inputs: Sequence[Tensor],
    minus_r: Tensor,
    grad_means: Tensor,
    grad_entries: Tensor,
) -> Tensor:
    """Write the gradients of the means and entries by autograd; return that of log u.

    The inputs of `joint` are residuals, u and entries.
    """
    grad_residuals, grad_u, grad_others = torch.autograd.grad(
        joint, inputs, minus_r.squeeze(2), allow_unused=True, materialize_grads=True
    )
    torch.neg(grad_residuals, out=grad_means)
    grad_entries.copy_(grad_others)
    return grad_u * inputs[1].detach()


def sum_like(gradient: Tensor, shared: Tensor) -> Tensor:
    """Sum over the components, or outputs, that share a number."""
    for axis in (1, 2):
        if shared.shape[axis] == 1 < gradient.shape[axis]:
            gradient = gradient.sum(axis, keepdim=True)
    return gradient
