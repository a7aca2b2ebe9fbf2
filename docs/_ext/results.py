"""A directive that draws a table from files in benchmarks/results.

    ```{results} tables.csv
    :rows: set
    :columns: peer = skmdn_plain, ngboost
    :scores: log_lik
    ```

The argument is a file, or several; files of published figures have no provenance. The
table has a line for each value of `rows` (one column of the file, or several) and a
column for each value of `columns`, or for each of `scores` without it. Cells are means
± standard error over folds, splits or repetitions; the best, over those that all
columns have, is bold. Optional:
`minus: VALUE`, show the other columns as paired differences to that one; `over: VALUE`,
as ratios to it; `where: peer = skmdn_plain; n = 1000`, take these rows only.

The picture generated/quality.png is drawn from such files before pages are read.
"""

from pathlib import Path

from _quality_picture import draw  # of benchmarks/
from _summary import Choice, read
from docutils import nodes
from docutils.parsers.rst import Directive

import skmdn

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"


class Results(Directive):
    """Draw a table of results."""

    required_arguments = 1
    final_argument_whitespace = True
    option_spec = dict.fromkeys(
        ("rows", "columns", "scores", "minus", "over", "where"), str
    )

    def run(self):
        files, rows = self.arguments[0].split(), []
        env = getattr(self.state.document.settings, "env", None)
        for file in files:
            rows += read(RESULTS / file)
            if env is not None:
                env.note_dependency(str(RESULTS / file))
        choice = Choice.of(self.options)
        rows = choice.rows(rows)
        if not rows:
            raise self.error(f"{self.arguments[0]} has no such rows.")
        head, lines = choice.head_and_lines(rows)
        caption = choice.caption(rows, files, skmdn.__version__)
        return [table_of(caption, [(text, False) for text in head], lines)]


def table_of(caption, head, lines):
    """Return the node of a table: texts, and whether they are bold."""
    table = nodes.table(classes=["colwidths-auto"])
    table += nodes.title(caption, caption)
    group = nodes.tgroup(cols=len(head))
    table += group
    group += [nodes.colspec(colwidth=1) for _ in head]
    for part, texts in ((nodes.thead(), [head]), (nodes.tbody(), lines)):
        group += part
        for line in texts:
            row = nodes.row()
            part += row
            for text, is_bold in line:
                entry, paragraph = nodes.entry(), nodes.paragraph()
                paragraph += nodes.strong(text, text) if is_bold else nodes.Text(text)
                entry += paragraph
                row += entry
    return table


def draw_pictures(app):
    """Draw the pictures that pages show."""
    folder = Path(app.srcdir) / "generated"
    folder.mkdir(exist_ok=True)
    measured, published = (
        read(RESULTS / file) for file in ("uci.csv", "published_uci.csv")
    )
    draw(measured, published, folder / "quality.png")


def setup(app):
    app.add_directive("results", Results)
    app.connect("builder-inited", draw_pictures)
    return {"parallel_read_safe": True}
