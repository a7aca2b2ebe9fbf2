"""Rows given to the estimator: other forms of them, names, and what is refused."""

import pickle
import re

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from helpers import quick
from numpy.testing import assert_array_equal
from odd_arrays import (
    FORMS,
    INFINITE,
    REFUSED,
    REFUSED_BUT_FOR_FEATURES,
    REFUSED_FRAMES,
    TABLES,
    frame,
    with_infinity,
)
from scipy import sparse
from sklearn.base import clone

from skmdn.metrics import (
    neg_crps_scorer,
    neg_energy_score_scorer,
    neg_log_score_scorer,
)

RNG = np.random.RandomState(0)
# Multiples of an eighth have the same value in every floating-point format.
X = RNG.randint(-12, 12, size=(40, 2)) / 8
Y = np.column_stack([X[:, 0] + RNG.randint(-4, 4, 40) / 8, X[:, 1] * 2 - X[:, 0]])
WEIGHT = RNG.randint(1, 4, size=40) / 2
THREE = slice(None, 3)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*distinct rows are too few:UserWarning"),
    pytest.mark.filterwarnings("ignore:X .* feature names:UserWarning"),
    pytest.mark.filterwarnings("ignore:y has only .* distinct values:UserWarning"),
]


def fit(X=X, y=Y, sample_weight=None, method="fit", **rows):
    mdn = quick(n_estimators=1, n_components=1, max_iter=1, hidden_layer_sizes=(4,))
    return getattr(mdn, method)(X, y, sample_weight, **rows)


FITTED = fit()


# -- other forms -------------------------------------------------------------------


@pytest.mark.parametrize("form", (FORMS | TABLES).keys())
def test_other_forms_of_the_rows_give_the_same_bits(form):
    make = (FORMS | TABLES)[form]
    for method in ("fit", "partial_fit"):
        expected = fit(X, Y, WEIGHT, method).predict(X)
        ours = fit(make(X), make(Y), make(WEIGHT), method)
        assert_array_equal(ours.predict(make(X)), expected)
    assert_array_equal(
        FITTED.score_samples(make(X), make(Y)), FITTED.score_samples(X, Y)
    )
    assert FITTED.score(X, make(Y), make(WEIGHT)) == FITTED.score(X, Y, WEIGHT)
    validation = {"X_val": make(X), "y_val": make(Y), "sample_weight_val": make(WEIGHT)}
    plain = {"X_val": X, "y_val": Y, "sample_weight_val": WEIGHT}
    scores = (fit(**rows).validation_scores_ for rows in (validation, plain))
    assert_array_equal(*scores)


# -- refused -----------------------------------------------------------------------

CALLS = {
    "X": [
        lambda X: fit(X, Y[THREE]),
        lambda X: fit(X, Y[THREE], method="partial_fit"),
        lambda X: FITTED.predict(X),
        lambda X: FITTED.predict_density(X),
        lambda X: FITTED.sample(X),
        lambda X: FITTED.score(X, Y[THREE]),
        lambda X: FITTED.score_samples(X),
        lambda X: fitted_to_frames().predict(X),
    ],
    "X_val": [lambda X: fit(X_val=X, y_val=Y[THREE])],
    "y": [
        lambda y: fit(X[THREE], y),
        lambda y: fit(X[THREE], y, method="partial_fit"),
        lambda y: FITTED.score(X[THREE], y),
        lambda y: FITTED.score_samples(X[THREE], y),
        lambda y: FITTED.predict_density(X[THREE], y),
        lambda y: neg_log_score_scorer(FITTED, X[THREE], y),
    ],
    "y_val": [lambda y: fit(X_val=X[THREE], y_val=y)],
    "sample_weight": [
        lambda weight: fit(X[THREE], Y[THREE], weight),
        lambda weight: fit(X[THREE], Y[THREE], weight, method="partial_fit"),
        lambda weight: FITTED.score(X[THREE], Y[THREE], weight),
        lambda weight: neg_log_score_scorer(FITTED, X[THREE], Y[THREE], weight),
    ],
    "sample_weight_val": [
        lambda weight: fit(X_val=X[THREE], y_val=Y[THREE], sample_weight_val=weight)
    ],
}
PLAIN = {"X": X, "X_val": X, "y": Y, "y_val": Y}


# Of features and of several outputs, some may be missing.
MISSING = (
    *("NaN", "None", "pandas' NA", "NaN in a frame", "polars nulls"),
    *("nullable integers", "NA among objects"),
)
# Features may be categories.
CATEGORIES = "binned numbers", "categories of text"
ACCEPTED = {
    "y": MISSING,
    "y_val": MISSING,
    "X": (*MISSING, *CATEGORIES),
    "X_val": (*MISSING, *CATEGORIES),
}


