"""Cases of the layer types that classification nets use. How to add others: layer_harness.py."""

from __future__ import annotations

import numpy as np
from layer_harness import HERE, TEST, TRAIN, Case, ErrorCase, labels, normal, uniform

CASES: list[Case] = []
ERRORS: list[ErrorCase] = []
ELSEWHERE = dict.fromkeys(("Data", "ImageData", "HDF5Data"), "test_data_layers.py")
ELSEWHERE |= dict.fromkeys(("HDF5Output", "MemoryData"), "test_layers.py")
SHAPES = [(2, 3, 4, 5), (1, 1, 1, 1), (7,), (2, 3), (2, 3, 2, 1, 2)]
SPECIAL = np.array([[0.0, -0.0, 1e-30, -1e-30, 88.0, -88.0, 103.0, -103.0, 0.5, -0.5]], np.float32)
INFINITE = np.array([[np.inf, -np.inf, np.nan, 1.0, -1.0, 0.0]], np.float32)


def add(type_: str, *params: str, **options: object) -> None:
    """One case of `type_` for each text of parameters."""
    CASES.extend(Case(type_, param, **options) for param in params)  # type: ignore[arg-type]


def refused(type_: str, param: str, sentence: str, **options: object) -> None:
    ERRORS.append(ErrorCase(type_, param, sentence=sentence, **options))  # type: ignore[arg-type]


# neurons: each over shapes, in place, special values, two batches
NEURONS = {
    "ReLU": ["", "relu_param { negative_slope: 0.1 }"],
    "ELU": ["", "elu_param { alpha: 0.3 }"],
    "Sigmoid": [""],
    "TanH": [""],
    "Swish": ["", "swish_param { beta: 2.5 }"],
    "BNLL": [""],
    "Clip": ["clip_param { min: -0.5 max: 0.7 }"],
    "Exp": ["", "exp_param { base: 2 scale: 0.5 shift: -1 }"],
    "AbsVal": [""],
    "Power": ["power_param { power: 2 scale: 0.5 shift: 0.1 }", "power_param { scale: 3 shift: -1 }"],
    "PReLU": ["", "prelu_param { channel_shared: true }"],
    "Threshold": ["", "threshold_param { threshold: 0.4 }"],
}
for name, params in NEURONS.items():
    backward = name != "Threshold"
    for text in params:
        add(name, text, then=[(3, 3, 2, 6)], backward=backward)
    for dims in SHAPES[1:]:
        if name == "PReLU" and len(dims) in (1, 5):
            continue
        add(name, params[-1], bottoms=[dims], backward=backward)
    if name != "AbsVal":
        add(name, params[0], in_place=True, then=[(1, 3, 7, 1)], backward=backward)
        add(name, params[-1], in_place=True, bottoms=[normal((3, 3, 2), 1)], backward=backward)
    add(name, params[0], bottoms=[SPECIAL], backward=backward)
    add(name, params[-1], bottoms=[INFINITE], backward=backward)
add("ReLU", "relu_param { negative_slope: -0.2 }")
add("ReLU", "relu_param { negative_slope: -0.2 }", in_place=True)
add("ReLU", "loss_weight: 0.5", then=[(1, 3, 2, 2)])
add("Exp", "exp_param { base: 10 }", "exp_param { base: 0.5 shift: 1 }", "exp_param { scale: -1 }")
for text in (
    "power: 0.5 shift: 4",
    "power: -1 scale: 0.3 shift: 5",
    "power: 3",
    "power: 1",
    "power: 2",
    "power: 0",
    "scale: 0 shift: 2 power: 3",
    "power: 2 scale: 0.5",
    "power: 0.5",
    "scale: -1",
    "shift: 1",
    "scale: 0 shift: 0 power: 1",
    "power: 1.7 shift: 6 scale: 0.2",
):
    add("Power", f"power_param {{ {text} }}")
add("Power", "power_param { power: 2 shift: 1 }", "power_param { power: 3 scale: 0.5 shift: 5 }", in_place=True)
POSITIVE = uniform((2, 3, 4, 5), 0.1, 3)
add(
    "Log",
    "",
    "log_param { base: 2 }",
    "log_param { base: 10 scale: 2 shift: 1 }",
    "log_param { shift: 0.5 }",
    bottoms=[POSITIVE],
    then=[uniform((1, 2), 0.2, 5)],
)
add("Log", "log_param { scale: 3 }", bottoms=[POSITIVE], in_place=True)
add("Log", "", bottoms=[INFINITE])
add("Log", "", bottoms=[np.array([[0.0, -1.0, 1e-38]], np.float32)])
add("PReLU", "prelu_param { filler { type: 'constant' value: 0.1 } }", bottoms=[(2, 4)], params=())
add("PReLU", "", bottoms=[(2, 3, 4, 1)], params=())
add("PReLU", "prelu_param { channel_shared: true }", bottoms=[(2, 3)], params=(), then=[(5, 3)])
add("PReLU", "param { lr_mult: 0 } loss_weight: 1", force=False, below=True)
add("PReLU", "param { lr_mult: 1 } loss_weight: 1 propagate_down: false", force=False, below=True)
add("AbsVal", "", bottoms=[np.array([[0.0, -0.0, 2.0, -3.0]], np.float32)], then=[(2, 2)])

