"""The main job in a few minutes, without a download: archive -> GCN -> ZCA -> LMDB -> prototxt -> training -> test.

Nothing here is a short cut: the pictures of ``quickstart_data`` are written in CIFAR-10's own archive format, and from
there on the same functions run as for CIFAR-10: ``data_prep.pipeline.prepare`` and ``driver.run``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from allconv_caffe import markdown
from allconv_caffe.paper.datasets import Dataset
from allconv_caffe.paper.experiments import Experiment
from allconv_caffe.paper.published import TABLE_3_ERRORS
from allconv_caffe.paper.schedules import CIFAR_SCHEDULE, Schedule
from allconv_caffe.train import quickstart_data
from allconv_caffe.train.record import EVALUATION
from allconv_caffe.train.settings import DriverError, RunSettings

__all__ = ["EXPERIMENT", "QuickstartResult", "experiment", "linear_error_percent", "lines", "run", "write_archive"]

N_TRAIN, N_TEST = 4000, 1000
DISPLAY_NAME = "Quickstart cloth"
L2_STRENGTHS = (1e-2, 1e-1)
"""Weight decays tried for the linear classifier; the best on the test images counts, in its favour."""

ARCHITECTURE = "all_cnn_c"

SCHEDULE = Schedule(
    lr_policy="multistep",
    base_lr=0.05,  # All-CNN-C's own
    momentum=CIFAR_SCHEDULE.momentum,
    weight_decay=CIFAR_SCHEDULE.weight_decay,
    batch_size=32,  # many small steps
    epochs=6,
    drop_epochs=(5,),
)
OPTIONS: dict[str, Any] = {"filler": "msra", "clip_gradients": 1.0, "relu_last": False}
"""What departs from the experiments in `solvers/`: xavier's weights take thousands of steps to leave the plateau at ln 10,
msra's fifty; the clipping and the scores without a ReLU keep the first of those steps from silencing classes for good."""

MOST_ERROR_PERCENT, LEAST_LEAD_POINTS = 20.0, 15.0
"""What the network must reach: an error below the first, and as many points below the linear classifier's."""
NOT_LEARNED = (
    f"the network has not learned enough: expected an error below {MOST_ERROR_PERCENT:g} % and "
    f"{LEAST_LEAD_POINTS:g} points below the linear classifier; --seed 2 begins anew"
)

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


def experiment(n_train: int = N_TRAIN, n_test: int = N_TEST, architecture: str = ARCHITECTURE) -> Experiment:
    """A network of Table 3 with the paper's dropout, momentum and weight decay on `n_train` pictures."""
    title = TABLE_3_ERRORS[architecture][0]
    dataset = Dataset(
        name="quickstart",
        title=DISPLAY_NAME,
        classes=10,
        n_train=n_train,
        n_test=n_test,
        train_lmdb="data/quickstart/train_lmdb",
        test_lmdb="data/quickstart/test_lmdb",
    )
    return Experiment(
        name="quickstart",
        title=title,
        architecture=architecture,
        dataset=dataset,
        schedule=SCHEDULE,
        source=f"{title} of Table 3, on drawn cloth",
    )


EXPERIMENT = experiment()
"""What `allconv quickstart` runs."""


@dataclass(frozen=True, kw_only=True)
class QuickstartResult:
    """How the main job ended."""

    title: str  # of the network
    test_error_percent: float
    linear_error_percent: float  # of the best linear classifier on the same pixels
    parameters: int  # of the network
    seconds: dict[str, float]  # by stage
    directory: Path  # of the run
    archive: Path = Path()  # in CIFAR's format
    data: Path = Path()  # whitened
    picture: Path = Path()  # of samples, seen and whitened

    @property
    def learned(self) -> bool:
        """Whether the network is below 20 % and at least 15 points below the linear classifier."""
        error = self.test_error_percent
        return error < MOST_ERROR_PERCENT and self.linear_error_percent - error >= LEAST_LEAD_POINTS

    def __str__(self) -> str:
        """A line."""
        linear = f"a linear classifier on the same pixels: {self.linear_error_percent:.1f} %"
        end = "" if self.learned else f"; {NOT_LEARNED}"
        return f"{self.title} on {DISPLAY_NAME}: test error {self.test_error_percent:.1f} % ({linear}){end}"

    def facts(self) -> dict[str, Any]:
        """The same for programs."""
        return {**asdict(self), "learned": self.learned}


