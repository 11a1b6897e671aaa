"""What was prepared from what, how, and with which sums: `manifest.json`, by which two machines can be compared."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_type_hints

from allconv_caffe import files
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
        with writing(path):
            files.write_json(path, asdict(self))

    @staticmethod
    def load(folder: str | Path) -> Manifest:
        """Read the manifest of a finished data set.

        Raises:
            PrepError: there is none, or not one of this version.
        """
        path = Path(folder) / NAME
        if not path.is_file():
            raise PrepError(folder, f"no {NAME}", "a prepared data set")
        values = files.read_json(path, "the manifest of a prepared data set", PrepError)
        if (version := values.get("format_version")) != FORMAT_VERSION:
            raise PrepError(path, f"format_version {version}", f"{FORMAT_VERSION}; prepare the data set again")
        files.check_kinds(path, values, get_type_hints(Manifest), PrepError)
        for name in ("shape", "image_shape", "class_names"):
            if name in values:
                values[name] = tuple(values[name])
        try:
            manifest = Manifest(**values)
        except TypeError as error:
            raise PrepError(path, str(error).replace("Manifest.__init__() ", ""), "the manifest's own keys") from error
        manifest._check(path)
        return manifest

    def _check(self, path: Path) -> None:
        """Raises PrepError where the entries contradict each other, or name a file elsewhere."""
        inner = (self.shape[0], self.shape[1] - 2 * self.pad, self.shape[2] - 2 * self.pad)
        if self.pad < 0 or inner != self.image_shape or min(self.image_shape) < 1:
            raise PrepError(path, f"shape {list(self.shape)}", f"image_shape {list(self.image_shape)}, pad {self.pad}")
        if self.classes != len(self.class_names) or self.classes < 1:
            raise PrepError(path, f"classes {self.classes}", f"{len(self.class_names)}, as class_names has")
        for split in SPLITS:
            counts, entry = self.class_counts.get(split, []), self.lmdb.get(split, {})
            if len(counts) != self.classes:
                raise PrepError(path, f"class_counts of {len(counts)} classes for {split}", str(self.classes))
            kinds = {"path": str, "records": int, "sha256": str}
            if wrong := [key for key, kind in kinds.items() if not files.fits(entry.get(key), kind)]:
                raise PrepError(path, f"no {' or '.join(wrong)} in lmdb.{split}", "path, records and sha256")
        for name in (*self.files, *(str(entry["path"]) for entry in self.lmdb.values() if "path" in entry)):
            if name in ("", ".", "..") or "/" in name or "\0" in name:
                raise PrepError(path, f"a file {name!r}", "names of files beside the manifest")