# Dropout: TRAIN with the mask that real Caffe drew
for ratio in (0.5, 0.1, 0.8, 0):
    add("Dropout", f"dropout_param {{ dropout_ratio: {ratio} }}", masked=True, then=[(4, 3)])
add("Dropout", "", bottoms=[(5, 7)], masked=True, in_place=True)
add("Dropout", "", "dropout_param { dropout_ratio: 0.9 }", phase=TEST, then=[(4, 3)])
add("Dropout", "", phase=TEST, in_place=True)

# Convolution
BIASED = "weight_filler { type: 'xavier' } bias_filler { type: 'constant' value: 0.1 }"


def conv(text: str, **options: object) -> None:
    add("Convolution", f"convolution_param {{ {text} }}", **options)


conv("num_output: 4 kernel_size: 3", bottoms=[(2, 3, 6, 5)], then=[(1, 3, 4, 9)])
conv("num_output: 4 kernel_size: 3 pad: 1 stride: 2", bottoms=[(2, 3, 7, 6)], then=[(3, 3, 6, 7)])
conv("num_output: 4 kernel_size: 3 pad: 2 dilation: 2", bottoms=[(2, 3, 7, 6)])
conv("num_output: 4 kernel_size: 3 dilation: 3 stride: 2 pad: 4", bottoms=[(1, 2, 9, 8)])
conv("num_output: 6 kernel_size: 3 group: 3 pad: 1", bottoms=[(2, 6, 5, 5)])
conv("num_output: 6 kernel_size: 2 group: 6", bottoms=[(2, 6, 5, 4)])
conv("num_output: 4 kernel_size: 1", bottoms=[(2, 3, 4, 5)], then=[(1, 3, 1, 1)])
conv("num_output: 4 kernel_size: 1 bias_term: false", bottoms=[(2, 3, 4, 5)])
conv("num_output: 4 kernel_size: 1 stride: 2", bottoms=[(2, 3, 5, 5)])
conv("num_output: 4 kernel_h: 2 kernel_w: 3 pad_h: 1 pad_w: 0 stride_h: 1 stride_w: 2", bottoms=[(2, 3, 5, 7)])
conv("num_output: 2 kernel_size: 2 kernel_size: 4 stride: 2 stride: 1 pad: 0 pad: 3", bottoms=[(1, 3, 5, 7)])
conv("num_output: 2 kernel_size: 3 dilation: 1 dilation: 2", bottoms=[(1, 3, 5, 7)])
conv("num_output: 5 kernel_size: 5", bottoms=[(1, 1, 5, 5)])
conv("num_output: 1 kernel_size: 1", bottoms=[(1, 1, 1, 1)])
conv("num_output: 3 kernel_size: 3 pad: 3", bottoms=[(1, 2, 2, 1)])
conv("num_output: 3 kernel_size: 7 pad: 3 stride: 2", bottoms=[(1, 3, 14, 13)])
conv("num_output: 3 kernel_size: 3 pad: 1", bottoms=[(2, 2, 4, 4), (2, 2, 4, 4)], tops=2)
conv("num_output: 4 kernel_size: 3 bias_term: false group: 2", bottoms=[(2, 4, 4, 4)] * 3, tops=3)
for larger in ("kernel_size: 3 stride: 2", "kernel_size: 3 dilation: 2 stride: 4 pad: 1", "kernel_size: 4 stride: 3"):
    conv(f"num_output: 3 {larger}", bottoms=[(2, 2, 2, 2)])  # than the image, by less than a stride: still one window
conv("num_output: 2 kernel_size: 3 kernel_size: 2 stride: 2", bottoms=[(1, 2, 2, 5)], then=[(1, 2, 4, 3)])
conv("num_output: 3 kernel_size: 3", bottoms=[(2, 2, 8)])
conv("num_output: 3 kernel_size: 2 stride: 2 pad: 1", bottoms=[(2, 2, 4, 3, 5)])
conv("num_output: 4 kernel_size: 2 kernel_size: 1 kernel_size: 3 group: 2", bottoms=[(1, 4, 4, 3, 5)])
conv("num_output: 3 kernel_size: 2 axis: 2", bottoms=[(2, 2, 3, 4, 5)])
conv("num_output: 3 kernel_size: 2 axis: -3", bottoms=[(2, 3, 4, 5)])
conv("num_output: 3 kernel_size: 2 force_nd_im2col: true", bottoms=[(2, 3, 4, 5)])
conv("num_output: 3 kernel_size: 2 engine: CAFFE", bottoms=[(2, 3, 4, 5)])
conv(f"num_output: 3 kernel_size: 2 {BIASED.replace('xavier', 'constant')}", bottoms=[(2, 3, 4, 5)], params=())
conv("num_output: 4 kernel_size: 2 weight_filler { type: 'bilinear' }", bottoms=[(2, 3, 4, 5)], params=())
for specs in (
    "param { lr_mult: 0 } param { lr_mult: 1 }",
    "param { lr_mult: 1 } param { lr_mult: 0 }",
    "param { lr_mult: 0 } param { lr_mult: 0 }",
):
    add(
        "Convolution",
        f"{specs} loss_weight: 1 convolution_param {{ num_output: 3 kernel_size: 3 }}",
        force=False,
        below=True,
        bottoms=[(2, 3, 4, 5)],
    )
