"""Fitted networks at work: mixtures in the unit of y, and out-of-fold densities."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from skmdn import _mixture
from skmdn._arrays import row_chunks, to_numpy, to_tensor
from skmdn._calibration import pool_by_fold
from skmdn._mixture import Mixture
from skmdn._rows import Scaling, Subset
from skmdn.nn import MixtureDensityNetwork, pool

__all__ = [
    "log_density_held_out",
    "network_from_arrays",
    "network_to_arrays",
    "pooled_mixtures",
]

# Rows of each network's fold in one pass.
HELD_OUT_ROWS = 4096


def pooled_mixtures(
    network: MixtureDensityNetwork,
    X: NDArray,
    X_scaling: Scaling,
    y_scaling: Scaling,
    device: torch.device,
) -> Iterator[Mixture]:
    """Mixtures of all networks in the unit of y, for chunks of rows of bounded size.

    Everything is float64, so that a row's prediction does not depend on its chunk.
    """
    if device.type == "cuda":
        network = deepcopy(network).to(device)
    else:  # float64 exists on the CPU and on CUDA only
        device = torch.device("cpu")
    shift, scale = to_tensor(y_scaling.mean), to_tensor(y_scaling.scale)
    for rows in row_chunks(len(X), 8 * network.floats_per_row):
        with torch.no_grad():
            mixture = pool(network(X_scaling.apply(X[rows]).to(device)))
        mixture = Mixture(*(part.cpu() for part in mixture))
        yield _mixture.rescale(mixture, shift, scale)


@torch.no_grad()
def log_density_held_out(
    network: MixtureDensityNetwork, X: Tensor, y: Tensor, held_out: Subset
) -> Tensor:
    """Log-density of every row under the networks that held it out, pooled, (n,)."""
    log_density = torch.empty(len(y), dtype=y.dtype)
    n_folds = len(held_out.rows)
    fold = torch.arange(network.n_members) % n_folds
    for columns in torch.arange(held_out.rows.shape[1]).split(HELD_OUT_ROWS):
        rows, counts = (part[:, columns] for part in held_out)
        of_member = rows[fold]
        values = _mixture.log_prob(network(X[of_member]), y[of_member])
        log_density[rows[counts]] = pool_by_fold(values, n_folds)[counts]
    return log_density


def network_to_arrays(network: MixtureDensityNetwork) -> dict[str, NDArray]:
    """Parameters by name."""
    return {name: to_numpy(p) for name, p in network.state_dict().items()}


def network_from_arrays(
    structure: dict[str, Any], arrays: dict[str, NDArray]
) -> MixtureDensityNetwork:
    """Rebuild a network; arrays are copied, so they may be read-only memory maps."""
    network = MixtureDensityNetwork(**structure).to(torch.float64).eval()
    network.load_state_dict({name: to_tensor(array) for name, array in arrays.items()})
    return network
