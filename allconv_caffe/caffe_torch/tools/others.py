"""Caffe's programs beside `caffe`, by name."""

from __future__ import annotations

from collections.abc import Sequence

NAMES = (
    "compute_image_mean",
    "convert_imageset",
    "extract_features",
    "upgrade_net_proto_binary",
    "upgrade_net_proto_text",
    "upgrade_solver_proto_text",
)


def main(name: str, arguments: Sequence[str]) -> int:
    """Runs the program `name`, one of NAMES; returns its exit status."""
    if name == "compute_image_mean":
        from allconv_caffe.caffe_torch.tools import compute_image_mean

        return compute_image_mean.main(arguments)
    if name == "convert_imageset":
        from allconv_caffe.caffe_torch.tools import convert_imageset

        return convert_imageset.main(arguments)
    if name == "extract_features":
        from allconv_caffe.caffe_torch.tools import extract_features

        return extract_features.main(arguments)
    from allconv_caffe.caffe_torch.tools import upgrade_protos

    tools = (upgrade_protos.NET_BINARY, upgrade_protos.NET_TEXT, upgrade_protos.SOLVER_TEXT)
    return next(tool for tool in tools if tool.name == name).main(arguments)
