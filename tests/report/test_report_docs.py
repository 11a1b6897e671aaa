"""The generated page of experiments and the check of links."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from allconv_caffe.report import docs, readme

ROOT = Path(__file__).resolve().parents[2]


def test_the_committed_page_of_experiments_is_that_of_the_tables() -> None:
    """docs/experiments.md is what `make docs` writes."""
    assert (ROOT / docs.PAGE).read_text(encoding="utf-8") == docs.experiments_page()


@pytest.mark.parametrize("page", [readme.README, readme.SHORT], ids=str)
def test_the_committed_pages_show_what_the_records_show(page: Path) -> None:
    """The tables of results and models are those of results/*/result.json and models/*/card.json."""
    assert (ROOT / page).read_text(encoding="utf-8") == readme.filled(ROOT, page)


def test_a_result_is_a_row_with_its_command_and_record(tmp_path: Path) -> None:
    """A record becomes a row: network, data, epochs, error beside the published one, parameters, command, folder."""
    folder = tmp_path / "results" / "c"
    folder.mkdir(parents=True)
    result = {
        "experiment": "cifar10-allcnn-c",
        "model": "All-CNN-C",
        "status": "done",
        "test_error_percent": 43.25,
        "parameters": 1369738,
        "dataset": "CIFAR-10 (JPEG)",
        "seed": 1,
        "epochs": 15.0,
        "engine": "torch",
        "device": "CPU",
        "precision": "float32",
        "seconds": 7200.0,
    }
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "settings.json").write_text('{"command": "make cifar10-allcnn-c EPOCHS=15"}')
    assert readme.results_block(tmp_path, short=True).splitlines()[2] == (
        "| All-CNN-C | CIFAR-10 (JPEG) | 15 | 43.25 % | 9.08 % (CIFAR-10, 350 epochs) | 1,369,738 (paper: 1.4 M) | 1 "
        "| torch, CPU, float32, 2 h 00 min | `make cifar10-allcnn-c EPOCHS=15` | [results/c](../results/c) |"
    )
    assert "No such result" in readme.results_block(tmp_path)
    (folder / "result.json").write_text(
        json.dumps({**result, "dataset": "Other set", "test_error_percent": None, "epochs": 350.0})
    )
    row = readme.results_block(tmp_path).splitlines()[2]
    assert "| not a number | – | 1,369,738 | 1 |" in row and row.endswith("| [results/c](results/c) |")


def test_without_records_the_readme_says_so(tmp_path: Path) -> None:
    """No results, no models: one sentence each in place of a table; a README without its marks is refused."""
    (tmp_path / "README.md").write_text(
        "a\n<!-- results: written by make docs -->\nold\n<!-- end of results -->\nb\n"
        "<!-- models: written by make docs -->\n<!-- end of models -->\n"
    )
    text = readme.filled(tmp_path)
    assert "old" not in text and "No such result is recorded" in text and "No model lies" in text
    (tmp_path / "README.md").write_text(text)
    assert readme.filled(tmp_path) == text
    (tmp_path / "README.md").write_text("a\n")
    with pytest.raises(ValueError, match="^README.md: found no table of results"):
        readme.filled(tmp_path)
    (tmp_path / "README.md").write_text(text + "the old end\n<!-- end of results -->\n")
    with pytest.raises(ValueError, match="^README.md: found more than one end of a table of results"):
        readme.filled(tmp_path)


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
