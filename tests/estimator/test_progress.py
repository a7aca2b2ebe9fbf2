"""What `verbose` prints: epochs, times, what is left, and what was kept."""

import re
from functools import partial

import numpy as np
import pytest
from helpers import quick
from numpy.testing import assert_allclose, assert_array_equal

from skmdn._fit import progress
from skmdn.datasets import make_rotating_gaussians

X, Y = make_rotating_gaussians(60, random_state=0)
NUMBER, TIME = r"(-?\d+\.\d{6})", r"(?:(\d+) h )?(?:(\d+) min ?)?(?:(\d+(?:\.\d)?) s)?"
EPOCH = re.compile(
    rf"Epoch (\d+) of (\d+): loss = {NUMBER}(?:, held-out score = {NUMBER})?, "
    rf"(?P<elapsed>[\w. ]+) elapsed(?:, at most about (?P<left>[\w. ]+) left)?"
)


single = partial(quick, verbose=True, portfolio=None)


def printed(capsys, mdn, **rows):
    """Fit, and return the line of the start, those of epochs and that of the end."""
    mdn.fit(**{"X": X, "y": Y} | rows)
    first, *epochs, last = capsys.readouterr().out.splitlines()
    return first, [EPOCH.fullmatch(line) for line in epochs], last


def seconds(text):
    hours, minutes, rest = (
        float(part or 0) for part in re.fullmatch(TIME, text).groups()
    )
    return 3600 * hours + 60 * minutes + rest


@pytest.fixture
def clock(monkeypatch):
    """Replace the clock by one whose readings are 2 seconds apart, from 100 on."""
    readings = iter(range(100, 100_000, 2))
    monkeypatch.setattr(progress, "perf_counter", lambda: float(next(readings)))


def test_lines_have_the_values_of_the_fit(capsys):
    mdn = single(max_iter=6, n_iter_no_change=6)
    first, epochs, last = printed(capsys, mdn)
    assert first == (
        f"Fit of 60 rows and {X.shape[1]} features by 4 networks; kinds: periodic_0.3"
    )
    assert [int(line[1]) for line in epochs] == [1, 2, 3, 4, 5, 6]
    assert {line[2] for line in epochs} == {"6"}
    assert_allclose([float(line[3]) for line in epochs], mdn.loss_curve_, atol=1e-6)
    scores = [float(line[4]) for line in epochs]
    assert_allclose(scores, mdn.validation_scores_, atol=1e-6)
    elapsed = [seconds(line["elapsed"]) for line in epochs]
    assert elapsed == sorted(elapsed)
    assert [line["left"] is None for line in epochs] == [False] * 5 + [True]
    kept, score, total = re.fullmatch(
        rf"Kept: (.*); out-of-fold score = {NUMBER}; ([\w. ]+) in total", last
    ).groups()
    assert kept == "periodic_0.3 (weight 1.00)"
    assert_allclose(float(score), mdn.oof_score_, atol=1e-6)
    assert seconds(total) >= elapsed[-1]


def test_what_is_left_is_estimated_from_recent_epochs(capsys, clock):
    mdn = single(max_iter=8, n_iter_no_change=8)
    _, epochs, last = printed(capsys, mdn)
    # The clock is read at the start of the fit, of the first epoch, and at each end.
    assert [seconds(line["elapsed"]) for line in epochs] == [*range(4, 20, 2)]
    assert [seconds(line["left"]) for line in epochs[:-1]] == [*range(14, 0, -2)]
    assert last.endswith("; 20.0 s in total")


def test_old_epochs_are_forgotten(capsys, monkeypatch):
    slow = [0.0, 0.0, *np.cumsum([100.0] * 4)]
    readings = iter([*slow, *(400.0 + np.arange(1, 20))])
    monkeypatch.setattr(progress, "perf_counter", lambda: next(readings))
    mdn = single(max_iter=12, n_iter_no_change=12)
    _, epochs, _ = printed(capsys, mdn)
    assert [seconds(line["left"]) for line in epochs[:4]] == [1100, 1000, 900, 800]
    assert [seconds(line["left"]) for line in epochs[8:11]] == [3, 2, 1]


