"""Pictures of conditional densities and of how far they can be trusted.

Displays as scikit-learn's: `from_estimator` and `from_predictions` compute and draw,
`plot` draws again. matplotlib is imported only when drawing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from skmdn import metrics
from skmdn.density import MixtureDensity
from skmdn.metrics import predict_density

__all__ = ["CalibrationDisplay", "DensityDisplay", "LossCurveDisplay", "PITDisplay"]

# Columns and lines of a heat map; lines of a contour plot; curves of a ridge.
MAX_COLUMNS, N_LINES, N_CONTOUR_LINES, MAX_RIDGES = 400, 300, 200, 12
# Probability left out at each end of the axis of y.
TAIL = 0.002
# Share of the rows whose ends the axis need not reach, at each of its ends.
FAR_ROWS = 0.05
CONTOUR_LEVELS = (0.95, 0.8, 0.5, 0.2)
# Ink for the model, a warm contrast for the data (Okabe and Ito's colours, which
# readers of all kinds of sight tell apart).
INK, DATA, BAND = "#0072B2", "#D55E00", "#999999"


def _axes(ax: Any) -> Any:
    """Axes to draw in: those given, or of a new figure."""
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot as plt
    except ImportError as exc:
        raise ImportError(
            "Drawing needs matplotlib: python -m pip install 'skmdn[plot]'."
        ) from exc
    return plt.subplots(layout="constrained")[1]


class DensityDisplay:
    """The density itself: heat map, ridge or contours.

    Make one with `from_estimator` or `from_predictions`.

    Parameters
    ----------
    density : MixtureDensity
        Of one output, or of two for contours.
    x : ndarray of shape (n,), default=None
        Where each row stands; the horizontal axis of a heat map, the order and
        the labels of a ridge. The rows' numbers by default.
    y : ndarray of shape (n,) or (n, 2), default=None
        What happened, drawn as points.
    x_label, y_labels : str and tuple of str
        Names of the feature and of the outputs, with units.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    artists_ : list
        The heat map's mesh, the ridge's curves, or the contour sets.
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
    ) -> DensityDisplay:
        """Draw densities that were predicted already.

        Parameters
        ----------
        density : MixtureDensity
        y : array-like of shape (n,) or (n, n_outputs), default=None
            What happened.
        x : array-like of shape (n,), default=None
            Where the rows stand; by default in the order of their medians.
        output : int, str, or pair of these, default=0
            Output to draw; a pair for contours.
        kind : {"heat", "ridge", "contour"}, default="heat"
            See `plot`.
        x_label : str, default=None
            Name of the feature, with its unit.
        y_label : str, or pair of str, default=None
            Names of the outputs, with units; by default those of the data frame.
        ax : matplotlib Axes, default=None
            Where to draw; a new figure by default.

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
            y = table[:, density._positions(outputs)]
            y = y if is_pair else y[:, 0]
        if x is None and not is_pair:
            x = np.argsort(np.argsort(marginal.median()))
            x_label = x_label or "rows, in the order of their predicted medians"
        x = None if x is None else np.asarray(x, dtype=np.float64)
        display = cls(marginal, x=x, y=y, x_label=x_label, y_labels=y_labels)
        return display.plot(ax=ax, kind=kind if not is_pair else "contour")

    def plot(
        self, ax: Any = None, *, kind: str = "heat", cmap: str = "Blues"
    ) -> DensityDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; a new figure by default.
        kind : {"heat", "ridge", "contour"}, default="heat"
            "heat": each column is the density of one row over y, relative to its
            highest value, so that sure and unsure rows are equally visible.
            "ridge": the densities of at most 12 rows as curves of equal area.
            "contour": for two outputs, the highest-density regions that hold 20,
            50, 80 and 95 % of the pooled density of at most 12 rows.
        cmap : str, default="Blues"
            A colour map that runs from paper to ink.

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
        self.ax_ = _axes(ax)
        self.figure_ = self.ax_.figure
        self.artists_ = kinds[kind](self.ax_, cmap)
        return self

    def _heat(self, ax: Any, cmap: str) -> list[Any]:
        rows = self._rows(MAX_COLUMNS)
        grid = self._grid(self.density[rows])
        heights = self.density[rows].pdf(grid[:, None])
        peaks = np.maximum(heights.max(axis=0), np.finfo(np.float64).tiny)
        mesh = ax.pcolormesh(
            self.x[rows], grid, heights / peaks, cmap=cmap, vmin=0, rasterized=True
        )
        if self.y is not None:
            size = float(np.clip(60 / np.sqrt(len(self.y)), 1.5, 5))
            ax.plot(self.x, self.y, ".", color=DATA, markersize=size, alpha=0.7)
        ax.set(xlabel=self.x_label, ylabel=self.y_labels[0])
        colorbar = ax.figure.colorbar(mesh, ax=ax)
        colorbar.set_label("density / highest density at x")
        return [mesh]

    def _ridge(self, ax: Any, cmap: str) -> list[Any]:
        rows = self._rows(MAX_RIDGES)
        grid = self._grid(self.density[rows])
        heights = self.density[rows].pdf(grid[:, None])
        heights = 1.6 * heights / heights.max()
        curves = []
        for place in reversed(range(len(rows))):
            curve = place + heights[:, place]
            ax.fill_between(grid, place, curve, color=INK, alpha=0.35, linewidth=0)
            curves += ax.plot(grid, curve, color=INK, linewidth=1)
            if self.y is not None:
                ax.plot(
                    self.y[rows[place]], place, "|", color=DATA, markersize=9, mew=2
                )
        labels = [f"{value:.4g}" for value in self.x[rows]]
        ax.set_yticks(range(len(rows)), labels)
        ax.set(xlabel=self.y_labels[0], ylabel=self.x_label)
        return curves

    def _contour(self, ax: Any, cmap: str) -> list[Any]:
        rows = self._rows(MAX_RIDGES)
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
        lines = ax.contour(*axes, heights, levels, colors=INK, linewidths=0.8)
        names = [f"{100 * level:.0f} %" for level in CONTOUR_LEVELS]
        ax.clabel(lines, fmt=dict(zip(levels, names, strict=True)), fontsize=8)
        if self.y is not None:
            ax.plot(*self.y.T, ".", color=DATA, markersize=4, alpha=0.7)
        ax.set(xlabel=self.y_labels[0], ylabel=self.y_labels[1])
        return [filled, lines]

    def _rows(self, n_most: int) -> NDArray[np.intp]:
        """Rows that are drawn: distinct positions, thinned out evenly."""
        _, rows = np.unique(self.x, return_index=True)
        steps = np.linspace(0, len(rows) - 1, min(len(rows), n_most))
        return rows[steps.round().astype(int)]

    def _grid(self, density: MixtureDensity) -> NDArray[np.float64]:
        # A few rows of which little is known would flatten all the others.
        low = np.quantile(density.ppf(TAIL), FAR_ROWS)
        high = np.quantile(density.isf(TAIL), 1 - FAR_ROWS)
        if self.y is not None:
            low, high = min(low, self.y.min()), max(high, self.y.max())
        return np.linspace(low, high, N_LINES)


class _TrustDisplay:
    """A display of what happened against what was predicted."""

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: ArrayLike, y: ArrayLike, *, ax: Any = None
    ) -> Any:
        """Draw how rows that the estimator has not seen agree with its densities.

        Parameters
        ----------
        estimator : estimator
            Fitted; whatever `skmdn.predict_density` reaches.
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        ax : matplotlib Axes, default=None

        Returns
        -------
        display : the display
        """
        return cls.from_predictions(predict_density(estimator, X), y, ax=ax)

    @classmethod
    def from_predictions(
        cls, density: MixtureDensity, y: ArrayLike, *, ax: Any = None
    ) -> Any:
        raise NotImplementedError


class PITDisplay(_TrustDisplay):
    """Histogram of the probability integral transform; flat where all is well.

    A hump says that the densities are too wide, a valley that they are too narrow,
    a slope that they lie too low or too high.

    Parameters
    ----------
    u : ndarray of shape (n,) or (n, n_outputs)
        Transforms, from `skmdn.metrics.pit`.
    labels : sequence of str, default=None
        Names of the outputs.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    """

    def __init__(self, u: NDArray[np.float64], *, labels: Any = None) -> None:
        self.u = u
        self.labels = labels

    @classmethod
    def from_predictions(
        cls, density: MixtureDensity, y: ArrayLike, *, ax: Any = None
    ) -> PITDisplay:
        """Draw the transforms of what happened under what was predicted.

        Parameters
        ----------
        density : MixtureDensity
        y : array-like of shape (n,) or (n, n_outputs)
        ax : matplotlib Axes, default=None

        Returns
        -------
        display : PITDisplay
        """
        u = metrics.pit(y, density)
        return cls(u, labels=density.output_names).plot(ax=ax)

    def plot(self, ax: Any = None, *, n_bins: int = 20) -> PITDisplay:
        """Draw the histogram, with the band that 95 % of uniform bins stay in.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
        n_bins : int, default=20

        Returns
        -------
        self : PITDisplay
        """
        self.ax_ = _axes(ax)
        self.figure_ = self.ax_.figure
        columns = self.u.reshape(len(self.u), -1)
        labels = self.labels or [f"output {j}" for j in range(columns.shape[1])]
        spread = stats.binom(len(columns), 1 / n_bins).interval(0.95)
        low, high = (bound * n_bins / len(columns) for bound in spread)
        self.ax_.axhspan(low, high, color=BAND, alpha=0.25, linewidth=0)
        self.ax_.axhline(1, color=BAND, linewidth=1)
        for column, label in zip(columns.T, labels, strict=True):
            heights, edges = np.histogram(column, n_bins, (0, 1), density=True)
            self.ax_.stairs(heights, edges, linewidth=1.5, label=label)
        self.ax_.set(
            xlabel="probability integral transform",
            ylabel="share of rows / uniform share",
            xlim=(0, 1),
            ylim=(0, None),
        )
        if columns.shape[1] > 1:
            self.ax_.legend()
        return self


class CalibrationDisplay(_TrustDisplay):
    """Coverage of highest-density regions against their nominal probability.

    Below the diagonal the densities are too sure, above it not sure enough.

    Parameters
    ----------
    nominal : ndarray of shape (n_levels,)
        Probabilities of the regions.
    observed : ndarray of shape (n_levels,)
        Share of the rows in them.
    n_rows : int
        Rows, from which the band follows.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    line_ : matplotlib Line2D
    """

    def __init__(
        self,
        nominal: NDArray[np.float64],
        observed: NDArray[np.float64],
        *,
        n_rows: int,
    ) -> None:
        self.nominal = nominal
        self.observed = observed
        self.n_rows = n_rows

    @classmethod
    def from_predictions(
        cls, density: MixtureDensity, y: ArrayLike, *, ax: Any = None
    ) -> CalibrationDisplay:
        """Draw the coverage of what happened under what was predicted.

        Parameters
        ----------
        density : MixtureDensity
        y : array-like of shape (n,) or (n, n_outputs)
        ax : matplotlib Axes, default=None

        Returns
        -------
        display : CalibrationDisplay
        """
        nominal = np.linspace(0.05, 0.95, 19)
        observed = [metrics.coverage(y, density, level).mean() for level in nominal]
        return cls(nominal, np.array(observed), n_rows=len(density)).plot(ax=ax)

    def plot(self, ax: Any = None) -> CalibrationDisplay:
        """Draw the curve, and the band that a perfect one stays in 95 % of the time.

        Parameters
        ----------
        ax : matplotlib Axes, default=None

        Returns
        -------
        self : CalibrationDisplay
        """
        self.ax_ = _axes(ax)
        self.figure_ = self.ax_.figure
        ends = np.array([0.0, 1.0])
        levels = np.linspace(0, 1, 101)
        low, high = stats.binom(self.n_rows, levels).interval(0.95)
        self.ax_.fill_between(
            levels,
            low / self.n_rows,
            high / self.n_rows,
            color=BAND,
            alpha=0.25,
            linewidth=0,
        )
        self.ax_.plot(ends, ends, color=BAND, linewidth=1)
        (self.line_,) = self.ax_.plot(
            self.nominal, self.observed, "o-", color=INK, markersize=4
        )
        self.ax_.set(
            xlabel="probability of the region",
            ylabel="share of rows in the region",
            xlim=(0, 1),
            ylim=(0, 1),
            aspect="equal",
        )
        return self


class LossCurveDisplay:
    """Training loss and validation loss over the epochs.

    Parameters
    ----------
    training : ndarray of shape (n_iter,)
        Mean training loss of each epoch, in nats.
    validation : ndarray of shape (n_iter,), default=None
        Mean negative log-likelihood of the held-out rows, in nats.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    """

    def __init__(
        self,
        training: NDArray[np.float64],
        validation: NDArray[np.float64] | None = None,
    ) -> None:
        self.training = training
        self.validation = validation

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Any = None) -> LossCurveDisplay:
        """Draw the curves of a fitted `MDNRegressor`.

        Parameters
        ----------
        estimator : MDNRegressor
        ax : matplotlib Axes, default=None

        Returns
        -------
        display : LossCurveDisplay
        """
        scores = getattr(estimator, "validation_scores_", None)
        validation = None if scores is None else -scores
        return cls(estimator.loss_curve_, validation).plot(ax=ax)

    def plot(self, ax: Any = None) -> LossCurveDisplay:
        """Draw the curves, and mark the epoch whose weights are kept.

        Parameters
        ----------
        ax : matplotlib Axes, default=None

        Returns
        -------
        self : LossCurveDisplay
        """
        self.ax_ = _axes(ax)
        self.figure_ = self.ax_.figure
        epochs = np.arange(1, len(self.training) + 1)
        self.ax_.plot(epochs, self.training, color=BAND, label="training")
        if self.validation is not None:
            self.ax_.plot(epochs, self.validation, color=INK, label="validation")
            best = np.argmin(self.validation)
            self.ax_.plot(
                best + 1, self.validation[best], "o", color=DATA, label="weights kept"
            )
        self.ax_.set(xlabel="epoch", ylabel="negative log-likelihood (nats)")
        self.ax_.legend()
        return self
