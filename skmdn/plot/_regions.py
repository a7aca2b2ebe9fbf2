"""Highest-density regions of two outputs on a grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from skmdn import _mixture
from skmdn._utils.arrays import to_numpy
from skmdn.density import MixtureDensity
from skmdn.density.transformed import Density, TransformedDensity
from skmdn.plot._axes import MODEL_COLOR, Floats, Limits, as_percent, shades
from skmdn.plot._grid import MAX_HALVINGS, extend, pool, support_ends
from skmdn.plot._scale import LINEAR, Scale

Scales = tuple[Scale, Scale]

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
NO_POSITIVE_REGION = "log=True needs densities of positive y, and regions above 0."
# Space around the regions, relative to their extent.
MARGIN = 0.08


class Regions(NamedTuple):
    """A density on a grid, and its values at the boundaries of the regions."""

    axes: list[Floats]  # (m,) and (n,)
    heights: Floats  # (n, m)
    levels: list[float]  # rising


def fill_regions(ax: Any, found: Regions, cmap: Any) -> list[Any]:
    """Fill the regions, and return the filled and the line contour set."""
    colors = shades(cmap, len(found.levels))
    filled = ax.contourf(
        *found.axes, found.heights, found.levels, colors=colors, extend="max"
    )
    return [filled, outline_regions(ax, found, MODEL_COLOR)]


def outline_regions(ax: Any, found: Regions, color: str, width: float = 0.8) -> Any:
    """Draw the boundaries of the regions; return the contour set."""
    style = {"colors": color, "linewidths": width}
    return ax.contour(*found.axes, found.heights, found.levels, **style)


def region_keys(confidences: Sequence[float], cmap: Any) -> list[Any]:
    """Return what a legend shows for each region."""
    from matplotlib.patches import Patch

    colors = shades(cmap, len(confidences))
    return [
        Patch(facecolor=color, edgecolor=MODEL_COLOR, label=as_percent(share))
        for share, color in zip(confidences, colors, strict=True)
    ]


def emptiest_corner(found: Regions, scales: Scales) -> str:
    """Return the corner, as matplotlib names it, with the least of the regions."""
    is_inside = found.heights >= found.levels[0]
    places = []
    for lines, scale in zip(found.axes, scales, strict=True):
        mapped = scale.forward(lines)
        places.append((mapped - mapped[0]) / (mapped[-1] - mapped[0]))
    x, y = np.meshgrid(*places)
    corners = {
        f"{v} {h}": (h, v) for v in ("upper", "lower") for h in ("right", "left")
    }
    distances = {
        name: np.hypot(x - (h == "right"), y - (v == "upper"))[is_inside].min()
        for name, (h, v) in corners.items()
    }
    return max(distances, key=lambda name: distances[name])


def find_regions(
    density: Density,
    confidences: Sequence[float],
    y: Floats | None,
    scales: Scales = (LINEAR, LINEAR),
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
    scales : pair of Scale
        Scales of the axes, along which the grid is even.

    Returns
    -------
    regions : Regions
        The levels of one row are those of `hdr_level`, and of several rows quantiles
        of the density at 4096 draws. No point of the frame lies in a region. The grid
        ends at the bounds of the outputs, and a logarithmic axis near the lowest
        positive draw.
    """
    pooled = pool(density)
    draws = pooled.sample(N_DRAWS, random_state=0)[0]
    at_draws = pooled.pdf(draws)
    inside = draws[at_draws >= np.quantile(at_draws, 1 - max(confidences))]
    ends = [
        support_ends(pooled.marginal(output), scale)
        for output, scale in enumerate(scales)
    ]
    extent = [
        _extent(*parts) for parts in zip(draws.T, inside.T, ends, scales, strict=True)
    ]
    low, high = np.transpose([limits for limits, _ in extent])
    margin = MARGIN * (high - low) + 100 * np.spacing(np.abs([low, high]).max(axis=0))
    low, high = low - margin, high + margin
    for _ in range(MAX_HALVINGS):
        lines, axes = [], []
        for j, scale in enumerate(scales):
            limits = low[j], high[j]
            if y is not None:
                limits = extend(*limits, scale.forward(y[:, j]))
            limits = np.clip(limits, *ends[j])
            lines.append(refine_lines(scale.forward(draws[:, j]), *limits))
            axes.append(scale.inverse(lines[j]))
        drawn = widen(pooled, axes, scales)
        levels = _levels(drawn, confidences, is_one_row=len(density) == 1)
        grid = np.stack(np.meshgrid(*axes), axis=-1)
        heights = drawn.pdf(grid.reshape(-1, 1, 2)).reshape(grid.shape[:2])
        is_inside = heights >= levels[0]
        if not is_inside.any():
            raise ValueError(NO_POSITIVE_REGION)
        cut_low = np.array([is_inside[:, 0].any(), is_inside[0].any()])
        cut_high = np.array([is_inside[:, -1].any(), is_inside[-1].any()])
        cut_low &= [can_extend for _, can_extend in extent]
        if not (cut_low.any() or cut_high.any()):
            break
        low, high = low - cut_low * margin, high + cut_high * margin
        margin = 2 * margin
    return Regions(axes, heights, levels)


def _extent(
    draws: Floats, inside: Floats, ends: Limits, scale: Scale
) -> tuple[Limits, bool]:
    """Return the range of an output in a region, and whether it may grow downwards.

    `draws` (n,) and `inside` (m,), those in the region, are in the unit of y. A region
    that extends to negative values has no lower end on a logarithmic axis.
    """
    if not scale.is_log:
        return (float(inside.min()), float(inside.max())), True
    if not (inside > 0).any():
        raise ValueError(NO_POSITIVE_REGION)
    positive = scale.forward(inside[inside > 0])
    return (float(positive.min()), float(positive.max())), bool((draws > 0).all())


def _levels(
    density: Density, confidences: Sequence[float], *, is_one_row: bool
) -> list[float]:
    """Return the density at the boundary of each region."""
    if is_one_row:
        return [float(density.hdr_level(share)[0]) for share in confidences]
    at_draws = density.pdf(density.sample(N_DRAWS, random_state=0)[0])
    return list(np.quantile(at_draws, 1 - np.array(confidences)))


def refine_lines(draws: Floats, low: float, high: float) -> Floats:
    """Return lines (m,) of an axis that are dense where the draws (n,) are.

    A cell is halved if it holds too many draws, or is much wider than a neighbour.
    """
    draws = draws[np.isfinite(draws)]
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


def widen(
    density: Density, axes: Sequence[Floats], scales: Scales = (LINEAR, LINEAR)
) -> Density:
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
        length = np.diff(scales[output].forward(lines[[0, -1]]))
        at = np.clip(support.from_latent(means[..., output]), *lines[[0, -1]])
        visible = VISIBLE * length * scales[output].slope(scales[output].forward(at))
        least[..., output] = np.maximum(THINNEST * cells, visible)
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
