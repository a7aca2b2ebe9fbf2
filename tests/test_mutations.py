"""The list of mutations fits the code: `python tests/mutations.py` runs it."""

import pytest
from mutations import MUTATIONS, PACKAGE


@pytest.mark.parametrize("name", MUTATIONS)
def test_each_mutation_changes_one_place(name):
    module, right, wrong = MUTATIONS[name]
    source = (PACKAGE / f"{module}.py").read_text()
    assert source.count(right) == 1
    assert right != wrong
