"""Caffe's programs beside `caffe`, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

NAMES = (
    "compute_image_mean",
    "convert_imageset",
    "extract_features",
    "upgrade_net_proto_binary",
    "upgrade_net_proto_text",
    "upgrade_solver_proto_text",
)


def load(name: str) -> Callable[[Sequence[str]], int]:
    """The program `name`, one of NAMES: takes its arguments, returns its exit status."""
    if name == "compute_image_mean":
        from allconv_caffe.caffe_torch.tools import compute_image_mean

        return compute_image_mean.main
    if name == "convert_imageset":
        from allconv_caffe.caffe_torch.tools import convert_imageset

        return convert_imageset.main
    if name == "extract_features":
        from allconv_caffe.caffe_torch.tools import extract_features

        return extract_features.main
    from allconv_caffe.caffe_torch.tools import upgrade_protos

    tools = (upgrade_protos.NET_BINARY, upgrade_protos.NET_TEXT, upgrade_protos.SOLVER_TEXT)
    return next(tool for tool in tools if tool.name == name).main
