"""Caffe 1.0's wire schema (git 99bd997) as tables: interface by name and number, words our own.

How to read a table: one field is ``name number type``, then ``= default`` and ``packed`` where they apply; fields are
separated by commas or line ends. ``float*`` is repeated, ``float!`` required, plain ``float`` optional. A type that is
not a scalar is an enum of the same message, else a top-level enum or message. ``#`` starts a comment.

Source: caffe.proto's descriptor as real pycaffe reports it; ``tests/parity/test_schema.py`` compares every field.
"""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Tuple


class Field(NamedTuple):
    """One field: `label` is '' (optional), '*' (repeated) or '!' (required); `default` is text or None."""

    name: str
    number: int
    type: str
    label: str
    default: object
    packed: bool


class Message(NamedTuple):
    """One message: its fields in reading order and its own enums, each ``{value name: number}``."""

    name: str
    fields: Tuple[Field, ...]
    enums: Dict[str, Dict[str, int]]


MESSAGES: List[Message] = []
ENUMS: Dict[str, Dict[str, int]] = {}


def _numbers(words: str) -> Dict[str, int]:
    """Read 'A B=3 C' as {'A': 0, 'B': 3, 'C': 4}."""
    values: Dict[str, int] = {}
    following = 0
    for word in words.split():
        name, _, number = word.partition("=")
        following = int(number) if number else following
        if name in values:
            raise ValueError(f"schema: value {name} stands twice")
        values[name] = following
        following += 1
    return values


def _field(text: str) -> Field:
    words, _, default = text.partition("=")
    name, number, kind, *rest = words.split()
    value = default.split()[0] if default.strip() else None
    label = kind[-1] if kind[-1] in "*!" else ""
    if rest not in ([], ["packed"]):
        raise ValueError(f"schema: field {name}: found {rest}, expected nothing or packed")
    return Field(name, int(number), kind.rstrip("*!"), label, "" if value == "''" else value, bool(rest))


def enum(name: str, words: str) -> None:
    """Declare a top-level enum; numbers count up from the last one written."""
    ENUMS[name] = _numbers(words)


def message(name: str, table: str, **enums: str) -> None:
    """Declare a message from its table of fields; keywords are its nested enums."""
    MESSAGES.append(read_message(name, table, **enums))


def read_message(name: str, table: str, **enums: str) -> Message:
    """The message that a table describes, which is not declared by that.

    Raises: ValueError: a name or a number of a field stands twice.
    """
    lines = (line.partition("#")[0] for line in table.splitlines())
    fields = tuple(_field(part) for line in lines for part in line.split(",") if part.strip())
    for key in ("name", "number"):
        seen = [getattr(field, key) for field in fields]
        if len(set(seen)) != len(seen):
            raise ValueError(f"schema: message {name}: a field {key} stands twice")
    return Message(name, fields, {key: _numbers(words) for key, words in enums.items()})


ENGINE = "DEFAULT CAFFE CUDNN"
POOL_METHOD = "MAX AVE STOCHASTIC"

enum("Phase", "TRAIN TEST")

# --- What is stored: arrays, pictures, weights -----------------------------------------------------------------------

message("BlobShape", "dim 1 int64* packed")

message(
    "BlobProto",
    """
    shape 7 BlobShape
    data 5 float* packed,  double_data 8 double* packed
    diff 6 float* packed,  double_diff 9 double* packed
    num 1 int32 = 0, channels 2 int32 = 0, height 3 int32 = 0, width 4 int32 = 0  # four-axis shape of old files
""",
)

message("BlobProtoVector", "blobs 1 BlobProto*")

message(
    "Datum",
    """
    channels 1 int32, height 2 int32, width 3 int32
    data 4 bytes             # uint8 pixels in C, H, W order, or a whole image file if `encoded`
    label 5 int32
    float_data 6 float*      # instead of `data`; one tag per number, since it is not packed
    encoded 7 bool = false
""",
)

message(
    "FillerParameter",
    """
    type 1 string = constant
    value 2 float = 0                      # constant
    min 3 float = 0, max 4 float = 1       # uniform
    mean 5 float = 0, std 6 float = 1      # gaussian
    sparse 7 int32 = -1                    # expected non-zero inputs per output; -1 is dense
    variance_norm 8 VarianceNorm = FAN_IN  # xavier, msra
""",
    VarianceNorm="FAN_IN FAN_OUT AVERAGE",
)

# --- The net ---------------------------------------------------------------------------------------------------------

