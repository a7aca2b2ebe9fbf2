"""Scores of densities of values that were recorded to a step, and simple densities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from _tables import Array

# Least probability of a cell, so that one surprise does not decide a mean.
FLOOR = 1e-300
LEVEL = 0.9
N_LEVELS = 256  # nodes of the quadrature over quantile levels


class Density(Protocol):
    """Distributions of n rows; arguments have the shape (n,), (m, 1) or (m, n)."""

    def cdf(self, y: Array, /) -> Array: ...

    def sf(self, y: Array, /) -> Array: ...

    def ppf(self, q: Array, /) -> Array: ...

    def mean(self) -> Array: ...


@dataclass(frozen=True)
class ZeroAdjusted:
    """Distributions with a mass `gate` (n,) at zero, and `positive` ones otherwise."""

    gate: Array
    positive: Any

    def cdf(self, y: Array) -> Array:
        return np.where(y < 0, 0.0, 1 - self.sf(y))

    def sf(self, y: Array) -> Array:
        return np.where(y < 0, 1.0, (1 - self.gate) * self.positive.sf(y))

    def ppf(self, q: Array) -> Array:
        inner = (q - self.gate) / np.maximum(1 - self.gate, np.finfo(float).tiny)
        return np.where(q <= self.gate, 0.0, self.positive.ppf(np.clip(inner, 0, 1)))

    def mean(self) -> Array:
        return np.asarray((1 - self.gate) * self.positive.mean())


@dataclass(frozen=True)
class Discrete:
    """Distributions on the increasing `values` (k,) with probabilities (n, k)."""

    values: Array
    probabilities: Array

    def cdf(self, y: Array) -> Array:
        sums = np.cumsum(self.probabilities, axis=1)
        sums = np.hstack([np.zeros((len(sums), 1)), np.minimum(sums, 1.0)])
        return sums[np.arange(len(sums)), np.searchsorted(self.values, y, "right")]

    def sf(self, y: Array) -> Array:
        return 1 - self.cdf(y)

    def ppf(self, q: Array) -> Array:
        sums = np.cumsum(self.probabilities, axis=1)
        last = len(self.values) - 1
        places = [np.searchsorted(row, q[:, 0]) for row in sums]
        return self.values[np.minimum(np.array(places).T, last)]

    def mean(self) -> Array:
        return np.asarray(self.probabilities @ self.values)


@dataclass(frozen=True)
class FromQuantiles:
    """Distributions between quantiles (n, k) at levels (k,), and exponential beyond.

    The density is constant between neighbouring quantiles; the tails continue that of
    the outermost interval.
    """

    levels: Array
    quantiles: Array

    @classmethod
    def of(cls, levels: Array, quantiles: Array) -> FromQuantiles:
        """Sort quantiles that cross, and part equal ones by 1e-6 of the range."""
        quantiles = np.sort(quantiles, axis=1)
        least = 1e-6 * max(float(np.ptp(quantiles)), 1e-6)
        return cls(levels, quantiles + least * np.arange(len(levels)))

    @property
    def tails(self) -> tuple[Array, Array]:
        """Means of the lower and the upper exponential, two of (n,)."""
        widths, masses = np.diff(self.quantiles, axis=1), np.diff(self.levels)
        lower = self.levels[0] * widths[:, 0] / masses[0]
        return lower, (1 - self.levels[-1]) * widths[:, -1] / masses[-1]

    def cdf(self, y: Array) -> Array:
        lower, _ = self.tails
        inside = np.array(
            [
                np.interp(v, q, self.levels)
                for v, q in zip(y, self.quantiles, strict=True)
            ]
        )
        below = self.levels[0] * np.exp(np.minimum(y - self.quantiles[:, 0], 0) / lower)
        inside = np.where(y < self.quantiles[:, 0], below, inside)
        return np.where(y > self.quantiles[:, -1], 1 - self.sf_above(y), inside)

    def sf_above(self, y: Array) -> Array:
        """Return P(Y > y) for y above the last quantile."""
        _, upper = self.tails
        distance = np.maximum(y - self.quantiles[:, -1], 0)
        return np.asarray((1 - self.levels[-1]) * np.exp(-distance / upper))

    def sf(self, y: Array) -> Array:
        is_above = y > self.quantiles[:, -1]
        return np.where(is_above, self.sf_above(y), 1 - self.cdf(y))

    def ppf(self, q: Array) -> Array:
        lower, upper = self.tails
        level = q[:, 0]
        inside = np.array(
            [np.interp(level, self.levels, row) for row in self.quantiles]
        )
        low, high = self.levels[0], self.levels[-1]
        below = self.quantiles[:, :1] + lower[:, None] * np.log(
            np.minimum(level / low, 1)
        )
        above = self.quantiles[:, -1:] - upper[:, None] * np.log(
            np.minimum((1 - level) / (1 - high), 1)
        )
        inside = np.where(level < low, below, inside)
        return np.where(level > high, above, inside).T

    def mean(self) -> Array:
        lower, upper = self.tails
        masses = np.diff(self.levels)
        middles = (self.quantiles[:, 1:] + self.quantiles[:, :-1]) / 2
        first, last = self.quantiles[:, 0] - lower, self.quantiles[:, -1] + upper
        ends = self.levels[0] * first + (1 - self.levels[-1]) * last
        return np.asarray(middles @ masses + ends)


def cell_ends(y: Array, step: float, low: float) -> tuple[Array, Array]:
    """Return the ends of the cells of recorded values, cut at the bound `low`."""
    return np.maximum(y - step / 2, low), y + step / 2


def cell_probability(density: Density, y: Array, step: float, low: float) -> Array:
    """Return the probability of the cell of each value, accurate in both tails.

    A mass at the bound belongs to the cell that touches it.
    """
    below, above = cell_ends(y, step, low)
    at_bound = below <= low
    from_below = np.where(at_bound, 0.0, density.cdf(below))
    from_above = np.where(at_bound, 1.0, density.sf(below)) - density.sf(above)
    return np.where(from_below > 0.5, from_above, density.cdf(above) - from_below)


def recorded_crps(density: Density, y: Array, step: float, origin: float) -> Array:
    """Return the CRPS of the recorded value, in the unit of y.

    It is 2 int_0^1 (1{y <= Q(q)} - q) (Q(q) - y) dq, where Q are the quantiles, rounded
    to the grid of `step` that contains `origin`; by Gauss-Legendre nodes, which are
    dense at both ends.
    """
    nodes, weights = np.polynomial.legendre.leggauss(N_LEVELS)
    levels = (nodes[:, None] + 1) / 2
    quantiles = origin + step * np.round((density.ppf(levels) - origin) / step)
    loss = ((y <= quantiles) - levels) * (quantiles - y)
    return np.asarray(weights @ loss)


def cell_coverage(density: Density, y: Array, step: float, low: float) -> Array:
    """Return the share of the probability of each cell in the central interval."""
    below, above = cell_ends(y, step, low)
    ends = np.where(below <= low, 0.0, density.cdf(below)), density.cdf(above)
    tail = (1 - LEVEL) / 2
    inside = np.clip(ends[1], tail, 1 - tail) - np.clip(ends[0], tail, 1 - tail)
    mass = ends[1] - ends[0]
    middle = (ends[0] > tail) & (ends[0] < 1 - tail)
    return np.divide(inside, mass, out=middle.astype(float), where=mass > 0)


def recorded_scores(
    density: Density,
    y: Array,
    step: float,
    *,
    low: float = -np.inf,
    origin: float = 0.0,
    floor: float = FLOOR,
) -> dict[str, float]:
    """Return the mean scores of recorded values y (n,).

    log_lik is that of the recorded value over the step, in nats; log_cell that of the
    cell, without the step. zeros and zeros_seen are the predicted and the observed
    share of values recorded as zero, negative is P(y < 0) before rounding. The mean of
    log-normal densities can be infinite, and rmse then is, too.
    """
    probability = cell_probability(density, y, step, low)
    log_cell = np.log(np.maximum(probability, floor)).mean()
    zeros = cell_probability(density, np.zeros_like(y), step, low)
    return {
        "log_lik": float(log_cell - np.log(step)),
        "log_cell": float(log_cell),
        "crps": float(recorded_crps(density, y, step, origin).mean()),
        "zeros": float(zeros.mean()),
        "zeros_seen": float((np.abs(y) < step / 2).mean()),
        "negative": float(density.cdf(np.full_like(y, np.nextafter(0, -1))).mean()),
        "rmse": float(np.sqrt(((density.mean() - y) ** 2).mean())),
        "coverage": float(cell_coverage(density, y, step, low).mean()),
    }
