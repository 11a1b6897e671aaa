"""Measured beside published, in the form of the paper's Tables 3 and 4, and as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from allconv_caffe import csv_text
from allconv_caffe.paper.experiments import EXPERIMENTS, Experiment
from allconv_caffe.paper.plan import parameters
from allconv_caffe.paper.published import AUGMENTED, CITED, HUNDRED, LARGE, PLAIN, TABLE_4_PARAMETERS
from allconv_caffe.report.collect import Measured, Run, measured, same_dataset

HEAD = (
    "model",
    "published error",
    "measured error",
    "published parameters",
    "measured parameters",
    "epochs",
    "lr",
    "batch",
    "seed",
    "data set",
    "engine",
    "time",
)
"""Columns of every table; errors are of the last iteration."""

CITED_MARK = "cited"

_OURS: dict[str, tuple[str, ...]] = {
    PLAIN: ("cifar10-allcnn-c",),
    AUGMENTED: ("cifar10-allcnn-c-aug", "cifar10-allcnn-c-copies"),
    HUNDRED: ("cifar100-allcnn-c",),
    LARGE: ("cifar10-large-allcnn",),
    "ILSVRC-2012, Top-1": ("imagenet-allcnn",),
}


@dataclass(frozen=True)
class Table:
    """A title and rows of text under ``HEAD``; notes stand below it."""

    title: str
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def true_parameters(experiment: Experiment) -> int:
    """Weights and biases that the table of the paper gives."""
    return parameters(experiment.network())


def on_its_dataset(run: Run) -> bool:
    """Whether a run is on the experiment's data set, or a marked copy of it such as "CIFAR-10 (JPEG)"."""
    entry = EXPERIMENTS.get(run.record.experiment)
    if entry is None:
        return True
    return same_dataset(run.record.dataset, entry.dataset.title)


def _row(name: str, group: Measured | None, published: bool = True, count: str = "") -> tuple[str, ...]:
    entry = EXPERIMENTS.get(name)
    title = entry.title if entry else group.first.model if group else name
    shown = entry.published if entry and published else "–"
    words = count or (entry.published_parameters if entry else "") or "–"
    if group is None:
        true = f"{true_parameters(entry):,}" if entry else "–"
        return (title, shown, "–", words, f"{true} (not run)", *("–",) * 7)
    first = group.first
    if first.variant:
        title += f" ({first.variant})"
    engine = [first.engine, first.device, first.precision if first.precision != "float32" else None]
    engine.append("seed-exact" if first.engine != "caffe" and first.rng == "caffe" else None)
    return (
        title,
        shown,
        group.error_words(),
        words,
        f"{first.parameters:,}" if first.parameters else "–",
        f"{first.epochs:g}",
        "–" if first.lr is None else f"{first.lr:g}",
        "–" if first.batch_size is None else str(first.batch_size),
        group.seeds,
        first.dataset,
        ", ".join(filter(None, engine)),
        clock(group.seconds),
    )