add("Convolution", "loss_weight: 2 convolution_param { num_output: 3 kernel_size: 3 }", force=False)
add(
    "Convolution",
    "loss_weight: 1 propagate_down: false convolution_param { num_output: 3 kernel_size: 3 }",
    force=False,
    below=True,
)
refused(
    "Convolution",
    "convolution_param { num_output: 3 kernel_size: 3 group: 2 }",
    "Number of output should be multiples of group.",
    bottoms=[(2, 4, 5, 5)],
)
refused(
    "Convolution",
    "convolution_param { num_output: 3 kernel_size: 4 stride: 2 }",
    "Check failed: data_",
    bottoms=[(1, 1, 2, 2)],
)
refused("Convolution", "convolution_param { num_output: 3 }", "kernel_size must be specified once")
refused("Convolution", "convolution_param { num_output: 3 kernel_size: 0 }", "Filter dimensions must be nonzero.")
refused(
    "Convolution", "convolution_param { num_output: 3 kernel_size: 3 stride: 0 }", "Stride dimensions must be nonzero."
)
refused("Convolution", "convolution_param { kernel_size: 3 }", "Check failed: num_output_ > 0 (0 vs. 0)")
refused(
    "Convolution",
    "convolution_param { num_output: 3 kernel_size: 3 kernel_h: 2 kernel_w: 2 }",
    "Either kernel_size or kernel_h/w should be specified; not both.",
)
refused(
    "Convolution",
    "convolution_param { num_output: 3 kernel_size: 2 weight_filler { type: 'z' } }",
    "Unknown filler name: z",
)
refused(
    "Convolution",
    "convolution_param { num_output: 4 kernel_size: 3 group: 2 }",
    "Check failed: channels_ % group_ == 0",
)

# Pooling
for method in ("MAX", "AVE"):
    for geometry, size in (
        ("kernel_size: 2 stride: 2", (2, 3, 4, 6)),
        ("kernel_size: 3 stride: 2", (2, 3, 6, 7)),
        ("kernel_size: 3 stride: 2", (1, 2, 8, 5)),
        ("kernel_size: 3 stride: 2 pad: 1", (2, 2, 7, 6)),
        ("kernel_size: 3 stride: 3 pad: 2", (1, 2, 8, 7)),
        ("kernel_size: 3 stride: 1 pad: 1", (1, 2, 4, 5)),
        ("kernel_size: 2", (1, 2, 3, 3)),
        ("kernel_size: 5 stride: 3 pad: 4", (1, 2, 6, 7)),
        ("kernel_h: 2 kernel_w: 3 stride_h: 1 stride_w: 2 pad_h: 0 pad_w: 1", (1, 2, 6, 7)),
        ("kernel_size: 3 stride: 2 round_mode: FLOOR", (2, 3, 6, 8)),
        ("kernel_size: 3 stride: 2 pad: 1 round_mode: FLOOR", (2, 3, 6, 7)),
        ("kernel_size: 1 stride: 2", (1, 2, 5, 7)),
        ("kernel_size: 3 stride: 3", (1, 2, 7, 8)),
        ("global_pooling: true", (2, 3, 5, 4)),
        ("kernel_size: 4", (1, 1, 4, 4)),
        ("kernel_size: 1", (1, 1, 1, 1)),
    ):
        add("Pooling", f"pooling_param {{ pool: {method} {geometry} }}", bottoms=[size])
    # windows beyond the image, stride greater than kernel: MAX finds nothing there, and real Caffe's backward then
    # writes before the blob's memory ("double free or corruption")
    outside = method == "AVE"
    add(
        "Pooling",
        f"pooling_param {{ pool: {method} kernel_size: 1 stride: 3 }}",
        bottoms=[(1, 2, 5, 6)],
        backward=outside,
    )
    add(
        "Pooling",
        f"pooling_param {{ pool: {method} kernel_size: 2 stride: 4 }}",
        bottoms=[(1, 1, 7, 9)],
        backward=outside,
    )
    add("Pooling", f"pooling_param {{ pool: {method} kernel_size: 2 stride: 5 pad: 1 }}", bottoms=[(1, 1, 7, 8)])
    add(
        "Pooling",
        f"pooling_param {{ pool: {method} kernel_size: 3 stride: 2 }}",
        bottoms=[(2, 3, 6, 6)],
        then=[(1, 3, 5, 9)],
    )
    add(
        "Pooling",
        f"pooling_param {{ pool: {method} global_pooling: true }}",
        bottoms=[(2, 3, 6, 6)],
        then=[(1, 3, 5, 9)],
    )
    add(
        "Pooling",
        f"pooling_param {{ pool: {method} kernel_size: 2 stride: 1 }}",
        bottoms=[np.array([[[[np.inf, 1, -np.inf], [np.nan, 2, 0], [np.nan, np.nan, -1]]]], np.float32)],
    )
