"""
Density of two outputs: contours
================================

The true density is a mixture of two Gaussians that rotate in opposite directions as x
increases. The figure shows the mean of the estimated densities at 50 values of x near
0.2. The contours are its highest-density regions; the points are samples of the true
densities.
"""

import numpy as np

from skmdn import MDNRegressor
from skmdn.datasets import make_rotating_gaussians
from skmdn.plot import DensityDisplay

X, y = make_rotating_gaussians(3000, random_state=0)
mdn = MDNRegressor(2, random_state=0).fit(X, y)
near = np.argsort(np.abs(X[:, 0] - 0.2))[:50]
display = DensityDisplay.from_estimator(
    mdn,
    X[near],
    y[near],
    output=(0, 1),
    y_label=("first output", "second output"),
)
