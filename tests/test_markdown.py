"""Tables in Markdown, read back."""

from __future__ import annotations

import re

from allconv_caffe.markdown import code, escaped, table


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


def test_a_name_is_shown_and_is_no_markup() -> None:
    """Links, pictures, HTML, formulas and a second line are letters; an ordinary name stays as it is."""
    assert escaped("CIFAR-10 (JPEG), 5.0 %") == "CIFAR-10 (JPEG), 5.0 %"
    assert escaped("![x](http://y)") == r"!\[x\](http://y)"
    assert escaped("<script>&amp;$x$") == r"\<script\>\&amp;\$x\$"
    assert escaped("a\n# b") == "a # b"
    assert code("a`b`\nc") == "`a'b' c`"
