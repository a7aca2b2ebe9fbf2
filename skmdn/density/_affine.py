"""Arguments of `affine`, and its maps seen by the latent outputs."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skmdn._data.conversion import as_real
from skmdn._data.outputs import Outputs
from skmdn._data.supports import Support, Supports

Floats = NDArray[np.float64]


def as_affine(
    matrix: ArrayLike, shift: ArrayLike, outputs: Outputs
) -> tuple[Floats, Floats, tuple[int, ...]]:
    """Return a matrix (q, d), a shift (q,) and the event shape of `matrix @ y`.

    Raises
    ------
    ValueError
        If the matrix has another shape, or its rows are not linearly independent.
    """
    given = as_real("matrix", outputs.align("matrix", matrix))
    event_shape = _image_shape(given.shape, outputs)
    table = given.reshape(event_shape[0] if event_shape else 1, outputs.size)
    _check_rank(table)
    offset = as_real("shift", shift)
    if offset.shape not in ((), event_shape):
        allowed = f"a number or of shape {event_shape}" if event_shape else "a number"
        raise ValueError(f"shift must be {allowed}, got shape {offset.shape}.")
    return table, np.broadcast_to(offset.ravel(), len(table)), event_shape


def _image_shape(shape: tuple[int, ...], outputs: Outputs) -> tuple[int, ...]:
    """Return the shape of `matrix @ y`, or of `matrix * y` for a number."""
    d = outputs.size
    if d == 1 and shape == ():
        return outputs.event_shape
    if outputs.event_shape and shape == (d,):
        return ()
    if outputs.event_shape and len(shape) == 2 and shape[0] > 0 and shape[1] == d:
        return shape[:1]
    allowed = "a number" if d == 1 else f"of shape (q, {d}), or ({d},) for a scalar"
    raise ValueError(f"matrix must be {allowed}, got shape {shape}.")


def _check_rank(matrix: Floats) -> None:
    """Raise unless the rows of a matrix (q, d) are linearly independent.

    Rows and columns are scaled first, since the units of y must not matter.
    """
    q, d = matrix.shape
    scaled = matrix
    for axis in (1, 0):
        largest = np.abs(scaled).max(axis=axis, keepdims=True)
        scaled = scaled / np.where(largest > 0, largest, 1)
    rank = np.linalg.matrix_rank(scaled)
    if rank < q:
        raise ValueError(
            f"matrix must have linearly independent rows, got rank {rank} for shape "
            f"({q}, {d}): the image would have no density. Leave out rows that follow "
            "from others."
        )


def latent_map(
    matrix: Floats, shift: Floats, supports: Supports
) -> tuple[Floats, Floats, Supports]:
    """Return the matrix and shift of the latent outputs, and the new supports.

    A row of the matrix that takes an output with bounds takes no other: with z the
    logarithm of the distance from a bound, a factor a adds log |a| to it. A negative
    factor exchanges the bounds, and with them the sign of z.

    Raises
    ------
    ValueError
        If a row combines an output with bounds with others.
    """
    latent_matrix, latent_shift = matrix.copy(), shift.copy()
    each = []
    for row, (factors, constant) in enumerate(zip(matrix, shift, strict=True)):
        taken = np.flatnonzero(factors)
        if all(supports[j].is_identity for j in taken):
            each.append(Support())
            continue
        if len(taken) > 1:
            raise ValueError(
                f"Row {row} of matrix combines an output with bounds with others, "
                "whose density has no closed form. Use sample, and apply the map to "
                "the draws, or latent.affine for a map of the latent outputs."
            )
        (j,) = taken
        factor, ends = factors[j], np.array(supports[j].ends)
        sign = np.isfinite(ends[0]) * 1.0 - np.isfinite(ends[1])
        latent_matrix[row, j] = np.sign(factor)
        latent_shift[row] = np.sign(factor) * sign * np.log(np.abs(factor))
        low, high = np.sort(factor * ends + constant)
        each.append(Support(float(low), float(high)))
    return latent_matrix, latent_shift, Supports(tuple(each))


def image_outputs(
    matrix: Floats,
    event_shape: tuple[int, ...],
    names: tuple[str, ...] | None,
    outputs: Outputs,
) -> Outputs:
    """Return the outputs of an image, with the steps of rescaled outputs.

    A row that combines outputs has no step: sums of rounded values are not the rounded
    sums.
    """
    image = Outputs(event_shape, names)
    if outputs.resolution is None:
        return image
    steps = np.array([step or 0.0 for step in outputs.resolution])
    is_single = np.count_nonzero(matrix, axis=1) == 1
    own = np.where(is_single, np.abs(matrix) @ steps, 0.0)
    return image.recorded_to(own)
