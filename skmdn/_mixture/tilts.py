"""The density of bounded outputs as a function of the latent variable.

With z = g(y) a mixture p, the density of y at y(z) is p(z) / (dy/dz). The reciprocal
of the slope is 1, e^-z or e^z for the first three maps of `maps`, and (2 + e^z + e^-z)
/ (high - low) for an interval. A Gaussian times e^(a'z) is a Gaussian again, with the
same covariance S and the mean m + S a, times e^(a'm + a'S a / 2). So the density of y
is, as a function of z, a Gaussian mixture whose weights do not sum to one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from skmdn._mixture.core import Mixture
from skmdn._mixture.factors import invert_factors
from skmdn._mixture.maps import Bounds


def tilt(mixture: Mixture, direction: Tensor) -> Mixture:
    """Return the mixture times e^(a'z) for a direction a (d,)."""
    log_weights, means, factors = mixture
    roots = invert_factors(factors)
    shadow = direction @ roots  # R' a, where S = R R'
    shift = (roots @ shadow[..., None])[..., 0]
    factor = means @ direction + shadow.square().sum(-1) / 2
    return Mixture(log_weights + factor, means + shift, factors)


def tilt_one_sided(mixture: Mixture, bounds: Bounds | None) -> Mixture:
    """Divide the mixture by the slopes dy/dz of all outputs with one bound."""
    if bounds is None or not bounds.sign.any():
        return mixture
    return tilt(mixture, -bounds.sign)


def as_function_of_latent(mixture: Mixture, bounds: Bounds | None) -> Mixture:
    """Return the density of y as a mixture of z, with three components per interval."""
    tilted = tilt_one_sided(mixture, bounds)
    if bounds is None:
        return tilted
    for output in bounds.is_interval.nonzero()[:, 0].tolist():
        width = bounds.high[output] - bounds.low[output]
        direction = torch.zeros_like(bounds.low)
        direction[output] = 1
        parts = [
            tilted._replace(log_weights=tilted.log_weights + math.log(2)),
            tilt(tilted, direction),
            tilt(tilted, -direction),
        ]
        log_weights, means, factors = (
            torch.cat(part, dim=1) for part in zip(*parts, strict=True)
        )
        tilted = Mixture(log_weights - width.log(), means, factors)
    return tilted
