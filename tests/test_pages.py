"""The report and the pages of its runs in a real browser: without a fault, shut to what is foreign, alive under the hand."""

from __future__ import annotations

import csv
import json
import math
import select
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.browser import Browser, browser, faults

from allconv_caffe.report.build import build
from allconv_caffe.report.collect import find_runs
from allconv_caffe.report.record import ReportError

ROOT = Path(__file__).resolve().parents[1]
LONG, SHORT = "cifar10-allcnn-c-jpeg-350-epochs-seed-1", "cifar10-allcnn-c-jpeg-15-epochs"
HOSTILE = "</script><img src=x onerror=alert(1)>\"'&"


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of the project's own runs, and of one whose every name tries to be HTML, with an evaluation."""
    world = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "results", world / "results")
    bad = world / "runs" / "a <b>&'\" run"
    shutil.copytree(ROOT / "results" / SHORT, bad)
    record = json.loads((bad / "result.json").read_text())
    record |= {"model": HOSTILE, "dataset": HOSTILE, "engine_version": HOSTILE, "assumptions": [HOSTILE], "seed": 7}
    (bad / "result.json").write_text(json.dumps(record))
    settings = json.loads((bad / "settings.json").read_text())
    (bad / "settings.json").write_text(json.dumps(settings | {"command": HOSTILE, "versions": {HOSTILE: HOSTILE}}))
    evaluation = {
        "error_percent": 30.9,
        "images": 10000,
        "class_errors_percent": {HOSTILE: 12.5, "dog": 9.0, "cat": None},
        "most_surely_wrong": [{"image": HOSTILE, "class": "cat", "answer": "dog", "probability": 0.99}],
    }
    (bad / "evaluation").mkdir()
    (bad / "evaluation" / "evaluation.json").write_text(json.dumps(evaluation))
    shutil.copy(ROOT / "results" / SHORT / "curves.png", bad / "evaluation" / "confusion.png")
    (world / "curve.csv").write_text("epoch,error_percent\n0,90\n14,31\n15,30\n")
    build([world / "results", world / "runs"], world / "report", trends=True, beside=[f"{world}/curve.csv"])
    return world


def page_of(site: Path, name: str) -> Path:
    return site / "report" / "pages" / f"{name}.html"


@pytest.mark.timeout(600)
def test_no_page_has_a_fault(site: Path, seen: Browser) -> None:
    """From file://, narrow and wide, light and dark: nothing on the console, no request, nothing broad, faint or missing."""
    pages = sorted((site / "report").rglob("*.html"))
    assert len(pages) == 1 + len(find_runs([site / "results", site / "runs"])) > 10
    assert [fault for page in pages for fault in faults(seen, page)] == []


def test_hostile_names_are_text(site: Path, seen: Browser) -> None:
    """What tries to be HTML is read as it stands, makes no element, and its run is reached by its link."""
    seen.open(site / "report" / "report.html")
    assert HOSTILE in seen.run("document.body.textContent") and not seen.run("document.querySelector('img[onerror]')")
    link = "[...document.querySelectorAll('a')].find((e) => e.textContent.includes('onerror')).href"
    page = seen.run(link)
    seen.run(f"void (location.href = {link})")
    seen.wait(f"location.href === {json.dumps(page)} && document.readyState === 'complete'")
    text = seen.run("document.querySelector('main').textContent")
    assert text.count(HOSTILE) >= 8 and "12.50 %" in text and "–" in text
    assert not seen.run("document.querySelector('img[onerror]')")
    assert seen.run("document.querySelector('pre').textContent") == HOSTILE
    assert seen.run("document.querySelector('img[alt=\"confusion matrix\"]') !== null")


def heard(server: socket.socket) -> bytes:
    """What was said to a server; a browser connects ahead of a frame that it then refuses, and says nothing."""
    said = b""
    while select.select([server], [], [], 0.5)[0]:
        caller, _ = server.accept()
        with caller:
            if select.select([caller], [], [], 0.5)[0]:
                said += caller.recv(1000)
    return said


