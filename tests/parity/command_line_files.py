"""Good and bad files for the command line, the same for both binaries."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
from support.databases import write_lmdb

from allconv_caffe.proto import BlobProto, Datum, NetParameter, SolverState

NET = """name: "Tiny"
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TRAIN }
        transform_param { scale: 0.00390625 mean_value: 128 } data_param { source: "db" backend: LMDB batch_size: 4 } }
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TEST }
        transform_param { scale: 0.00390625 mean_value: 128 } data_param { source: "db" backend: LMDB batch_size: 5 } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" param { lr_mult: 1 } param { lr_mult: 2 }
        convolution_param { num_output: 2 kernel_size: 3 weight_filler { type: "constant" value: 0.1 } } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1" pooling_param { pool: AVE kernel_size: 3 stride: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "pool1" top: "ip"
        inner_product_param { num_output: 3 weight_filler { type: "constant" value: 0.01 } } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy" include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
SOLVER = """net: "net.prototxt"
test_iter: 2
test_interval: 4
base_lr: 0.05
lr_policy: "step"
stepsize: 5
gamma: 0.1
momentum: 0.9
weight_decay: 0.001
display: 2
max_iter: 8
snapshot: 4
snapshot_prefix: "x"
random_seed: 1
"""


def write_good(folder: Path) -> None:
    """db, net.prototxt, solver.prototxt."""
    rs = np.random.RandomState(0)
    write_lmdb(folder / "db", [datum(rs, label=i % 3) for i in range(10)])
    (folder / "net.prototxt").write_text(NET)
    (folder / "solver.prototxt").write_text(SOLVER)


def datum(
    rs: np.random.RandomState, shape: tuple[int, int, int] = (3, 8, 8), count: int | None = None, **fields: Any
) -> bytes:
    """A Datum that says `shape`, with `count` random bytes as data unless `fields` give other contents."""
    channels, height, width = shape
    if not {"data", "float_data"} & set(fields):
        fields["data"] = rs.bytes(abs(channels * height * width) if count is None else count)
    return bytes(Datum(channels=channels, height=height, width=width, **fields).SerializeToString())


