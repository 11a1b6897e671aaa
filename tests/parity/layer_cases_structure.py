"""Cases of the layers that choose, cut, repeat, sum and rearrange."""

from __future__ import annotations

import numpy as np
from layer_harness import Bottom, Case, ErrorCase, labels, normal, uniform

CASES: list[Case] = []
ERRORS: list[ErrorCase] = []
ELSEWHERE = {"WindowData": "test_layer_nets.py"}


def add(type_: str, *params: str, **options: object) -> None:
    CASES.extend(Case(type_, param, **options) for param in params)  # type: ignore[arg-type]


def refused(type_: str, param: str, sentence: str, bottoms: list[Bottom], **options: object) -> None:
    ERRORS.append(ErrorCase(type_, param, sentence=sentence, bottoms=bottoms, **options))  # type: ignore[arg-type]


# ArgMax: no backward
TIES = np.array([[1, 3, 3, 2], [0, 0, -0.0, 0], [5, 5, 4, 5]], np.float32)
for text in (
    "",
    "top_k: 3",
    "out_max_val: true",
    "out_max_val: true top_k: 2",
    "axis: 1",
    "axis: -1 top_k: 2",
    "axis: 1 out_max_val: true",
    "axis: 2 top_k: 2 out_max_val: true",
    "axis: 0 top_k: 2",
):
    add("ArgMax", f"argmax_param {{ {text} }}", bottoms=[(2, 3, 4, 5)], then=[(3, 3, 2, 3)], backward=False)
for text in ("top_k: 4", "axis: 1 top_k: 4", "out_max_val: true top_k: 4"):
    add("ArgMax", f"argmax_param {{ {text} }}", bottoms=[TIES], backward=False)
add("ArgMax", "", bottoms=[(3, 7, 2)], backward=False)
add("ArgMax", "", "argmax_param { out_max_val: true }", bottoms=[(3,)], backward=False)
add("ArgMax", "argmax_param { axis: 1 top_k: 2 }", bottoms=[labels((2, 5, 3, 2, 2), 3)], backward=False)
add("ArgMax", "", bottoms=[np.array([[1, np.inf, np.inf, -np.inf]], np.float32)], backward=False)
refused("ArgMax", "argmax_param { top_k: 0 }", "top k must not be less than 1.", [(2, 3)])
refused(
    "ArgMax",
    "argmax_param { top_k: 4 axis: 1 }",
    "top_k must be less than or equal to the dimension of the axis.",
    [(2, 3, 5)],
)
refused(
    "ArgMax",
    "argmax_param { top_k: 16 }",
    "top_k must be less than or equal to the dimension of the flattened bottom blob per instance.",
    [(2, 3, 5)],
)
refused("ArgMax", "argmax_param { axis: 3 }", "axis 3 out of range for 3-D Blob with shape 2 3 5 (30)", [(2, 3, 5)])
refused("ArgMax", "", "Not Implemented Yet", [(2, 3)])

# BatchReindex
DATA_ONLY = {"force": False, "below": True}  # something learned under both; the gradient goes to the first
TWO = "loss_weight: 1 propagate_down: true propagate_down: false"
INDEX = np.array([2, 0, 2, 2, 1.9], np.float32)
add("BatchReindex", TWO, bottoms=[(3, 2, 2), INDEX], then=[(4, 2, 2), np.array([3, 3], np.float32)], **DATA_ONLY)
add("BatchReindex", TWO, bottoms=[(5,), np.arange(5, dtype=np.float32)[::-1].copy()], **DATA_ONLY)
add("BatchReindex", TWO, bottoms=[(2, 3, 4, 2), np.zeros(1, np.float32)], **DATA_ONLY)
add("BatchReindex", "", bottoms=[(2, 3), np.array([1, 1, 0, 1], np.float32)], force=False)
refused("BatchReindex", "", "Index specified for reindex layer was negative.", [(3, 2), np.array([-0.5], np.float32)])
refused(
    "BatchReindex",
    "",
    "Index specified for reindex layer was greater than batch size.",
    [(3, 2), np.array([3], np.float32)],
)
refused("BatchReindex", "", "Check failed: 1 == bottom[1]->num_axes() (1 vs. 2)", [(3, 2), (3, 1)])
refused("BatchReindex", "", "Cannot backprop to index.", [(3, 2), np.zeros(3, np.float32)])

