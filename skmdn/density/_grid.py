"""The grid of recorded values, numbered by integers, and searches on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Strides of a search are doubled until they reach this number of cells.
LONGEST_STRIDE = 2.0**64


@dataclass(frozen=True)
class Grid:
    """Recorded values: an offset plus multiples of a step, between two bounds.

    Cells have numbers, held as floats: the cell k reaches half a step to both sides of
    offset + k * step.

    Parameters
    ----------
    step, offset : float
    first, last : float
        Numbers of the first and the last cell with a part inside of the bounds;
        infinite for an open end.
    """

    step: float
    offset: float
    first: float
    last: float

    @classmethod
    def within(cls, step: float, offset: float, ends: tuple[float, float]) -> Grid:
        """Return the grid of values whose cells have a part between two ends."""
        low, high = ((end - offset) / step for end in ends)
        return cls(step, offset, float(np.floor(low + 0.5)), float(np.ceil(high - 0.5)))

    def limit(self, places: Floats) -> Floats:
        """Limit numbers of cells to those inside of the bounds."""
        return np.clip(places, self.first, self.last)

    def places(self, y: Floats) -> Floats:
        """Return the numbers of the cells in which y lies."""
        return self.limit(np.floor((y - self.offset) / self.step + 0.5))

    def values(self, places: Floats) -> Floats:
        """Return the recorded values of cells."""
        inverse = round(1 / self.step)
        # Decimal numbers: 3 / 10, and not 3 * 0.1.
        is_fraction = inverse > 1 and 1 / inverse == self.step
        values = places / inverse if is_fraction else places * self.step
        return values + self.offset + 0.0  # no negative zeros

    def smallest(
        self,
        near: Floats,
        reaches: Callable[[Floats], NDArray[np.bool_]],
        is_least: NDArray[np.bool_],
    ) -> Floats:
        """Return the smallest recorded values that reach a level.

        Parameters
        ----------
        near : ndarray
            Quantiles before rounding. They lie in the right cell, but for rounding, and
            for gaps, where many cells have the same cdf.
        reaches : callable
            Tells which recorded values reach their level: all from one on.
        is_least : ndarray of bool
            Where every value does: the result is the first one.
        """
        places = self.places(near)
        is_free = np.isfinite(places) & ~is_least

        def is_reached(places: Floats) -> NDArray[np.bool_]:
            known = np.where(is_free, places, 0.0)
            return is_free & reaches(self.values(known))

        places = np.where(is_free & ~is_reached(places), places + 1, places)
        # Go down while the level is reached, by strides of 1, 2, 4, ... , and then by
        # their halves.
        stride = 1.0
        while stride < LONGEST_STRIDE:
            is_lower = is_reached(places - stride)
            if not is_lower.any():
                break
            places = np.where(is_lower, places - stride, places)
            stride *= 2
        while stride > 1:
            stride /= 2
            places = np.where(is_reached(places - stride), places - stride, places)
        return self.values(self.limit(places))
