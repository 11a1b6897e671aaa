"""`allconv curves`: any log of `caffe train` as CSV and as a picture."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import cv2
import pytest
from click.testing import CliRunner

from allconv_caffe.cli.main import main
from allconv_caffe.report.curves import CurvesError, curves

LOGS = Path(__file__).parents[1] / "golden" / "logs"
OTHER = """Solving $a_{b
Iteration 0, Testing net (#0)
    Test net output #0: acc/top5 = 0.25
    Test net output #1: =SUM(loss = 2.5
Iteration 0, Testing net (#1)
    Test net output #0: acc/top5 = 0.75
Iteration 0, loss = 2.25
Iteration 0, lr = 0.1
Iteration 10 (3 iter/s, 1s/10 iters), loss = 1.5
"""


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_the_points_of_a_resumed_log_are_one_history(tmp_path: Path) -> None:
    """Every number that Caffe's log shows, by hand; the sessions are counted."""
    (drawn,) = curves([LOGS / "caffe_resumed.log"], tmp_path / "out")
    assert str(drawn) == (
        "caffe_resumed: 13 training points, 4 tests, up to iteration 60; last loss 0.0429143; accuracy 1; loss 0.0391162; "
        "2 sessions"
    )
    train, test = (rows(tmp_path / "out" / f"caffe_resumed.{kind}.csv") for kind in ("train", "test"))
    assert train[0] == ["iteration", "seconds", "lr", "loss", "output:loss"] and len(train) == 14
    assert [row[0] for row in train[1:]] == [str(5 * i) for i in range(13)]
    assert test[2][0] == "20" and test[2][2:] == ["0.05", "0", "1.0", "0.363409"]
    picture = cv2.imread(str(tmp_path / "out" / "curves.png"))
    assert picture.shape[1] > 900 and len(set(map(tuple, picture.reshape(-1, 3)))) > 10


def test_outputs_of_any_name_and_number_of_test_nets_are_kept(tmp_path: Path) -> None:
    """Names that a spreadsheet or a plot would take for more than names stay names."""
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "log").write_text(OTHER)
    drawn = curves([tmp_path / "one" / "log", LOGS / "caffe_nan.log"], tmp_path / "out")
    assert [one.name for one in drawn] == ["one", "caffe_nan"]
    assert rows(tmp_path / "out" / "one.test.csv") == [
        ["iteration", "seconds", "lr", "net", "output:acc/top5", "output:=SUM(loss"],
        ["0", "", "", "0", "0.25", "2.5"],
        ["0", "", "", "1", "0.75", ""],
    ]
    assert rows(tmp_path / "out" / "one.train.csv")[1:] == [["0", "", "0.1", "2.25"], ["10", "", "", "1.5"]]


def test_an_output_for_each_of_many_classes_is_a_picture_and_a_line(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """All are in the CSV; twelve are named, and not at any length."""
    outputs = [f"    Test net output #{i}: {'class' * 900} = 0.{i}" for i in range(60)]
    text = ["Solving x", "Iteration 0, Testing net (#0)", *outputs, "Iteration 10, Testing net (#0)", *outputs]
    (tmp_path / "many.log").write_text("\n".join(text) + "\n")
    (drawn,) = curves([tmp_path / "many.log"], tmp_path / "out")
    assert str(drawn).endswith("_11 0.11; and 48 more outputs")
    assert len(rows(tmp_path / "out" / "many.test.csv")[0]) == 64 and not recwarn.list


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    """One line, and nothing written; two logs of one name would overwrite each other."""
    (tmp_path / "x.log").write_text("words\n")
    os.mkfifo(tmp_path / "pipe")
    done = CliRunner().invoke(main, ["curves", str(tmp_path / "x.log"), "--output", str(tmp_path / "out")])
    assert done.exit_code == 1 and not (tmp_path / "out").exists()
    assert "x.log: found no displayed iteration and no test, expected a log of `caffe train`" in done.output
    for name, said in (("/dev/zero", "a device"), (str(tmp_path / "pipe"), "a pipe that nobody writes to")):
        with pytest.raises(CurvesError, match=f"^{name}: found {said}, expected a file, expected a log of"):
            curves([Path(name)], tmp_path / "out")
    with pytest.raises(CurvesError, match="found a second log called caffe_nan, expected another name than that of"):
        curves([LOGS / "caffe_nan.log", LOGS / "caffe_nan.log"], tmp_path / "out")
