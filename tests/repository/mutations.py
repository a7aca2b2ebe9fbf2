"""Break formulas one at a time, and check that a test fails.

    python tests/repository/mutations.py
    python tests/repository/mutations.py --only sign,bound

Each mutant is a copy of the installed package in which one expression of one function
is replaced. It is put in front of the path of a run of the tests, which stops at its
first failure.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import skmdn

PACKAGE, TESTS = Path(skmdn.__file__).parent, Path(__file__).parents[1]
# The fastest tests of formulas run first.
FIRST = (
    "unit/test_mixture.py",
    "unit/test_density.py",
    "unit/test_quantiles.py",
    "unit/test_metrics.py",
    "unit/test_gradient.py",
    "unit/test_nn.py",
    "unit/test_optimizer.py",
    "unit/test_rows.py",
    "unit/test_training.py",
    "unit/test_calibration.py",
    "estimator/test_folds.py",
    "integration/test_distributed.py",
    "integration/test_distributed_failures.py",
    "estimator/test_regressor.py",
)
# The long tests count too, except those of the repository and of the examples.
EVERYTHING = [
    "-m",
    "full or not full",
    f"--ignore={TESTS / 'repository'}",
    f"--ignore={TESTS / 'integration' / 'test_examples.py'}",
]


class Mutation(NamedTuple):
    """Replace the only match of a pattern in a function.

    Parameters
    ----------
    function : str
        Qualified name, or the end of one, that is unique in the package. Where it is
        not, a folder or module in front restricts the search: ``_mixture:crps``.
    pattern, replacement : str
        Python code. ``_1``, ``_2``, ... match any expression, and equal ones where
        they are repeated.
    """

    function: str
    pattern: str
    replacement: str


MUTATIONS = {
    "log-determinant left out of the density": Mutation(
        "component_log_prob", "log_det(_1) - _2", "-_2"
    ),
    "normaliser with the number of components": Mutation(
        "PointTerms.log_density",
        "_1.logsumexp(1) - 0.5 * _2 * _3",
        "_1.logsumexp(1) - 0.5 * _1.shape[1] * _3",
    ),
    "log-determinant doubled while training": Mutation(
        "CholeskyHead.whiten", "_1.log().sum(2)", "2 * _1.log().sum(2)"
    ),
    "sign of the bound's constant": Mutation(
        "nn:_bound", "-math.log(_1) - _2", "math.log(_1) - _2"
    ),
    "between-component covariance left out": Mutation(
        "_mixture:cov", "_1 + between", "_1"
    ),
    "between-network variance left out": Mutation(
        "NetworkPool.moments", "_1.add_((_2 - _3).square_())", "_1"
    ),
    "Jacobian of the scaling with the wrong sign": Mutation(
        "TargetTransform.offset", "_1.offset - _2.sum()", "_1.offset + _2.sum()"
    ),
    "rows instead of columns of U rescaled": Mutation(
        "_mixture:rescale", "_1.sign()[:, None] * _1", "_1.sign() * _1[:, None]"
    ),
    "weights of training rows dropped": Mutation(
        "ListedRows.for_training", "_1.weight[_2] * _3", "1.0 * _3"
    ),
    "weights of held-out rows dropped": Mutation(
        "ListedRows.for_scoring", "_1.weight[_2] * _3", "1.0 * _3"
    ),
    "weights of equal rows not added": Mutation(
        "merge_rows",
        "np.bincount(_1, weights=_2)",
        "np.bincount(_1, weights=np.ones(len(_1)))",
    ),
    "pool not divided by its number": Mutation(
        "Pooling.pool", "_1 + self.log_weights[:, None].to(_1)", "_1"
    ),
    "softmax over the wrong axis": Mutation(
        "MixtureHead.terms", "_1.log_softmax(1)", "_1.log_softmax(0)"
    ),
    "condition keeps the weights": Mutation(
        "_mixture:condition", "log_responsibilities(_1, _2)", "mixture.log_weights"
    ),
    "condition shifts the wrong way": Mutation(
        "_mixture:condition", "unwhiten(_1, _2, -_3)", "unwhiten(_1, _2, _3)"
    ),
    "half of the CRPS's second term": Mutation(
        "_mixture:crps", "_1 - _2(_3, _4, _5) / 2", "_1 - _2(_3, _4, _5) / 4"
    ),
    "sharpness once instead of twice": Mutation(
        "PointTerms.sharpen", "math.exp(2 * _1)", "math.exp(_1)"
    ),
    "second moment of missing outputs left out": Mutation(
        "CholeskyHead.differentiate", "_1.square() + _2.square().sum(3)", "_1.square()"
    ),
    "predictions of missing outputs not updated": Mutation(
        "Marginal.of", "filled - _1 * _2", "filled"
    ),
    "spread in cells left out of the calibration": Mutation(
        "CellTerms.sharpen", "_1.spread - 2 * _2", "-2 * _2"
    ),
    "width of cells by their ends": Mutation(
        "_mixture:truncate", "above - below", "high - low"
    ),
    "gradient of the logits turned round": Mutation(
        "MixtureHead.loss_and_gradient",
        "torch.sub(_1, _2, out=_3)",
        "torch.sub(_2, _1, out=_3)",
    ),
    "floor ignored by the gradient": Mutation(
        "MixtureHead.loss_and_gradient", "_1.mul_(_2.div_(_3))", "_1"
    ),
    "clipping over members instead of within": Mutation(
        "clip_",
        "torch.linalg.vector_norm(_1, dim=1, keepdim=True)",
        "torch.linalg.vector_norm(_1, dim=0, keepdim=True)",
    ),
    "decay that grows": Mutation("decay_", "_1.mul_(1 - _2)", "_1.mul_(1 + _2)"),
    "order of the outputs not undone": Mutation(
        "MixtureHead.restored", "_1.argsort()", "_1"
    ),
    "rows train the networks that hold them out": Mutation("hold_out", "~_1", "_1"),
    "relative instead of absolute progress": Mutation(
        "EarlyStopping.update", "score > _1 + tol", "score > _1 * (1 + tol)"
    ),
    "entropy without that of the components": Mutation(
        "_mixture:entropy", "_1 + torch.special.entr(_2)", "_1"
    ),
    "samples with the factor for its inverse": Mutation(
        "_mixture:unwhiten", "_1 + _2 / _3[..., 0]", "_1 + _2 * _3[..., 0]"
    ),
    "skewness not undone": Mutation(
        "TargetTransform.offset", "np.log(np.abs(_1))", "np.log(_1)"
    ),
    "checkpoint without the calibration": Mutation(
        "Stack.load", "item.calibration = _1", "pass"
    ),
    "checkpoint without the cost of training": Mutation(
        "Stack.load", "item.cost = _1", "pass"
    ),
    "weights of the members left out of the mixture": Mutation(
        "NetworkPool.forward", "_1 + _2[:, None].to(_1)", "_1"
    ),
    "weights of the members left out of the log-density": Mutation(
        "NetworkPool.log_density", "(_1 + _2).logsumexp(0)", "_1.logsumexp(0)"
    ),
    "responsibilities left out of EM": Mutation(
        "stack_weights", "_1 * (share / _2)", "_1 * share"
    ),
    "second seat for the largest weight": Mutation(
        "apportion", "weights / (_1 + 1)", "weights"
    ),
    "skip left out of the mean": Mutation(
        "MixtureDensityNetwork.mean", "_1 + self.shift(X, _2).mT", "_1"
    ),
    "skip left out of the moments": Mutation(
        "MixtureDensityNetwork.moments", "_1 + self.shift(X, _2).mT", "_1"
    ),
    "skip added instead of subtracted": Mutation(
        "Targets.minus", "self.points - shift", "self.points + shift"
    ),
    "rows below the range not noticed": Mutation(
        "MixtureDensityNetwork.nearness", "_1 + (self.low - X).relu()", "_1"
    ),
    "skip extrapolated far outside": Mutation(
        "MixtureDensityNetwork.shift", "_1 * nearness[..., None]", "_1"
    ),
    "range by the rows of one rank": Mutation(
        "Scaling.range_of", "(-ranks.max(-_1), ranks.max(_2))", "(_1, _2)"
    ),
    "gradients along which Muon does not look ahead": Mutation(
        "Optimizer._step_hidden", "_1.lerp(momentum, MOMENTUM)", "momentum"
    ),
    "gradients of other ranks left out": Mutation(
        "Optimizer.step", "self.ranks.all_reduce_(_1)", "_1"
    ),
    "scaling by the rows of one rank": Mutation(
        "Scaling.fit", "(ranks.sum(_1), ranks.max(_2))", "(_1, _2)"
    ),
    "orientation by the rows of one rank": Mutation(
        "orientation", "ranks.sum(_1 @ _2**3)", "_1 @ _2**3"
    ),
    "weights of one rank on a scale of their own": Mutation(
        "Rows.rescaled", "np.frexp(ranks.max(_1))", "np.frexp(_1)"
    ),
    "folds that copies on two ranks straddle": Mutation(
        "_data:_places", "ranks.size == 1", "True"
    ),
    "calibration by the rows of one rank": Mutation(
        "_training:_objective", "_1.ranks.all_reduce_(_2)", "_2"
    ),
    "gradients of user-defined modules accumulate": Mutation(
        "AutogradPass.backward", "foreach_copy_(_1, _2)", "torch._foreach_add_(_1, _2)"
    ),
    "columns of the exported QR not made orthogonal": Mutation(
        "export:_qr", "_1 - _2 * _3", "_1"
    ),
    "precisions exported as deviations": Mutation(
        "_normals", "1 / _1[..., 0, 0]", "_1[..., 0, 0]"
    ),
}


# -- finding functions and patterns ----------------------------------------------


class Function(NamedTuple):
    """A function of the package: its module, that module's code, and its own."""

    path: Path
    tree: ast.Module
    name: str
    node: ast.FunctionDef


