"""Display of the density of y against single features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from skmdn._utils.arrays import make_seed
from skmdn.density.transformed import Density
from skmdn.metrics import predict_density
from skmdn.plot._arguments import as_falling, output_labels
from skmdn.plot._axes import (
    CONFIDENCES,
    MODEL_COLOR,
    Limits,
    as_percent,
    get_axes,
    shades,
    split_axes,
    write_note,
)
from skmdn.plot._grid import (
    QUANTILES,
    cell_edges,
    column_heights,
    shown_range,
    trace,
    usual_range,
)
from skmdn.plot._partial import Dependence, Rowset, dependence
from skmdn.plot._scale import Scale, choose_scale, set_log_ticks

# Cells of a column of a heat map.
N_CELLS = 200
# Half the width of a violin. Width of the bar of an interval in points, of one and of
# all categories.
VIOLIN, WIDEST_BAR, MOST_BARS = 0.42, 6.0, 100.0
# Letters of the names of categories beside each other.
LONGEST_LABELS = 24
# Inches of a panel of a new figure.
PANEL_SIZE = 3.6, 3.2
# Length of the marks of the deciles, in heights of the axes.
DECILE_LENGTH = 0.03


class DependenceDisplay:
    """Density of y against one feature per panel, the others averaged or fixed.

    As `sklearn.inspection.PartialDependenceDisplay` shows the mean of predictions, this
    shows the whole density. Use `from_estimator` to create one.

    Parameters
    ----------
    dependences : list of Dependence
        For each panel the `name` of the feature, its `values`, whether it
        `is_categorical`, the `density` with a row for each value, and the `deciles` of
        the feature.
    y_label : str, default="y"
        Name of the output, with its unit.
    title : str, default=None
        What the densities are.

    Attributes
    ----------
    axes_ : ndarray of shape (n_rows, n_cols)
        Axes of the panels; None where there is none.
    ax_ : matplotlib Axes
        The axes that hold the panels.
    figure_ : matplotlib Figure
    artists_ : list of list
        For each panel: the bands of a numeric feature and the line of its median, or
        its mesh; the bars of the intervals of each category, the violins and the
        medians.

    See Also
    --------
    DensityDisplay : Densities of given rows.

    Notes
    -----
    A mean over rows combines values that may never occur together, and the density then
    extrapolates: marks at the lower frame show the deciles of the feature.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from skmdn import MDNRegressor
    >>> from skmdn.datasets import load_geyser
    >>> from skmdn.plot import DependenceDisplay
    >>> X, y = load_geyser(return_X_y=True)
    >>> mdn = MDNRegressor(n_estimators=1, max_iter=2, random_state=0).fit(X, y)
    >>> display = DependenceDisplay.from_estimator(
    ...     mdn, X, [0], grid_resolution=5, ax=Figure().subplots()
    ... )
    >>> display.dependences[0].values.round()
    array([49., 60., 71., 82., 93.])
    """

    def __init__(
        self,
        dependences: Sequence[Dependence],
        *,
        y_label: str = "y",
        title: str | None = None,
    ) -> None:
        self.dependences = dependences
        self.y_label = y_label
        self.title = title

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike,
        features: int | str | Sequence[int | str],
        *,
        kind: str = "average",
        output: int | str = 0,
        fixed: Mapping[Any, Any] | None = None,
        categorical_features: Any = None,
        grid_resolution: int = 50,
        percentiles: tuple[float, float] = (0.05, 0.95),
        subsample: int | None = 100,
        random_state: Any = None,
        y_label: str | None = None,
        ax: Any = None,
        **options: Any,
    ) -> Self:
        """Predict the densities at the values of each feature, and draw them.

        Parameters
        ----------
        estimator : estimator
            Fitted; any that `skmdn.predict_density` accepts, in particular a pipeline.
        X : array-like or data frame of shape (n_samples, n_features)
            Rows as the estimator expects them. They determine the values of the
            features, and are those over which "average" takes the mean.
        features : int, str, or sequence of these
            Features by position or name, one panel for each.
        kind : {"average", "individual"}, default="average"
            "average": the mean density of rows of X, with the feature replaced.
            "individual": the density of one row, whose other features are `fixed`.
        output : int or str, default=0
            Output to draw.
        fixed : dict of {feature: value}, default=None
            Values of the other features for "individual"; by default medians, and most
            frequent categories.
        categorical_features : sequence of bool, int or str, default=None
            Features without an order. Columns with other values than numbers always
            are.
        grid_resolution : int, default=50
            Number of values of a numeric feature; it takes its own if these are fewer.
        percentiles : tuple of float, default=(0.05, 0.95)
            Quantiles of a numeric feature at the ends of the grid, from 0 to 1.
        subsample : int, default=100
            Number of rows, drawn from X, over which "average" takes the mean. None
            takes all.
        random_state : int, RandomState, Generator or None, default=None
            Seed of the subsample.
        y_label : str, default=None
            Name of the output, with its unit; by default that of the density.
        ax : matplotlib Axes, default=None
            Axes whose place the panels take; a new figure by default.
        **options
            Other arguments of `plot`.

        Returns
        -------
        display : DependenceDisplay

        Raises
        ------
        ValueError
            If a feature is unknown, or an argument has no such value.
        """
        if kind not in ("average", "individual"):
            raise ValueError(
                f"kind must be 'average' or 'individual', got {kind!r}. Individual "
                "rows are drawn by DensityDisplay."
            )
        if fixed is not None and kind == "average":
            raise ValueError("fixed needs kind='individual': 'average' fixes nothing.")
        _check_grid(grid_resolution, percentiles, subsample)
        names = (
            [features]
            if isinstance(features, (int, np.integer, str))
            else list(features)
        )
        if not names:
            raise ValueError("features must name at least one feature.")
        shown = Rowset(X, categorical_features)
        if kind == "average":
            rows, title = _subsampled(shown, subsample, random_state)
        else:
            rows = shown.typical_row(fixed)
            title = "density of one row"

        def predict(table: Any) -> Density:
            return predict_density(estimator, table).marginal(output)

        found = [
            dependence(
                predict,
                rows,
                name,
                shown=shown,
                grid_resolution=grid_resolution,
                percentiles=percentiles,
            )
            for name in names
        ]
        if y_label is None:
            (y_label,) = output_labels(found[0].density, [0])
        return cls(found, y_label=y_label, title=title).plot(ax=ax, **options)

    def plot(
        self,
        ax: Any = None,
        *,
        style: str = "bands",
        n_cols: int = 3,
        cmap: str = "Blues",
        confidence: Any = CONFIDENCES,
        log: bool = False,
    ) -> Self:
        """Draw the panels, with one axis of y.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes whose place the panels take; a new figure by default.
        style : {"bands", "heat"}, default="bands"
            Of numeric features. "bands": central intervals and the median. "heat": the
            density relative to its maximum at each value; it shows several modes.
        n_cols : int, default=3
            Greatest number of panels beside each other.
        cmap : str, default="Blues"
            A sequential colormap.
        confidence : float or sequence of float, default=(0.5, 0.8, 0.95)
            Probabilities of the intervals.
        log : bool, default=False
            Whether the axis of y is logarithmic.

        Returns
        -------
        self : DependenceDisplay
        """
        if style not in ("bands", "heat"):
            raise ValueError(f"style must be 'bands' or 'heat', got {style!r}.")
        if n_cols < 1:
            raise ValueError(f"n_cols must be at least 1, got {n_cols}.")
        confidences, scale = as_falling(confidence), choose_scale(log, "linear")
        n_columns = min(n_cols, len(self.dependences))
        n_rows = -(-len(self.dependences) // n_columns)
        mapped = self._find_limits(scale)
        self.ax_ = get_axes(ax)
        self.figure_ = self.ax_.figure
        if ax is None:
            width, height = PANEL_SIZE
            self.figure_.set_size_inches(
                max(width * n_columns, 4.8), max(height * n_rows, 3.6)
            )
        self.axes_ = split_axes(self.ax_, n_rows, n_columns)
        self.artists_: list[list[Any]] = []
        for place, panel in enumerate(self.axes_.flat):
            if place >= len(self.dependences):
                panel.remove()
                self.axes_.flat[place] = None
                continue
            found = self.dependences[place]
            panel.set_yscale(scale.name)
            if found.is_categorical:
                artists = _draw_categories(panel, found, mapped, confidences, scale)
            elif style == "heat":
                artists = _draw_heat(panel, found, mapped, cmap, scale)
            else:
                artists = _draw_bands(panel, found, confidences, cmap)
            self.artists_.append(artists)
            self._label(panel, place, n_columns, scale.inverse(mapped))
            if scale.is_log:
                set_log_ticks(panel.yaxis)
        self._explain()
        return self

    def _find_limits(self, scale: Scale) -> Limits:
        """Return the limits of the axis of y of all panels, mapped by the scale."""
        parts = [
            shown_range(scale.quantiles(found.density, QUANTILES), scale)
            for found in self.dependences
        ]
        low, middle, high = np.concatenate(parts, axis=1)
        return usual_range(low, middle, high)

    def _explain(self) -> None:
        """Give the first panel a title, and the first one with bands a legend."""
        if self.title is not None:
            self.axes_[0, 0].set_title(self.title, loc="left", fontsize="small")
        for panel, found in zip(self.axes_.flat, self.dependences, strict=False):
            if not found.is_categorical and panel.get_legend_handles_labels()[0]:
                panel.legend(fontsize="x-small", framealpha=0.6)
                return

    def _label(self, ax: Any, place: int, n_columns: int, limits: Any) -> None:
        """Set the limits and the labels of a panel, and mark deciles."""
        found = self.dependences[place]
        ax.set(xlabel=found.name, ylim=limits)
        if not found.is_categorical:
            ax.locator_params(axis="x", nbins=5)
            low, high = ax.get_xlim()
            inside = found.deciles[(found.deciles >= low) & (found.deciles <= high)]
            ax.vlines(
                inside,
                0,
                DECILE_LENGTH,
                color="black",
                linewidth=1,
                transform=ax.get_xaxis_transform(),
            )
        if place % n_columns:
            ax.tick_params(labelleft=False)
        else:
            ax.set_ylabel(self.y_label)


def _draw_bands(
    ax: Any, found: Dependence, confidences: Sequence[float], cmap: Any
) -> list[Any]:
    """Draw central intervals and the median; return the bands and the line."""
    artists = []
    colors = shades(cmap, len(confidences))
    for share, color in zip(confidences, colors, strict=True):
        low, high = found.density.interval(share)
        label = f"central {as_percent(share)}"
        style = {"color": color, "linewidth": 0, "label": label}
        artists.append(ax.fill_between(found.values, low, high, **style))
    style = {"color": "black", "linewidth": 1.2, "label": "median"}
    artists += ax.plot(found.values, found.density.median(), **style)
    ax.set_xlim(found.values[0], found.values[-1])
    return artists


def _draw_heat(
    ax: Any, found: Dependence, mapped: Limits, cmap: Any, scale: Scale
) -> list[Any]:
    """Draw each density relative to its maximum; return the mesh."""
    values, density = found.values, found.density
    quantiles = scale.quantiles(density, QUANTILES)
    sizes = [1] * len(values)
    edges, heights = column_heights(density, mapped, N_CELLS, quantiles, sizes, scale)
    style: dict[str, Any] = {"cmap": cmap, "vmin": 0, "vmax": 1, "rasterized": True}
    mesh = ax.pcolormesh(cell_edges(values), edges, heights, **style)
    return [mesh]


def _draw_categories(
    ax: Any,
    found: Dependence,
    mapped: Limits,
    confidences: Sequence[float],
    scale: Scale,
) -> list[Any]:
    """Draw a violin, the intervals as bars and the median of each category.

    One factor gives the violins their width, so that equal areas are equal
    probabilities.
    """
    density = found.density
    places = np.arange(len(found.values))
    traces = [trace(density[row], mapped, scale) for row in places]
    highest = max(heights.max() for _, heights in traces)
    violins = []
    for place, (y, heights) in zip(places, traces, strict=True):
        half = VIOLIN * heights / highest
        style = {"color": MODEL_COLOR, "alpha": 0.35, "linewidth": 0}
        violins.append(ax.fill_betweenx(y, place - half, place + half, **style))
    widest = min(WIDEST_BAR, MOST_BARS / len(places))
    widths = np.linspace(widest / 4, widest, len(confidences) + 1)[:-1]
    bars = [
        ax.vlines(places, *density.interval(share), color=MODEL_COLOR, linewidth=width)
        for share, width in zip(confidences, widths, strict=True)
    ]
    style = {"color": "white", "markeredgecolor": "black", "zorder": 3}
    style["markersize"] = min(5.0, widest)
    medians = ax.plot(places, density.median(), "o", **style)
    labels = [str(value) for value in found.values]
    is_long = sum(map(len, labels)) > LONGEST_LABELS
    text = {"rotation": 90, "fontsize": "x-small"} if is_long else {}
    ax.set_xticks(places, labels, **text)
    write_note(ax, found.left_out)
    ax.set_xlim(-0.6, len(places) - 0.4)
    return [*bars, *violins, *medians]


def _subsampled(
    rows: Rowset, subsample: int | None, random_state: Any
) -> tuple[Rowset, str]:
    """Return the rows that are averaged, and what they are."""
    n = len(rows.X)
    if subsample is not None and subsample < n:
        generator = np.random.default_rng(make_seed(random_state))
        drawn = np.sort(generator.choice(n, subsample, replace=False))
        rows = rows.like(rows.take(drawn))
    n = len(rows.X)
    return rows, "density of one row" if n == 1 else f"mean density of {n} rows"


def _check_grid(
    grid_resolution: int, percentiles: tuple[float, float], subsample: int | None
) -> None:
    """Raise unless a grid and a subsample have possible sizes."""
    if grid_resolution < 2:
        raise ValueError(f"grid_resolution must be at least 2, got {grid_resolution}.")
    low, high = percentiles
    if not 0 <= low < high <= 1:
        raise ValueError(
            f"percentiles must be rising and lie in [0, 1], got {percentiles}."
        )
    if subsample is not None and subsample < 1:
        raise ValueError(f"subsample must be at least 1, or None, got {subsample}.")
