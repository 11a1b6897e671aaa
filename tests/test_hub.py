"""Models to and from elsewhere: a web server on this machine, and a stand-in for the hub."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from support.extras import needed

from allconv_caffe import hub, proto, zoo
from allconv_caffe.cli import main as cli
from allconv_caffe.zoo import ZooError
from data_prep.errors import PrepError
from data_prep.whitening import Whitening

DEPLOY = """name: "Tiny"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
        convolution_param { num_output: 2 kernel_size: 8 } }
layer { name: "prob" type: "Softmax" bottom: "conv1" top: "prob" }
"""


class Server(SimpleHTTPRequestHandler):
    """Files of a folder, from the byte that is asked for on; `cut`: of each file whose name ends so, so many bytes at first."""

    cut: ClassVar[dict[str, int]] = {}
    asked: ClassVar[list[tuple[str, str]]] = []

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        self.asked.append((path.name, self.headers.get("Range", "")))
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: self.cut.pop(path.suffix, None)])

    def log_message(self, *_: Any) -> None:
        pass


def _model(folder: Path, name: str, whitening: str, **more: Any) -> Path:
    """A whole model of 386 parameters; its whitening lies in its folder, or in that of `whitening`."""
    out = folder / name
    out.mkdir(parents=True)
    (out / "deploy.prototxt").write_text(DEPLOY)
    net = proto.NetParameter(name="Tiny")
    layer = net.layer.add(name="conv1", type="Convolution")
    for values in (np.random.default_rng(1).normal(size=(2, 3, 8, 8)), np.zeros(2)):
        blob = layer.blobs.add()
        blob.shape.dim.extend(values.shape)
        blob.data.extend(values.ravel().tolist())
    proto.write_binary(out / f"{name}.caffemodel", net)
    if whitening == "whitening.npz":
        Whitening(method="gcn", shape=(3, 8, 8), mean=np.zeros(192, np.float32), zca=None).save(out / whitening)
    facts: dict[str, Any] = dict.fromkeys(("experiment", "source", "schedule", "device", "published_parameters"), "x")
    facts |= {"format_version": 1, "name": name, "model": "Tiny", "dataset": "Made", "preprocessing": "gcn", "seed": 1}
    facts |= {"paper_dataset": "", "precision": "float32", "engine": "torch", "command": "allconv run x", "epochs": 2.0}
    facts |= {"test_error_percent": 12.5, "published_error_percent": None, "parameters": 386, "n_train": 3, "n_test": 4}
    facts |= {"class_names": ["a", "b"], **more}
    for key, file in (("weights", f"{name}.caffemodel"), ("deploy", "deploy.prototxt"), ("whitening", whitening)):
        content = (out / file).read_bytes()
        facts[key] = {"file": file, "bytes": len(content), "sha1": hashlib.sha1(content).hexdigest()}
    zoo.write_card(out, facts)
    assert zoo.verify(out) == []
    return out


def _sha1(model: Path) -> str:
    return hashlib.sha1((model / zoo.CARD).read_bytes()).hexdigest()


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a folder with two models, of which the second has the first one's whitening."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("ALLCONV_ZOO", raising=False)
    monkeypatch.setattr(Server, "cut", {})
    monkeypatch.setattr(Server, "asked", [])
    first = _model(tmp_path / "served", "first", "whitening.npz")
    _model(tmp_path / "served", "second", "../first/whitening.npz")
    assert first.is_dir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Server, directory=str(tmp_path / "served")))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_model_comes_from_a_server(served: str, tmp_path: Path) -> None:
    """All files, checked; a whitening that lies with another model comes along; the second time nothing is asked for."""
    sha1 = _sha1(tmp_path / "served/second")
    made = hub.get(f"{served}/second", sha1=sha1, progress=False)
    assert made.folder == Path("models/second") and zoo.verify("second") == []
    assert made.facts["whitening"]["file"] == "whitening.npz"
    assert (made.folder / "whitening.npz").read_bytes() == (tmp_path / "served/first/whitening.npz").read_bytes()
    assert sorted(path.name for path in Path("models").iterdir()) == ["second"]
    with pytest.raises(ZooError, match="models/second: found a model of that name, expected none"):
        hub.get("second", base=served, sha1=sha1, progress=False)


def test_what_has_arrived_is_not_asked_for_again(served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transfer that ends early, and a command that is stopped, go on where they were."""
    sha1 = _sha1(tmp_path / "served/first")
    Server.cut[".caffemodel"] = 700
    whole = (tmp_path / "served/first/whitening.npz").read_bytes()
    (tmp_path / "served/first/whitening.npz").unlink()
    with pytest.raises(PrepError, match="HTTP status 404"):
        hub.get(f"{served}/first", sha1=sha1, wait_seconds=0, progress=False)
    assert not Path("models/first").exists() and zoo.cards() == []
    assert ("first.caffemodel", "bytes=700-") in Server.asked
    (tmp_path / "served/first/whitening.npz").write_bytes(whole)
    Server.asked.clear()
    hub.get(f"{served}/first", sha1=sha1, progress=False)
    assert [name for name, _ in Server.asked] == ["card.json", "whitening.npz"]
    assert zoo.verify("first") == [] and [path.name for path in Path("models").iterdir()] == ["first"]


