"""Models from elsewhere and for others: `get` takes one of those that come with this package, or from a zoo, which is a folder here
or on a web server, or from the Hugging Face hub; `push` puts some into such a folder, or sends one to the hub.

get("cifar10-allcnn-c-jpeg")                          # came with this package
get("tiny", base="https://example.org/models")        # by the catalogue there
get("https://example.org/models/tiny", sha1="…")      # the SHA-1 of its card.json, which has that of every other file
get("hf:somebody/tiny@v1")
push(["tiny"], "build/site")                          # build/site/tiny, build/site/catalogue.json
push(["tiny"], "hf:somebody/tiny")
"""

from __future__ import annotations

import hashlib
import importlib
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import requests

from allconv_caffe import files, zoo
from allconv_caffe.errors import PlacedError, did_you_mean
from allconv_caffe.zoo import CARD, DEFAULT_FOLDER, Card, ZooError
from data_prep import download

HUB = "hf:"
CATALOGUE = "catalogue.json"
"""In a zoo's folder: what each model there is, and the SHA-1 of its card."""
FORMAT_VERSION = 1
MOST_CARD_BYTES = MOST_CATALOGUE_BYTES = 1 << 20
_TIMEOUT_SECONDS = (10, 60)  # to connect, between two reads
_SHOWN = ("model", "dataset", "epochs", "test_error_percent")
_ENTRY: dict[str, Any] = {
    "sha1": str,
    "bytes": int,
    **{name: float if name in ("epochs", "test_error_percent") else str for name in _SHOWN},
}
"""What a catalogue says of a model."""


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
        source: the URL of a model's folder, ``hf:OWNER/NAME`` or ``hf:OWNER/NAME@REVISION``, or a name below `base`; without
            one, of a model that came with this package.
        sha1: of its ``card.json``; the hub's files, and a name in the catalogue of `base`, may do without.
        base: a folder of models, here or as a URL.
        wait_seconds: before a broken transfer is taken up again; doubled before each later time.
    Raises:
        ZooError: no such model, another SHA-1, a model of that name here, files that do not belong together. PrepError: a
            server that refuses or stays unreachable.
    """
    folder = Path(folder)
    if source.startswith(HUB):
        found = _of_hub(source)
    elif "://" not in source and not base:
        found = _of_package(source)
    else:
        place, name = _placed(source, base, wait_seconds, progress)
        sha1 = sha1 or _known(place, name, by_catalogue="://" not in source)
        found = _of_place(place, name)
    digest = hashlib.sha1(found.card).hexdigest()
    if sha1 is not None and digest != sha1.lower():
        raise ZooError(f"{found.name}/{CARD}", f"SHA-1 {digest}", sha1)
    facts = zoo.parse_card(found.card, f"{found.name}/{CARD}")
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


# ---------------------------------------------------------------------------------------------------------------------
# A zoo: a folder of models with their catalogue


class Place(Protocol):
    """A folder of models, here or on a web server; as text, its path or address."""

    def read(self, path: str, most: int, expected: str) -> bytes:
        """A small file, of `most` bytes. Raises: ZooError: it is none; `expected` says what it should have been."""

    def fetch(self, path: str, to: Path, size: int, sha1: str) -> None:
        """Put a file there, complete and right. Raises: ZooError, PrepError."""


@dataclass(frozen=True, kw_only=True)
class Web:
    """On a web server."""

    url: str
    wait_seconds: float = 1.0
    progress: bool = True

    def __str__(self) -> str:
        return self.url

    def read(self, path: str, most: int, expected: str) -> bytes:
        url = f"{self.url}/{path}"
        try:
            with requests.get(url, stream=True, timeout=_TIMEOUT_SECONDS) as response:
                if response.status_code != 200:
                    raise ZooError(url, f"HTTP status {response.status_code}", expected)
                content: bytes = response.raw.read(most + 1, decode_content=True)
        except requests.RequestException as error:
            found = f"an address that cannot be asked ({type(error).__name__})"
            raise ZooError(url.rpartition("/")[0], found, "an http or https URL") from None
        if len(content) > most:
            raise ZooError(url, f"more than {most} bytes", expected)
        return content

    def fetch(self, path: str, to: Path, size: int, sha1: str) -> None:
        download.fetch(f"{self.url}/{path}", to, size, sha1, wait_seconds=self.wait_seconds, progress=self.progress)


@dataclass(frozen=True, kw_only=True)
class Folder:
    """On this machine: a disk that all see, or one that was brought."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def read(self, path: str, most: int, expected: str) -> bytes:
        file = self.path / path
        try:
            with files.open_file(file) as opened:
                content = opened.read(most + 1)
        except OSError as error:
            raise ZooError(file, f"nothing ({error.strerror})", expected) from None
        if len(content) > most:
            raise ZooError(file, f"more than {most} bytes", expected)
        return content

    def fetch(self, path: str, to: Path, size: int, sha1: str) -> None:
        file = self.path / path
        if not file.is_file():
            raise ZooError(file, "nothing", "a file of the model")
        if (digest := files.digest(file, "sha1")) != sha1:
            raise ZooError(file, f"SHA-1 {digest}", sha1)
        with files.replacing(to) as temporary:
            shutil.copyfile(file, temporary)


