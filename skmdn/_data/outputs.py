"""Names and shape of the outputs, the columns of y."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from skmdn._data.conversion import is_frame

Array = TypeVar("Array", NDArray[Any], Tensor)


@dataclass(frozen=True)
class Outputs:
    """Outputs of a density or a fit.

    Parameters
    ----------
    event_shape : tuple of int
        Shape of one observation of y, as in `torch.distributions`: ``()`` for a
        scalar, ``(d,)`` for a vector of d outputs.
    names : tuple of str, default=None
        Name of each output, where y had names.
    resolution : tuple of float or None, default=None
        Step to which each output was recorded, None for an exact one; None if all are
        exact. Known to densities only.
    """

    event_shape: tuple[int, ...]
    names: tuple[str, ...] | None = None
    resolution: tuple[float | None, ...] | None = None

    @property
    def size(self) -> int:
        """Number of outputs d; 1 for a scalar."""
        return self.event_shape[0] if self.event_shape else 1

    def squeeze(self, array: Array) -> Array:
        """Turn the last axis (..., d) into (..., *event_shape)."""
        return array if self.event_shape else array[..., 0]

    def squeeze_matrix(self, array: Array) -> Array:
        """Turn the last two axes (..., d, d) into (...) for a scalar."""
        return array if self.event_shape else array[..., 0, 0]

    def positions(self, outputs: Iterable[Any]) -> list[int]:
        """Return the positions of different outputs given by position or name.

        Raises
        ------
        TypeError
            If an output is neither an integer nor a string.
        ValueError
            If an output is unknown or repeated, or none is given.
        """
        outputs = list(outputs)
        positions = [self.position(output) for output in outputs]
        if not positions:
            raise ValueError("At least one output is needed, got none.")
        if len(set(positions)) < len(positions):
            raise ValueError(f"Each output may be given once, got {outputs}.")
        return positions

    def others(self, positions: Sequence[int]) -> list[int]:
        """Return the other positions, rising."""
        return [j for j in range(self.size) if j not in positions]

    def places(self, parameter: str, outputs: Iterable[Any]) -> list[int]:
        """Return the positions of the keys of a parameter, which may have none.

        Raises
        ------
        ValueError
            If an output is unknown or repeated; the message names the parameter.
        """
        outputs = list(outputs)
        try:
            return self.positions(outputs) if outputs else []
        except (TypeError, ValueError) as exc:
            raise ValueError(f"{parameter}: {exc}") from exc

    def position(self, output: Any) -> int:
        """Return the position of one output given by position or name."""
        if isinstance(output, str):
            if self.names is not None and output in self.names:
                return self.names.index(output)
            raise ValueError(
                f"Unknown output {output!r}; the outputs are named {list(self.names)}."
                if self.names is not None
                else f"Unknown output {output!r}; the outputs have no names. Give "
                "positions, or fit on a data frame of targets."
            )
        if isinstance(output, (bool, np.bool_)):
            raise TypeError(
                f"An output is a position or a name, got {output!r}. Replace "
                "a mask by its positions, numpy.flatnonzero(mask)."
            )
        if not isinstance(output, Integral):
            raise TypeError(
                f"An output is a position or a name, got {output!r} of type "
                f"{type(output).__name__}."
            )
        position = int(output)
        if not -self.size <= position < self.size:
            raise ValueError(f"Unknown output {output}; there are {self.size} outputs.")
        return position % self.size

    def align(self, name: str, y: Any) -> Any:
        """Return y with its columns in the order of the outputs, where both have names.

        The names are the columns of a frame, the name of a series of one output, or the
        index of a series that is one observation of several.

        Raises
        ------
        ValueError
            If y has other names than the outputs.
        """
        if self.names is None:
            return y
        is_observation = self.size > 1 and getattr(y, "shape", None) == (self.size,)
        names = index_names(y) if is_observation else output_names(y)
        if names is None or names == self.names:
            return y
        order = self.order_of(name, names)  # raises for a series of one output
        return y.iloc[order] if is_observation else y[[names[j] for j in order]]

    def order_of(self, name: str, names: Sequence[str]) -> list[int]:
        """Return the position of each output among the names of something else.

        Raises
        ------
        ValueError
            If the names are not those of the outputs.
        """
        if self.names is None or sorted(names) != sorted(self.names):
            raise ValueError(
                f"{name} has the outputs {list(names)}, but {list(self.names or ())} "
                "are needed. Select and rename its columns, or pass an array, which "
                "is taken by position."
            )
        return [names.index(own) for own in self.names]

    def select(self, positions: Sequence[int], *, scalar: bool = False) -> Outputs:
        """Return the outputs at some positions, as a vector or one scalar."""
        names = self.names and tuple(self.names[j] for j in positions)
        steps = self.resolution and tuple(self.resolution[j] for j in positions)
        return Outputs(() if scalar else (len(positions),), names, steps)

    def recorded_to(self, resolution: NDArray[np.float64]) -> Outputs:
        """Return the same outputs with steps (d,), zero for exact ones."""
        steps = tuple(float(step) or None for step in resolution)
        return replace(self, resolution=steps if any(steps) else None)


def output_names(y: Any) -> tuple[str, ...] | None:
    """Return the names of the outputs if y is a data frame or a named series."""
    if is_frame(y):
        return _as_names(y.columns)
    return _as_names([y.name]) if hasattr(type(y), "to_frame") else None


def index_names(y: Any) -> tuple[str, ...] | None:
    """Return the index of a series if it consists of names."""
    return _as_names(y.index) if hasattr(type(y), "iloc") else None


def _as_names(labels: Iterable[Any]) -> tuple[str, ...] | None:
    """Return labels as names if all are non-empty strings."""
    labels = list(labels)
    is_named = all(isinstance(label, str) and label for label in labels)
    return tuple(map(str, labels)) if is_named else None


def check_one_output(what: str, outputs: Outputs) -> None:
    """Raise if there are several outputs."""
    if outputs.size > 1:
        raise ValueError(
            f"{what} needs one output, but this density has {outputs.size}. "
            "Select one with density.marginal(output)."
        )
