"""Nets of others, written from their papers, with Input layers in place of their data.

Those that come with Caffe, by the names and fillers that it has for them:

* LeNet as Caffe trains it on MNIST: LeCun et al. 1998, with ReLU in place of the tanh and no trained pooling.
* cifar10_quick, cifar10_full: Krizhevsky's cuda-convnet layers of 18 and 26 percent error.
* AlexNet: Krizhevsky et al. 2012, section 3; CaffeNet: the same with pooling before normalisation.
* GoogLeNet: Szegedy et al. 2014, Table 1 and section 5, with the two auxiliary classifiers at weight 0.3.

And NIN, SqueezeNet, ResNet-20 and an LSTM.
"""

from __future__ import annotations

from collections.abc import Sequence


class Prototxt:
    """A prototxt in the making: each method appends a layer and returns its top."""

    def __init__(self, name: str, data: Sequence[int], head: str = "") -> None:
        self.text = f'name: "{name}"\n{head}\n'
        self.input("data", *data)

    def input(self, name: str, *dims: int) -> str:
        shape = " ".join(f"dim: {d}" for d in dims)
        return self.layer(name, "Input", "", f"input_param {{ shape {{ {shape} }} }}")

    def layer(self, name: str, type_: str, bottoms: str, param: str = "", top: str | None = None) -> str:
        ends = " ".join(f'bottom: "{b}"' for b in bottoms.split())
        self.text += f'layer {{ name: "{name}" type: "{type_}" {ends} top: "{top or name}" {param} }}\n'
        return top or name

    def conv(
        self, name: str, bottom: str, num_output: int, kernel: int, filler: str, *, bias: float = 0, **more: int
    ) -> str:
        words = " ".join(f"{word}: {value}" for word, value in more.items())
        return self.layer(
            name,
            "Convolution",
            bottom,
            LEARNING + f"convolution_param {{ num_output: {num_output} "
            f"kernel_size: {kernel} {words} {fillers(filler, bias)} }}",
        )

    def ip(self, name: str, bottom: str, num_output: int, filler: str, bias: float = 0) -> str:
        param = f"inner_product_param {{ num_output: {num_output} {fillers(filler, bias)} }}"
        return self.layer(name, "InnerProduct", bottom, LEARNING + param)

    def conv_relu(self, name: str, bottom: str, num_output: int, kernel: int, filler: str, **more: int) -> str:
        return self.relu(f"relu_{name}", self.conv(name, bottom, num_output, kernel, filler, **more))

    def relu(self, name: str, blob: str) -> str:
        return self.layer(name, "ReLU", blob, top=blob)

    def pool(self, name: str, bottom: str, method: str, kernel: int, stride: int, pad: int = 0) -> str:
        size = f"pool: {method} kernel_size: {kernel} stride: {stride} pad: {pad}"
        return self.layer(name, "Pooling", bottom, f"pooling_param {{ {size} }}")

    def global_pool(self, name: str, bottom: str) -> str:
        return self.layer(name, "Pooling", bottom, "pooling_param { pool: AVE global_pooling: true }")

    def lrn(self, name: str, bottom: str, size: int, alpha: float, more: str = "") -> str:
        return self.layer(name, "LRN", bottom, f"lrn_param {{ local_size: {size} alpha: {alpha} beta: 0.75 {more} }}")

    def dropout(self, name: str, blob: str, ratio: float = 0.5) -> str:
        return self.layer(name, "Dropout", blob, f"dropout_param {{ dropout_ratio: {ratio} }}", top=blob)

    def loss(self, name: str, bottom: str, weight: float = 1) -> str:
        return self.layer(name, "SoftmaxWithLoss", f"{bottom} label", f"loss_weight: {weight}")


LEARNING = "param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 decay_mult: 0 } "
XAVIER = 'type: "xavier"'


def gaussian(std: float) -> str:
    return f'type: "gaussian" std: {std}'


def fillers(weight: str, bias: float) -> str:
    return f'weight_filler {{ {weight} }} bias_filler {{ type: "constant" value: {bias} }}'


def lenet(batch: int, head: str = "") -> str:
    """20 and 50 filters of 5x5, each halved by pooling, then 500 and 10 units."""
    net = Prototxt("LeNet", (batch, 1, 28, 28), head)
    net.input("label", batch)
    x = "data"
    for i, filters in enumerate((20, 50), 1):
        x = net.pool(f"pool{i}", net.conv(f"conv{i}", x, filters, 5, XAVIER, stride=1), "MAX", 2, 2)
    x = net.relu("relu1", net.ip("ip1", x, 500, XAVIER))
    net.loss("loss", net.ip("ip2", x, 10, XAVIER))
    return net.text


