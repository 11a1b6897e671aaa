"""Tables, page and verdicts from records of runs."""

from __future__ import annotations

import csv
import dataclasses
import errno
import io
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from allconv_caffe.html import table
from allconv_caffe.paper.experiments import EXPERIMENTS
from allconv_caffe.paper.published import CITED
from allconv_caffe.report import page as page_, plots, runs as runs_, tables, text, trends
from allconv_caffe.report.build import build
from allconv_caffe.report.collect import Run, find_runs, measured
from allconv_caffe.report.record import Record, ReportError, Schedule, from_json, read
from allconv_caffe.train.settings import SETTINGS

RESULTS = Path(__file__).resolve().parents[2] / "results"
SCHEDULE = (
    "SGD multistep base_lr {lr:g}, momentum 0.9; weight_decay 0.001, batch 128; drops after epochs 200; 350 epochs"
)


def record(experiment: str, error: float | None, **changes: Any) -> dict[str, Any]:
    entry = EXPERIMENTS[experiment]
    lr = changes.get("lr", 0.05)
    return {
        "experiment": experiment,
        "model": entry.title,
        "status": "done",
        "test_error_percent": error,
        "parameters": tables.true_parameters(entry),
        "dataset": entry.dataset.title,
        "seed": 1,
        "epochs": 350.0,
        "engine": "torch",
        "precision": "float32",
        "device": "1 GPU",
        "lr": lr,
        "batch_size": 128,
        "seconds": 7380.0,
        "n_train": 50000,
        "n_test": 10000,
        "max_iter": 136719,
        "schedule": SCHEDULE.format(lr=lr),
        "options": {},
        "attempts": [],
        "published_error_percent": entry.published_error_percent,
        "assumptions": ["batch_size: 128"],
        "best_on_test": {"error_percent": 8.5, "iteration": 99},
        **changes,
    }


DATA = tables.HEAD.index("data set")
HEADS = [name for name in EXPERIMENTS if name.endswith("-fc")]


def runs_of(*records: dict[str, Any]) -> list[Run]:
    return [Run(Path(f"runs/r{number}"), from_json(entry)) for number, entry in enumerate(records)]


def paper() -> list[Run]:
    """The paper's own figures as runs; section 3.1's heads "0.5 to 1 % worse"."""
    return runs_of(
        *(
            record(name, entry.published_error_percent, epochs=entry.schedule.epochs, schedule="")
            if name == "cifar10-large-allcnn"
            else record(name, entry.published_error_percent)
            for name, entry in EXPERIMENTS.items()
            if entry.published_error_percent is not None and name != "imagenet-allcnn"
        ),
        *(record(name, EXPERIMENTS[name.removesuffix("-fc")].published_error_percent + 0.75) for name in HEADS),
    )


def verdict_of(runs: list[Run], beginning: str) -> list[trends.Verdict]:
    return [verdict for verdict in trends.check(runs) if verdict.trend.sentence.startswith(beginning)]


def test_every_sentence_holds_of_the_papers_own_figures() -> None:
    """Fed with Tables 3 and 4, each sentence holds; that of footnote 4's dropout has no figures to check."""
    verdicts = trends.check(paper())
    found = {(verdict.trend.sentence[:24], verdict.verdict) for verdict in verdicts}
    assert {words for words, verdict in found if verdict == trends.NOT_ENOUGH} == {"We also experimented wit"}
    assert len([verdict for verdict in verdicts if verdict.verdict == trends.HOLDS]) == len(trends.TRENDS) - 1
    assert trends.FAILS not in {verdict.verdict for verdict in verdicts}


@pytest.mark.parametrize(
    ("beginning", "experiment", "error"),
    [
        ("We performed additional", "cifar10-model-a-fc", 12.4),  # Model A has 12.47
        ("We performed additional", "cifar10-model-b-fc", 11.8),  # Model B has 10.20
        ("simply removing", "cifar10-strided-cnn-b", 10.1),  # Model B has 10.20
        ("the drop in performance", "cifar10-strided-cnn-c", 11.75),  # Model C has 9.74
        ("when pooling is replaced", "cifar10-allcnn-a", 12.5),  # Model A has 12.47
        ("In all cases", "cifar10-convpool-cnn-c", 9.6),  # All-CNN-C has 9.08
        ("small 3x3", "cifar10-allcnn-b", 9.0),  # All-CNN-C has 9.08
        ("both with and without", "cifar10-allcnn-c-aug", 8.0),  # Deeply Supervised has 7.97
        ("the simple model using", "cifar100-allcnn-c", 33.8),  # dasNet has 33.78
        ("Large-All-CNN achieves", "cifar10-large-allcnn", 3.4),  # Fractional Pooling (100 tests) has 3.47
    ],
)
def test_a_sentence_fails_where_one_network_contradicts_it(beginning: str, experiment: str, error: float) -> None:
    """One figure changed beyond the claim makes its sentence fail."""
    runs = [run for run in paper() if run.record.experiment != experiment]
    one = next(run for run in paper() if run.record.experiment == experiment)
    changed = Run(one.folder, dataclasses.replace(one.record, test_error_percent=error))
    assert [verdict.verdict for verdict in verdict_of([*runs, changed], beginning)] == [trends.FAILS]


