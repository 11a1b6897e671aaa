"""Layers and fields that are not Caffe's but a well-known fork's, so that who brings such a prototxt is told what it needs.

Source: the published networks' prototxt and the forks' caffe.proto, names alone: SSD, Fast R-CNN, R-FCN, SegNet, DeepLab, PSPNet,
SENet, FlowNet 2, NVCaffe. MobileNet's and ShuffleNet's layers stand in several forks.
"""

from __future__ import annotations

from typing import Dict, List

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
    "NVCaffe": ["scale_bias"],
    "ShuffleNet": ["shuffle_channel_param"],
}
TYPES = {name: fork for fork, names in _TYPES.items() for name in names}
"""The fork that a layer's type is of."""
FIELDS = {name: fork for fork, names in _FIELDS.items() for name in names}
"""The fork that a field of a layer is of."""


def of_type(name: str) -> str:
    """To stand behind "Unknown layer type"; "" where no fork is known to have it."""
    return f"; {name} belongs to a fork of Caffe, that of {TYPES[name]}" if name in TYPES else ""


def of_field(name: str) -> str:
    """To stand behind "has no field named"; "" where no fork is known to have it."""
    return f" (it belongs to a fork of Caffe, that of {FIELDS[name]})" if name in FIELDS else ""
