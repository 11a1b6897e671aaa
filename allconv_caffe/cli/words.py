"""What the commands share: examples at the end of a help text, ``name=value`` words, the command as it was typed."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem


def example(*lines: str) -> str:
    """The end of a help text; click leaves its lines as they are."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


class Words(click.Choice[str]):
    """Choices in help texts and completion. A word that is none is answered by whoever takes it, in the house's words."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value


Completion = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def completing(names: Callable[[], Iterable[str]]) -> Completion:
    """For `shell_complete`: `names` that begin as what was typed; where none does, files."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        try:
            found = [CompletionItem(name) for name in names() if name.startswith(incomplete)]
        except Exception:  # a shell that waits for words is told no error
            found = []
        return found or [CompletionItem(incomplete, type="file")]

    return complete


def experiments() -> Iterable[str]:
    """Their names."""
    from allconv_caffe.paper.experiments import EXPERIMENTS

    return EXPERIMENTS


def networks() -> Iterable[str]:
    """Their names."""
    from allconv_caffe.paper.architectures import NAMES

    return NAMES


def models() -> Iterable[str]:
    """The names of those in models/."""
    from allconv_caffe import zoo

    return [entry.folder.name for entry in zoo.cards()]


def models_to_get() -> Iterable[str]:
    """The names of those that come with the package."""
    from allconv_caffe import zoo

    return [entry.folder.name for entry in zoo.cards(zoo.shipped())]


def pairs_from_text(texts: Sequence[str]) -> dict[str, Any]:
    """``name=value`` words as values of RenderOptions."""
    from allconv_caffe.paper.options import option_from_text

    values: dict[str, Any] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign:
            raise click.BadParameter(f"{text!r}: expected name=value, e.g. filler=msra")
        name = name.strip().replace("-", "_")
        values[name] = option_from_text(name, value.strip())
    return values


def as_typed(text: str) -> str:
    """A sentence about settings in the words of whoever reads it: options, or make's variables where make was called.

    The driver speaks of ``ENGINE=torch``; who typed ``allconv run --engine torch`` reads that.
    """
    if os.environ.get("ALLCONV_TYPED") == "make":
        return text
    from allconv_caffe.paper.datasets import DATASETS
    from allconv_caffe.train.settings import SETTINGS

    flags = {setting.variable: setting.flag for setting in SETTINGS.values() if setting.variable}
    flags |= {"DATA": "--data", **{entry.recipe.variable: "--data" for entry in DATASETS.values() if entry.recipe}}
    names = "|".join(sorted(flags, key=len, reverse=True))
    text = re.sub(rf"(?<![\w/.-])({names})=", lambda match: f"{flags[match[1]]} ", text)
    text = re.sub(rf"\b(or no|expected) ({names})(?=$|[;,)])", lambda match: f"{match[1]} {flags[match[2]]}", text)
    text = re.sub(r"\bmake (quickstart|[a-z0-9]+-[a-z0-9-]+)(?= --|`|,|$)", _command_of, text)
    return text.replace("`make caffe`", "`python -m allconv_caffe.bvlc install --prefix .caffe`")


def _command_of(match: re.Match[str]) -> str:
    return "allconv quickstart" if match[1] == "quickstart" else f"allconv run {match[1]}"


def command_line() -> str:
    """What was typed, for records and for the JSON beside a picture."""
    return " ".join(["allconv", *map(shlex.quote, sys.argv[1:])])
