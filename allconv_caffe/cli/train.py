"""``allconv run`` and ``allconv quickstart``: arguments only, for ``cli/main.py`` to add."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from allconv_caffe.cli.words import command_line, example, pairs_from_text


@click.command(epilog=example("allconv run cifar10-allcnn-c --data ~/cifar-10-python.tar.gz --epochs 35 --seed 2"))
@click.argument("experiment")
@click.option("--engine", default="auto", show_default=True, help="auto, caffe or torch")
@click.option("--gpu", help="device numbers, e.g. 0 or 0,1; none for the CPU")
@click.option("--data", type=click.Path(path_type=Path), help="archive, image folder or prepared data set")
@click.option("--lr", type=float, help="base_lr")
@click.option("--epochs", type=float, help="epochs in all; the schedule in proportion")
@click.option("--seed", type=int, default=1, show_default=True, help="random_seed")
@click.option("--batch-size", type=int, help="images of one update")
@click.option("--precision", default="float32", show_default=True, help="float32, tf32 or bf16 (engine torch)")
@click.option(
    "--rng",
    default="torch",
    show_default=True,
    help="torch, or caffe: seed-exact, BVLC Caffe's own random numbers on the CPU (engine torch)",
)
@click.option("--threads", type=int, help="CPU threads")
@click.option("--retries", type=int, default=0, show_default=True, help="trainings begun again after a dead one")
@click.option("--no-download", is_flag=True, help="fail where the data are not on this machine")
@click.option(
    "--runs-dir",
    type=click.Path(path_type=Path),
    default=Path("runs"),
    show_default=True,
    help="where run directories are kept",
)
@click.option("--set", "pairs", multiple=True, metavar="NAME=VALUE", help="an option of `allconv render`, repeatable")
@click.argument("caffe_flags", nargs=-1, type=click.UNPROCESSED)
def run(
    experiment: str,
    data: Path | None,
    no_download: bool,
    pairs: tuple[str, ...],
    caffe_flags: tuple[str, ...],
    **settings: Any,
) -> None:
    """Do whatever is missing of an experiment: data, prototxt, training, test, record. Continues what was begun.

    What stands after -- goes to the engine's `caffe train` as it is.
    """
    from allconv_caffe.train import run as driver

    result = driver.run(
        experiment,
        driver.RunSettings(
            data=data,
            download=not no_download,
            options=pairs_from_text(pairs),
            caffe_flags=caffe_flags,
            command=command_line(),
            **settings,
        ),
        say=click.echo,
    )
    status = {"done": 0, "interrupted": 130}.get(result.status, 1)
    if status:
        click.get_current_context().exit(status)


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
