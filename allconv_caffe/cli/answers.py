"""``allconv predict`` and ``allconv evaluate``: arguments only, for ``cli/main.py`` to add."""

from __future__ import annotations

import functools
import glob
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from allconv_caffe.cli.telling import Told, telling
from allconv_caffe.cli.viz_options import PATH, Command, Inputs, options_of
from allconv_caffe.cli.viz_words import check_png
from allconv_caffe.cli.words import command_line, completing, example, models

if TYPE_CHECKING:
    from allconv_caffe.visualize.answers import Evaluation
    from allconv_caffe.visualize.nets.base import VizNet
    from allconv_caffe.visualize.sources import ImageSource

_MODEL = (
    "weights_path",
    "engine",
    "device",
    "python",
    "whitening",
    "mean",
    "scale",
    "order",
    "resize",
    "batch_size",
)
_LABELS = click.option("--labels", type=PATH, metavar="FILE", help="a class on each line, where the model has no names")


def of_a_model(*more: str, own: Sequence[str] = _MODEL) -> Callable[[Command], Command]:
    """Adds MODEL and the options that say how pixels become its input; the command gets `Inputs` first, and stands below
    `telling`.
    """
    names = (*own, *more)

    def wrap(command: Command) -> Command:
        @functools.wraps(command)
        def call(model: str, told: Told, **words: Any) -> Any:
            given = {name: words.pop(name) for name in names}
            prototxt = Path(model) if model.endswith(".prototxt") else None
            inputs = Inputs(model=None if prototxt else model, net_path=prototxt, quiet=told.quiet, **given)
            return command(inputs, told=told, **words)

        return click.argument("model", shell_complete=completing(models))(options_of(Inputs, names)(call))

    return wrap


def _names(inputs: Inputs, labels: Path | None, net: VizNet) -> list[str]:
    """Of the net's classes: those of --labels, else the model's, else the data set's, else numbers.

    Raises: VizError: another number than the net has classes.
    """
    from allconv_caffe.visualize import answers
    from allconv_caffe.visualize.labels import Labels
    from allconv_caffe.visualize.unit import scores_blob

    count = answers.count_classes(net)
    if labels is not None:
        read = Labels.read(labels)
        read.check_count(count, scores_blob(net))
        return list(read.names)
    names = inputs.class_names
    if names:
        Labels(names, names, f"the class names of {inputs.name}").check_count(count, scores_blob(net))
    return answers.class_names(names, count)


def say_if_unprepared(inputs: Inputs, told: Told) -> None:
    """Where nobody says how the net's images were prepared, what was done to the pixels."""
    if inputs.unprepared:
        order = inputs.order or "BGR"
        told.say(
            f"pixels went in as they are, 0 to 255, {order}: --whitening, --mean, --scale, --order say otherwise",
            err=True,
        )


@click.command(
    "predict",
    epilog=example(
        "find photos -name '*.jpg' | allconv predict cifar10-allcnn-c-jpeg - --json",
        "allconv predict cifar10-allcnn-c-jpeg cat.png holiday/",
    ),
)
@telling("the answers of each picture", "one JSON object a line")
@of_a_model()
@click.argument("pictures", nargs=-1, required=True, metavar="PICTURE...")
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="answers of a picture")
@click.option(
    "--explain", type=PATH, metavar="PNG", help="what in each picture speaks for its answer: guided backpropagation"
)
@_LABELS
def predict(
    inputs: Inputs, told: Told, pictures: tuple[str, ...], top: int, explain: Path | None, labels: Path | None
) -> None:
    """What is in PICTURES: class names and probabilities, a line for each.

    MODEL is a name of models/, a run's folder, or a deploy prototxt with --weights. PICTURES are image files, folders
    of them, patterns such as 'photos/**/*.jpg', prepared data or LMDBs; "-" reads paths from standard input. They are
    brought to the net's size, then prepared as its training images were.
    """
    from allconv_caffe.visualize import answers
    from allconv_caffe.visualize.comparison import Question, Variant, comparison
    from allconv_caffe.visualize.look import Look
    from allconv_caffe.visualize.unit import scores_blob

    if explain is not None:
        check_png(explain)
    net = inputs.open_net()
    names = _names(inputs, labels, net)
    keys, images, answered = [], [], []
    for path, source in _sources(inputs, net, pictures):
        for _, batch_keys, batch in source.batches(inputs.batch_size):
            for key, image, given in zip(batch_keys, batch, answers.probabilities(net, batch), strict=True):
                where = path if Path(path).is_file() else str(Path(path) / key)
                best = [(names[label], float(given[label])) for label in (-given).argsort(kind="stable")[:top]]
                if told.json:
                    rows = [{"class": name, "probability": round(p, 6)} for name, p in best]
                    click.echo(json.dumps({"picture": where, "answers": rows}, ensure_ascii=False))
                else:
                    click.echo(f"{where}: {', '.join(f'{name} {100 * p:.1f} %' for name, p in best)}")
                if explain is not None:
                    keys.append(where)
                    images.append(image)
                    answered.append(f"{best[0][0]} {100 * best[0][1]:.1f} %")
    say_if_unprepared(inputs, told)
    if explain is not None:
        import numpy as np

        question = Question(
            images=np.stack(images), keys=keys, blob=scores_blob(net), rules=["guided"], batch_size=inputs.batch_size
        )
        look = Look(space=inputs.space, command=command_line(), classes=names)
        drawing = comparison(
            [Variant(name=inputs.name, net=net)], question, look, answers=answered, title="What speaks for each answer"
        )
        for written in drawing.save(explain, arrays=False):
            told.say(written)


