"""Tasks of simulation-based inference: parameters of the prior, and simulations.

The definitions are those of sbibm 1.1.0 (Lueckmann et al., AISTATS 2021).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from _tables import Array
from numpy.random import RandomState
from scipy.special import expit

Simulator = Callable[[int, RandomState, Path], tuple[Array, Array]]


def two_moons(n: int, rng: RandomState, data: Path) -> tuple[Array, Array]:
    theta = rng.uniform(-1, 1, size=(n, 2))
    angle = rng.uniform(-np.pi / 2, np.pi / 2, size=n)
    radius = rng.normal(0.1, 0.01, size=n)
    first, second = theta.T
    x = np.column_stack(
        [
            radius * np.cos(angle) + 0.25 - np.abs(first + second) / np.sqrt(2),
            radius * np.sin(angle) + (second - first) / np.sqrt(2),
        ]
    )
    return theta, x


def gaussian_linear_uniform(
    n: int, rng: RandomState, data: Path
) -> tuple[Array, Array]:
    theta = rng.uniform(-1, 1, size=(n, 10))
    return theta, theta + rng.normal(scale=np.sqrt(0.1), size=(n, 10))


def slcp(n: int, rng: RandomState, data: Path) -> tuple[Array, Array]:
    theta = rng.uniform(-3, 3, size=(n, 5))
    mean, (s1, s2), rho = theta[:, :2], theta[:, 2:4].T ** 2, np.tanh(theta[:, 4])
    cov = np.empty((n, 2, 2))
    cov[:, 0, 0], cov[:, 1, 1] = s1**2 + 1e-6, s2**2 + 1e-6
    cov[:, 0, 1] = cov[:, 1, 0] = rho * s1 * s2
    noise = rng.normal(size=(n, 4, 2)) @ np.linalg.cholesky(cov).swapaxes(1, 2)
    return theta, (mean[:, None] + noise).reshape(n, 8)


def bernoulli_glm(n: int, rng: RandomState, data: Path) -> tuple[Array, Array]:
    """Draw a bias and a smooth filter of 9 lags; the design is part of the data."""
    with np.load(data / "sbibm" / "bernoulli_glm.npz") as arrays:
        design = arrays["design_matrix"].astype(np.float64)  # (100, 10)
    difference = np.eye(9) - np.eye(9, k=-1)
    F = difference @ difference + np.diag(np.sqrt(np.arange(9) / 9))
    bias = rng.normal(scale=np.sqrt(2), size=(n, 1))
    # F f ~ N(0, I) gives f the precision F'F.
    filters = np.linalg.solve(F, rng.normal(size=(9, n))).T
    theta = np.hstack([bias, filters])
    spikes = rng.uniform(size=(n, 100)) < expit(theta @ design.T)
    return theta, spikes.astype(np.float64) @ design


SIMULATORS: dict[str, Simulator] = {
    "two_moons": two_moons,
    "gaussian_linear_uniform": gaussian_linear_uniform,
    "slcp": slcp,
    "bernoulli_glm": bernoulli_glm,
}