def write_archive(path: str | Path, n_train: int, n_test: int, seed: int) -> Path:
    """Draw the pictures and write them as a tar.gz in the format of cifar-10-python.

    Args:
        path: the file; equal seeds give equal bytes.
        n_train, n_test: multiples of ten.

    Raises:
        PrepError: the file cannot be written.
    """
    from data_prep import cifar

    train_x, train_y = quickstart_data.generate(n_train, 2 * seed)
    test_x, test_y = quickstart_data.generate(n_test, 2 * seed + 1)
    return cifar.write_python_archive(
        path, train_x, train_y, test_x, test_y, quickstart_data.CLASSES, data_set_name=DISPLAY_NAME, compresslevel=1
    )


def read_split(lmdb_folder: Path) -> tuple[FloatArray, IntArray]:
    """All images of an LMDB as Caffe sees them: (N, values) float32 and (N,) labels."""
    from allconv_caffe.proto import datum
    from data_prep import database

    images, labels = [], []
    for _, value in database.records(lmdb_folder):
        image, label = datum.decode(value)
        images.append(image.reshape(-1).astype(np.float32))
        labels.append(label)
    return np.stack(images), np.array(labels, np.int64)


def linear_error_percent(
    train: tuple[FloatArray, IntArray], test: tuple[FloatArray, IntArray], strengths: tuple[float, ...] = L2_STRENGTHS
) -> float:
    """Test error of multinomial logistic regression, fitted by L-BFGS; the best of several strengths of weight decay.

    The loss is the mean cross entropy plus strength / 2 times the sum of the squared weights (the biases are free).

    Args:
        train, test: (N, values) float32 and (N,) labels in [0, classes).

    Returns:
        Percent of the test images, the smallest over `strengths`.
    """
    import torch

    x, y = torch.from_numpy(train[0]), torch.from_numpy(train[1])
    test_x, test_y = torch.from_numpy(test[0]), torch.from_numpy(test[1])
    classes = int(max(y.max(), test_y.max())) + 1

    def error(strength: float) -> float:
        weight = torch.zeros(x.shape[1], classes, requires_grad=True)
        bias = torch.zeros(classes, requires_grad=True)
        optimiser = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

        def closure() -> torch.Tensor:
            optimiser.zero_grad()
            loss = torch.nn.functional.cross_entropy(x @ weight + bias, y) + strength / 2 * weight.square().sum()
            loss.backward()
            return loss

        optimiser.step(closure)
        with torch.no_grad():
            wrong = (test_x @ weight + bias).argmax(1) != test_y
        return 100.0 * float(wrong.double().mean())

    return min(map(error, strengths))


class _Laps:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._clock = time.perf_counter()

    def end(self, stage: str) -> None:
        """The stage ends here, and the next begins."""
        now = time.perf_counter()
        self.seconds[stage], self._clock = now - self._clock, now


