"""Results files say how they were measured; the documentation draws them."""

import importlib
import math
import re
import subprocess
from datetime import date

import pytest
import torch
from helpers import ROOT, load_benchmark
from numpy.testing import assert_allclose

import skmdn

FOLDER = ROOT / "benchmarks" / "results"
if not FOLDER.is_dir():
    pytest.skip("needs the repository", allow_module_level=True)

FILES = sorted(FOLDER.glob("*.csv"))
PUBLISHED = [path for path in FILES if path.stem.startswith("published_")]
MEASURED = [path for path in FILES if path not in PUBLISHED]
# What identifies a row, and the score that no row of skmdn may lack.
KEYS = {
    "uci": ("set", "split", "peer"),
    "several": ("set", "split", "peer"),
    "collapse": ("set", "peer", "seed"),
    "ladder": ("set", "n", "repetition", "split", "params"),
    "tables": ("part", "set", "n", "fold", "peer", "split"),
    "censored": ("set", "fold", "model"),
    "sbibm": ("task", "n", "peer", "seed", "observation"),
    "missing": ("part", "set", "split"),
    "gpu": ("part", "set", "n", "processor"),
    "scaling": ("batch", "processes"),
    "flights": ("peer",),
    "support": ("task", "target_support"),
    "speed": ("part", "case", "task", "skmdn", "commit", "date", "machine", "threads"),
}
SCORES = {
    "uci": ("nll", "crps", "coverage"),
    "several": ("nll",),
    "collapse": ("gap", "reached"),
    "ladder": ("log_lik", "nll", "crps", "coverage"),
    "tables": ("log_lik", "crps", "coverage"),
    "censored": ("log_lik",),
    "sbibm": ("c2st",),
    "missing": ("complete", "missing", "other"),
    "gpu": ("fit_s", "nll"),
    "scaling": ("epoch_s",),
    "flights": ("nll", "crps", "coverage", "fit_s"),
    "support": ("log_lik",),
    "speed": ("median_s",),
}


pytestmark = pytest.mark.usefixtures("benchmark_modules")


@pytest.fixture
def summary():
    return importlib.import_module("_summary")


def directives():
    """Page, files and options of each table that is drawn from results."""
    for page in sorted(ROOT.glob("docs/*.md")):
        for files, text in re.findall(
            r"^```\{results\} ([^\n]*)\n(.*?)^```$", page.read_text(), re.M | re.S
        ):
            options = dict(re.findall(r"^:(\w+): (.*)$", text, re.M))
            yield pytest.param(files.split(), options, id=f"{page.stem}: {files}")


# -- the files -------------------------------------------------------------------------


@pytest.mark.parametrize("path", MEASURED, ids=lambda path: path.stem)
def test_rows_say_how_they_were_measured(path, summary):
    rows = summary.read(path)
    assert tuple(rows[0])[-len(summary.PROVENANCE) :] == summary.PROVENANCE
    for row in rows:
        date.fromisoformat(row["date"])
        assert re.fullmatch(r"([0-9a-f]{7,}\+?)?", row["commit"])
        # The commit and the seconds of the first files are not known.
        optional = ("commit", "seconds")
        assert all(row[k] for k in summary.PROVENANCE if k not in optional)
        assert int(row["threads"]) >= 1
    keys = [tuple(row[name] for name in KEYS[path.stem]) for row in rows]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("path", MEASURED, ids=lambda path: path.stem)
def test_no_row_of_ours_lacks_a_score(path, summary):
    for row in summary.read(path):
        model = row.get("peer") or row.get("model") or "skmdn"
        if model.startswith("skmdn"):
            values = [float(row[name]) for name in SCORES[path.stem]]
            assert all(map(math.isfinite, values)), row


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_published_figures_have_a_source(path, summary):
    for row in summary.read(path):
        assert row["source"]
        assert "date" not in row


