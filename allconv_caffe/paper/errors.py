"""What a wrong table, option or experiment raises."""

from __future__ import annotations

from allconv_caffe.errors import FoundError


class TableError(FoundError, ValueError):
    """A table, a layer of a table or an option is wrong.

    The text says where, what was found, what was expected and the choices; the same facts are fields.
    """

    sentence = "found {found!r}, expected {expected}"


class RenderError(TableError):
    """An option, a template or a folder does not serve for rendering."""


class DeriveError(TableError):
    """A user's table is wrong: file, entry, what was found, what was expected."""
