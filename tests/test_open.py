"""`allconv open`: one page over everything that can be looked at; every link leads somewhere, nothing foreign is listed."""

from __future__ import annotations

import json
import shutil
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from click.testing import CliRunner, Result
from support.browser import Browser, browser, faults

from allconv_caffe.cli import main as cli
from allconv_caffe.visualize.gallery import gallery
from allconv_caffe.visualize.mining import TopK
from allconv_caffe.visualize.nets.open import open_net
from allconv_caffe.visualize.sources import open_images
from allconv_caffe.visualize.whitening import load_whitening

ROOT = Path(__file__).resolve().parents[1]
HOSTILE = '<i onclick="x">&"\''
RUNS = ("cifar10-allcnn-c-jpeg-15-epochs", "cifar10-model-c-jpeg-10-epochs")


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def world(viz_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, a report, a gallery, three figures, an evaluation, two models, and a picture beside a JSON of somebody else."""
    root = tmp_path_factory.mktemp("open")
    for name in RUNS:
        shutil.copytree(ROOT / "results" / name, root / "results" / name)
    for name in ("figure-1", "figure-2"):
        for ending in (".png", ".json"):
            (root / "docs" / "figures").mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / "docs" / "figures" / (name + ending), root / "docs" / "figures")
    shutil.copy(ROOT / "docs/figures/figure-1.png", root / "docs" / "a #1 & b.png")
    (root / "docs" / "a #1 & b.json").write_text(json.dumps({"title": HOSTILE, "command": "x"}))
    shutil.copy(ROOT / "docs/figures/figure-1.png", root / "docs" / "other.png")
    (root / "docs" / "other.json").write_text("[1, 2]")
    for path in sorted((ROOT / "models").glob("*/card.json"))[:2]:
        (root / "models" / path.parent.name).mkdir(parents=True)
        shutil.copy(path, root / "models" / path.parent.name)
        shutil.copy(path.with_name("README.md"), root / "models" / path.parent.name)
    found = {"error_percent": 30.9, "images": 10000, "model": HOSTILE, "data": "data/x"}
    (root / "build" / "evaluation").mkdir(parents=True)
    (root / "build" / "evaluation" / "evaluation.json").write_text(json.dumps(found))
    model = viz_world / "models" / "cifar10-allcnn-c-jpeg"
    net = open_net(model / "deploy.prototxt", model / "small.caffemodel")
    space = load_whitening(model / "whitening.npz")
    source = open_images(viz_world / "data" / "cifar10-jpeg" / "test_lmdb", net.input_shape, space)
    topk = TopK.load(viz_world / "build" / "topk.npz")
    gallery(net, source, topk, root / "build" / "units", ["conv3"], k=2, rules=["guided"], arrays=False)
    return root


def invoke(*words: str) -> Result:
    return CliRunner().invoke(cli.main, ["open", *words])


@pytest.fixture(scope="module")
def page(world: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(world)
        assert CliRunner().invoke(cli.main, ["report", "results", "--output", "build/report"]).exit_code == 0
        result = invoke("--no-browser")
    assert (result.output, result.exit_code) == ("build/open/index.html\n", 0)
    return world / "build" / "open" / "index.html"


@pytest.mark.timeout(600)
def test_no_page_has_a_fault(page: Path, seen: Browser) -> None:
    """The page and the report beside it, from file://, narrow and wide, light and dark."""
    pages = sorted(page.parent.rglob("*.html"))
    assert [path.name for path in pages] == ["index.html", *sorted(f"{name}.html" for name in RUNS), "report.html"]
    assert [fault for path in pages for fault in faults(seen, path)] == []


def test_everything_is_listed_and_every_link_leads_somewhere(page: Path, world: Path, seen: Browser) -> None:
    """Runs, models, evaluation, gallery, report, figures: each once, by links relative to the page, from page to page and back."""
    seen.open(page)
    links = seen.run("[...document.querySelectorAll('main a')].map((e) => e.getAttribute('href'))")
    ways = [(page.parent / unquote(link)).resolve() for link in links]
    assert all(way.exists() for way in ways) and not any(link.startswith(("/", "file:")) for link in links)
    expected = {world / "build/units/index.html", world / "build/report/report.html", world / "build/evaluation"}
    expected |= {world / "docs/figures/figure-1.png", world / "docs/figures/figure-2.png", world / "docs/a #1 & b.png"}
    expected |= {world / "models" / path.parent.name / "README.md" for path in (world / "models").glob("*/card.json")}
    expected |= {page.parent / "report/pages" / f"{name}.html" for name in RUNS} | {page.parent / "report/report.html"}
    assert expected <= set(ways)
    assert all(ways.count(way) == 1 for way in expected)
    assert world / "docs/other.png" not in ways
    assert not [way for way in ways if way.is_relative_to(world / "build/units/conv3")]
    text = seen.run("document.body.textContent")
    assert text.count(HOSTILE) == 2 and not seen.run("document.querySelector('i')")
    seen.open(page.parent / "report" / "report.html")
    assert seen.run("document.querySelector('nav a').href") == page.as_uri()


def test_it_is_shown_in_the_browser(page: Path, world: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Python's webbrowser gets the page as a file's address; where there is none, a line says so."""
    shown: list[str] = []
    monkeypatch.chdir(world)
    monkeypatch.setattr(webbrowser, "open", lambda address: not shown.append(address))
    result = invoke("results", "--output", str(tmp_path / "a b"))
    assert (result.output, shown) == (f"{tmp_path}/a b/index.html\n", [(tmp_path / "a b" / "index.html").as_uri()])
    monkeypatch.setattr(webbrowser, "open", lambda address: False)
    assert invoke("results", "--output", str(tmp_path / "c")).stderr == "no browser was found to show it in\n"


def test_an_empty_folder_says_what_to_do(seen: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is nothing yet, the page names the commands that make something, and has no fault."""
    monkeypatch.chdir(tmp_path)
    assert invoke("--no-browser").exit_code == 0
    path = tmp_path / "build" / "open" / "index.html"
    assert faults(seen, path) == []
    text = seen.run("document.body.textContent")
    assert all(f"allconv {verb}" in text for verb in ("quickstart", "viz gallery", "viz figure"))


def test_a_damaged_record_is_one_line(tmp_path: Path) -> None:
    """A result.json that is none: its place, status 1, and no page."""
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "result.json").write_text("{")
    result = invoke(str(tmp_path / "runs"), "--output", str(tmp_path / "out"), "--no-browser")
    assert result.exit_code == 1 and "result.json: found no JSON" in result.output
    assert not (tmp_path / "out").exists()
