"""A net of somebody's own: a folder with ``solver.prototxt`` and ``train_val.prototxt``, run as the experiments are.

The folder is what ``allconv derive`` writes, or written by hand; it is only read. What its solver says is run, with the
driver's paths, device and seed in it; rate, epochs and batch may be given otherwise, and the schedule follows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from allconv_caffe import proto
from allconv_caffe.caffe_torch.summary import Summary, summarize_net
from allconv_caffe.errors import PlacedError
from allconv_caffe.paper.assumptions import Assumption
from allconv_caffe.paper.datasets import Dataset
from allconv_caffe.paper.experiments import EXPERIMENTS, Experiment, experiment as experiment_of
from allconv_caffe.paper.schedules import Schedule, Timetable, exact_batch, iterations
from allconv_caffe.proto import TEST, TRAIN, NetParameter, SolverParameter
from allconv_caffe.proto.upgrade import upgrade_net, upgrade_solver
from allconv_caffe.train import data as data_
from allconv_caffe.train.data import PreparedData
from allconv_caffe.train.own_layers import Feed, feed_of, of_phase, state_of
from allconv_caffe.train.prototxt import DEPLOY, PLAIN_SOLVER, SOLVER, TRAIN_VAL, Places
from allconv_caffe.train.settings import DriverError, RunSettings

OPTIONS = ("momentum", "weight_decay", "clip_gradients", "display", "test_interval", "snapshot")
"""Options of ``allconv render`` that are fields of a solver: ``--set`` takes them for a net of one's own, too."""

_NET_FIELDS = ("train_net", "test_net", "net_param", "train_net_param", "test_net_param")
_RESERVED = ("quickstart", "report", "sweep")  # folders beside those of runs
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class OwnNet:
    """What the folder holds."""

    folder: Path
    """As the user named it: for messages, since everything in it is read."""
    name: str
    """Of its runs."""
    solvers: Mapping[str, SolverParameter]
    """By file name, in the order in which they train: one, and one for plain epochs where ``derive`` wrote it."""
    net: NetParameter
    """``train_val.prototxt``."""
    deploy: str
    """``deploy.prototxt``; "" without one."""

    @property
    def title(self) -> str:
        """What tables call it."""
        return str(self.net.name) or self.name

    @property
    def solver(self) -> SolverParameter:
        """The first solver."""
        return next(iter(self.solvers.values()))

    def feed(self, net: NetParameter, phase: int, solver: SolverParameter | None = None) -> Feed:
        """The layer of ``net``, which is this one or a copy of it, that reads the images of a phase. Raises: DriverError."""
        return feed_of(net, phase, solver or self.solver, self.folder / TRAIN_VAL)


def subject(word: str, root: Path) -> Experiment | OwnNet:
    """What ``allconv run`` is given: the name of an experiment, or a folder below ``root``.

    Raises:
        TableError: neither. DriverError: a folder without solver and net, or one that cannot be run; one line.
    """
    if word in EXPERIMENTS:
        return experiment_of(word)
    if (root / word).is_dir():
        return read(Path(word), root)
    if "/" in word:
        raise DriverError(word, f"found nothing there, expected a folder with {SOLVER} and {TRAIN_VAL}")
    return experiment_of(word)


def read(folder: Path, root: Path) -> OwnNet:
    """The solver and the net in a folder, which lies below ``root`` unless it is absolute.

    Raises:
        DriverError: a file is missing or no prototxt of its kind, or says what the driver cannot follow; one line.
    """
    place = root / folder
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", place.resolve().name).strip("-.")
    if not name or name in EXPERIMENTS or name in _RESERVED:
        also = f", or `allconv run {name}`" if name in EXPERIMENTS else ""
        raise DriverError(folder, f"found a folder called {name!r}, expected a name of its own{also}")
    for file in (SOLVER, TRAIN_VAL):
        if not (place / file).is_file():
            raise DriverError(folder, f"found no {file}, expected {SOLVER} and {TRAIN_VAL}")
    names = (SOLVER, PLAIN_SOLVER) if (place / PLAIN_SOLVER).is_file() else (SOLVER,)
    try:
        solvers = {file: upgrade_solver(proto.read_solver(place / file), str(folder / file)) for file in names}
        net = upgrade_net(proto.read_net(place / TRAIN_VAL), str(folder / TRAIN_VAL))
        deploy = place / DEPLOY
        text = proto.to_text(proto.read_net(deploy)) if deploy.is_file() else ""
    except PlacedError as error:
        raise DriverError.of(error) from None
    for file, solver in solvers.items():
        _check_solver(folder / file, solver)
    return OwnNet(folder=folder, name=name, solvers=solvers, net=net, deploy=text)


