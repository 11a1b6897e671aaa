"""Rows for spreadsheets."""

from __future__ import annotations

import csv

import pytest

from allconv_caffe import csv_text


def test_rows_are_read_back() -> None:
    """Quotes, commas and ends of lines in a cell; numbers as they are printed, also those below 0."""
    rows = [["a", 'b "c", d', "e\nf"], [1, -2.5, "-3"], ["", "+1e-5", "x=1"]]
    found = list(csv.reader(csv_text.text(rows).splitlines(keepends=True)))
    assert found == [[str(cell) for cell in row] for row in rows]


@pytest.mark.parametrize("name", ['=HYPERLINK("http://x")', "@SUM(A1)", "+cmd|' /C calc'!A0", "-2+3", "\t=1", "-"])
def test_a_name_is_no_formula(name: str) -> None:
    """What a spreadsheet would reckon, and what leads out of it, is text."""
    assert next(csv.reader([csv_text.text([[name]])]))[0] == "'" + name
    assert csv_text.text([["a\rb"], ["\r" + name]]) == csv_text.text([["a b"], ["' " + name]])
