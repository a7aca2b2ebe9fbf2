"""Gaussians of which some outputs are missing; shapes are those of `head`."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from skmdn.nn.head import Whitened


def mask(observed: Tensor, residuals: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Let missing outputs have residuals of zero and precisions of one."""
    # Not `where`, which copies numbers to a GPU, so that steps could not be captured.
    return residuals.masked_fill(~observed, 0), u.masked_fill(~observed, 1)


class Marginal(NamedTuple):
    """Marginal density of observed outputs, and the other ones given those.

    The outputs come one by one, from the last to the first, as in a Kalman filter whose
    state are the missing ones: row i of U predicts output i from the later ones. Where
    it is observed, the prediction error is whitened, and the state is updated; where it
    is missing, the prediction joins the state. The covariance of the state is W W', and
    W is updated as it is (Potter; Bierman 1977, chapter II): subtracting from the
    covariance itself could leave negative variances in float32.

    Parameters
    ----------
    z : Tensor of shape (M, K, d, n)
        Whitened residuals given the later observed outputs, zero where missing.
    precision : Tensor of shape (M, K or 1, d, n)
        Their inverse standard deviations, one where missing.
    filled : Tensor of shape (M, K, d, n)
        Residuals, with their conditional means where missing.
    root : Tensor of shape (M, K or 1, d, d, n)
        W; its rows are zero where observed.
    """

    z: Tensor
    precision: Tensor
    filled: Tensor
    root: Tensor

    @classmethod
    def of(
        cls, residuals: Tensor, u: Tensor, upper: Tensor, observed: Tensor
    ) -> Marginal:
        """Compute the marginal for U = diag(u) (I + B).

        Shapes: residuals (M, K, d, n), u (M, K or 1, d, n), B (M, K or 1, d, d, n) and
        the mask `observed` (M or 1, 1, d, n).
        """
        sizes = *upper.shape[:2], 0, 0, upper.shape[-1]
        filled, root = residuals[:, :, :0], upper.new_zeros(sizes)
        found = []
        stds = u.reciprocal()
        for i in reversed(range(residuals.shape[2])):
            is_missing = ~observed[..., i, :]
            b, std = upper[:, :, i, i + 1 :], stds[:, :, i]
            prediction = -(b * filled).sum(2)
            # Of the prediction: minus f times the noise that W multiplies.
            f = (b[:, :, :, None] * root).sum(2)
            variance = std.square() + f.square().sum(2)
            precision = variance.rsqrt()
            error = residuals[:, :, i] - prediction
            z = (error * precision).masked_fill(is_missing, 0)
            found.append((z, precision.masked_fill(is_missing, 1)))
            gain = (root * f[:, :, None]).sum(3) / variance[:, :, None]
            gain = gain.masked_fill(is_missing.unsqueeze(-2), 0)
            filled = filled - gain * error[:, :, None]
            step = f / (1 + std * precision)[:, :, None]
            root = root - gain[:, :, :, None] * step[:, :, None]
            first = torch.where(is_missing, prediction, residuals[:, :, i])
            filled = torch.cat([first[:, :, None], filled], 2)
            row = torch.cat([std[:, :, None], -f], 2)
            row = row.masked_fill(~is_missing.unsqueeze(-2), 0)
            root = nn.functional.pad(root, (0, 0, 1, 0))
            root = torch.cat([row[:, :, None], root], 2)
        z, precision = (torch.stack(part[::-1], 2) for part in zip(*found, strict=True))
        return cls(z, precision, filled, root)

    @property
    def whitened(self) -> Whitened:
        """Log-determinants and distances of the observed outputs."""
        log_dets = self.precision.log().sum(2)
        distances = self.z.square().sum(2)
        return Whitened(log_dets, distances, (self.filled, self.root))
