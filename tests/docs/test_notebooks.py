"""The notebooks in docs/notebooks run from their first cell to the last, and are kept without outputs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from support import extras
from support.pages import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def _said(notebook: Path, folder: Path, **changed: str) -> str:
    """What the notebook prints when it is run in docs/notebooks of `folder`, some of its words changed."""
    nbclient, nbformat = extras.needed("nbclient", "docs"), extras.needed("nbformat", "docs")
    extras.needed("ipykernel", "docs")
    place = folder / "docs" / "notebooks"
    place.mkdir(parents=True)
    (folder / "models").symlink_to(ROOT / "models")
    book = nbformat.reads(notebook.read_text(encoding="utf-8"), as_version=4)
    for cell in book.cells:
        for old, new in changed.items():
            cell.source = re.sub(rf"\b{old} = \S+", f"{old} = {new}", cell.source)
    nbclient.NotebookClient(
        book, timeout=250, kernel_name="python3", resources={"metadata": {"path": str(place)}}
    ).execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") for output in outputs)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(notebook: Path) -> None:
    """No picture and no number of a run is committed."""
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None


def test_three_rules_runs(tmp_path: Path) -> None:
    """The drawn ship is a ship; of two classes the guided maps are alike, those of plain backpropagation are not."""
    said = _said(ROOT / "docs/notebooks/three_rules.ipynb", tmp_path)
    assert said.startswith("ship ")
    cosines = {rule: float(value) for rule, value in re.findall(r"^(\w+) +(-?\d\.\d\d)   ", said, re.MULTILINE)}
    assert set(cosines) == {"backprop", "deconvnet", "guided"}
    assert cosines["guided"] > 0.7 and cosines["guided"] > cosines["backprop"] + 0.3


@pytest.mark.slow
def test_derive_train_compare_runs(tmp_path: Path) -> None:
    """Each of three nets is trained and has an error; as committed the nets learn, which is not asked of 200 pictures."""
    said = _said(ROOT / "docs/notebooks/derive_train_compare.ipynb", tmp_path, EPOCHS="2")
    rows = re.findall(r"^(none|strided|all_conv) +([\d,]+) parameters +([\d.]+) % test error$", said, re.MULTILINE)
    assert [name for name, _, _ in rows] == ["none", "strided", "all_conv"]
    assert rows[0][1] == rows[1][1] != rows[2][1]
    assert all(0 <= float(error) <= 100 for _, _, error in rows)
