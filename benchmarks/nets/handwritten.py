"""The same nets as a user of PyTorch writes them: nn modules, F's functions, channels_last, autograd, torch.optim.SGD.

One builder reads the table's layers and makes of each what one would write in its place, so that no net is written twice;
a forward pass is a line a layer. Nothing of the engine is used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

Values = dict[str, torch.Tensor]


class HandWritten(nn.Module):
    """A net of the table; `forward` takes its inputs by name and returns the loss in training, the scores without."""

    def __init__(self, param: Any, shapes: dict[str, list[int]]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict()
        self.steps: list[tuple[Callable[..., torch.Tensor], list[str], str]] = []
        self.losses: list[tuple[str, float]] = []
        values = {name: torch.zeros(shape) for name, shape in shapes.items()}
        for layer in param.layer:
            if layer.type in ("Input", "Accuracy"):
                continue
            if layer.type == "SoftmaxWithLoss":
                self.losses.append((layer.bottom[0], layer.loss_weight[0] if layer.loss_weight else 1.0))
                continue
            bottoms = [values[name] for name in layer.bottom]
            step = self.make(layer, bottoms)
            self.steps.append((step, list(layer.bottom), layer.top[0]))
            with torch.no_grad():
                values[layer.top[0]] = step(*bottoms)

    def make(self, layer: Any, bottoms: list[torch.Tensor]) -> Callable[..., torch.Tensor]:
        """What stands for a layer: a module, which is kept, or a function."""
        made = getattr(self, f"make_{layer.type.lower()}")(layer, bottoms)
        if isinstance(made, nn.Module):
            self.parts[layer.name.replace(".", "_")] = made
        return made

    def make_convolution(self, layer: Any, bottoms: list[torch.Tensor]) -> nn.Module:
        p = layer.convolution_param
        kernel, stride, pad = (
            [*values, default][0] for values, default in ((p.kernel_size, 1), (p.stride, 1), (p.pad, 0))
        )
        conv = nn.Conv2d(bottoms[0].shape[1], p.num_output, kernel, stride, pad, groups=p.group, bias=p.bias_term)
        nn.init.kaiming_uniform_(conv.weight, nonlinearity="relu")
        return conv

    def make_innerproduct(self, layer: Any, bottoms: list[torch.Tensor]) -> nn.Module:
        p = layer.inner_product_param
        values = bottoms[0].shape[p.axis :].numel()
        linear = nn.Linear(values, p.num_output)
        return linear if p.axis == bottoms[0].dim() - 1 else nn.Sequential(nn.Flatten(p.axis), linear)

    def make_relu(self, layer: Any, bottoms: list[torch.Tensor]) -> Callable[..., torch.Tensor]:
        return F.relu

    def make_dropout(self, layer: Any, bottoms: list[torch.Tensor]) -> nn.Module:
        return nn.Dropout(layer.dropout_param.dropout_ratio)

    def make_pooling(self, layer: Any, bottoms: list[torch.Tensor]) -> Callable[..., torch.Tensor]:
        p = layer.pooling_param
        if p.global_pooling or tuple(bottoms[0].shape[2:]) == (p.kernel_size,) * 2:
            return lambda x: x.mean((2, 3), keepdim=True)
        if p.pool == p.MAX:
            return nn.MaxPool2d(p.kernel_size, p.stride, p.pad, ceil_mode=True)
        return nn.AvgPool2d(p.kernel_size, p.stride, p.pad, ceil_mode=True)

    def make_lrn(self, layer: Any, bottoms: list[torch.Tensor]) -> Callable[..., torch.Tensor]:
        p = layer.lrn_param
        size, alpha, beta = p.local_size, p.alpha, p.beta
        if p.norm_region == p.ACROSS_CHANNELS:
            return nn.LocalResponseNorm(size, alpha, beta, p.k)
        return lambda x: x / (1 + alpha * F.avg_pool2d(x * x, size, 1, size // 2)) ** beta

    def make_concat(self, layer: Any, bottoms: list[torch.Tensor]) -> Callable[..., torch.Tensor]:
        return lambda *parts: torch.cat(parts, 1)

    def make_eltwise(self, layer: Any, bottoms: list[torch.Tensor]) -> Callable[..., torch.Tensor]:
        return torch.add

    def make_batchnorm(self, layer: Any, bottoms: list[torch.Tensor]) -> nn.Module:
        return nn.BatchNorm2d(bottoms[0].shape[1])

    def make_scale(self, layer: Any, bottoms: list[torch.Tensor]) -> Callable[..., torch.Tensor]:
        return lambda x: x  # BatchNorm2d has it

    def make_lstm(self, layer: Any, bottoms: list[torch.Tensor]) -> nn.Module:
        return Recurrent(bottoms[0].shape[2], layer.recurrent_param.num_output)

    def forward(self, **values: torch.Tensor) -> torch.Tensor:
        for step, bottoms, top in self.steps:
            values[top] = step(*(values[name] for name in bottoms))
        if not self.losses:
            return values[self.steps[-1][2]]
        label = values["label"].reshape(-1)
        total = torch.zeros(())
        for scores, weight in self.losses:
            found = values[scores]
            found = found.flatten(0, 1) if found.dim() == 3 else found.flatten(1)
            total = total + weight * F.cross_entropy(found, label)
        return total


class Recurrent(nn.Module):
    """nn.LSTM over sequences that all begin at the first step, so that `cont` says nothing more."""

    def __init__(self, values: int, num_output: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(values, num_output)

    def forward(self, x: torch.Tensor, cont: torch.Tensor) -> torch.Tensor:
        return self.lstm(x)[0]


def training(net: HandWritten, inputs: Values, mode: str | None, bf16: bool = False) -> Callable[[int], None]:
    """`step(iterations)`; `mode` is torch.compile's, or None for eager; `bf16`: what autocast takes for it, in bfloat16."""
    net = net.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-5, momentum=0.9, weight_decay=0.001)
    model = torch.compile(net, mode=mode) if mode else net

    def step(iterations: int) -> None:
        for _ in range(iterations):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                loss = model(**inputs)
            loss.backward()
            optimizer.step()

    return step


def scoring(net: HandWritten, inputs: Values, mode: str | None) -> Callable[[int], None]:
    """Forward passes for prediction, `step(iterations)`."""
    net = net.eval().to(memory_format=torch.channels_last)
    model = torch.compile(net, mode=mode) if mode else net

    def step(iterations: int) -> None:
        with torch.inference_mode():
            for _ in range(iterations):
                model(**inputs)

    return step
