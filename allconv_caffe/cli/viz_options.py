"""What all commands of ``allconv viz`` take: which net, which weights, which images, how pixels become its input.

    @viz.command(epilog=example("allconv viz patches --model ..."))
    @click.option("--k", ...)
    @viz_inputs()
    def patches(inputs: Inputs, k: int) -> None:
        net = inputs.open_net()
        source = inputs.open_images(net)

An option is declared once, as a field of a dataclass: its type, its default, its `Option`. They are in Caffe's words; what
a user did wrong becomes one line in ``main.py``.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

import click

from allconv_caffe.cli.telling import Told
from allconv_caffe.cli.words import Words, completing, models
from allconv_caffe.files import absent

if TYPE_CHECKING:
    import numpy as np

    from allconv_caffe.visualize.labels import Labels
    from allconv_caffe.visualize.nets.base import VizNet
    from allconv_caffe.visualize.sources import ImageSource
    from allconv_caffe.visualize.whitening import InputSpace
    from allconv_caffe.zoo import Pixels, Trained

PATH = click.Path(path_type=Path)
Command = Callable[..., Any]


class Option:
    """What a field of a table of options says of its option, beside its type and default.

    Args:
        least: the smallest number that serves, see `check_least`. of_data: only for commands that look at images.
        words: what `click.option` is told besides.
    """

    def __init__(self, *flags: str, least: int | None = None, of_data: bool = False, **words: Any) -> None:
        self.flags, self.least, self.of_data, self.words = flags, least, of_data, words


def declared(table: type) -> dict[str, Option]:
    """The options of a table, a dataclass whose fields are annotated with them, by field; others have none."""
    hints = get_type_hints(table, include_extras=True)
    names = [field.name for field in dataclasses.fields(table) if hasattr(hints[field.name], "__metadata__")]
    return {name: hints[name].__metadata__[0] for name in names}


def options_of(table: type, names: Sequence[str]) -> Callable[[Command], Command]:
    """Adds the options that the fields `names` of `table` declare to a command, in that order."""
    options, hints = declared(table), get_type_hints(table)
    defaults = {field.name: field.default for field in dataclasses.fields(table)}

    def add(command: Command) -> Command:
        for name in reversed(names):
            kind = next(kind for kind in (*get_args(hints[name]), hints[name]) if kind is not type(None))
            words: dict[str, Any] = {"type": PATH if kind is Path else kind, **options[name].words}
            if kind is bool:
                words = {"is_flag": True, **options[name].words}
            elif defaults[name] is not None:
                words["show_default"] = True
            command = click.option(*options[name].flags, name, default=defaults[name], **words)(command)
        return command

    return add


def check_least(table: Any) -> None:
    """Raises: VizError: a number below the `least` that its option was declared with."""
    from allconv_caffe.visualize.nets.errors import VizError

    for name, option in declared(type(table)).items():
        value = getattr(table, name)
        if value is not None and option.least is not None and value < option.least:
            raise VizError(option.flags[0], value, f"{option.least} or more")


@dataclass(kw_only=True)
class Inputs:
    """The shared options of one command, and what they open."""

    model: Annotated[
        str | None,
        Option(
            "--model",
            metavar="NAME",
            shell_complete=completing(models),
            help="of models/, a model's folder or a run's",
        ),
    ] = None
    net_path: Annotated[
        Path | None, Option("--net", metavar="PROTOTXT", help="deploy net, in place of the model's")
    ] = None
    weights_path: Annotated[Path | None, Option("--weights", metavar="CAFFEMODEL", help="in place of the model's")] = (
        None
    )
    level: Annotated[int, Option("--level", help="NetState level of the net")] = 0
    stages: Annotated[tuple[str, ...], Option("--stage", multiple=True, help="NetState stage, repeatable")] = ()
    engine: Annotated[str, Option("--engine", type=Words(["torch", "caffe"]), help="whose arithmetic")] = "torch"
    device: Annotated[str, Option("--device", help="cpu, cuda or cuda:N")] = "cpu"
    python: Annotated[
        Path | None,
        Option("--python", help="interpreter with pycaffe; left out: that of `make caffe` or CAFFE_ROOT"),
    ] = None
    whitening: Annotated[
        Path | None,
        Option("--whitening", metavar="NPZ", help="of data_prep; left out: the model's, else the data set's"),
    ] = None
    mean: Annotated[
        str | None,
        Option(
            "--mean",
            metavar="FILE|V,V,V",
            help="subtracted from pixels: mean.binaryproto, or a value for each channel; left out: the model's",
        ),
    ] = None
    scale: Annotated[
        float | None, Option("--scale", help="factor on pixels, after the mean; left out: the model's, else 1")
    ] = None
    order: Annotated[
        str | None,
        Option(
            "--order", type=Words(["BGR", "RGB"]), help="channels of the net's input; left out: BGR, or RGB if whitened"
        ),
    ] = None
    data: Annotated[
        Path | None,
        Option("--data", of_data=True, help="prepared data set, LMDB, folder of images or one image"),
    ] = None
    split: Annotated[
        str, Option("--split", type=Words(["test", "train"]), of_data=True, help="of a prepared data set")
    ] = "test"
    resize: Annotated[
        int | None,
        Option(
            "--resize",
            metavar="PIXELS",
            of_data=True,
            help="shorter side of image files, before the middle is taken",
        ),
    ] = None
    batch_size: Annotated[int, Option("--batch-size", type=click.IntRange(min=1), help="images of one pass")] = 32
    seed: Annotated[int, Option("--seed", type=click.IntRange(min=0), help="of what is drawn at random")] = 0
    quiet: bool = False  # no progress bars

    @property
    def name(self) -> str:
        """What a page about the net is called: the model's name, else that of the net's file."""
        return Path(self.model).name if self.model is not None else self.files[0].stem

    @property
    def progress(self) -> bool:
        """Whether bars are shown."""
        return not self.quiet

    @functools.cached_property
    def trained(self) -> Trained:
        """What --model names. Raises: ZooError: no such model or run."""
        from allconv_caffe import zoo

        assert self.model is not None
        return zoo.find(self.model)

    @functools.cached_property
    def class_names(self) -> tuple[str, ...]:
        """Of the model, else of the prepared data set; empty where neither says them."""
        names = self.trained.class_names if self.model is not None else ()
        prepared = _prepared(self.data)
        if names or prepared is None:
            return names
        from data_prep.manifest import Manifest

        return tuple(Manifest.load(prepared).class_names)

    @functools.cached_property
    def files(self) -> tuple[Path, Path, Path | None]:
        """Deploy net, weights and whitening: of the model, each replaced by what was named.

        Raises: ZooError: no such model. VizError: neither a model nor both of net and weights.
        """
        from allconv_caffe.visualize.nets.errors import VizError

        net, weights, whitening = self.net_path, self.weights_path, self.whitening
        if self.model is not None:
            found = self.trained
            net, weights = net or found.deploy, weights or found.weights
            if whitening is None and self.mean is None:
                whitening = found.whitening
        for flag, path, what in (("--net", net, "a deploy prototxt"), ("--weights", weights, "a .caffemodel")):
            if path is None:
                raise VizError(flag, "nothing", f"{what}, or --model NAME for one of models/")
            if not path.is_file():
                raise VizError(str(path), absent(path), what)
        assert net is not None and weights is not None
        return net, weights, whitening

    def read_net(self) -> Any:
        """The layers of the deploy net at this level and with these stages. Raises: VizError."""
        from allconv_caffe.visualize.nets.open import read_deploy

        return read_deploy(self.files[0], self.level, self.stages)

    def open_net(self, param: Any = None) -> VizNet:
        """The net with its weights, closed when the command ends.

        Args:
            param: another NetParameter than the file's, for the same weights (after surgery).
        """
        from allconv_caffe.visualize.nets.open import open_net

        path, weights, _ = self.files
        net = open_net(
            path if param is None else param,
            weights,
            level=self.level,
            stages=self.stages,
            engine=self.engine,
            device=self.device,
            python=self.python,
        )
        if param is not None:
            net.where = str(path)
        context = click.get_current_context(silent=True)
        if context is not None:
            context.call_on_close(net.close)
        return net

    @functools.cached_property
    def space(self) -> InputSpace:
        """How pixels become the input blob.

        Raises: VizError: --mean beside --whitening, unreadable files, a data set that was whitened otherwise than the model's.
        """
        from allconv_caffe.visualize.nets.errors import VizError
        from allconv_caffe.visualize.whitening import InputSpace, load_mean, load_whitening

        if self.mean is not None and self.whitening is not None:
            raise VizError("--mean", "also --whitening", "one of them: whitened nets get no mean")
        scale = 1.0 if self.scale is None else self.scale
        if not math.isfinite(scale):
            raise VizError("--scale", scale, "a number")
        if self.mean is not None:
            values = _numbers(self.mean)
            order = self.order or "BGR"
            if values is None:
                return load_mean(self.mean, order, scale)
            return InputSpace(order=order, mean=values, scale=scale, source=self.mean)
        own = self.files[2]
        prepared = _prepared(self.data)
        theirs = prepared / "whitening.npz" if prepared is not None else None
        if own is None and self._pixels is not None:
            if theirs is not None and theirs.is_file() and load_whitening(theirs).whitened:
                raise VizError(str(self.data), "whitened images", f"raw ones, as those that {self.name} was trained on")
            return self._raw_space(self._pixels)
        path = own or theirs
        if path is None:
            return InputSpace(order=self.order or "BGR", scale=scale)
        found = load_whitening(path)
        if own is not None and theirs is not None and theirs.is_file() and not _same_file(own, theirs):
            found = found.for_data(load_whitening(theirs))
        return found if self.order is None else dataclasses.replace(found, order=self.order)

    @property
    def unprepared(self) -> bool:
        """Whether pixels go into the net as they are, only because nobody says how its training images were prepared."""
        said = (self.whitening, self.mean, self.scale, _prepared(self.data), self.model)
        return all(word is None for word in said)

    @property
    def _pixels(self) -> Pixels | None:
        """What the model's data layer does to pixels, where it is known."""
        return self.trained.pixels if self.model is not None else None

    def _raw_space(self, pixels: Pixels) -> InputSpace:
        """Pixels as the model's data layer takes them, each part replaced by what was named."""
        import numpy as np

        from allconv_caffe.visualize.whitening import InputSpace, load_mean

        order = self.order or pixels.order or "BGR"
        scale = pixels.scale if self.scale is None else self.scale
        if pixels.mean is not None:
            return load_mean(pixels.mean, order, scale)
        values = np.array(pixels.mean_value, np.float32) if pixels.mean_value else None
        return InputSpace(order=order, mean=values, scale=scale)

    @property
    def images_path(self) -> Path:
        """The LMDB, folder or file that --data means.

        Raises: VizError: no --data; another split than test or train. PrepError: a damaged manifest.
        """
        from allconv_caffe.visualize.nets.errors import VizError

        if self.data is None:
            raise VizError("--data", "nothing", "a prepared data set, an LMDB, a folder of images or an image")
        if self.split not in ("test", "train"):
            raise VizError("--split", repr(self.split), "a part of a prepared data set", ("test", "train"))
        if _prepared(self.data) != self.data:
            return self.data
        from data_prep.manifest import Manifest

        return self.data / str(Manifest.load(self.data).lmdb[self.split]["path"])

    def open_images(self, net: VizNet, labels: Labels | None = None) -> ImageSource:
        """The images that --data names, as `net` takes them; `labels` tell the classes of image files."""
        from allconv_caffe.visualize.sources import open_images

        return open_images(self.images_path, net.input_shape, self.space, resize=self.resize, labels=labels)


