"""What all commands of ``allconv viz`` take: which net, which weights, which images, how pixels become its input.

    @viz.command(epilog=example("allconv viz patches --model ..."))
    @click.option("--k", ...)
    @viz_inputs()
    def patches(inputs: Inputs, k: int) -> None:
        net = inputs.open_net()
        source = inputs.open_images(net)

The options are in Caffe's words; what a user did wrong becomes one line in ``main.py``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import numpy as np

    from allconv_caffe.visualize.nets.base import VizNet
    from allconv_caffe.visualize.sources import ImageSource
    from allconv_caffe.visualize.whitening import InputSpace

_PATH = click.Path(path_type=Path)
_NET = [
    click.option("--model", metavar="NAME", help="of models/, or a model's folder: its net, weights and whitening"),
    click.option("--net", "net_path", type=_PATH, metavar="PROTOTXT", help="deploy net, in place of the model's"),
    click.option("--weights", "weights_path", type=_PATH, metavar="CAFFEMODEL", help="in place of the model's"),
    click.option("--engine", default="torch", show_default=True, help="torch or caffe"),
    click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N"),
    click.option("--python", type=_PATH, help="interpreter with pycaffe; left out: that of `make caffe` or CAFFE_ROOT"),
]
_SPACE = [
    click.option(
        "--whitening", type=_PATH, metavar="NPZ", help="of data_prep; left out: the model's, else the data set's"
    ),
    click.option(
        "--mean", metavar="FILE|V,V,V", help="subtracted from pixels: mean.binaryproto, or a value for each channel"
    ),
    click.option("--scale", type=float, default=1.0, show_default=True, help="factor on pixels, after the mean"),
    click.option("--order", metavar="BGR|RGB", help="channels of the net's input; left out: BGR, or RGB if whitened"),
]
_DATA = [
    click.option("--data", type=_PATH, help="prepared data set, LMDB, folder of images or one image"),
    click.option("--split", default="test", show_default=True, help="of a prepared data set: test or train"),
    click.option(
        "--resize", type=int, metavar="PIXELS", help="shorter side of image files, before the middle is taken"
    ),
]
_COMMON = [
    click.option("--batch-size", type=int, default=32, show_default=True, help="images of one pass"),
    click.option("--seed", type=int, default=0, show_default=True, help="of what is drawn at random"),
    click.option("--quiet", is_flag=True, help="no progress bars"),
]


@dataclass
class Inputs:
    """The shared options of one command, and what they open."""

    model: str | None = None
    net_path: Path | None = None
    weights_path: Path | None = None
    engine: str = "torch"
    device: str = "cpu"
    python: Path | None = None
    whitening: Path | None = None
    mean: str | None = None
    scale: float = 1.0
    order: str | None = None
    data: Path | None = None
    split: str = "test"
    resize: int | None = None
    batch_size: int = 32
    seed: int = 0
    quiet: bool = False

    @property
    def name(self) -> str:
        """What a page about the net is called: the model's name, else that of the net's file."""
        return Path(self.model).name if self.model is not None else self.files[0].stem

    @property
    def progress(self) -> bool:
        """Whether bars are shown."""
        return not self.quiet

    @functools.cached_property
    def files(self) -> tuple[Path, Path, Path | None]:
        """Deploy net, weights and whitening: of the model, each replaced by what was named.

        Raises: ZooError: no such model. VizError: neither a model nor both of net and weights.
        """
        from allconv_caffe import zoo
        from allconv_caffe.visualize.nets.errors import VizError

        net, weights, whitening = self.net_path, self.weights_path, self.whitening
        if self.model is not None:
            card = zoo.card(self.model)
            net = net or card.folder / card.facts["deploy"]["file"]
            weights = weights or card.folder / card.facts["weights"]["file"]
            if whitening is None and self.mean is None:
                whitening = card.folder / card.facts["whitening"]["file"]
        for flag, path, what in (("--net", net, "a deploy prototxt"), ("--weights", weights, "a .caffemodel")):
            if path is None:
                raise VizError(flag, "nothing", f"{what}, or --model NAME for one of models/")
            if not path.is_file():
                raise VizError(str(path), "no such file", what)
        assert net is not None and weights is not None
        return net, weights, whitening

    def open_net(self, param: Any = None, *, require_relu: bool = True) -> VizNet:
        """The net with its weights, closed when the command ends.

        Args:
            param: another NetParameter than the file's, for the same weights (after surgery).
        """
        from allconv_caffe.visualize.nets.open import open_net

        path, weights, _ = self.files
        net = open_net(
            path if param is None else param,
            weights,
            engine=self.engine,
            device=self.device,
            python=self.python,
            require_relu=require_relu,
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
        import dataclasses

        from allconv_caffe.visualize.nets.errors import VizError
        from allconv_caffe.visualize.whitening import InputSpace, load_mean, load_whitening

        if self.mean is not None and self.whitening is not None:
            raise VizError("--mean", "also --whitening", "one of them: whitened nets get no mean")
        if self.mean is not None:
            values = _numbers(self.mean)
            order = self.order or "BGR"
            if values is None:
                return load_mean(self.mean, order, self.scale)
            return InputSpace(order=order, mean=values, scale=self.scale, source=self.mean)
        own = self.files[2]
        prepared = _prepared(self.data)
        theirs = prepared / "whitening.npz" if prepared is not None else None
        path = own or theirs
        if path is None:
            return InputSpace(order=self.order or "BGR", scale=self.scale)
        found = load_whitening(path)
        if own is not None and theirs is not None and theirs.is_file() and not _same_file(own, theirs):
            found.check_same(load_whitening(theirs))
        return found if self.order is None else dataclasses.replace(found, order=self.order)

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

    def open_images(self, net: VizNet) -> ImageSource:
        """The images that --data names, as `net` takes them."""
        from allconv_caffe.visualize.sources import open_images

        return open_images(self.images_path, net.input_shape, self.space, resize=self.resize)

    def pick(self, source: ImageSource, count: int) -> tuple[list[str], np.ndarray]:
        """Keys and images of `count` positions drawn by --seed, in the order of the data; all, if there are no more."""
        return source.sample(count, self.seed)


def viz_inputs(data: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds the shared options to a command, which gets them as its first argument, `Inputs`.

    Args:
        data: whether the command looks at images.
    """

    def wrap(command: Callable[..., Any]) -> Callable[..., Any]:
        names = [name for name in Inputs.__dataclass_fields__ if data or name not in ("data", "split", "resize")]

        @functools.wraps(command)
        def call(**words: Any) -> Any:
            return command(Inputs(**{name: words.pop(name) for name in names}), **words)

        wrapped: Callable[..., Any] = call
        for option in reversed([*_NET, *_SPACE, *(_DATA if data else []), *_COMMON]):
            wrapped = option(wrapped)
        return wrapped

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
        return np.array([float(word) for word in text.split(",")], np.float32)
    except ValueError:
        return None


def _prepared(data: Path | None) -> Path | None:
    """The prepared data set that `data` is, or whose LMDB it is."""
    for folder in (data, data.parent if data is not None and (data / "data.mdb").is_file() else None):
        if folder is not None and (folder / "manifest.json").is_file():
            return folder
    return None


def _same_file(one: Path, other: Path) -> bool:
    return one.exists() and one.resolve() == other.resolve()
