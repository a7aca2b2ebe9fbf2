"""Losses of mixtures, and the calibration of densities."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from skmdn import _mixture
from skmdn._mixture import Mixture


class Calibration(NamedTuple):
    """Change of all densities by two numbers; zeros leave them as they are.

    The precision factors are multiplied by the sharpness, and the weights are raised to
    the inverse temperature and normalised. Both are given as logarithms.
    """

    log_sharpness: float = 0.0
    log_inverse_temperature: float = 0.0

    def then(self, second: Calibration) -> Calibration:
        """Return the calibration that has the effect of this one and another."""
        return Calibration(
            self.log_sharpness + second.log_sharpness,
            self.log_inverse_temperature + second.log_inverse_temperature,
        )

    def after(self, first: Calibration) -> Calibration:
        """Return what changes densities calibrated by `first` to this calibration."""
        return Calibration(
            self.log_sharpness - first.log_sharpness,
            self.log_inverse_temperature - first.log_inverse_temperature,
        )


# -- losses ------------------------------------------------------------------------


class Loss(NamedTuple):
    """A loss L of the joint log-densities j_k = log(w_k p_k(y)) of a row.

    With responsibilities R_k = -dL / dj_k, which sum to one: L(j + c) = L(j) - c.

    Parameters
    ----------
    value : callable
        Map j (..., K) to L (...), differentiable by autograd.
    respond_ : callable
        Compute L, and R in place, for training. Takes a tensor (2, n_members, K, n) of
        the logits of the weights and of j plus the logsumexp of the logits; leaves the
        weights and R there, and returns L (n_members, n). The logits and j are stacked,
        since one softmax of both is faster than two.
    """

    value: Callable[[Tensor], Tensor]
    respond_: Callable[[Tensor], Tensor]


def _nll(joint: Tensor) -> Tensor:
    return -joint.logsumexp(-1)


def _nll_respond_(stacked: Tensor) -> Tensor:
    sums = softmax_(stacked)
    return sums[0] - sums[1]


def _bound(joint: Tensor) -> Tensor:
    return -math.log(joint.shape[-1]) - joint.mean(-1)


def _bound_respond_(stacked: Tensor) -> Tensor:
    logits, joint = stacked.unbind()
    n_components = joint.shape[1]
    log_sum = joint.mean(1) + math.log(n_components)
    joint.fill_(1 / n_components)
    return softmax_(logits) - log_sum


def softmax_(x: Tensor) -> Tensor:
    """Turn x into its softmax along the last axis but one; return its logsumexp."""
    largest = x.amax(-2, keepdim=True)
    total = x.sub_(largest).exp_().sum(-2, keepdim=True)
    x /= total
    return total.log_().add_(largest).squeeze(-2)


LOSSES = {
    "nll": Loss(_nll, _nll_respond_),
    "bound": Loss(_bound, _bound_respond_),
}


def mixture_nll(
    log_weights: Tensor, means: Tensor, precision_factors: Tensor, y: Tensor
) -> Tensor:
    """Compute the negative log-likelihood of y under Gaussian mixtures.

    Parameters
    ----------
    log_weights : Tensor of shape (..., K)
        Logarithms of weights that sum to one.
    means : Tensor of shape (..., K, d)
    precision_factors : Tensor of shape (..., K, d, d)
        Upper-triangular U with positive diagonal; U' U is the inverse covariance.
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
    mixture = Mixture(log_weights, means, precision_factors)
    return LOSSES["nll"].value(_mixture.joint_log_prob(mixture, y))


def mixture_nll_bound(
    log_weights: Tensor, means: Tensor, precision_factors: Tensor, y: Tensor
) -> Tensor:
    """Compute an upper bound of `mixture_nll` by Jensen's inequality.

    The bound is -log K - (1/K) sum_k log(w_k p_k(y)). Every component receives a
    gradient from every row, so that none can become unused while it is minimised; at
    its minimum all components are the same Gaussian.

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
    Kruse (arXiv:2003.05739, eq. 7 and 15) prints the bare sum of -log(w_k p_k). It does
    not bound the negative log-likelihood if densities exceed one.

    Examples
    --------
    >>> import torch
    >>> from skmdn.nn import mixture_nll_bound
    >>> halves = torch.full((1, 2), 0.5).log()
    >>> means, factors = torch.tensor([[[-1.0], [1.0]]]), torch.ones(1, 2, 1, 1)
    >>> mixture_nll_bound(halves, means, factors, torch.zeros(1, 1))
    tensor([1.4189])
    """
    mixture = Mixture(log_weights, means, precision_factors)
    return LOSSES["bound"].value(_mixture.joint_log_prob(mixture, y))
