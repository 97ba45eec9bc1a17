"""How Sphinx builds the pages: `make docs`."""

from __future__ import annotations

import os
import re
from pathlib import Path

import featlearn

HERE = Path(__file__).parent
EXAMPLES = HERE.parent / "examples"

project = "featlearn"
author = "The featlearn developers"
copyright = "2026, the featlearn developers"
version = release = featlearn.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "examples/**/*.ipynb", "examples/**/*.md5", "examples/**/*.py"]
templates_path = ["_templates"]
nitpicky = False

myst_enable_extensions = ["amsmath", "deflist", "dollarmath"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_typehints = "none"  # numpydoc sections state types with shapes and units
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

html_theme = "furo"
html_title = "featlearn"
html_copy_source = False

# Gallery pages draw into files, and never onto a screen.
os.environ["MPLBACKEND"] = "agg"
sphinx_gallery_conf = {
    "examples_dirs": str(EXAMPLES),
    "gallery_dirs": "examples",
    "filename_pattern": r"plot_",
    "download_all_examples": False,
    "show_memory": False,
    "abort_on_example_error": True,
    "within_subsection_order": "FileNameSortKey",
    "min_reported_time": 1,
    "reset_modules": ("matplotlib",),
}


def keep_trailing_underscores(app, what, name, obj, options, lines):
    """Names of fitted attributes end in an underscore, which a field of reStructuredText takes for a reference."""
    lines[:] = [
        re.sub(r"^:(ivar|vartype) [^:]*:", lambda field: re.sub(r"_(?=[,:])", r"\\_", field[0]), line) for line in lines
    ]


def setup(app):
    # After napoleon, which makes the fields.
    app.connect("autodoc-process-docstring", keep_trailing_underscores, priority=900)
