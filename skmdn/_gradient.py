"""Loss and gradient of the standard network by hand.

Autograd spends most of a step on bookkeeping when matrices are small. Here every
derivative is written out: responsibilities times whitened residuals for the mixture,
and a transposed product for each layer. Gradients go straight into `.grad`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from skmdn import _mixture
from skmdn.nn import MixtureDensityNetwork, MixtureHead, PeriodicEmbedding

__all__ = ["ACTIVATION_GRADIENTS", "nll_and_gradient"]

# From the gradient after an activation, its input and its output, to that before.
ACTIVATION_GRADIENTS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "identity": lambda g, x, h: g,
    "logistic": lambda g, x, h: torch.ops.aten.sigmoid_backward(g, h),
    "tanh": lambda g, x, h: torch.ops.aten.tanh_backward(g, h),
    "relu": lambda g, x, h: torch.ops.aten.threshold_backward(g, h, 0),
    "silu": lambda g, x, h: torch.ops.aten.silu_backward(g, x),
}


@torch.no_grad()
def nll_and_gradient(
    network: MixtureDensityNetwork, X: Tensor, y: Tensor, weight: Tensor
) -> Tensor:
    """Weighted negative log-likelihoods; the gradient of their mean fills `.grad`.

    Parameters
    ----------
    network : MixtureDensityNetwork
        Without dropout; every parameter has a `.grad` to write to.
    X : Tensor of shape (n_members, n, n_features)
    y : Tensor of shape (n_members, n, d)
    weight : Tensor of shape (n_members, n)

    Returns
    -------
    losses : Tensor of shape (n_members, n)
        In nats.
    """
    activate = network.activate
    hidden, angles = X, None
    if network.embedding is not None:
        hidden, angles = network.embedding.embed(X)
    inputs, sums = [], []
    for layer in network.hidden:
        inputs.append(hidden)
        sums.append(layer(hidden))
        hidden = activate(sums[-1])
    inputs.append(hidden)
    losses, gradient = _head(network.head, network.head.linear(hidden), y)
    gradient *= (weight / weight.shape[1])[..., None]

    back = ACTIVATION_GRADIENTS[network.activation]
    layers = [*network.hidden, network.head.linear]
    for i in reversed(range(len(layers))):
        if i < len(sums):
            gradient = back(gradient, sums[i], inputs[i + 1])
        # Into a strided `out` the product would be made member by member.
        layers[i].weight.grad.copy_(torch.bmm(inputs[i].mT, gradient))
        torch.sum(gradient, dim=1, keepdim=True, out=layers[i].bias.grad)
        if i or angles is not None:
            gradient = torch.bmm(gradient, layers[i].weight.mT)
    if network.embedding is not None and angles is not None:
        _embedding(network.embedding, inputs[0], angles, gradient)
    return weight * losses


def _embedding(
    embedding: PeriodicEmbedding, embedded: Tensor, angles: Tensor, gradient: Tensor
) -> None:
    """Of cos(f x + phase), with x the first entries of what was embedded."""
    n_features = embedded.shape[-1] - angles.shape[-1]
    x = embedded[..., :n_features]
    slope = angles.sin().mul_(gradient[..., n_features:]).neg_()
    torch.sum(slope, dim=1, keepdim=True, out=embedding.phases.grad)
    slope.unflatten(-1, (-1, n_features)).mul_(x[..., None, :])
    torch.sum(slope, dim=1, keepdim=True, out=embedding.frequencies.grad)


def _head(head: MixtureHead, raw: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood (n_members, n), and its gradient in the head's output.

    With r = y - mean, v = (I + B) r and z = u v, the log-density of a component is
    log weight + sum log u - |z|^2 / 2, up to a constant. So with responsibilities R

        d / d logit = weight - R          d / d log u = R (z^2 - 1)
        d / d v     = R u z =: s          d / d mean  = -(I + B)' s
        d / d B_ij  = s_i r_j
    """
    logits, means, log_precision, coefficients = head.split(raw)
    d = y.shape[-1]
    residuals = y[..., None, :] - means
    log_u = head.floored(log_precision)
    u = log_u.exp()
    upper = head.upper(coefficients, d) if coefficients.shape[-1] else None
    v = residuals
    if upper is not None:
        v = residuals + (upper * residuals[..., None, :]).sum(-1)
    z = u * v
    squares = z.square()
    weights, log_weights, _ = _softmax(logits)
    log_det = log_u.sum(-1) * (d // log_u.shape[-1])
    joint = torch.sub(log_weights + log_det, squares.sum(-1), alpha=0.5)
    responsibilities, _, log_density = _softmax(joint)

    r = responsibilities[..., None]
    s = r * u * z
    by_mean = -s
    by_upper = s[..., :0]
    if upper is not None:
        by_mean = by_mean - (upper * s[..., :, None]).sum(-2)
        outer = s[..., :, None] * residuals[..., None, :]
        by_upper = outer.flatten(-2).index_select(-1, head._upper)
    by_raw = _summed_like(r * (squares - 1), log_precision)
    by_raw = by_raw * head.floored_slope(log_precision)
    parts = [
        weights - responsibilities,
        by_mean.flatten(-2),
        by_raw.flatten(-2),
        _summed_like(by_upper, coefficients).flatten(-2),
    ]
    nll = 0.5 * d * _mixture.LOG_2PI - log_density
    return nll, torch.cat(parts, dim=-1)


def _softmax(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Softmax, its logarithm, and the logsumexp, along the last axis.

    torch's own are several times slower where that axis is short.
    """
    largest = x.amax(-1, keepdim=True)
    shifted = x - largest
    powers = shifted.exp()
    total = powers.sum(-1, keepdim=True)
    log_total = total.log()
    log_sum = (largest + log_total)[..., 0]
    return powers.div_(total), shifted.sub_(log_total), log_sum


def _summed_like(gradient: Tensor, shared: Tensor) -> Tensor:
    """Sum over what one number was used for: components, or outputs."""
    for axis in (-2, -1):
        if shared.shape[axis] == 1 < gradient.shape[axis]:
            gradient = gradient.sum(axis, keepdim=True)
    return gradient
