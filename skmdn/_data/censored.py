"""Linear model with Gaussian residuals of a target that is partly censored."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfcx
from torch import Tensor

from skmdn.distributed import Ranks

Floats = NDArray[np.float64]

# Variance of the residuals of one more row, in units of that of the output. Without it
# few rows can be interpolated, which leaves no noise.
PRIOR_VARIANCE = 0.1
MAX_STEPS = 100
# Of the log-posterior, in nats: what another Newton step could gain at the end.
SMALLEST_GAIN = 1e-4
# Of twice the log-evidence over the logarithm of the penalty, at the end.
SMALLEST_SLOPE = 1e-2
# Of rows of unit weight, at first.
FIRST_PENALTY = 0.01


class CensoredModel(NamedTuple):
    """The fit of `fit_censored`.

    Parameters
    ----------
    coefficients : ndarray of shape (p,)
    intercept, variance : float
    freedom : float
        Effective number of coefficients, without the intercept.
    n_rows : float
        Information on a mean in all rows, in units of that of an observed row.
    """

    coefficients: Floats
    intercept: float
    variance: float
    freedom: float
    n_rows: float


def known_ends(y: Tensor) -> tuple[Tensor, Tensor]:
    """Return where the targets of one output are known to end, and on which side.

    A cell with two ends counts as its point.

    Parameters
    ----------
    y : Tensor of shape (n, 3) or (n, 4)
        As in `skmdn.nn.targets.Targets`.

    Returns
    -------
    ends : Tensor of shape (n, 1)
    side : Tensor of shape (n,)
        1 if the target is at least the end, -1 if at most, 0 if it is the end.
    """
    points, below, above = y[:, :3].T
    is_least, is_most = above.isinf() & below.isfinite(), below.isinf()
    is_most &= above.isfinite()
    shift = below.masked_fill(~is_least, 0) + above.masked_fill(~is_most, 0)
    return (points + shift)[:, None], is_least.to(y) - is_most.to(y)


def fit_censored(
    X: Floats,
    y: Floats,
    side: Floats,
    weight: Floats,
    prior_variance: float,
    penalties: tuple[float, float],
    ranks: Ranks,
) -> CensoredModel:
    """Fit y = x'b + c + s e, with e ~ N(0, 1), where some y are bounds of the target.

    With g = (b, c) / s and t = 1 / s, the log-likelihood is concave (Olsen 1978): a
    row has log t - a^2 / 2 with a = (x, 1)'g - t y, or log Phi(side a) if it is
    censored. The prior of b is N(0, s^2 / penalty), and its penalty maximises the
    evidence (MacKay 1992).

    Parameters
    ----------
    X : ndarray of shape (n, p)
    y, side : ndarray of shape (n,)
        See `known_ends`.
    weight : ndarray of shape (n,)
        Summed over the ranks, the effective number of rows.
    prior_variance : float
        Squared residual of one more row.
    penalties : tuple of float
        Least and largest penalty of a row.
    ranks : Ranks
    """
    n, p = X.shape
    U = np.column_stack([X, np.ones(n), -y])
    total, n_exact = map(float, ranks.sum([weight.sum(), weight @ (side == 0)]))
    n_exact += 1.0  # the row of the prior
    v = np.zeros(p + 2)  # (g, t)
    square = float(ranks.sum(weight @ y**2)) / total
    v[-1] = 1 / math.sqrt(square) if square > 0 else 1.0
    is_slope = np.arange(p + 2) < p
    penalty, freedom, n_rows = FIRST_PENALTY * total, 0.0, total
    for _ in range(MAX_STEPS):
        gradient, hessian, n_rows = _derivatives(U, v, side, weight, ranks)
        gradient[-1] += n_exact / v[-1] - prior_variance * v[-1]
        hessian[-1, -1] += n_exact / v[-1] ** 2 + prior_variance
        freedom = _freedom(hessian, penalty)
        gradient -= penalty * v * is_slope
        step = np.linalg.solve(hessian + penalty * np.diag(is_slope), gradient)
        gain = max(float(gradient @ step), 0.0)
        # The last bit can differ between processors, and all must stop at once.
        shared = ranks.broadcast(np.concatenate([step, [freedom, gain]]))
        step, freedom, gain = shared[:-2], float(shared[-2]), float(shared[-1])
        # The damped step of a self-concordant function; it leaves t positive.
        v = v + step / (1 + math.sqrt(gain / n_exact))
        slope, square = 0.0, float(v[:p] @ v[:p])
        if gain < n_exact and square:  # a rough estimate could imply any penalty
            update = float(np.clip(freedom / square, *np.multiply(penalties, total)))
            slope = (freedom - penalty * square) * (update != penalty)
            penalty = update
        if gain < SMALLEST_GAIN and abs(slope) < SMALLEST_SLOPE:
            break
    std = float(1 / v[-1])
    return CensoredModel(std * v[:p], std * float(v[p]), std**2, freedom, n_rows)


def _derivatives(
    U: Floats, v: Floats, side: Floats, weight: Floats, ranks: Ranks
) -> tuple[Floats, Floats, float]:
    """Compute gradient and minus the Hessian, without log t, and the information."""
    a = U @ v
    z = side * a
    is_exact = side == 0
    ratio = math.sqrt(2 / math.pi) / erfcx(-z / math.sqrt(2))  # phi / Phi
    pull = weight * np.where(is_exact, -a, side * ratio)
    curvature = weight * np.where(is_exact, 1.0, np.clip(ratio * (ratio + z), 0.0, 1.0))
    hessian = U.T @ (curvature[:, None] * U)
    sums = ranks.sum(
        np.concatenate([U.T @ pull, hessian.flat, curvature.sum(keepdims=True)])
    )
    n = len(v)
    return sums[:n], sums[n:-1].reshape(n, n), float(sums[-1])


def _freedom(hessian: Floats, penalty: float) -> float:
    """Compute the effective number of slopes, whatever intercept and t are."""
    p = len(hessian) - 2
    cross = hessian[:p, p:]
    slopes = hessian[:p, :p] - cross @ np.linalg.solve(hessian[p:, p:], cross.T)
    values = np.maximum(np.linalg.eigvalsh(slopes), 0.0)
    return float((values / (values + penalty)).sum())
