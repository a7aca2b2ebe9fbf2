"""Display of the densities themselves."""

from __future__ import annotations

from numbers import Integral
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skmdn._data.conversion import as_real
from skmdn._data.supports import Support
from skmdn.density.rowwise import check_density
from skmdn.density.transformed import Density
from skmdn.metrics import predict_density
from skmdn.plot._axes import (
    MODEL_COLOR,
    Floats,
    Limits,
    draw_points,
    get_axes,
    write_note,
)
from skmdn.plot._grid import (
    cell_edges,
    column_heights,
    extend,
    thin,
    trace,
    usual_peak,
    usual_range,
)
from skmdn.plot._regions import find_regions

Rows = NDArray[np.intp]

# Columns of a heat map and cells of a column; curves of a ridge plot.
MAX_COLUMNS, N_CELLS, MAX_RIDGES = 400, 300, 12
# Height of the highest curve of a ridge plot, in distances of the curves.
RIDGE_HEIGHT = 1.6
# Rows that are evaluated for a heat map or a ridge plot; components of a contour plot.
MAX_ROWS, MAX_COMPONENTS = 2000, 2000
ANYWHERE = -np.inf, np.inf
OUTSIDE = "points lie outside the axes"
# Levels of the quantiles that show where a density lies; the outermost are the limits.
QUANTILES = np.array([[0.002], [0.25], [0.5], [0.75], [0.998]])
MEDIAN = 2
CONTOUR_LEVELS = (0.95, 0.8, 0.5, 0.2)