# Crop
for text in ("", "offset: 1", "offset: 2 offset: 0", "axis: 3 offset: 1", "axis: -1"):
    add(
        "Crop",
        f"crop_param {{ {text} }}",
        bottoms=[(2, 3, 6, 5), (2, 3, 4, 4 if "-1" not in text else 3)],
        then=None if "axis" in text else [(1, 2, 7, 6), (4, 5, 2, 3)],
    )
add("Crop", "crop_param { axis: 0 offset: 1 }", bottoms=[(3, 4, 5), (2, 3, 4)])
add("Crop", "crop_param { axis: 1 offset: 1 offset: 0 offset: 2 }", bottoms=[(2, 4, 5, 6), (9, 2, 5, 3)])
add("Crop", "", bottoms=[(2, 3, 4, 5), (1, 1, 4, 5)])
add("Crop", "crop_param { axis: 1 }", bottoms=[(2, 3, 2, 2, 3), (2, 1, 2, 1, 2)])
add("Crop", "crop_param { axis: 0 }", bottoms=[(5,), (3,)])
add(
    "Crop",
    "loss_weight: 1 propagate_down: false propagate_down: true",
    bottoms=[(1, 1, 3, 3), (1, 1, 2, 2)],
    **DATA_ONLY,
)
refused(
    "Crop",
    "crop_param { offset: 3 }",
    "the crop for dimension 2 is out-of-bounds with size 4 and offset 3",
    [(2, 3, 6, 5), (2, 3, 4, 4)],
)
refused(
    "Crop",
    "crop_param { offset: 1 offset: 1 offset: 1 }",
    "number of offset values specified must be equal to the number of dimensions following axis.",
    [(2, 3, 6, 5), (2, 3, 4, 4)],
)
refused("Crop", "", "axis 2 out of range for 2-D Blob with shape 2 3 (6)", [(2, 3), (2, 3)])
refused("Crop", "", "axis 2 out of range for 2-D Blob with shape 2 3 (6)", [(2, 3, 4, 4), (2, 3)])

# Deconvolution


def deconv(text: str, **options: object) -> None:
    add("Deconvolution", f"convolution_param {{ {text} }}", **options)


deconv("num_output: 4 kernel_size: 3", bottoms=[(2, 3, 4, 5)], then=[(1, 3, 2, 6)])
deconv("num_output: 4 kernel_size: 4 stride: 2 pad: 1", bottoms=[(2, 3, 4, 5)], then=[(3, 3, 1, 1)])
deconv("num_output: 4 kernel_size: 3 stride: 3 pad: 2", bottoms=[(2, 3, 4, 5)])
deconv("num_output: 4 kernel_size: 3 dilation: 2 pad: 1", bottoms=[(2, 3, 4, 5)])
deconv("num_output: 4 kernel_size: 2 stride: 3", bottoms=[(2, 3, 4, 5)])
deconv("num_output: 6 kernel_size: 3 group: 3 stride: 2", bottoms=[(2, 6, 3, 4)])
deconv(
    "num_output: 3 kernel_size: 4 group: 3 stride: 2 pad: 1 bias_term: false weight_filler { type: 'bilinear' }",
    bottoms=[(2, 3, 4, 5)],
    params=(),
)
deconv("num_output: 4 kernel_size: 1", bottoms=[(2, 3, 4, 5)])
deconv("num_output: 4 kernel_size: 1 stride: 2 bias_term: false", bottoms=[(2, 3, 4, 5)])
deconv("num_output: 2 kernel_h: 2 kernel_w: 3 stride_h: 1 stride_w: 2 pad_h: 0 pad_w: 1", bottoms=[(2, 3, 4, 5)])
deconv("num_output: 2 kernel_size: 3 pad: 3", bottoms=[(2, 3, 6, 6)])  # more padding than the kernel reaches
deconv("num_output: 2 kernel_size: 3", bottoms=[(2, 3, 4, 4), (2, 3, 4, 4)], tops=2)
deconv("num_output: 2 kernel_size: 3", bottoms=[(2, 3, 6)])
deconv("num_output: 2 kernel_size: 2 stride: 2", bottoms=[(2, 3, 2, 3, 2)])
deconv("num_output: 3 kernel_size: 2 axis: 2", bottoms=[(2, 2, 3, 4, 5)])
deconv("num_output: 3 kernel_size: 2 force_nd_im2col: true", bottoms=[(2, 3, 4, 5)])
for specs in ("param { lr_mult: 0 } param { lr_mult: 1 }", "param { lr_mult: 1 } param { lr_mult: 0 }"):
    add(
        "Deconvolution",
        f"{specs} loss_weight: 1 convolution_param {{ num_output: 3 kernel_size: 3 }}",
        force=False,
        below=True,
        bottoms=[(2, 3, 4, 5)],
    )
