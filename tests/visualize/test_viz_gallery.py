"""The pages of the gallery: whole, self-contained, escaped, truthful about dead units; and seen by a real browser where one is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import cv2
import numpy as np
import pytest
from support.browser import Browser, browser, faults

from allconv_caffe.proto import NetParameter, read_net, to_text
from allconv_caffe.visualize.gallery import gallery, histogram_svg, sprite
from allconv_caffe.visualize.mining import EDGES, TopK, mine
from allconv_caffe.visualize.nets.base import VizNet
from allconv_caffe.visualize.nets.errors import VizError
from allconv_caffe.visualize.nets.open import open_net
from allconv_caffe.visualize.patches import cut, top_patches
from allconv_caffe.visualize.sources import ImageSource, open_images
from allconv_caffe.visualize.whitening import load_whitening

NAME = "cifar10-allcnn-c-jpeg"
DEAD = 3  # of conv3, in the small world
HOSTILE = '<i>a&b"</i>'


class Page(HTMLParser):
    """What a page refers to, its text, and its elements by class."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.classes: list[str] = []
        self.words: list[str] = []
        self.tags: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("href", "src", "srcset", "action", "data", "poster"):
                self.links.append(value or "")
            if name == "class":
                self.classes += (value or "").split()

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def net(viz_world: Path) -> VizNet:
    folder = viz_world / "models" / NAME
    return open_net(folder / "deploy.prototxt", folder / "small.caffemodel")


@pytest.fixture(scope="module")
def source(viz_world: Path, net: VizNet) -> ImageSource:
    space = load_whitening(viz_world / "models" / NAME / "whitening.npz")
    return open_images(viz_world / "data" / NAME.replace("-allcnn-c", "") / "test_lmdb", net.input_shape, space)


@pytest.fixture(scope="module")
def topk(viz_world: Path) -> TopK:
    return TopK.load(viz_world / "build" / "topk.npz")


