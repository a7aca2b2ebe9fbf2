"""Display of the densities themselves."""

from __future__ import annotations

from numbers import Integral
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skmdn.density.rowwise import check_density
from skmdn.density.transformed import Density
from skmdn.metrics import predict_density
from skmdn.plot._arguments import (
    Style,
    as_falling,
    as_positions,
    as_table,
    feature_names,
    find_feature,
    output_labels,
)
from skmdn.plot._axes import (
    CONFIDENCES,
    MODEL_COLOR,
    Floats,
    density_label,
    draw_points,
    get_axes,
    point_size,
    write_note,
)
from skmdn.plot._curve import draw_curve, mark_curve
from skmdn.plot._grid import (
    OUTSIDE,
    QUANTILES,
    Rows,
    cell_edges,
    column_heights,
    count_cut,
    find_limits,
    members_of,
    pool,
    thin,
    trace,
    usual_peak,
)
from skmdn.plot._joint import draw_joint
from skmdn.plot._scale import choose_scale, set_log_ticks

# Columns of a heat map and cells of a column; curves of a ridge plot.
MAX_COLUMNS, N_CELLS, MAX_RIDGES = 400, 300, 12
# Height of the highest curve of a ridge plot, in distances of the curves.
RIDGE_HEIGHT = 1.6
# Components of a contour plot.
MAX_COMPONENTS = 2000
ANYWHERE = -np.inf, np.inf
# Space above and below a curve with a note, in heights of the curve.
NOTE_MARGIN = 0.2


