"""What was prepared from what, how, and with which sums: `manifest.json`, by which two machines can be compared."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_prep.errors import PrepError, writing

NAME = "manifest.json"
FORMAT_VERSION = 1
SPLITS = ("train", "test")


@dataclass(frozen=True)
class Manifest:
    """The record beside a finished data set; the file's keys are these names.

    dataset: cifar10, cifar100 or images. display_name: what tables must call the set. labels: fine or coarse.
    shape: (channels, height, width) of a Datum, padding included; image_shape: without. classes: their number.
    class_counts, pixels_sha256, lmdb: by split ("train", "test"); lmdb has `path`, `records`, `sha256` (see
    `database.Content`). pixels_sha256 does not depend on the archive's form (see `imageset.Split.sha256`). files:
    SHA-256 of the other files. source: name, bytes, MD5, SHA-256 and format of the input, and whether its MD5 is the
    official one. statistics: numbers of the result that must agree between machines to about 1e-3, where checksums of
    floats cannot.
    """

    dataset: str
    display_name: str
    labels: str
    preprocessing: str
    gcn_scale: float
    gcn_min_divisor: float
    zca_bias: float
    pad: int
    seed: int
    shape: tuple[int, int, int]
    image_shape: tuple[int, int, int]
    channel_order: str
    classes: int
    class_names: tuple[str, ...]
    class_counts: dict[str, list[int]]
    n_train: int
    n_test: int
    source: dict[str, Any]
    pixels_sha256: dict[str, str]
    lmdb: dict[str, dict[str, Any]]
    files: dict[str, str]
    statistics: dict[str, float]
    versions: dict[str, str]
    format_version: int = FORMAT_VERSION

    def save(self, folder: Path) -> None:
        """Write `manifest.json` and force it to disk.

        Raises:
            PrepError: it cannot be written.
        """
        path = folder / NAME
        with writing(path), open(path, "w", encoding="utf-8") as file:
            json.dump(asdict(self), file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())

    @staticmethod
    def load(folder: str | Path) -> Manifest:
        """Read the manifest of a finished data set.

        Raises:
            PrepError: there is none, or not one of this version.
        """
        path = Path(folder) / NAME
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise PrepError(folder, f"no {NAME}", "a prepared data set") from error
        except ValueError as error:
            raise PrepError(path, f"no JSON ({error})", "the manifest of a prepared data set") from error
        if not isinstance(values, dict) or values.get("format_version") != FORMAT_VERSION:
            version = values.get("format_version") if isinstance(values, dict) else None
            raise PrepError(path, f"format_version {version}", f"{FORMAT_VERSION}; prepare the data set again")
        for name in ("shape", "image_shape", "class_names"):
            if name in values:
                values[name] = tuple(values[name])
        try:
            return Manifest(**values)
        except TypeError as error:
            raise PrepError(path, str(error).replace("Manifest.__init__() ", ""), "the manifest's own keys") from error
