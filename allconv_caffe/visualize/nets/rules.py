"""The three ReLU rules, and nets rewritten to use them.

    forward      f' = max(f, 0)
    backprop     R = (f > 0) R'
    deconvnet    R = (R' > 0) R'
    guided       R = (f > 0) (R' > 0) R'

Everything else (convolution, pooling with its switches, LRN, dropout at test time) goes back as ever.
Paper: figure 1c, section 4.
"""

from __future__ import annotations

from typing import Any, Dict, List

from allconv_caffe.proto import TEST, NetParameter
from allconv_caffe.proto.upgrade import upgrade_net
from allconv_caffe.visualize.nets.errors import VizError

RULES = ("backprop", "deconvnet", "guided")
FORMULAS: Dict[str, str] = {
    "forward": "f' = max(f, 0)",
    "backprop": "R = (f > 0) R'",
    "deconvnet": "R = (R' > 0) R'",
    "guided": "R = (f > 0) (R' > 0) R'",
}
ALIASES: Dict[str, str] = {"plain": "backprop", "gradient": "backprop", "deconv": "deconvnet"}
MODULE = "allconv_caffe.python_layers"
LAYERS: Dict[str, str] = {"guided": "GuidedReLU", "deconvnet": "DeconvReLU"}
"""The Python layer of each rule that stock Caffe's ReLU does not have."""

NOT_RELU = ("PReLU", "ELU", "Sigmoid", "TanH", "BNLL", "AbsVal", "Swish", "Exp", "Log", "Threshold")
"""Non-linear layers for which deconvnet and guided mean nothing."""


def rule_name(text: str) -> str:
    """`text` as one of RULES; ALIASES are understood.

    Raises: VizError: unknown rule.
    """
    name = ALIASES.get(text, text)
    if name not in RULES:
        raise VizError("rule", repr(text), "a ReLU rule", [*RULES, *ALIASES])
    return name


def is_relu(layer: Any) -> bool:
    """Whether a LayerParameter is a ReLU, or one of the Python layers that stand for it."""
    return layer.type == "ReLU" or (
        layer.type == "Python" and layer.python_param.module == MODULE and layer.python_param.layer in LAYERS.values()
    )


def prepare(param: NetParameter, where: str = "net") -> NetParameter:
    """A copy for visualising: TEST phase, an Input layer, no losses, ``force_backward: true``.

    Args:
        param: a deploy net, of today's format or an older one.

    Raises: VizError: a net without an input, or with a leaky ReLU. ProtoError: an old net that cannot be upgraded.
    """
    out = NetParameter()
    out.CopyFrom(param)
    upgrade_net(out, where)
    if not any(layer.type == "Input" for layer in out.layer):
        data = [f"{layer.type} '{layer.name}'" for layer in out.layer if layer.top and not layer.bottom]
        raise VizError(where, f"{' and '.join(data) or 'no data layer'}", "a deploy net, whose data is an Input layer")
    out.state.phase = TEST
    out.force_backward = True
    for layer in out.layer:
        if layer.type == "ReLU" and layer.relu_param.negative_slope != 0:
            raise VizError(
                f"{where}: layer '{layer.name}'",
                f"negative_slope {layer.relu_param.negative_slope:g}",
                "0: deconvnet and guided have no meaning for a leaky ReLU",
            )
    return out


def relu_names(param: NetParameter) -> List[str]:
    """Names of the ReLU layers, in order."""
    return [layer.name for layer in param.layer if is_relu(layer)]


def rewrite(param: NetParameter, rule: str, where: str = "net") -> NetParameter:
    """The net with every ReLU replaced for stock Caffe by the Python layer of `rule`; names, bottoms, tops stay.

    Args:
        param: any deploy net: fully connected layers, LRN, max-pooling, in-place ReLUs or not.
        rule: of RULES, or an alias. "backprop" gives back Caffe's own ReLU.

    Returns:
        A new net, prepared as by `prepare`. Rewriting twice gives the last rule.

    Raises: VizError: unknown rule, leaky ReLU, no Input layer.
    """
    rule = rule_name(rule)
    out = prepare(param, where)
    for layer in out.layer:
        if not is_relu(layer):
            continue
        layer.ClearField("relu_param")
        layer.ClearField("python_param")
        if rule == "backprop":
            layer.type = "ReLU"
        else:
            layer.type = "Python"
            layer.python_param.module = MODULE
            layer.python_param.layer = LAYERS[rule]
    return out


def plain(param: NetParameter, where: str = "net") -> NetParameter:
    """`prepare`, with Caffe's own ReLU for every Python layer that stands for it: what the native rule runs on."""
    out = prepare(param, where)
    for layer in out.layer:
        if is_relu(layer) and layer.type == "Python":
            layer.type = "ReLU"
            layer.ClearField("python_param")
    return out
