"""The settings of a run, each declared once.

A field of `RunSettings` carries what everyone asks about it: type, default, help, check, the option of ``allconv render``
that it becomes, its word in the name of a run's directory, its part in what makes two runs the same, and which records
keep it. The command line, make's variables, the driver, the records and docs/settings.md are made from `SETTINGS`.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from types import UnionType
from typing import Annotated, Any

from allconv_caffe.errors import FoundError, PlacedError
from allconv_caffe.paper.datasets import DATASETS
from allconv_caffe.paper.rules import POSITIVE, OneOf, Rule, Whole

DEFAULT_SEED = 1


class DriverError(PlacedError, ValueError):
    """A training cannot begin or go on; the text says where, what was found, what was expected, and the choices."""


class RecordError(FoundError, DriverError):
    """A file in a run's directory is not what stands there."""


@dataclass(frozen=True)
class Devices(Rule):
    """Numbers of GPUs with commas between; ``none`` for the CPU. ``all`` is none: their number divides the batch."""

    kind = "device numbers such as 0 or 0,1, or none for the CPU"

    def fault(self, value: Any) -> str | None:
        words = str(value).strip().lower()
        if words in ("", "none", "cpu"):
            return None
        if not re.fullmatch(r"\d+(,\d+)*", words):
            return self.kind
        return "each device once" if len(set(self.numbers(words) or ())) != words.count(",") + 1 else None

    @staticmethod
    def numbers(text: str | None) -> tuple[int, ...] | None:
        """``"0,1"`` as numbers; None where nothing was said, () for ``none``."""
        words = (text or "").strip().lower()
        if not words:
            return None
        return () if words in ("none", "cpu") else tuple(int(part) for part in words.split(","))


def _one_of(*choices: str) -> OneOf:
    return OneOf(choices, f"one of {', '.join(choices)}")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is known of one setting; ``taken`` is its value in a run that is planned, with nothing left open."""

    name: str = ""
    """Of the field; in capitals, of make's variable and of messages; with a dash for "_", of the command line's option."""
    kind: type = str
    """What its text on a command line is read as."""
    default: Any = None
    """None: as published, or as assumed where the paper is silent."""
    help: str = ""
    """One line; "" where the command line does not offer it."""
    table: str = ""
    """Its default in docs/settings.md, where the code's says too little."""
    rule: Rule | None = None
    """Of a value that is not None; it also reads one from a text."""
    option: str = ""
    """The field of ``RenderOptions`` that it becomes: through it, it stands in prototxt."""
    word: Callable[[Any, Any], str] | None = None
    """Of (taken, usual): its word in the name of the run's directory, "" for none; usual: what the experiment says."""
    fact: Callable[[Any], Any] | None = None
    """Of taken: its part in the run's identity, beside what is rendered."""
    late: bool = False
    """Its default adds nothing to the identity, so that runs from before there was a choice are found again."""
    kept: tuple[str, ...] = ()
    """The records that keep it: ``settings`` for settings.json, ``result`` for result.json."""

    @property
    def flag(self) -> str:
        """The command line's option; "" where it does not offer it."""
        return "--" + self.name.replace("_", "-") if self.help else ""

    @property
    def variable(self) -> str:
        """make's variable; "" where it has none of that name."""
        return self.name.upper() if self.help and self.rule is not None else ""


def _plain(taken: Any) -> Any:
    return taken


def _always(form: str) -> Callable[[Any, Any], str]:
    return lambda taken, usual: form.format(taken)


def _unusual(form: str) -> Callable[[Any, Any], str]:
    return lambda taken, usual: "" if taken == usual else form.format(taken)


def _data_words(taken: Any, usual: Any) -> str:
    """The data set's name where it is another than the experiment's, and its preprocessing where that is another."""
    title, preprocessing = usual
    words = []
    if taken.display_name != title:
        words.append(re.sub(r"[^a-z0-9]+", "-", taken.display_name.lower()).strip("-"))
    if taken.preprocessing in ("gcn", "raw") and taken.preprocessing != preprocessing:
        words.append(taken.preprocessing)
    return "-".join(words)


def _option_words(taken: Mapping[str, Any], usual: Any) -> str:
    return "-".join(re.sub(r"[^A-Za-z0-9.]+", "_", f"{key}{value}") for key, value in sorted(taken.items()))


