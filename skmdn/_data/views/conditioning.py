"""Values of a Gaussian process given others, with some of them left out."""

from __future__ import annotations

import torch
from torch import Tensor

from skmdn._data.views.kernel import Kernel

SMALLEST_VARIANCE = 1e-8


def given_neighbours(
    kernel: Kernel,
    x: Tensor,
    X: Tensor,
    values: Tensor,
    noise: Tensor,
    left_out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute the mean and variance of new observations at rows given their neighbours.

    With P the inverse covariance of all neighbours and U those left out, the inverse
    covariance of the others is P - P_U P_UU^-1 P_U', which costs little for few.

    Parameters
    ----------
    kernel : Kernel
    x : Tensor of shape (b, n_features)
    X, values, noise : Tensor of shape (b, m, n_features), (b, m, d) and (b, m)
        Of the neighbours; noise is relative to that of the new observations.
    left_out : Tensor of shape (n_lists, b, m), default=None
        Neighbours without influence, for each of several lists.

    Returns
    -------
    mean : Tensor of shape (n_lists, b, d)
    variance : Tensor of shape (n_lists, b)
    """
    covariance = kernel.covariance(X, torch.cat([x[:, None], X], dim=1))
    matrix = covariance[:, :, 1:].clone()
    matrix.diagonal(dim1=1, dim2=2).add_(kernel.noise_variance * noise)
    # Columns: the covariance with the new observation, and the values.
    columns = torch.cat([covariance[:, :, :1], values], dim=-1)
    prior = kernel.variance(x) + kernel.noise_variance
    factor = torch.linalg.cholesky(matrix)
    if left_out is None:
        inner = columns[:, :, :1].mT @ torch.cholesky_solve(columns, factor)
        inner = inner[None]
    else:
        inverse = torch.cholesky_inverse(factor)
        kept = columns * ~left_out[..., None]
        inner = kept[..., :1].mT @ (inverse @ kept)
        inner = inner - _influence(inverse, kept, left_out)
    explained, mean = inner[:, :, 0, 0], inner[:, :, 0, 1:]
    return mean, (prior - explained).clamp(min=SMALLEST_VARIANCE)


def _influence(inverse: Tensor, kept: Tensor, left_out: Tensor) -> Tensor:
    """Compute k' P_U P_UU^-1 P_U' c for the columns c, (n_lists, b, 1, 1 + d).

    Lists are padded to the longest; P_UU is the identity on the padding.
    """
    n_left = int(left_out.sum(-1).max())
    shape = (*left_out.shape[:2], n_left)
    index = (~left_out).to(torch.int8).argsort(dim=-1, stable=True)[..., :n_left]
    counts = left_out.gather(-1, index)
    wide = inverse.expand(*left_out.shape[:2], *inverse.shape[1:])
    rows = wide.gather(2, index[..., None].expand(*shape, inverse.shape[-1]))
    block = rows.gather(3, index[..., None, :].expand(*shape, n_left))
    is_block = counts[..., :, None] & counts[..., None, :]
    identity = torch.eye(n_left, dtype=inverse.dtype, device=inverse.device)
    block = torch.where(is_block, block, identity)
    reached = (rows @ kept) * counts[..., None]
    solved = torch.cholesky_solve(reached, torch.linalg.cholesky(block))
    return reached[..., :1].mT @ solved


def leave_out(
    inverse: Tensor, values: Tensor, left_out: Tensor, group: Tensor
) -> Tensor:
    """Compute the mean of each value given the others, (n_lists, n, d).

    Values of a list, and those of a row's own group, have no influence. The inverse
    covariance of a part of the rows follows from that of all by a Schur complement;
    and with B its block of a group g, the mean of the group is -B^-1 P_g,others t
    (Rasmussen and Williams 2006, section 5.4.2).

    Parameters
    ----------
    inverse : Tensor of shape (n, n)
        Inverse covariance of the observations.
    values : Tensor of shape (n, d)
    left_out : Tensor of shape (n_lists, n)
    group : Tensor of shape (n,)
    """
    result = values.new_empty(len(left_out), *values.shape)
    for mean, is_left in zip(result, left_out, strict=True):
        kept = ~is_left
        part = inverse[kept][:, kept]
        if is_left.any():
            factor = torch.linalg.cholesky(inverse[is_left][:, is_left])
            across = inverse[is_left][:, kept]
            half = torch.linalg.solve_triangular(factor, across, upper=False)
            mean[is_left] = -torch.cholesky_solve(across @ values[kept], factor)
            part = part - half.mT @ half
        mean[kept] = _leave_groups_out(part, values[kept], group[kept])
    return result


def _leave_groups_out(inverse: Tensor, values: Tensor, group: Tensor) -> Tensor:
    """Compute the mean of each value given those of other groups, (n, d)."""
    _, number, sizes = group.unique(return_inverse=True, return_counts=True)
    if len(sizes) == len(group):
        # Without the diagonal, so that a value does not even change the rounding.
        diagonal = inverse.diagonal().clone()
        return -((inverse - diagonal.diag()) @ values) / diagonal[:, None]
    is_same = number[:, None] == number
    pulled = inverse.masked_fill(is_same, 0.0) @ values
    mean = torch.empty_like(values)
    for members in number.argsort(stable=True).split(sizes.tolist()):
        block = inverse[members][:, members]
        mean[members] = -torch.linalg.solve(block, pulled[members])
    return mean


def observation_covariance(kernel: Kernel, X: Tensor, noise: Tensor) -> Tensor:
    """Return the covariance of observations at rows X (n, n_features), (n, n)."""
    matrix = kernel.covariance(X, X)
    matrix.diagonal().add_(kernel.noise_variance * noise)
    return matrix
