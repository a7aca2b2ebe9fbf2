"""
Can the density be trusted? Calibration and PIT
===============================================

On rows that the model has not seen, highest-density regions should hold as many as
they promise, and the probability integral transform should be flat.
"""

from matplotlib import pyplot as plt

from skmdn import MDNRegressor
from skmdn.datasets import make_inverse_sine
from skmdn.plot import CalibrationDisplay, PITDisplay

X, y = make_inverse_sine(2000, random_state=0)
X_test, y_test = make_inverse_sine(2000, random_state=1)
mdn = MDNRegressor(random_state=0).fit(X, y)

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
calibration = CalibrationDisplay.from_estimator(mdn, X_test, y_test, ax=left)
pit = PITDisplay.from_estimator(mdn, X_test, y_test, ax=right)
