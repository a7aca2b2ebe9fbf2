"""From the last layer's numbers to Gaussian mixtures, and back to their gradient.

Rows lie on the last axis here: torch vectorises along it, while sums over the short
axes of components and outputs then run through whole vectors. With M networks, K
components, d outputs and n rows::

    raw (M, size, n)    logits (M, K, n)    means (M, K, d, n)

What follows the means is the covariance's, and differs between the two heads.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from skmdn import _mixture
from skmdn._calibration import Calibration, Terms
from skmdn._mixture import Mixture

__all__ = ["COVARIANCE_TYPES", "MemberLinear", "MixtureHead", "make_head"]

# Standard deviations of an output given the others lie between these, in the unit of
# the standardised y: wider than any component needs, and far from overflow.
LARGEST_SCALE, SMALLEST_SCALE = 100.0, 1e-15
LOG_PRECISION_RANGE = (-math.log(LARGEST_SCALE), -math.log(SMALLEST_SCALE))

# Scale of the head's weights at the start, small so that every row begins with the
# unconditional mixture that the biases hold.
HEAD_GAIN = 0.1


Layout = Callable[[int, int], tuple[tuple[int, int], tuple[int, int]]]


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


class MixtureHead(nn.Module):
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

    def forward(self, hidden: Tensor) -> Mixture:
        raw = self.linear.transposed(hidden)
        logits, means, *spread = self.split(raw)
        factors = self.factors(*spread)
        n_members, n_components, d, n = means.shape
        factors = factors.expand(n_members, n, n_components, d, d)
        return Mixture(
            logits.log_softmax(1).mT, means.permute(0, 3, 1, 2).contiguous(), factors
        )

    def mean(self, hidden: Tensor) -> Tensor:
        """Mean of each member's mixture, (n_members, d, n), without the factors."""
        n_weights, n_means = self.sizes[:2]
        raw = self.linear.transposed(hidden, n_weights + n_means)
        weights = raw[:, :n_weights].softmax(1)
        means = raw[:, n_weights:].unflatten(1, self.shapes[1])
        return (weights[:, :, None] * means).sum(1)

    def moments(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variances of each member's mixture, (n_members, d, n)."""
        logits, means, *spread = self.split(self.linear.transposed(hidden))
        weights = logits.softmax(1)[:, :, None]
        mean = (weights * means).sum(1)
        second = self.variances(*spread) + (means - mean[:, None]).square()
        return mean, (weights * second).sum(1)

    def terms(self, hidden: Tensor, y: Tensor) -> Terms:
        """What the log-density of y, (n, d) or (n_members, n, d), is made of."""
        logits, means, *spread = self.split(self.linear.transposed(hidden))
        white = self.whiten(y.mT.unsqueeze(-3) - means, *spread)
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
        """Weighted negative log-likelihood, or bound; write the gradient of its mean.

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
        logits, means, *spread = numbers
        residuals = y.mT.unsqueeze(-3) - means
        log_dets, distances, saved = self.whiten(residuals, *spread)
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
        both *= weight.div(-weight.shape[1]).unsqueeze(1)
        minus_weights, minus_r = both.unbind()
        by_logits, *by_others = by_numbers
        torch.sub(minus_r, minus_weights, out=by_logits)
        self.differentiate(minus_r.unsqueeze(2), residuals, saved, spread, by_others)
        return nll.add_(0.5 * self.n_outputs * _mixture.LOG_2PI).mul_(weight)

    @abstractmethod
    def factors(self, log_precision: Tensor, entries: Tensor) -> Tensor:
        """Precision factors U, (M, n, K or 1, d, d)."""

    @abstractmethod
    def variances(self, log_precision: Tensor, entries: Tensor) -> Tensor:
        """Variance of each output, (M, K or 1, d, n)."""

    @abstractmethod
    def whiten(
        self, residuals: Tensor, log_precision: Tensor, entries: Tensor
    ) -> Whitened:
        """Distances and log-determinants for residuals (M, K, d, n)."""

    @abstractmethod
    def differentiate(
        self,
        minus_r: Tensor,
        residuals: Tensor,
        saved: tuple[Tensor, ...],
        spread: list[Tensor],
        by_others: list[Tensor],
    ) -> None:
        """Write the gradient of -sum_k R_k log p_k, given -R (M, K, 1, n), in all but
        the logits: means, log-diagonal and the other numbers."""

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
        log_precision, others = self.numbers_of(covariance)
        parts = [
            log_weights,
            means.flatten(1),
            log_precision.repeat(1, diagonal[0]),
            others.flatten(1).repeat(1, entries[0]),
        ]
        self.linear.bias.copy_(torch.cat(parts, dim=1)[:, None])


class CholeskyHead(MixtureHead):
    """U = diag(u) (I + B), B strictly upper-triangular (Kruse 2020, eq. 9).

    Row i is the regression of output i on the later ones, with residual variance
    1 / u_i^2. With r = y - mean, v = (I + B) r, z = u v and s = R u z,

        d / d log u = R (z^2 - 1)    d / d mean = -(I + B)' s    d / d B_ij = s_i r_j
    """

    # Numbers of the diagonal (groups, entries) and above it (groups, entries); one
    # group stands for all components.
    LAYOUTS: ClassVar[dict[str, Layout]] = {
        "full": lambda K, d: ((K, d), (K, d * (d - 1) // 2)),
        "tied": lambda K, d: ((1, d), (1, d * (d - 1) // 2)),
        "diag": lambda K, d: ((K, d), (K, 0)),
        "spherical": lambda K, d: ((K, 1), (K, 0)),
    }

    def __init__(
        self,
        n_members: int,
        width: int,
        n_components: int,
        n_outputs: int,
        covariance_type: str,
        **options: Any,
    ) -> None:
        layout = self.LAYOUTS[covariance_type](n_components, n_outputs)
        super().__init__(n_members, width, n_components, n_outputs, *layout, **options)
        self.upper_index: Tensor
        # Column by column: column j holds what output j adds to the earlier ones.
        columns, rows = torch.tril_indices(n_outputs, n_outputs, offset=-1)
        self.register_buffer(
            "upper_index", rows * n_outputs + columns, persistent=False
        )

    def columns(self, entries: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Index j of each column of B, and its j entries, (M, groups, j, n)."""
        sizes = list(range(1, self.n_outputs))
        return zip(sizes, entries.split(sizes, dim=2), strict=True)

    def upper(self, entries: Tensor) -> Tensor:
        """B, (M, groups, d, d, n)."""
        d = self.n_outputs
        shape = list(entries.shape)
        shape[2] = d * d
        flat = entries.new_zeros(shape).index_copy_(2, self.upper_index, entries)
        return flat.unflatten(2, (d, d))

    def factors(self, log_precision: Tensor, entries: Tensor) -> Tensor:
        d = self.n_outputs
        _, variances = self.floored(log_precision)
        diagonal = variances.rsqrt().movedim(-1, 1)
        diagonal = diagonal.expand(*diagonal.shape[:-1], d)
        if not entries.shape[2]:
            return torch.diag_embed(diagonal)
        unit = self.upper(entries).movedim(-1, 1)
        unit = unit + torch.eye(d, dtype=unit.dtype, device=unit.device)
        return diagonal[..., None] * unit

    def variances(self, log_precision: Tensor, entries: Tensor) -> Tensor:
        if not entries.shape[2]:
            return self.floored(log_precision)[1]
        roots = _mixture.invert_factors(self.factors(log_precision, entries))
        return roots.square().sum(-1).movedim(1, -1)

    def whiten(
        self, residuals: Tensor, log_precision: Tensor, entries: Tensor
    ) -> Whitened:
        above, variances = self.floored(log_precision)
        u = variances.rsqrt()
        log_dets = u.log().sum(2)
        if u.shape[2] == 1 < self.n_outputs:
            log_dets *= self.n_outputs
        v = residuals
        if entries.shape[2]:
            v = residuals.clone()
            rows = residuals.unsqueeze(3).unbind(2)
            for j, column in self.columns(entries):
                v.narrow(2, 0, j).addcmul_(column, rows[j])
        z = u * v
        squares = z.square()
        slope = above.div_(variances)
        return Whitened(log_dets, squares.sum(2), (u, z, squares, slope))

    def differentiate(
        self,
        minus_r: Tensor,
        residuals: Tensor,
        saved: tuple[Tensor, ...],
        spread: list[Tensor],
        by_others: list[Tensor],
    ) -> None:
        log_precision, entries = spread
        by_means, by_log_precision, by_entries = by_others
        u, z, squares, slope = saved
        s = torch.mul(z.mul_(u), minus_r, out=by_means)
        if entries.shape[2]:
            rows = s.unsqueeze(3).unbind(2)
            minus_residuals = residuals.neg().unsqueeze(3).unbind(2)
            steps = zip(self.columns(entries), self.columns(by_entries), strict=True)
            # From the last column on, as each one changes only its own row of s.
            for (j, column), (_, by_column) in reversed(list(steps)):
                earlier = s.narrow(2, 0, j)
                if by_column.shape[1] == s.shape[1]:
                    torch.mul(earlier, minus_residuals[j], out=by_column)
                else:
                    outer = earlier * minus_residuals[j]
                    torch.sum(outer, 1, keepdim=True, out=by_column)
                rows[j].add_((earlier * column).sum(2, keepdim=True))
        # -R (1 - z^2), times the slope of log u.
        share = minus_r * slope
        by_log_u = torch.addcmul(share, share, squares, value=-1)
        _within_range(
            _summed_like(by_log_u, log_precision), log_precision, by_log_precision
        )

    def numbers_of(self, covariance: Tensor) -> tuple[Tensor, Tensor]:
        _, _, diagonal, entries = self.shapes
        if entries[-1]:
            factors = _mixture.factors_from_covariances(covariance)
            u = factors.diagonal(dim1=-2, dim2=-1)
            upper = (factors / u[..., None]).flatten(-2)[..., self.upper_index]
            variances = u**-2
        else:
            upper = covariance.new_zeros(len(covariance), 0)
            variances = covariance.diagonal(dim1=-2, dim2=-1)
        if diagonal[-1] == 1:
            variances = variances.mean(-1, keepdim=True)
        return self.unfloored(variances), upper


class LowRankHead(MixtureHead):
    """Covariance D^1/2 (I + A A') D^1/2, D = diag(1 / u^2) and A of a few columns.

    With e = u r, b = A' e, C = I + A' A and x = C^-1 b, the vector s = e - A x is
    D^-1/2 times the whitened residual (Woodbury), |s|^2 + |x|^2 its squared length
    without cancellation, and log det C that of I + A A'. For responsibilities R,

        d / d log u = R (e s - 1)    d / d mean = -R u s
        d / d A = R (A C^-1 - s x')

    and nothing of the size d x d is made.
    """

    def __init__(
        self,
        n_members: int,
        width: int,
        n_components: int,
        n_outputs: int,
        rank: int,
        **options: Any,
    ) -> None:
        shapes = (n_components, n_outputs), (n_components, rank, n_outputs)
        super().__init__(n_members, width, n_components, n_outputs, *shapes, **options)

    def factors(self, log_precision: Tensor, entries: Tensor) -> Tensor:
        scales = self.floored(log_precision)[1].sqrt()
        loadings = (entries * scales[:, :, None]).permute(0, 4, 1, 3, 2)
        variances = scales.square().movedim(-1, 1)
        return _mixture.factors_from_covariances(
            torch.diag_embed(variances) + loadings @ loadings.mT
        )

    def variances(self, log_precision: Tensor, entries: Tensor) -> Tensor:
        _, variances = self.floored(log_precision)
        return variances * (1 + entries.square().sum(2))

    def whiten(
        self, residuals: Tensor, log_precision: Tensor, entries: Tensor
    ) -> Whitened:
        above, variances = self.floored(log_precision)
        u = variances.rsqrt()
        e = u * residuals
        inverse, log_det = _inverse_gram(entries)
        b = (entries * e[:, :, None]).sum(3)
        x = (inverse * b[:, :, None]).sum(3)
        s = e - (entries * x[:, :, :, None]).sum(2)
        distances = s.square().sum(2) + x.square().sum(2)
        log_dets = torch.sub(u.log().sum(2), log_det, alpha=0.5)
        slope = above.div_(variances)
        return Whitened(log_dets, distances, (u, e, s, x, inverse, slope))

    def differentiate(
        self,
        minus_r: Tensor,
        residuals: Tensor,
        saved: tuple[Tensor, ...],
        spread: list[Tensor],
        by_others: list[Tensor],
    ) -> None:
        log_precision, entries = spread
        by_means, by_log_precision, by_entries = by_others
        u, e, s, x, inverse, slope = saved
        shared = s * minus_r
        torch.mul(shared, u, out=by_means)
        by_log_u = torch.addcmul(minus_r, shared, e, value=-1).mul_(slope)
        _within_range(by_log_u, log_precision, by_log_precision)
        inverse = inverse * minus_r.unsqueeze(2)
        for j, by_column in enumerate(by_entries.unbind(2)):
            torch.mul(shared, x[:, :, j, None], out=by_column)
            by_column -= (inverse[:, :, j, :, None] * entries).sum(2)

    def numbers_of(self, covariance: Tensor) -> tuple[Tensor, Tensor]:
        """The leading principal axes go to A, and what they leave to D."""
        rank, d = self.shapes[3][1:]
        variances, axes = torch.linalg.eigh(covariance)
        variances, axes = variances.flip(-1), axes.flip(-1)
        n_axes = min(rank, d - 1)
        rest = variances[:, n_axes:].mean(-1, keepdim=True)
        loadings = covariance.new_zeros(len(covariance), rank, d)
        excess = (variances - rest)[:, :n_axes].clamp(min=0).sqrt()
        loadings[:, :n_axes] = (axes[..., :n_axes] * excess[:, None]).mT
        total = covariance.diagonal(dim1=-2, dim2=-1)
        left = (total - loadings.square().sum(1)).clamp(min=1e-3 * total)
        return self.unfloored(left), loadings / left.sqrt()[:, None]


def _inverse_gram(A: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse (M, K, rank, rank, n) and log-determinant of I + A A', A with (d, n)."""
    rank = A.shape[2]
    rows = [(A[:, :, i, None] * A).sum(3) for i in range(rank)]
    gram = torch.stack(rows, dim=2).movedim(-1, 2)  # (M, K, n, rank, rank)
    gram = gram + torch.eye(rank, dtype=A.dtype, device=A.device)
    root = torch.linalg.cholesky_ex(gram).L
    log_det = root.diagonal(dim1=-2, dim2=-1).log().sum(-1).mul(2)
    return torch.cholesky_inverse(root).movedim(2, -1), log_det


def _softmax_(x: Tensor) -> Tensor:
    """Turn x into its softmax along the last axis but one; return its logsumexp."""
    largest = x.amax(-2, keepdim=True)
    total = x.sub_(largest).exp_().sum(-2, keepdim=True)
    x /= total
    return total.log_().add_(largest).squeeze(-2)


def _within_range(gradient: Tensor, log_precision: Tensor, out: Tensor) -> None:
    """Gradient of `clamp`, which is zero outside."""
    torch.ops.aten.hardtanh_backward.grad_input(
        gradient, log_precision, *LOG_PRECISION_RANGE, grad_input=out
    )


def _summed_like(gradient: Tensor, shared: Tensor) -> Tensor:
    """Sum over what one number was used for: components, or outputs."""
    for axis in (1, 2):
        if shared.shape[axis] == 1 < gradient.shape[axis]:
            gradient = gradient.sum(axis, keepdim=True)
    return gradient


COVARIANCE_TYPES = (*CholeskyHead.LAYOUTS, "low_rank")


def make_head(
    n_members: int,
    width: int,
    n_components: int,
    n_outputs: int,
    covariance_type: str,
    rank: int,
    *,
    reg_covar: float,
    generator: torch.Generator,
) -> MixtureHead:
    """The head of a covariance type."""
    sizes = n_members, width, n_components, n_outputs
    options: dict[str, Any] = {"reg_covar": reg_covar, "generator": generator}
    if covariance_type == "low_rank":
        return LowRankHead(*sizes, rank, **options)
    return CholeskyHead(*sizes, covariance_type, **options)