message(
    "NetParameter",
    """
    name 1 string, layer 100 LayerParameter*
    input 3 string*, input_shape 8 BlobShape*, input_dim 4 int32*  # inputs before there was an Input layer
    force_backward 5 bool = false, debug_info 7 bool = false
    state 6 NetState
    layers 2 V1LayerParameter*                                     # layers before they had string types
""",
)

message("NetState", "phase 1 Phase = TEST, level 2 int32 = 0, stage 3 string*")

message(
    "NetStateRule",
    """
    phase 1 Phase, min_level 2 int32, max_level 3 int32, stage 4 string*, not_stage 5 string*
""",
)

message(
    "ParamSpec",
    """
    name 1 string, share_mode 2 DimCheckMode, lr_mult 3 float = 1, decay_mult 4 float = 1
""",
    DimCheckMode="STRICT PERMISSIVE",
)

message(
    "LayerParameter",
    """
    name 1 string, type 2 string, bottom 3 string*, top 4 string*
    phase 10 Phase, include 8 NetStateRule*, exclude 9 NetStateRule*
    param 6 ParamSpec*, blobs 7 BlobProto*
    loss_weight 5 float*, propagate_down 11 bool*
    # data in
    transform_param 100 TransformationParameter, data_param 107 DataParameter, dummy_data_param 109 DummyDataParameter
    input_param 143 InputParameter, image_data_param 115 ImageDataParameter, window_data_param 129 WindowDataParameter
    memory_data_param 119 MemoryDataParameter, hdf5_data_param 112 HDF5DataParameter
    hdf5_output_param 113 HDF5OutputParameter, parameter_param 145 ParameterParameter
    # with weights
    convolution_param 106 ConvolutionParameter, inner_product_param 117 InnerProductParameter
    embed_param 137 EmbedParameter, recurrent_param 146 RecurrentParameter
    batch_norm_param 139 BatchNormParameter, scale_param 142 ScaleParameter, bias_param 141 BiasParameter
    # neurons
    relu_param 123 ReLUParameter, prelu_param 131 PReLUParameter, elu_param 140 ELUParameter
    sigmoid_param 124 SigmoidParameter, tanh_param 127 TanHParameter, swish_param 147 SwishParameter
    clip_param 148 ClipParameter, dropout_param 108 DropoutParameter, threshold_param 128 ThresholdParameter
    exp_param 111 ExpParameter, log_param 134 LogParameter, power_param 122 PowerParameter
    # neighbourhoods and normalisation
    pooling_param 121 PoolingParameter, spp_param 132 SPPParameter, lrn_param 118 LRNParameter
    mvn_param 120 MVNParameter
    # shapes
    concat_param 104 ConcatParameter, slice_param 126 SliceParameter, crop_param 144 CropParameter
    flatten_param 135 FlattenParameter, reshape_param 133 ReshapeParameter, tile_param 138 TileParameter
    eltwise_param 110 EltwiseParameter, reduction_param 136 ReductionParameter, argmax_param 103 ArgMaxParameter
    # losses and measures
    loss_param 101 LossParameter, softmax_param 125 SoftmaxParameter, accuracy_param 102 AccuracyParameter
    hinge_loss_param 114 HingeLossParameter, infogain_loss_param 116 InfogainLossParameter
    contrastive_loss_param 105 ContrastiveLossParameter
    # one's own
    python_param 130 PythonParameter
""",
)

# --- The solver ------------------------------------------------------------------------------------------------------

message(
    "SolverParameter",
    """
    net 24 string, net_param 25 NetParameter
    train_net 1 string, train_net_param 21 NetParameter, train_state 26 NetState
    test_net 2 string*, test_net_param 22 NetParameter*, test_state 27 NetState*
    test_iter 3 int32*, test_interval 4 int32 = 0
    test_compute_loss 19 bool = false, test_initialization 32 bool = true
    max_iter 7 int32, iter_size 36 int32 = 1
    display 6 int32, average_loss 33 int32 = 1, debug_info 23 bool = false
    base_lr 5 float, lr_policy 8 string, gamma 9 float, power 10 float, stepsize 13 int32, stepvalue 34 int32*
    type 40 string = SGD, solver_type 30 SolverType = SGD  # the enum is the older spelling
    momentum 11 float, momentum2 39 float = 0.999, rms_decay 38 float = 0.99, delta 31 float = 1e-08
    weight_decay 12 float, regularization_type 29 string = L2, clip_gradients 35 float = -1
    snapshot 14 int32 = 0, snapshot_prefix 15 string, snapshot_diff 16 bool = false
    snapshot_format 37 SnapshotFormat = BINARYPROTO, snapshot_after_train 28 bool = true
    solver_mode 17 SolverMode = GPU, device_id 18 int32 = 0, layer_wise_reduce 41 bool = true
    random_seed 20 int64 = -1, weights 42 string*
""",
    SnapshotFormat="HDF5 BINARYPROTO",
    SolverMode="CPU GPU",
    SolverType="SGD NESTEROV ADAGRAD RMSPROP ADADELTA ADAM",
)

