"""`allconv`: parses arguments, calls one function, returns a status.

Verbs and options carry the words of Caffe and of the paper. What a user did wrong is said in one line, and the exit
status is 1; every help text ends with an example.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from allconv_caffe import files, interrupts
from allconv_caffe.caffe_torch import import_caffe
from allconv_caffe.cli import answers, export, figures, open as open_, prep, tables, train, viz, zoo
from allconv_caffe.cli.telling import Told, telling
from allconv_caffe.cli.words import as_typed, example

_OURS = ("allconv_caffe.", "data_prep.")


class _Main(click.Group):
    """Says in one line what a user did wrong; a defect of ours keeps its traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            interrupts.raise_again()
            with _plain_warnings():
                return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            click.echo("stopped", err=True)
            ctx.exit(130)
        except Exception as error:
            if isinstance(error, BrokenPipeError) and error.filename is None:
                _pipe_closed(ctx)
            if not isinstance(error, OSError) and not type(error).__module__.startswith(_OURS):
                raise
            raise click.ClickException(as_typed(_line(error))) from None


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Our own warnings are a line for people; others keep the file and line that a programmer wants."""
    others = warnings.formatwarning

    def line(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> str:
        if category.__module__.startswith(_OURS):
            return f"Warning: {as_typed(str(message))}\n"
        return others(message, category, *place, **more)

    warnings.formatwarning = line
    try:
        yield
    finally:
        warnings.formatwarning = others


def _pipe_closed(ctx: click.Context) -> None:
    """Whoever read our output has seen enough, as ``head`` does: an end without a word, like that of a program by SIGPIPE."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # what is left in its buffer goes nowhere
    ctx.exit(128 + signal.SIGPIPE)


def _line(error: Exception) -> str:
    if isinstance(error, files.NoLocks):
        return f"{error.filename}: found {error.strerror}, expected one with flock, a local disk for instance"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror or error}"
    return " ".join(str(error).split("\n")) or type(error).__name__


@click.group(
    cls=_Main,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=example("allconv render cifar10-allcnn-c --epochs 35 --output build/short"),
)
@click.version_option(package_name="allconv-caffe")
def main() -> None:
    """Striving for Simplicity: The All Convolutional Net, with Caffe networks."""
    import_caffe.answer_with(_pycaffe)


def _pycaffe() -> None:
    from allconv_caffe import pycaffe  # only where a net has a Python layer

    pycaffe.install()


@main.command(
    epilog=example(
        "allconv report --trends",
        "allconv report results/cifar10-allcnn-c-jpeg-15-epochs --beside public=curve.csv --output build/beside",
    )
)
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--trends", is_flag=True, help="check the sentences of section 3.2 that compare networks")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("runs/report"),
    show_default=True,
    help="gets report.md, report.csv, report.html, pages/ and curves/",
)
@click.option(
    "--beside",
    multiple=True,
    metavar="[NAME=]LOG",
    help="lay the runs over another training, repeatable: a log of `caffe train`, or a CSV with epoch and error_percent",
)
@telling("the records of the runs, verdicts and files")
def report(told: Told, folders: tuple[Path, ...], trends: bool, output: Path, beside: tuple[str, ...]) -> None:
    """Measured beside published, for all runs below FOLDERS (default: runs and results)."""
    from allconv_caffe.report import build

    folders = folders or build.DEFAULT_FOLDERS
    told.say(build.build(folders, output, trends, beside))
    files = [
        "report.md",
        "report.csv",
        "report.html",
        "pages/",
        "curves/",
        *(["beside.png", "beside.csv"] if beside else []),
    ]
    answer = {"output": output, "files": files, **build.facts(folders, trends)} if told.json else {}
    told.end(answer, f"written: {output}/{', '.join(files)}", err=True)


@main.command(
    epilog=example("allconv curves results/cifar10-model-c-jpeg-10-epochs/log --output build/curves"),
)
@click.argument("logs", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("build/curves"),
    show_default=True,
    help="folder that gets NAME.train.csv, NAME.test.csv and curves.png",
)
@telling("what each log holds, and the files")
def curves(told: Told, logs: tuple[Path, ...], output: Path) -> None:
    """The points of any logs of `caffe train` as CSV, and their curves in one picture."""
    from allconv_caffe.report import curves as drawing

    drawn = drawing.curves(logs, output)
    for one in drawn:
        told.say(one)
    answer = {"picture": output / drawing.FIGURE, "logs": [dataclasses.asdict(one) for one in drawn]}
    told.end(answer, f"written: {output}/{drawing.FIGURE}, *.train.csv, *.test.csv", err=True)


@main.command(epilog=example("allconv doctor --json"))
@telling("all that was found")
def doctor(told: Told) -> None:
    """Which engines, GPUs, data sets and versions were found, and what to do about what is missing."""
    from allconv_caffe import doctor as examination

    found = examination.examine()
    told.end(found, examination.brief(found) if told.quiet else examination.text(found))
    if not found["can_run"]:
        click.get_current_context().exit(1)


for _command in (
    tables.render,
    tables.derive,
    tables.summary,
    prep.prep,
    train.run,
    train.sweep,
    train.quickstart,
    zoo.zoo,
    answers.predict,
    answers.evaluate,
    export.export,
    open_.open_,
    viz.viz,
):
    main.add_command(_command)
for _command in figures.COMMANDS:
    viz.viz.add_command(_command)
