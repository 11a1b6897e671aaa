"""The model zoo: a folder for each trained network, with weights, deploy net, whitening and a card that can be checked.

A net of raw pixels has no whitening; its card says what the data layer does to them, and the mean image lies beside it.

``add`` makes ``models/<name>/`` of a finished run; ``verify`` counts and hashes everything again, compares weights with
the net, and, given the prepared data set, measures the error again.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allconv_caffe import files, markdown, proto
from allconv_caffe.errors import FoundError, PlacedError, did_you_mean
from allconv_caffe.report.record import from_json

__all__ = ["CARD", "DEFAULT_FOLDER", "Trained", "ZooError", "add", "cards", "find", "measure", "unpack", "verify"]

DEFAULT_FOLDER = Path("models")
CARD, PAGE, DEPLOY, TRAIN_VAL = "card.json", "README.md", "deploy.prototxt", "train_val.prototxt"
WHITENING, MEAN = "whitening.npz", "mean.binaryproto"
FORMAT_VERSION = 1
_A_CARD = "the card of a model"
TOLERANCE_PERCENT = 0.1
"""How far a measured error may lie from the card's: other kernels turn the answer for a few images in ten thousand."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_KINDS: dict[str, Any] = {
    **dict.fromkeys(("name", "experiment", "model", "source", "dataset", "preprocessing", "paper_dataset"), str),
    **dict.fromkeys(("schedule", "precision", "engine", "device", "command"), str),
    **dict.fromkeys(("test_error_percent", "epochs"), float),
    "published_error_percent": float | None,
    "published_parameters": str | None,
    "class_names": tuple[str, ...] | None,
    **dict.fromkeys(("parameters", "seed", "n_train", "n_test"), int),
}
"""What the entries of a card are."""
_ENTRY = {"file": str, "bytes": int, "sha1": str}
"""What a card says of a file."""
FILES = ("weights", "deploy", "whitening", "mean")
"""The entries that are files; the last two are null where there is none."""
_TRANSFORM: dict[str, Any] = {"scale": float, "mean_value": list[float], "order": str | None}
"""What a card says of a Data layer's transform_param."""