add(
    "Pooling", "pooling_param { kernel_size: 3 stride: 2 }", "pooling_param { kernel_size: 3 stride: 2 pad: 1 }", tops=2
)
add("Pooling", "pooling_param { kernel_size: 1 stride: 3 }", bottoms=[(1, 2, 5, 6)], tops=2, backward=False)
add("Pooling", "pooling_param { kernel_size: 3 stride: 2 }", bottoms=[np.zeros((1, 2, 5, 5), np.float32)], tops=2)
add("Pooling", "pooling_param { kernel_size: 2 stride: 2 }", bottoms=[labels((1, 2, 6, 6), 3)], tops=2, golden=True)
add(
    "Pooling",
    "pooling_param { kernel_size: 2 stride: 2 }",
    bottoms=[np.full((1, 1, 2, 2), np.nan, np.float32)],
    tops=2,
    backward=False,
)
add("Pooling", "pooling_param { kernel_size: 2 kernel_h: 3 }")  # kernel_h without kernel_w is not looked at
refused("Pooling", "pooling_param { kernel_size: 2 pad: 2 }", "Check failed: pad_h_ < kernel_h_ (2 vs. 2)")
refused(
    "Pooling",
    "pooling_param { kernel_size: 2 pad: 1 pad_h: 1 pad_w: 1 }",
    "pad is pad OR pad_h and pad_w are required.",
)
refused(
    "Pooling",
    "pooling_param { kernel_size: 2 stride_h: 2 }",
    "Stride is stride OR stride_h and stride_w are required.",
)
refused("Im2col", "convolution_param { }", "(kernel_size specified 0 times; 2 spatial dims);")
refused("Pooling", "pooling_param { }", "Filter size is kernel_size OR kernel_h and kernel_w; not both")
refused(
    "Pooling",
    "pooling_param { kernel_size: 2 global_pooling: true }",
    "With Global_pooling: true Filter size cannot specified",
)
refused(
    "Pooling",
    "pooling_param { global_pooling: true stride: 2 }",
    "With Global_pooling: true; only pad = 0 and stride = 1",
)
refused("Pooling", "pooling_param { kernel_size: 0 }", "Filter dimensions cannot be zero.")
refused(
    "Pooling",
    "pooling_param { kernel_size: 2 }",
    "Input must have 4 axes, corresponding to (num, channels, height, width)",
    bottoms=[(2, 3)],
)
refused(
    "Pooling",
    "pooling_param { pool: AVE kernel_size: 2 }",
    "Pooling Layer produces at most 1 top blob(s) as output.",
    tops=2,
)

# InnerProduct
for text, dims in (
    ("", (2, 3, 4, 5)),
    ("", (7, 3)),
    ("", (1, 1)),
    ("bias_term: false", (2, 3)),
    ("axis: 2", (2, 3, 4, 5)),
    ("axis: -1", (2, 3, 4)),
    ("axis: 0", (3, 4)),
    ("transpose: true", (2, 3, 4, 5)),
    ("axis: -1", (4,)),
    ("transpose: true bias_term: false axis: 2", (2, 3, 4)),
):
    add("InnerProduct", f"inner_product_param {{ num_output: 4 {text} }}", bottoms=[dims])
add("InnerProduct", "inner_product_param { num_output: 3 }", bottoms=[(2, 6)], then=[(5, 2, 3)])
add("InnerProduct", "inner_product_param { num_output: 3 bias_filler { value: 2 } }", bottoms=[(2, 6)], params=())
for specs in ("param { lr_mult: 0 } param { lr_mult: 1 }", "param { lr_mult: 1 } param { lr_mult: 0 }"):
    add("InnerProduct", f"{specs} loss_weight: 1 inner_product_param {{ num_output: 3 }}", force=False, below=True)
add(
    "InnerProduct",
    "loss_weight: 1 propagate_down: false inner_product_param { num_output: 3 }",
    force=False,
    below=True,
)
refused(
    "InnerProduct",
    "inner_product_param { num_output: 3 axis: 4 }",
    "axis 4 out of range for 4-D Blob with shape 2 3 4 5 (120)",
)
refused(
    "InnerProduct",
    "inner_product_param { num_output: 3 }",
    "Input size incompatible with inner product parameters.",
    bottoms=[(2, 6)],
    then=[(2, 5)],
)
refused(
    "InnerProduct",
    "inner_product_param { num_output: 3 }",
    "InnerProduct Layer takes 1 bottom blob(s) as input.",
    bottoms=[(2, 6), (2, 6)],
)
refused(
    "InnerProduct",
    "param { } param { } param { } inner_product_param { num_output: 3 }",
    "Too many params specified for layer layer",
)

# LRN
for text in (
    "",
    "local_size: 3 alpha: 0.5 beta: 0.6 k: 2",
    "local_size: 1",
    "local_size: 9 alpha: 2",
    "norm_region: WITHIN_CHANNEL",
    "norm_region: WITHIN_CHANNEL local_size: 3 alpha: 0.7 beta: 0.5 k: 3",
    "local_size: 5 alpha: 0.0001",
):
    add("LRN", f"lrn_param {{ {text} }}", bottoms=[(2, 7, 4, 5)], then=[(1, 7, 3, 6)])
add("LRN", "", bottoms=[(1, 1, 1, 1)])
add("LRN", "lrn_param { norm_region: WITHIN_CHANNEL local_size: 3 }", bottoms=[(1, 1, 1, 1)])
refused("LRN", "lrn_param { local_size: 4 }", "LRN only supports odd values for local_size")
refused("LRN", "", "Input must have 4 axes, corresponding to (num, channels, height, width)", bottoms=[(2, 3)])

