"""Mixture density networks as torch modules: several members in one computation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

from skmdn._mixture import Mixture
from skmdn.nn.activations import ACTIVATIONS
from skmdn.nn.backbones import Backbones
from skmdn.nn.covariance import make_head
from skmdn.nn.embeddings import EMBEDDINGS
from skmdn.nn.isolation import without_autocast
from skmdn.nn.layers import MemberLinear, draw_dropout_mask
from skmdn.nn.likelihood import Terms


class MixtureDensityNetwork(nn.Module):
    """Networks that map x to the parameters of a Gaussian mixture over y.

    All members are evaluated in one batched computation; every parameter has a
    leading member axis, and members share no parameter. Parameters are created on the
    CPU in float32.

    Parameters
    ----------
    n_features, n_outputs : int
        Widths of X and y.
    n_components : int, default=5
        Gaussians of each member.
    n_members : int, default=1
        Members.
    covariance_type : {"full", "tied", "diag", "spherical", "low_rank"}, default="full"
        As in :class:`sklearn.mixture.GaussianMixture`; "tied" shares the matrix
        between the components of a row, and it still depends on x. "low_rank" is a
        diagonal plus `rank` factors, for many outputs.
    rank : int, default=4
        Number of factors of "low_rank".
    embedding : {"periodic"} or None, default="periodic"
        Embedding of the features before the hidden layers:
        :class:`PeriodicEmbedding`, or none.
    hidden_layer_sizes : sequence of int, default=(64, 64)
        Widths of the hidden layers.
    activation : {"identity", "logistic", "tanh", "relu", "silu"}, default="silu"
        Activation of the hidden layers.
    dropout : float, default=0.0
        Probability of dropping a hidden unit while training.
    network : callable, default=None
        ``network(n_features)`` builds a new module (n, n_features) -> (n, width) for
        each member. These modules replace the embedding and the hidden layers.
    reg_covar : float, default=1e-6
        Floor added to the variance of each output given those that explain it; in
        "full" and "tied" covariances each member has a random order of the outputs.
    generator : torch.Generator, default=None
        Source of the initial parameters and of dropout masks, on the CPU. None takes
        one with the default seed.

    Attributes
    ----------
    backbones : Backbones or None
        The modules that `network` built, one per member.
    floats_per_row, floats_per_mixture : int
        Peak floats per row while predicting moments or log-densities, and mixtures.

    Examples
    --------
    >>> import torch
    >>> from skmdn.nn import MixtureDensityNetwork, mixture_nll
    >>> network = MixtureDensityNetwork(n_features=3, n_outputs=2, n_members=4)
    >>> X, y = torch.zeros(10, 3), torch.zeros(10, 2)
    >>> log_weights, means, factors = network(X)
    >>> factors.shape
    torch.Size([4, 10, 5, 2, 2])
    >>> mixture_nll(log_weights, means, factors, y).shape
    torch.Size([4, 10])
    """

    def __init__(
        self,
        n_features: int,
        n_outputs: int = 1,
        n_components: int = 5,
        *,
        n_members: int = 1,
        covariance_type: str = "full",
        rank: int = 4,
        embedding: str | None = "periodic",
        hidden_layer_sizes: Sequence[int] = (64, 64),
        activation: str = "silu",
        dropout: float = 0.0,
        network: Callable[[int], nn.Module] | None = None,
        reg_covar: float = 1e-6,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        generator = generator or torch.Generator(device="cpu")
        self.generator: torch.Generator | None = generator
        self.n_members = n_members
        self.activation = activation
        self.dropout = dropout
        self.backbones: Backbones | None = None
        self.embedding: nn.Module | None = None
        width = self._build_first(n_features, network, embedding, generator)
        if self.backbones is not None:
            hidden_layer_sizes = ()
        widths = [width, *hidden_layer_sizes]
        self.hidden = nn.ModuleList(
            MemberLinear(n_members, n_in, n_out, gain=math.sqrt(2), generator=generator)
            for n_in, n_out in pairwise(widths)
        )
        sizes = n_members, widths[-1], n_components, n_outputs
        options: dict[str, Any] = {"reg_covar": reg_covar, "generator": generator}
        self.head = make_head(*sizes, covariance_type, rank, **options)
        # Peak floats per row; sizes the prediction chunks. Layers and outputs of the
        # head exist in a few copies, and mixtures have a factor for each component.
        per_member = 4 * max(widths) + 8 * sum(self.head.sizes)
        self.floats_per_row = n_members * per_member
        if self.backbones is not None:  # evaluated one member after another
            self.floats_per_row += self.backbones.floats_per_row
        n_factors = n_members * n_components * n_outputs**2
        self.floats_per_mixture = self.floats_per_row + 4 * n_factors

    def _build_first(
        self,
        n_features: int,
        network: Callable[[int], nn.Module] | None,
        embedding: str | None,
        generator: torch.Generator,
    ) -> int:
        """Build user-defined modules or the embedding; return the output width."""
        sizes = self.n_members, n_features
        if network is not None:
            self.backbones = Backbones(network, *sizes, generator=generator)
            return self.backbones.n_outputs
        if embedding is None:
            return n_features
        self.embedding = EMBEDDINGS[embedding](*sizes, generator=generator)
        width: Any = self.embedding.n_outputs
        return int(width)

    @without_autocast
    def forward(self, X: Tensor) -> Mixture:
        """Compute the mixtures of every member.

        Parameters
        ----------
        X : Tensor of shape (n, n_features) or (n_members, n, n_features)
            The same rows for all members, or rows for each member.

        Returns
        -------
        mixture : tuple of log-weights, means and precision factors
            With leading axes (n_members, n).
        """
        return cast(Mixture, self.head(self.last_hidden(X)))

    @without_autocast
    def mean(self, X: Tensor) -> Tensor:
        """Compute the conditional mean of every member, (n_members, d, n)."""
        return self.head.mean(self.last_hidden(X))

    @without_autocast
    def moments(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the conditional mean and variances, both (n_members, d, n)."""
        return self.head.moments(self.last_hidden(X))

    @without_autocast
    def terms(self, X: Tensor, y: Tensor) -> Terms:
        """Compute the terms of the log-density of y, (n, d) or (n_members, n, d)."""
        return self.head.terms(self.last_hidden(X), y)

    def last_hidden(self, X: Tensor) -> Tensor:
        """Compute the input of the head, (n_members, n, width)."""
        hidden = X.expand(self.n_members, -1, -1) if X.ndim == 2 else X
        hidden = self.embed(hidden)
        for layer in self.hidden:
            hidden = ACTIVATIONS[self.activation].function(layer(hidden))
            mask = self.draw_mask(hidden)
            hidden = hidden if mask is None else hidden * mask
        return hidden

    def embed(self, X: Tensor) -> Tensor:
        """Compute the input of the hidden layers, (n_members, n, width)."""
        if self.backbones is not None:
            return cast(Tensor, self.backbones(X, self.generator))
        return X if self.embedding is None else cast(Tensor, self.embedding(X))

    def draw_mask(self, hidden: Tensor) -> Tensor | None:
        """Draw the factors of dropout; None while predicting, or without dropout."""
        if not self.training or self.dropout == 0:
            return None
        return draw_dropout_mask(hidden, self.dropout, self.generator)

    def parameter_groups(self) -> dict[str, list[Tensor]]:
        """Return the tensors that training changes, by name.

        A list holds one tensor with a leading member axis, or one tensor per member for
        user-defined modules. The latter include floating-point buffers, such as the
        running means of batch normalisation.
        """
        groups: dict[str, list[Tensor]] = {n: [p] for n, p in self.named_parameters()}
        if self.backbones is None:
            return groups
        shared = {n: group for n, group in groups.items() if n.startswith("head.")}
        return shared | self.backbones.parameter_groups()


def pool(mixture: Mixture) -> Mixture:
    """Mix the members with equal weights, (n, n_members * K)."""
    log_weights, means, factors = (part.transpose(0, 1) for part in mixture)
    return Mixture(
        (log_weights - math.log(log_weights.shape[1])).flatten(1, 2),
        means.flatten(1, 2),
        factors.flatten(1, 2),
    )