def test_a_sentence_about_all_settings_needs_all() -> None:
    """Two of six networks leave "in all settings" open, with the numbers that there are."""
    found = verdict_of(
        runs_of(record("cifar10-model-a", 12.0), record("cifar10-strided-cnn-a", 13.0)), "simply removing"
    )
    assert [verdict.verdict for verdict in found] == [trends.NOT_ENOUGH]
    assert (
        found[0]
        .numbers[0]
        .startswith("Model A below Strided-CNN-A: yes (Model A 12.00 %, lr 0.05; Strided-CNN-A 13.00 %")
    )
    assert found[0].numbers[1] == "Model B below Strided-CNN-B: no run of Model B, Strided-CNN-B"
    assert found[0].runs == ("runs/r0", "runs/r1")


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": "CIFAR-10 (JPEG)"},
        {"epochs": 15.0},
        {"schedule": SCHEDULE.format(lr=0.05).replace("0.001", "0.0005")},
        {"options": {"filler": "msra"}},
    ],
)
def test_only_comparable_runs_are_compared(changes: dict[str, Any]) -> None:
    """Another data set, length, schedule or recipe keeps two networks apart."""
    runs = runs_of(record("cifar10-model-a", 12.0), record("cifar10-strided-cnn-a", 11.0, **changes))
    (verdict,) = verdict_of(runs, "simply removing")
    assert verdict.verdict == trends.NOT_ENOUGH and verdict.runs == ()


def test_each_network_enters_with_its_best_rate() -> None:
    """As in the paper, of several learning rates the one with the lowest mean error counts, and is named."""
    runs = runs_of(
        record("cifar10-model-a", 14.0, lr=0.1),
        record("cifar10-model-a", 12.0, lr=0.01),
        record("cifar10-strided-cnn-a", 13.0),
    )
    (verdict,) = verdict_of(runs, "simply removing")
    assert "Model A 12.00 %, lr 0.01" in verdict.numbers[0]


def test_cited_figures_are_not_set_against_other_data() -> None:
    """A run on JPEG copies, or a short one, says nothing about the competitors' figures."""
    (verdict,) = verdict_of(runs_of(record("cifar100-allcnn-c", 20.0, epochs=15.0)), "the simple model")
    assert verdict.verdict == trends.NOT_ENOUGH


def test_dropout_variants_are_compared_with_their_network() -> None:
    """A run with dropout on all layers is another network under equal conditions."""
    runs = runs_of(record("cifar10-allcnn-c", 9.1), record("cifar10-allcnn-c", 10.0, options={"dropout": "all"}))
    assert [verdict.verdict for verdict in verdict_of(runs, "We also")] == [trends.HOLDS]


def test_seeds_become_mean_and_deviation() -> None:
    """9.0, 9.2 and 9.4 are 9.2 with a standard deviation (N - 1) of 0.2; another engine is another row."""
    entries = [record("cifar10-allcnn-c", 9.0 + 0.2 * seed, seed=seed) for seed in range(3)]
    groups = measured(runs_of(*entries, record("cifar10-allcnn-c", 9.9, engine="caffe")))
    assert [group.error_words() for group in groups] == ["9.20 % ± 0.20 (3 runs)", "9.90 %"]
    assert groups[0].seeds == "0, 1, 2"


def test_the_tables_set_measured_beside_published() -> None:
    """Table 3 has the twelve networks in order, with both counts of parameters; Table 4 every cited figure."""
    found = tables.tables(runs_of(record("cifar10-model-c", 10.1)))
    names = [row[0] for row in found[0].rows]
    assert names[:4] == ["Model A", "Strided-CNN-A", "ConvPool-CNN-A", "All-CNN-A"] and len(names) == 12
    row = next(row for row in found[0].rows if row[0] == "Model C")
    assert row == (
        "Model C",
        "9.74 %",
        "10.10 %",
        "1.3 M",
        "954,730",
        "350",
        "0.05",
        "128",
        "1",
        "CIFAR-10",
        "torch, 1 GPU",
        "2 h 03 min",
    )
    assert "954,730" in found[0].notes[0] and "contradicts" in found[0].notes[0]
    cited = [row for table in found for row in table.rows if "cited" in row]
    assert sorted(row[0] for row in cited) == sorted(entry.method for entry in CITED)
    assert all("(cited)" in row[1] and row[2] == "–" for row in cited)


