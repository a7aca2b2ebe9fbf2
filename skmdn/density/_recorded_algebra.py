"""Intervals and changes of unit of recorded values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skmdn._utils.arrays import to_numpy
from skmdn.density._distribution import Distribution
from skmdn.density.rowwise import as_box


class RecordedAlgebra(Distribution):
    """Intervals and linear maps of `RecordedDensity`, whose base it is."""

    density: Any
    step: float
    offset: float

    def probability(self, lower: ArrayLike, upper: ArrayLike) -> NDArray[np.float64]:
        """Compute the probability of the recorded values from lower to upper.

        Parameters
        ----------
        lower, upper : array-like of shape (n,), or broadcastable to it
            The least and the greatest recorded value, in the unit of y; -inf and inf
            leave a side open. They broadcast as in `MixtureDensity.probability`.

        Returns
        -------
        probability : ndarray of shape (n,), or (m, n) for a grid
            With both ends; equal ends give `pmf`. Exact in both tails.

        Raises
        ------
        ValueError
            If a lower end exceeds the upper one, or is NaN.

        Examples
        --------
        >>> from skmdn import MixtureDensity
        >>> recorded = MixtureDensity([[1.0]], [[0.0]], [[1.0]]).recorded(1.0)
        >>> recorded.probability(-1, 1).round(4)
        array([0.8664])
        """
        low, high = as_box(lower, upper, self)
        ends = low - self.step / 2, high + self.step / 2
        probability: NDArray[np.float64] = self.density.probability(
            *(to_numpy(self.outputs.squeeze(end)) for end in ends)
        )
        return probability

    def affine(
        self,
        matrix: ArrayLike,
        shift: ArrayLike = 0.0,
        output_names: Sequence[str] | None = None,
    ) -> Self:
        """Return the distribution of recorded values in another unit.

        Parameters
        ----------
        matrix : float or array-like of shape (1, 1)
            Factor of y, not zero.
        shift : float, default=0.0
            In the unit of the result.
        output_names : sequence of str, default=None
            Name of the output.

        Returns
        -------
        recorded : RecordedDensity
            Exact, since a factor maps cells to cells: the step is multiplied by its
            absolute value.

        Examples
        --------
        >>> from skmdn import MixtureDensity
        >>> recorded = MixtureDensity([[1.0]], [[20.0]], [[1.0]]).recorded(0.5)
        >>> fahrenheit = recorded.affine(1.8, 32)
        >>> fahrenheit.step, fahrenheit.mean().round(3)
        (0.9, array([68.]))
        """
        image = self.density.affine(matrix, shift, output_names)
        factor = np.asarray(matrix, dtype=np.float64).item()
        offset = factor * self.offset + np.asarray(shift, dtype=np.float64).item()
        return type(self)(image, abs(factor) * self.step, offset)  # type: ignore[call-arg]
