"""Results do not depend on torch's defaults and modes around a call."""

import io
import pickle

import numpy as np
import pytest
import torch
from helpers import OTHER_DEFAULTS, quick
from numpy.testing import assert_array_equal
from scipy import sparse

from skmdn.datasets import make_rotating_gaussians

X, Y = make_rotating_gaussians(60, random_state=0)


# A fit and a prediction also work where the caller wants no gradients.
SURROUNDINGS = OTHER_DEFAULTS | {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
}


def user_network(n_features):
    return torch.nn.Sequential(
        torch.nn.Linear(n_features, 8),
        torch.nn.BatchNorm1d(8),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.1),
        torch.nn.Linear(8, 4),
    )


FITS = {
    "full": {},
    "low rank": {"covariance_type": "low_rank", "rank": 1},
    "one network": {"n_estimators": 1, "dropout": 0.1, "embedding": None},
    "warm-up": {"early_stopping": False, "warmup_iter": 2, "covariance_type": "tied"},
    "user-defined": {"network": user_network},
}


def predictions(mdn):
    density = mdn.predict_density(X[:5])
    mean, std = mdn.predict(X, return_std=True)
    return {
        "mean": mean,
        "std": std,
        "covariance": mdn.predict(X, return_cov=True)[1],
        "log-density": mdn.score_samples(X, Y),
        "entropy": mdn.score_samples(X[:5]),
        "samples": mdn.sample(X[:5], 3, random_state=0),
        "sparse": mdn.predict(sparse.csr_array(X)),
        "marginal": density.marginal(0).cdf(0.3),
        "quantiles": density.marginal(1).ppf(0.3),
        "conditional": density.condition({0: 0.2}).mean(),
        "modes": density.mode(),
        "level": density.hdr_level(0.9),
    }


def assert_same(ours, theirs):
    for name, expected in theirs.items():
        assert_array_equal(ours[name], expected, name)


def refuse(tensor):
    raise AssertionError("a tensor is kept for autograd")


@pytest.mark.parametrize("name", ["full", "one output", "views", "one network"])
def test_nothing_is_kept_for_autograd(name):
    # A graph that grows with the rows took 7 KB for each.
    y = Y[:, 0] if name == "one output" else Y
    options = {"portfolio": ["trees_0.1"]} if name == "views" else FITS.get(name, {})
    mdn = quick(**{"max_iter": 3, "early_stopping": True} | options)
    with torch.autograd.graph.saved_tensors_hooks(refuse, refuse):
        mdn.fit(X, y)
        mdn.predict(X, return_std=True)
        mdn.score_samples(X, y)
        mdn.score_samples(X[:5])
        mdn.sample(X[:5], 3)
        density = mdn.predict_density(X[:5])
        density.modes()
        density.hdr_level(0.9)
        if name != "one network":
            mdn.out_of_fold_density(X)
        if name == "one output":
            mdn.predict_interval(X)
        if name != "views":
            mdn.partial_fit(X, y)


@pytest.mark.parametrize("name", FITS)
@pytest.mark.parametrize("surroundings", SURROUNDINGS)
def test_a_fit_has_the_same_bits(surroundings, name):
    mdn = quick(max_iter=3, n_estimators=4).set_params(**FITS[name])
    expected = predictions(mdn.fit(X, Y))
    with SURROUNDINGS[surroundings]():
        mdn.fit(X, Y)
    assert_same(predictions(mdn), expected)


@pytest.mark.parametrize("surroundings", SURROUNDINGS)
def test_predictions_and_unpickling_have_the_same_bits(surroundings):
    mdn = quick(max_iter=3, n_estimators=4).fit(X, Y)
    expected, stored = predictions(mdn), pickle.dumps(mdn)
    with SURROUNDINGS[surroundings]():
        found = predictions(mdn)
        restored = pickle.load(io.BytesIO(stored))
        again = predictions(restored)
    assert_same(found, expected)
    assert_same(again, expected)
    assert_same(predictions(restored), expected)


@pytest.mark.parametrize("surroundings", SURROUNDINGS)
def test_partial_fit_has_the_same_bits(surroundings):
    expected = quick().partial_fit(X, Y).partial_fit(X, Y).predict(X)
    mdn = quick().partial_fit(X, Y)
    with SURROUNDINGS[surroundings]():
        mdn.partial_fit(X, Y)
    assert_array_equal(mdn.predict(X), expected)


def test_numpy_errors_of_the_caller_are_not_raised():
    mdn = quick(max_iter=3, n_estimators=4)
    expected = mdn.fit(X, Y).predict(X)
    with np.errstate(all="raise"):
        assert_array_equal(mdn.fit(X, Y).predict(X), expected)
