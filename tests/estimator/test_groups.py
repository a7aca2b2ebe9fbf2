"""Groups: their rows are never on both sides of a split."""

import datetime
import itertools
import math
from decimal import Decimal
from fractions import Fraction
from functools import partial

import helpers
import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
import torch
from helpers import HAS_CALLBACKS, exact_rows, linear_data, needs_callbacks
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.model_selection import GroupKFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmdn._data.folds import _single_fold, hold_out
from skmdn._data.groups import as_groups
from skmdn._data.rows import Rows, merge_rows
from skmdn._fit import pooling

if HAS_CALLBACKS:
    from sklearn.callback import ScoringMonitor

quick = partial(helpers.quick, hidden_layer_sizes=(4,), max_iter=2)
X, Y = linear_data(60)
LABELS = np.random.RandomState(0).randint(12, size=60)


# -- splits ------------------------------------------------------------------------


@st.composite
def grouped_rows(draw):
    """Draw X, y and weight, few of them distinct, and the label of each row."""
    n = draw(st.integers(2, 40))
    integers = partial(st.lists, min_size=n, max_size=n)
    # Labels are as unequal in frequency as the square of a uniform number.
    n_labels = draw(st.integers(1, 20))
    roots = draw(integers(st.floats(0, 1, exclude_max=True)))
    labels = np.array([int(n_labels * root**2) for root in roots])
    numbers = draw(integers(st.integers(0, draw(st.sampled_from([3, 10**6])))))
    weight = np.array(draw(integers(st.integers(0, 3))), dtype=float)
    weight[draw(st.integers(0, n - 1))] = 1.0
    column = np.array(numbers, dtype=float)[:, None]
    return exact_rows(column, -column, weight), labels


def contents_of(rows, labels):
    """Return the summed weight of each distinct row of each group, by brute force."""
    contents = {}
    for x, weight, label in zip(rows.X[:, 0], rows.weight, labels, strict=True):
        if weight > 0:
            content = contents.setdefault(label, {})
            content[x] = content.get(x, 0) + weight
    return contents


def split(rows, labels, n_members, fraction=0.2):
    """Return the X, weight and label of the rows each network trains on, and folds."""
    unique = merge_rows(rows._replace(groups=as_groups(labels, len(labels))))
    generator = torch.Generator().manual_seed(0)
    label_of = [labels[position] for position in unique.positions]
    columns = unique.X[unique.positions, 0], unique.weight, label_of
    table = list(zip(*columns, strict=True))
    return [
        [
            [table[row] for row in index[counts]]
            for index, counts in zip(*lists, strict=True)
        ]
        for lists in hold_out(unique, n_members, fraction, generator)
    ]


@given(grouped_rows(), st.integers(1, 11), st.floats(0.01, 0.99))
def test_no_group_is_on_both_sides_of_a_split(drawn, n_members, fraction):
    rows, labels = drawn
    contents = contents_of(rows, labels)
    if len(contents) < 2:
        with pytest.raises(ValueError, match=r"^groups must have at least 2 "):
            split(rows, labels, n_members, fraction)
        return
    trains, folds = split(rows, labels, n_members, fraction)
    table = sorted(
        (x, weight, label)
        for label, content in contents.items()
        for x, weight in content.items()
    )
    for member, train in enumerate(trains):
        fold = folds[member % len(folds)]
        assert train
        assert fold
        assert sorted(train + fold) == table
        ours, theirs = ({label for *_, label in side} for side in (train, fold))
        assert ours.isdisjoint(theirs)
    n_rows = [len(fold) for fold in folds]
    sizes = {label: len(content) for label, content in contents.items()}
    if n_members >= 4:  # folds cover every row once, as evenly as groups allow
        assert len(folds) == min(n_members, 8, len(sizes))
        assert sum(n_rows) == len(table)
        assert max(n_rows) - min(n_rows) <= max(sizes.values())
        return
    # The fraction is reached if possible, and without the smallest group it is not.
    wanted, n_held_out = math.ceil(fraction * len(table)), n_rows[0]
    trained = {label for *_, label in trains[0]}
    left = [size for label, size in sizes.items() if label in trained]
    taken = [size for label, size in sizes.items() if label not in trained]
    assert sum(taken) == n_held_out
    assert n_held_out >= wanted or len(left) == 1
    if n_held_out > wanted:
        assert any(n_held_out - s < wanted and s <= min(left) for s in taken)