@pytest.fixture(scope="module")
def built(net: VizNet, source: ImageSource, topk: TopK, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery of three layers under a title that tries to be HTML."""
    folder = tmp_path_factory.mktemp("gallery")
    assert gallery(net, source, topk, folder, title=HOSTILE, k=3, command="allconv viz gallery") == str(
        folder / "index.html"
    )
    return folder


def pages(folder: Path) -> dict[Path, Page]:
    return {path: Page(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.html"))}


def test_every_link_leads_to_a_file_and_every_page_is_linked(built: Path) -> None:
    """No link is broken or leaves the folder, and from index.html every file can be reached."""
    found = pages(built)
    assert len(found) == 1 + 3 + 6 + 8 + 10
    reached = {built / "index.html"}
    for path, page in found.items():
        for link in page.links:
            if link == "data:,":
                continue
            parts = urlsplit(link)
            assert not parts.scheme and not parts.netloc and not link.startswith("/"), (path, link)
            target = (path.parent / unquote(parts.path)).resolve()
            assert target.is_file() and target.is_relative_to(built.resolve()), (path, link)
            reached.add(target)
    assert reached == {path.resolve() for path in built.rglob("*") if path.is_file()}


def test_nothing_comes_from_elsewhere(built: Path) -> None:
    """No page, style or script names an address, and none says where on this machine it was made."""
    for path in built.rglob("*"):
        if path.suffix in (".html", ".css", ".js"):
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"^//.*|\n//.*", "", text)), path
            assert str(built) not in text


def test_names_are_escaped(built: Path) -> None:
    """A title with tags and quotes is shown as it is and makes no element."""
    for path, page in pages(built).items():
        assert HOSTILE in page.text and "i" not in page.tags, path


def test_blobs_with_strange_names_get_folders(
    viz_world: Path, net: VizNet, source: ImageSource, tmp_path: Path
) -> None:
    """Slashes, tags and names that differ in case only: each blob its own folder, its name on the page as it is."""
    names = {"conv3": "inception/3x3<b>", "conv2": "../up", "conv1": "A", "conv4": "a"}
    param = NetParameter()
    param.CopyFrom(read_net(viz_world / "models" / NAME / "deploy.prototxt"))
    for layer in param.layer:
        for words in (layer.bottom, layer.top):
            for i, word in enumerate(words):
                words[i] = names.get(word, word)
    (tmp_path / "net.prototxt").write_text(to_text(param))
    renamed = open_net(tmp_path / "net.prototxt", viz_world / "models" / NAME / "small.caffemodel")
    found = mine(renamed, source, list(names.values()), k=1, progress=False)
    gallery(renamed, source, found, tmp_path / "out", channels=[0], rules=["guided"], arrays=False)
    index = Page((tmp_path / "out" / "index.html").read_text())
    assert all(name in index.text for name in names.values()) and "b" not in index.tags
    folders = [path for path in (tmp_path / "out").iterdir() if path.is_dir()]
    assert len({path.name.lower() for path in folders}) == 4 and all((path / "0000.html").is_file() for path in folders)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.prototxt", "out"]


def test_dead_units_are_flagged(built: Path, topk: TopK) -> None:
    """A unit that no image activates says so on its page, in its layer's list and in the counts, and has no picture."""
    dead = {blob: set(np.flatnonzero(channels.dead)) for blob, channels in topk.blobs.items()}
    assert dead["conv3"] == {DEAD}
    for blob, channels in topk.blobs.items():
        layer = Page((built / blob / "index.html").read_text())
        assert f"{len(channels.values)} units, {len(dead[blob])} dead." in layer.text
        assert layer.classes.count("dead") == len(dead[blob])
        for channel in range(len(channels.values)):
            page = Page((built / blob / f"{channel:04d}.html").read_text())
            facts = json.loads((built / blob / f"{channel:04d}.json").read_text())
            is_dead = channel in dead[blob]
            assert ("flag" in page.classes) == is_dead == facts["dead"]
            assert ("None of 12 images activates it" in page.text) == is_dead
            assert (built / blob / f"{channel:04d}.png").exists() != is_dead
            assert bool(facts["patches"]) != is_dead
    counts = [len(dead[blob]) for blob in topk.blobs]
    rows = re.findall(r'class="number">(\d+)(?: \(\d+ %\))?</td>', (built / "index.html").read_text())
    assert [int(word) for word in rows[1::2]] == counts


def test_pictures_are_the_patches_and_their_maps(built: Path, net: VizNet, source: ImageSource, topk: TopK) -> None:
    """The sprite's rows are image, guided, deconvnet, backprop, cut by the same box; JSON and .npz say the same."""
    facts = json.loads((built / "conv6" / "0001.json").read_text())
    assert facts["rows"] == ["image", "guided", "deconvnet", "backprop"] and facts["command"] == "allconv viz gallery"
    picture = cv2.imread(str(built / "conv6" / "0001.png"))[..., ::-1]
    with np.load(built / "conv6" / "0001.npz") as file:
        arrays = {name: file[name] for name in file.files}
    for row, rule in enumerate(("guided", "deconvnet", "backprop"), start=1):
        (patches,) = top_patches(net, source, topk, "conv6", [1], k=3, rules=[rule])[rule]
        tiles, maps = cut(patches, source.space)
        np.testing.assert_allclose(arrays[rule], np.stack(maps), rtol=1e-4, atol=1e-6)
        h, w = tiles[0].shape[:2]
        factor = (picture.shape[1] + 1) // len(patches) // w
        for i, patch in enumerate(patches):
            entry = facts["patches"][i]
            assert (entry["image"], entry["unit"], entry["rank"]) == (patch.key, str(patch.unit), i)
            assert entry["box"] == patch.box.as_list() and entry["activation"] == pytest.approx(
                patch.activation, rel=1e-4
            )
            left = i * (w * factor + 1)
            assert np.array_equal(picture[: h * factor : factor, left : left + w * factor : factor], tiles[i])
            top = row * (h * factor + 1)
            drawn = picture[top : top + h * factor : factor, left : left + w * factor : factor]
            expected = 127.5 + 127.5 * maps[i].transpose(1, 2, 0) / np.abs(maps[i]).max()
            assert np.abs(drawn - expected).max() <= 1


def test_a_sprite_is_tiles_in_rows() -> None:
    """Two rows of 13x13 tiles: each enlarged twice, one white pixel between."""
    rows = [[np.full((13, 13, 3), 10 * j + i, np.uint8) for i in range(3)] for j in range(2)]
    out = sprite(rows)
    assert out.shape == (2 * 26 + 1, 3 * 26 + 2, 3)
    assert (out[0, :26] == 0).all() and (out[:, 26] == 255).all() and (out[27:, 54:] == 12).all()


def test_the_histogram_counts_every_image() -> None:
    """A bar for each bin between the lowest and the highest used, its count in words, the images without activation apart."""
    counts = np.zeros(len(EDGES) + 1, int)
    counts[0], counts[31], counts[33] = 5, 2, 7
    text = histogram_svg(counts)
    titles = re.findall(r"<title>(.*?): (\d+) images</title>", text)
    assert [int(count) for _, count in titles] == [5, 2, 0, 7]
    assert titles[1][0] == f"{EDGES[30]:.3g} to {EDGES[31]:.3g}"
    heights = [float(word) for word in re.findall(r'height="([\d.]+)"><title>', text)]
    assert heights == pytest.approx([64 * count / 7 for count in (5, 2, 0, 7)], abs=0.06)
    assert "<title>" in histogram_svg(np.zeros(len(EDGES) + 1, int))


def test_what_does_not_fit_is_refused(net: VizNet, source: ImageSource, topk: TopK, tmp_path: Path) -> None:
    """A blob that was not mined, a channel out of range, an unknown rule or space: before anything is written."""
    for arguments, message in (
        ({"blobs": ["conv1"]}, "mined blobs: found 'conv1', expected a blob that was mined"),
        ({"channels": [7]}, "blob 'conv3': found channel 7, expected 0 to 5"),
        ({"rules": ["lrp"]}, "rule: found 'lrp'"),
        ({"shown": "sky"}, "space: found 'sky', expected input or pixel"),
    ):
        with pytest.raises(VizError, match=re.escape(message)):
            gallery(net, source, topk, tmp_path / "out", **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.timeout(600)
def test_a_browser_finds_no_fault(built: Path, seen: Browser) -> None:
    """Every page from file://, narrow and wide, light and dark: no word on the console, no request, no picture missing."""
    pages = sorted(built.rglob("*.html"))
    assert [fault for page in pages for fault in faults(seen, page)] == []


def test_a_browser_draws_the_unit(built: Path, seen: Browser, tmp_path: Path) -> None:
    """The sprite is laid out beneath the histogram, every row of it visible on the screenshot."""
    shot = tmp_path / "unit.png"
    seen.open(built / "conv6" / "0001.html")
    seen.screenshot(shot)
    drawn = cv2.imread(str(shot)).astype(int)
    sprite_ = cv2.imread(str(built / "conv6" / "0001.png")).astype(int)
    assert drawn.shape[1] == 1280
    # the first patch's middle pixel, enlarged without smoothing, stands as one flat square somewhere on the page
    wanted = sprite_[12, 12]
    where = np.abs(drawn - wanted).max(axis=2) <= 1
    assert where.sum() >= 16, "the patch is not on the page"
    for row in range(4):  # every row of the sprite is there: its most frequent colour is on the page
        part = sprite_[row * (sprite_.shape[0] + 1) // 4 :][: sprite_.shape[0] // 4].reshape(-1, 3)
        colours, counts = np.unique(part, axis=0, return_counts=True)
        assert (np.abs(drawn - colours[counts.argmax()]).max(axis=2) <= 1).any(), row


def test_the_script_sorts_and_hides(built: Path, seen: Browser) -> None:
    """Sorted by largest activation the strongest card comes first; without dead units theirs are gone."""
    seen.open(built / "conv3" / "index.html")
    seen.run("document.getElementById('order').value = 'maximum'")
    seen.run("document.getElementById('order').dispatchEvent(new Event('change'))")
    seen.click("#alive")
    cards = seen.run(
        "[...document.querySelectorAll('.card')].map((e) => [+e.dataset.channel, +e.dataset.maximum, e.hidden])"
    )
    strengths = [strength for _, strength, _ in cards]
    assert len(cards) == 6 and strengths == sorted(strengths, reverse=True)
    assert [channel for channel, _, hidden in cards if hidden] == [DEAD]


def test_arrow_keys_turn_the_pages(built: Path, seen: Browser) -> None:
    """From a unit to the next, and back."""
    seen.open(built / "conv6" / "0001.html")
    for key, name in (("ArrowRight", "0002.html"), ("ArrowLeft", "0001.html")):
        seen.press(key)
        seen.wait(f"location.pathname.endsWith('{name}') && document.readyState === 'complete'")
