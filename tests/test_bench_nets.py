"""The nets of `make bench-nets`: Caffe's and the hand-written ones are the same nets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import bench_nets
import pytest
import torch
from nets.handwritten import HandWritten, training
from nets.table import NETS

from allconv_caffe.caffe_torch.compute import caffe_math
from allconv_caffe.caffe_torch.compute.rng import CaffeGenerator, ShapesOnly, TorchGenerator
from allconv_caffe.caffe_torch.layer import Context
from allconv_caffe.caffe_torch.net import Net
from allconv_caffe.caffe_torch.tape import Run
from allconv_caffe.proto import TEST, TRAIN

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"

#: As their papers or Caffe's reference models have them, biases included.
PARAMETERS = {
    "lenet": 431_080,
    "cifar10_quick": 145_578,
    "cifar10_full": 89_578,
    "caffenet": 60_965_224,
    "nin": 966_986,
    "googlenet": 13_378_280,
    "squeezenet": 1_248_424,
    "allcnn_c": 1_369_738,
    "convpool_cnn_c": 1_369_738,
}


def written(name: str, batch: int, forward: bool) -> tuple[Any, HandWritten]:
    net = NETS[name]
    param = net.param(batch, forward)
    return param, HandWritten(param, {key: source.of(batch) for key, source in net.inputs(forward).items()})


@pytest.mark.parametrize("name", NETS)
def test_both_have_the_papers_parameters(name: str) -> None:
    """Built without memory on our side; BatchNorm's statistics and PyTorch's second bias of an LSTM are no parameters."""
    param, by_hand = written(name, 1, False)
    ours = Net(param, Context(phase=TRAIN, device=torch.device("meta"), rng=ShapesOnly()))
    count = sum(blob.count for layer in ours.layers if layer.type != "BatchNorm" for blob in layer.blobs)
    assert count == sum(p.numel() for key, p in by_hand.named_parameters() if not key.endswith("bias_hh_l0"))
    assert count == PARAMETERS.get(name, count)


@pytest.mark.skipif(caffe_math.why_not() is not None, reason="this machine has not Caffe's order")
@pytest.mark.parametrize("name", [name for name in NETS if name != "lstm"])
def test_the_third_forward_is_one_tape_from_input_to_output(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No layer of these nets needs Python between its kernels."""
    net, played = Net(NETS[name].param(1, True), Context(phase=TEST, rng=CaffeGenerator(1))), []
    monkeypatch.setattr(Run, "play", lambda run, first, end: played.append((first, end)) or end)
    for _ in range(3):
        net.forward()
    assert played == [(0, len(net.layers))]


@pytest.mark.parametrize(
    "name", ["lenet", "cifar10_quick", "cifar10_full", "nin", "allcnn_c", "squeezenet", "googlenet"]
)
def test_both_give_the_same_scores(name: str) -> None:
    """With our weights the hand-written net gives our scores: the same windows, the same norms, in the same order."""
    param, by_hand = written(name, 2, True)
    ours = Net(param, Context(phase=TEST, rng=TorchGenerator(1)))
    for layer in ours.layers:
        if layer.blobs:
            part = by_hand.parts[layer.name]
            part = part[-1] if isinstance(part, torch.nn.Sequential) else part
            with torch.no_grad():
                part.weight.copy_(layer.blobs[0].data)
                part.bias.copy_(layer.blobs[1].data)
    x = torch.randn(ours.blobs["data"].shape, generator=torch.Generator().manual_seed(0))
    ours.blobs["data"].data = x
    ours.forward()
    with torch.inference_mode():
        scores = by_hand.eval()(data=x)
    expected = ours.blobs[ours.outputs[0]].data
    torch.testing.assert_close(
        scores.reshape(expected.shape), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max())
    )


@pytest.mark.parametrize("bf16", [False, True])
def test_the_hand_written_nets_train_in_the_precision_asked_for(bf16: bool) -> None:
    """Convolutions and inner products, by autocast; parameters stay float32."""
    _, by_hand = written("lenet", 2, False)
    found = []
    for part in by_hand.parts.values():
        part.register_forward_hook(lambda _part, _inputs, output: found.append(output.dtype))
    training(by_hand, {"data": torch.ones(2, 1, 28, 28), "label": torch.zeros(2, dtype=torch.long)}, None, bf16)(1)
    assert set(found) == {torch.bfloat16 if bf16 else torch.float32}
    assert {p.dtype for p in by_hand.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        (["--only", "lenet,alexnet"], "--only: found alexnet, expected some of lenet, "),
        (["--batches", "1,0"], "--batches: found 0, expected numbers above 0, or own"),
    ],
)
def test_a_wrong_choice_is_named(
    option: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is started."""
    monkeypatch.setattr(sys, "argv", ["bench_nets.py", *option])
    with pytest.raises(SystemExit) as ended:
        bench_nets.main()
    assert ended.value.code == 2 and sentence in capsys.readouterr().err


@pytest.mark.slow
def test_growth_is_printed(tmp_path: Path) -> None:
    """Of images, layers and nets, and by threads; what grows faster than the rest is named, and ends with status 1."""
    path = tmp_path / "growth.json"
    command = [sys.executable, str(BENCHMARKS / "bench_growth.py"), "--most", "10", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == int("worse than linear" in done.stdout), done.stderr
    figures = json.loads(path.read_text())
    assert [list(figures[title]) for title in ("images", "layers", "nets")] == [["1", "2", "8"], ["10"], ["1", "10"]]
    assert min(cost for title in figures.values() for unit in title.values() for cost in unit.values()) > 0


@pytest.mark.slow
def test_a_layers_microseconds_are_printed(tmp_path: Path) -> None:
    """Of the layers asked for, and of what users reach for between forwards, ours first; another type is refused."""
    script, path = str(BENCHMARKS / "bench_layers.py"), tmp_path / "layers.json"
    command = [sys.executable, script, "--only", "ReLU", "--turns", "1", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr  # on a busy machine a limit may be missed
    rows = json.loads(path.read_text())
    assert list(rows) == ["ReLU", "params", "blobs", "reshape"] and all(times[0] > 0 for times in rows.values())
    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == list(rows)
    done = subprocess.run([sys.executable, script, "--only", "Relu"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "--only: found Relu, expected some of ReLU, " in done.stderr