def _lmdbs(folder: Path) -> None:
    """Databases and data.mdb files that no layer should have to read, each with a net of its name."""
    rs = np.random.RandomState(1)
    good = [datum(rs, label=i % 3) for i in range(10)]
    image = cv2.imencode(".png", rs.randint(0, 256, (8, 8, 3)).astype(np.uint8))[1].tobytes()
    for name, values in {
        "empty": [],
        "no_datum": [b"\xff" * 20] * 10,
        "text": [b"these are words, not numbers"] * 10,
        "short": [datum(rs, count=100)] * 10,
        "long": [datum(rs, count=300)] * 10,
        "short_float": [datum(rs, float_data=[1.0] * 50)] * 10,
        "no_data": [datum(rs, data=b"")] * 10,
        "no_channels": [datum(rs, (0, 8, 8))] * 10,
        "negative": [datum(rs, (3, -8, -8))] * 10,
        "huge": [datum(rs, (3, 65536, 65536), count=192)] * 10,
        "truncated_datum": [value[:100] for value in good],
        "later_truncated": [*good[:5], good[5][:100], *good[6:]],
        "mixed": [*good[:5], *[datum(rs, (3, 9, 9))] * 5],
        "mixed_channels": [*good[:5], *[datum(rs, (1, 8, 8))] * 5],
        "encoded": [datum(rs, data=image, encoded=True)] * 10,
        "no_image": [datum(rs, data=b"\x89PNG no image", encoded=True)] * 10,
        "cut_image": [datum(rs, data=image[:60], encoded=True)] * 10,
        "empty_image": [datum(rs, data=b"", encoded=True)] * 10,
        "far_label": [datum(rs, label=1000)] * 10,
        "negative_label": [datum(rs, label=-1)] * 10,
    }.items():
        write_lmdb(folder / name, values)
    whole = (folder / "db" / "data.mdb").read_bytes()
    for name, raw in {
        "mdb_cut": whole[: len(whole) // 2],
        "mdb_one_page": whole[:4096],
        "mdb_empty": b"",
        "mdb_zeros": bytes(len(whole)),
        "mdb_text": b"no database\n" * 1000,
        "mdb_root_zeroed": whole[:8192] + bytes(len(whole) - 8192),
        "mdb_version": whole[:20] + b"\x07" + whole[21:4116] + b"\x07" + whole[4117:],
        "mdb_noise": whole[:8192] + np.random.RandomState(2).bytes(len(whole) - 8192),
    }.items():
        (folder / name).mkdir()
        (folder / name / "data.mdb").write_bytes(raw)
    (folder / "a_file").write_text("no folder")
    (folder / "no_mdb").mkdir()


def _nets(folder: Path) -> None:
    """Variants of NET, each with one mistake."""
    for name, (old, new) in {
        "unknown_type": ('"InnerProduct"', '"Nope"'),
        "unknown_field": ("kernel_size: 3 weight", "kernel_sise: 3 weight"),
        "unknown_block": ("pooling_param {", "pool_param {"),
        "wrong_enum": ("pool: AVE", "pool: AVG"),
        "wrong_enum_number": ("pool: AVE", "pool: 7"),
        "wrong_phase": ("phase: TRAIN", "phase: TRIAN"),
        "text_for_number": ("num_output: 2", 'num_output: "2"'),
        "number_for_text": ('top: "conv1" param', "top: 3 param"),
        "fraction": ("num_output: 2", "num_output: 2.5"),
        "out_of_range": ("num_output: 2", "num_output: 4294967296"),
        "minus": ("num_output: 2", "num_output: -2"),
        "twice": ("num_output: 2", "num_output: 2 num_output: 3"),
        "unclosed": ("phase: TEST } }\nlayer", "phase: TEST }\nlayer"),
        "no_colon": ("num_output: 2", "num_output 2"),
        "stray": ('name: "Tiny"', 'name: "Tiny" }'),
        "open_string": ('"relu1"', '"relu1'),
        "not_utf8": ('"relu1"', '"relu\xff"'),
        "nul": ('"relu1"', '"relu1"\0'),
        "bad_bool": ("num_output: 2", "num_output: 2 bias_term: maybe"),
        "missing_bottom": ('bottom: "conv1" top: "pool1"', 'bottom: "conv9" top: "pool1"'),
        "no_bottom": ('type: "InnerProduct" bottom: "pool1"', 'type: "InnerProduct"'),
        "two_bottoms": ('type: "InnerProduct" bottom: "pool1"', 'type: "InnerProduct" bottom: "pool1" bottom: "data"'),
        "no_top": ('bottom: "pool1" top: "ip"', 'bottom: "pool1"'),
        "duplicate_blob": ('bottom: "pool1" top: "ip"', 'bottom: "pool1" top: "conv1"'),
        "no_num_output": ("num_output: 3 ", ""),
        "zero_num_output": ("num_output: 2", "num_output: 0"),
        "zero_kernel": ("kernel_size: 3 weight", "kernel_size: 0 weight"),
        "no_kernel": ("kernel_size: 3 weight", "weight"),
        "zero_stride": ("stride: 2", "stride: 0"),
        "wide_stride": ("stride: 2", "stride: 2147483648"),
        "far_stride": ("stride: 2", "stride: 2147483647"),
        "far_pad": ("kernel_size: 3 stride", "kernel_size: 2147483647 pad: 1073741824 stride"),
        "big_im2col": (
            'layer { name: "ip"',
            'layer { name: "col" type: "Im2col" bottom: "pool1" top: "col" convolution_param { kernel_size: 9 } }\nlayer { name: "ip"',
        ),
        "sparse_filler": ('"constant" value: 0.1', '"gaussian" sparse: 30'),
        "big_kernel": ("kernel_size: 3 weight", "kernel_size: 9 weight"),
        "big_pool": ("kernel_size: 3 stride", "kernel_size: 9 stride"),
        "pool_pad": ("kernel_size: 3 stride", "kernel_size: 3 pad: 3 stride"),
        "group": ("num_output: 2", "num_output: 2 group: 2"),
        "bad_filler": ('"constant" value: 0.01', '"nope"'),
        "three_params": ("param { lr_mult: 2 }", "param { lr_mult: 2 } param { lr_mult: 1 }"),
        "include_exclude": (
            'include { phase: TEST } }\nlayer { name: "loss"',
            'include { phase: TEST } exclude { stage: "x" } }\nlayer { name: "loss"',
        ),
        "loss_weights": ('top: "loss"', 'top: "loss" loss_weight: 1 loss_weight: 2'),
        "propagate_down": ('top: "loss"', 'top: "loss" propagate_down: true'),
        "bad_axis": ("num_output: 3", "num_output: 3 axis: 7"),
        "batch_size_zero": ("batch_size: 4", "batch_size: 0"),
        "no_source": ('source: "db" backend: LMDB batch_size: 4', "backend: LMDB batch_size: 4"),
        "no_backend": ("backend: LMDB batch_size: 4", "batch_size: 4"),
        "crop": (
            'mean_value: 128 } data_param { source: "db" backend: LMDB batch_size: 4',
            'crop_size: 9 } data_param { source: "db" backend: LMDB batch_size: 4',
        ),
        "mean_values": ("mean_value: 128 }", "mean_value: 128 mean_value: 3 }"),
        "mean_both": ("mean_value: 128 }", 'mean_value: 128 mean_file: "mean.binaryproto" }'),
        "mean_missing": ("mean_value: 128 }", 'mean_file: "gone.binaryproto" }'),
        "mean_shape": ("mean_value: 128 }", 'mean_file: "mean7.binaryproto" }'),
        "mean_corrupt": ("mean_value: 128 }", 'mean_file: "a_file" }'),
        "num_labels": ('bottom: "label" top: "loss"', 'bottom: "data" top: "loss"'),
        "top_k": ('top: "accuracy" include', 'top: "accuracy" accuracy_param { top_k: 9 } include'),
        "same_name": ('name: "relu1"', 'name: "conv1"'),
        "huge_output": ("num_output: 3", "num_output: 2147483647"),
        "share": ("param { lr_mult: 1 } param { lr_mult: 2 }", 'param { name: "w" } param { name: "w" }'),
        **{
            f"dropout_{word}": (
                'type: "ReLU" bottom: "conv1" top: "conv1"',
                f'type: "Dropout" bottom: "conv1" top: "conv1" dropout_param {{ dropout_ratio: {ratio} }}',
            )
            for word, ratio in {"over": "1.5", "below": "-0.5", "nan": "nan", "inf": "inf", "one": "1"}.items()
        },
    }.items():
        assert old in NET, name
        (folder / f"{name}.prototxt").write_bytes(NET.replace(old, new, 1).encode("latin-1"))
    for db in [p.name for p in folder.iterdir() if p.is_dir()] + ["gone", "a_file"]:
        (folder / f"db_{db}.prototxt").write_text(NET.replace('"db"', f'"{db}"'))
    rs = np.random.RandomState(3)
    for name, shape in {"mean": (1, 3, 8, 8), "mean7": (1, 3, 7, 7)}.items():
        blob = BlobProto(num=shape[0], channels=shape[1], height=shape[2], width=shape[3])
        blob.data.extend(rs.rand(int(np.prod(shape))).tolist())
        (folder / f"{name}.binaryproto").write_bytes(blob.SerializeToString())
    (folder / "blank.prototxt").write_text("")
    (folder / "comment.prototxt").write_text("# nothing\n")
    (folder / "bad_shape.prototxt").write_text(NET.replace("num_output: 3", "num_output: 4"))
    (folder / "renamed.prototxt").write_text(NET.replace('name: "ip"', 'name: "ip_new"'))
    (folder / "no_bias.prototxt").write_text(NET.replace("num_output: 3", "num_output: 3 bias_term: false"))


def _other_sources(folder: Path) -> None:
    """ImageData, HDF5Data and MemoryData with lists and files that are not what they should be."""
    rs = np.random.RandomState(4)
    picture = rs.randint(0, 256, (8, 8, 3)).astype(np.uint8)
    cv2.imwrite(str(folder / "a.png"), picture)
    cv2.imwrite(str(folder / "b.png"), picture[:7])
    (folder / "no_picture.png").write_bytes(b"\x89PNG\r\n")
    for name, text in {
        "good": "a.png 0\na.png 2\n",
        "empty": "",
        "no_label": "a.png\n",
        "gone": "gone.png 0\n",
        "later_gone": "a.png 0\ngone.png 1\na.png 2\na.png 1\n",
        "no_picture": "no_picture.png 0\n",
        "mixed": "a.png 0\nb.png 1\n",
        "text_label": "a.png one\n",
    }.items():
        (folder / f"list_{name}.txt").write_text(text)
        _data_net(
            folder, f"i_{name}", f'type: "ImageData" image_data_param {{ source: "list_{name}.txt" batch_size: 2 }}'
        )
    for name, options in {
        "no_list": 'source: "gone.txt" batch_size: 2',
        "folder": 'source: "db" batch_size: 2',
        "no_batch": 'source: "list_good.txt" batch_size: 0',
        "one_size": 'source: "list_good.txt" batch_size: 2 new_height: 4',
        "root": 'source: "list_good.txt" batch_size: 2 root_folder: "nowhere/"',
        "skip": 'source: "list_good.txt" batch_size: 2 rand_skip: 1000000000',
    }.items():
        _data_net(folder, f"i_{name}", f'type: "ImageData" image_data_param {{ {options} }}')

    def h5(name: str, **arrays: object) -> None:
        with h5py.File(folder / f"{name}.h5", "w") as file:
            for key, values in arrays.items():
                file[key] = values

    images, labels = rs.rand(6, 3, 8, 8).astype(np.float32), np.arange(6, dtype=np.float32) % 3
    h5("data_good", data=images, label=labels)
    h5("data_short", data=images, label=labels[:4])
    h5("data_no_label", data=images)
    h5("data_uint8", data=(images * 255).astype(np.uint8), label=labels)
    h5("data_double", data=images.astype(np.float64), label=labels)
    h5("data_text", data=np.bytes_(b"words"), label=labels)
    h5("data_scalar", data=np.float32(1), label=labels)
    h5("data_none", data=images[:0], label=labels[:0])
    h5("data_deep", data=images, label=labels.reshape(6, 1, 1))
    (folder / "data_cut.h5").write_bytes((folder / "data_good.h5").read_bytes()[:3000])
    for name, lines in {
        **{
            name: [f"data_{name}.h5"]
            for name in ("good", "short", "no_label", "uint8", "double", "text", "scalar", "none", "deep", "cut")
        },
        "gone": ["gone.h5"],
        "no_hdf5": ["a.png"],
        "empty": [],
        "later_gone": ["data_good.h5", "gone.h5"],
        "folder": ["db"],
    }.items():
        (folder / f"h5list_{name}.txt").write_text("".join(f"{line}\n" for line in lines))
        _data_net(
            folder, f"5_{name}", f'type: "HDF5Data" hdf5_data_param {{ source: "h5list_{name}.txt" batch_size: 4 }}'
        )
    for name, options in {
        "no_list": 'source: "gone.txt" batch_size: 4',
        "no_batch": 'source: "h5list_good.txt" batch_size: 0',
    }.items():
        _data_net(folder, f"5_{name}", f'type: "HDF5Data" hdf5_data_param {{ {options} }}')
    for name, options in {
        "unfed": "batch_size: 2 channels: 3 height: 8 width: 8",
        "no_size": "batch_size: 2 channels: 3",
        "negative": "batch_size: 2 channels: 3 height: 8 width: 0",
    }.items():
        _data_net(folder, f"y_{name}", f'type: "MemoryData" memory_data_param {{ {options} }}')


def _data_net(folder: Path, name: str, data: str) -> None:
    head, tail = NET.index("layer"), NET.index('layer { name: "conv1"')
    layer = f'layer {{ name: "data" top: "data" top: "label" {data} }}\n'
    (folder / f"{name}.prototxt").write_text(NET[:head] + layer + NET[tail:])


def _solvers(folder: Path) -> None:
    """Variants of SOLVER, each with one mistake."""
    changes: dict[str, Callable[[str], str]] = {
        "s_unknown_field": lambda s: s.replace("gamma", "gama"),
        "s_bad_policy": lambda s: s.replace('"step"', '"steps"'),
        "s_bad_type": lambda s: s + 'type: "Nope"\n',
        "s_bad_mode": lambda s: s + "solver_mode: TPU\n",
        "s_no_net": lambda s: s.replace('net: "net.prototxt"\n', ""),
        "s_two_nets": lambda s: s + 'train_net: "net.prototxt"\n',
        "s_missing_net": lambda s: s.replace('"net.prototxt"', '"gone.prototxt"'),
        "s_bad_net": lambda s: s.replace('"net.prototxt"', '"unknown_type.prototxt"'),
        "s_no_interval": lambda s: s.replace("test_interval: 4\n", ""),
        "s_no_test_iter": lambda s: s.replace("test_iter: 2\n", 'test_net: "net.prototxt"\n'),
        "s_test_iter_zero": lambda s: s.replace("test_iter: 2", "test_iter: 0"),
        "s_test_states": lambda s: s + 'test_state { stage: "a" } test_state { stage: "b" }\n',
        "s_stepsize_zero": lambda s: s.replace("stepsize: 5", "stepsize: 0"),
        "s_no_stepsize": lambda s: s.replace("stepsize: 5\n", ""),
        "s_gamma": lambda s: s.replace("gamma: 0.1", "gamma: -0.1"),
        "s_average_loss": lambda s: s + "average_loss: 0\n",
        "s_no_prefix": lambda s: s.replace('snapshot_prefix: "x"\n', ""),
        "s_prefix_folder": lambda s: s.replace('"x"', '"no/such/folder/x"'),
        "s_prefix_file": lambda s: s.replace('"x"', '"a_file/x"'),
        "s_prefix_forbidden": lambda s: s.replace('"x"', '"/proc/x"'),
        "s_prefix_empty": lambda s: s.replace('"x"', '""'),
        "s_regularization": lambda s: s + 'regularization_type: "L3"\n',
        "s_iter_size": lambda s: s + "iter_size: 0\n",
        "s_max_iter": lambda s: s.replace("max_iter: 8", "max_iter: -1"),
        "s_weights_missing": lambda s: s + 'weights: "gone.caffemodel"\n',
        "s_adam_momentum": lambda s: s + 'type: "RMSProp"\n',
        "s_rms_decay": lambda s: s.replace("momentum: 0.9", 'type: "RMSProp" rms_decay: 2'),
        "s_adagrad": lambda s: s + 'type: "AdaGrad"\n',
        "s_device": lambda s: s + "device_id: 7\n",
        "s_old_type": lambda s: s + "solver_type: ADAM\n",
        "s_both_types": lambda s: s + 'solver_type: ADAM type: "SGD"\n',
        "s_hdf5": lambda s: s.replace('"x"', '"h"') + "snapshot_format: HDF5\n",
    }
    for name, change in changes.items():
        assert change(SOLVER) != SOLVER, name
        (folder / f"{name}.prototxt").write_text(change(SOLVER))


def write_bad(folder: Path) -> None:
    """Everything wrong that needs no trained net."""
    _lmdbs(folder)
    _nets(folder)
    _other_sources(folder)
    _solvers(folder)


def write_bad_snapshots(folder: Path) -> None:
    """Damaged variants of x_iter_8.caffemodel, x_iter_4.solverstate and of h_iter_8, h_iter_4 in HDF5."""
    whole = (folder / "x_iter_8.caffemodel").read_bytes()
    net = NetParameter.FromString(whole)
    state_bytes = (folder / "x_iter_4.solverstate").read_bytes()
    state = SolverState.FromString(state_bytes)
    conv = next(i for i, layer in enumerate(net.layer) if layer.name == "conv1")

    def changed(change: Callable[[Any], object], message: Any = net) -> bytes:
        copy = type(message)()
        copy.CopyFrom(message)
        change(copy)
        return bytes(copy.SerializeToString())

    def dims(*shape: int) -> Callable[[Any], None]:
        def change(n: Any) -> None:
            n.layer[conv].blobs[0].shape.dim[:] = shape

        return change

    def legacy(*shape: int) -> Callable[[Any], None]:
        def change(n: Any) -> None:
            blob = n.layer[conv].blobs[0]
            blob.ClearField("shape")
            blob.num, blob.channels, blob.height, blob.width = shape

        return change

    nan = struct.pack("<f", float("nan"))
    for name, raw in {
        "cut": whole[: len(whole) // 2],
        "cut_1": whole[:-1],
        "empty": b"",
        "text": b"this is no model at all\n" * 10,
        "zeros": bytes(200),
        "ones": b"\xff" * 200,
        "tail": whole + b"\x07\x07",
        "long": b"\xa2\x06\xff\xff\xff\xff\x07" + whole[3:],
        "no_blobs": changed(lambda n: n.layer[conv].ClearField("blobs")),
        "one_blob": changed(lambda n: n.layer[conv].blobs.pop()),
        "more_blobs": changed(lambda n: n.layer[conv].blobs.add()),
        "blob_without_data": changed(lambda n: n.layer[conv].blobs[0].ClearField("data")),
        "blob_with_less": changed(lambda n: n.layer[conv].blobs[0].data.pop()),
        "blob_with_more": changed(lambda n: n.layer[conv].blobs[0].data.append(1)),
        "no_shape": changed(lambda n: n.layer[conv].blobs[0].ClearField("shape")),
        "other_shape": changed(dims(2, 3, 3, 4)),
        "flat": changed(dims(54)),
        "negative_shape": changed(dims(-2, -3, 3, 3)),
        "zero_shape": changed(dims(0, 3, 3, 3)),
        "huge_shape": changed(dims(65536, 65536, 65536, 65536)),
        "wide_shape": changed(dims(2**32 + 2, 3, 3, 3)),
        "many_axes": changed(dims(*[1] * 33)),
        "a_million_axes": changed(dims(*[1] * 1_000_000)),
        "legacy": changed(legacy(2, 3, 3, 3)),
        "legacy_other": changed(legacy(2, 3, 3, 4)),
        "legacy_negative": changed(legacy(-2, -3, 3, 3)),
        "nan": whole.replace(struct.pack("<f", net.layer[conv].blobs[0].data[0]), nan),
        "unknown_field": whole + b"\xc2\x3e\x03abc",
        "other_layers": changed(lambda n: n.layer[conv].ClearField("name")),
        "layer_twice": whole + changed(lambda n: n.ClearField("layer")) + changed(lambda n: None),
        "state": state_bytes,
    }.items():
        (folder / f"m_{name}.caffemodel").write_bytes(raw)
    for name, raw in {
        "cut": state_bytes[: len(state_bytes) // 2],
        "cut_1": state_bytes[:-1],
        "empty": b"",
        "text": b"this is no state at all\n" * 10,
        "no_history": changed(lambda s: s.ClearField("history"), state),
        "one_less": changed(lambda s: s.history.pop(), state),
        "one_more": changed(lambda s: s.history.add(), state),
        "other_shape": changed(lambda s: s.history[0].shape.dim.append(1), state),
        "negative_shape": changed(lambda s: s.history[0].shape.dim.__setitem__(0, -2), state),
        "no_data": changed(lambda s: s.history[0].ClearField("data"), state),
        "model_gone": changed(lambda s: setattr(s, "learned_net", "gone.caffemodel"), state),
        "model_empty_name": changed(lambda s: setattr(s, "learned_net", ""), state),
        "no_model": changed(lambda s: s.ClearField("learned_net"), state),
        "model_bad": changed(lambda s: setattr(s, "learned_net", "m_cut.caffemodel"), state),
        "far": changed(lambda s: setattr(s, "iter", 2**31 - 1), state),
        "negative_iter": changed(lambda s: setattr(s, "iter", -1), state),
        "negative_step": changed(lambda s: setattr(s, "current_step", -1), state),
        "is_model": whole,
    }.items():
        (folder / f"t_{name}.solverstate").write_bytes(raw)
    for source, prefix in (("h_iter_8.caffemodel.h5", "m_"), ("h_iter_4.solverstate.h5", "t_")):
        raw = (folder / source).read_bytes()
        ending = source.partition(".")[2]
        (folder / f"{prefix}cut.{ending}").write_bytes(raw[: len(raw) // 2])
        (folder / f"{prefix}text.{ending}").write_bytes(b"no HDF5")
        (folder / f"{prefix}empty.{ending}").write_bytes(b"")
        (folder / f"{prefix}zeroed.{ending}").write_bytes(raw[:512] + bytes(len(raw) - 512))

    def h5(name: str, source: str, change: Callable[[Any], object]) -> None:
        (folder / name).write_bytes((folder / source).read_bytes())
        with h5py.File(folder / name, "r+") as file:
            change(file)

    def put(path: str, values: object) -> Callable[[Any], None]:
        def change(file: Any) -> None:
            if path in file:
                del file[path]
            file[path] = values

        return change

    for name, change in {
        "no_data": lambda f: f.__delitem__("data"),
        "no_blob": lambda f: f.__delitem__("data/conv1/1"),
        "no_layer": lambda f: f.__delitem__("data/conv1"),
        "more_blobs": put("data/conv1/2", np.zeros(3, np.float32)),
        "other_shape": put("data/conv1/0", np.zeros((2, 3, 3, 4), np.float32)),
        "other_axes": put("data/conv1/0", np.zeros(54, np.float32)),
        "double": put("data/conv1/0", np.zeros((2, 3, 3, 3))),
        "integer": put("data/conv1/0", np.zeros((2, 3, 3, 3), np.int32)),
        "string": put("data/conv1/0", np.bytes_(b"words")),
        "scalar": put("data/conv1/0", np.float32(3)),
        "group_for_blob": lambda f: (f.__delitem__("data/conv1/0"), f.create_group("data/conv1/0")),
        "blob_for_group": lambda f: (f.__delitem__("data/conv1"), f.create_dataset("data/conv1", data=np.zeros(3))),
    }.items():
        h5(f"m_{name}.caffemodel.h5", "h_iter_8.caffemodel.h5", change)
    for name, change in {
        "no_iter": lambda f: f.__delitem__("iter"),
        "no_step": lambda f: f.__delitem__("current_step"),
        "no_history": lambda f: f.__delitem__("history"),
        "one_less": lambda f: f.__delitem__("history/3"),
        "one_more": put("history/4", np.zeros(3, np.float32)),
        "other_name": lambda f: f.move("history/3", "history/7"),
        "other_shape": put("history/0", np.zeros((2, 3, 3, 4), np.float32)),
        "no_model": lambda f: f.__delitem__("learned_net"),
        "model_gone": put("learned_net", np.bytes_(b"gone.caffemodel.h5")),
        "model_number": put("learned_net", np.float32(3)),
        "negative_step": put("current_step", np.full(1, -1, np.int32)),
        "iter_float": put("iter", np.zeros(1, np.float32)),
        "iter_two": put("iter", np.zeros(2, np.int32)),
        "iter_text": put("iter", np.bytes_(b"four")),
    }.items():
        h5(f"t_{name}.solverstate.h5", "h_iter_4.solverstate.h5", change)
