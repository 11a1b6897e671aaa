"""``allconv viz``: arguments only, for ``cli.py`` to add. The options that all commands share: ``cli_viz_options.py``."""

from __future__ import annotations

import click

from allconv_caffe.cli_viz_options import example


@click.group(epilog=example("allconv viz --help"))
def viz() -> None:
    """Look inside a trained net: what excites a unit, and what in an image does."""


COMMANDS: tuple[click.Command, ...] = ()  # those of cli_figures are named here, too
for _command in COMMANDS:
    viz.add_command(_command)