def cifar10(batch: int, head: str = "", full: bool = False) -> str:
    """32, 32 and 64 filters of 5x5, pooled 3/2: first by maximum, then by mean. full: normalised within channels between
    them, one layer of units; else two."""
    net = Prototxt("CIFAR10_full" if full else "CIFAR10_quick", (batch, 3, 32, 32), head)
    net.input("label", batch)
    x = "data"
    for i, (filters, std) in enumerate(((32, 1e-4), (32, 0.01), (64, 0.01)), 1):
        x = net.conv(f"conv{i}", x, filters, 5, gaussian(std), pad=2, stride=1)
        if i == 1:  # pooled, then rectified
            x = net.relu("relu1", net.pool("pool1", x, "MAX", 3, 2))
        else:
            x = net.pool(f"pool{i}", net.relu(f"relu{i}", x), "AVE", 3, 2)
        if full and i < 3:
            x = net.lrn(f"norm{i}", x, 3, 5e-5, "norm_region: WITHIN_CHANNEL")
    if not full:
        x = net.ip("ip1", x, 64, gaussian(0.1))
    net.loss("loss", net.ip("ip1" if full else "ip2", x, 10, gaussian(0.01 if full else 0.1)))
    return net.text


def alexnet(batch: int, head: str = "", pool_first: bool = False) -> str:
    """96 filters of 11x11/4, 256 of 5x5, 384, 384 and 256 of 3x3, in two groups from the second on but for the third;
    4096, 4096 and 1000 units with dropout. pool_first: CaffeNet."""
    net = Prototxt("CaffeNet" if pool_first else "AlexNet", (batch, 3, 227, 227), head)
    net.input("label", batch)

    def shrink(i: int, x: str) -> str:
        if pool_first:
            return net.lrn(f"norm{i}", net.pool(f"pool{i}", x, "MAX", 3, 2), 5, 1e-4)
        return net.pool(f"pool{i}", net.lrn(f"norm{i}", x, 5, 1e-4), "MAX", 3, 2)

    one = 1 if pool_first else 0.1  # the bias that AlexNet begins with, where it is not 0
    x = shrink(1, net.relu("relu1", net.conv("conv1", "data", 96, 11, gaussian(0.01), stride=4)))
    x = shrink(2, net.relu("relu2", net.conv("conv2", x, 256, 5, gaussian(0.01), bias=one, pad=2, group=2)))
    x = net.relu("relu3", net.conv("conv3", x, 384, 3, gaussian(0.01), pad=1))
    x = net.relu("relu4", net.conv("conv4", x, 384, 3, gaussian(0.01), bias=one, pad=1, group=2))
    x = net.relu("relu5", net.conv("conv5", x, 256, 3, gaussian(0.01), bias=one, pad=1, group=2))
    x = net.pool("pool5", x, "MAX", 3, 2)
    for i in (6, 7):
        x = net.dropout(f"drop{i}", net.relu(f"relu{i}", net.ip(f"fc{i}", x, 4096, gaussian(0.005), one)))
    net.loss("loss", net.ip("fc8", x, 1000, gaussian(0.01)))
    return net.text


