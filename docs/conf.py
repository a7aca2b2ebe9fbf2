"""Configuration of Sphinx.

Build the documentation with

python -m sphinx -W --keep-going -b html docs docs/_build/html
"""

import re
import sys
from pathlib import Path

from docutils import nodes
from sphinx.util.nodes import make_refnode
from sphinx_gallery.sorting import ExplicitOrder

import skmdn

sys.path.append(str(Path(__file__).parent / "_ext"))

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
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build"]
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

# -- gallery -----------------------------------------------------------------------

# The examples that show most features come first.
first = {"plot_density_heat.py", "plot_from_one_fit.py"}
examples = sorted(
    (path.name for path in Path(__file__).parent.glob("../examples/*.py")),
    key=lambda name: (name not in first, name),
)
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "ignore_pattern": r"^(?!plot_)",
    "abort_on_example_error": True,
    "capture_repr": (),
    "within_subsection_order": ExplicitOrder(examples),
    "doc_module": "skmdn",
    "backreferences_dir": "generated/backreferences",
    "download_all_examples": False,
    "show_signature": False,
}

# -- pages -------------------------------------------------------------------------

html_theme = "pydata_sphinx_theme"
html_title = f"skmdn {release}"
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["skmdn.css"]
html_sidebars = {page: [] for page in ("index", "comparison", "changelog")}
html_theme_options = {
    "navigation_with_keys": False,
    "header_links_before_dropdown": 7,
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


def link_names(app, doctree, docname):
    """Link public names in inline code to their reference pages."""
    if docname.startswith(("generated/", "auto_examples/")):
        return
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
        entry = pages.get(literal.astext().split("(")[0])
        if entry is None or entry.docname == docname or _is_linked(literal):
            continue
        literal.replace_self(
            make_refnode(
                app.builder, docname, entry.docname, entry.node_id, literal.deepcopy()
            )
        )


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


def setup(app):
    app.connect("source-read", lead_to_gallery)
    app.connect("doctree-read", trim_blocks)
    app.connect("doctree-resolved", link_names)
