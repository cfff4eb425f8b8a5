"""A Keras model of common layers -> `Program`, by NumPy alone: a `.keras` file, or a model in memory in that form.

The file is a zip archive: `config.json` holds the layers and who reads whom, `model.weights.h5` the variables, in a
group for each layer that carries its name (keras/src/saving/saving_lib.py, since Keras 3.8). `keras_layers.py` writes
the ops of each layer, and some of octavo's passes bring them to what the converter makes of a traced model.

It is all or nothing: a layer, an argument or a form of file that isn't known here makes `read` return None, and then
Keras loads the file and says what is wrong with it, if anything is; `of_model` likewise, and the model is traced.
"""

from __future__ import annotations

import io
import json
import sys
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from octavo.frontends import naming
from octavo.frontends.keras_layers import LAYERS, OPERATIONS, Layer, Unknown
from octavo.graph import DType, Graph, Program, Signature, Tensor
from octavo.passes.drop_identities import drop_identities
from octavo.passes.fold_pad import fold_pad
from octavo.passes.fold_scales import fold_scales
from octavo.passes.fuse_activations import fuse_activations
from octavo.passes.keep_dims import keep_dims
from octavo.versions import settle_versions

# What the converter does to a traced model too.
_PASSES = (drop_identities, keep_dims, fold_scales, fuse_activations, fold_pad)
_SIGNATURE = "serving_default"
_LAYERS, _OPERATIONS = "keras.layers", "keras.src.ops.numpy"
_CLASSES = frozenset((*LAYERS, *OPERATIONS, "InputLayer"))
_SEQUENTIAL = ("keras", "Sequential")
_FUNCTIONAL = (("keras.src.models.functional", "Functional"), ("keras", "Functional"))
# What a damaged file, or one of another layout, raises in zipfile, JSON, HDF5 and here; Keras finds words for it.
_NOT_READ = (
    Unknown, OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, EOFError, zipfile.BadZipFile,
    zlib.error, RecursionError,
)  # fmt: skip

_Call = tuple[str, int]  # a layer's name and the number of its call


def read(
    path: str, *, inputs: Any = None, batch: int | None = 1, where: str, imports: Sequence[str] = ()
) -> Program | None:
    """Read a `.keras` file.

    Args:
      path: the file.
      inputs, batch, where, imports: as in `octavo.frontends.keras_process.convert`.

    Returns:
      The program, named as `octavo.frontends.keras.convert` names it; None if Keras has to read the file: because of
      what it holds, or for other inputs, a dynamic batch or classes of the user's own.
    """
    if inputs is not None or batch is None or batch < 1 or imports or not path.endswith(".keras"):
        return None
    try:
        import h5py
    except ImportError:
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            # As Keras stores them; what is packed may be of any size.
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                return None
            config = json.loads(archive.read("config.json"))
            if not _is_common(config):
                return None
            weights = io.BytesIO(archive.read("model.weights.h5"))
        with h5py.File(weights) as file:
            return _Reader(batch).program(config, _Group(file), where)
    except _NOT_READ:
        return None


def of_model(model: Any, *, inputs: Any = None, batch: int | None = 1, where: str) -> Program | None:
    """What `read` gives for a model once it is saved, without saving it; on whichever backend.

    Args:
      model: a built `keras.Model`.
      inputs, batch, where: as in `octavo.frontends.keras.convert`.

    Returns:
      The program; None if the model has to be traced.
    """
    if inputs is not None or batch is None or batch < 1 or not _has_common_layers(model):
        return None
    try:
        config = json.loads(json.dumps(sys.modules["keras"].saving.serialize_keras_object(model)))
        return _Reader(batch).program(config, _Live(model), where)
    except _NOT_READ:
        return None


def _is_common(node: Mapping[str, Any]) -> bool:
    """Whether the table has all layers of a configuration, by the names of their classes: before weights are read."""
    return all(
        _is_common(layer) if "layers" in layer["config"] else layer["class_name"] in _CLASSES
        for layer in node["config"]["layers"]
    )


def _has_common_layers(model: Any) -> bool:
    """Whether all layers of a model are Keras's own and in the table: before they are asked for their configuration."""
    return type(model).__module__.startswith("keras.src.models.") and all(
        _has_common_layers(layer) if hasattr(layer, "layers") else _is_common_layer(layer) for layer in model.layers
    )


