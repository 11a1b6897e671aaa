"""The whole road: source -> images -> GCN -> ZCA -> train_lmdb, test_lmdb, whitening.npz, manifest.json."""

from __future__ import annotations

import platform
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import lmdb
import numpy as np
from tqdm import tqdm

from allconv_caffe import files
from allconv_caffe.proto import datum
from allconv_caffe.proto.files import varint
from data_prep import archive, database, source, whitening as whitening_
from data_prep.copies import Copies
from data_prep.errors import PrepError, writing
from data_prep.imageset import FloatArray, ImageSet, Split, UInt8Array, check_name
from data_prep.manifest import NAME, SPLITS, Manifest
from data_prep.whitening import GCN_SCALE, ZCA_BIAS, Whitening

CHANNEL_ORDER = "RGB planes (channel, row, column)"
PUBLISHED = ("cifar-10", "cifar-100", "ilsvrc-2012", "imagenet")
_CHUNK = 1000  # records: 15 MB of Datums


class Clock:
    """Seconds by stage, in order; `with clock("read"): ...`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


def is_prepared(folder: str | Path) -> bool:
    """Whether a finished data set lies there: the manifest arrives under this name last, together with everything
    else."""
    return (Path(folder) / NAME).is_file()


def check_same(folder: str | Path, source_path: str | Path | None, **asked: Any) -> None:
    """Stop where the set that lies there is not the one asked for.

    Args:
        folder: A prepared data set.
        source_path: What it should have been made of; a folder is compared by name, a file by its bytes.
        asked: Arguments of `prepare` that decide the result.

    Raises:
        PrepError: the first difference.
    """
    folder, manifest = Path(folder), Manifest.load(folder)
    for name, value in asked.items():
        idle = (name == "gcn_scale" and manifest.preprocessing == "raw") or (
            name == "zca_bias" and manifest.preprocessing != "gcn-zca"
        )
        if not idle and (found := getattr(manifest, name)) != value:
            raise PrepError(
                folder, f"a set prepared with {name} {found}", f"{value}; give another output, or force to replace it"
            )
    if source_path is None:
        return
    path, made_of = Path(source_path), manifest.source
    if not path.exists():
        raise PrepError(path, "nothing", "an archive (tar, tar.gz, tar.xz, zip) or a folder")
    same = path.resolve().name == Path(str(made_of.get("name", ""))).name
    if path.is_file():
        size = path.stat().st_size
        same = size == made_of.get("bytes") and archive.file_checksums(path).sha256 == made_of.get("sha256")
    if not same:
        raise PrepError(
            folder,
            f"a set prepared from {made_of.get('name')}",
            f"one from {path}; give another output, or force to replace it",
        )


def prepare(
    source_path: str | Path,
    out: str | Path,
    *,
    dataset: str = "cifar10",
    labels: str = "fine",
    preprocessing: str = "gcn-zca",
    gcn_scale: float = GCN_SCALE,
    zca_bias: float = ZCA_BIAS,
    pad: int = 0,
    copies: Sequence[str] = (),
    seed: int = 0,
    force: bool = False,
    progress: bool = True,
    clock: Clock | None = None,
    images: ImageSet | None = None,
    display_name: str = "",
) -> Manifest:
    """Prepare a data set under `out`, which appears complete or not at all.

    Args:
        source_path: An official CIFAR archive or its unpacked folder, or class folders of images (also packed).
        out: Will hold `train_lmdb/`, `test_lmdb/`, `whitening.npz`, `manifest.json` and, for "raw", `mean.binaryproto`.
            Built in `.<name>.partial` beside it and renamed at the end; what an interrupted run left there is cleared.
        dataset: "cifar10", "cifar100" or "images".
        labels: "fine" or (CIFAR-100) "coarse".
        preprocessing: "gcn-zca" or "gcn" (float_data), or "raw" (bytes, for `transform_param { mean_file }`).
        gcn_scale: Norm of every image after GCN.
        zca_bias: Added to the diagonal of the covariance.
        pad: Border of zeros on each side after whitening (5 gives the 42x42 that a 32x32 random crop needs).
        copies: Of the training images, stored beside them: see `copies`; not of raw bytes.
        seed: Decides the order of records, and how far translated copies are moved, >= 0.
        force: Replace a finished data set.
        progress: Show bars on standard error.
        clock: Receives the seconds of each stage.
        images: What was read from the source, by whoever knows more of it than `source.read`.
        display_name: What tables must call the set; left out: what the source says. No name of a published set, which
            only its MD5 can give.

    Returns:
        The manifest of the finished set.

    Raises:
        PrepError: any mistake in the input or failure of the disk; nothing is left under `out` then.
    """
    out = Path(out)
    clock = clock or Clock()
    _check_settings(preprocessing, gcn_scale, zca_bias, pad, seed, copies)
    name = checked_name(display_name)
    _check_target(out, force)
    with clock("read"):
        images = images or source.read(source_path, dataset=dataset, labels=labels, progress=progress)
    images = replace(images, display_name=name or images.display_name)
    check_name(source_path or out, "a data set", images.display_name)  # a folder's name may hold anything
    made = {"train": Copies(copies, len(images.train), seed), "test": Copies((), len(images.test), seed)}
    with building(out, force) as partial:
        _check_room(partial, images, sum(map(len, made.values())), pad, preprocessing)
        transform = whitening_.fit(
            images.train.images,
            preprocessing,
            gcn_scale=gcn_scale,
            zca_bias=zca_bias,
            class_names=images.class_names,
            progress=progress,
            clock=clock,
        )
        contents, statistics = {}, {}
        for number, name in enumerate(SPLITS):
            split: Split = getattr(images, name)
            with clock(f"write {name}_lmdb"):
                contents[name], statistics[f"{name}_mean"], statistics[f"{name}_std"] = _write_split(
                    partial / f"{name}_lmdb", split, made[name], transform, pad, seed, number, progress
                )
        with clock("finish"):
            if transform.eigenvalues is not None:
                ends = transform.eigenvalues[[0, -1]].tolist()
                statistics["eigenvalue_min"], statistics["eigenvalue_max"] = ends
            transform.save(partial / "whitening.npz")
            if preprocessing == "raw":
                _save_mean(partial / "mean.binaryproto", transform, pad)
            settings = {"labels": labels, "preprocessing": preprocessing, "pad": pad, "seed": seed}
            settings |= {"gcn_scale": float(gcn_scale), "zca_bias": float(zca_bias), "copies": tuple(copies)}
            manifest = _manifest(partial, images, contents, statistics, settings)
            manifest.save(partial)
    return manifest


def _check_settings(
    preprocessing: str, gcn_scale: float, zca_bias: float, pad: int, seed: int, copies: Sequence[str]
) -> None:
    """Raises PrepError for a setting out of its range."""
    if preprocessing not in whitening_.METHODS:
        raise PrepError("preprocessing", repr(preprocessing), " or ".join(whitening_.METHODS))
    whitening_.check_constants(gcn_scale, zca_bias)
    if not 0 <= pad <= 1024:
        raise PrepError("pad", str(pad), "0 to 1024 pixels")
    if not 0 <= seed < 1 << 63:
        raise PrepError("seed", str(seed), "a number from 0 to 2^63 - 1")
    if copies and preprocessing == "raw":
        raise PrepError("copies", f"{','.join(copies)} of raw bytes", "whitened images, to which 0 is the middle")


def _manifest(
    partial: Path,
    images: ImageSet,
    contents: dict[str, database.Content],
    statistics: dict[str, float],
    settings: dict[str, Any],
) -> Manifest:
    """What `prepare` made, when all its other files lie in `partial`; settings: its arguments of the same names."""
    channels, height, width = images.shape
    border = 2 * int(settings["pad"])
    counts = {name: np.bincount(getattr(images, name).labels, minlength=len(images.class_names)) for name in SPLITS}
    counts["train"] <<= len(settings["copies"])
    return Manifest(
        **settings,
        dataset=images.dataset,
        display_name=images.display_name,
        gcn_min_divisor=whitening_.GCN_MIN_DIVISOR,
        shape=(channels, height + border, width + border),
        image_shape=images.shape,
        channel_order=CHANNEL_ORDER,
        classes=len(images.class_names),
        class_names=images.class_names,
        class_counts={name: found.tolist() for name, found in counts.items()},
        n_train=contents["train"].records,
        n_test=contents["test"].records,
        source=images.source,
        pixels_sha256={name: getattr(images, name).sha256() for name in SPLITS},
        lmdb={
            name: {"path": f"{name}_lmdb", "records": content.records, "sha256": content.sha256}
            for name, content in contents.items()
        },
        files={file.name: files.digest(file) for file in sorted(partial.iterdir()) if file.is_file()},
        statistics=statistics,
        versions=versions(),
    )


def checked_name(display_name: str) -> str:
    """A name that somebody gives a set, "" for none.

    Raises: PrepError: that of a published set, or one that no table can hold.
    """
    if display_name.strip():
        check_name("--name", "a data set", display_name.strip())
    if display_name.strip().lower() in PUBLISHED:
        raise PrepError("name", repr(display_name), "another name: a published set is known by the MD5 of its archive")
    return display_name.strip()


def versions() -> dict[str, str]:
    """Of everything that can change a number: Python, NumPy (with its BLAS), OpenCV, LMDB, and the machine's kind."""
    blas: dict[str, Any] = {}
    with suppress(TypeError, KeyError):  # NumPy before 1.26 can only print it
        blas = dict(np.show_config(mode="dicts")["Build Dependencies"]["blas"])
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip(),
        "opencv": cv2.__version__,
        "py-lmdb": lmdb.__version__,
        "lmdb": ".".join(map(str, lmdb.version())),
        "machine": f"{sys.platform} {platform.machine()}",
    }


