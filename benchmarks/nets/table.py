"""Each net of the table: its layers (see `reference`, and solvers/), its inputs and its batch.

Data come from Input layers, which are filled once: what is measured is the net.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from allconv_caffe.proto import NetParameter, parse_text, read_net
from nets import reference

ROOT = Path(__file__).resolve().parents[2]
ENDS = ("SoftmaxWithLoss", "Accuracy")
AUXILIARY = ("loss1/", "loss2/")  # GoogLeNet's, used in training alone


@dataclass(frozen=True)
class Source:
    """What an input holds, and its shape for a batch of n (None stands for n)."""

    shape: tuple[int | None, ...]
    classes: int = 0  # labels below this; 0: unit normal noise
    ones: bool = False  # a recurrent net's `cont`

    def of(self, batch: int) -> list[int]:
        return [batch if dim is None else dim for dim in self.shape]


@dataclass(frozen=True)
class BenchNet:
    """A net of the table."""

    title: str
    batch: int  # its own
    sources: dict[str, Source]
    layers: Callable[[], NetParameter]  # without its inputs

    def param(self, batch: int, forward: bool = False) -> NetParameter:
        """The net with its inputs; `forward`: as it is used, up to its scores, without losses and auxiliary classifiers."""
        layers = self.layers().layer
        if forward:
            layers = [layer for layer in layers if layer.type not in ENDS and not layer.name.startswith(AUXILIARY)]
        inputs = NetParameter(name=self.title)
        for name, source in self.inputs(forward).items():
            layer = inputs.layer.add(name=name, type="Input", top=[name])
            layer.input_param.shape.add().dim.extend(source.of(batch))
        inputs.layer.extend(layers)
        return inputs

    def inputs(self, forward: bool = False) -> dict[str, Source]:
        return {name: source for name, source in self.sources.items() if not (forward and name == "label")}


def images(channels: int, size: int, classes: int) -> dict[str, Source]:
    return {"data": Source((None, channels, size, size)), "label": Source((None,), classes)}


def rendered(experiment: str) -> Callable[[], NetParameter]:
    """The net of solvers/<experiment>, as the project's templates render it, without its data."""

    def layers() -> NetParameter:
        net = read_net(str(ROOT / "solvers" / experiment / "train_val.prototxt"))
        del net.layer[: sum(layer.type == "Data" for layer in net.layer)]
        return net

    return layers


def written(net: Callable[[int], str]) -> Callable[[], NetParameter]:
    """A net of `reference` without its inputs."""

    def layers() -> NetParameter:
        param = parse_text(net(1), NetParameter)
        del param.layer[: sum(layer.type == "Input" for layer in param.layer)]
        return param

    return layers


def caffenet(batch: int) -> str:
    return reference.alexnet(batch, pool_first=True)


def cifar10_full(batch: int) -> str:
    return reference.cifar10(batch, full=True)


STEPS = 20
#: The twelve networks of Tables 1 and 2, by the experiments that render them.
FAMILY = {
    f"{kind}-{base}": f"{experiment}-{base.lower()}"
    for kind, experiment in {
        "All-CNN": "allcnn",
        "ConvPool-CNN": "convpool-cnn",
        "Strided-CNN": "strided-cnn",
        "Model": "model",
    }.items()
    for base in "CAB"
}
NETS: dict[str, BenchNet] = {
    "lenet": BenchNet("LeNet", 64, images(1, 28, 10), written(reference.lenet)),
    "cifar10_quick": BenchNet("cifar10_quick", 100, images(3, 32, 10), written(reference.cifar10)),
    "cifar10_full": BenchNet("cifar10_full", 100, images(3, 32, 10), written(cifar10_full)),
    "caffenet": BenchNet("CaffeNet", 16, images(3, 227, 1000), written(caffenet)),
    "nin": BenchNet("NIN", 128, images(3, 32, 10), written(reference.nin)),
    "googlenet": BenchNet("GoogLeNet", 8, images(3, 224, 1000), written(reference.googlenet)),
    "squeezenet": BenchNet("SqueezeNet", 16, images(3, 227, 1000), written(reference.squeezenet)),
    "resnet20": BenchNet("ResNet-20", 128, images(3, 32, 10), written(reference.resnet20)),
    "lstm": BenchNet(
        f"LSTM, {STEPS} steps",
        32,
        {
            "data": Source((STEPS, None, 128)),
            "cont": Source((STEPS, None), ones=True),
            "label": Source((STEPS, None), 10),
        },
        written(reference.lstm),
    ),
    **{
        experiment.replace("-", "_"): BenchNet(name, 128, images(3, 32, 10), rendered(f"cifar10-{experiment}"))
        for name, experiment in FAMILY.items()
    },
    "imagenet_allcnn": BenchNet("the net of Table 6", 16, images(3, 224, 1000), rendered("imagenet-allcnn")),
}