def test_a_model_comes_with_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder, with no address: a name that is not there yet leads to `zoo get`, which puts it there, whole."""
    monkeypatch.chdir(tmp_path)
    name = "cifar10-strided-cnn-c-jpeg"
    asked = CliRunner().invoke(cli.main, ["predict", name, "x.png"], prog_name="allconv")
    assert asked.output.endswith(f"expected one of: none; `allconv zoo get {name}` puts it there\n")
    got = CliRunner().invoke(cli.main, ["zoo", "get", name], prog_name="allconv")
    assert got.output == f"models/{name}: 15.89 % test error on CIFAR-10 (JPEG)\n"
    assert zoo.verify(name) == []


@pytest.mark.parametrize(
    ("source", "sha1", "line"),
    [
        ("{}/none", "00", "{}/none/card.json: found HTTP status 404, expected the card of a model"),
        ("{}/first", "00" * 20, "{}/first/card.json: found SHA-1 {sha1}, expected " + "00" * 20),
        (
            "{}/first",
            None,
            "--sha1: found nothing, expected the SHA-1 of {}/first/card.json, as `allconv zoo push` says it",
        ),
        (
            "first",
            None,
            "model first: found none of that name with this package, expected one of: cifar10-allcnn-c-jpeg, "
            "cifar10-convpool-cnn-c-jpeg, cifar10-model-c-jpeg, cifar10-strided-cnn-c-jpeg; or a URL, hf:OWNER/NAME, or --from (or "
            "ALLCONV_ZOO): a folder of models",
        ),
        ("{}/page", "PAGE", "{}/page/card.json: found a list, expected the card of a model"),
    ],
)
def test_what_is_no_model_is_one_line(served: str, tmp_path: Path, source: str, sha1: str | None, line: str) -> None:
    """Where, what was found, what was expected; nothing stays."""
    page = tmp_path / "served/page"
    page.mkdir()
    (page / "card.json").write_text("[]")
    own = _sha1(tmp_path / "served/first")
    with pytest.raises(ZooError) as error:
        hub.get(source.format(served), sha1=_sha1(page) if sha1 == "PAGE" else sha1, progress=False)
    assert str(error.value) == line.format(served, sha1=own)
    assert not Path("models").exists() or not list(Path("models").iterdir())


def test_a_name_that_leads_elsewhere_is_refused(served: str, tmp_path: Path) -> None:
    """A card of a stranger names no folder but its own."""
    card = tmp_path / "served/first/card.json"
    card.write_text(card.read_text().replace('"name": "first"', '"name": "../first"'))
    with pytest.raises(ZooError, match=r"name '\.\./first'"):
        hub.get(f"{served}/first", sha1=_sha1(card.parent), progress=False)
    assert not Path("first").exists()


def test_a_file_that_was_changed_is_refused(served: str, tmp_path: Path) -> None:
    """Other weights under the card's name: the SHA-1 is named, and no model is there."""
    path = tmp_path / "served/first/first.caffemodel"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(PrepError, match=r"first.caffemodel: found SHA-1 "):
        hub.get(f"{served}/first", sha1=_sha1(path.parent), progress=False)
    assert not Path("models/first").exists()


class StandIn:
    """What the hub's client is asked, answered from a folder."""

    def __init__(self, home: Path) -> None:
        self.home, self.asked = home, list[Any]()

    def HfApi(self) -> StandIn:  # noqa: N802  (the client's own name)
        return self

    def create_repo(self, repo_id: str, *, exist_ok: bool) -> None:
        self.asked.append(("create", repo_id, exist_ok))

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> None:
        self.asked.append(("upload", repo_id, commit_message))
        shutil.copytree(folder_path, self.home / repo_id, dirs_exist_ok=True)

    def hf_hub_download(self, repo_id: str, filename: str, *, revision: str | None) -> str:
        self.asked.append((filename, repo_id, revision))
        path = self.home / repo_id / filename
        if not path.is_file():
            raise RuntimeError("404 Client Error")  # a kind of its own, at the real one
        return str(path)


