"""A compiled function of CUDA tensors, recorded once as a CUDA graph and replayed.

One iteration of a CIFAR-10 net is some hundred small kernels; started one by one, they keep a fast GPU waiting for
the CPU. A CUDA graph starts them all at once. Random numbers differ from replay to replay: PyTorch moves the offset of
its generator on each time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from allconv_caffe.caffe_torch import glog

Tensors = list[torch.Tensor]
Function = Callable[[Tensors, Tensors, torch.Tensor], Tensors]
PLAIN_CALLS = 3  # before recording: kernels are compiled, cuDNN tries its algorithms, workspaces are taken


class Replayed:
    """`function(buffers, inputs, scalars)`, called as it is a few times, then recorded and replayed.

    `buffers` and `scalars` are read and written where they lie; another list of buffers, or an input of another shape,
    has the graph recorded anew. Every call computes: nothing is run for the recording alone. What is returned is the
    caller's own. Where CUDA refuses to record, a line of the log says so and calls stay plain.

    Args:
        function: tensors on one CUDA device in and out; it must not wait for the device.
    """

    def __init__(self, function: Function) -> None:
        self.function = function
        self.replays = 0
        self._plain_left = PLAIN_CALLS
        self._graph: torch.cuda.CUDAGraph | None = None
        self._recorded: tuple[Tensors, torch.Tensor] | None = None
        self._inputs: Tensors = []
        self._outputs: Tensors = []
        self._refused = False

    def __call__(self, buffers: Tensors, inputs: Tensors, scalars: torch.Tensor) -> Tensors:
        if self._refused or self._plain_left > 0:
            self._plain_left -= 1
            return self.function(buffers, inputs, scalars)
        same = self._recorded is not None and self._recorded[0] is buffers and self._recorded[1] is scalars
        same = same and all(a.shape == b.shape for a, b in zip(self._inputs, inputs, strict=True))
        if not same and not self._record(buffers, inputs, scalars):
            return self.function(buffers, inputs, scalars)
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        assert self._graph is not None
        self._graph.replay()
        self.replays += 1
        return [output.clone() for output in self._outputs]

    def _record(self, buffers: Tensors, inputs: Tensors, scalars: torch.Tensor) -> bool:
        self._graph = self._recorded = None  # gives the memory of an older one back first
        self._outputs = []
        self._inputs = [i.clone() for i in inputs]
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads read data meanwhile
                self._outputs = self.function(buffers, self._inputs, scalars)
        except RuntimeError as error:
            self._refused = True
            glog.warning(
                "cuda_graph.py:1", f"No CUDA graph, kernels are started one by one ({str(error).splitlines()[0]})"
            )
            return False
        self._graph, self._recorded = graph, (buffers, scalars)
        return True