# Softmax
for text, dims in (
    ("", (4, 5)),
    ("", (2, 3, 4, 5)),
    ("axis: 2", (2, 3, 4, 5)),
    ("axis: -1", (2, 3, 4)),
    ("axis: 0", (6,)),
    ("axis: 0", (3, 2)),
    ("", (3, 1)),
    ("", (1, 1, 1, 1)),
):
    add("Softmax", f"softmax_param {{ {text} }}", bottoms=[dims], then=[dims[::-1]] if len(dims) > 1 else None)
add("Softmax", "", in_place=True, bottoms=[(3, 4)])
add("Softmax", "", bottoms=[np.array([[1000.0, 999, 0], [-1000, -1001, -1002]], np.float32)])
add("Softmax", "", bottoms=[np.array([[np.inf, 1, 0], [np.nan, 1, 2], [-np.inf, 0, 1]], np.float32)], golden=True)

# SoftmaxWithLoss
for mode in (
    "",
    "loss_param { normalization: FULL }",
    "loss_param { normalization: VALID }",
    "loss_param { normalization: BATCH_SIZE }",
    "loss_param { normalization: NONE }",
    "loss_param { normalize: true }",
    "loss_param { normalize: false }",
    "loss_param { normalize: false normalization: FULL }",
    "loss_weight: 3",
):
    add("SoftmaxWithLoss", mode, bottoms=[(3, 5, 2, 2), labels((3, 1, 2, 2), 5)])
    if mode and "weight" not in mode:
        add("SoftmaxWithLoss", mode.replace("{ n", "{ ignore_label: 1 n"), bottoms=[(3, 5, 2, 2), labels((3, 2, 2), 5)])
add("SoftmaxWithLoss", "", bottoms=[(4, 3), labels(4, 3)], tops=0)  # the net gives it one without a name
add("SoftmaxWithLoss", "", bottoms=[(4, 3), labels(4, 3)], then=[(2, 6), labels(2, 6)])
add("SoftmaxWithLoss", "softmax_param { axis: 2 }", bottoms=[(3, 2, 4), labels((3, 2), 4)])
add("SoftmaxWithLoss", "softmax_param { axis: -1 }", bottoms=[(3, 2, 4), labels((3, 2), 4)])
add("SoftmaxWithLoss", "loss_param { ignore_label: 2 }", bottoms=[(4, 3), np.full(4, 2, np.float32)])
add(
    "SoftmaxWithLoss",
    "loss_param { ignore_label: -1 }",
    bottoms=[(4, 3), np.array([0, -1, 2, -1], np.float32)],
    golden=True,
)
add("SoftmaxWithLoss", "loss_param { ignore_label: 255 }", bottoms=[(4, 3), np.array([0, 255, 2, 1], np.float32)])
add(
    "SoftmaxWithLoss",
    "",
    bottoms=[np.array([[200.0, 0], [0, 200]], np.float32), np.array([1, 1], np.float32)],
    golden=True,
)
add("SoftmaxWithLoss", "", bottoms=[(3, 4), np.array([0.9, 1.5, 2.999], np.float32)])
add("SoftmaxWithLoss", "", bottoms=[(1, 1), np.zeros(1, np.float32)])
add(
    "SoftmaxWithLoss",
    "propagate_down: true propagate_down: false",
    bottoms=[(4, 3), labels(4, 3)],
    force=False,
    below=True,
)
add(
    "SoftmaxWithLoss",
    "propagate_down: false propagate_down: false",
    bottoms=[(4, 3), labels(4, 3)],
    force=False,
    below=True,
)
refused(
    "SoftmaxWithLoss", "", "Number of labels must match number of predictions", bottoms=[(4, 3, 2, 2), labels(4, 3)]
)
refused(
    "SoftmaxWithLoss", "", "The data and label should have the same first dimension.", bottoms=[(4, 3), labels(3, 3)]
)
refused(
    "SoftmaxWithLoss",
    "",
    "loss_weight must be unspecified or specified once per top blob.",
    tops=2,
    bottoms=[(4, 3), labels(4, 3)],
)
refused(
    "SoftmaxWithLoss",
    "propagate_down: true propagate_down: true",
    "SoftmaxWithLoss Layer cannot backpropagate to label inputs.",
    bottoms=[(4, 3), labels(4, 3)],
    force=False,
    below=True,
)

# Accuracy
SCORES = labels((12, 5), 3, 4)  # many ties
for text in ("", "top_k: 2", "top_k: 5", "ignore_label: 1", "ignore_label: 1 top_k: 3"):
    for tops in (1, 2):
        add("Accuracy", f"accuracy_param {{ {text} }}", bottoms=[SCORES, labels(12, 5, 1)], tops=tops, backward=False)
        add(
            "Accuracy",
            f"accuracy_param {{ {text} }}",
            bottoms=[(3, 5, 2, 2), labels((3, 2, 2), 4, 2)],
            tops=tops,
            backward=False,
            then=[(2, 6, 3), labels((2, 3), 6)],
        )
add("Accuracy", "accuracy_param { axis: -1 }", bottoms=[(4, 2, 3), labels((4, 2), 3)], tops=2, backward=False)
add(
    "Accuracy",
    "",
    bottoms=[np.array([[np.nan, 1], [0, np.nan], [np.inf, np.inf]], np.float32), labels(3, 2)],
    backward=False,
)
add("Accuracy", "accuracy_param { ignore_label: 1 }", bottoms=[(3, 2), np.ones(3, np.float32)], tops=2, backward=False)
refused(
    "Accuracy",
    "accuracy_param { top_k: 4 }",
    "top_k must be less than or equal to the number of classes.",
    bottoms=[(4, 3), labels(4, 3)],
    backward=False,
    force=False,
)
refused(
    "Accuracy",
    "",
    "Number of labels must match number of predictions",
    bottoms=[(4, 3, 2), labels(4, 3)],
    backward=False,
    force=False,
)

