"""``allconv run`` and ``allconv quickstart``: arguments only, for ``cli/main.py`` to add."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from allconv_caffe.cli.words import command_line, example, pairs_from_text

_ENGINE_FLAGS = f"{__name__}.engine_flags"


class _WithEngineFlags(click.Command):
    """What stands after ``--`` is kept apart, for the engine; before it, a word too many is a mistake."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        at = args.index("--") if "--" in args else len(args)
        ctx.meta[_ENGINE_FLAGS] = tuple(args[at + 1 :])
        return super().parse_args(ctx, args[:at])

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[-- CAFFE_FLAG...]"]


def _settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """One option for each setting that has a help, so that a new setting needs no line here."""
    from allconv_caffe.train.settings import SETTINGS

    for name, setting in reversed(SETTINGS.items()):
        if not setting.flag:
            continue
        if name == "options":
            option = click.option("--set", name, multiple=True, metavar="NAME=VALUE", help=setting.help)
        elif setting.kind is bool:
            option = click.option(f"--no-{name}", name, is_flag=True, flag_value=False, default=True, help=setting.help)
        else:
            kind = click.Path(path_type=Path) if setting.kind is Path else setting.kind
            option = click.option(
                setting.flag, name, type=kind, default=setting.default, show_default=True, help=setting.help
            )
        command = option(command)
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
    from allconv_caffe.train.settings import RunSettings

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
@click.option("--seed", type=int, default=1, show_default=True, help="of the pictures, the weights and dropout")
@click.option("--engine", default="torch", show_default=True, help="auto, caffe or torch")
@click.option("--gpu", help="device number; none for the CPU")
@click.option("--epochs", type=float, help="epochs in all")
def quickstart(**settings: Any) -> None:
    """The main job in minutes, without a download: draws a data set, prepares, trains, tests, plots.

    Status 1 where the network has not learned: 20 % error or more, or less than 15 points below a linear classifier.
    """
    from allconv_caffe.train import quickstart as main_job

    result = main_job.run(**settings, say=click.echo)
    if result is None or not result.learned:
        click.get_current_context().exit(1)
