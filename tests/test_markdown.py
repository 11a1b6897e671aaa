"""Tables in Markdown, read back."""

from __future__ import annotations

import re

from allconv_caffe.markdown import table


def test_a_table_is_one_line_a_row() -> None:
    """Marks below the head say which columns are set flush right; an empty cell stays one."""
    assert table(("a", ""), [("x", "1"), ("", "22")], right=(1,)) == [
        "| a | |",
        "| --- | ---: |",
        "| x | 1 |",
        "| | 22 |",
    ]


def test_a_bar_in_a_cell_ends_no_column() -> None:
    """Split at the bars that are not escaped, every row has as many cells as the head."""
    lines = table(("a|b", "c"), [("|", "d||e"), ("f", "")])
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in lines] == [3, 3, 3, 3]
    assert lines[2] == r"| \| | d\|\|e |"
