"""Densities of y against features: mean densities, categories and given values."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

pytest.importorskip("matplotlib")

from matplotlib.figure import Figure
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmdn import MDNRegressor
from skmdn.plot import DependenceDisplay

LEVELS = (0.95, 0.8, 0.5)


def new_axes(*shape):
    return Figure().subplots(*shape)


@pytest.fixture(scope="module")
def fitted():
    pd = pytest.importorskip("pandas")
    rng = np.random.RandomState(0)
    X = pd.DataFrame(
        {
            "size": rng.uniform(1, 3, size=80),
            "rooms": rng.randint(1, 5, size=80),
            "place": pd.Categorical(rng.choice(["north", "south"], size=80)),
        }
    )
    y = pd.Series(X["size"] + (X["place"] == "south") + rng.normal(size=80), name="y")
    mdn = MDNRegressor(1, n_estimators=1, max_iter=5, random_state=0).fit(X, y)
    return mdn, X


def depend(fitted, features, **options):
    mdn, X = fitted
    return DependenceDisplay.from_estimator(mdn, X, features, ax=new_axes(), **options)


def test_averages_are_mean_densities_of_rows_with_a_replaced_feature(fitted):
    mdn, X = fitted
    display = depend(fitted, ["size"], grid_resolution=4, percentiles=(0.1, 0.9))
    (found,) = display.dependences
    assert_allclose(found.values[[0, -1]], X["size"].quantile([0.1, 0.9]))
    grid = np.linspace(-2, 6, 9)
    for value, density in zip(found.values, found.density, strict=True):
        rows = mdn.predict_density(X.assign(size=value))
        expected = rows.pdf(grid[:, None]).mean(axis=1)
        assert_allclose(density.pdf(grid[:, None])[:, 0], expected, rtol=1e-9)
    band = display.artists_[0][0].get_paths()[0].vertices
    low, high = found.density.interval(0.95)
    for x, bottom, top in zip(found.values, low, high, strict=True):
        ys = band[np.isclose(band[:, 0], x), 1]
        assert_allclose([ys.min(), ys.max()], [bottom, top])
    assert_allclose(display.artists_[0][-1].get_ydata(), found.density.median())


def test_dependence_on_categories(fitted):
    mdn, X = fitted
    display = depend(fitted, "place", log=False)
    (found,) = display.dependences
    assert found.values.tolist() == ["north", "south"]
    rows = X.copy()
    rows["place"] = X["place"].where(X["place"] == "south", "south")
    expected = mdn.predict_density(rows).cdf(2.0).mean()
    assert_allclose(found.density[1].cdf(2.0), expected)
    bars = [bar.get_segments() for bar in display.artists_[0][:3]]
    for share, segments in zip(LEVELS, bars, strict=True):
        ends = np.array(segments)[:, :, 1].T
        assert_allclose(ends, found.density.interval(share))
    labels = [tick.get_text() for tick in display.axes_[0, 0].get_xticklabels()]
    assert labels == ["north", "south"]


def test_individual_rows_have_medians_and_given_values(fitted):
    mdn, X = fitted
    display = depend(
        fitted, "size", kind="individual", fixed={"rooms": 2}, grid_resolution=3
    )
    (found,) = display.dependences
    place = X["place"].mode()[0]
    rows = X.iloc[:3].assign(size=found.values, rooms=2.0)
    rows["place"] = X["place"].where(X["place"] == place, place).iloc[:3]
    expected = mdn.predict_density(rows)
    assert_allclose(found.density.logpdf(1.0), expected.logpdf(1.0))


def test_features_with_few_values_are_shown_at_these(fitted):
    display = depend(fitted, "rooms", percentiles=(0, 1), style="heat")
    (found,) = display.dependences
    assert_array_equal(found.values, [1, 2, 3, 4])
    mesh = display.artists_[0][0]
    heights = np.asarray(mesh.get_array())
    edges = mesh.get_coordinates()[:, 0, 1]
    cells = np.diff(found.density.cdf(edges[:, None]), axis=0)
    assert_allclose(heights, cells / cells.max(axis=0), atol=2e-3)
    as_categories = depend(fitted, "rooms", categorical_features=["rooms"])
    assert as_categories.dependences[0].is_categorical


def test_panels_share_the_axis_of_y_and_show_998_of_1000(fitted):
    display = depend(fitted, ["size", "rooms", "place"], n_cols=2)
    assert display.axes_.shape == (2, 2)
    assert display.axes_[1, 1] is None
    limits = {ax.get_ylim() for ax in display.axes_.flat if ax is not None}
    ((low, high),) = limits
    for found in display.dependences:
        inside = found.density.cdf(high) - found.density.cdf(low)
        assert (inside > 0.998 - 1e-9).all()


def test_dependence_of_pipelines_and_arrays():
    rng = np.random.RandomState(0)
    X = rng.normal(size=(50, 2))
    y = np.column_stack([X[:, 0], rng.normal(size=50)])
    mdn = MDNRegressor(1, n_estimators=1, max_iter=2, random_state=0)
    pipeline = make_pipeline(StandardScaler(), mdn).fit(X, y)
    display = DependenceDisplay.from_estimator(
        pipeline, X, [1], output=1, subsample=7, random_state=0, ax=new_axes()
    )
    assert display.dependences[0].density.n_components == 7 * mdn.n_components_
    assert display.axes_[0, 0].get_xlabel() == "feature 1"
    assert display.axes_[0, 0].get_ylabel() == "y"
    assert display.axes_[0, 0].get_title(loc="left") == "mean density of 7 rows"


def test_dependence_of_polars_frames():
    pl = pytest.importorskip("polars")
    rng = np.random.RandomState(0)
    size, place = rng.normal(size=50), rng.choice(["north", "south"], size=50)
    column = pl.Series("place", place.tolist(), dtype=pl.Categorical)
    X = pl.DataFrame({"size": size}).with_columns(column)
    mdn = MDNRegressor(1, n_estimators=1, max_iter=2, random_state=0).fit(X, size)
    display = DependenceDisplay.from_estimator(
        mdn, X, ["size", "place"], subsample=5, ax=new_axes()
    )
    assert display.dependences[1].values.tolist() == ["north", "south"]


def test_rare_categories_are_left_out_and_counted():
    pd = pytest.importorskip("pandas")
    names = [f"c{j:02}" for j in range(25) for _ in range(1 + (j < 20))]
    X = pd.DataFrame({"c": pd.Categorical(names), "x": np.arange(len(names)) % 3})
    mdn = MDNRegressor(1, n_estimators=1, max_iter=2, random_state=0)
    mdn.fit(X, np.sin(np.arange(len(names))))
    display = DependenceDisplay.from_estimator(mdn, X, "c", ax=new_axes())
    assert display.dependences[0].values.tolist() == [f"c{j:02}" for j in range(20)]
    (note,) = display.axes_[0, 0].texts
    assert note.get_text() == "5 of 25 categories are left out"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "both"}, "kind must be 'average' or 'individual', got 'both'"),
        ({"fixed": {"size": 1}}, "fixed needs kind='individual'"),
        ({"grid_resolution": 1}, "grid_resolution must be at least 2, got 1"),
        (
            {"percentiles": (0.9, 0.1)},
            r"percentiles must be rising and lie in \[0, 1\]",
        ),
        ({"subsample": 0}, "subsample must be at least 1"),
        ({"style": "pie"}, "style must be 'bands' or 'heat', got 'pie'"),
        ({"n_cols": 0}, "n_cols must be at least 1, got 0"),
        ({"categorical_features": [True]}, "a mask of the 3 columns of X"),
        (
            {"kind": "individual", "fixed": {"place": "nort"}},
            r"'place' has the categories \['north', 'south'\], got 'nort'",
        ),
        ({"features": []}, "features must name at least one feature"),
        ({"features": "colour"}, "Unknown feature 'colour'"),
    ],
)
def test_dependence_that_cannot_be_drawn_is_refused(fitted, options, message):
    with pytest.raises(ValueError, match=message):
        depend(fitted, **{"features": "size", **options})


def test_constant_features_are_refused():
    X = np.column_stack([np.ones(30), np.arange(30.0)])
    mdn = MDNRegressor(1, n_estimators=1, max_iter=2, random_state=0).fit(X, X[:, 1])
    with pytest.raises(ValueError, match="'feature 0' has the only value 1"):
        DependenceDisplay.from_estimator(mdn, X, 0, ax=new_axes())


def test_features_may_be_numbers_of_numpy(fitted):
    mdn, X = fitted
    options = {"grid_resolution": 3, "subsample": 4, "random_state": 0}
    of_numpy, of_name = (
        DependenceDisplay.from_estimator(mdn, X, feature, ax=new_axes(), **options)
        for feature in (np.int64(0), "size")
    )
    (one,), (other,) = of_numpy.dependences, of_name.dependences
    assert one.name == other.name == "size"
    assert_array_equal(one.density.means, other.density.means)
    with pytest.raises(ValueError, match=r"Unknown feature \(0, 1\)"):
        DependenceDisplay.from_estimator(mdn, X, [(0, 1)])