def clock(seconds: float | None) -> str:
    """``2 h 03 min``, ``12 min``, ``40 s``; a dash where it is not known."""
    if seconds is None:
        return "–"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def tables(runs: Sequence[Run]) -> list[Table]:
    """Table 3, the four parts of Table 4, the ImageNet figure, other runs, and those that did not end well."""
    groups: dict[str, list[Measured]] = {}
    for group in measured(runs):
        groups.setdefault(group.first.experiment, []).append(group)
    elsewhere: list[Measured] = []
    for entries in groups.values():
        elsewhere += [group for group in entries if not on_its_dataset(group.runs[0])]
        entries[:] = [group for group in entries if on_its_dataset(group.runs[0])]
        entries.sort(key=lambda group: (group.first.conditions.order, -1.0 if group.mean is None else group.mean))

    def rows(name: str, count: str = "") -> list[tuple[str, ...]]:
        return [_row(name, group, count=count) for group in groups.get(name, [])] or [_row(name, None, count=count)]

    table_3 = [name for name, entry in EXPERIMENTS.items() if entry.source.startswith("Table 3")]
    heads = [name for name, entry in EXPERIMENTS.items() if entry.source.startswith("section 3.1")]
    found = [
        Table(
            "Table 3: base and derived models on CIFAR-10, without data augmentation",
            tuple(row for name in table_3 for row in rows(name)),
            (_parameters_note(),),
        ),
    ]
    for section, names in _OURS.items():
        cited = [
            (
                row.method,
                f"{row.error_percent:.2f} % ({CITED_MARK})",
                "–",
                row.parameters or "–",
                *("–",) * 5,
                CITED_MARK,
                row.reference,
                "–",
            )
            for row in CITED
            if row.section == section
        ]
        ours = [row for name in names for row in rows(name, TABLE_4_PARAMETERS.get(name, ""))]
        notes = (f"Rows marked {CITED_MARK}: the paper's words, not measured here.", *_count_notes(names))
        title = f"Table 4: {section}" if section in (PLAIN, AUGMENTED, HUNDRED, LARGE) else f"Section 3.3: {section}"
        found.append(Table(title, tuple(cited + ours), notes))
    found.append(
        Table(
            "Section 3.1: fully connected layers in place of 1x1 convolutions, on CIFAR-10",
            tuple(row for name in heads for row in rows(name)),
            ('The paper prints no figures for them, "to avoid cluttering the experiments".',),
        )
    )
    shown = {*table_3, *heads, *(name for names in _OURS.values() for name in names)}
    others = [row for name, entries in groups.items() if name not in shown and entries for row in rows(name)]
    others += [_row(group.first.experiment, group, published=False) for group in elsewhere]
    if others:
        found.append(Table("Other networks and other data sets: nothing published to compare with", tuple(others)))
    return found


def _count_notes(names: Sequence[str]) -> list[str]:
    """A sentence for each network to which Tables 3 and 4 give different numbers of parameters."""
    return [
        f"{entry.title}: {entry.published_parameters} parameters in Table 3, {TABLE_4_PARAMETERS[entry.name]} in Table 4; its "
        f"layers have {true_parameters(entry):,}."
        for entry in (EXPERIMENTS[name] for name in names if name in TABLE_4_PARAMETERS)
    ]


def _parameters_note() -> str:
    entry = EXPERIMENTS["cifar10-model-c"]
    return (
        f"Model C and Strided-CNN-C: the layers of Table 1 have {true_parameters(entry):,} parameters; the paper's "
        f"{entry.published_parameters} contradicts its own table. Both are shown."
    )


CSV_HEAD = (
    "kind",
    "table",
    "experiment",
    "model",
    "variant",
    "dataset",
    "test_error_percent",
    "published_error_percent",
    "parameters",
    "published_parameters",
    "seed",
    "epochs",
    "lr",
    "batch_size",
    "engine",
    "precision",
    "device",
    "seconds",
    "images_per_second",
    "best_on_test_percent",
    "status",
    "reference",
    "folder",
)


def to_csv(runs: Sequence[Run]) -> str:
    """One row per run (kind ``measured``), per result of the paper (``published``), per competitor (``cited``)."""
    rows: list[dict[str, object]] = []
    for run in runs:
        found = run.record
        row = {key: value for key in CSV_HEAD if (value := getattr(found, key, None)) is not None}
        best = (found.best_on_test or {}).get("error_percent")
        row |= {"kind": "measured", "folder": run.folder.as_posix()}
        row["test_error_percent"] = "" if found.error_percent is None else found.error_percent
        row["best_on_test_percent"] = "" if best is None else best
        rows.append(row)
    for name, entry in EXPERIMENTS.items():
        if entry.published_error_percent is not None:
            rows.append(
                {
                    "kind": "published",
                    "table": entry.source,
                    "experiment": name,
                    "model": entry.title,
                    "dataset": entry.dataset.title,
                    "published_error_percent": entry.published_error_percent,
                    "parameters": true_parameters(entry),
                    "published_parameters": entry.published_parameters,
                }
            )
    for cited in CITED:
        rows.append(
            {
                "kind": "cited",
                "table": cited.table,
                "model": cited.method,
                "dataset": cited.section,
                "published_error_percent": cited.error_percent,
                "published_parameters": cited.parameters,
                "reference": cited.reference,
            }
        )
    return csv_text.text([CSV_HEAD, *([row.get(key, "") for key in CSV_HEAD] for row in rows)])
