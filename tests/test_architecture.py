"""The house stands: imports run down, and optional packages stay outside."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import skmdn

PACKAGE = Path(skmdn.__file__).parent

FLOORS = {
    "_arrays": 0,
    "_backbones": 0,
    "_compat": 0,
    "_roots": 0,
    "_schedule": 0,
    "_threads": 0,
    "_version": 0,
    "distributed": 0,
    "_checks": 1,
    "_mixture": 1,
    "_rows": 1,
    "_table": 1,
    "_calibration": 2,
    "_regions": 2,
    "_start": 2,
    "_head": 3,
    "_covariance": 4,
    "nn": 5,
    "_gradient": 6,
    "_inference": 6,
    "_persistence": 6,
    "_validation": 6,
    "density": 6,
    "_training": 7,
    "datasets": 7,
    "metrics": 7,
    "_regressor": 8,
    "callbacks": 9,
    "dask": 9,
    "export": 9,
    "plot": 9,
    "__init__": 10,
    "__main__": 11,
}


def imported_modules(path):
    """Modules of skmdn that a file imports at its top level or in a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "skmdn":
                names = {alias.name for alias in node.names}
                inner = names & set(FLOORS)
                yield from inner
                if names - inner:
                    yield "__init__"
            elif node.module.startswith("skmdn."):
                yield node.module.split(".")[1]


def test_every_module_has_its_floor():
    assert {path.stem for path in PACKAGE.glob("*.py")} == set(FLOORS)


@pytest.mark.parametrize("name", FLOORS)
def test_imports_run_down(name):
    for imported in imported_modules(PACKAGE / f"{name}.py"):
        assert FLOORS[imported] < FLOORS[name], f"{name} imports {imported}"


def test_import_loads_no_optional_package():
    code = (
        "import sys, skmdn, skmdn.plot, skmdn.metrics, skmdn.datasets, skmdn.dask;"
        "optional = {'matplotlib', 'FrEIA', 'dask', 'distributed'};"
        "assert not optional & set(sys.modules), optional"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_installed_package_is_under_test():
    repository = Path(__file__).resolve().parents[1]
    is_editable = "site-packages" not in str(PACKAGE)
    assert is_editable or repository not in PACKAGE.parents or ".venv" in str(PACKAGE)


def test_public_names_are_declared():
    for path in PACKAGE.glob("*.py"):
        if path.stem in ("__init__", "__main__", "_mixture", "_version"):
            continue
        module = __import__(f"skmdn.{path.stem}", fromlist=["__all__"])
        assert module.__all__ == sorted(module.__all__, key=_case), path.stem
        assert all(hasattr(module, name) for name in module.__all__)


def _case(name):
    """Constants, then classes, then functions, as ruff sorts."""
    kind = 0 if name.isupper() else 1 if name[0].isupper() else 2
    return kind, name
