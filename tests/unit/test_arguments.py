"""Every argument of densities and metrics: other forms, and what is refused.

The entry points are found by reflection: a new method or metric, or a new argument, is
tested as soon as it exists, or fails here until the tables below know its arguments.
"""

import inspect
import re
import traceback

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from hypothesis import given as drawn
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from odd_arrays import (
    FORMS,
    INFINITE,
    REFUSED,
    REFUSED_BUT_FOR_FEATURES,
    REFUSED_FRAMES,
    TABLES,
    with_infinity,
)

import skmdn
from skmdn import MixtureDensity, RecordedDensity, metrics

WEIGHTS = np.array([[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]])
MEANS = np.array([[-1.0, 2.0], [0.0, 1.0], [0.5, 3.0]])
FACTORS = np.array([[1.0, 2.0], [0.5, 4.0], [1.0, 1.0]])
SCALAR = MixtureDensity(WEIGHTS, MEANS, FACTORS)
COLUMN = MixtureDensity(WEIGHTS, MEANS[..., None], FACTORS[..., None, None])
MATRICES = FACTORS[..., None, None] * [[1.0, 0.5], [0.0, 2.0]]
JOINT = MixtureDensity(WEIGHTS, np.stack([MEANS, -3 - MEANS], axis=-1), MATRICES)
Y = np.array([[0.5, -1.0], [2.0, 0.25], [-0.75, 1.5]])

METHODS = {
    name: method
    for name, method in inspect.getmembers(MixtureDensity, callable)
    if not name.startswith("_")
}
METRICS = {
    name: getattr(metrics, name)
    for name in metrics.__all__
    if "density" in inspect.signature(getattr(metrics, name)).parameters
}
# Entry points that need several outputs, or do something only for several.
OF_SEVERAL = {"marginal", "condition", "variogram_score"}
# Those that need packages of certain versions, and take no arguments.
CONVERSIONS = {"to_scipy", "to_skpro", "to_torch"}

ARRAYS = {
    "y": Y[:, 0],
    "q": np.array([0.25, 0.5, 0.75]),
    "z": Y,
    "weights": WEIGHTS,
    "means": MEANS,
    "precision_factors": FACTORS,
    "covariances": FACTORS,
    "given": Y[:, 1],
    "lower": Y[:, 0] - 1.0,
    "upper": Y[:, 0] + 2.0,
}
# Other arguments: a good value and bad ones. A number is never read from a bool.
NO_COUNT = (True, np.True_, 2.5, "3", None, 0, -1, [2], np.nan)
NO_SEED = (True, 1.5, "abc", -1, [1], np.array([1, 2]), np.nan, {})
OTHERS = {
    "n_samples": (3, NO_COUNT),
    "random_state": (0, NO_SEED),
    "n_components": (1, NO_COUNT),
    "matrix": (2.0, ("abc", None, 0.0, np.nan, np.inf, [1.0], [[2.0]], 1j)),
    "shift": (0.5, ("abc", None, np.nan, np.inf, [1.0, 2.0], 1j)),
    "outputs": (0, (True, [False, True], np.array([True, False]), [0.0], None, [], 2)),
    "component": (None, (True, 1.5, "abc", -1, [0], [0.0, 1, 1], [0, 1, 9], [[0]] * 3)),
    "output_names": (None, ("a", ["a", "b"], [1], [None])),
    "densities": (
        [SCALAR, SCALAR],
        (SCALAR, [SCALAR, 3], 3, None, [], [SCALAR, JOINT]),
    ),
    "density": (SCALAR, (Y[:, 0], None, "abc", [SCALAR])),
    "confidence": (0.9, (None, "abc", -0.1, 1.1, np.nan, [0.5, 2], [[0.5]], 1j)),
    "min_mass": (0.1, (None, "abc", -0.1, 1.1, np.nan, [0.5], 1j)),
    "order": (0.5, (None, "abc", 0, -1, np.nan, [1.0], 1j)),
    "region": ("hdr", ("box", 0.9, ["hdr"])),
    "offset": (0.25, ("abc", np.nan, np.inf, [1.0], 1j)),
    "resolution": (0.5, (None, "abc", 0, -1, np.nan, np.inf, [1.0], 1j)),
}
# Options without values of their own.
ELSEWHERE = dict.fromkeys(("return_error", "return_divergence", "return_mass"), False)


def parameters_of(function):
    return [name for name in inspect.signature(function).parameters if name != "self"]


