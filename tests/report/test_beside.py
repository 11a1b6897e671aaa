"""Runs laid over another training's curve."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from allconv_caffe.cli.main import main
from allconv_caffe.report import beside, plots
from allconv_caffe.report.build import build
from allconv_caffe.report.record import ReportError

PREFIX = "I1123 11:28:25.262542  8275 "
SOLVER = "{prefix}solver.cpp:45] Initializing solver from parameters: \ntest_interval: 10\niter_size: {iter_size}\n"
TRAIN_NET = """{prefix}net.cpp:53] Initializing net from parameters:
name: "n"
state {{
  phase: TRAIN
}}
layer {{
  name: "data"
  type: "Data"
  include {{
    phase: TRAIN
  }}
  data_param {{
    source: "x"
    batch_size: {batch_size}
  }}
}}
"""
TEST_NET = """{prefix}net.cpp:53] Initializing net from parameters:
state {{
  phase: TEST
}}
layer {{
  name: "data"
  type: "Data"
  data_param {{
    batch_size: 100
  }}
}}
layer {{
  name: "top5"
  type: "Accuracy"
  top: "top5"
  accuracy_param {{
    top_k: 5
  }}
}}
layer {{
  name: "hit"
  type: "Accuracy"
  top: "hit"
}}
{prefix}solver.cpp:60] Solver scaffolding done.
"""


def log_text(
    points: dict[int, float], name: str = "accuracy", batch_size: int = 64, iter_size: int = 1, gpus: str = ""
) -> str:
    """A log of ``caffe train`` with these accuracies by iteration, and a top-5 accuracy of 1."""
    lines = [f"{PREFIX}caffe.cpp:204] Using GPUs {gpus}\n"] if gpus else []
    words = {"prefix": PREFIX, "batch_size": batch_size, "iter_size": iter_size}
    lines += [text.format(**words) for text in (SOLVER, TRAIN_NET, TEST_NET)]
    for iteration, accuracy in points.items():
        lines.append(f"{PREFIX}solver.cpp:347] Iteration {iteration}, Testing net (#0)\n")
        lines.append(f"{PREFIX}solver.cpp:414]     Test net output #0: {name} = {accuracy}\n")
        lines.append(f"{PREFIX}solver.cpp:414]     Test net output #1: top5 = 1\n")
    return "".join(lines)


def a_run(folder: Path, points: dict[float, float], n_train: int = 640, **changes: object) -> Path:
    """A finished run with these test errors by epoch."""
    folder.mkdir(parents=True)
    entry = {"experiment": "cifar10-allcnn-c", "model": "All-CNN-C", "status": "done", "test_error_percent": 9.0}
    entry |= {"parameters": 1, "dataset": "CIFAR-10", "seed": 1, "epochs": 9.0, "engine": "torch", "n_train": n_train}
    (folder / "result.json").write_text(json.dumps({**entry, **changes}))
    rows = [f"{epoch},{error}\n" for epoch, error in points.items()]
    (folder / "test.csv").write_text("".join(["epoch,error_percent\n", *rows]))
    return folder


def said(folder: Path, *words: str) -> list[str]:
    """The sentences of a report on the runs below a folder."""
    section = build([folder], None, beside=words).partition("## Table 3")[0]
    return [line[2:] for line in section.splitlines() if line.startswith("- ") and " beside " in line]


def test_a_log_is_laid_under_a_run_by_epoch(tmp_path: Path) -> None:
    """Iteration 10 of 64 images is epoch 1 of 640: (30 - 32) and (20 - 25) are -3.5 on average, -5 at most."""
    a_run(tmp_path / "runs/a", {0: 90, 1: 30, 2: 20, 3: 15})
    (tmp_path / "caffe.log").write_text(log_text({0: 0.1, 10: 0.68, 20: 0.75}))
    assert said(tmp_path / "runs", str(tmp_path / "caffe.log"))[0] == (
        "All-CNN-C, seed 1 beside caffe: 2 common points, epoch 1 to 2: mean difference -3.50 points, largest -5.00 at "
        "epoch 2 (20.00 % for 25.00 %)"
    )


@pytest.mark.parametrize(
    ("words", "factor"), [({"iter_size": 2}, 2), ({"gpus": "0, 1, 2"}, 3), ({"batch_size": 128}, 2), ({}, 1)]
)
def test_images_of_an_update_are_all_that_the_log_says(words: dict[str, object], factor: int, tmp_path: Path) -> None:
    """batch_size times iter_size times the number of GPUs."""
    (tmp_path / "log").write_text(log_text({0: 0.1, 10: 0.5}, **words))  # type: ignore[arg-type]
    source = beside.read(f"x={tmp_path / 'log'}")
    assert (source.name, source.batch_size) == ("x", 64 * factor)
    assert source.curve(640) == [(0.0, 90.0), (float(factor), 50.0)]


def test_a_csv_has_its_own_epochs_and_comments(tmp_path: Path) -> None:
    """The columns of a public curve; `#` lines and points without an error are passed over."""
    (tmp_path / "c.csv").write_text(
        "# from a log, elsewhere\niteration,epoch,learning_rate,error_percent,loss\n0,0,0.1,90,2.3\n"
        "# half way\n5,1,0.1,,2\n10,1.024,0.1,40,nan\n"
    )
    source = beside.read(str(tmp_path / "c.csv"))
    assert (source.name, source.curve(0)) == ("c", [(0.0, 90.0), (1.024, 40.0)])


def test_between_the_others_tests_its_curve_is_read_on_a_line(tmp_path: Path) -> None:
    """Tests at 1.5 and 2.5 of a curve 40, 30, 20 at 1, 2, 3 stand beside 35 and 25."""
    a_run(tmp_path / "runs/a", {0: 90, 1.5: 36, 2.5: 27, 9: 5})
    (tmp_path / "c.csv").write_text("epoch,error_percent\n0,90\n1,40\n2,30\n3,20\n")
    assert said(tmp_path / "runs", str(tmp_path / "c.csv"))[0] == (
        "All-CNN-C, seed 1 beside c: 2 points, its curve read between its own tests, epoch 1.5 to 2.5: mean difference "
        "+1.50 points, largest +2.00 at epoch 2.5 (27.00 % for 25.00 %)"
    )


def test_a_run_that_has_only_begun_has_no_point_in_common(tmp_path: Path) -> None:
    """The untrained net's test is no point of comparison."""
    a_run(tmp_path / "runs/a", {0: 90})
    (tmp_path / "c.csv").write_text("epoch,error_percent\n0,90\n1,40\n")
    assert said(tmp_path / "runs", str(tmp_path / "c.csv"))[0] == "All-CNN-C, seed 1 beside c: no point in common yet"


