"""``allconv run``, ``allconv sweep`` and ``allconv quickstart``: arguments only, for ``cli/main.py`` to add."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from allconv_caffe.cli.answers import evaluate_run
from allconv_caffe.cli.telling import Told, telling
from allconv_caffe.cli.words import Words, as_typed, command_line, completing, example, experiments, pairs_from_text
from allconv_caffe.paper.rules import OneOf
from allconv_caffe.train.settings import SETTINGS, RunSettings

if TYPE_CHECKING:
    from allconv_caffe.train.sweep import Swept

_ENGINE_FLAGS = f"{__name__}.engine_flags"


class _WithEngineFlags(click.Command):
    """What stands after ``--`` is kept apart, for the engine; before it, a word too many is a mistake."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        at = args.index("--") if "--" in args else len(args)
        ctx.meta[_ENGINE_FLAGS] = tuple(args[at + 1 :])
        return super().parse_args(ctx, args[:at])

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[-- CAFFE_FLAG...]"]


def _sayer(told: Told) -> Callable[[str], None]:
    """Takes the driver's lines, and says them in the words of whoever reads them."""
    return lambda line: told.say(as_typed(line))


def _option(name: str, **others: Any) -> Callable[..., Any]:
    """The command line's option for a setting, made from its declaration."""
    setting = SETTINGS[name]
    if name == "options":
        return click.option("--set", name, multiple=True, metavar="NAME=VALUE", help=setting.help)
    if setting.kind is bool:
        return click.option(f"--no-{name}", name, is_flag=True, flag_value=False, default=True, help=setting.help)
    kind: Any = click.Path(path_type=Path) if setting.kind is Path else setting.kind
    if isinstance(setting.rule, OneOf):
        kind = Words(setting.rule.choices)
    words = {
        "type": kind,
        "default": setting.default,
        "show_default": True,
        "help": setting.help,
    }
    return click.option(setting.flag, name, **{**words, **others})


def _settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """One option for each setting that has a help, so that a new setting needs no line here."""
    for name, setting in reversed(SETTINGS.items()):
        if setting.flag:
            command = _option(name)(command)
    return command


@click.command(
    cls=_WithEngineFlags,
    epilog=example(
        "allconv run cifar10-allcnn-c --data ~/cifar-10-python.tar.gz --epochs 35 --seed 2",
        "allconv run build/my-net --data data/mine --lr 0.01",
    ),
)
@click.argument("experiment", metavar="EXPERIMENT|FOLDER", shell_complete=completing(experiments))
@_settings_options
@telling("its record")
@click.pass_context
def run(ctx: click.Context, told: Told, experiment: str, options: tuple[str, ...], **settings: Any) -> None:
    """Do whatever is missing of an experiment: data, prototxt, training, test, record, confusion matrix. Continues what was
    begun.

    FOLDER holds solver.prototxt and train_val.prototxt of a net of your own, by hand or from `allconv derive`.
    What stands after -- goes to the engine's `caffe train` as it is.
    """
    from allconv_caffe.train import record, run as driver

    asked = RunSettings(
        options=pairs_from_text(options), caffe_flags=ctx.meta[_ENGINE_FLAGS], command=command_line(), **settings
    )
    say = _sayer(told)
    result = driver.run(experiment, asked, say=say)
    found = result.record
    if result.status == "done" and found is not None:
        evaluate_run(result.directory, say)
        found = record.read_result(result.directory)
    line = f"{result.status}: {result.directory}" if found is None or not found.done else record.summary(found)
    answer = {"status": result.status} if found is None else found.to_json()
    told.end({"directory": result.directory, **answer}, *([as_typed(line)] if told.quiet else []))
    status = {"done": 0, "interrupted": 130}.get(result.status, 1)
    if status:
        ctx.exit(status)


_SHARED = ("gpu", "threads", "download", "runs_dir")
"""Settings of a grid that all its runs share."""


def _lists_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """One option for each setting, to give several values for: ``--lr .25,.1``, ``--seeds 1-3``."""
    for name, setting in reversed(SETTINGS.items()):
        if not setting.flag:
            continue
        if name in _SHARED:
            words = (
                {"help": "device numbers that the runs share, e.g. 0,1,2,3; none for the CPU"} if name == "gpu" else {}
            )
            command = _option(name, **words)(command)
        elif name == "options":
            command = click.option(
                "--set", name, multiple=True, metavar="NAME=VALUE,...", help="an option of `allconv render`, repeatable"
            )(command)
        else:
            flags = [setting.flag, *(["--seeds"] if name == "seed" else [])]
            command = click.option(*flags, name, multiple=True, metavar="VALUE,...", help=setting.help)(command)
    return command