CONSTRUCTORS = {"MixtureDensity": MixtureDensity}
ENTRIES = {
    name: parameters_of(function)
    for name, function in (METHODS | METRICS | CONSTRUCTORS).items()
}


def call(entry, on=None, **changes):
    """Call an entry point of a density with good arguments, but for the changes."""
    density = on
    if on is None:
        density = JOINT if entry in OF_SEVERAL else SCALAR
    rows, d = slice(len(density)), density.n_outputs
    good = ARRAYS | ELSEWHERE | {name: value for name, (value, _) in OTHERS.items()}
    good |= {"density": density, "given": {1: ARRAYS["given"][rows]}}
    good["y"] = Y[rows, 0] if density.outputs.event_shape == () else Y[rows, :d]
    good["z"] = np.stack([Y, Y[::-1]], axis=1)[rows, :, :d]
    if not density.outputs.event_shape:
        good["z"] = good["z"][..., 0]
    good["q"] = ARRAYS["q"][rows]
    good |= {"lower": good["y"] - 1.0, "upper": good["y"] + 2.0}
    if d > 1:
        good["matrix"] = [1.0, -1.0]
    if entry == "from_latent" and "component" in changes:
        good["z"] = Y[rows, 0]
    if entry in {"mix", "concatenate"}:
        good |= {"weights": [1, 3], "densities": [density, density]}
    arguments = {name: good[name] for name in ENTRIES[entry]} | changes
    function = (METRICS | CONSTRUCTORS).get(entry) or getattr(density, entry)
    return function(**arguments)


def parts(result):
    """Return a result as a list of arrays."""
    if isinstance(result, MixtureDensity):
        return [result.weights, result.means, result.precision_factors]
    if isinstance(result, RecordedDensity):
        return parts(result.density)
    return list(result) if isinstance(result, (tuple, list)) else [result]


def assert_same(ours, theirs):
    for one, other in zip(parts(ours), parts(theirs), strict=True):
        assert_array_equal(one, other)


# What a message calls an argument, where it is not the name of the argument.
CALLED = {"densities": "densit", "outputs": "output"}


def assert_refused(entry, name, value, message=""):
    """An argument is refused by an error of ours that names it."""
    with pytest.raises((ValueError, TypeError)) as caught:
        call(entry, **{name: value})
    text, case = str(caught.value), (entry, name, value, str(caught.value))
    assert CALLED.get(name, name) in text, case
    assert re.search(message, text), case
    last = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert skmdn.__path__[0] in last.filename, case


# -- the tables are complete -------------------------------------------------------


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_argument_is_known(entry):
    known = ARRAYS.keys() | OTHERS.keys() | ELSEWHERE.keys()
    assert known >= set(ENTRIES[entry])
    if entry not in CONVERSIONS:
        call(entry)


ARRAY_ARGUMENTS = [
    (entry, name)
    for entry, names in ENTRIES.items()
    for name in names
    if name in ARRAYS
]
OTHER_ARGUMENTS = [
    (entry, name)
    for entry, names in ENTRIES.items()
    for name in names
    if name in OTHERS
]


def good_array(entry, name):
    if entry == "mix":
        return np.array([1.0, 3.0])
    return Y if entry in OF_SEVERAL and name == "y" else ARRAYS[name]


# Elsewhere an infinite y has a density, or a probability.
FINITE = {
    *("responsibilities", "to_latent"),
    *("crps", "energy_score", "variogram_score", "interval_score"),
}


# -- arrays ------------------------------------------------------------------------


@pytest.mark.parametrize(("entry", "name"), ARRAY_ARGUMENTS)
def test_other_forms_of_an_array_give_the_same_bits(entry, name):
    array = good_array(entry, name)

    def answer(value):
        return call(entry, **{name: {1: value} if name == "given" else value})

    expected = answer(array)
    for make in (FORMS | TABLES).values():
        assert_same(answer(make(array)), expected)


@pytest.mark.parametrize(("entry", "name"), ARRAY_ARGUMENTS)
def test_what_is_no_array_of_numbers_is_refused(entry, name):
    array = good_array(entry, name)
    for make, message in (REFUSED | REFUSED_BUT_FOR_FEATURES | REFUSED_FRAMES).values():
        if len(array) < 3 and make in [make for make, _ in REFUSED_FRAMES.values()]:
            continue
        value = make(array)
        if entry == "mix" and value is None:  # the default
            continue
        assert_refused(entry, name, {1: value} if name == "given" else value, message)


