"""``make docs``: writes ``docs/experiments.md`` and the tables of README.md and docs/results.md; checks every link."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from allconv_caffe import files, markdown
from allconv_caffe.paper.experiments import EXPERIMENTS, Experiment
from allconv_caffe.report import readme
from allconv_caffe.report.tables import true_parameters

PAGE = Path("docs/experiments.md")
_HEAD = (
    "experiment",
    "network",
    "source",
    "data set",
    "published error",
    "published parameters",
    "parameters",
    "training",
)
_LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)\)|!\[[^\]\n]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]*`")


def experiments_page() -> str:
    """Every experiment with its row of the paper, the published figures, the true number of parameters and its command."""
    lines = [
        "# Experiments",
        "",
        "Written by `make docs` from `allconv_caffe/paper/experiments.py`. Errors are the paper's; parameters are counted from its "
        "tables, with biases.",
        "",
        *markdown.table(_HEAD, [_cells(name, entry) for name, entry in EXPERIMENTS.items()]),
    ]
    lines += ["", "`make <experiment>` trains the CIFAR ones; `allconv run <experiment>` any.", ""]
    return "\n".join(lines)


def _cells(name: str, entry: Experiment) -> list[str]:
    counted = entry.published_parameters or "–"
    known = [f"`{name}`", entry.title, entry.source, entry.dataset.title, entry.published, counted]
    return [*known, f"{true_parameters(entry):,}", _training(entry)]


def _training(entry: Experiment) -> str:
    schedule = entry.schedule
    length = f"{schedule.max_iter:,} iterations" if schedule.max_iter else f"{schedule.epochs:g} epochs"
    return f"{length}, batch {schedule.batch_size}"


def broken_links(root: Path) -> list[str]:
    """A line for each link of README.md, CHANGELOG.md, docs/ and the model cards that leads nowhere in this tree.

    Addresses on the network are not asked.
    """
    found = []
    for page in [*sorted(root.glob("*.md")), *sorted(root.glob("docs/**/*.md")), *sorted(root.glob("models/*/*.md"))]:
        text = _CODE.sub("", _FENCE.sub("", page.read_text(encoding="utf-8")))
        for match in _LINK.finditer(text):
            target = match[1] or match[2]
            if re.match(r"[a-z]+:", target):
                continue
            name, _, anchor = target.partition("#")
            where = page if not name else (page.parent / name)
            if not where.exists():
                found.append(f"{page.relative_to(root)}: link to {target}: no such file")
            elif anchor and where.suffix == ".md" and anchor not in _anchors(where):
                found.append(f"{page.relative_to(root)}: link to {target}: no such heading")
    return found


def _anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub names them."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def main(argv: Sequence[str] | None = None) -> int:
    """Write the pages (``--check``: compare them), check the links; 1 where something is wrong."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words not in ([], ["--check"]):
        print(f"docs: {' '.join(words)}: expected nothing, or --check", file=sys.stderr)
        return 1
    root = Path.cwd()
    pages = {PAGE: experiments_page()}
    pages |= {page: readme.filled(root, page) for page in (readme.README, readme.SHORT) if (root / page).exists()}
    problems = []
    for name, text in pages.items():
        page = root / name
        if not words:
            page.parent.mkdir(exist_ok=True)
            files.write(page, text)
        elif not page.exists() or page.read_text(encoding="utf-8") != text:
            problems.append(f"{name}: differs from the tables and records; write it again with `make docs`")
    problems += broken_links(root)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
