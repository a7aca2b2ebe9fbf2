"""Mixture density networks as torch modules: several members in one computation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from skmdn import _mixture
from skmdn._calibration import Calibration
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

# Numbers that the head gives for the factors: diagonal (groups, entries) and, above
# it, coefficients (groups, entries); one group stands for all components.
Layout = Callable[[int, int], tuple[tuple[int, int], tuple[int, int]]]
COVARIANCE_LAYOUTS: dict[str, Layout] = {
    "full": lambda K, d: ((K, d), (K, d * (d - 1) // 2)),
    "tied": lambda K, d: ((1, d), (1, d * (d - 1) // 2)),
    "diag": lambda K, d: ((K, d), (K, 0)),
    "spherical": lambda K, d: ((K, 1), (K, 0)),
}

EMBEDDINGS = ("periodic", None)
# Cosines of each feature, and the standard deviation of their frequencies at the
# start, in periods per unit of the standardised feature.
N_FREQUENCIES = 4
FREQUENCY_SCALE = 0.3
# Standard deviations from the mean at which a feature saturates.
SATURATION = 5.0

# Largest standard deviation of an output given the later ones, in the unit of the
# standardised y: more than any component needs, and far from overflow.
LARGEST_SCALE = 100.0

# Scale of the head's weights at the start, small so that every row begins with the
# unconditional mixture that the biases hold.
HEAD_GAIN = 0.1


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


class MemberLinear(nn.Module):
    """Linear layers of several members, one batched matrix product.

    Shape: (n_members, n, n_inputs) -> (n_members, n, n_outputs).
    """

    def __init__(
        self,
        n_members: int,
        n_inputs: int,
        n_outputs: int,
        *,
        gain: float = 1.0,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        weight = torch.randn(n_members, n_inputs, n_outputs, generator=generator)
        self.weight = nn.Parameter(weight * gain / math.sqrt(max(1, n_inputs)))
        self.bias = nn.Parameter(torch.zeros(n_members, 1, n_outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


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
        return self.embed(x)[0]

    def embed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What `forward` gives, and the angles of the cosines."""
        x = x * (1 + (x / SATURATION).square().square()) ** -0.25
        frequencies = self.frequencies.unflatten(-1, (N_FREQUENCIES, -1))
        angles = (x[..., None, :] * frequencies).flatten(-2) + self.phases
        return torch.cat([x, angles.cos()], dim=-1), angles


