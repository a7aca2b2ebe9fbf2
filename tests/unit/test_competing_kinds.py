"""Kinds that compete in a fit: which ones, and how those with views share networks."""

import numpy as np
import pytest
from helpers import WITHOUT_VIEWS, session_of

from skmdn._data.views import VIEWS
from skmdn._fit.pooling import KindWeights
from skmdn._training.kinds import (
    AUTO_KINDS,
    FEWEST_ROWS_OF_VIEWS,
    KINDS,
    competing_kinds,
)

SINGLE = {"portfolio": "auto", "embedding": "auto", "network": None}


def names_of(
    can_choose=True, can_view=True, n_rows=1000, n_features=3, n_members=16, **params
):
    options = {"can_choose": can_choose, "can_view": can_view}
    sizes = n_rows, n_features, n_members
    return [*competing_kinds(SINGLE | params, *sizes, **options)]


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
        ({"n_members": 15}, WITHOUT_VIEWS),
        ({"can_view": False}, WITHOUT_VIEWS),
        ({"n_rows": 30, "portfolio": ["nearest_0.1"]}, ["nearest_0.1"]),
        ({"n_members": 1, "portfolio": ["nearest_0.1"]}, ["nearest_0.1"]),
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


# -- shares of the networks ----------------------------------------------------

WITH_VIEWS = (
    "periodic_0.3",
    "periodic_1",
    "bins",
    "kriging_0.1",
    "kriging_1",
    "views_1",
)


@pytest.mark.parametrize(
    ("chosen", "without", "expected"),
    [
        # Views gain nothing.
        ((0.6, 0.4, 0, 0, 0, 0), None, {"periodic_0.3": 8, "periodic_1": 8}),
        ((1, 0, 0, 0, 0, 0), None, {"periodic_0.3": 8, "periodic_1": 8}),
        # They have all of the weight, and leave half of the networks to the kind that
        # would be best without them.
        ((0, 0, 0, 0, 0.4, 0.6), (0.1, 0.3, 0.6, 0, 0, 0), {"bins": 8, "views_1": 8}),
        (
            (0, 0.2, 0, 0.5, 0, 0.3),
            (0.6, 0, 0.4, 0, 0, 0),
            {"periodic_0.3": 8, "kriging_0.1": 8},
        ),
    ],
)
def test_views_and_other_kinds_share_the_networks(chosen, without, expected):
    session = session_of(portfolio=WITH_VIEWS, n_estimators=16)
    portfolio = session.portfolio
    chosen = np.array(chosen, dtype=float)
    without = chosen if without is None else np.array(without)
    weights = dict(
        zip(WITH_VIEWS, zip(chosen, chosen, without, strict=True), strict=True)
    )
    portfolio._weights = lambda: KindWeights(
        *np.transpose([weights[item.kind] for item in portfolio.contenders])
    )
    portfolio._ranked_weights = lambda w: w + 1e-9 * np.arange(len(w), 0, -1)
    while not portfolio.is_narrow:
        session.step()
    sizes = {item.kind: item.n_members for item in portfolio.contenders}
    assert sizes == expected


def test_kinds_with_views_alone_share_the_networks():
    portfolio = ("kriging_0.1", "views_1", "trees_0.1")
    session = session_of(portfolio=portfolio, n_estimators=16)
    session.portfolio._weights = lambda: KindWeights(*[np.array([0.2, 0.3, 0.5])] * 3)
    session.portfolio.narrow()
    sizes = [item.n_members for item in session.portfolio.contenders]
    assert sizes == [8, 8]


def test_every_group_of_columns_has_a_fewest_number_of_rows():
    assert FEWEST_ROWS_OF_VIEWS.keys() == VIEWS.keys()
    assert {group for kind in KINDS.values() for group in kind.views} == VIEWS.keys()


def test_halving_counts_kinds_with_views_separately():
    """All of them are ahead, and one goes on after the choice."""
    session = session_of(portfolio=WITH_VIEWS, n_estimators=8)
    portfolio = session.portfolio
    chosen, without = (0, 0, 0, 0.2, 0.5, 0.3), (0.1, 0.3, 0.6, 0, 0, 0)
    weights = dict(
        zip(WITH_VIEWS, zip(chosen, chosen, without, strict=True), strict=True)
    )
    portfolio._weights = lambda: KindWeights(
        *np.transpose([weights[item.kind] for item in portfolio.contenders])
    )
    portfolio.halve()
    kept = {item.kind for item in portfolio.contenders}
    assert kept == {"periodic_1", "bins", "kriging_1", "views_1"}
