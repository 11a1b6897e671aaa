"""The data set of an experiment: found, prepared as its recipe says, or one line that says what is missing."""

from __future__ import annotations

import io
import os
import re
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest

from allconv_caffe.paper import derive
from allconv_caffe.paper.datasets import DATASETS, Dataset
from allconv_caffe.paper.experiments import EXPERIMENTS, Experiment
from allconv_caffe.paper.options import options_from
from allconv_caffe.paper.render import render
from allconv_caffe.proto import Datum, NetParameter, parse_text
from allconv_caffe.train import data
from allconv_caffe.train.settings import DriverError
from data_prep import cifar, database, pipeline
from data_prep.imageset import CIFAR10_CLASSES

CIFARS = [entry for entry in DATASETS.values() if entry.recipe and entry.recipe.dataset.startswith("cifar")]


SIZES = {"cifar10": (40, 10), "cifar100": (100, 100)}
"""Images for training and for the test: at least one of every class."""


def archive_of(path: Path, kind: str) -> Path:
    """A small archive in the form of cifar-10-python or of cifar-100-binary."""
    random = np.random.default_rng(0)
    train, test = (random.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8) for count in SIZES[kind])
    if kind == "cifar10":
        labels = np.arange(40) % 10
        return cifar.write_python_archive(path, train, labels, test, labels[:10], CIFAR10_CLASSES)
    files = {
        "train.bin": _records(train),
        "test.bin": _records(test),
        "fine_label_names.txt": "\n".join(f"fine{number}" for number in range(100)).encode(),
        "coarse_label_names.txt": "\n".join(f"coarse{number}" for number in range(20)).encode(),
    }
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"cifar-100-binary/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def _records(images: np.ndarray) -> bytes:
    """Coarse label, fine label, 3072 bytes for each image."""
    return b"".join(bytes([number % 20, number % 100]) + image.tobytes() for number, image in enumerate(images))


def experiment_on(dataset: Dataset) -> Experiment:
    return next(entry for entry in EXPERIMENTS.values() if entry.dataset.name == dataset.name)


@pytest.fixture
def without_zca(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """Preparation without ZCA, whose 3072 x 3072 eigenvectors take seconds; what was asked for is noted."""
    asked: list[dict[str, object]] = []
    prepare = pipeline.prepare

    def quick(*words: object, **flags: object) -> object:
        asked.append(flags)
        return prepare(*words, **{**flags, "preprocessing": str(flags["preprocessing"]).removesuffix("-zca")})  # type: ignore[arg-type]

    monkeypatch.setattr(pipeline, "prepare", quick)
    return asked


@pytest.mark.parametrize("dataset", CIFARS, ids=lambda dataset: dataset.name)
def test_a_data_set_is_prepared_as_its_recipe_says(
    dataset: Dataset, tmp_path: Path, without_zca: list[dict[str, object]]
) -> None:
    """From the archive that lies in data/ comes the set that the experiment reads, in the form that it reads."""
    recipe = dataset.recipe
    assert recipe is not None
    (tmp_path / "data").mkdir()
    name = next(name for name in recipe.archives if (recipe.dataset == "cifar100") == ("binary" in name))
    archive_of(tmp_path / "data" / name, recipe.dataset)
    found = data.ensure(experiment_on(dataset), None, tmp_path, lambda line: None, progress=False)
    assert found.folder == tmp_path / Path(dataset.train_lmdb).parent
    assert (found.shape, found.n_train, found.n_test, found.classes) == (
        dataset.shape,
        SIZES[recipe.dataset][0] << len(recipe.copies),
        SIZES[recipe.dataset][1],
        dataset.classes,
    )
    assert found.mean_file is None  # Large-All-CNN's bytes are made into images by a layer of its own
    assert [(flags["preprocessing"], flags["pad"]) for flags in without_zca] == [(recipe.preprocessing, recipe.pad)]
    assert set(found.options(dataset)) == {"n_train", "n_test", "num_output"}


@pytest.mark.parametrize(
    ("prepared", "asked", "message"),
    [
        ("cifar10", "cifar10-copies", "found copies none, expected flipped,translated for cifar10-copies"),
        ("cifar10-copies", "cifar10", "found copies flipped,translated, expected none for cifar10"),
        ("cifar100", "cifar100-coarse", "found 100 classes, expected 20 for cifar100-coarse"),
        ("cifar100-coarse", "cifar100", "found labels coarse, expected fine for cifar100"),
        ("cifar10-pad5", "cifar10", "found images of 3x42x42, expected 3x32x32 for cifar10"),
    ],
)
def test_a_set_made_by_another_recipe_is_refused(
    prepared: str, asked: str, message: str, tmp_path: Path, without_zca: list[dict[str, object]]
) -> None:
    """A prepared set of another size, other labels or copies is not the experiment's, whatever its images are."""
    made = DATASETS[prepared]
    assert made.recipe is not None
    archive = archive_of(tmp_path / "some.tar.gz", made.recipe.dataset)
    folder = data.ensure(experiment_on(made), archive, tmp_path, lambda line: None, progress=False).folder
    with pytest.raises(DriverError) as caught:
        data.ensure(experiment_on(DATASETS[asked]), folder, tmp_path, lambda line: None)
    assert str(caught.value) == f"{folder}: {message}"


def own_images(folder: Path, height: int, width: int, classes: int, pad: int = 0, preprocessing: str = "gcn") -> Path:
    """A prepared set of somebody's own pictures."""
    random = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 2)):
        for label in range(classes):
            for number in range(count):
                place = folder / "pictures" / split / f"kind{label}" / f"{number}.png"
                place.parent.mkdir(parents=True, exist_ok=True)
                assert cv2.imwrite(str(place), random.integers(0, 256, (height, width, 3), dtype=np.uint8))
    pipeline.prepare(
        folder / "pictures", folder / "own", dataset="images", preprocessing=preprocessing, pad=pad, progress=False
    )
    return folder / "own"


