"""What a trained net says of images: probabilities by class, and how far it is right over a labelled set."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from allconv_caffe import csv_text, files
from allconv_caffe.visualize import display
from allconv_caffe.visualize.nets.base import VizNet
from allconv_caffe.visualize.nets.errors import VizError
from allconv_caffe.visualize.sources import ImageSource
from allconv_caffe.visualize.unit import check_blob, scores_blob


@dataclass(kw_only=True)
class Wrong:
    """An image that was taken for another class.

    Attributes:
        key: of the image. label: its class. answer: the class it was taken for. probability: of the answer.
    """

    key: str
    label: int
    answer: int
    probability: float


@dataclass(kw_only=True)
class Evaluation:
    """A net's answers over a labelled set.

    Attributes:
        confusion: (classes, classes) int64, images of class `row` taken for class `column`.
        wrong: the most surely wrong, the largest probability first.
        without_label: images of which the data do not say the class; they are not counted.
    """

    confusion: np.ndarray
    wrong: list[Wrong] = field(default_factory=list)
    without_label: int = 0

    @property
    def count(self) -> int:
        return int(self.confusion.sum())

    @property
    def error_percent(self) -> float:
        """Of all images with a label."""
        return 100.0 * (1.0 - float(np.trace(self.confusion)) / self.count)

    def class_errors(self) -> np.ndarray:
        """(classes,) percent; nan for a class without images."""
        each = self.confusion.sum(axis=1).astype(np.float64)
        with np.errstate(invalid="ignore"):
            return np.asarray(100.0 * (1.0 - np.diag(self.confusion) / np.where(each > 0, each, np.nan)))

    def never_answered(self) -> np.ndarray:
        """(n,) labels that have images and are no image's answer: under a last ReLU, most likely dead outputs."""
        return np.flatnonzero((self.confusion.sum(axis=1) > 0) & (self.confusion.sum(axis=0) == 0))


def class_names(names: Sequence[str], count: int) -> list[str]:
    """`names`, or numbers where there are none."""
    return list(names) or [str(label) for label in range(count)]


def count_classes(net: VizNet) -> int:
    """How many scores the net gives an image.

    Raises: VizError: scores at several places, as of a net for larger images.
    """
    blob = scores_blob(net)
    channels, *places = check_blob(net, blob)
    if any(size != 1 for size in places):
        raise VizError(f"blob '{blob}'", f"scores at {'x'.join(map(str, places))} places", "one score for each class")
    return channels


def probabilities(net: VizNet, images: np.ndarray) -> np.ndarray:
    """(N, classes) float64, the softmax of the net's scores.

    Args:
        images: (N, C, H, W) float32, as the net's input blob takes them.

    Raises: VizError: see `count_classes`.
    """
    blob = scores_blob(net)
    scores = net.forward(images, (blob,), until=blob)[blob].reshape(len(images), count_classes(net)).astype(np.float64)
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def answers(net: VizNet, source: ImageSource, batch_size: int = 32) -> Iterator[tuple[str, np.ndarray]]:
    """(key, (classes,) probabilities) of each image, in the order of the data."""
    for _, keys, images in source.batches(batch_size):
        yield from zip(keys, probabilities(net, images), strict=True)


def evaluate(
    net: VizNet, source: ImageSource, *, keep: int = 25, batch_size: int = 100, progress: bool = False
) -> Evaluation:
    """Confusion over every image of `source` that has a label.

    Args:
        keep: how many of the most surely wrong are kept.

    Raises: VizError: no image with a label, a label beyond the net's classes.
    """
    classes = count_classes(net)
    found = Evaluation(confusion=np.zeros((classes, classes), np.int64))
    with tqdm(total=len(source), unit="image", disable=None if progress else True) as bar:
        for key, given in answers(net, source, batch_size):
            bar.update()
            label = source.label(key)
            if label is None:
                found.without_label += 1
                continue
            if not 0 <= label < classes:
                raise VizError(f"{source.where}: {key}", f"label {label}", f"0 to {classes - 1}, the net's classes")
            answer = int(given.argmax())
            found.confusion[label, answer] += 1
            if answer != label:
                found.wrong.append(Wrong(key=key, label=label, answer=answer, probability=float(given[answer])))
                if len(found.wrong) > 50 * keep + 1000:
                    found.wrong = _surest(found.wrong, keep)
    if not found.count:
        raise VizError(source.where, "no image whose class is known", "a prepared data set, or a folder for each class")
    found.wrong = _surest(found.wrong, keep)
    return found


