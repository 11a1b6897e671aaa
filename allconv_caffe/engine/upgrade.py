"""Old prototxt made current, as Caffe does before it builds a net or a solver.

Source: upgrade_proto.cpp.
"""

from __future__ import annotations

from allconv_caffe.engine import glog
from allconv_caffe.engine.errors import CaffeError
from allconv_caffe.proto import NetParameter, SolverParameter, V1LayerParameter

SOLVER_TYPES = ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam")  # by SolverParameter.SolverType number


def upgrade_net(param: NetParameter, where: str = "") -> NetParameter:
    """Brings `param` to today's form in place: inputs become an Input layer, BatchNorm's three params are frozen.

    Raises:
        CaffeError: for V0/V1 `layers`, whose conversion is not built yet.
    """
    if param.layers:
        names = ", ".join(V1LayerParameter.LayerType.Name(layer.type) for layer in list(param.layers)[:3])
        raise CaffeError(
            f"found old-style `layers` ({names}, ...), expected `layer` with a string type; "
            "convert the file with Caffe's upgrade_net_proto_text",
            where,
        )
    if param.input:
        _inputs_to_layer(param)
    for layer in param.layer:
        # three params of a BatchNorm are its statistics: never learned
        if layer.type == "BatchNorm" and len(layer.param) == 3:
            for spec in layer.param:
                spec.lr_mult = 0.0
                spec.decay_mult = 0.0
    return param


def _inputs_to_layer(param: NetParameter) -> None:
    """`input:` with `input_dim` or `input_shape` becomes a first layer "input" of type Input."""
    has_shape, has_dim = bool(param.input_shape), bool(param.input_dim)
    if has_shape or has_dim:
        old = list(param.layer)
        layers = [type(layer)() for layer in old]
        for copy, layer in zip(layers, old, strict=True):
            copy.CopyFrom(layer)
        del param.layer[:]
        first = param.layer.add(name="input", type="Input")
        first.top.extend(param.input)
        for i in range(len(param.input)):
            shape = first.input_param.shape.add()
            if has_shape:
                shape.CopyFrom(param.input_shape[i])
            else:
                shape.dim.extend(param.input_dim[4 * i : 4 * i + 4])
        param.layer.extend(layers)
    param.ClearField("input")
    param.ClearField("input_shape")
    param.ClearField("input_dim")
    glog.warning("upgrade_proto.cpp:69", "Note that future Caffe releases will only support input layers and not input fields.")


def upgrade_solver(param: SolverParameter, where: str = "") -> SolverParameter:
    """The enum `solver_type` becomes the string `type`, in place."""
    if param.HasField("solver_type"):
        if param.HasField("type"):
            raise CaffeError(
                "Failed to upgrade solver: old solver_type field (enum) and new type field (string) "
                "cannot be both specified in solver proto text.",
                where,
            )
        param.type = SOLVER_TYPES[param.solver_type]
        param.ClearField("solver_type")
        glog.warning("upgrade_proto.cpp:1112", "Note that future Caffe releases will only support 'type' field for a solver's type.")
    return param
