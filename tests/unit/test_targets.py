"""Targets as they are recorded: supports, steps, intervals and missing outputs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal
from scipy import optimize, stats

from skmdn._data.outputs import Outputs
from skmdn._data.resolution import as_resolution, detect_resolution
from skmdn._data.rows import Rows, merge_rows
from skmdn._data.target_transform import TargetTransform, _truncated
from skmdn._data.targets import Recording, Targets
from skmdn.distributed import ALONE

ONE, TWO = Outputs(()), Outputs((2,), ("price", "share"))
RNG = np.random.default_rng(0)


def recording(support=None, resolution=None, outputs=ONE, y=None):
    y = np.zeros((1, outputs.size)) if y is None else y
    return Recording.of(support, resolution, outputs, y)


def column(*values):
    return np.array(values, dtype=float)[:, None]


def ends(targets):
    below, above = targets.cells
    return targets.points - below, targets.points + above


# -- blocks ------------------------------------------------------------------------


def test_exact_numbers_are_their_own_latent_targets():
    y = RNG.normal(size=(5, 2))
    targets = recording(outputs=TWO).targets("y", y)
    assert_array_equal(targets.table, y)
    assert_array_equal(targets.offset, 0)
    assert targets.is_exact.all()
    assert not targets.has_cells
    assert targets.is_observed is None


def test_a_support_maps_targets_and_adds_the_log_derivative():
    y = np.array([[2.0, 0.25], [0.5, 0.9]])
    kind = recording([(0, None), (0, 1)], outputs=TWO)
    targets = kind.targets("y", y)
    price, share = y.T
    assert_allclose(
        targets.points, np.stack([np.log(price), np.log(share / (1 - share))], 1)
    )
    assert_allclose(targets.offset, -np.log(price) - np.log(share * (1 - share)))


def test_a_step_makes_cells_of_half_a_step_on_both_sides():
    targets = recording(None, 0.5).targets("y", column(1.0, 3.0))
    assert_array_equal(targets.points, column(1.0, 3.0))
    assert_allclose(ends(targets), (column(0.75, 2.75), column(1.25, 3.25)))
    assert_allclose(targets.offset, -np.log(0.5))


def test_the_cell_of_a_value_at_a_bound_ends_there():
    kind = recording((0, None), 1.0)
    targets = kind.targets("y", column(0.0, 1.0, 5.0))
    low, high = ends(targets)
    assert_allclose(
        low,
        np.log(
            column(0.0, 0.5, 4.5), where=column(0, 1, 1) > 0, out=column(*[-np.inf] * 3)
        ),
    )
    assert_allclose(high, np.log(column(0.5, 1.5, 5.5)))
    assert np.isfinite(targets.points).all()


def test_intervals_are_cells_without_a_step():
    y, upper = column(1.0, 2.0, -np.inf, 3.0), np.array([1.0, 4.0, 5.0, np.inf])
    targets = recording().targets("y", y, upper)
    low, high = ends(targets)
    assert_array_equal(low, y)
    assert_array_equal(high, upper[:, None])
    assert_array_equal(targets.offset, 0)
    assert_array_equal(targets.is_exact[:, 0], [True, False, False, False])
    assert_array_equal(targets.is_open[:, 0], [False, False, True, True])


def test_observed_rows_among_intervals_keep_their_step():
    targets = recording(None, 2.0).targets(
        "y", column(4.0, 4.0), np.array([4.0, np.inf])
    )
    low, high = ends(targets)
    assert_allclose(low, column(3.0, 4.0))
    assert_allclose(high, column(5.0, np.inf))
    assert_allclose(targets.offset, [-np.log(2), 0])


def test_outputs_that_were_not_observed_have_no_part_in_the_offset():
    y = np.array([[2.0, np.nan], [np.nan, np.nan], [3.0, 0.5]])
    targets = recording([(0, None), (0, 1)], outputs=TWO).targets("y", y)
    assert_array_equal(targets.is_observed, ~np.isnan(y))
    assert np.isfinite(targets.table).all()
    assert_allclose(targets.offset, [-np.log(2), 0, -np.log(3) - np.log(0.25)])


def test_the_interval_of_all_values_says_nothing():
    targets = recording((0, None)).targets(
        "y", column(0.0, 1.0), np.array([np.inf, 1.0])
    )
    assert_array_equal(targets.is_observed[:, 0], [False, True])


def test_rows_of_other_ranks_can_have_further_blocks():
    plain = recording().targets("y", column(1.0, 2.0))
    shared = plain.with_blocks(cells=True, observed=True)
    assert shared.n_blocks == 4
    assert shared.is_exact.all()
    assert shared.is_observed.all()
    assert_array_equal(shared.points, plain.points)


def test_points_move_within_their_cells():
    targets = recording().targets("y", column(1.0, 2.0), np.array([1.0, np.inf]))
    moved = targets.moved_to(column(1.0, 7.0))
    assert_array_equal(moved.points, column(1.0, 7.0))
    assert_array_equal(ends(moved), ends(targets))
    assert_array_equal(moved.is_exact, targets.is_exact)


# -- errors ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("support", "resolution", "y", "message"),
    [
        ((0, None), None, [1.0, 0.0], "y must lie inside the open interval"),
        ((0, 1), None, [0.5, 1.5], "the worst is 1.5"),
        ((0, None), 1.0, [1.0, -2.0], r"cells lie outside of target_support"),
        ((1, 0), None, [0.5], "low < high"),
        ("positive", None, [0.5], "target_support must be None, a pair"),
        (None, -1.0, [0.5], "target_resolution must be None, 'auto' or a positive"),
        (None, True, [0.5], "target_resolution must be None, 'auto' or a positive"),
        (None, "fine", [0.5], "target_resolution must be None, 'auto' or a positive"),
        (None, 1e-15, [1e3], "finer than float64"),
        (None, [1.0, 2.0], [0.5], "one for each of the 1 outputs"),
        (None, {"other": 1.0}, [0.5], "target_resolution: Unknown output 'other'"),
        (None, {0: 1.0, -1: 2.0}, [0.5], "target_resolution: Each output may be given"),
    ],
)
def test_bad_recordings_are_refused(support, resolution, y, message):
    with pytest.raises(ValueError, match=message):
        recording(support, resolution, y=column(*y)).targets("y", column(*y))


# -- steps -------------------------------------------------------------------------


@given(
    arrays(np.int64, st.integers(20, 60), elements=st.integers(-30, 30)),
    st.sampled_from([0.01, 0.1, 0.25, 1.0, 5.0, 1000.0]),
)
def test_a_grid_of_repeated_values_is_found(places, step):
    values = np.concatenate([places, places, places[:1], places[:1] + 1]) * step
    assert_allclose(detect_resolution(values), step, rtol=1e-9)


@given(st.integers(2, 500), st.integers(0, 2**32 - 1))
def test_exact_numbers_have_no_step(n, seed):
    assert detect_resolution(np.random.default_rng(seed).normal(size=n)) == 0.0


@pytest.mark.parametrize(("offset", "step"), [(0.3, 0.1), (0.5, 0.5), (np.pi, 0.0)])
def test_a_step_is_one_whose_multiples_are_recorded(offset, step):
    values = np.repeat(np.arange(10.0), 5) + offset
    assert_allclose(detect_resolution(values), step)


def test_few_digits_alone_are_no_grid():
    assert detect_resolution(np.arange(1000) / 100) == 0.0


def test_steps_are_given_for_all_outputs_or_each():
    y = np.array([[1.0, 0.5], [2.0, 0.75], [1.0, 0.5], [2.0, 0.75]])
    assert_array_equal(as_resolution(0.5, TWO, y), [0.5, 0.5])
    assert_array_equal(as_resolution(["auto", None], TWO, y), [1.0, 0.0])
    assert_array_equal(as_resolution({"share": 0.25}, TWO, y), [0.0, 0.25])


# -- transform ---------------------------------------------------------------------


def transform_of(targets, weight=None, kind=None):
    weight = np.ones(len(targets)) if weight is None else weight
    rows = merge_rows(Rows(np.arange(len(targets))[:, None], targets, weight))
    kind = kind or recording(outputs=Outputs((targets.n_outputs,)))
    return TargetTransform.fit(kind, rows), rows


def test_standardised_targets_are_mirrored_with_their_cells():
    values = -(RNG.normal(size=200) ** 2)  # of negative skewness
    upper = np.where(np.arange(200) < 50, values + 1, values)
    targets = recording().targets("y", values[:, None], upper)
    transform, _ = transform_of(targets)
    scale, mean = transform.scaling.scale[0], transform.scaling.mean[0]
    assert scale < 0
    points, below, above = transform.standardise(targets).numpy().T
    assert_allclose(mean + scale * (points + below), upper)
    assert_allclose(mean + scale * (points + above), values)


def test_the_offset_undoes_the_scaling_of_exact_targets_only():
    y, upper = column(1.0, 2.0, 5.0, 9.0), np.array([1.0, 3.0, 5.0, 9.0])
    targets = recording().targets("y", y, upper)
    transform, _ = transform_of(targets)
    scale = np.log(np.abs(transform.scaling.scale[0]))
    assert_allclose(transform.offset(targets), [-scale, 0, -scale, -scale])


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_normal_distribution_of_censored_targets_has_the_highest_likelihood(side):
    z, limit = RNG.normal(3, 2, size=400), 4.0
    is_censored = z > limit
    y, upper = np.minimum(z, limit), np.where(is_censored, np.inf, z)
    sign = 1
    if side == "left":
        y, upper, sign = -upper, -y, -1
    targets = recording().targets("y", y[:, None], upper)
    transform, _ = transform_of(targets)

    spread = np.minimum(z, limit).std()

    def loss(point):
        law = stats.norm(point[0], np.exp(point[1]))
        known = law.logpdf(z[~is_censored]).sum()
        # One more row whose squared residual is a tenth of the variance.
        more = -point[1] - 0.05 * (spread / np.exp(point[1])) ** 2
        return -known - is_censored.sum() * law.logsf(limit) - more

    best = optimize.minimize(loss, [3.0, 0.5]).x
    assert_allclose(sign * transform.mean[0], best[0], atol=2e-3)
    assert_allclose(transform.std[0], np.exp(best[1]), rtol=2e-3)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.95])
@pytest.mark.parametrize("shift", [0.0, 0.3, -0.2, 1e4])
def test_a_common_limit_hides_neither_scale_nor_location(share, shift):
    """Drawn targets of rows censored at one limit must differ."""
    z = np.random.default_rng(1).normal(size=2000)
    limit = np.quantile(z, 1 - share)
    upper = shift + np.where(z > limit, np.inf, z)
    y = shift + np.minimum(z, limit)
    transform, rows = transform_of(recording().targets("y", y[:, None], upper))
    assert_allclose(transform.mean - shift, 0, atol=0.3)
    assert_allclose(transform.std, 1, atol=0.2)
    assert_allclose(np.abs(transform.scaling.scale), 1, atol=0.2)
    kind = recording((0, None))
    targets = kind.targets("y", np.exp(y[:, None] - shift), np.exp(upper - shift))
    transform, rows = transform_of(targets, kind=kind)
    largest = transform.largest_scale(rows.y, rows.weight, ALONE)
    assert_allclose(largest * np.abs(transform.scaling.scale), 2, atol=0.4)


def test_conditional_means_stand_for_censored_targets():
    y, upper = column(0.0, 1.0, 2.0, 3.0, 2.0), np.array([0.0, 1.0, 2.0, 3.0, np.inf])
    targets = recording().targets("y", y, upper)
    transform, _ = transform_of(targets)
    mean, std = transform.mean[0], transform.std[0]
    expected = stats.truncnorm.mean((2 - mean) / std, np.inf, mean, std)
    moved = transform.with_points(targets)
    assert_allclose(moved.points[:, 0], [0, 1, 2, 3, expected])
    assert_array_equal(ends(moved)[0], y)


def test_means_stand_for_what_was_not_observed():
    y = np.array([[1.0, np.nan], [2.0, 5.0], [4.0, 7.0], [3.0, 9.0]])
    targets = recording(outputs=TWO).targets("y", y)
    transform, _ = transform_of(targets)
    assert_allclose(transform.scaling.mean, [2.5, 7.0])
    standard = transform.standardise(targets).numpy()
    assert standard[0, 1] == 0
    assert_array_equal(standard[:, 2:], ~np.isnan(y))


@given(
    arrays(float, 5, elements=st.floats(-30, 30)),
    arrays(float, 5, elements=st.sampled_from([0.1, 1.0, 7.0, np.inf])),
)
def test_means_in_cells_are_those_of_scipy(low, width):
    high = low + width
    mean, log_mass = _truncated(low, high)
    assert_allclose(mean, stats.truncnorm(low, high).mean(), rtol=1e-6, atol=1e-9)
    sign = np.where(low > 0, -1, 1)
    ends = np.sort([sign * low, sign * high], axis=0)
    upper, lower = stats.norm.logcdf(ends[1]), stats.norm.logcdf(ends[0])
    assert_allclose(
        log_mass, upper + np.log(-np.expm1(lower - upper)), rtol=1e-9, atol=1e-15
    )


def test_equal_recordings_are_merged_and_others_are_not():
    y = np.array([[1.0, np.nan], [1.0, np.nan], [1.0, 0.0], [np.nan, 1.0]])
    targets = recording(outputs=TWO).targets("y", y)
    rows = merge_rows(Rows(np.zeros((4, 1)), targets, np.ones(4)))
    assert_array_equal(np.sort(rows.weight), [1, 1, 2])
    upper = np.array([1.0, 2.0, 2.0])
    targets = recording().targets("y", column(1.0, 1.0, 1.0), upper)
    rows = merge_rows(Rows(np.zeros((3, 1)), targets, np.ones(3)))
    assert_array_equal(np.sort(rows.weight), [1, 2])


def test_states_restore_recordings():
    kind = recording([(0, None), None], [0.5, None], TWO)
    again = Recording.from_state(kind.to_state())
    assert again.is_same(kind)
    assert not again.is_same(recording([(0, None), None], None, TWO))


def test_targets_are_selected_by_row():
    targets = recording(None, 1.0).targets("y", column(1.0, 2.0, 3.0))
    part = targets[[2, 0]]
    assert isinstance(part, Targets)
    assert_array_equal(part.points, column(3.0, 1.0))
    assert len(part) == len(part.offset) == 2


def test_wide_components_of_positive_targets_are_bounded():
    """Twice the spread of the logarithms; otherwise, they would determine the mean."""
    logs = RNG.normal(size=(300, 2)) * [0.5, 3.0]
    outputs, both = Outputs((2,)), (0, None)
    first, second = 2 * np.std(logs, axis=0)
    for support, expected in (
        ([both, None], [first, np.inf]),
        ([None, both], [np.inf, second]),
        (both, [first, second]),
        ((0, 1e9), np.inf),
        (None, np.inf),
    ):
        kind = recording(support, outputs=outputs)
        transform, rows = transform_of(kind.targets("y", np.exp(logs)), kind=kind)
        found = transform.largest_scale(rows.y, rows.weight, ALONE)
        assert_allclose(found, np.min(expected / np.abs(transform.scaling.scale)))