@pytest.mark.parametrize("preprocessing", ["gcn", "raw"])
def test_a_net_is_derived_for_a_prepared_set(preprocessing: str, tmp_path: Path) -> None:
    """`allconv derive --data` writes paths, classes, counts and size of the set, and the mean image of raw bytes."""
    folder = own_images(tmp_path, 24, 24, 7, 0, preprocessing)
    options = data.render_options(folder, DATASETS["cifar10"])
    derive.derive("strided_cnn_a", tmp_path / "net", options=options, root=tmp_path)
    train, test, *_ = parse_text((tmp_path / "net/train_val.prototxt").read_text(), NetParameter).layer
    assert [layer.data_param.source for layer in (train, test)] == [
        str(folder / f"{x}_lmdb") for x in ("train", "test")
    ]
    mean = str(folder / "mean.binaryproto") if preprocessing == "raw" else ""
    assert train.transform_param.mean_file == mean and train.transform_param.crop_size == 0
    deploy = parse_text((tmp_path / "net/deploy.prototxt").read_text(), NetParameter)
    assert list(deploy.layer[0].input_param.shape[0].dim) == [1, 3, 24, 24]
    assert [one.convolution_param.num_output for one in deploy.layer if one.type == "Convolution"][-1] == 7
    solver = (tmp_path / "net/solver.prototxt").read_text()
    assert "# 350 epochs of 28 / 128" in solver and "test images, once each" in solver


def test_a_net_is_derived_for_square_images_alone(tmp_path: Path) -> None:
    """Images that are not square, and a folder that is no prepared set, are refused in one line."""
    folder = own_images(tmp_path, 24, 20, 2, 0)
    with pytest.raises(DriverError, match="found images of 3x24x20, expected square ones"):
        data.render_options(folder, DATASETS["cifar10"])
    with pytest.raises(DriverError, match="found no prepared set"):
        data.render_options(tmp_path, DATASETS["cifar10"])


