"""
Calibration of test rows: coverage and PIT
==========================================

On test rows, highest-density regions should contain the nominal proportion of the
targets, and the histogram of the probability integral transform (PIT) should be flat.
"""

from matplotlib import pyplot as plt

from skmdn import MDNRegressor
from skmdn.datasets import make_inverse_sine
from skmdn.plot import CalibrationDisplay, PITDisplay

X, y = make_inverse_sine(2000, random_state=0)
X_test, y_test = make_inverse_sine(2000, random_state=1)
mdn = MDNRegressor(random_state=0).fit(X, y)

# %%
# The 90 % regions should contain 90 % of the targets.
print(f"coverage: {mdn.predict_density(X_test).in_hdr(y_test, 0.9).mean():.1%}")
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
calibration = CalibrationDisplay.from_estimator(mdn, X_test, y_test, ax=left)
pit = PITDisplay.from_estimator(mdn, X_test, y_test, ax=right)
