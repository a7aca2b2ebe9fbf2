"""Densities of training rows by the networks that held them out, and intervals."""

import math
import pickle

import numpy as np
import pandas as pd
import pytest
from helpers import linear_data, quick
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from skmdn import TransformedDensity
from skmdn._conformal import HeldOutScores
from skmdn.datasets import make_inverse_sine
from skmdn.metrics import crps

RNG = np.random.default_rng(0)
X, BOTH = linear_data(120)
Y = BOTH[:, 0]
WEIGHT = np.where(np.arange(120) % 20 == 0, 0.0, 1.0 + np.arange(120) % 3)
MISSING = np.where((RNG.random(120) < 0.3)[:, None] & [False, True], np.nan, BOTH)
TABLE = pd.DataFrame(X, columns=["a", "b", "c"]).assign(
    d=pd.Categorical(np.arange(120) % 4), a=np.where(np.arange(120) % 9, X[:, 0], None)
)
FITS = {
    "one output": ({}, X, Y, {}),
    "two outputs": ({}, X, BOTH, {}),
    "weights": ({}, X, BOTH, {"sample_weight": WEIGHT}),
    "groups": ({}, X, Y, {"groups": np.arange(120) // 7}),
    "copies": ({}, np.repeat(X[:60], 2, axis=0), np.repeat(Y[:60], 2), {}),
    "unequal folds": ({"n_estimators": 11}, X, Y, {}),
    "two kinds": ({"portfolio": ["bins", "plain"], "max_iter": 8}, X, Y, {}),
    "views": ({"portfolio": ["trees_0.1"], "max_iter": 8}, X, BOTH, {}),
    "a support": ({"target_support": (0, None)}, X, np.exp(Y), {}),
    "sparse": ({}, sparse.csr_array(X), Y, {}),
    "a table": ({}, TABLE.astype({"a": float}), Y, {}),
    "low rank": ({"covariance_type": "low_rank", "rank": 1}, X, BOTH, {}),
}


@pytest.mark.parametrize("case", FITS)
def test_the_density_is_that_of_the_out_of_fold_scores(case):
    params, rows, y, others = FITS[case]
    mdn = quick(**params).fit(rows, y, **others)
    density = mdn.out_of_fold_density(rows)
    assert_allclose(density.logpdf(y), mdn.oof_log_density_, rtol=1e-9, atol=1e-9)
    restored = pickle.loads(pickle.dumps(mdn))
    again = restored.out_of_fold_density(rows)
    assert_allclose(again.logpdf(y), mdn.oof_log_density_, rtol=1e-9, atol=1e-9)
    assert isinstance(density, TransformedDensity) == ("target_support" in params)


def test_metrics_take_it():
    mdn = quick().fit(X, Y)
    density = mdn.out_of_fold_density(X)
    of_training = crps(Y, mdn.predict_density(X)).mean()
    assert crps(Y, density).mean() > 0.9 * of_training
    ranks = density.cdf(Y)
    assert abs(ranks.mean() - 0.5) < 0.15


def test_displays_draw_it():
    mpl = pytest.importorskip("matplotlib")
    mpl.use("Agg")
    from matplotlib.figure import Figure

    from skmdn import plot

    mdn = quick(max_iter=20).fit(X, Y)
    density = mdn.out_of_fold_density(X)
    above, left, right = Figure().subplots(3)
    shown = plot.PITDisplay.from_predictions(density, Y, ax=above)
    assert_allclose(shown.u, density.cdf(Y), rtol=1e-9)
    curve = plot.CalibrationDisplay.from_predictions(density, Y, ax=left)
    inside = density.pdf(Y) >= density.hdr_level(curve.nominal)
    assert_array_equal(curve.observed, inside.mean(axis=1))
    assert curve.n_rows == 120
    heat = plot.DensityDisplay.from_predictions(density, Y, x=X[:, 0], ax=right)
    assert_array_equal(heat.density.means, density.means)
    assert_array_equal(heat.y, Y)


def test_missing_outputs_are_imputed():
    mdn = quick().fit(X, MISSING)
    density = mdn.out_of_fold_density(X)
    rows = np.isnan(MISSING[:, 1])
    of_second = density[rows].condition({0: MISSING[rows, 0]})
    # Better than the mean of all.
    error = of_second.mean()[:, 0] - BOTH[rows, 1]
    assert np.square(error).mean() < 0.9 * BOTH[rows, 1].var()
    assert_allclose(
        density[rows].marginal([0]).logpdf(MISSING[rows][:, [0]]),
        mdn.oof_log_density_[rows],
        rtol=1e-9,
    )


def test_other_rows_and_fits_without_folds_are_refused():
    mdn = quick().fit(X, Y)
    for rows in (X[:-1], X[::-1], X + 1e-9):
        with pytest.raises(ValueError, match="must be the rows given to fit"):
            mdn.out_of_fold_density(rows)
    assert mdn.out_of_fold_density(X.astype(object)).mean().shape == (120,)
    without = (
        quick(n_estimators=3).fit(X, Y),
        quick(early_stopping=False).fit(X, Y),
        quick().fit(X, Y, X_val=X[:9], y_val=Y[:9]),
        quick().fit(X, Y).partial_fit(X, Y),
    )
    for other in without:
        with pytest.raises(
            ValueError, match="out_of_fold_density needs a fit in which"
        ):
            other.out_of_fold_density(X)
        with pytest.raises(ValueError, match="predict_interval needs a fit in which"):
            other.predict_interval(X)


# -- intervals ---------------------------------------------------------------------


def interval_by_hand(mdn, rows, y, new_x, confidence):
    """Return the interval of the k-th smallest held-out score."""
    scores = np.sort(np.abs(mdn.out_of_fold_density(rows).cdf(y) - 0.5))
    rank = math.ceil(round(confidence * (len(y) + 1), 9))
    score = scores[rank - 1] if rank <= len(y) else 0.5
    density = mdn.predict_density(new_x)
    return np.column_stack([density.ppf(0.5 - score), density.ppf(0.5 + score)])


@pytest.mark.parametrize("confidence", [0.01, 0.5, 0.9, 120 / 121, 0.995])
def test_an_interval_has_the_values_that_are_not_too_strange(confidence):
    mdn = quick(max_iter=15).fit(X, Y)
    new_x = X[:12] + 0.1
    interval = mdn.predict_interval(new_x, confidence)
    assert_allclose(interval, interval_by_hand(mdn, X, Y, new_x, confidence))
    assert np.isinf(interval).all() == (confidence > 0.993)  # 120 / 121 is finite


def test_a_copy_is_judged_by_a_fit_that_knows_the_others():
    # F(y) is linear in the weight of a row; a copy has w / W of it.
    rows, y = np.vstack([X, X[:50], X[:20]]), np.concatenate([Y, Y[:50], Y[:20]])
    weight = 1.0 + np.arange(190) % 3
    mdn = quick(max_iter=15).fit(rows, y, sample_weight=weight)
    _, row, counts = np.unique(y, return_inverse=True, return_counts=True)
    total = np.bincount(row, weight)
    share = (np.bincount(row, weight**2) / total**2)[row]
    assert set(counts[row]) == {1, 2, 3}
    held_out = mdn.out_of_fold_density(rows).cdf(y)
    seen = mdn.predict_density(rows).cdf(y)
    score = np.abs(seen + share * (held_out - seen) - 0.5)
    first = np.unique(y, return_index=True)[1]
    expected = HeldOutScores.of(score[first] + 0.5, total)
    scores = mdn._out_of_fold.scores
    assert_allclose(scores.scores, expected.scores, rtol=1e-6, atol=1e-9)
    assert_allclose(scores.weight, expected.weight)
    # Rows of a group are held out together, copies among them too.
    grouped = quick(max_iter=15).fit(rows, y, groups=row // 5)
    levels = grouped.out_of_fold_density(rows).cdf(y)[first]
    found = np.sort(np.abs(levels - 0.5))
    assert_allclose(grouped._out_of_fold.scores.scores, found, rtol=1e-6, atol=1e-9)


def test_the_interval_of_no_confidence_is_the_median():
    mdn = quick(max_iter=5).fit(X, Y)
    median = mdn.predict_density(X).median()
    assert_allclose(mdn.predict_interval(X, 0), np.column_stack([median, median]))


def test_intervals_cover_even_where_the_density_is_wrong():
    rows, y = make_inverse_sine(400, random_state=0)
    new_x, new_y = make_inverse_sine(4000, random_state=1)
    levels = np.array([0.5, 0.8, 0.9, 0.95])
    # One component is far from the density of three branches.
    for n_components in (1, 5):
        mdn = quick(n_components=n_components, max_iter=15, n_estimators=8)
        intervals = mdn.fit(rows, y).predict_interval(new_x, levels)
        assert intervals.shape == (4000, 2, 4)
        lower, upper = intervals.transpose(1, 2, 0)
        coverage = ((lower <= new_y) & (new_y <= upper)).mean(axis=1)
        assert (coverage > levels - 0.04).all()  # errors of 400 rows
        assert (coverage < levels + 0.1).all()  # all networks are better than one
    assert_allclose(mdn.predict_interval(new_x, 0.8), intervals[:, :, 1])
    assert (np.diff(upper, axis=0) >= 0).all()


def test_intervals_respect_bounds_and_units():
    mdn = quick().fit(X, Y)
    expected = mdn.predict_interval(X)
    mirrored = quick().fit(X, -10 * Y + 3).predict_interval(X)
    assert_allclose(mirrored, -10 * expected[:, ::-1] + 3, rtol=1e-5, atol=1e-5)
    positive = quick(target_support=(0, None)).fit(X, np.exp(Y))
    assert_allclose(np.log(positive.predict_interval(X)), expected, atol=1e-6)
    assert (positive.predict_interval(X, 0.9999) == [0, np.inf]).all()


def test_weights_count_as_repetitions_of_scores():
    levels, weight = RNG.random(50), RNG.integers(1, 4, 50)
    scores = HeldOutScores.of(levels, weight.astype(float))
    assert_allclose(scores.n_effective, weight.sum() ** 2 / np.square(weight).sum())
    repeated = np.repeat(np.abs(levels - 0.5), weight)
    for confidence in (0.2, 0.5, 0.8):
        # What is above the score has the weight that (n + 1) (1 - c) - 1 rows have.
        n = scores.n_effective
        above = ((1 - confidence) * (n + 1) - 1) / n
        score = scores.quantile(confidence)
        assert (repeated > score).mean() <= above < (repeated >= score).mean()


def test_groups_count_as_one_score_each():
    weight, codes = RNG.integers(1, 4, 50) / 2, np.arange(50).astype(np.uint64) // 7
    scores = HeldOutScores.of(RNG.random(50), weight, codes)
    of_group = np.array([weight[codes == code].sum() for code in range(8)])
    expected = weight.sum() ** 2 / np.square(of_group).sum()
    assert_allclose(scores.n_effective, expected)
    # The score of a new group is the largest of 9 with a probability of 1 / 9.
    mdn = quick().fit(X, Y, groups=np.arange(120) // 15)
    assert np.isinf(mdn.predict_interval(X, 8 / 9 + 0.001)).all()
    assert np.isfinite(mdn.predict_interval(X, 8 / 9 - 0.001)).all()


def test_intervals_that_cannot_be_given_are_refused():
    several = quick().fit(X, BOTH)
    with pytest.raises(ValueError, match="predict_interval needs one output"):
        several.predict_interval(X)
    censored = quick().fit(X, Y, y_upper=np.where(np.arange(120) % 4, Y, np.inf))
    with pytest.raises(ValueError, match="a fit without y_upper"):
        censored.predict_interval(X)
    for confidence in (-0.1, 1.2, [[0.5]], np.nan):
        with pytest.raises(ValueError, match="confidence"):
            quick().fit(X, Y).predict_interval(X, confidence)
