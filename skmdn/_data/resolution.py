"""Steps to which targets were recorded: checks of the parameter, and detection."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skmdn._data.outputs import Outputs

Floats = NDArray[np.float64]

# Rows per distinct value from which on values are recorded to a step, and not merely
# stored with some digits.
ROWS_PER_VALUE = 2.0
# Distance of a value from the grid, in steps, that rounding can cause.
GRID_TOLERANCE = 0.01
# Decimal steps that are tried if differences of values are no multiples of the least.
DECIMALS = np.array([5.0, 2.5, 2.0, 1.0])
LARGEST_EXPONENT, N_EXPONENTS = 6, 13
# Least number of float64 numbers in a step.
LEAST_SPACINGS = 16


def as_resolution(target_resolution: Any, outputs: Outputs, y: Floats) -> Floats:
    """Convert the parameter `target_resolution` to a step for each output.

    Parameters
    ----------
    target_resolution : None, "auto", float, or a sequence or mapping of these
    outputs : Outputs
    y : ndarray of shape (n, n_outputs)
        Finite where observed and known exactly; other values do not count.

    Returns
    -------
    resolution : ndarray of shape (n_outputs,)
        Zero for exact values.

    Raises
    ------
    ValueError
        If a step is no positive number, is finer than float64 resolves, or is given for
        an unknown output.
    """
    steps = [
        _step(step, output, column)
        for output, (step, column) in enumerate(
            zip(per_output(target_resolution, outputs), y.T, strict=True)
        )
    ]
    return np.array(steps)


def per_output(target_resolution: Any, outputs: Outputs) -> list[Any]:
    """Return the entry of the parameter `target_resolution` for each output."""
    if isinstance(target_resolution, Mapping):
        steps: list[Any] = [None] * outputs.size
        places = outputs.places("target_resolution", target_resolution)
        for place, step in zip(places, target_resolution.values(), strict=True):
            steps[place] = step
        return steps
    is_one = isinstance(target_resolution, (str, Real)) or target_resolution is None
    if is_one:
        return [target_resolution] * outputs.size
    steps = list(target_resolution)
    if len(steps) != outputs.size:
        raise ValueError(
            "target_resolution must be one step, or one for each of the "
            f"{outputs.size} outputs, got {target_resolution!r}."
        )
    return steps


def _step(step: Any, output: int, column: Floats) -> float:
    """Check the step of one output, or find it in its values (n,)."""
    values = column[np.isfinite(column)]
    if step is None:
        return 0.0
    if isinstance(step, str) and step == "auto":
        return detect_resolution(values)
    is_number = isinstance(step, Real) and not isinstance(step, bool)
    if not is_number or not 0 < float(step) < np.inf:
        raise ValueError(
            "target_resolution must be None, 'auto' or a positive number, or one of "
            f"these for each output; got {step!r} for output {output}."
        )
    finest = LEAST_SPACINGS * np.spacing(np.abs(values).max(initial=0.0))
    if step < finest:
        raise ValueError(
            f"target_resolution={step} of output {output} is finer than float64 "
            f"resolves among values as large as {np.abs(values).max():.6g}. Set "
            f"None for exact values, or a step of {finest:.2g} or more."
        )
    return float(step)


def detect_resolution(values: Floats) -> float:
    """Find the step of which all values (n,) are multiples; zero if there is none.

    Values that hardly repeat are taken as exact: all floats are multiples of a step.

    Examples
    --------
    >>> import numpy as np
    >>> from skmdn._data.resolution import detect_resolution
    >>> detect_resolution(np.array([5.0, 6.0, 6.0, 8.0, 5.0, 6.0]))
    1.0
    >>> detect_resolution(np.random.default_rng(0).normal(size=100))
    0.0
    """
    distinct = np.unique(values)
    if len(distinct) < 2 or len(values) < ROWS_PER_VALUE * len(distinct):
        return 0.0
    least = float(np.diff(distinct).min())
    size = np.abs(distinct).max()
    decimals = DECIMALS * 10.0 ** np.arange(
        LARGEST_EXPONENT, LARGEST_EXPONENT - N_EXPONENTS, -1
    ).reshape(-1, 1)
    for step in (_rounded(least), *decimals.ravel()):
        if step > least * (1 + GRID_TOLERANCE) or step < 1e-3 * least:
            continue
        if step < LEAST_SPACINGS * np.spacing(size):
            continue
        places = distinct / step
        if np.abs(places - np.round(places)).max() <= GRID_TOLERANCE:
            return float(step)
    return 0.0


def _rounded(step: float) -> float:
    """Round a difference of floats to the digits that a person would have meant."""
    return float(f"{step:.6g}")
