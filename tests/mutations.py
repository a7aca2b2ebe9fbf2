"""Break formulas by hand, one at a time, and see that the tests notice.

    python tests/mutations.py
    python tests/mutations.py --only sign,bound

Each mutant is a copy of the installed package with one line changed, in front of the
path of a run of the suite that stops at its first failure.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import skmdn

PACKAGE, TESTS = Path(skmdn.__file__).parent, Path(__file__).parent
# The quickest to notice come first.
FIRST = (
    "test_mixture.py",
    "test_density.py",
    "test_metrics.py",
    "test_gradient.py",
    "test_nn.py",
    "test_rows.py",
    "test_training.py",
    "test_calibration.py",
    "test_distributed.py",
    "test_regressor.py",
)
# These look at the package as a whole, not at its arithmetic.
LEFT_OUT = [
    f"--ignore={TESTS / name}.py"
    for name in (
        "test_architecture",
        "test_examples",
        "test_mutations",
        "test_release",
        "test_supply_chain",
    )
]


class Mutation(NamedTuple):
    module: str
    right: str
    wrong: str


UNCHANGED = Mutation("_mixture", "", "")

MUTATIONS = {
    "log-determinant left out of the density": Mutation(
        "_mixture",
        "constant = log_det(mixture.precision_factors) - y",
        "constant = - y",
    ),
    "normaliser with the number of components": Mutation(
        "_calibration",
        "joint.logsumexp(1) - 0.5 * n_outputs * _mixture.LOG_2PI",
        "joint.logsumexp(1) - 0.5 * joint.shape[1] * _mixture.LOG_2PI",
    ),
    "log-determinant doubled while training": Mutation(
        "_covariance", "log_dets = u.log().sum(2)", "log_dets = 2 * u.log().sum(2)"
    ),
    "sign of the bound's constant": Mutation(
        "_mixture",
        "return -math.log(n_components) -",
        "return math.log(n_components) -",
    ),
    "between-component covariance left out": Mutation(
        "_mixture",
        "covariances(mixture.precision_factors) + between)",
        "covariances(mixture.precision_factors))",
    ),
    "between-network variance left out": Mutation(
        "_inference", "variance.mean(0) + mean.var(0, correction=0)", "variance.mean(0)"
    ),
    "Jacobian of the scaling with the wrong sign": Mutation(
        "_inference",
        "log_density.sub_(self.y_scaling",
        "log_density.add_(self.y_scaling",
    ),
    "rows instead of columns of U rescaled": Mutation(
        "_mixture", "(scale.sign()[:, None] * scale)", "(scale.sign() * scale[:, None])"
    ),
    "weights of training rows dropped": Mutation(
        "_training", "weight = rows.weight[listed] * counts", "weight = 1.0 * counts"
    ),
    "weights of held-out rows dropped": Mutation(
        "_validation", "weight = rows.weight[index] * counts", "weight = 1.0 * counts"
    ),
    "weights of equal rows not added": Mutation(
        "_rows",
        "np.bincount(group, weights=weight[order])",
        "np.bincount(group, weights=np.ones(len(group)))",
    ),
    "pool not divided by its number": Mutation(
        "_calibration",
        "grouped.logsumexp(0) - n_pooled.log()[:, None]",
        "grouped.logsumexp(0)",
    ),
    "softmax over the wrong axis": Mutation(
        "_head",
        "return Terms(logits.log_softmax(1),",
        "return Terms(logits.log_softmax(0),",
    ),
    "condition keeps the weights": Mutation(
        "_mixture",
        "torch.log_softmax(joint_log_prob(given, values), dim=-1)",
        "mixture.log_weights",
    ),
    "condition shifts the wrong way": Mutation(
        "_mixture", "free_factors, -shift)", "free_factors, shift)"
    ),
    "half of the CRPS's second term": Mutation(
        "_mixture",
        "to_each_other).sum((-2, -1)) / 2",
        "to_each_other).sum((-2, -1)) / 4",
    ),
    "sharpness once instead of twice": Mutation(
        "_calibration", "math.exp(2 * float(point[0]))", "math.exp(float(point[0]))"
    ),
    "gradient of the logits turned round": Mutation(
        "_head",
        "torch.sub(minus_r, minus_weights, out=by_logits)",
        "torch.sub(minus_weights, minus_r, out=by_logits)",
    ),
    "floor ignored by the gradient": Mutation(
        "_head", ".mul_(above.div_(variances))", ""
    ),
    "clipping over members instead of within": Mutation(
        "_training",
        "vector_norm(self.gradient, dim=1, keepdim=True)",
        "vector_norm(self.gradient, dim=0, keepdim=True)",
    ),
    "decay that grows": Mutation(
        "_training", "self.matrices.mul_(1 - factor)", "self.matrices.mul_(1 + factor)"
    ),
    "order of the outputs not undone": Mutation(
        "_head", "_taken(outputs, self.order.argsort())", "_taken(outputs, self.order)"
    ),
    "rows train the networks that hold them out": Mutation(
        "_rows", "trains = _subset(~is_held_out)", "trains = _subset(is_held_out)"
    ),
    "relative instead of absolute progress": Mutation(
        "_validation", "score > self.score + tol", "score > self.score * (1 + tol)"
    ),
    "entropy without that of the components": Mutation(
        "_mixture", "gaussian + torch.special.entr(weights)", "gaussian"
    ),
    "samples with the factor for its inverse": Mutation(
        "_mixture",
        "return means + z / factors[..., 0]",
        "return means + z * factors[..., 0]",
    ),
    "skewness not undone": Mutation(
        "_rows", "np.log(np.abs(self.scale)).sum()", "np.log(self.scale).sum()"
    ),
    "checkpoint without the calibration": Mutation(
        "_training",
        'self.calibration = Calibration(*state["calibration"].tolist())',
        "pass",
    ),
    "gradients of other ranks left out": Mutation(
        "_training", "self.ranks.sum_(parameters.gradient)", "pass"
    ),
    "scaling by the rows of one rank": Mutation(
        "_rows", "shift, reach = ranks.sum(shift), ranks.max(reach)", "pass"
    ),
    "orientation by the rows of one rank": Mutation(
        "_rows", "skewness = ranks.sum(share @", "skewness = (share @"
    ),
    "weights of one rank on a scale of their own": Mutation(
        "_rows", "np.frexp(ranks.max(self.weight.max()))", "np.frexp(self.weight.max())"
    ),
    "folds that copies on two ranks straddle": Mutation(
        "_rows",
        "    if ranks.size == 1:\n        return torch.randperm",
        "    if True:\n        return torch.randperm",
    ),
    "calibration by the rows of one rank": Mutation(
        "_calibration",
        "rows.ranks.sum_(torch.stack(blocks).sum(0))",
        "torch.stack(blocks).sum(0)",
    ),
    "gradients of a user's modules pile up": Mutation(
        "_gradient", "torch._foreach_zero_(self.gradients)", "pass"
    ),
    "columns of the exported QR not made orthogonal": Mutation(
        "export", "matrices = rest - unit * share", "matrices = rest"
    ),
    "precisions handed over as deviations": Mutation(
        "density",
        "means[..., 0], 1 / factors[..., 0, 0]\n        return",
        "means[..., 0], factors[..., 0, 0]\n        return",
    ),
}


def first_failure(mutation: Mutation) -> str | None:
    """Name of the test that notices; None where the mutant survives."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(PACKAGE, Path(folder, "skmdn"))
        path = Path(folder, "skmdn", f"{mutation.module}.py")
        source = path.read_text()
        path.write_text(source.replace(mutation.right, mutation.wrong))
        for tests in ([str(TESTS / name) for name in FIRST], [*LEFT_OUT, str(TESTS)]):
            run = subprocess.run(
                [sys.executable, "-m", "pytest", "-q", "-x", *tests],
                cwd=TESTS.parent,
                env=os.environ | {"PYTHONPATH": folder},
                capture_output=True,
                text=True,
                check=False,
            )
            if run.returncode:
                pattern = r"^(?:FAILED|ERROR) \S*?(test_\w+\.py\S*)"
                return re.findall(pattern, run.stdout, re.M)[0]
    return None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", type=lambda text: text.split(","), default=[""])
    options = parser.parse_args()
    names = [n for n in MUTATIONS if any(part in n for part in options.only)]
    if not options.only[0] and (test := first_failure(UNCHANGED)):
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