@click.command(
    cls=_WithEngineFlags,
    epilog=example(
        "allconv sweep 'cifar10-model-*' --lr .25,.1,.05,.01 --seeds 1-3 --epochs 35 --dry-run",
    ),
)
@click.argument("experiments", nargs=-1, required=True, metavar="EXPERIMENT|FOLDER...")
@_lists_options
@click.option("--on", type=Words(["local", "ray", "slurm"]), default="local", show_default=True, help="where they run")
@click.option("--jobs", type=int, help="local, on a CPU: runs at a time; by default one for every two cores")
@click.option("--per-gpu", type=int, default=1, show_default=True, help="local and ray: runs that share a GPU")
@click.option(
    "--slurm", multiple=True, metavar="NAME=VALUE", help="of submitit: partition, timeout_min, gpus_per_node, ..."
)
@click.option(
    "--select-on",
    type=Words(["test", "val"]),
    default="test",
    show_default=True,
    help="choose each network's best on the test images, or on the held-out ones",
)
@click.option("--dry-run", is_flag=True, help="only say which runs there are, and what is known of them")
@telling("how each run ended, and the best point of each network")
@click.pass_context
def sweep(
    ctx: click.Context,
    told: Told,
    experiments: tuple[str, ...],
    options: tuple[str, ...],
    on: str,
    jobs: int | None,
    per_gpu: int,
    slurm: tuple[str, ...],
    select_on: str,
    dry_run: bool,
    **settings: Any,
) -> None:
    """A grid of runs: EXPERIMENT names, groups (table-3) or patterns, times any settings as lists.

    Each is an ordinary run; done before, it is not trained again. EXPERIMENT may be 'cifar10-*', and '!*-aug' takes away;
    FOLDER holds a net of your own, as for `allconv run`.
    At the end stands the best point of each network. What stands after -- goes to the engine's `caffe train`.
    """
    from allconv_caffe.train import sweep as sweeping

    shared = {name: settings.pop(name) for name in _SHARED}
    asked = sweeping.Grid(
        experiments=experiments,
        lists=settings,
        options=options,
        settings=RunSettings(caffe_flags=ctx.meta[_ENGINE_FLAGS], **shared),
        on=on,
        jobs=jobs,
        per_gpu=per_gpu,
        slurm={name: value for name, _, value in (word.partition("=") for word in slurm)},
        select_on=select_on,
        then=f"{evaluate_run.__module__}:{evaluate_run.__name__}",
    )
    ended = sweeping.run(asked, _sayer(told), dry_run)
    page = None if dry_run else _page(ended, asked.settings)
    answer = ended.facts() if page is None else {**ended.facts(), "page": page}
    told.end(answer, *map(as_typed, ended.lines))
    if page is not None:
        told.say(f"a page of each of them: {page}")
    if status := {"done": 0, "interrupted": 130}.get(ended.status, 1):
        ctx.exit(status)


def _page(ended: Swept, settings: RunSettings) -> Path | None:
    """The report over a grid's runs, with a page for each; None where there is none that has begun."""
    from allconv_caffe.report import build
    from allconv_caffe.train import sweep as sweeping

    folders = [Path(outcome.directory) for outcome in ended.outcomes.values() if outcome.directory]
    if not folders:
        return None
    output = settings.runs_dir / sweeping.FOLDER / "report"
    build.build(folders, output, draw=False)
    return output / "report.html"


@click.command(epilog=example("allconv quickstart --seed 2"))
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    default=Path("."),
    show_default=True,
    help="gets data/quickstart and runs/quickstart",
)
@_option("seed", help="of the pictures, the weights and dropout")
@_option("engine", default="torch")
@_option("gpu")
@_option("epochs")
@telling("the errors, the seconds of each stage and the files")
def quickstart(told: Told, root: Path, **settings: Any) -> None:
    """The main job in minutes, without a download: draws a data set, prepares, trains, tests, plots.

    Status 1 where the network has not learned: 20 % error or more, or less than 15 points below a linear classifier.
    """
    from allconv_caffe.train import quickstart as main_job

    say = _sayer(told)
    result = main_job.run(root, **settings, say=say, progress=told.progress)
    if result is None:
        told.end({"learned": None}, *(["not trained to the end"] if told.quiet else []))
    else:
        evaluate_run(result.directory, say, root)
        told.end(result.facts(), *([result] if told.quiet else map(as_typed, main_job.lines(result))))
    if result is None or not result.learned:
        click.get_current_context().exit(1)
