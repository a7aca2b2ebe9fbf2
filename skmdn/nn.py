"""Mixture density networks as torch modules: several members in one computation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from skmdn import _mixture
from skmdn._backbones import Backbones, lend_global_generator
from skmdn._calibration import Terms
from skmdn._covariance import make_head
from skmdn._head import MemberLinear
from skmdn._mixture import Mixture

__all__ = [
    "MixtureDensityNetwork",
    "PeriodicEmbedding",
    "mixture_nll",
    "mixture_nll_bound",
]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "logistic": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "silu": nn.functional.silu,
}

# Cosines of each feature, and the standard deviation of their frequencies at the
# start, in periods per unit of the standardised feature.
N_FREQUENCIES = 4
FREQUENCY_SCALE = 0.3
# Standard deviations from the mean at which a feature saturates.
SATURATION = 5.0


def mixture_nll(
    log_weights: Tensor, means: Tensor, precision_factors: Tensor, y: Tensor
) -> Tensor:
    """Negative log-likelihood of y under Gaussian mixtures.

    Parameters
    ----------
    log_weights : Tensor of shape (..., K)
        Logarithms of weights that sum to one.
    means : Tensor of shape (..., K, d)
    precision_factors : Tensor of shape (..., K, d, d)
        Upper-triangular U with positive diagonal, U' U the inverse covariance.
    y : Tensor of shape (..., d)

    Returns
    -------
    nll : Tensor of shape (...)
        In nats, one per row; lower is better.

    Examples
    --------
    >>> import torch
    >>> from skmdn.nn import mixture_nll
    >>> means, factors = torch.zeros(1, 1, 1), torch.ones(1, 1, 1, 1)
    >>> mixture_nll(torch.zeros(1, 1), means, factors, torch.zeros(1, 1))
    tensor([0.9189])
    """
    return -_mixture.log_prob(Mixture(log_weights, means, precision_factors), y)


def mixture_nll_bound(
    log_weights: Tensor, means: Tensor, precision_factors: Tensor, y: Tensor
) -> Tensor:
    """Jensen's upper bound of `mixture_nll`, -log K - (1/K) sum_k log(w_k p_k(y)).

    Every component feels every row, so none can die while it is minimised; at its
    minimum all components are the same Gaussian.

    Parameters
    ----------
    log_weights, means, precision_factors, y
        As for `mixture_nll`.

    Returns
    -------
    bound : Tensor of shape (...)
        In nats; at least `mixture_nll`, and equal to it where all w_k p_k(y) are.

    Notes
    -----
    Kruse (arXiv:2003.05739, eq. 7 and 15) prints the bare sum of -log(w_k p_k),
    which is no bound of the negative log-likelihood where densities exceed one.

    Examples
    --------
    >>> import torch
    >>> from skmdn.nn import mixture_nll_bound
    >>> halves = torch.full((1, 2), 0.5).log()
    >>> means, factors = torch.tensor([[[-1.0], [1.0]]]), torch.ones(1, 2, 1, 1)
    >>> mixture_nll_bound(halves, means, factors, torch.zeros(1, 1))
    tensor([1.4189])
    """
    return _mixture.nll_bound(Mixture(log_weights, means, precision_factors), y)


class PeriodicEmbedding(nn.Module):
    """Append cosines of every feature, of trainable frequencies and phases.

    A network is slow to learn what changes fast along one feature; cosines give it
    such functions from the start. A cosine with a free phase spans the pair of sine
    and cosine of Gorishniy et al. (2022, section 3.3) with half the numbers.

    Features are squashed by x / (1 + (x / 5)^4)^(1/4) first, a sharper form of the
    smooth clipping of Holzmuller et al. (2024): the identity within 1 % up to two
    standard deviations, and never beyond five, so that a row far outside is treated
    as one at the edge.

    Shape: (n_members, n, n_features) -> (n_members, n, n_outputs), with n_outputs
    n_features times (1 + number of frequencies).

    Parameters
    ----------
    n_members, n_features : int
    generator : torch.Generator
        Source of the frequencies and phases at the start.

    References
    ----------
    Y. Gorishniy, I. Rubachev and A. Babenko, "On embeddings for numerical features
    in tabular deep learning", NeurIPS 2022.

    D. Holzmuller, L. Grinsztajn and I. Steinwart, "Better by default: strong
    pre-tuned MLPs and boosted trees on tabular data", NeurIPS 2024.

    Examples
    --------
    >>> import torch
    >>> from skmdn.nn import PeriodicEmbedding
    >>> embedding = PeriodicEmbedding(16, 3, generator=torch.Generator())
    >>> embedding(torch.zeros(16, 10, 3)).shape  # 3 features and 4 cosines of each
    torch.Size([16, 10, 15])
    """

    def __init__(
        self, n_members: int, n_features: int, *, generator: torch.Generator
    ) -> None:
        super().__init__()
        size = n_features * N_FREQUENCIES
        self.n_outputs = n_features + size
        frequencies = torch.randn(n_members, 1, size, generator=generator)
        self.frequencies = nn.Parameter(2 * math.pi * FREQUENCY_SCALE * frequencies)
        phases = torch.rand(n_members, 1, size, generator=generator)
        self.phases = nn.Parameter(2 * math.pi * phases)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squash(x)
        # Joining the two with `cat` takes several times longer on more threads.
        embedded = x.new_empty(*x.shape[:-1], self.n_outputs)
        embedded[..., : x.shape[-1]] = x
        embedded[..., x.shape[-1] :] = self.angles(x).cos()
        return embedded

    def squash(self, x: Tensor) -> Tensor:
        quartic = (x / SATURATION).square().square().add_(1)
        return x * quartic.rsqrt_().sqrt_()  # a general power would take longer

    def angles(self, x: Tensor) -> Tensor:
        """What the cosines are taken of, for squashed features."""
        frequencies = self.frequencies.unflatten(-1, (N_FREQUENCIES, -1))
        return (x[..., None, :] * frequencies).flatten(-2) + self.phases


EMBEDDINGS = {"periodic": PeriodicEmbedding}


class MixtureDensityNetwork(nn.Module):
    """Networks that map x to the parameters of a Gaussian mixture over y.

    All members are evaluated in one batched computation; every parameter has a
    leading member axis, and members never share a number.

    Parameters
    ----------
    n_features, n_outputs : int
        Widths of X and y.
    n_components : int, default=5
        Gaussians of each member.
    n_members : int, default=1
        Networks.
    covariance_type : {"full", "tied", "diag", "spherical", "low_rank"}, default="full"
        As in `GaussianMixture`; "tied" shares the matrix between the components of
        a row, and it still depends on x. "low_rank" is a diagonal plus `rank`
        factors, for many outputs.
    rank : int, default=4
        Factors of "low_rank".
    embedding : {"periodic"} or None, default="periodic"
        What the features pass first: :class:`PeriodicEmbedding`, or nothing.
    hidden_layer_sizes : sequence of int, default=(64, 64)
        Widths of the hidden layers.
    activation : {"identity", "logistic", "tanh", "relu", "silu"}, default="silu"
        Activation of the hidden layers.
    dropout : float, default=0.0
        Probability of dropping a hidden unit while training.
    network : callable, default=None
        ``network(n_features)`` builds a module (n, n_features) -> (n, width), anew for
        each member; these then take the place of the embedding and the hidden layers.
    reg_covar : float, default=1e-6
        Floor added to the variance of each output given those that explain it; in
        "full" and "tied" covariances each member takes the outputs in a random order.
    generator : torch.Generator, default=None
        Source of the initial parameters and of dropout masks; the global generator
        is never used.

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
        if generator is None:
            generator = torch.Generator()
        self.generator: torch.Generator | None = generator
        self.n_members = n_members
        self.activation = activation
        self.dropout = dropout
        # A user's own modules stand where the embedding does, and nothing behind them.
        self.embedding: Backbones | PeriodicEmbedding | None = None
        if network is not None:
            hidden_layer_sizes = ()
            self.embedding = Backbones(
                network, n_members, n_features, generator=generator
            )
        elif embedding is not None:
            self.embedding = EMBEDDINGS[embedding](
                n_members, n_features, generator=generator
            )
        n_embedded = n_features if self.embedding is None else self.embedding.n_outputs
        widths = [n_embedded, *hidden_layer_sizes]
        self.hidden = nn.ModuleList(
            MemberLinear(n_members, n_in, n_out, gain=math.sqrt(2), generator=generator)
            for n_in, n_out in pairwise(widths)
        )
        self.head = make_head(
            n_members,
            widths[-1],
            n_components,
            n_outputs,
            covariance_type,
            rank,
            reg_covar=reg_covar,
            generator=generator,
        )
        # What a row needs on its way through: layers and the head's numbers in a few
        # copies, and a factor for each component if it is asked for.
        self.floats_per_row = n_members * (4 * max(widths) + 8 * sum(self.head.sizes))
        if isinstance(self.embedding, Backbones):  # members take their turns
            self.floats_per_row += self.embedding.floats_per_row
        self.floats_per_mixture = self.floats_per_row + (
            4 * n_members * n_components * n_outputs**2
        )

    def forward(self, X: Tensor) -> Mixture:
        """Compute the mixtures of every member.

        Parameters
        ----------
        X : Tensor of shape (n, n_features) or (n_members, n, n_features)
            Rows for all members, or rows of each member's own.

        Returns
        -------
        mixture : tuple of log-weights, means and precision factors
            With leading axes (n_members, n).
        """
        return self.head(self.last_hidden(X))

    def mean(self, X: Tensor) -> Tensor:
        """Conditional mean of every member, (n_members, d, n)."""
        return self.head.mean(self.last_hidden(X))

    def moments(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Conditional mean and variances of every member, (n_members, d, n)."""
        return self.head.moments(self.last_hidden(X))

    def terms(self, X: Tensor, y: Tensor) -> Terms:
        """What the log-density of y, (n, d) or (n_members, n, d), is made of."""
        return self.head.terms(self.last_hidden(X), y)

    def last_hidden(self, X: Tensor) -> Tensor:
        """What the head reads, (n_members, n, width)."""
        hidden = X.expand(self.n_members, -1, -1) if X.ndim == 2 else X
        if self.embedding is not None:
            hidden = self.embed(hidden)
        for layer in self.hidden:
            hidden = self.activate(layer(hidden))
            mask = self.draw_mask(hidden)
            hidden = hidden if mask is None else hidden * mask
        return hidden

    def embed(self, X: Tensor) -> Tensor:
        """What the hidden layers read instead of X."""
        assert self.embedding is not None
        is_ours = not isinstance(self.embedding, Backbones)
        if is_ours or not self.training or self.generator is None:
            return self.embedding(X)
        with lend_global_generator(self.generator, X.device):
            return self.embedding(X)

    def slots(self) -> dict[str, list[Tensor]]:
        """Parameters by name: one for all members, or one for each of them.

        With those of a user's own modules come the buffers in floats.
        """
        slots: dict[str, list[Tensor]] = {n: [p] for n, p in self.named_parameters()}
        if isinstance(self.embedding, Backbones):
            ours = {n: slot for n, slot in slots.items() if n.startswith("head.")}
            return ours | self.embedding.slots()
        return slots

    def activate(self, hidden: Tensor) -> Tensor:
        return ACTIVATIONS[self.activation](hidden)

    def draw_mask(self, hidden: Tensor) -> Tensor | None:
        """Factors that drop hidden units while training; None where none is."""
        # nn.Dropout draws from the global generator.
        if not self.training or self.dropout == 0:
            return None
        keep = 1 - self.dropout
        mask = torch.empty_like(hidden).bernoulli_(keep, generator=self.generator)
        return mask.div_(keep)


def pool(mixture: Mixture) -> Mixture:
    """Equally weighted mixture of the members' mixtures, (n, n_members * K)."""
    log_weights, means, factors = (part.transpose(0, 1) for part in mixture)
    return Mixture(
        (log_weights - math.log(log_weights.shape[1])).flatten(1, 2),
        means.flatten(1, 2),
        factors.flatten(1, 2),
    )