def fitted_to_frames():
    return fit(frame(X))


@pytest.mark.parametrize("kind", MISSING)
def test_targets_can_be_missing_where_there_are_several(kind):
    y = (REFUSED | REFUSED_FRAMES)[kind][0](Y[THREE])
    cells = np.asarray(y, dtype=object)
    plain = np.array(
        [[np.nan if pd.isna(cell) else float(cell) for cell in row] for row in cells]
    )
    assert np.isnan(plain).any()
    assert_array_equal(
        FITTED.score_samples(X[THREE], y), FITTED.score_samples(X[THREE], plain)
    )
    for method in ("fit", "partial_fit"):
        ours, theirs = (
            fit(X[THREE], y, None, method),
            fit(X[THREE], plain, None, method),
        )
        assert_array_equal(ours.predict(X), theirs.predict(X))


@pytest.mark.parametrize(
    "y",
    [
        np.array([0.5, np.nan, 1.0]),
        [[0.5], [None], [1.0]],
        pd.Series([0.5, None, 1.0], dtype="Float64"),
        pl.Series([0.5, None, 1.0]),
        pd.DataFrame({"b": [0.5, np.nan, 1.0]}),
    ],
)
def test_the_only_output_must_be_known(y):
    one = fit(y=Y[:, 0])
    calls = (
        lambda: fit(X[THREE], y),
        lambda: fit(X[THREE], y, method="partial_fit"),
        lambda: fit(y=Y[:, 0], X_val=X[THREE], y_val=y),
        lambda: one.score(X[THREE], y),
        lambda: one.predict_density(X[THREE], y),
    )
    for call in calls:
        with pytest.raises(ValueError, match=r"Input y(_val)? contains NaN"):
            call()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (name, kind)
        for name in CALLS
        for kind in REFUSED | REFUSED_FRAMES
        if kind not in ACCEPTED.get(name, ())
    ],
)
def test_what_is_not_a_number_is_refused_by_name_column_and_remedy(name, kind):
    make, message = (REFUSED | REFUSED_FRAMES)[kind]
    value = make(PLAIN.get(name, WEIGHT)[THREE])
    error = TypeError if kind == "a density" else ValueError
    for call in CALLS[name]:
        with pytest.raises(error) as caught:
            call(value)
        text = str(caught.value)
        assert re.search(rf"\b{name}\b", text), text
        assert re.search(message, text), text


@pytest.mark.parametrize("name", CALLS)
def test_infinity_is_refused_by_name_and_column(name):
    value = with_infinity(PLAIN.get(name, WEIGHT)[THREE])
    calls = CALLS[name][:-1] if name == "y" else CALLS[name]  # the last is a scorer
    for call in calls:
        with pytest.raises(ValueError, match=f"Input {name} {INFINITE}"):
            call(value)


@pytest.mark.parametrize("kind", REFUSED_BUT_FOR_FEATURES)
def test_odd_targets_and_weights_are_refused(kind):
    make, message = REFUSED_BUT_FOR_FEATURES[kind]
    for name in ("y", "y_val", "sample_weight"):
        value = make(PLAIN.get(name, WEIGHT)[THREE])
        for call in CALLS[name]:
            if value is None:  # a default, or an error of scikit-learn's
                continue
            with pytest.raises((TypeError, ValueError), match=message):
                call(value)
    with pytest.raises(ValueError, match="y must hold numbers, got None"):
        FITTED.score(X, None)


def test_sparse_features_are_refused_by_column():
    for value, what in ((np.nan, "NaN"), (np.inf, "infinity")):
        table = X[THREE].copy()
        table[1, 1] = value
        for make in (sparse.csr_matrix, sparse.csc_array, sparse.coo_array):
            for call in CALLS["X"][:2]:
                message = rf"Input X contains {what} in column 1 \(first in row 1\)"
                with pytest.raises(ValueError, match=message):
                    call(make(table))
    with pytest.raises(ValueError, match="Complex data not supported: X must"):
        fit(sparse.csr_array(X + 1j))


def test_objects_among_features_are_named_as_by_scikit_learn():
    cells = X.astype(object)
    cells[5, 1] = {"north": 1}
    message = (
        r"X must .*'north': 1} in column 1.* argument must be a string or a real n"
    )
    with pytest.raises(TypeError, match=message):
        fit(cells)


# -- names of outputs --------------------------------------------------------------

FRAMES = {
    "pandas": lambda y, names: pd.DataFrame(y, columns=names),
    "polars": lambda y, names: pl.DataFrame(y, schema=names),
}


