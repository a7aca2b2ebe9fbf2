"""
Quantile regression: all quantiles from one fit
===============================================

The data are the food expenditures of 235 Belgian households in 1857, given their
income, a standard data set for quantile regression. The spread increases with the
income. Quantile regression fits one line for each level. A density gives the quantiles
of all levels; they can have any shape, and they do not cross. The pinball loss of
held-out rows is 22.8 francs for the density and 23.9 for the lines (lower is better).
"""

import numpy as np
from matplotlib import pyplot as plt
from sklearn.linear_model import QuantileRegressor
from sklearn.metrics import mean_pinball_loss
from sklearn.model_selection import KFold
from statsmodels.datasets import engel

from skmdn import MDNRegressor

data = engel.load_pandas().data
X, y = data[["income"]].to_numpy(), data["foodexp"].to_numpy()
levels = np.array([0.05, 0.25, 0.5, 0.75, 0.95])


def by_density(X_train, y_train, X):
    mdn = MDNRegressor(random_state=0).fit(X_train, y_train)
    return mdn.predict_density(X).ppf(levels[:, None])


def by_lines(X_train, y_train, X):
    lines = (QuantileRegressor(quantile=level, alpha=0.0) for level in levels)
    return np.array([line.fit(X_train, y_train).predict(X) for line in lines])


# %%
# Pinball loss of held-out rows, by 5-fold cross-validation; lower is better.
methods = {"density": by_density, "quantile regression": by_lines}
for name, quantiles in methods.items():
    losses = []
    for train, test in KFold(5, shuffle=True, random_state=0).split(X):
        found = quantiles(X[train], y[train], X[test])
        for level, line in zip(levels, found, strict=True):
            losses.append(mean_pinball_loss(y[test], line, alpha=level))
    print(f"{name}: {np.mean(losses):.1f} francs")

# %%
grid = np.linspace(X.min(), 2500.0, 200)[:, None]
figure, axes = plt.subplots(
    1, 2, figsize=(9, 4.5), sharex=True, sharey=True, layout="constrained"
)
for ax, (name, quantiles) in zip(axes, methods.items(), strict=True):
    ax.plot(X, y, ".", color="#D55E00", markersize=3)
    for level, line in zip(levels, quantiles(X, y, grid), strict=True):
        ax.plot(grid, line, color="#0072B2", linewidth=2.5 - 4 * abs(level - 0.5))
    ax.set(title=name, xlabel="income (francs per year)", xlim=(grid.min(), 2500))
label = axes[0].set_ylabel("food expenditure (francs per year)")
