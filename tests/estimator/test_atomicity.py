"""A fit that fails leaves the estimator as it was: fitted as before, or not fitted."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from helpers import HAS_CALLBACKS, needs_callbacks, quick
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from skmdn._fit import building, pooling
from skmdn._fit import prepare as prepare_module
from skmdn._fit import session as session_module
from skmdn._fit.portfolio import Portfolio
from skmdn._held_out import HeldOut
from skmdn._training.loop import TrainingLoop
from skmdn._training.stack import Contender
from skmdn.callbacks import Checkpoint
from skmdn.datasets import make_inverse_sine, make_rotating_gaussians

# Two outputs of a feature, then one output of two features in another unit: whatever
# is left of the second fit changes the predictions of the first.
X, Y = make_rotating_gaussians(60, random_state=0)
X_OTHER, Y_OTHER = make_inverse_sine(60, random_state=1)
X_OTHER, Y_OTHER = 1e3 * np.column_stack([X_OTHER, X_OTHER**2]), 1e4 * Y_OTHER


class BrokenError(Exception):
    pass


def breaks(*args, **kwargs):
    raise BrokenError


def interrupts(*args, **kwargs):
    raise KeyboardInterrupt


class BreakingModule(torch.nn.Linear):
    """Module that fails while it trains."""

    def forward(self, rows):
        if self.training:
            raise BrokenError
        return super().forward(rows)


def breaking_module(n_features):
    return BreakingModule(n_features, 4)


class BreakingCallback:
    """Callback that fails at a hook of a task."""

    def __init__(self, hook, task="epoch"):
        self.where = hook, task

    def setup(self, estimator, context):
        self._reach("setup", context)

    def teardown(self, estimator, context):
        self._reach("teardown", context)

    def on_fit_task_begin(self, estimator, context):
        self._reach("begin", context)

    def on_fit_task_end(self, estimator, context):
        self._reach("end", context)

    def on_session_begin(self, session, context):
        self._reach("session", context)

    def _reach(self, hook, context):
        if (hook, context.task_name) == self.where:
            raise BrokenError


# Parameters, rows or callbacks with which a fit fails.
BAD_INPUT = {
    "no such device": {"device": "cuda:99"},
    "not a device": {"device": "gpu"},
    "an unknown parameter value": {"covariance_type": "round"},
    "a warm-up as long as the fit": {"warmup_iter": 99},
    "a network that cannot be built": {"network": breaks},
    "a network that fails while it trains": {"network": breaking_module},
    "NaN in y": {"y": np.where(Y_OTHER > 0, np.nan, Y_OTHER)},
    "text in X": {"X": X_OTHER.astype(str).astype(object) + np.array("a", object)},
    "y of another length": {"y": Y_OTHER[:-1]},
    "y that spreads too far": {"y": np.where(np.arange(60) < 30, 1e200, Y_OTHER)},
    "negative weights": {"sample_weight": -np.ones(60)},
    "validation rows of another kind": {"X_val": X[:9], "y_val": Y[:9]},
    "half of the validation rows": {"X_val": X_OTHER[:9]},
    "a warning that is an error": {"y": np.repeat([1.0, 2.0, 4.0], 20)},
}
# Functions that fail within a fit, for lack of memory, say.
STAGES = {
    "merging": (prepare_module, "merge_rows"),
    "scaling": (prepare_module.FeatureTransform, "fit"),
    "folds": (session_module, "hold_out"),
    "initialization": (building, "unconditional_mixtures"),
    "linear models": (building.LinearModels, "fit"),
    "standardised rows": (building.ScaledRows, "of"),
    "first score": (Contender, "score"),
    "an epoch": (TrainingLoop, "run_epoch"),
    "choice": (Portfolio, "narrow"),
    "calibration": (pooling, "calibrate"),
    "out-of-fold scores": (HeldOut, "log_prob"),
    "publishing": (session_module.FitResult, "attributes"),
}
CALLBACKS = {
    "setup": lambda path: BreakingCallback("setup", "fit"),
    "begin of the fit": lambda path: BreakingCallback("begin", "fit"),
    "begin of the session": lambda path: BreakingCallback("session", "fit"),
    "begin of an epoch": lambda path: BreakingCallback("begin"),
    "end of an epoch": lambda path: BreakingCallback("end"),
    "end of the fit": lambda path: BreakingCallback("end", "fit"),
    "a checkpoint that cannot be written": lambda path: Checkpoint(path / "no" / "x"),
}


def fit_other(mdn, method="fit", **changes):
    rows = {"X": X_OTHER, "y": Y_OTHER}
    parameters = mdn.get_params()
    rows |= {k: v for k, v in changes.items() if k not in parameters}
    mdn.set_params(**{k: v for k, v in changes.items() if k in parameters})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        getattr(mdn, method)(**rows)


def assert_failure_changes_nothing(fail):
    """Let a first fit fail, and one after a successful fit."""
    blank = quick(n_estimators=4, max_iter=5)
    before = sorted(vars(blank))
    fail(blank)
    assert sorted(vars(blank)) == before
    for check in (check_is_fitted, lambda mdn: mdn.predict(X)):
        with pytest.raises(NotFittedError):
            check(blank)
    with pytest.raises(NotFittedError):
        pickle.loads(pickle.dumps(blank)).predict_density(X)
    mdn = quick(n_estimators=4, max_iter=5).fit(X, Y)
    twin, state = clone(mdn).fit(X, Y), fitted_state(mdn)
    fail(mdn)
    mdn.set_params(**twin.get_params())
    assert sorted(fitted_state(mdn)) == sorted(state)
    for name, value in fitted_state(mdn).items():
        assert value is state[name], name
    for restored in (mdn, pickle.loads(pickle.dumps(mdn))):
        assert_array_equal(restored.predict(X), twin.predict(X))
        assert_array_equal(restored.score_samples(X, Y), twin.score_samples(X, Y))
    # The next fit is as if nothing had happened.
    assert_array_equal(mdn.fit(X, Y).predict(X), twin.predict(X))


def fitted_state(mdn):
    return {k: v for k, v in vars(mdn).items() if k not in mdn.get_params()}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_changes_nothing(name):
    def fail(mdn):
        with pytest.raises((ValueError, TypeError, BrokenError, UserWarning)):
            fit_other(mdn, **BAD_INPUT[name])

    assert_failure_changes_nothing(fail)


@pytest.mark.parametrize("error", [breaks, interrupts], ids=["error", "Ctrl-C"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_failure_at_any_stage_changes_nothing(stage, error, monkeypatch):
    owner, name = STAGES[stage]

    def fail(mdn):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, error)
            with pytest.raises((BrokenError, KeyboardInterrupt)):
                fit_other(mdn)

    assert_failure_changes_nothing(fail)


@pytest.mark.parametrize("stage", ["merging", "an epoch", "publishing"])
def test_a_failed_partial_fit_changes_nothing(stage, monkeypatch):
    owner, name = STAGES[stage]
    mdn = quick().partial_fit(X, Y)
    state, expected = fitted_state(mdn), mdn.predict(X)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, breaks)
        with pytest.raises(BrokenError):
            mdn.partial_fit(X, 2 * Y)
    assert fitted_state(mdn).keys() == state.keys()
    assert all(value is state[k] for k, value in fitted_state(mdn).items())
    assert_array_equal(mdn.predict(X), expected)
    with pytest.raises(ValueError, match="features"):
        mdn.partial_fit(X_OTHER, Y)
    assert_array_equal(mdn.predict(X), expected)


@needs_callbacks
@pytest.mark.parametrize("name", CALLBACKS if HAS_CALLBACKS else [])
def test_a_callback_that_fails_changes_nothing(name, tmp_path):
    def fail(mdn):
        mdn.set_callbacks(CALLBACKS[name](tmp_path))
        with pytest.raises((BrokenError, OSError)):
            fit_other(mdn)
        mdn.set_callbacks()

    assert_failure_changes_nothing(fail)


def test_networks_of_another_kind_are_not_continued():
    mdn = quick(warm_start=True).fit(X, Y)
    expected = mdn.predict(X)
    with pytest.raises(ValueError, match="X has 2 features"):
        fit_other(mdn)
    assert_array_equal(mdn.predict(X), expected)


# -- Ctrl-C --------------------------------------------------------------------------


def interrupted_after(n_epochs, monkeypatch):
    step = session_module.FitSession.step

    def interrupted(session):
        if session.n_epochs == n_epochs:
            raise KeyboardInterrupt
        step(session)

    monkeypatch.setattr(session_module.FitSession, "step", interrupted)


@pytest.mark.parametrize("options", [{}, {"early_stopping": False}])
def test_ctrl_c_keeps_the_best_weights_and_is_raised(options, monkeypatch):
    stopped = quick(n_estimators=4, max_iter=9, **options)
    interrupted_after(5, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(X, Y)
    assert stopped.n_iter_ == 5
    monkeypatch.undo()
    whole = clone(stopped).set_params(n_iter_no_change=9).fit(X, Y)
    assert_array_equal(stopped.loss_curve_, whole.loss_curve_[:5])
    assert np.isfinite(stopped.score(X, Y))
    assert hasattr(stopped, "oof_score_") == (not options)


def test_ctrl_c_before_the_first_epoch_changes_nothing(monkeypatch):
    interrupted_after(0, monkeypatch)
    mdn = quick()
    with pytest.raises(KeyboardInterrupt):
        mdn.fit(X, Y)
    with pytest.raises(NotFittedError):
        mdn.predict(X)


def test_ctrl_c_ends_a_search(monkeypatch):
    from sklearn.model_selection import GridSearchCV

    interrupted_after(2, monkeypatch)
    search = GridSearchCV(quick(max_iter=5), {"alpha": [0.0, 0.1]}, error_score=0.0)
    with pytest.raises(KeyboardInterrupt):
        search.fit(X, Y)
    assert not hasattr(search, "cv_results_")