def entries(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a card says of each file that there is."""
    return [facts[key] for key in FILES if facts.get(key) is not None]


class ZooError(FoundError, ValueError):
    """A run cannot become a model, or a model does not hold what its card says; the text says where, what was found and
    what was expected."""


@dataclass(frozen=True)
class Card:
    """One model. folder: where it lies. facts: what stands in ``card.json``."""

    folder: Path
    facts: dict[str, Any]


def _weights(run: Path, result: Mapping[str, Any]) -> Path:
    name = f"{result['experiment']}_iter_{result['max_iter']}.caffemodel"
    for path in (run / "snapshots" / name, run / name):
        if path.is_file():
            return path
    raise ZooError(run / "snapshots" / name, "nothing", "the weights of the last iteration")


def add(
    run: str | Path,
    folder: str | Path = DEFAULT_FOLDER,
    name: str | None = None,
    root: str | Path = ".",
    license_: str | None = None,
) -> Card:
    """Make ``folder/<name>/`` of a finished run.

    Args:
        run: its directory: ``result.json``, ``settings.json``, ``deploy.prototxt`` and ``snapshots/``.
        name: of the model; by default that of the experiment.
        root: what the data folder in ``settings.json`` is relative to; its ``whitening.npz`` is taken, in compact form,
            and shared with a model that has the same one.
        license_: under which others may use it, in SPDX's letters, for the card.
    Raises:
        ZooError: the run is not done or has no error, a file is missing, or the model exists already.
    """
    run, folder = Path(run), Path(folder)
    result, settings = (
        files.read_json(run / file, "the record of a run", ZooError) for file in ("result.json", "settings.json")
    )
    if result.get("status") != "done" or result.get("test_error_percent") is None:
        raise ZooError(run, f"a run that is {result.get('status')}", "one that is done and has an error")
    for file, found, keys in (
        (
            "result.json",
            result,
            ("experiment", "model", "dataset", "parameters", "epochs", "seed", "engine", "max_iter"),
        ),
        ("settings.json", settings, ("data", "engine")),
    ):
        if missing := [key for key in keys if key not in found]:
            raise ZooError(run / file, f"no {', '.join(missing)}", "the record of a run")
    _check_record(run, result, settings)
    files.check_kinds(run / "settings.json", settings, {"engine": dict}, ZooError)
    weights, deploy = _weights(run, result), run / DEPLOY
    if not deploy.is_file():
        raise ZooError(deploy, "nothing", "the net of the run")
    name = str(result.get("experiment")) if name is None else name
    if not _NAME.fullmatch(name):
        raise ZooError("name", repr(name), 'letters, digits, ".", "_" and "-", beginning with a letter or digit')
    out = folder / name

    def free() -> None:
        if out.exists():
            raise ZooError(out, "a model of that name", "none; remove it or give another name")

    free()
    try:
        with files.building(out, free) as built:
            partial = Path(built)
            shutil.copyfile(weights, partial / f"{name}.caffemodel")
            shutil.copyfile(deploy, partial / DEPLOY)
            facts = _facts(name, result, settings, partial) | ({} if license_ is None else {"license": license_})
            if _whitened(settings["data"]):
                source = Path(root) / str(settings["data"].get("folder", "")) / WHITENING
                facts["whitening"] = _entry(partial, _place_whitening(source, partial, folder))
            else:
                facts |= _raw(run, settings["data"], partial, Path(root))
            _check_card(run, facts)
            write_card(partial, facts)
            if problems := differences(Card(partial, facts), shown=out):
                raise ZooError.of(PlacedError(out, problems[0]))
    except files.Held:
        raise ZooError(out, "another `allconv zoo add` at work", "one at a time for the same name") from None
    return Card(out, facts)


def _check_record(run: Path, result: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raises ZooError where what leads to weights, data and classes is missing, or of another kind."""
    kinds: dict[str, Any] = {"experiment": str, "max_iter": int}
    files.check_kinds(run / "result.json", {key: result.get(key) for key in kinds}, kinds, ZooError)
    kinds = {"data": dict}
    files.check_kinds(run / "settings.json", {key: settings.get(key) for key in kinds}, kinds, ZooError)
    kinds = {"folder": str, "preprocessing": str, "class_names": list[str]}
    files.check_kinds(f"{run / 'settings.json'}: data", settings["data"], kinds, ZooError)


def _whitened(data: Mapping[str, Any]) -> bool:
    """Whether a run's images went through GCN at least."""
    return str(data.get("preprocessing", "gcn-zca")).startswith("gcn")


def _entry(folder: Path, file: str) -> dict[str, Any]:
    """What a card says of a file, which another model's folder may hold."""
    path = folder / file if not file.startswith("..") else folder.parent / file[3:]
    return {"file": file, "bytes": path.stat().st_size, "sha1": files.digest(path, "sha1")}


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """What a Data layer does to pixels: channels in `order`, minus the mean, times the scale.

    order: "RGB" or "BGR"; None where nobody says it. mean_value: one, or one for each channel; empty: none. mean: the mean
    image, in place of values.
    """

    scale: float
    mean_value: tuple[float, ...]
    mean: Path | None
    order: str | None


def _data_layer(run: Path) -> proto.LayerParameter | None:
    """The TEST phase's Data layer of a run; None where another layer feeds the net, or it is not there to read.

    Raises: ZooError: an unreadable net.
    """
    path = run / TRAIN_VAL
    if not path.is_file():
        return None
    try:
        net = proto.read_net(path)
    except proto.ProtoError as error:
        raise ZooError.of(error) from None
    for layer in net.layer:
        if layer.type == "Data" and (not layer.include or any(rule.phase == proto.TEST for rule in layer.include)):
            return layer
    return None


def _pixels(run: Path, data: Mapping[str, Any], root: Path) -> Pixels | None:
    """What the TEST phase's Data layer of a run does to pixels; None where there is none.

    Raises: ZooError: an unreadable net, a mean image that is not there.
    """
    layer = _data_layer(run)
    if layer is None:
        return None
    param = layer.transform_param
    mean = root / param.mean_file if param.mean_file else None
    if mean is not None and not mean.is_file():
        raise ZooError(mean, "nothing", f"the mean image that {run / TRAIN_VAL} subtracts")
    return Pixels(
        scale=float(f"{param.scale:.7g}"),
        mean_value=tuple(float(f"{value:.7g}") for value in param.mean_value),
        mean=mean,
        order=_order(root / str(data.get("folder", ""))),
    )


def _order(folder: Path) -> str | None:
    """The channels of a prepared data set, "RGB" or "BGR"; None where it is not there any more, or grey."""
    from data_prep.errors import PrepError
    from data_prep.manifest import Manifest

    try:
        words = Manifest.load(folder).channel_order.split()
    except PrepError:
        return None
    return words[0] if words and words[0] in ("RGB", "BGR") else None


def _raw(run: Path, data: Mapping[str, Any], partial: Path, root: Path) -> dict[str, Any]:
    """What is done to pixels, for the card, and the mean image copied; nothing of another layer than Data."""
    found = _pixels(run, data, root)
    if found is None:
        return {}
    facts: dict[str, Any] = {"transform": {"scale": found.scale, "mean_value": list(found.mean_value)}}
    if found.order is not None:
        facts["transform"]["order"] = found.order
    if found.mean is not None:
        shutil.copyfile(found.mean, partial / MEAN)
        facts["mean"] = _entry(partial, MEAN)
    return facts


def _place_whitening(source: Path, partial: Path, folder: Path) -> str:
    """The whitening's path relative to the model's folder: its own file, or that of a model with the same one."""
    from data_prep.whitening import Whitening

    if not source.is_file():
        raise ZooError(source, "nothing", "the whitening of the data set that the run was trained on")
    Whitening.load(source).save(partial / WHITENING, compact=True)
    mine = files.digest(partial / WHITENING, "sha1")
    for other in cards(folder):
        known = other.facts["whitening"]
        if known is not None and known["file"] == WHITENING and known["sha1"] == mine:
            (partial / WHITENING).unlink()
            return f"../{other.folder.name}/{WHITENING}"
    return WHITENING


def _facts(name: str, result: Mapping[str, Any], settings: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The card, without what is done to pixels."""
    data, engine = settings["data"], settings["engine"]
    return {
        "format_version": FORMAT_VERSION,
        "name": name,
        "experiment": result["experiment"],
        "model": result["model"],
        "source": result.get("source", ""),
        "dataset": result["dataset"],
        "official_data": bool(data.get("official")),
        "preprocessing": result.get("preprocessing", "gcn-zca"),
        "class_names": list(data.get("class_names", [])),
        "n_train": result.get("n_train"),
        "n_test": result.get("n_test"),
        "data_sha256": data.get("sha256", {}),
        "test_error_percent": result["test_error_percent"],
        "published_error_percent": result.get("published_error_percent"),
        "paper_dataset": result.get("paper_title", ""),
        "parameters": result["parameters"],
        "published_parameters": result.get("published_parameters", ""),
        "epochs": result["epochs"],
        "seed": result["seed"],
        "schedule": from_json(result).schedule_words,
        "precision": result.get("precision", "float32"),
        "options": result.get("options", {}),
        "engine": f"{result['engine']} ({engine.get('version', '')})",
        "device": result.get("device", ""),
        "seconds": result.get("seconds"),
        "command": command(result, settings),
        "git": settings.get("git"),
        "finished": result.get("finished"),
        "weights": _entry(folder, f"{name}.caffemodel"),
        "deploy": _entry(folder, DEPLOY),
        "whitening": None,
    }


def command(result: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """What was typed, or what trains the same: ``allconv run <experiment> --epochs ... --seed ...``."""
    typed = str(settings.get("command") or "")
    if typed:
        return typed
    words = [
        "allconv run",
        str(result["experiment"]),
        f"--epochs {float(result['epochs']):g}",
        f"--seed {result['seed']}",
    ]
    if result.get("precision", "float32") != "float32":
        words.append(f"--precision {result['precision']}")
    if result.get("rng", "torch") != "torch" and result.get("engine") == "torch":
        words.append(f"--rng {result['rng']}")
    words += [f"--set {key}={value}" for key, value in sorted((result.get("options") or {}).items())]
    return " ".join(words)


def _front_matter(facts: Mapping[str, Any]) -> list[str]:
    """What hubs read at the head of a model's page, in YAML; a JSON string is one of YAML's."""
    accuracy = round(100.0 - facts["test_error_percent"], 4)
    name, data = (json.dumps(facts[key], ensure_ascii=False) for key in ("name", "dataset"))
    return [
        "---",
        *([f"license: {json.dumps(facts['license'], ensure_ascii=False)}"] if facts.get("license") else []),
        "library_name: allconv-caffe",
        "pipeline_tag: image-classification",
        "tags: [caffe, image-classification]",
        "metrics: [accuracy]",
        "model-index:",
        f"- name: {name}",
        "  results:",
        "  - task: {type: image-classification}",
        f"    dataset: {{name: {data}, type: {data}}}",
        f"    metrics: [{{type: accuracy, value: {accuracy:g}}}]",
        "---",
        "",
    ]


def page(facts: Mapping[str, Any]) -> str:
    """The card for people, as Markdown."""
    published = facts["published_error_percent"]
    data = facts["dataset"]
    if facts["paper_dataset"] and data != facts["paper_dataset"]:
        data += f", not the paper's {facts['paper_dataset']}: errors cannot be compared with the paper's"
    rows = [
        ("network", markdown.escaped(f"{facts['model']} ({facts['source']})")),
        ("data", markdown.escaped(data)),
        ("images", f"{facts['n_train']:,} for training, {facts['n_test']:,} for the test"),
        ("preprocessing", _preprocessing(facts)),
        ("test error of the last iteration", f"{facts['test_error_percent']:.2f} %"),
        (
            "the paper's error",
            "–" if published is None else f"{published:.2f} % on {facts['paper_dataset']}, 350 epochs",
        ),
        ("parameters", f"{facts['parameters']:,} (the paper: {facts['published_parameters'] or '–'})"),
        (
            "training",
            f"{facts['schedule'] or str(facts['epochs']) + ' epochs'}; seed {facts['seed']}; {facts['precision']}",
        ),
        ("engine", markdown.escaped(f"{facts['engine']}, {facts['device']}")),
        ("command", markdown.code(facts["command"])),
    ]
    listed = [
        (f"[{entry['file']}]({entry['file']})", f"{entry['bytes']:,}", f"`{entry['sha1']}`") for entry in entries(facts)
    ]
    lines = [*_front_matter(facts), f"# {facts['name']}", "", *markdown.table(("", ""), rows), ""]
    lines += markdown.table(("file", "bytes", "SHA-1"), listed, right=(1,))
    check = f"`allconv zoo verify {facts['name']}` checks these files, and with `--data` measures the error again. The net takes "
    if facts["whitening"] is None:
        return "\n".join([*lines, "", f"{check}{_input_words(facts)}.", ""])
    lines += [
        "",
        f"{check}whitened RGB",
        f'planes, not pixels: `data_prep.whitening.Whitening.load("{facts["whitening"]["file"]}").whiten(images)` makes them. '
        f"`allconv zoo unpack {facts['name']}`",
        "writes the whitening in its full form, with the inverse.",
        "",
    ]
    return "\n".join(lines)


def _preprocessing(facts: Mapping[str, Any]) -> str:
    if facts["whitening"] is not None:
        return f"{facts['preprocessing']}, in `{facts['whitening']['file']}`"
    return f"none before the database: the net takes {_input_words(facts)}"


def _input_words(facts: Mapping[str, Any]) -> str:
    """What a net of raw pixels takes."""
    transform = facts.get("transform")
    if transform is None:
        return "what its own data layer makes of pixels"
    words = "pixels from 0 to 255, in the order of its database"
    if facts.get("mean") is not None:
        words += f", minus `{facts['mean']['file']}`"
    elif transform["mean_value"]:
        words += f", minus {', '.join(f'{value:g}' for value in transform['mean_value'])}"
    return words if transform["scale"] == 1 else f"{words}, times {transform['scale']:g}"


def cards(folder: str | Path = DEFAULT_FOLDER) -> list[Card]:
    """Every model below a folder, by name.

    Raises:
        ZooError: a card that is none.
    """
    found = []
    for path in sorted(Path(folder).glob(f"[!.]*/{CARD}")):
        found.append(Card(path.parent, read_card(path)))
    return found


def shipped() -> Path:
    """Where the models lie that come with this package: in the installed one, or beside it in a checkout."""
    own = Path(__file__).with_name("models")
    return own if own.is_dir() else Path(__file__).parents[1] / "models"


def columns(facts: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each card: name, error, data."""
    width = max((len(card["name"]) for card in facts), default=0)
    return [
        f"{card['name']:<{width}}  {card['test_error_percent']:6.2f} %  {card['dataset']}, {card['epochs']:g} epochs"
        for card in facts
    ]


def read_card(path: Path) -> dict[str, Any]:
    """The facts in a ``card.json``. Raises: ZooError: it is none."""
    return _checked(path, files.read_json(path, _A_CARD, ZooError))


def parse_card(content: bytes, where: str) -> dict[str, Any]:
    """The facts in a ``card.json`` that was read from `where`. Raises: ZooError: it is none."""
    return _checked(where, files.parse_json(content, where, _A_CARD, ZooError))


def _checked(where: str | Path, facts: dict[str, Any]) -> dict[str, Any]:
    if facts.get("format_version") != FORMAT_VERSION:
        raise ZooError(where, f"format_version {facts.get('format_version')}", str(FORMAT_VERSION))
    _check_card(where, facts)
    return facts


def write_card(folder: Path, facts: Mapping[str, Any]) -> None:
    """The card for programs and for people."""
    files.write_json(folder / CARD, facts)
    files.write(folder / PAGE, page(facts))


def _check_card(path: str | Path, facts: Mapping[str, Any]) -> None:
    """Raises ZooError where an entry is missing, of another kind, or names a file elsewhere."""
    kinds = {**_KINDS, **dict.fromkeys(FILES, dict)}
    kinds["mean"] = kinds["transform"] = dict | None
    kinds["license"] = str | None
    if not _whitened(facts):
        kinds["whitening"] = dict | None
    if missing := [key for key in ("whitening", "published_error_percent", "published_parameters") if key not in facts]:
        raise ZooError(path, f"no {', '.join(missing)}", "the card of a model")
    files.check_kinds(path, {key: facts.get(key) for key in kinds}, kinds, ZooError)
    if not _NAME.fullmatch(facts["name"]):
        raise ZooError(path, f"name {facts['name']!r}", "a name without folders")
    if (transform := facts.get("transform")) is not None:
        files.check_kinds(path, {key: transform.get(key) for key in _TRANSFORM}, _TRANSFORM, ZooError)
    for key in FILES:
        if facts.get(key) is None:
            continue
        entry = {f"{key}.{part}": facts[key].get(part) for part in _ENTRY}
        files.check_kinds(path, entry, {f"{key}.{part}": kind for part, kind in _ENTRY.items()}, ZooError)
        shared = rf"(\.\./{_NAME.pattern}/)?" if key == "whitening" else ""
        if not re.fullmatch(shared + _NAME.pattern, facts[key]["file"]):
            raise ZooError(path, f"{key}.file {facts[key]['file']!r}", "a file of the model")


def card(model: str | Path, folder: str | Path = DEFAULT_FOLDER) -> Card:
    """The model of that name below ``folder``, or in the folder ``model``.

    Raises:
        ZooError: no such model.
    """
    for entry in (Path(model), Path(folder) / model):
        if (entry / CARD).is_file():
            return next(found for found in cards(entry.parent) if found.folder.name == entry.name)
    names = [entry.folder.name for entry in cards(folder)]
    close = did_you_mean(str(model), names)
    if (shipped() / Path(model).name / CARD).is_file():
        close = f"; `allconv zoo get {Path(model).name}` puts it there"
    raise ZooError(
        f"model {model}", f"no {CARD} in {Path(folder) / model}", f"one of: {', '.join(names) or 'none'}{close}"
    )


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained net as it lies on disk.

    name: what it is called. deploy, weights: its net and weights. whitening: of its data set, or None where pixels went in
    as they are. pixels: what was done to them, then; None where it is not known. class_names: in the order of the labels;
    empty where none are known. data: the LMDB that a run was tested on; None where it is no
    LMDB's, or a model.
    """

    name: str
    deploy: Path
    weights: Path
    whitening: Path | None
    pixels: Pixels | None
    class_names: tuple[str, ...]
    data: Path | None


def find(model: str | Path, folder: str | Path = DEFAULT_FOLDER, root: str | Path = ".") -> Trained:
    """A model of the zoo, or a finished run in the folder ``model``.

    Args:
        root: what the data folder in a run's ``settings.json`` is relative to.

    Raises:
        ZooError: neither; a run without weights or whitening.
    """
    run = Path(model)
    if not (run / "result.json").is_file():
        found = card(model, folder)
        facts = found.facts
        return Trained(
            name=found.folder.name,
            deploy=found.folder / facts["deploy"]["file"],
            weights=found.folder / facts["weights"]["file"],
            whitening=None if facts["whitening"] is None else found.folder / facts["whitening"]["file"],
            pixels=_card_pixels(found),
            class_names=tuple(facts.get("class_names") or ()),
            data=None,
        )
    result, settings = (
        files.read_json(run / file, "the record of a run", ZooError) for file in ("result.json", "settings.json")
    )
    _check_record(run, result, settings)
    data = settings["data"]
    layer = _data_layer(run)
    whitening = Path(root) / str(data.get("folder", "")) / WHITENING
    whitened = _whitened(data)
    if whitened and not whitening.is_file():
        raise ZooError(whitening, "nothing", "the whitening of the data set that the run was trained on")
    return Trained(
        name=run.resolve().name,
        deploy=run / DEPLOY,
        weights=_weights(run, result),
        whitening=whitening if whitened else None,
        pixels=None if whitened else _pixels(run, data, Path(root)),
        class_names=tuple(map(str, data.get("class_names", ()))),
        data=None if layer is None else Path(root) / layer.data_param.source,
    )


def _card_pixels(found: Card) -> Pixels | None:
    transform, mean = found.facts.get("transform"), found.facts.get("mean")
    if transform is None:
        return None
    return Pixels(
        scale=transform["scale"],
        mean_value=tuple(transform["mean_value"]),
        mean=None if mean is None else found.folder / mean["file"],
        order=transform.get("order"),
    )


def verify(model: str | Path, data: str | Path | None = None, folder: str | Path = DEFAULT_FOLDER) -> list[str]:
    """What does not hold of a model: sizes, SHA-1, the page, the weights' shapes, and with ``data`` the error.

    Args:
        data: a prepared data set; its test LMDB is classified.
    Returns:
        A line for each difference; empty: all is as the card says.
    Raises:
        ZooError: no such model, or ``data`` is no prepared data set of that model's kind.
    """
    found = card(model, folder)
    problems = differences(found, shown=found.folder)
    if data is not None and not problems:
        error, expected = measure(found.folder, data), float(found.facts["test_error_percent"])
        if abs(error - expected) > TOLERANCE_PERCENT:
            problems.append(f"{found.folder}: measured {error:.2f} % test error, expected {expected:.2f} %")
    return problems


def differences(found: Card, shown: Path) -> list[str]:
    """What does not hold of a model's files; the lines name them as they lie in `shown`."""
    facts, problems = found.facts, []
    for entry in entries(facts):
        path = found.folder / entry["file"]
        if not path.is_file():
            problems.append(f"{shown / entry['file']}: missing")
        elif (sha1 := files.digest(path, "sha1")) != entry["sha1"] or path.stat().st_size != entry["bytes"]:
            problems.append(f"{shown / entry['file']}: found SHA-1 {sha1}, expected {entry['sha1']}")
    if not (found.folder / PAGE).is_file() or (found.folder / PAGE).read_bytes() != page(facts).encode():
        problems.append(f"{shown / PAGE}: found another text than the card gives")
    return problems or _shapes(found, shown)


def _shapes(found: Card, shown: Path) -> list[str]:
    """Whether the caffemodel has exactly the blobs that the deploy net needs."""
    from allconv_caffe.caffe_torch.summary import summarize
    from allconv_caffe.proto.caffemodel import misfits, read_weights

    weights, deploy = (found.folder / found.facts[key]["file"] for key in ("weights", "deploy"))
    named = shown / weights.name
    try:
        stored = read_weights(weights)
    except proto.ProtoError as error:
        return [f"{named}: {error.reason}"]
    net = summarize(deploy)
    problems = [
        f"{named}: layer '{wrong.layer}': found {_words(wrong.found)}, expected {_words(wrong.expected)}"
        for wrong in misfits(stored, {row.name: row.blobs for row in net.layers if row.blobs})
    ]
    if not problems and net.parameters != found.facts["parameters"]:
        problems.append(f"{named}: found {net.parameters} parameters, expected {found.facts['parameters']}")
    return problems


def _words(shapes: Sequence[Sequence[int]]) -> str:
    """``parameters of 96x3x3x3, 96``, or ``no parameters``."""
    sizes = ", ".join("x".join(map(str, shape)) for shape in shapes)
    return f"parameters of {sizes}" if sizes else "no parameters"


def measure(model: str | Path, data: str | Path, batch_size: int = 100, folder: str | Path = DEFAULT_FOLDER) -> float:
    """Test error in percent of a model on the test LMDB of a prepared data set, by caffe-torch.

    A set of other images of the same classes is taken from its own whitening to the model's.

    Raises:
        ZooError: ``data`` is no prepared data set, or one of another shape.
    """
    import numpy as np
    import torch

    from allconv_caffe.caffe_torch import glog
    from allconv_caffe.caffe_torch.layer import Context
    from allconv_caffe.caffe_torch.net import load_net
    from allconv_caffe.proto import datum
    from data_prep import database
    from data_prep.manifest import Manifest

    found = card(model, folder)
    manifest = Manifest.load(data)
    if manifest.preprocessing != found.facts["preprocessing"]:
        raise ZooError(data, f"preprocessing {manifest.preprocessing}", str(found.facts["preprocessing"]))
    to_input = _to_input(found, Path(data))
    with glog.quiet(glog.WARNING):
        net = load_net(found.folder / DEPLOY, Context())
        net.copy_trained_layers_from(found.folder / found.facts["weights"]["file"])
    inputs = net.blobs["data"]
    shape = tuple(inputs.shape[1:])
    image_shape = tuple(manifest.image_shape)
    crops = found.facts["whitening"] is None and image_shape[0] == shape[0] and min(image_shape[1:]) >= max(shape[1:])
    if image_shape != shape and not crops:
        raise ZooError(data, f"images of shape {image_shape}", str(shape))
    wrong = count = 0
    images: list[Any] = []
    labels: list[int] = []
    top, left = ((manifest.shape[axis] - shape[axis]) // 2 for axis in (1, 2))

    def classify() -> int:
        inputs.reshape(len(images), *shape)
        batch = to_input(np.stack(images), top, left, shape)
        inputs.data = torch.from_numpy(batch)
        net.forward()
        scores = net.blobs["prob"].data.reshape(len(images), -1)
        return int((scores.argmax(1).cpu() != torch.tensor(labels)).sum())

    for _, value in database.records(Path(data) / str(manifest.lmdb["test"]["path"])):
        image, label = datum.decode(value)
        images.append(np.asarray(image, np.float32))
        labels.append(label)
        count += 1
        if len(images) == batch_size:
            wrong += classify()
            images, labels = [], []
    if images:
        wrong += classify()
    return 100.0 * wrong / count


def _to_input(found: Card, data: Path) -> Callable[[Any, int, int, tuple[int, ...]], Any]:
    """What makes a model's input of records, (N, C, H, W) float32: the middle of them, whitened as the model's were, or
    minus the mean and times the scale, as Caffe's Data layer does it.

    Raises:
        ZooError: a set that was whitened in another form; a net with a data layer of its own.
    """
    import numpy as np

    from data_prep.errors import PrepError
    from data_prep.whitening import Whitening

    facts = found.facts
    if facts["whitening"] is not None:
        source, own_source = data / WHITENING, found.folder / facts["whitening"]["file"]
        theirs, own = Whitening.load(source), Whitening.load(own_source)
        try:
            own.check_kind(theirs, str(source), str(own_source))
        except PrepError as error:
            raise ZooError(error.where, error.found, error.expected) from None
        same = own.same_as(theirs)

        def whitened(batch: Any, top: int, left: int, shape: tuple[int, ...]) -> Any:
            middle = batch[:, :, top : top + shape[1], left : left + shape[2]]
            return np.ascontiguousarray(middle) if same else own.rewhiten(middle, theirs)

        return whitened
    transform = facts.get("transform")
    if transform is None:
        raise ZooError(found.folder, "a net with a data layer of its own", "one that Caffe's Data layer feeds")
    scale = np.float32(transform["scale"])
    mean = np.asarray(transform["mean_value"] or [0.0], np.float32).reshape(-1, 1, 1)
    if facts.get("mean") is not None:
        blob = proto.read_binary(found.folder / facts["mean"]["file"], proto.BlobProto)
        sizes = list(blob.shape.dim)[-3:] if blob.HasField("shape") else [blob.channels, blob.height, blob.width]
        mean = np.asarray(blob.data, np.float32).reshape(sizes)

    def scaled(batch: Any, top: int, left: int, shape: tuple[int, ...]) -> Any:
        middle = ((batch - mean) * scale)[:, :, top : top + shape[1], left : left + shape[2]]
        return np.ascontiguousarray(middle)

    return scaled


def unpack(model: str | Path, output: str | Path, folder: str | Path = DEFAULT_FOLDER) -> Path:
    """Write a model's whitening in full (both matrices) to the file ``output``.

    Raises:
        ZooError: no such model, or one without. PrepError: the whitening is damaged, or ``output`` cannot be written.
    """
    from data_prep.whitening import Whitening

    found = card(model, folder)
    if found.facts["whitening"] is None:
        raise ZooError(found.folder, "a net of raw pixels", "one with a whitening")
    Whitening.load(found.folder / found.facts["whitening"]["file"]).save(output)
    return Path(output)
