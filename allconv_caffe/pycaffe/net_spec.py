"""Nets written in Python: ``n.conv1 = L.Convolution(n.data, kernel_size=5, num_output=20)``, then ``n.to_proto()``.

`layers` makes a function of any layer type, `params` gives the constants of any parameter message, `NetSpec` names
layers and tops by its attributes; tops that were never named get the layer's type and a number.

Source: python/caffe/net_spec.py.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from allconv_caffe.pycaffe.proto import caffe_pb2


def param_name_dict() -> dict[str, str]:
    """Layer type -> name of its parameter field without ``_param``: {"InnerProduct": "inner_product", ...}."""
    return {
        field.message_type.name.removesuffix("Parameter"): field.name.removesuffix("_param")
        for field in caffe_pb2.LayerParameter.DESCRIPTOR.fields
        if field.name.endswith("_param")
    }


def to_proto(*tops: Top) -> Any:
    """The NetParameter with every layer that is needed to compute `tops`."""
    return _net((top.fn for top in tops), {})


def _net(functions: Iterable[Function], names: dict[Any, str]) -> Any:
    layers: dict[Function, Any] = {}
    autonames: Counter[str] = Counter()
    for fn in functions:
        fn._to_proto(layers, names, autonames)
    net = caffe_pb2.NetParameter()
    net.layer.extend(layers.values())
    return net


def assign_proto(proto: Any, name: str, val: Any) -> None:
    """Sets field `name`: a dict fills a message, a list a repeated field; a repeated field takes a single value, too.

    Raises: AttributeError for an unknown field, TypeError for a value of another type; both name the field.
    """
    place = f"{proto.DESCRIPTOR.name}.{name}"
    if name not in proto.DESCRIPTOR.fields_by_name:
        known = ", ".join(sorted(proto.DESCRIPTOR.fields_by_name))
        raise AttributeError(f"{place}: no such field (fields: {known})")
    try:
        _assign_known(proto, name, val)
    except (TypeError, ValueError) as error:
        text = str(error)
        raise TypeError(text if re.match(r"\w+\.\w+: ", text) else f"{place}: found {val!r} ({text})") from None


def _assign_known(proto: Any, name: str, val: Any) -> None:
    target = getattr(proto, name)
    repeated = hasattr(target, "extend")
    if repeated and not isinstance(val, (list, tuple)):
        val = [val]
    if isinstance(val, dict):
        for key, value in val.items():
            assign_proto(target, key, value)
    elif repeated:
        for item in val:
            if isinstance(item, dict):
                message = target.add()
                for key, value in item.items():
                    assign_proto(message, key, value)
            else:
                target.extend([item])
    else:
        setattr(proto, name, val)


class Top:
    """One output blob: the `n`-th top of the layer that `fn` describes."""

    def __init__(self, fn: Function, n: int) -> None:
        self.fn = fn
        self.n = n

    def to_proto(self) -> Any:
        """The NetParameter with every layer that is needed to compute this top."""
        return to_proto(self)

    def _to_proto(self, layers: dict[Function, Any], names: dict[Any, str], autonames: Counter[str]) -> None:
        self.fn._to_proto(layers, names, autonames)


class Function:
    """A layer: its type, its bottoms (Tops) and its parameters; `ntop` (default 1) and `in_place` are taken out of them.

    Raises: TypeError where an input is no Top.
    """

    def __init__(self, type_name: str, inputs: tuple[Any, ...], params: dict[str, Any]) -> None:
        self.type_name = type_name
        for index, source in enumerate(inputs):
            if not isinstance(source, Top):
                raise TypeError(f"{type_name} input {index} is not a Top (type is {type(source)})")
        self.inputs: tuple[Top, ...] = inputs
        self.params = params
        self.ntop: int = params.pop("ntop", 1)
        self.in_place: bool = params.pop("in_place", False)
        self.tops = tuple(Top(self, n) for n in range(self.ntop))

    def _get_name(self, names: dict[Any, str], autonames: Counter[str]) -> str:
        if self not in names:
            names[self] = self._get_top_name(self.tops[0], names, autonames) if self.ntop else self._autoname(autonames)
        return names[self]

    def _get_top_name(self, top: Top, names: dict[Any, str], autonames: Counter[str]) -> str:
        if top not in names:
            names[top] = self._autoname(autonames)
        return names[top]

    def _autoname(self, autonames: Counter[str]) -> str:
        autonames[self.type_name] += 1
        return f"{self.type_name}{autonames[self.type_name]}"

    def _to_proto(self, layers: dict[Function, Any], names: dict[Any, str], autonames: Counter[str]) -> None:
        """Adds the layers below, then this one, to `layers`."""
        if self in layers:
            return
        bottoms = []
        for source in self.inputs:
            source._to_proto(layers, names, autonames)
            bottoms.append(layers[source.fn].top[source.n])
        layer = caffe_pb2.LayerParameter(type=self.type_name, bottom=bottoms)
        layer.top.extend(bottoms if self.in_place else [self._get_top_name(top, names, autonames) for top in self.tops])
        layer.name = self._get_name(names, autonames)
        for key, value in self.params.items():
            self._assign(layer, key, value)
        layers[self] = layer

    def _assign(self, layer: Any, key: str, value: Any) -> None:
        """`key` is a field of the layer type's own message where that has one, else of the layer."""
        own = _param_names.get(self.type_name)
        if not key.endswith("param") and own is not None:
            message = getattr(layer, f"{own}_param")
            if key in message.DESCRIPTOR.fields_by_name:
                assign_proto(message, key, value)
                return
        assign_proto(layer, key, value)


class NoTop(KeyError, AttributeError):
    """A top that was never assigned: KeyError as in pycaffe, and what `hasattr` and `copy` look for."""

    __str__ = AttributeError.__str__


class NetSpec:
    """Tops by name: assign them as attributes or items; `to_proto` gives the net of all that were assigned."""

    tops: dict[str, Any]

    def __init__(self) -> None:
        super().__setattr__("tops", {})

    def __setattr__(self, name: str, value: Any) -> None:
        self.tops[name] = value

    def __getattr__(self, name: str) -> Any:
        if name in self.__dict__.get("tops", ()):
            return self.tops[name]
        raise NoTop(f"NetSpec has no top {name!r} (tops: {', '.join(self.__dict__.get('tops', ()))})")

    def __setitem__(self, key: str, value: Any) -> None:
        self.tops[key] = value

    def __getitem__(self, item: str) -> Any:
        return self.tops[item]

    def to_proto(self) -> Any:
        """The NetParameter with every layer that is needed to compute the assigned tops, named as they were assigned."""
        names = {top: name for name, top in self.tops.items()}
        return _net((top.fn if isinstance(top, Top) else top for top in self.tops.values()), names)


class Layers:
    """`layers.Convolution(bottom, num_output=2)` gives its Top, a tuple of Tops for `ntop` > 1, a Function for 0."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def layer_fn(*args: Any, **kwargs: Any) -> Any:
            fn = Function(name, args, kwargs)
            if fn.ntop == 0:
                return fn
            return fn.tops[0] if fn.ntop == 1 else fn.tops

        return layer_fn


class _Constants:
    """The enum values of one parameter message."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, param_name: str) -> Any:
        return getattr(getattr(caffe_pb2, f"{self._name}Parameter"), param_name)


class Parameters:
    """`params.Pooling.MAX` is PoolingParameter.MAX."""

    def __getattr__(self, name: str) -> _Constants:
        return _Constants(name)


_param_names = param_name_dict()
layers = Layers()
params = Parameters()