def test_runs_on_generated_pictures_stay_out_of_the_papers_tables() -> None:
    """Only the experiment's own data set, or a marked copy of it, stands beside a published figure."""
    runs = runs_of(
        record("cifar10-allcnn-c", 11.0, dataset="CIFAR-10 (JPEG)"),
        record("cifar10-allcnn-c", 5.0, dataset="drawn shapes"),
    )
    found = tables.tables(runs)
    assert [row[DATA] for row in found[0].rows if row[2] != "–"] == ["CIFAR-10 (JPEG)"]
    assert [(row[1], row[2], row[DATA]) for row in found[-1].rows] == [("–", "5.00 %", "drawn shapes")]


def test_dead_and_nan_trainings_are_no_results() -> None:
    """A dead run enters no mean; its attempts are listed; an error that is not a number reads so."""
    dead = record(
        "cifar10-allcnn-c", 90.0, status="dead", attempts=[{"seed": 1, "status": "dead", "why": "loss at ln(10)"}]
    )
    runs = runs_of(dead, record("cifar10-model-a", None))
    assert [group.mean for group in measured(runs)] == [None]
    said = text.to_markdown(tables.tables(runs), runs_.shown(runs, draw=False), Path())
    assert "cifar10-allcnn-c, seed 1: dead, loss at ln(10)" in said
    assert "| Model A | 12.47 % | not a number |" in said


def _write(folder: Path, content: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(content))
    (folder / "test.csv").write_text(
        "iteration,epoch,seconds,lr,error_percent,session\n0,0,0,,90,1\n391,1,9,0.05,50,1\n"
    )
    (folder / "train.csv").write_text(
        "iteration,epoch,seconds,lr,loss,session\n0,0,0,0.05,2.3,1\n100,0.26,3,0.05,nan,1\n"
    )


def charts(page: Path) -> list[dict[str, Any]]:
    """What a page's figures are drawn from."""
    return [
        json.loads(words) for words in re.findall(r'<script type="application/json">(.*?)</script>', page.read_text())
    ]


def test_the_report_is_whole_and_the_page_needs_nothing_else(tmp_path: Path) -> None:
    """Three files, a page and a picture for each run are written; the pages need nothing else and lead only to the runs."""
    _write(tmp_path / "runs/cifar10-allcnn-c/seed 1", record("cifar10-allcnn-c", 9.3, model="All-CNN-C <b>"))
    _write(tmp_path / "results/b/seed2", record("cifar10-allcnn-c", 9.5, seed=2))
    _write(tmp_path / "runs/cifar10-allcnn-c/seed 1/attempt-1", record("cifar10-allcnn-c", 90.0))
    text = build([tmp_path / "runs", tmp_path / "results", tmp_path / "none"], tmp_path / "out", trends=True)
    assert (tmp_path / "out/report.md").read_text() == text
    assert "9.40 % ± 0.14 (2 runs)" in text and "not enough runs" in text
    page = (tmp_path / "out/report.html").read_text()
    pages = sorted((tmp_path / "out/pages").iterdir())
    assert [path.name for path in pages] == ["cifar10-allcnn-c-seed-1.html", "cifar10-allcnn-c-seed2.html"]
    for text in (page, *(path.read_text() for path in pages)):
        foreign = text.replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"<(script|link)[^>]*src|https?://|@import|url\(", foreign)
    assert "All-CNN-C &lt;b&gt;" in page and "<b>," not in page
    (made,) = charts(tmp_path / "out/report.html")
    assert made["names"] == ["All-CNN-C <b>, seed 1", "All-CNN-C, seed 2"]
    assert [panel["lines"]["All-CNN-C, seed 2"] for panel in made["panels"]] == [[[0, 90], [1, 50]], [[0, 2.3]]]
    curves = sorted(path.name for path in (tmp_path / "out/curves").iterdir())
    assert curves == ["cifar10-allcnn-c-seed-1.png", "cifar10-allcnn-c-seed2.png"]
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out/report.csv").read_text())))
    kinds = [row["kind"] for row in rows]
    assert (kinds.count("measured"), kinds.count("cited")) == (2, len(CITED))
    assert [row["test_error_percent"] for row in rows[:2]] == ["9.3", "9.5"]


