"""Each net of the table: its layers in the words of its paper, its inputs and its batch.

Data come from Input layers, which are filled once: what is measured is the net.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from allconv_caffe.proto import NetParameter, parse_text, read_net

ROOT = Path(__file__).resolve().parents[2]


ENDS = ("SoftmaxWithLoss", "Accuracy")


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
            layers = [layer for layer in layers if layer.type not in ENDS and not layer.name.startswith("aux_")]
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


class Spec:
    """Layers in a row: each verb reads `at`, the last top, unless told otherwise."""

    def __init__(self, filler: str = 'type: "msra"') -> None:
        self.text: list[str] = []
        self.at = "data"
        self.filler = filler

    def add(self, type_: str, name: str, param: str = "", bottom: str = "", top: str = "") -> str:
        bottoms, top = (bottom or self.at).split(), top or name
        self.text.append(
            f'layer {{ name: "{name}" type: "{type_}" '
            + " ".join(f'bottom: "{b}"' for b in bottoms)
            + f' top: "{top}" {param} }}'
        )
        self.at = top
        return top

    def conv(self, name: str, num_output: int, kernel: int, more: str = "", bottom: str = "", relu: bool = True) -> str:
        fillers = f"weight_filler {{ {self.filler} }}"
        self.add(
            "Convolution",
            name,
            f"convolution_param {{ num_output: {num_output} kernel_size: {kernel} {more} {fillers} }}",
            bottom,
        )
        return self.relu() if relu else self.at

    def fc(self, name: str, num_output: int, relu: bool = False, bottom: str = "", more: str = "") -> str:
        fillers = f"weight_filler {{ {self.filler} }}"
        self.add("InnerProduct", name, f"inner_product_param {{ num_output: {num_output} {more} {fillers} }}", bottom)
        return self.relu() if relu else self.at

    def relu(self) -> str:
        return self.add("ReLU", f"{self.at}_relu", top=self.at)

    def dropout(self, ratio: float) -> str:
        return self.add("Dropout", f"{self.at}_drop", f"dropout_param {{ dropout_ratio: {ratio} }}", top=self.at)

    def pool(self, name: str, kernel: int, stride: int, method: str = "MAX", pad: int = 0, bottom: str = "") -> str:
        window = f"kernel_size: {kernel} stride: {stride} pad: {pad}"
        return self.add("Pooling", name, f"pooling_param {{ pool: {method} {window} }}", bottom)

    def global_pool(self, name: str) -> str:
        return self.add("Pooling", name, "pooling_param { pool: AVE global_pooling: true }")

    def lrn(self, name: str, size: int, alpha: float, region: str = "ACROSS_CHANNELS") -> str:
        return self.add(
            "LRN", name, f"lrn_param {{ local_size: {size} alpha: {alpha} beta: 0.75 norm_region: {region} }}"
        )

    def concat(self, name: str, parts: list[str]) -> str:
        return self.add("Concat", name, bottom=" ".join(parts))

    def loss(self, name: str = "loss", more: str = "") -> NetParameter:
        self.add("SoftmaxWithLoss", name, more, bottom=f"{self.at} label")
        return self.net()

    def net(self) -> NetParameter:
        return parse_text("\n".join(self.text), NetParameter)


def lenet() -> NetParameter:
    """LeCun, Bottou, Bengio and Haffner (1998), as Caffe's MNIST example has it: ReLU for the sigmoids."""
    s = Spec('type: "xavier"')
    s.conv("conv1", 20, 5, relu=False)
    s.pool("pool1", 2, 2)
    s.conv("conv2", 50, 5, relu=False)
    s.pool("pool2", 2, 2)
    s.fc("ip1", 500, relu=True)
    s.fc("ip2", 10)
    return s.loss()


def cifar10_quick() -> NetParameter:
    """Krizhevsky's small CIFAR-10 net (cuda-convnet, "layers-80sec"), as Caffe's example has it."""
    s = Spec('type: "gaussian" std: 0.05')
    s.conv("conv1", 32, 5, "pad: 2", relu=False)
    s.pool("pool1", 3, 2)
    s.relu()
    s.conv("conv2", 32, 5, "pad: 2")
    s.pool("pool2", 3, 2, "AVE")
    s.conv("conv3", 64, 5, "pad: 2")
    s.pool("pool3", 3, 2, "AVE")
    s.fc("ip1", 64)
    s.fc("ip2", 10)
    return s.loss()


