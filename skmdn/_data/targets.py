"""What is known of targets: values, cells that they lie in, and outputs not observed.

`Recording` turns the targets that a user gives into `Targets`, which all later steps
handle as a table without looking inside, except `skmdn.nn.targets`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skmdn._data.outputs import Outputs
from skmdn._data.resolution import as_resolution
from skmdn._data.supports import Supports

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Targets:
    """Latent targets of n rows: the targets mapped by their supports.

    Parameters
    ----------
    table : ndarray of shape (n, n_blocks * n_outputs)
        Blocks of one column for each output. One block: the points. Two: points, and 1
        where an output was observed, else 0. Three: points, and how far the cell
        reaches below and above the point; both are zero where the value is known.
        Four: points, below, above, and observed.
    offset : ndarray of shape (n,)
        What to add to the log-likelihood of the latent targets for that of the targets
        in the unit of y, in nats.
    n_outputs : int
    """

    table: Floats
    offset: Floats
    n_outputs: int

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, rows: Any) -> Targets:
        return replace(self, table=self.table[rows], offset=self.offset[rows])

    @property
    def n_blocks(self) -> int:
        """Number of blocks of the table."""
        return int(self.table.shape[1]) // self.n_outputs

    @property
    def points(self) -> Floats:
        """One value for each target, (n, n_outputs): zero where none was observed."""
        return self.table[:, : self.n_outputs]

    @property
    def has_cells(self) -> bool:
        """Whether some targets are known to lie in a cell only."""
        return self.n_blocks > 2

    @property
    def is_observed(self) -> NDArray[np.bool_] | None:
        """Which outputs were observed, (n, n_outputs); None if all were."""
        if self.n_blocks % 2:
            return None
        observed: NDArray[np.bool_] = self.table[:, -self.n_outputs :] > 0
        return observed

    def weight_of_known(self, weight: Floats) -> Floats:
        """Return weights (n,) that are zero where nothing was observed."""
        if self.is_observed is None:
            return weight
        return np.where(self.is_observed.any(axis=1), weight, 0.0)

    @property
    def cells(self) -> tuple[Floats, Floats]:
        """How far cells reach below and above the points, two of (n, n_outputs)."""
        d = self.n_outputs
        return self.table[:, d : 2 * d], self.table[:, 2 * d : 3 * d]

    @property
    def is_exact(self) -> NDArray[np.bool_]:
        """Which outputs have a known value, (n, n_outputs)."""
        exact = np.ones(self.points.shape, dtype=bool)
        if self.has_cells:
            below, above = self.cells
            exact &= (below == 0) & (above == 0)
        return exact if self.is_observed is None else exact & self.is_observed

    @property
    def is_open(self) -> NDArray[np.bool_]:
        """Which outputs have a cell with an infinite end, (n, n_outputs)."""
        if not self.has_cells:
            return np.zeros(self.points.shape, dtype=bool)
        return np.isinf(self.cells[0]) | np.isinf(self.cells[1])

    def with_blocks(self, *, cells: bool, observed: bool) -> Targets:
        """Return the same targets with blocks that rows of other ranks need."""
        blocks = [self.points]
        if cells or self.has_cells:
            none = np.zeros_like(self.points)
            blocks += self.cells if self.has_cells else (none, none)
        if observed or self.is_observed is not None:
            known = self.is_observed
            blocks.append(
                np.ones_like(self.points) if known is None else known.astype(np.float64)
            )
        return replace(self, table=np.concatenate(blocks, axis=1))

    def moved_to(self, points: Floats) -> Targets:
        """Return the same cells, seen from other points inside them."""
        table = self.table.copy()
        d = self.n_outputs
        table[:, :d] = points
        if self.has_cells:
            below, above = self.cells
            moved = np.where(below + above > 0, points - self.points, 0.0)
            table[:, d : 2 * d] += moved
            table[:, 2 * d : 3 * d] -= moved
        return replace(self, table=table)


@dataclass(frozen=True)
class Recording:
    """Which values targets can have, and to which step they were recorded.

    Parameters
    ----------
    supports : Supports
    resolution : ndarray of shape (n_outputs,)
        Step of each output; zero where values are exact.
    """

    supports: Supports
    resolution: Floats

    @classmethod
    def of(
        cls,
        target_support: Any,
        target_resolution: Any,
        outputs: Outputs,
        y: Floats,
    ) -> Recording:
        """Check the parameters of an estimator for targets y (n, n_outputs)."""
        return cls(
            Supports.of(target_support, outputs),
            as_resolution(target_resolution, outputs, y),
        )

    @classmethod
    def exact(cls, outputs: Outputs) -> Recording:
        """Return the recording of targets that are any exact numbers."""
        return cls(Supports.of(None, outputs), np.zeros(outputs.size))

    def targets(self, name: str, y: Floats, y_upper: Floats | None = None) -> Targets:
        """Map targets of known kind.

        Parameters
        ----------
        name : str
            Name of the argument, for messages.
        y : ndarray of shape (n, n_outputs)
            NaN where an output was not observed.
        y_upper : ndarray of shape (n,), default=None
            Upper ends of intervals whose lower ends are y, for one output.

        Raises
        ------
        ValueError
            If targets lie outside of their support.
        """
        is_missing = np.isnan(y)
        if is_missing.any():
            y = np.where(is_missing, self._inside(), y)
        upper = y if y_upper is None else y_upper[:, None]
        is_point = y == upper
        half = np.where(is_point, self.resolution / 2, 0.0)
        lower, upper = y - half, upper + half
        is_exact = is_point & (half == 0)
        self._check(name, y, lower, upper, is_exact)
        if is_exact.all():
            latent, slope = y, np.zeros_like(y)
            if not self.supports.is_identity:
                latent, slope = self.supports.to_latent(y), self._log_derivatives(y)
            return self._joined(latent, None, is_missing, slope)
        ends = self._clip(lower), self._clip(upper)
        point, low, high = latent_cells(
            self.supports, np.where(is_point, y, np.nan), *ends
        )
        is_unknown = ~np.isfinite(point)  # of the cell of all values
        point[is_unknown] = 0.0
        slope = np.zeros_like(y)
        if is_exact.any():
            inside = np.where(is_exact, y, self._inside())
            slope = np.where(is_exact, self._log_derivatives(inside), slope)
        steps = np.where(is_point & ~is_exact, self.resolution, 1.0)
        offset = slope - np.log(steps)
        cells = (
            np.where(is_exact | is_unknown, 0.0, point - low),
            np.where(is_exact | is_unknown, 0.0, high - point),
        )
        return self._joined(point, cells, is_missing | is_unknown, offset)

    def _joined(
        self,
        points: Floats,
        cells: tuple[Floats, Floats] | None,
        is_missing: NDArray[np.bool_],
        offset: Floats,
    ) -> Targets:
        blocks = [points, *(cells or ())]
        if is_missing.any():
            blocks = [np.where(is_missing, 0.0, block) for block in blocks]
            blocks.append((~is_missing).astype(np.float64))
            offset = np.where(is_missing, 0.0, offset)
        table = np.concatenate(blocks, axis=1)
        return Targets(table, offset.sum(1), points.shape[1])

    def _inside(self) -> Floats:
        """Return a value of each output inside its support, (n_outputs,)."""
        return self.supports.from_latent(np.zeros(len(self.resolution)))

    def _log_derivatives(self, y: Floats) -> Floats:
        """Compute the log-derivative of the map of each output, (n, n_outputs)."""
        columns = zip(self.supports, y.T, strict=True)
        return np.stack([each.log_derivative(column) for each, column in columns], 1)

    def _clip(self, y: Floats) -> Floats:
        """Limit y to the closed supports."""
        low, high = (ends.numpy() for ends in self.supports.all_bounds)
        return np.clip(y, low, high)

    def _check(
        self,
        name: str,
        y: Floats,
        lower: Floats,
        upper: Floats,
        is_exact: NDArray[np.bool_],
    ) -> None:
        """Refuse targets, or cells, outside of their support."""
        self.supports.check(name, np.where(is_exact, y, self._inside()))
        is_outside = ~is_exact & ~(self._clip(lower) < self._clip(upper))
        if is_outside.any():
            row, output = np.argwhere(is_outside)[0]
            low, high = self.supports.to_state()[output]
            raise ValueError(
                f"{name} has {is_outside.sum()} values whose cells lie outside of "
                f"target_support, ({low}, {high}) for output {output}: "
                f"[{lower[row, output]}, {upper[row, output]}] in row {row}. Widen "
                "target_support, or correct these rows."
            )

    def to_state(self) -> dict[str, Any]:
        """Convert to arrays and builtins."""
        return {"supports": self.supports.to_state(), "resolution": self.resolution}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Recording:
        """Undo `to_state`."""
        supports = Supports.from_state(state["supports"])
        return cls(supports, np.array(state["resolution"], dtype=np.float64))

    def is_same(self, other: Recording) -> bool:
        """Whether another recording is the same."""
        same_steps = np.array_equal(self.resolution, other.resolution)
        return self.supports == other.supports and bool(same_steps)


def latent_cells(
    supports: Supports, y: Floats, lower: Floats, upper: Floats
) -> tuple[Floats, Floats, Floats]:
    """Return a latent point of each cell, and the latent ends, three of (..., d).

    The point is y where it lies in the cell, and else the middle; where an end is
    infinite, the other end. It is infinite where both are.
    """
    low, high = supports.to_latent(lower), supports.to_latent(upper)
    middle = np.where((lower < y) & (y < upper), y, np.nan)
    with np.errstate(invalid="ignore"):
        middle = np.where(np.isnan(middle), 0.5 * (lower + upper), middle)
        point = supports.to_latent(middle)
    point = np.where(np.isfinite(low) & np.isfinite(high), point, np.nan)
    point = np.where(np.isnan(point), np.where(np.isfinite(low), low, high), point)
    return point, low, high
