"""Fixtures of processes and of the command that several test modules share."""

import functools

import pytest
from command_runs import SMALL, make_table
from helpers import RankPair


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """Two ranks; tests that use them are in the group "ranks" of pytest-xdist."""
    pair = RankPair(tmp_path_factory.mktemp("pair"))
    yield pair
    pair.close()


@pytest.fixture
def small_networks(monkeypatch, tmp_path):
    """Let the command fit small networks in a folder of their own."""
    import skmdn
    from skmdn._command import evaluation

    quick = functools.partial(skmdn.MDNRegressor, 2, **SMALL)
    monkeypatch.setattr(evaluation, "MDNRegressor", quick)
    monkeypatch.setattr(skmdn, "MDNRegressor", quick)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def table(small_networks):
    """Return the path of the frame in a file."""
    make_table().to_csv("table.csv", index=False)
    return "table.csv"
