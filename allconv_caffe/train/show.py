"""What a grid shows while it runs: on a terminal a table of bars, elsewhere a line as each run ends."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TextIO

from tqdm import tqdm

from allconv_caffe.train.job import Outcome, Progress
from allconv_caffe.train.watch import duration, on_terminal

_MOST_BARS = 16


class Show:
    """A bar for the grid, and below it one for each run at work, where there is a terminal."""

    def __init__(self, total: int, say: Callable[[str], None], stream: TextIO | None = None) -> None:
        stream = sys.stderr if stream is None else stream
        self._say, self._stream, self._total, self._count = say, stream, total, 0
        self._bars: dict[str, tqdm] = {}
        self._all = self._bar("runs", total, 0, "run") if stream.isatty() else None

    def _bar(self, words: str, total: int, position: int, unit: str) -> tqdm:
        words_of = on_terminal(self._stream)
        return tqdm(total=total, desc=words, position=position, unit=unit, leave=False, mininterval=0, **words_of)

    def write(self, line: str) -> None:
        """Say something without breaking the bars."""
        if self._all is None:
            self._say(line)
        else:
            with tqdm.external_write_mode(file=self._stream):
                self._say(line)

    def end(self, words: str, outcome: Outcome, before: str = "") -> None:
        """A run has ended: one line."""
        self._count += 1
        what = before + outcome.status
        if outcome.status == "done":
            what += (
                ", error not a number" if outcome.error_percent is None else f", error {outcome.error_percent:.2f} %"
            )
        if outcome.seconds is not None:
            what += f", {duration(outcome.seconds)}"
        if outcome.why:
            what += f": {outcome.why}"
        if words in self._bars:
            self._bars.pop(words).close()
        self.write(f"[{self._count}/{self._total}] {words}: {what}")
        if self._all is not None:
            self._all.update()

    def progress(self, running: Mapping[str, Progress]) -> None:
        """How far the runs at work have come."""
        if self._all is None:
            return
        for words, now in running.items():
            if not now.max_iter or (words not in self._bars and len(self._bars) >= _MOST_BARS):
                continue
            if words not in self._bars:
                taken = {bar.pos for bar in self._bars.values()}
                place = next(place for place in range(1, _MOST_BARS + 2) if -place not in taken)
                self._bars[words] = self._bar(words, now.max_iter, place, "it")
                self._bars[words].initial = now.iteration
            bar = self._bars[words]
            bar.n = now.iteration
            parts = [] if now.loss is None else [f"loss {now.loss:.4g}"]
            parts += [] if now.error_percent is None else [f"error {now.error_percent:.2f} %"]
            bar.set_postfix_str(", ".join(parts))

    def close(self) -> None:
        """Take the bars away."""
        for bar in self._bars.values():
            bar.close()
        if self._all is not None:
            self._all.close()