message(
    "SolverState",
    """
    iter 1 int32, learned_net 2 string, history 3 BlobProto*, current_step 4 int32 = 0
""",
)

# --- Layers that bring data in ---------------------------------------------------------------------------------------

message(
    "TransformationParameter",
    """
    scale 1 float = 1, mirror 2 bool = false, crop_size 3 uint32 = 0
    mean_file 4 string, mean_value 5 float*
    force_color 6 bool = false, force_gray 7 bool = false
""",
)

message(
    "DataParameter",
    """
    source 1 string, backend 8 DB = LEVELDB, batch_size 4 uint32, prefetch 10 uint32 = 4
    rand_skip 7 uint32 = 0, force_encoded_color 9 bool = false
    scale 2 float = 1, mean_file 3 string, crop_size 5 uint32 = 0, mirror 6 bool = false  # now in transform_param
""",
    DB="LEVELDB LMDB",
)

message(
    "DummyDataParameter",
    """
    data_filler 1 FillerParameter*, shape 6 BlobShape*
    num 2 uint32*, channels 3 uint32*, height 4 uint32*, width 5 uint32*
""",
)

message("InputParameter", "shape 1 BlobShape*")

message(
    "ImageDataParameter",
    """
    source 1 string, root_folder 12 string = '', batch_size 4 uint32 = 1
    new_height 9 uint32 = 0, new_width 10 uint32 = 0, is_color 11 bool = true
    rand_skip 7 uint32 = 0, shuffle 8 bool = false
    scale 2 float = 1, mean_file 3 string, crop_size 5 uint32 = 0, mirror 6 bool = false
""",
)

message(
    "WindowDataParameter",
    """
    source 1 string, root_folder 13 string = '', batch_size 4 uint32, cache_images 12 bool = false
    fg_threshold 7 float = 0.5, bg_threshold 8 float = 0.5, fg_fraction 9 float = 0.25
    context_pad 10 uint32 = 0, crop_mode 11 string = warp
    scale 2 float = 1, mean_file 3 string, crop_size 5 uint32 = 0, mirror 6 bool = false
""",
)

message("MemoryDataParameter", "batch_size 1 uint32, channels 2 uint32, height 3 uint32, width 4 uint32")
message("HDF5DataParameter", "source 1 string, batch_size 2 uint32, shuffle 3 bool = false")
message("HDF5OutputParameter", "file_name 1 string")
message("ParameterParameter", "shape 1 BlobShape")

# --- Layers with weights ---------------------------------------------------------------------------------------------

message(
    "ConvolutionParameter",
    """
    num_output 1 uint32, bias_term 2 bool = true
    kernel_size 4 uint32*, stride 6 uint32*, pad 3 uint32*, dilation 18 uint32*  # once for all axes, or one per axis
    kernel_h 11 uint32, kernel_w 12 uint32, stride_h 13 uint32, stride_w 14 uint32
    pad_h 9 uint32 = 0, pad_w 10 uint32 = 0
    group 5 uint32 = 1, axis 16 int32 = 1
    weight_filler 7 FillerParameter, bias_filler 8 FillerParameter
    engine 15 Engine = DEFAULT, force_nd_im2col 17 bool = false
""",
    Engine=ENGINE,
)

message(
    "InnerProductParameter",
    """
    num_output 1 uint32, bias_term 2 bool = true, axis 5 int32 = 1, transpose 6 bool = false
    weight_filler 3 FillerParameter, bias_filler 4 FillerParameter
""",
)

message(
    "EmbedParameter",
    """
    num_output 1 uint32, input_dim 2 uint32, bias_term 3 bool = true
    weight_filler 4 FillerParameter, bias_filler 5 FillerParameter
""",
)

message(
    "RecurrentParameter",
    """
    num_output 1 uint32 = 0, weight_filler 2 FillerParameter, bias_filler 3 FillerParameter
    debug_info 4 bool = false, expose_hidden 5 bool = false
""",
)

message(
    "BatchNormParameter",
    """
    use_global_stats 1 bool, moving_average_fraction 2 float = 0.999, eps 3 float = 1e-05
""",
)

message(
    "ScaleParameter",
    """
    axis 1 int32 = 1, num_axes 2 int32 = 1, filler 3 FillerParameter
    bias_term 4 bool = false, bias_filler 5 FillerParameter
""",
)

