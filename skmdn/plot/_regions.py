"""Highest-density regions of two outputs on a grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from skmdn import _mixture
from skmdn._utils.arrays import to_numpy
from skmdn.density import MixtureDensity
from skmdn.density.transformed import Density, TransformedDensity
from skmdn.plot._axes import Floats
from skmdn.plot._grid import MAX_HALVINGS, extend

# Lines of an axis before it is refined.
N_LINES = 97
# Greatest share of the draws between two neighbouring lines.
SHARE_BETWEEN = 0.02
# Draws that show where the density is, and the levels of several pooled rows.
N_DRAWS = 4096
# Least standard deviation that is drawn, relative to the cells and to the axis.
THINNEST, VISIBLE = 0.6, 1 / 400
# Greatest standard deviation by which a component is widened near a bound, in z.
MOST_WIDENED = 1.0
# Space around the regions, relative to their extent.
MARGIN = 0.08


class Regions(NamedTuple):
    """A density on a grid, and its values at the boundaries of the regions."""

    axes: list[Floats]  # (m,) and (n,)
    heights: Floats  # (n, m)
    levels: list[float]  # rising


def find_regions(
    density: Density, confidences: Sequence[float], y: Floats | None
) -> Regions:
    """Evaluate the mean density of the rows on a grid that holds the regions.

    Parameters
    ----------
    density : MixtureDensity or TransformedDensity
        Density of two outputs.
    confidences : sequence of float
        Probabilities of the regions, falling.
    y : ndarray of shape (n, 2) or None
        Observed values; the grid extends to those that are not far away.

    Returns
    -------
    regions : Regions
        The levels of one row are those of `hdr_level`, and of several rows quantiles
        of the density at 4096 draws. No point of the frame lies in a region. The grid
        ends at the bounds of the outputs.
    """
    pooled = _pool(density)
    ends = [support.ends for support in density.supports]
    draws = pooled.sample(N_DRAWS, random_state=0)[0]
    at_draws = pooled.pdf(draws)
    inside = draws[at_draws >= np.quantile(at_draws, 1 - max(confidences))]
    low, high = inside.min(axis=0), inside.max(axis=0)
    margin = MARGIN * (high - low) + 100 * np.spacing(np.abs(inside).max(axis=0))
    low, high = low - margin, high + margin
    for _ in range(MAX_HALVINGS):
        axes = []
        for output, limits in enumerate(zip(low, high, strict=True)):
            if y is not None:
                limits = extend(*limits, y[:, output])
            limits = np.clip(limits, *ends[output])
            axes.append(refine_lines(draws[:, output], *limits))
        drawn = widen(pooled, axes)
        if len(density) == 1:
            levels = [float(drawn.hdr_level(share)[0]) for share in confidences]
        else:
            if drawn is not pooled:
                at_draws = drawn.pdf(drawn.sample(N_DRAWS, random_state=0)[0])
            levels = list(np.quantile(at_draws, 1 - np.array(confidences)))
        grid = np.stack(np.meshgrid(*axes), axis=-1)
        heights = drawn.pdf(grid.reshape(-1, 1, 2)).reshape(grid.shape[:2])
        is_inside = heights >= levels[0]
        cut_low = np.array([is_inside[:, 0].any(), is_inside[0].any()])
        cut_high = np.array([is_inside[:, -1].any(), is_inside[-1].any()])
        if not (cut_low.any() or cut_high.any()):
            break
        low, high = low - cut_low * margin, high + cut_high * margin
        margin = 2 * margin
    return Regions(axes, heights, levels)


def refine_lines(draws: Floats, low: float, high: float) -> Floats:
    """Return lines (m,) of an axis that are dense where the draws (n,) are.

    A cell is halved if it holds too many draws, or is much wider than a neighbour.
    """
    lines = np.linspace(low, high, N_LINES)
    for _ in range(MAX_HALVINGS):
        widths = np.diff(lines)
        padded = np.pad(widths, 1, mode="edge")
        is_coarse = widths > 2.5 * np.minimum(padded[:-2], padded[2:])
        counts, _ = np.histogram(draws, lines)
        is_coarse |= counts > SHARE_BETWEEN * len(draws)
        left = np.flatnonzero(is_coarse)
        if not left.size:
            break
        lines = np.insert(lines, left + 1, (lines[left] + lines[left + 1]) / 2)
    return lines


def widen(density: Density, axes: Sequence[Floats]) -> Density:
    """Widen the components that would fall between the lines or be invisible.

    Components thinner than `least`, a share of the widest cell they extend over or of
    the axis, are convolved with a Gaussian of that standard deviation. With bounds,
    lengths in y are divided by dy/dz at the mean.
    """
    mixture = density.mixture
    means = to_numpy(mixture.means)
    covariances = to_numpy(_mixture.covariances(mixture.precision_factors))
    least = np.empty_like(means)
    for output, lines in enumerate(axes):
        support = density.supports[output]
        std = np.sqrt(covariances[..., output, output])
        points = means[..., output] + np.multiply.outer([-2, 0, 2], std)
        places = np.searchsorted(lines, support.from_latent(points))
        cells = np.diff(lines)[np.clip(places, 1, len(lines) - 1) - 1].max(axis=0)
        least[..., output] = np.maximum(
            THINNEST * cells, VISIBLE * (lines[-1] - lines[0])
        )
        if not support.is_identity:
            log_slope = support.log_slope(means[..., output])
            log_least = np.log(least[..., output]) - log_slope
            least[..., output] = np.exp(np.minimum(log_least, np.log(MOST_WIDENED)))
    thinnest = np.sqrt(np.linalg.eigvalsh(covariances)[..., 0].clip(min=0))
    is_thin = thinnest < least.max(axis=-1)
    if not is_thin.any():
        return density
    added = np.where(is_thin[..., None], least**2, 0)
    covariances += added[..., None] * np.eye(2)
    widened = MixtureDensity.from_covariances(
        to_numpy(mixture.log_weights.exp()), means, covariances
    )
    return TransformedDensity(widened, density.supports)


def _pool(density: Density) -> Density:
    """Return the mean density of the rows, as a density of one row."""
    rows = [density[row] for row in range(len(density))]
    return type(density).mix(rows)  # type: ignore[arg-type]
