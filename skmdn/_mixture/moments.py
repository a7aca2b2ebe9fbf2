"""Moments of mixtures seen through the maps of bounded outputs.

With s_i the variance of Z_i and s_ij the covariance of Z_i and Z_j, an exponential has
the mean M_i = E e^(a Z_i) = e^(a m_i + s_i / 2) for a = 1 or -1, and

    Cov(e^(a Z_i), e^(b Z_j)) = M_i M_j (e^(a b s_ij) - 1)
    Cov(a e^(a Z_i), Z_j) = M_i s_ij.

With L the logistic function, Stein's lemma and a change of measure reduce

    Cov(L(Z_i), Z_j) = s_ij E L'(Z_i)
    Cov(L(Z_i), e^(b Z_j)) = M_j (E L(Z_i + b s_ij) - E L(Z_i))

to expectations of one variable.
"""

from __future__ import annotations

import torch
from torch import Tensor

from skmdn._mixture.core import Mixture, fill_empty
from skmdn._mixture.expectations import covariance_of_pairs, expectation
from skmdn._mixture.factors import covariances as covariances_of
from skmdn._mixture.factors import invert_factors
from skmdn._mixture.maps import Bounds, log_slope


def bounded_mean(mixture: Mixture, bounds: Bounds) -> Tensor:
    """Compute the mean of y, (n, d)."""
    mixture = fill_empty(mixture)
    weights = mixture.log_weights.exp()[..., None, :]
    return (weights @ _component_means(mixture, bounds))[..., 0, :]


def bounded_cov(mixture: Mixture, bounds: Bounds) -> Tensor:
    """Compute the covariance of y by the law of total variance, (n, d, d)."""
    mixture = fill_empty(mixture)
    d = mixture.means.shape[-1]
    latent = covariances_of(mixture.precision_factors)
    within = torch.empty_like(latent)
    exponentials = _exponential_means(mixture, bounds)
    for i in range(d):
        for j in range(i + 1):
            pair = _component_cov(mixture.means, latent, exponentials, bounds, i, j)
            within[..., i, j] = within[..., j, i] = pair
    weights, offsets, shift = _offsets(mixture, bounds)
    between = offsets[..., :, None] * offsets[..., None, :]
    total = (weights.mT[..., None] * (within + between)).sum(-3)
    return total - shift.mT * shift


def bounded_var(mixture: Mixture, bounds: Bounds) -> Tensor:
    """Compute the variance of every output of y, (n, d)."""
    mixture = fill_empty(mixture)
    latent = torch.diag_embed(_latent_variances(mixture))
    exponentials = _exponential_means(mixture, bounds)
    within = [
        _component_cov(mixture.means, latent, exponentials, bounds, j, j)
        for j in range(mixture.means.shape[-1])
    ]
    weights, offsets, shift = _offsets(mixture, bounds)
    total = weights @ (torch.stack(within, dim=-1) + offsets.square())
    variance = (total - shift.square())[..., 0, :]
    return variance.nan_to_num(torch.inf, posinf=torch.inf)  # where means overflow


def mean_log_slope(mixture: Mixture, bounds: Bounds) -> Tensor:
    """Compute E log |dy/dz|, the entropy of y less that of z, (n,)."""
    mixture = fill_empty(mixture)
    weights = mixture.log_weights.exp()
    parts = mixture.means * bounds.sign
    variances = _latent_variances(mixture)
    for j in bounds.is_interval.nonzero()[:, 0].tolist():
        own = bounds.select(j)
        parts[..., j] = expectation(
            lambda z, own=own: log_slope(own, z[..., None])[..., 0],
            mixture.means[..., j],
            variances[..., j],
        )
    return (weights * parts.sum(-1)).sum(-1)


def _offsets(mixture: Mixture, bounds: Bounds) -> tuple[Tensor, Tensor, Tensor]:
    """Return weights (n, 1, K), offsets of component means, and their mean (n, 1, d).

    The last is the rounding error of the mean: see `core.var`.
    """
    weights = mixture.log_weights.exp()[..., None, :]
    means = _component_means(mixture, bounds)
    offsets = means - weights @ means
    return weights, offsets, weights @ offsets


def _latent_variances(mixture: Mixture) -> Tensor:
    """Compute the variances of the components, (n, K, d)."""
    return invert_factors(mixture.precision_factors).square().sum(-1)