class MixtureHead(nn.Module):
    """Read the parameters of a mixture off the last hidden layer.

    One table, `COVARIANCE_LAYOUTS`, says which numbers there are. The factor is
    U = diag(u) (I + B), B strictly upper-triangular: row i is the regression of
    output i on the later ones, with residual variance 1 / u_i^2. The floor is added
    to these residual variances before anything uses U, so quadratic form and
    determinant agree and the density cannot exceed (2 pi reg_covar)^(-d/2).

    Shape: (n_members, n, width) -> Mixture with leading axes (n_members, n).
    """

    def __init__(
        self,
        n_members: int,
        width: int,
        n_components: int,
        n_outputs: int,
        covariance_type: str,
        reg_covar: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        diagonal, coefficients = COVARIANCE_LAYOUTS[covariance_type](
            n_components, n_outputs
        )
        self._upper: Tensor
        self.shapes = [
            (n_components,),
            (n_components, n_outputs),
            diagonal,
            coefficients,
        ]
        self.sizes = [math.prod(shape) for shape in self.shapes]
        self.reg_covar = reg_covar
        self.linear = MemberLinear(
            n_members, width, sum(self.sizes), gain=HEAD_GAIN, generator=generator
        )
        rows, columns = torch.triu_indices(n_outputs, n_outputs, offset=1)
        self.register_buffer("_upper", rows * n_outputs + columns, persistent=False)

    def forward(self, hidden: Tensor) -> Mixture:
        logits, means, log_precision, coefficients = self.split(self.linear(hidden))
        factors = self._factors(log_precision, coefficients, n_outputs=means.shape[-1])
        return Mixture(
            logits.log_softmax(-1), means, factors.expand(*means.shape, means.shape[-1])
        )

    def split(self, raw: Tensor) -> Iterator[Tensor]:
        """Logits, means, raw log-diagonal and raw entries above it."""
        parts = raw.split(self.sizes, dim=-1)
        return (
            p.unflatten(-1, shape) for p, shape in zip(parts, self.shapes, strict=True)
        )

    def upper(self, coefficients: Tensor, n_outputs: int) -> Tensor:
        """B, (..., groups, d, d)."""
        flat = coefficients.new_zeros(*coefficients.shape[:-1], n_outputs**2)
        flat = flat.index_copy(-1, self._upper, coefficients)
        return flat.unflatten(-1, (n_outputs, n_outputs))

    def _factors(
        self, log_precision: Tensor, coefficients: Tensor, n_outputs: int
    ) -> Tensor:
        """U = diag(u) (I + B), (..., groups, d, d), with 1/u^2 >= reg_covar."""
        diagonal = self.floored(log_precision).exp()
        diagonal = diagonal.expand(*diagonal.shape[:-1], n_outputs)
        if not coefficients.shape[-1]:
            return torch.diag_embed(diagonal)
        unit = self.upper(coefficients, n_outputs)
        unit = unit + torch.eye(n_outputs, dtype=unit.dtype, device=unit.device)
        return diagonal[..., None] * unit

    def floored(self, log_precision: Tensor) -> Tensor:
        """log u with 1 / u^2 = exp(-2 log_precision) + reg_covar, without overflow."""
        log_precision = log_precision.clamp(min=-math.log(LARGEST_SCALE))
        if self.reg_covar == 0:
            return log_precision
        log_floor = math.log(self.reg_covar)
        return -0.5 * (
            nn.functional.softplus(-2 * log_precision - log_floor) + log_floor
        )

    def floored_slope(self, log_precision: Tensor) -> Tensor:
        """Derivative of `floored`: the share of the variance above the floor."""
        slope = (log_precision > -math.log(LARGEST_SCALE)).to(log_precision)
        if self.reg_covar == 0:
            return slope
        log_floor = math.log(self.reg_covar)
        return slope * (-2 * log_precision - log_floor).sigmoid()

    @torch.no_grad()
    def calibrate_(self, calibration: Calibration) -> None:
        """Sharpen or flatten all densities; the floor stays where it is."""
        n_components, n_means, n_diagonal, _ = self.sizes
        power = math.exp(calibration.log_power)
        self.linear.weight[..., :n_components] *= power
        self.linear.bias[..., :n_components] *= power
        start = n_components + n_means
        self.linear.bias[..., start : start + n_diagonal] += calibration.log_sharpness

    @torch.no_grad()
    def start_at(self, log_weights: Tensor, means: Tensor, covariance: Tensor) -> None:
        """Set the biases to an unconditional mixture with one covariance per member.

        Parameters
        ----------
        log_weights : Tensor of shape (n_members, K)
        means : Tensor of shape (n_members, K, d)
        covariance : Tensor of shape (n_members, d, d)
        """
        _, _, diagonal, coefficients = self.shapes
        if coefficients[-1]:
            factors = _mixture.factors_from_covariances(covariance)
            u = factors.diagonal(dim1=-2, dim2=-1)
            upper = (factors / u[..., None]).flatten(-2)[..., self._upper]
            variances = u**-2
        else:
            upper = covariance.new_zeros(len(covariance), 0)
            variances = covariance.diagonal(dim1=-2, dim2=-1)
        if diagonal[-1] == 1:
            variances = variances.mean(-1, keepdim=True)
        # The floor is added on the way out, so it is taken off here.
        raw = -0.5 * (variances - self.reg_covar).clamp(min=0.1 * variances).log()
        self.linear.bias.copy_(
            torch.cat(
                [
                    log_weights,
                    means.flatten(1),
                    raw.repeat(1, diagonal[0]),
                    upper.repeat(1, coefficients[0]),
                ],
                dim=1,
            )[:, None]
        )


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
    covariance_type : {"full", "tied", "diag", "spherical"}, default="full"
        As in `GaussianMixture`; "tied" shares the matrix between the components of
        a row, and it still depends on x.
    embedding : {"periodic"} or None, default="periodic"
        What the features pass first: :class:`PeriodicEmbedding`, or nothing.
    hidden_layer_sizes : sequence of int, default=(64, 64)
        Widths of the hidden layers.
    activation : {"identity", "logistic", "tanh", "relu", "silu"}, default="silu"
        Activation of the hidden layers.
    dropout : float, default=0.0
        Probability of dropping a hidden unit while training.
    reg_covar : float, default=1e-6
        Floor added to the variance of each output given the later ones.
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
        embedding: str | None = "periodic",
        hidden_layer_sizes: Sequence[int] = (64, 64),
        activation: str = "silu",
        dropout: float = 0.0,
        reg_covar: float = 1e-6,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if generator is None:
            generator = torch.Generator()
        self.generator: torch.Generator | None = generator
        self.n_features = n_features
        self.n_outputs = n_outputs
        self.n_members = n_members
        self.activation = activation
        self.dropout = dropout
        self.embedding = (
            None
            if embedding is None
            else PeriodicEmbedding(n_members, n_features, generator=generator)
        )
        n_embedded = n_features if self.embedding is None else self.embedding.n_outputs
        widths = [n_embedded, *hidden_layer_sizes]
        # What a row needs on its way through: two layers at a time, then the mixture
        # in a few copies.
        self.floats_per_row = n_members * (
            2 * max(widths) + 4 * n_components * (n_outputs * (n_outputs + 2) + 1)
        )
        self.hidden = nn.ModuleList(
            MemberLinear(n_members, n_in, n_out, gain=math.sqrt(2), generator=generator)
            for n_in, n_out in pairwise(widths)
        )
        self.head = MixtureHead(
            n_members,
            widths[-1],
            n_components,
            n_outputs,
            covariance_type,
            reg_covar,
            generator,
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
        hidden = X.expand(self.n_members, -1, -1) if X.ndim == 2 else X
        if self.embedding is not None:
            hidden = self.embedding(hidden)
        for layer in self.hidden:
            hidden = self._drop(self.activate(layer(hidden)))
        return self.head(hidden)

    def activate(self, hidden: Tensor) -> Tensor:
        return ACTIVATIONS[self.activation](hidden)

    def _drop(self, hidden: Tensor) -> Tensor:
        # nn.Dropout draws from the global generator.
        if not self.training or self.dropout == 0:
            return hidden
        keep = 1 - self.dropout
        mask = torch.empty_like(hidden).bernoulli_(keep, generator=self.generator)
        return hidden * mask / keep


def pool(mixture: Mixture) -> Mixture:
    """Equally weighted mixture of the members' mixtures, (n, n_members * K)."""
    log_weights, means, factors = (part.transpose(0, 1) for part in mixture)
    return Mixture(
        (log_weights - math.log(log_weights.shape[1])).flatten(1, 2),
        means.flatten(1, 2),
        factors.flatten(1, 2),
    )
