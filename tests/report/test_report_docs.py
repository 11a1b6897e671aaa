"""The generated page of experiments and the check of links."""

from __future__ import annotations

from pathlib import Path

import pytest

from allconv_caffe.report import docs

ROOT = Path(__file__).resolve().parents[2]


def test_the_committed_page_of_experiments_is_that_of_the_tables() -> None:
    """docs/experiments.md is what `make docs` writes."""
    assert (ROOT / docs.PAGE).read_text(encoding="utf-8") == docs.experiments_page()


def test_links_that_lead_nowhere_are_named(tmp_path: Path) -> None:
    """A missing file and a missing heading are found; code, network addresses and right links are passed over."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/a.md").write_text("# A heading, here\n\n[up](../README.md) [me](#a-heading-here) [no](#none)\n")
    (tmp_path / "README.md").write_text(
        "[a](docs/a.md#a-heading-here) [gone](docs/b.md) ![pic](x.png) [net](https://x.org) `[c](c.md)`\n```\n[d](d.md)\n```\n"
    )
    assert docs.broken_links(tmp_path) == [
        "README.md: link to docs/b.md: no such file",
        "README.md: link to x.png: no such file",
        "docs/a.md: link to #none: no such heading",
    ]


def test_make_docs_writes_and_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a page --check fails; after writing it passes."""
    monkeypatch.chdir(tmp_path)
    assert docs.main(["--check"]) == 1
    assert docs.main([]) == 0 and docs.main(["--check"]) == 0
    assert docs.main(["--nope"]) == 1