class DensityDisplay:
    """Densities as a heat map, as a ridge plot or as contours.

    Use `from_estimator` or `from_predictions` to create one. Rows of equal `x` are
    drawn as one, by the mean of their densities.

    Parameters
    ----------
    density : MixtureDensity or TransformedDensity
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

    Notes
    -----
    The axis of y shows the central 99.6 % of each density, except those of a few
    densities that are far from the others or much wider, and the observed values
    that are not farther away than the length of the axis. Arrows at the frame mark
    the other values, and a note in the axes counts them and the densities that
    extend beyond the axis. Bounds of the outputs limit the axes.

    A cell of a heat map has the mean density of the cell, and contours widen
    components that are thinner than 1/400 of an axis or 0.6 cells of their grid, so
    that no narrow density vanishes; the regions drawn hold more than their probability
    there.

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
        density: Density,
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
            position = _find_feature(feature, names)
            x = columns[:, position]
            x_label = x_label or str(names[position])
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
        density: Density,
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
        density : MixtureDensity or TransformedDensity
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
        check_density(density, "from_predictions(density, y)")
        is_pair = not isinstance(output, (Integral, str))
        outputs = list(output) if is_pair else [output]
        marginal = density.marginal(outputs if is_pair else output)
        if y_label is None:
            y_labels = marginal.output_names or tuple(f"output {o}" for o in outputs)
        else:
            y_labels = tuple(y_label) if is_pair else (y_label,)
        n = len(marginal)
        if y is not None:
            aligned = density.outputs.align("y", y)
            table = _as_table("y", aligned, (n, density.n_outputs))
            y = table[:, density.outputs.positions(outputs)]
            y = y if is_pair else y[:, 0]
        if x is not None:
            x = _as_table("x", x, (n, 1))[:, 0]
        elif not is_pair and n > 1:
            x = np.argsort(np.argsort(marginal.median())).astype(np.float64)
            x_label = x_label or "rows, sorted by their predicted medians"
        display = cls(marginal, x=x, y=y, x_label=x_label, y_labels=y_labels)
        is_default = is_pair and kind == "heat"
        return display.plot(ax=ax, kind="contour" if is_default else kind)

    def plot(self, ax: Any = None, *, kind: str = "heat", cmap: str = "Blues") -> Self:
        """Draw the densities.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw in; those of a new figure by default.
        kind : {"heat", "ridge", "contour"}, default="heat"
            "heat": each column is the density at one x over y, relative to its
            maximum, so that narrow and wide densities are equally visible. If all
            rows have one x, the density is drawn as a curve.
            "ridge": the densities at no more than 12 x as curves of equal area.
            "contour": for two outputs, the highest-density regions of probability
            20, 50, 80 and 95 % of the mean density of the rows, from which each
            observed value counts as a draw. Select a row to draw its density alone.
            If the rows have more than 2000 components in all, evenly spaced rows
            are drawn, with their observed values only.
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
        if not len(self.density):
            raise ValueError("density has no rows to draw.")
        self.ax_ = get_axes(ax)
        self.figure_ = self.ax_.figure
        self.artists_ = kinds[kind](self.ax_, cmap)
        return self

    def _heat(self, ax: Any, cmap: str) -> list[Any]:
        """Draw a heat map and return its mesh, or the curve of a single position."""
        x, groups = self._positions(MAX_COLUMNS)
        if len(groups) == 1:
            return self._curve(ax, x[0], groups)
        members = _members(groups)
        density = self.density.marginal(0)[np.concatenate(members)]
        quantiles = density.ppf(QUANTILES)
        limits = _y_limits(quantiles, members, self.y, density.supports[0])
        edges = np.linspace(*limits, N_CELLS + 1)
        heights = column_heights(density, edges, quantiles, list(map(len, members)))
        mesh = ax.pcolormesh(
            cell_edges(x), edges, heights, cmap=cmap, vmin=0, vmax=1, rasterized=True
        )
        ax.set(xlabel=self.x_label, ylabel=self.y_labels[0])
        counts = [_count_cut(quantiles, limits)]
        if self.y is not None:
            size = float(np.clip(60 / np.sqrt(len(self.y)), 1.5, 5))
            style: dict[str, Any] = {"marker": ".", "markersize": size, "alpha": 0.7}
            n_outside = draw_points(ax, self.x, self.y, (ANYWHERE, limits), **style)
            counts.append((n_outside, len(self.y), OUTSIDE))
        write_note(ax, *counts)
        colorbar = ax.figure.colorbar(mesh, ax=ax)
        colorbar.set_label("density / highest density at x")
        return [mesh]

    def _curve(self, ax: Any, x: float, groups: list[Rows]) -> list[Any]:
        """Draw the density at a single position; return its curve."""
        place = "" if self.x_label is None else f" at {self.x_label} = {x:.6g}"
        ax.set_ylabel(f"density{place}")
        return self._curves(ax, groups)

    def _ridge(self, ax: Any, cmap: str) -> list[Any]:
        """Draw a ridge plot; return its curves."""
        x, groups = self._positions(MAX_RIDGES)
        curves = self._curves(ax, groups, ridge_height=RIDGE_HEIGHT)
        ax.set_yticks(range(len(groups)), _labels(x))
        ax.set_ylabel(self.x_label)
        return curves

    def _curves(
        self, ax: Any, groups: list[Rows], ridge_height: float | None = None
    ) -> list[Any]:
        """Draw one curve for each group of rows; return the curves.

        With `ridge_height` one factor gives them that height, and the few that are
        much higher than the others are cut.
        """
        members = _members(groups)
        scalar = self.density.marginal(0)
        quantiles = scalar[np.concatenate(members)].ppf(QUANTILES)
        y = None if self.y is None else self.y[np.concatenate(groups)]
        limits = _y_limits(quantiles, members, y, scalar.supports[0])
        traces = [trace(scalar[rows], *limits) for rows in members]
        peaks = np.array([heights.max() for _, heights in traces])
        unit, ceiling = 1.0, np.inf
        if ridge_height is not None:
            unit, ceiling = usual_peak(peaks) / ridge_height, ridge_height
        curves = []
        for position, (grid, heights) in reversed(list(enumerate(traces))):
            curve = position + np.minimum(heights / unit, ceiling)
            ax.fill_between(
                grid, position, curve, color=MODEL_COLOR, alpha=0.35, linewidth=0
            )
            curves += ax.plot(grid, curve, color=MODEL_COLOR, linewidth=1)
        ax.set_xlabel(self.y_labels[0])
        counts = [_count_cut(quantiles, limits)]
        if y is not None:
            positions = np.arange(len(groups), dtype=np.float64)
            positions = np.repeat(positions, list(map(len, groups)))
            style: dict[str, Any] = {
                "marker": "|",
                "markersize": 9,
                "markeredgewidth": 2,
            }
            n_outside = draw_points(ax, y, positions, (limits, ANYWHERE), **style)
            counts.append((n_outside, len(y), OUTSIDE))
        n_cut = int((peaks > ceiling * unit * (1 + 1e-9)).sum())
        write_note(ax, *counts, (n_cut, len(peaks), "peaks are cut"))
        return curves

    def _contour(self, ax: Any, cmap: str) -> list[Any]:
        """Draw contours; return the filled and the line contour set."""
        n_most = max(1, MAX_COMPONENTS // self.density.n_components)
        order = np.argsort(self.x, kind="stable")
        rows = order[thin(len(order), n_most)]
        y = None if self.y is None else self.y[rows]
        found = find_regions(self.density[rows], CONTOUR_LEVELS, y)
        filled = ax.contourf(
            *found.axes,
            found.heights,
            found.levels,
            colors=_shades(cmap, len(found.levels)),
            extend="max",
        )
        lines = ax.contour(
            *found.axes, found.heights, found.levels, colors=MODEL_COLOR, linewidths=0.8
        )
        names = [f"{100 * level:.0f} %" for level in CONTOUR_LEVELS]
        ax.clabel(lines, fmt=dict(zip(found.levels, names, strict=True)), fontsize=8)
        ax.set(xlabel=self.y_labels[0], ylabel=self.y_labels[1])
        counts = [(len(order) - len(rows), len(order), "rows are left out")]
        if y is not None:
            x_ends, y_ends = (tuple(axis[[0, -1]]) for axis in found.axes)
            style: dict[str, Any] = {"marker": ".", "markersize": 4, "alpha": 0.7}
            n_outside = draw_points(ax, y[:, 0], y[:, 1], (x_ends, y_ends), **style)
            counts.append((n_outside, len(y), OUTSIDE))
        write_note(ax, *counts)
        return [filled, lines]

    def _positions(self, n_most: int) -> tuple[Floats, list[Rows]]:
        """Return at most n_most different x, evenly spaced, and the rows of each."""
        order = np.argsort(self.x, kind="stable")
        values, starts = np.unique(self.x[order], return_index=True)
        groups = np.split(order, starts[1:])
        drawn = thin(len(values), n_most)
        return values[drawn], [groups[place] for place in drawn]


def _members(groups: list[Rows]) -> list[Rows]:
    """Return the rows of each group whose densities are averaged, evenly spaced."""
    n_most = max(1, MAX_ROWS // len(groups))
    return [rows[thin(len(rows), n_most)] for rows in groups]


def _y_limits(
    quantiles: Floats, members: list[Rows], y: Floats | None, support: Support
) -> Limits:
    """Return the limits of y for groups of densities with quantiles (n_levels, n).

    A few of the groups, and of the densities of a group, do not determine them. They
    lie inside the support.
    """
    ends = np.cumsum(list(map(len, members)))[:-1]
    groups = [q[[0, MEDIAN, -1]] for q in np.split(quantiles, ends, axis=1)]
    ranges = np.array([usual_range(*group) for group in groups])
    middles = np.array([np.median(middle) for _, middle, _ in groups])
    limits = usual_range(ranges[:, 0], middles, ranges[:, 1])
    if y is not None:
        limits = extend(*limits, y)
    return max(limits[0], support.ends[0]), min(limits[1], support.ends[1])


def _count_cut(quantiles: Floats, limits: Limits) -> tuple[int, int, str]:
    """Count the densities whose outermost quantiles exceed the limits of y."""
    is_cut = (quantiles[0] < limits[0]) | (quantiles[-1] > limits[1])
    return int(is_cut.sum()), len(is_cut), "densities extend beyond the axis"


def _labels(values: Floats) -> list[str]:
    """Return short labels that differ where the values do."""
    for n_digits in range(4, 17):
        labels = [f"{value:.{n_digits}g}" for value in values]
        if len(set(labels)) == len(set(values)):
            break
    return labels


def _shades(cmap: Any, n: int) -> Any:
    """Return n colours of a sequential colormap, from light to dark."""
    import matplotlib as mpl

    return mpl.colormaps.get_cmap(cmap)(np.linspace(0.15, 0.95, n))


def _as_table(name: str, values: ArrayLike, shape: tuple[int, int]) -> Floats:
    """Convert values to a finite array of shape (n, n_columns).

    A single column, or a single row, may come without its axis.
    """
    table = as_real(name, values)
    if table.shape != shape and not (1 in shape and table.shape == (max(shape),)):
        raise ValueError(f"{name} must have the shape {shape}, got {table.shape}.")
    return table.reshape(shape)


def _find_feature(feature: int | str, names: list[Any]) -> int:
    """Return the position of a feature given by position or name."""
    if feature in names:
        return names.index(feature)
    if isinstance(feature, str) or not -len(names) <= feature < len(names):
        raise ValueError(f"Unknown feature {feature!r}; the features are {names}.")
    return feature
