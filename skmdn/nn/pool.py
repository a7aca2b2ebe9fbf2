"""Several mixture density networks as one density."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from skmdn._mixture import Mixture
from skmdn.nn.likelihood import Calibration
from skmdn.nn.network import MixtureDensityNetwork

# Features of all networks, or those of each.
Inputs = Tensor | Sequence[Tensor]


class NetworkPool(nn.Module):
    """Weighted mixture of the members of several networks.

    Networks can differ in structure. The members of one network are evaluated in one
    batched computation, one network after another.

    Shape: (n, n_features) -> Mixture (n, K), with the components of all members. A
    sequence of features, one for each network, serves networks with different features.

    Parameters
    ----------
    networks : iterable of MixtureDensityNetwork
    weights : Tensor of shape (n_members,), default=None
        Weight of each member, in the order of the networks; equal by default.

    Attributes
    ----------
    networks : ModuleList of MixtureDensityNetwork
    log_weights : Tensor of shape (n_members,)
        Logarithms of weights that sum to one.

    Examples
    --------
    >>> import torch
    >>> from skmdn.nn import MixtureDensityNetwork, NetworkPool, mixture_nll
    >>> networks = [
    ...     MixtureDensityNetwork(3, n_components=5, n_members=4, embedding=embedding)
    ...     for embedding in ("periodic", None)
    ... ]
    >>> log_weights, means, factors = NetworkPool(networks)(torch.zeros(10, 3))
    >>> nll = mixture_nll(log_weights, means, factors, torch.zeros(10, 1))  # (10,)
    >>> round(nll.mean().item(), 1)  # of the mixture of 8 members with 5 components
    0.9
    """

    log_weights: Tensor

    def __init__(
        self, networks: Iterable[MixtureDensityNetwork], weights: Tensor | None = None
    ) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        n_members = sum(network.n_members for network in self)
        if weights is None:
            weights = torch.ones(n_members, dtype=torch.float64, device="cpu")
        self.register_buffer("log_weights", (weights / weights.sum()).log())

    def __iter__(self) -> Iterator[MixtureDensityNetwork]:
        return iter(cast(Iterable[MixtureDensityNetwork], self.networks))

    @property
    def n_members(self) -> int:
        """Number of members of all networks."""
        return len(self.log_weights)

    @property
    def floats_per_row(self) -> int:
        """Peak floats per row while predicting moments or log-densities."""
        return max(int(network.floats_per_row) for network in self)

    @property
    def floats_per_mixture(self) -> int:
        """Peak floats per row while predicting mixtures."""
        return 2 * sum(int(network.floats_per_mixture) for network in self)

    def forward(self, X: Inputs) -> Mixture:
        """Compute one mixture per row, of the components of all members.

        Parameters
        ----------
        X : Tensor of shape (n, n_features), or sequence of one for each network
            Standardised rows.

        Returns
        -------
        mixture : tuple of log-weights, means and precision factors
            With leading axes (n, number of components).
        """
        parts = []
        for network, x, log_weights in self._weighted(X):
            members, means, factors = (part.transpose(0, 1) for part in network(x))
            members = members + log_weights[:, None].to(members)
            parts.append(part.flatten(1, 2) for part in (members, means, factors))
        if len(parts) == 1:
            return Mixture(*parts[0])
        return Mixture(*map(torch.cat, zip(*parts, strict=True), [1] * 3))

    def mean(self, X: Inputs) -> Tensor:
        """Compute the conditional mean, (d, n)."""
        means = [_sum(w.exp(), net.mean(x)) for net, x, w in self._weighted(X)]
        return torch.stack(means).sum(0)

    def moments(self, X: Inputs) -> tuple[Tensor, Tensor]:
        """Compute the conditional mean and variances, both (d, n)."""
        parts = [network.moments(x) for network, x, _ in self._weighted(X)]
        means, variances = map(torch.cat, zip(*parts, strict=True))
        weights = self.log_weights.exp()
        mean = _sum(weights, means)
        # The law of total variance.
        return mean, _sum(weights, variances.add_((means - mean).square_()))

    def log_density(self, X: Inputs, y: Tensor) -> Tensor:
        """Compute the log-density of targets y (n, L * d), (n,), in nats.

        For the blocks of y, see `skmdn.nn.targets.Targets`.
        """
        values = [net.terms(x, y).log_density() for net, x, _ in self._weighted(X)]
        log_densities = torch.cat(values)
        log_weights = self.log_weights[:, None].to(log_densities)
        return (log_densities + log_weights).logsumexp(0)

    def calibrate_(self, calibrations: Sequence[Calibration]) -> None:
        """Calibrate the densities of each member; the floor of the variances stays."""
        start = 0
        for network in self:
            stop = start + network.n_members
            network.head.calibrate_(calibrations[start:stop])
            start = stop

    def _weighted(
        self, X: Inputs
    ) -> Iterator[tuple[MixtureDensityNetwork, Tensor, Tensor]]:
        """Yield each network, its features, and the log-weights of its members."""
        sizes = [network.n_members for network in self]
        inputs = [X] * len(sizes) if isinstance(X, Tensor) else X
        return zip(self, inputs, self.log_weights.split(sizes), strict=True)


def _sum(weights: Tensor, values: Tensor) -> Tensor:
    """Sum values (n_members, d, n) with the weights of the members."""
    total: Tensor = torch.tensordot(weights.to(values), values, dims=1)
    return total
