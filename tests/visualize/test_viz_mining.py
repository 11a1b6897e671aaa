"""One scan over the data: the strongest places of every channel, equal to sorting everything, however it is cut in parts."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.databases import write_lmdb

from allconv_caffe.proto import Datum, NetParameter, parse_text
from allconv_caffe.visualize import mining
from allconv_caffe.visualize.mining import EDGES, TopK, merge, mine
from allconv_caffe.visualize.nets.base import VizNet
from allconv_caffe.visualize.nets.errors import VizError
from allconv_caffe.visualize.nets.open import open_net
from allconv_caffe.visualize.patches import top_patches
from allconv_caffe.visualize.sources import ImageSource, open_images
from allconv_caffe.visualize.whitening import InputSpace

N, K = 23, 4
NET = """
input: "data" input_shape { dim: 1 dim: 3 dim: 8 dim: 8 }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" convolution_param { num_output: 5 kernel_size: 3 } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "conv2" type: "Convolution" bottom: "conv1" top: "conv2" convolution_param { num_output: 4 kernel_size: 2 stride: 2 } }
layer { name: "relu2" type: "ReLU" bottom: "conv2" top: "conv2" }
layer { name: "pool" type: "Pooling" bottom: "conv2" top: "pool" pooling_param { pool: AVE global_pooling: true } }
layer { name: "prob" type: "Softmax" bottom: "pool" top: "prob" }
"""
BLOBS = ("conv1", "conv2", "pool")


def small_net(seed: int = 1) -> VizNet:
    net = open_net(parse_text(NET, NetParameter))
    rng = np.random.default_rng(seed)
    params = {name: [rng.normal(0, 0.4, p.shape) for p in blobs] for name, blobs in net.params().items()}
    params["conv2"][0][3], params["conv2"][1][3] = -1, -1  # channel 3 is dead
    net.set_params(params)
    return net


def write_images(folder: Path, images: np.ndarray) -> Path:
    return Path(
        write_lmdb(
            folder,
            (
                Datum(channels=3, height=8, width=8, label=i % 10, float_data=image.ravel().tolist())
                for i, image in enumerate(images)
            ),
        )
    )


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    images = np.random.default_rng(2).standard_normal((N, 3, 8, 8)).astype(np.float32)
    images[17] = images[4]  # equal values: the earlier image wins
    return images


@pytest.fixture(scope="module")
def source(pixels: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> ImageSource:
    return open_images(write_images(tmp_path_factory.mktemp("data") / "lmdb", pixels), (3, 8, 8))


@pytest.fixture(scope="module")
def net() -> VizNet:
    return small_net()


def same(one: TopK, other: TopK) -> bool:
    heads = [{k: v for k, v in vars(topk).items() if k != "blobs"} for topk in (one, other)]
    return heads[0] == heads[1] and all(
        np.array_equal(getattr(one.blobs[blob], name), getattr(other.blobs[blob], name))
        for blob in one.blobs
        for name in ("values", "positions", "keys", "y", "x", "histogram")
    )


@pytest.mark.parametrize("per_image", [1, 2])
def test_the_best_are_those_of_sorting_everything(
    net: VizNet, source: ImageSource, pixels: np.ndarray, per_image: int
) -> None:
    """By value, then image, then row, then column; at most so many of one image; the batch size changes nothing."""
    found = mine(net, source, BLOBS, k=K, per_image=per_image, batch_size=7, progress=False)
    assert same(found, mine(net, source, BLOBS, k=K, per_image=per_image, batch_size=64, progress=False))
    data = net.forward(pixels, BLOBS)
    for blob, channels in found.blobs.items():
        values = data[blob].reshape(*data[blob].shape[:2], -1)
        width = data[blob].shape[3] if blob != "pool" else 1
        for channel in range(values.shape[1]):
            places = []
            for image in range(N):
                own = sorted(range(values.shape[2]), key=lambda p, i=image, c=channel: (-values[i, c, p], p))
                places += [(image, place) for place in own[:per_image]]
            places.sort(key=lambda p, c=channel: (-values[p[0], c, p[1]], *p))
            for rank, (image, place) in enumerate(places[:K]):
                got = [int(getattr(channels, name)[channel, rank]) for name in ("positions", "y", "x")]
                assert got == [image, place // width, place % width], (blob, channel, rank)
                assert channels.keys[channel, rank] == f"{image:08d}"
                # a batch of another size may sum in another order
                assert channels.values[channel, rank] == pytest.approx(values[image, channel, place], rel=1e-5)
            if per_image == 1:
                assert len(set(channels.positions[channel])) == K


def test_equal_values_go_to_the_earlier_image(tmp_path: Path, net: VizNet, pixels: np.ndarray) -> None:
    """Copies of one image come in the order of the data."""
    source = open_images(write_images(tmp_path / "lmdb", np.repeat(pixels[:1], 6, axis=0)), (3, 8, 8))
    found = mine(net, source, ["conv1"], k=3, batch_size=2, progress=False)
    assert (found.blobs["conv1"].positions == [0, 1, 2]).all()


@pytest.mark.parametrize("shards", [2, 3, 5])
def test_parts_merge_to_one_scan(net: VizNet, source: ImageSource, shards: int) -> None:
    """Mined in parts and merged in any order is what one process finds."""
    whole = mine(net, source, BLOBS, k=K, progress=False)
    assert whole.complete and whole.images_seen == N
    parts = [mine(net, source, BLOBS, k=K, shard=(i, shards), progress=False) for i in range(shards)]
    assert not parts[0].complete and sum(part.images_seen for part in parts) == N
    for order in itertools.islice(itertools.permutations(parts), 6):
        assert same(merge(*order), whole)
    assert same(merge(merge(*parts[1:]), parts[0]), whole)


def test_parts_of_two_data_sets_do_not_merge(
    tmp_path: Path, net: VizNet, source: ImageSource, pixels: np.ndarray
) -> None:
    """Of one size and one shape, but other images: said by the data's checksums."""
    other = open_images(write_images(tmp_path / "other", pixels[::-1]), (3, 8, 8))
    parts = [mine(net, data, ["conv1"], k=K, shard=(i, 2), progress=False) for i, data in enumerate((source, other))]
    assert parts[0].n_images == parts[1].n_images
    with pytest.raises(VizError, match="found data .* results of other data; mine again"):
        merge(*parts)


