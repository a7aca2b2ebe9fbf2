"""Densities that no fit should lose to: linear models, and mixtures of y alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from _tables import Array, as_columns
from sklearn.linear_model import RidgeCV
from sklearn.mixture import GaussianMixture
from sklearn.preprocessing import StandardScaler

# Penalties of ridge on standardised columns; RidgeCV chooses by leave-one-out error.
ALPHAS = np.logspace(-3, 3, 13)


@dataclass(frozen=True)
class LinearGaussian:
    """The density N(intercept + X coef, cov) of y."""

    intercept: Array  # (d,)
    coef: Array  # (p, d)
    cov: Array  # (d, d)

    def mean(self, X: Array) -> Array:
        return self.intercept + X @ self.coef

    def logpdf(self, X: Array, y: Array) -> Array:
        """Return the log-density (n,) of targets (n,) or (n, d), in nats."""
        root = np.linalg.cholesky(self.cov)
        z = np.linalg.solve(root, (as_columns(y) - self.mean(X)).T)
        log_det = np.log(np.diag(root)).sum()
        constant = log_det + len(root) * np.log(2 * np.pi) / 2
        return np.asarray(-0.5 * (z**2).sum(axis=0) - constant)


def fit_linear(X: Array, y: Array, ridge: bool) -> LinearGaussian:
    """Fit a linear model with Gaussian residuals of full covariance.

    Least squares, or ridge on standardised columns. The covariance is that of the
    residuals over n - df, where df = 1 + sum_i s_i^2 / (s_i^2 + alpha) is the effective
    number of coefficients and s_i are the singular values of the columns.
    """
    y = as_columns(y)
    units = StandardScaler().fit(X)
    Z = units.transform(X)
    alpha = RidgeCV(ALPHAS).fit(Z, y).alpha_ if ridge else 0.0
    U, s, Vt = np.linalg.svd(Z, full_matrices=False)
    is_seen = s > 1e-10 * s.max()
    U, s, Vt = U[:, is_seen], s[is_seen], Vt[is_seen]
    centre = y.mean(axis=0)
    scores = U.T @ (y - centre)  # (rank, d)
    shrinkage = s**2 / (s**2 + alpha)
    residuals = y - centre - U @ (shrinkage[:, None] * scores)
    coef = Vt.T @ ((shrinkage / s)[:, None] * scores) / units.scale_[:, None]
    return LinearGaussian(
        centre - units.mean_ @ coef,
        coef,
        residuals.T @ residuals / (len(y) - 1 - shrinkage.sum()),
    )


def fit_gaussian(X: Array, y: Array) -> LinearGaussian:
    """Fit a Gaussian of y that does not depend on X."""
    y = as_columns(y)
    cov = np.atleast_2d(np.cov(y, rowvar=False))
    return LinearGaussian(y.mean(axis=0), np.zeros((X.shape[1], y.shape[1])), cov)


def mixture_logpdf(y: Array, y_test: Array, seed: int) -> Array:
    """Return the log-density of targets under 5 Gaussians of y alone."""
    units = StandardScaler().fit(as_columns(y))
    model = GaussianMixture(5, n_init=3, random_state=seed)
    model.fit(units.transform(as_columns(y)))
    log_scale = np.log(units.scale_).sum()
    return np.asarray(
        model.score_samples(units.transform(as_columns(y_test))) - log_scale
    )
