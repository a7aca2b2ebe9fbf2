"""Checks of the arguments of densities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Tolerated difference between one and the sum of the weights of a row.
WEIGHT_SUM_ATOL = 1e-6


def as_finite(name: str, array: ArrayLike) -> NDArray[np.float64]:
    """Convert to float64, and raise where a value is NaN or infinite."""
    result = np.asarray(array, dtype=np.float64)
    if not np.isfinite(result).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity.")
    return result


def as_levels(q: ArrayLike) -> NDArray[np.float64]:
    """Convert probability levels to float64, and raise outside [0, 1]."""
    levels = np.asarray(q, dtype=np.float64)
    is_level = (levels >= 0) & (levels <= 1)
    if not is_level.all():
        raise ValueError(
            f"q must lie in [0, 1], got a level of {levels[~is_level][0]}."
        )
    return levels


def check_confidence(confidence: float) -> None:
    """Raise if a confidence lies outside [0, 1]."""
    if not 0 <= confidence <= 1:
        raise ValueError(f"confidence must lie in [0, 1], got {confidence}.")


def check_shapes(
    weights: NDArray[Any], means: NDArray[Any], factors: NDArray[Any]
) -> None:
    """Raise unless the shapes are (n, K), (n, K, d) and (n, K, d, d)."""
    is_consistent = (
        weights.ndim == 2
        and weights.shape[1] > 0
        and means.ndim == 3
        and means.shape[:2] == weights.shape
        and factors.shape == (*means.shape, means.shape[2])
    )
    if not is_consistent:
        raise ValueError(
            "weights, means and precision_factors must have the shapes (n, K), "
            "(n, K, d) and (n, K, d, d), or all three (n, K) for scalars, got "
            f"{weights.shape}, {means.shape} and {factors.shape}."
        )


def check_mixture_weights(weights: NDArray[np.float64]) -> None:
    """Raise unless the weights (n, K) are probabilities of each row."""
    if (weights < 0).any():
        raise ValueError(f"weights must not be negative, got {weights.min()}.")
    sums = weights.sum(-1)
    if (np.abs(sums - 1) > WEIGHT_SUM_ATOL).any():
        worst = sums[np.argmax(np.abs(sums - 1))]
        raise ValueError(f"weights must sum to one in each row, got a sum of {worst}.")


def check_factors(factors: NDArray[np.float64]) -> None:
    """Raise unless factors (n, K, d, d) are upper-triangular, diagonal positive."""
    if (np.diagonal(factors, axis1=-2, axis2=-1) <= 0).any():
        raise ValueError("precision_factors must have a positive diagonal.")
    if np.tril(factors, -1).any():
        raise ValueError(
            "precision_factors must be upper-triangular, U with U' U the inverse "
            "covariance. For covariances use MixtureDensity.from_covariances."
        )


def check_output_names(
    names: Sequence[str] | None, n_outputs: int
) -> tuple[str, ...] | None:
    """Return one distinct name for each output as a tuple of str."""
    if names is None:
        return None
    if len(names) != n_outputs or len(set(names)) != n_outputs:
        raise ValueError(
            f"output_names must be {n_outputs} different names, got {list(names)}."
        )
    return tuple(map(str, names))
