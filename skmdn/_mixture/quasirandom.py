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


def joint_at_points(mixture: Mixture, n_points: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield points drawn from n mixtures, (n, m, d), and log(w_k p_k), (n, K, m).

    A point is a component, by inversion of the cdf of the weights, and a normal vector
    in the metric of the component. So every component has as many points as its weight
    demands, and no two components have the same.
    """
    mixture, origin = centre(mixture)
    _, n_components, d = mixture.means.shape
    constants, factors, whitened_means = survey(mixture)
    n_numbers = 3 * d * n_components + 2 * d * (d + 1)
    for y in _points(mixture, n_points, n_numbers):
        # With the points as the last axis, sums over few components are fast.
        whitened = torch.baddbmm(whitened_means.mT, factors.mT, y.mT, beta=-1)
        squares = whitened.square_().unflatten(1, (d, -1)).sum(1)
        yield y + origin[:, None], squares.mul_(-0.5).add_(constants.mT)


def points_of(mixture: Mixture, n_points: int) -> Iterator[Tensor]:
    """Yield the points of `joint_at_points` alone, in pieces (n, m, d)."""
    d = mixture.means.shape[-1]
    yield from _points(mixture, n_points, 3 * d * (d + 1))


def _points(mixture: Mixture, n_points: int, n_numbers: int) -> Iterator[Tensor]:
    """Yield points in pieces (n, m, d), for n_numbers floats per row and point."""
    n, n_components, d = mixture.means.shape
    uniform, normal = (p.to(mixture.means.device) for p in normal_points(d, n_points))
    # A point is [R m] [z 1]' with R the inverse of U. Rows of one matrix are faster to
    # select than pairs of rows and components.
    normal = torch.nn.functional.pad(normal, (0, 1), value=1)
    roots = invert_factors(mixture.precision_factors)
    transforms = torch.cat([roots, mixture.means[..., None]], dim=-1)
    transforms = transforms.flatten(2).flatten(0, 1)
    first = n_components * torch.arange(n, device=uniform.device)[:, None]
    for piece in row_chunks(n_points, 8 * n * n_numbers):
        choice = uniform[piece].expand(n, -1).contiguous()
        index = first + draw_components(mixture.log_weights, choice)
        selected = transforms.index_select(0, index.flatten())
        selected = selected.view(*index.shape, d, d + 1)
        yield (selected @ normal[piece, :, None])[..., 0]


@lru_cache(maxsize=16)
def normal_points(n_outputs: int, n_points: int) -> tuple[Tensor, Tensor]:
    """Return uniform numbers (n_points,) and normal vectors (n_points, d).

    The densities at a point depend above all on its component and on the length of the
    vector, which have the first two dimensions of a scrambled Sobol sequence; the
    others give the direction.
    """
    points = sobol_points(n_outputs + 2, n_points)
    direction = torch.special.ndtri(points[:, 2:])
    direction /= torch.linalg.vector_norm(direction, dim=-1, keepdim=True)
    half_square = special.gammaincinv(n_outputs / 2, points[:, 1].numpy())
    return points[:, 0], direction * torch.from_numpy(2 * half_square).sqrt()[:, None]


def sobol_points(n_dimensions: int, n_points: int) -> Tensor:
    """Return scrambled Sobol points in the unit cube, (n_points, n_dimensions)."""
    engine = torch.quasirandom.SobolEngine(n_dimensions, scramble=True, seed=0)
    # The engine divides integers for the first point, in the default dtype.
    first = engine.quasi.to(torch.float32) / 2**engine.MAXBIT
    points: Tensor = engine.draw(n_points, dtype=torch.float64)
    points[0] = first
    return points.clamp_(1e-12, 1 - 1e-12)