@pytest.mark.parametrize("entry", sorted(FINITE))
def test_infinity_is_refused_where_it_has_no_value(entry):
    assert_refused(entry, "y", with_infinity(good_array(entry, "y")), INFINITE)


@pytest.mark.parametrize(("entry", "name"), OTHER_ARGUMENTS)
def test_odd_arguments_are_refused_by_name(entry, name):
    for value in OTHERS[name][1]:
        assert_refused(entry, name, value)


def test_swapped_arguments_of_metrics_are_named():
    for metric in METRICS.values():
        with pytest.raises(
            TypeError, match=r"order of the arguments: metric\(y, density\)"
        ):
            metric(SCALAR, Y[:, 0])


@st.composite
def views(draw):
    """An array of small integers (n, 2), and a view or a copy equal to it."""
    n = draw(st.integers(1, 4))
    dtype = draw(st.sampled_from(["f8", "f4", "f2", ">f8", "i8", "i1", "longdouble"]))
    numbers = st.lists(st.integers(-3, 3), min_size=2 * n, max_size=2 * n)
    plain = np.array(draw(numbers), dtype=float).reshape(n, 2)
    steps = [draw(st.sampled_from([-3, -2, -1, 1, 2])) for _ in range(2)]
    large = np.full(
        [abs(step) * size for step, size in zip(steps, plain.shape, strict=True)], 9
    )
    large = large.astype(dtype, order=draw(st.sampled_from("CF")))
    view = large[:: steps[0], :: steps[1]]
    view[...] = plain
    return plain, read_only_view(view) if draw(st.booleans()) else view


def read_only_view(view):
    view = view.view()
    view.flags.writeable = False
    return view


@drawn(views())
def test_any_view_is_read_as_its_contiguous_copy(pair):
    plain, view = pair
    n = len(plain)
    rows = np.arange(n) % 3
    for entry, names in ENTRIES.items():
        density = (JOINT if entry in OF_SEVERAL else SCALAR)[rows]
        for name in {"y", "given", "z"} & set(names):
            arrays = plain, view
            if name == "given":
                arrays = {1: plain[:, 1]}, {1: view[:, 1]}
            elif density.n_outputs == 1 and name == "y":
                arrays = plain[:, 0], view[:, 0]
            ours, theirs = (call(entry, density, **{name: a}) for a in arrays)
            assert_same(ours, theirs)
    levels = np.abs(view[:, 0].astype(float)[::-1]) / 4
    assert_array_equal(SCALAR[rows].ppf(levels), SCALAR[rows].ppf(levels.copy()))


# -- rows --------------------------------------------------------------------------


EVERY_ROW = [slice(None), [0, 1, 2], range(3), [-3, 1, 2], np.array([True] * 3)]
MASKS = {
    "list": [True, False, True],
    "pandas": pd.Series([True, False, True]),
    "nullable": pd.Series([True, False, True], dtype="boolean"),
    "polars": pl.Series([True, False, True]),
    "torch": torch.tensor([True, False, True]),
    "reversed": np.array([True, False, True])[::-1],
}


@pytest.mark.parametrize("rows", EVERY_ROW, ids=str)
def test_rows_are_selected(rows):
    assert_array_equal(SCALAR[rows].means, MEANS)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_masks_of_any_library_select_rows(mask):
    assert_array_equal(SCALAR[mask].means, MEANS[[0, 2]])


ODD_ROWS = [None, True, np.True_, 1.0, "a", [0.0], [[0]], [[True] * 3], (0, 1), [True]]
ODD_ROWS += [3, -4, [0, 3], ..., np.zeros((3, 1), int), [None], {}, [[0], [1, 2]]]


@pytest.mark.parametrize("rows", ODD_ROWS, ids=repr)
def test_odd_rows_are_refused(rows):
    with pytest.raises((IndexError, ValueError), match=r"^rows must be"):
        SCALAR[rows]


