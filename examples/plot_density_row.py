"""
Density of one row: curve with intervals
========================================

After a wait of 78 minutes an eruption of Old Faithful is either short or long. The
curve is the density of its duration; the shaded areas lie above the central intervals
of 50, 80 and 95 %. The circles are the two modes, and the black line is the median,
which lies between them, where the density is low.
"""

from skmdn import MDNRegressor
from skmdn.datasets import load_geyser
from skmdn.plot import DensityDisplay

X, y = load_geyser(return_X_y=True)
mdn = MDNRegressor(n_estimators=4, max_iter=60, random_state=0).fit(X, y)
display = DensityDisplay.from_estimator(
    mdn,
    [[78.0]],
    feature=0,
    x_label="wait before the eruption (minutes)",
    y_label="duration (minutes)",
)