def _exponential_means(mixture: Mixture, bounds: Bounds) -> Tensor:
    """Compute E e^(a Z) of outputs with one bound, one for the others, (n, K, d)."""
    sign = bounds.sign
    return (sign * mixture.means + sign.abs() * _latent_variances(mixture) / 2).exp()


def _component_means(mixture: Mixture, bounds: Bounds) -> Tensor:
    """Compute the mean of y of every component, (n, K, d)."""
    exponentials, variances = (
        _exponential_means(mixture, bounds),
        _latent_variances(mixture),
    )
    means = mixture.means.clone()
    for j, sign in enumerate(bounds.sign.tolist()):
        own = bounds.select(j)
        if sign:
            bound = own.low if sign > 0 else own.high
            means[..., j] = bound + sign * exponentials[..., j]
        elif own.is_interval:
            # From the nearer bound, where the logistic function keeps its digits.
            side = torch.where(mixture.means[..., j] > 0, -1.0, 1.0).to(means)
            share = expectation(
                torch.sigmoid, side * mixture.means[..., j], variances[..., j]
            )
            bound = torch.where(side > 0, own.low, own.high)
            means[..., j] = bound + side * (own.high - own.low) * share
    return means


def _component_cov(
    means: Tensor,
    latent: Tensor,
    exponentials: Tensor,
    bounds: Bounds,
    i: int,
    j: int,
) -> Tensor:
    """Compute the covariance of outputs i and j of y of every component, (n, K)."""
    if bounds.is_interval[j] and not bounds.is_interval[i]:
        i, j = j, i
    sign_i, sign_j = bounds.sign[i], bounds.sign[j]
    s_ij = latent[..., i, j]
    if bounds.is_interval[i]:
        width = bounds.high[i] - bounds.low[i]
        other = exponentials[..., j]
        if bounds.is_interval[j]:
            widths = width * (bounds.high[j] - bounds.low[j])
            pair = latent[..., [i, j], :][..., [i, j]]
            return widths * _logistic_cov(means[..., [i, j]], pair, same=i == j)
        if sign_j:
            shift = sign_j * s_ij
            return (
                width
                * sign_j
                * other
                * _logistic_gain(means[..., i], latent[..., i, i], shift)
            )
        return (
            width
            * s_ij
            * expectation(_logistic_slope, means[..., i], latent[..., i, i])
        )
    size = exponentials[..., i] * exponentials[..., j]  # ones where there is no bound
    if sign_i and sign_j:
        return size * sign_i * sign_j * torch.expm1(sign_i * sign_j * s_ij)
    return size * s_ij


def _logistic_slope(z: Tensor) -> Tensor:
    """Compute the derivative of the logistic function."""
    return torch.sigmoid(z) * torch.sigmoid(-z)


def _logistic_rise(z: Tensor, shift: Tensor) -> Tensor:
    """Compute L(z + shift) - L(z), without a difference of nearly equal numbers.

    L(z + c) - L(z) = L(z + c) L(-z) (1 - e^-c); factors are arranged not to overflow.
    """
    size = shift.abs()
    lower = torch.where(shift > 0, z, z + shift)
    scale = shift.sign() * -torch.expm1(-size)
    return scale * torch.sigmoid(lower + size) * torch.sigmoid(-lower)


def _logistic_gain(means: Tensor, variances: Tensor, shift: Tensor) -> Tensor:
    """Compute E L(Z + shift) - E L(Z)."""
    return expectation(_logistic_rise, means, variances, shift, shift=shift)


def _logistic_cov(means: Tensor, latent: Tensor, *, same: bool) -> Tensor:
    """Compute Cov(L(Z_1), L(Z_2)) for means (n, K, 2) and covariances (n, K, 2, 2).

    Means are reflected to negative ones, where L keeps its digits: L(-z) = 1 - L(z).
    """
    sign = torch.where(means > 0, -1.0, 1.0).to(means)
    means = sign * means
    if same:
        mean, variance = means[..., 0], latent[..., 0, 0]

        def moment(power: int) -> Tensor:
            """Compute E (L(Z) - L(mean))^power, of Z - mean."""
            return expectation(
                lambda offset, mean: _logistic_rise(mean, offset).pow(power),
                torch.zeros_like(mean),
                variance,
                mean,
                shift=mean,
            )

        return moment(2) - moment(1).square()
    latent = sign[..., :, None] * latent * sign[..., None, :]
    pairs = covariance_of_pairs(
        _logistic_rise, means.flatten(0, -2), latent.flatten(0, -3)
    )
    return sign.prod(-1) * pairs.view(means.shape[:-1])
