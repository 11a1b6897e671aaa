"""Figures as the paper prints them: Table 3, and what Tables 4 and section 3.3 cite of others. Nothing is measured here."""

from __future__ import annotations

from dataclasses import dataclass

TABLE_3_ERRORS: dict[str, tuple[str, float, str]] = {
    "model_a": ("Model A", 12.47, "0.9 M"),
    "strided_cnn_a": ("Strided-CNN-A", 13.46, "0.9 M"),
    "convpool_cnn_a": ("ConvPool-CNN-A", 10.21, "1.28 M"),
    "all_cnn_a": ("All-CNN-A", 10.30, "1.28 M"),
    "model_b": ("Model B", 10.20, "1 M"),
    "strided_cnn_b": ("Strided-CNN-B", 10.98, "1 M"),
    "convpool_cnn_b": ("ConvPool-CNN-B", 9.33, "1.35 M"),
    "all_cnn_b": ("All-CNN-B", 9.10, "1.35 M"),
    "model_c": ("Model C", 9.74, "1.3 M"),
    "strided_cnn_c": ("Strided-CNN-C", 10.19, "1.3 M"),
    "convpool_cnn_c": ("ConvPool-CNN-C", 9.31, "1.4 M"),
    "all_cnn_c": ("All-CNN-C", 9.08, "1.4 M"),
}
"""Table 3: title, error in percent, approximate number of parameters."""

TABLE_4_PARAMETERS: dict[str, str] = {"cifar10-allcnn-c": "1.3 M"}
"""Where Table 4 prints another number of parameters than Table 3 for the same network."""


@dataclass(frozen=True, kw_only=True)
class Cited:
    """A competitor's row."""

    table: str  # where the paper prints it
    section: str  # of that table
    method: str
    error_percent: float
    parameters: str  # the paper's words
    reference: str  # where the figure is from


_MAXOUT = "Goodfellow et al., 2013"
_NIN = "Lin et al., 2014"
_DSN = "Lee et al., 2014"
_DASNET = "Stollenga et al., 2014"
_TREE = "Srivastava & Salakhutdinov, 2013"
_GRAHAM = "Graham, 2015"

PLAIN, AUGMENTED = "CIFAR-10 without data augmentation", "CIFAR-10 with data augmentation"
HUNDRED, LARGE = "CIFAR-100", "CIFAR-10 with large data augmentation"

CITED: tuple[Cited, ...] = (
    Cited(table="Table 4", section=PLAIN, method="Maxout", error_percent=11.68, parameters="> 6 M", reference=_MAXOUT),
    Cited(
        table="Table 4",
        section=PLAIN,
        method="Network in Network",
        error_percent=10.41,
        parameters="1 M",
        reference=_NIN,
    ),
    Cited(
        table="Table 4", section=PLAIN, method="Deeply Supervised", error_percent=9.69, parameters="1 M", reference=_DSN
    ),
    Cited(
        table="Table 4", section=AUGMENTED, method="Maxout", error_percent=9.38, parameters="> 6 M", reference=_MAXOUT
    ),
    Cited(table="Table 4", section=AUGMENTED, method="DropConnect", error_percent=9.32, parameters="", reference=_NIN),
    Cited(
        table="Table 4", section=AUGMENTED, method="dasNet", error_percent=9.22, parameters="> 6 M", reference=_DASNET
    ),
    Cited(
        table="Table 4",
        section=AUGMENTED,
        method="Network in Network",
        error_percent=8.81,
        parameters="1 M",
        reference=_NIN,
    ),
    Cited(
        table="Table 4",
        section=AUGMENTED,
        method="Deeply Supervised",
        error_percent=7.97,
        parameters="1 M",
        reference=_DSN,
    ),
    Cited(
        table="Table 4", section=HUNDRED, method="CNN + tree prior", error_percent=36.85, parameters="", reference=_TREE
    ),
    Cited(
        table="Table 4",
        section=HUNDRED,
        method="Network in Network",
        error_percent=35.68,
        parameters="",
        reference=_NIN,
    ),
    Cited(
        table="Table 4", section=HUNDRED, method="Deeply Supervised", error_percent=34.57, parameters="", reference=_DSN
    ),
    Cited(
        table="Table 4",
        section=HUNDRED,
        method="Maxout (larger)",
        error_percent=34.54,
        parameters="",
        reference=_DASNET,
    ),
    Cited(table="Table 4", section=HUNDRED, method="dasNet", error_percent=33.78, parameters="", reference=_DASNET),
    Cited(
        table="Table 4",
        section=HUNDRED,
        method="Fractional Pooling (1 test)",
        error_percent=31.45,
        parameters="",
        reference=_GRAHAM,
    ),
    Cited(
        table="Table 4",
        section=HUNDRED,
        method="Fractional Pooling (12 tests)",
        error_percent=26.39,
        parameters="",
        reference=_GRAHAM,
    ),
    Cited(
        table="Table 4",
        section=LARGE,
        method="Spatially Sparse CNN",
        error_percent=4.47,
        parameters="",
        reference=_GRAHAM,
    ),
    Cited(
        table="Table 4",
        section=LARGE,
        method="Fractional Pooling (1 test)",
        error_percent=4.50,
        parameters="",
        reference=_GRAHAM,
    ),
    Cited(
        table="Table 4",
        section=LARGE,
        method="Fractional Pooling (100 tests)",
        error_percent=3.47,
        parameters="",
        reference=_GRAHAM,
    ),
    Cited(
        table="section 3.3",
        section="ILSVRC-2012, Top-1",
        method="Krizhevsky et al.",
        error_percent=40.7,
        parameters="60 M",
        reference="Krizhevsky et al., 2012",
    ),
)
"""The competitors' figures as the paper prints them: cited, not measured here."""
