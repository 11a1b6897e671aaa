"""``--json`` and ``--quiet``: how each command is told to speak. The two are declared here and nowhere else.

@click.command(...)
@telling("the files")
def render(told: Told, ...) -> None:
    told.say("what a reader may like to know meanwhile")
    told.end({"files": paths}, *paths)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import click

from allconv_caffe import files
from allconv_caffe.errors import PlacedError


class Told:
    """How one command speaks: for people in full, for people in short, for programs."""

    def __init__(self, *, json: bool = False, quiet: bool = False) -> None:
        """
        Args:
            json: the answer alone on standard output, everything else on standard error. quiet: nothing but the answer.
        """
        self.json, self.quiet = json, quiet

    @property
    def progress(self) -> bool:
        """Whether bars are shown."""
        return not self.quiet

    def say(self, line: object, err: bool = False) -> None:
        """A line for people while the command works; `err`: on standard error also where no program listens."""
        if not self.quiet:
            click.echo(line, err=err or self.json)

    def end(self, answer: Mapping[str, Any], *lines: object, err: bool = False) -> None:
        """How it ended: `answer` for programs, as one JSON object; `lines` for people, on standard error if `err`."""
        if self.json:
            click.echo(files.json_text(answer), nl=False)
        for line in () if self.json else lines:
            click.echo(line, err=err)


def _as_option(where: str) -> str:
    """What a library calls `k`, `batch_size` or `rule` is the option --k, --batch-size or --rules of who typed it; a file of that
    name stays."""
    context = click.get_current_context()
    name = where.removeprefix("option ").replace("_", "-")
    options = {
        word: param for param in context.command.params if isinstance(param, click.Option) for word in param.opts
    }
    for word in (f"--{name}", f"--{name}s"):
        if word in options and str(context.params.get(str(options[word].name))) != where:
            return word
    return where


def telling(answer: str, form: str = "one JSON object") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds ``--json`` and ``--quiet`` to a command, which gets `Told` as its argument ``told``.

    Args:
        answer: what ``--json`` gives, for the help. form: in which form.
    """

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def call(*args: Any, json_: bool, quiet: bool, **words: Any) -> Any:
            try:
                return command(*args, told=Told(json=json_, quiet=quiet), **words)
            except PlacedError as error:
                error.where = _as_option(error.where)
                raise

        said = f"{answer}, as {form}; what is said meanwhile goes to standard error"
        quiet = click.option("--quiet", is_flag=True, help="say only how it ended")
        return quiet(click.option("--json", "json_", is_flag=True, help=said)(call))

    return add
