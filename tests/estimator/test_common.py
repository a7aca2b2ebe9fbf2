"""scikit-learn's own checks: all of them, with no expected failure."""

import itertools
import warnings

import pytest
from sklearn.exceptions import SkipTestWarning
from sklearn.utils.estimator_checks import (
    check_estimator,
    check_param_validation,
    parametrize_with_checks,
)

from skmdn import MDNRegressor
from skmdn.nn.covariance import COVARIANCE_TYPES

MATRIX = [
    MDNRegressor(2, covariance_type=kind, n_estimators=n_estimators, max_iter=5)
    for kind, n_estimators in itertools.product(COVARIANCE_TYPES, (1, 3))
]


@pytest.fixture(autouse=True)
def global_state_is_untouched():
    """Replace the guard: scikit-learn's checks use NumPy's global generator."""


# The checks also fit four rows, too few for the folds of eight networks.
few_rows = pytest.mark.filterwarnings(
    "ignore:.*distinct rows are too few to hold any out:UserWarning"
)


# They fit class labels, too.
few_values = pytest.mark.filterwarnings("ignore:y has only .* distinct:UserWarning")


@few_values
@parametrize_with_checks(MATRIX)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.full
@few_rows
@few_values
@parametrize_with_checks([MDNRegressor()])
def test_scikit_learn_checks_of_the_defaults(estimator, check):
    check(estimator)


@few_values
def test_no_check_is_skipped_or_expected_to_fail():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkipTestWarning)
        results = check_estimator(MATRIX[0], on_skip=None, on_fail=None)
    assert {r["status"] for r in results} == {"passed"}
    names = {r["check_name"] for r in results}
    assert "check_sample_weight_equivalence_on_dense_data" in names


def test_only_tag_set_to_avoid_a_check_is_poor_score():
    tags = MDNRegressor().__sklearn_tags__()
    assert tags.regressor_tags.poor_score
    assert not tags.non_deterministic
    assert not tags.no_validation
    assert not tags._skip_test


def test_every_parameter_is_validated():
    check_param_validation("MDNRegressor", MDNRegressor(max_iter=1))
