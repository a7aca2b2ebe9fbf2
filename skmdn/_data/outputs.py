"""Names and shape of the outputs, the columns of y."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, TypeVar

from numpy.typing import NDArray
from torch import Tensor

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
    """

    event_shape: tuple[int, ...]
    names: tuple[str, ...] | None = None

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
        if not isinstance(output, Integral):
            raise TypeError(
                f"An output is a position or a name, got {output!r} of type "
                f"{type(output).__name__}."
            )
        position = int(output)
        if not -self.size <= position < self.size:
            raise ValueError(f"Unknown output {output}; there are {self.size} outputs.")
        return position % self.size

    def select(self, positions: Sequence[int], *, scalar: bool = False) -> Outputs:
        """Return the outputs at some positions, as a vector or one scalar."""
        names = self.names and tuple(self.names[j] for j in positions)
        return Outputs(() if scalar else (len(positions),), names)