def anonymous(lists, contents):
    """Replace labels by the content of the group."""
    named = {label: sorted(content.items()) for label, content in contents.items()}
    return [
        [[(x, weight, named[label]) for x, weight, label in side] for side in sides]
        for sides in lists
    ]


@given(grouped_rows(), st.integers(1, 11), st.randoms(use_true_random=False))
def test_splits_do_not_depend_on_the_order_of_rows_or_the_labels(
    drawn, n_members, random
):
    rows, labels = drawn
    contents = contents_of(rows, labels)
    if len(contents) < 2:
        return
    order = random.sample(range(len(labels)), len(labels))
    # A weight is the number of copies of a row.
    order = [row for row in order for _ in range(int(rows.weight[row]))]
    names = random.sample(["Ä", "", "b c", *map(str, range(40))], 40)
    repeated = Rows(rows.X[order], rows.y[order], np.ones(len(order)))
    renamed = [names[label] for label in labels[order]]
    ours = split(repeated, renamed, n_members)
    # Groups of the same content can change places.
    assert anonymous(ours, contents_of(repeated, renamed)) == anonymous(
        split(rows, labels, n_members), contents
    )


def test_folds_are_nearly_equal_if_there_are_many_groups():
    rng = np.random.RandomState(0)
    column = np.arange(4000.0)[:, None]
    rows = exact_rows(column, column, np.ones(4000))
    labels = (300 * rng.uniform(size=4000) ** 2).astype(int)
    sizes = [len(fold) for fold in split(rows, labels, 16)[1]]
    assert max(sizes) - min(sizes) <= 3
    (held_out,) = split(rows, labels, 1)[1]
    assert 800 <= len(held_out) <= 803


def test_one_large_group_trains_rather_than_is_held_out():
    column = np.arange(100.0)[:, None]
    labels = np.where(np.arange(100) < 80, -1, np.arange(100))
    rows = exact_rows(column, column, np.ones(100))
    for fraction, n_held_out in [(0.1, 10), (0.2, 20), (0.5, 20)]:
        (held_out,) = split(rows, labels, 2, fraction)[1]
        assert len(held_out) == n_held_out
        assert min(held_out)[0] >= 80


def test_the_fraction_is_reached_after_a_small_last_group():
    # Taken last, a group of one row fits, but does not suffice.
    for order in itertools.permutations(range(4)):
        sizes = np.array([5, 5, 5, 1])
        fold_of = _single_fold(sizes, np.array(order), 3)
        assert 3 <= sizes[fold_of == 0].sum() <= 6


def test_groups_of_one_row_are_split_as_evenly_as_rows():
    column = np.arange(20.0)[:, None]
    rows = exact_rows(column, column, np.ones(20))
    trains, folds = split(rows, np.arange(20), 8)
    assert sorted(map(len, folds)) == [2] * 4 + [3] * 4
    assert sorted(map(len, trains)) == [17] * 4 + [18] * 4


# -- labels ------------------------------------------------------------------------

