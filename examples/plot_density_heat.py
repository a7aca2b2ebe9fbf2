"""
Density over a feature: heat map
================================

After a short waiting time the eruptions of Old Faithful are long; after a long waiting
time they are either short or long. A regression line cannot represent this; a density
can.
"""

import numpy as np

from skmdn import MDNRegressor
from skmdn.datasets import load_geyser
from skmdn.plot import DensityDisplay

X, y = load_geyser(return_X_y=True)
mdn = MDNRegressor(random_state=0).fit(X, y)
display = DensityDisplay.from_estimator(
    mdn,
    np.linspace(42.0, 100.0, 400)[:, None],
    x_label="wait before the eruption (minutes)",
    y_label="duration (minutes)",
)
points = display.ax_.plot(X, y, ".", color="#D55E00", markersize=4)
limits = display.ax_.set(xlim=(42.0, 100.0), ylim=(1.0, 6.0))
