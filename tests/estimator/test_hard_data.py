"""Fits of outliers, ties and extreme units, and the automatic settings."""

from functools import partial

import helpers
import numpy as np
import pytest
from helpers import linear_data
from numpy.testing import assert_allclose
from sklearn.metrics import r2_score

from skmdn import MDNRegressor
from skmdn._training.auto import auto_batch_size, auto_max_iter, auto_n_components
from skmdn.metrics import crps
from skmdn.nn.covariance import COVARIANCE_TYPES

quick = partial(helpers.quick, n_estimators=2, hidden_layer_sizes=(16,), max_iter=20)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize(
    "spoil",
    [
        lambda X, y: (X, np.full_like(y, 3.0)),
        lambda X, y: (np.repeat(X[:4], 20, axis=0), np.repeat(y[:4], 20, axis=0)),
        lambda X, y: (X[:6], y[:6]),
        lambda X, y: (X, 1e-6 * y),
        lambda X, y: (X, 1e6 * y),
        lambda X, y: (1e3 * X, y),
        lambda X, y: (X, np.round(y)),
        lambda X, y: (np.hstack([X, np.ones((80, 1)), X]), y),
        lambda X, y: (X, y + 1e9),
    ],
    ids=[
        "constant y",
        "duplicate rows",
        "n < K",
        "tiny y",
        "huge y",
        "huge X",
        "tied y",
        "constant and duplicate columns",
        "offset y",
    ],
)
def test_hard_data_give_a_finite_sensible_fit(covariance_type, spoil):
    X, y = spoil(*linear_data())
    mdn = quick(n_components=8, n_estimators=4, covariance_type=covariance_type)
    mdn.fit(X, y)
    assert np.isfinite(mdn.score_samples(X, y)).all()
    assert np.isfinite(mdn.score_samples(X)).all()
    mean, std = mdn.predict(X, return_std=True)
    # A constant target has no scale of its own; ours is then one.
    span = np.where(np.ptp(y, axis=0) > 0, np.ptp(y, axis=0), 0.1)
    assert (np.abs(mean - y.mean(axis=0)) < 2 * span).all()
    assert (std > 0).all()
    assert (std < 2 * span).all()


def test_far_outside_the_density_is_wide_and_near_the_targets():
    rng = np.random.RandomState(0)
    X = rng.uniform(-1, 1, size=(400, 1))
    y = np.sin(3 * X[:, 0]) + 0.05 * rng.normal(size=400)
    mdn = MDNRegressor(max_iter=60, random_state=0).fit(X, y)
    far = mdn.predict_density([[1e2], [-1e2], [1e6], [-1e6]])
    inside = mdn.predict_density(X)
    assert (far.std() > 5 * np.median(inside.std())).all()
    assert (far.std() > 0.5 * y.std()).all()
    assert (np.abs(far.mean() - y.mean()) < 3 * y.std()).all()
    # Confident nonsense would cost hundreds of nats more than ignoring X does.
    unconditional = 0.5 * np.log(2 * np.pi * np.e * y.var())
    assert (-far.logpdf(y[:, None]).mean(axis=0) < unconditional + 3.5).all()


def test_constant_and_binary_columns_are_fitted():
    rng = np.random.RandomState(0)
    flag = rng.randint(2, size=400)
    X = np.column_stack([np.full(400, 7.0), flag, rng.normal(size=400)])
    y = 3.0 * flag + X[:, 2] + 0.1 * rng.normal(size=400)
    mdn = MDNRegressor(n_estimators=4, max_iter=60, random_state=0).fit(X, y)
    assert mdn.oof_score_ > -0.5 * np.log(2 * np.pi * np.e * 0.1**2) - 0.3


def test_targets_with_few_values_warn_with_the_remedy():
    X, y = linear_data(400, d=1)
    classes = np.round(y[:, 0])
    n_values = len(np.unique(classes))
    with pytest.warns(
        UserWarning, match=f"y has only {n_values} distinct values in 400"
    ):
        quick(max_iter=2).fit(X, classes)
    two = np.column_stack([y[:, 0], 0.5 * classes])
    message = "in output 1: .* set target_resolution, for example to 0.5"
    with pytest.warns(UserWarning, match=message):
        quick(max_iter=2).fit(X, two)
    # The remedies are some: the suite turns warnings into errors.
    quick(max_iter=2, target_resolution=[None, 0.5]).fit(X, two)
    floor = 0.5**2 / 12 / two[:, 1].var()
    quick(max_iter=2, reg_covar=float(f"{floor:.2g}")).fit(X, two)


def test_automatic_schedule_follows_the_number_of_rows():
    schedules = {
        n: (auto_batch_size(n), auto_max_iter(n, auto_batch_size(n)))
        for n in (10, 1000, 10_000, 1_000_000)
    }
    # 1500 steps, or 2000 from 5000 rows on, but from 20 to 400 epochs.
    assert schedules == {
        10: (32, 400),
        1000: (32, 47),
        10_000: (256, 50),
        1_000_000: (512, 20),
    }


