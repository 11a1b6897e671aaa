"""Old prototxt and old .caffemodel made current, as Caffe does when it reads them; what Caffe logs of it is told to the caller.

Five generations, oldest first: V0 (``layers { layer { type: "conv" kernelsize: 3 } }``), transformations inside data
parameters, V1 (``layers { type: CONVOLUTION blobs_lr: 1 }``), ``input:`` with ``input_dim`` or ``input_shape``, and
BatchNorm's three parameters; for solvers the enum ``solver_type``.

Source: upgrade_proto.cpp.
Differs: ``input_dim`` or ``input_shape`` for fewer inputs than there are is refused (Caffe reads beyond the end).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from allconv_caffe.proto.errors import ProtoError
from allconv_caffe.proto.messages import (
    LayerParameter,
    NetParameter,
    PoolingParameter,
    SolverParameter,
    V1LayerParameter,
)

Say = Callable[[str, int, str], None]  # level (info, warning, error), line in upgrade_proto.cpp, message
SOLVER_TYPES = ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam")  # by SolverParameter.SolverType number

# V0's types, and V1's by their names; a type that is not here is spelled with capitals only
V0_TYPES = {
    "accuracy": "ACCURACY",
    "bnll": "BNLL",
    "concat": "CONCAT",
    "conv": "CONVOLUTION",
    "data": "DATA",
    "dropout": "DROPOUT",
    "euclidean_loss": "EUCLIDEAN_LOSS",
    "flatten": "FLATTEN",
    "hdf5_data": "HDF5_DATA",
    "hdf5_output": "HDF5_OUTPUT",
    "im2col": "IM2COL",
    "images": "IMAGE_DATA",
    "infogain_loss": "INFOGAIN_LOSS",
    "innerproduct": "INNER_PRODUCT",
    "lrn": "LRN",
    "multinomial_logistic_loss": "MULTINOMIAL_LOGISTIC_LOSS",
    "pool": "POOLING",
    "relu": "RELU",
    "sigmoid": "SIGMOID",
    "softmax": "SOFTMAX",
    "softmax_loss": "SOFTMAX_LOSS",
    "split": "SPLIT",
    "tanh": "TANH",
    "window_data": "WINDOW_DATA",
}
V1_TYPES = {
    "NONE": "",
    "ABSVAL": "AbsVal",
    "ACCURACY": "Accuracy",
    "ARGMAX": "ArgMax",
    "BNLL": "BNLL",
    "CONCAT": "Concat",
    "CONTRASTIVE_LOSS": "ContrastiveLoss",
    "CONVOLUTION": "Convolution",
    "DECONVOLUTION": "Deconvolution",
    "DATA": "Data",
    "DROPOUT": "Dropout",
    "DUMMY_DATA": "DummyData",
    "EUCLIDEAN_LOSS": "EuclideanLoss",
    "ELTWISE": "Eltwise",
    "EXP": "Exp",
    "FLATTEN": "Flatten",
    "HDF5_DATA": "HDF5Data",
    "HDF5_OUTPUT": "HDF5Output",
    "HINGE_LOSS": "HingeLoss",
    "IM2COL": "Im2col",
    "IMAGE_DATA": "ImageData",
    "INFOGAIN_LOSS": "InfogainLoss",
    "INNER_PRODUCT": "InnerProduct",
    "LRN": "LRN",
    "MEMORY_DATA": "MemoryData",
    "MULTINOMIAL_LOGISTIC_LOSS": "MultinomialLogisticLoss",
    "MVN": "MVN",
    "POOLING": "Pooling",
    "POWER": "Power",
    "RELU": "ReLU",
    "SIGMOID": "Sigmoid",
    "SIGMOID_CROSS_ENTROPY_LOSS": "SigmoidCrossEntropyLoss",
    "SILENCE": "Silence",
    "SOFTMAX": "Softmax",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "SPLIT": "Split",
    "SLICE": "Slice",
    "TANH": "TanH",
    "WINDOW_DATA": "WindowData",
    "THRESHOLD": "Threshold",
}

# V0's flat fields: {layer type: (message of V1LayerParameter, its field)}, the type "*" for any, in Caffe's order;
# the line is where Caffe complains of the field in a layer of any other type
_IMAGES, _WINDOW = "image_data_param", "window_data_param"
V0_FIELDS: tuple[tuple[str, int, dict[str, tuple[str, str]]], ...] = (
    (
        "num_output",
        237,
        {"conv": ("convolution_param", "num_output"), "innerproduct": ("inner_product_param", "num_output")},
    ),
    (
        "biasterm",
        249,
        {"conv": ("convolution_param", "bias_term"), "innerproduct": ("inner_product_param", "bias_term")},
    ),
    (
        "weight_filler",
        261,
        {"conv": ("convolution_param", "weight_filler"), "innerproduct": ("inner_product_param", "weight_filler")},
    ),
    (
        "bias_filler",
        273,
        {"conv": ("convolution_param", "bias_filler"), "innerproduct": ("inner_product_param", "bias_filler")},
    ),
    ("pad", 283, {"conv": ("convolution_param", "pad"), "pool": ("pooling_param", "pad")}),
    ("kernelsize", 295, {"conv": ("convolution_param", "kernel_size"), "pool": ("pooling_param", "kernel_size")}),
    ("group", 304, {"conv": ("convolution_param", "group")}),
    ("stride", 316, {"conv": ("convolution_param", "stride"), "pool": ("pooling_param", "stride")}),
    ("pool", 341, {"pool": ("pooling_param", "pool")}),
    ("dropout_ratio", 350, {"dropout": ("dropout_param", "dropout_ratio")}),
    ("local_size", 359, {"lrn": ("lrn_param", "local_size")}),
    ("alpha", 367, {"lrn": ("lrn_param", "alpha")}),
    ("beta", 375, {"lrn": ("lrn_param", "beta")}),
    ("k", 383, {"lrn": ("lrn_param", "k")}),
    (
        "source",
        403,
        {
            "data": ("data_param", "source"),
            "hdf5_data": ("hdf5_data_param", "source"),
            "images": (_IMAGES, "source"),
            "window_data": (_WINDOW, "source"),
            "infogain_loss": ("infogain_loss_param", "source"),
        },
    ),
    ("scale", 0, {"*": ("transform_param", "scale")}),
    ("meanfile", 0, {"*": ("transform_param", "mean_file")}),
    (
        "batchsize",
        429,
        {
            "data": ("data_param", "batch_size"),
            "hdf5_data": ("hdf5_data_param", "batch_size"),
            "images": (_IMAGES, "batch_size"),
            "window_data": (_WINDOW, "batch_size"),
        },
    ),
    ("cropsize", 0, {"*": ("transform_param", "crop_size")}),
    ("mirror", 0, {"*": ("transform_param", "mirror")}),
    ("rand_skip", 449, {"data": ("data_param", "rand_skip"), "images": (_IMAGES, "rand_skip")}),
    ("shuffle_images", 458, {"images": (_IMAGES, "shuffle")}),
    ("new_height", 467, {"images": (_IMAGES, "new_height")}),
    ("new_width", 476, {"images": (_IMAGES, "new_width")}),
    ("concat_dim", 485, {"concat": ("concat_param", "concat_dim")}),
    ("det_fg_threshold", 494, {"window_data": (_WINDOW, "fg_threshold")}),
    ("det_bg_threshold", 504, {"window_data": (_WINDOW, "bg_threshold")}),
    ("det_fg_fraction", 514, {"window_data": (_WINDOW, "fg_fraction")}),
    ("det_context_pad", 524, {"window_data": (_WINDOW, "context_pad")}),
    ("det_crop_mode", 534, {"window_data": (_WINDOW, "crop_mode")}),
    ("hdf5_output_param", 544, {"hdf5_output": ("hdf5_output_param", "")}),
)
_SPOKEN = {"shuffle_images": "shuffle"}  # Caffe's word for the field, where it is not the field's name

# V1's parameter messages that have the same name and type today
V1_MESSAGES = tuple(
    field.name
    for field in V1LayerParameter.DESCRIPTOR.fields
    if field.name.endswith("_param") and field.name in LayerParameter.DESCRIPTOR.fields_by_name
)
TRANSFORMED = {"DATA": "data_param", "IMAGE_DATA": "image_data_param", "WINDOW_DATA": "window_data_param"}
TRANSFORMATIONS = ("scale", "mean_file", "crop_size", "mirror")


def unheard(level: str, line: int, message: str) -> None:
    """For callers without a log."""


def upgrade_net(param: NetParameter, where: str = "", say: Say = unheard) -> NetParameter:
    """Brings `param` to today's form in place and returns it (UpgradeNetAsNeeded).

    Args:
        where: the file it came from: stands in the log lines and before errors.
        say: is given each line that Caffe logs.
    Raises:
        ProtoError: unknown V0 or V1 type, both `layer` and `layers`, a padding layer before anything but one
            convolution or pooling, dimensions missing for an input.
    """
    try:
        if any(layer.HasField("layer") for layer in param.layers):
            _say(say, "Attempting to upgrade input file specified using deprecated V0LayerParameter", where, 28)
            if _upgrade_v0_net(param, say):
                say("info", 36, "Successfully upgraded file specified using deprecated V0LayerParameter")
            else:
                say(
                    "error",
                    33,
                    "Warning: had one or more problems upgrading V0NetParameter to NetParameter "
                    "(see above); continuing anyway.",
                )
            say(
                "warning",
                39,
                "Note that future Caffe releases will not support V0NetParameter; use "
                "./build/tools/upgrade_net_proto_text for prototxt and "
                "./build/tools/upgrade_net_proto_binary for model weights upgrade this and "
                "any other net protos to the new format.",
            )
        if any(data.HasField(name) for _, data in _old_data_params(param) for name in TRANSFORMATIONS):
            _say(
                say, "Attempting to upgrade input file specified using deprecated transformation parameters", where, 46
            )
            _upgrade_transformations(param)
            say("info", 49, "Successfully upgraded file specified using deprecated data transformation parameters.")
            say(
                "warning",
                51,
                "Note that future Caffe releases will only support transform_param messages for transformation fields.",
            )
        if param.layers:
            _say(say, "Attempting to upgrade input file specified using deprecated V1LayerParameter", where, 55)
            if _upgrade_v1_net(param, say):
                say("info", 63, "Successfully upgraded file specified using deprecated V1LayerParameter")
            else:
                say(
                    "error",
                    60,
                    "Warning: had one or more problems upgrading V1LayerParameter (see above); continuing anyway.",
                )
        if param.input:
            _say(say, "Attempting to upgrade input file specified using deprecated input fields", where, 69)
            _upgrade_input(param)
            say("info", 72, "Successfully upgraded file specified using deprecated input fields.")
            say("warning", 74, "Note that future Caffe releases will only support input layers and not input fields.")
        if any(_has_batch_norm_params(layer) for layer in param.layer):
            _say(say, "Attempting to upgrade batch norm layers using deprecated params", where, 79)
            for layer in filter(_has_batch_norm_params, param.layer):
                for spec in layer.param:
                    spec.lr_mult = spec.decay_mult = 0.0
            say("info", 82, "Successfully upgraded batch norm layers using deprecated params.")
    except ProtoError as error:
        raise ProtoError(": ".join(filter(None, (where, error.where))), error.reason) from None
    return param


def _say(say: Say, sentence: str, where: str, line: int) -> None:
    say("info", line, f"{sentence}: {where}")


# V0
def _upgrade_v0_net(param: NetParameter, say: Say) -> bool:
    """V0 layers become V1 layers; of the rest only name, inputs, state and force_backward stay. True if all fitted."""
    padded = _without_padding(param)
    new, fitted = NetParameter(), True
    for field in ("name", "force_backward"):
        if param.HasField(field):
            setattr(new, field, getattr(param, field))
    for connection in padded:
        fitted = _upgrade_v0_layer(connection, new.layers.add(), say) and fitted
    new.input.extend(param.input)
    new.input_dim.extend(param.input_dim)
    if param.HasField("state"):  # what the caller asked for; Caffe adds it after this
        new.state.CopyFrom(param.state)
    param.CopyFrom(new)
    return fitted


def _without_padding(param: NetParameter) -> list[Any]:
    """V0's layers; a "padding" layer becomes the `pad` of the convolutions and poolings that read it."""
    source: dict[str, Any] = dict.fromkeys(param.input)
    kept: list[Any] = []
    for connection in param.layers:
        kind = connection.layer.type
        mine = type(connection)()
        mine.CopyFrom(connection)
        if kind != "padding":
            kept.append(mine)
        for j, name in enumerate(connection.bottom):
            if name not in source:
                raise ProtoError(f"layer '{connection.layer.name}'", f"Unknown blob input {name} to layer {j}")
            below = source[name]
            if below is None or below.layer.type != "padding":
                continue
            for holds, sentence in (
                (kind in ("conv", "pool"), f"Padding layer input to non-convolutional / non-pooling layer type {kind}"),
                (len(connection.bottom) == 1, "Conv Layer takes a single blob as input."),
                (len(below.bottom) == 1, "Padding Layer takes a single blob as input."),
                (len(below.top) == 1, "Padding Layer produces a single blob as output."),
            ):
                if not holds:
                    raise ProtoError(f"layer '{connection.layer.name}'", sentence)
            mine.layer.pad = below.layer.pad
            mine.bottom[j] = below.bottom[0]
        for name in connection.top:
            source[name] = connection
    return kept


