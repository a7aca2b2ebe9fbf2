"""Warnings report the line of the user's call, wherever they arise."""

import warnings

import numpy as np
import pytest
from helpers import needs_callbacks, quick
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmdn import predict_density
from skmdn.callbacks import Checkpoint
from skmdn.datasets import make_inverse_sine

X, Y = make_inverse_sine(60, random_state=0)
TIES = np.repeat([1.0, 2.0, 4.0], 20)


def on_no_device(mdn):
    return mdn.fit(X, Y).set_params(device="cuda:99")


CALLS = {
    "fit: ties": lambda: quick().fit(X, TIES),
    "fit: too few rows": lambda: quick(n_estimators=4).fit(X[:3], Y[:3]),
    "fit: constant rate": lambda: quick(
        learning_rate="constant", early_stopping=False
    ).fit(X, Y),
    "partial_fit: ties": lambda: quick().partial_fit(X, TIES),
    "pipeline": lambda: make_pipeline(StandardScaler(), quick()).fit(X, TIES),
    "cross_val_score": lambda: cross_val_score(
        quick(), np.tile(X, (4, 1)), np.tile(TIES, 4), cv=2
    ),
    "predict": lambda: on_no_device(quick()).predict(X),
    "predict, std": lambda: on_no_device(quick()).predict(X, return_std=True),
    "predict_density": lambda: on_no_device(quick()).predict_density(X),
    "score_samples": lambda: on_no_device(quick()).score_samples(X, Y),
    "entropy": lambda: on_no_device(quick()).score_samples(X),
    "sample": lambda: on_no_device(quick()).sample(X),
    "score": lambda: on_no_device(quick()).score(X, Y),
    "predict_density of a pipeline": lambda: predict_density(
        make_pipeline("passthrough", on_no_device(quick())), X
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_warnings_report_the_line_of_the_caller(name):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        CALLS[name]()
    assert caught
    for warning in caught:
        assert warning.filename == __file__, warning.message
        assert issubclass(warning.category, (UserWarning, ConvergenceWarning))


@needs_callbacks
def test_a_callback_that_warns_reports_the_line_of_the_caller(tmp_path):
    path = tmp_path / "folder" / "fit.npz"
    path.parent.mkdir()

    class Remove(Checkpoint):
        def on_session_begin(self, session, context):
            super().on_session_begin(session, context)
            path.unlink()
            path.parent.rmdir()

    mdn = quick().set_callbacks(Remove(path))
    with pytest.warns(UserWarning, match="No checkpoint could be written") as caught:
        mdn.fit(X, Y)
    assert {warning.filename for warning in caught} == {__file__}


def test_a_warning_without_an_outer_caller_is_issued_all_the_same():
    code = "import joblib, sklearn\nmdn.fit(X, TIES)"
    with pytest.warns(UserWarning, match="3 distinct values"):
        exec(code, {"__name__": "joblib", "mdn": quick(), "X": X, "TIES": TIES})