def _is_common_layer(layer: Any) -> bool:
    return type(layer).__module__.startswith("keras.src.layers.") and type(layer).__name__ in _CLASSES


class _Weights(Protocol):
    """Where the variables of a model or a layer are."""

    def layers(self) -> Mapping[str, _Weights]:
        """Those of a model's layers, by name."""
        ...

    def variables(self) -> list[np.ndarray]:
        """A layer's own, in Keras's order."""
        ...


class _Group:
    """In a group of an HDF5 file."""

    def __init__(self, group: Any) -> None:
        self._group = group

    def layers(self) -> Mapping[str, _Group]:
        return {entry["vars"].attrs["name"]: _Group(entry) for entry in self._group["layers"].values()}

    def variables(self) -> list[np.ndarray]:
        if set(self._group) != {"vars"}:
            raise Unknown("a layer that holds others")
        variables = self._group["vars"]
        return [np.asarray(variables[str(index)], np.float32) for index in range(len(variables))]


class _Live:
    """In a model or layer of Keras."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer

    def layers(self) -> Mapping[str, _Live]:
        return {layer.name: _Live(layer) for layer in self._layer.layers}

    def variables(self) -> list[np.ndarray]:
        store: dict[str, Any] = {}
        self._layer.save_own_variables(store)
        return [np.asarray(store[str(index)], np.float32) for index in range(len(store))]


class _Reader:
    def __init__(self, batch: int) -> None:
        self._batch = batch
        self._graph = Graph("main")

    def program(self, config: Mapping[str, Any], weights: _Weights, where: str) -> Program:
        """The whole model."""
        names, outputs = self._model(config, None, weights, "")
        inputs = [tensor.name for tensor in self._graph.inputs]
        if len(set(outputs)) < len(outputs) or set(outputs) & set(self._graph.inputs) or not outputs:
            raise Unknown("outputs that are one tensor, or inputs")
        self._graph.outputs = outputs
        names = naming.unique(names)
        signature = Signature(
            _SIGNATURE,
            list(zip(inputs, self._graph.inputs, strict=True)),
            list(zip(names, outputs, strict=True)),
            self._graph,
        )
        program = Program([self._graph], [signature])
        own = {op: op.outputs[0].name for op in self._graph.ops}
        for rewrite in _PASSES:
            rewrite(program)
        self._graph.drop_unused_tensors()
        for op in self._graph.ops:  # a convolution that took in what follows is known by its own name
            op.outputs[0].name = own[op]
            op.origins = ()
        settle_versions(program)
        program.source = where
        return naming.name_tensors(program, inputs, names)

    def _model(
        self, node: Mapping[str, Any], given: Sequence[Tensor] | None, weights: _Weights, path: str
    ) -> tuple[list[str], list[Tensor]]:
        """Write a model's layers; returns the names of its output layers, and what they make.

        Args:
          node: its configuration.
          given: what it is called with; None for the main model, whose inputs are the program's.
          weights: where they are.
          path: what stands before its layers' names.
        """
        kind, config = (node["module"], node["class_name"]), node["config"]
        known_weights = weights.layers()
        layers = [_Named(layer, known_weights, path) for layer in config["layers"]]
        if kind == _SEQUENTIAL:
            calls = {(layer.name, 0): before for layer, before in zip(layers[1:], _one_each(layers), strict=True)}
            firsts, lasts = [(layers[0].name, 0)], [(layers[-1].name, 0)]
        elif kind in _FUNCTIONAL:
            calls = {
                (layer.name, number): _inputs(layer, call)
                for layer in layers
                for number, call in enumerate(layer.node["inbound_nodes"])
            }
            firsts, lasts = _ends(config["input_layers"]), _ends(config["output_layers"])
        else:
            raise Unknown(f"a model of class {kind}")
        known = {layer.name: layer for layer in layers}
        if len(known) < len(layers):
            raise Unknown("layers of one name")
        made = dict(zip(firsts, self._entries([known[name] for name, _ in firsts], given), strict=True))
        waiting = [call for call in calls if call not in made]
        while waiting:
            later = []
            for call in waiting:
                # A number stands for itself, a call for what it made.
                read = [made.get(before) if isinstance(before, tuple) else before for before in calls[call]]
                if None in read:
                    later.append(call)
                else:
                    made[call] = self._called(known[call[0]], [one for one in read if one is not None])
            if len(later) == len(waiting):
                raise Unknown("a graph with a circle or a loose end")
            waiting = later
        return [name for name, _ in lasts], [made[call] for call in lasts]

    def _entries(self, layers: Sequence[_Named], given: Sequence[Tensor] | None) -> list[Tensor]:
        """What the input layers stand for: what the model is called with, or inputs of the program."""
        if given is not None and len(given) != len(layers):
            raise Unknown("a model called with another number of inputs")
        found = []
        for index, layer in enumerate(layers):
            if layer.kind != "InputLayer":
                raise Unknown(f"{layer.name} is no InputLayer")
            entry = Layer(self._graph, layer.path, layer.config, ())
            entry.expect(sparse=False, ragged=False, optional=False)
            batch, *rest = entry.take("batch_shape")
            entry.finish()
            shape = (self._batch if batch is None else batch, *rest)
            if any(type(size) is not int or size < 1 for size in shape):
                raise Unknown(f"{layer.name}: a size is open")
            if given is None:
                tensor = self._graph.add_tensor(Tensor(layer.name, DType.FLOAT32, shape))
                self._graph.inputs.append(tensor)
            else:
                tensor = given[index]
                if tensor.shape[1:] != shape[1:]:
                    raise Unknown(f"{layer.name}: called with another shape")
            found.append(tensor)
        return found

    def _called(self, layer: _Named, read: list[Tensor | float]) -> Tensor:
        if layer.is_operation:
            written = Layer(self._graph, layer.path, layer.config, ())
            output = OPERATIONS[layer.node["class_name"]](written, read)
            written.finish()
            return output
        inputs = [one for one in read if isinstance(one, Tensor)]
        if len(inputs) < len(read):
            raise Unknown(f"{layer.name} is called with a number")
        if layer.weights is None:
            raise Unknown(f"{layer.name} isn't among the weights")
        if layer.kind is None:
            _, outputs = self._model(layer.node, inputs, layer.weights, f"{layer.path}/")
            (output,) = outputs
            return output
        if layer.kind not in LAYERS:
            raise Unknown(f"a layer of class {layer.kind}")
        written = Layer(self._graph, layer.path, layer.config, layer.weights.variables())
        output = LAYERS[layer.kind](written, inputs)
        written.finish()
        return output


class _Named:
    """A layer of a model, or a model inside it."""

    def __init__(self, node: Mapping[str, Any], weights: Mapping[str, _Weights], path: str) -> None:
        self.node = node
        self.config: Mapping[str, Any] = node["config"]
        self.name: str = self.config["name"]
        self.path = path + self.name
        self.weights = weights.get(self.name)
        self.is_operation = node["module"] == _OPERATIONS  # x + 3, written with symbolic tensors
        # None for a model; its class is looked at when it is called.
        is_layer = node["module"] == _LAYERS and node.get("registered_name") is None
        self.kind: str | None = node["class_name"] if is_layer else None


def _one_each(layers: Sequence[_Named]) -> Iterator[list[_Call | float]]:
    """In a Sequential model each layer reads the one before."""
    for layer in layers[:-1]:
        yield [(layer.name, 0)]


def _inputs(layer: _Named, call: Mapping[str, Any]) -> list[_Call | float]:
    """The calls whose results a call reads, and numbers among them."""
    arguments = call["args"]
    if any(value not in (None, False) for value in call["kwargs"].values()):
        raise Unknown(f"{layer.name} is called with other arguments")
    if not layer.is_operation:
        (first,) = arguments  # one tensor, or a list of them
        arguments = first if isinstance(first, list) else [first]
    return [float(one) if type(one) in (int, float) else _tensor(one) for one in arguments]


def _tensor(argument: Mapping[str, Any]) -> _Call:
    if argument["class_name"] != "__keras_tensor__":
        raise Unknown("something else than a tensor")
    return _call(argument["config"]["keras_history"])


def _ends(entry: Any) -> list[_Call]:
    """The layers at a model's borders, as `input_layers` and `output_layers` list them."""
    return [_call(entry)] if isinstance(entry[0], str) else [_call(one) for one in entry]


def _call(history: Sequence[Any]) -> _Call:
    name, number, tensor = history
    if tensor != 0 or not isinstance(name, str) or type(number) is not int:
        raise Unknown("one of several outputs")
    return name, number
