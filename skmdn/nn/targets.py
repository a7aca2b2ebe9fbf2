"""Targets of rows: observed exactly, known to lie in cells, or missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

# Distance of infinite bounds from the point, in standard deviations of y: further than
# any component reaches, and finite in float32 times any precision factor.
UNBOUNDED = 1e18


class Targets(NamedTuple):
    """Targets of some rows, from one tensor of one to four blocks of d columns.

    What the blocks are follows from their number alone, so that nothing depends on
    values::

        points                               observed exactly
        points | observed                    some outputs missing
        points | below | above               some outputs in cells
        points | below | above | observed    both

    `observed` is one or zero; what the other blocks hold of a missing output does not
    matter. An output is known to lie between point + below and point + above, with
    below <= 0 <= above, which may be infinite, or is observed exactly where both are
    zero. The bounds are given less the points, because a cell is often far narrower
    than its distance from zero. The point of an output in a cell represents it where
    other outputs are predicted from it: take the middle, or the expected value.

    The density of a row with cells is the product over its outputs, in the order of the
    head, of the probability of the cell given the points of the later outputs. If each
    point is determined by its cell, the sum of this over the cells of the first output
    is one for any later ones, and by induction so is the sum over all cells: it is an
    exactly normalised distribution of what is recorded.

    Parameters
    ----------
    points : Tensor of shape (..., n, d)
        Zero where missing.
    below, above : Tensor of shape (..., n, d), default=None
        Finite; a missing output has the whole line.
    observed : Tensor of bool of shape (..., n, d), default=None

    Examples
    --------
    The first output is rounded to integers, and the second one is missing:

    >>> import torch
    >>> from skmdn.nn.targets import Targets
    >>> points, bounds = [3.0, 0.0], [-0.5, 0.0, 0.5, 0.0]
    >>> y = torch.tensor([points + bounds + [1.0, 0.0]])
    >>> targets = Targets.split(y, n_outputs=2)
    >>> targets.below[0, 0], targets.observed
    (tensor(-0.5000), tensor([[ True, False]]))
    """

    points: Tensor
    below: Tensor | None = None
    above: Tensor | None = None
    observed: Tensor | None = None

    @classmethod
    def split(cls, y: Tensor, n_outputs: int) -> Targets:
        """Split a tensor (..., n, L * d) into its L blocks."""
        if y.shape[-1] == n_outputs:
            return cls(y)
        n_blocks, rest = divmod(y.shape[-1], n_outputs)
        if rest or n_blocks not in (2, 3, 4):
            raise ValueError(
                f"y must have 1, 2, 3 or 4 blocks of {n_outputs} columns (points, "
                f"below, above, observed), got {y.shape[-1]} columns."
            )
        points, *others = y.split(n_outputs, dim=-1)
        observed = others.pop() > 0 if n_blocks % 2 == 0 else None
        if observed is not None:
            points = points.masked_fill(~observed, 0)
        if not others:
            return cls(points, observed=observed)
        below, above = (bound.clamp(-UNBOUNDED, UNBOUNDED) for bound in others)
        if observed is not None:
            below = below.masked_fill(~observed, -UNBOUNDED)
            above = above.masked_fill(~observed, UNBOUNDED)
        return cls(points, below, above, observed)

    def minus(self, shift: Tensor) -> Targets:
        """Subtract a number from each output, of the shape of the points."""
        return self._replace(points=self.points - shift)

    def map(self, function: Callable[[Tensor], Tensor]) -> Targets:
        """Apply a function to all parts."""
        points, *others = self
        return Targets(
            function(points),
            *(None if part is None else function(part) for part in others),
        )
