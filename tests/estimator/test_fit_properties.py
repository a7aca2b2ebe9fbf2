"""Properties of every fit, tested by hypothesis."""

import warnings
from functools import partial

import helpers
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose, assert_array_equal

from skmdn._utils.persistence import digest

moderate = st.floats(-30, 30, allow_subnormal=False).map(lambda x: round(x, 6))
ordinary = st.integers(-3, 3).map(float) | moderate
extreme = ordinary | st.sampled_from([-0.0, 1e-30, 1e30, -1e12, 5e-324, 1e200])


@st.composite
def rows(draw, numbers=ordinary):
    n, p, d = draw(st.integers(2, 9)), draw(st.integers(1, 3)), draw(st.integers(0, 2))
    X = draw(hnp.arrays(float, (n, p), elements=numbers))
    y = draw(hnp.arrays(float, (n, d) if d else (n,), elements=numbers))
    weights = st.floats(0, 1e6) | st.sampled_from([0.0, 1e-150, 1e150])
    weight = draw(st.none() | hnp.arrays(float, n, elements=weights).filter(np.any))
    return X, y, weight


quick = partial(helpers.quick, hidden_layer_sizes=(4,), max_iter=2)


def fit_quietly(mdn, *rows):
    """Fit without the warnings of few rows or few values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return mdn.fit(*rows)


@given(
    rows(extreme), st.sampled_from(["full", "diag", "tied", "spherical", "low_rank"])
)
def test_all_numbers_give_a_finite_fit_or_a_clear_error(drawn, covariance_type):
    X, y, weight = drawn
    used = slice(None) if weight is None else weight > 0
    spread = [np.ptp(columns[used], axis=0) for columns in (X, y)]
    reach = np.concatenate([np.ravel(part) for part in spread])
    mdn = quick(covariance_type=covariance_type)
    if ((reach > 1e150) | ((reach > 0) & (reach < 1e-150))).any():
        with pytest.raises(ValueError, match=r"must spread over .* Change its unit"):
            fit_quietly(mdn, X, y, weight)
        return
    fit_quietly(mdn, X, y, weight)
    mean, std = mdn.predict(X, return_std=True)
    log_density = mdn.score_samples(X, y)[used]
    for values in (mean, std, log_density, mdn.score_samples(X), mdn.loss_curve_):
        assert np.isfinite(values).all()
    assert (std > 0).all()
    assert np.isfinite([mdn.score(X, y, weight), getattr(mdn, "oof_score_", 0)]).all()
    assert mdn.sample(X, 2, random_state=0).shape == (len(X), 2, *y.shape[1:])


@given(rows(), st.randoms(use_true_random=False))
def test_order_and_repetition_of_rows_are_weights(drawn, random):
    X, y, _ = drawn
    counts = np.array([random.randint(1, 3) for _ in y], dtype=float)
    mdn = fit_quietly(quick(), X, y, counts)
    repeated = np.repeat(np.arange(len(y)), counts.astype(int))
    random.shuffle(repeated)
    twin = fit_quietly(quick(), X[repeated], y[repeated])
    assert_allclose(twin.predict(X), mdn.predict(X), rtol=1e-6, atol=1e-6)


@given(rows())
def test_layout_and_container_are_irrelevant(drawn):
    X, y, weight = drawn
    mdn = fit_quietly(quick(), X, y, weight)
    wide = np.repeat(np.asfortranarray(X), 2, axis=1)[:, ::2]
    twin = fit_quietly(quick(), wide, y.tolist(), weight)
    assert_array_equal(twin.predict(X.astype(object)), mdn.predict(X))
    assert digest(twin.__getstate__()) == digest(mdn.__getstate__())
