"""The covariances that a head can hold: Cholesky factors, and low rank.

Shapes are those of `_head`: rows lie on the last axis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from skmdn import _mixture
from skmdn._head import MixtureHead, Whitened

__all__ = ["COVARIANCE_TYPES", "make_head"]

Layout = Callable[[int, int], tuple[tuple[int, int], tuple[int, int]]]


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
        if len(rows) and layout[1][1]:
            # What a network finds easy hangs on which output explains which. That
            # should not be decided by the order of the columns of y.
            generator = options["generator"]
            orders = [
                torch.randperm(n_outputs, generator=generator) for _ in range(n_members)
            ]
            self.order = torch.stack(orders)

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

    def whiten(self, residuals: Tensor, u: Tensor, entries: Tensor) -> Whitened:
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
        return Whitened(log_dets, squares.sum(2), (z, squares))

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
        z, squares = saved
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
        return torch.addcmul(minus_r, minus_r, squares, value=-1)

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

    def whiten(self, residuals: Tensor, u: Tensor, entries: Tensor) -> Whitened:
        e = u * residuals
        inverse, log_det = _inverse_gram(entries)
        b = (entries * e[:, :, None]).sum(3)
        x = (inverse * b[:, :, None]).sum(3)
        s = e - (entries * x[:, :, :, None]).sum(2)
        distances = s.square().sum(2) + x.square().sum(2)
        log_dets = torch.sub(u.log().sum(2), log_det, alpha=0.5)
        return Whitened(log_dets, distances, (e, s, x, inverse))

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
        e, s, x, inverse = saved
        shared = s * minus_r
        torch.mul(shared, u, out=by_means)
        inverse = inverse * minus_r.unsqueeze(2)
        for j, by_column in enumerate(by_entries.unbind(2)):
            torch.mul(shared, x[:, :, j, None], out=by_column)
            by_column -= (inverse[:, :, j, :, None] * entries).sum(2)
        return torch.addcmul(minus_r, shared, e, value=-1)

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