def test_the_accuracy_of_another_name_is_that_of_the_accuracy_layer(tmp_path: Path) -> None:
    """Of two Accuracy layers the one without top_k counts."""
    (tmp_path / "log").write_text(log_text({0: 0.1, 10: 0.5}, name="hit"))
    assert beside.read(str(tmp_path / "log")).curve(64) == [(0.0, 90.0), (10.0, 50.0)]
    (tmp_path / "log").write_text(log_text({0: 0.1, 10: 0.5}, name="other"))
    with pytest.raises(ReportError, match=r"found test outputs other, top5, expected one that is called accuracy"):
        beside.read(str(tmp_path / "log"))


def test_figure_table_and_points_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """beside.png with both curves and the difference, beside.csv with every point, both in report and page; 40 rows at most."""
    points = {float(epoch): 90.0 - epoch for epoch in range(101)}
    a_run(tmp_path / "runs/a", points)
    rows = "".join(f"{epoch},{error - 1}\n" for epoch, error in points.items())
    (tmp_path / "c.csv").write_text(f"epoch,error_percent\n{rows}")
    drawn = []
    overlay = plots.overlay
    monkeypatch.setattr(plots, "overlay", lambda *words: drawn.append(words) or overlay(*words))
    text = build([tmp_path / "runs"], tmp_path / "out", beside=[f"public={tmp_path / 'c.csv'}"])
    ((others, runs, differences),) = drawn
    assert others["public"][-1] == (100.0, -11.0) and runs["All-CNN-C, seed 1"][-1] == (100.0, -10.0)
    assert differences["All-CNN-C, seed 1", "public"] == [(float(epoch), 1.0) for epoch in range(1, 101)]
    assert (tmp_path / "out/beside.png").read_bytes().startswith(b"\x89PNG")
    listed = list(csv.DictReader((tmp_path / "out/beside.csv").open()))
    assert len(listed) == 100 and listed[1]["epoch"] == "2" and listed[1]["difference_points"] == "1"
    table = text.partition("### All-CNN-C, seed 1 beside public")[2].partition("\n\n## ")[0]
    shown = [line for line in table.splitlines() if line.endswith("| +1.00 |")]
    assert 20 <= len(shown) <= 40 and shown[-1].startswith("| 100 ")
    page = (tmp_path / "out/report.html").read_text()
    assert "Beside other trainings" in page and "mean difference +1.00 points" in page
    assert "![Test error beside public](beside.png)" in text


