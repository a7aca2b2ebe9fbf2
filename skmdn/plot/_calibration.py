"""Displays of the calibration of predicted densities."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from skmdn.density import ConditionalDensity
from skmdn.density.recorded import RecordedDensity
from skmdn.density.rowwise import as_observations, check_density
from skmdn.metrics import coverage, pit, predict_density
from skmdn.plot._arguments import output_labels
from skmdn.plot._axes import LINE_STYLES, PALETTE, REFERENCE_COLOR, get_axes

# Probability of the bands within which a calibrated density stays.
BAND = 0.95


class _ObservationDisplay(ABC):
    """A display that compares observations with predicted densities."""

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: ArrayLike, y: ArrayLike, *, ax: Any = None
    ) -> Self:
        """Predict the densities of rows that were not used in the fit, and draw.

        Parameters
        ----------
        estimator : estimator
            Fitted; any that `skmdn.predict_density` accepts.
        X : array-like of shape (n_samples, n_features)
            Features of the rows.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Observed values.
        ax : matplotlib Axes, default=None
            Axes to draw in; those of a new figure by default.

        Returns
        -------
        display : display of this class
        """
        return cls.from_predictions(predict_density(estimator, X), y, ax=ax)

    @classmethod
    @abstractmethod
    def from_predictions(
        cls,
        density: ConditionalDensity | RecordedDensity,
        y: ArrayLike,
        *,
        ax: Any = None,
    ) -> Self:
        """Draw the display of predicted densities and observed values."""


class PITDisplay(_ObservationDisplay):
    """Histogram of the probability integral transform.

    It is flat if the densities are calibrated. A hump shows densities that are too
    wide, a valley densities that are too narrow, and a slope a bias.

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

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> import numpy as np
    >>> from skmdn.datasets import make_two_moons
    >>> from skmdn.plot import PITDisplay
    >>> _, y, density = make_two_moons(200, random_state=0, return_density=True)
    >>> display = PITDisplay.from_predictions(density, y, ax=Figure().subplots())
    >>> np.quantile(display.u, [0.1, 0.5, 0.9]).round(1)
    array([0.1, 0.5, 0.9])
    """

    def __init__(
        self, u: NDArray[np.float64], *, labels: Sequence[str] | None = None
    ) -> None:
        self.u = u
        self.labels = labels

    @classmethod
    def from_predictions(
        cls,
        density: ConditionalDensity | RecordedDensity,
        y: ArrayLike,
        *,
        ax: Any = None,
    ) -> Self:
        """Draw the transforms of observed values under predicted densities.

        Parameters
        ----------
        density : ConditionalDensity or RecordedDensity
            Predicted densities.
        y : array-like of shape (n,) or (n, n_outputs)
            Observed values.
        ax : matplotlib Axes, default=None
            Axes to draw in; those of a new figure by default.

        Returns
        -------
        display : PITDisplay
        """
        check_density(density, "from_predictions(density, y)")
        return cls(pit(y, density), labels=density.output_names).plot(ax=ax)

    def plot(self, ax: Any = None, *, n_bins: int = 20) -> Self:
        """Draw the histogram, and the 95 % band of a bin if u is uniform.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw in; those of a new figure by default.
        n_bins : int, default=20
            Number of bins.

        Returns
        -------
        self : PITDisplay
        """
        self.ax_ = get_axes(ax)
        self.figure_ = self.ax_.figure
        columns = self.u.reshape(len(self.u), -1)
        labels = self.labels or [f"output {j}" for j in range(columns.shape[1])]
        styles = line_styles(columns.shape[1])
        spread = stats.binom(len(columns), 1 / n_bins).interval(BAND)
        low, high = (bound * n_bins / len(columns) for bound in spread)
        self.ax_.axhspan(low, high, color=REFERENCE_COLOR, alpha=0.25, linewidth=0)
        self.ax_.axhline(1, color=REFERENCE_COLOR, linewidth=1)
        for column, label, style in zip(columns.T, labels, styles, strict=True):
            heights, edges = np.histogram(column, n_bins, (0, 1), density=True)
            self.ax_.stairs(heights, edges, linewidth=1.5, label=label, **style)
        self.ax_.set(
            xlabel="probability integral transform",
            ylabel="share of rows / uniform share",
            xlim=(0, 1),
            ylim=(0, None),
        )
        if columns.shape[1] > 1:
            self.ax_.legend(fontsize="small")
        return self


class CalibrationDisplay(_ObservationDisplay):
    """Coverage of highest-density regions against their nominal probability.

    Of several outputs there is one line for each, and one for the joint density. For a
    RecordedDensity the regions are central intervals, see
    `skmdn.metrics.coverage`. Below the diagonal the densities are overconfident, above
    it underconfident.

    Parameters
    ----------
    nominal : ndarray of shape (n_levels,)
        Probabilities of the regions.
    observed : ndarray of shape (n_levels,) or (n_levels, n_lines)
        Share of the rows in each region.
    n_rows : int
        Number of rows; it determines the width of the band.
    labels : sequence of str, default=None
        Names of the lines.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    line_ : matplotlib Line2D
        The last line; of several outputs that of the joint density.
    lines_ : list of matplotlib Line2D

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from skmdn.datasets import make_two_moons
    >>> from skmdn.plot import CalibrationDisplay
    >>> _, y, density = make_two_moons(200, random_state=0, return_density=True)
    >>> display = CalibrationDisplay.from_predictions(
    ...     density, y, ax=Figure().subplots()
    ... )
    >>> display.nominal[[0, -1]]
    array([0.05, 0.95])
    """

    def __init__(
        self,
        nominal: NDArray[np.float64],
        observed: NDArray[np.float64],
        *,
        n_rows: int,
        labels: Sequence[str] | None = None,
    ) -> None:
        self.nominal = nominal
        self.observed = observed
        self.n_rows = n_rows
        self.labels = labels

    @classmethod
    def from_predictions(
        cls,
        density: ConditionalDensity | RecordedDensity,
        y: ArrayLike,
        *,
        ax: Any = None,
    ) -> Self:
        """Draw the coverage of observed values by predicted densities.

        Parameters
        ----------
        density : ConditionalDensity or RecordedDensity
            Predicted densities.
        y : array-like of shape (n,) or (n, n_outputs)
            Observed values.
        ax : matplotlib Axes, default=None
            Axes to draw in; those of a new figure by default.

        Returns
        -------
        display : CalibrationDisplay
        """
        check_density(density, "from_predictions(density, y)")
        nominal = np.linspace(0.05, 0.95, 19)
        joint = coverage(y, density, nominal)
        n_rows = joint.shape[1]
        if isinstance(density, RecordedDensity) or density.n_outputs == 1:
            return cls(nominal, joint.mean(axis=1), n_rows=n_rows).plot(ax=ax)
        parts = [
            coverage(column, density.marginal(output), nominal)
            for output, column in enumerate(as_observations(y, density).numpy().T)
        ]
        observed = np.transpose([part.mean(axis=1) for part in [*parts, joint]])
        labels = [*output_labels(density, range(density.n_outputs)), "joint"]
        return cls(nominal, observed, n_rows=n_rows, labels=labels).plot(ax=ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw the lines, and the 95 % band of a calibrated density.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw in; those of a new figure by default.

        Returns
        -------
        self : CalibrationDisplay
        """
        self.ax_ = get_axes(ax)
        self.figure_ = self.ax_.figure
        ends = np.array([0.0, 1.0])
        levels = np.linspace(0, 1, 101)
        low, high = stats.binom(self.n_rows, levels).interval(BAND)
        self.ax_.fill_between(
            levels,
            low / self.n_rows,
            high / self.n_rows,
            color=REFERENCE_COLOR,
            alpha=0.25,
            linewidth=0,
        )
        self.ax_.plot(ends, ends, color=REFERENCE_COLOR, linewidth=1)
        columns = np.reshape(self.observed, (len(self.nominal), -1)).T
        labels = self.labels or [""] * len(columns)
        styles = line_styles(len(columns))
        self.lines_ = []
        for column, label, style in zip(columns, labels, styles, strict=True):
            dots = {"marker": "o", "markersize": 4, "label": label}
            self.lines_ += self.ax_.plot(self.nominal, column, **dots, **style)
        self.line_ = self.lines_[-1]
        self.ax_.set(
            xlabel="probability of the region",
            ylabel="share of rows in the region",
            xlim=(0, 1),
            ylim=(0, 1),
            aspect="equal",
        )
        if len(columns) > 1:
            self.ax_.legend(fontsize="small")
        return self


def line_styles(n: int) -> list[dict[str, str]]:
    """Return colours and line styles that tell n lines from each other."""
    return [
        {
            "color": PALETTE[j % len(PALETTE)],
            "linestyle": LINE_STYLES[j // len(PALETTE) % len(LINE_STYLES)],
        }
        for j in range(n)
    ]
