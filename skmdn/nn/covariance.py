"""Covariance types: Cholesky factors, and diagonal plus low rank.

Shapes are those of `head`: rows lie on the last axis. A new covariance type is a
subclass of `MixtureHead` and an entry of `COVARIANCES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from skmdn import _mixture
from skmdn._mixture.cells import truncate
from skmdn.nn.head import MixtureHead, Whitened
from skmdn.nn.marginal import Marginal, mask
from skmdn.nn.targets import Targets
from skmdn.nn.terms import CellTerms


class CholeskyHead(MixtureHead):
    """U = diag(u) (I + B), B strictly upper-triangular (Kruse 2020, eq. 9).

    Row i is the regression of output i on the later ones, with residual variance
    1 / u_i^2. With r = y - mean, v = (I + B) r, z = u v and s = R u z,

        d / d log u = R (z^2 - 1)    d / d mean = -(I + B)' s    d / d B_ij = s_i r_j

    Of an output in a cell, E[X] and E[X^2] in the cell replace z and z^2 (see
    `skmdn._mixture.cells`). Of missing outputs, the mean of the gradient given the
    observed ones counts, by Fisher's identity: their conditional means replace r, and
    the conditional covariance adds to products of residuals (see `marginal`).
    """

    upper_index: Tensor

    def __init__(
        self,
        n_members: int,
        width: int,
        n_components: int,
        n_outputs: int,
        *shapes: tuple[int, ...],
        generator: torch.Generator,
        **options: Any,
    ) -> None:
        super().__init__(
            n_members,
            width,
            n_components,
            n_outputs,
            *shapes,
            generator=generator,
            **options,
        )
        # Column by column: column j holds what output j adds to the earlier ones.
        columns, rows = torch.tril_indices(
            n_outputs, n_outputs, offset=-1, device="cpu"
        )
        self.register_buffer(
            "upper_index", rows * n_outputs + columns, persistent=False
        )
        if self.sizes[3]:
            # How easily a network learns depends on which output explains which. That
            # should not be decided by the order of the columns of y.
            orders = [
                torch.randperm(n_outputs, generator=generator, device="cpu")
                for _ in range(n_members)
            ]
            self.order = torch.stack(orders)

    def columns(self, entries: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Iterate over the columns of B: index j, and j entries (M, groups, j, n)."""
        sizes = list(range(1, self.n_outputs))
        return zip(sizes, entries.split(sizes, dim=2), strict=True)

    def upper(self, entries: Tensor) -> Tensor:
        """Return B, (M, groups, d, d, n)."""
        d = self.n_outputs
        shape = list(entries.shape)
        shape[2] = d * d
        flat = entries.new_zeros(shape).index_copy_(2, self.upper_index, entries)
        return flat.view(*shape[:2], d, d, shape[-1])

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
        self,
        residuals: Tensor,
        u: Tensor,
        entries: Tensor,
        observed: Tensor | None = None,
    ) -> Whitened:
        if observed is not None:
            if entries.shape[2]:
                return Marginal.of(residuals, u, self.upper(entries), observed).whitened
            residuals, u = mask(observed, residuals, u)
        log_dets = u.log().sum(2)
        if u.shape[2] == 1 < self.n_outputs:
            log_dets *= self.n_outputs
        z = u * self._explain(residuals, entries)
        squares = z.square()
        return Whitened(log_dets, squares.sum(2), (z, squares))

    def _explain(self, residuals: Tensor, entries: Tensor) -> Tensor:
        """Compute v = (I + B) r."""
        if not entries.shape[2]:
            return residuals
        v = residuals.clone()
        rows = residuals.unsqueeze(3).unbind(2)
        for j, column in self.columns(entries):
            v.narrow(2, 0, j).addcmul_(column, rows[j])
        return v

    def regress(
        self,
        residuals: Tensor,
        u: Tensor,
        entries: Tensor,
        observed: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        if observed is not None:
            if entries.shape[2]:
                part = Marginal.of(residuals, u, self.upper(entries), observed)
                return part.z, part.precision
            residuals, u = mask(observed, residuals, u)
        return u * self._explain(residuals, entries), u

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
        buffers = grad_means, grad_entries
        if observed is None:
            return self._differentiate(minus_r, residuals, u, entries, saved, *buffers)
        if not entries.shape[2]:  # z is zero where missing
            grad_log_u = self._differentiate(
                minus_r, residuals, u, entries, saved, *buffers
            )
            return grad_log_u.masked_fill(~observed, 0)
        filled, root = saved
        upper = self.upper(entries)
        noise = root + torch.einsum("mgijn,mgjkn->mgikn", upper, root)
        scaled = u[:, :, :, None] * noise
        z = u * self._explain(filled, entries)
        squares = z.square() + scaled.square().sum(3)
        grad_log_u = self._differentiate(
            minus_r, filled, u, entries, (z, squares), *buffers
        )
        products = torch.einsum("mgikn,mgjkn->mgijn", u[:, :, :, None] * scaled, root)
        products = products.flatten(2, 3).index_select(2, self.upper_index)
        shared = minus_r if len(products[0]) > 1 else minus_r.sum(1, keepdim=True)
        grad_entries -= shared * products
        return grad_log_u

    def _differentiate(
        self,
        minus_r: Tensor,
        residuals: Tensor,
        u: Tensor,
        entries: Tensor,
        saved: tuple[Tensor, ...],
        grad_means: Tensor,
        grad_entries: Tensor,
    ) -> Tensor:
        """Differentiate, given z and z^2, or what replaces them; the first changes."""
        z, squares = saved
        s = torch.mul(z.mul_(u), minus_r, out=grad_means)
        if entries.shape[2]:
            rows = s.unsqueeze(3).unbind(2)
            minus_residuals = residuals.neg().unsqueeze(3).unbind(2)
            steps = zip(self.columns(entries), self.columns(grad_entries), strict=True)
            # From the last column to the first: each one changes only its own row of s.
            for (j, column), (_, grad_column) in reversed(list(steps)):
                earlier = s.narrow(2, 0, j)
                if grad_column.shape[1] == s.shape[1]:
                    torch.mul(earlier, minus_residuals[j], out=grad_column)
                else:
                    outer = earlier * minus_residuals[j]
                    torch.sum(outer, 1, keepdim=True, out=grad_column)
                rows[j].add_((earlier * column).sum(2, keepdim=True))
        return torch.addcmul(minus_r, minus_r, squares, value=-1)

    def evaluate_cells(
        self, residuals: Tensor, u: Tensor, entries: Tensor, targets: Targets
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        if not self.is_by_hand(targets):
            return super().evaluate_cells(residuals, u, entries, targets)
        z, precision, below, above = self.cell_terms(residuals, u, entries, targets)
        cells = truncate(z, precision * below, precision * above)
        log_units = CellTerms.log_units(precision, below, above)
        log_density = (cells.log_probability + log_units).sum(2)
        return log_density, (cells.mean, cells.square)

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
        arguments = minus_r, residuals, u, entries, saved, grad_means, grad_entries
        if not self.is_by_hand(targets):
            return super().differentiate_cells(*arguments, targets)
        return self._differentiate(*arguments)

    def is_by_hand(self, targets: Targets) -> bool:
        # All but cells of outputs that are regressed on the observed ones among others.
        has_both = targets.below is not None and targets.observed is not None
        return not (has_both and self.sizes[3])

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
    without cancellation, and log det C equals log det (I + A A'). With
    responsibilities R,

        d / d log u = R (e s - 1)    d / d mean = -R u s
        d / d A = R (A C^-1 - s x')

    No d x d matrix is formed. Missing outputs have no rows in D and A.
    """

    def factors(self, log_precision: Tensor, entries: Tensor) -> Tensor:
        """Return U from the regressions of each output on the later ones.

        Those of I + A A' have the coefficients a_j' x_i and the variances 1 / u_i^2:
        U_ij = -u_i a_j' x_i. O(d^2 rank) operations; the relative error of a row grows
        as |A|^2, as that of a Cholesky factor of I + A A' does.
        """
        scales = self.floored(log_precision)[1].sqrt()
        x, variances = _regress_on_later(entries)
        u = variances.rsqrt()
        rows = (x * -u[:, :, None]).permute(0, 4, 1, 3, 2)
        columns = (entries / scales[:, :, None]).permute(0, 4, 1, 2, 3)
        factors = (rows @ columns).triu_(1)
        # In place: with many outputs, copies take longer than all else.
        factors += torch.diag_embed((u / scales).movedim(-1, 1))
        return factors

    def variances(self, log_precision: Tensor, entries: Tensor) -> Tensor:
        _, variances = self.floored(log_precision)
        return variances * (1 + entries.square().sum(2))

    def whiten(
        self,
        residuals: Tensor,
        u: Tensor,
        entries: Tensor,
        observed: Tensor | None = None,
    ) -> Whitened:
        if observed is not None:
            residuals, u = mask(observed, residuals, u)
            entries = entries * observed.unsqueeze(-3)
        e = u * residuals
        inverse, log_det = _inverse_gram(entries)
        b = (entries * e[:, :, None]).sum(3)
        x = (inverse * b[:, :, None]).sum(3)
        s = e - (entries * x[:, :, :, None]).sum(2)
        distances = s.square().sum(2) + x.square().sum(2)
        log_dets = torch.sub(u.log().sum(2), log_det, alpha=0.5)
        return Whitened(log_dets, distances, (e, s, x, inverse))

    def regress(
        self,
        residuals: Tensor,
        u: Tensor,
        entries: Tensor,
        observed: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        if observed is not None:
            residuals, u = mask(observed, residuals, u)
            entries = entries * observed.unsqueeze(-3)
        e = u * residuals
        x, variances = _regress_on_later(entries)
        loaded = (entries * e[:, :, None]).flip(3)
        later = (loaded.cumsum(3) - loaded).flip(3)
        scales = variances.rsqrt()
        return scales * (e - (x * later).sum(2)), scales * u

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
        e, s, x, inverse = saved
        if observed is not None:
            entries = entries * observed.unsqueeze(-3)
        shared = s * minus_r
        torch.mul(shared, u, out=grad_means)
        inverse = inverse * minus_r.unsqueeze(2)
        for j, grad_column in enumerate(grad_entries.unbind(2)):
            torch.mul(shared, x[:, :, j, None], out=grad_column)
            grad_column -= (inverse[:, :, j, :, None] * entries).sum(2)
        grad_log_u = torch.addcmul(minus_r, shared, e, value=-1)
        if observed is None:
            return grad_log_u
        return grad_log_u.masked_fill_(~observed, 0)

    def is_by_hand(self, targets: Targets) -> bool:
        return targets.below is None

    def numbers_of(self, covariance: Tensor) -> tuple[Tensor, Tensor]:
        """Put the leading principal axes into A, and the remainder into D."""
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
    """Return inverse (M, K, rank, rank, n) and log-determinant of I + A' A."""
    rank = A.shape[2]
    rows = [(A[:, :, i, None] * A).sum(3) for i in range(rank)]
    gram = torch.stack(rows, dim=2).movedim(-1, 2)  # (M, K, n, rank, rank)
    gram = gram + torch.eye(rank, dtype=A.dtype, device=A.device)
    root = torch.linalg.cholesky_ex(gram).L
    log_det = root.diagonal(dim1=-2, dim2=-1).log().sum(-1).mul(2)
    return torch.cholesky_inverse(root).movedim(2, -1), log_det


def _regress_on_later(A: Tensor) -> tuple[Tensor, Tensor]:
    """Regress each output of I + A A' on the later ones.

    Shapes: A (M, K, rank, d, n), by columns. With a_i the rows of A and
    M_i = I + sum_{j > i} a_j a_j', return x_i = M_i^-1 a_i, of the shape of A, and
    the variances 1 + a_i' x_i of the outputs given the later ones, (M, K, d, n).

    M_i^-1 = W W' follows from that of the output before by Potter's update (Bierman
    1977, chapter II).
    """
    columns = A.unbind(3)
    W = torch.eye(A.shape[2], dtype=A.dtype, device=A.device)[..., None]
    f = x = columns[-1]
    solutions, variances = [x], [1 + f.square().sum(2, keepdim=True)]
    for a in columns[-2::-1]:
        step = x / (variances[-1] + variances[-1].sqrt())
        W = W - step[:, :, :, None] * f[:, :, None]
        f = (W * a[:, :, :, None]).sum(2)
        x = (W * f[:, :, None]).sum(3)
        solutions.append(x)
        variances.append(1 + f.square().sum(2, keepdim=True))
    return torch.stack(solutions[::-1], dim=3), torch.cat(variances[::-1], dim=2)


class Covariance(NamedTuple):
    """A covariance type: its head, and the numbers that the head reads.

    `shapes` gives the shapes of `log_precision` and `entries` for K components, d
    outputs and the rank; the first axis is 1 where components share the numbers.
    """

    head: type[MixtureHead]
    shapes: Callable[[int, int, int], tuple[tuple[int, ...], tuple[int, ...]]]


COVARIANCES = {
    "full": Covariance(
        CholeskyHead, lambda K, d, rank: ((K, d), (K, d * (d - 1) // 2))
    ),
    "tied": Covariance(
        CholeskyHead, lambda K, d, rank: ((1, d), (1, d * (d - 1) // 2))
    ),
    "diag": Covariance(CholeskyHead, lambda K, d, rank: ((K, d), (K, 0))),
    "spherical": Covariance(CholeskyHead, lambda K, d, rank: ((K, 1), (K, 0))),
    "low_rank": Covariance(LowRankHead, lambda K, d, rank: ((K, d), (K, rank, d))),
}
COVARIANCE_TYPES = tuple(COVARIANCES)


def make_head(
    n_members: int,
    width: int,
    n_components: int,
    n_outputs: int,
    covariance_type: str,
    rank: int,
    *,
    reg_covar: float,
    largest_scale: float,
    generator: torch.Generator,
) -> MixtureHead:
    """Build the head of a covariance type."""
    head, shapes = COVARIANCES[covariance_type]
    return head(
        n_members,
        width,
        n_components,
        n_outputs,
        *shapes(n_components, n_outputs, rank),
        reg_covar=reg_covar,
        largest_scale=largest_scale,
        generator=generator,
    )
