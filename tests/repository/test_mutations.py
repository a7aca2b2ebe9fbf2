"""Each mutation applies; `python tests/repository/mutations.py` runs them."""

import ast

import pytest
from mutations import MUTATIONS, mutate


@pytest.mark.parametrize("name", MUTATIONS)
def test_each_mutation_changes_one_place(name):
    path, code = mutate(MUTATIONS[name])
    assert code != ast.unparse(ast.parse(path.read_text(encoding="utf-8")))
    compile(code, path, "exec")
