"""Random data sets and the layers that read them: LMDB, image lists, HDF5, arrays, noise; good ones and now and then wrong ones."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import cv2
import h5py
import lmdb
import numpy as np

from allconv_caffe.proto import BlobProto, Datum

PHASES = ("",) * 14 + ("include { phase: TRAIN } ", "exclude { phase: TEST } ")


# files
def write_files(recipes: list[dict[str, Any]], folder: Path) -> None:
    """Makes what the recipes of a job describe; the same bytes for the same recipe."""
    for recipe in recipes:
        WRITERS[recipe["kind"]](recipe, folder / recipe["name"], np.random.RandomState(recipe["seed"]))


def _lmdb(recipe: dict[str, Any], path: Path, rs: np.random.RandomState) -> None:
    with lmdb.open(str(path), map_size=1 << 22) as env, env.begin(write=True) as txn:
        for i in range(recipe["count"]):
            channels, height, width = recipe["shapes"][i % len(recipe["shapes"])]
            datum = Datum(channels=channels, height=height, width=width)
            form = recipe["forms"][i % len(recipe["forms"])]
            pixels = rs.randint(0, 256, (height, width, channels)).astype(np.uint8)
            if form in (".png", ".jpg", ".bmp"):
                datum.data, datum.encoded = (
                    cv2.imencode(form, pixels[:, :, 0] if channels == 1 else pixels)[1].tobytes(),
                    True,
                )
            elif form == "floats":
                datum.float_data.extend(rs.standard_normal(pixels.size))
            else:
                datum.data = pixels.tobytes()
            if recipe["labels"]:
                datum.label = int(rs.randint(-3, 1000))
            txn.put(recipe["key"].encode() % rs.randint(0, 10000) + b"%d" % i, datum.SerializeToString())


def _images(recipe: dict[str, Any], path: Path, rs: np.random.RandomState) -> None:
    lines = []
    for i in range(recipe["count"]):
        channels, height, width = recipe["shapes"][i % len(recipe["shapes"])]
        name = f"{recipe['prefix']}{i}{recipe['forms'][i % len(recipe['forms'])]}"
        pixels = rs.randint(0, 256, (height, width, channels)).astype(np.uint8)
        cv2.imwrite(str(path.parent / name), pixels[:, :, 0] if channels == 1 else pixels)
        lines.append(recipe["line"].format(name=name, label=rs.randint(-5, 2000)))
    path.write_text(recipe["before"] + recipe["between"].join(lines) + recipe["after"])


def _hdf5(recipe: dict[str, Any], path: Path, rs: np.random.RandomState) -> None:
    with h5py.File(path, "w") as file:
        for name, (dtype, shape) in recipe["sets"].items():
            values = rs.uniform(-3, 200, shape)
            file.create_dataset(name, data=values.astype(dtype), **(recipe["options"] if shape else {}))


def _mean(recipe: dict[str, Any], path: Path, rs: np.random.RandomState) -> None:
    channels, height, width = recipe["shape"]
    values = rs.uniform(0, 200, channels * height * width).astype(np.float32)
    proto = BlobProto()
    if recipe["legacy"]:
        proto.num, proto.channels, proto.height, proto.width = 1, channels, height, width
    else:
        proto.shape.dim.extend([1, channels, height, width] if recipe["axes"] == 4 else [channels, height, width])
    (proto.double_data if recipe["double"] else proto.data).extend(values)
    path.write_bytes(proto.SerializeToString())


def _text(recipe: dict[str, Any], path: Path, rs: np.random.RandomState) -> None:
    path.write_text(recipe["text"])


WRITERS = {"lmdb": _lmdb, "images": _images, "hdf5": _hdf5, "mean": _mean, "text": _text}


# layers
class Maker:
    """One net of data layers in the making: its lines, the recipes of its files, the arrays for its MemoryData."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.recipes: list[dict[str, Any]] = []
        self.lines: list[str] = []
        self.arrays: list[Any] = []
        self.inputs: list[Any] = []

    def maybe(self, p: float) -> bool:
        return self.rng.random() < p

    def some(self, p: float, text: str) -> str:
        return text + " " if self.maybe(p) else ""

    def file(self, kind: str, **recipe: Any) -> str:
        name = f"{kind}{len(self.recipes)}"
        self.recipes.append({"kind": kind, "name": name, "seed": self.rng.randrange(1 << 30), **recipe})
        return name

    def shape(self, channels: tuple[int, ...] = (1, 3, 3, 3, 4, 2)) -> list[int]:
        return [self.rng.choice(channels), self.rng.randint(3, 9), self.rng.randint(3, 9)]

    def transform(self, shape: list[int], colour: bool) -> str:
        if self.maybe(0.3):
            return ""
        rng, words = self.rng, ""
        least = min(shape[1:])
        words += self.some(0.5, f"crop_size: {rng.randint(1, least + (rng.random() < 0.1))}")
        words += self.some(0.5, f"mirror: {rng.choice(['true', 'true', 'false'])}")
        words += self.some(0.5, f"scale: {rng.choice(['0.00390625', '0.017', '2', '-1', '0', '1e-3'])}")
        if self.maybe(0.4):
            count = rng.choice([1, shape[0], shape[0], 2])
            words += " ".join(f"mean_value: {rng.choice([104, 116.67, 0.5, -3, 122])}" for _ in range(count)) + " "
        if self.maybe(0.35 if "mean_value" not in words else 0.05):
            own = list(shape)
            if self.maybe(0.1):
                own[rng.randrange(3)] += 1
            words += f'mean_file: "{self.mean(own)}" '
        if colour:
            words += self.some(0.15, "force_color: true") + self.some(0.12, "force_gray: true")
        return f"transform_param {{ {words}}} "

    def mean(self, shape: list[int]) -> str:
        if self.maybe(0.03):
            return "gone"
        return self.file(
            "mean", shape=shape, legacy=self.maybe(0.7), axes=self.rng.choice([4, 4, 3]), double=self.maybe(0.1)
        )

    def tops(self, name: str, usual: int) -> str:
        count = usual if self.maybe(0.93) else self.rng.choice([0, 1, 2, 3])
        return " ".join(f'top: "{name}_{i}"' for i in range(count))

    def add(self, type_: str, name: str, tops: str, text: str) -> None:
        self.lines.append(f'layer {{ name: "{name}" type: "{type_}" {tops} {self.rng.choice(PHASES)}{text} }}')


