"""Mixture density networks as torch modules: several members in one computation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

from skmdn._mixture import Mixture
from skmdn.nn.activations import ACTIVATIONS
from skmdn.nn.backbones import Backbones
from skmdn.nn.covariance import make_head
from skmdn.nn.embeddings import EMBEDDINGS, SATURATION
from skmdn.nn.head import LARGEST_SCALE, MixtureHead
from skmdn.nn.isolation import without_autocast
from skmdn.nn.layers import MemberLinear, draw_dropout_mask
from skmdn.nn.targets import Targets
from skmdn.nn.terms import Terms

# Standard deviations from the mean up to which features count in the skip connection,
# and in the linear model that it adds: one row far out must not determine it.
LINEAR_REACH = 3.0


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
    embedding : {"periodic", "bins"} or None, default="periodic"
        Embedding of the features before the hidden layers:
        :class:`PeriodicEmbedding`, a piecewise linear encoding, or none.
    frequency_scale : float or sequence of float, default=0.3
        Initial frequencies of the periodic embedding, of all members or of each.
    saturation : float, default=3.5
        Bound of the features in the periodic embedding, in standard deviations.
    n_indicators : int, default=0
        First features, which are zeros and ones and get no cosines.
    n_bins : int, default=0
        Intervals of the bins of all features together.
    has_skip : bool, default=False
        Add a linear function of the features, which training does not change, to the
        means of all components of a member; see `set_skip`.
    has_range : bool, default=False
        Return to the standard normal outside of a range of the features, which is
        zero at first; see `widen_range`.
    hidden_layer_sizes : sequence of int, default=(32, 32)
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
    largest_scale : float, default=100.0
        Bound of the standard deviation of each output given those that explain it.
    generator : torch.Generator, default=None
        Source of the initial parameters and of dropout masks, on the CPU. None takes
        one with the default seed.

    Attributes
    ----------
    arguments : dict
        Arguments that build a network of the same shape, as builtins.
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
    >>> log_weights, means, factors = network(X)  # factors: (4, 10, 5, 2, 2)
    >>> nll = mixture_nll(log_weights, means, factors, y)  # (4, 10)
    >>> round(nll.mean().item(), 1)  # a standard Gaussian has log(2 pi) = 1.84
    1.8
    """

    coefficients: Tensor
    intercept: Tensor
    reach: Tensor
    low: Tensor
    high: Tensor

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
        frequency_scale: float | Sequence[float] = 0.3,
        saturation: float = SATURATION,
        n_indicators: int = 0,
        n_bins: int = 0,
        has_skip: bool = False,
        has_range: bool = False,
        hidden_layer_sizes: Sequence[int] = (32, 32),
        activation: str = "silu",
        dropout: float = 0.0,
        network: Callable[[int], nn.Module] | None = None,
        reg_covar: float = 1e-6,
        largest_scale: float = LARGEST_SCALE,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {
            "n_features": n_features,
            "n_outputs": n_outputs,
            "n_components": n_components,
            "n_members": n_members,
            "covariance_type": covariance_type,
            "rank": rank,
            "embedding": embedding,
            "saturation": saturation,
            "n_indicators": n_indicators,
            "n_bins": n_bins,
            "has_skip": has_skip,
            "has_range": has_range,
            "hidden_layer_sizes": tuple(hidden_layer_sizes),
            "activation": activation,
            "dropout": dropout,
            "network": network,
            "reg_covar": reg_covar,
            "largest_scale": largest_scale,
        }
        generator = generator or torch.Generator(device="cpu")
        self.generator: torch.Generator | None = generator
        self.n_members = n_members
        self.activation = activation
        self.dropout = dropout
        self.has_skip, self.has_range = has_skip, has_range
        self._build_layers(frequency_scale, generator)
        self._build_buffers()

    def _build_layers(
        self, frequency_scale: float | Sequence[float], generator: torch.Generator
    ) -> None:
        """Build the modules from the features to the head."""
        self.backbones: Backbones | None = None
        self.embedding: nn.Module | None = None
        widths = [self._build_first(frequency_scale, generator)]
        if self.backbones is None:
            widths += self.arguments["hidden_layer_sizes"]
        options: dict[str, Any] = {"gain": math.sqrt(2), "generator": generator}
        self.hidden = nn.ModuleList(
            MemberLinear(self.n_members, n_in, n_out, **options)
            for n_in, n_out in pairwise(widths)
        )
        self.head = self._build_head(widths[-1], generator)
        self._count_floats(max(widths))

    def _build_head(self, width: int, generator: torch.Generator) -> MixtureHead:
        """Build the head of hidden layers of this width."""
        names = "n_components", "n_outputs", "covariance_type", "rank"
        sizes = (self.arguments[name] for name in names)
        options = {
            name: self.arguments[name] for name in ("reg_covar", "largest_scale")
        }
        return make_head(self.n_members, width, *sizes, generator=generator, **options)

    def _build_buffers(self) -> None:
        """Add a linear function that is zero, and a range of zero."""
        n_features, d = self.arguments["n_features"], self.arguments["n_outputs"]
        shapes: dict[str, tuple[int, ...]] = {}
        if self.has_skip:
            constant = self.n_members, 1, d
            shapes |= {"coefficients": (self.n_members, n_features, d)}
            shapes |= {"intercept": constant, "reach": constant}
        if self.has_range:
            shapes |= {"low": (n_features,), "high": (n_features,)}
        for name, shape in shapes.items():
            zeros = torch.zeros(shape, dtype=torch.float32, device="cpu")
            self.register_buffer(name, zeros)

    def _count_floats(self, width: int) -> None:
        """Count the peak floats per row, which size the chunks of predictions.

        Layers and outputs of the head exist in a few copies, and mixtures have a factor
        for each component.
        """
        per_member = 4 * width + 8 * sum(self.head.sizes)
        self.floats_per_row = self.n_members * per_member
        if self.backbones is not None:  # evaluated one member after another
            self.floats_per_row += self.backbones.floats_per_row
        n_factors = self.n_members * self.head.sizes[0] * self.head.n_outputs**2
        self.floats_per_mixture = self.floats_per_row + 4 * n_factors

    def _build_first(
        self, frequency_scale: float | Sequence[float], generator: torch.Generator
    ) -> int:
        """Build user-defined modules or the embedding; return the output width."""
        arguments = self.arguments
        sizes = self.n_members, arguments["n_features"]
        if arguments["network"] is not None:
            network = arguments["network"]
            self.backbones = Backbones(network, *sizes, generator=generator)
            return self.backbones.n_outputs
        if arguments["embedding"] is None:
            return int(arguments["n_features"])
        self.embedding = EMBEDDINGS[arguments["embedding"]](
            *sizes,
            n_bins=arguments["n_bins"],
            frequency_scale=frequency_scale,
            saturation=arguments["saturation"],
            n_indicators=arguments["n_indicators"],
            generator=generator,
        )
        width: Any = self.embedding.n_outputs
        return int(width)

    def __deepcopy__(self, memo: dict[int, Any]) -> MixtureDensityNetwork:
        """Copy all but the user's callable, which need not be possible to copy."""
        shared = self.arguments["network"]
        memo[id(shared)] = shared
        memo[id(self)] = copied = type(self).__new__(type(self))
        copied.__dict__.update(deepcopy(self.__dict__, memo))
        return copied

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
        nearness = self.nearness(X)
        mixture = cast(Mixture, self.head(self.last_hidden(X), nearness))
        if not self.has_skip:
            return mixture
        means = mixture.means + self.shift(X, nearness).unsqueeze(-2)
        return mixture._replace(means=means)

    @without_autocast
    def mean(self, X: Tensor) -> Tensor:
        """Compute the conditional mean of every member, (n_members, d, n)."""
        nearness = self.nearness(X)
        mean = self.head.mean(self.last_hidden(X), nearness)
        return mean + self.shift(X, nearness).mT if self.has_skip else mean

    @without_autocast
    def moments(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the conditional mean and variances, both (n_members, d, n)."""
        nearness = self.nearness(X)
        mean, variance = self.head.moments(self.last_hidden(X), nearness)
        if self.has_skip:
            mean = mean + self.shift(X, nearness).mT
        return mean, variance

    @without_autocast
    def terms(self, X: Tensor, y: Tensor) -> Terms:
        """Compute the terms of the log-density of targets.

        Their shape is (n, L * d) or (n_members, n, L * d), with the blocks of
        `Targets`.
        """
        nearness = self.nearness(X)
        targets = Targets.split(y, self.head.n_outputs)
        if self.has_skip:
            targets = targets.minus(self.shift(X, nearness))
        return self.head.terms(self.last_hidden(X), targets, nearness)

    @torch.no_grad()
    def set_skip(
        self, members: slice, coefficients: Tensor, intercept: Tensor, reach: Tensor
    ) -> None:
        """Set the linear function of some members.

        Parameters
        ----------
        members : slice
        coefficients : Tensor of shape (n_members, n_features, d)
        intercept, reach : Tensor of shape (n_members, d)
            The function stays within `reach` of the intercept: a linear function alone
            has no bound far outside the training rows.
        """
        self.coefficients[members] = coefficients.to(self.coefficients)
        self.intercept[members, 0] = intercept.to(self.intercept)
        self.reach[members, 0] = reach.to(self.reach)

    def shift(self, X: Tensor, nearness: Tensor | None = None) -> Tensor:
        """Compute what is added to all means, (n_members, n, d).

        Rows that train are in the range, and need no `nearness`.
        """
        bounded = self.per_member(X).clamp(-LINEAR_REACH, LINEAR_REACH)
        linear = torch.bmm(bounded, self.coefficients)
        shift = self.intercept + linear.clamp(-self.reach, self.reach)
        return shift if nearness is None else shift * nearness[..., None]

    @torch.no_grad()
    def widen_range(self, low: Tensor, high: Tensor) -> None:
        """Include further rows in the range in which the network is relied on.

        Parameters
        ----------
        low, high : Tensor of shape (n_features,)
        """
        torch.minimum(self.low, low.to(self.low), out=self.low)
        torch.maximum(self.high, high.to(self.high), out=self.high)

    def nearness(self, X: Tensor) -> Tensor | None:
        """Compute 1 in the range, and less beyond, (n,) or (n_members, n).

        Far outside, networks extrapolate at will, and each is sure of its own answer:
        there, the density returns to the standard normal, about that of y alone.
        """
        if not self.has_range:
            return None
        beyond = (X - self.high).relu() + (self.low - X).relu()
        return beyond.square().sum(-1).mul(-0.5).exp()

    def per_member(self, X: Tensor) -> Tensor:
        """Give every member the same rows, unless each has its own."""
        return X.expand(self.n_members, -1, -1) if X.ndim == 2 else X

    def last_hidden(self, X: Tensor) -> Tensor:
        """Compute the input of the head, (n_members, n, width)."""
        hidden, activation = self.embed(X), ACTIVATIONS[self.activation]
        for layer in self.hidden:
            hidden = layer(hidden)
            if torch.is_grad_enabled():
                hidden = activation.function(hidden)
            else:  # half the memory, whose pages take a third of a prediction to map
                activation.write(hidden, hidden)
            mask = self.draw_mask(hidden)
            hidden = hidden if mask is None else hidden * mask
        return hidden

    def embed(self, X: Tensor) -> Tensor:
        """Compute the input of the hidden layers, (n_members, n, width).

        Rows that all members share are embedded as those of one, where the embedding
        allows it: the result is repeated as a view.
        """
        if self.backbones is not None:
            return cast(Tensor, self.backbones(self.per_member(X), self.generator))
        X = X if X.ndim == 3 else X[None]
        embedded: Tensor = X if self.embedding is None else self.embedding(X)
        return embedded.expand(self.n_members, -1, -1)

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
