"""How targets become what networks see, and how densities return to the unit of y."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_ndtr, ndtri_exp
from torch import Tensor

from skmdn._data.censored import PRIOR_VARIANCE, fit_censored
from skmdn._data.rows import UniqueRows, hash_rows
from skmdn._data.scaling import Scaling
from skmdn._data.targets import Recording, Targets
from skmdn._mixture.cells import truncate
from skmdn.distributed import ALONE, Ranks

Floats = NDArray[np.float64]

# Largest standard deviation of a component of the logarithm of an output, over that of
# all its values: the mean of a log-normal distribution grows as the exponential of half
# the variance, so that a wide component of little weight, which likelihood hardly sees,
# would determine mean and CRPS.
LARGEST_SPREAD = 2.0


@dataclass(frozen=True)
class TargetTransform:
    """Map of targets: by their supports to latent ones, which are then standardised.

    Parameters
    ----------
    recording : Recording
    scaling : Scaling
        Of the latent targets.
    mean, std : ndarray of shape (n_outputs,)
        Normal distribution of the latent targets. Its conditional mean in a cell that
        is open on one side stands for the target where a number is needed.
    """

    recording: Recording
    scaling: Scaling
    mean: Floats
    std: Floats

    @classmethod
    def fit(
        cls, recording: Recording, rows: UniqueRows, ranks: Ranks = ALONE
    ) -> TargetTransform:
        """Fit the scaling to unique rows."""
        y, weight = rows.y, rows.weight
        if y.n_blocks == 1:
            scaling = Scaling.fit_targets(y.points, weight, ranks)
            return cls(recording, scaling, scaling.mean, np.abs(scaling.scale))
        scalings, normals = [], []
        hashes = hash_rows(rows.X, rows.positions)
        for j in range(y.n_outputs):
            column, known = _column(y, j)
            # A rank need not have an observed row; those without have no weight.
            of_rows = weight * known[:, 0]
            mean, std = _normal(column, of_rows, ranks)
            std = std or 1.0
            values = column.points
            if column.is_open.any():
                values = _quantiles(column, mean, std, hashes)
            values = np.where(known, values, mean)
            normals.append((mean, std))
            scalings.append(Scaling.fit_targets(values, of_rows, ranks))
        scaling = Scaling(
            np.concatenate([each.mean for each in scalings]),
            np.concatenate([each.scale for each in scalings]),
        )
        return cls(recording, scaling, *np.array(normals).T)

    def largest_scale(self, targets: Targets, weight: Floats, ranks: Ranks) -> float:
        """Return the largest standard deviation of a component, standardised.

        Infinite if no output has exactly one bound, and where values are equal. Cells
        at the bound do not count: the logarithms of their values have no end.
        """
        scales = []
        for j, (low, high) in enumerate(self.recording.supports.to_state()):
            if (low is None) == (high is None):
                continue
            column, known = _column(targets, j)
            if column.has_cells:
                known &= np.isfinite(column.cells[low is None])
            counts = weight * known[:, 0]
            if ranks.sum(counts.sum()) > 0:
                spread = LARGEST_SPREAD * _normal(column, counts, ranks)[1] or math.inf
                scales.append(spread / abs(float(self.scaling.scale[j])))
        return min(scales, default=math.inf)

    def with_points(self, targets: Targets) -> Targets:
        """Let means stand for what was not observed, and for targets in open cells."""
        is_observed, is_open = targets.is_observed, targets.is_open
        if is_observed is None and not is_open.any():
            return targets
        points = targets.points.copy()
        if is_open.any():
            output = np.nonzero(is_open)[1]
            mean, std = self.mean[output], self.std[output]
            centres = _truncated(*_ends(targets, is_open, mean, std))[0]
            points[is_open] = mean + std * centres
        if is_observed is not None:
            points = np.where(is_observed, points, self.scaling.mean)
        return targets.moved_to(points)

    def standardise(self, targets: Targets) -> Tensor:
        """Return what `skmdn.nn.targets.Targets` splits, in float64.

        Cells are mirrored with a scale that is negative.
        """
        if targets.n_blocks == 1:
            return self.scaling.transform(targets.points)
        targets = self.with_points(targets)
        scale, is_observed = self.scaling.scale, targets.is_observed
        points = self.scaling.transform(targets.points).numpy()
        blocks = [points]
        if targets.has_cells:
            below, above = targets.cells
            is_mirrored = scale < 0
            blocks += [
                -np.where(is_mirrored, above, below) / np.abs(scale),
                np.where(is_mirrored, below, above) / np.abs(scale),
            ]
        if is_observed is not None:
            blocks.append(is_observed.astype(np.float64))
        return torch.from_numpy(np.concatenate(blocks, axis=1))

    def offset(self, targets: Targets) -> Floats:
        """Return what to add to the log-likelihood of standardised targets, (n,).

        The sum is that of the targets in the unit of y, in nats.
        """
        log_scale = np.log(np.abs(self.scaling.scale))
        if targets.n_blocks == 1:
            offset: Floats = targets.offset - log_scale.sum()
            return offset
        offset = targets.offset - targets.is_exact @ log_scale
        return offset

    def mean_offset(self, targets: Targets, weight: Floats, ranks: Ranks) -> float:
        """Average the `offset` over the rows of all ranks."""
        offset = self.offset(targets)
        ends = [offset.max(initial=-np.inf), -offset.min(initial=np.inf)]
        high, minus_low = ranks.max(ends)
        if high == -minus_low:  # without rounding
            return float(high)
        total, n_rows = ranks.sum([weight @ offset, weight.sum()])
        return float(total / n_rows)

    def to_state(self) -> dict[str, Any]:
        """Convert to arrays and builtins."""
        return {
            "recording": self.recording.to_state(),
            "scaling": self.scaling.to_state(),
            "normal": np.stack([self.mean, self.std]),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> TargetTransform:
        """Undo `to_state`."""
        return cls(
            Recording.from_state(state["recording"]),
            Scaling.from_state(state["scaling"]),
            *np.array(state["normal"]),
        )


def _column(targets: Targets, output: int) -> tuple[Targets, NDArray[np.bool_]]:
    """Return the targets of one output, and which were observed, (n, 1)."""
    d, n_blocks = targets.n_outputs, 3 if targets.has_cells else 1
    table = targets.table[:, output : n_blocks * d : d]
    known = np.ones((len(targets), 1), dtype=bool)
    if targets.is_observed is not None:
        known = targets.is_observed[:, [output]]
    return replace(targets, table=table, n_outputs=1), known


# -- the normal distribution of partly censored targets ------------------------------


def _normal(column: Targets, weight: Floats, ranks: Ranks) -> tuple[float, float]:
    """Fit a normal distribution to targets of one output.

    Only open cells count as cells. The standard deviation is zero if all targets, or
    the ends of their cells, are equal.
    """
    values, side = column.points[:, 0], np.zeros(len(column))
    if column.has_cells:
        (below, above), is_open = column.cells, column.is_open[:, 0]
        side[is_open] = np.where(np.isinf(above[is_open, 0]), 1.0, -1.0)
        ends = np.where(side > 0, -below[:, 0], np.where(side < 0, above[:, 0], 0.0))
        values = values + ends
    total = float(ranks.sum(weight.sum()))
    mean = float(ranks.sum(weight @ values)) / total
    std = math.sqrt(float(ranks.sum(weight @ (values - mean) ** 2)) / total)
    if std == 0 or not ranks.max((side != 0).any()):
        return mean, std
    repetitions = weight * (total / float(ranks.sum(weight @ weight)))
    given = np.empty((len(values), 0)), (values - mean) / std, side, repetitions
    model = fit_censored(*given, PRIOR_VARIANCE, (0.0, 1.0), ranks)
    return mean + std * model.intercept, std * math.sqrt(model.variance)


def _ends(
    targets: Targets, chosen: NDArray[np.bool_], mean: Any, std: Any
) -> tuple[Floats, Floats]:
    """Return the ends of some cells, in standard deviations from means."""
    below, above = (side[chosen] for side in targets.cells)
    points = targets.points[chosen]
    return (points - below - mean) / std, (points + above - mean) / std


def _truncated(low: Floats, high: Floats) -> tuple[Floats, Floats]:
    """Compute mean and log-probability of the standard normal within cells, (n,)."""
    below, above = map(torch.from_numpy, (low, high))
    cells = truncate(torch.zeros_like(below), below, above)
    return cells.mean.numpy(), cells.log_probability.numpy()


def _quantiles(
    column: Targets, mean: float, std: float, hashes: NDArray[np.uint64]
) -> Floats:
    """Draw the targets in open cells, by the hash of each row; return all, (n, 1).

    Conditional means would spread less than the targets.
    """
    low, high = _ends(column, column.is_open, mean, std)
    level = (hashes[column.is_open[:, 0]] >> np.uint64(11)).astype(np.float64)
    level = (level + 0.5) / 2.0**53
    # Reflected to the lower tail, where log_ndtr is accurate.
    is_upper = low > 0
    low, high = np.where(is_upper, -high, low), np.where(is_upper, -low, high)
    log_level = np.log(level) + _truncated(low, high)[1]
    drawn = ndtri_exp(
        np.minimum(np.logaddexp(log_ndtr(low), log_level), log_ndtr(high))
    )
    values = column.points.copy()
    values[column.is_open] = mean + std * np.where(is_upper, -drawn, drawn)
    return values