# ---- the folder that appears complete or not at all ------------------------------------------------------------------


def _check_target(out: Path, force: bool) -> None:
    if out.is_dir() and not any(out.iterdir()):
        return
    if not (out.exists() or out.is_symlink()):
        return
    if not is_prepared(out):
        raise PrepError(out, "something else than a prepared data set", "a new name or an empty folder")
    if not force:
        raise PrepError(out, "a finished data set", "a new name, or force to replace it")


@contextmanager
def building(out: Path, force: bool, token: str = "") -> Iterator[Path]:
    """Yield an empty sibling folder; at the end rename it to `out`, after any failure remove it.

    Args:
        token: See `files.building`: what an interrupted preparation with the same left behind is yielded, and stays.

    Raises:
        PrepError: a finished set or something else lies at `out`, another preparation is at work, a full disk.
    """
    with writing(out):
        try:
            with files.building(out, lambda: _check_target(out, force), token=token) as partial:
                yield Path(partial)
        except files.Held as error:
            raise PrepError(
                out.with_name(f".{out.name}.partial"),
                "another preparation at work",
                "one at a time for the same folder",
            ) from error


def _check_room(folder: Path, images: ImageSet, records: int, pad: int, preprocessing: str) -> None:
    """Compare the free space with what will be written before hours of other work depend on it."""
    channels, height, width = images.shape
    values = channels * (height + 2 * pad) * (width + 2 * pad)
    record = values + 32 if preprocessing == "raw" else 5 * values + 32
    need = records * (-(-record // 4096) * 4096 + 96)
    if preprocessing == "gcn-zca":
        need += 2 * 4 * (channels * height * width) ** 2
    free = shutil.disk_usage(folder).free
    if free < need:
        raise PrepError(folder, f"{free / 1e6:.0f} MB free", f"{need / 1e6:.0f} MB for the data set; free some space")


# ---- the work --------------------------------------------------------------------------------------------------------


def _write_split(
    path: Path,
    split: Split,
    copies: Copies,
    transform: Whitening,
    pad: int,
    seed: int,
    number: int,
    progress: bool,
) -> tuple[database.Content, float, float]:
    """One LMDB; also the mean and standard deviation of all values written, padding apart."""
    order = database.shuffled(len(copies), seed, number)
    total = squares = 0.0
    first = copies.image(order[:1])
    sample = datum.encode(_values(split.images[first], transform), split.labels[first], pad)
    longest = len(sample[0]) + len(varint(int(split.labels.max())))
    with database.Writer(path, len(copies), longest) as writer:
        bar = tqdm(total=len(copies), desc=path.name, unit="image", disable=None if progress else True, leave=False)
        with bar:
            for start in range(0, len(copies), _CHUNK):
                rows = order[start : start + _CHUNK]
                images = copies.image(rows)
                values = copies.make(_values(split.images[images], transform), rows)
                flat = values.reshape(-1)
                total += float(flat.sum(dtype=np.float64))
                squares += (
                    float(np.vdot(flat, flat))
                    if values.dtype != np.uint8
                    else float(np.square(flat, dtype=np.float64).sum())
                )
                writer.write(database.keys(rows, start), datum.encode(values, split.labels[images], pad))
                bar.update(len(rows))
        content = writer.finish()
    count = split.images.size // len(split) * len(copies)
    return content, total / count, float(np.sqrt(max(0.0, squares / count - (total / count) ** 2)))


def _values(images: UInt8Array, transform: Whitening) -> UInt8Array | FloatArray:
    return images if transform.method == "raw" else transform.whiten(images)


def _save_mean(path: Path, transform: Whitening, pad: int) -> None:
    """The mean image as Caffe's compute_image_mean writes it: a BlobProto of the whole Datum's size (border: zeros)."""
    from allconv_caffe.proto import BlobProto, write_binary

    mean = np.pad(transform.mean.reshape(transform.shape), ((0, 0), (pad, pad), (pad, pad)))
    blob = BlobProto(num=1, channels=mean.shape[0], height=mean.shape[1], width=mean.shape[2])
    blob.data.extend(mean.ravel().tolist())
    with writing(path):
        write_binary(str(path), blob)
