"""Ranges and grids that show densities of very different widths and places."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from skmdn import _mixture
from skmdn.density.transformed import Density
from skmdn.plot._axes import Count, Floats, Limits
from skmdn.plot._scale import LINEAR, Scale

Rows = NDArray[np.intp]

# Rows of which the densities are averaged.
MAX_ROWS = 2000
# Levels of the quantiles that show where a density lies; the outermost are the limits.
QUANTILES = np.array([[0.001], [0.025], [0.25], [0.5], [0.75], [0.975], [0.999]])
MEDIAN = 3
# Greatest length of a tail beyond the central 95 %, in lengths of these.
TAIL = 1.0
OUTSIDE = "points lie outside the axes"

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


def members_of(groups: Sequence[Rows]) -> list[Rows]:
    """Return the rows of each group whose densities are averaged, evenly spaced."""
    n_most = max(1, MAX_ROWS // len(groups))
    return [rows[thin(len(rows), n_most)] for rows in groups]


def pool(density: Density) -> Density:
    """Return the mean density of the rows, as a density of one row."""
    if len(density) == 1:
        return density
    rows = [density[row] for row in range(len(density))]
    return type(density).mix(rows)  # type: ignore[arg-type]


def find_limits(
    density: Density,
    quantiles: Floats,
    members: Sequence[Rows],
    y: Floats | None,
    scale: Scale = LINEAR,
) -> Limits:
    """Return the limits of an axis of y, mapped by the scale.

    A few of the groups, and of the densities of a group, do not determine them. They
    lie inside the support.

    Parameters
    ----------
    density : MixtureDensity or TransformedDensity
        Density of a scalar; its support matters.
    quantiles : ndarray of shape (n_levels, n)
        Quantiles of the densities, at the levels `QUANTILES`.
    members : sequence of ndarray
        The rows of each group, which follow each other in `quantiles`.
    y : ndarray of shape (m,) or None
        Observed values.
    scale : Scale
    """
    ends = np.cumsum(list(map(len, members)))[:-1]
    mapped = shown_range(quantiles, scale)
    groups = np.split(mapped, ends, axis=1)
    ranges = np.array([usual_range(*group) for group in groups])
    middles = np.array([np.median(middle) for _, middle, _ in groups])
    low, high = usual_range(ranges[:, 0], middles, ranges[:, 1])
    if y is not None:
        low, high = extend(low, high, scale.forward(y))
    first, last = support_ends(density, scale)
    return max(low, first), min(high, last)


def shown_range(quantiles: Floats, scale: Scale = LINEAR) -> Floats:
    """Return where densities begin, have their median and end, (3, n) mapped.

    These are the outermost of the quantiles (n_levels, n), at the levels `QUANTILES`,
    but a heavy tail is cut: else it would squeeze all that is likely.
    """
    mapped = scale.forward(quantiles)
    reach = TAIL * (mapped[-2] - mapped[1])
    low = np.maximum(mapped[0], mapped[1] - reach)
    high = np.minimum(mapped[-1], mapped[-2] + reach)
    return np.stack([low, mapped[MEDIAN], high])


def support_ends(density: Density, scale: Scale) -> Limits:
    """Return the ends of the support of a scalar density, mapped by the scale."""
    first, last = density.supports[0].ends
    first = max(first, 0.0) if scale.is_log else first
    return float(scale.forward(first)), float(scale.forward(last))


def count_cut(quantiles: Floats, limits: Limits) -> Count:
    """Count the densities whose outermost quantiles exceed the limits of y."""
    is_cut = (quantiles[0] < limits[0]) | (quantiles[-1] > limits[1])
    return int(is_cut.sum()), len(is_cut), "densities extend beyond the axis"


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
    density: Density,
    limits: Limits,
    n_cells: int,
    quantiles: Floats,
    sizes: Sequence[int],
    scale: Scale = LINEAR,
) -> tuple[Floats, Floats]:
    """Return cells of y, and their mean densities relative to each column's highest.

    The mean over a cell, a difference of the cdf, does not lose what is thinner than
    the cell. On a logarithmic axis the density is that of the logarithm.

    Parameters
    ----------
    density : MixtureDensity or TransformedDensity
        Density of a scalar, n rows.
    limits : pair of float
        Limits of the axis, mapped by the scale.
    n_cells : int
        Number of cells, evenly spaced on the axis.
    quantiles : ndarray of shape (n_levels, n)
        Places where the highest cell of a row can lie if it lies beyond the edges.
    sizes : sequence of int
        Number of neighbouring rows that one column averages.
    scale : Scale

    Returns
    -------
    edges : ndarray of shape (n_cells + 1,)
        In the unit of y.
    heights : ndarray of shape (n_cells, n_columns)
    """
    edges = np.linspace(*limits, n_cells + 1)
    half = (edges[1] - edges[0]) / 2
    starts = np.cumsum([0, *sizes[:-1]])
    cells = np.diff(density.cdf(scale.inverse(edges)[:, None]), axis=0)
    heights = np.add.reduceat(cells, starts, axis=1)
    centers = scale.forward(quantiles)
    above, below = scale.inverse(centers + half), scale.inverse(centers - half)
    around = density.cdf(above) - density.cdf(below)
    elsewhere = np.maximum.reduceat(around.max(axis=0), starts)
    peaks = np.maximum(heights.max(axis=0), elsewhere)
    return scale.inverse(edges), heights / np.maximum(peaks, np.finfo(np.float64).tiny)


def trace(
    density: Density, limits: Limits, scale: Scale = LINEAR
) -> tuple[Floats, Floats]:
    """Return points y and heights, each (m,), of the mean density of the rows.

    The points include the peaks of components that a regular grid could miss, and
    cells are halved until their chords follow the curve. On a logarithmic axis the
    density is that of the logarithm. The limits are mapped by the scale.
    """

    def height(u: Floats) -> Floats:
        mean: Floats = density.pdf(scale.inverse(u)[:, None]).mean(axis=1)
        return mean * scale.slope(u)

    low, high = limits
    u = np.linspace(low, high, N_POINTS)
    spikes = _narrow_peaks(density, u[1] - u[0], scale)
    u = np.unique(np.concatenate([u, spikes[(spikes > low) & (spikes < high)]]))
    heights = height(u)
    is_coarse = np.ones(len(u) - 1, dtype=bool)
    for _ in range(MAX_HALVINGS):
        left = np.flatnonzero(is_coarse)
        middles = (u[left] + u[left + 1]) / 2
        added = height(middles)
        chords = (heights[left] + heights[left + 1]) / 2
        bends = np.zeros_like(is_coarse)
        bends[left] = np.abs(added - chords) > CURVE_TOLERANCE * heights.max()
        u = np.insert(u, left + 1, middles)
        heights = np.insert(heights, left + 1, added)
        is_coarse = np.repeat(bends, 1 + is_coarse)
        if not bends.any():
            break
    return scale.inverse(u), heights


def _narrow_peaks(density: Density, width: float, scale: Scale) -> Floats:
    """Return the mapped peaks (m,) of all components narrower than a width."""
    support = density.supports[0]
    mixture = _mixture.as_function_of_latent(density.mixture, density.supports.bounds)
    log_weights, means, factors = mixture
    factors = factors[..., 0, 0] / support.log_slope(means[..., 0]).exp()
    peaks = support.from_latent(means[..., 0]).numpy()
    is_positive = peaks > (0.0 if scale.is_log else -np.inf)
    mapped = scale.forward(np.where(is_positive, peaks, 1.0))
    is_narrow = factors.numpy() * width * scale.slope(mapped) > 1
    is_narrow &= is_positive & (log_weights > -np.inf).numpy()
    narrow: Floats = mapped[is_narrow]
    return narrow
