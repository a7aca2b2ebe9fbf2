"""Displays draw what the density says."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

pytest.importorskip("matplotlib")

import matplotlib as mpl
from conftest import random_density, random_scalar_density
from matplotlib.figure import Figure

from skmdn import MDNRegressor
from skmdn.plot import DensityDisplay

mpl.use("Agg")


def new_axes():
    return Figure().subplots()


def test_columns_are_densities_relative_to_their_peak():
    density = random_scalar_density(5, 3)
    x = np.array([3.0, 1.0, 2.0, 5.0, 4.0])
    display = DensityDisplay.from_predictions(density, x=x, ax=new_axes())
    heights = np.asarray(display.mesh_.get_array())
    assert_allclose(heights.max(axis=0), 1)
    low, high = display.ax_.get_ylim()
    grid = np.linspace(low, high, len(heights) + 1)
    grid = (grid[1:] + grid[:-1]) / 2
    expected = density[[1, 2, 0, 4, 3]].pdf(grid[:, None])
    assert_allclose(heights, expected / expected.max(axis=0), atol=0.02)


def test_rows_stand_in_the_order_of_their_medians_by_default():
    density = random_density(6, 2, 2)
    display = DensityDisplay.from_predictions(density, output=1, ax=new_axes())
    medians = density.marginal(1).ppf(0.5)
    assert_array_equal(np.argsort(display.x), np.argsort(medians))
    assert "predicted medians" in display.ax_.get_xlabel()


def test_estimators_are_drawn_over_a_feature_with_its_name():
    pd = pytest.importorskip("pandas")
    rng = np.random.RandomState(0)
    X = pd.DataFrame({"wait": rng.uniform(size=30), "other": rng.uniform(size=30)})
    y = pd.Series(rng.normal(size=30), name="length")
    mdn = MDNRegressor(1, n_estimators=1, max_iter=2, random_state=0).fit(X, y)
    display = DensityDisplay.from_estimator(mdn, X, y, feature="wait", ax=new_axes())
    assert_array_equal(display.x, X["wait"])
    assert_array_equal(display.y, y)
    assert display.ax_.get_xlabel() == "wait"
    assert display.ax_.get_ylabel() == "length"
    points = display.ax_.lines[0].get_xydata()
    assert_array_equal(points, np.column_stack([X["wait"], y]))


def test_many_rows_are_thinned_out():
    density = random_scalar_density(1000, 2)
    display = DensityDisplay.from_predictions(
        density, x=np.arange(1000.0), ax=new_axes()
    )
    assert np.asarray(display.mesh_.get_array()).shape[1] == 400
