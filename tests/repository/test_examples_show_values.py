"""Examples of the documentation end in values, not in True, False or a shape."""

import ast
import doctest
import re

import pytest
from helpers import PACKAGE, ROOT

if not (ROOT / "docs").is_dir():
    pytest.skip("needs the repository", allow_module_level=True)

DOCS = sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("docs/tasks/*.md")])
PAGES = [ROOT / "README.md", *DOCS]
MODULES = sorted(PACKAGE.rglob("*.py"))
doctest.register_optionflag("NUMBER")  # pytest's: compare the digits shown


def texts(path):
    """Text of a page, or each docstring of a module."""
    if path.suffix == ".md":
        return [path.read_text()]
    nodes = ast.walk(ast.parse(path.read_text()))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [ast.get_docstring(node) for node in nodes if isinstance(node, documented)]
    return [text for text in found if text]


def examples_without_values(text):
    """Sources of the examples that print only a truth value, or a shape."""
    for example in doctest.DocTestParser().get_examples(text):
        if not example.options.get(doctest.SKIP):
            printed = example.want.split()
            booleans = bool(printed) and set(printed) <= {"True", "False"}
            shape = re.search(r"\.shape\b(?!\[)", example.source)
            if booleans or (shape and re.match(r"\(|torch\.Size", example.want)):
                yield example.source


def name_of(path):
    return str(path.relative_to(ROOT if path.suffix == ".md" else PACKAGE))


@pytest.mark.parametrize("path", PAGES + MODULES, ids=name_of)
def test_examples_show_values(path):
    assert [x for text in texts(path) for x in examples_without_values(text)] == []


@pytest.mark.parametrize(
    ("text", "n_found"),
    [
        (">>> 1 < 2\nTrue\n", 1),
        (">>> for x in (1, 2):\n...     print(x < 2)\nTrue\nFalse\n", 1),
        (">>> y.shape  # rows\n(3,)\n", 1),
        (">>> x.shape, y.shape\n((3, 2), (3,))\n", 1),
        (">>> z.shape\ntorch.Size([3])\n", 1),
        (">>> 1 < 2  # doctest: +SKIP\nTrue\n", 0),
        (">>> np.isfinite([1.0])\narray([ True])\n", 0),
        (">>> y.shape[0]\n3\n", 0),
        (">>> X = X.reshape(y.shape)\n", 0),
        (">>> round(0.51, 1)\n0.5\n", 0),
    ],
)
def test_examples_without_values_are_found(text, n_found):
    assert len(list(examples_without_values(text))) == n_found