@pytest.mark.parametrize("entry", [e for e in ENTRIES if e not in CONSTRUCTORS])
@pytest.mark.parametrize("density", [SCALAR, COLUMN, JOINT], ids=["()", "(1,)", "(2,)"])
def test_no_rows_give_answers_without_rows(entry, density):
    if entry in CONVERSIONS - {"to_torch"} or entry == "from_covariances":
        return
    try:
        one_row = call(entry, density[:1])
    except ValueError as exc:  # it needs one output, or several
        with pytest.raises(ValueError, match=re.escape(str(exc)[:20])):
            call(entry, density[SCALAR.mean() > 1e9])
        return
    empty = density[SCALAR.mean() > 1e9]
    assert len(empty) == 0
    ours = call(entry, empty)
    if isinstance(one_row, list):  # one item for each row
        assert ours == []
    elif entry != "to_torch":
        for one, other in zip(parts(one_row), parts(ours), strict=True):
            assert other.shape == (0, *one.shape[1:])
            assert other.dtype == one.dtype


# -- observations ------------------------------------------------------------------


@pytest.mark.parametrize("name", METRICS)
def test_metrics_pair_observations_with_rows(name):
    """One row at a time is the oracle; several rows broadcast as documented."""
    densities = [JOINT] if name in OF_SEVERAL else [SCALAR, COLUMN, JOINT]
    for density in densities:
        d = density.n_outputs
        y, metric = Y[:, :d], METRICS[name]
        if d > 1 and name in {"crps", "interval_score"}:
            continue
        expected = np.concatenate([metric(y[i : i + 1], density[i]) for i in range(3)])
        assert expected.shape[0] == 3
        if name == "energy_score":  # its draws depend on the number of rows
            expected = metric(y, density)
        for form in [y, y[:, 0]] if d == 1 else [y]:
            assert_allclose(metric(form, density), expected, rtol=1e-12)
        repeated = metric(np.repeat(y[:1], 3, axis=0), density)
        one = [y[:1], y[0]] + ([float(y[0, 0])] if d == 1 else [])
        for form in one:
            assert_array_equal(metric(form, density), repeated)
        if name != "energy_score":
            many = metric(y, density[[0, 0, 0]])
            assert_allclose(metric(y, density[0]), many, rtol=1e-12)
        assert metric(y, density[0]).shape == expected.shape
        for wrong in (y[:2], y[None], np.repeat(y, 3, axis=1), y.T[:, None]):
            with pytest.raises(ValueError, match="y must have"):
                metric(wrong, density)


def test_pit_has_the_shape_of_the_outputs():
    for y in (Y[:, 0], Y[:, :1]):
        assert metrics.pit(y, SCALAR).shape == (3,)
        assert metrics.pit(y, COLUMN).shape == (3, 1)


# -- names -------------------------------------------------------------------------

NAMED = MixtureDensity(JOINT.weights, JOINT.means, MATRICES, output_names=["a", "b"])
ONE = NAMED.marginal("a")
FRAMES = {
    "pandas": lambda y, names: pd.DataFrame(y, columns=names),
    "polars": lambda y, names: pl.DataFrame(y, schema=names),
}
OF_Y = [entry for entry, names in ENTRIES.items() if "y" in names]
OF_JOINT = [e for e in OF_Y if e not in ("cdf", "logcdf", "sf", "logsf", "crps")]


@pytest.mark.parametrize("library", FRAMES)
@pytest.mark.parametrize("entry", [e for e in OF_JOINT if e != "interval_score"])
def test_frames_are_taken_by_name(entry, library):
    make, expected = FRAMES[library], call(entry, NAMED, y=Y)
    assert_same(call(entry, NAMED, y=make(Y, ["a", "b"])), expected)
    assert_same(call(entry, NAMED, y=make(Y[:, ::-1], ["b", "a"])), expected)
    # Where the density has no names, columns count by position.
    assert_same(call(entry, JOINT, y=make(Y, ["b", "a"])), expected)
    for names in (["a", "c"], ["A", "B"]):
        message = r"y has the outputs .*'a', 'b'\] are needed.*by position"
        with pytest.raises(ValueError, match=message):
            call(entry, NAMED, y=make(Y, names))
    with pytest.raises(ValueError, match="y has the outputs"):
        call(entry, NAMED, y=make(np.hstack([Y, Y[:, :1]]), ["a", "b", "c"]))


@pytest.mark.parametrize("entry", [e for e in OF_Y if e not in OF_SEVERAL])
def test_series_of_one_output_have_its_name(entry):
    y = Y[:, 0]
    expected = call(entry, ONE, y=y)
    for series in (
        pd.Series(y, name="a"),
        pd.Series(y),
        pl.Series("a", y),
        pl.Series(y),
    ):
        assert_same(call(entry, ONE, y=series), expected)
    with pytest.raises(ValueError, match=r"y has the outputs \['b'\], but \['a'\]"):
        call(entry, ONE, y=pd.Series(y, name="b"))