TEXTS = [f"subject {label}" for label in LABELS]
FORMS = {
    "integers": LABELS,
    "narrow integers": LABELS.astype(np.int8),
    "floats": LABELS / 8,
    "list": LABELS.tolist(),
    "tuple": tuple(LABELS.tolist()),
    "list of numbers of NumPy": list(LABELS),
    "tensor": torch.tensor(LABELS),
    "list of tensors": [torch.tensor(label) for label in LABELS],
    "texts": TEXTS,
    "array of texts": np.array(TEXTS),
    "objects": np.array(TEXTS, dtype=object),
    "bytes": np.array(TEXTS, dtype=bytes),
    "mixed": [TEXTS[i] if label % 2 else label for i, label in enumerate(LABELS)],
    "dates": [datetime.date(2020, 1, 1 + label) for label in LABELS],
    "days": np.datetime64("2020-01-01") + LABELS,
    "time stamps": pd.Series(pd.Timestamp("2020-01-01")).repeat(60)
    + pd.to_timedelta(LABELS, unit="h"),
    "pairs": pd.Series([(label // 2, str(label % 2)) for label in LABELS]),
    "infinite": np.where(LABELS == 3, np.inf, np.where(LABELS == 4, -np.inf, LABELS)),
    "large integers": [2**70 + int(label) for label in LABELS],
    "series": pd.Series(TEXTS, index=np.arange(60)[::-1]),
    "categories": pd.Series(TEXTS, dtype="category"),
    "categories of numbers": pd.Categorical(LABELS),
    "strings of pandas": pd.Series(TEXTS, dtype="string"),
    "nullable": pd.Series(LABELS, dtype="Int64"),
    "periods": pd.Series(pd.period_range("2020", periods=12, freq="D")[LABELS]),
    "polars": pl.Series(TEXTS),
    "categories of polars": pl.Series(TEXTS, dtype=pl.Categorical),
    "numbers of polars": pl.Series(LABELS),
}


def summary(groups, X=X, Y=Y, **parameters):
    mdn = quick(**parameters).fit(X, Y, groups=groups)
    return np.r_[mdn.score_samples(X, Y), getattr(mdn, "oof_log_density_", [])]


@pytest.fixture(scope="module")
def expected():
    return summary(LABELS)


@pytest.mark.parametrize("form", FORMS)
def test_all_labels_of_equal_groups_give_the_same_bits(form, expected):
    assert_array_equal(summary(FORMS[form]), expected)


def test_the_order_of_rows_does_not_matter(expected):
    order = np.random.RandomState(1).permutation(60)
    ours = summary(LABELS[order], X[order], Y[order])
    assert_array_equal(ours[:60], expected[:60][order])
    assert_array_equal(ours[60:], expected[60:][order])


def test_equal_numbers_are_one_label_and_text_is_another():
    half = [0.5, np.float32(0.5), np.float64(0.5), Decimal("0.50"), Fraction(1, 2)]
    one = [1, 1.0, True, np.int8(1), np.bool_(True), Decimal(1), np.longdouble(1)]
    others = ["1", "0.5", b"1", (1,), 10**400, 2**53, 2**53 + 1, np.inf, -np.inf]
    labels = pd.Series([*half, *one, *others], dtype=object)
    codes = as_groups(labels, len(labels)).tolist()
    assert len({*codes[:5]}) == len({*codes[5:12]}) == 1
    assert len({*codes}) == 2 + len(others)


def test_codes_do_not_depend_on_the_process():
    code = (
        "from skmdn._data.groups import as_groups\n"
        "print(as_groups(['a', 'Ä', 3, 2.5, b'c', None or 'd'], 6).tolist())"
    )
    here = as_groups(["a", "Ä", 3, 2.5, b"c", "d"], 6).tolist()
    assert helpers.run_python("-c", code).strip() == str(here)


class Plain:
    """Object whose text is its address."""


@pytest.mark.parametrize(
    ("groups", "error", "message"),
    [
        (LABELS[:59], ValueError, r"groups must have shape .*got \(59,\) for 60 rows"),
        (LABELS[:, None], ValueError, r"groups must have .*got \(60, 1\) .*one label"),
        (pd.DataFrame({"a": LABELS}), ValueError, r"groups must have .*\(60, 1\)"),
        ("subject", ValueError, r"groups must have shape .*got \(\) for 60 rows"),
        ([*TEXTS[:-1], None], ValueError, r"groups contains NaN or None .* row 59\)"),
        ([*TEXTS[:-1], np.nan], ValueError, r"groups contains NaN or None .* row 59"),
        ([np.nan, *LABELS[1:]], ValueError, r"groups contains NaN .* row 0\)"),
        (pd.Series([*TEXTS[1:], pd.NA]), ValueError, "groups contains NaN .* row 59"),
        (pd.Categorical.from_codes(LABELS - 1, range(11)), ValueError, "contains NaN"),
        (pl.Series([None, *TEXTS[1:]]), ValueError, "groups contains NaN"),
        (pd.to_datetime(["NaT"] * 60), ValueError, "groups contains NaN"),
        (np.array(["NaT"] * 60, dtype="M8[D]"), ValueError, "groups contains NaN"),
        (pd.Series([[1]] * 60), TypeError, r"groups must hold labels .*'list'"),
        ([Plain() for _ in range(60)], TypeError, "groups must hold .*type Plain"),
        (np.zeros(60), ValueError, "groups must have at least 2 different .*got 1"),
    ],
)
def test_bad_labels_are_refused(groups, error, message):
    for n_estimators in (1, 4):
        mdn = quick(n_estimators=n_estimators)
        with pytest.raises(error, match=message):
            mdn.fit(X, Y, groups=groups)
        assert not hasattr(mdn, "network_")


def test_a_label_in_rows_of_no_weight_is_no_second_group():
    labels = np.arange(60) < 5
    with pytest.raises(ValueError, match="2 different values in rows of positive"):
        quick().fit(X, Y, np.where(labels, 0.0, 1.0), groups=labels)


def test_groups_without_effect_are_refused():
    with pytest.raises(ValueError, match=r"groups .* early_stopping=False holds out"):
        quick(early_stopping=False).fit(X, Y, groups=LABELS)
    with pytest.raises(ValueError, match="groups was given together with X_val and"):
        quick().fit(X, Y, groups=LABELS, X_val=X, y_val=Y)


# -- fits --------------------------------------------------------------------------


@pytest.mark.parametrize(("n_groups", "n_folds"), [(2, 2), (3, 3), (5, 5), (12, 8)])
def test_rows_of_a_group_are_scored_by_the_same_networks(
    n_groups, n_folds, monkeypatch
):
    # Otherwise the networks end sharper than those of one fold should be.
    monkeypatch.setattr(pooling, "extrapolate", lambda alone, pooled, *_: pooled)
    labels = np.arange(60) % n_groups
    mdn = quick(n_estimators=11).fit(X, Y, groups=labels)
    folds = helpers.fold_densities(mdn, X, Y, n_folds)
    matches = np.isclose(np.exp(mdn.oof_log_density_), folds, rtol=1e-9)
    assert_array_equal(matches.sum(axis=0), np.ones(60))
    fold_of = matches.argmax(axis=0)
    assert_array_equal(fold_of, fold_of[:n_groups][labels])
    assert set(fold_of) == set(range(n_folds))
    assert_allclose(mdn.oof_score_, mdn.oof_log_density_.mean())
    assert_allclose(mdn.best_validation_score_, mdn.oof_score_, rtol=1e-4)


def subjects(n_groups, size, seed):
    """Return rows whose features reveal the group, and its random mean of y."""
    rng = np.random.RandomState(seed)
    group = np.repeat(np.arange(n_groups), size)
    X = rng.normal(size=(n_groups, 2))[group] + 0.01 * rng.normal(size=(len(group), 2))
    y = rng.normal(size=n_groups)[group] + 0.1 * rng.normal(size=len(group))
    return X, y, group


def test_out_of_fold_scores_are_those_of_new_groups():
    X, y, group = subjects(60, 8, seed=0)
    X_new, y_new, _ = subjects(400, 2, seed=1)
    mdn = helpers.quick(hidden_layer_sizes=(64, 64), max_iter=40, n_components=5)
    mdn.fit(X, y, groups=group)
    assert abs(mdn.oof_score_ - mdn.score(X_new, y_new)) < 0.2
    mdn.fit(X, y)
    naive = mdn.score(X_new, y_new)
    assert mdn.oof_score_ > naive + 2
    # Nor does early stopping let a single network learn the groups by heart. It holds
    # out six of them only, so that the gain varies.
    gains = []
    for seed in range(3):
        mdn.set_params(n_estimators=1, random_state=seed)
        naive = mdn.fit(X, y).score(X_new, y_new)
        gains.append(mdn.fit(X, y, groups=group).score(X_new, y_new) - naive)
    assert min(gains) > 1
    assert np.mean(gains) > 4


def test_intervals_cover_rows_of_new_groups():
    X, y, group = subjects(150, 6, seed=0)
    X_new, y_new, _ = subjects(3000, 1, seed=1)
    mdn = helpers.quick(n_estimators=8, hidden_layer_sizes=(64, 64), max_iter=40)

    def coverage():
        lower, upper = mdn.predict_interval(X_new, 0.9).T
        return ((lower <= y_new) & (y_new <= upper)).mean()

    mdn.fit(X, y, groups=group)
    assert abs(coverage() - 0.9) < 0.05
    mdn.fit(X, y)
    assert coverage() < 0.6


def test_a_continued_fit_holds_out_the_same_groups():
    mdn = quick(warm_start=True, max_iter=1).fit(X, Y, groups=LABELS)
    seen = []
    original = hold_out

    def watched(*args):
        seen.append(original(*args))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skmdn._fit.session.hold_out", watched)
        quick(max_iter=1).fit(X, Y, groups=LABELS)
        mdn.fit(X, Y, groups=LABELS)
    for ours, theirs in zip(*seen, strict=True):
        assert torch.equal(ours.rows, theirs.rows)


@needs_callbacks
def test_callbacks_that_score_are_given_no_groups():
    # ScoringMonitor passes all metadata to a scorer, which knows no groups.
    monitor = ScoringMonitor(scoring="r2")
    mdn = quick(n_iter_no_change=2).set_callbacks(monitor)
    mdn.fit(X, Y, np.ones(60), groups=LABELS)
    assert mdn.n_iter_ == 2


def test_equal_rows_of_different_groups_are_different_rows():
    # All groups have the same few rows.
    rng = np.random.RandomState(0)
    group = np.arange(400) % 10
    X, y = rng.randint(3, size=(2, 400)).astype(float)
    X, weight = X[:, None], rng.randint(1, 4, size=400).astype(float)
    mdn = quick(n_estimators=5, reg_covar=0.2).fit(X, y, weight, groups=group)
    # Only rows of one group are always predicted by the same networks.
    first = np.stack([X[:, 0], y, group], axis=1)
    _, row = np.unique(first, axis=0, return_inverse=True)
    values = [set(mdn.oof_log_density_[row == i]) for i in range(row.max() + 1)]
    assert len(values) == 90
    assert all(len(found) == 1 for found in values)
    assert 36 <= len(set().union(*values)) <= 45  # 9 rows in each of 5 folds
    # Weights, the order of rows and the labels do not matter.
    order = rng.permutation(np.arange(400).repeat(weight.astype(int)))
    names = np.array(list("jihgfedcba"))[group]
    other = quick(n_estimators=5, reg_covar=0.2)
    other.fit(X[order], y[order], groups=names[order])
    assert_array_equal(other.oof_log_density_, mdn.oof_log_density_[order])
    assert_array_equal(other.score_samples(X, y), mdn.score_samples(X, y))


# -- metadata routing --------------------------------------------------------------


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


def test_groups_reach_the_splitter_and_every_fit(routing):
    mdn = quick().set_fit_request(groups=True)
    model = make_pipeline(StandardScaler(), mdn)
    found = cross_validate(
        *(model, X, Y),
        cv=GroupKFold(3),
        params={"groups": np.array(TEXTS)},
        return_estimator=True,
        return_indices=True,
    )
    for fitted, train in zip(
        found["estimator"], found["indices"]["train"], strict=True
    ):
        rows = StandardScaler().fit_transform(X[train])
        alone = quick().fit(rows, Y[train], groups=LABELS[train])
        assert_array_equal(fitted[-1].oof_log_density_, alone.oof_log_density_)
        without = quick().fit(rows, Y[train])
        assert (fitted[-1].oof_log_density_ != without.oof_log_density_).any()


def test_groups_reach_a_step_by_its_name(expected):
    pipeline = make_pipeline(None, quick()).fit(X, Y, mdnregressor__groups=TEXTS)
    assert_array_equal(pipeline.score_samples(X), pipeline[-1].score_samples(X))
    assert_array_equal(pipeline[-1].score_samples(X, Y), expected[:60])