CSV = "the log of `caffe train`, or a CSV with the columns iteration, epoch, learning_rate, error_percent, loss"
WHOLE = "the whole log, whose training net has one batch_size to count epochs by (or a CSV with the column epoch)"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, f"{{path}}: found nothing (No such file or directory), expected {CSV}"),
        ("", f"{{path}}: found no test, expected {CSV}"),
        ("hello\n", f"{{path}}: found no test, expected {CSV}"),
        ("iteration,loss\n1,2\n", f"{{path}}:1: found no column epoch, error_percent, expected {CSV}"),
        (
            "# c\niteration,error_percent\n1,2\n",
            f"{{path}}:2: found no column epoch (a CSV names no batch to count epochs by), expected {CSV}",
        ),
        ("epoch,error_percent\n1,x\n", "{path}:2: found error_percent 'x', expected a number"),
        ("epoch,error_percent\n1,nan\n", f"{{path}}: found no point with an epoch and an error, expected {CSV}"),
        (log_text({}), f"{{path}}: found no test, expected {CSV}"),
        (log_text({1: float("nan")}), f"{{path}}: found no test whose accuracy is a number, expected {CSV}"),
        (
            log_text({1: 0.5}).replace("phase: TRAIN\n}", "phase: TEST\n}"),
            f"{{path}}: found no training net, expected {WHOLE}",
        ),
        (log_text({1: 0.5}).replace("batch_size: 64", ""), f"{{path}}: found no batch_size, expected {WHOLE}"),
        (
            log_text({1: 0.5}) + log_text({2: 0.6}, batch_size=32),
            f"{{path}}: found batch_size 32, 64, expected {WHOLE}",
        ),
    ],
)
def test_what_cannot_be_laid_beside_is_one_line(content: str | None, said: str, tmp_path: Path) -> None:
    """Where, what was found, what was expected; status 1 and no report."""
    path = tmp_path / "other"
    if content is not None:
        path.write_text(content)
    a_run(tmp_path / "runs/a", {1: 30})
    words = ["report", str(tmp_path / "runs"), "--beside", str(path), "--output", str(tmp_path / "out")]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 1 and done.output == f"Error: {said.format(path=path)}\n"
    assert not (tmp_path / "out").exists()


def test_a_log_and_runs_on_sets_of_several_sizes_are_refused(tmp_path: Path) -> None:
    """Iterations become epochs by one number of images; a CSV with epochs needs none."""
    a_run(tmp_path / "runs/a", {1: 30})
    a_run(tmp_path / "runs/b", {1: 30}, n_train=1280)
    (tmp_path / "other.log").write_text(log_text({10: 0.5}))
    with pytest.raises(
        ReportError, match=r"counts iterations, and runs on 640, 1,280 training images, expected runs on as"
    ):
        build([tmp_path / "runs"], None, beside=[str(tmp_path / "other.log")])
    with pytest.raises(ReportError, match=r"found no run with a test in the folders, expected at least one"):
        build([tmp_path / "none"], None, beside=[str(tmp_path / "other.log")])
    (tmp_path / "c.csv").write_text("epoch,error_percent\n1,40\n")
    assert len(said(tmp_path / "runs", str(tmp_path / "c.csv"))) >= 2
