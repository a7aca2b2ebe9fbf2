"""Covariance function of the kriging view, and its parameters."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

# Smallest squared distance, of which the square root has a derivative.
SMALLEST_SQUARE = 1e-12
# Logarithm of the smallest noise variance, relative to the variance of the values.
SMALLEST_NOISE = math.log(1e-5)


class Kernel(NamedTuple):
    """Parameters of a covariance function, all as logarithms, in float64.

    With d the distance of two rows in units of the length-scales, the covariance is ::

        smooth * matern_5/2(d) + rough * exp(-rate d) + linear * x'z / p + constant

    (Rasmussen and Williams 2006, sections 4.2 and 5.1), and observations of weight w
    have an additional variance noise / w.

    Parameters
    ----------
    lengths : Tensor of shape (n_features,)
    smooth, rough, rate, linear, constant, noise : Tensor of shape ()
    """

    lengths: Tensor
    smooth: Tensor
    rough: Tensor
    rate: Tensor
    linear: Tensor
    constant: Tensor
    noise: Tensor

    @classmethod
    def initial(cls, n_features: int) -> Kernel:
        """Return parameters to start from, for values of variance one."""
        # Two standard normal rows are about sqrt(2 p) apart.
        length = 0.5 * math.log(n_features) + 0.4
        numbers = (-0.6, -0.6, 0.6, -1.0, -1.5, -2.0)
        scalars = torch.tensor(numbers, dtype=torch.float64, device="cpu")
        lengths = scalars.new_full((n_features,), length)
        return cls(lengths, *scalars)

    @classmethod
    def from_vector(cls, vector: Tensor) -> Kernel:
        """Undo `vector`."""
        n_features = len(vector) - len(cls._fields) + 1
        return cls(vector[:n_features], *vector[n_features:])

    @property
    def vector(self) -> Tensor:
        """All parameters, (n_features + 6,)."""
        return torch.cat([self.lengths, torch.stack(self[1:])])

    @property
    def noise_variance(self) -> Tensor:
        """Variance of the noise of an observation of weight one."""
        return self.noise.exp() + math.exp(SMALLEST_NOISE)

    def scaled(self, X: Tensor) -> Tensor:
        """Divide rows by the length-scales."""
        return X * (-self.lengths).exp().to(X)

    def covariance(self, A: Tensor, B: Tensor) -> Tensor:
        """Compute the covariance of rows (..., a, p) and (..., b, p), (..., a, b)."""
        return self.terms(A, B).covariance

    def terms(self, A: Tensor, B: Tensor) -> Terms:
        """Compute the terms of the covariance of rows (..., a, p) and (..., b, p)."""
        square = squared_distances(self.scaled(A), self.scaled(B))
        distance = square.clamp_(min=SMALLEST_SQUARE).sqrt_()
        u = math.sqrt(5) * distance
        decay = torch.exp(self.smooth - u)
        smooth = (u * u).div_(3).add_(u).add_(1).mul_(decay)
        rough = torch.exp(self.rough - self.rate.exp() * distance)
        linear = (A @ B.mT).mul_(self.linear.exp() / A.shape[-1])
        return Terms(distance, decay, smooth, rough, linear, self.constant.exp())

    def variance(self, A: Tensor) -> Tensor:
        """Compute the variance of rows (..., p) without noise, (...)."""
        stationary = self.smooth.exp() + self.rough.exp() + self.constant.exp()
        return stationary + self.linear.exp() * A.square().mean(-1)

    def gradient(
        self, A: Tensor, B: Tensor, terms: Terms, by_covariance: Tensor
    ) -> Kernel:
        """Pull the derivatives by covariances (..., a, b) back to the parameters.

        With s = d^2, the derivative of the smooth term by s is
        -5/6 (1 + u) exp(smooth - u), and that of the rough term r is -rate r / (2 d).
        """
        by_rough = by_covariance * terms.rough
        rate, d = self.rate.exp(), terms.distance
        by_square = (terms.decay * (d * math.sqrt(5)).add_(1)).mul_(-5 / 6)
        by_square = by_square.mul_(by_covariance) - by_rough / d * (0.5 * rate)
        x, z = self.scaled(A), self.scaled(B)
        # The sum of by_square (x - z)^2, for each feature.
        squares = by_square.sum(-1)[..., None] * x.square()
        across = squares - 2 * x * (by_square @ z)
        others = by_square.sum(-2)[..., None] * z.square()
        of_lengths = across.flatten(0, -2).sum(0) + others.flatten(0, -2).sum(0)
        return Kernel(
            lengths=-2 * of_lengths,
            smooth=(by_covariance * terms.smooth).sum(),
            rough=by_rough.sum(),
            rate=-rate * (by_rough * d).sum(),
            linear=(by_covariance * terms.linear).sum(),
            constant=terms.constant * by_covariance.sum(),
            noise=torch.zeros_like(self.noise),
        )

    def gradient_of_variance(self, A: Tensor, by_variance: Tensor) -> Kernel:
        """Pull the derivatives by variances without noise (...) back."""
        total = by_variance.sum()
        return Kernel(
            lengths=torch.zeros_like(self.lengths),
            smooth=self.smooth.exp() * total,
            rough=self.rough.exp() * total,
            rate=torch.zeros_like(self.rate),
            linear=self.linear.exp() * (by_variance * A.square().mean(-1)).sum(),
            constant=self.constant.exp() * total,
            noise=torch.zeros_like(self.noise),
        )


class Terms(NamedTuple):
    """Terms of a covariance: the distance d in units of the length-scales, and others.

    decay : exp(smooth - u), with u = sqrt(5) d; constant : Tensor of shape ()
    """

    distance: Tensor
    decay: Tensor
    smooth: Tensor
    rough: Tensor
    linear: Tensor
    constant: Tensor

    @property
    def covariance(self) -> Tensor:
        """Their sum, (..., a, b)."""
        return (self.smooth + self.rough).add_(self.linear).add_(self.constant)


def squared_distances(A: Tensor, B: Tensor) -> Tensor:
    """Compute squared distances of rows (..., a, p) and (..., b, p), (..., a, b)."""
    squares = A.square().sum(-1)[..., :, None] + B.square().sum(-1)[..., None, :]
    return squares.sub(A @ B.mT, alpha=2)
