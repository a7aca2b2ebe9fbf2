"""The curve of one density of a scalar, with its intervals, median and modes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from skmdn.density.transformed import Density
from skmdn.plot._axes import (
    MODEL_COLOR,
    Floats,
    Limits,
    as_percent,
    shades,
)
from skmdn.plot._grid import trace
from skmdn.plot._scale import LINEAR, Scale

# Least density of a mode that is marked, relative to the highest mode of the row.
LEAST_MODE = 0.05


def visible_modes(density: Density) -> Floats:
    """Return the modes (m,) of one row that are not lower than `LEAST_MODE` allows."""
    modes = density.modes()[0]
    heights = density.pdf(modes[:, None])[:, 0]
    visible: Floats = modes[heights >= LEAST_MODE * heights.max()]
    return visible


def draw_curve(
    ax: Any,
    density: Density,
    limits: Limits,
    confidences: Sequence[float],
    *,
    scale: Scale = LINEAR,
    is_upright: bool = False,
    cmap: Any = "Blues",
) -> list[Any]:
    """Draw the density of one row, with the area above central intervals shaded.

    Parameters
    ----------
    ax : matplotlib Axes
    density : MixtureDensity or TransformedDensity
        Density of a scalar, one row.
    limits : pair of float
        Ends of the curve, mapped by the scale.
    confidences : sequence of float
        Probabilities of the intervals, falling.
    scale : Scale
    is_upright : bool
        Whether y is the vertical axis.
    cmap : str or Colormap

    Returns
    -------
    artists : list
        The curve, and the shaded area of each interval.
    """
    y, heights = trace(density, limits, scale)
    points = (heights, y) if is_upright else (y, heights)
    artists = list(ax.plot(*points, color=MODEL_COLOR, linewidth=1.2))
    fill = ax.fill_betweenx if is_upright else ax.fill_between
    for share, color in zip(confidences, shades(cmap, len(confidences)), strict=True):
        low, high = (bound.item() for bound in density.interval(share))
        low, high = max(low, y[0]), min(high, y[-1])
        inside = y[(y > low) & (y < high)]
        ends = np.concatenate([[low], inside, [high]])
        area = np.interp(scale.forward(ends), scale.forward(y), heights)
        label = f"central {as_percent(share)}"
        artists.append(fill(ends, 0, area, color=color, linewidth=0, label=label))
    return artists


def mark_curve(
    ax: Any, density: Density, scale: Scale = LINEAR, *, has_modes: bool = True
) -> list[Any]:
    """Mark the median and the modes of one row on its curve; return the artists.

    On a logarithmic axis the curve has other modes than the density of y: only the
    median is marked.
    """

    def height(y: Floats) -> Floats:
        heights: Floats = density.pdf(y[:, None])[:, 0]
        return heights * scale.slope(scale.forward(y))

    median = density.median().reshape(1)
    line = ax.vlines(median, 0, height(median), color="black", label="median")
    if scale.is_log or not has_modes:
        return [line]
    modes = visible_modes(density)
    label = "mode" if len(modes) == 1 else "modes"
    (points,) = ax.plot(
        modes,
        height(modes),
        "o",
        color="white",
        markeredgecolor="black",
        markersize=5,
        label=label,
    )
    return [line, points]


def hide_density(ax: Any, *, is_upright: bool = False) -> None:
    """Hide the axis of a density, and start it at zero."""
    side = "bottom" if is_upright else "left"
    (ax.xaxis if is_upright else ax.yaxis).set_visible(False)
    ax.spines[["top", "right", side]].set_visible(False)
    (ax.set_xlim if is_upright else ax.set_ylim)(0, None)