class DensityDisplay:
    """Densities as a curve, a heat map, a ridge plot or regions of two outputs.

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
        The mesh of a heat map; the curve of a single density, the shaded area of each
        interval, the median and the modes; the curves of a ridge plot; or the filled
        and the line contour set of the regions.
    marginal_axes_ : tuple of matplotlib Axes
        The axes above and to the right of the regions, if there are any.

    Notes
    -----
    The axis of y shows the central 99.8 % of each density, except those of a few
    densities that are far from the others or much wider, and except tails that extend
    farther beyond the central 95 % than these are long, and the observed values
    that are not farther away than the length of the axis. Arrows at the frame mark
    the other values, and a note in the axes counts them and the densities that
    extend beyond the axis. Bounds of the outputs limit the axes.

    A cell of a heat map has the mean density of the cell, and contours widen
    components that are thinner than 1/400 of an axis or 0.6 cells of their grid, so
    that no narrow density vanishes; the regions drawn hold more than their probability
    there.

    Where the axis of y is logarithmic, curves and heat maps show the density of the
    logarithm at positive values, so that equal areas are equal probabilities.
    Intervals, medians and regions are those of y.

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
        kind: str | None = None,
        x_label: str | None = None,
        y_label: Any = None,
        ax: Any = None,
        **options: Any,
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
        output, kind, x_label, y_label, ax, **options
            As in `from_predictions`.

        Returns
        -------
        display : DensityDisplay

        Raises
        ------
        ValueError
            If the feature is unknown, not numeric, or missing in some rows.
        """
        density = predict_density(estimator, X)
        columns = np.asarray(X)
        names = feature_names(X)
        if feature is None and columns.shape[1] == 1:
            feature = 0
        x = None
        if feature is not None:
            position = find_feature(feature, names)
            x = as_positions(names[position], columns[:, position])
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
            **options,
        )

    @classmethod
    def from_predictions(
        cls,
        density: Density,
        y: ArrayLike | None = None,
        *,
        x: ArrayLike | None = None,
        output: Any = 0,
        kind: str | None = None,
        x_label: str | None = None,
        y_label: Any = None,
        ax: Any = None,
        **options: Any,
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
        kind : {"heat", "ridge", "contour"}, default=None
            See `plot`.
        x_label : str, default=None
            Name of the feature, with its unit.
        y_label : str, or pair of str, default=None
            Names of the outputs, with units in parentheses at the end; by default the
            names of the density.
        ax : matplotlib Axes, default=None
            Axes to draw in; those of a new figure by default.
        **options
            Other arguments of `plot`.

        Returns
        -------
        display : DensityDisplay
        """
        check_density(density, "from_predictions(density, y)")
        is_pair = not isinstance(output, (Integral, str))
        outputs = list(output) if is_pair else [output]
        marginal = density.marginal(outputs if is_pair else output)
        if y_label is None:
            y_labels = output_labels(density, outputs)
        else:
            y_labels = tuple(y_label) if is_pair else (y_label,)
        n = len(marginal)
        if y is not None:
            aligned = density.outputs.align("y", y)
            table = as_table("y", aligned, (n, density.n_outputs))
            y = table[:, density.outputs.positions(outputs)]
            y = y if is_pair else y[:, 0]
        if x is not None:
            x = as_table("x", x, (n, 1))[:, 0]
        elif not is_pair and n > 1:
            x = np.argsort(np.argsort(marginal.median())).astype(np.float64)
            x_label = x_label or "rows, sorted by their predicted medians"
        display = cls(marginal, x=x, y=y, x_label=x_label, y_labels=y_labels)
        return display.plot(ax=ax, kind=kind, **options)

    def plot(
        self,
        ax: Any = None,
        *,
        kind: str | None = None,
        cmap: str = "Blues",
        confidence: Any = CONFIDENCES,
        log: bool | None = None,
        n_samples: int = 0,
        marginals: bool | None = None,
    ) -> Self:
        """Draw the densities.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw in; those of a new figure by default.
        kind : {"heat", "ridge", "contour"}, default=None
            By default "heat" for one output, and "contour" for two.
            "heat": each column is the density at one x over y, relative to its
            maximum, so that narrow and wide densities are equally visible. If all
            rows have one x, the density is drawn as a curve, with its central
            intervals, its median, and the modes of a single row.
            "ridge": the densities at no more than 12 x as curves of equal area.
            "contour": for two outputs, the highest-density regions of the mean density
            of the rows, from which each observed value counts as a draw. Select a row
            to draw its density alone. If the rows have more than 2000 components in
            all, evenly spaced rows are drawn, with their observed values only.
        cmap : str, default="Blues"
            A sequential colormap.
        confidence : float or sequence of float, default=(0.5, 0.8, 0.95)
            Probabilities of the intervals of a curve and of the regions.
        log : bool, default=None
            Whether axes of y are logarithmic; by default as those of `ax` are.
        n_samples : int, default=0
            Number of draws of the mean density that are shown on the regions.
        marginals : bool, default=None
            Whether the densities of each output are drawn beside the regions; by
            default only in a new figure.

        Returns
        -------
        self : DensityDisplay

        Raises
        ------
        ValueError
            If an argument has no such value, the density has another number of outputs
            than `kind` draws, or `log` meets values that are not positive.
        """
        kinds = {"heat": self._heat, "ridge": self._ridge, "contour": self._contour}
        if kind is None:
            kind = "contour" if self.density.n_outputs == 2 else "heat"
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
        if n_samples < 0:
            raise ValueError(f"n_samples must not be negative, got {n_samples}.")
        has_marginals = ax is None if marginals is None else marginals
        style = Style(cmap, as_falling(confidence), log, n_samples, has_marginals)
        self.ax_ = get_axes(ax)
        self.figure_ = self.ax_.figure
        self.marginal_axes_: tuple[Any, ...] = ()
        self.artists_ = kinds[kind](self.ax_, style)
        return self

    def _heat(self, ax: Any, style: Style) -> list[Any]:
        """Draw a heat map and return its mesh, or the curve of a single position."""
        x, groups = self._positions(MAX_COLUMNS)
        if len(groups) == 1:
            return self._curve(ax, x[0], groups[0], style)
        scale = choose_scale(style.log, ax.get_yscale(), self.y)
        members = members_of(groups)
        density = self.density.marginal(0)[np.concatenate(members)]
        quantiles = scale.quantiles(density, QUANTILES)
        mapped = find_limits(density, quantiles, members, self.y, scale)
        sizes = list(map(len, members))
        edges, heights = column_heights(
            density, mapped, N_CELLS, quantiles, sizes, scale
        )
        limits = float(edges[0]), float(edges[-1])
        mesh = ax.pcolormesh(
            cell_edges(x),
            edges,
            heights,
            cmap=style.cmap,
            vmin=0,
            vmax=1,
            rasterized=True,
        )
        ax.set(xlabel=self.x_label, ylabel=self.y_labels[0], yscale=scale.name)
        if scale.is_log:
            set_log_ticks(ax.yaxis)
        counts = [count_cut(quantiles, limits)]
        if self.y is not None:
            marks: dict[str, Any] = {"marker": ".", "alpha": 0.7}
            marks["markersize"] = point_size(len(self.y))
            n_outside = draw_points(ax, self.x, self.y, (ANYWHERE, limits), **marks)
            counts.append((n_outside, len(self.y), OUTSIDE))
        write_note(ax, *counts)
        colorbar = ax.figure.colorbar(mesh, ax=ax)
        colorbar.set_label("density / highest density at x")
        return [mesh]

    def _curve(self, ax: Any, x: float, rows: Rows, style: Style) -> list[Any]:
        """Draw the mean density of rows at one position; return its artists."""
        members = members_of([rows])
        density = self.density.marginal(0)[members[0]]
        y = None if self.y is None else self.y[rows]
        scale = choose_scale(style.log, ax.get_xscale(), y)
        ax.set_xscale(scale.name)
        quantiles = scale.quantiles(density, QUANTILES)
        mapped = find_limits(density, quantiles, members, y, scale)
        low, high = (float(end) for end in scale.inverse(mapped))
        pooled = pool(density)
        artists = draw_curve(
            ax, pooled, mapped, style.confidences, scale=scale, cmap=style.cmap
        )
        artists += mark_curve(ax, pooled, scale, has_modes=len(density) == 1)
        counts = [count_cut(quantiles, (low, high))]
        if y is not None:
            marks: dict[str, Any] = {"marker": "|", "markersize": 9, "clip_on": False}
            marks |= {"markeredgewidth": 2, "zorder": 3, "label": "observed"}
            limits = (low, high), ANYWHERE
            n_outside = draw_points(ax, y, np.zeros(len(y)), limits, **marks)
            counts.append((n_outside, len(y), OUTSIDE))
        if any(n for n, *_ in counts):
            ax.margins(y=NOTE_MARGIN)  # the note does not lie on the curve
        write_note(ax, *counts)
        label = self.y_labels[0]
        ax.set(xlabel=label, ylabel=density_label(label, is_log=scale.is_log))
        if scale.is_log:
            set_log_ticks(ax.xaxis)
        if self.x_label is not None:
            ax.set_title(f"{self.x_label} = {x:.6g}", fontsize="medium")
        ax.legend(fontsize="small", framealpha=0.6)
        return artists

    def _ridge(self, ax: Any, style: Style) -> list[Any]:
        """Draw a ridge plot, with one curve for each position; return the curves.

        One factor gives the curves their height, and the few that are much higher than
        the others are cut.
        """
        x, groups = self._positions(MAX_RIDGES)
        members = members_of(groups)
        scalar = self.density.marginal(0)
        y = None if self.y is None else self.y[np.concatenate(groups)]
        scale = choose_scale(style.log, ax.get_xscale(), y)
        ax.set_xscale(scale.name)
        quantiles = scale.quantiles(scalar[np.concatenate(members)], QUANTILES)
        mapped = find_limits(scalar, quantiles, members, y, scale)
        limits = float(scale.inverse(mapped[0])), float(scale.inverse(mapped[1]))
        traces = [trace(scalar[rows], mapped, scale) for rows in members]
        peaks = np.array([heights.max() for _, heights in traces])
        unit = usual_peak(peaks) / RIDGE_HEIGHT
        curves = []
        for position, (grid, heights) in reversed(list(enumerate(traces))):
            curve = position + np.minimum(heights / unit, RIDGE_HEIGHT)
            ax.fill_between(
                grid, position, curve, color=MODEL_COLOR, alpha=0.35, linewidth=0
            )
            curves += ax.plot(grid, curve, color=MODEL_COLOR, linewidth=1)
        counts = [count_cut(quantiles, limits)]
        if y is not None:
            positions = np.arange(len(groups), dtype=np.float64)
            positions = np.repeat(positions, list(map(len, groups)))
            marks: dict[str, Any] = {"marker": "|", "markersize": 9}
            marks["markeredgewidth"] = 2
            n_outside = draw_points(ax, y, positions, (limits, ANYWHERE), **marks)
            counts.append((n_outside, len(y), OUTSIDE))
        n_cut = int((peaks > RIDGE_HEIGHT * unit * (1 + 1e-9)).sum())
        write_note(ax, *counts, (n_cut, len(peaks), "peaks are cut"))
        if scale.is_log:
            set_log_ticks(ax.xaxis)
        ax.set_yticks(range(len(groups)), _labels(x))
        ax.set(xlabel=self.y_labels[0], ylabel=self.x_label)
        return curves

    def _contour(self, ax: Any, style: Style) -> list[Any]:
        """Draw regions of two outputs; return the filled and the line contour set."""
        n_most = max(1, MAX_COMPONENTS // self.density.n_components)
        order = np.argsort(self.x, kind="stable")
        rows = order[thin(len(order), n_most)]
        y = None if self.y is None else self.y[rows]
        left_out = len(order) - len(rows), len(order), "rows are left out"
        artists, self.marginal_axes_ = draw_joint(
            ax, self.density[rows], y, self.y_labels, style, left_out
        )
        return artists

    def _positions(self, n_most: int) -> tuple[Floats, list[Rows]]:
        """Return at most n_most different x, evenly spaced, and the rows of each."""
        order = np.argsort(self.x, kind="stable")
        values, starts = np.unique(self.x[order], return_index=True)
        groups = np.split(order, starts[1:])
        drawn = thin(len(values), n_most)
        return values[drawn], [groups[place] for place in drawn]


def _labels(values: Floats) -> list[str]:
    """Return short labels that differ where the values do."""
    for n_digits in range(4, 17):
        labels = [f"{value:.{n_digits}g}" for value in values]
        if len(set(labels)) == len(set(values)):
            break
    return labels
