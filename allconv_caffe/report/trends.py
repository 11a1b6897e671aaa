"""The sentences of sections 3.1 and 3.2 that compare networks, as data, each checked against the runs at hand.

Only runs on the same data set, for the same epochs, on the same schedule are compared; as in the paper, each network
enters with the best of the learning rates it was run with. A cited figure is compared with runs on the paper's own
data set over the paper's own epochs alone.

Source: sections 3.1 and 3.2 of the paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from allconv_caffe.paper.experiments import EXPERIMENTS
from allconv_caffe.paper.published import AUGMENTED, CITED, HUNDRED, LARGE, PLAIN
from allconv_caffe.report.collect import Measured, Run, measured
from allconv_caffe.report.record import Conditions

ON_PAR_POINTS = 0.5
"""Two errors are "about on par" within half a point: twice the paper's own largest such difference (0.23)."""

DRAMATIC_POINTS = 2.0
"""A drop is "dramatic" from two points on: twice the paper's own largest drop (0.99)."""

HOLDS, FAILS, NOT_ENOUGH = "holds", "fails", "not enough runs"


@dataclass(frozen=True)
class Check:
    """One comparison: of networks among themselves, or of one with a figure.

    networks: experiments that must be at hand, with ``|option value`` behind them for a variant. holds: of their
    errors in percent. words: what is claimed, with the names. cited: the claim is about a cited figure.
    """

    networks: tuple[str, ...]
    holds: Callable[[Mapping[str, float]], bool]
    words: str
    cited: bool = False


@dataclass(frozen=True, kw_only=True)
class Trend:
    """A sentence of the paper, and the comparisons that it makes: it holds if all of them do."""

    section: str
    """Where the paper says it."""
    sentence: str
    """Its words."""
    checks: tuple[Check, ...]
    """The comparisons."""
    reading: str = ""
    """How its words were made into numbers; "" where they are plain."""
    any_of: bool = False
    """Whether the comparisons are instances of a general claim, of which those at hand are enough."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the runs say of a sentence."""

    trend: Trend
    """The sentence."""
    verdict: str
    """``holds``, ``fails`` or ``not enough runs``."""
    conditions: str
    """Of the runs compared; "" where there are none."""
    numbers: tuple[str, ...]
    """One line for each comparison."""
    runs: tuple[str, ...]
    """The folders of the runs used."""


def _below(better: str, worse: str) -> Check:
    return Check((better, worse), lambda e: e[better] < e[worse], f"{_title(better)} below {_title(worse)}")


def _title(name: str) -> str:
    base, _, variant = name.partition("|")
    return EXPERIMENTS[base].title + (f" ({variant})" if variant else "")


def _cifar10(family: str, letter: str) -> str:
    return f"cifar10-{family}-{letter}"


def _on_par(one: str, other: str) -> Check:
    return Check(
        (one, other),
        lambda e: abs(e[one] - e[other]) <= ON_PAR_POINTS,
        f"{_title(one)} within {ON_PAR_POINTS} points of {_title(other)}",
    )


def _no_drama(strided: str, base: str) -> Check:
    return Check(
        (strided, base),
        lambda e: e[strided] - e[base] < DRAMATIC_POINTS,
        f"{_title(strided)} less than {DRAMATIC_POINTS:g} points above {_title(base)}",
    )


def _cited(section: str, but: str = "") -> float:
    return min(row.error_percent for row in CITED if row.section == section and (not but or but not in row.method))


def _figure(name: str, limit: float, what: str, above: bool = False) -> Check:
    return Check(
        (name,),
        lambda e: e[name] > limit if above else e[name] < limit,
        f"{_title(name)} {'above' if above else 'below'} {limit:.2f} % ({what}, cited)",
        cited=True,
    )


def _not_below(worse: str, better: str) -> Callable[[Mapping[str, float]], bool]:
    return lambda e: e[worse] >= e[better]


def _best_is_3x3() -> Check:
    names = [name for name in EXPERIMENTS if name.startswith("cifar10-") and name[-2:] in ("-a", "-b", "-c")]
    small = [name for name in names if name.endswith("-c")]
    large = [name for name in names if not name.endswith("-c")]
    return Check(
        tuple(names),
        lambda e: min(e[name] for name in small) < min(e[name] for name in large),
        "the best of the C networks (3x3 only) below the best of the A and B networks",
    )


