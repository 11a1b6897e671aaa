"""Models from elsewhere and for others: `get` takes one from a web server or the Hugging Face hub, `push` sends one there, or
makes the folder that a web server needs.

get("https://example.org/models/tiny", sha1="…")      # the SHA-1 of its card.json, which has that of every other file
get("hf:somebody/tiny@v1")
push("tiny", "hf:somebody/tiny")
push("tiny", "build/site")                             # build/site/tiny
"""

from __future__ import annotations

import hashlib
import importlib
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from allconv_caffe import files, zoo
from allconv_caffe.errors import PlacedError
from allconv_caffe.zoo import CARD, DEFAULT_FOLDER, Card, ZooError
from data_prep import download

HUB = "hf:"
MOST_CARD_BYTES = 1 << 20
_TIMEOUT_SECONDS = (10, 60)  # to connect, between two reads


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a model's files come from."""

    # as it was named
    name: str
    # the content of its card
    card: bytes
    # puts the file that a card names, with its entry, at a path, complete and right
    fetch: Callable[[dict[str, Any], Path], None]


def get(
    source: str,
    folder: str | Path = DEFAULT_FOLDER,
    *,
    sha1: str | None = None,
    base: str = "",
    wait_seconds: float = 1.0,
    progress: bool = True,
) -> Card:
    """Makes ``folder/<its name>/`` of a model elsewhere, checked, whole or not at all.

    What has arrived of its files stays beside it, hidden, and the next call goes on from there.

    Args:
        source: the URL of a model's folder, ``hf:OWNER/NAME`` or ``hf:OWNER/NAME@REVISION``, or a name below `base`.
        sha1: of its ``card.json``; the hub's files may do without.
        base: the URL of a folder of models.
        wait_seconds: before a broken transfer is taken up again; doubled before each later time.
    Raises:
        ZooError: no such model, another SHA-1, a model of that name here, files that do not belong together. PrepError: a
            server that refuses or stays unreachable.
    """
    folder = Path(folder)
    found = _of_hub(source) if source.startswith(HUB) else _of_url(_url(source, base), sha1, wait_seconds, progress)
    digest = hashlib.sha1(found.card).hexdigest()
    if sha1 is not None and digest != sha1.lower():
        raise ZooError(f"{found.name}/{CARD}", f"SHA-1 {digest}", sha1)
    facts = _read(found)
    out = folder / facts["name"]

    def free() -> None:
        if out.exists():
            raise ZooError(out, "a model of that name", "none; remove it, or give another --folder")

    free()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with files.building(out, free, token=digest) as built:
            for entry in zoo.entries(facts):
                local = Path(entry["file"]).name
                found.fetch(dict(entry), Path(built) / local)
                entry["file"] = local  # also a whitening that lies with another model there
            zoo.write_card(Path(built), facts)
            if problems := zoo.differences(Card(Path(built), facts), shown=out):
                raise ZooError.of(PlacedError(found.name, problems[0]))
    except files.Held:
        raise ZooError(out, "another `allconv zoo get` at work", "one at a time for the same name") from None
    return Card(out, facts)


def _read(found: Source) -> dict[str, Any]:
    """The facts of a card that came from elsewhere. Raises: ZooError."""
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / CARD
        path.write_bytes(found.card)
        try:
            return zoo.read_card(path)
        except ZooError as error:
            error.where = f"{found.name}/{CARD}"
            raise error from None


def _url(source: str, base: str) -> str:
    if "://" in source:
        return source.removesuffix(f"/{CARD}").rstrip("/")
    if not base:
        raise ZooError(
            f"model {source}", "no address", "a URL, hf:OWNER/NAME, or --from (or ALLCONV_ZOO): a folder of models"
        )
    return f"{base.rstrip('/')}/{source}"


