"""
Density of two outputs: regions and marginals
=============================================

The filled regions of petal length and width, given the sepals of an iris, contain 50,
80 and 95 % of the probability. With sepals of 5.5 and 2.9 cm the iris can be of any of
three species: the regions have separate parts. The dots are 300 draws of the density,
and the densities of each output lie along the axes, with their central intervals
shaded.
"""

from sklearn.datasets import load_iris

from skmdn import MDNRegressor
from skmdn.plot import DensityDisplay

iris = load_iris(as_frame=True).frame
X = iris[["sepal length (cm)", "sepal width (cm)"]]
y = iris[["petal length (cm)", "petal width (cm)"]]
mdn = MDNRegressor(n_estimators=4, max_iter=60, random_state=0).fit(X, y)
row = X[:1].assign(**{"sepal length (cm)": 5.5, "sepal width (cm)": 2.9})
display = DensityDisplay.from_estimator(mdn, row, output=(0, 1), n_samples=300)