@pytest.mark.parametrize(
    ("n_rows", "n_estimators", "widths"), [(4999, 32, (32, 32)), (5000, 16, (64, 64))]
)
def test_automatic_networks_follow_the_number_of_rows(n_rows, n_estimators, widths):
    rng = np.random.RandomState(0)
    X, y = rng.normal(size=(n_rows, 1)), rng.normal(size=n_rows)
    mdn = MDNRegressor(max_iter=1, portfolio=None, warm_start=True).fit(X, y)
    (network,) = mdn.network_
    assert network.n_members == n_estimators
    assert network.arguments["hidden_layer_sizes"] == widths
    # Networks that go on keep their sizes with other rows, and with a given number.
    assert next(iter(mdn.fit(X[:50], y[:50]).network_)).n_members == n_estimators
    with pytest.raises(ValueError, match="with another n_estimators"):
        mdn.set_params(n_estimators=n_estimators // 2).fit(X, y)


def test_automatic_number_of_components_follows_the_rows():
    for n_outputs, expected in (
        (1, [3, 3, 5, 10, 16]),
        (2, [8, 10, 16, 16, 16]),
        (5, [8, 10, 16, 16, 16]),
        (6, [3, 3, 5, 10, 16]),
    ):
        numbers = [
            auto_n_components(n, n_outputs)
            for n in (10, 3000, 10_000, 20_000, 1_000_000)
        ]
        assert numbers == expected
    X, y = linear_data(d=1)
    mdn = quick(n_components="auto", warm_start=True, max_iter=2).fit(X, y)
    assert mdn.n_components_ == 3
    assert mdn.predict_density(X[:1]).weights.shape == (1, 2 * 3)
    mdn.fit(X, y)
    with pytest.raises(ValueError, match="with another n_components"):
        mdn.set_params(n_components=4).fit(X, y)


def test_density_integrates_to_one_after_fitting_in_extreme_units():
    X, y = linear_data(d=1)
    for scale in (1e-6, 1e6):
        mdn = quick().fit(X, scale * y[:, 0])
        grid = scale * np.linspace(-60, 60, 100_001)
        pdf = mdn.predict_density(X[:3]).pdf(grid[:, None])
        assert_allclose(pdf.sum(axis=0) * (grid[1] - grid[0]), 1, rtol=1e-3)


# -- outliers and marks of missing values ------------------------------------------


def waves(n=1000, seed=0):
    rng = np.random.RandomState(seed)
    X = rng.uniform(-3, 3, size=(n, 1))
    return X, np.sin(X[:, 0]) + 0.1 * rng.normal(size=n)


def quality(X, y):
    """Fit, and return CRPS, width of 90 % intervals and RMSE on clean rows."""
    # Without the choice of a kind, which other rows may turn.
    options = {"n_components": 5, "max_iter": 40, "portfolio": None}
    mdn = MDNRegressor(n_estimators=4, random_state=0, **options)
    mdn.fit(X, y)
    X, y = waves(seed=1)
    density = mdn.predict_density(X)
    low, high = density.interval(0.9)
    rmse = np.sqrt(np.mean((mdn.predict(X) - y) ** 2))
    assert np.isfinite(mdn.oof_score_)
    return np.array([crps(y, density).mean(), (high - low).mean(), rmse])


@pytest.fixture(scope="module")
def clean():
    return quality(*waves())


@pytest.mark.filterwarnings("ignore:. has values far outside the others")
@pytest.mark.parametrize(
    "values",
    [[1e4], [1e6], [-1e12], [-999999] * 3, [1e3, -2e4, 3e5, -1e6, 5e6, 1e2, 777, -9e3]],
    ids=str,
)
def test_outliers_of_y_spoil_nothing(values, clean):
    X, y = waves()
    y[: len(values)] = values
    ours = quality(X, y)
    assert_allclose(ours[:2], clean[:2], rtol=0.1)
    if len(set(values)) == 1:  # else there are fewer components than outliers
        assert ours[2] < 1.1 * clean[2]
    # Mirrored targets give the mirrored fit.
    mdn, mirrored = (quick(max_iter=3).fit(X, sign * y) for sign in (1, -1))
    assert_allclose(mirrored.predict(X), -mdn.predict(X), rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("ignore:. has values far outside the others")
@pytest.mark.parametrize("value", [-999999, 1e12, -3e38])
def test_an_outlier_of_x_spoils_nothing(value, clean):
    X, y = waves()
    X[5] = value
    assert_allclose(quality(X, y), clean, rtol=0.1)


@pytest.mark.filterwarnings("ignore:. has values far outside the others")
def test_marks_of_missing_values_spoil_little():
    rng = np.random.RandomState(3)
    X = rng.normal(size=(700, 4))
    y = 2 * X[:, 0] + np.sin(2 * X[:, 1]) + 0.3 * X[:, 2] * X[:, 0]
    y += 0.5 * rng.normal(size=700)
    marked = X[:200].copy()
    marked[:3, 0] = -999
    fits = [
        MDNRegressor(n_estimators=4, max_iter=100, random_state=0).fit(rows, y[:200])
        for rows in (X[:200], marked)
    ]
    clean, spoilt = (mdn.score(X[200:], y[200:]) for mdn in fits)
    assert spoilt > clean - 0.15
    clean, spoilt = (r2_score(y[200:], mdn.predict(X[200:])) for mdn in fits)
    assert spoilt > clean - 0.04
