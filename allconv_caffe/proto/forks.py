"""Layers and fields that are not Caffe's but a well-known fork's: whose they are, and the messages of those that run here.

Who brings such a prototxt is told whose it is, whether it runs (`fork_fields.used`) or not (`of_type`, `of_field`).

A fork gave its fields numbers of its own, which mean something else in the next fork and in Caffe itself (143 is DeepLab's
``interp_param`` and Caffe's ``input_param``). Here names alone count: the fields have numbers from `FIRST` on, which
are nobody's, so that no file of Caffe's or of a fork is ever read by them.

Source: the published networks' prototxt and the forks' caffe.proto, names, types and defaults alone: SSD (weiliu89/caffe), Fast
R-CNN, R-FCN, SegNet (alexgkendall/caffe-segnet), DeepLab, PSPNet (hszhao/PSPNet), SENet (hujie-frank/SENet), FlowNet 2, NVCaffe
(NVIDIA/caffe 0.16, 0.17). MobileNet's and ShuffleNet's layers stand in several forks.
"""

from __future__ import annotations

from typing import Dict, List

from .schema import ENGINE, Message, read_message

_TYPES: Dict[str, List[str]] = {
    "SSD": [
        "Permute",
        "Normalize",
        "PriorBox",
        "MultiBoxLoss",
        "DetectionOutput",
        "DetectionEvaluate",
        "AnnotatedData",
        "VideoData",
    ],
    "Fast R-CNN or SSD": ["SmoothL1Loss"],
    "Fast R-CNN": ["ROIPooling"],
    "R-FCN": ["PSROIPooling", "BoxAnnotatorOHEM", "SmoothL1LossOHEM"],
    "SegNet": ["Upsample", "DenseImageData"],
    "SegNet or PSPNet": ["BN"],
    "DeepLab or PSPNet": ["Interp", "ImageSegData"],
    "SENet": ["Axpy"],
    "FlowNet 2": ["Correlation", "FlowWarp", "Resample", "DataAugmentation", "CustomData", "L1Loss"],
    "MobileNet": ["DepthwiseConvolution", "ConvolutionDepthwise", "ReLU6"],
    "ShuffleNet": ["ShuffleChannel"],
}
NVCAFFE = "NVCaffe"
_FIELDS: Dict[str, List[str]] = {
    "SSD": [
        "permute_param",
        "norm_param",
        "prior_box_param",
        "multibox_loss_param",
        "detection_output_param",
        "detection_evaluate_param",
        "annotated_data_param",
        "video_data_param",
    ],
    "Fast R-CNN": ["roi_pooling_param", "smooth_l1_loss_param"],
    "R-FCN": ["psroi_pooling_param", "box_annotator_ohem_param"],
    "SegNet": ["upsample_param", "dense_image_data_param"],
    "SegNet or PSPNet": ["bn_param"],
    "DeepLab or PSPNet": ["interp_param"],
    "FlowNet 2": ["correlation_param", "resample_param", "augmentation_param"],
    NVCAFFE: [
        "scale_bias",
        "scale_filler",
        "default_forward_type",
        "default_backward_type",
        "default_forward_math",
        "default_backward_math",
        "default_cudnn_math_override",
        "forward_type",
        "backward_type",
        "forward_math",
        "backward_math",
        "cudnn_math_override",
    ],
    "ShuffleNet": ["shuffle_channel_param"],
}
TYPES = {name: fork for fork, names in _TYPES.items() for name in names}
"""The fork that a layer's type is of."""
FIELDS = {name: fork for fork, names in _FIELDS.items() for name in names}
"""The fork that a field of a layer is of."""

# --- The fields that are read, as `schema` has Caffe's ---------------------------------------------------------------

MESSAGES: List[Message] = [
    read_message("PermuteParameter", "order 1 uint32*"),
    read_message(
        "NormalizeParameter",
        """
        across_spatial 1 bool = true, channel_shared 3 bool = true
        scale_filler 2 FillerParameter, eps 4 float = 1e-10
    """,
    ),
    read_message(
        "PriorBoxParameter",
        """
        min_size 1 float*, max_size 2 float*, aspect_ratio 3 float*, flip 4 bool = true, clip 5 bool = false
        variance 6 float*, offset 13 float = 0.5
        img_size 7 uint32, img_h 8 uint32, img_w 9 uint32, step 10 float, step_h 11 float, step_w 12 float
    """,
    ),
    read_message(
        "InterpParameter",
        """
        height 1 int32 = 0, width 2 int32 = 0, zoom_factor 3 int32 = 1, shrink_factor 4 int32 = 1
        pad_beg 5 int32 = 0, pad_end 6 int32 = 0
    """,
    ),
    read_message(
        "UpsampleParameter",
        """
        upsample_h 6 uint32, upsample_w 7 uint32
        scale 1 uint32 = 2, scale_h 2 uint32, scale_w 3 uint32, pad_out_h 4 bool = false, pad_out_w 5 bool = false
    """,
    ),
    read_message("ShuffleChannelParameter", "group 1 uint32 = 1"),
    read_message(
        "BNParameter",
        """
        bn_mode 1 BNMode = LEARN, scale_filler 2 FillerParameter, shift_filler 3 FillerParameter        # SegNet's
        slope_filler 4 FillerParameter, bias_filler 5 FillerParameter                                   # PSPNet's
        momentum 6 float = 0.9, eps 7 float = 1e-05, frozen 8 bool = false, engine 9 Engine = DEFAULT   # PSPNet's
    """,
        BNMode="LEARN INFERENCE",
        Engine=ENGINE,
    ),
]
FIRST, LAST = 471_000_000, 471_000_099
"""The numbers of the fields below."""
ADDED: List[Message] = [
    read_message(
        "LayerParameter",
        """
        permute_param 471000001 PermuteParameter, norm_param 471000002 NormalizeParameter
        prior_box_param 471000003 PriorBoxParameter, interp_param 471000004 InterpParameter
        upsample_param 471000005 UpsampleParameter, shuffle_channel_param 471000006 ShuffleChannelParameter
        bn_param 471000007 BNParameter
    """,
    ),
    read_message(
        "BatchNormParameter",
        """
        scale_bias 471000011 bool = false
        scale_filler 471000012 FillerParameter, bias_filler 471000013 FillerParameter
    """,
    ),
]
"""What messages of Caffe's have beside their own fields."""


def of_type(name: str) -> str:
    """To stand behind "Unknown layer type"; "" where no fork is known to have it."""
    return f"; {name} belongs to a fork of Caffe, that of {TYPES[name]}" if name in TYPES else ""


def of_field(name: str) -> str:
    """To stand behind "has no field named"; "" where no fork is known to have it."""
    return f" (it belongs to a fork of Caffe, that of {FIELDS[name]})" if name in FIELDS else ""