# Eltwise
for text in (
    "",
    "operation: SUM coeff: 0.5 coeff: -2",
    "operation: PROD",
    "operation: PROD stable_prod_grad: false",
    "operation: MAX",
):
    add("Eltwise", f"eltwise_param {{ {text} }}", bottoms=[(2, 3, 4)] * 2, then=[(1, 3)] * 2)
for text in (
    "",
    "coeff: 1 coeff: 0 coeff: 3",
    "operation: PROD",
    "operation: PROD stable_prod_grad: false",
    "operation: MAX",
):
    add("Eltwise", f"eltwise_param {{ {text} }}", bottoms=[(2, 3, 4)] * 3)
add("Eltwise", "eltwise_param { operation: MAX }", bottoms=[labels((3, 4), 2, i) for i in range(3)], golden=True)
add("Eltwise", "eltwise_param { operation: MAX }", bottoms=[labels((3, 4), 2, i) for i in range(4)])
add("Eltwise", "eltwise_param { operation: MAX }", bottoms=[INFINITE, INFINITE[:, ::-1].copy()], golden=True)
add(
    "Eltwise",
    "eltwise_param { operation: PROD stable_prod_grad: false }",
    bottoms=[labels((3, 4), 2, i) for i in range(2)],
)
for flags in ("true propagate_down: false", "false propagate_down: true"):
    for text in ("SUM", "PROD", "MAX"):
        add(
            "Eltwise",
            f"propagate_down: {flags} loss_weight: 1 eltwise_param {{ operation: {text} }}",
            force=False,
            below=True,
            bottoms=[(2, 3)] * 2,
        )
refused("Eltwise", "", "Eltwise Layer takes at least 2 bottom blob(s) as input.")
refused(
    "Eltwise",
    "eltwise_param { coeff: 1 }",
    "Eltwise Layer takes one coefficient per bottom blob.",
    bottoms=[(2, 3)] * 2,
)
refused(
    "Eltwise",
    "eltwise_param { operation: PROD coeff: 1 coeff: 2 }",
    "Eltwise layer only takes coefficients for summation.",
    bottoms=[(2, 3)] * 2,
)
refused("Eltwise", "", "bottom[0]: 2 3 (6), bottom[1]: 3 2 (6)", bottoms=[(2, 3), (3, 2)])

# Concat and Slice
for text, dims in (
    ("", [(2, 3, 2, 2), (2, 1, 2, 2)]),
    ("axis: 0", [(2, 3), (1, 3), (4, 3)]),
    ("axis: -1", [(2, 3, 1), (2, 3, 4)]),
    ("concat_dim: 0", [(2, 3), (1, 3)]),
    ("axis: 2", [(2, 3, 2, 2), (2, 3, 1, 2)]),
    ("", [(2, 3)]),
    ("axis: 0", [(3,), (1,)]),
):
    add("Concat", f"concat_param {{ {text} }}", bottoms=dims)
add("Concat", "", bottoms=[(2, 3), (2, 1)], then=[(4, 1), (4, 5)])
add(
    "Concat",
    "propagate_down: false propagate_down: true loss_weight: 1",
    bottoms=[(2, 3), (2, 1)],
    force=False,
    below=True,
)
refused("Concat", "", "All inputs must have the same shape, except at concat_axis.", bottoms=[(2, 3), (3, 3)])
refused("Concat", "", "All inputs must have the same #axes.", bottoms=[(2, 3), (2, 3, 1)])
refused("Concat", "concat_param { axis: 1 concat_dim: 1 }", "Either axis or concat_dim should be specified; not both.")
for text, dims, tops in (
    ("", (2, 6, 3), 3),
    ("slice_point: 1", (2, 6), 2),
    ("slice_point: 2 slice_point: 3", (2, 6, 2, 2), 3),
    ("axis: 0 slice_point: 1", (3, 2), 2),
    ("axis: -1", (2, 3, 4), 2),
    ("slice_dim: 0", (4, 2), 2),
    ("", (2, 3), 1),
    ("slice_dim: 1 slice_point: 2", (2, 3), 2),
):
    add("Slice", f"slice_param {{ {text} }}", bottoms=[dims], tops=tops)
add("Slice", "", bottoms=[(2, 4)], tops=2, then=[(3, 6)])
refused("Slice", "", "Number of top blobs (2) should evenly divide input slice axis (3)", bottoms=[(2, 3)], tops=2)
refused(
    "Slice",
    "slice_param { slice_point: 1 slice_point: 2 }",
    "Check failed: slice_point_.size() == top.size() - 1 (2 vs. 1)",
    bottoms=[(2, 3)],
    tops=2,
)

