"""The nearest rows themselves: their values, and how near the first one is."""

from __future__ import annotations

import torch
from torch import Tensor

from skmdn._data.views.kernel import Kernel

N_NEAREST = 3
# Added to squared distances, of which the logarithm is a column.
SMALLEST_SQUARE = 1e-8


def nearest_columns(
    kernel: Kernel,
    x: Tensor,
    X: Tensor,
    values: Tensor,
    left_out: Tensor | None = None,
) -> Tensor:
    """Return the values of the nearest rows, and the logarithm of a distance.

    The distance is that of the nearest one, in units of the length-scales; half of its
    logarithm is of the order of the other columns. Zeros stand for rows that are not
    among the given neighbours.

    Parameters
    ----------
    kernel : Kernel
    x : Tensor of shape (b, n_features)
    X, values : Tensor of shape (b, m, n_features) and (b, m, d)
        Of neighbours, the nearest first.
    left_out : Tensor of shape (n_lists, b, m), default=None
        Neighbours that do not count, for each of several lists.

    Returns
    -------
    columns : Tensor of shape (n_lists, b, N_NEAREST d + 1)
    """
    if left_out is None:
        left_out = torch.zeros(1, *values.shape[:2], dtype=torch.bool, device="cpu")
    # A stable sort keeps the order of the distances.
    first = left_out.to(torch.int8).argsort(dim=-1, stable=True)[..., :N_NEAREST]
    counts = ~left_out.gather(-1, first)
    rows = torch.arange(len(x), device="cpu")[:, None]
    taken = (values[rows, first] * counts[..., None]).flatten(2)
    n_missing = N_NEAREST * values.shape[-1] - taken.shape[-1]
    difference = kernel.scaled(x) - kernel.scaled(X[rows, first[..., :1]])[..., 0, :]
    square = difference.square().sum(-1) + SMALLEST_SQUARE
    half_log = 0.25 * square.log() * counts[..., 0]
    padded = torch.nn.functional.pad(taken, (0, n_missing))
    return torch.cat([padded, half_log[..., None]], dim=-1)