def place_of(base: str, wait_seconds: float = 1.0, progress: bool = True) -> Place:
    """The zoo at an address, or in a folder."""
    if "://" in base:
        return Web(url=base.removesuffix(f"/{CATALOGUE}").rstrip("/"), wait_seconds=wait_seconds, progress=progress)
    return Folder(path=Path(base).expanduser())


def _placed(source: str, base: str, wait_seconds: float, progress: bool) -> tuple[Place, str]:
    """The zoo, and the model's name in it."""
    if "://" in source:
        base, _, source = source.removesuffix(f"/{CARD}").rstrip("/").rpartition("/")
    return place_of(base, wait_seconds, progress), source


def _known(place: Place, name: str, by_catalogue: bool) -> str:
    """The SHA-1 of a model's card, of the catalogue. Raises: ZooError."""
    if not by_catalogue:
        raise ZooError("--sha1", "nothing", f"the SHA-1 of {place}/{name}/{CARD}, as `allconv zoo push` says it")
    models = catalogue(place)
    if name not in models:
        names = ", ".join(models) or "none"
        raise ZooError(f"{place}/{CATALOGUE}", f"no model {name}", f"one of: {names}{did_you_mean(name, models)}")
    return str(models[name]["sha1"])


def catalogue(place: Place) -> dict[str, dict[str, Any]]:
    """What each model of a zoo is, by name: ``sha1`` of its card, ``bytes`` of all its files, and what a list shows.

    Raises: ZooError: there is none.
    """
    expected = "the catalogue of a zoo, as `allconv zoo push --to FOLDER` writes it"
    where = f"{place}/{CATALOGUE}"
    facts = files.parse_json(place.read(CATALOGUE, MOST_CATALOGUE_BYTES, expected), where, expected, ZooError)
    if facts.get("format_version") != FORMAT_VERSION:
        raise ZooError(where, f"format_version {facts.get('format_version')}", str(FORMAT_VERSION))
    files.check_kinds(where, {"models": facts.get("models")}, {"models": dict[str, dict]}, ZooError)
    models: dict[str, dict[str, Any]] = facts["models"]
    for name, entry in models.items():
        kinds = {f"{name}.{key}": kind for key, kind in _ENTRY.items()}
        files.check_kinds(where, {f"{name}.{key}": entry.get(key) for key in _ENTRY}, kinds, ZooError)
    return models


def _of_place(place: Place, name: str) -> Source:
    """A model of a zoo; its card is read at once. Raises: ZooError."""

    def fetch(entry: dict[str, Any], path: Path) -> None:
        file = entry["file"]  # a whitening may lie with another model there
        place.fetch(file[3:] if file[:3] == "../" else f"{name}/{file}", path, entry["bytes"], entry["sha1"])

    card = place.read(f"{name}/{CARD}", MOST_CARD_BYTES, "the card of a model")
    return Source(name=f"{place}/{name}", card=card, fetch=fetch)