add(
    "Deconvolution",
    "loss_weight: 1 propagate_down: false convolution_param { num_output: 3 kernel_size: 3 }",
    **DATA_ONLY,
)
refused(
    "Deconvolution",
    "convolution_param { num_output: 3 kernel_size: 3 group: 2 }",
    "Number of output should be multiples of group.",
    [(2, 4, 5, 5)],
)
refused(
    "Deconvolution",
    "convolution_param { num_output: 3 kernel_size: 3 stride: 0 }",
    "Stride dimensions must be nonzero.",
    [(2, 4, 5, 5)],
)

# Embed
EMBED = "input_dim: 6 num_output: 4"
add(
    "Embed",
    f"loss_weight: 1 embed_param {{ {EMBED} }}",
    f"loss_weight: 1 embed_param {{ {EMBED} bias_term: false }}",
    f"loss_weight: 2 param {{ lr_mult: 0 }} embed_param {{ {EMBED} }}",
    f"loss_weight: 2 param {{ lr_mult: 1 }} param {{ lr_mult: 0 }} embed_param {{ {EMBED} }}",
    bottoms=[labels((3, 5), 6)],
    then=[labels((2, 2, 2), 6, 1)],
    force=False,
)
add(
    "Embed",
    f"embed_param {{ {EMBED} weight_filler {{ type: 'constant' value: 0.3 }} bias_filler {{ type: 'constant' "
    "value: 1 } }",
    bottoms=[np.array([0.9, 5.9, 2], np.float32)],
    params=(),
    force=False,
)
add(
    "Embed",
    "loss_weight: 1 embed_param { input_dim: 1 num_output: 1 }",
    bottoms=[np.zeros((1, 1, 1, 1), np.float32)],
    force=False,
)
refused("Embed", "embed_param { input_dim: 3 }", "EmbedLayer num_output must be positive.", [(3,)])
refused("Embed", "embed_param { num_output: 3 }", "EmbedLayer input_dim must be positive.", [(3,)])
refused("Embed", f"embed_param {{ {EMBED} }}", "Can't backpropagate to EmbedLayer input.", [labels(3, 6)])

# Filter
SELECT = np.array([1, 0, -2, 0, 0.5], np.float32)
THREE = "loss_weight: 1 loss_weight: 0.5 propagate_down: true propagate_down: true propagate_down: false"
add("Filter", TWO, bottoms=[(5, 3), SELECT], then=[(4, 2), np.array([0, 0, 0, 1], np.float32)], **DATA_ONLY)
add("Filter", THREE, bottoms=[(5, 2, 2, 2), (5,), SELECT[:, None, None]], tops=2, **DATA_ONLY)
add("Filter", TWO, bottoms=[(5, 3), np.ones(5, np.float32)], then=[(5, 3), SELECT], **DATA_ONLY)
add("Filter", "", bottoms=[(5, 3), SELECT], then=[(5, 3), np.zeros(5, np.float32)], force=False, backward=False)
refused("Filter", "", "Selector blob dimensions must be singletons (1), except the first", [(5, 3), (5, 2)])
refused("Filter", "", "Each bottom should have the same 0th dimension as the selector blob", [(4, 3), (5,)])
refused("Filter", "", "Check failed: top.size() == bottom.size() - 1 (2 vs. 1)", [(5, 3), (5,)], tops=2)
refused("Filter", "", "FilterLayer cannot backpropagate to filter index inputs", [(5, 3), SELECT])

# Im2col


def im2col(text: str, **options: object) -> None:
    add("Im2col", f"convolution_param {{ {text} }}", **options)