def viz_inputs(data: bool = True) -> Callable[[Command], Command]:
    """Adds the shared options to a command, which gets them as its first argument, `Inputs`; it stands below `telling`.

    Args:
        data: whether the command looks at images.
    """

    names = [name for name, option in declared(Inputs).items() if data or not option.of_data]

    def wrap(command: Command) -> Command:
        @functools.wraps(command)
        def call(told: Told, **words: Any) -> Any:
            inputs = Inputs(quiet=told.quiet, **{name: words.pop(name) for name in names})
            return command(inputs, told=told, **words)

        return options_of(Inputs, names)(call)

    return wrap


def names_from_text(text: str) -> list[str]:
    """``conv3,conv6`` as a list, without repetition."""
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def channels_from_text(text: str) -> list[int]:
    """``0,5,8-11`` as a list of channels.

    Raises: VizError: another form.
    """
    from allconv_caffe.visualize.nets.errors import VizError

    out: list[int] = []
    for word in text.split(","):
        first, _, last = word.strip().partition("-")
        if not first.isdecimal() or (last and not last.isdecimal()) or (last and int(last) < int(first)):
            raise VizError("--channels", repr(text), "numbers and ranges, as 0,5,8-11")
        out += range(int(first), int(last or first) + 1)
    return list(dict.fromkeys(out))


def chosen_channels(text: str | None, count: int, of: int, seed: int) -> Sequence[int]:
    """The channels that were named, else `count` of the `of` drawn by `seed`, rising."""
    import numpy as np

    if text is not None:
        return channels_from_text(text)
    rng = np.random.default_rng(seed)
    return sorted(int(channel) for channel in rng.choice(of, min(max(count, 0), of), replace=False))


def _numbers(text: str) -> np.ndarray | None:
    """``104,117,123`` as an array; None where the text is no list of numbers."""
    import numpy as np

    try:
        values = np.array([float(word) for word in text.split(",")], np.float32)
    except ValueError:
        return None
    return values if np.isfinite(values).all() else None


def _prepared(data: Path | None) -> Path | None:
    """The prepared data set that `data` is, or whose LMDB it is."""
    for folder in (data, data.parent if data is not None and (data / "data.mdb").is_file() else None):
        if folder is not None and (folder / "manifest.json").is_file():
            return folder
    return None


def _same_file(one: Path, other: Path) -> bool:
    return one.exists() and one.resolve() == other.resolve()