@pytest.mark.parametrize("file", ["report.html", "report.md", "pages/cifar10-allcnn-c-seed1-a-.html"])
def test_every_link_of_a_report_leads_somewhere(file: str, tmp_path: Path) -> None:
    """Links start from the report's folder, lead to each run, its files and its curves, and are URLs."""
    folder = tmp_path / "runs/one/seed1 (a)"
    _write(folder, record("cifar10-allcnn-c", 9.3))
    build([tmp_path / "runs"], tmp_path / "deep/out")
    page = (tmp_path / "deep/out" / file).read_text()
    found = re.findall(r'(?:href|src)="([^"#]+)"|\]\(([^) ]+)\)', page)
    base = (tmp_path / "deep/out" / file).parent
    ways = {(base / unquote(one or other)).resolve() for one, other in found} - {(base / "data:,").resolve()}
    curves = tmp_path / "deep/out/curves/cifar10-allcnn-c-seed1-a-.png"
    own = {"report.html": {tmp_path / "deep/out/pages/cifar10-allcnn-c-seed1-a-.html", curves}, "report.md": {curves}}
    own["pages/cifar10-allcnn-c-seed1-a-.html"] = {tmp_path / "deep/out/report.html", curves}
    assert ways == {folder, *(folder / name for name in ("result.json", "train.csv", "test.csv"))} | own[file]
    assert all(way.exists() for way in ways)


def test_pages_of_runs_that_are_gone_go(tmp_path: Path) -> None:
    """The next report has neither page nor curves of a run that was deleted, nor the figure beside a training that is not asked
    for any more; what somebody else has put there stays."""
    for name, seed in (("one", 1), ("other", 2)):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(record("cifar10-model-c", 10.0, seed=seed)))
        (folder / "test.csv").write_text("epoch,error_percent\n1,50\n350,10\n")
    out, log = tmp_path / "report", tmp_path / "curve.csv"
    log.write_text("epoch,error_percent\n0,90\n350,31\n")
    build([tmp_path / "runs"], out, beside=[str(log)])
    own = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    gone = {"pages/cifar10-model-c-other.html", "curves/cifar10-model-c-other.png", "beside.png", "beside.csv"}
    assert gone <= own
    (out / "pages/mine.html").write_text("<p>notes</p>")
    (out / "curves/mine.png").write_bytes(b"")
    shutil.rmtree(tmp_path / "runs/other")
    build([tmp_path / "runs"], out)
    left = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert left == (own - gone) | {"pages/mine.html", "curves/mine.png"}
    assert "c-other" not in (out / "report.html").read_text()


def test_runs_that_differ_in_the_rate_alone_have_each_their_curve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Model C's dead run and its good one: two names in the figure, two pictures, each of its own points."""
    _write(tmp_path / "runs/cifar10-model-c/seed1-epochs350", record("cifar10-model-c", 14.16, lr=0.01))
    _write(tmp_path / "runs/cifar10-model-c/seed1-epochs350-lr0.05", record("cifar10-model-c", None, status="dead"))
    (tmp_path / "runs/cifar10-model-c/seed1-epochs350-lr0.05/test.csv").write_text("epoch,error_percent\n0,90\n1,100\n")
    monkeypatch.setattr(plots, "draw", lambda losses, errors, *_: str(errors).encode())
    build([tmp_path / "runs"], tmp_path / "out")
    (made,) = charts(tmp_path / "out/report.html")
    assert {name: points[-1][1] for name, points in made["panels"][0]["lines"].items()} == {
        "Model C, lr 0.01, seed 1": 50.0,
        "Model C, lr 0.05, seed 1": 100.0,
    }
    good, dead = (tmp_path / f"out/curves/cifar10-model-c-seed1-epochs350{end}.png" for end in ("", "-lr0.05"))
    assert "(1.0, 50.0)" in good.read_text() and "(1.0, 100.0)" in dead.read_text()


def test_names_of_runs_and_of_their_curves_never_agree() -> None:
    """Runs equal in everything that a name tells are told apart by their folders; long names stay names."""
    runs = [Run(Path(f"{place}/seed1"), from_json(record("cifar10-allcnn-c", 9.0))) for place in ("a", "b")]
    runs += [Run(Path("c/" + "x" * 240 + end), from_json(record("cifar10-allcnn-c", 9.0))) for end in ("", "y")]
    assert runs_.labels(runs)[:2] == ["All-CNN-C, seed 1 (a/seed1)", "All-CNN-C, seed 1 (b/seed1)"]
    names = runs_.curve_files(runs)
    assert len(set(names)) == 4 and max(map(len, names)) < 256
    assert re.fullmatch(r"cifar10-allcnn-c-seed1-[0-9a-f]{8}\.png", names[0])