def test_a_stopped_scan_goes_on(
    net: VizNet, source: ImageSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the middle, a scan begins where it was saved and ends as if it had not been stopped."""
    whole = mine(net, source, BLOBS, k=K, batch_size=4, progress=False)
    calls = 0
    update = mining.update

    def stop_after(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > 7:
            raise KeyboardInterrupt
        update(*arguments)

    monkeypatch.setattr(mining, "update", stop_after)
    with pytest.raises(KeyboardInterrupt):
        mine(net, source, BLOBS, k=K, batch_size=4, progress=False, path=tmp_path / "top.npz", save_seconds=0)
    monkeypatch.undo()
    begun = TopK.load(tmp_path / "top.npz")
    assert begun.done == [(0, 8)]
    seen: list[int] = []
    items = type(source).items

    def watched(self: ImageSource, start: int = 0, stop: int | None = None) -> Any:
        seen.append(start)
        return items(self, start, stop)

    monkeypatch.setattr(type(source), "items", watched)
    again = mine(net, source, BLOBS, k=K, batch_size=4, progress=False, path=tmp_path / "top.npz")
    assert seen == [8] and same(again, whole) and same(TopK.load(tmp_path / "top.npz"), whole)


def test_dead_channels_and_histograms(net: VizNet, source: ImageSource, pixels: np.ndarray) -> None:
    """A channel that no image activates is dead, has no units; the histogram counts every image once."""
    found = mine(net, source, ["conv2"], k=K, progress=False)
    channels = found.blobs["conv2"]
    largest = net.forward(pixels, ("conv2",))["conv2"].max(axis=(2, 3))
    assert channels.dead.tolist() == (largest.max(axis=0) <= 0).tolist() and channels.dead[3]
    assert found.units("conv2", 3) == []
    assert (channels.histogram.sum(axis=1) == N).all() and channels.histogram[3, 0] == N
    np.testing.assert_allclose(channels.active_share, (largest > 0).mean(axis=0))
    for channel in range(4):
        expected = [
            int(((largest[:, channel] > low) & (largest[:, channel] <= high)).sum())
            for low, high in itertools.pairwise(EDGES)
        ]
        assert channels.histogram[channel, 1:-1].tolist() == expected


def test_patches_recompute_the_activation(net: VizNet, source: ImageSource, pixels: np.ndarray) -> None:
    """What is drawn was checked: the image of the key, its activation again, in the mined order, one image once."""
    found = mine(net, source, ["conv2"], k=K, progress=False)
    rows = top_patches(net, source, found, "conv2", [0, 3], rules=["guided"])["guided"]
    assert [patch.rank for patch in rows[0]] == list(range(len(rows[0]))) and rows[1] == []
    for patch, (key, unit, value) in zip(rows[0], found.units("conv2", 0), strict=True):
        assert (patch.key, patch.unit) == (key, unit) and patch.activation == pytest.approx(value, rel=1e-5)
        assert np.array_equal(patch.image, pixels[int(key)])


def test_what_was_mined_with_something_else_is_refused(
    net: VizNet, source: ImageSource, pixels: np.ndarray, tmp_path: Path
) -> None:
    """Other weights, other data, other pictures under the same keys, other preprocessing, overlapping parts: one line each."""
    found = mine(net, source, ["conv2"], k=K, progress=False)
    with pytest.raises(VizError, match="results of other weights; mine again"):
        top_patches(small_net(9), source, found, "conv2", [0])
    fewer = open_images(write_images(tmp_path / "fewer", pixels[:9]), (3, 8, 8))
    with pytest.raises(VizError, match="results of other data; mine again"):
        top_patches(net, fewer, found, "conv2", [0])
    shuffled = open_images(write_images(tmp_path / "shuffled", pixels[::-1]), (3, 8, 8))
    with pytest.raises(VizError, match="results of other data; mine again"):
        top_patches(net, shuffled, found, "conv2", [0])
    brighter = open_images(source.where, (3, 8, 8), InputSpace(scale=2))
    with pytest.raises(VizError, match="as mined: the image, the weights or the preprocessing are not the same"):
        top_patches(net, brighter, found, "conv2", [0])
    with pytest.raises(VizError, match="images 0 to 22 twice"):
        merge(found, found)
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(VizError, match="an unreadable file"):
        TopK.load(tmp_path / "bad.npz")
    found.save(tmp_path / "top.npz")
    with pytest.raises(VizError, match="a scan with k 4, expected k 5; remove it, or name another"):
        mine(net, source, ["conv2"], k=5, progress=False, path=tmp_path / "top.npz")


def test_a_cut_database_is_an_error_and_no_crash(tmp_path: Path) -> None:
    """The library would end the process with SIGBUS at the missing pages."""
    path = write_images(tmp_path / "lmdb", np.zeros((N, 3, 8, 8), np.float32))
    data = path / "data.mdb"
    data.write_bytes(data.read_bytes()[: 4096 * 3 + 100])
    with pytest.raises(VizError, match="found a database that cannot be read .MDB_PAGE_NOTFOUND"):
        list(open_images(path, (3, 8, 8)).items())
    data.write_bytes(b"no database")
    with pytest.raises(VizError, match="found a database that cannot be read .MDB_INVALID"):
        open_images(path, (3, 8, 8))