def _surest(wrong: Sequence[Wrong], keep: int) -> list[Wrong]:
    return sorted(wrong, key=lambda one: (-one.probability, one.key))[:keep]


FILES = ("confusion.csv", "confusion.png", "wrong.png", "evaluation.json")
"""What `write` makes."""


def facts(found: Evaluation, names: Sequence[str]) -> dict[str, Any]:
    """The figures for programs and records."""
    return {
        "images": found.count,
        "without_label": found.without_label,
        "error_percent": round(found.error_percent, 4),
        "class_errors_percent": {
            name: None if error != error else round(float(error), 4)
            for name, error in zip(names, found.class_errors(), strict=True)
        },
        "never_answered": [names[label] for label in found.never_answered()],
        "most_surely_wrong": [
            {
                "image": one.key,
                "class": names[one.label],
                "answer": names[one.answer],
                "probability": round(one.probability, 6),
            }
            for one in found.wrong
        ],
    }


def write(folder: Path, found: Evaluation, names: Sequence[str], source: ImageSource, said: Mapping[str, Any]) -> None:
    """The matrix as table and picture, the sheet of the surely wrong, and `said` as JSON, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    content = (confusion_csv(found, names), confusion_png(found, names), wrong_png(found, names, source))
    for name, each in zip(FILES, content, strict=False):
        files.write(folder / name, each)
    files.write_json(folder / FILES[-1], said)


def confusion_csv(found: Evaluation, names: Sequence[str]) -> str:
    """A row for each true class, a column for each answer, and the class's error."""
    rows: list[Sequence[object]] = [["class", *names, "error_percent"]]
    for name, row, error in zip(names, found.confusion, found.class_errors(), strict=True):
        rows.append([name, *map(int, row), f"{error:.2f}"])
    return csv_text.text(rows)


def confusion_png(found: Evaluation, names: Sequence[str]) -> bytes:
    """The matrix as a picture: percent of each true class, numbers written in it where they are legible."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    classes = len(names)
    share = 100.0 * found.confusion / np.maximum(found.confusion.sum(axis=1, keepdims=True), 1)
    side = min(2.5 + 0.45 * classes, 24.0)
    figure = Figure(figsize=(side + 1.0, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(image, ax=axes, label="% of the class")
    if classes <= 50:
        axes.set_xticks(range(classes), names, rotation=90, parse_math=False)
        axes.set_yticks(range(classes), names, parse_math=False)
    if classes <= 20:
        for row in range(classes):
            for column in range(classes):
                if found.confusion[row, column]:
                    colour = "white" if share[row, column] > 50 else "black"
                    number = str(found.confusion[row, column])
                    axes.text(column, row, number, ha="center", va="center", fontsize=7, color=colour)
    axes.set_xlabel("answer")
    axes.set_ylabel("class")
    axes.set_title(f"{found.error_percent:.2f} % of {found.count:,} images wrong")
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=100, metadata={"Software": None})
    return out.getvalue()


def wrong_png(found: Evaluation, names: Sequence[str], source: ImageSource) -> bytes:
    """The images most surely wrong, with class, answer and its probability; an empty sheet says that there is none."""
    title = f"The most surely wrong of {found.count:,} images"
    if not found.wrong:
        return display.png(display.sheet([[display.Grid(tiles=[])]], title, ["None was wrong."]))
    pictures = source.space.pictures(source.get([one.key for one in found.wrong]))
    captions = [f"{names[one.label]}: {names[one.answer]} {100 * one.probability:.0f} %" for one in found.wrong]
    columns = 5
    rows = range(0, len(pictures), columns)
    grid = display.Grid(
        tiles=[list(pictures[row : row + columns]) for row in rows],
        captions=[captions[row : row + columns] for row in rows],
        size=128,
    )
    return display.png(display.sheet([[grid]], title, ["Beneath each: its class, and what it was taken for."]))
