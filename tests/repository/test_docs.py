"""README and documentation: code runs, and links have targets."""

import importlib
import re
import shlex
from functools import cache

import pytest
from helpers import ROOT, package_modules, run_python

import skmdn

if not (ROOT / "docs").is_dir():
    pytest.skip("needs the repository", allow_module_level=True)

DOCS = sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("docs/tasks/*.md")])
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]
MODULES = [name for name in package_modules() if re.fullmatch(r"[a-z]\w*", name)]
by_name = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
DIRECTIVES = {"{include}", "{results}", "{toctree}"}
# Of programs that others keep: what they are given is not looked at.
FOREIGN = {"ruff", "mypy", ".", "build", "twine"}
MODULE_OF = {"torchrun": ["torch.distributed.run"], "pip": ["pip", "install"]}


def blocks(path):
    """Language and text of each fenced block."""
    return re.findall(r"^```([^\n]*)\n(.*?)^```$", path.read_text(), re.M | re.S)


@by_name
def test_blocks_are_run_as_doctests_or_commands(path):
    found = blocks(path)
    fences = re.findall(r"^\s*(?:```|~~~)", path.read_text(), re.M)
    assert len(fences) == 2 * len(found), "a fence that is indented, or left open"
    for language, text in found:
        if language == "python":
            assert {path.name, *(part.name for part in path.parents)} & {*doctested()}
            assert text.startswith(">>> "), text
            assert text.endswith("\n\n"), "the end of the block is taken for output"
        else:
            assert language == "sh" or language.split()[0] in DIRECTIVES, language


@cache
def doctested():
    """Files and folders whose doctests the gate runs."""
    (line,) = re.findall(r".*--doctest-glob.*", (ROOT / ".ci/run").read_text())
    return line.split()


def commands():
    for path in PAGES:
        for language, text in blocks(path):
            if language == "sh":
                for line in text.replace("\\\n", "").splitlines():
                    yield from line.split("&&")


@pytest.mark.parametrize("command", sorted({line.strip() for line in commands()}))
def test_commands_name_existing_files_and_options(command):
    program, *arguments = shlex.split(command)
    if program == "python":
        program, *arguments = arguments
        if program == "-m":
            program, *arguments = arguments
    if program == "venv":
        assert arguments == [".venv"]
    elif program in {"pip", "pytest", "skmdn", "torchrun"} or program.endswith(".py"):
        assert not program.endswith(".py") or (ROOT / program).is_file()
        for word in arguments:
            assert word[0] != "-" or word.split("=")[0] in options_of(program)
            is_file = re.search(r"\.(py|md|txt|png)$|^docs|^tests", word)
            assert not is_file or "*" in word or (ROOT / word).exists()
            for extra in re.findall(r"^\.\[(\w+)\]$", word):
                assert f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text()
    else:
        assert program in FOREIGN or (ROOT / program).is_file(), command


@cache
def options_of(program):
    """Options that a script of ours declares, or in the help of another module."""
    ours = {"skmdn": package_modules()["_command.parser"]}
    path = ours.get(program, ROOT / program)
    if path.is_file():
        source = path.read_text()
        if "parser_of(" in source:  # the options that benchmarks share
            source += (path.parent / "_results.py").read_text()
        calls = re.findall(r"\badd(?:_argument)?\((.*?)\)", source, re.DOTALL)
        text = "\n".join(calls)
    else:
        text = run_python("-m", *MODULE_OF.get(program, [program]), "--help")
    return set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", text))


@by_name
def test_links_have_targets(path):
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:|mailto:", target):
            continue
        file, _, anchor = target.partition("#")
        # The build makes them, of examples/ and of benchmarks/results/.
        if file in ("auto_examples/index.rst", "generated/quality.png"):
            continue
        there = path.parent / file if file else path
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


def anchors(path):
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-")
        for heading in headings
    }


@pytest.mark.parametrize("name", ["", *(f".{name}" for name in MODULES)])
def test_the_reference_is_complete(name):
    if name == ".dask":
        pytest.importorskip("dask", reason="needs the extra 'dask'")
    names = set(importlib.import_module(f"skmdn{name}").__all__)
    # Names belong to the module that was last made the current one.
    _, *rest = re.split(
        r"^\.\. (?:current)?module:: (\S+)$",
        (ROOT / "docs/api.rst").read_text(),
        flags=re.M,
    )
    parts = zip(rest[::2], rest[1::2], strict=True)
    text = "".join(part for module, part in parts if module == f"skmdn{name}")
    listed = set(re.findall(r"^(?:   |\.\. py:data:: )(\w+)$", text, re.M))
    listed |= set(re.findall(rf"`skmdn{name}\.(\w+)`", text))
    assert names - set(skmdn.__all__ if name else []) <= listed


def test_every_parameter_has_a_purpose():
    _, text = (ROOT / "docs/_parameters.rst").read_text().split(".. groups")
    listed = re.findall(r"`(\w+)`", text)
    assert sorted(listed) == sorted(skmdn.MDNRegressor().get_params())


def test_the_guide_has_every_page():
    """Pages that no other page lists would never be found."""
    listed = set()
    for path in DOCS:
        for language, text in blocks(path):
            if language == "{toctree}":
                listed |= set(re.findall(r"^([\w/]+)$", text, re.M))
    pages = {str(path.relative_to(ROOT / "docs").with_suffix("")) for path in DOCS}
    assert pages - {"index"} <= listed
