"""The prepared data sets: two LMDBs of Datum each, how Caffe reads them, and the recipe that they are made by.

Source: sections 3.2 and 3.3.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a data set is prepared, and from what: enough for a driver to do it.

    A recipe of CIFAR is an argument list of ``data_prep.pipeline.prepare``: dataset, labels, preprocessing, pad, copies.
    """

    dataset: str  # the kind of source: cifar10, cifar100 or ilsvrc12
    variable: str  # the setting that names a local copy: CIFAR10=path
    archives: tuple[str, ...]  # file names of the official archives; any of them serves, unless ``all_archives``
    all_archives: bool = False  # every archive is needed
    download: bool = False  # their publisher lets anybody fetch them
    preprocessing: str = "gcn-zca"  # gcn-zca, gcn, or raw: bytes as they are
    labels: str = "fine"  # of CIFAR-100: fine or coarse
    pad: int = 0  # pixels of zeros around each image, after the whitening
    copies: tuple[str, ...] = ()  # of the training images, stored beside them: flipped, translated
    warp: tuple[int, int] | None = None  # (height, width) in pixels that each image is resized to, aspect or not
    mean_image: bool = False  # the mean of the training images is written beside them


COLOUR_SIGMAS = {"cosine": (0.2, 0.3, 0.6, 0.6), "linear": (25.5, 0.15, 2.4, 2.4)}
"""Graham's sigmas in each form of the colour distortion: his first release, in units of 128 grey levels; his later program."""


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What the layer AugmentedData (``allconv_caffe.python_layers``) makes of byte records while a net trains.

    The fields are keys of its ``param_str``; ``allconv_caffe.augment`` says what each does. In the TEST phase, and in plain
    epochs, ``size`` and ``background`` alone count. Source: B. Graham's programs; section 3.2.3.
    """

    size: int = 126  # of the field that the record is placed in, pixels
    background: int = 128  # grey level around it, which becomes 0; pixels become (p - 128) / 128
    stretch: float = 0.2  # width and height, each by up to this
    flip: float = 0.5  # probability
    shear: float = 0.2  # up to this, in one third of the images along x, in another along y
    rotation: float = 0.2  # radians, up to this, in the last third
    jiggle: int = 16  # pixels, up to this, in each direction
    colour: tuple[float, float, float, float] = COLOUR_SIGMAS["cosine"]  # sigmas of the four terms
    colour_form: str = "cosine"  # of Graham's first release; the later one's is linear
    graham: bool = False  # repeats Graham's program where it does what is hardly meant

    def param_str(self, source: str, batch_size: int, distorted: bool, seed: int | None, start: int) -> str:
        """JSON, as the layer reads it.

        Args:
            source: path of the LMDB.
            distorted: the TRAIN phase of distorted epochs; else images are plain.
            seed: of all that is drawn; None: the engine's own.
            start: the number of the first sample, counted from the begin of training.
        """
        found: dict[str, object] = {"source": source, "batch_size": batch_size}
        found |= {"size": self.size, "background": self.background}
        if distorted:
            found |= {
                "stretch": self.stretch,
                "flip": self.flip,
                "shear": self.shear,
                "rotation": self.rotation,
                "jiggle": self.jiggle,
                "colour": list(self.colour),
                "colour_form": self.colour_form,
                "graham": self.graham,
            }
        if start:
            found |= {"distort": False, "start": start}
        if seed is not None:
            found["seed"] = seed
        return json.dumps(found)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """One prepared data set: two LMDBs of Datum, and how Caffe reads them."""

    name: str  # a word: of the folder that it lies in, and of options
    title: str  # what tables call it
    classes: int
    n_train: int  # images
    n_test: int  # images
    train_lmdb: str  # path relative to the project's root
    test_lmdb: str  # likewise
    shape: tuple[int, int, int] = (3, 32, 32)  # (C, H, W) of one Datum
    input_size: int = 32  # pixels fed to the network; below H, Caffe crops: at random in training, centrally in test
    mirror: bool = False  # horizontal flips, in training only
    scale: float = 1.0  # transform_param, for LMDBs of bytes; a whitened one needs neither this
    mean_value: tuple[float, ...] = ()  # nor this
    mean_file: str = ""  # nor this: path of a mean image, relative to the project's root, in place of ``mean_value``
    augmented: Augmentation | None = None  # a Python layer reads the LMDBs, of bytes, in place of Caffe's Data layer
    recipe: Recipe | None = None  # None: whoever made the set knows

    @property
    def crop_size(self) -> int:
        """The crop_size to write; 0 where the Datum already has the size of the input."""
        whole = self.augmented is not None or self.shape[1:] == (self.input_size, self.input_size)
        return 0 if whole else self.input_size


CIFAR10_RECIPE = Recipe(
    dataset="cifar10",
    variable="CIFAR10",
    archives=("cifar-10-python.tar.gz", "cifar-10-binary.tar.gz"),
    download=True,
)
CIFAR100_RECIPE = Recipe(
    dataset="cifar100",
    variable="CIFAR100",
    archives=("cifar-100-python.tar.gz", "cifar-100-binary.tar.gz"),
    download=True,
)
ILSVRC12_RECIPE = Recipe(
    dataset="ilsvrc12",
    variable="IMAGENET",
    archives=("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"),
    all_archives=True,
    preprocessing="raw",
    warp=(256, 256),
    mean_image=True,
)

CIFAR10 = Dataset(
    name="cifar10",
    title="CIFAR-10",
    classes=10,
    n_train=50_000,
    n_test=10_000,
    train_lmdb="data/cifar10/train_lmdb",
    test_lmdb="data/cifar10/test_lmdb",
    recipe=CIFAR10_RECIPE,
)

CIFAR100 = Dataset(
    name="cifar100",
    title="CIFAR-100",
    classes=100,
    n_train=50_000,
    n_test=10_000,
    train_lmdb="data/cifar100/train_lmdb",
    test_lmdb="data/cifar100/test_lmdb",
    recipe=CIFAR100_RECIPE,
)

CIFAR10_PAD5 = replace(
    CIFAR10,
    name="cifar10-pad5",
    train_lmdb="data/cifar10-pad5/train_lmdb",
    test_lmdb="data/cifar10-pad5/test_lmdb",
    shape=(3, 42, 42),  # "a maximum translation of 5 pixels in each dimension"
    mirror=True,
    recipe=replace(CIFAR10_RECIPE, pad=5),
)

CIFAR10_COPIES = replace(
    CIFAR10,
    name="cifar10-copies",
    n_train=200_000,
    train_lmdb="data/cifar10-copies/train_lmdb",
    test_lmdb="data/cifar10-copies/test_lmdb",
    recipe=replace(CIFAR10_RECIPE, copies=("flipped", "translated")),
)

CIFAR10_LARGE = replace(
    CIFAR10,
    name="cifar10-large",
    train_lmdb="data/cifar10-large/train_lmdb",
    test_lmdb="data/cifar10-large/test_lmdb",
    input_size=126,
    augmented=Augmentation(),
    recipe=replace(CIFAR10_RECIPE, preprocessing="raw"),
)

CIFAR100_COARSE = replace(
    CIFAR100,
    name="cifar100-coarse",
    title="CIFAR-100 (coarse labels)",
    classes=20,
    train_lmdb="data/cifar100-coarse/train_lmdb",
    test_lmdb="data/cifar100-coarse/test_lmdb",
    recipe=replace(CIFAR100_RECIPE, labels="coarse"),
)

ILSVRC12 = Dataset(
    name="imagenet",
    title="ILSVRC-2012",
    classes=1000,
    n_train=1_281_167,
    n_test=50_000,
    train_lmdb="data/imagenet/train_lmdb",
    test_lmdb="data/imagenet/test_lmdb",
    shape=(3, 256, 256),
    input_size=224,
    mirror=True,
    mean_file="data/imagenet/mean.binaryproto",
    recipe=ILSVRC12_RECIPE,
)

DATASETS: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (CIFAR10, CIFAR10_PAD5, CIFAR10_COPIES, CIFAR10_LARGE, CIFAR100, CIFAR100_COARSE, ILSVRC12)
}
