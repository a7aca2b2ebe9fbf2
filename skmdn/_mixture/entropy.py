"""Differential entropy of Gaussian mixtures."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from skmdn._mixture.core import LOG_2PI, Mixture, fill_empty
from skmdn._mixture.factors import log_det
from skmdn._mixture.panels import Spacing, cut, lay_points
from skmdn._mixture.profile import parameters_of, select_parameters
from skmdn._mixture.quasirandom import joint_at_points
from skmdn._mixture.surface import centre
from skmdn._utils.arrays import PASS_MEBIBYTES, row_chunks

# One output: a component is taken as zero beyond this many standard deviations. Panels
# are at most twice as long as the smallest standard deviation of the components there.
REACH = 7.0
SPACING, POINTS = Spacing(step=2.0, core=5.0, growth=0.5, reach=REACH), 12
# Means in standard deviations beyond which panels are relative to a mean; these are at
# most as long as the smallest standard deviation.
LARGEST_DISTANCE, LONGEST_PANEL, PANEL_POINTS = 1e6, 1.0, 8
# Several outputs: quasi-random points per row. On 106 random mixtures of 2 to 256
# components and 2 to 10 outputs the largest error was 0.005 nats, and 0.003 with twice
# as many points.
SOBOL_POINTS = 2**13
# Arithmetic on denormal numbers is a hundred times slower.
SMALLEST_LOG_SHARE = -600.0


def n_entropy_points(mixture: Mixture) -> int:
    """Return the points per row at which every component is evaluated."""
    return 3 if mixture.means.shape[-1] == 1 else SOBOL_POINTS


def entropy(mixture: Mixture) -> Tensor:
    """Compute the differential entropy, (n,), in nats.

    With C the component, H(Y) = H(Y | C) + H(C) - H(C | Y). The first two have closed
    forms. Only H(C | Y), the mean entropy of the responsibilities, is integrated; it is
    at most log K, and zero where components do not overlap.
    """
    mixture = fill_empty(mixture)
    weights = mixture.log_weights.exp()
    n_outputs = mixture.means.shape[-1]
    gaussian = n_outputs / 2 * (1 + LOG_2PI) - log_det(mixture.precision_factors)
    integrate = _ambiguity_by_panels if n_outputs == 1 else _ambiguity_by_sobol
    known: Tensor = (weights * gaussian + torch.special.entr(weights)).sum(-1)
    return known - integrate(mixture)


def _ambiguity(joint: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Return the entropy of the responsibilities and the density.

    From log(w_k p_k) with an axis of components; `joint` is overwritten. With the
    largest of them taken off, and S and T the sums of e^l and of l e^l, the entropy is
    log S - T / S.
    """
    largest = joint.amax(axis, keepdim=True)
    excess = joint.sub_(largest).clamp_(min=SMALLEST_LOG_SHARE)
    shares = excess.exp()
    total = shares.sum(axis)
    entropies = total.log() - shares.mul_(excess).sum(axis) / total
    return entropies, total * largest.squeeze(axis).exp()


# -- one output --------------------------------------------------------------------


def _ambiguity_by_panels(mixture: Mixture) -> Tensor:
    """Integrate H(C | Y) of one output by Gauss-Legendre quadrature on panels.

    Where there is one component H(C | Y) is zero.
    """
    mixture, _ = centre(mixture)
    log_peaks, means, factors = parameters_of(mixture)
    log_peaks = log_peaks - LOG_2PI / 2
    is_far = ((means * factors).abs() > LARGEST_DISTANCE).any(-1)
    total = torch.zeros_like(means[:, 0])
    for rows, integrate in ((~is_far, _integrate), (is_far, _integrate_far)):
        if rows.any():
            total[rows] = integrate(log_peaks[rows], means[rows], factors[rows])
    return total


def _integrate(log_peaks: Tensor, means: Tensor, factors: Tensor) -> Tensor:
    """Integrate between points that any component allows, (n,).

    The largest of the peaks of a row is taken off, and not that at each point: sums are
    then products with a vector of ones, and the density is zero where they are tiny.
    """
    largest = log_peaks.amax(-1, keepdim=True)
    log_peaks = log_peaks - largest
    ones = torch.ones_like(log_peaks[0])
    ends, counts = lay_points(means, factors, SPACING)
    place = torch.arange(ends.shape[1] - 1, device=means.device)
    rows, index = (place < counts[:, None] - 1).nonzero(as_tuple=True)
    start, half = ends[rows, index], (ends[rows, index + 1] - ends[rows, index]) / 2
    points, weights = (
        means.new_tensor(part) for part in np.polynomial.legendre.leggauss(POINTS)
    )
    total = torch.zeros_like(means[:, 0])
    n_numbers = POINTS * means.shape[1]
    for piece in row_chunks(len(rows), 8 * n_numbers, PASS_MEBIBYTES):
        row, scale = rows[piece], half[piece, None]
        peak, mean, factor = select_parameters((log_peaks, means, factors), row)
        y = start[piece, None] + scale * (1 + points)  # (panels, points)
        z = (y[..., None] - mean[:, None]).mul_(factor[:, None])
        excess = torch.addcmul(peak[:, None], z, z, value=-0.5)
        excess.clamp_(min=SMALLEST_LOG_SHARE)
        shares = torch.exp(excess, out=z)
        density = shares @ ones
        ambiguity = density * density.log() - shares.mul_(excess) @ ones
        total.index_add_(0, row, (scale * ambiguity) @ weights)
    return total * largest[:, 0].exp()


def _integrate_far(log_peaks: Tensor, means: Tensor, factors: Tensor) -> Tensor:
    """Integrate on panels whose ends are relative to a mean, (n,)."""
    rows, nearest, start, half_width, _ = cut(
        means, factors, reach=REACH, least=2, relative=LONGEST_PANEL
    )
    points, point_weights = (
        means.new_tensor(part) for part in np.polynomial.legendre.leggauss(PANEL_POINTS)
    )
    total = torch.zeros_like(means[:, 0])
    n_numbers = 3 * PANEL_POINTS * means.shape[1]
    for piece in row_chunks(len(rows), 8 * n_numbers):
        row, half = rows[piece], half_width[piece, None]
        slopes = factors[row]
        # Relative to the narrowest component there, positions have the most digits.
        apart = means[row, nearest[piece]][:, None] - means[row]
        y = start[piece, None] + half * (1 + points)  # (panels, points)
        z = y[..., None] * slopes[:, None] + (apart * slopes)[:, None]
        joint = z.square_().mul_(-0.5).add_(log_peaks[row][:, None])
        entropies, density = _ambiguity(joint, axis=-1)
        total.index_add_(0, row, (half * point_weights * density * entropies).sum(-1))
    return total


# -- several outputs ---------------------------------------------------------------


def _ambiguity_by_sobol(mixture: Mixture) -> Tensor:
    """Average the entropy of the responsibilities over quasi-random points."""
    total = torch.zeros_like(mixture.means[:, 0, 0])
    for _, joint in joint_at_points(mixture, SOBOL_POINTS):
        total += _ambiguity(joint, axis=1)[0].sum(-1)
    return total / SOBOL_POINTS