def test_a_model_goes_to_the_hub_and_comes_from_it(
    served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Push makes the repository and sends one folder with all files; get takes them in a revision, checked."""
    stand_in = StandIn(tmp_path / "hub")
    monkeypatch.setitem(sys.modules, "huggingface_hub", stand_in)  # type: ignore[arg-type]
    (pushed,) = hub.push(["second"], "hf:me/tiny", tmp_path / "served")
    assert stand_in.asked == [("create", "me/tiny", True), ("upload", "me/tiny", "second: 12.50 % test error on Made")]
    assert pushed.sha1 == _sha1(tmp_path / "hub/me/tiny")
    stand_in.asked.clear()
    made = hub.get("hf:me/tiny@v1")
    assert made.folder == Path("models/second") and zoo.verify("second") == []
    assert {asked[2] for asked in stand_in.asked} == {"v1"}
    shutil.rmtree("models")
    (tmp_path / "hub/me/tiny/deploy.prototxt").write_text("")
    with pytest.raises(ZooError, match=r"hf:me/tiny/deploy.prototxt: found SHA-1 da39a3"):
        hub.get("hf:me/tiny")
    with pytest.raises(
        ZooError, match=r"hf:me/none/card.json: found RuntimeError: 404 Client Error, expected a file of"
    ):
        hub.get("hf:me/none")


def test_without_the_client_the_extra_is_named(served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says what to install."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # type: ignore[arg-type]
    with pytest.raises(ZooError, match="^hf:me/tiny: found 2 models, expected one: a repository holds one model$"):
        hub.push(["first", "second"], "hf:me/tiny", tmp_path / "served")
    for call in (lambda: hub.get("hf:me/tiny"), lambda: hub.push(["first"], "hf:me/tiny", tmp_path / "served")):
        with pytest.raises(ZooError, match=r"the extra `hub`: pip install 'allconv-caffe\[hub\]'$"):
            call()


def test_the_commands(served: str, tmp_path: Path) -> None:
    """`zoo push` into a folder for a web server says what to type elsewhere, and that works; a changed model is not sent."""
    out = CliRunner().invoke(cli.main, ["zoo", "push", "second", "--to", "served/site", "--folder", "served"])
    sha1 = _sha1(tmp_path / "served/site/second")
    assert out.exit_code == 0 and out.output == (
        f"served/site/second: allconv zoo get second --from URL; its card has the SHA-1 {sha1}\n"
    )
    words = ["zoo", "get", "second", "--from", f"{served}/site", "--sha1", sha1, "--quiet"]
    out = CliRunner().invoke(cli.main, words)
    assert (out.exit_code, out.output) == (0, "models/second: 12.50 % test error on Made\n")
    (tmp_path / "models/second/deploy.prototxt").write_text("")
    out = CliRunner().invoke(cli.main, ["zoo", "push", "second", "--to", "elsewhere"])
    assert out.exit_code == 1 and "deploy.prototxt: found SHA-1" in out.output and not Path("elsewhere").exists()


def test_a_zoo_gives_a_model_by_its_name(served: str, tmp_path: Path) -> None:
    """`push` of several models makes the catalogue, later ones extend it; `list --from` shows it, `get NAME --from` needs no
    more than the address, or the folder."""

    def call(*words: str) -> str:
        out = CliRunner().invoke(cli.main, ["zoo", *words, "--quiet"])
        assert out.exit_code == 0, out.output
        return out.output

    _model(tmp_path / "served", "third", "../first/whitening.npz")
    assert call("push", "second", "third", "--to", "served/site", "--folder", "served").count("--from URL") == 2
    found = json.loads(Path("served/site/catalogue.json").read_text())
    third = found["models"]["third"]
    assert third.pop("bytes") == sum(
        path.stat().st_size
        for path in Path("served/site/third").iterdir()
        if path.name not in ("card.json", "README.md")
    )
    sha1 = _sha1(tmp_path / "served/site/third")
    shown = {"model": "Tiny", "dataset": "Made", "epochs": 2.0, "test_error_percent": 12.5}
    assert third == {"sha1": sha1, **shown} and found["format_version"] == 1
    call("push", "first", "second", "--to", "served/site", "--folder", "served")  # one that lies there just so stays
    lines = [f"{name:<6}   12.50 %  Made, 2 epochs" for name in ("first", "second", "third")]
    assert call("list", "--from", f"{served}/site").splitlines() == lines
    assert call("get", "second", "--from", f"{served}/site/") == "models/second: 12.50 % test error on Made\n"
    assert call("get", "third", "--from", "served/site", "--folder", "others").startswith("others/third: ")
    assert zoo.verify("second") == zoo.verify("third", folder="others") == []
    assert sorted(path.name for path in Path("models").iterdir()) == ["second"]


@pytest.mark.parametrize("where", ["{}/site", "served/site"])
def test_what_a_zoo_cannot_give_is_one_line(served: str, tmp_path: Path, where: str) -> None:
    """An unknown name is answered with the choices; no catalogue, a damaged one, other files than it says; nothing stays."""
    hub.push(["first", "second"], "served/site", tmp_path / "served")
    base = where.format(served)
    catalogue = tmp_path / "served/site/catalogue.json"
    right = json.loads(catalogue.read_text())

    def refused(name: str) -> str:
        with pytest.raises((ZooError, PrepError)) as error:
            hub.get(name, base=base, progress=False)
        assert not Path("models").exists() or not list(Path("models").glob("[!.]*"))
        return str(error.value)

    assert refused("frist") == (
        f"{base}/catalogue.json: found no model frist, expected one of: first, second; did you mean first?"
    )
    (tmp_path / "served/site/first/deploy.prototxt").write_text("x" * len(DEPLOY))
    assert "deploy.prototxt: found SHA-1 " in refused("first")
    right["models"]["second"]["sha1"] = "00" * 20
    catalogue.write_text(json.dumps(right))
    own = _sha1(tmp_path / "served/site/second")
    assert refused("second") == f"{base}/second/card.json: found SHA-1 {own}, expected {'00' * 20}"
    right["models"]["second"]["sha1"] = 7
    catalogue.write_text(json.dumps(right))
    assert refused("second") == f"{base}/catalogue.json: found second.sha1 7, expected a text"
    catalogue.write_text('{"format_version": 2}')
    assert refused("second") == f"{base}/catalogue.json: found format_version 2, expected 1"
    catalogue.write_text("[")
    assert refused("second").startswith(f"{base}/catalogue.json: found no JSON (")
    catalogue.write_bytes(b" " * (hub.MOST_CATALOGUE_BYTES + 1))
    assert refused("second").startswith(f"{base}/catalogue.json: found more than 1048576 bytes, expected the catalogue")
    catalogue.unlink()
    assert re.fullmatch(
        rf"{base}/catalogue.json: found (HTTP status 404|nothing \(No such file or directory\)), expected the catalogue of a "
        "zoo, as `allconv zoo push --to FOLDER` writes it",
        refused("second"),
    )


def test_a_zoo_takes_all_or_none(served: str, tmp_path: Path) -> None:
    """Another model under a name that is taken, or one that is not as its card says: none of those named is put there."""
    hub.push(["first"], "served/site", tmp_path / "served")
    before = Path("served/site/catalogue.json").read_bytes()
    _model(tmp_path / "others", "first", "whitening.npz", seed=2)
    _model(tmp_path / "others", "fourth", "whitening.npz")
    with pytest.raises(ZooError, match="served/site/first: found a model of that name, expected none"):
        hub.push(["fourth", "first"], "served/site", tmp_path / "others")
    (tmp_path / "others/first/deploy.prototxt").write_text("")
    with pytest.raises(ZooError, match="found SHA-1"):
        hub.push(["fourth", "first"], "served/new", tmp_path / "others")
    assert not Path("served/site/fourth").exists() and not Path("served/new").exists()
    assert Path("served/site/catalogue.json").read_bytes() == before


def test_the_hub_is_asked_as_its_client_wants_it() -> None:
    """What the stand-in takes, the real client takes by the same names."""
    client = needed("huggingface_hub", "hub")
    pairs = (
        (client.HfApi.create_repo, StandIn.create_repo),
        (client.HfApi.upload_folder, StandIn.upload_folder),
        (client.hf_hub_download, StandIn.hf_hub_download),
    )
    for real, stand_in in pairs:
        taken = set(inspect.signature(real).parameters) | {"self"}
        assert set(inspect.signature(stand_in).parameters) <= taken


def test_a_card_begins_with_what_the_hub_reads(tmp_path: Path) -> None:
    """Front matter in YAML: license where one was given, library, tags, metrics; names of any kind stay what they are."""
    out = _model(tmp_path, "first", "whitening.npz", license="mit", dataset='Cats: "all"')
    head, text = (out / "README.md").read_text().removeprefix("---\n").split("\n---\n", 1)
    found = yaml.safe_load(head)
    assert (found["license"], found["library_name"], found["pipeline_tag"]) == (
        "mit",
        "allconv-caffe",
        "image-classification",
    )
    assert found["tags"] == ["caffe", "image-classification"] and found["metrics"] == ["accuracy"]
    (result,) = found["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "accuracy", "value": 87.5}] and result["dataset"]["name"] == 'Cats: "all"'
    assert text.startswith("\n# first\n")
    facts = json.loads((out / "card.json").read_text())
    assert "license" not in zoo.page({**facts, "license": None}).split("\n---\n")[0]
    assert facts["license"] == "mit"
