"""Colours, axes and marks that the displays share."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Limits = tuple[float, float]
Count = tuple[int, int, str]  # how many of how many things are not drawn, and which

# Model, data and reference (Okabe and Ito's palette, safe for colour-blind readers).
MODEL_COLOR, DATA_COLOR, REFERENCE_COLOR = "#0072B2", "#D55E00", "#999999"
# The same palette, to tell outputs from each other.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINE_STYLES = ("-", "--", ":", "-.")
# Draws of a density.
SAMPLE_COLOR = "#222222"
# Probabilities of the regions and intervals that are drawn by default.
CONFIDENCES = (0.5, 0.8, 0.95)
# Ends of a sequential colormap that are distinct from white, and from dark points.
LIGHTEST, DARKEST = 0.2, 0.7


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


def split_axes(ax: Any, n_rows: int, n_columns: int) -> NDArray[Any]:
    """Return the axes of panels (n_rows, n_columns) in the place of given axes.

    The axes themselves stay, without their frame.
    """
    spec = ax.get_subplotspec()
    if spec is None:
        raise ValueError(
            "ax must be axes of a grid, as plt.subplots makes them, because several "
            "panels take their place."
        )
    ax.set_axis_off()
    panels = spec.subgridspec(n_rows, n_columns)
    axes = np.empty((n_rows, n_columns), dtype=object)
    for place in np.ndindex(n_rows, n_columns):
        axes[place] = ax.figure.add_subplot(panels[place])
    return axes


def density_label(label: str, *, is_log: bool = False) -> str:
    """Return the label of a density with its unit, one over that of y.

    The unit of y is what its label has in parentheses at the end. On a logarithmic axis
    the density is that of the decimal logarithm.
    """
    if is_log:
        return "density (1 / decade)"
    unit = re.search(r"\(([^()]+)\)\s*$", label)
    return f"density (1 / {unit[1] if unit else f'unit of {label}'})"


def as_percent(share: float) -> str:
    """Write a probability in per cent."""
    return f"{100 * share:.4g} %"


def shades(cmap: Any, n: int) -> Any:
    """Return n colours of a sequential colormap, from light to dark."""
    import matplotlib as mpl

    middle = [(LIGHTEST + DARKEST) / 2]
    places = np.linspace(LIGHTEST, DARKEST, n) if n > 1 else middle
    return mpl.colormaps.get_cmap(cmap)(places)


def point_size(n: int) -> float:
    """Return the size of points, smaller where there are many."""
    return float(np.clip(60 / np.sqrt(n), 1.5, 5))


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


def write_note(ax: Any, *counts: Count) -> None:
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
