"""Display of three or more outputs in pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skmdn.density.rowwise import check_density
from skmdn.density.transformed import Density
from skmdn.metrics import predict_density
from skmdn.plot._arguments import as_falling, as_table, output_labels
from skmdn.plot._axes import (
    CONFIDENCES,
    DATA_COLOR,
    PALETTE,
    Floats,
    Limits,
    get_axes,
    split_axes,
)
from skmdn.plot._curve import draw_curve, hide_density
from skmdn.plot._grid import QUANTILES, find_limits, trace
from skmdn.plot._joint import draw_samples
from skmdn.plot._regions import (
    fill_regions,
    find_regions,
    outline_regions,
    region_keys,
)
from skmdn.plot._scale import Scale, choose_scale, set_log_ticks

# Outputs that are still legible in one picture.
MAX_OUTPUTS = 10
# Of the density given known outputs (Okabe and Ito's purple).
GIVEN_COLOR = PALETTE[3]
# Levels of its quantiles that determine the axes.
GIVEN_QUANTILES = np.array([[0.025], [0.975]])
# Inches of a panel of a new figure.
PANEL_SIZE = 2.1


class PairDisplay:
    """Joint density of one row, of two or more outputs, in pairs.

    The diagonal has the density of each output, with its central intervals shaded, and
    below it are the highest-density regions of each pair. Use `from_estimator` or
    `from_predictions` to create one.

    Parameters
    ----------
    density : MixtureDensity or TransformedDensity
        Density of one row and of the outputs that are drawn.
    y : ndarray of shape (n_outputs,), default=None
        A point, such as the observed outputs.
    given : dict of {int: float}, default=None
        Known outputs by position; the density of the others given these is drawn too.
    labels : sequence of str, default=None
        Names of the outputs, with their units.

    Attributes
    ----------
    axes_ : ndarray of shape (n_outputs, n_outputs)
        Axes of the panels; None above the diagonal.
    ax_ : matplotlib Axes
        The axes that hold the panels.
    figure_ : matplotlib Figure
    artists_ : dict
        By pairs of positions (row, column): the curve and the shaded areas on the
        diagonal, the filled and the line contour set below it.

    See Also
    --------
    DensityDisplay : One output, or two.

    Notes
    -----
    The axis of an output shows the central 99.8 % of its density without heavy tails,
    95 % of the density given the known outputs, and the points that are not farther
    away than its length; see `DensityDisplay`.

    Examples
    --------
    >>> import numpy as np
    >>> from matplotlib.figure import Figure
    >>> from skmdn import MixtureDensity
    >>> from skmdn.plot import PairDisplay
    >>> density = MixtureDensity([[1.0]], np.zeros((1, 1, 3)), np.eye(3)[None, None])
    >>> ax = Figure().subplots()
    >>> display = PairDisplay.from_predictions(density, [0, 1, 2], ax=ax)
    >>> [ax.get_xlabel() for ax in display.axes_[-1]]  # of the lowest row
    ['output 0', 'output 1', 'output 2']
    """

    def __init__(
        self,
        density: Density,
        *,
        y: NDArray[np.float64] | None = None,
        given: Mapping[int, float] | None = None,
        labels: Sequence[str] | None = None,
    ) -> None:
        self.density = density
        self.y = y
        self.given = dict(given or {})
        self.labels = labels

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike,
        y: ArrayLike | None = None,
        **options: Any,
    ) -> Self:
        """Predict the joint density of one row, and draw it.

        Parameters
        ----------
        estimator : estimator
            Fitted to two or more outputs; any that `skmdn.predict_density` accepts.
        X : array-like of shape (1, n_features)
            Features of the row.
        y, **options
            As in `from_predictions`.

        Returns
        -------
        display : PairDisplay
        """
        return cls.from_predictions(predict_density(estimator, X), y, **options)

    @classmethod
    def from_predictions(
        cls,
        density: Density,
        y: ArrayLike | None = None,
        *,
        given: Mapping[Any, float] | None = None,
        outputs: Sequence[Any] | None = None,
        labels: Sequence[str] | None = None,
        ax: Any = None,
        **options: Any,
    ) -> Self:
        """Draw a predicted density.

        Parameters
        ----------
        density : MixtureDensity or TransformedDensity
            Predicted density of one row and two or more outputs; `density[i]` selects
            a row.
        y : array-like of shape (n_outputs,) or (1, n_outputs), default=None
            A point to mark, such as the observed outputs.
        given : dict of {output: value}, default=None
            Known outputs among those drawn, by position or name. The density of the
            others given these is drawn over their density.
        outputs : sequence of int or str, default=None
            Outputs to draw, by position or name, in this order; all by default, and 10
            at most.
        labels : sequence of str, default=None
            Names of the outputs drawn, with their units; those of the density by
            default.
        ax : matplotlib Axes, default=None
            Axes whose place the panels take; a new figure by default.
        **options
            Other arguments of `plot`.

        Returns
        -------
        display : PairDisplay

        Raises
        ------
        ValueError
            If the density has several rows, or the number of outputs is not from 2 to
            10, or `y`, `given` or `labels` do not fit it.
        """
        check_density(density, "from_predictions(density, y)")
        if len(density) != 1:
            raise ValueError(
                f"PairDisplay draws the density of one row, got {len(density)}. Select "
                "one, density[i]."
            )
        positions = density.outputs.positions(
            range(density.n_outputs) if outputs is None else outputs
        )
        if not 2 <= len(positions) <= MAX_OUTPUTS:
            raise ValueError(
                f"PairDisplay draws 2 to {MAX_OUTPUTS} outputs, got {len(positions)}. "
                "Choose them with outputs=..."
            )
        if labels is None:
            labels = output_labels(density, positions)
        elif len(labels) != len(positions):
            raise ValueError(
                f"labels must name the {len(positions)} outputs, got {len(labels)}."
            )
        if y is not None:
            aligned = density.outputs.align("y", y)
            y = as_table("y", aligned, (1, density.n_outputs))[0, positions]
        known = None
        if given is not None:
            known = _as_known(given, density, positions)
        marginal = density.marginal(positions)
        display = cls(marginal, y=y, given=known, labels=labels)
        return display.plot(ax=ax, **options)

    def plot(
        self,
        ax: Any = None,
        *,
        cmap: str = "Blues",
        confidence: Any = CONFIDENCES,
        log: Any = False,
        n_samples: int = 0,
    ) -> Self:
        """Draw the panels.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes whose place the panels take; a new figure by default.
        cmap : str, default="Blues"
            A sequential colormap.
        confidence : float or sequence of float, default=(0.5, 0.8, 0.95)
            Probabilities of the intervals and regions.
        log : bool or sequence of bool, default=False
            Whether the axes of all outputs, or of each, are logarithmic.
        n_samples : int, default=0
            Number of draws of the density that are shown on the regions.

        Returns
        -------
        self : PairDisplay
        """
        d = self.density.n_outputs
        confidences = as_falling(confidence)
        self._scales = self._choose_scales(log)
        self._conditional = (
            None if not self.given else self.density.condition(self.given)
        )
        self._limits = [self._find_limits(output) for output in range(d)]
        draws = None
        if n_samples:
            draws = self.density.sample(n_samples, random_state=0)[0]
        self.ax_ = get_axes(ax)
        self.figure_ = self.ax_.figure
        if ax is None:
            self.figure_.set_size_inches(d * PANEL_SIZE, d * PANEL_SIZE)
        self.axes_ = split_axes(self.ax_, d, d)
        self.artists_: dict[tuple[int, int], list[Any]] = {}
        for row, column in np.ndindex(d, d):
            panel: Any = self.axes_[row, column]
            if row < column:
                panel.remove()
                self.axes_[row, column] = None
                continue
            if row == column:
                artists = self._draw_output(panel, row, confidences, cmap)
            else:
                pair = column, row
                artists = self._draw_pair(panel, pair, confidences, cmap, draws)
            self.artists_[row, column] = artists
            self._label(panel, row, column)
        self._add_legend(confidences, cmap)
        return self

    def _choose_scales(self, log: Any) -> list[Scale]:
        """Return the scale of each output."""
        d = self.density.n_outputs
        is_log = [log] * d if np.ndim(log) == 0 else list(log)
        if len(is_log) != d:
            raise ValueError(
                f"log must be a bool, or one for each of the {d} outputs, got {log!r}."
            )
        values = [None] * d if self.y is None else list(self.y[:, None])
        return [
            choose_scale(bool(flag), "linear", value)
            for flag, value in zip(is_log, values, strict=True)
        ]

    def _densities(self, output: int) -> list[Density]:
        """Return the density of an output, and that given the known outputs."""
        found = [self.density.marginal(output)]
        if self._conditional is not None and output not in self.given:
            found.append(self._conditional.marginal(self._place(output)))
        return found

    def _place(self, output: int) -> int:
        """Return the position of an output among those that are not known."""
        return self.density.outputs.others(list(self.given)).index(output)

    def _find_limits(self, output: int) -> Limits:
        """Return the limits of the axes of an output, mapped by its scale."""
        scale = self._scales[output]
        y = [] if self.y is None else [self.y[output]]
        if output in self.given:
            y.append(self.given[output])
        points = np.array(y) if y else None
        density, *conditional = self._densities(output)
        quantiles = scale.quantiles(density, QUANTILES)
        rows = [np.zeros(1, dtype=np.intp)]
        ends = list(find_limits(density, quantiles, rows, points, scale))
        for other in conditional:
            ends += list(scale.forward(scale.quantiles(other, GIVEN_QUANTILES)[:, 0]))
        return float(min(ends)), float(max(ends))

    def _draw_output(
        self, ax: Any, output: int, confidences: Sequence[float], cmap: Any
    ) -> list[Any]:
        """Draw the density of one output; return its curve and shaded areas."""
        scale, limits = self._scales[output], self._limits[output]
        density, *conditional = self._densities(output)
        ax.set_xscale(scale.name)
        artists = draw_curve(ax, density, limits, confidences, scale=scale, cmap=cmap)
        for other in conditional:
            ax.plot(*trace(other, limits, scale), color=GIVEN_COLOR, linewidth=1.5)
        hide_density(ax)
        if self.y is not None:
            ax.axvline(self.y[output], color=DATA_COLOR, linewidth=1.2)
        if output in self.given:
            ax.axvline(self.given[output], color=GIVEN_COLOR, linewidth=1.5)
        return artists

    def _draw_pair(
        self,
        ax: Any,
        pair: tuple[int, int],
        confidences: Sequence[float],
        cmap: Any,
        draws: Floats | None,
    ) -> list[Any]:
        """Draw the regions of a pair of outputs; return the contour sets."""
        scales = self._scales[pair[0]], self._scales[pair[1]]
        ax.set(xscale=scales[0].name, yscale=scales[1].name)
        found = find_regions(self.density.marginal(pair), confidences, None, scales)
        artists = fill_regions(ax, found, cmap)
        if draws is not None:
            draw_samples(ax, draws[:, list(pair)], found)
        free = [output for output in pair if output not in self.given]
        if self._conditional is not None and len(free) == 2:
            places = [self._place(output) for output in pair]
            conditional = self._conditional.marginal(places)
            found = find_regions(conditional, confidences, None, scales)
            outline_regions(ax, found, GIVEN_COLOR, 1.5)
        for output, line in zip(pair, (ax.axvline, ax.axhline), strict=True):
            if output in self.given:
                line(self.given[output], color=GIVEN_COLOR, linewidth=1.5)
        if self.y is not None:
            style = {"markersize": 6, "markeredgecolor": "white"}
            ax.plot(*self.y[list(pair), None], "o", color=DATA_COLOR, **style)
        return artists

    def _label(self, ax: Any, row: int, column: int) -> None:
        """Set limits and labels; only outer panels have labels."""
        d = self.density.n_outputs
        labels = self.labels or output_labels(self.density, range(d))
        self._set_axis(ax.xaxis, ax.set_xlim, column)
        if row < d - 1:
            ax.tick_params(labelbottom=False)
        else:
            ax.set_xlabel(labels[column])
            ax.tick_params(axis="x", labelrotation=45)
        if row == column:
            return
        self._set_axis(ax.yaxis, ax.set_ylim, row)
        if column:
            ax.tick_params(labelleft=False)
        else:
            ax.set_ylabel(labels[row])

    def _set_axis(self, axis: Any, set_limits: Any, output: int) -> None:
        """Set the limits and the ticks of an axis of an output."""
        scale = self._scales[output]
        set_limits(scale.inverse(self._limits[output]))
        if scale.is_log:
            set_log_ticks(axis)

    def _add_legend(self, confidences: Sequence[float], cmap: Any) -> None:
        """Explain the colours above the diagonal."""
        from matplotlib.lines import Line2D

        keys = region_keys(confidences, cmap)
        if self.y is not None:
            style: dict[str, Any] = {"marker": "o", "linestyle": "none"}
            style["markeredgecolor"] = "white"
            keys.append(Line2D([], [], color=DATA_COLOR, label="observed", **style))
        labels = self.labels or output_labels(self.density, range(len(self.axes_)))
        if self.given:
            known = [f"{labels[j]} = {value:.4g}" for j, value in self.given.items()]
            text = "given " + ",\n".join(known)
            keys.append(Line2D([], [], color=GIVEN_COLOR, linewidth=1.5, label=text))
        self.ax_.legend(handles=keys, loc="upper right", frameon=False)


def _as_known(
    given: Mapping[Any, float], density: Density, positions: Sequence[int]
) -> dict[int, float]:
    """Return known values by the position of their output among those drawn."""
    places = density.outputs.places("given", given)
    missing = [place for place in places if place not in positions]
    if missing:
        raise ValueError(
            f"given has outputs that are not drawn, {missing}. Draw them too, or pass "
            "density.condition(given)."
        )
    if not 0 < len(places) < len(positions):
        raise ValueError(
            f"given must have at least one output, and not all of the {len(positions)} "
            f"that are drawn, got {len(places)}."
        )
    values = as_table("given", list(given.values()), (len(places), 1))[:, 0]
    return {
        positions.index(place): float(value)
        for place, value in zip(places, values, strict=True)
    }
