"""Which layers of a prototxt belong to a net: include and exclude rules against phase, level and stages.

Source: net.cpp, FilterNet and StateMeetsRule.
"""

from __future__ import annotations

from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.proto import NetParameter, NetState, NetStateRule


def filter_net(param: NetParameter) -> NetParameter:
    """A copy of `param` with the layers that its `state` admits."""
    state = param.state
    out = NetParameter()
    out.CopyFrom(param)
    del out.layer[:]
    for layer in param.layer:
        if layer.include and layer.exclude:
            raise CaffeError("Specify either include rules or exclude rules; not both.", f"layer '{layer.name}'")
        included = not layer.include
        for rule in layer.exclude:
            if included and meets_rule(state, rule, layer.name):
                included = False
        for rule in layer.include:
            if not included and meets_rule(state, rule, layer.name):
                included = True
        if included:
            out.layer.add().CopyFrom(layer)
    return out


def meets_rule(state: NetState, rule: NetStateRule, layer_name: str) -> bool:
    """Whether `state` satisfies every condition of `rule`; says in the log which one it does not."""

    def differs(line: int, message: str) -> bool:
        glog.info(f"net.cpp:{line}", f"{message} specified by a rule in layer {layer_name}")
        return False

    if rule.HasField("phase") and rule.phase != state.phase:
        return differs(296, f"The NetState phase ({state.phase}) differed from the phase ({rule.phase})")
    if rule.HasField("min_level") and state.level < rule.min_level:
        return differs(306, f"The NetState level ({state.level}) is above the min_level ({rule.min_level})")
    if rule.HasField("max_level") and state.level > rule.max_level:
        return differs(316, f"The NetState level ({state.level}) is above the max_level ({rule.max_level})")
    stages = set(state.stage)
    for stage in rule.stage:
        if stage not in stages:
            return differs(332, f"The NetState did not contain stage '{stage}'")
    for stage in rule.not_stage:
        if stage in stages:
            return differs(347, f"The NetState contained a not_stage '{stage}'")
    return True