# shapes
for text, dims in (
    ("", (2, 3, 4, 5)),
    ("axis: 2", (2, 3, 4, 5)),
    ("axis: 1 end_axis: 2", (2, 3, 4, 5)),
    ("axis: 0", (2, 3)),
    ("axis: -2 end_axis: -1", (2, 3, 4)),
    ("end_axis: 1", (2, 3, 4)),
    ("axis: 0 end_axis: 0", (5,)),
):
    add("Flatten", f"flatten_param {{ {text} }}", bottoms=[dims], then=[dims[::-1]])
refused("Flatten", "flatten_param { axis: 5 }", "axis 5 out of range for 4-D Blob with shape 2 3 4 5 (120)")
for text, dims in (
    ("shape { dim: 0 dim: -1 }", (2, 3, 4)),
    ("shape { dim: 2 dim: 2 dim: 6 }", (2, 3, 4)),
    ("shape { dim: -1 }", (2, 3, 4)),
    ("shape { dim: 6 } axis: 1 num_axes: 2", (2, 3, 2, 5)),
    ("shape { dim: 1 } axis: 1 num_axes: 0", (2, 3)),
    ("shape { dim: 1 } axis: -1 num_axes: 0", (2, 3)),
    ("shape { dim: 3 dim: 2 } axis: -2", (2, 6)),
    ("shape { }", (1, 1)),
    ("shape { dim: 0 dim: 0 dim: 1 dim: -1 }", (2, 3, 4)),
    ("shape { dim: -1 dim: 2 } axis: 1", (2, 4, 3)),
    ("shape { dim: 0 } axis: 1 num_axes: 1", (2, 3, 4)),
):
    add("Reshape", f"reshape_param {{ {text} }}", bottoms=[dims])
add("Reshape", "reshape_param { shape { dim: 0 dim: -1 } }", bottoms=[(2, 3, 4)], then=[(3, 2, 5)])
refused("Reshape", "reshape_param { shape { dim: 7 } }", "output count must match input count")
refused(
    "Reshape",
    "reshape_param { shape { dim: -1 dim: -1 } }",
    "new shape contains multiple -1 dims; at most a single (1)",
)
refused(
    "Reshape",
    "reshape_param { shape { dim: -1 dim: 7 } }",
    "bottom count (120) must be divisible by the product of the specified dimensions (7)",
)
refused(
    "Reshape",
    "reshape_param { shape { dim: 0 } axis: 4 }",
    "new shape contains a 0, but there was no corresponding bottom axis to copy",
)
refused("Reshape", "", "Reshape Layer does not allow in-place computation.", in_place=True)
for tops in (1, 2, 3):
    add("Split", "", tops=tops, then=[(1, 2)])
add("Silence", "", tops=0)
add("Silence", "", bottoms=[(2, 3), (1,)], tops=0, then=[(1, 1), (2, 2)])

# Scale and Bias
for type_, word in (("Scale", "scale_param"), ("Bias", "bias_param")):
    for text, dims in (
        ("", (2, 3, 4, 5)),
        ("axis: 0", (2, 3)),
        ("axis: 0 num_axes: 2", (2, 3, 4)),
        ("axis: 2", (2, 3, 4)),
        ("axis: -1", (2, 3, 4)),
        ("num_axes: -1", (2, 3, 4)),
        ("axis: 0 num_axes: -1", (2, 3, 4)),
        ("num_axes: 0", (2, 3)),
        ("axis: 0 num_axes: 0", (2, 3, 4)),
        ("num_axes: 2", (1, 3, 4)),
        ("", (1, 3)),
        ("", (3, 1)),
        ("", (1, 1, 1, 1)),
    ):
        add(type_, f"{word} {{ {text} }}", bottoms=[dims])
        if type_ == "Scale":
            add(type_, f"{word} {{ {text} bias_term: true }}", bottoms=[dims])
    add(type_, "", then=[(4, 3, 2)])
    add(type_, "", in_place=True, then=[(4, 3, 2)])
    add(type_, f"{word} {{ num_axes: 2 }}", in_place=True)
    add(type_, "", params=())
    add(type_, f"{word} {{ filler {{ type: 'constant' value: 3 }} }}", params=())
    for text, first, second in (
        ("", (2, 3, 4), (3,)),
        ("axis: 0", (2, 3, 4), (2, 3)),
        ("axis: 0", (2, 3), (2, 3)),
        ("axis: -1", (2, 3, 4), (4,)),
        ("axis: 2", (1, 3, 4), (4,)),
        ("axis: 0", (2, 3), ()),
    ):
        add(type_, f"{word} {{ {text} }}", bottoms=[first, second])
    add(type_, "", bottoms=[(2, 3, 4), (3,)], then=[(1, 5), (5,)])
    add(type_, "", bottoms=[(2, 3, 4), (3,)], in_place=True)
    add(type_, "param { lr_mult: 0 } loss_weight: 1", force=False, below=True)
    add(type_, "loss_weight: 1 propagate_down: false", force=False, below=True)
    for flags in ("true propagate_down: false", "false propagate_down: true"):
        add(type_, f"loss_weight: 1 propagate_down: {flags}", bottoms=[(2, 3, 4), (3,)], force=False, below=True)
    what = type_.lower()
    refused(
        type_,
        f"{word} {{ num_axes: 4 }}",
        f"{what} blob's shape extends past bottom[0]'s shape when applied starting with bottom[0] axis = 1",
    )
    refused(type_, "", f"dimension mismatch between bottom[0]->shape(1) and {what}->shape(0)", bottoms=[(2, 3), (4,)])
    refused(
        type_, f"{word} {{ num_axes: -2 }}", "num_axes must be non-negative, or -1 to extend to the end of bottom[0]"
    )
