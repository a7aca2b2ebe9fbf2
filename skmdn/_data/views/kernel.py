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
        square = squared_distances(self.scaled(A), self.scaled(B))
        distance = square.clamp(min=SMALLEST_SQUARE).sqrt()
        products = A @ B.mT / A.shape[-1]
        u = math.sqrt(5) * distance
        smooth = (1 + u + u * u / 3) * torch.exp(self.smooth - u)
        rough = torch.exp(self.rough - self.rate.exp() * distance)
        return smooth + rough + self.linear.exp() * products + self.constant.exp()

    def variance(self, A: Tensor) -> Tensor:
        """Compute the variance of rows (..., p) without noise, (...)."""
        stationary = self.smooth.exp() + self.rough.exp() + self.constant.exp()
        return stationary + self.linear.exp() * A.square().mean(-1)


def squared_distances(A: Tensor, B: Tensor) -> Tensor:
    """Compute squared distances of rows (..., a, p) and (..., b, p), (..., a, b)."""
    squares = A.square().sum(-1)[..., :, None] + B.square().sum(-1)[..., None, :]
    return squares.sub(A @ B.mT, alpha=2)
