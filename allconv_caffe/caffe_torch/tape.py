"""Tapes: a net's forward played from the calls of kernels that it made before, without Python between them.

A layer whose forward is nothing but such calls says so (`Layer.calls_kernels`). The second forward over the same shapes is
recorded, the third and all that follow are played, as long as nothing has changed that the calls follow from: the blobs, their
shapes and memories, the layers' parameters, the number of threads. Where something has, layers run as ever, and are recorded
anew. Layers in between that cannot be recorded run as ever, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter, is_

import torch

from allconv_caffe.caffe_torch.blob import Blob, Memory
from allconv_caffe.caffe_torch.compute.caffe_math import CaffeMath
from allconv_caffe.caffe_torch.compute.fast_math import FastMath, relu_word
from allconv_caffe.caffe_torch.compute.layout import ChannelsLast
from allconv_caffe.caffe_torch.compute.program import Program, results
from allconv_caffe.caffe_torch.layer import Layer, Recording

_data: Callable[[Blob], Memory] = attrgetter("_data")
_diff: Callable[[Blob], Memory] = attrgetter("_diff")
_shape: Callable[[Blob], tuple[int, ...]] = attrgetter("shape")
_flat: Callable[[Memory], torch.Tensor | None] = attrgetter("flat")
_recording: Callable[[Layer], Recording | None] = attrgetter("recording")
_parameters: Callable[[Layer], list[Blob]] = attrgetter("blobs")


Lies = list[tuple[Memory, ChannelsLast | None]]
Forward = Callable[[int], "torch.Tensor | None"]


class Tape:
    """The recordings of a net's layers.

    Args:
        layers, bottoms, tops: the net's.
    """

    def __init__(
        self, layers: Sequence[Layer], bottoms: Sequence[Sequence[Blob]], tops: Sequence[Sequence[Blob]]
    ) -> None:
        self._layers, self._bottoms, self._tops = layers, bottoms, tops
        self._may = [_may_be_recorded(layer) for layer in layers]
        self._seen: list[list[tuple[int, ...]] | None] = [None] * len(
            layers
        )  # the bottoms' shapes the last time it ran
        self._runs: list[Run | None] = [None] * len(layers)
        self._new: list[int] = []  # layers that this forward has recorded

    def play(self, first: int, last: int, losses: list[torch.Tensor | None]) -> int:
        """Plays what there is, from layer `first` on, `last` included, and appends their losses, valid until the next forward.

        Returns: the first layer that was not played.
        """
        while first <= last and (run := self._runs[first]) is not None:
            if not run.holds():
                self._runs[run.first : run.end] = [None] * len(run.layers)
                return first
            end = min(last + 1, run.end)
            if end in run.done_before:  # it is to be seen as it is before that layer
                end -= 1
            if first in run.done_before or first == end:
                return first
            played = run.play(first, end)
            losses += [loss for place, loss in run.losses if first <= place < played]
            if played < end:
                return played
            first = end
        return first

    def begin(self) -> None:
        """Before a forward. What one that failed has recorded is of no use."""
        self._new.clear()

    def run(self, i: int, forward: Forward) -> torch.Tensor | None:
        """Runs layer i, and records it where it can be, if its bottoms have the shapes of the last time.

        Args:
            forward: runs a layer, by number, and gives its loss, if it has one: 0 axes.
        Returns: what `forward` does.
        """
        if not self._may[i]:
            return forward(i)
        shapes = [blob.shape for blob in self._bottoms[i]]
        if shapes != self._seen[i]:
            self._seen[i] = shapes
            return forward(i)
        return self._record(i, forward)

    def _record(self, i: int, forward: Forward) -> torch.Tensor | None:
        layer = self._layers[i]
        math = layer.ctx.math
        assert isinstance(math, CaffeMath)
        before = [(blob._data, blob._data.layout) for blob in self._bottoms[i]]
        with math.recording() as calls:
            loss = forward(i)
        between = [*self._bottoms[i], *self._tops[i]]
        blobs = [*between, *layer.blobs]
        filled = [array for call in calls for array in results(math.library, call)]
        packs = math.packs if isinstance(math, FastMath) else ()
        known = loss is None or any(array is loss for array in filled)
        found = known and all(pack.find([*map(_data, blobs)]) for pack in packs)
        if found and _fills(filled, self._bottoms[i], self._tops[i]):
            layer.recording = Recording(
                calls=calls,
                blobs=blobs,
                states=[blob.state for blob in blobs],
                parameters=list(layer.blobs),
                packs=packs,
                before=before,
                after=[(blob._data, blob._data.layout) for blob in between],
                loss=loss,
            )
            self._new.append(i)
        else:
            self._may[i] = False
        return loss

    def end(self) -> None:
        """After a forward: what was recorded is made ready to be played."""
        run: Run | None = None
        for i in self._new:
            if run is not None and i != run.end:
                self._close(run)
                run = None
            if run is None:
                run = Run(i)
            if not run.append(self._layers[i]):
                self._may[i] = False
        if run is not None:
            self._close(run)
        self._new.clear()

    def _close(self, run: Run) -> None:
        if run.layers:
            run.close()
            self._runs[run.first : run.end] = [run] * len(run.layers)


class Run:
    """Layers that are played in one call.

    Attributes:
        first: which layer is the first of `layers`.
        done_before: layers, by number, whose work the calls of the one before do.
    """

    def __init__(self, first: int) -> None:
        self.first = first
        self.layers: list[Layer] = []
        self.done_before: set[int] = set()
        self._program = Program()

    @property
    def end(self) -> int:
        """Which layer is the first behind them."""
        return self.first + len(self.layers)

    def append(self, layer: Layer) -> bool:
        """Returns whether its calls can be made again."""
        recording, math = layer.recording, layer.ctx.math
        assert recording is not None and isinstance(math, CaffeMath)
        calls = recording.calls
        if self.layers and isinstance(math, FastMath):
            before = self.layers[-1].recording
            word = None if before is None else relu_word(math.library, before.calls, calls)
            if word is not None:
                self._program.change(word, 1)
                self.done_before.add(self.end)
                calls = ()
        if not self._program.append(math.library, calls, [*map(_data, recording.blobs)]):
            return False
        self.layers.append(layer)
        return True

    def close(self) -> None:
        self._program.close()
        self._recordings = [recording for layer in self.layers if (recording := layer.recording) is not None]
        known = {
            (id(blob), *map(id, state)): (blob, state)
            for recording in self._recordings
            for blob, state in zip(recording.blobs, recording.states, strict=True)
        }
        self._blobs = [blob for blob, _ in known.values()]
        self._datas, self._diffs, self._shapes = zip(*(state for _, state in known.values()), strict=True)
        self._parameters = [recording.parameters for recording in self._recordings]
        self._flats = [*map(_flat, self._program.memories)]
        self._threads = torch.get_num_threads()
        self._packs = [pack for recording in self._recordings for pack in recording.packs]
        for pack in self._packs:
            pack.stay()
        self._packed = [pack.memory for pack in self._packs]
        self._packed_flats = [*map(_flat, self._packed)]
        self._fast = any(isinstance(layer.ctx.math, FastMath) for layer in self.layers)
        self.losses = [(self.first + i, rec.loss) for i, rec in enumerate(self._recordings) if rec.loss is not None]
        self._layouts: dict[tuple[int, int], tuple[Lies, Lies]] = {}

    def holds(self) -> bool:
        """Whether the layers, run as ever, would make the same calls."""
        same = (
            all(map(is_, map(_data, self._blobs), self._datas))
            and all(map(is_, map(_diff, self._blobs), self._diffs))
            and all(map(is_, map(_shape, self._blobs), self._shapes))
            and all(map(is_, map(_recording, self.layers), self._recordings))
            and [*map(_parameters, self.layers)] == self._parameters
            and torch.get_num_threads() == self._threads
            and all(map(is_, map(_flat, self._packed), self._packed_flats))
        )
        if same and not all(map(is_, map(_flat, self._program.memories), self._flats)):
            self._follow()
        return same

    def _follow(self) -> None:
        """Memories lie elsewhere, such as those of an input that is served without a copy."""
        for i, memory in enumerate(self._program.memories):
            if memory.flat is not self._flats[i]:
                self._program.move(memory)
                self._flats[i] = memory.flat

    def play(self, first: int, end: int) -> int:
        """Returns the first layer that was not played: `end`, or one that is to say what it has against its bottoms."""
        first, end = first - self.first, end - self.first
        if not self._fast:
            return self.first + self._program.run(first, end)
        before, after = self._layouts.get((first, end)) or self._find_layouts(first, end)
        for memory, layout in before:
            if memory.layout is not layout:
                memory.lie(layout)
        for pack in self._packs:
            memory = pack.memory
            if pack.looks != memory.looks or memory.owner is not None or pack.flat._version != pack.version:
                pack.follow()
        played = self._program.run(first, end)
        if played < end:
            after = self._find_layouts(first, played)[1]
        for memory, layout in after:
            memory.layout = layout
            if layout is not None and memory.owner is not None and memory.is_seen:
                memory.tensor()
        return self.first + played

    def _find_layouts(self, first: int, end: int) -> tuple[Lies, Lies]:
        """How memories have to lie before these rows are played, of those that no row of them fills; and how they lie after."""
        before: dict[int, tuple[Memory, ChannelsLast | None]] = {}
        after: dict[int, tuple[Memory, ChannelsLast | None]] = {}
        for recording in self._recordings[first:end]:
            for memory, layout in recording.before:
                if id(memory) not in after:
                    before.setdefault(id(memory), (memory, layout))
            after.update((id(memory), (memory, layout)) for memory, layout in recording.after)
        self._layouts[first, end] = [*before.values()], [*after.values()]
        return self._layouts[first, end]


def _may_be_recorded(layer: Layer) -> bool:
    return layer.runs_by_kernels and "reshape" not in vars(layer)


def _fills(filled: Sequence[torch.Tensor], bottom: Sequence[Blob], top: Sequence[Blob]) -> bool:
    """Whether calls that fill these arrays fill every top; without a call, whether it is the bottom's memory."""
    places = {array.data_ptr() for array in filled}
    given = set() if filled else {id(blob._data) for blob in bottom}
    return not bottom or all(
        id(blob._data) in given or blob.count == 0 or _address(blob._data) in places for blob in top
    )


def _address(memory: Memory) -> int | None:
    return None if memory.flat is None else memory.flat.data_ptr()