@pytest.mark.parametrize(("files", "options"), [*directives()])
def test_tables_are_of_existing_files_and_columns(files, options, summary):
    choice = summary.Choice.of(options)
    assert set(options) <= {"rows", "columns", "scores", "minus", "over", "where"}
    for file in files:
        rows = summary.read(FOLDER / file)
        assert rows, f"{file} does not exist"
        # Published figures are of some of the scores, and rows without a peer are ours.
        columns = {*rows[0], "peer"}
        assert {*choice.keys, *choice.where, *filter(None, [choice.column])} <= columns
        assert set(choice.scores) <= columns
    rows = [row for file in files for row in summary.read(FOLDER / file)]
    assert not set(choice.values) - {summary.value_of(r, choice.column) for r in rows}
    head, lines = choice.head_and_lines(choice.rows(rows))
    assert lines
    assert {len(line) for line in lines} == {len(head)}
    versions = {row["skmdn"] for row in choice.rows(rows) if row.get("skmdn")}
    caption = choice.caption(choice.rows(rows), files, skmdn.__version__)
    assert all(version in caption for version in versions)
    is_old = versions != {skmdn.__version__}
    assert is_old == caption.count("measured with an earlier version")


# -- what a run writes -----------------------------------------------------------------


def test_a_run_appends_rows_and_their_provenance(summary, tmp_path):
    module = load_benchmark("_results")
    path = tmp_path / "out.csv"
    module.Results(path, 3).append({"set": "a", "nll": 0.25})
    results = module.Results(path, 1)
    assert [row["set"] for row in results.rows] == ["a"]
    results.append({"set": "b", "nll": 0.5})
    first, second = summary.read(path)
    assert tuple(first) == ("set", "nll", *summary.PROVENANCE)
    assert (first["threads"], second["threads"]) == ("3", "1")
    assert first["skmdn"] == skmdn.__version__
    assert first["torch"] == torch.__version__
    assert float(second["seconds"]) >= 0
    with pytest.raises(ValueError, match="give another --out"):
        results.append({"set": "c", "crps": 0.5})
    module.Results(None, 1).append({"set": "d"})  # writes nothing


