"""Embeddings of the features, computed before the hidden layers.

An embedding is a module that maps (n_members, n, n_features) to (n_members, n,
n_outputs), and has the attribute `n_outputs`. Autograd differentiates it, unless it has
a method `by_hand` as :class:`HandDifferentiated` describes, or no parameters.
`EMBEDDINGS` has a function that builds each of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

# Cosines of each feature.
N_FREQUENCIES = 4
# Standard deviations from the mean at which a feature saturates.
SATURATION = 3.5


class Pass(Protocol):
    """Forward and backward pass for batches of one size."""

    def forward(self, X: Tensor) -> Tensor:
        """Return the output for X."""

    def backward(self, gradient: Tensor) -> None:
        """Write `.grad` of the parameters, given the gradient of the last output."""


@runtime_checkable
class HandDifferentiated(Protocol):
    """A module with a hand-written backward pass."""

    def by_hand(self, n_rows: int) -> Pass:
        """Return the pass for batches of `n_rows`; every parameter has a `.grad`."""


class PeriodicEmbedding(nn.Module):
    """Append cosines of every feature with trainable frequencies and phases.

    A network is slow to learn functions that vary fast along one feature; cosines
    provide them from the start. A cosine with a free phase spans the pair of sine and
    cosine of Gorishniy et al. (2022, section 3.3) with half the outputs.

    Features are squashed by x / (1 + (x / s)^4)^(1/4) first, with a saturation s of 3.5
    standard deviations, a sharper form of the smooth clipping of Holzmuller et al.
    (2024): it is the identity within 1 % up to 1.5 standard deviations and bounded by
    s, so that a row far outside is treated as one at the edge.

    Shape: (n_members or 1, n, n_features) -> (n_members, n, n_outputs), where
    `n_outputs` is n_features plus the number of frequencies for each one with cosines.

    Parameters
    ----------
    n_members, n_features : int
    frequency_scale : float or sequence of float, default=0.3
        Standard deviation of the initial frequencies, in periods per unit of the
        standardised feature; one for each member, or one for all.
    saturation : float, default=3.5
        Bound of the squashed features, in standard deviations.
    n_indicators : int, default=0
        First features, which get no cosines: all functions of zeros and ones are
        linear.
    generator : torch.Generator
        Source of the initial frequencies and phases, on the CPU.

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
    >>> with torch.no_grad():
    ...     embedded = embedding(torch.full((16, 10, 3), 100.0))  # (16, 10, 15)
    >>> embedded[0, 0, :3]  # bounded; 4 cosines of each feature follow
    tensor([3.5000, 3.5000, 3.5000])
    """

    def __init__(
        self,
        n_members: int,
        n_features: int,
        frequency_scale: float | Sequence[float] = 0.3,
        saturation: float = SATURATION,
        n_indicators: int = 0,
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.saturation = saturation
        self.n_indicators = n_indicators
        # Frequencies, then numbers: sizes that hold without any number, too.
        self.angle_shape = N_FREQUENCIES, n_features - n_indicators
        n_angles = math.prod(self.angle_shape)
        self.n_outputs = n_features + n_angles
        shape = (n_members, 1, n_angles)
        options: dict[str, Any] = {"device": "cpu", "dtype": torch.float32}
        scale = torch.tensor(frequency_scale, **options).expand(n_members)
        frequencies = torch.randn(shape, generator=generator, **options)
        self.frequencies = nn.Parameter(
            2 * math.pi * scale[:, None, None] * frequencies
        )
        phases = torch.rand(shape, generator=generator, **options)
        self.phases = nn.Parameter(2 * math.pi * phases)

    def forward(self, x: Tensor) -> Tensor:
        """Return squashed features and cosines, (n_members, n, `n_outputs`)."""
        x = self.squash(x)
        cosines = self.angles(x).cos()
        # Joining the two with `cat` takes several times longer on more threads.
        embedded = x.new_empty(*cosines.shape[:-1], self.n_outputs)
        embedded[..., : x.shape[-1]] = x
        embedded[..., x.shape[-1] :] = cosines
        return embedded

    def squash(self, x: Tensor) -> Tensor:
        """Bound features smoothly."""
        quartic = (x / self.saturation).square().square().add_(1)
        return x * quartic.rsqrt_().sqrt_()  # a general power would take longer

    def angles(self, x: Tensor) -> Tensor:
        """Return the arguments of the cosines for squashed features."""
        frequencies: Tensor = self.frequencies.unflatten(-1, self.angle_shape)
        numbers = x[..., None, self.n_indicators :]
        return (numbers * frequencies).flatten(-2) + self.phases

    def by_hand(self, n_rows: int) -> PeriodicPass:
        """Return a hand-written forward and backward pass, as `HandDifferentiated`."""
        return PeriodicPass(self, n_rows)


class PeriodicPass:
    """Forward and backward pass of a periodic embedding, with its buffers."""

    def __init__(self, embedding: PeriodicEmbedding, n_rows: int) -> None:
        self.embedding = embedding
        n_members, _, n_angles = embedding.phases.shape
        self.n_features = embedding.n_outputs - n_angles
        self.output = embedding.phases.new_empty(n_members, n_rows, embedding.n_outputs)
        self.x = self.output[..., : self.n_features]
        self.cosines = self.output[..., self.n_features :]

    def forward(self, X: Tensor) -> Tensor:
        """Return the output for X; the next call overwrites it."""
        self.x.copy_(self.embedding.squash(X))
        self.angles = self.embedding.angles(self.x)
        torch.cos(self.angles, out=self.cosines)
        return self.output

    def backward(self, gradient: Tensor) -> None:
        """Write the gradient of cos(f x + phase) with respect to f and the phase."""
        slope = self.angles.sin_().mul_(gradient[..., self.n_features :]).neg_()
        torch.sum(slope, dim=1, keepdim=True, out=self.embedding.phases.grad)
        numbers = self.x[..., None, self.embedding.n_indicators :]
        slope.unflatten(-1, self.embedding.angle_shape).mul_(numbers)
        torch.sum(slope, dim=1, keepdim=True, out=self.embedding.frequencies.grad)


class Bins(NamedTuple):
    """Intervals of single features, (n_bins,): feature, lower end and width."""

    feature: Tensor
    lower: Tensor
    width: Tensor


class BinsEmbedding(nn.Module):
    """Encode every feature piecewise linearly by intervals that cover its range.

    The code of a feature in an interval rises from 0 at its lower end to 1 at its upper
    end (Gorishniy et al. 2022, section 3.2). A linear layer then represents any
    function of one feature that is linear within the intervals, with steep parts where
    they are narrow. Values beyond the outermost intervals are treated as those at the
    edge.

    Shape: (n_members, n, n_features) -> (n_members, n, n_bins).

    Parameters
    ----------
    n_bins : int
        Intervals of all features together. `set_bins` defines them.

    References
    ----------
    Y. Gorishniy, I. Rubachev and A. Babenko, "On embeddings for numerical features
    in tabular deep learning", NeurIPS 2022.

    Examples
    --------
    >>> import torch
    >>> from skmdn.nn.embeddings import Bins, BinsEmbedding
    >>> embedding = BinsEmbedding(2)
    >>> lower, width = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0])
    >>> embedding.set_bins(Bins(torch.tensor([0, 0]), lower, width))
    >>> embedding(torch.tensor([[[0.5], [2.0]]]))
    tensor([[[0.5000, 0.0000],
             [1.0000, 0.5000]]])
    """

    feature: Tensor
    lower: Tensor
    width: Tensor

    def __init__(self, n_bins: int) -> None:
        super().__init__()
        self.n_outputs = n_bins
        options: dict[str, Any] = {"device": "cpu", "dtype": torch.float32}
        index = torch.zeros(n_bins, dtype=torch.int64, device="cpu")
        self.register_buffer("feature", index)
        self.register_buffer("lower", torch.zeros(n_bins, **options))
        self.register_buffer("width", torch.ones(n_bins, **options))
        # First feature, the one after the last, and the number of intervals of each.
        self.blocks: list[tuple[int, int, int]] = []
        self._find_blocks()

    def set_bins(self, bins: Bins) -> None:
        """Define the intervals, feature by feature."""
        for name, values in bins._asdict().items():
            getattr(self, name).copy_(values)
        self._find_blocks()

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        super()._load_from_state_dict(*args, **options)
        self._find_blocks()

    def _find_blocks(self) -> None:
        """Group neighbouring features with equal numbers of intervals.

        Views of a block repeat its features; selecting the feature of every interval
        would take five times as long.
        """
        features, counts = self.feature.unique_consecutive(return_counts=True)
        self.blocks = []
        for feature, count in zip(features.tolist(), counts.tolist(), strict=True):
            if self.blocks and self.blocks[-1][1:] == (feature, count):
                start = self.blocks.pop()[0]
            else:
                start = feature
            self.blocks.append((start, feature + 1, count))

    def forward(self, x: Tensor) -> Tensor:
        if not self.blocks:
            return x[..., :0]
        parts, begin = [], 0
        for start, stop, count in self.blocks:
            end = begin + (stop - start) * count
            lower, width = (
                part[begin:end].view(-1, count) for part in (self.lower, self.width)
            )
            part = (x[..., start:stop, None] - lower).div_(width).clamp_(0, 1)
            parts.append(part.flatten(-2))
            begin = end
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def _periodic(
    n_members: int,
    n_features: int,
    *,
    n_bins: int,
    **options: Any,
) -> nn.Module:
    return PeriodicEmbedding(n_members, n_features, **options)


def _bins(n_members: int, n_features: int, *, n_bins: int, **options: Any) -> nn.Module:
    return BinsEmbedding(n_bins)


# Functions of the members and features, and of all options of any embedding.
EMBEDDINGS: dict[str, Callable[..., nn.Module]] = {
    "periodic": _periodic,
    "bins": _bins,
}
