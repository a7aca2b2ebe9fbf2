"""The parameter `target_support`: bounds of the outputs, and maps to latent ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skmdn._data.outputs import Outputs
from skmdn._mixture import maps
from skmdn._mixture.maps import Bounds
from skmdn._utils.arrays import to_numpy, to_tensor

Array = TypeVar("Array", NDArray[Any], Tensor)

FORMS = (
    "target_support must be None, a pair (low, high) for every output, a sequence of "
    "one pair or None for each output, or a dict of pairs by output; None stands for "
    "an open end"
)


@dataclass(frozen=True)
class Support:
    """The open interval in which one output lies, and its map to the real line.

    The map z = g(y) increases. It is y itself without bounds, log(y - low) with a lower
    bound, -log(high - y) with an upper one, and the logit of (y - low) / (high - low)
    with both.

    Parameters
    ----------
    low, high : float or None, default=None
        Bounds in the unit of y; None, or an infinite number, for an open end.

    Raises
    ------
    ValueError
        If a bound is no number or NaN, or low is not less than high.

    Examples
    --------
    >>> import numpy as np
    >>> from skmdn._data.supports import Support
    >>> unit = Support(0, 1)
    >>> unit.to_latent(np.array([0.5, 0.9])).round(4)
    array([0.    , 2.1972])
    >>> unit.from_latent(np.array([-40.0, 0.0]))
    array([4.24835426e-18, 5.00000000e-01])
    """

    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        low = _as_bound(self.low, -math.inf)
        high = _as_bound(self.high, math.inf)
        if not low < high:
            raise ValueError(
                f"target_support needs low < high, got ({self.low}, {self.high})."
            )
        is_interval = math.isfinite(low) and math.isfinite(high)
        if is_interval and not math.isfinite(high - low):
            raise ValueError(
                f"target_support needs bounds whose difference is a float, got "
                f"({self.low}, {self.high}). Change the unit of y."
            )
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)

    def __repr__(self) -> str:
        return f"Support({self.low}, {self.high})"

    @property
    def is_identity(self) -> bool:
        """Whether there is no bound, so that z = y."""
        return math.isinf(self.ends[0]) and math.isinf(self.ends[1])

    @property
    def ends(self) -> tuple[float, float]:
        """Lower and upper bound, infinite for an open end."""
        assert self.low is not None
        assert self.high is not None
        return self.low, self.high

    def to_latent(self, y: Array) -> Array:
        """Map y to z = g(y), infinite on and outside a bound."""
        return _apply(maps.to_latent, Supports((self,)).all_bounds, y)

    def from_latent(self, z: Array) -> Array:
        """Map z to y, strictly inside the bounds where z is finite."""
        return _apply(maps.from_latent, Supports((self,)).all_bounds, z)

    def log_slope(self, z: Array) -> Array:
        """Compute log dy/dz as a function of z, accurate in both tails."""
        return _apply(maps.log_slope, Supports((self,)).all_bounds, z)

    def log_derivative(self, y: Array) -> Array:
        """Compute log dz/dy, which is -inf on and outside a bound."""
        return _apply(maps.log_derivative, Supports((self,)).all_bounds, y)

    def is_outside(self, y: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return where y lies on or outside a bound."""
        low, high = self.ends
        is_outside: NDArray[np.bool_] = math.isfinite(low) & (y <= low)
        is_outside |= math.isfinite(high) & (y >= high)
        return is_outside


