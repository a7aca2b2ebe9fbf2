"""Scores of a density on a grid, as the public ladder computes them.

Izbicki and Rodrigues, arXiv:2603.26611. A density that is narrower than a cell of the
grid is smeared over it or lost, and a target outside the grid costs 23 nats.
"""

from __future__ import annotations

import numpy as np
from _tables import Array
from scipy import integrate, stats

N_POINTS = 200
FLOOR = 1e-10
LEVEL = 0.9


def grid_of(y_train: Array) -> Array:
    """Return equally spaced points over the range of y and 5 % beyond either end."""
    margin = 0.05 * np.ptp(y_train)
    return np.linspace(y_train.min() - margin, y_train.max() + margin, N_POINTS)


def grid_scores(pdf: Array, grid: Array, y: Array) -> dict[str, float]:
    """Return the scores of densities (n, 200) on the grid at the targets y (n,)."""
    mass = integrate.trapezoid(pdf, grid, axis=1)[:, None]
    pdf = np.divide(pdf, mass, out=np.zeros_like(pdf), where=mass > 0)
    cdf = np.minimum(np.cumsum(pdf, axis=1) * (grid[1] - grid[0]), 1)
    rows = list(zip(pdf, cdf, y, strict=True))
    at_y = np.array([np.interp(t, grid, f, left=0, right=0) for f, _, t in rows])
    pit = np.array([np.interp(t, grid, F) for _, F, t in rows])
    tails = np.array([(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    low, high = np.array([np.interp(tails, F, grid) for _, F, _ in rows]).T
    squares = (cdf - (grid >= y[:, None])) ** 2
    square_mass = integrate.trapezoid(pdf**2, grid, axis=1)
    return {
        "log_lik": float(np.log(np.maximum(at_y, FLOOR)).mean()),
        "crps": float(integrate.trapezoid(squares, grid, axis=1).mean()),
        "cde_loss": float((square_mass - 2 * at_y).mean()),
        "pit_ks": float(stats.kstest(pit, "uniform").statistic),
        "coverage_90": float(((y >= low) & (y <= high)).mean()),
    }
