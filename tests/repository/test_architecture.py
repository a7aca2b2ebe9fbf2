"""The architecture: imports follow the layers, and the sizes of things are bounded."""

import ast
import inspect
import re
import sys
import textwrap
from collections import Counter
from graphlib import TopologicalSorter

import pytest
from helpers import PACKAGE, ROOT, package_modules, quick, run_python

import skmdn
from skmdn.nn.head import MixtureHead

# A module or folder may import from those before it, and a module of a folder from
# that folder. All that is not listed is the last layer.
LAYERS = (
    "_version",
    "_utils",
    "distributed",
    "_mixture",
    "_data",
    "nn",
    "_training",
    "_model",
    "_conformal",
    "_held_out",
    "_stored",
    "density",
    "_predicting",
    "_fit",
    "_regressor",
)
MODULES = package_modules()
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}
FOLDERS = ("tests", "benchmarks", "examples")
FILES = {path.relative_to(PACKAGE.parent): path for path in MODULES.values()}
FILES |= {
    path.relative_to(ROOT): path
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*.py"))
}
COMPAT = "_utils.compat"

# Functions of torch that create tensors. Those of the second set fill them with
# floats of the default dtype, if no other is given.
FACTORIES = {
    "arange",
    "as_tensor",
    "asarray",
    "bartlett_window",
    "blackman_window",
    "empty",
    "empty_permuted",
    "empty_strided",
    "eye",
    "full",
    "hamming_window",
    "hann_window",
    "kaiser_window",
    "linspace",
    "logspace",
    "ones",
    "rand",
    "randint",
    "randn",
    "randperm",
    "range",
    "scalar_tensor",
    "tensor",
    "tril_indices",
    "triu_indices",
    "zeros",
}
FLOAT_FACTORIES = {
    "empty",
    "empty_permuted",
    "empty_strided",
    "eye",
    "full",
    "linspace",
    "logspace",
    "ones",
    "rand",
    "randn",
    "scalar_tensor",
    "tensor",
    "zeros",
}


# Calls whose purpose is to find out the default device.
DEFAULT_DEVICE_PROBES = {"torch.empty(0, dtype=torch.float32)"}


# -- imports ---------------------------------------------------------------------


def imports_of(name):
    """Yield the module and the name of every import, in functions too.

    The name is None where the module itself is imported.
    """
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                parts = ["skmdn", *name.split(".")] if name else ["skmdn"]
                is_folder = MODULES[name].name == "__init__.py"
                parts = parts[: len(parts) - node.level + is_folder]
                module = ".".join([*parts, *filter(None, [module])])
            yield from ((module, alias.name) for alias in node.names)


def imported_modules(name):
    """Return the modules of skmdn that a module imports."""
    found = set()
    for module, attribute in imports_of(name):
        root, _, inner = module.partition(".")
        if root == "skmdn":
            deeper = f"{inner}.{attribute}".lstrip(".")
            found.add(deeper if deeper in MODULES else inner)
    return found


def layer_of(name):
    top = name.split(".")[0]
    return LAYERS.index(top) if top in LAYERS else len(LAYERS)


@pytest.mark.parametrize("name", MODULES)
def test_imports_follow_the_layers(name):
    for imported in imported_modules(name):
        assert imported in MODULES, f"there is no skmdn.{imported}"
        assert layer_of(imported) <= layer_of(name), f"{name} imports {imported}"


def test_imports_are_acyclic():
    graph = {name: imported_modules(name) - {name} for name in MODULES}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle


def test_import_loads_no_optional_package():
    code = (
        "import sys, skmdn, skmdn.plot, skmdn.metrics, skmdn.datasets, skmdn.dask;"
        "optional = {'matplotlib', 'FrEIA', 'dask', 'distributed'};"
        "assert not optional & set(sys.modules), optional"
    )
    run_python("-c", code)


def test_installed_package_is_under_test():
    is_editable = "site-packages" not in str(PACKAGE)
    assert is_editable or ROOT not in PACKAGE.parents or ".venv" in str(PACKAGE)


def test_public_modules_declare_sorted_names():
    for name in MODULES:
        if not re.fullmatch(r"[a-z]\w*", name):
            continue
        module = __import__(f"skmdn.{name}", fromlist=["__all__"])
        assert module.__all__ == sorted(module.__all__, key=sort_key), name
        assert all(hasattr(module, public) for public in module.__all__)


def sort_key(name):
    """Constants, then classes, then functions, as ruff sorts."""
    kind = 0 if name.isupper() else 1 if name[0].isupper() else 2
    return kind, name


def is_private(dotted):
    return any(p.startswith("_") and not p.startswith("__") for p in dotted.split("."))


@pytest.mark.parametrize("name", [name for name in MODULES if name != COMPAT])
def test_private_names_of_dependencies_stay_in_compat(name):
    """Releases of scikit-learn and torch may remove them: one module adapts."""
    private, aliases = set(), set()
    for module, attribute in imports_of(name):
        if module.split(".")[0] in ("sklearn", "torch"):
            aliases.add(attribute or module.split(".")[0])
            private |= {d for d in (module, attribute) if d and is_private(d)}
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            base = ast.unparse(node.value)
            if base.split(".")[0] in aliases:
                private.add(f"{base}.{node.attr}")
    assert not private


