"""One body for every error: the sentence, the fields, the way through a worker process."""

from __future__ import annotations

import importlib
import pickle
from pathlib import Path

import pytest

from allconv_caffe.errors import MOST_LETTERS, FoundError, PlacedError

SENTENCES = {
    "allconv_caffe.augment.AugmentError": "a: net: found this, expected that",
    "allconv_caffe.bvlc.find.BvlcError": "a: net: this, expected that",
    "allconv_caffe.caffe_torch.summary.SummaryError": "a: net: found 'this', expected that",
    "allconv_caffe.paper.errors.TableError": "a: net: found 'this', expected that",
    "allconv_caffe.report.collect.ReportError": "a: net: found this, expected that",
    "allconv_caffe.visualize.nets.errors.VizError": "a: net: found this, expected that",
    "allconv_caffe.zoo.ZooError": "a: net: found this, expected that",
    "data_prep.errors.PrepError": "a: net: found this; expected that",
}


def test_the_sentence_has_the_place_the_finding_and_the_choices() -> None:
    """`str()` is one line, and each of its parts is a field."""
    error = FoundError(Path("net.prototxt"), 2, "3", (3, "x"))
    assert str(error) == "net.prototxt: found 2, expected 3 (choices: 3, x)"
    assert (error.where, error.found, error.expected, error.choices) == ("net.prototxt", 2, "3", (3, "x"))
    assert str(PlacedError("", "no place")) == "no place"
    assert str(PlacedError("a", "File not found: b\nc")) == r"a: File not found: b\nc"
    assert (
        str(PlacedError("a\x1b[31m", "b\x07\x9bc\u2028d\te")) == r"a\x1b[31m: b\x07\x9bc\u2028d" + "\te"
    )  # no terminal obeys
    assert str(FoundError("a\nb", "c\nd", "e")) == r"a\nb: found c d, expected e"


def test_a_place_is_prepended_to_the_one_it_has() -> None:
    """`within` changes the same exception."""
    error = PlacedError("layer 'x'", "is wrong")
    assert error.within("net") is error and str(error) == "net: layer 'x': is wrong"
    assert str(PlacedError("", "is wrong").within("net")) == "net: is wrong"
    assert str(PlacedError("a", "is wrong").within("")) == "a: is wrong"


def test_another_rooms_error_becomes_ones_own() -> None:
    """`of` keeps sentence and fields, and changes the class."""

    class Own(FoundError, ValueError):
        sentence = "seen {found}; wanted {expected}"

    error = Own.of(PlacedError("net", "is wrong", found=1, expected="2", choices=(2,)))
    assert type(error) is Own and str(error) == "net: is wrong"
    assert (error.where, error.found, error.expected, error.choices) == ("net", 1, "2", (2,))


@pytest.mark.parametrize("name", SENTENCES)
def test_every_error_of_a_room_survives_a_worker_process(name: str) -> None:
    """Pickled and back: the same class, sentence and fields."""
    module, _, cls = name.rpartition(".")
    error = getattr(importlib.import_module(module), cls)("net", "this", "that").within("a")
    again = pickle.loads(pickle.dumps(error))
    assert str(error) == SENTENCES[name]
    assert type(again) is type(error) and str(again) == str(error) and again.__dict__ == error.__dict__


def test_what_was_found_stays_in_its_line() -> None:
    """A value out of a file may have several lines; the sentence has one, the field keeps what it was."""
    error = FoundError("a file", "a\nb", "a word")
    assert (str(error), error.found) == ("a file: found a b, expected a word", "a\nb")
    assert str(FoundError("a file", "Found 3 bytes", "a word")) == "a file: found 3 bytes, expected a word"


def test_a_long_text_is_cut_in_its_middle() -> None:
    """What stood in a damaged file may be megabytes; place and end are said."""
    said = str(FoundError("a file", "x" * 10_000_000, "a word"))
    assert len(said) <= MOST_LETTERS and said.startswith("a file: found xxx") and said.endswith("x, expected a word")
