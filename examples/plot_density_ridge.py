"""
Density of single rows: ridge
=============================

The figure shows the conditional density of the duration, with one curve for each
waiting time. All curves have the same area: a narrow curve is a precise prediction.
"""

import numpy as np

from skmdn import MDNRegressor
from skmdn.datasets import load_geyser
from skmdn.plot import DensityDisplay

X, y = load_geyser(return_X_y=True)
mdn = MDNRegressor(random_state=0).fit(X, y)
waits = np.arange(50.0, 96.0, 5.0)[:, None]
display = DensityDisplay.from_estimator(
    mdn,
    waits,
    kind="ridge",
    x_label="wait before the eruption (minutes)",
    y_label="duration (minutes)",
)