def functions_in(path: Path) -> list[Function]:
    """Return all functions of a module, nested ones and methods too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = []

    def visit(parent: ast.AST, prefix: str) -> None:
        for node in ast.iter_child_nodes(parent):
            if not isinstance(node, ast.FunctionDef | ast.ClassDef):
                visit(node, prefix)
                continue
            name = prefix + node.name
            if isinstance(node, ast.FunctionDef) and not is_overload(node):
                found.append(Function(path, tree, name, node))
            visit(node, f"{name}.")

    visit(tree, "")
    return found


def is_overload(node: ast.FunctionDef) -> bool:
    return any(ast.unparse(part).endswith("overload") for part in node.decorator_list)


def find_function(name: str, package: Path = PACKAGE) -> Function:
    """Return the only function of that qualified name, wherever its module is."""
    place, _, name = name.rpartition(":")
    found = []
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        if not place or place in parts:
            found += functions_in(path)
    exact = [function for function in found if function.name == name]
    found = exact or [f for f in found if f.name.endswith(f".{name}")]
    if len(found) != 1:
        raise LookupError(f"{len(found)} functions are named {name}")
    return found[0]


def is_wildcard(node: object) -> bool:
    return isinstance(node, ast.Name) and re.fullmatch(r"_\d", node.id) is not None


def match(pattern: object, node: object, bound: dict[str, ast.expr]) -> bool:
    """Tell whether code has the form of a pattern; bind its wildcards."""
    if is_wildcard(pattern):
        if not isinstance(node, ast.expr):
            return False
        known = bound.setdefault(pattern.id, node)
        return ast.unparse(known) == ast.unparse(node)
    if isinstance(pattern, list):
        return (
            isinstance(node, list)
            and len(pattern) == len(node)
            and all(match(*pair, bound) for pair in zip(pattern, node, strict=True))
        )
    if isinstance(pattern, ast.AST):
        return type(pattern) is type(node) and all(
            match(getattr(pattern, field, None), getattr(node, field, None), bound)
            for field in pattern._fields
            if field != "ctx"
        )
    return pattern == node


def parse(code: str) -> ast.AST:
    """Return an expression, or a statement that is not an expression."""
    (node,) = ast.parse(code).body
    return node.value if isinstance(node, ast.Expr) else node


class Replace(ast.NodeTransformer):
    """Replace what matches a pattern, and count it."""

    def __init__(self, pattern: str, replacement: str) -> None:
        self.pattern, self.replacement = parse(pattern), parse(replacement)
        self.n_replaced = 0

    def visit(self, node: ast.AST) -> ast.AST:
        node = self.generic_visit(node)
        bound: dict[str, ast.expr] = {}
        if not match(self.pattern, node, bound):
            return node
        self.n_replaced += 1
        return Fill(bound).visit(copy.deepcopy(self.replacement))


class Fill(ast.NodeTransformer):
    """Put what wildcards are bound to in their place."""

    def __init__(self, bound: dict[str, ast.expr]) -> None:
        self.bound = bound

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return copy.deepcopy(self.bound[node.id]) if is_wildcard(node) else node


def mutate(mutation: Mutation, package: Path = PACKAGE) -> tuple[Path, str]:
    """Return the module of a mutation and its mutated code.

    Raises
    ------
    LookupError
        If not exactly one function, or not exactly one place in it, is meant.
    """
    function = find_function(mutation.function, package)
    replace = Replace(mutation.pattern, mutation.replacement)
    replace.visit(function.node)
    if replace.n_replaced != 1:
        raise LookupError(
            f"{mutation.function} has {replace.n_replaced} places of the form "
            f"{mutation.pattern}"
        )
    return function.path, ast.unparse(ast.fix_missing_locations(function.tree))


# -- running the tests -----------------------------------------------------------


def first_failure(mutation: Mutation | None) -> str | None:
    """Return the name of a test that fails; None where the mutant survives."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(PACKAGE, Path(folder, "skmdn"))
        if mutation is not None:
            path, code = mutate(mutation)
            Path(folder, "skmdn", path.relative_to(PACKAGE)).write_text(code)
        for tests in ([str(TESTS / name) for name in FIRST], [str(TESTS)]):
            run = subprocess.run(
                [sys.executable, "-m", "pytest", "-q", "-x", *EVERYTHING, *tests],
                cwd=TESTS.parent,
                env=os.environ | {"PYTHONPATH": folder},
                capture_output=True,
                text=True,
                check=False,
            )
            if run.returncode:
                pattern = r"^(?:FAILED|ERROR) \S*?(test_\w+\.py\S*)"
                return re.findall(pattern, run.stdout, re.MULTILINE)[0]
    return None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", type=lambda text: text.split(","), default=[""])
    options = parser.parse_args()
    names = [n for n in MUTATIONS if any(part in n for part in options.only)]
    if not options.only[0] and (test := first_failure(None)):
        sys.exit(f"{test} fails without a mutation.")
    caught = 0
    for name in names:
        test = first_failure(MUTATIONS[name])
        caught += test is not None
        print(f"| {name} | {test or 'SURVIVED'} |", flush=True)
    print(f"{caught} of {len(names)} caught")
    sys.exit(caught < len(names))


if __name__ == "__main__":
    main()
