"""Configuration of Sphinx.

Build the documentation with

python -m sphinx -W --keep-going -b html docs docs/_build/html
"""

import re
import sys
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.ext.intersphinx import InventoryAdapter
from sphinx.util.nodes import make_refnode
from sphinx_gallery.sorting import ExplicitOrder

import skmdn

HERE = Path(__file__).parent
sys.path += [str(HERE / "_ext"), str(HERE.parent / "benchmarks")]

project = "skmdn"
author = "the skmdn developers"
copyright = author
version = release = skmdn.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "results",  # of docs/_ext: tables drawn from benchmarks/results
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "_inventories", "_parameters.rst"]
templates_path = ["_templates"]

# -- text and docstrings -----------------------------------------------------------

default_role = "literal"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
# The template of a class lists its methods.
numpydoc_show_class_members = False
# The docstrings state the types, with shapes.
autodoc_typehints = "none"
toc_object_entries_show_parents = "hide"
# Formulas become MathML in the build, see `mathml`: pages load nothing from elsewhere.
html_math_renderer = "mathml"

# -- references to other projects --------------------------------------------------

# Inventories of the objects that are referred to, as text: the build needs no network,
# and gives the same links everywhere. A reference that no inventory has is an error.
MANUALS = {
    "python": "https://docs.python.org/3/",
    "numpy": "https://numpy.org/doc/stable/",
    "scipy": "https://docs.scipy.org/doc/scipy/",
    "sklearn": "https://scikit-learn.org/stable/",
    "torch": "https://docs.pytorch.org/docs/stable/",
    "pandas": "https://pandas.pydata.org/docs/",
}
intersphinx_mapping = {
    name: (url, f"_inventories/{name}.txt") for name, url in MANUALS.items()
}
nitpicky = True
# Properties that the page of their class describes in its list of attributes.
nitpick_ignore = [
    ("py:obj", name) for name in ("latent", "n_outputs", "output_names", "resolution")
]

# -- buttons that copy code --------------------------------------------------------

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_selector = "div:not(.sphx-glr-script-out) > div.highlight > pre"

# -- gallery -----------------------------------------------------------------------

# The header groups the examples. Their order is also that of the pages.
header = (HERE / "../examples/GALLERY_HEADER.rst").read_text()
examples = re.findall(r"^   \.\./examples/(plot_\w+\.py)$", header, re.MULTILINE)
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "ignore_pattern": r"^(?!plot_)",
    "abort_on_example_error": True,
    "capture_repr": (),
    "within_subsection_order": ExplicitOrder(examples),
    "minigallery_sort_order": ExplicitOrder(
        [(HERE / "../examples" / name).resolve() for name in examples]
    ),
    "doc_module": "skmdn",
    "backreferences_dir": "generated/backreferences",
    "download_all_examples": False,
    "show_signature": False,
    # Its tables would load scripts from elsewhere.
    "write_computation_times": False,
}

# -- pages -------------------------------------------------------------------------

html_theme = "pydata_sphinx_theme"
html_title = f"skmdn {release}"
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["skmdn.css"]
# Pages without a sidebar have room for wide tables; that of a section with one page is
# empty.
BENCHMARKS = ["quality", "speed", "reliability"]
WIDE = ["index", "comparison", "changelog", "benchmarks", *BENCHMARKS]
html_sidebars = {page: [] for page in [*WIDE, "getting_started"]}
html_theme_options = {
    "navigation_with_keys": False,
    "header_links_before_dropdown": 5,
    "navbar_persistent": ["search-button"],
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": [],
    "footer_end": [],
}


# -- links -------------------------------------------------------------------------


def lead_to_gallery(app, docname, source):
    """Point links to an example's script to its gallery page."""
    source[0] = re.sub(
        r"\]\(\.\./examples/(plot_\w+)\.py\)", r"](auto_examples/\1.rst)", source[0]
    )


def group_gallery(app, docname, source):
    """Remove the list of all examples, which follows that of each group."""
    if docname == "auto_examples/index":
        source[0] = re.sub(
            r"\.\. raw:: html\n\n    <div class=\"sphx-glr-thumbnails\">.*"
            r"\.\. thumbnail-parent-div-close\n\n\.\. raw:: html\n\n    </div>\n",
            "",
            source[0],
            flags=re.DOTALL,
        )


