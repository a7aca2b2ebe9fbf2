"""What README and documentation show can be run, and their links lead somewhere."""

import importlib
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import skmdn

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "docs").is_dir():
    pytest.skip("needs the repository", allow_module_level=True)

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
MODULES = sorted(
    path.stem
    for path in Path(skmdn.__file__).parent.glob("*.py")
    if not path.stem.startswith("_")
)
by_name = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
# Of programs that others keep: what they are given is not looked at.
FOREIGN = {"ruff", "mypy", "."}


def blocks(path):
    """Language and text of each fenced block."""
    return re.findall(r"^```([^\n]*)\n(.*?)^```$", path.read_text(), re.M | re.S)


@by_name
def test_blocks_are_run_as_doctests_or_commands(path):
    for language, text in blocks(path):
        if language == "python":
            assert text.startswith(">>> "), text
            assert text.endswith("\n\n"), "the end of the block is taken for output"
        else:
            assert language == "sh" or language.startswith("{"), language


def commands():
    for path in PAGES:
        for language, text in blocks(path):
            if language == "sh":
                for line in text.replace("\\\n", "").splitlines():
                    yield from line.split("&&")


@pytest.mark.parametrize("command", sorted({line.strip() for line in commands()}))
def test_commands_name_what_there_is(command):
    program, *arguments = shlex.split(command)
    if program == "python":
        program, *arguments = arguments
        if program == "-m":
            program, *arguments = arguments
    if program == "pip":
        assert arguments[:2] == ["install", "-c"]
        assert (ROOT / arguments[2]).is_file()
        extras = re.search(r"\.\[(\w+)\]", arguments[-1])[1]
        assert f"{extras} = [" in (ROOT / "pyproject.toml").read_text()
    elif program == "pytest":
        options = [word.split("=")[0] for word in arguments if word.startswith("--")]
        assert set(options) <= {"--doctest-modules", "--doctest-glob"}
        paths = [word for word in arguments if (ROOT / word).exists()]
        assert paths or not options
    elif program == "torchrun":
        assert (ROOT / arguments[-1]).is_file()
    elif program == "skmdn" or program.endswith(".py"):
        known = options_of(program)
        assert {word for word in arguments if word.startswith("--")} <= known
    elif program == "venv":
        assert arguments == [".venv"]
    else:
        assert program in FOREIGN or (ROOT / program).is_file(), command


@cache
def options_of(program):
    """Options in the help of a script, or of the command line of skmdn."""
    start = ["-m", program] if program == "skmdn" else [ROOT / program]
    done = subprocess.run(
        [sys.executable, *start, "--help"], capture_output=True, text=True, check=True
    )
    return set(re.findall(r"--[a-z][\w-]*", done.stdout))


@by_name
def test_links_lead_somewhere(path):
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:|mailto:", target):
            continue
        file, _, anchor = target.partition("#")
        # These two are made by the build, of docs/api.rst and of examples/.
        if file in ("auto_examples/index.rst", "api.rst"):
            continue
        there = path.parent / file if file else path
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


def anchors(path):
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
    return {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-")
        for heading in headings
    }


@pytest.mark.parametrize("name", ["", *(f".{name}" for name in MODULES)])
def test_the_reference_is_complete(name):
    if name == ".dask":
        pytest.importorskip("dask", reason="needs the extra 'dask'")
    names = set(importlib.import_module(f"skmdn{name}").__all__)
    sections = re.findall(
        rf"^skmdn{name}\n-+\n(.*?)(?=^skmdn\S*\n-+\n|\Z)",
        (ROOT / "docs/api.rst").read_text(),
        re.M | re.S,
    )
    text = "".join(sections)
    listed = set(re.findall(r"^(?:   |\.\. py:data:: )(\w+)$", text, re.M))
    listed |= set(re.findall(rf"`skmdn{name}\.(\w+)`", text))
    assert names - set(skmdn.__all__ if name else []) <= listed


def test_the_guide_has_every_page():
    """Pages that no other page lists would never be found."""
    listed = set()
    for path in ROOT.glob("docs/*.md"):
        for language, text in blocks(path):
            if language == "{toctree}":
                listed |= set(re.findall(r"^(\w+)$", text, re.M))
    pages = {path.stem for path in ROOT.glob("docs/*.md")} - {"index"}
    assert pages <= listed
