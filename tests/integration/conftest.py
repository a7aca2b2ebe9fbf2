"""Fixtures of processes that several test modules share."""

import pytest
from helpers import RankPair


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """Two ranks; tests that use them are in the group "ranks" of pytest-xdist."""
    pair = RankPair(tmp_path_factory.mktemp("pair"))
    yield pair
    pair.close()