im2col("kernel_size: 3", bottoms=[(2, 3, 5, 6)], then=[(1, 2, 4, 3)])
im2col("kernel_size: 3 stride: 2 pad: 1", bottoms=[(2, 3, 5, 6)])
im2col("kernel_size: 2 dilation: 2 pad: 2", bottoms=[(2, 3, 5, 4)])
im2col("kernel_h: 1 kernel_w: 3 stride_h: 2 stride_w: 1 pad_h: 0 pad_w: 2", bottoms=[(2, 3, 5, 4)])
im2col("kernel_size: 3 stride: 2 pad: 1 force_nd_im2col: true", bottoms=[(2, 3, 5, 6)])
im2col("kernel_size: 2", bottoms=[(2, 3, 6)])
im2col("kernel_size: 2 kernel_size: 1 kernel_size: 3 stride: 2 stride: 1 stride: 1 pad: 1", bottoms=[(1, 2, 4, 3, 4)])
im2col("kernel_size: 2 axis: 2", bottoms=[(2, 2, 3, 4, 5)])
im2col("kernel_size: 1", bottoms=[(2, 3, 4, 5)])
im2col("kernel_size: 3 stride: 2", bottoms=[(2, 3, 2, 4)])  # larger than the image, by less than a stride
im2col("kernel_size: 2 dilation: 3 stride: 4 pad: 1", bottoms=[(2, 1, 1, 1)], then=[(1, 2, 2, 5)])
add(
    "Im2col",
    "loss_weight: 1 propagate_down: false convolution_param { kernel_size: 2 }",
    bottoms=[(1, 1, 3, 3)],
    **DATA_ONLY,
)
refused("Im2col", "convolution_param { kernel_size: 4 stride: 2 }", "Check failed: data_", [(1, 1, 2, 2)])
refused("Im2col", "convolution_param { kernel_size: 0 }", "Filter dimensions must be nonzero.", [(1, 1, 3, 3)])
refused(
    "Im2col",
    "convolution_param { }",
    "kernel_size must be specified once, or once per spatial dimension",
    [(1, 1, 3, 3)],
)
refused("Im2col", "convolution_param { kernel_size: 2 }", "Check failed: num_spatial_axes_ >= 1 (0 vs. 1)", [(2, 3)])

# MVN
for text in (
    "",
    "across_channels: true",
    "normalize_variance: false",
    "normalize_variance: false across_channels: true",
    "eps: 0.1",
    "eps: 0.5 across_channels: true",
):
    add("MVN", f"mvn_param {{ {text} }}", then=[(1, 2, 5, 3)])
    add("MVN", f"mvn_param {{ {text} }}", in_place=True)
add("MVN", "mvn_param { across_channels: true }", bottoms=[(3, 5)])
add("MVN", "", bottoms=[(2, 3, 7)])
add("MVN", "mvn_param { eps: 0.01 }", bottoms=[np.zeros((1, 2, 2, 2), np.float32)])
add("MVN", "mvn_param { normalize_variance: false }", bottoms=[uniform((2, 2, 3, 3), 99, 101)])
refused("MVN", "", "Cannot use legacy accessors on Blobs with > 4 axes.", [(1, 1, 2, 2, 2)])

# Parameter
add(
    "Parameter",
    "parameter_param { shape { dim: 2 dim: 3 } }",
    "loss_weight: 0.5 parameter_param { shape { dim: 4 } }",
    "parameter_param { shape { } }",
    bottoms=[],
)
add("Parameter", "parameter_param { shape { dim: 2 } }", bottoms=[], params=())

# Reduction
for op in ("SUM", "ASUM", "SUMSQ", "MEAN"):
    add("Reduction", f"reduction_param {{ operation: {op} }}", then=[(3, 2)])
    add("Reduction", f"reduction_param {{ operation: {op} axis: 2 coeff: 0.3 }}", then=[(1, 2, 3)])
    add("Reduction", f"reduction_param {{ operation: {op} axis: -1 coeff: -2 }}", bottoms=[(3, 4)])
