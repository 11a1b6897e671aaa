"""V0 and V1 nets beside Caffe's own upgrade_net_proto_text: the same net, the same log lines."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from allconv_caffe.caffe_torch.upgrade import upgrade_net
from allconv_caffe.proto import read_net, to_text

CAFFE = Path(__file__).parents[2] / ".caffe" / "bin" / "caffe"
LINE = re.compile(r"([IWE])\d{4} \S+ +\d+ (upgrade_proto\.cpp:\d+\] .*)")
NETS = {
    "v1": """name: "old" force_backward: true
input: "data" input_dim: 2 input_dim: 3 input_dim: 8 input_dim: 8
layers { name: "d" type: DATA top: "x" top: "y" include { phase: TRAIN stage: "never" }
         data_param { source: "db" batch_size: 4 backend: LMDB scale: 0.5 mirror: true crop_size: 6 } }
layers { name: "c" type: CONVOLUTION bottom: "data" top: "c" blobs_lr: 1 blobs_lr: 2 weight_decay: 1 weight_decay: 0
         param: "w" blob_share_mode: PERMISSIVE convolution_param { num_output: 4 kernel_size: 3 } }
layers { name: "r" type: RELU bottom: "c" top: "c" relu_param { negative_slope: 0.1 } }
layers { name: "ip" type: INNER_PRODUCT bottom: "c" top: "ip" loss_weight: 0 inner_product_param { num_output: 5 } }
""",
    "v0": """name: "older" input: "data" input_dim: 2 input_dim: 3 input_dim: 8 input_dim: 8 debug_info: true
layers { layer { name: "pad1" type: "padding" pad: 2 } bottom: "data" top: "pad1" }
layers { layer { name: "c" type: "conv" num_output: 4 kernelsize: 3 group: 1 stride: 2 biasterm: true blobs_lr: 1.
                 weight_filler { type: "xavier" } bias_filler { type: "constant" value: 0.5 } weight_decay: 1. }
         bottom: "pad1" top: "c" }
layers { layer { name: "r" type: "relu" k: 3 } bottom: "c" top: "c" }
layers { layer { name: "p" type: "pool" pool: AVE kernelsize: 2 stride: 2 pad: 1 } bottom: "c" top: "p" }
layers { layer { name: "l" type: "lrn" local_size: 3 alpha: 0.1 beta: 0.5 k: 2 } bottom: "p" top: "l" }
layers { layer { name: "dr" type: "dropout" dropout_ratio: 0.3 } bottom: "l" top: "l" }
layers { layer { name: "im" type: "images" source: "s" batchsize: 2 cropsize: 3 mirror: true rand_skip: 4
                 shuffle_images: true new_height: 5 new_width: 6 scale: 0.5 meanfile: "m" } top: "im" }
""",
    "shape": 'input: "a" input: "b" input_shape { dim: 1 } input_shape { dim: 2 dim: 3 }\n'
    'layer { name: "n" type: "BatchNorm" bottom: "a" top: "n" param { lr_mult: 1 } param { } param { } }\n',
}


def real_upgrade(folder: Path, name: str) -> tuple[str, list[tuple[str, ...]]]:
    tool = CAFFE.read_text().replace('/usr/bin/caffe"', '/usr/bin/upgrade_net_proto_text"')
    tool = tool.replace('$(readlink -f "$0")', str(CAFFE.resolve()))
    done = subprocess.run(["sh", "-c", tool, "tool", name, "out"], cwd=folder, capture_output=True, text=True)
    return (folder / "out").read_text(), [m.groups() for m in map(LINE.match, done.stderr.splitlines()) if m]


def v1_with_every_type() -> str:
    from allconv_caffe.proto.upgrade import V1_TYPES

    return "".join(f'layers {{ name: "{t}" type: {t} }}\n' for t in V1_TYPES)


def v0_with_every_type_and_field() -> str:
    from allconv_caffe.proto.upgrade import V0_FIELDS, V0_TYPES

    values = {
        "weight_filler": ' { type: "x" }',
        "bias_filler": ' { type: "y" }',
        "pool": ": STOCHASTIC",
        "source": ': "s"',
        "meanfile": ': "m"',
        "det_crop_mode": ': "square"',
        "biasterm": ": false",
        "mirror": ": true",
        "shuffle_images": ": true",
        "hdf5_output_param": ' { file_name: "f" }',
    }
    fields = " ".join(name + values.get(name, ": 3") for name, _, _ in V0_FIELDS)
    return "".join(f'layers {{ layer {{ name: "{t}" type: "{t}" {fields} }} }}\n' for t in V0_TYPES)


@pytest.mark.parametrize("name", [*NETS, "every V1 type", "every V0 type and field"])
def test_old_nets_become_the_net_that_caffe_makes(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Byte for byte the prototxt that Caffe's tool writes, and its log lines, with level, file and line."""
    made = {"every V1 type": v1_with_every_type, "every V0 type and field": v0_with_every_type_and_field}
    (tmp_path / "net").write_text(made[name]() if name in made else NETS[name])
    text, lines = real_upgrade(tmp_path, "net")
    capfd.readouterr()
    ours = upgrade_net(read_net(tmp_path / "net"), "net")
    found = [m.groups() for m in map(LINE.match, capfd.readouterr().err.splitlines()) if m]
    assert to_text(ours) == text
    assert found == lines and lines