def _sources(inputs: Inputs, net: VizNet, pictures: Sequence[str]) -> Iterator[tuple[str, ImageSource]]:
    """The images that were named, those of standard input in the place of "-"; all are there before the first is given.

    Raises: VizError: nothing on standard input, what cannot be opened.
    """
    from allconv_caffe.visualize.nets.errors import VizError

    paths: list[str] = []
    for picture in pictures:
        if picture == "-":
            lines = [line for line in sys.stdin.read().splitlines() if line]
            if not lines:
                raise VizError("standard input", "nothing", "the path of a picture on each line")
            paths += lines
        elif glob.has_magic(picture) and not Path(picture).exists():  # quoted, or of a shell that expands nothing
            paths += sorted(glob.glob(picture, recursive=True)) or [picture]
        else:
            paths.append(picture)
    opened = []
    for path in paths:
        inputs.data = Path(path)
        opened.append((path, inputs.open_images(net)))
    yield from opened


@click.command(
    "evaluate",
    epilog=example("allconv evaluate cifar10-allcnn-c-jpeg --data data/cifar10-jpeg --output build/evaluation"),
)
@telling("error, errors by class, and the most surely wrong")
@of_a_model("data", "split")
@click.option(
    "--output", type=PATH, metavar="FOLDER", help="gets confusion.csv, confusion.png, wrong.png and evaluation.json"
)
@click.option(
    "--keep", type=click.IntRange(min=1), default=25, show_default=True, help="images on the sheet of the surely wrong"
)
@_LABELS
def evaluate(inputs: Inputs, told: Told, output: Path | None, keep: int, labels: Path | None) -> None:
    """How far MODEL is right over a labelled set: error, error of each class, confusion, and the images most surely wrong.

    MODEL as in `allconv predict`; --data a prepared set, an LMDB, or a folder with a folder for each class.
    """
    from allconv_caffe.visualize import answers

    names, found, facts, source = _evaluation(inputs, labels, keep)
    if output is not None:
        answers.write(output, found, names, source, facts)
    told.end(facts, f"{found.error_percent:.2f} % of {found.count:,} images wrong")
    width = max(map(len, names))
    for name, error, row in zip(names, found.class_errors(), found.confusion, strict=True):
        if row.sum():
            told.say(f"  {name:<{width}} {error:6.2f} % of {row.sum():,}{_taken_for(names, row, names.index(name))}")
    if facts["never_answered"]:
        told.say(_never(facts))
    if found.without_label:
        click.echo(f"{found.without_label:,} images name no class and were not counted", err=True)
    say_if_unprepared(inputs, told)
    if output is not None:
        told.say(f"written: {output}/confusion.csv, confusion.png, wrong.png, evaluation.json", err=True)


def _evaluation(
    inputs: Inputs, labels: Path | None, keep: int
) -> tuple[list[str], Evaluation, dict[str, Any], ImageSource]:
    """The names of the classes, what was found, the same for records, and the images."""
    from allconv_caffe.visualize import answers
    from allconv_caffe.visualize.labels import Labels

    net = inputs.open_net()
    names = _names(inputs, labels, net)
    known = Labels.read(labels) if labels is not None else Labels(names, names, inputs.name)
    source = inputs.open_images(net, known)
    found = answers.evaluate(net, source, keep=keep, batch_size=inputs.batch_size, progress=inputs.progress)
    facts = {"model": inputs.name, "data": str(inputs.data), **answers.facts(found, names), "command": command_line()}
    return names, found, facts, source


def evaluate_run(folder: Path, say: Callable[[str], None], root: Path = Path()) -> None:
    """Confusion matrix and the surely wrong of a finished run in its folder, errors by class in its record.

    Where that cannot be, a line says why: a real Caffe has trained it, the net gives no one score for each class, the test
    images are not there. What is there is not made again.

    Args:
        root: what the paths of the run's settings and prototxt are relative to.
    """
    from allconv_caffe import zoo
    from allconv_caffe.train import record
    from allconv_caffe.visualize import answers
    from allconv_caffe.visualize.nets.errors import VizError
    from data_prep.errors import PrepError

    out, run = folder / record.EVALUATION, record.read_result(folder)
    if (out / answers.FILES[-1]).is_file() and run.class_errors_percent is not None:
        return
    if run.engine != "torch":
        say(f"no confusion matrix of a real Caffe's run; allconv evaluate {folder} --data SET --output {out} makes one")
        return
    try:
        trained = zoo.find(folder, root=root)
        if trained.data is None:
            say("no confusion matrix: no Data layer feeds the test")
            return
        device = record.device_of(folder)
        inputs = Inputs(model=str(folder), data=trained.data, device=device, batch_size=100, quiet=True)
        inputs.trained = trained
        names, found, facts, source = _evaluation(inputs, None, keep=25)
        answers.write(out, found, names, source, facts)
    except (VizError, zoo.ZooError, PrepError) as error:
        say(f"no confusion matrix: {error}")
        return
    record.add_evaluation(folder, facts)
    worst, name = max(((error, name) for name, error in facts["class_errors_percent"].items() if error is not None))
    most = f"most often wrong: {name}, {worst:.2f} %" if worst else "none is wrong"
    if facts["never_answered"]:
        most = _never(facts)
    say(f"confusion matrix, and what is most surely wrong: {out} ({most})")


def _never(facts: dict[str, Any]) -> str:
    """The classes that the net knows and does not speak of."""
    return f"never answered: {', '.join(facts['never_answered'])}"


def _taken_for(names: Sequence[str], row: Any, label: int) -> str:
    """The class that this one is most often taken for."""
    others = row.copy()
    others[label] = 0
    return f", most often taken for {names[int(others.argmax())]} ({others.max():,})" if others.any() else ""