@pytest.mark.parametrize(
    ("name", "size", "pad", "crop"),
    [("cifar10-allcnn-c", 64, 0, 64), ("cifar10-allcnn-c", 20, 3, 20), ("cifar10-allcnn-c-aug", 64, 5, 64)],
)
def test_own_images_of_any_size_and_number_of_classes_train_any_net(
    name: str, size: int, pad: int, crop: int, tmp_path: Path
) -> None:
    """The net sees the image without its border, and has one output for each of seven classes."""
    experiment = EXPERIMENTS[name]
    found = data.ensure(experiment, own_images(tmp_path, size, size, 7, pad), tmp_path, lambda line: None)
    assert (found.shape, found.classes, found.n_train) == ((3, size + 2 * pad, size + 2 * pad), 7, 28)
    options = options_from(found.options(experiment.dataset))
    texts = render(experiment, options)
    deploy = parse_text(texts["deploy.prototxt"], NetParameter)
    assert list(deploy.layer[0].input_param.shape[0].dim) == [1, 3, crop, crop]
    widths = [layer.convolution_param.num_output for layer in deploy.layer if layer.type == "Convolution"]
    assert widths[-1] == 7
    train = parse_text(texts["train_val.prototxt"], NetParameter).layer[0]
    assert train.transform_param.crop_size == (crop if pad else 0)


def test_own_images_must_be_square(tmp_path: Path) -> None:
    """Their height and width are one number for the templates."""
    folder = own_images(tmp_path, 24, 32, 2)
    with pytest.raises(DriverError, match=r"found images of 3x24x32, expected square ones$"):
        data.ensure(EXPERIMENTS["cifar10-allcnn-c"], folder, tmp_path, lambda line: None)


def test_photographs_are_cropped_as_the_experiment_crops_its_own() -> None:
    """224 of 256 pixels are 112 of 128; distorted images keep their field."""
    imagenet, large = DATASETS["imagenet"], DATASETS["cifar10-large"]
    found = data.PreparedData(
        folder=Path(),
        train_lmdb=Path(),
        test_lmdb=Path(),
        display_name="own",
        classes=2,
        n_train=1,
        n_test=1,
        shape=(3, 128, 128),
        checksums={},
        official=False,
    )
    counts = {"n_train": 1, "n_test": 1, "num_output": 2}
    assert found.options(imagenet) == {**counts, "channels": 3, "image_size": 128, "crop_size": 112}
    assert found.options(large) == {**counts, "channels": 3, "image_size": 128}


def test_photographs_are_prepared_as_imagenets_recipe_says(tmp_path: Path) -> None:
    """A folder of train/WNID/ and val/WNID/ becomes 256x256 bytes with their mean, under a name of its own, once."""
    random = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for wnid in ("n01440764", "n01443537"):
            folder = tmp_path / "Some photos" / split / wnid
            folder.mkdir(parents=True)
            for number in range(count):
                picture = random.integers(0, 256, (40, 30 + number, 3), dtype=np.uint8)
                cv2.imwrite(str(folder / f"{wnid}_{number}.png"), picture)
    said: list[str] = []
    experiment = EXPERIMENTS["imagenet-allcnn"]
    found = data.ensure(experiment, tmp_path / "Some photos", tmp_path, said.append, progress=False)
    assert found.folder == tmp_path / "data" / "imagenet-some-photos"
    assert (found.shape, found.n_train, found.n_test, found.classes) == ((3, 256, 256), 8, 4, 2)
    assert found.mean_file == found.folder / "mean.binaryproto" and found.mean_file.is_file()
    assert data.ensure(experiment, tmp_path / "Some photos", tmp_path, said.append) == found and len(said) == 1
    another = tmp_path / "other" / "Some photos"
    shutil.copytree(tmp_path / "Some photos", another)
    next(another.rglob("*.png")).unlink()
    with pytest.raises(DriverError, match=r"another Some photos \(12 images of Some photos, now 11 of Some photos\)"):
        data.ensure(experiment, another, tmp_path, said.append)
    with pytest.raises(DriverError, match="name the folder of ILSVRC2012_img_train.tar, .* with IMAGENET=path"):
        data.ensure(experiment, None, tmp_path, said.append)


