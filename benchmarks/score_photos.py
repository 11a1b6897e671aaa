"""A trained ImageNet net scored on labelled photographs by the whole road: files, LMDB, Data layer, net, Accuracy.

    python benchmarks/score_photos.py PHOTOS NET WEIGHTS [--json scores.json]

PHOTOS is a folder of <wnid>_<name>.jpg, one or more for each class: sorted, the wnids are the labels. NET is a train_val
prototxt with a Data layer for each phase and Accuracy layers. The photographs go through `allconv prep imagenet` (warped to
256x256), then `caffe test` of this engine and of BVLC Caffe read the same LMDB. The third judge shares nothing with them:
OpenCV decodes, warps, crops and runs the net, by DEPLOY where one is named.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from allconv_caffe.bvlc.find import find_caffe
from allconv_caffe.proto import NetParameter, parse_text, to_text

ROOT = Path(__file__).resolve().parents[1]
SIDE = 256  # pixels, the sides of a warped photograph
Scores = dict[str, float]


def photographs(folder: Path) -> list[tuple[Path, int]]:
    """Files and labels, in the order of their names."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))
    if not files:
        raise SystemExit(f"score_photos: {folder}: found no photographs, expected <wnid>_<name>.jpg")
    wnids = sorted({path.name.split("_")[0] for path in files})
    return [(path, wnids.index(path.name.split("_")[0])) for path in files]


def prepared(photos: Sequence[tuple[Path, int]], folder: Path) -> Path:
    """The validation LMDB of `allconv prep imagenet`; the photographs stand for both parts."""
    for part in ("train", "val"):
        for path, _ in photos:
            place = folder / "photos" / part / path.name.split("_")[0]
            place.mkdir(parents=True, exist_ok=True)
            (place / path.name).symlink_to(path.resolve())
    command = ["-m", "allconv_caffe.cli", "prep", "imagenet", str(folder / "photos"), "--quiet"]
    run([sys.executable, *command, "--output", str(folder / "data")])
    (found,) = (path for path in (folder / "data").iterdir() if path.name.startswith(("val", "test")) and path.is_dir())
    return found


def run(command: Sequence[str], environment: dict[str, str] | None = None) -> str:
    """What a command prints, errors and all; ends with it where it fails."""
    done = subprocess.run(
        command, env=environment, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if done.returncode:
        raise SystemExit(f"score_photos: {command[0]} ended with status {done.returncode}\n{done.stdout[-2000:]}")
    return done.stdout


def on_lmdb(net: Path, lmdb: Path, folder: Path, batch: int) -> Path:
    """The net, its Data layers reading `lmdb` by batches of `batch`."""
    param = parse_text(net.read_text(encoding="utf-8"), NetParameter)
    layers = [layer for layer in param.layer if layer.type == "Data"]
    if not layers:
        raise SystemExit(f"score_photos: {net}: found no Data layer, expected one for each phase")
    for layer in layers:
        layer.data_param.source, layer.data_param.batch_size = str(lmdb), batch
    path = folder / "train_val.prototxt"
    path.write_text(to_text(param), encoding="utf-8")
    return path


def percent(log: str) -> Scores:
    """The averages that `caffe test` prints last, of every Accuracy output, in percent."""
    rows = re.findall(r"\] (accuracy\S*) = ([\d.]+)\s*$", log, re.MULTILINE)
    if not rows:
        raise SystemExit("score_photos: the log names no output accuracy..., expected Accuracy layers of such names")
    return {name: round(100 * float(value), 4) for name, value in rows}


def by_opencv(
    photos: Sequence[tuple[Path, int]], deploy: Path, weights: Path, crop: int, mean: Sequence[float]
) -> Scores:
    """Top-1 and top-5 in percent, by OpenCV's own reader of Caffe's formats (below version 5)."""
    net = cv2.dnn.readNetFromCaffe(str(deploy), str(weights))
    edge = (SIDE - crop) // 2
    ranks = []
    for path, label in photos:
        image = cv2.resize(cv2.imread(str(path), cv2.IMREAD_COLOR), (SIDE, SIDE))
        image = np.ascontiguousarray(image[edge : edge + crop, edge : edge + crop])
        net.setInput(cv2.dnn.blobFromImage(image, mean=tuple(mean)))
        scores = net.forward().ravel()
        ranks.append(int((scores > scores[label]).sum()))
    return {f"accuracy_top{k}": round(100 * float(np.mean(np.array(ranks) < k)), 4) for k in (1, 5)}


def scores(args: argparse.Namespace, folder: Path) -> dict[str, Scores]:
    """Of every judge that is here."""
    photos = photographs(args.photos)
    if len(photos) % args.batch:
        raise SystemExit(f"score_photos: --batch {args.batch}: does not divide the {len(photos)} photographs")
    model = on_lmdb(args.net, prepared(photos, folder), folder, args.batch)
    test = ["test", "-model", str(model), "-weights", str(args.weights), "-iterations", str(len(photos) // args.batch)]
    found = {"caffe-torch": percent(run([sys.executable, "-m", "allconv_caffe.caffe_torch", *test]))}
    caffe = find_caffe(ROOT)
    if caffe is not None:
        environment = {**caffe.environment(), "GLOG_logtostderr": "1"}
        found["BVLC Caffe"] = percent(run([str(caffe.binary), *test], environment))
    if args.deploy and hasattr(cv2.dnn, "readNetFromCaffe"):
        found["OpenCV"] = by_opencv(photos, args.deploy, args.weights, args.crop, args.mean)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("net", type=Path, help="train_val prototxt")
    parser.add_argument("weights", type=Path, help="caffemodel")
    parser.add_argument("--deploy", type=Path, help="deploy prototxt, for OpenCV")
    parser.add_argument("--crop", type=int, default=227, help="pixels, for OpenCV (default 227)")
    parser.add_argument("--mean", type=float, nargs=3, default=[104, 117, 123], help="BGR, for OpenCV")
    parser.add_argument("--batch", type=int, default=50, help="must divide the photographs (default 50)")
    parser.add_argument("--json", type=Path, help="write the scores to this file")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
    with tempfile.TemporaryDirectory() as name:
        found = scores(args, Path(name))
    names = sorted({key for row in found.values() for key in row})
    print("| | " + " | ".join(names) + " |\n| --- |" + " ---: |" * len(names))
    for judge, row in found.items():
        print(f"| {judge} | " + " | ".join(f"{row[key]:.1f} %" for key in names) + " |")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