def data(m: Maker, name: str) -> None:
    rng = m.rng
    encoded = m.maybe(0.35)
    shape = m.shape((1, 3, 3) if encoded else (1, 3, 3, 3, 4, 2))
    shapes = [shape] if m.maybe(0.85) else [shape, shape, m.shape((shape[0],))]
    forms = (
        rng.choice([[".png"], [".png", ".bmp"], [".jpg"]])
        if encoded
        else rng.choice([["bytes"], ["bytes"], ["floats"], ["bytes", "floats"]])
    )
    source = m.file(
        "lmdb",
        count=rng.randint(1, 7),
        shapes=shapes,
        forms=forms,
        labels=m.maybe(0.9),
        key=rng.choice(["%08d", "%d", "k%x_"]),
    )
    if m.maybe(0.03):
        source = "gone"
    text = f'data_param {{ source: "{source}" backend: LMDB '
    text += m.some(0.97, f"batch_size: {rng.randint(1, 5)}") + m.some(0.2, f"prefetch: {rng.randint(1, 6)}")
    text += m.some(0.1, f"rand_skip: {rng.randint(1, 9)}") + "} "
    m.add("Data", name, m.tops(name, rng.choice([1, 2, 2])), text + m.transform(shape, encoded))


def image_data(m: Maker, name: str) -> None:
    rng = m.rng
    shape = m.shape((1, 3, 3))
    shapes = [shape] if m.maybe(0.6) else [shape, m.shape((3, 1, 4)), m.shape((3,))]
    source = m.file(
        "images",
        count=rng.choice([1, 2, 3, 5, 0] if m.maybe(0.1) else [1, 2, 3, 5]),
        shapes=shapes,
        prefix=name,
        forms=rng.choice([[".png"], [".jpg"], [".png", ".bmp"]]),
        before=rng.choice([""] * 9 + ["\n"]),
        between=rng.choice(["\n"] * 8 + ["\r\n", "\n\n"]),
        after=rng.choice(["\n"] * 9 + ["", "\n\n"]),
        line=rng.choice(
            ["{name} {label}"] * 9
            + [
                "{name}  {label}",
                "{name}\t{label}",
                "{name}",
                "./{name} {label}.7",
                "{name} {label} ",
                "{name} x",
                "{name} +3",
                "{name} 0x10",
            ]
        ),
    )
    if m.maybe(0.03):
        source = "gone"
    text = f'source: "{source}" ' + m.some(0.97, f"batch_size: {rng.randint(1, 5)}") + m.some(0.4, "shuffle: true")
    text += m.some(0.2, f"rand_skip: {rng.randint(1, 4)}") + m.some(0.25, "is_color: false")
    if m.maybe(0.55):
        shape = [shape[0], rng.randint(2, 9), rng.randint(2, 9)]
        text += m.some(0.97, f"new_height: {shape[1]}") + m.some(0.97, f"new_width: {shape[2]}")
    text += m.some(0.05, f'root_folder: "{rng.choice(["./", "nowhere/", ""])}"')
    shape = [1 if "is_color" in text else 3, *shape[1:]]
    m.add("ImageData", name, m.tops(name, 2), f"image_data_param {{ {text}}} " + m.transform(shape, False))


