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


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The record beside a finished data set; the file's keys are these names."""

    dataset: str
    """cifar10, cifar100 or images."""
    display_name: str
    """What tables must call the set."""
    labels: str
    """fine or coarse."""
    preprocessing: str
    """gcn-zca, gcn or raw."""
    gcn_scale: float
    """Norm of an image after GCN."""
    gcn_min_divisor: float
    """The smallest divisor: an image below it is not scaled."""
    zca_bias: float
    """Added to the diagonal of the covariance."""
    pad: int
    """Border of zeros on each side, in pixels."""
    seed: int
    """Decides the order of the records."""
    shape: tuple[int, int, int]
    """(channels, height, width) of a Datum, padding included."""
    image_shape: tuple[int, int, int]
    """The same without padding."""
    channel_order: str
    """In words."""
    classes: int
    """Their number."""
    class_names: tuple[str, ...]
    """By label."""
    class_counts: dict[str, list[int]]
    """Images of each class, by split ("train", "test")."""
    n_train: int
    """Training images."""
    n_test: int
    """Test images."""
    source: dict[str, Any]
    """Name, bytes, MD5, SHA-256 and format of the input, and whether its MD5 is the official one."""
    pixels_sha256: dict[str, str]
    """By split, whatever the archive's form (see `imageset.Split.sha256`)."""
    lmdb: dict[str, dict[str, Any]]
    """By split: `path`, `records` and `sha256` (see `database.Content`)."""
    files: dict[str, str]
    """SHA-256 of the other files, by name."""
    statistics: dict[str, float]
    """Numbers of the result that must agree between machines to about 1e-3, where checksums of floats cannot."""
    versions: dict[str, str]
    """Of everything that can change a number."""
    copies: tuple[str, ...] = ()
    """Of the training images, see `copies`; n_train and class_counts count them."""
    format_version: int = FORMAT_VERSION
    """Of this record."""

    def facts(self) -> dict[str, Any]:
        """As it is written."""
        return asdict(self)

    def save(self, folder: Path) -> None:
        """Write `manifest.json` and force it to disk.

        Raises:
            PrepError: it cannot be written.
        """
        path = folder / NAME
        with writing(path):
            files.write_json(path, self.facts())

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
        for name in ("shape", "image_shape", "class_names", "copies"):
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
