"""Linear images of mixtures."""

from __future__ import annotations

from torch import Tensor

from skmdn._mixture.core import Mixture
from skmdn._mixture.factors import invert_factors, triangularise_rows


def affine(mixture: Mixture, matrix: Tensor, shift: Tensor) -> Mixture:
    """Return the mixture of A y + b for A (q, d) of full row rank and b (q,).

    With R the inverse of U, the covariance of a component is B B' for B = A R. The new
    factor is the inverse of its triangular root, which follows from B by QR: forming
    B B' would square the condition number.
    """
    log_weights, means, factors = mixture
    roots = triangularise_rows(matrix @ invert_factors(factors))
    return Mixture(log_weights, means @ matrix.mT + shift, invert_factors(roots))