message("BiasParameter", "axis 1 int32 = 1, num_axes 2 int32 = 1, filler 3 FillerParameter")

# --- Neurons ---------------------------------------------------------------------------------------------------------

message("ReLUParameter", "negative_slope 1 float = 0, engine 2 Engine = DEFAULT", Engine=ENGINE)
message("PReLUParameter", "filler 1 FillerParameter, channel_shared 2 bool = false")
message("ELUParameter", "alpha 1 float = 1")
message("SigmoidParameter", "engine 1 Engine = DEFAULT", Engine=ENGINE)
message("TanHParameter", "engine 1 Engine = DEFAULT", Engine=ENGINE)
message("SwishParameter", "beta 1 float = 1")
message("ClipParameter", "min 1 float!, max 2 float!")
message("DropoutParameter", "dropout_ratio 1 float = 0.5")
message("ThresholdParameter", "threshold 1 float = 0")
message("ExpParameter", "base 1 float = -1, scale 2 float = 1, shift 3 float = 0")
message("LogParameter", "base 1 float = -1, scale 2 float = 1, shift 3 float = 0")
message("PowerParameter", "power 1 float = 1, scale 2 float = 1, shift 3 float = 0")

# --- Neighbourhoods and normalisation --------------------------------------------------------------------------------

message(
    "PoolingParameter",
    """
    pool 1 PoolMethod = MAX, global_pooling 12 bool = false, round_mode 13 RoundMode = CEIL
    kernel_size 2 uint32, kernel_h 5 uint32, kernel_w 6 uint32
    stride 3 uint32 = 1, stride_h 7 uint32, stride_w 8 uint32
    pad 4 uint32 = 0, pad_h 9 uint32 = 0, pad_w 10 uint32 = 0
    engine 11 Engine = DEFAULT
""",
    PoolMethod=POOL_METHOD,
    Engine=ENGINE,
    RoundMode="CEIL FLOOR",
)

message(
    "SPPParameter",
    """
    pyramid_height 1 uint32, pool 2 PoolMethod = MAX, engine 6 Engine = DEFAULT
""",
    PoolMethod=POOL_METHOD,
    Engine=ENGINE,
)

message(
    "LRNParameter",
    """
    local_size 1 uint32 = 5, alpha 2 float = 1, beta 3 float = 0.75, k 5 float = 1
    norm_region 4 NormRegion = ACROSS_CHANNELS, engine 6 Engine = DEFAULT
""",
    NormRegion="ACROSS_CHANNELS WITHIN_CHANNEL",
    Engine=ENGINE,
)

message(
    "MVNParameter",
    """
    normalize_variance 1 bool = true, across_channels 2 bool = false, eps 3 float = 1e-09
""",
)

# --- Shapes ----------------------------------------------------------------------------------------------------------

message("ConcatParameter", "axis 2 int32 = 1, concat_dim 1 uint32 = 1")
message("SliceParameter", "axis 3 int32 = 1, slice_point 2 uint32*, slice_dim 1 uint32 = 1")
message("CropParameter", "axis 1 int32 = 2, offset 2 uint32*")
message("FlattenParameter", "axis 1 int32 = 1, end_axis 2 int32 = -1")
message("ReshapeParameter", "shape 1 BlobShape, axis 2 int32 = 0, num_axes 3 int32 = -1")
message("TileParameter", "axis 1 int32 = 1, tiles 2 int32")
message(
    "EltwiseParameter",
    """
    operation 1 EltwiseOp = SUM, coeff 2 float*, stable_prod_grad 3 bool = true
""",
    EltwiseOp="PROD SUM MAX",
)
message(
    "ReductionParameter",
    """
    operation 1 ReductionOp = SUM, axis 2 int32 = 0, coeff 3 float = 1
""",
    ReductionOp="SUM=1 ASUM SUMSQ MEAN",
)
message("ArgMaxParameter", "out_max_val 1 bool = false, top_k 2 uint32 = 1, axis 3 int32")

# --- Losses, measures, one's own -------------------------------------------------------------------------------------

message(
    "LossParameter",
    """
    ignore_label 1 int32, normalization 3 NormalizationMode = VALID, normalize 2 bool
""",
    NormalizationMode="FULL VALID BATCH_SIZE NONE",
)
message("SoftmaxParameter", "engine 1 Engine = DEFAULT, axis 2 int32 = 1", Engine=ENGINE)
message("AccuracyParameter", "top_k 1 uint32 = 1, axis 2 int32 = 1, ignore_label 3 int32")
message("HingeLossParameter", "norm 1 Norm = L1", Norm="L1=1 L2")
message("InfogainLossParameter", "source 1 string, axis 2 int32 = 1")
message("ContrastiveLossParameter", "margin 1 float = 1, legacy_version 2 bool = false")
message(
    "PythonParameter",
    """
    module 1 string, layer 2 string, param_str 3 string = '', share_in_parallel 4 bool = false
""",
)

