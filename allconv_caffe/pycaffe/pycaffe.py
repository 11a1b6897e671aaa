"""The classes that real pycaffe keeps in a module of this name, and what it hangs on `Net`: scripts hang it on anew."""

from allconv_caffe.pycaffe.common import Timer
from allconv_caffe.pycaffe.nccl import NCCL
from allconv_caffe.pycaffe.net import Net
from allconv_caffe.pycaffe.solver import (
    AdaDeltaSolver,
    AdaGradSolver,
    AdamSolver,
    NesterovSolver,
    RMSPropSolver,
    SGDSolver,
)

_Net_blobs, _Net_blob_loss_weights, _Net_layer_dict, _Net_params = (
    Net.blobs,
    Net.blob_loss_weights,
    Net.layer_dict,
    Net.params,
)
_Net_inputs, _Net_outputs = Net.inputs, Net.outputs
_Net_forward, _Net_backward, _Net_batch = Net.forward, Net.backward, Net._batch
_Net_forward_all, _Net_forward_backward_all = Net.forward_all, Net.forward_backward_all
_Net_set_input_arrays = Net.set_input_arrays

__all__ = [
    "NCCL",
    "AdaDeltaSolver",
    "AdaGradSolver",
    "AdamSolver",
    "NesterovSolver",
    "Net",
    "RMSPropSolver",
    "SGDSolver",
    "Timer",
]
