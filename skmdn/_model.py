"""Trained networks with their scalings, for prediction, storage and export."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skmdn import _mixture
from skmdn._data.checks import Fitted
from skmdn._data.feature_transform import FeatureTransform
from skmdn._data.outputs import Outputs
from skmdn._data.rows import as_dense
from skmdn._data.target_transform import TargetTransform
from skmdn._data.targets import Targets
from skmdn._data.views import VIEWS, View, columns_of
from skmdn._mixture import Mixture, univariate
from skmdn._utils.arrays import (
    inference,
    resolve_device,
    row_chunks,
    to_numpy,
    to_tensor,
)
from skmdn.nn.network import MixtureDensityNetwork
from skmdn.nn.pool import NetworkPool


@dataclass(frozen=True)
class ConditionalModel:
    """Density of y given x: networks between two scalings.

    Predictions are made in float64, so that the prediction for a row depends on its
    chunk only by rounding, and in chunks of bounded memory.

    Parameters
    ----------
    pool : NetworkPool
        Maps standardised X to mixtures over standardised y.
    sizes : sequence of dict
        Number of members of each kind, in their order, for each network of the pool.
    n_estimators : int
        Number of members that was asked for; a fit that was stopped early has fewer.
    features : FeatureTransform
        Standardisation of X.
    target : TargetTransform
        Map from y to what the networks predict.
    outputs : Outputs
        Names of the outputs, and the shape of one y.
    views : mapping
        Views by name.
    views_of : sequence of tuple of str
        Parts of the views whose columns each network of the pool uses.
    """

    pool: NetworkPool
    sizes: Sequence[Mapping[str, int]]
    n_estimators: int
    features: FeatureTransform
    target: TargetTransform
    outputs: Outputs
    views: Mapping[str, View]
    views_of: Sequence[tuple[str, ...]]

    def on(self, device: str) -> ConditionalModel:
        """Copy the networks to a device if it has float64; others fall back on the CPU.

        See `resolve_device` for a device that does not exist.
        """
        resolved = resolve_device(device, fitting=False)
        if resolved.type != "cuda":
            return self
        return replace(self, pool=deepcopy(self.pool).to(resolved))

    @property
    def n_components(self) -> int:
        """Gaussians of each member."""
        return int(next(iter(self.pool)).arguments["n_components"])

    def weights(self) -> dict[str, float]:
        """Return the weight of each kind in the pooled mixture."""
        weights = self.pool.log_weights.exp()
        sizes = [item for part in self.sizes for item in part.items()]
        parts = weights.split([size for _, size in sizes])
        return {
            kind: float(part.sum())
            for (kind, _), part in zip(sizes, parts, strict=True)
        }

    @property
    def fitted(self) -> Fitted:
        """What rows must be like: targets, how they were recorded, and features."""
        return Fitted(self.outputs, self.target.recording, self.features.encoder)

    def mixtures(self, X: Any) -> Iterator[Mixture]:
        """Yield pooled mixtures over latent targets, in chunks of rows."""
        shift, scale = map(to_tensor, self.target.scaling[:2])
        for _, rows in self.chunks(X, self.pool.floats_per_mixture):
            with inference():
                mixture = Mixture(*(part.cpu() for part in self.pool(rows)))
                mixture = _mixture.rescale(mixture, shift, scale)
            yield mixture

    def mixture(self, X: Any) -> Mixture:
        """Compute the pooled mixtures over latent targets of all rows."""
        n_rows, start = X.shape[0], 0
        for part in self.mixtures(X):
            if start == 0:  # a list of parts would need twice the memory
                whole = Mixture(*(p.new_empty(n_rows, *p.shape[1:]) for p in part))
            stop = start + len(part.means)
            for target, source in zip(whole, part, strict=True):
                target[start:stop] = source
            start = stop
        return whole

    @inference()
    def levels(self, X: Any, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Compute the probability of less than each latent target (n, 1), (n,)."""
        levels, start = np.empty(len(points)), 0
        for mixture in self.mixtures(X):
            rows = slice(start, start + len(mixture.means))
            levels[rows] = univariate.cdf(mixture, torch.from_numpy(points[rows]))
            start = rows.stop
        return levels

    def sample(self, X: Any, n_samples: int, random_state: Any) -> NDArray[np.float64]:
        """Draw from the densities of all rows, (n, n_samples, d)."""
        sizes = X.shape[0], self.outputs.size, n_samples
        samples = _mixture.sample_rows(self.mixtures(X), *sizes, random_state)
        supports = self.target.recording.supports
        return samples if supports.is_identity else supports.from_latent(samples)

    @inference()
    def means(self, X: Any) -> NDArray[np.float64]:
        """Compute the conditional means of latent targets, (n, d)."""
        means = self._buffer(X)
        for chunk, rows in self.chunks(X, self.pool.floats_per_row):
            means[chunk] = self.pool.mean(rows).T.cpu()
        shift, scale = map(to_tensor, self.target.scaling[:2])
        return to_numpy(means.mul_(scale).add_(shift))

    @inference()
    def means_and_stds(self, X: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Compute the conditional moments of latent targets, two of (n, d)."""
        means, variances = self._buffer(X), self._buffer(X)
        for chunk, rows in self.chunks(X, self.pool.floats_per_row):
            mean, variance = self.pool.moments(rows)
            means[chunk], variances[chunk] = mean.T.cpu(), variance.T.cpu()
        shift, scale = map(to_tensor, self.target.scaling[:2])
        means.mul_(scale).add_(shift)
        return to_numpy(means), to_numpy(variances.mul_(scale**2).sqrt_())

    @inference()
    def log_prob(self, X: Any, y: Targets) -> NDArray[np.float64]:
        """Compute the log-likelihood of one y for each row of X, (n,), in nats."""
        log_prob = torch.empty(len(y), dtype=torch.float64, device="cpu")
        for chunk, rows in self.chunks(X, self.pool.floats_per_row):
            targets = self.target.standardise(y[chunk]).to(rows[0].device)
            log_prob[chunk] = self.pool.log_density(rows, targets).cpu()
        return to_numpy(log_prob) + self.target.offset(y)

    def attributes(self) -> dict[str, Any]:
        """Return the public attributes of an estimator that describe its model."""
        names = self.outputs.names
        encoder, scaling = self.features.encoder, self.features.scaling
        of_features = scaling.take(range(encoder.n_features))
        return {
            "network_": self.pool,
            "feature_encoder_": encoder,
            "portfolio_weights_": self.weights(),
            "X_mean_": of_features.mean,
            "X_scale_": of_features.scale,
            "X_knees_": of_features.knees,
            "X_spread_": of_features.spread,
            "y_mean_": self.target.scaling.mean,
            "y_scale_": self.target.scaling.scale,
            "n_outputs_": self.outputs.size,
            "n_components_": self.n_components,
        } | ({} if names is None else {"output_names_": names})

    def to_state(self) -> dict[str, Any]:
        """Convert to arrays and builtins, and the callable of user-defined networks."""
        parameters = self.pool.state_dict()
        return {
            "structures": [network.arguments for network in self.pool],
            "sizes": [dict(sizes) for sizes in self.sizes],
            "n_estimators": self.n_estimators,
            "parameters": {name: to_numpy(p) for name, p in parameters.items()},
            "features": self.features.to_state(),
            "target": self.target.to_state(),
            "event_shape": self.outputs.event_shape,
            "output_names": self.outputs.names,
            "views": {name: view.to_state() for name, view in self.views.items()},
            "views_of": list(self.views_of),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> ConditionalModel:
        """Rebuild a model; arrays are copied, so they can be read-only memory maps."""
        networks = [MixtureDensityNetwork(**each) for each in state["structures"]]
        pool = NetworkPool(networks).to("cpu", torch.float64)
        parameters = state["parameters"]
        pool.load_state_dict({name: to_tensor(p) for name, p in parameters.items()})
        features = FeatureTransform.from_state(state["features"])
        target = TargetTransform.from_state(state["target"])
        names = state["output_names"]
        outputs = Outputs(
            tuple(state["event_shape"]), None if names is None else tuple(names)
        )
        sizes, n_estimators = state["sizes"], state["n_estimators"]
        views = {k: VIEWS[k].from_state(v) for k, v in state["views"].items()}
        views_of = [tuple(parts) for parts in state["views_of"]]
        return cls(
            pool.eval(),
            sizes,
            n_estimators,
            features,
            target,
            outputs,
            views,
            views_of,
        )

    def _buffer(self, X: Any) -> Tensor:
        """Allocate (n, d) results once: a list of parts would fragment the memory."""
        return torch.empty(
            X.shape[0], self.outputs.size, dtype=torch.float64, device="cpu"
        )

    def chunks(self, X: Any, floats: int) -> Iterator[tuple[slice, list[Tensor]]]:
        """Yield slices and the features of each network, on its device.

        Views are computed for many more rows at once than networks: each of their trees
        costs some calls, however few the rows.
        """
        widths = [view.widths.values() for view in self.views.values()]
        n_columns = self.features.width + sum(map(sum, widths))
        device = self.pool.log_weights.device
        for block in row_chunks(X.shape[0], 8 * n_columns):
            tables = self._features(self.features.transform(as_dense(X[block])))
            for part in row_chunks(block.stop - block.start, 8 * floats):
                chunk = slice(block.start + part.start, block.start + part.stop)
                yield chunk, [table[part].to(device) for table in tables]

    def _features(self, X: Tensor) -> list[Tensor]:
        """Return the features of each network for standardised rows."""
        columns = columns_of(self.views.values(), X)
        tables = {
            parts: torch.cat([X, *(columns[part] for part in parts)], dim=1)
            if parts
            else X
            for parts in set(self.views_of)
        }
        return [tables[parts] for parts in self.views_of]