def test_one_epoch_is_one() -> None:
    """`1 epoch`, `1.5 epochs`: in the name of a run and in that of its kind."""
    runs = [Run(Path(f"{n}/seed1"), from_json(record("cifar10-allcnn-c", 9.0, epochs=n))) for n in (1.0, 1.5)]
    assert [label.split(", ")[1] for label in runs_.labels(runs)] == ["1 epoch", "1.5 epochs"]
    assert [str(run.record.conditions).rpartition(", ")[2] for run in runs] == ["1 epoch", "1.5 epochs"]


def test_what_each_run_took_is_told_by_run(tmp_path: Path) -> None:
    """What all runs share stands once; what one took otherwise stands with its name, and all of it on the page."""
    _write(tmp_path / "runs/a", record("cifar10-allcnn-c", 9.3, assumptions=["filler: xavier", "batch_size: 128"]))
    taken = ["filler: xavier", "batch_size: 256"]
    _write(tmp_path / "runs/b", record("cifar10-allcnn-c", 9.5, batch_size=256, assumptions=taken))
    _write(tmp_path / "runs/c", record("cifar10-allcnn-c", 9.5, engine="caffe", assumptions=[]))
    text = build([tmp_path / "runs"], tmp_path / "out")
    section = text.partition("as taken in these runs\n\n")[2]
    assert section.splitlines()[:3] == [
        "- filler: xavier",
        "- All-CNN-C, batch 128, seed 1, torch: batch_size: 128",
        "- All-CNN-C, batch 256, seed 1, torch: batch_size: 256",
    ]
    run = (tmp_path / "out/pages/cifar10-allcnn-c-b.html").read_text()
    assert "<li>filler: xavier</li><li>batch_size: 256</li>" in run


def test_a_training_at_work_is_a_run_that_has_begun(tmp_path: Path) -> None:
    """Settings and a log without a result: shown with its curve and how far it came, and in no table of results."""
    folder = tmp_path / "runs/cifar10-allcnn-c/seed1"
    folder.mkdir(parents=True)
    log = Path(__file__).resolve().parents[1] / "golden/logs/caffe_resumed.log"
    (folder / "log").write_bytes(log.read_bytes())
    settings = {"seed": 1, "epochs": 6.0, "engine": "caffe", "lr": 0.05, "batch_size": 128, "max_iter": 60}
    data = {"dataset": "CIFAR-10", "n_train": 1280, "n_test": 400, "classes": 10, "preprocessing": "gcn-zca"}
    content = {"experiment": "cifar10-allcnn-c", "settings": settings, "data": data}
    content["assumptions"] = [{"key": "filler", "value": "xavier", "reason": "none"}]
    (folder / "settings.json").write_text(json.dumps(content))
    text = build([tmp_path / "runs"], tmp_path / "out")
    assert "| All-CNN-C, seed 1 | begun | – | 6 | 0.05 | 128 | 1 | CIFAR-10 | caffe |" in text
    assert "cifar10-allcnn-c, seed 1: begun at iteration 60 of 60" in text and "- filler: xavier" in text
    assert (tmp_path / "out/curves/cifar10-allcnn-c-seed1.png").stat().st_size > 5000
    assert "begun, iteration 60 of 60" in (tmp_path / "out/pages/cifar10-allcnn-c-seed1.html").read_text()
    assert measured(find_runs([tmp_path / "runs"])) == []
    (folder / "settings.json").write_text("{}")
    with pytest.raises(
        ReportError, match=r"settings\.json: found no experiment, settings, data, expected the settings"
    ):
        find_runs([tmp_path / "runs"])


@pytest.mark.parametrize(
    ("experiment", "title", "published", "data"),
    [
        ("cifar10-allcnn-c", "Table 4: CIFAR-10 without data augmentation", "9.08 %", "CIFAR-10"),
        ("cifar10-allcnn-c-aug", "Table 4: CIFAR-10 with data augmentation", "7.25 %", "CIFAR-10 (JPEG)"),
        (
            "cifar10-allcnn-c-copies",
            "Table 4: CIFAR-10 with data augmentation",
            "7.25 %, in another reading",
            "CIFAR-10",
        ),
        ("cifar100-allcnn-c", "Table 4: CIFAR-100", "33.71 %", "CIFAR-100"),
        ("cifar10-large-allcnn", "Table 4: CIFAR-10 with large data augmentation", "4.41 %", "CIFAR-10"),
        ("imagenet-allcnn", "Section 3.3: ILSVRC-2012, Top-1", "41.20 %", "ILSVRC-2012"),
    ],
)
def test_table_4_fills_itself_from_runs(experiment: str, title: str, published: str, data: str) -> None:
    """A run of each of its networks stands in its part, beside the published error, in place of "not run"."""
    count = 12_345
    runs = runs_of(record(experiment, 40.5, dataset=data, lr=0.01, parameters=count))
    part = next(table for table in tables.tables(runs) if table.title == title)
    rows = {row[0]: row for row in part.rows if row[0] == EXPERIMENTS[experiment].title}
    ((_, row),) = rows.items()
    assert (row[1], row[2], row[4], row[DATA]) == (published, "40.50 %", "12,345", data)
    empty = next(table for table in tables.tables([]) if table.title == title)
    before = next(row for row in empty.rows if row[0] == EXPERIMENTS[experiment].title)
    assert before[2] == "–" and before[4].endswith("(not run)")


