"""A net: layers in prototxt order, the blobs between them, forward and backward.

Source: net.hpp, net.cpp.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from allconv_caffe.caffe_torch import (
    glog,
    layers as _layers,  # noqa: F401  (registers every layer type)
    weights,
)
from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.compute.caffe_math import CaffeMath
from allconv_caffe.caffe_torch.compute.fast_math import FastMath
from allconv_caffe.caffe_torch.compute.math_functions import Math
from allconv_caffe.caffe_torch.errors import CaffeError, check
from allconv_caffe.caffe_torch.faces import Faces
from allconv_caffe.caffe_torch.insert_splits import insert_splits
from allconv_caffe.caffe_torch.layer import Context, Layer, create
from allconv_caffe.caffe_torch.net_filter import filter_net
from allconv_caffe.caffe_torch.tape import Tape
from allconv_caffe.caffe_torch.tracing import is_tracing
from allconv_caffe.caffe_torch.upgrade import upgrade_net
from allconv_caffe.caffe_torch.weights import LayerBlobs
from allconv_caffe.proto import TEST, TRAIN, NetParameter, ParamSpec, ProtoError, fork_fields, read_net, to_text


class Net:
    """Layers and blobs built from a NetParameter for one phase, level and set of stages.

    Args:
        param: the net; not changed.
        context: device, generator, precision; its phase decides which layers are built.
        level: NetState level.
        stages: NetState stages, appended to the net's own.
        where: the file's name, for errors.
        inner: a net that a layer builds inside itself: its state stays unsaid.

    Raises:
        CaffeError: in Caffe's words, with the file and the layer before them.

    Attributes:
        layers, layer_names: in order; `bottom_vecs[i]`, `top_vecs[i]` are layer i's Blobs.
        blobs: name -> Blob, in order of creation; an in-place blob appears once.
        outputs: names of the tops that nobody reads, in byte order.
        filtered: the net's description before splits were inserted and layers were set up.
        learnable_params, params_lr, params_weight_decay: owners only, in order.
    """

    def __init__(
        self,
        param: NetParameter,
        context: Context | None = None,
        *,
        level: int | None = None,
        stages: Sequence[str] = (),
        where: str = "",
        inner: bool = False,
    ) -> None:
        self.ctx = context or Context()
        self.where = where
        self.phase = self.ctx.phase
        self._inner = inner
        full = NetParameter()
        full.CopyFrom(param)
        if not inner:
            full.state.phase = self.phase
        if level is not None:
            full.state.level = level
        if stages:
            full.state.stage.extend(stages)
        upgrade_net(full, where)
        try:
            self._init(full)
        except CaffeError as error:
            raise error.within(where) from None

    def _init(self, in_param: NetParameter) -> None:
        filtered = filter_net(in_param)
        glog.info("net.cpp:53", "Initializing net from parameters: \n" + to_text(filtered))
        foreign = fork_fields.sentence(filtered)
        if foreign:
            glog.warning("fork_fields.py:1", foreign)
        self.filtered = filtered
        param = insert_splits(filtered)
        self.param = param
        self.name: str = param.name
        self.layers: list[Layer] = []
        self.layer_names: list[str] = []
        self.bottom_vecs: list[list[Blob]] = []
        self.top_vecs: list[list[Blob]] = []
        self.bottom_ids: list[list[int]] = []
        self.top_ids: list[list[int]] = []
        self.bottom_need_backward: list[list[bool]] = []
        self.layer_need_backward: list[bool] = []
        self.blob_list: list[Blob] = []
        self.blob_names: list[str] = []
        self.blob_loss_weights: list[float] = []
        self._blob_need_backward: list[bool] = []
        self.net_input_ids: list[int] = []
        self.params: list[Blob] = []
        self.param_owners: list[int] = []  # index of the owner, -1 for owners themselves
        self.param_display_names: list[str] = []
        self.param_layer_indices: list[tuple[int, int]] = []
        self.learnable_params: list[Blob] = []
        self.learnable_param_ids: list[int] = []
        self.params_lr: list[float] = []
        self.params_weight_decay: list[float] = []
        self._has_lr: list[bool] = []
        self._has_decay: list[bool] = []
        self._param_index: dict[str, int] = {}
        self.debug_info: bool = param.debug_info
        self.forgets = False  # there will be no backward: layers leave nothing to it
        self.remembers = False  # layers run backward that need not: all leave to it what it takes
        # called with a layer's index around its forward or backward, by the plain executor (pycaffe)
        self.before_forward: list[Callable[[int], object]] = []
        self.after_forward: list[Callable[[int], object]] = []
        self.before_backward: list[Callable[[int], object]] = []
        self.after_backward: list[Callable[[int], object]] = []

        self._blob_ids: dict[str, int] = {}  # blob_names_index_
        self._available: set[str] = set()  # blobs that no layer has taken yet
        self._memory_used = 0  # values in all tops

        for layer_id, layer_param in enumerate(param.layer):
            try:
                self._add_layer(layer_id, layer_param)
            except CaffeError as error:
                raise error.within(f"layer '{layer_param.name}'") from None
        self._decide_backward(param.force_backward)
        self.outputs: list[str] = sorted(self._available, key=lambda name: name.encode())
        self.output_ids = [self._blob_ids[name] for name in self.outputs]
        for name in self.outputs:
            glog.info("net.cpp:244", f"This network produces output {name}")
        self.blobs: dict[str, Blob] = dict(zip(self.blob_names, self.blob_list, strict=True))
        self.inputs: list[str] = [self.blob_names[i] for i in self.net_input_ids]
        self._share_weights()
        self._tape: Tape | None = None
        self._faces = [_faces(layer) for layer in self.layers]
        glog.info("net.cpp:257", "Network initialization done.")

    def _add_layer(self, layer_id: int, layer_param: Any) -> None:
        if not layer_param.HasField("phase"):
            layer_param.phase = self.phase
        if layer_param.propagate_down:
            check(
                len(layer_param.propagate_down) == len(layer_param.bottom),
                "propagate_down param must be specified either 0 or bottom_size times ",
            )
        glog.info("layer_factory.hpp:77", f"Creating layer {layer_param.name}")
        layer = create(layer_param, dataclasses.replace(self.ctx, phase=layer_param.phase, inner_net=_inner_net))
        glog.info("net.cpp:86", f"Creating Layer {layer_param.name}")
        self.layers.append(layer)
        self.layer_names.append(layer_param.name)
        for ids in (self.bottom_ids, self.top_ids, self.bottom_need_backward):
            ids.append([])
        need_backward = False
        for i in range(len(layer_param.bottom)):
            blob_id = self._append_bottom(layer_id, layer_param, i)
            need_backward = need_backward or self._blob_need_backward[blob_id]
        for i in range(len(layer_param.top)):
            self._append_top(layer_id, layer_param, i)
        if layer.auto_top_blobs:
            for i in range(len(layer_param.top), max(layer.min_top or 0, layer.num_top or 0)):
                self._append_top(layer_id, layer_param, i)
        self.bottom_vecs.append([self.blob_list[i] for i in self.bottom_ids[layer_id]])
        self.top_vecs.append([self.blob_list[i] for i in self.top_ids[layer_id]])
        specs = list(layer_param.param)  # what a layer adds to itself in set-up (BatchNorm) does not count here
        self._set_up(layer_id)
        check(len(specs) <= len(layer.blobs), f"Too many params specified for layer {layer_param.name}")
        for i in range(len(layer.blobs)):
            learns = i >= len(specs) or specs[i].lr_mult != 0
            layer.param_propagate_down[i] = learns
            need_backward = need_backward or learns
        for i in range(len(layer.blobs)):
            self._append_param(layer_id, i)
        self.layer_need_backward.append(need_backward)
        if need_backward:
            for blob_id in self.top_ids[layer_id]:
                self._blob_need_backward[blob_id] = True

    def _set_up(self, layer_id: int) -> None:
        layer, tops = self.layers[layer_id], self.top_vecs[layer_id]
        layer.set_up(self.bottom_vecs[layer_id], tops)
        for top in tops if layer.shares_in_forward and not self._inner else ():
            top.own_data()
        glog.info("net.cpp:124", f"Setting up {layer.name}")
        for blob_id, top, weight in zip(self.top_ids[layer_id], tops, layer.loss_weights, strict=True):
            self.blob_loss_weights[blob_id] = weight
            glog.info("net.cpp:131", f"Top shape: {top.shape_string}")
            if weight:
                glog.info("net.cpp:134", f"    with loss weight {glog.number(weight)}")
            self._memory_used += top.count
        glog.info("net.cpp:139", f"Memory required for data: {self._memory_used * 4}")

    def _decide_backward(self, force: bool) -> None:
        """Backward runs only where a loss lies above and something to learn lies at or below."""
        under_loss: set[str] = set()
        skip: set[str] = set()
        for i in reversed(range(len(self.layers))):
            contributes, skip_propagate = False, True
            for blob_id, weight in zip(self.top_ids[i], self.layers[i].loss_weights, strict=True):
                name = self.blob_names[blob_id]
                if weight or name in under_loss:
                    contributes = True
                if name not in skip:
                    skip_propagate = False
                if contributes and not skip_propagate:
                    break
            if self.layer_need_backward[i] and skip_propagate:
                self.layer_need_backward[i] = False
                self.bottom_need_backward[i] = [False] * len(self.bottom_ids[i])
            if not contributes:
                self.layer_need_backward[i] = False
            word = "needs" if self.layer_need_backward[i] else "does not need"
            glog.info(
                "net.cpp:200" if self.layer_need_backward[i] else "net.cpp:202",
                f"{self.layer_names[i]} {word} backward computation.",
            )
            for j, blob_id in enumerate(self.bottom_ids[i]):
                name = self.blob_names[blob_id]
                if contributes:
                    under_loss.add(name)
                else:
                    self.bottom_need_backward[i][j] = False
                if not self.bottom_need_backward[i][j]:
                    skip.add(name)
        if force:
            for i, layer in enumerate(self.layers):
                self.layer_need_backward[i] = True
                for j, blob_id in enumerate(self.bottom_ids[i]):
                    need = self.bottom_need_backward[i][j] or layer.allow_force_backward(j)
                    self.bottom_need_backward[i][j] = need
                    self._blob_need_backward[blob_id] = self._blob_need_backward[blob_id] or need
                layer.param_propagate_down = [True] * len(layer.blobs)

    def _append_top(self, layer_id: int, layer_param: Any, top_id: int) -> None:
        """A new blob, or in place that of the bottom; beyond the tops that are named, one without a name."""
        named = top_id < len(layer_param.top)
        name = layer_param.top[top_id] if named else "(automatic)"
        if named and top_id < len(layer_param.bottom) and name == layer_param.bottom[top_id]:
            glog.info("net.cpp:369", f"{layer_param.name} -> {name} (in-place)")
            blob_id = self._blob_ids[name]
        else:
            check(not named or name not in self._blob_ids, f"Top blob '{name}' produced by multiple sources.")
            glog.info("net.cpp:382", f"{layer_param.name} -> {name}")
            blob_id = self._new_blob(name)
            if named:
                self._blob_ids[name] = blob_id
            if layer_param.type == "Input":
                self.net_input_ids.append(blob_id)
        if named:
            self._available.add(name)
        self.top_ids[layer_id].append(blob_id)

    def _append_bottom(self, layer_id: int, layer_param: Any, bottom_id: int) -> int:
        name = layer_param.bottom[bottom_id]
        check(
            name in self._available,
            f"Unknown bottom blob '{name}' (layer '{layer_param.name}', bottom index {bottom_id})",
        )
        glog.info("net.cpp:408", f"{layer_param.name} <- {name}")
        blob_id = self._blob_ids[name]
        self._available.discard(name)
        need = self._blob_need_backward[blob_id]
        if layer_param.propagate_down:
            need = layer_param.propagate_down[bottom_id]
        self.bottom_need_backward[layer_id].append(need)
        self.bottom_ids[layer_id].append(blob_id)
        return blob_id

    def _new_blob(self, name: str) -> int:
        self.blob_list.append(Blob((0,), self.ctx.device))
        self.blob_names.append(name)
        self.blob_loss_weights.append(0.0)
        self._blob_need_backward.append(False)
        return len(self.blob_list) - 1

    def _append_param(self, layer_id: int, index: int) -> None:
        layer = self.layers[layer_id]
        spec = layer.param.param[index] if index < len(layer.param.param) else ParamSpec()
        blob, param_id = layer.blobs[index], len(self.params)
        self.params.append(blob)
        self.param_display_names.append(spec.name or str(index))
        self.param_layer_indices.append((layer_id, index))
        owner_id = self._param_index.get(spec.name) if spec.name else None
        if owner_id is None:
            if spec.name:
                self._param_index[spec.name] = param_id
            self.param_owners.append(-1)
            self.learnable_param_ids.append(len(self.learnable_params))
            self.learnable_params.append(blob)
            self._has_lr.append(spec.HasField("lr_mult"))
            self._has_decay.append(spec.HasField("decay_mult"))
            self.params_lr.append(spec.lr_mult)
            self.params_weight_decay.append(spec.decay_mult)
            return
        self.param_owners.append(owner_id)
        owner_layer, owner_index = self.param_layer_indices[owner_id]
        owner = self.params[owner_id]
        owner_name = self.layer_names[owner_layer]
        glog.info(
            "net.cpp:467",
            f"Sharing parameters '{spec.name}' owned by layer '{owner_name}', param index {owner_index}",
        )
        place = f"owned by layer '{owner_name}' with layer '{layer.name}'"
        if spec.share_mode == ParamSpec.PERMISSIVE:
            check(
                blob.count == owner.count,
                f"Cannot share param '{spec.name}' {place}; count mismatch. Owner layer param shape is "
                f"{owner.shape_string}; sharing layer shape is {blob.shape_string}",
            )
        else:
            check(
                blob.shape == owner.shape,
                f"Cannot share param '{spec.name}' {place}; shape mismatch.  Owner layer param shape is "
                f"{owner.shape_string}; sharing layer expects shape {blob.shape_string}",
            )
        learnable = self.learnable_param_ids[owner_id]
        self.learnable_param_ids.append(learnable)
        for word, has, values in (
            ("lr_mult", self._has_lr, self.params_lr),
            ("decay_mult", self._has_decay, self.params_weight_decay),
        ):
            if spec.HasField(word):
                value = getattr(spec, word)
                if has[learnable]:
                    check(value == values[learnable], f"Shared param '{spec.name}' has mismatched {word}.")
                else:
                    has[learnable] = True
                    values[learnable] = value

    # running
    def forward(self) -> torch.Tensor:
        """Runs every layer; returns the loss, a 0-d float32 tensor."""
        return self.forward_from_to(0, len(self.layers) - 1)

    def forward_from_to(self, start: int, end: int) -> torch.Tensor:
        """Runs layers start..end (both included); returns the sum of their weighted losses."""
        check(start >= 0, f"Check failed: start >= 0 ({start} vs. 0)")
        check(0 <= end < len(self.layers), f"Check failed: end < layers_.size() ({end} vs. {len(self.layers)})")
        if self._is_watched or not isinstance(self.ctx.math, CaffeMath):
            parts = [self._forward_seen(i) for i in range(start, end + 1)]
        else:
            parts = self._forward_unseen(start, end)
        losses = [part for part in parts if part is not None]
        if not losses:
            return torch.zeros((), device=self.ctx.device)
        if isinstance(self.ctx.math, CaffeMath):  # one after the other, into an array that no tape fills again
            return torch.from_numpy(np.add.accumulate(torch.stack(losses).numpy()))[-1]
        return sum(losses[1:], losses[0])

    @property
    def _is_watched(self) -> bool:
        """Somebody looks on between the layers."""
        return bool(self.debug_info or self.before_forward or self.after_forward or is_tracing())

    @property
    def is_fast(self) -> bool:
        """Whether forward runs by the fastest kernels of this CPU."""
        return isinstance(self.ctx.math, FastMath)

    def become_fast(self) -> bool:
        """From now on forward runs by the fastest kernels of this CPU, see `Context.fast`, compiled on the first use; where there
        are some. Returns `is_fast`."""
        if self.ctx.seed_exact:
            return False
        self.ctx = dataclasses.replace(self.ctx, fast=True)
        if self.is_fast:
            for layer in self.layers:
                layer.ctx.fast = True  # in place: layers inside the layer have the same one
                vars(layer.ctx).pop("math", None)
            self._tape, self._faces = None, [_faces(layer) for layer in self.layers]
        return self.is_fast

    def _forward_seen(self, i: int) -> torch.Tensor | None:
        for call in self.before_forward:
            call(i)
        part = self.forward_layer(i)
        self._show(self.top_vecs[i])
        if self.debug_info:
            self._forward_debug_info(i)
        for call in self.after_forward:
            call(i)
        return part

    def _forward_unseen(self, start: int, end: int) -> list[torch.Tensor | None]:
        """The layers' weighted losses; what is on the tape is played."""
        if self._tape is None:
            self._tape = Tape(self.layers, self.bottom_vecs, self.top_vecs)
        tape, i = self._tape, start
        parts: list[torch.Tensor | None] = []
        tops: list[Blob] = []
        tape.begin()
        while (i := tape.play(i, end, parts)) <= end:
            parts.append(tape.run(i, self.forward_layer))
            tops += self.top_vecs[i]
            i += 1
        tape.end()
        self._show(tops)  # not before: layers behind were recorded with memories as these left them
        return parts

    def forward_layer(self, i: int) -> torch.Tensor | None:
        """Reshapes and runs layer i. Returns its weighted loss, or None where no top carries a loss weight."""
        layer, bottom, top = self.layers[i], self.bottom_vecs[i], self.top_vecs[i]
        layer.recording = None
        try:
            layer.reshape(bottom, top)
            faces = self._faces[i]
            if faces is None or is_tracing():
                layer.forward(bottom, top)
            else:
                faces.math.forgets = self.forgets or not (self.remembers or self.layer_need_backward[i])
                with faces:
                    layer.forward(bottom, top)
            if self.forgets:
                layer.forget()
        except CaffeError as error:
            raise error.within(
                f"{self.where}: layer '{layer.name}'" if self.where else f"layer '{layer.name}'"
            ) from None
        loss: torch.Tensor | None = None
        for blob, weight in zip(top, layer.loss_weights, strict=True):
            if weight:
                part = _weighed(layer.ctx.math, blob.data, weight)
                loss = part if loss is None else loss + part
        return loss

    @staticmethod
    def _show(tops: Sequence[Blob]) -> None:
        """Brings into C order what somebody looks at through an array that he has got before."""
        for blob in tops:
            if blob._data.layout is not None and blob._data.is_seen:
                blob._data.tensor()

    def backward(self) -> None:
        self.backward_from_to(len(self.layers) - 1, 0)
        if self.debug_info:
            data = [p.data for p in self.learnable_params]
            diff = [p.diff for p in self.learnable_params]
            l1 = [sum(float(t.abs().sum()) for t in group) for group in (data, diff)]
            l2 = [sum(float((t * t).sum()) for t in group) ** 0.5 for group in (data, diff)]
            n = glog.number
            glog.error(
                "net.cpp:721",
                f"    [Backward] All net params (data, diff): L1 norm = ({n(l1[0])}, {n(l1[1])}); "
                f"L2 norm = ({n(l2[0])}, {n(l2[1])})",
            )

    def backward_from_to(self, start: int, end: int) -> None:
        """Runs the backward of layers start down to end (both included), where backward is needed."""
        check(end >= 0, f"Check failed: end >= 0 ({end} vs. 0)")
        check(0 <= start < len(self.layers), f"Check failed: start < layers_.size() ({start} vs. {len(self.layers)})")
        for i in range(start, end - 1, -1):
            for call in self.before_backward:
                call(i)
            if self.layer_need_backward[i]:
                self.backward_layer(i)
                if self.debug_info:
                    self._backward_debug_info(i)
            for call in self.after_backward:
                call(i)

    def backward_layer(self, i: int) -> None:
        """Runs the backward of layer i, needed or not."""
        self.layers[i].backward(self.top_vecs[i], self.bottom_need_backward[i], self.bottom_vecs[i])

    def reshape(self) -> None:
        for layer, bottom, top in zip(self.layers, self.bottom_vecs, self.top_vecs, strict=True):
            layer.reshape(bottom, top)

    def _forward_debug_info(self, i: int) -> None:
        name = self.layer_names[i]
        for blob_id in self.top_ids[i]:
            self._debug(
                "net.cpp:593",
                f"    [Forward] Layer {name}, top blob {self.blob_names[blob_id]}",
                "data",
                self.blob_list[blob_id].data,
            )
        for j, blob in enumerate(self.layers[i].blobs):
            param_id = self.param_layer_indices.index((i, j))
            self._debug(
                "net.cpp:605",
                f"    [Forward] Layer {name}, param blob {self.param_display_names[param_id]}",
                "data",
                blob.data,
            )

    def _backward_debug_info(self, i: int) -> None:
        name = self.layer_names[i]
        for j, blob_id in enumerate(self.bottom_ids[i]):
            if self.bottom_need_backward[i][j]:
                self._debug(
                    "net.cpp:621",
                    f"    [Backward] Layer {name}, bottom blob {self.blob_names[blob_id]}",
                    "diff",
                    self.blob_list[blob_id].diff,
                )
        for j, blob in enumerate(self.layers[i].blobs):
            if self.layers[i].param_propagate_down[j]:
                self._debug("net.cpp:632", f"    [Backward] Layer {name}, param blob {j}", "diff", blob.diff)

    @staticmethod
    def _debug(source: str, place: str, word: str, values: torch.Tensor) -> None:
        mean = float(values.abs().mean()) if values.numel() else -math.nan  # 0 divided by 0
        glog.info(source, f"{place} {word}: {glog.number(mean)}")

    # weights in and out
    def share_trained_layers_with(self, other: Net) -> None:
        """Layers of the same name use `other`'s parameters from now on (aliases, not copies)."""
        own: dict[str, Layer] = {}
        for layer in self.layers:
            own.setdefault(layer.name, layer)
        for source in other.layers:
            if source.name not in own:
                glog.info("net.cpp:678", f"Ignoring source layer {source.name}")
                continue
            target = own[source.name]
            check(len(target.blobs) == len(source.blobs), f"Incompatible number of blobs for layer {source.name}")
            for j, (to, fro) in enumerate(zip(target.blobs, source.blobs, strict=True)):
                check(
                    to.shape == fro.shape,
                    f"Cannot share param {j} weights from layer '{source.name}'; shape mismatch.  Source param "
                    f"shape is {fro.shape_string}; target param shape is {to.shape_string}",
                )
                to.share_data(fro)

    def copy_trained_layers_from(self, path: str | Path) -> None:
        """Copies weights by layer name from a .caffemodel or its HDF5 form, whichever the file is.

        Raises:
            CaffeError: missing or corrupt file, other number of blobs, other shape.
        """
        weights.load(self._layer_blobs(), str(path))

    def copy_trained_layers_from_hdf5(self, path: str | Path) -> None:
        """Copies weights by layer name from an HDF5 file. Raises CaffeError, see `weights.load_hdf5`."""
        weights.load_hdf5(self._layer_blobs(), path)

    def to_proto(self, write_diff: bool = False, with_data: bool = True) -> NetParameter:
        """NetParameter with every layer and its blobs, as a snapshot stores it; without data, their shapes alone."""
        out = NetParameter(name=self.name)
        for layer in self.layers:
            proto = out.layer.add()
            proto.CopyFrom(layer.param)
            del proto.blobs[:]
            for blob in layer.blobs:
                blob.to_proto(proto.blobs.add(), write_diff, with_data)
        return out

    def to_binary_proto(self, path: str | Path, write_diff: bool = False) -> None:
        """Writes the net with its weights as a .caffemodel. Raises ProtoError, see `weights.save_binary`."""
        outline = self.to_proto(with_data=False)
        weights.save_binary(outline, (blob for layer in self.layers for blob in layer.blobs), path, write_diff)

    def to_hdf5(self, path: str | Path, write_diff: bool = False) -> None:
        """Writes the weights as an HDF5 file. Raises CaffeError, see `weights.save_hdf5`."""
        blobs: list[list[Blob]] = [[] for _ in self.layers]  # those that the net was built with (params_)
        for (layer_id, _), blob in zip(self.param_layer_indices, self.params, strict=True):
            blobs[layer_id].append(blob)
        layers = [
            LayerBlobs(layer.name, built[: len(layer.blobs)], layer.shared[: len(layer.blobs)])
            for layer, built in zip(self._layer_blobs(), blobs, strict=True)
        ]
        weights.save_hdf5(layers, Path(path), write_diff)

    def _layer_blobs(self) -> list[LayerBlobs]:
        shared: list[list[bool]] = [[] for _ in self.layers]
        for (layer_id, _), owner in zip(self.param_layer_indices, self.param_owners, strict=True):
            shared[layer_id].append(owner >= 0)
        for layer, own in zip(self.layers, shared, strict=True):  # blobs may have been taken or added since
            own[len(layer.blobs) :] = []
            own += [False] * (len(layer.blobs) - len(own))
        return [LayerBlobs(layer.name, layer.blobs, own) for layer, own in zip(self.layers, shared, strict=True)]

    def clear_param_diffs(self) -> None:
        for blob in self.learnable_params:
            blob.diff.zero_()

    def release(self) -> None:
        """Gives back the memory of what layers compute; it comes back, zeroed, when somebody looks.

        Kept are parameters, what one forward leaves to the next, what sources have brought, and loss weights.
        """
        kept = [*self.params, *(blob for layer in self.layers for blob in (*layer.carried, *layer.blobs))]
        kept += [
            top for bottoms, tops in zip(self.bottom_vecs, self.top_vecs, strict=True) if not bottoms for top in tops
        ]
        memories = {id(memory) for blob in kept for memory in (blob._data, blob._diff)}
        memories |= {id(b._diff) for b, weight in zip(self.blob_list, self.blob_loss_weights, strict=True) if weight}
        for blob in self.blob_list:
            for memory in (blob._data, blob._diff):
                if id(memory) not in memories:
                    blob.release(memory)

    def _share_weights(self) -> None:
        for blob, owner in zip(self.params, self.param_owners, strict=True):
            if owner >= 0:
                blob.share_data(self.params[owner])
                blob.share_diff(self.params[owner])


def _faces(layer: Layer) -> Faces | None:
    """What the layer's forward is run in, where it takes memories as they lie."""
    math = layer.ctx.math if layer.runs_by_kernels else None
    return Faces(math, layer.any_layout) if isinstance(math, FastMath) else None


def _weighed(math: Math, x: torch.Tensor, weight: float) -> torch.Tensor:
    if isinstance(math, CaffeMath) and x.dim() == 0:  # which a tape can repeat
        return math.each("multiply", x, weight)
    return x.to(torch.float32).sum() * weight


def _inner_net(param: NetParameter, context: Context) -> Net:
    return Net(param, context, inner=True)


def load_net(path: str | Path, context: Context, *, level: int | None = None, stages: Sequence[str] = ()) -> Net:
    """The net of a prototxt file.

    Raises:
        CaffeError: missing file, text that does not parse, or a net that cannot be built.
    """
    try:
        param = read_net(path)
    except ProtoError as error:
        raise CaffeError(str(error)) from None
    return Net(param, context, level=level, stages=stages, where=str(path))


__all__ = ["TEST", "TRAIN", "Net", "load_net"]
