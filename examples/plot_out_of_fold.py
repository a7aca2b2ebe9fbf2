"""
Calibration without a test set: out-of-fold densities
=====================================================

Each network of a fit holds out a fold of the rows, and the folds cover all rows. So
`out_of_fold_density` predicts every training row by networks that were not trained on
it. These densities can be scored and drawn like those of a test set, without a second
fit and without giving up rows. The data are 442 patients and the progression of their
diabetes within a year.
"""

import numpy as np
from matplotlib import pyplot as plt
from sklearn.datasets import load_diabetes

from skmdn import MDNRegressor
from skmdn.metrics import coverage, crps
from skmdn.plot import CalibrationDisplay, PITDisplay

X, y = load_diabetes(return_X_y=True)
mdn = MDNRegressor(random_state=0).fit(X, y)
held_out = mdn.out_of_fold_density(X)
trained = mdn.predict_density(X)

# %%
# Scores of the same rows, from networks that held them out and from all networks. Those
# of all networks are too good, because the rows were trained on.
for name, density in (("held out", held_out), ("trained on", trained)):
    print(
        f"{name}: log-likelihood {density.logpdf(y).mean():.2f} nats,"
        f" CRPS {crps(y, density).mean():.0f},"
        f" 90 % intervals cover {np.mean(coverage(y, density, 0.9)):.0%}"
    )

# %%
# `predict_interval` uses the out-of-fold densities: the ends are moved such that the
# intervals cover the nominal share of held-out rows.
low, high = mdn.predict_interval(X[:3], 0.9).T
for i in range(3):
    print(
        f"patient {i}: 90 % within {low[i]:.0f} to {high[i]:.0f}, observed {y[i]:.0f}"
    )

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
calibration = CalibrationDisplay.from_predictions(held_out, y, ax=left)
pit = PITDisplay.from_predictions(held_out, y, ax=right)
