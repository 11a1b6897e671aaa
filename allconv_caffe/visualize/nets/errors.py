"""What a visualisation says about a user's mistake."""

from __future__ import annotations

from allconv_caffe.errors import FoundError


class VizError(FoundError, ValueError):
    """One line: where, what was found, what was expected, the choices. The same facts are attributes."""
