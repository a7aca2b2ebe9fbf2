"""
Density of single rows: ridge
=============================

The whole density of a few eruptions, one curve for each wait. The curves have equal
area: narrow means sure.
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