NODE = shutil.which("node")
SORTED = """
const cell = (text, key) => ({ textContent: text, dataset: key === undefined ? {} : { key } });
const rows = JSON.parse(process.argv[1]).map(([text, key]) => ({ cells: [cell(text, key)], text }));
const order = (descending) => sorted(rows, 0, descending).map((row) => row.text);
console.log(JSON.stringify([order(false), order(true)]));
"""


@pytest.mark.skipif(NODE is None, reason="needs Node.js")
def test_the_pages_script_sorts_numbers_as_numbers(tmp_path: Path) -> None:
    """9.08 before 10.2, times by their length, texts behind numbers, what says nothing last either way, ties as they were."""
    texts = [
        "10.20 %",
        "9.08 %",
        "–",
        "2 h 03 min",
        "40 s",
        "12 min",
        "9.08 % ± 0.10 (3 runs)",
        "954,730",
        "> 50 M",
        "b10",
        "b9",
    ]
    keyed = []
    for cell in texts:
        key = table.key(cell)
        keyed.append([cell, key] if key else [cell])
    script = (Path(table.__file__).parent / "templates/sort.js").read_text() + SORTED
    assert NODE is not None
    done = subprocess.run([NODE, "-e", script, json.dumps(keyed)], capture_output=True, text=True, check=True)
    up, down = json.loads(done.stdout)
    numbers = ["9.08 %", "9.08 % ± 0.10 (3 runs)", "10.20 %", "40 s", "12 min", "2 h 03 min", "954,730", "> 50 M"]
    assert up == [*numbers, "b9", "b10", "–"]
    assert down == [*numbers[:1:-1], *numbers[:2], "b10", "b9", "–"]


def test_the_tables_are_sorted_from_the_keyboard_too(tmp_path: Path) -> None:
    """Each head of each table holds a button, which a keyboard reaches; the script belongs to the page."""
    _write(tmp_path / "runs/a", record("cifar10-allcnn-c", 9.3))
    build([tmp_path / "runs"], tmp_path / "out")
    text = (tmp_path / "out/report.html").read_text()
    heads = re.findall(r"<th\b.*?</th>", text)
    assert heads and all(
        re.fullmatch(r'<th scope="col"><button type="button">[^<]+</button></th>', head) for head in heads
    )
    assert text.count("<table") == text.count('<table class="sortable">') and "function sortable(table)" in text


