"""``allconv open``: arguments only, for ``cli/main.py`` to add."""

from __future__ import annotations

import webbrowser
from pathlib import Path

import click

from allconv_caffe.cli.telling import Told, telling
from allconv_caffe.cli.words import example


@click.command("open", epilog=example("allconv open --no-browser"))
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--output", type=click.Path(path_type=Path), default=Path("build/open"), show_default=True, help="folder")
@click.option("--no-browser", is_flag=True, help="only write the page, and say where")
@telling("the page")
def open_(told: Told, folders: tuple[Path, ...], output: Path, no_browser: bool) -> None:
    """One page over the runs, models, evaluations, galleries, reports and figures below FOLDERS, shown in the browser.

    FOLDERS: by default runs, results, build, docs and models. The page is made of files: no server, no network.
    """
    from allconv_caffe.report import index_page

    page = index_page.build(folders or index_page.DEFAULT_FOLDERS, output)
    told.end({"page": page}, page)
    if not no_browser and not webbrowser.open(page.resolve().as_uri()):
        told.say("no browser was found to show it in", err=True)