def test_the_policy_lets_nothing_foreign_in(site: Path, seen: Browser, tmp_path: Path) -> None:
    """Were a name ever not escaped: no script of its own, no style, no address on the network would be taken."""
    text = (site / "report" / "report.html").read_text(encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/"
        foreign = f"<script>document.title = 'taken'</script><img src='{address}' onerror='document.title = 1'>"
        foreign += f"<style>body {{ opacity: .5 }}</style><iframe src='{address}'></iframe>"
        (tmp_path / "page.html").write_text(text.replace("<main>", "<main>" + foreign), encoding="utf-8")
        seen.open(tmp_path / "page.html")
        assert seen.run("document.title") == "Measured beside published"
        assert seen.run("getComputedStyle(document.body).opacity") == "1"
        assert len([problem for problem in seen.problems() if "Content Security Policy" in problem]) >= 4
        assert heard(server) == b""


def points(site: Path, name: str, file: str, column: str) -> list[tuple[float, float]]:
    with open(site / "results" / name / file, newline="", encoding="utf-8") as rows:
        return [(float(row["epoch"]), float(row[column])) for row in csv.DictReader(rows)]


def test_values_are_read_off_under_the_pointer(site: Path, seen: Browser) -> None:
    """In the middle of the panel stands the test nearest to it, with the error that test.csv has there."""
    seen.open(page_of(site, LONG))
    box = seen.place("svg.plot")
    seen.move(box["left"] + 52 + (box["width"] - 52 - 14) / 2, box["top"] + 100)
    tests = points(site, LONG, "test.csv", "error_percent")
    tests.append((350.0, 13.54))
    epoch, error = min(tests, key=lambda point: abs(point[0] - 175))
    assert seen.run("document.querySelector('.values').innerText").split("\n\n") == [
        f"epoch {epoch:.5g}",
        f"test error: {error:.5g} %",
    ]
    values = "document.querySelector('.values').getBoundingClientRect()"
    assert box["top"] < seen.run(f"{values}.top") and seen.run(f"{values}.bottom") < box["top"] + box["height"]
    assert box["left"] <= seen.run(f"{values}.left") and seen.run(f"{values}.right") <= box["left"] + box["width"]
    seen.move(box["left"] + 60, box["top"] - 60)
    assert seen.run("document.querySelector('.values').hidden")


def test_values_are_read_off_by_arrow_keys(site: Path, seen: Browser) -> None:
    """Right goes from test to test, left back, Escape takes the values away."""
    seen.open(page_of(site, SHORT))
    seen.run("document.querySelector('svg.plot').focus()")
    tests = points(site, SHORT, "test.csv", "error_percent")
    for key, at in (("ArrowRight", 0), ("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1)):
        seen.press(key)
        assert f"{tests[at][1]:g} %" in seen.run("document.querySelector('.values').innerText")
    seen.press("Escape")
    assert seen.run("document.querySelector('.values').hidden")


def test_runs_are_chosen(site: Path, seen: Browser) -> None:
    """A box unticked takes its curve away in both panels; "none" and "all" do so with every one; the axes follow."""
    seen.open(site / "report" / "report.html")
    head = "[...document.querySelectorAll('h3')].find((e) => e.textContent === 'CIFAR-10 (JPEG), 350 epochs')"
    seen.run(f"{head}.nextElementSibling.id = 'chosen'")
    count = "[...document.querySelectorAll('#chosen .panel')].map((e) => e.querySelectorAll('.plot .curve').length)"
    whole = seen.run(count)
    names = seen.run("document.querySelectorAll('#chosen .keys label').length")
    assert names == 7 and whole[0] == 7
    seen.click("#chosen .keys li:nth-child(2) input")
    assert seen.run(count) == [whole[0] - 1, whole[1] - 1]
    seen.click("#chosen .keys li:nth-last-child(1) button")
    assert seen.run(count) == [0, 0] and "nothing to draw" in seen.run("document.querySelector('#chosen').textContent")
    seen.click("#chosen .keys li:nth-last-child(2) button")
    assert seen.run(count) == whole


def test_an_axis_is_made_logarithmic(site: Path, seen: Browser) -> None:
    """Ticked, equal ratios are equal distances; unticked, equal differences are."""
    seen.open(page_of(site, LONG))

    def marks() -> list[tuple[float, float]]:
        """(value, y) of each mark of the first panel's y axis."""
        found = seen.run(
            "[...document.querySelector('svg.plot').querySelectorAll('text[text-anchor=end]')]"
            ".map((e) => [Number(e.textContent.replace(/,/g, '')), Number(e.getAttribute('y'))])"
        )
        return [(value, y) for value, y in found if value is not None and value > 0]

    linear = marks()
    slopes = [(y - linear[0][1]) / (value - linear[0][0]) for value, y in linear[1:]]
    assert len(linear) >= 3 and max(slopes) - min(slopes) < 1e-6
    seen.click(".panel .axis input")
    curved = marks()
    slopes = [(y - curved[0][1]) / math.log(value / curved[0][0]) for value, y in curved[1:]]
    assert len(curved) >= 2 and max(slopes) - min(slopes) < 1e-6 and curved != linear


def test_a_stretch_is_looked_at_closely(site: Path, seen: Browser) -> None:
    """Drawn over with the mouse it fills both panels; a double click shows the whole again."""
    seen.open(page_of(site, LONG))
    box = seen.place("svg.plot")
    y, place = box["top"] + 100, lambda share: box["left"] + 52 + (box["width"] - 66) * share
    ends = "[...document.querySelectorAll('svg.plot')].map((e) => [...e.querySelectorAll('text[text-anchor=middle]')]"
    ends += ".map((t) => Number(t.textContent)))"
    assert seen.run(ends)[0][0] == 0
    seen.move(place(0.5), y, "mousePressed", button="left", clickCount=1)
    seen.move(place(0.75), y, button="left", buttons=1)
    seen.move(place(0.75), y, "mouseReleased", button="left", clickCount=1)
    found = seen.run(ends)
    assert all(170 <= value <= 267 for panel in found for value in panel) and len(found) == 3
    for count in (1, 2):
        for kind in ("mousePressed", "mouseReleased"):
            seen.move(place(0.5), y, kind, button="left", clickCount=count)
    assert seen.run(ends)[0][0] == 0


def test_a_click_sorts_a_table(site: Path, seen: Browser) -> None:
    """By test error, up and then down, as numbers; runs without one come last."""
    seen.open(site / "report" / "report.html")
    seen.run("document.querySelector('table').scrollIntoView()")
    errors = "[...document.querySelectorAll('#runs + .wide tbody tr')].map((e) => e.cells[2].textContent)"
    for direction in (1, -1):
        seen.click("#runs + .wide th:nth-child(3) button")
        shown = seen.run(errors)
        numbers = [float(text.split()[0]) for text in shown if text != "–"]
        assert numbers == sorted(numbers)[::direction] and len(numbers) > 8 and shown[-1] == "–"


def test_without_a_script_the_pictures_are_there(site: Path, seen: Browser) -> None:
    """Where scripts are off, a run's page shows the picture of its curves."""
    seen.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        seen.open(page_of(site, SHORT), settle=False)
    finally:
        seen.call("Emulation.setScriptExecutionDisabled", value=False)
    assert seen.run("document.querySelector('noscript img').naturalWidth") > 500


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (
            {"class_errors_percent": {"cat": "x"}},
            'class_errors_percent {"cat": "x"}, expected an object of numbers or nulls',
        ),
        ({"images": None}, "images null, expected a whole number"),
        ({"most_surely_wrong": None}, "most_surely_wrong null, expected a list of objects"),
    ],
)
def test_a_damaged_evaluation_is_named(words: dict[str, object], found: str, tmp_path: Path) -> None:
    """An evaluation whose entries are of another kind is one clear line."""
    shutil.copytree(ROOT / "results" / SHORT, tmp_path / "runs")
    whole = {"error_percent": 1.0, "images": 10, "class_errors_percent": {}, "most_surely_wrong": []}
    (tmp_path / "runs" / "evaluation.json").write_text(json.dumps(whole | words))
    with pytest.raises(ReportError) as caught:
        build([tmp_path / "runs"], tmp_path / "out", draw=False)
    assert str(caught.value) == f"{tmp_path}/runs/evaluation.json: found {found}"


def test_what_is_wrong_with_a_page_is_seen(seen: Browser, tmp_path: Path) -> None:
    """A word on the console, an exception, a request, a missing picture, too wide, too faint, no policy: each is a fault."""
    (tmp_path / "bad.html").write_text(
        "<!doctype html><style>:root { color-scheme: light dark } p { width: 500px; color: #ccc; background: #fff }</style>"
        "<p>faint</p><img src='none.png'><script>console.error('said'); fetch('http://127.0.0.1:9/x').catch(() => 0); "
        "setTimeout(() => { throw new Error('thrown') })</script>"
    )
    found = "\n".join(faults(seen, tmp_path / "bad.html"))
    for word in (
        "console: error",
        "thrown",
        "asks for http://127.0.0.1:9/x",
        "no picture",
        "px wide",
        "too faint",
        "no content",
    ):
        assert word in found, word
    assert "1280 px, dark: too faint" in found and "1280 px, light: 5" not in found


def test_every_kind_of_page_is_opened() -> None:
    """Each template of a page is one that these tests, those of the gallery or those of `allconv open` fill and open."""
    opened = {"report.html.j2", "run.html.j2", "index.html.j2"}
    opened |= {"gallery_index.html.j2", "gallery_layer.html.j2", "gallery_unit.html.j2"}
    below = {"page.html.j2", "parts.html.j2", "gallery_base.html.j2"}
    assert {path.name for path in (ROOT / "allconv_caffe").rglob("*.html*")} == opened | below
    makers = [path for path in (ROOT / "allconv_caffe").rglob("*.py") if "<html" in path.read_text(encoding="utf-8")]
    assert makers == []
