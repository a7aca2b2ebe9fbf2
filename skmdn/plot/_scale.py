"""Linear and logarithmic axes of y."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from skmdn.plot._axes import Floats

# Decades of an axis that has labels at 1, 2 and 5, and at powers of ten only.
FEW_DECADES, MANY_DECADES = 1.5, 4.0


@dataclass(frozen=True)
class Scale:
    """The map u = f(y) after which an axis is evenly divided.

    Parameters
    ----------
    is_log : bool
        Whether u is the decimal logarithm of y, else y itself.
    """

    is_log: bool

    @property
    def name(self) -> str:
        """Name of the scale in matplotlib."""
        return "log" if self.is_log else "linear"

    def forward(self, y: ArrayLike) -> Floats:
        """Map y to u; on a logarithmic axis 0 becomes -inf, and less NaN."""
        y = np.asarray(y, dtype=np.float64)
        if not self.is_log:
            return y
        with np.errstate(divide="ignore", invalid="ignore"):
            u: Floats = np.log10(y)
        return u

    def inverse(self, u: ArrayLike) -> Floats:
        """Map u to y."""
        u = np.asarray(u, dtype=np.float64)
        y: Floats = np.power(10.0, u) if self.is_log else u
        return y

    def slope(self, u: ArrayLike) -> Floats:
        """Return dy/du: a density of y times it is the density of u."""
        u = np.asarray(u, dtype=np.float64)
        return np.log(10) * self.inverse(u) if self.is_log else np.ones_like(u)

    def quantiles(self, density: Any, levels: Floats) -> Floats:
        """Return quantiles of a scalar density, given y > 0 if the axis is logarithmic.

        `levels` (n_levels, 1) broadcast against the rows as in `ppf`.
        """
        if not self.is_log:
            quantiles: Floats = density.ppf(levels)
            return quantiles
        below = density.cdf(0.0)
        if not (below < 1).all():
            raise ValueError(
                f"log=True needs densities of positive y; that of row "
                f"{int(np.argmax(below))} has no probability above zero."
            )
        quantiles = density.ppf(below + levels * (1 - below))
        return np.maximum(quantiles, np.finfo(np.float64).tiny)


LINEAR, LOG = Scale(is_log=False), Scale(is_log=True)


def choose_scale(log: bool | None, shown: str, y: Floats | None = None) -> Scale:
    """Return the scale that `log` asks for; None follows the scale shown by an axis.

    Raises
    ------
    ValueError
        If the axis is logarithmic and an observed value is not positive.
    """
    scale = LOG if (shown == "log" if log is None else log) else LINEAR
    if scale.is_log and y is not None and not (y > 0).all():
        raise ValueError(
            f"log=True draws positive values only, got y with the minimum {y.min():g}."
        )
    return scale


def set_log_ticks(axis: Any) -> None:
    """Label a logarithmic axis of matplotlib with plain numbers that do not overlap."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = np.log10(axis.get_view_interval())
    if high - low > MANY_DECADES:
        return
    digits = (1.0, 2.0, 5.0) if high - low < FEW_DECADES else (1.0, 3.0)
    axis.set_major_locator(LogLocator(subs=digits, numticks=20))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