def hdf5_data(m: Maker, name: str) -> None:
    rng = m.rng
    tops = m.tops(name, rng.randint(1, 3))
    count = tops.count("top:")
    rows = [list(rng.choice([(), (2,), (2, 3), (1, 2, 2), (1, 1, 1, 1, 2)])) for _ in range(count)]
    files = []
    for _ in range(rng.randint(1, 3)):
        n, sets = rng.randint(1, 6), {}
        for i in range(count):
            length = n + (rng.random() < 0.03)
            dtype = rng.choice(["f4", "f4", "f8", "i4", "u1", "i8", "f2", ">f4", "u8"] + ["S3", "bool"] * m.maybe(0.1))
            if not m.maybe(0.02):
                sets[f"{name}_{i}"] = (dtype, [length, *rows[i]] if not m.maybe(0.01) else [])
        files.append(m.file("hdf5", sets=sets, options={"compression": "gzip"} if m.maybe(0.1) and n > 1 else {}))
    if m.maybe(0.03):
        files.append("gone")
    source = m.file("text", text=rng.choice(["\n", "\n", " ", "\n\n"]).join(files if not m.maybe(0.03) else []) + "\n")
    text = f'source: "{source}" ' + m.some(0.97, f"batch_size: {rng.randint(1, 7)}") + m.some(0.3, "shuffle: true")
    m.add("HDF5Data", name, tops, f"hdf5_data_param {{ {text}}} " + m.some(0.03, "transform_param { scale: 2 }"))


def memory_data(m: Maker, name: str) -> None:
    rng = m.rng
    batch, shape = rng.randint(1, 4), m.shape()
    text = f"memory_data_param {{ batch_size: {batch} channels: {shape[0]} height: {shape[1]} width: {shape[2]} }} "
    m.add("MemoryData", name, m.tops(name, 2), text + m.some(0.3, m.transform(shape, False)))
    if len(m.lines) == 1 and m.maybe(0.95):
        m.arrays = [batch * rng.randint(1, 4) + (rng.random() < 0.1), *shape]


def dummy_data(m: Maker, name: str) -> None:
    rng = m.rng
    count = rng.randint(1, 3)
    if m.maybe(0.3):
        fields = ("num", "channels", "height", "width")
        text = " ".join(f"{word}: {rng.randint(1, 4)}" for word in fields for _ in range(rng.choice([1, count])))
    else:
        shapes = rng.choice([1, count, count, 2])
        text = " ".join(
            "shape { " + " ".join(f"dim: {rng.randint(1, 4)}" for _ in range(rng.randint(0, 4))) + " }"
            for _ in range(shapes)
        )
    fillers = (
        "",
        'type: "uniform" max: 2',
        'type: "gaussian"',
        "value: 3",
        'type: "xavier"',
        'type: "nope"',
        'type: "bilinear"',
        'type: "positive_unitball"',
        'type: "msra" variance_norm: FAN_OUT',
        'type: "gaussian" sparse: 1',
    )
    text += "".join(f" data_filler {{ {rng.choice(fillers)} }}" for _ in range(rng.choice([0, 1, count, count])))
    m.add("DummyData", name, m.tops(name, count), f"dummy_data_param {{ {text} }}")


def input_(m: Maker, name: str) -> None:
    rng = m.rng
    count = rng.randint(1, 3)
    shapes = [
        "shape { "
        + " ".join(
            f"dim: {rng.choice([1, 2, 3, 0, -1]) if m.maybe(0.05) else rng.randint(1, 4)}"
            for _ in range(rng.randint(0, 5))
        )
        + " }"
        for _ in range(rng.choice([0, 1, count, count, count, 2]))
    ]
    m.add("Input", name, m.tops(name, count), f"input_param {{ {' '.join(shapes)} }}")


MAKERS = (data, data, data, image_data, image_data, hdf5_data, hdf5_data, memory_data, dummy_data, input_)


def data_job(seed: int) -> dict[str, Any]:
    """A job for fuzz_side.py: one to three data layers with their files, and some batches of them."""
    rng = random.Random(f"data {seed}")
    m = Maker(rng)
    for i in range(rng.choice([1, 1, 1, 2, 3])):
        rng.choice(MAKERS)(m, f"d{i}")
    return {
        "kind": "data",
        "id": f"data{seed}",
        "seed": rng.randrange(1 << 31),
        "net": "\n".join(m.lines) + "\n",
        "inputs": [],
        "recipes": m.recipes,
        "arrays": m.arrays,
        "phase": rng.choice([0, 0, 1]),
        "level": 0,
        "stages": [],
        "steps": rng.randint(1, 6),
        "backward": False,
        "clear": False,
        "update": False,
    }
