"""
Feature importance for quantiles, widths and risks
==================================================

Permutation importance measures how much a score gets worse if one feature is shuffled.
A density has many properties, and each can depend on other features: here the 90 %
quantile of the progression of diabetes (pinball loss), the width of its central 80 %
interval, and the probability that it exceeds 200 (Brier score). The width is not
observed, so that its importance is the mean relative change of the prediction. The page
on :doc:`explaining a density </explaining>` has more.
"""

import numpy as np
from matplotlib import pyplot as plt
from sklearn.datasets import load_diabetes
from sklearn.inspection import permutation_importance
from sklearn.metrics import mean_pinball_loss
from sklearn.model_selection import train_test_split

from skmdn import MDNRegressor

X, y = load_diabetes(return_X_y=True, as_frame=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.4, random_state=0)
mdn = MDNRegressor(n_estimators=8, max_iter=60, random_state=0).fit(X_train, y_train)


def width(X):
    low, high = mdn.predict_density(X).interval(0.8)
    return high - low


def quantile_score(mdn, X, y):
    return -mean_pinball_loss(y, mdn.predict_density(X).ppf(0.9), alpha=0.9)


def spread_score(mdn, X, before):
    return -np.abs(np.log(width(X) / before)).mean()


def risk_score(mdn, X, y):
    return -np.mean((mdn.predict_density(X).sf(200.0) - (y > 200.0)) ** 2)


# %%
# Each scorer is called with shuffled rows, and with the values that it is given as y:
# the observed target, or the widths of the rows as they were.
questions = {
    "90 % quantile (pinball loss)": (quantile_score, y_test),
    "width of the 80 % interval (relative change)": (spread_score, width(X_test)),
    "P(y > 200) (Brier score)": (risk_score, y_test),
}
figure, axes = plt.subplots(1, 3, figsize=(12, 4), sharey=True, layout="constrained")
for ax, (name, (score, values)) in zip(axes, questions.items(), strict=True):
    found = permutation_importance(
        mdn, X_test, values, scoring=score, n_repeats=10, random_state=0
    )
    order = found.importances_mean.argsort()[::-1]
    top = [f"{X.columns[i]} {found.importances_mean[i]:.3g}" for i in order[:3]]
    print(f"{name}: {', '.join(top)}")
    ax.barh(
        X.columns, found.importances_mean, xerr=found.importances_std, color="#0072B2"
    )
    ax.axvline(0, color="k", linewidth=0.8)
    ax.set(title=name, xlabel="importance")
axes[0].invert_yaxis()
