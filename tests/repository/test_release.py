"""Citation, workflows, issue forms and archives agree with the package."""

import re
import shutil
import tarfile
import tomllib
import zipfile

import pytest
from helpers import ROOT, run_python

import skmdn

yaml = pytest.importorskip("yaml", reason="PyYAML comes with the extra test, by Dask")

if not (ROOT / ".github").is_dir():
    pytest.skip("needs the repository", allow_module_level=True)

FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
GUIDES = [
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    ROOT / "CODE_OF_CONDUCT.md",
    ROOT / ".github" / "PULL_REQUEST_TEMPLATE.md",
]
# All that may write anything.
WRITERS = {
    ("docs", "deploy"): {"pages": "write", "id-token": "write"},
    ("release", "publish"): {"id-token": "write"},
}
BY_NAME = {"ids": lambda path: path.stem}


def load(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def steps_of(workflow):
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def lower_bound(specifiers):
    return re.search(r">=\s*([\d.]+)", specifiers)[1]


# -- version and citation --------------------------------------------------------


def test_citation_is_of_this_version():
    citation = load(ROOT / "CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert citation["title"] == "skmdn"
    assert citation["version"] == skmdn.__version__
    assert citation["license"] == project()["license"]
    assert citation["abstract"] == project()["description"]


def test_citation_names_papers_of_the_docstring():
    docstring = " ".join(skmdn.MDNRegressor.__doc__.split()).lower()
    references = load(ROOT / "CITATION.cff")["references"]
    assert len(references) == 2
    for reference in references:
        (author,) = reference["authors"]
        initial = author["given-names"][0].lower()
        title = reference["title"].lower().removeprefix("technical report: ")
        assert re.search(
            rf"{initial}\. (\w\. )?{author['family-names'].lower()}, "
            rf'"{title}", [^"]*{reference["year"]}\.',
            docstring,
        )
        for identifier in reference.get("identifiers", []):
            assert identifier["value"].lower() in docstring


def test_the_changelog_has_a_place_for_this_version():
    headings = re.findall(
        r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    is_release = ".dev" not in skmdn.__version__
    assert headings[0] == (skmdn.__version__ if is_release else "Unreleased")


# -- workflows -------------------------------------------------------------------


@pytest.mark.parametrize("path", WORKFLOWS, **BY_NAME)
def test_workflows_are_valid(path):
    workflow = load(path)
    assert workflow["name"] == path.stem
    assert workflow[True]  # YAML reads "on" as a truth value
    for name, job in workflow["jobs"].items():
        assert job["steps"], name
        assert all(("uses" in step) != ("run" in step) for step in job["steps"]), name
        needed = job.get("needs", [])
        needed = [needed] if isinstance(needed, str) else needed
        assert set(needed) <= workflow["jobs"].keys() - {name}


@pytest.mark.parametrize("path", WORKFLOWS, **BY_NAME)
def test_jobs_may_write_only_what_they_must(path):
    workflow = load(path)
    assert workflow["permissions"] == {"contents": "read"}
    granted = {
        (path.stem, name): job["permissions"]
        for name, job in workflow["jobs"].items()
        if "permissions" in job
    }
    assert granted == {job: WRITERS[job] for job in WRITERS if job[0] == path.stem}


@pytest.mark.parametrize("path", WORKFLOWS, **BY_NAME)
def test_workflows_name_extras_and_files_that_exist(path):
    commands = [step["run"] for step in steps_of(load(path)) if "run" in step]
    text = "\n".join(commands)
    extras = project()["optional-dependencies"]
    for names in re.findall(r"\[([^]]*)\]", text):
        assert set(names.split(",")) <= extras.keys()
    files = re.findall(r"(?:-c|-r|--requirement|--constraint)[ =](\S+\.txt)", text)
    files += re.findall(r"^(\.ci/\S+)", text, re.MULTILINE)
    assert all((ROOT / file).is_file() for file in files), files


def test_every_scikit_learn_from_the_oldest_on_is_tested():
    rows = load(ROOT / ".github/workflows/tests.yml")["jobs"]["tests"]
    rows = rows["strategy"]["matrix"]["include"]
    (needed,) = (line for line in project()["dependencies"] if "scikit" in line)
    oldest = int(lower_bound(needed).split(".")[1])
    pinned = (ROOT / "constraints.txt").read_text()
    newest = int(re.search(r"scikit-learn==1\.(\d+)", pinned)[1])
    older = [f"1.{minor}" for minor in range(oldest, newest)]
    assert {row["sklearn"] for row in rows} == {*older, "latest"}
    assert min(row["python"] for row in rows) == lower_bound(
        project()["requires-python"]
    )
    assert len({tuple(row.values()) for row in rows}) == len(rows)


# -- what people read and fill in ------------------------------------------------


@pytest.mark.parametrize("path", FORMS, **BY_NAME)
def test_issue_forms_can_be_shown(path):
    form = load(path)
    if path.stem == "config":
        assert form == {"blank_issues_enabled": False}
        return
    assert form["name"]
    assert form["description"]
    kinds = [element["type"] for element in form["body"]]
    assert kinds[0] == "markdown"
    assert set(kinds[1:]) == {"textarea"}
    asked = form["body"][1:]
    assert len({element["id"] for element in asked}) == len(asked)
    assert all(element["attributes"]["label"] for element in asked)
    assert any(element.get("validations", {}).get("required") for element in asked)


@pytest.mark.parametrize("path", [form for form in FORMS if form.stem == "bug"])
def test_code_in_the_bug_form_runs(path):
    asked = {element.get("id"): element for element in load(path)["body"]}
    script = asked["script"]["attributes"]["placeholder"]
    script = script.replace("random_state=0", "n_estimators=1, max_iter=1")
    versions = asked["versions"]["attributes"]["description"]
    (command,) = re.findall(r'python -c "(.*)"', versions)
    printed = run_python("-c", f"{script}\n{command}")
    assert skmdn.__version__ in printed


@pytest.mark.parametrize("path", GUIDES, **BY_NAME)
def test_guides_name_files_that_exist(path):
    text = path.read_text(encoding="utf-8")
    named = re.findall(r"`((?:[\w.]+/)*[\w.-]+\.(?:py|md|txt|cff|yml)|\.ci/run)`", text)
    package = ROOT / "skmdn"
    missing = [
        name
        for name in named
        if not (ROOT / name).is_file() and not (package / name).is_file()
    ]
    assert not missing
    assert "](" not in text  # a link that is relative is broken in the documentation


def brought_by(extra):
    """Names of what an extra installs, through the extras that it names itself."""
    for line in project()["optional-dependencies"][extra]:
        name = re.match(r"[\w-]+", line)[0]
        if name == "skmdn":
            for inner in re.search(r"\[(.*)\]", line)[1].split(","):
                yield from brought_by(inner)
        else:
            yield name


def test_a_newcomer_installs_the_tools_that_the_guide_runs():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    first, checks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    _, install, test = first.splitlines()
    assert test == "python -m pytest"
    extra = re.fullmatch(
        r"python -m pip install -c constraints\.txt -e '\.\[(\w+)\]'", install
    )[1]
    tools = re.findall(r"^(?:python -m )?(\w+)", checks, re.MULTILINE)
    assert {"mypy", "pytest", "ruff"} == set(tools) <= set(brought_by(extra))


# -- archives --------------------------------------------------------------------


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """The names in the source archive and in the wheel, without their first folder."""
    pytest.importorskip(
        "setuptools", minversion="77", reason="archives need setuptools 77 or newer"
    )
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    unwanted = shutil.ignore_patterns("__pycache__")
    for name in ("skmdn", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=unwanted)
    code = (
        "from setuptools import build_meta as b; b.build_sdist('.'); b.build_wheel('.')"
    )
    run_python("-c", code, cwd=source)
    (sdist,) = source.glob("*.tar.gz")
    (wheel,) = source.glob("*.whl")
    with tarfile.open(sdist) as file:
        entries = [entry.name for entry in file if entry.isfile()]
    in_sdist = {name.split("/", 1)[1] for name in entries}
    with zipfile.ZipFile(wheel) as file:
        in_wheel = {name for name in file.namelist() if not name.endswith("/")}
    assert wheel.name.split("-")[1] == skmdn.__version__
    return in_sdist, in_wheel


def package_files():
    """Return the modules, the data and the marker file of types."""
    folder = ROOT / "skmdn"
    paths = [*folder.rglob("*.py"), *folder.rglob("*.csv"), folder / "py.typed"]
    return {path.relative_to(ROOT).as_posix() for path in paths}


def test_the_wheel_has_the_package_and_nothing_else(archives):
    _, in_wheel = archives
    info = f"skmdn-{skmdn.__version__}.dist-info/"
    of_package = {name for name in in_wheel if not name.startswith(info)}
    assert of_package == package_files()
    assert f"{info}licenses/LICENSE" in in_wheel


def test_the_source_archive_has_what_a_build_needs(archives):
    in_sdist, _ = archives
    needed = {"pyproject.toml", "setup.cfg", "README.md", "LICENSE", "PKG-INFO"}
    assert package_files() | needed <= in_sdist
    assert not [name for name in in_sdist if name.endswith((".pyc", ".png"))]