@pytest.mark.parametrize("library", FRAMES)
def test_targets_are_taken_by_name(library):
    make = FRAMES[library]
    targets, turned = make(Y, ["a", "b"]), make(Y[:, ::-1], ["b", "a"])
    mdn = fit(X, targets)
    assert mdn.score(X, turned) == mdn.score(X, Y)
    assert_array_equal(mdn.predict_density(X, turned), mdn.predict_density(X, Y))
    for scorer in (neg_log_score_scorer, neg_energy_score_scorer):
        assert scorer(mdn, X, turned) == scorer(mdn, X, Y)
    first, second = (
        fit(X, targets, method="partial_fit").partial_fit(X, y).predict(X)
        for y in (targets, turned)
    )
    assert_array_equal(first, second)
    scores = (
        fit(X, targets, X_val=X, y_val=y).validation_scores_ for y in (targets, turned)
    )
    assert_array_equal(*scores)


def test_a_warm_start_continues_with_the_outputs_by_name():
    targets, turned = (
        pd.DataFrame(Y, columns=["a", "b"]),
        pd.DataFrame(Y[:, ::-1], columns=["b", "a"]),
    )
    first, second = (
        fit(X, targets).set_params(warm_start=True).fit(X, y) for y in (targets, turned)
    )
    assert second.output_names_ == ("a", "b")
    assert_array_equal(first.predict(X), second.predict(X))


def test_other_names_of_targets_are_refused():
    mdn = fit(X, pd.DataFrame(Y, columns=["a", "b"]))
    other = pd.DataFrame(Y, columns=["a", "c"])
    calls = [
        lambda: mdn.score(X, other),
        lambda: mdn.score_samples(X, other),
        lambda: neg_log_score_scorer(mdn, X, other),
        lambda: clone(mdn).partial_fit(X, other).partial_fit(X, other[["a"]]),
        lambda: mdn.partial_fit(X, other),
        lambda: mdn.set_params(warm_start=True).fit(X, other),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"y has the outputs \['a'.*are needed"):
            call()
    with pytest.raises(ValueError, match=r"y_val has the outputs \['a', 'c'\]"):
        fit(X, pd.DataFrame(Y, columns=["a", "b"]), X_val=X, y_val=other)
    # Without names on either side, columns count by position.
    assert mdn.score(X, pd.DataFrame(Y)) == mdn.score(X, Y)
    assert FITTED.score(X, other) == FITTED.score(X, Y)


def test_series_without_a_name_give_no_names():
    assert not hasattr(fit(X, pl.Series(Y[:, 0])), "output_names_")
    mdn = fit(X, pl.Series("a", Y[:, 0]))
    assert mdn.output_names_ == ("a",)
    assert mdn.score(X, pd.Series(Y[:, 0])) == mdn.score(X, Y[:, 0])
    with pytest.raises(ValueError, match="y has the outputs"):
        mdn.score(X, pd.Series(Y[:, 0], name="b"))


# -- scorers, seeds, parameters ----------------------------------------------------


def test_scorers_take_a_column_wherever_score_does():
    mdn = fit(X, Y[:, 0])
    for scorer in (neg_log_score_scorer, neg_crps_scorer, neg_energy_score_scorer):
        assert scorer(mdn, X, Y[:, :1], WEIGHT) == scorer(mdn, X, Y[:, 0], WEIGHT)
    assert np.isclose(neg_log_score_scorer(mdn, X, Y[:, :1]), mdn.score(X, Y[:, :1]))


def test_a_generator_seeds_a_fit():
    mdn = quick(n_estimators=1, max_iter=1, random_state=np.random.default_rng(0))
    copies = [clone(mdn), pickle.loads(pickle.dumps(mdn)), mdn]
    assert "Generator(PCG64)" in repr(mdn)
    first, second, third = (copy.fit(X, Y).predict(X) for copy in copies)
    assert_array_equal(first, second)
    assert_array_equal(first, third)
    # It is advanced, as a RandomState is.
    assert not np.array_equal(mdn.fit(X, Y).predict(X), first)


@pytest.mark.parametrize("seed", ["abc", 1.5, -1, True, np.nan])
def test_a_seed_that_is_none_is_refused(seed):
    for call in (
        lambda: FITTED.sample(X, 2, seed),
        lambda: quick(random_state=seed).fit(X, Y),
    ):
        with pytest.raises(ValueError, match="random_state"):
            call()


def test_a_warm_start_names_the_parameters_that_changed():
    mdn = fit().set_params(warm_start=True, n_estimators=2, rank=3)
    with pytest.raises(ValueError, match=r"with another rank, n_estimators\."):
        mdn.fit(X, Y)


def test_narrow_tensors_on_autograd_tapes_are_detached_by_the_user():
    weight = torch.ones(40, requires_grad=True)
    with pytest.raises(ValueError, match=r"Pass sample_weight\.detach\(\)"):
        fit(X, Y, weight)
    assert_array_equal(fit(X, Y, weight.detach()).predict(X), FITTED.predict(X))
