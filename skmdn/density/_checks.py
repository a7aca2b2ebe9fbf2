"""Checks of the arguments of densities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skmdn._data.conversion import as_real, open_array
from skmdn._data.outputs import Outputs
from skmdn._data.scaling import LARGEST_REACH

# Tolerated difference between one and the sum of the weights of a row.
WEIGHT_SUM_ATOL = 1e-6
# Tolerated asymmetry of a covariance, relative to the product of the deviations.
ASYMMETRY_RTOL = 1e-6


def as_levels(q: ArrayLike) -> NDArray[np.float64]:
    """Convert probability levels to float64, and raise outside [0, 1]."""
    levels = as_real("q", q)
    is_level = (levels >= 0) & (levels <= 1)
    if not is_level.all():
        raise ValueError(
            f"q must lie in [0, 1], got a level of {levels[~is_level][0]}."
        )
    return levels


def as_confidences(confidence: ArrayLike) -> NDArray[np.float64]:
    """Convert a confidence, or a sequence of them, to float64; raise outside [0, 1]."""
    confidences = as_real("confidence", confidence)
    if confidences.ndim > 1:
        raise ValueError(
            "confidence must be a number or a one-dimensional sequence of numbers, got "
            f"shape {confidences.shape}."
        )
    is_inside = (confidences >= 0) & (confidences <= 1)
    if not is_inside.all():
        raise ValueError(
            f"confidence must lie in [0, 1], got {confidences[~is_inside][0]}."
        )
    return confidences


def as_min_mass(min_mass: Any) -> float:
    """Convert the least probability of a mode to a float; raise outside [0, 1]."""
    least = as_real("min_mass", min_mass)
    if least.ndim or not 0 <= least <= 1:
        raise ValueError(
            f"min_mass must be a probability, a number in [0, 1], got {min_mass!r}."
        )
    return float(least)


def as_given(
    given: Mapping[Any, ArrayLike], outputs: Outputs, n_rows: int
) -> tuple[list[int], NDArray[np.float64]]:
    """Return positions (p,) of outputs given to `condition`, and values (n_rows, p).

    Raises
    ------
    TypeError
        If `given` is no dict.
    ValueError
        If no output remains, or a value is neither a number nor one per row.
    """
    if not hasattr(given, "keys"):
        raise TypeError(
            "given must be a dict of outputs and values, got an object of type "
            f"{type(given).__name__}."
        )
    given = dict(given)
    positions = outputs.positions(given)
    if len(positions) == outputs.size:
        raise ValueError(
            "condition needs at least one free output, but values were given for "
            f"all {outputs.size}. Use logpdf for the density at a point."
        )
    values = np.empty((n_rows, len(positions)))
    for column, (output, value) in enumerate(given.items()):
        array = as_real(f"given[{output!r}]", value)
        if array.shape not in ((), (1,), (n_rows,)):
            raise ValueError(
                f"The value of output {output!r} must be one number or one per "
                f"row, ({n_rows},), got shape {array.shape}."
            )
        values[:, column] = array
    return positions, values


def row_positions(rows: Any, n_rows: int) -> NDArray[np.intp]:
    """Convert an integer, a slice, a mask or indices of rows to positions, (m,).

    Raises
    ------
    IndexError
        If `rows` is anything else, a mask of another length, or out of bounds.
    """
    if isinstance(rows, slice):
        return np.arange(n_rows)[rows]
    index = np.empty((0, 0)) if isinstance(rows, tuple) else open_array("rows", rows)
    index = np.asarray(index)
    if index.dtype == object:  # a nullable column of pandas
        index = np.array(index.tolist())
    if index.shape == (0,) and index.dtype != bool:  # an empty list is one of floats
        index = index.astype(np.intp)
    is_mask = index.dtype == bool and index.shape == (n_rows,)
    if not is_mask and (index.ndim > 1 or index.dtype.kind not in "iu"):
        raise IndexError(
            "rows must be an integer, a slice, a mask of one bool for each of the "
            f"{n_rows} rows, or a one-dimensional array of integers, got {rows!r}."
        )
    if not is_mask and ((index < -n_rows) | (index >= n_rows)).any():
        raise IndexError(f"rows must be within the {n_rows} rows, got {rows!r}.")
    return np.atleast_1d(np.arange(n_rows)[index])


def as_parameters(
    weights: ArrayLike, means: ArrayLike, matrices: ArrayLike, name: str
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], bool]:
    """Convert weights (n, K), means (n, K, d) and matrices (n, K, d, d) to float64.

    Parameters
    ----------
    weights, means, matrices : array-like
        All three (n, K) for a density of scalars.
    name : str
        Name of the argument `matrices`.

    Returns
    -------
    weights, means, matrices : ndarrays of the shapes above
    is_scalar : bool
        Whether the density is one of scalars.
    """
    weights, means = as_real("weights", weights), as_real("means", means)
    matrices = as_real(name, matrices)
    given = f"{weights.shape}, {means.shape} and {matrices.shape}"
    is_scalar = means.ndim == matrices.ndim == 2
    if is_scalar:
        means, matrices = means[..., None], matrices[..., None, None]
    is_consistent = (
        weights.ndim == 2
        and weights.shape[1] > 0
        and means.ndim == 3
        and means.shape[2] > 0
        and means.shape[:2] == weights.shape
        and matrices.shape == (*means.shape, means.shape[2])
    )
    if not is_consistent:
        raise ValueError(
            f"weights, means and {name} must have the shapes (n, K), (n, K, d) and "
            f"(n, K, d, d), or all three (n, K) for scalars, got {given}."
        )
    return weights, means, matrices, is_scalar


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


def check_range(means: NDArray[np.float64], factors: NDArray[np.float64]) -> None:
    """Raise unless squares of the parameters, and of their inverses, are floats."""
    for name, array in (("means", means), ("precision_factors", factors)):
        largest = np.abs(array).max(initial=0)
        if largest > LARGEST_REACH:
            raise ValueError(
                f"{name} must lie within {LARGEST_REACH:.0g} of zero, got "
                f"{largest:.3g}. Change the unit of y."
            )
    smallest = np.diagonal(factors, axis1=-2, axis2=-1).min(initial=1)
    if smallest < 1 / LARGEST_REACH:
        raise ValueError(
            "The diagonal of precision_factors must not lie below "
            f"{1 / LARGEST_REACH:.0g}, got {smallest:.3g}. Change the unit of y."
        )


def symmetrised(covariances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return covariances (n, K, d, d) as symmetric matrices.

    Raises
    ------
    ValueError
        If a matrix is asymmetric by more than rounding, in single precision, of the
        standard deviations of its row and column.
    """
    transposed = covariances.swapaxes(-1, -2)
    # A negative variance is left to the factorisation.
    variances = np.diagonal(covariances, axis1=-2, axis2=-1)
    deviations = np.sqrt(np.maximum(variances, 0))
    bound = ASYMMETRY_RTOL * deviations[..., :, None] * deviations[..., None, :]
    is_asymmetric = np.abs(covariances - transposed) > bound
    if is_asymmetric.any():
        *at, i, j = map(int, np.argwhere(is_asymmetric)[0])
        first, second = covariances[(*at, i, j)], covariances[(*at, j, i)]
        raise ValueError(
            f"covariances must be symmetric, got {first:.6g} for outputs ({i}, {j}) "
            f"and {second:.6g} for ({j}, {i}) in row {at[0]}, component {at[1]}. For "
            "triangular factors of the precisions use MixtureDensity."
        )
    # Half of each, since the sum of large entries could overflow.
    mean = covariances / 2 + transposed / 2
    return np.where(covariances == transposed, covariances, mean)


def check_output_names(
    names: Sequence[str] | None, n_outputs: int
) -> tuple[str, ...] | None:
    """Return one distinct name for each output as a tuple of str."""
    if names is None:
        return None
    # A single string would be read as one name for each of its letters.
    given = list(names) if np.iterable(names) and not isinstance(names, str) else []
    is_text = all(isinstance(name, str) for name in given)
    if not is_text or len(given) != n_outputs or len(set(given)) != n_outputs:
        raise ValueError(
            f"output_names must be a sequence of {n_outputs} different names, got "
            f"{names!r}."
        )
    return tuple(map(str, given))