@dataclass(frozen=True)
class Supports(Sequence[Support]):
    """The supports of all outputs.

    Parameters
    ----------
    each : tuple of Support
        Support of every output.

    Examples
    --------
    >>> import numpy as np
    >>> from skmdn._data.outputs import Outputs
    >>> from skmdn._data.supports import Supports
    >>> supports = Supports.of({"length": (0, None)}, Outputs((2,), ("length", "x")))
    >>> supports.to_state()
    ((0.0, None), (None, None))
    >>> supports.to_latent(np.array([1.0, -3.0]))
    array([ 0., -3.])
    """

    each: tuple[Support, ...]

    @classmethod
    def of(cls, target_support: Any, outputs: Outputs) -> Supports:
        """Read the parameter `target_support`.

        Parameters
        ----------
        target_support : None, Supports, pair, sequence or dict
            A pair of two numbers, or of numbers and None, is the support of every
            output. A sequence with another kind of entry has one entry, a pair or
            None, for each output: with two outputs `(0, None)` is one pair for both,
            and `[(0, None), None]` has one entry for each. A dict has pairs by name
            or position of the output; the others have no bound.
        outputs : Outputs
            Names and number of the outputs.

        Raises
        ------
        ValueError
            If it has none of these forms, or a pair is not increasing.
        """
        size = outputs.size
        if isinstance(target_support, cls):
            _check_length(target_support, size)
            return target_support
        if target_support is None:
            return cls.without_bounds(size)
        if isinstance(target_support, Mapping):
            return cls._of_mapping(target_support, outputs)
        entries = _as_list(target_support)
        if len(entries) == 2 and all(map(_is_end, entries)):
            return cls((_as_support(entries),) * size)
        _check_length(entries, size)
        return cls(tuple(map(_as_support, entries)))

    @classmethod
    def _of_mapping(cls, pairs: Mapping[Any, Any], outputs: Outputs) -> Supports:
        """Read pairs by name or position of the output."""
        positions = outputs.places("target_support", pairs)
        each = [Support()] * outputs.size
        for position, pair in zip(positions, pairs.values(), strict=True):
            each[position] = _as_support(pair)
        return cls(tuple(each))

    @classmethod
    def without_bounds(cls, size: int) -> Supports:
        """Return the supports of outputs that have no bounds."""
        return cls((Support(),) * size)

    @classmethod
    def from_state(cls, state: Sequence[Sequence[float | None]]) -> Supports:
        """Rebuild what `to_state` returned."""
        return cls(tuple(Support(*pair) for pair in state))

    def to_state(self) -> tuple[tuple[float | None, float | None], ...]:
        """Return the pairs of bounds, None for an open end."""
        low, high = (ends.tolist() for ends in self.all_bounds)
        pairs = zip(low, high, strict=True)
        return tuple((_as_end(first), _as_end(last)) for first, last in pairs)

    # -- sequence ----------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.each)

    def __iter__(self) -> Iterator[Support]:
        return iter(self.each)

    def __getitem__(self, position: Any) -> Any:
        return self.each[position]

    def select(self, positions: Sequence[int]) -> Supports:
        """Return the supports of some outputs."""
        return Supports(tuple(self.each[position] for position in positions))

    @property
    def is_identity(self) -> bool:
        """Whether no output has a bound."""
        return all(support.is_identity for support in self.each)

    @property
    def all_bounds(self) -> Bounds:
        """All bounds as tensors (d,)."""
        low, high = zip(*(support.ends for support in self.each), strict=True)
        return Bounds(to_tensor(low), to_tensor(high))

    @property
    def bounds(self) -> Bounds | None:
        """All bounds as tensors (d,), or None if there are none."""
        return None if self.is_identity else self.all_bounds

    # -- maps --------------------------------------------------------------------

    def to_latent(self, y: Array) -> Array:
        """Map y (..., d) to z, infinite on and outside a bound."""
        return _apply(maps.to_latent, self.all_bounds, y)

    def from_latent(self, z: Array) -> Array:
        """Map z (..., d) to y, strictly inside the bounds where z is finite."""
        return _apply(maps.from_latent, self.all_bounds, z)

    def log_derivative(self, y: Array) -> Array:
        """Compute the log-determinant of dz/dy at y (..., d), (...).

        It is -inf on and outside a bound.
        """
        total: Array = _apply(maps.log_derivative, self.all_bounds, y).sum(-1)
        return total

    def check(self, name: str, y: NDArray[Any]) -> None:
        """Raise ValueError if y (n, d) lies on or outside a bound."""
        for position, support in enumerate(self.each):
            values = np.asarray(y)[..., position]
            is_outside = support.is_outside(values)
            if not is_outside.any():
                continue
            outside = values[is_outside]
            low, high = self.all_bounds.low[position], self.all_bounds.high[position]
            excess = np.maximum(float(low) - outside, outside - float(high))
            raise ValueError(
                f"{name} must lie inside the open interval ({float(low):g}, "
                f"{float(high):g}) that target_support gives for output {position}, "
                f"but {outside.size} of {values.size} values do not; the worst is "
                f"{outside.flat[excess.argmax()]:g}. Set target_resolution, whose "
                "cells can touch the bound, or widen target_support."
            )


def _apply(function: Any, bounds: Bounds, values: Array) -> Array:
    """Apply a map to an array or a tensor, in float64."""
    if isinstance(values, Tensor):
        bounds = Bounds(*(ends.to(values.device) for ends in bounds))
        return cast(Array, function(bounds, values.to(torch.float64)))
    return cast(Array, to_numpy(function(bounds, to_tensor(values))))


def _as_list(values: Any) -> list[Any]:
    """Return the entries of a sequence or an array."""
    if isinstance(values, str) or not np.iterable(values):
        raise ValueError(f"{FORMS}; got {values!r}.")
    return values.tolist() if isinstance(values, np.ndarray) else list(values)


def _is_end(value: Any) -> bool:
    """Return whether a value can be an end of a pair."""
    is_truth_value = isinstance(value, (bool, np.bool_))
    return value is None or (isinstance(value, Real) and not is_truth_value)


def _as_support(pair: Any) -> Support:
    """Return the support of one output, given as None or a pair."""
    if pair is None:
        return Support()
    if isinstance(pair, Support):
        return pair
    ends = _as_list(pair)
    if len(ends) != 2 or not all(map(_is_end, ends)):
        raise ValueError(f"{FORMS}; got {pair!r}, which is not a pair.")
    return Support(*ends)


def _as_bound(value: Any, default: float) -> float:
    """Return an end of a support as a float."""
    if not _is_end(value):
        raise ValueError(f"{FORMS}; got the end {value!r}.")
    bound = default if value is None else float(value)
    if math.isnan(bound):
        raise ValueError("target_support must not contain NaN.")
    return bound


def _as_end(bound: float) -> float | None:
    """Return a bound as an end of a pair."""
    return bound if math.isfinite(bound) else None


def _check_length(entries: Sequence[Any], size: int) -> None:
    """Raise unless there is one entry for each output."""
    if len(entries) != size:
        raise ValueError(
            f"{FORMS}; got {len(entries)} entries for {size} outputs: {entries!r}."
        )