add("Reduction", "", bottoms=[(5,)])
add("Reduction", "reduction_param { operation: ASUM axis: 1 }", bottoms=[np.array([[0, -0.0, 2, -3]], np.float32)])
add("Reduction", "loss_weight: 1 reduction_param { operation: SUMSQ }", then=[(1, 7)])
add("Reduction", "reduction_param { axis: 1 operation: SUMSQ }", bottoms=[(2, 3, 2, 2, 2)])
add("Reduction", "loss_weight: 1 propagate_down: false", **DATA_ONLY)
refused(
    "Reduction",
    "reduction_param { axis: 4 }",
    "axis 4 out of range for 4-D Blob with shape 2 3 4 5 (120)",
    [(2, 3, 4, 5)],
)

# SPP
for pool in ("MAX", "AVE"):
    add("SPP", f"spp_param {{ pyramid_height: 1 pool: {pool} }}", bottoms=[(2, 3, 5, 4)], then=[(1, 2, 3, 7)])
    add("SPP", f"spp_param {{ pyramid_height: 2 pool: {pool} }}", bottoms=[(2, 3, 4, 6)], then=[(1, 3, 5, 9)])
    add("SPP", f"spp_param {{ pyramid_height: 3 pool: {pool} }}", bottoms=[(2, 3, 8, 9)], then=[(2, 3, 8, 9)])
    add("SPP", f"spp_param {{ pyramid_height: 3 pool: {pool} }}", bottoms=[(1, 2, 13, 11)])
add("SPP", "spp_param { pyramid_height: 2 }", bottoms=[(1, 1, 2, 2)])
add("SPP", "loss_weight: 1 propagate_down: false spp_param { pyramid_height: 2 }", bottoms=[(1, 1, 4, 4)], **DATA_ONLY)
refused("SPP", "spp_param { pyramid_height: 3 }", "Check failed: pad", [(1, 1, 3, 3)])
refused("SPP", "spp_param { pyramid_height: 2 pool: STOCHASTIC }", "", [(1, 1, 4, 4)])

# Tile
for text in ("tiles: 3", "tiles: 2 axis: 0", "tiles: 2 axis: -1", "tiles: 4 axis: 2", "tiles: 1"):
    add("Tile", f"tile_param {{ {text} }}", then=[(1, 2, 3, 1)])
add("Tile", "tile_param { tiles: 3 axis: 0 }", bottoms=[(4,)])
add("Tile", "tile_param { tiles: 2 axis: 3 }", bottoms=[normal((2, 1, 2, 2, 2), 3)])
add("Tile", "loss_weight: 1 propagate_down: false tile_param { tiles: 2 }", **DATA_ONLY)
refused("Tile", "", "Number of tiles must be specified", [(2, 3)])
refused("Tile", "tile_param { tiles: 0 }", "Number of tiles must be positive.", [(2, 3)])

# what the fuzzer found
NAN = np.array([[np.nan, 1.0, -2.0, np.inf]], np.float32)
add("Reduction", "reduction_param { coeff: 0 axis: 1 }", bottoms=[NAN], backward=False)
add("Eltwise", "eltwise_param { coeff: 0 coeff: 2 }", bottoms=[NAN, (1, 4)])
add("HingeLoss", "", "hinge_loss_param { norm: L2 }", bottoms=[NAN[:, :3].copy(), np.ones(1, np.float32)])
for text in (
    "",
    "coeff: 2 coeff: -0.5",
    "operation: PROD",
    "operation: PROD stable_prod_grad: false",
    "operation: MAX",
):
    add("Eltwise", f"eltwise_param {{ {text} }}", bottoms=[(2, 3), (2, 3)], in_place=True)
SIX = (2, 2, 3, 4, 3, 3)  # four spatial axes
for text in (
    "kernel_size: 2",
    "kernel_size: 2 pad: 1 stride: 2 bias_term: false",
    "kernel_size: 1 dilation: 2 group: 2",
):
    add("Convolution", f"convolution_param {{ num_output: 4 {text} }}", bottoms=[SIX])
    add("Deconvolution", f"convolution_param {{ num_output: 4 {text} }}", bottoms=[SIX])
add("Convolution", "convolution_param { num_output: 2 kernel_size: 2 }", bottoms=[(1, 2, 2, 3, 2, 2, 2)])
refused(
    "Convolution",
    "convolution_param { num_output: 2 kernel_size: 1 }",
    "shape mismatch - bottom[0]: 1 2 3 3 (18) vs. bottom[1]: 1 2 3 2 (12)",
    bottoms=[(1, 2, 3, 3), (1, 2, 3, 2)],
    tops=2,
)