# -- sizes -----------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES, ids=str)
def test_files_are_short(name):
    assert len(FILES[name].read_text().splitlines()) <= 500


def length_of(function):
    """Return the number of lines of a function without its docstring."""
    docstring = function.body[0] if ast.get_docstring(function) is not None else None
    n_lines = function.end_lineno - function.lineno + 1
    if docstring is not None:
        n_lines -= docstring.end_lineno - docstring.lineno + 1
    return n_lines


def only_keeps_arguments(function):
    """Return whether a constructor does nothing but to keep each of its arguments.

    scikit-learn requires this of estimators, however many parameters they have.
    """
    names = [arg.arg for arg in function.args.args[1:] + function.args.kwonlyargs]
    kept = [f"self.{name} = {name}" for name in names]
    return list(map(ast.unparse, function.body)) == kept


@pytest.mark.parametrize("name", FILES, ids=str)
def test_functions_are_short(name):
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if only_keeps_arguments(node):
                continue
            assert length_of(node) <= 60, node.name


def methods_of(cls):
    """Return the methods that a class and its bases of skmdn define."""
    bases = [base for base in cls.__mro__ if base.__module__.startswith("skmdn")]
    methods = set()
    for base in bases:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        methods |= {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
    return methods


@pytest.mark.parametrize(
    ("cls", "most"), [(skmdn.MDNRegressor, 25), (skmdn.MixtureDensity, 53)]
)
def test_classes_have_few_methods(cls, most):
    assert len(methods_of(cls)) <= most, sorted(methods_of(cls))


def test_the_regressor_imports_few_names():
    names = {
        (module, name)
        for module, name in imports_of("_regressor")
        if module.startswith("skmdn")
    }
    assert len(names) <= 20, sorted(names)


# -- torch -----------------------------------------------------------------------


def is_free_of_default_dtype(call, factory):
    """Tell whether the dtype follows from integers or truth values given."""
    values = {"full": call.args[1:2], "tensor": call.args[:1]}.get(factory, [])
    constants = [n for value in values for n in ast.walk(value)]
    constants = [n for n in constants if not isinstance(n, ast.expr_context)]
    plain = ast.Constant | ast.List | ast.Tuple | ast.UnaryOp | ast.USub
    return bool(constants) and all(
        isinstance(n, plain) and not isinstance(getattr(n, "value", 0), float)
        for n in constants
    )


@pytest.mark.parametrize("name", MODULES)
def test_tensors_are_created_with_device_and_dtype(name):
    """A fit must not depend on torch.set_default_dtype and set_default_device."""
    missing = []
    for node in ast.walk(TREES[name]):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        factory = node.func.attr
        if ast.unparse(node.func) != f"torch.{factory}" or factory not in FACTORIES:
            continue
        given = {keyword.arg for keyword in node.keywords}
        if ast.unparse(node) in DEFAULT_DEVICE_PROBES:
            continue
        if given & {None, "out"}:  # options in a dictionary, or a buffer that has both
            continue
        needed = {"device"}
        if factory in FLOAT_FACTORIES and not is_free_of_default_dtype(node, factory):
            needed.add("dtype")
        if needed - given:
            missing.append(f"line {node.lineno}: {ast.unparse(node)}")
    assert not missing


@pytest.mark.parametrize("name", MODULES)
def test_no_generator_is_decorated_by_a_context(name):
    """A context that decorates a generator is left before its body runs."""
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.FunctionDef):
            decorators = set(map(ast.unparse, node.decorator_list))
            yields = any(
                isinstance(n, ast.Yield | ast.YieldFrom) for n in ast.walk(node)
            )
            assert not (yields and "inference()" in decorators), node.name


def test_a_call_of_fit_reaches_the_head_in_few_frames(monkeypatch):
    """Count the frames of skmdn, `fit` and the head's method included."""
    method = next(
        name
        for name in ("loss_and_gradient", "nll_and_gradient")
        if hasattr(MixtureHead, name)
    )
    original, stacks = getattr(MixtureHead, method), []

    def watched(*args, **kwargs):
        frame, names = sys._getframe(1), [method]
        while frame is not None:
            code = frame.f_code
            is_ours = code.co_filename.startswith(str(PACKAGE))
            # Comprehensions have frames of their own before Python 3.12.
            if is_ours and not code.co_name.startswith("<"):
                names.append(code.co_name)
            frame = frame.f_back
        stacks.append(tuple(names[: names.index("fit") + 1]))
        return original(*args, **kwargs)

    monkeypatch.setattr(MixtureHead, method, watched)
    X = [[float(i)] for i in range(20)]
    quick(max_iter=1).fit(X, [row[0] ** 2 for row in X])
    ((stack, _),) = Counter(stacks).most_common(1)
    assert len(stack) <= 7, stack


# -- tests -----------------------------------------------------------------------


TEST_FILES = sorted((ROOT / "tests").rglob("test_*.py"))


def test_test_modules_have_unique_names():
    counts = Counter(path.name for path in TEST_FILES)
    assert set(counts.values()) == {1}


@pytest.mark.parametrize("path", TEST_FILES, ids=lambda path: path.stem)
def test_no_test_module_imports_another(path):
    modules = {other.stem for other in TEST_FILES} | {"conftest"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported = {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported = {node.module}
        else:
            continue
        assert not imported & modules