def _upgrade_v0_layer(old: Any, new: Any, say: Say) -> bool:
    """Fills V1 layer `new` from V0 layer `old`; False where a field does not belong to the type."""
    new.bottom.extend(old.bottom)
    new.top.extend(old.top)
    if not old.HasField("layer"):
        return True
    v0, fitted = old.layer, True
    if v0.HasField("name"):
        new.name = v0.name
    if v0.HasField("type"):
        if v0.type not in V0_TYPES:
            raise ProtoError(f"layer '{v0.name}'", f"Unknown layer name: {v0.type} (known: {', '.join(V0_TYPES)})")
        new.type = V1LayerParameter.LayerType.Value(V0_TYPES[v0.type])
    new.blobs.extend(v0.blobs)
    new.blobs_lr.extend(v0.blobs_lr)
    new.weight_decay.extend(v0.weight_decay)
    for name, line, targets in V0_FIELDS:
        if not v0.HasField(name):
            continue
        target = targets.get(v0.type) or targets.get("*")
        if target is None:
            say("error", line, f"Unknown parameter {_SPOKEN.get(name, name)} for layer type {v0.type}")
            fitted = False
            continue
        message, field = getattr(new, target[0]), target[1]
        value = getattr(v0, name)
        if hasattr(value, "CopyFrom"):
            (getattr(message, field) if field else message).CopyFrom(value)
        elif name == "pool":  # the two enums have the same names
            message.pool = PoolingParameter.PoolMethod.Value(v0.PoolMethod.Name(value))
        elif hasattr(getattr(message, field), "append"):
            getattr(message, field).append(value)
        else:
            setattr(message, field, value)
    return fitted


