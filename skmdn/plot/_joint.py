"""Regions of two outputs, with points, draws and marginal densities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from skmdn.density.transformed import Density
from skmdn.plot._arguments import Style
from skmdn.plot._axes import (
    SAMPLE_COLOR,
    Count,
    Floats,
    draw_points,
    point_size,
    write_note,
)
from skmdn.plot._curve import draw_curve, hide_density
from skmdn.plot._grid import OUTSIDE, pool
from skmdn.plot._regions import (
    Regions,
    Scales,
    emptiest_corner,
    fill_regions,
    find_regions,
    region_keys,
)
from skmdn.plot._scale import choose_scale, set_log_ticks

# Size of the axes of a marginal density, and their distance, in lengths of the axes.
MARGINAL_SIZE, MARGINAL_GAP = 0.18, 0.02


def draw_joint(
    ax: Any,
    density: Density,
    y: Floats | None,
    labels: Sequence[str],
    style: Style,
    left_out: Count,
) -> tuple[list[Any], tuple[Any, ...]]:
    """Draw the regions of the mean density of the rows, of two outputs.

    `left_out` counts the rows that are not given.

    Returns
    -------
    artists : list
        The filled and the line contour set.
    marginal_axes : tuple of matplotlib Axes
        Those above and to the right of the axes, or none.
    """
    columns = (None, None) if y is None else y.T
    shown = ax.get_xscale(), ax.get_yscale()
    scales = (
        choose_scale(style.log, shown[0], columns[0]),
        choose_scale(style.log, shown[1], columns[1]),
    )
    found = find_regions(density, style.confidences, y, scales)
    ax.set(xscale=scales[0].name, yscale=scales[1].name)
    ax.set(xlabel=labels[0], ylabel=labels[1])
    artists = fill_regions(ax, found, style.cmap)
    if style.n_samples:
        draws = pool(density).sample(style.n_samples, random_state=0)[0]
        draw_samples(ax, draws, found)
    counts = [left_out]
    if y is not None:
        limits = [(float(axis[0]), float(axis[-1])) for axis in found.axes]
        marks: dict[str, Any] = {"marker": "o", "markersize": 1.3 * point_size(len(y))}
        marks |= {"markeredgecolor": "white", "markeredgewidth": 0.4}
        both = limits[0], limits[1]
        n_outside = draw_points(ax, y[:, 0], y[:, 1], both, **marks)
        counts.append((n_outside, len(y), OUTSIDE))
    for axis, scale in zip((ax.xaxis, ax.yaxis), scales, strict=True):
        if scale.is_log:
            set_log_ticks(axis)
    write_note(ax, *counts)
    beside = _draw_marginals(ax, density, found, scales, style)
    keys: dict[str, Any] = {"handles": region_keys(style.confidences, style.cmap)}
    keys |= {"fontsize": "small", "framealpha": 0.6}
    if len(density) > 1:
        keys |= {"title": f"mean of {len(density)} rows", "title_fontsize": "small"}
    if beside:
        corner = (1 + MARGINAL_GAP, 1 + MARGINAL_GAP)
        keys |= {"loc": "lower left", "bbox_to_anchor": corner, "frameon": False}
        keys |= {"borderaxespad": 0, "borderpad": 0}
    else:
        keys["loc"] = emptiest_corner(found, scales)
    ax.legend(**keys)
    return artists, beside


def draw_samples(ax: Any, draws: Floats, found: Regions) -> None:
    """Draw those samples (n, 2) as small dots that lie on the grid of the regions.

    The few others would determine the axes.
    """
    low, high = np.transpose([axis[[0, -1]] for axis in found.axes])
    shown = draws[((draws >= low) & (draws <= high)).all(axis=1)]
    size = point_size(len(draws))
    ax.plot(*shown.T, ".", color=SAMPLE_COLOR, markersize=size, alpha=0.5)


def _draw_marginals(
    ax: Any,
    density: Density,
    found: Regions,
    scales: Scales,
    style: Style,
) -> tuple[Any, ...]:
    """Draw the density of each output above and to the right of the axes, if asked."""
    if not style.has_marginals:
        return ()
    start = 1 + MARGINAL_GAP
    above = ax.inset_axes((0, start, 1, MARGINAL_SIZE), sharex=ax)
    beside = ax.inset_axes((start, 0, MARGINAL_SIZE, 1), sharey=ax)
    for output, axes in enumerate((above, beside)):
        scale, lines = scales[output], found.axes[output]
        low, high = scale.forward(lines[[0, -1]])
        draw_curve(
            axes,
            pool(density.marginal(output)),
            (float(low), float(high)),
            style.confidences,
            scale=scale,
            is_upright=output == 1,
            cmap=style.cmap,
        )
        hide_density(axes, is_upright=output == 1)
        axes.tick_params(labelleft=False, labelbottom=False, which="both")
    return above, beside
