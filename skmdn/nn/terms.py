"""Terms of the log-densities of rows, which a calibration changes.

There is a class for each kind of targets. With K components and n rows, cases are
pairs of a network and a list of rows that it is evaluated on.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
from torch import Tensor

from skmdn import _mixture
from skmdn._mixture.cells import truncate
from skmdn.nn.likelihood import Calibration


class Sharpened(NamedTuple):
    """Joint log-densities of components under a log-sharpness, (n_cases, K, n).

    Parameters
    ----------
    joint : Tensor
        Log-weights and log-densities, less a constant.
    constant : float
        In nats; left out of `joint` to save a pass over it.
    first, second : Tensor
        Derivatives with respect to the log-sharpness.
    """

    joint: Tensor
    constant: float
    first: Tensor
    second: Tensor


@dataclass(frozen=True)
class Terms(ABC):
    """Terms of the log-densities of rows.

    The first axis of every tensor is that of the cases, the last one that of the rows,
    and what lies between broadcasts.

    Parameters
    ----------
    log_weights : Tensor of shape (n_cases, K, n)
    """

    log_weights: Tensor

    @abstractmethod
    def sharpen(self, log_weights: Tensor, log_sharpness: float) -> Sharpened:
        """Compute joint log-densities and their derivatives, with these weights."""

    @abstractmethod
    def log_density(self) -> Tensor:
        """Return the log-density of each case, (n_cases, n), in nats."""

    @abstractmethod
    def _sharpened(self, log_sharpness: float) -> Terms:
        """Return the terms with all precision factors multiplied."""

    def calibrated(self, calibration: Calibration) -> Terms:
        """Return the terms under a calibration, without a floor of the variances."""
        log_sharpness, log_power = calibration
        log_weights = (math.exp(log_power) * self.log_weights).log_softmax(1)
        return replace(self._sharpened(log_sharpness), log_weights=log_weights)

    # -- tensors -------------------------------------------------------------------

    @property
    def parts(self) -> dict[str, Tensor]:
        """Tensors by name."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return {k: part for k, part in parts.items() if isinstance(part, Tensor)}

    @property
    def floats_per_row(self) -> int:
        """Size of the largest tensor for one row; a rank can have none."""
        return max(math.prod(part.shape[:-1]) for part in self.parts.values())

    @property
    def is_finite(self) -> bool:
        """Whether all numbers are finite."""
        return all(bool(part.isfinite().all()) for part in self.parts.values())

    def map(self, function: Callable[[Tensor], Tensor]) -> Terms:
        """Apply a function to every tensor."""
        return replace(self, **{k: function(part) for k, part in self.parts.items()})

    def select(self, index: Tensor) -> Terms:
        """Return the terms of some cases."""
        return self.map(lambda part: part[index])

    def split(self, n_rows: int) -> list[Terms]:
        """Split the terms into blocks of rows."""
        parts = {k: part.split(n_rows, dim=-1) for k, part in self.parts.items()}
        blocks = zip(*parts.values(), strict=True)
        return [replace(self, **dict(zip(parts, b, strict=True))) for b in blocks]

    @staticmethod
    def cat(terms: Sequence[Terms], dim: int = 0) -> Terms:
        """Concatenate terms of one class along the cases, or along the rows, dim -1."""
        parts = [each.parts for each in terms]
        return replace(
            terms[0], **{k: torch.cat([p[k] for p in parts], dim) for k in parts[0]}
        )


@dataclass(frozen=True)
class PointTerms(Terms):
    """Terms of outputs that are all observed exactly.

    log p = logsumexp_k(log_weight_k + log_det_k - distance_k / 2) - d/2 log 2 pi.

    Parameters
    ----------
    log_dets, distances : Tensor of shape (n_cases, K, n)
        Log-determinants of the precision factors, with 1 for K where components share
        a matrix, and squared lengths of the whitened residuals.
    n_outputs : int
    """

    log_dets: Tensor
    distances: Tensor
    n_outputs: int

    def sharpen(self, log_weights: Tensor, log_sharpness: float) -> Sharpened:
        distances = math.exp(2 * log_sharpness) * self.distances
        return Sharpened(
            log_weights + self.log_dets - 0.5 * distances,
            self.n_outputs * (log_sharpness - 0.5 * _mixture.LOG_2PI),
            self.n_outputs - distances,
            -2 * distances,
        )

    def log_density(self) -> Tensor:
        joint = self.log_weights + self.log_dets - 0.5 * self.distances
        return joint.logsumexp(1) - 0.5 * self.n_outputs * _mixture.LOG_2PI

    def _sharpened(self, log_sharpness: float) -> Terms:
        return replace(
            self,
            log_dets=self.log_dets + self.n_outputs * log_sharpness,
            distances=math.exp(2 * log_sharpness) * self.distances,
        )


@dataclass(frozen=True)
class PartialTerms(Terms):
    """Terms of outputs that are observed exactly or missing.

    Parameters
    ----------
    log_dets, distances : Tensor of shape (n_cases, K, n)
        As in `PointTerms`, of the outputs that are observed.
    n_observed : Tensor of shape (n_cases, 1, n)
        Number of these outputs.
    """

    log_dets: Tensor
    distances: Tensor
    n_observed: Tensor

    def sharpen(self, log_weights: Tensor, log_sharpness: float) -> Sharpened:
        distances = math.exp(2 * log_sharpness) * self.distances
        constant = self.n_observed * (log_sharpness - 0.5 * _mixture.LOG_2PI)
        joint = log_weights + (self.log_dets + constant) - 0.5 * distances
        return Sharpened(joint, 0.0, self.n_observed - distances, -2 * distances)

    def log_density(self) -> Tensor:
        return self.sharpen(self.log_weights, 0.0).joint.logsumexp(1)

    def _sharpened(self, log_sharpness: float) -> Terms:
        return replace(
            self,
            log_dets=self.log_dets + self.n_observed * log_sharpness,
            distances=math.exp(2 * log_sharpness) * self.distances,
        )


@dataclass(frozen=True)
class CellTerms(Terms):
    """Terms of outputs in cells; those observed exactly have cells of width zero.

    Parameters
    ----------
    z : Tensor of shape (n_cases, K, d, n)
        Whitened residuals of the points, each given the later outputs.
    precision : Tensor of shape (n_cases, K, d, n)
        Inverse standard deviations of outputs given the later ones, with 1 for K where
        components share them.
    below, above : Tensor of shape (n_cases, 1, d, n)
        Bounds less the points; the whole line where an output is missing.
    """

    z: Tensor
    precision: Tensor
    below: Tensor
    above: Tensor

    def sharpen(self, log_weights: Tensor, log_sharpness: float) -> Sharpened:
        terms = self._sharpened(log_sharpness)
        below, above = terms.precision * self.below, terms.precision * self.above
        cells = truncate(terms.z, below, above)
        log_units = self.log_units(terms.precision, self.below, self.above)
        return Sharpened(
            log_weights + (cells.log_probability + log_units).sum(2),
            0.0,
            (1 - cells.square).sum(2),
            (cells.spread - 2 * cells.square).sum(2),
        )

    def log_density(self) -> Tensor:
        return self.sharpen(self.log_weights, 0.0).joint.logsumexp(1)

    def _sharpened(self, log_sharpness: float) -> CellTerms:
        sharpness = math.exp(log_sharpness)
        return replace(self, z=sharpness * self.z, precision=sharpness * self.precision)

    @staticmethod
    def log_units(precision: Tensor, below: Tensor, above: Tensor) -> Tensor:
        """Return what turns densities of z into those of y; zero for probabilities."""
        return precision.log().masked_fill(below != above, 0)
