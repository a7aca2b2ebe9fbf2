"""Colours, axes and marks that the displays share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Limits = tuple[float, float]

# Model, data and reference (Okabe and Ito's palette, safe for colour-blind readers).
MODEL_COLOR, DATA_COLOR, REFERENCE_COLOR = "#0072B2", "#D55E00", "#999999"


def get_axes(ax: Any) -> Any:
    """Return the given matplotlib axes, or those of a new figure."""
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot as plt
    except ImportError as exc:
        raise ImportError(
            "Drawing needs matplotlib: python -m pip install 'skmdn[plot]'."
        ) from exc
    return plt.subplots(layout="constrained")[1]


def draw_points(
    ax: Any, x: Floats, y: Floats, limits: tuple[Limits, Limits], **style: Any
) -> int:
    """Draw points; return how many lie outside the limits of x and y.

    Those are arrows at the frame. They do not determine the axes.
    """
    (left, right), (bottom, top) = limits
    beside, above = ax.get_yaxis_transform(), ax.get_xaxis_transform()
    near, far = np.full(len(x), 0.015), np.full(len(x), 0.985)
    x_inside, y_inside = np.clip(x, left, right), np.clip(y, bottom, top)
    is_inside = (x == x_inside) & (y == y_inside)
    ax.plot(x[is_inside], y[is_inside], color=DATA_COLOR, linestyle="none", **style)
    arrows = {
        "<": (x < left, near, y_inside, beside),
        ">": (x > right, far, y_inside, beside),
        "v": (y < bottom, x_inside, near, above),
        "^": (y > top, x_inside, far, above),
    }
    for marker, (is_beyond, across, along, transform) in arrows.items():
        if is_beyond.any():
            points = across[is_beyond], along[is_beyond]
            ax.plot(*points, marker, color=DATA_COLOR, ms=5, transform=transform)
    return int((~is_inside).sum())


def write_note(ax: Any, *counts: tuple[int, int, str]) -> None:
    """Write into the axes how many of how many things are not drawn in full."""
    lines = [f"{n} of {total} {what}" for n, total, what in counts if n]
    if lines:
        box = {"facecolor": "white", "alpha": 0.6, "linewidth": 0}
        ax.text(
            0.02,
            0.95,
            "\n".join(lines),
            transform=ax.transAxes,
            va="top",
            fontsize="small",
            bbox=box,
        )