def _little_worse(worse: str, better: str) -> Check:
    most = 1 + ON_PAR_POINTS
    return Check(
        (worse, better),
        lambda e: 0 < e[worse] - e[better] <= most,
        f"{_title(worse)} above {_title(better)}, by at most {most:g} points",
    )


_LETTERS = ("a", "b", "c")
_PLAIN_NAMES = [_cifar10(f, x) for x in _LETTERS for f in ("model", "strided-cnn", "convpool-cnn", "allcnn")]

TRENDS: tuple[Trend, ...] = (
    Trend(
        section="3.1",
        sentence="We performed additional experiments with fully connected layers instead of 1-by-1 convolutions but "
        "found these models to consistently perform 0.5% - 1% worse than their fully convolutional counterparts",
        checks=tuple(
            _little_worse(f"{name}-fc", name)
            for name in (*(_cifar10("model", x) for x in _LETTERS), "cifar10-allcnn-c")
        ),
        reading=f"worse: above, by at most 1 point and the {ON_PAR_POINTS:g} within which two errors count as equal",
    ),
    Trend(
        section="3.2.1",
        sentence="simply removing the max-pooling layer and just increasing the stride of the previous layer results in "
        "diminished "
        "performance in all settings",
        checks=tuple(_below(_cifar10("model", x), _cifar10("strided-cnn", x)) for x in _LETTERS),
    ),
    Trend(
        section="3.2.1",
        sentence="the drop in performance is not as dramatic as one might expect from such a drastic change to the network "
        "architecture",
        checks=tuple(_no_drama(_cifar10("strided-cnn", x), _cifar10("model", x)) for x in _LETTERS),
        reading=f"dramatic: {DRAMATIC_POINTS:g} points or more; the paper's drops are 0.99, 0.78 and 0.45",
    ),
    Trend(
        section="3.2.1",
        sentence="when pooling is replaced by an additional convolution layer with stride r = 2 performance stabilizes and even "
        "improves on the base model",
        checks=tuple(_below(_cifar10("allcnn", x), _cifar10("model", x)) for x in _LETTERS),
    ),
    Trend(
        section="3.2.1",
        sentence="In all cases the performance of the model without any pooling and the model with pooling on top of the "
        "additional "
        "convolution perform about on par",
        checks=tuple(_on_par(_cifar10("allcnn", x), _cifar10("convpool-cnn", x)) for x in _LETTERS),
        reading=f"on par: within {ON_PAR_POINTS:g} points; the paper's differences are 0.09, 0.23 and 0.23",
    ),
    Trend(
        section="3.2.1",
        sentence="small 3x3 convolutions stacked after each other seem to be enough to achieve the best performance",
        checks=(_best_is_3x3(),),
        reading="the best of all twelve networks is one of the four derived from or equal to model C",
    ),
    Trend(
        section="3.2.1",
        sentence="We also experimented with additional dropout (i.e. dropout on all layers or only on the 1x1 convolution "
        "layer) "
        "which however did not result in increased accuracy",
        checks=tuple(
            Check(
                (f"{name}|dropout {kind}", name),
                _not_below(f"{name}|dropout {kind}", name),
                f"{_title(name)} with dropout on {kind} not below {_title(name)}",
            )
            for name in _PLAIN_NAMES
            for kind in ("all", "1x1")
        ),
        reading="any of the twelve networks",
        any_of=True,
    ),
    Trend(
        section="3.2.1",
        sentence="both with and without data augmentation. In both cases the simple network performs better than the best "
        "previously "
        "reported result",
        checks=(
            _figure("cifar10-allcnn-c", _cited(PLAIN), "Deeply Supervised"),
            _figure("cifar10-allcnn-c-aug", _cited(AUGMENTED), "Deeply Supervised"),
        ),
    ),
    Trend(
        section="3.2.2",
        sentence="the simple model using only 3x3 convolutions again performs comparable to the state of the art for this "
        "dataset "
        "[...] It is only outperformed by the fractional max-pooling approach",
        checks=(
            _figure("cifar100-allcnn-c", _cited(HUNDRED, "Fractional"), "dasNet"),
            _figure("cifar100-allcnn-c", _cited(HUNDRED), "Fractional Pooling, 12 tests", above=True),
        ),
        reading="below every cited figure but those of fractional pooling",
    ),
    Trend(
        section="3.2.3",
        sentence="Large-All-CNN achieves performance comparable to the network with max-pooling. It is only outperformed by the "
        "fractional max-pooling approach when performing multiple passes through the network",
        checks=(
            _figure("cifar10-large-allcnn", 4.47, "Spatially Sparse CNN"),
            _figure("cifar10-large-allcnn", 4.50, "Fractional Pooling, 1 test"),
            _figure("cifar10-large-allcnn", _cited(LARGE), "Fractional Pooling, 100 tests", above=True),
        ),
    ),
)


