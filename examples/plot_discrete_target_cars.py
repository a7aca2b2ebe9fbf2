"""
Counts and grades: targets with few values
==========================================

The target is the number of cylinders of a car (4, 6 or 8), given its weight. A density
of such a target has a spike at each value, and its log-likelihood is large but
meaningless; `fit` warns about this. The remedy is `target_resolution`, the step between
values: the likelihood of a row is then the probability of the interval around its
value, and `recorded` gives the distribution of the values.

The last lines compare the density with a classifier, which is designed for this task:
logistic regression is slightly better. For a handful of classes use a classifier;
densities are useful for counts and grades with many values.
"""

import warnings

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from vega_datasets import local_data

from skmdn import MDNRegressor

values, step = np.array([4.0, 6.0, 8.0]), 2.0
cars = pd.read_json(local_data.cars.filepath).query("Cylinders in [4, 6, 8]")
cars = cars.sample(frac=1, random_state=0)  # the rows are sorted by year
X, y = cars[["Weight_in_lbs"]].to_numpy(), cars["Cylinders"].to_numpy(dtype=float)

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    spiky = MDNRegressor(random_state=0).fit(X, y)
print(caught[0].message)
print(f"log-likelihood out of fold: {spiky.oof_score_:.1f} nats (meaningless)")

# %%
# With the step between the values, the likelihood is that of the recorded values.
mdn = MDNRegressor(target_resolution=step, random_state=0).fit(X, y)


def probabilities(mdn, X):
    """Return the probability of each value, (n_rows, n_values)."""
    between = mdn.predict_density(X).recorded().pmf(values[:, None])
    return (between / between.sum(axis=0)).T


weights = np.linspace(1600.0, 5200.0, 300)
figure, ax = plt.subplots(layout="constrained")
areas = ax.stackplot(
    weights,
    probabilities(mdn, weights[:, None]).T,
    labels=[f"{value:.0f} cylinders" for value in values],
    colors=["#56B4E9", "#0072B2", "#003F66"],
)
legend = ax.legend(loc="lower left")
limits = ax.set(
    xlabel="weight (pounds)", ylabel="probability", xlim=(1600, 5200), ylim=(0, 1)
)

# %%
# Mean log-probability of the observed values, by 5-fold cross-validation.
classifier = make_pipeline(StandardScaler(), LogisticRegression())
scores = {"density": [], "logistic regression": []}
for train, test in KFold(5).split(X):
    mdn.fit(X[train], y[train])
    classifier.fit(X[train], y[train])
    columns = np.searchsorted(values, y[test])[:, None]
    for name, chances in zip(
        scores,
        (probabilities(mdn, X[test]), classifier.predict_proba(X[test])),
        strict=True,
    ):
        scores[name].extend(np.log(np.take_along_axis(chances, columns, axis=1)))
for name, found in scores.items():
    print(f"{name}: {np.mean(found):.2f} nats")
