"""The paper's experiments as data: network x data set x schedule x published error.

Source: Tables 3 and 4; sections 3.2 and 3.3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from allconv_caffe.paper import architectures
from allconv_caffe.paper.architectures import Architecture
from allconv_caffe.paper.datasets import CIFAR10, CIFAR10_LARGE, CIFAR10_PAD5, CIFAR100, ILSVRC12, Dataset
from allconv_caffe.paper.errors import TableError
from allconv_caffe.paper.published import TABLE_3_ERRORS
from allconv_caffe.paper.schedules import CIFAR_SCHEDULE, IMAGENET_SCHEDULE, LARGE_SCHEDULE, Schedule

MEASURED_RATES: dict[str, float] = {"model_c": 0.01, "strided_cnn_c": 0.01}
"""Where 0.05 failed: Model C died of it, Strided-CNN-C ended 7.7 points higher than with 0.01 (results/, seed 1)."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One row of the paper's results: a network on a data set, its schedule and the published figures."""

    name: str  # a word: of the folder in solvers/ and of runs
    title: str  # what tables call it
    architecture: str | Architecture  # a name in ``architectures.NAMES``, or the table itself
    dataset: Dataset
    schedule: Schedule
    source: str  # where the paper has it
    published_error_percent: float | None = None
    published_parameters: str = ""  # the paper's words

    def network(self, stride_on: str = "1x1") -> Architecture:
        """The architecture with this experiment's number of classes."""
        if isinstance(self.architecture, Architecture):
            base = self.architecture
        else:
            base = architectures.architecture(self.architecture, stride_on)
        return replace(base, classes=self.dataset.classes)


def _slug(architecture: str) -> str:
    return architecture.replace("all_cnn", "allcnn").replace("_", "-")


def _cifar_schedule(architecture: str) -> Schedule:
    return replace(CIFAR_SCHEDULE, base_lr=MEASURED_RATES.get(architecture, CIFAR_SCHEDULE.base_lr))


def _experiments() -> dict[str, Experiment]:
    found: list[Experiment] = []
    for name, (title, error, count) in TABLE_3_ERRORS.items():
        found.append(
            Experiment(
                name=f"cifar10-{_slug(name)}",
                title=title,
                architecture=name,
                dataset=CIFAR10,
                schedule=_cifar_schedule(name),
                source=f"Table 3, {title}",
                published_error_percent=error,
                published_parameters=count,
            )
        )
    found.append(
        Experiment(
            name="cifar10-allcnn-c-aug",
            title="All-CNN-C, augmented",
            architecture="all_cnn_c",
            dataset=CIFAR10_PAD5,
            schedule=CIFAR_SCHEDULE,
            source="Table 4, CIFAR-10 with data augmentation, ALL-CNN",
            published_error_percent=7.25,
            published_parameters="1.3 M",
        )
    )
    for name, (title, _, _) in TABLE_3_ERRORS.items():
        published = name == "all_cnn_c"
        found.append(
            Experiment(
                name=f"cifar100-{_slug(name)}",
                title=title,
                architecture=name,
                dataset=CIFAR100,
                schedule=_cifar_schedule(name),
                source="Table 4, CIFAR-100, ALL-CNN"
                if published
                else f"{title} of Table 3 on CIFAR-100, not published",
                published_error_percent=33.71 if published else None,
            )
        )
    found.append(
        Experiment(
            name="cifar10-large-allcnn",
            title="Large-All-CNN",
            architecture="large_all_cnn",
            dataset=CIFAR10_LARGE,
            schedule=LARGE_SCHEDULE,
            source="Table 4, CIFAR-10 with large data augmentation, Large ALL-CNN",
            published_error_percent=4.41,
            published_parameters="> 50 M",
        )
    )
    found.append(
        Experiment(
            name="imagenet-allcnn",
            title="ImageNet All-CNN-B",
            architecture="imagenet",
            dataset=ILSVRC12,
            schedule=IMAGENET_SCHEDULE,
            source="section 3.3 and Table 6",
            published_error_percent=41.2,
            published_parameters="< 10 M",
        )
    )
    return {experiment.name: experiment for experiment in found}


EXPERIMENTS: dict[str, Experiment] = _experiments()
"""Every experiment by name, in the order of the paper's tables."""


def experiment(name: str) -> Experiment:
    """The experiment of that name.

    Raises:
        TableError: no such experiment.
    """
    if name not in EXPERIMENTS:
        raise TableError("experiment", name, "the name of an experiment", EXPERIMENTS)
    return EXPERIMENTS[name]
