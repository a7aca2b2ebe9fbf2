"""Display of the densities themselves."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skmdn.density import MixtureDensity
from skmdn.metrics import predict_density
from skmdn.plot._axes import DATA_COLOR, MODEL_COLOR, get_axes

# Columns and lines of a heat map; lines of a contour plot; curves of a ridge plot.
MAX_COLUMNS, N_LINES, N_CONTOUR_LINES, MAX_RIDGES = 400, 300, 200, 12
# Probability outside of the axis of y, at each end.
TAIL = 0.002
# Share of the rows whose tails may exceed the axis of y, at each end.
FAR_ROWS = 0.05
CONTOUR_LEVELS = (0.95, 0.8, 0.5, 0.2)


class DensityDisplay:
    """Densities as a heat map, as a ridge plot or as contours.

    Use `from_estimator` or `from_predictions` to create one.

    Parameters
    ----------
    density : MixtureDensity
        Density of one output, or of two for contours.
    x : ndarray of shape (n,), default=None
        Position of each row: the horizontal axis of a heat map, the order and the
        labels of a ridge plot. The row numbers by default.
    y : ndarray of shape (n,) or (n, 2), default=None
        Observed values, drawn as points.
    x_label : str, default=None
        Name of the feature, with its unit.
    y_labels : tuple of str, default=("y", "y")
        Names of the outputs, with their units.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    artists_ : list
        The mesh of a heat map, the curves of a ridge plot, or the contour sets.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from skmdn.datasets import make_two_moons
    >>> from skmdn.plot import DensityDisplay
    >>> X, y, density = make_two_moons(50, random_state=0, return_density=True)
    >>> display = DensityDisplay.from_predictions(
    ...     density, y, x=X[:, 0], x_label="position", ax=Figure().subplots()
    ... )
    >>> display.ax_.get_xlabel()
    'position'
    """

    def __init__(
        self,
        density: MixtureDensity,
        *,
        x: NDArray[np.float64] | None = None,
        y: NDArray[np.float64] | None = None,
        x_label: str | None = None,
        y_labels: tuple[str, ...] = ("y", "y"),
    ) -> None:
        self.density = density
        self.x = np.arange(len(density), dtype=np.float64) if x is None else x
        self.y = y
        self.x_label = x_label
        self.y_labels = y_labels

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike,
        y: ArrayLike | None = None,
        *,
        feature: int | str | None = None,
        output: Any = 0,
        kind: str = "heat",
        x_label: str | None = None,
        y_label: Any = None,
        ax: Any = None,
    ) -> Self:
        """Predict the densities of some rows, and draw them.

        Parameters
        ----------
        estimator : estimator
            Fitted; any that `skmdn.predict_density` accepts.
        X : array-like of shape (n_samples, n_features)
            Features of the rows to draw.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Observed values.
        feature : int or str, default=None
            Feature on the horizontal axis. The default is the only feature; if there
            are several, the rows are sorted by their predicted medians.
        output, kind, x_label, y_label, ax
            As in `from_predictions`.

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
            density,
            y,
            x=x,
            output=output,
            kind=kind,
            x_label=x_label,
            y_label=y_label,
            ax=ax,
        )

    @classmethod
    def from_predictions(
        cls,
        density: MixtureDensity,
        y: ArrayLike | None = None,
        *,
        x: ArrayLike | None = None,
        output: Any = 0,
        kind: str = "heat",
        x_label: str | None = None,
        y_label: Any = None,
        ax: Any = None,
    ) -> Self:
        """Draw predicted densities.

        Parameters
        ----------
        density : MixtureDensity
            Predicted densities.
        y : array-like of shape (n,) or (n, n_outputs), default=None
            Observed values.
        x : array-like of shape (n,), default=None
            Positions of the rows; by default the ranks of their medians.
        output : int, str, or pair of these, default=0
            Output to draw; a pair for contours.
        kind : {"heat", "ridge", "contour"}, default="heat"
            See `plot`.
        x_label : str, default=None
            Name of the feature, with its unit.
        y_label : str, or pair of str, default=None
            Names of the outputs, with units; by default the names of the density.
        ax : matplotlib Axes, default=None
            Axes to draw in; those of a new figure by default.

        Returns
        -------
        display : DensityDisplay
        """
        is_pair = not isinstance(output, (int, str))
        outputs = list(output) if is_pair else [output]
        marginal = density.marginal(outputs if is_pair else output)
        if y_label is None:
            y_labels = marginal.output_names or tuple(f"output {o}" for o in outputs)
        else:
            y_labels = tuple(y_label) if is_pair else (y_label,)
        if y is not None:
            table = np.asarray(y, dtype=np.float64).reshape(len(marginal), -1)
            y = table[:, density.outputs.positions(outputs)]
            y = y if is_pair else y[:, 0]
        if x is None and not is_pair:
            x = np.argsort(np.argsort(marginal.median()))
            x_label = x_label or "rows, sorted by their predicted medians"
        x = None if x is None else np.asarray(x, dtype=np.float64)
        display = cls(marginal, x=x, y=y, x_label=x_label, y_labels=y_labels)
        return display.plot(ax=ax, kind=kind if not is_pair else "contour")

    def plot(self, ax: Any = None, *, kind: str = "heat", cmap: str = "Blues") -> Self:
        """Draw the densities.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw in; those of a new figure by default.
        kind : {"heat", "ridge", "contour"}, default="heat"
            "heat": each column is the density of one row over y, relative to its
            maximum, so that narrow and wide densities are equally visible.
            "ridge": the densities of at most 12 rows as curves of equal area.
            "contour": for two outputs, the highest-density regions of probability
            20, 50, 80 and 95 % of the pooled density of at most 12 rows.
        cmap : str, default="Blues"
            A sequential colormap.

        Returns
        -------
        self : DensityDisplay
        """
        kinds = {"heat": self._heat, "ridge": self._ridge, "contour": self._contour}
        if kind not in kinds:
            raise ValueError(f"kind must be one of {list(kinds)}, got {kind!r}.")
        n_outputs = 2 if kind == "contour" else 1
        if self.density.n_outputs != n_outputs:
            raise ValueError(
                f"kind={kind!r} draws {n_outputs} outputs, got "
                f"{self.density.n_outputs}. Choose them with output=..."
            )
        self.ax_ = get_axes(ax)
        self.figure_ = self.ax_.figure
        self.artists_ = kinds[kind](self.ax_, cmap)
        return self

    def _heat(self, ax: Any, cmap: str) -> list[Any]:
        """Draw a heat map; return its mesh."""
        rows = self._drawn_rows(MAX_COLUMNS)
        grid = self._y_axis(self.density[rows])
        heights = self.density[rows].pdf(grid[:, None])
        peaks = np.maximum(heights.max(axis=0), np.finfo(np.float64).tiny)
        mesh = ax.pcolormesh(
            self.x[rows], grid, heights / peaks, cmap=cmap, vmin=0, rasterized=True
        )
        if self.y is not None:
            size = float(np.clip(60 / np.sqrt(len(self.y)), 1.5, 5))
            ax.plot(self.x, self.y, ".", color=DATA_COLOR, markersize=size, alpha=0.7)
        ax.set(xlabel=self.x_label, ylabel=self.y_labels[0])
        colorbar = ax.figure.colorbar(mesh, ax=ax)
        colorbar.set_label("density / highest density at x")
        return [mesh]

    def _ridge(self, ax: Any, cmap: str) -> list[Any]:
        """Draw a ridge plot; return its curves."""
        rows = self._drawn_rows(MAX_RIDGES)
        grid = self._y_axis(self.density[rows])
        heights = self.density[rows].pdf(grid[:, None])
        heights = 1.6 * heights / heights.max()
        curves = []
        for position in reversed(range(len(rows))):
            curve = position + heights[:, position]
            ax.fill_between(
                grid, position, curve, color=MODEL_COLOR, alpha=0.35, linewidth=0
            )
            curves += ax.plot(grid, curve, color=MODEL_COLOR, linewidth=1)
            if self.y is not None:
                ax.plot(
                    self.y[rows[position]],
                    position,
                    "|",
                    color=DATA_COLOR,
                    markersize=9,
                    mew=2,
                )
        labels = [f"{value:.4g}" for value in self.x[rows]]
        ax.set_yticks(range(len(rows)), labels)
        ax.set(xlabel=self.y_labels[0], ylabel=self.x_label)
        return curves

    def _contour(self, ax: Any, cmap: str) -> list[Any]:
        """Draw contours; return the filled and the line contour set."""
        rows = self._drawn_rows(MAX_RIDGES)
        pooled = MixtureDensity.mix([self.density[row] for row in rows])
        axes = []
        for output in (0, 1):
            marginal = pooled.marginal(output)
            ends = marginal.ppf([TAIL]), marginal.isf([TAIL])
            axes.append(np.linspace(*ends, N_CONTOUR_LINES)[:, 0])
        points = np.stack(np.meshgrid(*axes), axis=-1)
        heights = pooled.pdf(points.reshape(-1, 1, 2)).reshape(points.shape[:2])
        levels = [pooled.hdr_level(level)[0] for level in CONTOUR_LEVELS]
        filled = ax.contourf(*axes, heights, [*levels, heights.max()], cmap=cmap)
        lines = ax.contour(*axes, heights, levels, colors=MODEL_COLOR, linewidths=0.8)
        names = [f"{100 * level:.0f} %" for level in CONTOUR_LEVELS]
        ax.clabel(lines, fmt=dict(zip(levels, names, strict=True)), fontsize=8)
        if self.y is not None:
            ax.plot(*self.y.T, ".", color=DATA_COLOR, markersize=4, alpha=0.7)
        ax.set(xlabel=self.y_labels[0], ylabel=self.y_labels[1])
        return [filled, lines]

    def _drawn_rows(self, n_most: int) -> NDArray[np.intp]:
        """Return at most n_most rows at distinct positions, evenly spaced."""
        _, rows = np.unique(self.x, return_index=True)
        steps = np.linspace(0, len(rows) - 1, min(len(rows), n_most))
        drawn: NDArray[np.intp] = rows[steps.round().astype(int)]
        return drawn

    def _y_axis(self, density: MixtureDensity) -> NDArray[np.float64]:
        """Return the axis of y; a few very wide densities do not determine it."""
        low = np.quantile(density.ppf(TAIL), FAR_ROWS)
        high = np.quantile(density.isf(TAIL), 1 - FAR_ROWS)
        if self.y is not None:
            low, high = min(low, self.y.min()), max(high, self.y.max())
        return np.linspace(low, high, N_LINES)
