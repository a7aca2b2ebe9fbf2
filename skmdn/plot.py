"""Pictures of conditional densities; matplotlib is imported only when drawing."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skmdn.density import MixtureDensity
from skmdn.metrics import predict_density

__all__ = ["DensityDisplay"]

# Columns and lines of a heat map.
MAX_COLUMNS, N_LINES = 400, 300
# Probability left out at each end of the axis of y.
TAIL = 0.002


def _new_axes() -> Any:
    try:
        from matplotlib import pyplot as plt
    except ImportError as exc:
        raise ImportError(
            "Drawing needs matplotlib: python -m pip install 'skmdn[plot]'."
        ) from exc
    return plt.subplots(layout="constrained")[1]


class DensityDisplay:
    """Heat map of the density of one output over x.

    Each column is the density of one row, relative to its highest value, so that
    confident and uncertain rows are equally visible. Make one with
    `from_estimator` or `from_predictions`.

    Parameters
    ----------
    density : MixtureDensity
        Density of one output for each row.
    x : ndarray of shape (n,)
        Where each row stands on the horizontal axis.
    y : ndarray of shape (n,), default=None
        What happened, drawn as points.
    x_label, y_label : str, default=None
        Labels of the axes, with units.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    mesh_ : matplotlib QuadMesh
        The heat map.
    """

    def __init__(
        self,
        density: MixtureDensity,
        *,
        x: NDArray[np.float64],
        y: NDArray[np.float64] | None = None,
        x_label: str | None = None,
        y_label: str | None = None,
    ) -> None:
        self.density = density
        self.x = x
        self.y = y
        self.x_label = x_label
        self.y_label = y_label

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike,
        y: ArrayLike | None = None,
        *,
        feature: int | str | None = None,
        output: int | str = 0,
        x_label: str | None = None,
        y_label: str | None = None,
        ax: Any = None,
    ) -> DensityDisplay:
        """Predict the densities of some rows and draw them.

        Parameters
        ----------
        estimator : estimator
            Fitted; whatever `skmdn.predict_density` reaches.
        X : array-like of shape (n_samples, n_features)
            Rows to draw.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            What happened.
        feature : int or str, default=None
            Feature on the horizontal axis. By default the only one there is; with
            several, rows stand in the order of their predicted medians.
        output : int or str, default=0
            Output on the vertical axis.
        x_label, y_label : str, default=None
            Labels of the axes; by default the names known from data frames.
        ax : matplotlib Axes, default=None

        Returns
        -------
        display : DensityDisplay
        """
        density = predict_density(estimator, X)
        columns = np.asarray(X)
        names = list(
            getattr(X, "columns", map("feature {}".format, range(columns.shape[1])))
        )
        if feature is None and columns.shape[1] == 1:
            feature = 0
        x = None
        if feature is not None:
            position = names.index(feature) if isinstance(feature, str) else feature
            x = columns[:, position].astype(np.float64)
            x_label = x_label or names[position]
        return cls.from_predictions(
            density, y, x=x, output=output, x_label=x_label, y_label=y_label, ax=ax
        )

    @classmethod
    def from_predictions(
        cls,
        density: MixtureDensity,
        y: ArrayLike | None = None,
        *,
        x: ArrayLike | None = None,
        output: int | str = 0,
        x_label: str | None = None,
        y_label: str | None = None,
        ax: Any = None,
    ) -> DensityDisplay:
        """Draw densities that were predicted already.

        Parameters
        ----------
        density : MixtureDensity
        y : array-like of shape (n,) or (n, n_outputs), default=None
            What happened.
        x : array-like of shape (n,), default=None
            Where the rows stand; by default in the order of their medians.
        output, x_label, y_label, ax
            As in `from_estimator`.

        Returns
        -------
        display : DensityDisplay
        """
        marginal = density.marginal(output)
        if y_label is None:
            y_label = marginal.output_names[0] if marginal.output_names else "y"
        if y is not None:
            position = density._positions([output])[0]
            y = np.asarray(y, dtype=np.float64).reshape(len(marginal), -1)[:, position]
        if x is None:
            x = np.argsort(np.argsort(marginal.ppf(0.5)))
            x_label = x_label or "rows, in the order of their predicted medians"
        x = np.asarray(x, dtype=np.float64)
        display = cls(marginal, x=x, y=y, x_label=x_label, y_label=y_label)
        return display.plot(ax=ax)

    def plot(self, ax: Any = None, *, cmap: str = "Blues") -> DensityDisplay:
        """Draw the heat map.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; a new figure by default.
        cmap : str, default="Blues"
            A colour map that runs from paper to ink.

        Returns
        -------
        self : DensityDisplay
        """
        if ax is None:
            ax = _new_axes()
        columns = self._columns()
        shown = self.density[columns]
        grid = self._grid(shown)
        heights = shown.pdf(grid[:, None])
        peaks = np.maximum(heights.max(axis=0), np.finfo(np.float64).tiny)
        self.mesh_ = ax.pcolormesh(
            self.x[columns], grid, heights / peaks, cmap=cmap, vmin=0, rasterized=True
        )
        if self.y is not None:
            ax.plot(self.x, self.y, ".", color="black", markersize=3, alpha=0.6)
        ax.set(xlabel=self.x_label, ylabel=self.y_label)
        colorbar = ax.figure.colorbar(self.mesh_, ax=ax)
        colorbar.set_label("density / highest density of the row")
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _columns(self) -> NDArray[np.intp]:
        """Rows that are drawn: distinct positions, thinned out evenly."""
        _, columns = np.unique(self.x, return_index=True)
        steps = np.linspace(0, len(columns) - 1, min(len(columns), MAX_COLUMNS))
        return columns[steps.round().astype(int)]

    def _grid(self, density: MixtureDensity) -> NDArray[np.float64]:
        low, high = density.ppf(TAIL).min(), density.ppf(1 - TAIL).max()
        if self.y is not None:
            low, high = min(low, self.y.min()), max(high, self.y.max())
        return np.linspace(low, high, N_LINES)
