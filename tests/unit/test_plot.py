"""Displays draw the numbers of the density."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

pytest.importorskip("matplotlib")

import matplotlib as mpl
from helpers import random_density, random_scalar_density
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.path import Path
from scipy.integrate import trapezoid

from skmdn import MDNRegressor, MixtureDensity
from skmdn.metrics import coverage, pit
from skmdn.plot import CalibrationDisplay, DensityDisplay, LossCurveDisplay, PITDisplay

mpl.use("Agg")


def new_axes():
    return Figure().subplots()


def draw(density, y=None, **options):
    return DensityDisplay.from_predictions(density, y, ax=new_axes(), **options)


def gaussians(means, stds):
    """Return one Gaussian for each row."""
    means, stds = np.broadcast_arrays(np.asarray(means, dtype=float), stds)
    return MixtureDensity(np.ones((len(means), 1)), means[:, None], 1 / stds[:, None])


def notes(display):
    return [text.get_text() for text in display.ax_.texts]


def heights_of(display):
    return np.asarray(display.artists_[0].get_array())


def arrows(display):
    """Return the number of arrows at the frame for each direction."""
    lines = [line for line in display.ax_.lines if line.get_marker() in "<>^v"]
    return {line.get_marker(): len(line.get_xdata()) for line in lines}


# -- heat maps and curves ----------------------------------------------------------


def test_columns_are_densities_relative_to_their_peak():
    density = random_scalar_density(5, 3)
    x = np.array([3.0, 1.0, 2.0, 5.0, 4.0])
    display = DensityDisplay.from_predictions(density, x=x, ax=new_axes())
    heights = np.asarray(display.artists_[0].get_array())
    assert_allclose(heights.max(axis=0), 1, rtol=2e-3)
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


@pytest.mark.parametrize("x", [None, [3.0]])
@pytest.mark.parametrize("has_axis", [False, True])
def test_a_heat_map_of_one_row_is_the_curve_of_its_density(x, has_axis):
    density = random_density(1, 2, 2).marginal([0] if has_axis else 0)
    median = density.median().item()
    display = draw(density, [median], x=x, x_label="wait", y_label="length (cm)")
    y, heights = display.artists_[0].get_data()
    assert_allclose(heights, density.marginal(0).pdf(y), rtol=1e-12)
    assert_allclose(trapezoid(heights, y), 0.998, atol=5e-4)
    assert display.ax_.get_xlabel() == "length (cm)"
    assert display.ax_.get_ylabel() == "density (1 / cm)"
    assert display.ax_.get_title() == f"wait = {0 if x is None else 3}"
    low, high = display.ax_.get_ylim()
    assert low < 0 < heights.max() < high
    assert_array_equal(display.ax_.lines[-1].get_xydata(), [[median, 0]])


@pytest.mark.parametrize("kind", ["heat", "ridge"])
def test_rows_of_equal_x_are_drawn_as_their_mean(kind):
    density = random_scalar_density(7, 2)
    observed = density.median()
    display = draw(density, observed, x=np.full(7, 2.5), kind=kind)
    y, heights = display.artists_[0].get_data()
    expected = density.pdf(y[:, None]).mean(axis=1)
    factor = 1 if kind == "heat" else 1.6 / expected.max()
    assert_allclose(heights, factor * expected, rtol=1e-3, atol=1e-12)
    assert_array_equal(display.ax_.lines[-1].get_xdata(), observed)


def test_columns_of_repeated_x_are_means():
    density = random_scalar_density(6, 2)
    display = draw(density, x=[2, 1, 2, 3, 1, 2])
    edges = np.linspace(*display.ax_.get_ylim(), 301)
    cells = np.diff(density.cdf(edges[:, None]), axis=0)
    columns = [[1, 4], [0, 2, 5], [3]]
    expected = np.stack([cells[:, rows].mean(axis=1) for rows in columns], axis=1)
    shown = heights_of(display)
    assert_allclose(shown / shown.max(axis=0), expected / expected.max(axis=0))
    corners = display.artists_[0].get_coordinates()[0, :, 0]
    assert_allclose(corners, [0.5, 1.5, 2.5, 3.5])


@pytest.mark.parametrize("offset", [0.0, 1e9])
def test_narrow_densities_do_not_vanish_from_heat_maps(offset):
    means = offset + np.linspace(-7, 11, 40)
    display = draw(gaussians(means, 1e-5), x=np.arange(40))
    heights = heights_of(display)
    edges = np.linspace(*display.ax_.get_ylim(), 301)
    highest = heights.argmax(axis=0)
    assert_allclose(heights.max(axis=0), 1, atol=0.5)
    assert (edges[highest] <= means + 1e-4).all()
    assert (edges[highest + 1] >= means - 1e-4).all()


def test_few_far_points_do_not_determine_the_axis():
    density = gaussians(np.sin(np.arange(50)), 0.2)
    x, y = np.arange(50.0), density.median()
    before = draw(density, y, x=x)
    y[[3, 4, 9]] = 1e4, -1e5, 2.0  # the last is near
    display = draw(density, y, x=x)
    low, high = display.ax_.get_ylim()
    assert low == before.ax_.get_ylim()[0]
    assert 2 < high < 2.2
    assert arrows(display) == {"^": 1, "v": 1}
    assert notes(display) == ["2 of 50 points lie outside the axes"]
    assert not notes(before)


def test_few_wide_or_far_densities_do_not_determine_the_axis():
    means, stds = np.sin(np.arange(50)), np.full(50, 0.2)
    before = draw(gaussians(means, stds), x=np.arange(50))
    stds[7], means[9] = 1e3, 1e6
    display = draw(gaussians(means, stds), x=np.arange(50))
    assert_allclose(display.ax_.get_ylim(), before.ax_.get_ylim(), rtol=0.1)
    assert notes(display) == ["2 of 50 densities extend beyond the axis"]
    heights = heights_of(display)
    assert heights[:, 7].min() > 0.99  # its peak is here, and wider than the axis
    assert heights[:, 9].max() < 1e-9  # its peak is elsewhere


def test_densities_of_various_widths_are_shown_in_full():
    widths = np.exp(np.linspace(-4, 1, 60))
    assert not notes(draw(gaussians(np.zeros(60), widths), x=np.arange(60)))
    means = np.exp(np.linspace(0, 5, 60))
    assert not notes(draw(gaussians(means, means / 10), x=np.arange(60)))


# -- ridges ------------------------------------------------------------------------


def test_few_wide_densities_do_not_determine_the_axis_of_a_ridge_plot():
    stds = np.array([0.2, 0.2, 100.0, 0.2, 0.2, 0.2])
    display = draw(gaussians(np.arange(6), stds), x=np.arange(6), kind="ridge")
    assert_allclose(display.ax_.get_xlim(), (-0.9, 5.9), atol=0.1)
    assert notes(display) == ["1 of 6 densities extend beyond the axis"]


def test_few_narrow_densities_do_not_flatten_the_others():
    stds = np.array([1, 1, 1e-6, 1, 1, 1])
    means = np.arange(6) + 0.1234
    display = draw(gaussians(means, stds), x=np.arange(6), kind="ridge")
    for place, line in enumerate(reversed(display.artists_)):
        y, curve = line.get_data()
        assert_allclose((curve - place).max(), 1.6, rtol=1e-3)
        assert_allclose(y[np.argmax(curve)], means[place], atol=0.02)
    assert notes(display) == ["1 of 6 peaks are cut"]


@given(st.floats(-8, 2), st.floats(0.01, 0.99), st.floats(-3, 3))
def test_curves_resolve_spikes(log_std, weight, place):
    density = MixtureDensity(
        [[weight, 1 - weight]], [[place, 0.0]], [[10.0**-log_std, 1.0]]
    )
    y, heights = draw(density).artists_[0].get_data()
    inside = density.cdf(y[-1]) - density.cdf(y[0])
    assert_allclose(trapezoid(heights, y), inside.item(), atol=0.01)
    assert heights.max() > 0.98 * density.pdf(density.mode()).item()


@pytest.mark.parametrize("kind", ["heat", "ridge"])
def test_few_rows_of_an_x_are_within_the_axes(kind):
    x = np.repeat([0, 1], [300, 3])
    display = draw(gaussians(100 * x, 1), x=x, kind=kind)
    low, high = display.ax_.get_ylim() if kind == "heat" else display.ax_.get_xlim()
    assert low < -2
    assert high > 102
    assert not notes(display)


def test_points_beyond_a_ridge_plot_are_marked():
    display = draw(gaussians(np.arange(3), 0.5), [0, 1e3, 2], x=[0, 1, 2], kind="ridge")
    assert arrows(display) == {">": 1}
    assert notes(display) == ["1 of 3 points lie outside the axes"]


def test_labels_of_different_rows_differ():
    x = 1e9 + np.arange(3)
    display = draw(gaussians(np.zeros(3), 1), x=x, kind="ridge")
    labels = [tick.get_text() for tick in display.ax_.get_yticklabels()]
    assert_array_equal(list(map(float, labels)), x)


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


# -- contours ----------------------------------------------------------------------


def in_region(filled, level, points):
    """Return whether points (n, 2) lie in the filled regions from a level on."""
    is_inside = np.zeros(len(points), dtype=bool)
    for path in filled.get_paths()[level:]:
        starts = np.flatnonzero(path.codes == Path.MOVETO)[1:]
        in_band = np.zeros(len(points), dtype=bool)
        for ring in np.split(path.vertices, starts):
            in_band ^= Path(ring).contains_points(points)
        is_inside |= in_band
    return is_inside


def vertices_of(contours):
    return np.concatenate([path.vertices for path in contours.get_paths()])


def assert_right_regions(display, draws):
    """The regions hold their probabilities of the draws, and lie within the axes."""
    for level, share in enumerate((0.95, 0.8, 0.5)):
        error = 4 * np.sqrt(share * (1 - share) / len(draws)) + 0.025
        found = in_region(display.artists_[0], level, draws).mean()
        assert abs(found - share) < error
    limits = np.array([display.ax_.get_xlim(), display.ax_.get_ylim()]).T
    assert (vertices_of(display.artists_[1]) > limits[0]).all()
    assert (vertices_of(display.artists_[1]) < limits[1]).all()


@pytest.mark.parametrize("n_rows", [1, 12, 60])
def test_regions_hold_their_probability_of_the_rows(n_rows):
    density = random_density(n_rows, 2, 3, seed=n_rows)
    y = density.sample(random_state=0)[:, 0]
    display = draw(density, y, output=(2, 0))
    draws = density.marginal([2, 0]).sample(2400 // n_rows, random_state=1)
    assert_right_regions(display, draws.reshape(-1, 2))
    points = display.ax_.lines[0].get_xydata()
    assert_array_equal(points, y[:, [2, 0]])
    covered = in_region(display.artists_[0], 0, points).mean()
    assert covered >= 0.95 - 4 * np.sqrt(0.95 * 0.05 / n_rows) - 0.01


@pytest.mark.parametrize("offset", [0.0, 1e9])
@pytest.mark.parametrize(("weight", "std"), [(0.5, 0.1), (0.05, 0.05)])
def test_separate_solutions_lie_within_the_axes(offset, weight, std):
    means = offset + np.array([[[-1.0, -1.0], [1.0, 1.0]]])
    covariances = np.array([0.01, std**2])[:, None, None] * np.eye(2)
    density = MixtureDensity.from_covariances(
        [[1 - weight, weight]], means, covariances[None]
    )
    display = draw(density, output=(0, 1))
    assert_right_regions(display, density.sample(4000, random_state=1)[0])


def test_thin_regions_do_not_vanish():
    covariances = np.array([[np.eye(2), 1e-10 * np.eye(2)]])
    density = MixtureDensity.from_covariances(
        [[0.5, 0.5]], [[[0, 0], [3, 3]]], covariances
    )
    display = draw(density, output=(0, 1))
    near = vertices_of(display.artists_[1]) - 3
    near = near[np.abs(near).max(axis=1) < 0.5]
    # A dot of about one per cent of the axes.
    assert np.ptp(near, axis=0).min() > 0.02
    assert np.ptp(near, axis=0).max() < 0.2
    thin = MixtureDensity.from_covariances(
        [[1.0]], [[[0, 0]]], [[[[1, 1 - 1e-9], [1 - 1e-9, 1]]]]
    )
    display = draw(thin, output=(0, 1))
    draws = thin.sample(1000, random_state=1)[0]
    assert in_region(display.artists_[0], 0, draws).mean() > 0.94


def test_displays_share_axes():
    near, far = (random_density(1, 2, 2, seed=seed) for seed in (0, 1))
    far = MixtureDensity(far.weights, far.means + 20, far.precision_factors)
    axes = Figure().subplots(1, 2, sharex=True, sharey=True)
    shown = [
        DensityDisplay.from_predictions(density, output=(0, 1), ax=ax)
        for density, ax in zip((far, near), axes, strict=True)
    ]
    for display, density in zip(shown, (far, near), strict=True):
        assert_right_regions(display, density.sample(1000, random_state=0)[0])
    axes[0].plot(50, 50, ".")
    assert axes[0].get_xlim()[1] > 50


def test_rows_left_out_take_their_points_along(monkeypatch):
    monkeypatch.setattr("skmdn.plot._density.MAX_COMPONENTS", 200)
    density = random_density(90, 5, 2)
    y = density.mean()
    display = draw(density, y, output=(0, 1))
    points = display.ax_.lines[0].get_xydata()
    assert_array_equal(points, y[np.linspace(0, 89, 40).round().astype(int)])
    assert notes(display)[-1] == "50 of 90 rows are left out"


def test_points_beyond_the_contours_are_marked():
    density = random_density(1, 1, 2)
    y = density.mean() + np.array([1e4, -1e5])
    display = draw(density, y, output=(0, 1))
    assert arrows(display) == {">": 1, "v": 1}
    assert notes(display)[-1] == "1 of 1 points lie outside the axes"
    limits = draw(density, output=(0, 1)).ax_.get_xlim()
    assert display.ax_.get_xlim() == limits


def test_contours_are_highest_density_regions():
    density = random_density(1, 2, 3)
    y = density.sample(20, random_state=0)[0, 0]
    display = DensityDisplay.from_predictions(
        density, y[None], output=(2, 0), ax=new_axes()
    )
    pair = density.marginal([2, 0])
    expected = [pair.hdr_level(level)[0] for level in (0.95, 0.8, 0.5)]
    assert_allclose(display.artists_[1].levels, expected)
    assert display.ax_.get_xlabel() == "output 2"
    assert_array_equal(display.ax_.lines[-1].get_xydata(), [y[[2, 0]]])


def test_invalid_kinds_are_refused():
    density = random_density(1, 2, 2)
    with pytest.raises(ValueError, match=r"kind must be one of .*got 'pie'"):
        DensityDisplay.from_predictions(density, kind="pie", ax=new_axes())
    with pytest.raises(ValueError, match="draws 2 outputs, got 1"):
        DensityDisplay.from_predictions(density, kind="contour", ax=new_axes())


def test_rows_that_cannot_be_drawn_are_refused():
    density = gaussians(np.zeros(3), 1)
    with pytest.raises(ValueError, match=r"Input x contains NaN .*row 1"):
        draw(density, x=[0, np.nan, 1])
    with pytest.raises(ValueError, match=r"Input y contains infinity .*row 2"):
        draw(density, [0, 1, np.inf])
    with pytest.raises(ValueError, match=r"x must have the shape \(3, 1\), got \(2,\)"):
        draw(density, x=[0, 1])
    joint = random_density(3, 2, 2)
    with pytest.raises(
        ValueError, match=r"y must have the shape \(3, 2\), got \(2, 3\)"
    ):
        draw(joint, np.zeros((2, 3)))


def test_unknown_features_are_refused():
    X = np.random.RandomState(0).normal(size=(30, 2))
    mdn = MDNRegressor(1, n_estimators=1, max_iter=2, random_state=0).fit(X, X[:, 0])
    for feature in ("age", 2, -3):
        with pytest.raises(ValueError, match="Unknown feature"):
            DensityDisplay.from_estimator(mdn, X, feature=feature, ax=new_axes())


# -- calibration and loss ----------------------------------------------------------


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


def test_calibration_has_a_line_for_each_output_and_the_joint_density():
    density = random_density(1, 2, 3)[np.zeros(60, dtype=int)]
    y = density.sample(random_state=0)[:, 0]
    display = CalibrationDisplay.from_predictions(density, y, ax=new_axes())
    shares = [line.get_ydata() for line in display.lines_]
    for output, share in enumerate(shares[:-1]):
        marginal = density.marginal(output)
        expected = coverage(y[:, output], marginal, display.nominal).mean(axis=1)
        assert_allclose(share, expected)
    assert_allclose(shares[-1], coverage(y, density, display.nominal).mean(axis=1))
    labels = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert labels == ["output 0", "output 1", "output 2", "joint"]
    assert len({line.get_color() for line in display.lines_}) == 4


def test_the_loss_of_one_epoch_is_visible():
    display = LossCurveDisplay(np.array([1.0]), np.array([0.9])).plot(new_axes())
    assert [line.get_marker() for line in display.ax_.lines] == ["o", "o", "o"]
    several = LossCurveDisplay(np.array([1.0, 0.9])).plot(new_axes())
    assert several.ax_.lines[0].get_marker() == "None"


def test_loss_curves_mark_the_weights_that_are_kept():
    X = np.random.RandomState(0).normal(size=(60, 2))
    y = np.sin(3 * X[:, 0])
    settings = {"n_estimators": 4, "portfolio": None, "max_iter": 60}
    mdn = MDNRegressor(1, learning_rate_init=0.05, random_state=0, **settings)
    mdn.fit(X, y)
    display = LossCurveDisplay.from_estimator(mdn, ax=new_axes())
    kept = display.ax_.lines[-1].get_xydata()
    # The calibration of an epoch is less accurate.
    assert_allclose(kept[:, 1], -mdn.best_validation_score_, atol=1e-3)
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


def test_displays_of_recorded_values():
    recorded = gaussians(np.zeros(400), 1.0).recorded(1.0)
    y = recorded.sample(1, 0)[:, 0]
    u = PITDisplay.from_predictions(recorded, y, ax=new_axes()).u
    assert len(np.unique(u)) == 400
    display = CalibrationDisplay.from_predictions(recorded, y, ax=new_axes())
    assert_allclose(display.observed, display.nominal, atol=0.06)