def _of_package(name: str) -> Source:
    """A model that came with this package. Raises: ZooError."""
    names = [card.folder.name for card in zoo.cards(zoo.shipped())]
    if name not in names:
        choices = f"one of: {', '.join(names) or 'none'}; or a URL, hf:OWNER/NAME, or --from (or ALLCONV_ZOO): a folder of models"
        raise ZooError(f"model {name}", "none of that name with this package", f"{choices}{did_you_mean(name, names)}")
    return _of_place(Folder(path=zoo.shipped()), name)


def _write_catalogue(folder: Path) -> None:
    """Of the models that lie in `folder`, one process at a time."""
    with files.locked(folder / f".{CATALOGUE}.lock"):
        models = {
            card.facts["name"]: {
                "sha1": files.digest(card.folder / CARD, "sha1"),
                "bytes": sum(entry["bytes"] for entry in zoo.entries(card.facts)),
                **{key: card.facts[key] for key in _SHOWN},
            }
            for card in zoo.cards(folder)
        }
        files.write_json(folder / CATALOGUE, {"format_version": FORMAT_VERSION, "models": models})


# ---------------------------------------------------------------------------------------------------------------------
# The hub


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


def push(models: Sequence[str | Path], target: str, folder: str | Path = DEFAULT_FOLDER) -> list[Pushed]:
    """Puts models, verified, with all that they need, into the folder ``target``, or one onto ``hf:OWNER/NAME``.

    The folder gets the catalogue of all models in it, also of those that lay there before. A model that lies there just
    so stays.

    Raises:
        ZooError: no such model, one that is not as its card says, another of its name there, several for one repository,
            a hub that refuses; then nothing is sent.
    """
    found = []
    for model in models:
        if problems := zoo.verify(model, None, folder):
            raise ZooError.of(PlacedError("model", problems[0]))
        found.append(zoo.card(model, folder))
    if target.startswith(HUB):
        if len(found) != 1:
            raise ZooError(target, f"{len(found)} models", "one: a repository holds one model")
        return [_to_hub(found[0], target)]
    home = Path(target)
    new = [card for card in found if not _lies_there(card, home / card.facts["name"])]
    home.mkdir(parents=True, exist_ok=True)
    for card in new:
        with files.building(home / card.facts["name"]) as partial:
            _bundle(card, Path(partial))
    try:
        _write_catalogue(home)
    except files.Held:
        raise ZooError(home, "another `allconv zoo push` at work", "one at a time for the same folder") from None
    places = [home / card.facts["name"] for card in found]
    return [Pushed(where=str(place), sha1=files.digest(place / CARD, "sha1")) for place in places]


def _lies_there(card: Card, out: Path) -> bool:
    """Whether just this model lies in `out`. Raises: ZooError: something else does."""
    if not out.exists():
        return False
    own = files.json_text(_bundled(card)).encode()
    if not (out / CARD).is_file() or (out / CARD).read_bytes() != own:
        raise ZooError(out, "a model of that name", "none; remove it or name another folder")
    return True


def _to_hub(found: Card, target: str) -> Pushed:
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


def _bundled(found: Card) -> dict[str, Any]:
    """The card of a model that has all its files in its own folder."""
    facts = {**found.facts}
    for key in zoo.FILES:
        if facts.get(key) is not None:
            facts[key] = {**facts[key], "file": Path(facts[key]["file"]).name}
    return facts


def _bundle(found: Card, out: Path) -> None:
    """The model with copies of all its files, of a whitening that lies with another model, too."""
    facts = _bundled(found)
    for key in zoo.FILES:
        if facts.get(key) is not None:
            shutil.copyfile(found.folder / found.facts[key]["file"], out / facts[key]["file"])
    zoo.write_card(out, facts)
