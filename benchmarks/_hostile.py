"""Data sets that are difficult to train on, and checks of the fits to them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import integrate

from skmdn import MDNRegressor, MixtureDensity

__all__ = ["hostile_rows", "hostile_weights", "mass_of", "what_is_wrong"]

Rows = tuple[NDArray, NDArray]


def hostile_rows(n: int, seed: int) -> dict[str, Rows]:
    """Return features (n, 3) and targets (n,) of a linear model, modified by case."""
    rng = np.random.RandomState(seed)
    X = rng.normal(size=(n, 3))
    y = X[:, 0] + 0.3 * rng.normal(size=n)
    few = max(2, n // 10)

    def spoiled(array: NDArray, value: float) -> NDArray:
        array = array.copy()
        array[0] = value
        return array

    return {
        "constant y": (X, np.full(n, 3.0)),
        "nearly constant y": (X, 3 + 1e-13 * y),
        "duplicated rows": (np.resize(X[:few], X.shape), np.resize(y[:few], n)),
        "6 distinct targets": (X, np.clip(np.round(1.5 * y), -2, 3)),
        "tiny y": (X, 1e-30 * y),
        "huge y": (X, 1e30 * y),
        "tiny X": (1e-30 * X, y),
        "huge X": (1e30 * X, y),
        "offset y": (X, y + 1e12),
        "offset X": (X + 1e12, y),
        "outlier in y": (X, spoiled(y, 1e9)),
        "outlier in X": (spoiled(X, 1e9), y),
        "Cauchy y": (X, rng.standard_cauchy(n)),
        "Cauchy X": (rng.standard_cauchy((n, 3)), y),
        "50 rows of 500 columns": (rng.normal(size=(50, 500)), rng.normal(size=50)),
        "constant and duplicate columns": (np.column_stack([X, np.ones(n), X]), y),
        "no noise": (X, X[:, 0]),
        "boolean X": (X > 0, y),
        "integer X": ((10 * X).astype(int), y),
        "half precision": (X.astype(np.float16), y.astype(np.float16)),
        "single precision": (X.astype(np.float32), y.astype(np.float32)),
    }


def hostile_weights(n: int, seed: int) -> dict[str, NDArray]:
    """Return sample weights (n,) by case."""
    rng = np.random.RandomState(seed)
    return {
        "weights of zero": np.arange(n) % 2.0,
        "weights over 12 orders": 10.0 ** rng.uniform(-6, 6, size=n),
        "tiny weights": np.full(n, 1e-300),
        "huge weights": np.full(n, 1e300),
    }


def what_is_wrong(mdn: MDNRegressor, X: NDArray, y: NDArray) -> str | None:
    """Name the first invalid result of a fit; return None if all are valid."""
    mean, std = mdn.predict(X, return_std=True)
    density = mdn.predict_density(X)
    values = {
        "mean": mean,
        "std": std,
        "log-density of y": mdn.score_samples(X, y),
        "expected log-density": mdn.score_samples(X),
        "losses": mdn.loss_curve_,
        "out-of-fold log-density": getattr(mdn, "oof_log_density_", 0.0),
        "parameters": density.means,
        "factors": density.precision_factors,
    }
    for name, value in values.items():
        if not np.isfinite(value).all():
            return f"{name} is not finite"
    if (std <= 0).any():
        return "std is not positive"
    for j in range(density.n_outputs):
        mass = mass_of(density[:1].marginal(j))
        if abs(mass - 1) > 1e-5:
            return f"output {j} has mass {mass}"
    return None


def mass_of(density: MixtureDensity) -> float:
    """Integrate one univariate density by quadrature between component edges."""
    steps = np.linspace(-10, 10, 41)
    means, factors = density.means.reshape(-1), density.precision_factors.reshape(-1)
    edges = np.unique(means + steps[:, None] / factors)
    if np.diff(edges).min() < 1e3 * np.spacing(np.abs(edges).max()):
        # The edges are too close for floating-point numbers between them.
        return float((density.cdf(edges[-1]) - density.cdf(edges[0]))[0])
    return sum(
        integrate.fixed_quad(lambda t: density.pdf(t[:, None])[:, 0], *pair, n=8)[0]
        for pair in pairwise(edges)
    )
