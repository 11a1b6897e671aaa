"""Fills a room's templates, whose values are escaped, and puts styles, scripts and the policy that fits them into each page.

A template begins with ``{% extends "page.html.j2" %}`` and gives the blocks ``way`` (where the page stands), ``content`` and
``foot``. Macros for it: ``parts.html.j2``.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2

from allconv_caffe.html import table

REPORT, GALLERY = "allconv report", "allconv viz gallery"
"""Kinds of pages that others look for."""

_TEMPLATES = Path(__file__).with_name("templates")


class Pages:
    """The pages of a room.

    Args:
        templates: its folder of templates, of styles (.css) and of scripts (.js).
        kind: what makes them, as in ``allconv report``; stands in each page, by which `made_by` knows it.
        scripts, styles: files that stand in each page, of the room's folder or of this one.
    """

    def __init__(
        self, templates: Path, kind: str, *, scripts: Sequence[str] = (), styles: Sequence[str] = ("page.css",)
    ) -> None:
        self._folders = (templates, _TEMPLATES)
        self._environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader([str(folder) for folder in self._folders]),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters["sort_key"] = table.key
        self._kind = kind
        self._script = "".join(map(self._text, scripts))
        self._style = "".join(map(self._text, styles))

    def fill(self, template: str, *, style: str = "", **values: Any) -> str:
        """A whole page.

        Args:
            style: rules of this page alone, behind those of all.
        """
        rules = self._style + style
        shell = {"kind": self._kind, "style": rules, "script": self._script, "policy": policy(rules, self._script)}
        return self._environment.get_template(template).render(shell=shell, **values)

    def _text(self, name: str) -> str:
        path = next(folder / name for folder in self._folders if (folder / name).is_file())
        return path.read_text(encoding="utf-8")


def policy(style: str, script: str) -> str:
    """A content security policy under which this style and this script are all there is, and pictures lie beside the page."""
    parts = ["default-src 'none'", "img-src 'self' file: data:", f"style-src {_hash(style)}"]
    parts.append(f"script-src {_hash(script) if script else chr(39) + 'none' + chr(39)}")
    return "; ".join([*parts, "base-uri 'none'", "form-action 'none'"])


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def way(path: Path, base: Path) -> str:
    """A link's address from a page in the folder ``base`` to a file or folder."""
    return quote(Path(os.path.relpath(path, base)).as_posix())


def made_by(path: Path) -> str:
    """The kind of the pages that a file is one of; "" where it is none of ours."""
    with open(path, encoding="utf-8", errors="replace") as file:
        _, mark, rest = file.read(2000).partition('<meta name="generator" content="')
    return rest.partition('"')[0] if mark else ""
