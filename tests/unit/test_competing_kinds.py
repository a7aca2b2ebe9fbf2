"""Kinds that compete in a fit, by its parameters and the size of its table."""

import pytest
from helpers import WITHOUT_VIEWS

from skmdn._training.kinds import AUTO_KINDS, competing_kinds

SINGLE = {"portfolio": "auto", "embedding": "auto", "network": None}


def names_of(can_choose=True, can_view=True, n_rows=1000, n_features=3, **params):
    options = {"can_choose": can_choose, "can_view": can_view}
    return [*competing_kinds(SINGLE | params, n_rows, n_features, **options)]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"n_rows": 2000}, AUTO_KINDS),
        ({"n_rows": 1999}, [n for n in AUTO_KINDS if n != "nearest_0.1"]),
        ({"embedding": "bins"}, ["bins"]),
        ({"embedding": None}, ["plain"]),
        ({"portfolio": None}, ["periodic_0.3"]),
        ({"portfolio": None, "embedding": None}, ["plain"]),
        ({"portfolio": ("plain", "linear")}, ["plain", "linear"]),
        ({"portfolio": ("plain", "linear"), "embedding": None}, ["plain"]),
        (
            {"n_features": 2000},
            [n for n in WITHOUT_VIEWS if n != "linear"],
        ),
        ({"n_rows": 499}, WITHOUT_VIEWS),
        ({"n_features": 101}, WITHOUT_VIEWS),
        ({"can_view": False}, WITHOUT_VIEWS),
        ({"n_rows": 30, "portfolio": ["nearest_0.1"]}, ["nearest_0.1"]),
        ({"can_choose": False, "portfolio": ["kriging_1", "bins"]}, ["kriging_1"]),
        ({"can_choose": False}, ["periodic_0.3"]),
        ({"can_choose": False, "embedding": "bins"}, ["bins"]),
        # What was asked for by name is not replaced by something else.
        ({"can_choose": False, "portfolio": ["bins"]}, ["bins"]),
        ({"can_choose": False, "portfolio": ["linear", "bins"]}, ["linear"]),
    ],
)
def test_kinds_are_those_that_parameters_allow(params, expected):
    assert names_of(**params) == list(expected)


def test_an_embedding_of_none_of_the_kinds_is_refused():
    with pytest.raises(ValueError, match=r"has embedding=None. Set embedding='auto'"):
        names_of(portfolio=("bins", "linear"), embedding=None)