def check(runs: Sequence[Run], trends: Sequence[Trend] = TRENDS) -> list[Verdict]:
    """A verdict on each sentence for each set of comparable runs at hand; else ``not enough runs``."""
    conditions: dict[Conditions, dict[str, Measured]] = {}
    for group in measured(runs):
        if group.mean is None:
            continue
        name = group.first.network
        if name.partition("|")[0] not in EXPERIMENTS:
            continue
        networks = conditions.setdefault(group.first.conditions, {})
        best = networks.get(name)
        if best is None or best.mean is None or group.mean < best.mean:
            networks[name] = group
    verdicts = []
    for trend in trends:
        found = [
            verdict
            for key, networks in sorted(conditions.items(), key=lambda entry: entry[0].order)
            if (verdict := _judge(trend, key, networks)) is not None
        ]
        verdicts += found or [
            Verdict(
                trend=trend,
                verdict=NOT_ENOUGH,
                conditions="",
                numbers=tuple(f"{c.words}: no runs" for c in trend.checks[:3]),
                runs=(),
            )
        ]
    return verdicts


def _judge(trend: Trend, key: Conditions, networks: Mapping[str, Measured]) -> Verdict | None:
    lines: list[str] = []
    used: dict[str, None] = {}
    outcomes: list[bool | None] = []
    for entry in trend.checks:
        if any(name not in networks for name in entry.networks):
            outcomes.append(None)
            missing = [_title(name) for name in entry.networks if name not in networks]
            if not trend.any_of:
                lines.append(f"{entry.words}: no run of {', '.join(missing)}")
            continue
        experiment = EXPERIMENTS[entry.networks[0].partition("|")[0]]
        if entry.cited and (key.dataset != experiment.dataset.title or key.epochs != experiment.schedule.epochs):
            outcomes.append(None)
            lines.append(
                f"{entry.words}: a run on {key.dataset} over {key.epochs:g} epochs cannot be set against a figure of "
                f"{experiment.dataset.title} over {experiment.schedule.epochs:g}"
            )
            continue
        groups = [networks[name] for name in entry.networks]
        holds = entry.holds({name: networks[name].mean or 0.0 for name in entry.networks})
        outcomes.append(holds)
        shown = "; ".join(_number(group) for group in groups)
        lines.append(f"{entry.words}: {'yes' if holds else 'no'} ({shown}{_noise(groups)})")
        used.update(dict.fromkeys(str(run.folder) for group in groups for run in group.runs))
    if all(outcome is None for outcome in outcomes):
        return None
    if False in outcomes:
        verdict = FAILS
    elif None in outcomes and not trend.any_of:
        verdict = NOT_ENOUGH
    else:
        verdict = HOLDS
    return Verdict(trend=trend, verdict=verdict, conditions=str(key), numbers=tuple(lines), runs=tuple(used))


def _number(group: Measured) -> str:
    first = group.first
    name = first.model + (f" ({first.variant})" if first.variant else "")
    words = f"{name} {group.error_words()}"
    return words if first.lr is None else f"{words}, lr {first.lr:g}"


def _noise(groups: Sequence[Measured]) -> str:
    """Whether the difference of two networks is more than seeds make."""
    if len(groups) != 2:
        return ""
    if any(group.std is None for group in groups):
        return "; one seed each says little of differences below half a point"
    one, other = groups
    spread = math.sqrt(sum((group.std or 0.0) ** 2 / len(group.errors) for group in groups))
    difference = abs((one.mean or 0.0) - (other.mean or 0.0))
    return "; within what seeds make" if difference < 2 * spread else ""