def test_a_local_archive_is_prepared_once_beside_the_official_set(
    tmp_path: Path, without_zca: list[dict[str, object]]
) -> None:
    """CIFAR10=path prepares a set under its own name, never under the name of the official one, and finds it again."""
    archive = archive_of(tmp_path / "My Set.tar.gz", "cifar10")
    said: list[str] = []
    experiment = EXPERIMENTS["cifar10-allcnn-c"]
    first = data.ensure(experiment, archive, tmp_path, said.append, progress=False)
    assert first.folder == tmp_path / "data" / "cifar10-my-set"
    assert not first.official and set(first.checksums) == {"train", "test", "source"}
    again = data.ensure(experiment, archive, tmp_path, said.append, progress=False)
    assert again == first and len(said) == 1
    assert data.ensure(experiment, first.folder, tmp_path, said.append) == first
    assert (first.preprocessing, first.mean_file) == ("gcn", None)
    pipeline.prepare(archive, tmp_path / "raw", preprocessing="raw", progress=False)
    raw = data.ensure(experiment, tmp_path / "raw", tmp_path, said.append)
    assert raw.preprocessing == "raw" and raw.mean_file == tmp_path / "raw" / "mean.binaryproto"
    assert raw.mean_file.is_file()


def test_two_folders_of_one_name_are_two_sets(tmp_path: Path, without_zca: list[dict[str, object]]) -> None:
    """`a/My Photos` and `b/my-photos` would lie prepared in one folder: the second is refused, not trained on the first's."""
    own_images(tmp_path, 32, 32, 10)
    first, second = tmp_path / "a" / "My Photos", tmp_path / "b" / "my-photos"
    for folder in (first, second):
        shutil.copytree(tmp_path / "pictures", folder)
    (second / "train" / "kind0" / "0.png").write_bytes((second / "train" / "kind1" / "0.png").read_bytes())
    rename_as_cifar(first)
    rename_as_cifar(second)
    experiment = EXPERIMENTS["cifar10-allcnn-c"]
    found = data.ensure(experiment, first, tmp_path, lambda line: None, progress=False)
    assert found.folder == tmp_path / "data" / "cifar10-my-photos"
    assert data.ensure(experiment, first, tmp_path, lambda line: None) == found
    with pytest.raises(DriverError) as caught:
        data.ensure(experiment, second, tmp_path, lambda line: None)
    assert str(caught.value).startswith(f"{found.folder}: found a set prepared from another my-photos (SHA-256 ")
    assert str(caught.value).endswith("remove the folder, or give the folder of images another name")


def test_a_folder_whose_images_changed_is_not_prepared_already(
    tmp_path: Path, without_zca: list[dict[str, object]]
) -> None:
    """One picture more, or another one, is another set."""
    own_images(tmp_path, 32, 32, 10)
    folder = rename_as_cifar(tmp_path / "pictures")
    experiment = EXPERIMENTS["cifar10-allcnn-c"]
    data.ensure(experiment, folder, tmp_path, lambda line: None, progress=False)
    picture = folder / "train" / "cat" / "0.png"
    shutil.copy(picture, picture.with_name("new.png"))
    with pytest.raises(DriverError, match="found a set prepared from another pictures"):
        data.ensure(experiment, folder, tmp_path, lambda line: None)


def rename_as_cifar(folder: Path) -> Path:
    """The classes of `own_images` get CIFAR-10's names."""
    for split in ("train", "test"):
        for number, name in enumerate(CIFAR10_CLASSES):
            (folder / split / f"kind{number}").rename(folder / split / name)
    return folder


def test_records_that_changed_under_their_manifest_do_not_train(
    tmp_path: Path, without_zca: list[dict[str, object]]
) -> None:
    """Another label in one record: the digest in the manifest, which the run's record would state, is not theirs."""
    experiment = EXPERIMENTS["cifar10-allcnn-c"]
    archive = archive_of(tmp_path / "x.tar.gz", "cifar10")
    folder = data.ensure(experiment, archive, tmp_path, lambda line: None, progress=False).folder
    place = folder / "train_lmdb"
    with lmdb.open(str(place), map_size=1 << 30, lock=False) as environment, environment.begin(write=True) as change:
        key, value = next(iter(change.cursor()))
        record = Datum.FromString(value)
        record.label = (record.label + 1) % 10
        change.put(key, record.SerializeToString())
    os.utime(folder / "manifest.json", ns=(0, (place / "data.mdb").stat().st_mtime_ns - 1))
    for source in (folder, archive):
        with pytest.raises(
            DriverError, match=r"train_lmdb: found records of SHA-256 \w{12}\.\.\., expected \w{12}\.\.\., which"
        ):
            data.ensure(experiment, source, tmp_path, lambda line: None)


