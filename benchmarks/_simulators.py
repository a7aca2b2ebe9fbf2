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
Slopes = Callable[[Array], Array]


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


def gaussian_linear(n: int, rng: RandomState, data: Path) -> tuple[Array, Array]:
    theta, noise = rng.normal(scale=np.sqrt(0.1), size=(2, n, 10))
    return theta, theta + noise


def gaussian_linear_uniform(
    n: int, rng: RandomState, data: Path
) -> tuple[Array, Array]:
    theta = rng.uniform(-1, 1, size=(n, 10))
    return theta, theta + rng.normal(scale=np.sqrt(0.1), size=(n, 10))


def gaussian_mixture(n: int, rng: RandomState, data: Path) -> tuple[Array, Array]:
    theta = rng.uniform(-10, 10, size=(n, 2))
    std = np.where(rng.uniform(size=(n, 1)) < 0.5, 1.0, 0.1)
    return theta, theta + std * rng.normal(size=(n, 2))


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


def sir(n: int, rng: RandomState, data: Path) -> tuple[Array, Array]:
    """Count the infected among 1000 persons on ten days of an epidemic."""
    theta = np.exp(rng.normal(np.log([0.4, 0.125]), [0.5, 0.2], size=(n, 2)))
    return theta, rng.binomial(1000, infected(theta)).astype(np.float64)


def infected(theta: Array) -> Array:
    """Return the infected share of a population of a million, (n, 10)."""
    beta, gamma = theta.T

    def slopes(state: Array) -> Array:
        susceptible, ill = state
        infections = beta * susceptible * ill
        return np.stack([-infections, infections - gamma * ill])

    start = np.tile([[1 - 1e-6], [1e-6]], len(theta))
    return integrate(slopes, start, 17.0, 170)[1]


def lotka_volterra(n: int, rng: RandomState, data: Path) -> tuple[Array, Array]:
    """Observe prey and predators at ten times, with log-normal noise."""
    theta = np.exp(rng.normal([-0.125, -3, -0.125, -3], 0.5, size=(n, 4)))
    log_x = log_populations(theta)
    return theta, np.exp(log_x + 0.1 * rng.normal(size=log_x.shape))


def log_populations(theta: Array) -> Array:
    """Return the logarithms of prey and then of predators, (n, 20).

    The equations are those of the logarithms, which have no bound.
    """
    alpha, beta, gamma, delta = theta.T

    def slopes(state: Array) -> Array:
        prey, predators = np.exp(state)
        return np.stack([alpha - beta * predators, delta * prey - gamma])

    start = np.tile([[np.log(30.0)], [0.0]], len(theta))
    found = integrate(slopes, start, 2.1, 420)
    return np.clip(np.hstack([*found]), np.log(1e-10), np.log(1e4))


def integrate(slopes: Slopes, state: Array, interval: float, n_steps: int) -> Array:
    """Return states (k, n) at ten times as (k, n, 10), by Runge-Kutta of order 4.

    The first is `state`; each interval between two times has `n_steps` steps.
    """
    step, found = interval / n_steps, [state]
    for _ in range(9):
        for _ in range(n_steps):
            k1 = slopes(state)
            k2 = slopes(state + step / 2 * k1)
            k3 = slopes(state + step / 2 * k2)
            k4 = slopes(state + step * k3)
            state = state + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        found.append(state)
    return np.stack(found, axis=-1)


SIMULATORS: dict[str, Simulator] = {
    "two_moons": two_moons,
    "gaussian_linear": gaussian_linear,
    "gaussian_linear_uniform": gaussian_linear_uniform,
    "gaussian_mixture": gaussian_mixture,
    "slcp": slcp,
    "bernoulli_glm": bernoulli_glm,
    "sir": sir,
    "lotka_volterra": lotka_volterra,
}
# Support of the prior of each parameter, None for an open end.
SUPPORTS: dict[str, tuple[float | None, float | None]] = {
    "two_moons": (-1.0, 1.0),
    "gaussian_linear_uniform": (-1.0, 1.0),
    "gaussian_mixture": (-10.0, 10.0),
    "slcp": (-3.0, 3.0),
    "sir": (0.0, None),
    "lotka_volterra": (0.0, None),
}
