"""Standardisation of rows, in blocks of bounded size."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skmdn._data.robust import MAX_ROWS, Spreads, limits
from skmdn._data.rows import UniqueRows, as_dense, dense_blocks, orientation
from skmdn.distributed import ALONE, Ranks

# Largest spread of a column whose square, and that of its inverse, cannot overflow.
LARGEST_REACH = 1e150
# Largest standardised number whose square cannot overflow in float32.
LARGEST_OUTLIER = 1e15
# Spreads from the median at which the soft tails of a feature begin.
KNEE = 3.0
# Spreads from the median to which features are clipped for their scale.
REACH = 10.0
# Ranges are those of n rows times a + b / n: few rows say little of how far new ones
# lie.
RANGE_MARGIN = 1.25, 10.0


class Tails(NamedTuple):
    """Soft tails of columns: the identity between two knees, and asinh beyond.

    A value x beyond a knee k becomes k + spread asinh((x - k) / spread), so that the
    map is smooth and strictly increasing, and sizes far out count by their logarithm.
    A column without tails has infinite knees. Shapes: (n_columns,).
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    spread: NDArray[np.float64]

    @classmethod
    def fit(
        cls,
        X: Any,
        weight: NDArray[np.float64],
        index: NDArray[np.intp],
        ranks: Ranks = ALONE,
    ) -> Tails:
        """Place the knees three spreads from the median.

        The spread is that of the quartiles of a normal distribution, or of quantiles
        further out where the quartiles are equal. A column of which nearly all values
        are equal has no tails.
        """
        spreads = Spreads.of(X, weight, index, ranks)
        spread = spreads.narrowest()
        has_none = spread == 0
        spread[has_none] = 1.0
        with np.errstate(over="ignore"):  # refused later
            reach = np.where(has_none, np.inf, KNEE * spread)
        return cls(spreads.median - reach, spreads.median + reach, spread)

    def clip(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        """Clip values to `REACH` spreads from the median."""
        further = (REACH - KNEE) * self.spread
        clipped: NDArray[np.float64] = np.clip(
            X, self.low - further, self.high + further
        )
        return clipped

    def soften(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        """Apply the map, in the unit of X."""
        inside = np.minimum(np.maximum(X, self.low), self.high)
        beyond = X - inside
        if not beyond.any():
            return X
        beyond /= self.spread
        np.arcsinh(beyond, out=beyond)
        beyond *= self.spread
        beyond += inside
        return beyond


class Scaling(NamedTuple):
    """Location and scale of each column, (n_columns,); a negative scale mirrors it.

    The columns of X have soft `tails`, and their location and scale are those of the
    softened values; y is scaled by an affine map only.
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    tails: Tails | None = None

    @classmethod
    def fit_features(cls, rows: UniqueRows, ranks: Ranks = ALONE) -> Scaling:
        """Soften the tails of X, and standardise.

        The mean is that of the softened values. The scale is the standard deviation of
        the values clipped further out: that of the softened ones would stretch the
        bulk of columns with heavy tails, which are often noisy.
        """
        given = rows.X, rows.weight, rows.positions
        tails = Tails.fit(*given, ranks)
        _, scale, _ = cls.fit("X", *given, ranks, tails.clip)
        return cls(cls.fit("X", *given, ranks, tails.soften).mean, scale, tails)

    @classmethod
    def fit_targets(
        cls,
        y: NDArray[np.float64],
        weight: NDArray[np.float64],
        ranks: Ranks = ALONE,
    ) -> Scaling:
        """Standardise y, and mirror targets of negative skewness.

        Mean, standard deviation and skewness are those of the targets clipped to
        their `limits`, so that one of them cannot set the scale of all.
        """
        low, high = limits(y, weight, ranks, MAX_ROWS)

        def clip(y: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.clip(y, low, high)

        mean, scale, _ = cls.fit("y", y, weight, np.arange(len(y)), ranks, clip)
        # An outlier must have a square in float32.
        reach = ranks.max(np.abs(y - mean).max(axis=0, initial=0))
        scale = np.maximum(scale, reach / LARGEST_OUTLIER)
        return cls(mean, scale * orientation(clip(y), weight, ranks))

    @classmethod
    def fit(
        cls,
        name: str,
        X: Any,
        weight: NDArray[np.float64],
        index: NDArray[np.intp],
        ranks: Ranks = ALONE,
        bound: Callable[[NDArray[np.float64]], NDArray[np.float64]] = np.asarray,
    ) -> Scaling:
        """Compute the weighted mean and standard deviation of the rows of an index.

        Weights belong to the rows of the index; constant columns get scale one.
        Blocks of rows count as a function `bound` returns them.

        Raises
        ------
        ValueError
            If the spread of a column cannot be squared in float64. The message
            contains `name`.
        """
        # Sums are taken of differences from a row: exact where a column is constant.
        first = ranks.broadcast(as_dense(X[index[:1]]).astype(np.float64))
        share = weight / ranks.sum(weight.sum())
        shift, reach, bounded = np.zeros((3, X.shape[1]))
        with np.errstate(over="ignore", invalid="ignore"):
            origin = bound(first)
            for part, block in dense_blocks(X, index):
                reach = np.maximum(reach, np.abs(block - first).max(axis=0))
                difference = bound(block) - origin
                bounded = np.maximum(bounded, np.abs(difference).max(axis=0))
                shift += share[part] @ difference
        shift, bounded = ranks.sum(shift), ranks.max(bounded)
        _check_reach(name, ranks.max(reach))
        mean = origin[0] + shift
        variance = ranks.sum(
            sum(
                share[part] @ (bound(block) - mean) ** 2
                for part, block in dense_blocks(X, index)
            )
        )
        # Rows of negligible weight may lie further out than float32 can represent.
        std = np.maximum(np.sqrt(variance), bounded / LARGEST_OUTLIER)
        is_constant = std <= 10 * np.finfo(np.float64).eps * np.abs(mean)
        return cls(mean, np.where(is_constant, 1.0, std))

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Scaling:
        """Rebuild a scaling; states of earlier releases have no tails."""
        tails = state.get("tails")
        if tails is not None:
            tails = Tails(**{name: np.array(tails[name]) for name in Tails._fields})
        return cls(np.array(state["mean"]), np.array(state["scale"]), tails)

    def to_state(self) -> dict[str, Any]:
        """Convert to arrays and builtins."""
        state = {"mean": self.mean, "scale": self.scale}
        return state if self.tails is None else state | {"tails": self.tails._asdict()}

    def take(self, columns: Sequence[int]) -> Scaling:
        """Return the scaling of some columns."""
        at = list(columns)
        tails = self.tails and Tails(*(part[at] for part in self.tails))
        return Scaling(self.mean[at], self.scale[at], tails)

    @property
    def knees(self) -> NDArray[np.float64]:
        """Values of each column where its soft tails begin, (2, n_columns)."""
        if self.tails is None:
            return np.full((2, len(self.mean)), [[-np.inf], [np.inf]])
        return np.stack([self.tails.low, self.tails.high])

    @property
    def spread(self) -> NDArray[np.float64]:
        """Width on which the soft tails of each column bend, (n_columns,)."""
        return np.ones(len(self.mean)) if self.tails is None else self.tails.spread

    def range_of(
        self,
        X: Any,
        index: NDArray[np.intp],
        n_rows: float,
        ranks: Ranks = ALONE,
    ) -> tuple[Tensor, Tensor]:
        """Return where new rows can lie, standardised, two of (n_columns,).

        The range goes beyond that of the rows of an index, and more so if they stand
        for few rows. It is infinite for columns without tails: they hold rare values,
        or one only, and neither has a distance.
        """
        low, high = np.full((2, X.shape[1]), [[np.inf], [-np.inf]])
        for _, block in dense_blocks(X, index):
            low = np.minimum(low, block.min(axis=0, initial=np.inf))
            high = np.maximum(high, block.max(axis=0, initial=-np.inf))
        low, high = -ranks.max(-low), ranks.max(high)
        margin = RANGE_MARGIN[0] + RANGE_MARGIN[1] / n_rows
        ends = self.transform(np.stack([low, high])) * margin
        has_tails = torch.from_numpy(np.isfinite(self.knees[1]))
        return (
            torch.where(has_tails, ends[0], -math.inf),
            torch.where(has_tails, ends[1], math.inf),
        )

    def transform(self, array: NDArray[Any]) -> Tensor:
        """Standardise, in float64."""
        if self.tails is not None:
            array = self.tails.soften(array)
        return torch.from_numpy((array - self.mean) / self.scale)


def _check_reach(name: str, reach: NDArray[np.float64]) -> None:
    """Refuse columns (n_columns,) whose spread, or its inverse, has no square."""
    if ((reach > LARGEST_REACH) | ((reach > 0) & (reach < 1 / LARGEST_REACH))).any():
        worst = reach[np.argmax(np.abs(np.log(np.where(reach > 0, reach, 1.0))))]
        raise ValueError(
            f"{name} must spread over less than {LARGEST_REACH:.0g} and, where it "
            f"is not constant, over more than {1 / LARGEST_REACH:.0g} in each "
            f"column, got {worst:.3g}. Change its unit."
        )