def test_a_copied_set_is_compared_once(
    tmp_path: Path, without_zca: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy's database may be younger than its manifest: it is read once, and then known."""
    experiment = EXPERIMENTS["cifar10-allcnn-c"]
    archive = archive_of(tmp_path / "x.tar.gz", "cifar10")
    folder = data.ensure(experiment, archive, tmp_path, lambda line: None, progress=False).folder
    os.utime(folder / "manifest.json", (1, 1))
    read: list[Path] = []
    records = database.records
    monkeypatch.setattr(database, "records", lambda path: (read.append(path), records(path))[1])
    for _ in range(2):
        data.ensure(experiment, folder, tmp_path, lambda line: None)
    assert [path.name for path in read] == ["train_lmdb", "test_lmdb"]


def test_bare_lmdbs_are_counted(tmp_path: Path, without_zca: list[dict[str, object]]) -> None:
    """Two LMDBs that lie where the solvers look for them, without a manifest, serve: their images are counted."""
    experiment = EXPERIMENTS["cifar10-allcnn-c"]
    archive = archive_of(tmp_path / "x.tar.gz", "cifar10")
    made = data.ensure(experiment, archive, tmp_path, lambda line: None, progress=False).folder
    shutil.copytree(made / "train_lmdb", tmp_path / "data/cifar10/train_lmdb")
    shutil.copytree(made / "test_lmdb", tmp_path / "data/cifar10/test_lmdb")
    found = data.ensure(experiment, None, tmp_path, lambda line: None)
    assert (found.n_train, found.n_test, found.checksums) == (40, 10, {})
    (tmp_path / "data/cifar10/test_lmdb/data.mdb").write_bytes(b"no database")
    with pytest.raises(DriverError, match="test_lmdb"):
        data.ensure(experiment, None, tmp_path, lambda line: None)


def test_what_nothing_here_prepares_is_asked_for(tmp_path: Path) -> None:
    """A data set without a recipe is asked for where the solvers look for it."""
    entry = EXPERIMENTS["cifar10-allcnn-c"]
    own = replace(entry, name="mine", dataset=replace(entry.dataset, train_lmdb="data/own/train_lmdb", recipe=None))
    text = f"mine: no data: expected an LMDB of 32x32 images at {tmp_path}/data/own/train_lmdb, which this command "
    with pytest.raises(DriverError, match=f"^{re.escape(text)}does not prepare$"):
        data.ensure(own, None, tmp_path, lambda line: None)


def test_held_out_images_are_cut_out_once(tmp_path: Path, without_zca: list[dict[str, object]]) -> None:
    """`--validation 8` trains on 32 of 40 images and tests on the other 8, in a set of its own that is found again."""
    experiment, said = EXPERIMENTS["cifar10-allcnn-c"], []
    whole = data.ensure(experiment, archive_of(tmp_path / "x.tar.gz", "cifar10"), tmp_path, said.append, progress=False)
    found = data.held_out(whole, 8, experiment.dataset, said.append)
    assert (found.n_train, found.n_test, found.display_name) == (32, 8, f"{whole.display_name}, 8 held out")
    assert found.checksums["train"] != whole.checksums["train"] and found.folder != whole.folder
    lines = len(said)
    assert data.held_out(whole, 8, experiment.dataset, said.append) == found and len(said) == lines
    other = replace(whole, checksums={**whole.checksums, "train": "another"})
    data.held_out(other, 8, experiment.dataset, said.append)
    assert len(said) == lines + 1  # the set that it was cut out of has changed since
