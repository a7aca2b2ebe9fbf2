"""Ranges and grids that show densities of very different widths and places."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from skmdn import _mixture
from skmdn.density.transformed import Density
from skmdn.plot._axes import Floats, Limits

# Share of the rows whose ends may exceed the range, at each end.
FAR_ROWS = 0.05
# Share of the rows that may be wider, or higher, than `OUTLYING` times the others.
ODD_ROWS, OUTLYING = 0.1, 5.0
# Points of a curve before it is refined.
N_POINTS = 301
# Greatest difference of a curve from its chords, relative to its height.
CURVE_TOLERANCE = 0.002
# Times that a cell of a grid may be halved.
MAX_HALVINGS = 40


def thin(n: int, n_most: int) -> NDArray[np.intp]:
    """Return at most n_most of the positions 0, ..., n - 1, evenly spaced."""
    return np.linspace(0, n - 1, min(n, n_most)).round().astype(np.intp)


def usual_range(low: Floats, middle: Floats, high: Floats) -> Limits:
    """Return the range of intervals (n,), without the few that are far or wide.

    An interval is wide if its half exceeds `OUTLYING` times most others and half the
    range of the middles. A range of zero width is widened by some float64 steps.
    """
    half = np.maximum(high - middle, middle - low)
    most = np.quantile(half, 1 - ODD_ROWS, method="lower")
    first, last = _inner_range(middle, middle)
    is_usual = half <= max(OUTLYING * most, (last - first) / 2)
    low, high = low[is_usual], high[is_usual]
    first, last = _inner_range(low, high)
    bottom = low[low >= 2 * first - last].min()
    top = high[high <= 2 * last - first].max()
    margin = 100 * np.spacing(max(abs(bottom), abs(top)))
    return float(bottom - margin), float(top + margin)


def _inner_range(low: Floats, high: Floats) -> Limits:
    """Return the range of intervals (n,) but the outermost, `FAR_ROWS` at each end."""
    return (
        float(np.quantile(low, FAR_ROWS, method="lower")),
        float(np.quantile(high, 1 - FAR_ROWS, method="higher")),
    )


def usual_peak(peaks: Floats) -> float:
    """Return the highest peak, without the few that are much higher than the others."""
    most = np.quantile(peaks[peaks > 0], 1 - ODD_ROWS, method="lower")
    return float(peaks[peaks <= OUTLYING * most].max())


def extend(low: float, high: float, points: Floats) -> Limits:
    """Extend a range to the points that are not farther from it than its length."""
    length = high - low
    near = points[(points >= low - length) & (points <= high + length)]
    if near.size:
        low = min(low, near.min() - 0.02 * length)
        high = max(high, near.max() + 0.02 * length)
    return float(low), float(high)


def cell_edges(x: Floats) -> Floats:
    """Return the edges (n + 1,) of cells around rising positions (n,), n > 1."""
    middles = (x[1:] + x[:-1]) / 2
    first, last = 2 * x[[0, -1]] - middles[[0, -1]]
    return np.concatenate([[first], middles, [last]])


def column_heights(
    density: Density, edges: Floats, quantiles: Floats, sizes: Sequence[int]
) -> Floats:
    """Return mean densities of the cells of columns, relative to each column's highest.

    The mean over a cell, a difference of the cdf, does not lose what is thinner than
    the cell.

    Parameters
    ----------
    density : MixtureDensity or TransformedDensity
        Density of a scalar, n rows.
    edges : ndarray of shape (n_cells + 1,)
        Edges of the cells, evenly spaced.
    quantiles : ndarray of shape (n_levels, n)
        Places where the highest cell of a row can lie if it lies beyond the edges.
    sizes : sequence of int
        Number of neighbouring rows that one column averages.

    Returns
    -------
    heights : ndarray of shape (n_cells, n_columns)
    """
    starts = np.cumsum([0, *sizes[:-1]])
    cells = np.diff(density.cdf(edges[:, None]), axis=0)
    heights = np.add.reduceat(cells, starts, axis=1)
    half = (edges[1] - edges[0]) / 2
    around = density.cdf(quantiles + half) - density.cdf(quantiles - half)
    elsewhere = np.maximum.reduceat(around.max(axis=0), starts)
    peaks = np.maximum(heights.max(axis=0), elsewhere)
    relative: Floats = heights / np.maximum(peaks, np.finfo(np.float64).tiny)
    return relative


def trace(density: Density, low: float, high: float) -> tuple[Floats, Floats]:
    """Return points y and heights, each (m,), of the mean density of the rows.

    The points include the peaks of components that a regular grid could miss, and
    cells are halved until their chords follow the curve.
    """

    def height(y: Floats) -> Floats:
        mean: Floats = density.pdf(y[:, None]).mean(axis=1)
        return mean

    y = np.linspace(low, high, N_POINTS)
    spikes = _narrow_peaks(density, y[1] - y[0])
    y = np.unique(np.concatenate([y, spikes[(spikes > low) & (spikes < high)]]))
    heights = height(y)
    is_coarse = np.ones(len(y) - 1, dtype=bool)
    for _ in range(MAX_HALVINGS):
        left = np.flatnonzero(is_coarse)
        middles = (y[left] + y[left + 1]) / 2
        added = height(middles)
        chords = (heights[left] + heights[left + 1]) / 2
        bends = np.zeros_like(is_coarse)
        bends[left] = np.abs(added - chords) > CURVE_TOLERANCE * heights.max()
        y = np.insert(y, left + 1, middles)
        heights = np.insert(heights, left + 1, added)
        is_coarse = np.repeat(bends, 1 + is_coarse)
        if not bends.any():
            break
    return y, heights


def _narrow_peaks(density: Density, width: float) -> Floats:
    """Return the peaks (m,) of all components with smaller standard deviations."""
    support = density.supports[0]
    mixture = _mixture.as_function_of_latent(density.mixture, density.supports.bounds)
    log_weights, means, factors = mixture
    factors = factors[..., 0, 0] / support.log_slope(means[..., 0]).exp()
    is_narrow = (factors * width > 1) & (log_weights > -np.inf)
    peaks: Floats = support.from_latent(means[..., 0][is_narrow]).numpy()
    return peaks