# transformations inside data parameters
def _old_data_params(param: NetParameter) -> Iterator[tuple[Any, Any]]:
    for layer in param.layers:
        name = TRANSFORMED.get(V1LayerParameter.LayerType.Name(layer.type))
        if name:
            yield layer, getattr(layer, name)


def _upgrade_transformations(param: NetParameter) -> None:
    for layer, data in _old_data_params(param):
        for name in TRANSFORMATIONS:
            if data.HasField(name):
                setattr(layer.transform_param, name, getattr(data, name))
                data.ClearField(name)


# V1
def _upgrade_v1_net(param: NetParameter, say: Say) -> bool:
    """`layers` become `layer`. Raises ProtoError where both are there. True if everything fitted."""
    if param.layer:
        raise ProtoError(
            "",
            "Refusing to upgrade inconsistent NetParameter input; the definition includes both 'layer' and 'layers' "
            "fields. The current format defines 'layer' fields with string type like layer { type: 'Layer' ... } and "
            "not layers { type: LAYER ... }. Manually switch the definition to 'layer' format to continue.",
        )
    fitted = True
    for i, old in enumerate(param.layers):
        if not _upgrade_v1_layer(old, param.layer.add(), say):
            say("error", 684, f"Upgrade of input layer {i} failed.")
            fitted = False
    param.ClearField("layers")
    return fitted