def test_a_report_that_cannot_be_written_leaves_nothing_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up: an error, no temporary file, and the report that was there."""
    _write(tmp_path / "runs/a", record("cifar10-allcnn-c", 9.3))
    build([tmp_path / "runs"], tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    _write(tmp_path / "runs/b", record("cifar10-allcnn-c", 9.9))
    with pytest.raises(OSError, match="No space left"):
        build([tmp_path / "runs"], tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    """A result.json that is none is one clear line."""
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(ReportError, match=r"result\.json: found no JSON"):
        find_runs([tmp_path])
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(ReportError, match=r"found no experiment, model, .* expected the record of a run"):
        find_runs([tmp_path])


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("seed", "1", 'found seed "1", expected a whole number'),
        ("epochs", None, "found epochs null, expected a number"),
        ("test_error_percent", float("nan"), "found test_error_percent NaN, expected a number or null"),
        ("best_on_test", [1], "found best_on_test [1], expected an object or null"),
        ("attempts", None, "found attempts null, expected a list of objects"),
        ("assumptions", [1], "found assumptions [1], expected a list of texts"),
        ("engine", ["torch"], 'found engine ["torch"], expected a text'),
    ],
)
def test_an_entry_of_another_kind_is_named(key: str, value: Any, found: str, tmp_path: Path) -> None:
    """A record whose entries are of another kind is one clear line, with the entry."""
    (tmp_path / "result.json").write_text(json.dumps(record("cifar10-allcnn-c", 9.0)))
    assert len(find_runs([tmp_path])) == 1
    (tmp_path / "result.json").write_text(json.dumps(record("cifar10-allcnn-c", 9.0) | {key: value}))
    with pytest.raises(ReportError) as caught:
        find_runs([tmp_path])
    assert str(caught.value) == f"{tmp_path}/result.json: {found}"


def test_points_that_are_none_are_named(tmp_path: Path) -> None:
    """A train.csv that is no table of points is one clear line."""
    (tmp_path / "train.csv").write_bytes(b"epoch,loss\n1,\xff\n")
    with pytest.raises(ReportError, match=r"train\.csv: found .*, expected the points of a run"):
        Run(tmp_path, record("cifar10-allcnn-c", 9.0)).curve("train")
    for name in ("train.csv", "log"):
        (tmp_path / "train.csv").unlink()
        os.mkfifo(tmp_path / name)
        with pytest.raises(ReportError, match=f"{name}: found a pipe"):
            Run(tmp_path, record("cifar10-allcnn-c", 9.0)).curve("train")


def test_a_run_without_csv_takes_its_curves_from_the_log(tmp_path: Path) -> None:
    """The log alone is enough for the curves."""
    log = Path(__file__).resolve().parents[1] / "golden/logs/caffe_resumed.log"
    (tmp_path / "log").write_bytes(log.read_bytes())
    run = Run(tmp_path, from_json(record("cifar10-allcnn-c", 9.0, epochs=6.0, max_iter=60)))
    assert run.curve("train")[:2] == [(0.0, 2.28996), (0.5, 2.06518)]
    assert run.curve("test")[-1] == (6.0, 0.0)


def test_both_published_numbers_of_parameters_are_shown() -> None:
    """Table 3 gives All-CNN-C 1.4 M parameters, Table 4 1.3 M: each stands in its table, a note beside the true count."""
    table_3, table_4 = tables.tables([])[:2]
    column = tables.HEAD.index("published parameters")
    assert next(row for row in table_3.rows if row[0] == "All-CNN-C")[column] == "1.4 M"
    assert next(row for row in table_4.rows if row[0] == "All-CNN-C")[column] == "1.3 M"
    assert table_4.notes[1] == "All-CNN-C: 1.4 M parameters in Table 3, 1.3 M in Table 4; its layers have 1,369,738."


def test_runs_on_unwhitened_images_stand_apart() -> None:
    """Raw or contrast-normalised images are a variant, never averaged or compared with runs on whitened ones."""
    runs = runs_of(record("cifar10-model-a", 12.0), record("cifar10-model-a", 20.0, preprocessing="raw", seed=2))
    assert [(group.first.variant, group.mean) for group in measured(runs)] == [
        ("", 12.0),
        ("preprocessing raw", 20.0),
    ]
    assert runs[0].record.conditions != runs[1].record.conditions
    titles = [row[0] for row in tables.tables(runs)[0].rows]
    assert {"Model A", "Model A (preprocessing raw)"} <= set(titles)


def test_runs_with_other_random_numbers_or_flags_stand_apart() -> None:
    """What makes two runs two is not averaged: rate, engine, precision, random numbers, the engine's own flags."""
    plain = record("cifar10-model-a", 12.0)
    others = [{"lr": 0.01}, {"engine": "caffe"}, {"precision": "bf16"}, {"rng": "caffe"}, {"caffe_flags": ["-x"]}]
    runs = runs_of(plain, {**plain, "seed": 2}, *({**plain, **other} for other in others))
    assert sorted(len(group.runs) for group in measured(runs)) == [1] * len(others) + [2]


OLD_SCHEDULE = Schedule(
    type="SGD",
    lr_policy="multistep",
    momentum=0.9,
    weight_decay=0.001,
    batch_size=128,
    epochs=350.0,
    gamma=0.1,
    drop_epochs=(200.0,),
)