def run(
    root: str | Path = ".",
    *,
    n_train: int = N_TRAIN,
    n_test: int = N_TEST,
    architecture: str = ARCHITECTURE,
    say: Callable[[str], None] = print,
    progress: bool = True,
    **settings: Any,
) -> QuickstartResult | None:
    """Do the main job under `root`, as far as it is missing.

    Args:
        root: gets ``data/quickstart*`` and ``runs/quickstart/``.
        n_train, n_test: pictures; multiples of ten.
        say: takes each line for people. progress: show bars on a terminal.
        settings: of ``RunSettings``: seed (of the pictures too), engine (torch where none is named), gpu, epochs.

    Returns:
        None where training was interrupted or is dead; the driver has said so then.

    Raises:
        PrepError, TableError, DriverError: as the functions it calls.
    """
    from allconv_caffe.train import run as driver

    root, laps = Path(root), _Laps()
    chosen = experiment(n_train, n_test, architecture)
    folder = root / "data" / "quickstart"
    given = RunSettings(
        **{"engine": "torch", **settings},
        data=folder,
        root=root,
        options=OPTIONS,
        download=False,
        command="make quickstart",
    )
    archive = folder.with_name("quickstart-python.tar.gz")
    say(f"1/5 draw {n_train} + {n_test} pictures of {len(quickstart_data.CLASSES)} kinds into {archive}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_archive(archive, n_train, n_test, given.seed)
    laps.end("draw")

    say(f"2/5 prepare {folder}: GCN, ZCA, LMDB")
    grid = _prepare(archive, folder, given.seed, progress)
    laps.end("prepare")

    say("3/5 fit a linear classifier to the same whitened pixels")
    linear = linear_error_percent(read_split(folder / "train_lmdb"), read_split(folder / "test_lmdb"))
    laps.end("linear classifier")

    say(f"4/5 render the prototxt, train and test {chosen.title}")
    outcome = driver.run(chosen, given, say)
    laps.end("render, train, test")
    found = outcome.record
    if outcome.status != "done" or found is None or found.test_error_percent is None:
        return None

    return QuickstartResult(
        title=chosen.title,
        test_error_percent=found.test_error_percent,
        linear_error_percent=linear,
        parameters=found.parameters or 0,
        seconds=laps.seconds,
        directory=outcome.directory,
        archive=archive,
        data=folder,
        picture=grid,
    )


def _prepare(archive: Path, folder: Path, seed: int, progress: bool) -> Path:
    """Prepare the archive, if that is not done, and look at the result; returns the picture of samples."""
    from data_prep import pipeline, verify
    from data_prep.manifest import Manifest

    if not (pipeline.is_prepared(folder) and _made_from(Manifest.load(folder), archive)):
        pipeline.prepare(archive, folder, dataset="cifar10", seed=seed, force=True, progress=progress)
    grid = folder.with_name("quickstart.png")
    report = verify.verify(folder, grid)
    if not report.ok:
        raise DriverError(folder, "; ".join(report.problems))
    return grid


def lines(result: QuickstartResult) -> list[str]:
    """What came out, and where it lies, for people."""
    places = (
        ("archive in CIFAR's format", result.archive),
        ("whitened LMDBs, manifest", result.data),
        ("pictures, seen and whitened", result.picture),
        ("prototxt, log, CSV, result.json", result.directory),
        ("curves", result.directory / "curves.png"),
        ("confusion matrix, surely wrong", result.directory / EVALUATION),
        ("weights", result.directory / "snapshots"),
    )
    return [
        "5/5 done",
        "",
        table(result),
        "",
        *(f"{what:<33}{path}" for what, path in places),
        *([] if result.learned else [NOT_LEARNED]),
        "to look at all of it on one page: allconv open",
        "next: make cifar10-allcnn-c CIFAR10=<cifar-10-python.tar.gz>",
    ]


def _made_from(manifest: Any, archive: Path) -> bool:
    from data_prep.archive import file_checksums

    return manifest.preprocessing == "gcn-zca" and manifest.source.get("sha256") == file_checksums(archive).sha256


def table(result: QuickstartResult) -> str:
    """The outcome as Markdown: the network, the linear classifier and chance; then the seconds."""
    rows = [
        (result.title, f"{result.parameters:,}", f"{result.test_error_percent:.1f}"),
        ("linear classifier, same pixels", f"{10 * (3 * 32 * 32 + 1):,}", f"{result.linear_error_percent:.1f}"),
        ("guessing", "0", "90.0"),
    ]
    spent = ", ".join(f"{stage} {value:.0f} s" for stage, value in result.seconds.items())
    return "\n".join(
        [
            *markdown.table((DISPLAY_NAME, "parameters", "test error %"), rows, right=(1, 2)),
            "",
            f"{spent}; {sum(result.seconds.values()):.0f} s in all",
        ]
    )
