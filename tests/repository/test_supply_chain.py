"""Dependencies, and no network, process or unpickling at run time."""

import ast
import re
import sys
from importlib.metadata import requires

import pytest
from helpers import ROOT, package_modules, run_python

MODULES = package_modules()
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))

DEPENDENCIES = {"numpy", "scikit-learn", "scipy", "torch"}
# matplotlib comes with the extra "plot", and is imported only when something is drawn.
THIRD_PARTY = {"numpy", "sklearn", "scipy", "torch", "skmdn"}
THIRD_PARTY |= {"threadpoolctl"}  # required by scikit-learn
# Of extras, and imported where they are needed.
THIRD_PARTY |= {"matplotlib", "dask", "distributed", "pandas", "skpro"}
THIRD_PARTY |= {"onnx", "onnxscript", "skl2onnx"}
THIRD_PARTY |= {"skops"}  # of the command, to save and open models
# Modules that reach the network, other processes or code in files.
FORBIDDEN_MODULES = {
    "code",
    "ctypes",
    "ftplib",
    "http",
    "imaplib",
    "imp",
    "marshal",
    "multiprocessing",
    "pickle",
    "pty",
    "runpy",
    "shelve",
    "smtplib",
    "socket",
    "ssl",
    "subprocess",
    "telnetlib",
    "urllib",
    "webbrowser",
    "xmlrpc",
}
FORBIDDEN_FUNCTIONS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_METHODS = {"system", "popen", "load", "loads"}


def test_there_are_four_dependencies():
    names = {
        re.match(r"[\w-]+", line)[0]
        for line in requires("skmdn")
        if "extra" not in line
    }
    assert names == DEPENDENCIES


@pytest.mark.parametrize("name", MODULES)
def test_modules_import_nothing_that_reaches_outside(name):
    imported = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
    assert not imported & FORBIDDEN_MODULES
    assert imported <= set(sys.stdlib_module_names) | THIRD_PARTY


@pytest.mark.parametrize("name", MODULES)
def test_modules_evaluate_and_unpickle_nothing(name):
    # JSON is text, ONNX is protocol buffers, NumPy is told to unpickle nothing, skops
    # to trust our own type only, and a session and its parts take arrays.
    harmless = {
        "json.loads",
        "onnx.load",
        "session.load",
        "self.portfolio.load",
        "stack.load",
    }
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        assert called not in FORBIDDEN_FUNCTIONS
        if getattr(node.func, "attr", "") in FORBIDDEN_METHODS:
            options = {k.arg: ast.unparse(k.value) for k in node.keywords}
            safe = {
                "np.load": {"allow_pickle": "False"},
                "io.load": {"trusted": "[TRUSTED]"},
            }
            is_safe = called in safe and options == safe[called]
            assert is_safe or called in harmless, f"{called} at line {node.lineno}"


WATCHED = """
import os, sys, tempfile
import sklearn.compose, sklearn.impute, sklearn.preprocessing
import scipy.cluster, scipy.sparse, scipy.special, scipy.stats, torch.distributions
from sklearn.cluster import KMeans
KMeans(1).fit([[0.0]])  # scikit-learn asks lscpu for the number of cores, once

PREFIXES = (
    "socket.", "subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.spawn",
    "os.system", "pickle.", "urllib.", "http.", "ftplib.", "smtplib.", "webbrowser.",
)
events = []

def hook(event, args):
    if event.startswith(PREFIXES):
        events.append((event, args))

sys.addaudithook(hook)
from skmdn import MDNRegressor
from skmdn.callbacks import Checkpoint
from skmdn.datasets import load_geyser
X, y = load_geyser(return_X_y=True)
mdn = MDNRegressor(2, n_estimators=4, max_iter=2, random_state=0)
with tempfile.TemporaryDirectory() as folder:
    if sklearn.__version__ >= "1.9":
        mdn.set_callbacks(Checkpoint(os.path.join(folder, "fit.npz")))
    mdn.fit(X, y)
mdn.partial_fit(X, y)
mdn.predict(X, return_std=True)
density = mdn.predict_density(X)
density.sample(2), density.hdr(0.9), density.mode(), mdn.score(X, y)
assert not events, events
sys.audit("socket.connect", "the hook listens")
assert len(events) == 1
"""


def test_import_fit_and_predict_open_no_socket_process_or_pickle():
    run_python("-c", WATCHED)


@pytest.mark.skipif(not WORKFLOWS, reason="workflows are part of the repository")
@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_pin_what_they_run(path):
    text = path.read_text()
    used = re.findall(r"uses:\s*(\S+)(.*)", text)
    assert used
    for action, comment in used:
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action), action
        assert re.search(r"# v\d", comment), f"{action} does not say its version"
    assert "permissions:\n  contents: read\n" in text
    assert text.count("persist-credentials: false") == text.count("actions/checkout@")


@pytest.mark.skipif(not WORKFLOWS, reason="workflows are part of the repository")
def test_workflows_store_no_secrets():
    for path in WORKFLOWS:
        assert not re.search(r"\bsecrets\b", path.read_text()), path.name