# 1x1; 3x3 behind its reduction; 5x5 behind its reduction; 1x1 behind pooling: Table 1 of the paper, row by row
INCEPTIONS = {
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


def googlenet(batch: int, head: str = "") -> str:
    """22 layers; nine inceptions; the auxiliary classifiers stand on 4a and 4d."""
    net = Prototxt("GoogleNet", (batch, 3, 224, 224), head)
    net.input("label", batch)

    def conv(name: str, bottom: str, num_output: int, kernel: int, **more: int) -> str:
        x = net.conv(name, bottom, num_output, kernel, XAVIER, bias=0.2, **more)
        return net.relu(name.replace("/", "/relu_", 1), x)

    def inception(name: str, x: str) -> str:
        one, three_reduce, three, five_reduce, five, pooled = INCEPTIONS[name]
        at = f"inception_{name}"
        parts = [
            conv(f"{at}/1x1", x, one, 1),
            conv(f"{at}/3x3", conv(f"{at}/3x3_reduce", x, three_reduce, 1), three, 3, pad=1),
            conv(f"{at}/5x5", conv(f"{at}/5x5_reduce", x, five_reduce, 1), five, 5, pad=2),
            conv(f"{at}/pool_proj", net.pool(f"{at}/pool", x, "MAX", 3, 1, 1), pooled, 1),
        ]
        return net.layer(f"{at}/output", "Concat", " ".join(parts))

    def auxiliary(i: int, x: str) -> None:
        at = f"loss{i}"
        x = conv(f"{at}/conv", net.pool(f"{at}/ave_pool", x, "AVE", 5, 3), 128, 1)
        x = net.dropout(f"{at}/drop_fc", net.relu(f"{at}/relu_fc", net.ip(f"{at}/fc", x, 1024, XAVIER, 0.2)), 0.7)
        net.loss(f"{at}/loss1", net.ip(f"{at}/classifier", x, 1000, XAVIER), 0.3)

    x = net.pool("pool1/3x3_s2", conv("conv1/7x7_s2", "data", 64, 7, pad=3, stride=2), "MAX", 3, 2)
    x = conv("conv2/3x3_reduce", net.lrn("pool1/norm1", x, 5, 1e-4), 64, 1)
    x = net.lrn("conv2/norm2", conv("conv2/3x3", x, 192, 3, pad=1), 5, 1e-4)
    x = net.pool("pool2/3x3_s2", x, "MAX", 3, 2)
    for name in INCEPTIONS:
        if name in ("4a", "5a"):
            x = net.pool(f"pool{int(name[0]) - 1}/3x3_s2", x, "MAX", 3, 2)
        x = inception(name, x)
        if name in ("4a", "4d"):
            auxiliary(1 if name == "4a" else 2, x)
    x = net.dropout("pool5/drop", net.pool("pool5/7x7_s1", x, "AVE", 7, 1), 0.4)
    net.loss("loss3/loss3", net.ip("loss3/classifier", x, 1000, XAVIER))
    return net.text


def nin(batch: int) -> str:
    """Lin, Chen and Yan (2014), for CIFAR-10: each convolution followed by two of 1x1."""
    net = Prototxt("NIN", (batch, 3, 32, 32))
    net.input("label", batch)
    x = "data"
    for i, (kernel, widths) in enumerate([(5, (192, 160, 96)), (5, (192, 192, 192)), (3, (192, 192, 10))], 1):
        x = net.conv_relu(f"conv{i}", x, widths[0], kernel, gaussian(0.05), pad=kernel // 2)
        x = net.conv_relu(f"cccp{2 * i - 1}", x, widths[1], 1, gaussian(0.05))
        x = net.conv_relu(f"cccp{2 * i}", x, widths[2], 1, gaussian(0.05))
        if i < 3:
            x = net.dropout(f"drop{i}", net.pool(f"pool{i}", x, "MAX" if i == 1 else "AVE", 3, 2))
    net.loss("loss", net.global_pool("pool3", x))
    return net.text


def squeezenet(batch: int) -> str:
    """Iandola et al. (2016), Table 1: fire modules of 1x1 and 3x3."""
    net = Prototxt("SqueezeNet", (batch, 3, 227, 227))
    net.input("label", batch)
    x = net.pool("pool1", net.conv_relu("conv1", "data", 96, 7, XAVIER, stride=2), "MAX", 3, 2)
    for i, width in enumerate((16, 16, 32, 32, 48, 48, 64, 64), 2):
        below = net.conv_relu(f"fire{i}_squeeze", x, width, 1, XAVIER)
        left = net.conv_relu(f"fire{i}_expand1x1", below, 4 * width, 1, XAVIER)
        right = net.conv_relu(f"fire{i}_expand3x3", below, 4 * width, 3, XAVIER, pad=1)
        x = net.layer(f"fire{i}", "Concat", f"{left} {right}")
        if i in (4, 8):
            x = net.pool(f"pool{i}", x, "MAX", 3, 2)
    x = net.conv_relu("conv10", net.dropout("drop9", x), 1000, 1, XAVIER)
    net.loss("loss", net.global_pool("pool10", x))
    return net.text


def resnet20(batch: int) -> str:
    """He, Zhang, Ren and Sun (2016), section 4.2, n = 3, with projections (their option B) where the width changes."""
    net = Prototxt("ResNet-20", (batch, 3, 32, 32))
    net.input("label", batch)

    def normed(name: str, bottom: str, width: int, kernel: int, stride: int = 1) -> str:
        size = f"num_output: {width} kernel_size: {kernel} pad: {kernel // 2} stride: {stride}"
        param = f'convolution_param {{ {size} bias_term: false weight_filler {{ type: "msra" }} }}'
        x = net.layer(name, "Convolution", bottom, param)
        net.layer(f"{name}_bn", "BatchNorm", x, top=x)
        return net.layer(f"{name}_scale", "Scale", x, "scale_param { bias_term: true }", top=x)

    x = net.relu("conv1_relu", normed("conv1", "data", 16, 3))
    for stage, width in enumerate((16, 32, 64), 1):
        for block in range(1, 4):
            name, stride = f"res{stage}_{block}", 2 if stage > 1 and block == 1 else 1
            above = net.relu(f"{name}_a_relu", normed(f"{name}_a", x, width, 3, stride))
            above = normed(f"{name}_b", above, width, 3)
            below = normed(f"{name}_proj", x, width, 1, stride) if stride > 1 else x
            x = net.relu(f"{name}_relu", net.layer(name, "Eltwise", f"{below} {above}"))
    net.loss("loss", net.ip("fc", net.global_pool("pool", x), 10, 'type: "msra"'))
    return net.text


def lstm(batch: int, steps: int = 20) -> str:
    """Hochreiter and Schmidhuber (1997) with forget gates, as Donahue et al. (2015) use it: a class at every step."""
    net = Prototxt("LSTM", (steps, batch, 128))
    net.input("cont", steps, batch)
    net.input("label", steps, batch)
    small = 'weight_filler { type: "uniform" min: -0.08 max: 0.08 }'
    x = net.layer("lstm", "LSTM", "data cont", f"recurrent_param {{ num_output: 256 {small} }}")
    x = net.layer("scores", "InnerProduct", x, f"inner_product_param {{ num_output: 10 axis: 2 {small} }}")
    net.layer("loss", "SoftmaxWithLoss", f"{x} label", "softmax_param { axis: 2 }")
    return net.text
