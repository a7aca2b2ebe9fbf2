"""Draws from mixtures, in blocks of rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skmdn._mixture.core import Mixture, draw_components
from skmdn._mixture.factors import LARGEST_SMALL_FACTOR, invert_factors
from skmdn._utils.arrays import check_n_samples, make_seed

# Draws per block of rows, of up to LARGEST_SMALL_FACTOR outputs: they fit the cache
# of a processor.
DRAWS_PER_BLOCK = 2**17


def sample_rows(
    mixtures: Iterable[Mixture],
    n_rows: int,
    n_outputs: int,
    n_samples: Any,
    random_state: Any,
) -> NDArray[np.float64]:
    """Draw from the mixtures of all rows, which come in chunks, (n, n_samples, d).

    The draws do not depend on the chunks.
    """
    n_samples = check_n_samples(n_samples)
    generator = np.random.Generator(np.random.SFC64(make_seed(random_state)))
    draws = np.empty((n_rows, n_samples, n_outputs))
    # The size of a block does not depend on `working_memory`, so neither do the draws.
    n_draws = DRAWS_PER_BLOCK * LARGEST_SMALL_FACTOR
    n_draws //= max(LARGEST_SMALL_FACTOR, n_outputs)
    block = max(1, n_draws // n_samples)
    for rows, mixture in _cut(mixtures, block):
        within = rows.start % block
        if within == 0:
            size = min(block, n_rows - rows.start)
            shape = n_uniforms(n_outputs), size, n_samples
            uniform = torch.from_numpy(generator.random(shape))
        part = uniform[:, within : within + rows.stop - rows.start]
        draws[rows] = sample(mixture, part).numpy()
    return draws


def _cut(mixtures: Iterable[Mixture], block: int) -> Iterator[tuple[slice, Mixture]]:
    """Cut chunks of mixtures where a new block of rows begins."""
    start = 0
    for mixture in mixtures:
        first = start
        last = start + len(mixture.means)
        while start < last:
            stop = min(last, (start // block + 1) * block)
            part = slice(start - first, stop - first)
            yield slice(start, stop), Mixture(*(item[part] for item in mixture))
            start = stop


def n_uniforms(n_outputs: int) -> int:
    """Count uniform numbers per draw: the component, and pairs for Box-Muller."""
    return 1 + 2 * math.ceil(n_outputs / 2)


def sample(mixture: Mixture, uniform: Tensor) -> Tensor:
    """Turn uniform numbers (n_uniforms(d), n, s) into draws, (n, s, d)."""
    n, n_components, d = mixture.means.shape
    choice, *pairs = uniform
    index = draw_components(mixture.log_weights, choice)
    first_of_row = n_components * torch.arange(n, device=index.device)[:, None]
    index = (index + first_of_row).flatten()
    noise = []
    for first, second in zip(pairs[::2], pairs[1::2], strict=True):
        # For u in [0, 1), log(1 - u) is finite.
        radius = first.neg().log1p_().mul_(-2).sqrt_().flatten()
        angle = second.mul(2 * math.pi).flatten()
        noise += [radius * angle.cos(), radius * angle.sin()]
    # With many outputs, inverting the factors pays off for many draws of each.
    is_inverted = d <= LARGEST_SMALL_FACTOR or choice.shape[1] >= n_components
    unwhiten = _unwhiten_by_inverses if is_inverted else _unwhiten_each
    return unwhiten(mixture, index, noise[:d]).view(*choice.shape, d)


def _unwhiten_by_inverses(
    mixture: Mixture, index: Tensor, noise: list[Tensor]
) -> Tensor:
    """Return mean + U^-1 z of component index (m,) for each z, d times (m,); (m, d).

    U is inverted once for each component, and each entry of the inverse is applied to
    all draws at once.
    """
    d = len(noise)
    rows, columns = torch.triu_indices(d, d, device="cpu").tolist()
    roots = invert_factors(mixture.precision_factors)[..., rows, columns]
    entries = torch.cat([mixture.means, roots], dim=-1).flatten(0, 1).T.contiguous()
    draws = [means.index_select(0, index) for means in entries[:d]]
    for root, row, column in zip(entries[d:], rows, columns, strict=True):
        draws[row] += root.index_select(0, index) * noise[column]
    return torch.stack(draws, dim=-1)


def _unwhiten_each(mixture: Mixture, index: Tensor, noise: list[Tensor]) -> Tensor:
    """Return the same by back substitution for each z: O(d^2) operations per draw."""
    d = len(noise)
    factors = mixture.precision_factors.flatten(0, 1)
    solved = torch.stack(noise, dim=-1)
    for i in reversed(range(d)):
        row = factors[:, i, i:].index_select(0, index)
        known = (row[:, 1:] * solved[:, i + 1 :]).sum(-1)
        solved[:, i] = (solved[:, i] - known) / row[:, 0]
    return solved + mixture.means.flatten(0, 1).index_select(0, index)
