"""Curves, pairs and logarithmic axes draw the numbers of the density."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

pytest.importorskip("matplotlib")

from helpers import random_density, random_scalar_density
from matplotlib.figure import Figure
from scipy.integrate import trapezoid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmdn import MDNRegressor, MixtureDensity, TransformedDensity
from skmdn.plot import DensityDisplay, PairDisplay
from skmdn.plot._axes import density_label

LEVELS = (0.95, 0.8, 0.5)


def new_axes(*shape):
    return Figure().subplots(*shape)


def draw(density, y=None, **options):
    return DensityDisplay.from_predictions(density, y, ax=new_axes(), **options)


def limits_of(area, axis=0):
    """Return the ends of a shaded area along an axis."""
    vertices = area.get_paths()[0].vertices[:, axis]
    return vertices.min(), vertices.max()


def lognormal(n_outputs=1, n_rows=1, seed=0):
    wide = random_density(n_rows, 2, n_outputs, seed=seed)
    latent = MixtureDensity(wide.weights, 0.3 * wide.means, 3 * wide.precision_factors)
    density = TransformedDensity(latent, (0, None))
    return density.marginal(0) if n_outputs == 1 else density


def enclosed(filled, level, points):
    """Return the share of points (n, 2) in the filled regions from a level on."""
    inside = np.zeros(len(points), dtype=bool)
    for path in filled.get_paths()[level:]:
        part = np.zeros(len(points), dtype=bool)
        for polygon in path.to_polygons(closed_only=True):
            part ^= type(path)(polygon).contains_points(points)
        inside |= part
    return inside.mean()


# -- one row -------------------------------------------------------------------------


@pytest.mark.parametrize("log", [False, True])
def test_shaded_areas_end_at_the_intervals_and_have_their_probability(log):
    density = lognormal()
    display = draw(density, confidence=LEVELS, log=log)
    curve, *areas = display.artists_[:4]
    y, heights = curve.get_data()
    measure = np.log10(y) if log else y
    for share, area in zip(LEVELS, areas, strict=True):
        low, high = density.interval(share)
        assert_allclose(limits_of(area), [low.item(), high.item()], rtol=1e-9)
        inside = (y >= low) & (y <= high)
        found = trapezoid(heights[inside], measure[inside])
        assert_allclose(found, share, atol=0.02)
    assert_allclose(trapezoid(heights, measure), 0.998, atol=2e-3)
    assert display.ax_.get_xscale() == ("log" if log else "linear")


def test_limits_of_a_row_hold_998_of_1000():
    density = random_scalar_density(1, 4)
    low, high = draw(density).artists_[0].get_xdata()[[0, -1]]
    assert_allclose(density.cdf(high) - density.cdf(low), 0.998, rtol=1e-9)


def test_median_and_modes_are_marked():
    density = MixtureDensity([[0.5, 0.47, 0.03]], [[0, 5, 12]], [[1, 1, 1]])
    *_, line, points = draw(density).artists_
    modes = density.modes()[0]
    assert_allclose(np.sort(points.get_xdata()), np.sort(modes))
    assert_allclose(points.get_ydata(), density.pdf(modes[:, None])[:, 0])
    (((x, bottom), (_, top)),) = line.get_segments()
    assert_allclose([x, bottom], [density.median()[0], 0])
    assert_allclose(top, density.pdf(x)[0])


def test_low_modes_are_not_marked():
    weights = [[0.6, 0.385, 0.015]]
    density = MixtureDensity(weights, [[0, 5, 12]], [[1, 1, 1]])
    assert len(density.modes()[0]) == 3
    assert len(draw(density).artists_[-1].get_xdata()) == 2


def test_labels_have_the_unit_of_the_density():
    assert density_label("time (min)") == "density (1 / min)"
    assert density_label("f(x) of time (min)") == "density (1 / min)"
    assert density_label("price") == "density (1 / unit of price)"
    assert density_label("price", is_log=True) == "density (1 / decade)"


# -- logarithmic axes ----------------------------------------------------------------


def test_heat_maps_on_logarithmic_axes_show_the_density_of_the_logarithm():
    density = lognormal(n_rows=4)
    ax = new_axes()
    ax.set_yscale("log")
    display = DensityDisplay.from_predictions(density, x=np.arange(4), ax=ax)
    heights = np.asarray(display.artists_[0].get_array())
    edges = display.artists_[0].get_coordinates()[:, 0, 1]
    assert_allclose(np.diff(np.log(edges)), np.log(edges[1] / edges[0]), rtol=1e-9)
    cells = np.diff(density.cdf(edges[:, None]), axis=0)
    assert_allclose(heights, cells / cells.max(axis=0), atol=2e-3)
    assert ax.get_yscale() == "log"


@pytest.mark.parametrize("log", [False, True])
def test_regions_on_logarithmic_axes_are_those_of_y(log):
    density = lognormal(n_outputs=2, seed=1)
    draws = density.sample(3000, random_state=1)[0]
    display = draw(density, draws[:1], output=(0, 1), log=log, confidence=LEVELS)
    expected = density.hdr_level(LEVELS)[:, 0]
    assert_allclose(display.artists_[1].levels, expected, rtol=0.02)
    for level, share in enumerate(LEVELS):
        assert abs(enclosed(display.artists_[0], level, draws) - share) < 0.05


def test_logarithmic_axes_show_what_is_positive():
    density = MixtureDensity([[1.0]], [[1.0]], [[1.0]])
    y, heights = draw(density, log=True).artists_[0].get_data()
    assert (y > 0).all()
    assert_allclose(trapezoid(heights, np.log10(y)), density.sf(0)[0], atol=2e-3)
    with pytest.raises(ValueError, match="positive values only, got y with the min"):
        draw(density, [0.0], log=True)
    below = MixtureDensity([[1.0]], [[-100.0]], [[1.0]])
    with pytest.raises(ValueError, match="densities of positive y; that of row 0"):
        draw(below, log=True)


# -- marginals beside regions --------------------------------------------------------


def test_marginal_densities_lie_beside_the_regions():
    density = random_density(1, 2, 2)
    display = draw(density, output=(0, 1), marginals=True, n_samples=50)
    above, beside = display.marginal_axes_
    y, heights = above.lines[0].get_data()
    assert_allclose(heights, density.marginal(0).pdf(y), rtol=1e-9)
    heights, y = beside.lines[0].get_data()
    assert_allclose(heights, density.marginal(1).pdf(y), rtol=1e-9)
    low, high = density.marginal(1).interval(0.5)
    ends = limits_of(beside.collections[-1], axis=1)
    assert_allclose(ends, [low[0], high[0]])
    draws = display.ax_.lines[0].get_xydata()
    expected = density.sample(50, random_state=0)[0]
    assert set(map(tuple, draws)) <= set(map(tuple, expected))
    assert len(draws) > 40
    assert above.get_xlim() == display.ax_.get_xlim()
    assert draw(density, output=(0, 1)).marginal_axes_ == ()


def test_means_of_rows_say_so():
    one, several = (draw(random_density(n, 1, 2), output=(0, 1)) for n in (1, 12))
    assert one.ax_.get_legend().get_title().get_text() == ""
    assert several.ax_.get_legend().get_title().get_text() == "mean of 12 rows"


def test_legends_lie_in_the_emptiest_corner():
    covariances = 0.01 * np.eye(2) * np.ones((1, 2, 1, 1))
    means = np.array([[[-1.0, -1.0], [1.0, 1.0]]])
    density = MixtureDensity.from_covariances([[0.5, 0.5]], means, covariances)
    display = draw(density, output=(0, 1))
    figure = display.figure_
    figure.canvas.draw()
    box = display.ax_.get_legend().get_window_extent()
    corners = display.ax_.transData.transform(means[0])
    assert not any(box.contains(*corner) for corner in corners)


@pytest.mark.parametrize("confidence", [0, 1, 1.5, [], [[0.5]], np.nan])
def test_invalid_confidences_are_refused(confidence):
    with pytest.raises(ValueError, match="confidence must be a number between 0 and 1"):
        draw(random_scalar_density(1, 2), confidence=confidence)


def test_negative_numbers_of_samples_are_refused():
    with pytest.raises(ValueError, match="n_samples must not be negative, got -1"):
        draw(random_density(1, 2, 2), output=(0, 1), n_samples=-1)


# -- positions -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        ("wait", "Feature 'wait' is missing in 1 of 30 rows of X.* without these rows"),
        ("day", r"'day' is not numeric .* DependenceDisplay.from_estimator\(.*'day'"),
    ],
)
def test_features_without_positions_are_refused(feature, message):
    pd = pytest.importorskip("pandas")
    X = pd.DataFrame({"wait": np.arange(30.0), "day": pd.Categorical(["a", "b"] * 15)})
    X.loc[3, "wait"] = np.nan
    y = np.arange(30.0)
    mdn = MDNRegressor(1, n_estimators=1, max_iter=2, random_state=0).fit(X, y)
    with pytest.raises(ValueError, match=message):
        DensityDisplay.from_estimator(mdn, X, y, feature=feature, ax=new_axes())


# -- pairs ---------------------------------------------------------------------------


def pairs(density, y=None, **options):
    return PairDisplay.from_predictions(density, y, ax=new_axes(), **options)


def test_pairs_are_marginals_and_regions():
    density = random_density(1, 3, 4)
    y = density.mean()[0]
    display = pairs(density, y, outputs=[3, 0, 2], labels=["a (m)", "b", "c"])
    assert_array_equal(display.axes_ == None, np.triu(np.ones((3, 3)), 1) == 1)  # noqa: E711
    outputs = [3, 0, 2]
    for place, output in enumerate(outputs):
        grid, heights = display.artists_[place, place][0].get_data()
        marginal = density.marginal(output)
        assert_allclose(heights, marginal.pdf(grid), rtol=1e-9)
        low, high = display.axes_[place, place].get_xlim()
        assert marginal.cdf(high)[0] - marginal.cdf(low)[0] > 0.998 - 1e-9
        low, high = marginal.interval(0.95)
        ends = limits_of(display.artists_[place, place][1])
        assert_allclose(ends, [low[0], high[0]])
    pair = density.marginal([3, 2])
    filled, lines = display.artists_[2, 0]
    assert_allclose(lines.levels, pair.hdr_level(LEVELS)[:, 0], rtol=0.02)
    draws = pair.sample(3000, random_state=1)[0]
    for level, share in enumerate(LEVELS):
        assert abs(enclosed(filled, level, draws) - share) < 0.05
    (point,) = display.axes_[2, 0].lines
    assert_array_equal(point.get_xydata(), [y[[3, 2]]])
    assert display.axes_[2, 0].get_xlabel() == "a (m)"
    assert display.axes_[2, 0].get_ylabel() == "c"
    assert display.axes_[2, 1].get_ylabel() == ""


def test_pairs_show_the_density_given_known_outputs():
    density = random_density(1, 3, 3)
    value = density.mean()[0, 1] + 0.2
    display = pairs(density, given={1: value})
    conditional = density.condition({1: value})
    for place, output in enumerate((0, 2)):
        y, heights = display.axes_[output, output].lines[1].get_data()
        assert_allclose(heights, conditional.marginal(place).pdf(y), rtol=1e-9)
    assert_allclose(display.axes_[1, 1].lines[1].get_xdata(), value)
    outline = display.axes_[2, 0].collections[-1]
    assert_allclose(outline.levels, conditional.hdr_level(LEVELS)[:, 0], rtol=0.02)
    assert_allclose(display.axes_[1, 0].lines[0].get_ydata(), value)


def test_axes_of_pairs_may_be_logarithmic():
    density = lognormal(n_outputs=3)
    display = pairs(density, log=[True, False, True])
    assert display.axes_[2, 0].get_xscale() == "log"
    assert display.axes_[2, 1].get_xscale() == "linear"
    grid, heights = display.artists_[0, 0][0].get_data()
    factor = grid * np.log(10)
    assert_allclose(heights, density.marginal(0).pdf(grid) * factor, rtol=1e-9)


def test_pairs_of_an_estimator():
    pd = pytest.importorskip("pandas")
    rng = np.random.RandomState(0)
    X = rng.normal(size=(60, 2))
    y = pd.DataFrame(rng.normal(size=(60, 3)), columns=["a", "b", "c"])
    mdn = MDNRegressor(1, n_estimators=1, max_iter=2, random_state=0)
    mdn = make_pipeline(StandardScaler(), mdn).fit(X, y)
    row = y[["c", "a", "b"]].iloc[:1]
    display = PairDisplay.from_estimator(
        mdn, X[:1], row, given={"b": 0.5}, outputs=["b", "a"], ax=new_axes()
    )
    assert_array_equal(display.y, y[["b", "a"]].iloc[0])
    assert display.labels == ("b", "a")
    assert display.given == {0: 0.5}


def test_pairs_that_cannot_be_drawn_are_refused():
    density = random_density(2, 2, 3)
    with pytest.raises(ValueError, match="density of one row, got 2"):
        pairs(density)
    one = density[0]
    with pytest.raises(ValueError, match="draws 2 to 10 outputs, got 1"):
        pairs(one, outputs=[1])
    with pytest.raises(ValueError, match="given has outputs that are not drawn"):
        pairs(one, outputs=[0, 1], given={2: 0.0})
    with pytest.raises(ValueError, match="given must have at least one output, and"):
        pairs(one, given={0: 0.0, 1: 0.0, 2: 0.0})
    with pytest.raises(ValueError, match="labels must name the 3 outputs, got 1"):
        pairs(one, labels=["a"])
    with pytest.raises(ValueError, match="log must be a bool, or one for each of"):
        pairs(one, log=[True])
    with pytest.raises(ValueError, match=r"y must have the shape \(1, 3\)"):
        pairs(one, [1.0, 2.0])
    with pytest.raises(ValueError, match="ax must be axes of a grid"):
        PairDisplay.from_predictions(one, ax=Figure().add_axes((0, 0, 1, 1)))


# -- limits ----------------------------------------------------------------------------


def test_heavy_tails_do_not_squeeze_pictures():
    weights, precisions = [[0.98, 0.02]], [[1.0, 0.001]]
    density = MixtureDensity(weights, [[0.0, 0.0]], precisions)
    display = draw(density)
    low, high = display.artists_[0].get_xdata()[[0, -1]]
    (near, far) = (bound.item() for bound in density.interval(0.95))
    assert_allclose([low, high], [2 * near - far, 2 * far - near])
    (note,) = display.ax_.texts
    assert note.get_text() == "1 of 1 densities extend beyond the axis"
    rows = MixtureDensity(weights * 30, [[0.0, 0.0]] * 30, precisions * 30)
    assert_allclose(draw(rows, x=np.arange(30)).ax_.get_ylim(), [low, high])


def test_a_display_of_two_outputs_is_drawn_again():
    density = MixtureDensity([[1.0]], [[[3.0, 4.0]]], np.eye(2)[None, None])
    display = DensityDisplay.from_predictions(density, output=(0, 1), ax=new_axes())
    before = display.ax_.get_xlim()
    assert display.plot(ax=new_axes()).ax_.get_xlim() == before
    with pytest.raises(ValueError, match="kind='heat' draws 1 outputs, got 2"):
        display.plot(ax=new_axes(), kind="heat")


def test_a_region_below_zero_has_no_picture_on_log_axes():
    cov = np.array([[1.0, -0.9], [-0.9, 1.0]])
    density = MixtureDensity.from_covariances(
        [[1.0]], [[[-0.8, -0.8]]], cov[None, None]
    )
    with pytest.raises(ValueError, match="needs densities of positive y"):
        DensityDisplay.from_predictions(density, output=(0, 1), log=True, ax=new_axes())
