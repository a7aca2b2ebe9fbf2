"""Robust location and spread of columns, from weighted quantiles.

They are exact up to `MAX_ROWS` rows of all ranks, and beyond those of about so many
rows, evenly spread over the ones given; all ranks compute the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import ndtri

from skmdn.distributed import ALONE, Ranks

# The standard error of a quartile of so many rows is below 1 % of a spread.
MAX_ROWS = 50_000
# Levels of the lower quantiles of a pair: the first pair are the quartiles.
LEVELS = np.array([0.25, 0.1, 0.05, 0.025, 0.01])
ALL_LEVELS = np.concatenate([[0.5], LEVELS, 1 - LEVELS])
# Distance of each pair of quantiles of a standard normal distribution.
NORMAL_DISTANCES = -2 * ndtri(LEVELS)
# Relative to the total weight: sums of weights differ by their order.
WEIGHT_ROUNDING = 1e-9
# Targets further from their median than this many spreads count as if they lay there.
Y_LIMIT = 10.0


class Spreads(NamedTuple):
    """Median of each column (p,), and its spread from each pair of quantiles, (p, L).

    A spread is the distance of two quantiles over that of a standard normal
    distribution, and zero where the two are equal up to rounding.
    """

    median: NDArray[np.float64]
    spreads: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        X: Any,
        weight: NDArray[np.float64],
        index: NDArray[np.intp],
        ranks: Ranks = ALONE,
        max_rows: float = MAX_ROWS,
    ) -> Spreads:
        """Compute them for the rows of an index of X, dense or CSR.

        Weights belong to the rows of the index.
        """
        columns = sampled_columns(X, weight, index, ranks, max_rows)
        quantiles = np.array([weighted_quantiles(*c, ALL_LEVELS) for c in columns])
        median, lower, upper = np.split(quantiles, [1, 1 + len(LEVELS)], axis=1)
        with np.errstate(over="ignore"):  # such columns are refused later
            spreads = (upper - lower) / NORMAL_DISTANCES
        size = np.abs(quantiles).max(axis=1, keepdims=True)
        is_nothing = spreads <= 10 * np.finfo(np.float64).eps * size
        return cls(median[:, 0], np.where(is_nothing, 0.0, spreads))

    def narrowest(self) -> NDArray[np.float64]:
        """Return the spread of the innermost pair that differs, zero if none, (p,)."""
        first = (self.spreads > 0).argmax(axis=1)
        return np.take_along_axis(self.spreads, first[:, None], axis=1)[:, 0]


def weighted_quantiles(
    values: NDArray[np.float64],
    weight: NDArray[np.float64],
    levels: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Compute quantiles of values (n,), each repeated as often as its weight says.

    Where the cumulative weight equals a level, the quantile is the mean of the values
    before and after (definition 2 of Hyndman and Fan 1996), so that mirrored values
    have mirrored quantiles.
    """
    order = np.argsort(values)
    cumulative = np.cumsum(weight[order])
    cumulative /= cumulative[-1]
    lower = np.searchsorted(cumulative, levels - WEIGHT_ROUNDING)
    upper = np.searchsorted(cumulative, levels + WEIGHT_ROUNDING, side="right")
    upper = np.minimum(upper, len(order) - 1)
    quantiles: NDArray[np.float64] = 0.5 * values[order[lower]]
    quantiles += 0.5 * values[order[upper]]
    return quantiles


def limits(
    y: NDArray[np.float64],
    weight: NDArray[np.float64],
    ranks: Ranks = ALONE,
    max_rows: float = math.inf,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return between which values targets y (n, d) count as they are, two of (d,).

    They lie `Y_LIMIT` spreads from the median, and are infinite where no spread is
    known. Less than 5 % of the weight lies outside.
    """
    median, spreads = Spreads.of(y, weight, np.arange(len(y)), ranks, max_rows)
    # The quartiles alone would cut the wider of two modes.
    widest = spreads[:, :-1].max(axis=1)
    spread = np.where(widest > 0, widest, spreads[:, -1])
    with np.errstate(over="ignore"):
        limit = np.where(spread > 0, Y_LIMIT * spread, np.inf)
    return median - limit, median + limit


# -- columns of a sample of rows ---------------------------------------------------

Column = tuple[NDArray[np.float64], NDArray[np.float64]]


def sampled_columns(
    X: Any,
    weight: NDArray[np.float64],
    index: NDArray[np.intp],
    ranks: Ranks,
    max_rows: float,
) -> Iterator[Column]:
    """Yield values and weights of every column, for a sample of all ranks' rows."""
    n_rows = float(ranks.sum(len(index)))
    n_chosen = math.ceil(min(1, max_rows / n_rows) * len(index))
    chosen = np.arange(n_chosen) * len(index) // max(1, n_chosen)
    index, weight = index[chosen], weight[chosen]
    if sparse.issparse(X):
        yield from _sparse_columns(X[index], weight, ranks)
        return
    weight = np.concatenate(ranks.all_gather(weight))
    for j in range(X.shape[1]):
        column = X[index, j].astype(np.float64)
        yield np.concatenate(ranks.all_gather(column)), weight


def _sparse_columns(
    X: Any, weight: NDArray[np.float64], ranks: Ranks
) -> Iterator[Column]:
    """Yield the stored values of every column of X (CSR), and a zero for the others."""
    total = float(ranks.sum(weight.sum()))
    entries = sparse.coo_array(X)
    entries.sum_duplicates()
    parts = entries.col, entries.data.astype(np.float64), weight[entries.row]
    columns, values, weight = (np.concatenate(ranks.all_gather(p)) for p in parts)
    order = np.argsort(columns, kind="stable")
    values, weight = values[order], weight[order]
    edges = np.searchsorted(columns[order], np.arange(X.shape[1] + 1))
    zero = np.zeros(1)
    for start, stop in pairwise(edges):
        ours = weight[start:stop]
        rest = max(0.0, total - ours.sum())
        if rest > (1 - LEVELS.min()) * total:  # all quantiles are zero
            yield zero, np.ones(1)
        else:
            yield np.append(values[start:stop], zero), np.append(ours, rest)
