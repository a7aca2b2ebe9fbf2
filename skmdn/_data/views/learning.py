"""Parameters of a kernel, by the likelihood of rows given their neighbours."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from skmdn._data.views.conditioning import SMALLEST_VARIANCE
from skmdn._data.views.kernel import Kernel
from skmdn._data.views.neighbours import N_NEIGHBOURS, Neighbours
from skmdn._data.views.rows import ViewRows
from skmdn._utils.arrays import make_generator

# Rows whose likelihood is maximised, searches of neighbours, steps after each of them,
# and rows of a step.
N_TARGETS, N_SEARCHES, N_STEPS, BATCH_SIZE = 2000, 4, 60, 64
# First rate of Adam, and the last one.
RATE, LAST_RATE = 0.08, 1e-3
LARGEST_GRADIENT = 2.0
# Precision of the normal prior around the initial parameters, in rows.
PRIOR = 0.2


def learn_kernel(rows: ViewRows, seed: int) -> Kernel:
    """Maximise the mean log-likelihood of single rows given their nearest others.

    The neighbours are searched again as the length-scales change.
    """
    generator = make_generator(seed)
    n_rows, n_features = rows.X.shape
    first = Kernel.initial(n_features).vector
    vector, noise = first.clone(), rows.weight.reciprocal()
    optimizer = torch.optim.Adam([vector], betas=(0.9, 0.99))
    targets = torch.randperm(n_rows, generator=generator, device="cpu")[:N_TARGETS]
    n_total = N_SEARCHES * N_STEPS
    for step in range(n_total):
        if step % N_STEPS == 0:
            search = Neighbours(Kernel.from_vector(vector), rows.X, rows.group)
            given = rows.X[targets], rows.group[targets]
            found, exists = search.of_others(*given, N_NEIGHBOURS)
        order = torch.randperm(len(targets), generator=generator, device="cpu")
        batch = order[:BATCH_SIZE]
        at, near = targets[batch], found[batch]
        gradient = gradient_of_likelihood(
            Kernel.from_vector(vector),
            (rows.X[at], rows.values[at], noise[at]),
            (rows.X[near], rows.values[near], noise[near]),
            exists[batch],
        )
        vector.grad = gradient + PRIOR / n_rows * (vector - first)
        torch.nn.utils.clip_grad_norm_([vector], LARGEST_GRADIENT)
        share = 0.5 * (1 + math.cos(math.pi * step / n_total))
        optimizer.param_groups[0]["lr"] = LAST_RATE + (RATE - LAST_RATE) * share
        optimizer.step()
    return Kernel.from_vector(vector)


def gradient_of_likelihood(
    kernel: Kernel,
    at: tuple[Tensor, Tensor, Tensor],
    near: tuple[Tensor, Tensor, Tensor],
    exists: Tensor,
) -> Tensor:
    """Differentiate the mean negative log-likelihood of rows given neighbours.

    With K and k the covariances of the neighbours and with the row, w = K^-1 k and
    a = K^-1 t, the mean is m = k'a and the variance v = c - k'w, so that

        dm = a'dk - w'dK a,    dv = dc - 2 w'dk + w'dK w.

    Parameters
    ----------
    kernel : Kernel
    at : tuple of Tensor (b, n_features), (b, d), (b,)
        Features, values and noise of the rows.
    near : tuple of Tensor (b, m, n_features), (b, m, d), (b, m)
        Those of their neighbours.
    exists : Tensor of shape (b, m)
        Neighbours that count.

    Returns
    -------
    gradient : Tensor of shape (n_features + 6,)
        By `Kernel.vector`, in nats.
    """
    (x, t, noise), (X, values, near_noise) = at, near
    both, unit = torch.cat([x[:, None], X], dim=1), kernel.noise_variance
    terms = kernel.terms(X, both)
    covariance = terms.covariance
    matrix, k = covariance[:, :, 1:].clone(), covariance[:, :, :1]
    matrix.diagonal(dim1=1, dim2=2).add_(unit * near_noise)
    is_pair = exists[:, :, None] & exists[:, None, :]
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device="cpu")
    factor = torch.linalg.cholesky(torch.where(is_pair, matrix, identity))
    columns = torch.cat([k, values], dim=-1) * exists[..., None]
    solved = torch.cholesky_solve(columns, factor)
    w, a = solved[..., :1], solved[..., 1:]
    mean = (columns[..., :1].mT @ a)[:, 0]
    explained = (columns[..., :1] * w).sum((1, 2))
    variance = kernel.variance(x) + unit * noise - explained
    variance = variance.clamp(min=SMALLEST_VARIANCE)
    residual = t - mean
    n_rows, d = residual.shape
    # Derivatives of the loss by m, (b, d, 1), and by v, (b, 1, 1).
    by_mean = -(residual / variance[:, None])[..., None] / n_rows
    excess = d - residual.square().sum(1) / variance
    by_variance = (0.5 * excess / variance / n_rows)[:, None, None]
    pulled = a @ by_mean
    by_matrix = by_variance * w @ w.mT - w @ pulled.mT
    by_noise = (by_matrix.diagonal(dim1=1, dim2=2) * near_noise).sum()
    by_noise = by_noise + (by_variance[:, 0, 0] * noise).sum()
    by_covariance = torch.cat([pulled - 2 * by_variance * w, by_matrix], dim=-1)
    gradient = kernel.gradient(X, both, terms, by_covariance).vector
    gradient += kernel.gradient_of_variance(x, by_variance[:, 0, 0]).vector
    gradient[-1] += kernel.noise.exp() * by_noise
    return gradient
