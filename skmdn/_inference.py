"""Fitted networks at work, in the unit of y and in chunks of rows of bounded size."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from skmdn import _mixture
from skmdn._arrays import row_chunks, to_tensor
from skmdn._calibration import pool_by_fold
from skmdn._mixture import Mixture
from skmdn._rows import LazyRows, Scaling, Subset, as_dense, folds_of, take_rows
from skmdn.nn import MixtureDensityNetwork, pool

__all__ = ["Predictor", "log_density_held_out"]

# Rows of each network's fold in one pass.
HELD_OUT_ROWS = 4096


@dataclass(frozen=True)
class Predictor:
    """Networks and the standardisation they were trained under.

    Everything is float64, so that a row's prediction does not depend on its chunk.
    """

    network: MixtureDensityNetwork
    X_scaling: Scaling
    y_scaling: Scaling
    device: torch.device

    @classmethod
    def on(
        cls,
        device: torch.device,
        network: MixtureDensityNetwork,
        X_scaling: Scaling,
        y_scaling: Scaling,
    ) -> Predictor:
        if device.type == "cuda":
            network = deepcopy(network).to(device)
        else:  # float64 exists on the CPU and on CUDA only
            device = torch.device("cpu")
        return cls(network, X_scaling, y_scaling, device)

    @torch.no_grad()
    def mixtures(self, X: Any) -> Iterator[Mixture]:
        """Pooled mixtures of all networks."""
        shift, scale = map(to_tensor, self.y_scaling)
        for _, rows in self._chunks(X, self.network.floats_per_mixture):
            mixture = Mixture(*(part.cpu() for part in pool(self.network(rows))))
            yield _mixture.rescale(mixture, shift, scale)

    @torch.no_grad()
    def means(self, X: Any) -> Tensor:
        """Conditional means, (n, d)."""
        means = self._room(X)
        for chunk, rows in self._chunks(X, self.network.floats_per_row):
            means[chunk] = self.network.mean(rows).mean(0).T.cpu()
        shift, scale = map(to_tensor, self.y_scaling)
        return means.mul_(scale).add_(shift)

    @torch.no_grad()
    def means_and_variances(self, X: Any) -> tuple[Tensor, Tensor]:
        """Conditional means and variances of each output, (n, d)."""
        means, variances = self._room(X), self._room(X)
        for chunk, rows in self._chunks(X, self.network.floats_per_row):
            mean, variance = self.network.moments(rows)
            # The law of total variance, of equally likely members.
            variance = variance.mean(0) + mean.var(0, correction=0)
            means[chunk], variances[chunk] = mean.mean(0).T.cpu(), variance.T.cpu()
        shift, scale = map(to_tensor, self.y_scaling)
        return means.mul_(scale).add_(shift), variances.mul_(scale**2)

    @torch.no_grad()
    def log_density(self, X: Any, y: NDArray) -> Tensor:
        """Log-density of a row of y (n, d) for each of X, (n,)."""
        log_density = torch.empty(len(y), dtype=torch.float64)
        for chunk, rows in self._chunks(X, self.network.floats_per_row):
            targets = self.y_scaling.apply(y[chunk]).to(self.device)
            values = self.network.terms(rows, targets).log_density(y.shape[1])
            log_density[chunk] = pool_by_fold(values, 1)[0].cpu()
        return log_density.sub_(self.y_scaling.log_scale)

    def _room(self, X: Any) -> Tensor:
        """Results are written to one place: parts kept would fragment the memory."""
        return torch.empty(X.shape[0], len(self.y_scaling.mean), dtype=torch.float64)

    def _chunks(self, X: Any, floats: int) -> Iterator[tuple[slice, Tensor]]:
        for chunk in row_chunks(X.shape[0], 8 * floats):
            rows = self.X_scaling.apply(as_dense(X[chunk]))
            yield chunk, rows.to(self.device)


@torch.no_grad()
def log_density_held_out(
    network: MixtureDensityNetwork, X: LazyRows, y: Tensor, held_out: Subset
) -> Tensor:
    """Log-density of every row under the networks that held it out, pooled, (n,)."""
    log_density = torch.empty(len(y), dtype=y.dtype)
    n_folds = len(held_out.rows)
    fold = folds_of(network.n_members, n_folds)
    for columns in torch.arange(held_out.rows.shape[1]).split(HELD_OUT_ROWS):
        rows, counts = (part[:, columns] for part in held_out)
        of_member = rows[fold]
        terms = network.terms(take_rows(X, of_member), take_rows(y, of_member))
        pooled = pool_by_fold(terms.log_density(y.shape[1]), n_folds)
        log_density[rows[counts]] = pooled[counts]
    return log_density
