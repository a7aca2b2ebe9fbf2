"""Colours and axes that the displays share."""

from __future__ import annotations

from typing import Any

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
