"""
Loss curves of the training
===========================

Each network is validated on its own fold, and the weights of the best epoch are kept.
"""

from skmdn import MDNRegressor
from skmdn.datasets import load_geyser
from skmdn.plot import LossCurveDisplay

X, y = load_geyser(return_X_y=True)
mdn = MDNRegressor(random_state=0).fit(X, y)
display = LossCurveDisplay.from_estimator(mdn)
