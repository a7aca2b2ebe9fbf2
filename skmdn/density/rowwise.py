"""Evaluate a batch of mixtures row by row: broadcasting of y, chunks of rows.

A batch has one mixture for each of n rows. Points of y are tensors of shape
(..., n, d), which pair with the rows, or (..., 1, d), the same for every row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from skmdn._data.conversion import as_real
from skmdn._data.outputs import Outputs
from skmdn._mixture.core import Mixture
from skmdn._utils.arrays import row_chunks, to_numpy, to_tensor
from skmdn.density._distribution import Distribution

BYTES_PER_FLOAT = 8


# -- arguments -------------------------------------------------------------------


def as_points(
    name: str, y: ArrayLike, density: Distribution, *, finite: bool = False
) -> Tensor:
    """Check points of y against a density; return a tensor (..., n or 1, d).

    Raises
    ------
    ValueError
        If a value is NaN (or infinite, with `finite`), or if the shape or the names of
        `y` fit neither the outputs nor the rows.
    """
    points = as_real(name, density.outputs.align(name, y), infinite=not finite)
    if not density.outputs.event_shape:
        points = points[..., None]
    if points.ndim == 0 or points.shape[-1] != density.n_outputs:
        raise ValueError(
            f"The last axis of {name} must hold the {density.n_outputs} outputs, "
            f"got shape {points.shape}."
        )
    tensor = to_tensor(points if points.ndim > 1 else points[None])
    check_broadcast(name, tensor.shape[-2], len(density))
    return tensor


def as_box(
    lower: ArrayLike, upper: ArrayLike, density: Distribution
) -> tuple[Tensor, Tensor]:
    """Check the ends of boxes against a density; return tensors (..., n or 1, d).

    Raises
    ------
    ValueError
        As `as_points`; if a lower end lies above the upper one, or if the shapes do not
        broadcast.
    """
    low, high = (
        as_points(name, _for_all_outputs(name, ends, density.outputs), density)
        for name, ends in (("lower", lower), ("upper", upper))
    )
    try:
        is_wrong = low > high
    except RuntimeError as exc:
        raise ValueError(
            "lower and upper must have shapes that broadcast, got "
            f"{tuple(low.shape)} and {tuple(high.shape)}."
        ) from exc
    if is_wrong.any():
        first = (part.expand(is_wrong.shape)[is_wrong][0] for part in (low, high))
        raise ValueError(
            "lower must not exceed upper, got {:g} and {:g}.".format(*map(float, first))
        )
    return low, high


def _for_all_outputs(name: str, value: ArrayLike, outputs: Outputs) -> ArrayLike:
    """Repeat a number for every output."""
    if not isinstance(value, Real) or not outputs.event_shape:
        return value
    return np.broadcast_to(as_real(name, value, infinite=True), outputs.event_shape)


def check_density(density: Any, usage: str) -> None:
    """Raise unless the argument `density` is one; `usage` shows the right order."""
    if not isinstance(density, Distribution):
        raise TypeError(
            f"density must be a density, got an object of type "
            f"{type(density).__name__}. Check the order of the arguments: {usage}."
        )


def as_observations(
    y: ArrayLike, density: Distribution, *, finite: bool = False
) -> Tensor:
    """Check one observation of y for each row of a density; return a tensor (m, d).

    This is how all metrics broadcast. y has the shape (n, d), or (n,) or (n, 1) for
    one output, whether or not the density has an output axis. A single observation, or
    a density of a single row, is repeated: m is the larger number of rows.

    Raises
    ------
    TypeError
        If y and the density are swapped, or the density is none.
    ValueError
        As `as_points`.
    """
    check_density(density, "metric(y, density)")
    n_rows, d = len(density), density.n_outputs
    values = as_real("y", density.outputs.align("y", y), infinite=not finite)
    shape = values.shape
    # One output, or one observation of several.
    table = (
        values.reshape((-1, 1) if d == 1 else (1, -1)) if values.ndim < 2 else values
    )
    if table.ndim != 2 or table.shape[1] != d:
        raise ValueError(
            f"y must have shape {f'({n_rows}, {d})' if d > 1 else f'({n_rows},)'}, one "
            f"observation for each row, got {shape}."
        )
    if len(table) not in (1, n_rows) and n_rows != 1:
        raise ValueError(
            f"y must have one observation for each of the {n_rows} rows of the "
            f"density, or one for all of them, got {len(table)}."
        )
    return to_tensor(table).expand(n_rows if len(table) == 1 else len(table), d)


def check_broadcast(name: str, n_given: int, n_rows: int) -> None:
    """Raise unless n_given entries broadcast against the rows."""
    if n_given not in (1, n_rows) and n_rows != 1:
        raise ValueError(
            f"{name} must have one entry for each of the {n_rows} rows, or one "
            f"for all of them, got {n_given}. To evaluate a grid of m points in every "
            "row, insert an axis of length one: (m, 1) or (m, 1, n_outputs)."
        )


# -- chunks of rows --------------------------------------------------------------


def take_rows(mixture: Mixture, rows: slice | Tensor) -> Mixture:
    """Return the mixtures of some rows."""
    return Mixture(*(part[rows] for part in mixture))


def map_rows(
    function: Callable[..., Tensor],
    mixture: Mixture,
    *points: Tensor,
    axis: int,
    n_points: int = 1,
) -> NDArray[np.float64]:
    """Apply a function to chunks of rows, and concatenate the results.

    Parameters
    ----------
    function : callable
        Maps a mixture of m rows, and points (..., m or 1, d), to a tensor.
    mixture : Mixture
        Batch of n rows.
    *points : Tensor of shape (..., n or 1, d)
        Further arguments of `function`. A single grid that exceeds the memory for
        one row is cut along its first axis as well.
    axis : int
        Axis of the rows in the result.
    n_points : int, default=1
        Evaluations of every component per row and point; sizes the chunks.

    Returns
    -------
    result : ndarray
    """
    n_rows = len(mixture.means)
    if n_rows == 0:
        return _no_rows(function, mixture, *points, axis=axis)
    n_evaluations = n_points
    for tensor in points:
        leading = tensor.shape[: -2 if _is_paired(tensor, n_rows) else -1]
        n_evaluations *= math.prod(leading)
    bytes_per_row = n_evaluations * _bytes_per_point(mixture)
    if len(points) == 1 and points[0].ndim > 2 and len(points[0]) > 1:
        (grid,) = points
        pieces = list(row_chunks(len(grid), bytes_per_row // len(grid)))
        if len(pieces) > 1:
            map_piece = partial(
                map_rows, function, mixture, axis=axis, n_points=n_points
            )
            return np.concatenate([map_piece(grid[piece]) for piece in pieces])
    results = []
    for rows in row_chunks(n_rows, bytes_per_row):
        parts = (t[..., rows, :] if _is_paired(t, n_rows) else t for t in points)
        results.append(function(take_rows(mixture, rows), *parts))
    return to_numpy(torch.cat(results, dim=axis))


def _no_rows(
    function: Callable[..., Tensor], mixture: Mixture, *points: Tensor, axis: int
) -> NDArray[np.float64]:
    """Return the result of `map_rows` for a batch without rows.

    Its shape is that for one row of standard normals, with this row removed.
    """
    means = mixture.means.new_zeros(1, *mixture.means.shape[1:])
    log_weights = torch.zeros_like(means[..., 0]).log_softmax(-1)
    factors = torch.diag_embed(torch.ones_like(means))
    one_row = Mixture(log_weights, means, factors)
    parts = (p.new_full((*p.shape[:-2], 1, p.shape[-1]), 0.5) for p in points)
    result = function(one_row, *parts)
    return to_numpy(result.narrow(axis, 0, 0))


def map_ragged(
    function: Callable[[Mixture], tuple[Tensor, Tensor]],
    mixture: Mixture,
    *,
    n_points: int,
) -> list[NDArray[np.float64]]:
    """Apply a function whose number of results differs between rows.

    Parameters
    ----------
    function : callable
        Maps a mixture to the row of each result (n_results,), in rising order, and
        the results (n_results, ...).
    mixture : Mixture
        Batch of n rows.
    n_points : int
        Evaluations of every component per row; sizes the chunks.

    Returns
    -------
    results : list of n ndarrays of shape (n_results_of_row, ...)
    """
    if len(mixture.means) == 0:
        return []
    rows, results = [], []
    bytes_per_row = n_points * _bytes_per_point(mixture)
    for chunk in row_chunks(len(mixture.means), bytes_per_row):
        row_of_each, found = function(take_rows(mixture, chunk))
        rows.append(row_of_each + chunk.start)
        results.append(found)
    row_starts = np.arange(1, len(mixture.means))
    cuts = np.searchsorted(torch.cat(rows).numpy(), row_starts)
    return np.split(to_numpy(torch.cat(results)), cuts)


def map_mixtures(
    function: Callable[..., Mixture], mixture: Mixture, **arguments: Tensor
) -> Mixture:
    """Apply a function to chunks of n rows, and concatenate the resulting mixtures.

    Further arguments have the shape (n, ...).
    """
    parts = [
        function(take_rows(mixture, rows), **{k: v[rows] for k, v in arguments.items()})
        for rows in mixture_chunks(mixture)
    ]
    return Mixture(*map(torch.cat, zip(*parts, strict=True)))


def point_chunks(mixture: Mixture, n_points: int) -> Iterator[slice]:
    """Cut rows into slices for a number of evaluations of every component per row."""
    return row_chunks(len(mixture.means), n_points * _bytes_per_point(mixture))


def mixture_chunks(mixture: Mixture) -> Iterator[slice]:
    """Cut rows into slices whose factors fit the cache."""
    # At least one slice, which is empty if there are no rows.
    n_rows = max(1, len(mixture.means))
    return row_chunks(n_rows, mixture.precision_factors.nbytes // n_rows)


def _bytes_per_point(mixture: Mixture) -> int:
    """Return the peak memory per point of one row; sizes the chunks."""
    _, n_components, n_outputs = mixture.means.shape
    return BYTES_PER_FLOAT * (n_components * (n_outputs + 3) + n_outputs**2)


def _is_paired(points: Tensor, n_rows: int) -> bool:
    """Return whether points (..., n or 1, d) pair with the rows."""
    return points.shape[-2] == n_rows > 1
