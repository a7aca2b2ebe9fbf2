"""Targets that are missing or in cells, and their densities by dense formulas."""

import itertools
import math

import torch

from skmdn import _mixture
from skmdn.nn import MixtureDensityNetwork

# Numbers of blocks of columns, see `skmdn.nn.targets`.
ALL_BLOCKS = (1, 2, 3, 4)


def make_network(d=3, seed=0, noise=0.2, **options):
    """Build networks whose densities differ between rows and are well conditioned."""
    generator = torch.Generator().manual_seed(seed)
    options = {"n_components": 3, "n_members": 2, "rank": 2, "reg_covar": 0.1} | options
    options = {"hidden_layer_sizes": (5,)} | options
    network = MixtureDensityNetwork(3, d, **options, generator=generator).double()
    for parameter in network.parameters():
        parameter.data += noise * torch.randn(parameter.shape, generator=generator)
    if network.has_skip:
        size = network.n_members, d
        coefficients = torch.randn(size[0], 3, d, generator=generator)
        network.set_skip(
            slice(size[0]),
            coefficients,
            torch.randn(size, generator=generator),
            torch.rand(size, generator=generator),
        )
    return network


def draw(n_blocks, *shape, seed=1):
    """Draw points, bounds and what is observed: all, missing, rounded or censored."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randn(shape, generator=generator, dtype=torch.float64)
    lower, upper, observed = y.clone(), y.clone(), torch.ones_like(y)
    if n_blocks in (3, 4):
        kind = torch.randint(0, 4, shape, generator=generator)
        lower = torch.where(kind == 1, y - 0.3, lower)
        upper = torch.where(kind == 1, y + 0.5, upper)
        lower = torch.where(kind == 2, -math.inf, lower)
        upper = torch.where(kind == 3, math.inf, upper)
    if n_blocks in (2, 4):
        observed = (torch.rand(shape, generator=generator) < 0.6).double()
        observed[..., 0, :] = 0  # a row of which nothing is known
    return y, lower, upper, observed


def stack(n_blocks, y, lower, upper, observed, junk=0.0):
    """Join the blocks; missing outputs have other values, which must not matter."""
    y, below, above = (
        torch.where(observed > 0, part, junk) for part in (y, lower - y, upper - y)
    )
    blocks = {1: [y], 2: [y, observed], 3: [y, below, above]}
    return torch.cat(blocks.get(n_blocks, [y, below, above, observed]), dim=-1)


def log_probability(low, high):
    """Compute log(Phi(high) - Phi(low)), accurately enough for cells that are near."""
    if low + high > 0:
        low, high = -high, -low
    difference = torch.erfc(high * -math.sqrt(0.5)) - torch.erfc(low * -math.sqrt(0.5))
    return torch.log(difference / 2)


def log_density_of(mean, covariance, outputs, y, lower, upper):
    """Compute that of one row and component, from regressions on the later outputs."""
    total = torch.zeros((), dtype=torch.float64)
    for position, i in enumerate(outputs):
        later = outputs[position + 1 :]
        on_later = torch.linalg.solve(
            covariance[later][:, later], covariance[later][:, [i]]
        )[:, 0]
        centre = mean[i] + on_later @ (y - mean)[later]
        std = (covariance[i, i] - on_later @ covariance[later][:, i]).sqrt()
        # Finite: infinite numbers have gradients that are not a number.
        ends = (x[i].clamp(-1e9, 1e9) for x in (lower, y, upper))
        low, point, high = ((end - centre) / std for end in ends)
        if lower[i] == upper[i]:
            total = total - 0.5 * point.square() - std.log()
            total = total - 0.5 * math.log(2 * math.pi)
        else:
            total = total + log_probability(low, high)
    return total


def joint_by_hand(network, X, y, lower, upper, observed):
    """Compute the joint log-densities (n_members, n, K), differentiable."""
    log_weights, means, factors = network(X)
    covariances = _mixture.covariances(factors)
    order = network.head.order
    joint = torch.empty(log_weights.shape, dtype=torch.float64).tolist()
    for m, i, k in itertools.product(*map(range, log_weights.shape)):
        everything = range(y.shape[-1]) if order is None else order[m].tolist()
        known = [j for j in everything if observed[m, i, j]]
        row = y[m, i], lower[m, i], upper[m, i]
        of_row = log_density_of(means[m, i, k], covariances[m, i, k], known, *row)
        joint[m][i][k] = log_weights[m, i, k] + of_row
    return torch.stack([torch.stack([torch.stack(b) for b in a]) for a in joint])