def test_the_commit_is_that_of_the_checkout(tmp_path):
    commit_of = load_benchmark("_results").commit_of
    (tmp_path / "skmdn").mkdir()
    code, other = tmp_path / "skmdn" / "code.py", tmp_path / "notes.txt"
    code.write_text("1")
    assert commit_of(tmp_path) == ""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=b"]
    try:
        subprocess.run([*git, "init", "-q"], check=True)
    except OSError:
        pytest.skip("needs git")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "first"], check=True)
    command = [*git, "rev-parse", "HEAD"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    commit = commit_of(tmp_path)
    assert len(commit) == 7
    assert done.stdout.startswith(commit)
    assert commit_of(tmp_path / "skmdn") == ""  # an environment inside a checkout
    other.write_text("not code")
    assert commit_of(tmp_path) == commit
    code.write_text("2")
    assert commit_of(tmp_path) == f"{commit}+"


# -- the tables ------------------------------------------------------------------------

ROWS = [
    {"set": name, "fold": fold, "peer": peer, "nll": nll}
    | dict.fromkeys(("skmdn", "commit", "torch", "scikit_learn", "threads"), "1")
    | {"date": f"2026-01-0{fold}"}
    for name, fold, peer, nll in [
        ("a", "1", "ours", "1.0"),
        ("a", "2", "ours", "3.0"),
        ("a", "1", "theirs", "4.5"),
        ("a", "2", "theirs", "5.5"),
        ("b", "1", "ours", "2000.0"),
        ("b", "1", "theirs", "nan"),
    ]
]


def test_cells_are_means_and_standard_errors(summary):
    choice = summary.Choice(["set"], ["nll"], "peer")
    head, lines = choice.head_and_lines(ROWS)
    assert head == ["set", "ours", "theirs"]
    # The standard error of 1 and 3 is sqrt(2) / sqrt(2); that of 4.5 and 5.5 is 0.5.
    assert lines[0] == [("a", False), ("2.0 ± 1.0", True), ("5.00 ± 0.50", False)]
    assert lines[1] == [("b", False), ("2,000 (1)", False), ("-", False)]
    caption = choice.caption(ROWS, ["file.csv"], "1")
    assert caption.startswith("nll (lower is better): mean ± standard error, 2 folds")
    assert "2026-01-01 to 2026-01-02" in caption
    assert "earlier version" not in caption
    assert "measured with an earlier version" in choice.caption(ROWS, ["file.csv"], "2")


def test_the_best_is_that_of_shared_repetitions(summary):
    ours, theirs = {"1": 1.0, "2": 9.0}, {"1": 2.0}
    assert summary.best({"ours": ours, "theirs": theirs}, "nll") == "ours"
    assert summary.best({"ours": ours, "theirs": theirs}, "log_lik") == "theirs"
    assert summary.best({"ours": ours, "theirs": {"3": 0.0}}, "nll") is None
    assert summary.best({"ours": ours, "paper": {"": 0.5}}, "nll") == "paper"
    assert summary.best({"ours": ours, "theirs": theirs}, "fit_cpu") is None


def test_differences_are_paired(summary):
    choice = summary.Choice(["set"], ["nll"], "peer", minus="ours")
    head, lines = choice.head_and_lines(ROWS)
    assert head == ["set", "ours", "theirs - ours"]
    # 3.5 and 2.5.
    assert [text for text, _ in lines[0]] == ["a", "2.0 ± 1.0", "+3.00 ± 0.50"]


def test_ratios_are_paired(summary):
    choice = summary.Choice(["set"], ["nll"], "peer", over="ours")
    head, lines = choice.head_and_lines(ROWS)
    assert head == ["set", "ours", "theirs / ours"]
    # 4.5 / 1 and 5.5 / 3.
    assert [text for text, _ in lines[0]] == ["a", "2.0 ± 1.0", "3.2 ± 1.3"]


def test_published_figures_are_beside_ours(summary):
    published = {"set": "a", "peer": "paper", "nll": "0.5"}
    choice = summary.Choice(["set"], ["nll"], "peer", where={"set": "a"})
    rows = choice.rows([*ROWS, published])
    _, ((_, *cells),) = choice.head_and_lines(rows)
    assert cells[-1] == ("0.5000", True)
    caption = choice.caption(rows, ["file.csv", "published.csv"], "1")
    assert caption.endswith("Published figures: published.csv.")


@pytest.mark.parametrize(
    ("mean", "error", "text"),
    [
        (-2.13649, 0.0291, "-2.136 ± 0.029"),
        (9021.7, 212.0, "9,022 ± 212"),
        (6.1e-56, math.nan, "6.1e-56"),
        (3.4e25, 1e25, "3.4e+25"),
        (math.inf, math.nan, "inf"),
        (0.0, math.nan, "0"),
        (1.0, 0.0, "1.000 ± 0.000"),
    ],
)
def test_numbers_have_the_digits_that_are_known(mean, error, text, summary):
    assert summary.text_of(mean, error) == text


def test_the_directive_draws_what_the_summary_says(monkeypatch, summary):
    pytest.importorskip("docutils", reason="needs the extra 'docs'")
    from docutils.core import publish_doctree

    monkeypatch.syspath_prepend(ROOT / "docs" / "_ext")
    import results
    from docutils.parsers.rst import directives as known

    known.register_directive("results", results.Results)
    text = (
        ".. results:: sbibm.csv published_sbibm.csv\n   :rows: task, n\n"
        "   :columns: peer = skmdn, published NPE-NSF\n   :scores: c2st\n"
    )
    tree = publish_doctree(text)
    (table,) = tree.findall(results.nodes.table)
    cells = [entry.astext() for entry in table.findall(results.nodes.entry)]
    assert cells[:8] == [
        *("task", "n", "skmdn", "published NPE-NSF"),
        *("two_moons", "1000", "0.5594", "0.7251"),
    ]
    assert "commit" in table[0].astext()


def test_errors_are_those_of_the_sample(summary):
    values = [1.0, 2.5, -4.0]
    mean, error = summary.mean_and_error(values)
    assert_allclose(mean, -1 / 6)
    deviations = [value - mean for value in values]
    expected = math.sqrt(sum(d**2 for d in deviations) / 2) / math.sqrt(3)
    assert_allclose(error, expected)