add("Scale", "scale_param { bias_term: true }", in_place=True)
add("Scale", "scale_param { bias_term: true }", bottoms=[(2, 3, 4), (3,)])
add("Scale", "scale_param { bias_term: true axis: 0 }", bottoms=[(2, 3, 4), (2, 3)])
add(
    "Scale", "scale_param { bias_term: true bias_filler { value: 2 } filler { type: 'constant' value: -1 } }", params=()
)
for specs in ("param { lr_mult: 0 } param { lr_mult: 1 }", "param { lr_mult: 1 } param { lr_mult: 0 }"):
    add("Scale", f"{specs} loss_weight: 1 scale_param {{ bias_term: true }}", force=False, below=True)

# BatchNorm
STATISTICS = (normal((3,), 1), uniform((3,), 0.5, 2), np.array([1.7], np.float32))
for phase in (TRAIN, TEST):
    for text in ("", "batch_norm_param { eps: 0.01 moving_average_fraction: 0.9 }"):
        add("BatchNorm", text, phase=phase, params=STATISTICS, then=[(3, 3, 2, 2)])
    add("BatchNorm", "", phase=phase, params=STATISTICS, bottoms=[(5, 3)])
    add("BatchNorm", "", phase=phase, params=STATISTICS, bottoms=[(4, 3, 2)], in_place=True)
    add("BatchNorm", "", phase=phase, params=(), bottoms=[(4, 3, 2)])
    add("BatchNorm", "batch_norm_param { use_global_stats: true }", phase=phase, params=STATISTICS, bottoms=[(4, 3, 2)])
    add(
        "BatchNorm", "batch_norm_param { use_global_stats: false }", phase=phase, params=STATISTICS, bottoms=[(4, 3, 2)]
    )
add(
    "BatchNorm",
    "",
    params=STATISTICS,
    bottoms=[normal((4, 3, 5, 5), 2) * 3 + 7],
    tolerance=1e-4,
    reason="a mean far from 0: the gradient is a difference of nearly equal sums",
)
add("BatchNorm", "param { lr_mult: 1 } param { lr_mult: 2 } param { lr_mult: 3 }", params=STATISTICS)
add("BatchNorm", "", params=(), bottoms=[(1, 2)], backward=False)
refused("BatchNorm", "param { lr_mult: 1 }", "Cannot configure batch normalization statistics as layer parameters.")
refused("BatchNorm", "", "Check failed: bottom[0]->shape(1) == channels_ (4 vs. 3)", bottoms=[(2, 3)], then=[(2, 4)])

# sources
add("DummyData", "dummy_data_param { shape { dim: 2 dim: 3 } }", bottoms=(), backward=False)
add(
    "DummyData",
    "dummy_data_param { shape { dim: 2 } shape { dim: 1 dim: 4 } data_filler { value: 3 } "
    "data_filler { type: 'constant' value: -1 } }",
    bottoms=(),
    tops=2,
    backward=False,
)
add(
    "DummyData",
    "dummy_data_param { num: 2 channels: 3 height: 1 width: 4 data_filler { value: 3 } }",
    bottoms=(),
    tops=2,
    backward=False,
)
refused(
    "DummyData",
    "dummy_data_param { shape { dim: 1 } shape { dim: 2 } }",
    "Must specify 'shape' once, or once per top blob (3); specified 2.",
    bottoms=(),
    tops=3,
)
add("Input", "input_param { shape { dim: 2 dim: 3 } }", bottoms=(), backward=False)
add("Input", "input_param { shape { dim: 2 dim: 3 } }", bottoms=(), tops=2, backward=False)
add("Input", "input_param { shape { dim: 2 dim: 3 } shape { } }", bottoms=(), tops=2, backward=False)
refused(
    "Input",
    "input_param { shape { dim: 1 } shape { dim: 2 } }",
    "Must specify 'shape' once, once per top blob, or not at all",
    bottoms=(),
    tops=3,
)


# Python: the classes of layer_python_user.py
def user(layer: str, text: str = "", **options: object) -> None:
    param = f'python_param {{ module: "layer_python_user" layer: "{layer}" {text} }}'
    add("Python", param, path=str(HERE), **options)


user("ScaledSum", then=[(3, 2)])
user("ScaledSum", "param_str: '-2.5' share_in_parallel: true", phase=TEST)
user("ScaledSum", "param_str: '3'", bottoms=[(2, 3)] * 3, tops=2, then=[(4,)] * 3)
user("ScaledSum", "param_str: '0.5'", in_place=True)
user("Affine", then=[(1, 3, 2, 2)])
user("Affine", params=())
user("Loss", "} loss_weight: 0.5 propagate_down: true include { phase: TRAIN", force=False, below=True)

# any type
refused("AbsVal", "", "AbsVal Layer does not allow in-place computation.", in_place=True)
refused("ReLU", "propagate_down: true propagate_down: true", "propagate_down param must be specified")
refused("ReLU", "loss_weight: 1 loss_weight: 2", "loss_weight must be unspecified or specified once per top blob.")
refused("Poling", "", "Unknown layer type: Poling (known types: AbsVal, Accuracy, ")
