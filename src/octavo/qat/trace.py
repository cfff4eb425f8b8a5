"""A functional Keras model as a flat list of steps, each of which is one op on the device or stays in float.

Nested models are taken apart, so that a convolution in a backbone can fuse with what follows it outside. Layers that do
several things are split: a Dense with a softmax becomes a Dense and a softmax, because the device rounds in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import keras
from keras.src.models.functional import Functional  # Keras has no public name for it

from octavo.errors import ConversionError
from octavo.ops import OPS
from octavo.qat.kinds import ACTIVATIONS, Kind, activation_name, fuses_activation, is_clamp, kind_of


@dataclass(eq=False)
class Value:
    """A tensor of the model.

    Attributes:
      name: as the file will call it.
      dtype: as Keras has it.
    """

    name: str
    dtype: str

    @property
    def is_float(self) -> bool:
        return "float" in self.dtype


@dataclass(eq=False)
class Part:
    """A new layer that does all or a part of what an old one did; shared by its calls.

    Attributes:
      layer: the new layer (or an operation from keras.ops, which has no state).
      kind: what it is on the device.
      load: copies the trained values once the new layer is built.
    """

    layer: Any
    kind: Kind
    load: Callable[[], None] = lambda: None


@dataclass(eq=False)
class Step:
    """One call of a part. `args` and `kwargs` hold `Value`s where tensors go."""

    part: Part
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: list[Value]
    inputs: list[Value] = field(init=False)

    def __post_init__(self) -> None:
        leaves = keras.tree.flatten((self.args, self.kwargs))
        self.inputs = [leaf for leaf in leaves if isinstance(leaf, Value)]

    @property
    def name(self) -> str:
        return self.part.layer.name


@dataclass(eq=False)
class Trace:
    """The whole model: `inputs` and `outputs` are in the order of `model.inputs` and `model.outputs`."""

    inputs: list[Value]
    outputs: list[Value]
    steps: list[Step]


def trace(model: Any) -> Trace:
    """Take a built functional or sequential model apart; its layers are copied, not touched."""
    function = functional(model)
    tracer = _Tracer()
    inputs = [Value(t._keras_history.operation.name, str(t.dtype)) for t in function.inputs]
    tracer.names.update(value.name for value in inputs)
    outputs = tracer.run(function, inputs, {})
    return Trace(inputs, outputs, tracer.steps)


def functional(model: Any) -> Any:
    """The Functional model behind a Sequential one; others as they are."""
    return model._functional if isinstance(model, keras.Sequential) else model


def is_functional(layer: Any) -> bool:
    """Whether a layer is a model that records its graph."""
    return isinstance(functional(layer), Functional)


class _Tracer:
    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.parts: dict[int, list[Part]] = {}
        self.names: set[str] = set()

    def run(self, function: Any, inputs: list[Value], given: dict[str, Any]) -> list[Value]:
        """Note the steps of one call of a model; `given` is what the caller said about `training`."""
        known = {id(t): value for t, value in zip(function.inputs, inputs, strict=True)}
        for node in _nodes(function):
            args, kwargs = node.arguments.convert(
                lambda leaf: known[id(leaf)] if isinstance(leaf, keras.KerasTensor) else leaf
            )
            outputs = self._call(node.operation, args, {**_accepted(node.operation, given), **kwargs}, node.outputs)
            known.update((id(t), value) for t, value in zip(node.outputs, outputs, strict=True))
        return [known[id(t)] for t in function.outputs]

    def _call(self, operation: Any, args: Any, kwargs: dict[str, Any], tensors: list[Any]) -> list[Value]:
        if is_functional(operation):
            given = {"training": kwargs["training"]} if kwargs.get("training") is not None else {}
            return self.run(functional(operation), keras.tree.flatten(args[0] if args else kwargs["inputs"]), given)
        if id(operation) not in self.parts:
            self.parts[id(operation)] = split(operation)
        *first, last = self.parts[id(operation)]
        for part in first:
            made = Value(self._unique(part.layer.name), str(tensors[0].dtype))
            self.steps.append(Step(part, args, kwargs, [made]))
            args, kwargs = _after(part, args, made), {}
        outputs = [Value(self._unique(operation.name), str(tensor.dtype)) for tensor in tensors]
        self.steps.append(Step(last, args, kwargs, outputs))
        return outputs

    def _unique(self, name: str) -> str:
        found, number = name, 0
        while found in self.names:
            number += 1
            found = f"{name}_{number}"
        self.names.add(found)
        return found


def _after(part: Part, args: tuple[Any, ...], made: Value) -> tuple[Any, ...]:
    """What the part after `part` takes: what it made, and for a gate (x * sigmoid(x)) what went in as well."""
    return ([args[0], made],) if part.kind.op == "LOGISTIC" else (made,)


def _nodes(function: Any) -> Iterator[Any]:
    """The calls of a functional model, in an order in which they can run."""
    for depth in sorted(function._nodes_by_depth, reverse=True):
        for node in function._nodes_by_depth[depth]:
            if not node.is_input:
                yield node


def _accepted(operation: Any, given: dict[str, Any]) -> dict[str, Any]:
    return given if getattr(operation, "_call_has_training_arg", False) else {}


def split(operation: Any) -> list[Part]:
    """The parts of which a layer consists on the device, in order; most have one."""
    if not isinstance(operation, keras.layers.Layer):
        gated = type(operation).__name__ in ("Silu", "Swish")
        return _gate(operation.name) if gated else [Part(operation, kind_of(operation))]
    kind = kind_of(operation)
    name = activation_name(getattr(operation, "activation", None))
    if isinstance(operation, keras.layers.Activation) and name in ("silu", "swish"):
        return _gate(operation.name)
    if type(operation) in (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D):
        return _separable(operation)
    if kind.row is None or not kind.weights or _fuses(kind, name):
        return [_copy(operation, kind)]
    head = _copy(operation, kind, name=f"{operation.name}_linear", activation="linear")
    return [head, *_activation(operation.activation, operation.name)]


def _fuses(kind: Kind, activation: str) -> bool:
    row, clamp = kind.row, OPS.get(ACTIVATIONS.get(activation, ""))
    return activation == "linear" or (
        row is not None and fuses_activation(row) and clamp is not None and is_clamp(clamp)
    )


def _copy(layer: Any, kind: Kind, **changes: Any) -> Part:
    """A copy with the same configuration but `changes`, and later the same weights."""
    from octavo.qat.layers import BatchNormalization

    cls = BatchNormalization if type(layer) is keras.layers.BatchNormalization else type(layer)
    # The function of a Lambda layer is here already: copying it runs no code that a file brought along.
    trusted = {"safe_mode": False} if isinstance(layer, keras.layers.Lambda) else {}
    try:
        new = cls.from_config({**layer.get_config(), **changes}, **trusted)
    except Exception as error:  # a user's layer without get_config, or with one that doesn't fit
        raise ConversionError(
            f"layer {layer.name!r} ({type(layer).__name__}) can't be copied from its configuration "
            f"({type(error).__name__}: {error}); give it a get_config() that returns its arguments"
        ) from error

    def load() -> None:
        new.set_weights(layer.get_weights())
        new.trainable = layer.trainable

    return Part(new, kind, load)


def _activation(function: Any, name: str) -> list[Part]:
    if activation_name(function) in ("silu", "swish"):
        return _gate(name)
    layer = keras.layers.Activation(function, name=f"{name}_{activation_name(function)}")
    return [Part(layer, kind_of(layer))]


def _gate(name: str) -> list[Part]:
    """The product x * sigmoid(x), which is two ops on the device."""
    sigmoid = keras.layers.Activation("sigmoid", name=f"{name}_sigmoid")
    product = keras.layers.Multiply(name=f"{name}_product")
    return [Part(sigmoid, kind_of(sigmoid)), Part(product, kind_of(product))]


def _separable(layer: Any) -> list[Part]:
    """A depthwise convolution, and one of size 1."""
    rank = layer.rank
    config = layer.get_config()
    shared = {key: config[key] for key in ("data_format", "dilation_rate", "padding", "strides", "dtype")}
    depthwise_kinds: Any = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
    pointwise_kinds: Any = (keras.layers.Conv1D, keras.layers.Conv2D)
    depthwise = depthwise_kinds[rank - 1](
        layer.kernel_size, depth_multiplier=layer.depth_multiplier, use_bias=False, name=f"{layer.name}_depthwise",
        depthwise_regularizer=layer.depthwise_regularizer, depthwise_constraint=layer.depthwise_constraint, **shared,
    )  # fmt: skip
    pointwise = pointwise_kinds[rank - 1](
        layer.filters, 1, use_bias=layer.use_bias, name=f"{layer.name}_pointwise", data_format=layer.data_format,
        kernel_regularizer=layer.pointwise_regularizer, kernel_constraint=layer.pointwise_constraint,
        bias_regularizer=layer.bias_regularizer, bias_constraint=layer.bias_constraint,
        activity_regularizer=layer.activity_regularizer, dtype=config["dtype"],
    )  # fmt: skip

    def load() -> None:
        first, *rest = layer.get_weights()
        depthwise.set_weights([first])
        pointwise.set_weights(rest)
        depthwise.trainable = pointwise.trainable = layer.trainable

    parts = [Part(depthwise, kind_of(depthwise)), Part(pointwise, kind_of(pointwise), load)]
    name = activation_name(layer.activation)
    if name == "linear":
        return parts
    if _fuses(parts[1].kind, name):
        pointwise.activation = layer.activation
        return parts
    return [*parts, *_activation(layer.activation, layer.name)]
