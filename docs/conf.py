"""Configuration of Sphinx: ``sphinx-build -W -b html docs docs/_build/html``."""

from __future__ import annotations

import os
import re
from importlib.metadata import metadata
from pathlib import Path

info = metadata("countsdiff_sc")
project = info["Name"]
author = "The countsdiff_sc developers"
copyright = author
version = release = info["Version"]

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinxcontrib.bibtex",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "benchmarks_*.md", "**.ipynb_checkpoints"]
nitpicky = True

html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["_static"]

nb_execution_mode = "off"
myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_numpy_docstring = True
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"

# Links to other projects need their inventories from the network, so they are made where the site is published. A build
# without them still checks every reference to this package.
intersphinx_mapping = {
    "anndata": ("https://anndata.readthedocs.io/en/stable/", None),
    "lightning": ("https://lightning.ai/docs/pytorch/stable/", None),
    "matplotlib": ("https://matplotlib.org/stable/", None),
    "mudata": ("https://mudata.readthedocs.io/stable/", None),
    "numpy": ("https://numpy.org/doc/stable/", None),
    "pandas": ("https://pandas.pydata.org/docs/", None),
    "python": ("https://docs.python.org/3/", None),
    "scanpy": ("https://scanpy.readthedocs.io/en/stable/", None),
    "scipy": ("https://docs.scipy.org/doc/scipy/", None),
    "scvi": ("https://docs.scvi-tools.org/en/stable/", None),
    "torch": ("https://docs.pytorch.org/docs/stable/", None),
}
if os.environ.get("READTHEDOCS"):
    extensions.append("sphinx.ext.intersphinx")

# Only names of other projects and of Python itself; a broken reference to this package fails the build.
_THIRD_PARTY = (
    "anndata|collections|lightning|matplotlib|mudata|numpy|np|pandas|pathlib|pd|scanpy|scipy|scvi|torch|typing"
)
_BUILTINS = r"bool|dict|float|int|list|str|tuple|object|None|\w+Error"
nitpick_ignore_regex = [
    (r"py:.*", rf"({_THIRD_PARTY})\..+"),
    (r"py:.*", rf"({_BUILTINS})"),
    # scvi-tools annotates load() with names that are imported for type checkers only
    (r"py:class", r"AnnOrMuData|LightningDataModule"),
]


def _copy_notebooks(app):
    """Put the tutorials, which are beside this folder, where the toctree finds them, and their links to pages too."""
    copies = Path(app.srcdir) / "tutorials"
    copies.mkdir(exist_ok=True)
    for notebook in (Path(app.srcdir).parent / "tutorials").glob("*.ipynb"):
        text = notebook.read_text(encoding="utf-8").replace("(../docs/", "(../")
        (copies / notebook.name).write_text(text, encoding="utf-8")


def _resolve_public_name(app, env, node, contnode):
    """Link an annotation such as ``countsdiff_sc.process._schedules.SurvivalSchedule`` to the public name."""
    target = node.get("reftarget", "")
    public = re.sub(r"\._\w+(?=\.)", "", target)
    if public == target or node.get("refdomain") != "py":
        return None
    domain = env.get_domain("py")
    return domain.resolve_xref(env, node["refdoc"], app.builder, node["reftype"], public, node, contnode)


def _returns_as_prose(app, what, name, obj, options, lines):
    """Keep napoleon from reading the sentence under ``Returns`` as a type: types are in the signature."""
    if "Returns" not in lines or set(lines[lines.index("Returns") + 1]) != {"-"}:
        return
    start = lines.index("Returns")
    end = start + 2
    while end < len(lines) and lines[end].strip():
        end += 1
    prose = [f":returns: {lines[start + 2]}", *(f"    {line}" for line in lines[start + 3 : end])]
    lines[start:end] = ["", *prose, ""]  # two blank lines end the section before


def setup(app):
    app.connect("builder-inited", _copy_notebooks)
    app.connect("autodoc-process-docstring", _returns_as_prose, priority=400)
    app.connect("missing-reference", _resolve_public_name)