# --- What old files hold ---------------------------------------------------------------------------------------------

# Layers whose type is an enum; real Caffe still upgrades and writes nothing of them.
message(
    "V1LayerParameter",
    """
    name 4 string, type 5 LayerType, bottom 2 string*, top 3 string*
    include 32 NetStateRule*, exclude 33 NetStateRule*
    blobs 6 BlobProto*, param 1001 string*, blob_share_mode 1002 DimCheckMode*
    blobs_lr 7 float*, weight_decay 8 float*, loss_weight 35 float*
    transform_param 36 TransformationParameter, data_param 11 DataParameter, dummy_data_param 26 DummyDataParameter
    image_data_param 15 ImageDataParameter, window_data_param 20 WindowDataParameter
    memory_data_param 22 MemoryDataParameter, hdf5_data_param 13 HDF5DataParameter
    hdf5_output_param 14 HDF5OutputParameter
    convolution_param 10 ConvolutionParameter, inner_product_param 17 InnerProductParameter
    relu_param 30 ReLUParameter, sigmoid_param 38 SigmoidParameter, tanh_param 37 TanHParameter
    dropout_param 12 DropoutParameter, threshold_param 25 ThresholdParameter
    exp_param 41 ExpParameter, power_param 21 PowerParameter
    pooling_param 19 PoolingParameter, lrn_param 18 LRNParameter, mvn_param 34 MVNParameter
    concat_param 9 ConcatParameter, slice_param 31 SliceParameter
    eltwise_param 24 EltwiseParameter, argmax_param 23 ArgMaxParameter
    loss_param 42 LossParameter, softmax_param 39 SoftmaxParameter, accuracy_param 27 AccuracyParameter
    hinge_loss_param 29 HingeLossParameter, infogain_loss_param 16 InfogainLossParameter
    contrastive_loss_param 40 ContrastiveLossParameter
    layer 1 V0LayerParameter
""",
    DimCheckMode="STRICT PERMISSIVE",
    LayerType="""
    NONE ACCURACY BNLL CONCAT CONVOLUTION DATA DROPOUT EUCLIDEAN_LOSS FLATTEN HDF5_DATA HDF5_OUTPUT IM2COL IMAGE_DATA
    INFOGAIN_LOSS INNER_PRODUCT LRN MULTINOMIAL_LOGISTIC_LOSS POOLING RELU SIGMOID SOFTMAX SOFTMAX_LOSS
    SPLIT TANH WINDOW_DATA ELTWISE POWER SIGMOID_CROSS_ENTROPY_LOSS HINGE_LOSS MEMORY_DATA ARGMAX THRESHOLD
    DUMMY_DATA SLICE MVN ABSVAL SILENCE CONTRASTIVE_LOSS EXP DECONVOLUTION
""",
)

# Layers with every parameter in one flat message, the oldest form.
message(
    "V0LayerParameter",
    """
    name 1 string, type 2 string
    blobs 50 BlobProto*, blobs_lr 51 float*, weight_decay 52 float*
    num_output 3 uint32, biasterm 4 bool = true, weight_filler 5 FillerParameter, bias_filler 6 FillerParameter
    pad 7 uint32 = 0, kernelsize 8 uint32, group 9 uint32 = 1, stride 10 uint32 = 1
    pool 11 PoolMethod = MAX, dropout_ratio 12 float = 0.5
    local_size 13 uint32 = 5, alpha 14 float = 1, beta 15 float = 0.75, k 22 float = 1
    source 16 string, scale 17 float = 1, meanfile 18 string, batchsize 19 uint32
    cropsize 20 uint32 = 0, mirror 21 bool = false, rand_skip 53 uint32 = 0, shuffle_images 64 bool = false
    det_fg_threshold 54 float = 0.5, det_bg_threshold 55 float = 0.5, det_fg_fraction 56 float = 0.25
    det_context_pad 58 uint32 = 0, det_crop_mode 59 string = warp
    new_num 60 int32 = 0, new_channels 61 int32 = 0, new_height 62 int32 = 0, new_width 63 int32 = 0
    concat_dim 65 uint32 = 1, hdf5_output_param 1001 HDF5OutputParameter
""",
    PoolMethod=POOL_METHOD,
)
