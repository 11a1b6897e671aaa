"""The documentation as a site: `make site` writes build/site from README.md, docs/ and the docstrings; a warning is an error.

The source folder is the project's root, so every link of a page means the same here as where the files lie.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from allconv_caffe import pycaffe

pycaffe.install()  # the Python layers import `caffe`
ROOT = Path(__file__).resolve().parents[2]

project = "allconv-caffe"
project_copyright = "the allconv-caffe authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/site/index"
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "docs/*.md",
    "docs/howto/*.md",
    "docs/site/*",
    "docs/figures/**/*.md",
    "models/*/README.md",
    "results/**/*.md",
]
exclude_patterns = [".*", "build", "data", "runs", "dist", "**/__pycache__"]

html_theme = "furo"
html_title = "allconv-caffe"
html_extra_path = ["root"]  # index.html, which leads to docs/site/index.html
html_show_sourcelink = False
html_copy_source = False

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
suppress_warnings = ["myst.header"]  # a model's card begins where its table of contents does

default_role = "code"
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "description"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Source", "notes"), ("Differs", "notes")]

_LINK = re.compile(r"(?<!!)\[([^\]\n]+)\]\(([^)\s#]+)\)")


def _to_pages(app: Any, name: str, source: list[str]) -> None:
    """A link to a folder leads to its README, or is its name alone where it has none; a page of tables gets a title."""
    here = (ROOT / name).parent

    def link(match: re.Match[str]) -> str:
        target = here / match[2]
        if not target.is_dir():
            return match[0]
        return (
            f"[{match[1]}]({match[2].rstrip('/')}/README.md)" if (target / "README.md").is_file() else f"`{match[1]}`"
        )

    source[0] = _LINK.sub(link, source[0])
    if name.startswith(("docs/figures/", "results/")) and not source[0].startswith("# "):
        source[0] = f"# {Path(name).parent.name}\n\n{source[0]}"


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _to_pages)
