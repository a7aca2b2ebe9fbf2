"""Displays draw the numbers of the density."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

pytest.importorskip("matplotlib")

import matplotlib as mpl
from helpers import random_density, random_scalar_density
from matplotlib.figure import Figure

from skmdn import MDNRegressor
from skmdn.metrics import coverage, pit
from skmdn.plot import CalibrationDisplay, DensityDisplay, LossCurveDisplay, PITDisplay

mpl.use("Agg")


def new_axes():
    return Figure().subplots()


def test_columns_are_densities_relative_to_their_peak():
    density = random_scalar_density(5, 3)
    x = np.array([3.0, 1.0, 2.0, 5.0, 4.0])
    display = DensityDisplay.from_predictions(density, x=x, ax=new_axes())
    heights = np.asarray(display.artists_[0].get_array())
    assert_allclose(heights.max(axis=0), 1)
    low, high = display.ax_.get_ylim()
    grid = np.linspace(low, high, len(heights) + 1)
    grid = (grid[1:] + grid[:-1]) / 2
    expected = density[[1, 2, 0, 4, 3]].pdf(grid[:, None])
    assert_allclose(heights, expected / expected.max(axis=0), atol=0.02)


def test_rows_are_sorted_by_their_medians_by_default():
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
    assert np.asarray(display.artists_[0].get_array()).shape[1] == 400


def test_ridges_are_the_densities_of_the_rows():
    density = random_scalar_density(3, 2)
    x = np.array([30.0, 10.0, 20.0])
    display = DensityDisplay.from_predictions(
        density, x=x, kind="ridge", ax=new_axes(), y_label="length (m)"
    )
    assert display.ax_.get_xlabel() == "length (m)"
    labels = [tick.get_text() for tick in display.ax_.get_yticklabels()]
    assert labels == ["10", "20", "30"]
    curves = [line.get_xydata() for line in reversed(display.artists_)]
    for place, (curve, row) in enumerate(zip(curves, [1, 2, 0], strict=True)):
        expected = density[row].pdf(curve[:, 0])
        # One factor stretches all of them.
        factor = (curve[:, 1] - place).max() / expected.max()
        assert_allclose(curve[:, 1] - place, factor * expected, atol=1e-9)


def test_contours_are_highest_density_regions():
    density = random_density(1, 2, 3)
    y = density.sample(20, random_state=0)[0, 0]
    display = DensityDisplay.from_predictions(
        density, y[None], output=(2, 0), ax=new_axes()
    )
    pair = density.marginal([2, 0])
    expected = [pair.hdr_level(level)[0] for level in (0.95, 0.8, 0.5, 0.2)]
    assert_allclose(display.artists_[1].levels, expected)
    assert display.ax_.get_xlabel() == "output 2"
    assert_array_equal(display.ax_.lines[-1].get_xydata(), [y[[2, 0]]])


def test_invalid_kinds_are_refused():
    density = random_density(1, 2, 2)
    with pytest.raises(ValueError, match=r"kind must be one of .*got 'pie'"):
        DensityDisplay.from_predictions(density, kind="pie", ax=new_axes())
    with pytest.raises(ValueError, match="draws 2 outputs, got 1"):
        DensityDisplay.from_predictions(density, kind="contour", ax=new_axes())


def test_pit_display_shows_the_share_of_rows_in_each_bin():
    density = random_density(1, 2, 2)[np.zeros(500, dtype=int)]
    y = density.sample(random_state=0)[:, 0]
    display = PITDisplay.from_predictions(density, y, ax=new_axes())
    u = pit(y, density)
    for output, patch in enumerate(display.ax_.patches[1:]):
        counts, _ = np.histogram(u[:, output], 20, (0, 1))
        assert_allclose(patch.get_data().values, counts / 500 * 20)


def test_calibration_display_shows_coverage():
    density = random_scalar_density(1, 2)[np.zeros(300, dtype=int)]
    y = density.sample(random_state=0)[:, 0]
    display = CalibrationDisplay.from_predictions(density, y, ax=new_axes())
    nominal, observed = display.line_.get_xydata().T
    for level, share in zip(nominal[::6], observed[::6], strict=True):
        assert_allclose(share, coverage(y, density, level).mean())


def test_loss_curves_mark_the_weights_that_are_kept():
    X = np.random.RandomState(0).normal(size=(60, 2))
    mdn = MDNRegressor(1, n_estimators=4, max_iter=5, random_state=0)
    mdn.fit(X, X[:, 0])
    display = LossCurveDisplay.from_estimator(mdn, ax=new_axes())
    kept = display.ax_.lines[-1].get_xydata()
    assert_allclose(kept[:, 1], -mdn.best_validation_score_)
    assert len(display.ax_.lines) == 3
    mdn.set_params(early_stopping=False).fit(X, X[:, 0])
    assert len(LossCurveDisplay.from_estimator(mdn, ax=new_axes()).ax_.lines) == 1


def test_displays_reach_through_estimators():
    X = np.random.RandomState(0).normal(size=(60, 2))
    mdn = MDNRegressor(1, n_estimators=1, max_iter=2, random_state=0)
    mdn.fit(X, X[:, 0])
    for display in (CalibrationDisplay, PITDisplay):
        shown = display.from_estimator(mdn, X, X[:, 0], ax=new_axes())
        assert shown.figure_ is shown.ax_.figure