def _check_solver(where: Path, solver: SolverParameter) -> None:
    for field in _NET_FIELDS:
        if solver.HasField(field) if not field.startswith("test_net") else len(getattr(solver, field)):
            raise DriverError(where, f"found {field}, expected net: the driver runs {TRAIN_VAL} beside it")
    if len(solver.test_state) > 1 or len(solver.test_iter) > 1:
        raise DriverError(where, "found several test nets, expected one")
    if solver.snapshot_format != SolverParameter.BINARYPROTO:
        raise DriverError(where, "found snapshot_format HDF5, expected BINARYPROTO, from which the driver goes on")
    for field in ("max_iter", "base_lr"):
        if not getattr(solver, field) > 0:
            raise DriverError(where, f"found {field} {getattr(solver, field):g}, expected more than 0")


# ---------------------------------------------------------------------------------------------------------------------
# What is run


class Own:
    """The prototxt of a run, made from the folder's: what `plan` asks of any experiment's."""

    def __init__(self, own: OwnNet, settings: RunSettings, found: Found) -> None:
        """
        Raises:
            DriverError: an option that does not apply, a batch that cannot be; one line.
        """
        self.own, self._data, self._input_shape = own, found.data, found.input_shape
        self._net = NetParameter()
        self._net.CopyFrom(own.net)
        self._solvers = {name: _copy(solver) for name, solver in own.solvers.items()}
        self._train = [own.feed(self._net, TRAIN, solver) for solver in own.solvers.values()]
        self._test = own.feed(self._net, TEST)
        before = self._train[0].batch_size * own.solver.iter_size
        self.batch_size = self._batch(settings)
        self._set_options(settings)
        self._stretch(settings, before)
        self._set_test(found.whole_test)
        self.timetable = self._timetable()

    @property
    def last_solver(self) -> str:
        """The file of the solver that trains to the end."""
        return list(self._solvers)[-1]

    @property
    def stages(self) -> tuple[tuple[str, int], ...]:
        """The solvers, each with the iteration that it ends at."""
        return tuple((name, solver.max_iter) for name, solver in self._solvers.items())

    def assumptions(self) -> list[Assumption]:
        """None: somebody's own net leaves nothing open."""
        return []

    def _batch(self, settings: RunSettings) -> int:
        """Images of an update, as asked for or as the net says."""
        rounds = self.own.solver.iter_size
        if settings.batch_size is not None:
            if settings.batch_size % rounds:
                raise DriverError(
                    f"BATCH_SIZE={settings.batch_size}", f"expected a multiple of iter_size {rounds} of {SOLVER}"
                )
            self._train[0].set(batch_size=settings.batch_size // rounds)
        if self._train[0].batch_size * rounds > self._data.n_train:
            raise DriverError(
                f"BATCH_SIZE={self._train[0].batch_size * rounds}", f"expected at most {self._data.n_train} images"
            )
        return self._train[0].batch_size * rounds

    def _set_options(self, settings: RunSettings) -> None:
        for name, value in settings.options.items():
            if name not in OPTIONS:
                raise DriverError(
                    f"option {name}",
                    f"found {value}, expected an option of the solver: the net is that of {self.own.folder / TRAIN_VAL} "
                    f"(choices: {', '.join(OPTIONS)})",
                    choices=OPTIONS,
                )
            for solver in self._solvers.values():
                setattr(solver, name, value)
        for solver in self._solvers.values():
            solver.random_seed = settings.seed
            if settings.lr is not None:
                solver.base_lr = settings.lr

    def _stretch(self, settings: RunSettings, before: int) -> None:
        """Other epochs, or another batch, stretch the whole schedule; the epochs stay where only the batch is another."""
        self._asked_epochs = settings.epochs
        if settings.epochs is None and self.batch_size == before:
            return
        if len(self._solvers) > 1:
            name = "EPOCHS" if settings.epochs is not None else "BATCH_SIZE"
            raise DriverError(name, f"found two solvers in {self.own.folder}, expected one to stretch (derive it anew)")
        (solver,) = self._solvers.values()
        was = solver.max_iter
        epochs = Fraction(was * before, self._data.n_train) if settings.epochs is None else settings.epochs
        solver.max_iter = iterations(epochs, self._data.n_train, self.batch_size)
        stretch(solver, Fraction(solver.max_iter, was))

    def _set_test(self, whole: bool) -> None:
        """One pass over the test images, where the folder's solver does not say how many batches, or of another set."""
        for solver in self._solvers.values():
            if whole or not solver.test_iter or not solver.test_iter[0]:
                size = exact_batch(self._data.n_test, self._test.batch_size)
                self._test.set(batch_size=size)
                solver.test_iter[:] = [self._data.n_test // size]

    def _timetable(self) -> Timetable:
        solver = self._solvers[self.last_solver]
        epochs = self._asked_epochs or solver.max_iter * self.batch_size / self._data.n_train
        return Timetable(
            max_iter=solver.max_iter,
            stepvalue=tuple(solver.stepvalue),
            stepsize=solver.stepsize,
            gamma=_decimal(solver.gamma),
            test_iter=solver.test_iter[0],
            test_batch_size=self._test.batch_size,
            test_interval=solver.test_interval or solver.max_iter,
            display=solver.display or solver.max_iter,
            snapshot=solver.snapshot,
            epochs=float(f"{epochs:.6g}"),
        )

    def identity_lines(self) -> list[str]:
        """What decides the outcome; the paths of a prepared set are left out, whose checksums stand in their place."""
        mean = "MEAN" if self._data.mean_file else ""
        marks = Places(
            net_path="NET", snapshot_prefix="PREFIX", train_lmdb="TRAIN", test_lmdb="TEST", mean_file=mean, devices=0
        )
        return [line for text in self._texts(marks).values() for line in text.splitlines()]

    def files(self, places: Places) -> dict[str, str]:
        """The texts as they are run."""
        head = f"# {self.own.name}: from {self.own.folder}, for `allconv run`\n"
        found = {name: head + text for name, text in self._texts(places).items()}
        deploy = self.own.deploy or deploy_of(self._net, self.own.solver, self._input_shape)
        return {**found, DEPLOY: head + deploy} if deploy else found

    def _texts(self, places: Places) -> dict[str, str]:
        net = NetParameter()
        net.CopyFrom(self._net)
        feeds = [self.own.feed(net, TRAIN, solver) for solver in self.own.solvers.values()]
        for feed in feeds:
            if places.devices > 1:
                if feed.batch_size % places.devices:
                    raise DriverError(
                        self.own.folder / TRAIN_VAL,
                        f"found batch_size {feed.batch_size}, expected a multiple of {places.devices} GPUs",
                    )
                feed.set(batch_size=feed.batch_size // places.devices)
        if self._data.checksums:
            test = self.own.feed(net, TEST)
            for feed, path in (*((feed, places.train_lmdb) for feed in feeds), (test, places.test_lmdb)):
                if feed.reads_lmdb:
                    feed.set(source=path)
                if feed.layer.transform_param.mean_file and places.mean_file:
                    feed.layer.transform_param.mean_file = places.mean_file
        found = {}
        for name, before in self._solvers.items():
            solver = _copy(before)
            solver.net, solver.snapshot_prefix = places.net_path, places.snapshot_prefix
            solver.snapshot_after_train = True
            solver.ClearField("device_id")
            solver.solver_mode = SolverParameter.GPU if places.devices else SolverParameter.CPU
            found[name] = proto.to_text(solver)
        return {**found, TRAIN_VAL: proto.to_text(net)}

    def experiment(self) -> Experiment:
        """What tables and records call it."""
        solver = self.own.solver
        schedule = Schedule(
            lr_policy=solver.lr_policy,
            base_lr=_decimal(solver.base_lr),
            momentum=_decimal(solver.momentum),
            weight_decay=_decimal(solver.weight_decay),
            batch_size=self.own.feed(self.own.net, TRAIN, solver).batch_size * solver.iter_size,
            max_iter=solver.max_iter,
            type=solver.type,
        )
        data = self._data
        dataset = Dataset(
            name=self.own.name,
            title="",
            classes=data.classes,
            n_train=data.n_train,
            n_test=data.n_test,
            train_lmdb=str(data.train_lmdb),
            test_lmdb=str(data.test_lmdb),
            shape=data.shape,
        )
        return Experiment(
            name=self.own.name,
            title=self.own.title,
            architecture="",
            dataset=dataset,
            schedule=schedule,
            source=f"a net of one's own, {self.own.folder.name}",
        )


def _copy(solver: SolverParameter) -> SolverParameter:
    found = SolverParameter()
    found.CopyFrom(solver)
    return found


def _decimal(value: float) -> float:
    """The short number that a float32 was made of."""
    return float(f"{value:.7g}")


def stretch(solver: SolverParameter, factor: Fraction) -> None:
    """Make a solver's rate go through the same course in ``factor`` times as many iterations; ``max_iter`` is already set.

    Source: sgd_solver.cpp, GetLearningRate: fixed and poly need nothing, the others count iterations.
    """

    def longer(count: int) -> int:
        return max(1, math.floor(count * factor + Fraction(1, 2)))

    policy = solver.lr_policy
    if policy == "multistep":
        solver.stepvalue[:] = [longer(value) for value in solver.stepvalue]
    if policy in ("step", "sigmoid"):
        solver.stepsize = longer(solver.stepsize)
    if policy in ("inv", "sigmoid"):  # gamma * iteration
        solver.gamma = solver.gamma / float(factor)
    if policy == "exp":  # gamma ^ iteration
        solver.gamma = solver.gamma ** (1 / float(factor))


# ---------------------------------------------------------------------------------------------------------------------
# The data


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a net of somebody's own is trained on."""

    data: PreparedData  # the set
    input_shape: tuple[int, int, int]  # (C, H, W) of what the net sees of an image
    whole_test: bool  # a test must be made one pass over it, whatever the folder's solver says


def find_data(own: OwnNet, settings: RunSettings, root: Path, say: Say, prepare: bool) -> Found:
    """What the net is trained on: the set that ``--data`` names, else what its data layers read.

    Raises:
        DriverError: no data, or data that do not fit the net; one line.
    """
    train, test = own.feed(own.net, TRAIN), own.feed(own.net, TEST)
    where = own.folder / TRAIN_VAL
    if train.layer is test.layer:
        raise DriverError(
            f"{where}: layer '{train.layer.name}'", "found one data layer for both phases, expected one for each phase"
        )
    given = settings.data is not None or settings.validation is not None
    if given and not (train.reads_lmdb and test.reads_lmdb):
        name = "DATA" if settings.data is not None else "VALIDATION"
        other = next(feed for feed in (train, test) if not feed.reads_lmdb)
        raise DriverError(name, f"found a layer {other.layer.type} in {where}, expected Data, which reads an LMDB")
    if settings.data is not None:
        found = data_.prepared(settings.data)
    else:
        found = _of_layers(train, test, own, root)
    if settings.validation is not None:
        found = data_.held_out(found, settings.validation, None, say, prepare)
    classes, shape = _scores(own, _summary(own, found, root))
    if found.checksums and found.classes > classes:
        raise DriverError(found.folder, f"found {found.classes} classes, expected at most the {classes} of {where}")
    if not found.checksums:
        found = replace(found, classes=classes, shape=shape)
    if not found.mean_file and any(feed.layer.transform_param.mean_file for feed in (train, test)) and given:
        raise DriverError(found.folder, f"found no mean image, expected one for mean_file of {where}")
    tested = test.batch_size * sum(own.solver.test_iter)
    if not given and tested not in (0, found.n_test):
        whole = ", each of which is tested once" if tested > found.n_test else ""
        say(f"{own.folder / SOLVER}: a test takes {tested} images of {found.n_test}{whole}")
    if own.solver.random_seed >= 0 and own.solver.random_seed != settings.seed:
        say(f"{own.folder / SOLVER}: random_seed {own.solver.random_seed} gives way to SEED={settings.seed}")
    given = given or tested > found.n_test
    return Found(data=found, input_shape=shape, whole_test=given)


def _of_layers(train: Feed, test: Feed, own: OwnNet, root: Path) -> PreparedData:
    """The prepared set that both layers read, or what is known of sources without a manifest."""
    where = own.folder / TRAIN_VAL
    paths = root / train.source, root / test.source
    if train.reads_lmdb and test.reads_lmdb:
        for feed, path in ((train, paths[0]), (test, paths[1])):
            if not (path / "data.mdb").is_file():
                raise DriverError(
                    f"{where}: layer '{feed.layer.name}'",
                    f"found no LMDB at {feed.source}, expected one, or a prepared set (--data)",
                )
        if (found := data_.prepared_around(*paths)) is not None:
            return found
    counts = train.count(root, where), test.count(root, where)
    for feed, count in zip((train, test), counts, strict=True):
        if not count:
            raise DriverError(f"{where}: layer '{feed.layer.name}'", f"found no image in {feed.source}")
    folder = paths[0] if paths[0].is_dir() else paths[0].parent
    return PreparedData(
        folder=folder,
        train_lmdb=paths[0],
        test_lmdb=paths[1],
        display_name=folder.parent.name if paths[0].is_dir() else paths[0].stem,
        classes=0,
        n_train=counts[0],
        n_test=counts[1],
        shape=(0, 0, 0),
        checksums={},
        official=False,
        preprocessing="",
    )


def _summary(own: OwnNet, data: PreparedData, root: Path) -> Summary:
    """The test net on the data.

    Raises:
        DriverError: a net that Caffe refuses, in its words.
    """
    net = NetParameter()
    net.CopyFrom(own.net)
    feed = own.feed(net, TEST)
    feed.set(source=str(data.test_lmdb) if feed.reads_lmdb else str(root / feed.source))
    state = state_of(own.solver, TEST)
    for layer in net.layer:
        if layer.transform_param.mean_file:
            layer.transform_param.mean_file = str(data.mean_file or root / layer.transform_param.mean_file)
    try:
        return summarize_net(net, str(own.folder / TRAIN_VAL), "TEST", None, state.level, tuple(state.stage))
    except PlacedError as error:
        raise DriverError.of(error) from None


def _scores(own: OwnNet, summary: Summary) -> tuple[int, tuple[int, int, int]]:
    """The number of classes that the net tells apart, and the shape (C, H, W) of what it sees.

    Raises:
        DriverError: no Accuracy layer that the error could be taken from.
    """
    where = own.folder / TRAIN_VAL
    layers = [layer for layer in of_phase(own.net, TEST, own.solver).layer if layer.type == "Accuracy"]
    accuracy = next((layer for layer in layers if layer.top[:1] == ["accuracy"]), None)
    if accuracy is None:
        tops = ", ".join(top for layer in layers for top in layer.top)
        found = f"Accuracy with the top {tops}" if tops else "no Accuracy layer"
        raise DriverError(
            where, f"found {found} in the TEST phase, expected one with the top accuracy: the error is taken from it"
        )
    shapes = {top: shape for row in summary.layers for top, shape in zip(row.tops, row.shapes, strict=True)}
    scores = shapes[accuracy.bottom[0]]
    classes = scores[accuracy.accuracy_param.axis] if len(scores) > 1 else 1
    if classes < 2:
        raise DriverError(where, f"found scores of {classes} class, expected at least 2")
    image = next(iter(shapes.values()))
    channels, height, width = (*image[1:], 0, 0, 0)[:3]
    return classes, (channels, height, width)


# ---------------------------------------------------------------------------------------------------------------------
# A deploy net


def deploy_of(net: NetParameter, solver: SolverParameter, shape: tuple[int, ...]) -> str:
    """The deploy net of a train_val without one: an Input for the data layer, no label, Softmax for SoftmaxWithLoss.

    Returns: prototxt; "" where the label is needed by more than losses and accuracies, or no image size is known.
    """
    kept = of_phase(net, TEST, solver)
    data = next(layer for layer in kept.layer if not layer.bottom)
    if not all(shape):
        return ""
    labels = set(data.top[1:])
    made = NetParameter(name=net.name)
    made.layer.add(name=data.top[0], type="Input", top=[data.top[0]]).input_param.shape.add(dim=[1, *shape])
    for layer in kept.layer:
        if layer is data or layer == data:
            continue
        if layer.type == "SoftmaxWithLoss":
            made.layer.add(name="prob", type="Softmax", bottom=[layer.bottom[0]], top=["prob"])
        elif labels & set(layer.bottom):
            if layer.type != "Accuracy" and not layer.type.endswith("Loss"):
                return ""
        else:
            copied = made.layer.add()
            copied.CopyFrom(layer)
            del copied.include[:], copied.exclude[:]
    return proto.to_text(made)