def test_a_row_of_a_frame_is_one_observation_by_name():
    row = pd.DataFrame(Y, columns=["a", "b"]).iloc[0]
    for given in (row, row[["b", "a"]]):
        assert_array_equal(NAMED.logpdf(given), NAMED.logpdf(Y[0]))
        assert_array_equal(metrics.log_score(given, NAMED), -NAMED.logpdf(Y[0]))
    with pytest.raises(ValueError, match="y has the outputs"):
        NAMED.logpdf(row.rename({"a": "c"}))
    with pytest.raises(ValueError, match="y has the outputs"):
        NAMED.logpdf(pd.DataFrame(Y, columns=["a", "b"])["a"])


def test_conditions_may_be_columns_of_a_frame():
    columns = pd.DataFrame(Y, columns=["a", "b"])
    expected = NAMED.condition({"b": Y[:, 1]}).mean()
    assert_array_equal(NAMED.condition(columns[["b"]]).mean(), expected)
    assert_array_equal(NAMED.condition({"b": columns["b"]}).mean(), expected)
    for given in ([("b", 0.0)], 3, None, {"b"}):
        with pytest.raises(TypeError, match="given must be a dict"):
            NAMED.condition(given)


def test_frames_with_columns_named_like_attributes_are_read():
    names = ["logpdf", "collect"]
    density = MixtureDensity(JOINT.weights, JOINT.means, MATRICES, output_names=names)
    assert_array_equal(density.logpdf(pd.DataFrame(Y, columns=names)), JOINT.logpdf(Y))


def test_mixed_densities_are_aligned_by_name():
    other = MixtureDensity(WEIGHTS, JOINT.means + 1, MATRICES, output_names=["a", "b"])
    turned = other.marginal(["b", "a"])
    expected = MixtureDensity.mix([NAMED, other])
    for densities in ([NAMED, turned], [JOINT, NAMED, turned]):
        weights = None if len(densities) == 2 else [0, 1, 1]
        mixed = MixtureDensity.mix(densities, weights)
        assert mixed.output_names == ("a", "b")
        assert_allclose(mixed.logpdf(Y), expected.logpdf(Y), rtol=1e-12)
    renamed = MixtureDensity(WEIGHTS, JOINT.means, MATRICES, output_names=["a", "c"])
    with pytest.raises(ValueError, match=r"densities has the outputs \['a', 'c'\]"):
        MixtureDensity.mix([NAMED, renamed])


# -- seeds -------------------------------------------------------------------------


@pytest.mark.parametrize("entry", [e for e in ENTRIES if "random_state" in ENTRIES[e]])
@pytest.mark.parametrize("make", [np.random.default_rng, np.random.RandomState])
def test_generators_are_advanced(entry, make):
    first, again = make(0), make(0)
    changes = {"density": SCALAR.recorded(1.0)} if entry == "pit" else {}
    one, two = (call(entry, random_state=first, **changes) for _ in range(2))
    assert_array_equal(one, call(entry, random_state=again, **changes))
    assert_array_equal(two, call(entry, random_state=again, **changes))
    assert (one != two).any()


# -- matrices ----------------------------------------------------------------------


def test_covariances_are_symmetric_up_to_rounding():
    covariance = np.array([[4.0, 0.5], [0.5, 1e-12]])
    covariance[0, 1] = covariance[1, 0] = 1e-6
    rounded = np.add(covariance, [[0, 1e-13], [0, 0]])
    exact = np.add(covariance, [[0, 0.5e-13], [0.5e-13, 0]])
    ours, expected = (
        MixtureDensity.from_covariances([[1.0]], [[[0.0, 0.0]]], [[matrix]])
        for matrix in (rounded, exact)
    )
    assert_allclose(ours.covariances, expected.covariances, rtol=1e-12)
    message = r"symmetric, got 1\.01e-06 for outputs \(0, 1\) and 1e-06 for \(1, 0\)"
    with pytest.raises(ValueError, match=message):
        MixtureDensity.from_covariances(
            [[1.0]], [[[0.0, 0.0]]], [[np.add(covariance, [[0, 1e-8], [0, 0]])]]
        )
    # A triangular factor was read as a covariance.
    with pytest.raises(ValueError, match="covariances must be symmetric"):
        MixtureDensity.from_covariances([[1.0]], [[[0, 0]]], [[[[1, 0.9], [0, 1]]]])