def cifar10_full() -> NetParameter:
    """Krizhevsky's larger one ("layers-18pct"), with response normalisation within channels."""
    s = Spec('type: "gaussian" std: 0.05')
    s.conv("conv1", 32, 5, "pad: 2", relu=False)
    s.pool("pool1", 3, 2)
    s.relu()
    s.lrn("norm1", 3, 5e-5, "WITHIN_CHANNEL")
    s.conv("conv2", 32, 5, "pad: 2")
    s.pool("pool2", 3, 2, "AVE")
    s.lrn("norm2", 3, 5e-5, "WITHIN_CHANNEL")
    s.conv("conv3", 64, 5, "pad: 2")
    s.pool("pool3", 3, 2, "AVE")
    s.fc("ip1", 10)
    return s.loss()


def caffenet() -> NetParameter:
    """Krizhevsky, Sutskever and Hinton (2012), pooled before normalised, as Caffe's reference net."""
    s = Spec('type: "gaussian" std: 0.01')
    s.conv("conv1", 96, 11, "stride: 4")
    s.pool("pool1", 3, 2)
    s.lrn("norm1", 5, 1e-4)
    s.conv("conv2", 256, 5, "pad: 2 group: 2")
    s.pool("pool2", 3, 2)
    s.lrn("norm2", 5, 1e-4)
    s.conv("conv3", 384, 3, "pad: 1")
    s.conv("conv4", 384, 3, "pad: 1 group: 2")
    s.conv("conv5", 256, 3, "pad: 1 group: 2")
    s.pool("pool5", 3, 2)
    for name in ("fc6", "fc7"):
        s.fc(name, 4096, relu=True)
        s.dropout(0.5)
    s.fc("fc8", 1000)
    return s.loss()


def nin() -> NetParameter:
    """Lin, Chen and Yan (2014), for CIFAR-10: each convolution followed by two of 1x1."""
    s = Spec('type: "gaussian" std: 0.05')
    for i, (kernel, widths) in enumerate([(5, (192, 160, 96)), (5, (192, 192, 192)), (3, (192, 192, 10))], 1):
        s.conv(f"conv{i}", widths[0], kernel, f"pad: {kernel // 2}")
        s.conv(f"cccp{2 * i - 1}", widths[1], 1)
        s.conv(f"cccp{2 * i}", widths[2], 1)
        if i < 3:
            s.pool(f"pool{i}", 3, 2, "MAX" if i == 1 else "AVE")
            s.dropout(0.5)
    s.global_pool("pool3")
    return s.loss()


