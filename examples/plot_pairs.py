"""
Density of several outputs: pair plot
=====================================

The other three measures of an iris, predicted jointly from a sepal length of 5.8 cm,
with which it can be of any of three species. The diagonal has the density of each
measure, with the central intervals shaded; below it are the regions of each pair that
contain 50, 80 and 95 % of the probability. Purple is the density once the petal is
known to be 5.1 cm long: the species with small petals is excluded, and the width of the
petal is known better. The dots are draws of the density, and the larger point is the
flower.
"""

from sklearn.datasets import load_iris

from skmdn import MDNRegressor
from skmdn.plot import PairDisplay

iris = load_iris(as_frame=True).data
X = iris[["sepal length (cm)"]]
y = iris.drop(columns="sepal length (cm)")
mdn = MDNRegressor(n_estimators=4, max_iter=60, random_state=0).fit(X, y)
flower = [101]
display = PairDisplay.from_estimator(
    mdn,
    X.iloc[flower],
    y.iloc[flower],
    given={"petal length (cm)": 5.1},
    n_samples=150,
)
