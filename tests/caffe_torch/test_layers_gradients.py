"""Losses, structural and recurrent layers without Caffe: backward against finite differences, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.compute.rng import TorchGenerator
from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.caffe_torch.layer import Context, Layer, create
from allconv_caffe.caffe_torch.layers.recurrent import RecurrentLayer
from allconv_caffe.caffe_torch.net import Net
from allconv_caffe.proto import LayerParameter, NetParameter, parse_text

TARGETS = torch.linspace(0, 1, 12).reshape(3, 4)
LABELS = torch.tensor([2.0, 0.0, 1.0])
CONT = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
MATRIX = torch.tensor([[1.0, 0.2, 0.0, -0.1], [0.0, 1.5, 0.3, 0.0], [0.4, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
RECURRENT = "recurrent_param { num_output: 3 }"
EXPOSED = "recurrent_param { num_output: 3 expose_hidden: true }"

# type, parameters, bottoms (a shape: normal values with a gradient; a tensor: given, without), number of tops
CASES = [
    ("EuclideanLoss", "", [(3, 4), (3, 4)], 1),
    ("SigmoidCrossEntropyLoss", "loss_param { normalization: VALID }", [(3, 4), TARGETS], 1),
    ("HingeLoss", "hinge_loss_param { norm: L2 }", [(3, 4), LABELS], 1),
    ("ContrastiveLoss", "contrastive_loss_param { margin: 4 }", [(3, 4), (3, 4), LABELS], 1),
    ("InfogainLoss", "", [(3, 4), LABELS, MATRIX], 1),
    ("BatchReindex", "", [(3, 2), torch.tensor([2.0, 0, 2, 2])], 1),
    ("Crop", "crop_param { axis: 1 offset: 1 }", [(2, 4, 4), torch.zeros(2, 2, 3)], 1),
    (
        "Deconvolution",
        "convolution_param { num_output: 4 kernel_size: 3 stride: 2 pad: 1 group: 2 }",
        [(2, 2, 2, 3)],
        1,
    ),
    ("Embed", "embed_param { input_dim: 3 num_output: 2 }", [LABELS], 1),
    ("Filter", "", [(3, 2), (3, 3), torch.tensor([1.0, 0, -1])], 2),
    ("Im2col", "convolution_param { kernel_size: 2 stride: 2 pad: 1 dilation: 2 }", [(1, 2, 3, 4)], 1),
    ("MVN", "mvn_param { eps: 1e-6 }", [(2, 2, 2, 3)], 1),
    ("MVN", "mvn_param { normalize_variance: false across_channels: true }", [(2, 2, 2, 3)], 1),
    ("Reduction", "reduction_param { operation: SUMSQ axis: 1 coeff: 0.5 }", [(2, 3, 2)], 1),
    ("Reduction", "reduction_param { operation: ASUM axis: 1 }", [(2, 3, 2)], 1),
    ("SPP", "spp_param { pyramid_height: 2 pool: AVE }", [(1, 2, 4, 4)], 1),
    ("Tile", "tile_param { tiles: 3 }", [(2, 2, 2)], 1),
    ("LSTMUnit", "", [(1, 2, 3), (1, 2, 12), torch.tensor([[1.0, 0.0]])], 2),
    ("LSTM", RECURRENT, [(3, 2, 4), CONT], 1),
    ("LSTM", RECURRENT, [(3, 2, 4), CONT, (2, 2)], 1),
    ("RNN", RECURRENT, [(3, 2, 4), CONT], 1),
    ("RNN", RECURRENT, [(3, 2, 4), CONT, (2, 2)], 1),
    ("LSTM", EXPOSED, [(3, 2, 4), CONT, torch.ones(1, 2, 3), torch.ones(1, 2, 3)], 3),
]


def build(
    type_: str, param: str, bottoms: list[tuple[int, ...] | torch.Tensor], tops: int
) -> tuple[Layer, list[Blob], list[Blob]]:
    """A layer over filled bottoms; its parameters normal."""
    generator = torch.Generator().manual_seed(3)
    layer = create(
        parse_text(f'name: "l" type: "{type_}" {param}', LayerParameter), Context(phase=0, rng=TorchGenerator(1))
    )
    blobs = []
    for bottom in bottoms:
        value = bottom if isinstance(bottom, torch.Tensor) else torch.randn(bottom, generator=generator)
        blobs.append(Blob(value.shape))
        blobs[-1].data = value
    top = [Blob() for _ in range(tops)]
    layer.set_up(blobs, top)
    for blob in layer.blobs:
        blob.data = 0.7 * torch.randn(blob.shape, generator=generator)
    return layer, blobs, top


@pytest.mark.parametrize(("type_", "param", "bottoms", "tops"), CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)])
def test_backward_is_the_slope_of_forward(
    type_: str, param: str, bottoms: list[tuple[int, ...] | torch.Tensor], tops: int
) -> None:
    """Along a random direction in every bottom and parameter, backward foretells how the weighted tops change."""
    layer, blobs, top = build(type_, param, bottoms, tops)
    outputs = top[:1] if isinstance(layer, RecurrentLayer) else top  # gradients of exposed states are not read
    generator = torch.Generator().manual_seed(7)

    def forward() -> None:
        if isinstance(layer, RecurrentLayer):
            for state in layer.states:
                state.data = torch.zeros(state.shape)
        layer.reshape(blobs, top)
        layer.forward(blobs, top)

    forward()
    for blob in outputs:
        blob.diff = torch.randn(blob.shape, generator=generator)
    weights = [blob.diff.double() for blob in outputs]
    wanted = [not isinstance(bottom, torch.Tensor) for bottom in bottoms]
    layer.backward(top, wanted, blobs)
    moved = [blob for blob, want in zip(blobs, wanted, strict=True) if want] + layer.blobs
    gradients = [blob.diff.double().clone() for blob in moved]  # HingeLoss's forward writes there, as in Caffe
    step = 2e-3
    for blob, gradient in zip(moved, gradients, strict=True):
        start, direction = blob.data.clone(), torch.randn(blob.shape, generator=generator)
        values = []
        for sign in (1, -1):
            blob.data = start + sign * step * direction
            forward()
            values.append(sum(float((b.data.double() * w).sum()) for b, w in zip(outputs, weights, strict=True)))
        blob.data = start
        forward()
        slope = (values[0] - values[1]) / (2 * step)
        foretold = float((gradient * direction).sum())
        size = float((gradient.abs() * direction.abs()).sum())
        assert size > 0
        assert abs(slope - foretold) < 5e-3 * size  # float32 forward over a step of 2e-3


@pytest.mark.parametrize(
    ("type_", "param", "bottoms", "sentence"),
    [
        (
            "HingeLoss",
            "",
            [(3, 4), torch.tensor([0.0, 4.0, 1.0])],
            "label_value < classes (4 vs. 4): labels are 0 to 3",
        ),
        ("InfogainLoss", "", [(3, 4), torch.tensor([0.0, -1.0, 1.0]), MATRIX], "label_value >= 0 (-1 vs. 0)"),
        ("MultinomialLogisticLoss", "", [(3, 4), torch.tensor([0.0, 9.0, 1.0])], "label_value < classes (9 vs. 4)"),
        ("Embed", "embed_param { input_dim: 2 num_output: 1 }", [LABELS], "index < K_ (2 vs. 2): indices are 0 to 1"),
        ("Embed", "embed_param { input_dim: 2 num_output: 1 }", [-LABELS], "index >= 0 (-2 vs. 0): indices are 0 to 1"),
        ("BatchReindex", "", [(2, 2), LABELS], "Index specified for reindex layer was greater than batch size."),
    ],
)
def test_an_index_out_of_range_stops_the_net(
    type_: str, param: str, bottoms: list[tuple[int, ...] | torch.Tensor], sentence: str
) -> None:
    """Where a release build of Caffe reads other memory, the value found and the values allowed are said."""
    layer, blobs, top = build(type_, param, bottoms, 1)
    with pytest.raises(CaffeError) as caught:
        layer.forward(blobs, top)
    assert sentence in str(caught.value)


def test_argmax_takes_the_later_of_equals() -> None:
    """[1, 3, 3, 2]: the two greatest lie at 2 and 1."""
    layer, blobs, top = build(
        "ArgMax", "argmax_param { top_k: 2 out_max_val: true }", [torch.tensor([[1.0, 3, 3, 2]])], 1
    )
    layer.forward(blobs, top)
    assert top[0].data.tolist() == [[[2.0, 1.0], [3.0, 3.0]]]


def test_a_filter_that_lets_nothing_through_gives_empty_tops_and_no_gradient() -> None:
    """Caffe dies here of a division by 0."""
    layer, blobs, top = build("Filter", "", [(3, 2), torch.zeros(3)], 1)
    layer.reshape(blobs, top)
    layer.forward(blobs, top)
    layer.backward(top, [True, False], blobs)
    assert top[0].shape == (0, 2) and not blobs[0].diff.any()


def test_a_recurrent_layer_goes_on_where_it_ended() -> None:
    """Six steps in one batch give the outputs of twice three, the state being carried over."""
    x = torch.from_numpy(np.random.RandomState(2).standard_normal((6, 2, 4)).astype(np.float32))
    for type_ in ("LSTM", "RNN"):
        whole, _, whole_top = build(type_, RECURRENT, [x, torch.ones(6, 2)], 1)
        whole.forward([_blob(x), _blob(torch.ones(6, 2))], whole_top)
        half, _, top = build(type_, RECURRENT, [x[:3], torch.ones(3, 2)], 1)
        parts = []
        for part in (x[:3], x[3:]):
            half.forward([_blob(part), _blob(torch.ones(3, 2))], top)
            parts.append(top[0].data.clone())
        torch.testing.assert_close(torch.cat(parts), whole_top[0].data, rtol=1e-5, atol=1e-6)


def test_a_loss_without_a_top_gets_one() -> None:
    """As in Caffe, the loss still counts."""
    text = """
    layer { name: "a" type: "DummyData" top: "a" top: "b" dummy_data_param { shape { dim: 2 dim: 3 } } }
    layer { name: "loss" type: "EuclideanLoss" bottom: "a" bottom: "b" }
    """
    net = Net(parse_text(text, NetParameter))
    assert net.top_vecs[1][0].shape == () and net.outputs == []


def _blob(value: torch.Tensor) -> Blob:
    blob = Blob(value.shape)
    blob.data = value
    return blob