def describe_pictures(app, docname, source):
    """Give the pictures of an example its title, in place of the name of its file."""
    if docname.startswith("auto_examples/plot_"):
        title = re.search(r"^(.+)\n=+$", source[0], re.MULTILINE)[1]

        def describe(match):
            titles = match[2]  # of the axes, or the name of the file
            is_file = titles.startswith("plot ")
            return f"{match[1]}{title}" + ("" if is_file else f": {titles}")

        source[0] = re.sub(r"^( *:alt: )(.+)$", describe, source[0], flags=re.M)


def link_names(app, doctree, docname):
    """Link public names in inline code to their reference pages, and other manuals."""
    if docname.startswith(("generated/", "auto_examples/")):
        return
    others = {}
    for kind, entries in InventoryAdapter(app.env).main_inventory.items():
        if kind != "py:method":
            for name, item in entries.items():
                others[name] = item.uri
                if kind in ("py:class", "py:exception"):
                    others[name.split(".")[-1]] = item.uri
    objects = app.env.domains["py"].objects
    # `fit` without a module is the method, not skmdn.dask.fit.
    methods = set(dir(skmdn.MDNRegressor))
    pages = {}
    for name, entry in objects.items():
        short = name.removeprefix("skmdn.")
        pages[name] = pages[short] = entry
        last = short.split(".")[-1]
        if entry.objtype != "method" and last not in methods:
            pages.setdefault(last, entry)
    for literal in list(doctree.findall(nodes.literal)):
        name = literal.astext().split("(")[0]
        entry = pages.get(name)
        if _is_linked(literal):
            continue
        if entry is not None and entry.docname != docname:
            link = make_refnode(
                app.builder, docname, entry.docname, entry.node_id, literal.deepcopy()
            )
        elif entry is None and name in others:
            link = nodes.reference("", "", literal.deepcopy(), refuri=others[name])
        else:
            continue
        literal.replace_self(link)


def _is_linked(node):
    while node := node.parent:
        if isinstance(node, nodes.reference | nodes.title):
            return True
    return False


def trim_blocks(app, doctree):
    """Remove the empty line between the end of a doctest and its fence."""
    for block in doctree.findall(nodes.literal_block):
        if block.rawsource == block.astext():
            block.rawsource = block.astext().rstrip()
            block[:] = [nodes.Text(block.rawsource)]


def join_errors(app, doctree):
    """Keep a mean and its error on one line of a table's cell."""
    for entry in doctree.findall(nodes.entry):
        for text in list(entry.findall(nodes.Text)):
            if " ± " in text:
                joined = text.replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")
                text.parent.replace(text, nodes.Text(joined))


# -- formulas ----------------------------------------------------------------------


# Browsers implement MathML Core, without alphabets as attributes, and put no space
# beside the name of a function.
CORE = [
    (r'<mi mathvariant="script">N</mi>', "<mi>\N{MATHEMATICAL SCRIPT CAPITAL N}</mi>"),
    (r'<mtext mathvariant="monospace">', '<mtext style="font-family: monospace">'),
    (r"\\_", "_"),
    (
        r"<mi>(log|exp|cos|det)</mi>(?!<mo[^>]*>&#x00028;|<mrow><mo)",
        r'<mo lspace="0.17em" rspace="0.17em">\1</mo>',
    ),
    (r"<mi>(log|exp|cos|det)</mi>", r'<mo lspace="0.17em" rspace="0">\1</mo>'),
    (r"<mo>diag</mo>", '<mo lspace="0.17em" rspace="0">diag</mo>'),
]


def mathml(display):
    """Return a visitor that writes a node's LaTeX as MathML."""

    def visit(translator, node):
        formula = convert(node.astext(), display=display)
        for pattern, replacement in CORE:
            formula = re.sub(pattern, replacement, formula)
        translator.body.append(formula)
        raise nodes.SkipNode

    return visit


def setup(app):
    app.add_html_math_renderer(
        "mathml", (mathml("inline"), None), (mathml("block"), None)
    )
    app.connect("source-read", lead_to_gallery)
    app.connect("source-read", group_gallery)
    app.connect("source-read", describe_pictures)
    app.connect("doctree-read", trim_blocks)
    app.connect("doctree-read", join_errors)
    app.connect("doctree-resolved", link_names)
