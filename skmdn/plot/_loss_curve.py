"""Display of the loss of a fit."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from skmdn._composite import find_regressor
from skmdn.plot._axes import DATA_COLOR, MODEL_COLOR, REFERENCE_COLOR, get_axes


class LossCurveDisplay:
    """Training loss and validation loss of each epoch.

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

    Examples
    --------
    >>> import numpy as np
    >>> from matplotlib.figure import Figure
    >>> from skmdn.plot import LossCurveDisplay
    >>> training, validation = np.array([1.2, 0.8, 0.5]), np.array([1.0, 0.7, 0.9])
    >>> display = LossCurveDisplay(training, validation)
    >>> display.plot(Figure().subplots()).ax_.get_ylabel()
    'negative log-likelihood (nats)'
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
        """Draw the loss curves of a fit.

        Parameters
        ----------
        estimator : estimator
            Fitted; any that `skmdn.predict_density` accepts.
        ax : matplotlib Axes, default=None
            Axes to draw in; those of a new figure by default.

        Returns
        -------
        display : LossCurveDisplay
        """
        regressor, _ = find_regressor(estimator)
        scores = getattr(regressor, "validation_scores_", None)
        validation = None if scores is None else -scores
        return cls(regressor.loss_curve_, validation).plot(ax=ax)

    def plot(self, ax: Any = None) -> LossCurveDisplay:
        """Draw the curves, and mark the epoch whose weights were kept.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw in; those of a new figure by default.

        Returns
        -------
        self : LossCurveDisplay
        """
        self.ax_ = get_axes(ax)
        self.figure_ = self.ax_.figure
        epochs = np.arange(1, len(self.training) + 1)
        # A line through one point is invisible.
        marker = "o" if len(epochs) == 1 else None
        curves = {
            "training": (self.training, REFERENCE_COLOR),
            "validation": (self.validation, MODEL_COLOR),
        }
        for label, (losses, color) in curves.items():
            if losses is not None:
                self.ax_.plot(epochs, losses, color=color, marker=marker, label=label)
        if self.validation is not None:
            best = np.argmin(self.validation)
            self.ax_.plot(
                best + 1,
                self.validation[best],
                "o",
                color=DATA_COLOR,
                label="weights kept",
            )
        self.ax_.set(xlabel="epoch", ylabel="negative log-likelihood (nats)")
        self.ax_.legend()
        return self
