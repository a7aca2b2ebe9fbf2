"""Features as the networks see them: standardised numbers and indicators."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skmdn._data.encoding import FeatureEncoder
from skmdn._data.rows import UniqueRows
from skmdn._data.scaling import Scaling, Tails
from skmdn.distributed import ALONE, Ranks

# Distinct rows from which on a level has a column of its own.
FEWEST_ROWS = 10
# Indicators of more levels than these are smaller: the effects of many levels are
# learned from few rows each, and weight decay then keeps them small.
FEW_LEVELS = 9


class FeatureTransform(NamedTuple):
    """Map encoded rows to what networks see, (n, n_columns) -> (n, width).

    The first `n_indicators` columns have two values each: those of the levels of each
    categorical column, and of missing values. Levels of few rows share an indicator,
    and all indicators of an unknown level are zero unless there is such a shared one.
    Standardised numbers follow.

    Parameters
    ----------
    encoder : FeatureEncoder
    scaling : Scaling
        Of encoded columns; infinite where they are no numbers.
    places : mapping
        For each categorical column, the indicator of each code from -1 on, or -1.
    """

    encoder: FeatureEncoder
    scaling: Scaling
    places: Mapping[int, NDArray[np.intp]]

    @classmethod
    def fit(
        cls, encoder: FeatureEncoder, rows: UniqueRows, ranks: Ranks = ALONE
    ) -> FeatureTransform:
        """Standardise numbers, and choose the levels that have an indicator."""
        scaling = Scaling.fit_features(rows, ranks)
        if encoder.is_identity:
            return cls(encoder, scaling, {})
        places = {}
        for j, levels in encoder.levels.items():
            codes = rows.X[rows.positions, j].astype(np.intp)
            counts = np.bincount(codes + 1, minlength=len(levels) + 2)
            places[j] = _indicator_of_code(ranks.sum(counts))
        return cls(encoder, _without_indicators(scaling, encoder), places)

    @property
    def n_indicators(self) -> int:
        """Number of columns of two values."""
        widths = [int(places.max()) + 1 for places in self.places.values()]
        return sum(widths) + len(self.encoder.with_missing)

    @property
    def width(self) -> int:
        """Number of columns that networks see."""
        return self.n_indicators + len(self.encoder.numbers)

    def transform(self, rows: NDArray[Any]) -> Tensor:
        """Transform encoded rows, in float64."""
        scaled = self.scaling.transform(rows)
        encoder = self.encoder
        if encoder.is_identity:
            return scaled
        result = torch.zeros(len(rows), self.width, dtype=scaled.dtype, device="cpu")
        start = 0
        for j, places in self.places.items():
            place = places[rows[:, j].astype(np.intp) + 1]
            (at,) = np.nonzero(place >= 0)
            width = int(places.max()) + 1
            result[at, start + place[at]] = size_of_indicators(width)
            start += width
        is_missing = torch.from_numpy(rows[:, encoder.n_features :])
        result[:, start : self.n_indicators] = is_missing
        result[:, self.n_indicators :] = scaled[:, encoder.numbers]
        return result

    def range_of(
        self,
        X: Any,
        index: NDArray[np.intp],
        n_rows: float,
        ranks: Ranks = ALONE,
    ) -> tuple[Tensor, Tensor]:
        """Return where new rows can lie, two of (width,); see `Scaling.range_of`."""
        ends = self.scaling.range_of(X, index, n_rows, ranks)
        if self.encoder.is_identity:
            return ends
        low, high = (
            torch.cat(
                [end.new_full((self.n_indicators,), limit), end[self.encoder.numbers]]
            )
            for end, limit in zip(ends, (-np.inf, np.inf), strict=True)
        )
        return low, high

    def to_state(self) -> dict[str, Any]:
        """Convert to arrays and builtins."""
        return {
            "encoder": self.encoder.to_state(),
            "scaling": self.scaling.to_state(),
            "places": {str(j): places for j, places in self.places.items()},
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> FeatureTransform:
        """Rebuild a transform."""
        return cls(
            FeatureEncoder.from_state(state["encoder"]),
            Scaling.from_state(state["scaling"]),
            {int(j): np.array(places) for j, places in state["places"].items()},
        )


def size_of_indicators(n_indicators: int) -> float:
    """Return the value of the indicators of a categorical column where they hold."""
    return min(1.0, math.sqrt(FEW_LEVELS / max(1, n_indicators)))


def _indicator_of_code(counts: NDArray[np.float64]) -> NDArray[np.intp]:
    """Give codes of enough rows a number each, and all others one together.

    Parameters
    ----------
    counts : ndarray of shape (n_codes,)
        Rows of each code, the unknown one first.
    """
    is_kept = counts >= FEWEST_ROWS
    places = np.where(is_kept, np.cumsum(is_kept) - 1, -1)
    if counts[~is_kept].sum() >= FEWEST_ROWS:
        places[~is_kept] = is_kept.sum()
    return places


def _without_indicators(scaling: Scaling, encoder: FeatureEncoder) -> Scaling:
    """Give columns that are no numbers an infinite scale, on which nothing is far."""
    mean, scale = scaling.mean.copy(), scaling.scale.copy()
    assert scaling.tails is not None
    tails = Tails(*(part.copy() for part in scaling.tails))
    others = [*encoder.levels, *range(encoder.n_features, len(mean))]
    mean[others], scale[others] = 0.0, np.inf
    tails.low[others], tails.high[others], tails.spread[others] = -np.inf, np.inf, 1.0
    return Scaling(mean, scale, tails)
