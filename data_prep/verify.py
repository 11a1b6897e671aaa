"""Recount, re-hash and show a prepared data set."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from allconv_caffe import files
from allconv_caffe.proto import ProtoError, datum
from data_prep import database, holdout, manifest as manifest_, photos
from data_prep.errors import PrepError, writing
from data_prep.imageset import FloatArray, UInt8Array
from data_prep.manifest import SPLITS, Manifest
from data_prep.whitening import Whitening

GRID_COLUMNS = 10
_ZOOM = 2
_MOST = 5  # wrong records of a database that are named one by one
_GAP = 2


@dataclass(kw_only=True)
class Report:
    """What `verify` found; `str` gives it as text."""

    path: Path
    """The prepared data set."""
    manifest: Manifest
    """What is said of it."""
    counts: dict[str, int] = field(default_factory=dict)
    """Records by split."""
    class_counts: dict[str, list[int]] = field(default_factory=dict)
    """By split and class, as found in the databases."""
    statistics: dict[str, float] = field(default_factory=dict)
    """Mean and standard deviation of the values, padding apart."""
    problems: list[str] = field(default_factory=list)
    """One line each; empty if all is well."""

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def ended(self) -> str:
        """The problems, a line each, or that there is none."""
        lines = [f"{self.path}: {line}" for line in self.problems or ["all checksums as in the manifest"]]
        return "\n".join(lines)

    def __str__(self) -> str:
        m = self.manifest
        shape = "x".join(map(str, m.shape))
        made = {"raw": "raw bytes", "gcn": f"GCN {m.gcn_scale:g}"}.get(
            m.preprocessing, f"GCN {m.gcn_scale:g}, ZCA {m.zca_bias:g}"
        )
        lines = [f"{self.path}: {m.display_name}, {m.classes} classes, {shape} ({made}), seed {m.seed}"]
        for split in SPLITS:
            if split not in self.counts:
                continue
            mean, std = (self.statistics[f"{split}_{name}"] for name in ("mean", "std"))
            lines.append(f"{split}_lmdb: {self.counts[split]} records, mean {mean:.4f}, standard deviation {std:.4f}")
        width = max(map(len, m.class_names))
        for i, name in enumerate(m.class_names):
            counts = (f"{split} {self.class_counts[split][i]}" for split in SPLITS if split in self.class_counts)
            lines.append(f"  {i:3d} {name:<{width}}  {', '.join(counts)}")
        lines += [f"PROBLEM {problem}" for problem in self.problems] or ["all checksums as in the manifest"]
        return "\n".join(lines)


def verify(path: str | Path, grid_png: str | Path | None = None) -> Report:
    """Read every record again and compare with the manifest.

    Args:
        path: A prepared data set.
        grid_png: Where to write a picture of ten training images of each class: left as the camera saw them
            (un-whitened), right as the network sees them.

    Returns:
        The report; `problems` lists every difference: number, order, form or checksum of records, class counts,
        files, constants, statistics.

    Raises:
        PrepError: no prepared data set there, a database or transform that cannot be read at all, or the picture
            cannot be written.
    """
    path = Path(path)
    manifest = Manifest.load(path)
    report = Report(path=path, manifest=manifest)
    if not manifest.pixels_sha256:  # photographs, whose pixels lie nowhere but in the databases
        return _verify_photos(path, report, grid_png)
    samples: dict[int, list[np.ndarray]] = {i: [] for i in range(manifest.classes)}
    for split in SPLITS:
        _verify_split(path, split, report, samples if split == "train" else {})
    _verify_files(path, report)
    _verify_constants(path, report)
    if grid_png is not None:
        _write_grid(Path(grid_png), samples, manifest, Whitening.load(path / "whitening.npz"))
    return report


def _verify_files(path: Path, report: Report) -> None:
    for name, sha256 in report.manifest.files.items():
        if not (path / name).is_file():
            report.problems.append(f"{name}: missing")
        elif (found := files.digest(path / name)) != sha256:
            report.problems.append(f"{name}: SHA-256 {found}, in the manifest {sha256}")


def _verify_photos(path: Path, report: Report, grid_png: str | Path | None) -> Report:
    if grid_png is not None:
        raise PrepError("grid", "a set of photographs", "one of small images, whitened or not")
    problems, report.class_counts = photos.verify(path, report.manifest)
    report.counts = {split: sum(counts) for split, counts in report.class_counts.items()}
    report.statistics = dict(report.manifest.statistics)
    report.problems += problems
    _verify_files(path, report)
    return report


def _verify_constants(path: Path, report: Report) -> None:
    """What the manifest says of the transform, against the transform and the values themselves."""
    m, problems = report.manifest, report.problems
    for name in ("whitening.npz", *(("mean.binaryproto",) if m.preprocessing == "raw" else ())):
        if name not in m.files:
            problems.append(f"{name}: not in the manifest")
    try:
        transform = Whitening.load(path / "whitening.npz")
    except PrepError as error:
        if (path / "whitening.npz").is_file():
            problems.append(str(error))
        return
    stored: dict[str, object] = {
        "preprocessing": transform.method,
        "image_shape": transform.shape,
        "class_names": transform.class_names,
    }
    if transform.method != "raw":
        stored |= {"gcn_scale": transform.gcn_scale, "gcn_min_divisor": transform.gcn_min_divisor}
    if transform.method == "gcn-zca":
        stored["zca_bias"] = transform.zca_bias
    stored |= {f"n_{split}": report.counts[split] for split in SPLITS}
    for name, fact in stored.items():
        if (said := getattr(m, name)) != fact:
            problems.append(f"{manifest_.NAME}: {name} {said}, found {fact}")
    for name, value in report.statistics.items():
        number = m.statistics.get(name, math.nan)
        if not abs(number - value) <= 1e-3 * max(1, abs(value)):
            problems.append(f"{manifest_.NAME}: {name} {number:g}, found {value:g}")


def _verify_split(path: Path, split: str, report: Report, samples: dict[int, list[np.ndarray]]) -> None:
    manifest, entry = report.manifest, report.manifest.lmdb[split]
    digest = hashlib.sha256()
    counts = np.zeros(manifest.classes, np.int64)
    pad = manifest.pad
    inner = (slice(None), slice(pad, manifest.shape[1] - pad), slice(pad, manifest.shape[2] - pad))
    kind = np.uint8 if manifest.preprocessing == "raw" else np.float32
    records = size = 0
    total = squares = 0.0
    seen: list[int] = []
    wrong: list[str] = []
    for key, value in database.records(path / str(entry["path"])):
        digest.update(key)
        digest.update(value)
        name = f"{split}_lmdb: record {key!r}"
        parts = key.split(b"_")
        if len(key) != 17 or len(parts) != 2 or not key.replace(b"_", b"").isdigit() or int(parts[0]) != records:
            wrong.append(f"{name}: key, expected {records:08d}_<image number>")
        else:
            seen.append(int(parts[1]))
        records += 1
        try:
            image, label = datum.decode(value)
        except ProtoError as error:
            wrong.append(f"{name}: {error}")
            continue
        if image.shape != manifest.shape or image.dtype != kind:
            wrong.append(f"{name}: {image.shape} {image.dtype}, expected {manifest.shape} {np.dtype(kind)}")
            continue
        if not 0 <= label < manifest.classes:
            wrong.append(f"{name}: label {label}, expected 0 to {manifest.classes - 1}")
            continue
        counts[label] += 1
        part = image[inner]
        flat = part.astype(np.float32).ravel()
        total += float(flat.sum(dtype=np.float64))
        squares += float(np.dot(flat, flat))
        size += flat.size
        if label in samples and len(samples[label]) < GRID_COLUMNS:
            samples[label].append(part.copy())
    whole: list[str] = []
    if not np.isfinite(total):
        whole.append("values that are not finite")
    if records != entry["records"]:
        whole.append(f"{records} records, in the manifest {entry['records']}")
    elif not wrong and seen != holdout.order(manifest, split):
        whole.append(f"records in another order than seed {manifest.seed} gives")
    if counts.tolist() != manifest.class_counts[split]:
        whole.append(f"class counts {counts.tolist()}, in the manifest {manifest.class_counts[split]}")
    if digest.hexdigest() != entry["sha256"]:
        whole.append(f"SHA-256 {digest.hexdigest()}, in the manifest {entry['sha256']}")
    report.problems += [f"{split}_lmdb: {line}" for line in whole] + wrong[:_MOST]
    if len(wrong) > _MOST:
        report.problems.append(f"{split}_lmdb: {len(wrong) - _MOST} more wrong records")
    report.counts[split] = records
    report.class_counts[split] = counts.tolist()
    report.statistics[f"{split}_mean"] = mean = total / max(size, 1)
    report.statistics[f"{split}_std"] = float(np.sqrt(max(0.0, squares / max(size, 1) - mean * mean)))


def _write_grid(path: Path, samples: dict[int, list[np.ndarray]], manifest: Manifest, transform: Whitening) -> None:
    _, height, width = manifest.image_shape
    side = GRID_COLUMNS * (width + _GAP)
    picture = np.full((manifest.classes * (height + _GAP) + _GAP, 2 * side + 3 * _GAP, 3), 255, np.uint8)
    for label, images in samples.items():
        if not images:
            continue
        stored = np.stack(images)
        pixels = stored if stored.dtype == np.uint8 else transform.unwhiten(stored)
        seen: FloatArray = transform.whiten(stored) if stored.dtype == np.uint8 else stored
        scale = np.abs(seen).max(axis=(1, 2, 3), keepdims=True)
        left = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
        right = np.rint(127.5 + 127.5 * seen / np.where(scale > 0, scale, 1)).astype(np.uint8)
        for offset, tiles in ((_GAP, left), (side + 2 * _GAP, right)):
            _place(picture, tiles, label * (height + _GAP) + _GAP, offset)
    large = np.repeat(np.repeat(picture, _ZOOM, axis=0), _ZOOM, axis=1)
    done, data = cv2.imencode(".png", large[:, :, ::-1])
    assert done
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, data.tobytes())


def _place(picture: UInt8Array, tiles: UInt8Array, top: int, left: int) -> None:
    _, _, height, width = tiles.shape
    for column, tile in enumerate(tiles):
        start = left + column * (width + _GAP)
        picture[top : top + height, start : start + width] = tile.transpose(1, 2, 0)
