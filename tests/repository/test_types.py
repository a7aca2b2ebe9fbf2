"""Users of the package see its types."""

import os
import subprocess
import sys

import pytest
from helpers import PACKAGE

pytest.importorskip("mypy", reason="types are checked by mypy, from the extra dev")

USER = """
import numpy as np
from numpy.typing import NDArray
from skmdn import MDNRegressor, MixtureDensity, predict_density

X: NDArray[np.float64] = np.zeros((9, 1))
y: NDArray[np.float64] = X[:, 0]
mdn = MDNRegressor(5, hidden_layer_sizes=(32, 32), random_state=0).fit(X, y)
reveal_type(mdn)
reveal_type(mdn.predict_density(X))
reveal_type(mdn.predict_density(X, y))
reveal_type(mdn.predict(X))
reveal_type(mdn.score(X, y))
reveal_type(mdn.score_samples(X))
reveal_type(mdn.sample(X, 3))
reveal_type(mdn.partial_fit(X, y))
reveal_type(predict_density(mdn, X))
reveal_type(mdn.predict_density(X).marginal(0))
reveal_type(mdn.predict_density(X).modes())
reveal_type(mdn.predict_density(X).reduce(8))
"""
FLOATS = "numpy.ndarray[tuple[Any, ...], numpy.dtype[numpy.float64]]"
# Which one depends on `target_support`.
DENSITY = "skmdn.density.MixtureDensity | skmdn.density.transformed.TransformedDensity"
EXPECTED = [
    "skmdn._regressor.MDNRegressor",
    DENSITY,
    FLOATS,
    FLOATS,
    "float",
    FLOATS,
    FLOATS,
    "skmdn._regressor.MDNRegressor",
    DENSITY,
    DENSITY,
    f"list[{FLOATS}]",
    DENSITY,
]


def run_mypy(file):
    options = ["--strict", "--follow-imports=silent", "--cache-dir=cache"]
    environment = dict(os.environ)
    if "site-packages" not in PACKAGE.parts:  # mypy does not find editable packages
        environment["MYPYPATH"] = str(PACKAGE.parent)
    return subprocess.run(
        [sys.executable, "-m", "mypy", *options, file.name],
        capture_output=True,
        text=True,
        cwd=file.parent,
        env=environment,
        check=False,
    )


@pytest.mark.full
def test_a_file_of_a_user_sees_the_types(tmp_path):
    user, wrong = tmp_path / "user.py", tmp_path / "wrong.py"
    user.write_text(USER)
    done = run_mypy(user)
    assert done.returncode == 0, done.stdout
    notes = [line for line in done.stdout.splitlines() if "Revealed type" in line]
    found = [note.split('"')[1].replace("builtins.", "") for note in notes]
    assert [kind.replace("typing.", "") for kind in found] == EXPECTED
    wrong.write_text("from skmdn import MDNRegressor\nMDNRegressor(max_iter='many')\n")
    done = run_mypy(wrong)
    assert 'Argument "max_iter" to "MDNRegressor" has' in done.stdout


def test_the_mark_of_types_is_installed():
    assert (PACKAGE / "py.typed").is_file()