def _upgrade_v1_layer(old: Any, new: Any, say: Say) -> bool:
    new.bottom.extend(old.bottom)
    new.top.extend(old.top)
    if old.HasField("name"):
        new.name = old.name
    new.include.extend(old.include)
    new.exclude.extend(old.exclude)
    if old.HasField("type"):
        new.type = V1_TYPES[V1LayerParameter.LayerType.Name(old.type)]
    new.blobs.extend(old.blobs)
    for values, name in (
        (old.param, "name"),
        (old.blob_share_mode, "share_mode"),
        (old.blobs_lr, "lr_mult"),
        (old.weight_decay, "decay_mult"),
    ):
        for i, value in enumerate(values):
            while len(new.param) <= i:
                new.param.add()
            setattr(new.param[i], name, value)
    new.loss_weight.extend(old.loss_weight)
    for name in V1_MESSAGES:
        if old.HasField(name):
            getattr(new, name).CopyFrom(getattr(old, name))
    if old.HasField("layer"):
        say("error", 870, "Input NetParameter has V0 layer -- ignoring.")
        return False
    return True


# inputs
def _upgrade_input(param: NetParameter) -> None:
    """`input:` with a shape becomes a first layer "input"; without one (an old caffemodel) it is dropped."""
    has_shape, has_dim = bool(param.input_shape), bool(param.input_dim)
    if has_shape or has_dim:
        count = len(param.input)
        if has_shape and len(param.input_shape) < count:
            raise ProtoError("", f"found {len(param.input_shape)} input_shape for {count} input, expected one for each")
        if not has_shape and len(param.input_dim) < 4 * count:
            raise ProtoError("", f"found {len(param.input_dim)} input_dim for {count} input, expected four for each")
        rest = NetParameter()
        rest.layer.extend(param.layer)
        param.ClearField("layer")
        first = param.layer.add(name="input", type="Input")
        first.top.extend(param.input)
        for i in range(count):
            shape = first.input_param.shape.add()
            if has_shape:
                shape.CopyFrom(param.input_shape[i])
            else:
                shape.dim.extend(param.input_dim[4 * i : 4 * i + 4])
        param.layer.extend(rest.layer)
    for name in ("input", "input_shape", "input_dim"):
        param.ClearField(name)


def _has_batch_norm_params(layer: Any) -> bool:
    """Three params of a BatchNorm are its statistics, which are never learned."""
    return layer.type == "BatchNorm" and len(layer.param) == 3


# solvers
def upgrade_solver(param: SolverParameter, where: str = "", say: Say = unheard) -> SolverParameter:
    """The enum `solver_type` becomes the string `type`, in place. Raises ProtoError where both are there."""
    if not param.HasField("solver_type"):
        return param
    _say(say, "Attempting to upgrade input file specified using deprecated 'solver_type' field (enum)'", where, 1084)
    if param.HasField("type"):
        raise ProtoError(
            where,
            "Failed to upgrade solver: old solver_type field (enum) and new type field (string) "
            "cannot be both specified in solver proto text.",
        )
    param.type = SOLVER_TYPES[param.solver_type]
    param.ClearField("solver_type")
    say(
        "info",
        1091,
        "Successfully upgraded file specified using deprecated 'solver_type' field (enum) to 'type' field (string).",
    )
    say("warning", 1093, "Note that future Caffe releases will only support 'type' field (string) for a solver's type.")
    return param