def test_after_a_choice_epochs_are_measured_anew(capsys, monkeypatch):
    kinds = ["periodic_1", "linear", "bins"]
    mdn = quick(portfolio=kinds, n_estimators=16, max_iter=40, verbose=True)
    choose, ticks = progress.Progress.report_choice, [0.0, 50.0]

    def faster(self, report):
        ticks[1] = 1.0 if report else ticks[1]
        choose(self, report)

    def tick():
        ticks[0] += ticks[1]
        return ticks[0]

    monkeypatch.setattr(progress, "perf_counter", tick)
    monkeypatch.setattr(progress.Progress, "report_choice", faster)
    mdn.fit(X, Y)
    first, *lines, _ = capsys.readouterr().out.splitlines()
    assert first.endswith("; kinds that compete: " + ", ".join(kinds))
    choices = [i for i, x in enumerate(lines) if x.startswith("Networks that go on: ")]
    before, after = (EPOCH.fullmatch(lines[choices[-1] + step]) for step in (-1, 1))
    assert seconds(before["left"]) == (40 - int(before[1])) * 50
    assert seconds(after["left"]) == 40 - int(after[1])


@pytest.mark.parametrize(
    ("options", "rows", "score"),
    [
        ({"early_stopping": False}, {}, None),
        ({}, {"X_val": X[:9], "y_val": Y[:9]}, "best_validation_score_"),
        ({"n_estimators": 2}, {}, "best_validation_score_"),
    ],
)
def test_the_score_at_the_end_is_of_what_was_held_out(options, rows, score, capsys):
    mdn = quick(verbose=1, max_iter=3, **options)
    _, epochs, last = printed(capsys, mdn, **rows)
    assert all((line[4] is None) == (score is None) for line in epochs)
    found = re.search(f"; held-out score = {NUMBER};", last)
    assert (found is None) == (score is None)
    if found:
        assert_allclose(float(found[1]), getattr(mdn, score), atol=1e-6)


def test_a_continued_fit_names_its_kinds(capsys):
    mdn = quick(max_iter=3, portfolio=["linear"], warm_start=True).fit(X, Y)
    first, _, _ = printed(capsys, mdn.set_params(verbose=True))
    assert first.endswith("4 networks; kinds: linear")


def test_a_pass_has_a_line_without_an_end(capsys):
    mdn = quick(verbose=True).partial_fit(X, Y).partial_fit(X, Y)
    first, second = capsys.readouterr().out.splitlines()
    for number, line in enumerate((first, second)):
        found = re.fullmatch(
            rf"Pass {number + 1}: loss = {NUMBER}, ([\w. ]+) elapsed", line
        )
        assert_allclose(float(found[1]), mdn.loss_curve_[number], atol=1e-6)


@pytest.mark.parametrize("verbose", [False, 0, np.False_])
def test_nothing_is_printed_by_default(verbose, capfd):
    quick(max_iter=2, verbose=verbose).fit(X, Y).partial_fit(X, Y)
    quick(max_iter=2).fit(X, Y)
    assert capfd.readouterr() == ("", "")


def test_larger_numbers_print_the_same(capsys):
    lines, fits = [], []
    for verbose in (True, 1, 2, 10):
        mdn = quick(max_iter=3, verbose=verbose)
        first, epochs, last = printed(capsys, mdn)
        fits.append(mdn)
        lines.append([first, *(line.groups()[:4] for line in epochs), last[:60]])
    assert all(each == lines[0] for each in lines)
    for mdn in [*fits[1:], quick(max_iter=3).fit(X, Y)]:
        assert_array_equal(mdn.predict(X), fits[0].predict(X))


@pytest.mark.parametrize("verbose", [-1, 0.5, "yes"])
def test_other_values_are_refused(verbose):
    with pytest.raises(ValueError, match="'verbose' parameter"):
        quick(verbose=verbose).fit(X, Y)


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (0.04, "0.0 s"),
        (59.94, "59.9 s"),
        (60, "1 min 0 s"),
        (119.7, "2 min 0 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 0 min"),
        (90_000, "25 h 0 min"),
    ],
)
def test_durations_have_two_units(duration, text):
    assert progress._duration(duration) == text
