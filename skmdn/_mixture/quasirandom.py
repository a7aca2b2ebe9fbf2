"""Quasi-random points that represent a mixture of several outputs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch
from scipy import special
from torch import Tensor

from skmdn._mixture.core import Mixture, draw_components
from skmdn._mixture.factors import invert_factors
from skmdn._mixture.surface import centre, survey
from skmdn._utils.arrays import row_chunks


def joint_at_points(mixture: Mixture, n_points: int) -> Iterator[Tensor]:
    """Yield log(w_k p_k) at points drawn from n mixtures, in pieces (n, K, m).

    A point is a component, by inversion of the cdf of the weights, and a normal vector
    in the metric of the component. So every component has as many points as its weight
    demands, and no two components have the same.
    """
    mixture, _ = centre(mixture)
    n, n_components, d = mixture.means.shape
    uniform, normal = (p.to(mixture.means.device) for p in normal_points(d, n_points))
    # A point is [R m] [z 1]' with R the inverse of U. Rows of one matrix are faster to
    # select than pairs of rows and components.
    normal = torch.nn.functional.pad(normal, (0, 1), value=1)
    roots = invert_factors(mixture.precision_factors)
    transforms = torch.cat([roots, mixture.means[..., None]], dim=-1)
    transforms = transforms.flatten(2).flatten(0, 1)
    constants, factors, whitened_means = survey(mixture)
    first = n_components * torch.arange(n, device=uniform.device)[:, None]
    n_numbers = 3 * d * n_components + 2 * d * (d + 1)
    for piece in row_chunks(n_points, 8 * n * n_numbers):
        choice = uniform[piece].expand(n, -1).contiguous()
        index = first + draw_components(mixture.log_weights, choice)
        selected = transforms.index_select(0, index.flatten())
        selected = selected.view(*index.shape, d, d + 1)
        y = (selected @ normal[piece, :, None])[..., 0]
        # With the points as the last axis, sums over few components are fast.
        whitened = torch.baddbmm(whitened_means.mT, factors.mT, y.mT, beta=-1)
        squares = whitened.square_().unflatten(1, (d, -1)).sum(1)
        yield squares.mul_(-0.5).add_(constants.mT)


@lru_cache(maxsize=16)
def normal_points(n_outputs: int, n_points: int) -> tuple[Tensor, Tensor]:
    """Return uniform numbers (n_points,) and normal vectors (n_points, d).

    The densities at a point depend above all on its component and on the length of the
    vector, which have the first two dimensions of a scrambled Sobol sequence; the
    others give the direction.
    """
    engine = torch.quasirandom.SobolEngine(n_outputs + 2, scramble=True, seed=0)
    # The engine divides integers for the first point, in the default dtype.
    first = engine.quasi.to(torch.float32) / 2**engine.MAXBIT
    points = engine.draw(n_points, dtype=torch.float64)
    points[0] = first
    points.clamp_(1e-12, 1 - 1e-12)
    direction = torch.special.ndtri(points[:, 2:])
    direction /= torch.linalg.vector_norm(direction, dim=-1, keepdim=True)
    half_square = special.gammaincinv(n_outputs / 2, points[:, 1].numpy())
    return points[:, 0], direction * torch.from_numpy(2 * half_square).sqrt()[:, None]
