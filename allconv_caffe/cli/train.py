"""``allconv run`` and ``allconv quickstart``: arguments only, for ``cli/main.py`` to add."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from allconv_caffe.cli.words import command_line, example, pairs_from_text
from allconv_caffe.train.settings import SETTINGS, RunSettings

_ENGINE_FLAGS = f"{__name__}.engine_flags"


class _WithEngineFlags(click.Command):
    """What stands after ``--`` is kept apart, for the engine; before it, a word too many is a mistake."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        at = args.index("--") if "--" in args else len(args)
        ctx.meta[_ENGINE_FLAGS] = tuple(args[at + 1 :])
        return super().parse_args(ctx, args[:at])

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[-- CAFFE_FLAG...]"]


def _option(name: str, **others: Any) -> Callable[..., Any]:
    """The command line's option for a setting, made from its declaration."""
    setting = SETTINGS[name]
    if name == "options":
        return click.option("--set", name, multiple=True, metavar="NAME=VALUE", help=setting.help)
    if setting.kind is bool:
        return click.option(f"--no-{name}", name, is_flag=True, flag_value=False, default=True, help=setting.help)
    words = {
        "type": click.Path(path_type=Path) if setting.kind is Path else setting.kind,
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
    epilog=example("allconv run cifar10-allcnn-c --data ~/cifar-10-python.tar.gz --epochs 35 --seed 2"),
)
@click.argument("experiment")
@_settings_options
@click.pass_context
def run(ctx: click.Context, experiment: str, options: tuple[str, ...], **settings: Any) -> None:
    """Do whatever is missing of an experiment: data, prototxt, training, test, record. Continues what was begun.

    What stands after -- goes to the engine's `caffe train` as it is.
    """
    from allconv_caffe.train import run as driver

    asked = RunSettings(
        options=pairs_from_text(options), caffe_flags=ctx.meta[_ENGINE_FLAGS], command=command_line(), **settings
    )
    result = driver.run(experiment, asked, say=click.echo)
    status = {"done": 0, "interrupted": 130}.get(result.status, 1)
    if status:
        ctx.exit(status)


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
def quickstart(**settings: Any) -> None:
    """The main job in minutes, without a download: draws a data set, prepares, trains, tests, plots.

    Status 1 where the network has not learned: 20 % error or more, or less than 15 points below a linear classifier.
    """
    from allconv_caffe.train import quickstart as main_job

    result = main_job.run(**settings, say=click.echo)
    if result is None or not result.learned:
        click.get_current_context().exit(1)
