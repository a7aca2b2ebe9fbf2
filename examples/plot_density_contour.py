"""
Density of two outputs: contours
================================

The true density is a mixture of two Gaussians that rotate in opposite directions as x
increases. The figure shows the estimated density at x = 0.2. The contours are
highest-density regions; the points are samples of the true density.
"""

import numpy as np

from skmdn import MDNRegressor
from skmdn.datasets import make_rotating_gaussians
from skmdn.plot import DensityDisplay

X, y = make_rotating_gaussians(3000, random_state=0)
mdn = MDNRegressor(2, random_state=0).fit(X, y)
near = np.abs(X[:, 0] - 0.2) < 0.03
display = DensityDisplay.from_estimator(
    mdn,
    X[near],
    y[near],
    output=(0, 1),
    y_label=("first output", "second output"),
)
