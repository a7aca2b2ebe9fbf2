"""
Partial dependence of a density on one feature
==============================================

How the progression of diabetes depends on single features. Each panel replaces one
feature in a hundred rows and takes the mean of the densities: the black line is its
median, and the bands are its central intervals of 50, 80 and 95 %. Marks at the lower
frame are the deciles of the feature, so that a band without data below it is not
trusted. Categories have a violin each, with a circle at the median and bars for the
intervals.
"""

from sklearn.datasets import load_diabetes

from skmdn import MDNRegressor
from skmdn.plot import DependenceDisplay

data = load_diabetes(as_frame=True, scaled=False)
X = data.data[["bmi", "bp", "s5", "age", "sex"]]
X = X.assign(sex=X["sex"].map({1.0: "first", 2.0: "second"}).astype("category"))
X.columns = [
    "body mass index (kg/m²)",
    "blood pressure (mmHg)",
    "log of triglycerides",
    "age (years)",
    "sex",
]
mdn = MDNRegressor(n_estimators=4, max_iter=60, random_state=0).fit(X, data.target)
display = DependenceDisplay.from_estimator(
    mdn, X, list(X.columns), y_label="progression after one year", random_state=0
)

# %%
# The density of one row, whose other features are medians or given values.
one = DependenceDisplay.from_estimator(
    mdn,
    X,
    ["body mass index (kg/m²)", "blood pressure (mmHg)"],
    kind="individual",
    fixed={"age (years)": 60.0},
    y_label="progression after one year",
    style="heat",
)