BOTH = ("settings", "result")


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How an experiment is run. None: as published, or as assumed where the paper is silent.

    Their order is that of their words in the name of a run's directory.
    """

    seed: Annotated[
        int, Setting(help="random_seed", rule=Whole(0), option="random_seed", word=_always("seed{}"), kept=BOTH)
    ] = DEFAULT_SEED
    epochs: Annotated[
        float | None,
        Setting(
            help="epochs in all; the schedule in proportion",
            table="the experiment's own",
            rule=POSITIVE,
            option="epochs",
            word=_always("epochs{:g}"),
            kept=BOTH,
        ),
    ] = None
    engine: Annotated[
        str,
        Setting(
            help="auto, caffe or torch",
            rule=_one_of("auto", "caffe", "torch"),
            word=_always("{}"),
            fact=_plain,
            kept=BOTH,
        ),
    ] = "auto"
    lr: Annotated[
        float | None,
        Setting(
            help="base_lr",
            table="the experiment's own",
            rule=POSITIVE,
            option="lr",
            word=_unusual("lr{:g}"),
            kept=BOTH,
        ),
    ] = None
    batch_size: Annotated[
        int | None,
        Setting(
            help="images of one update; several GPUs divide it",
            table="the experiment's own",
            rule=Whole(1),
            option="batch_size",
            word=_unusual("batch{}"),
            kept=BOTH,
        ),
    ] = None
    precision: Annotated[
        str,
        Setting(
            help="float32, tf32 or bf16 (engine torch)",
            rule=_one_of("float32", "tf32", "bf16"),
            word=_unusual("{}"),
            fact=_plain,
            kept=BOTH,
        ),
    ] = "float32"
    rng: Annotated[
        str,
        Setting(
            help="torch, or caffe: seed-exact, BVLC Caffe's own random numbers on the CPU (engine torch)",
            rule=_one_of("torch", "caffe"),
            word=_unusual("rng{}"),
            fact=lambda taken: f"rng {taken}",
            late=True,
            kept=BOTH,
        ),
    ] = "torch"
    gpu: Annotated[  # taken: how many devices, 1 on a CPU
        str | None,
        Setting(
            help="device numbers, e.g. 0 or 0,1; none for the CPU",
            rule=Devices(),
            table="device 0 where one works",
            word=_unusual("{}gpus"),
            fact=_plain,
        ),
    ] = None
    caffe_flags: Annotated[tuple[str, ...], Setting(fact=list, kept=BOTH)] = ()  # appended to the engine's own
    data: Annotated[  # taken: the prepared set
        Path | None,
        Setting(
            help="archive, image folder or prepared data set",
            table="download of the official archive",
            word=_data_words,
            fact=lambda taken: taken.checksums or str(taken.folder),
        ),
    ] = None
    validation: Annotated[  # its part in name and identity is that of the data
        int | None,
        Setting(
            help="training images held out, and tested on in place of the test images",
            table="none",
            rule=Whole(1),
            kept=BOTH,
        ),
    ] = None
    options: Annotated[
        Mapping[str, Any], Setting(help="an option of `allconv render`, repeatable", word=_option_words, kept=BOTH)
    ] = field(default_factory=dict)
    threads: Annotated[int | None, Setting(help="CPU threads", table="all", rule=Whole(1), kept=("settings",))] = None
    retries: Annotated[
        int,
        Setting(help="trainings begun again, with the next seed, after a dead one", rule=Whole(0), kept=("settings",)),
    ] = 0
    patience_epochs: Annotated[float, Setting(rule=POSITIVE, kept=("settings",))] = 3.0  # of ``DeadRule``
    stop_dead: Annotated[bool, Setting()] = True  # end a dead training; else only say it
    download: Annotated[bool, Setting(help="fail where the data are not on this machine")] = True
    runs_dir: Annotated[Path, Setting(help="where run directories are kept")] = Path("runs")
    root: Annotated[Path, Setting()] = Path(".")  # what the relative paths of prototxt begin from
    command: Annotated[str, Setting()] = ""  # what the user typed, for records and messages


def _settings() -> dict[str, Setting]:
    hints = typing.get_type_hints(RunSettings, include_extras=True)
    found = {}
    for entry in fields(RunSettings):
        hint, setting = typing.get_args(hints[entry.name])
        if isinstance(hint, UnionType):
            hint = next(part for part in typing.get_args(hint) if part is not type(None))
        default = entry.default if entry.default is not MISSING else None
        found[entry.name] = replace(setting, name=entry.name, kind=typing.get_origin(hint) or hint, default=default)
    return found


SETTINGS: dict[str, Setting] = _settings()
"""Every setting by name."""


def check(settings: RunSettings) -> None:
    """Raises DriverError at the first value that is not what its setting expects."""
    for name, setting in SETTINGS.items():
        value = getattr(settings, name)
        if value is not None and setting.rule is not None and (expected := setting.rule.fault(value)) is not None:
            raise DriverError(f"{name.upper()}={value}", f"expected {expected}", choices=setting.rule.known())


def rendered(settings: RunSettings) -> dict[str, Any]:
    """The settings that are options of ``allconv render``, under the names they have there; those left open are absent."""
    found = {setting.option: getattr(settings, name) for name, setting in SETTINGS.items() if setting.option}
    return {option: value for option, value in found.items() if value is not None}


def words(taken: Mapping[str, Any], usual: Mapping[str, Any]) -> list[str]:
    """The parts of the name of a run's directory.

    Args:
        taken: the value of every setting in the run.
        usual: what the experiment says of those it speaks of; else the default counts.
    """
    found = []
    for name, setting in SETTINGS.items():
        if setting.word is not None:
            found.append(setting.word(taken[name], usual.get(name, setting.default)))
    return [word for word in found if word]


def facts(taken: Mapping[str, Any]) -> list[Any]:
    """What makes two runs the same beside what is rendered, for JSON."""
    early, late = [], []
    for name, setting in SETTINGS.items():
        if setting.fact is None:
            continue
        if not setting.late:
            early.append(setting.fact(taken[name]))
        elif taken[name] != setting.default:
            late.append(setting.fact(taken[name]))
    return early + late


def kept(taken: Mapping[str, Any], record: str) -> dict[str, Any]:
    """The settings that a record keeps: ``settings`` or ``result``."""
    return {name: taken[name] for name, setting in SETTINGS.items() if record in setting.kept}


def from_text(name: str, text: str) -> Any:
    """The value of a setting as typed.

    Raises:
        DriverError: a text that it cannot be read from.
    """
    setting = SETTINGS[name]
    try:
        return setting.rule.read(text) if setting.rule is not None else setting.kind(text)
    except ValueError:
        expected = setting.rule.kind if setting.rule is not None else setting.kind.__name__
        raise DriverError(f"{name.upper()}={text}", f"expected {expected}") from None


def to_json(settings: RunSettings) -> dict[str, Any]:
    """The settings for a file, from which `from_json` makes them again; those left at their default are absent."""
    found = {name: getattr(settings, name) for name in SETTINGS}
    default = RunSettings()
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in found.items()
        if value != getattr(default, name)
    }


def from_json(content: Mapping[str, Any]) -> RunSettings:
    """Settings out of a file of `to_json`."""
    values: dict[str, Any] = {}
    for name, value in content.items():
        kind = SETTINGS[name].kind
        if name == "options":
            value = {key: tuple(entry) if isinstance(entry, list) else entry for key, entry in value.items()}
        values[name] = kind(value) if kind in (Path, tuple) else value
    return RunSettings(**values)


def by_option(options: Sequence[str] | Mapping[str, Any]) -> dict[str, str]:
    """Which of these options of ``allconv render`` are settings: option -> name of the setting."""
    return {setting.option: name for name, setting in SETTINGS.items() if setting.option in options}


def page() -> str:
    """docs/settings.md: what may be set about a run."""
    rows = []
    for setting in SETTINGS.values():
        if not setting.flag:
            continue
        made = f"`{setting.variable}=`" if setting.variable else ""
        flag = setting.flag
        if setting.name == "data":
            made = ", ".join(
                f"`{word}=`" for word in sorted({entry.recipe.variable for entry in DATASETS.values() if entry.recipe})
            )
        elif setting.name == "options":
            flag = "--set NAME=VALUE"
        elif setting.kind is bool:
            flag = f"--no-{setting.name}"
        usual = setting.table or ("" if setting.kind is bool or setting.name == "options" else f"`{setting.default}`")
        rows.append((made, f"`{flag}`", setting.help, usual))
    head = ("make", "`allconv run`", "meaning", "default")
    table = ["| " + " | ".join(cells) + " |" for cells in (head, ("---",) * len(head), *rows)]
    return "\n".join(
        [
            "# The settings of a run",
            "",
            "Written by `python -m allconv_caffe.train.settings > docs/settings.md`; a test compares. What they do together:",
            "[the driver](driver.md).",
            "",
            *table,
            "",
        ]
    )


if __name__ == "__main__":
    print(page(), end="")
