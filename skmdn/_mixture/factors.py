"""Triangular factors of precision matrices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Up to this many outputs, `invert_factors` is faster than LAPACK for many factors.
LARGEST_SMALL_FACTOR = 16


def factors_from_covariances(covariances: Tensor) -> Tensor:
    """Compute the upper-triangular U with U' U = covariance^-1, (..., d, d).

    With F the reversal of the axes and C the Cholesky factor of F S F, the matrix
    F C F is upper-triangular and a square root of S; U is its inverse. S itself is
    never inverted.
    """
    reversed_root = torch.linalg.cholesky(covariances.flip(-2, -1))
    return invert_factors(reversed_root.flip(-2, -1))


def invert_factors(factors: Tensor) -> Tensor:
    """Invert upper-triangular matrices, (..., d, d), by back substitution.

    Row i of the inverse follows from the rows below it, for all matrices at once:
    LAPACK's solver is slow for many small matrices.
    """
    d = factors.shape[-1]
    if d > LARGEST_SMALL_FACTOR or factors.requires_grad:
        identity = torch.eye(d, dtype=factors.dtype, device=factors.device)
        solved: Tensor = torch.linalg.solve_triangular(factors, identity, upper=True)
        return solved
    inverse = torch.zeros_like(factors)
    for i in reversed(range(d)):
        known = factors[..., i, i + 1 :, None] * inverse[..., i + 1 :, :]
        inverse[..., i, :] = -known.sum(-2)
        inverse[..., i, i] += 1
        inverse[..., i, :] /= factors[..., i, i, None]
    return inverse


def covariances(factors: Tensor) -> Tensor:
    """Compute the covariance U^-1 U^-T of every component, (..., d, d)."""
    roots = invert_factors(factors)
    return roots @ roots.mT


def precisions(factors: Tensor) -> Tensor:
    """Compute the inverse covariance U' U of every component, (..., d, d)."""
    return factors.mT @ factors


def log_det(factors: Tensor) -> Tensor:
    """Compute the log-determinant of U, minus half that of the covariance, (...)."""
    return factors.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def reorder(factors: Tensor, order: Sequence[int]) -> Tensor:
    """Return the precision factors of outputs in another order, (..., d', d').

    With A the columns of U in this order, A' A is the precision in this order, and R of
    the QR decomposition of A is triangular with R' R = A' A. The condition number is
    not squared, as it would be by a Cholesky decomposition of A' A.
    """
    order = list(order)
    if order == list(range(factors.shape[-1])):
        return factors
    return triangularise(factors[..., order])


def triangularise(matrices: Tensor) -> Tensor:
    """Compute the upper-triangular R with positive diagonal and R' R = A' A."""
    # The derivative of R needs Q.
    mode = "reduced" if matrices.requires_grad else "r"
    r: Tensor = torch.linalg.qr(matrices, mode=mode).R
    return r * r.diagonal(dim1=-2, dim2=-1).sign()[..., None]


def triangularise_rows(matrices: Tensor) -> Tensor:
    """Compute the upper-triangular T with positive diagonal and T T' = B B'.

    For B (..., d, m) with m >= d. With F the reversal of the axes and R the factor of
    (F B)' by `triangularise`, T = F R' F.
    """
    return triangularise(matrices.flip(-2).mT).mT.flip(-2, -1)