def _of_url(url: str, sha1: str | None, wait_seconds: float, progress: bool) -> Source:
    """A model on a web server; its card is read at once. Raises: ZooError, PrepError."""
    if sha1 is None:
        raise ZooError("--sha1", "nothing", f"the SHA-1 of {url}/{CARD}, as `allconv zoo push` says it")

    def fetch(entry: dict[str, Any], path: Path) -> None:
        folder, file = (
            (url.rpartition("/")[0], entry["file"][3:]) if entry["file"][:3] == "../" else (url, entry["file"])
        )
        words = dict(wait_seconds=wait_seconds, progress=progress)
        download.fetch(f"{folder}/{file}", path, entry["bytes"], entry["sha1"], **words)  # type: ignore[arg-type]

    try:
        with requests.get(f"{url}/{CARD}", stream=True, timeout=_TIMEOUT_SECONDS) as response:
            if response.status_code != 200:
                raise ZooError(f"{url}/{CARD}", f"HTTP status {response.status_code}", "the card of a model")
            content = response.raw.read(MOST_CARD_BYTES + 1, decode_content=True)
    except requests.RequestException as error:
        raise ZooError(
            url, f"an address that cannot be asked ({type(error).__name__})", "an http or https URL"
        ) from None
    if len(content) > MOST_CARD_BYTES:
        raise ZooError(f"{url}/{CARD}", f"more than {MOST_CARD_BYTES} bytes", "the card of a model")
    return Source(name=url, card=content, fetch=fetch)


def _of_hub(name: str) -> Source:
    """A model on the Hugging Face hub, in its own cache, which goes on where it stopped. Raises: ZooError."""
    hub = _hub()
    repo, _, revision = name.removeprefix(HUB).partition("@")

    def path_of(file: str) -> Path:
        try:
            return Path(hub.hf_hub_download(repo_id=repo, filename=file, revision=revision or None))
        except Exception as error:  # its own kinds, and those of what it stands on
            raise ZooError(
                f"{name}/{file}", f"{type(error).__name__}: {error}", "a file of a model on the hub"
            ) from None

    def fetch(entry: dict[str, Any], path: Path) -> None:
        local = path_of(entry["file"])
        if (digest := files.digest(local, "sha1")) != entry["sha1"]:
            raise ZooError(f"{name}/{entry['file']}", f"SHA-1 {digest}", entry["sha1"])
        with files.replacing(path) as temporary:
            shutil.copyfile(local, temporary)

    return Source(name=name, card=path_of(CARD).read_bytes(), fetch=fetch)


def _hub() -> Any:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise ZooError(
            "hub", f"no huggingface_hub ({error})", "the extra `hub`: pip install 'allconv-caffe[hub]'"
        ) from None


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """A model that others can get."""

    # where it lies
    where: str
    # of its card.json
    sha1: str


def push(model: str | Path, target: str, folder: str | Path = DEFAULT_FOLDER) -> Pushed:
    """Sends a model, verified, with all that it needs, to ``hf:OWNER/NAME`` or into the folder ``target``.

    Raises:
        ZooError: no such model, one that is not as its card says, one that lies there already, a hub that refuses.
    """
    if problems := zoo.verify(model, None, folder):
        raise ZooError.of(PlacedError("model", problems[0]))
    found = zoo.card(model, folder)
    if not target.startswith(HUB):
        out = Path(target) / found.facts["name"]
        if out.exists():
            raise ZooError(out, "a model of that name", "none; remove it or name another folder")
        Path(target).mkdir(parents=True, exist_ok=True)
        with files.building(out) as partial:
            _bundle(found, Path(partial))
        return Pushed(where=str(out), sha1=files.digest(out / CARD, "sha1"))
    hub, repo = _hub(), target.removeprefix(HUB)
    with tempfile.TemporaryDirectory() as temporary:
        _bundle(found, Path(temporary))
        sha1 = files.digest(Path(temporary) / CARD, "sha1")
        words = (
            f"{found.facts['name']}: {found.facts['test_error_percent']:.2f} % test error on {found.facts['dataset']}"
        )
        try:
            api = hub.HfApi()
            api.create_repo(repo_id=repo, exist_ok=True)
            api.upload_folder(repo_id=repo, folder_path=temporary, commit_message=words)
        except Exception as error:  # its own kinds, and those of what it stands on
            raise ZooError(target, f"{type(error).__name__}: {error}", "a repository that takes the model") from None
    return Pushed(where=target, sha1=sha1)


def _bundle(found: Card, out: Path) -> None:
    """The model with copies of all its files, of a whitening that lies with another model, too."""
    facts = {**found.facts}
    for key in zoo.FILES:
        if facts.get(key) is not None:
            facts[key] = {**facts[key], "file": Path(facts[key]["file"]).name}
            shutil.copyfile(found.folder / found.facts[key]["file"], out / facts[key]["file"])
    zoo.write_card(out, facts)
