"""
Density over a feature: heat map
================================

After a short wait the Old Faithful geyser erupts for long; after a long wait it
erupts either briefly or for long. No regression line can say that; the density does.
"""

from skmdn import MDNRegressor
from skmdn.datasets import load_geyser
from skmdn.plot import DensityDisplay

X, y = load_geyser(return_X_y=True)
mdn = MDNRegressor(random_state=0).fit(X, y)
display = DensityDisplay.from_estimator(
    mdn,
    X,
    y,
    x_label="wait before the eruption (minutes)",
    y_label="duration (minutes)",
)