INCEPTIONS = {  # Table 1: 1x1; 3x3 reduce, 3x3; 5x5 reduce, 5x5; pool proj
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


def googlenet() -> NetParameter:
    """Szegedy et al. (2015), Table 1, with both auxiliary classifiers."""
    s = Spec('type: "xavier"')
    s.conv("conv1", 64, 7, "pad: 3 stride: 2")
    s.pool("pool1", 3, 2)
    s.lrn("norm1", 5, 1e-4)
    s.conv("conv2_reduce", 64, 1)
    s.conv("conv2", 192, 3, "pad: 1")
    s.lrn("norm2", 5, 1e-4)
    s.pool("pool2", 3, 2)
    for name, (one, reduce3, three, reduce5, five, pool) in INCEPTIONS.items():
        below, parts = s.at, []
        parts.append(s.conv(f"{name}_1x1", one, 1, bottom=below))
        s.conv(f"{name}_3x3_reduce", reduce3, 1, bottom=below)
        parts.append(s.conv(f"{name}_3x3", three, 3, "pad: 1"))
        s.conv(f"{name}_5x5_reduce", reduce5, 1, bottom=below)
        parts.append(s.conv(f"{name}_5x5", five, 5, "pad: 2"))
        s.pool(f"{name}_pool", 3, 1, pad=1, bottom=below)
        parts.append(s.conv(f"{name}_proj", pool, 1))
        trunk = s.concat(f"inception_{name}", parts)
        if name in ("4a", "4d"):
            s.pool(f"aux_{name}_pool", 5, 3, "AVE")
            s.conv(f"aux_{name}_conv", 128, 1)
            s.fc(f"aux_{name}_fc", 1024, relu=True)
            s.dropout(0.7)
            s.fc(f"aux_{name}_classifier", 1000)
            s.loss(f"aux_{name}_loss", "loss_weight: 0.3")
            s.at = trunk
        if name in ("3b", "4e"):
            s.pool(f"pool_{name}", 3, 2)
    s.global_pool("pool5")
    s.dropout(0.4)
    s.fc("classifier", 1000)
    return s.loss()


def squeezenet() -> NetParameter:
    """Iandola et al. (2016), Table 1: fire modules of 1x1 and 3x3."""
    s = Spec('type: "xavier"')
    s.conv("conv1", 96, 7, "stride: 2")
    s.pool("pool1", 3, 2)
    squeezes = {2: 16, 3: 16, 4: 32, 5: 32, 6: 48, 7: 48, 8: 64, 9: 64}
    for i, width in squeezes.items():
        below = s.conv(f"fire{i}_squeeze", width, 1)
        left = s.conv(f"fire{i}_expand1x1", 4 * width, 1, bottom=below)
        right = s.conv(f"fire{i}_expand3x3", 4 * width, 3, "pad: 1", bottom=below)
        s.concat(f"fire{i}", [left, right])
        if i in (4, 8):
            s.pool(f"pool{i}", 3, 2)
    s.dropout(0.5)
    s.conv("conv10", 1000, 1)
    s.global_pool("pool10")
    return s.loss()


def resnet20() -> NetParameter:
    """He, Zhang, Ren and Sun (2016), section 4.2, n = 3, with projections (their option B) where the width changes."""
    s = Spec()

    def normed(name: str, num_output: int, kernel: int, more: str, bottom: str = "", relu: bool = True) -> str:
        s.conv(name, num_output, kernel, f"{more} bias_term: false", bottom, relu=False)
        s.add("BatchNorm", f"{name}_bn", top=s.at)
        s.add("Scale", f"{name}_scale", "scale_param { bias_term: true }", top=s.at)
        return s.relu() if relu else s.at

    normed("conv1", 16, 3, "pad: 1")
    for stage, width in enumerate((16, 32, 64), 1):
        for block in range(1, 4):
            below, stride = s.at, 2 if stage > 1 and block == 1 else 1
            name = f"res{stage}_{block}"
            normed(f"{name}_a", width, 3, f"pad: 1 stride: {stride}")
            above = normed(f"{name}_b", width, 3, "pad: 1", relu=False)
            if stride > 1:
                below = normed(f"{name}_proj", width, 1, "stride: 2", bottom=below, relu=False)
            s.add("Eltwise", name, bottom=f"{below} {above}")
            s.relu()
    s.global_pool("pool")
    s.fc("fc", 10)
    return s.loss()


def lstm() -> NetParameter:
    """Hochreiter and Schmidhuber (1997) with forget gates, as Donahue et al. (2015) use it: a class at every step."""
    s = Spec('type: "uniform" min: -0.08 max: 0.08')
    s.add("LSTM", "lstm", f"recurrent_param {{ num_output: 256 weight_filler {{ {s.filler} }} }}", bottom="data cont")
    s.fc("scores", 10, more="axis: 2")
    return s.loss(more="softmax_param { axis: 2 }")


def rendered(experiment: str) -> Callable[[], NetParameter]:
    """The net of solvers/<experiment>, as the project's templates render it, without its data."""

    def layers() -> NetParameter:
        net = read_net(str(ROOT / "solvers" / experiment / "train_val.prototxt"))
        del net.layer[: sum(layer.type == "Data" for layer in net.layer)]
        return net

    return layers


STEPS = 20
NETS: dict[str, BenchNet] = {
    "lenet": BenchNet("LeNet", 64, images(1, 28, 10), lenet),
    "cifar10_quick": BenchNet("cifar10_quick", 100, images(3, 32, 10), cifar10_quick),
    "cifar10_full": BenchNet("cifar10_full", 100, images(3, 32, 10), cifar10_full),
    "caffenet": BenchNet("CaffeNet", 16, images(3, 227, 1000), caffenet),
    "nin": BenchNet("NIN", 128, images(3, 32, 10), nin),
    "googlenet": BenchNet("GoogLeNet", 8, images(3, 224, 1000), googlenet),
    "squeezenet": BenchNet("SqueezeNet", 16, images(3, 227, 1000), squeezenet),
    "resnet20": BenchNet("ResNet-20", 128, images(3, 32, 10), resnet20),
    "lstm": BenchNet(
        f"LSTM, {STEPS} steps",
        32,
        {
            "data": Source((STEPS, None, 128)),
            "cont": Source((STEPS, None), ones=True),
            "label": Source((STEPS, None), 10),
        },
        lstm,
    ),
    "allcnn_c": BenchNet("All-CNN-C", 128, images(3, 32, 10), rendered("cifar10-allcnn-c")),
    "allcnn_a": BenchNet("All-CNN-A", 128, images(3, 32, 10), rendered("cifar10-allcnn-a")),
    "allcnn_b": BenchNet("All-CNN-B", 128, images(3, 32, 10), rendered("cifar10-allcnn-b")),
    "convpool_cnn_c": BenchNet("ConvPool-CNN-C", 128, images(3, 32, 10), rendered("cifar10-convpool-cnn-c")),
    "imagenet_allcnn": BenchNet("the net of Table 6", 16, images(3, 224, 1000), rendered("imagenet-allcnn")),
}