def test_the_schedule_of_an_old_record_is_read_from_its_line() -> None:
    """A line of version 0.1 becomes the fields that a record has today, and equal ones: both may be compared."""
    old = from_json(record("cifar10-allcnn-c", 9.0, lr=0.1))
    assert old.schedule == OLD_SCHEDULE
    assert from_json(old.to_json()) == old
    assert old.schedule_words == (
        "base_lr 0.1; SGD multistep, momentum 0.9, weight_decay 0.001; batch 128; drops after epochs 200; 350 epochs"
    )
    with pytest.raises(ReportError, match="^record: found schedule 'soon', expected an object, or the line"):
        from_json(record("cifar10-allcnn-c", 9.0, schedule="soon"))
    with pytest.raises(ReportError, match='^record: schedule: found momentum "x", expected a number$'):
        from_json(record("cifar10-allcnn-c", 9.0, schedule={**dataclasses.asdict(OLD_SCHEDULE), "momentum": "x"}))
    with pytest.raises(
        ReportError, match="^record: schedule: found no type, lr_policy, .* expected the record of a run"
    ):
        from_json(record("cifar10-allcnn-c", 9.0, schedule={}))


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*/result.json")), ids=lambda path: path.parent.name)
def test_every_record_in_results_is_read(path: Path) -> None:
    """The committed records keep what they said; written again, they are read as the same."""
    found, said = read(path), json.loads(path.read_text())
    assert found.schedule is not None and found.schedule.epochs == found.epochs
    kept = {key: value for key, value in said.items() if key != "schedule"}
    assert {key: value for key, value in found.to_json().items() if key in kept} == kept
    assert from_json(json.loads(json.dumps(found.to_json()))) == found


def test_a_record_keeps_every_setting_that_makes_a_run_another() -> None:
    """A setting that stands in a run's identity stands in its record, and keeps runs apart or makes them comparable."""
    deciding = {name for name, setting in SETTINGS.items() if setting.fact or setting.option or setting.word}
    fields = {field.name for field in dataclasses.fields(Record)}
    assert deciding - fields == {"data", "gpu"}  # the record has the data set and the device themselves


EVIL = "$\\bad{ [x](http://evil) <img src=x onerror=alert(1)> `a` | *b*"
FORMULA = '=HYPERLINK("http://evil")'


def test_names_are_letters_in_every_medium(tmp_path: Path) -> None:
    """A data set, a model, a device that hold Markdown, HTML, a formula: shown as they are; the run still has its report."""
    _write(tmp_path / "runs/a/one", record("cifar10-allcnn-c", 9.3, dataset=EVIL, device=EVIL))
    _write(tmp_path / "runs/a/two", record("cifar10-allcnn-c", 9.3, seed=2, dataset=FORMULA, model="$x^"))
    text = build([tmp_path / "runs"], tmp_path / "out", trends=True)
    assert "[x](http" not in text and not re.search(r"(?<!\\)<img", text) and not re.search(r"(?<!\\)\$", text)
    page = (tmp_path / "out/report.html").read_text()
    assert "<img src=x" not in page and 'http-equiv="Content-Security-Policy"' in page
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out/report.csv").read_text())))
    assert [row["dataset"] for row in rows[:2]] == [EVIL, "'" + FORMULA]
    for figure in (
        plots.draw({EVIL: [(1, 2)]}, {"$": [(1, 2)]}, EVIL),
        plots.overlay({EVIL: [(1, 2)]}, {"a$": [(1, 2)]}, {}),
    ):
        assert figure.startswith(b"\x89PNG")


ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    1e300,
    10**30,
    "",
    "x",
    "\ud800",
    [],
    [None],
    [["x"]],
    {},
    {"a": None},
    [{}],
    [{"key": 1}],
]
ODD += [{"error_percent": odd, "iteration": odd} for odd in (None, "x", [], 1.5)]


@pytest.mark.parametrize("name", ["result.json", "settings.json"])
def test_an_entry_of_any_kind_is_shown_or_named(name: str, tmp_path: Path) -> None:
    """Every entry of a record, and of the settings of a run at work, replaced by every odd one: a report, or one line."""
    folder = tmp_path / "runs/a/one"
    folder.mkdir(parents=True)
    (folder / "log").write_text("")
    content: dict[str, Any] = record(
        "cifar10-allcnn-c", 9.3, course={}, data_sha256={}, caffe_flags=["-x"], test_iteration=5
    )
    if name == "settings.json":
        settings = {"seed": 1, "epochs": 1.0, "engine": "torch", "lr": 0.1, "options": {}, "max_iter": 5}
        content = {"experiment": "x", "title": "X", "settings": settings, "data": {"dataset": "d"}, "assumptions": []}
    refused = 0
    for key in (*content, "another"):
        for odd in ODD:
            (folder / name).write_text(json.dumps({**content, key: odd}))
            try:
                entries = runs_.shown(find_runs([tmp_path / "runs"]), draw=False)
            except ReportError:
                refused += 1
                continue
            runs = [entry.run for entry in entries]
            text.to_markdown(tables.tables(runs), entries, tmp_path, trends.check(runs)).encode()
            page_.to_html(tables.tables(runs), entries, tmp_path, trends.check(runs)).encode()
            tables.to_csv(runs).encode()
    assert refused > 5 * len(content)
