"""A Keras 3 model -> `Program`. It is traced on Keras's JAX backend; see `other_backends` for the others.

A model of common layers isn't traced but written down, as its file is (`keras_saved.py`). What is traced is what the
model does when it predicts (`training=False`: no dropout, batch normalization by its moving averages), and its weights
become constants.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from octavo.errors import ConversionError, MissingDependencyError
from octavo.frontends import jax as jax_frontend
from octavo.frontends import keras_saved, naming, other_backends
from octavo.frontends.inputs import Input, is_single, parse_input
from octavo.graph import Program
from octavo.marks import marking

INSTALL = 'pip install "octavo[keras]"'
_importing = threading.Lock()


def convert(
    model: Any, *, inputs: Any = None, batch: int | None = 1, name: str | None = None, imports: Sequence[str] = ()
) -> Program:
    """Convert a Keras 3 model.

    Args:
      model: a built `keras.Model`.
      inputs: shapes that replace the model's own: one entry per input, in the model's order or by name, as in
        `octavo.frontends.inputs`. For models whose sizes are open, and subclassed models with several inputs;
        there a dict goes to `call` by keyword if its parameters have those names, else as the dict that it is.
      batch: the batch size where the model leaves it open; None keeps it dynamic in the file, where the model allows.
      name: what messages and the program call it; the model's name unless given.
      imports: on another backend than JAX, modules that define classes of the user's own, besides those that the
        model's layers come from.

    Returns:
      The program; inputs are named as the model's input layers, outputs as the layers that make them (or as the keys,
      if the model returns a dict), inner tensors by layer: `conv2d/conv_general_dilated`, `conv2d/kernel`.

    Raises:
      ConversionError: a model that isn't built, state that a `.tflite` file can't keep, ...
      MissingDependencyError: Keras, JAX or litert-converter isn't installed.
    """
    where = name or f"Keras model {model.name!r}"
    _check_model(model, where)
    if program := keras_saved.of_model(model, inputs=inputs, batch=batch, where=where):
        return program
    if sys.modules["keras"].config.backend() != "jax":
        return other_backends.convert(model, inputs=inputs, batch=batch, where=where, imports=imports)
    return jax_frontend.lower(trace(model, inputs=inputs, batch=batch, where=where), where)


def trace(model: Any, *, inputs: Any, batch: int | None, where: str) -> Iterator[jax_frontend.Traced]:
    """Trace a Keras model on the JAX backend; see `convert`."""
    _check_model(model, where)
    specs, structure = _inputs(model, inputs, where)
    _check_precision(model, where)
    return jax_frontend.trace(
        _prediction(model, structure, where),
        specs,
        batch=batch,
        where=where,
        output_names=_output_names(model),
        scope=model.name,
    )


def import_keras() -> Any:
    """Import Keras, on the JAX backend if neither the user nor an earlier import chose one."""
    if "keras" in sys.modules:
        return sys.modules["keras"]
    with _importing, _jax_backend():
        try:
            import keras
        except ImportError as error:
            raise MissingDependencyError(f"Keras on JAX is needed ({error}): {INSTALL}") from error
    require_keras_3(keras)
    return keras


def require_keras_3(keras: Any) -> None:
    """Raise if the imported Keras is an old one, such as TensorFlow's."""
    version = str(getattr(keras, "__version__", ""))
    if int(version.partition(".")[0] or 0) < 3:
        raise MissingDependencyError(f"Keras 3 is needed, this is Keras {version or 'of unknown version'}: {INSTALL}")


@contextmanager
def _jax_backend() -> Iterator[None]:
    """Make JAX the backend for an import, unless the user has chosen; the environment is left as it was.

    Keras reads its backend once, while it is imported, from KERAS_BACKEND or keras.json.
    """
    if os.environ.get("KERAS_BACKEND") or _configured_backend():
        yield
        return
    before = os.environ.get("KERAS_BACKEND")
    os.environ["KERAS_BACKEND"] = "jax"
    try:
        yield
    finally:
        if before is None:
            del os.environ["KERAS_BACKEND"]
        else:
            os.environ["KERAS_BACKEND"] = before


def _configured_backend() -> str | None:
    """The backend in keras.json, if it can run.

    Keras writes `"backend": "tensorflow"` there by itself, so the name of a backend that isn't installed is no choice.
    """
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    try:
        backend = json.loads((home / "keras.json").read_text()).get("backend")
    except (OSError, ValueError, AttributeError):
        return None
    return backend if isinstance(backend, str) and importlib.util.find_spec(backend) else None


def _check_model(model: Any, where: str) -> None:
    keras = sys.modules["keras"]
    if not isinstance(model, keras.Model):
        raise ConversionError(
            f"{where} is a {type(model).__name__}, not a keras.Model; wrap it: keras.Sequential([keras.Input(...), it])"
        )
    if not model.built:
        raise ConversionError(
            f"{where} isn't built, so it has no weights yet; call it once, or start it with keras.Input(...)"
        )


def _layers(model: Any) -> Iterator[Any]:
    """The model's layers, those of nested models too."""
    for layer in model.layers:
        yield layer
        if hasattr(layer, "layers"):
            yield from _layers(layer)


def _check_precision(model: Any, where: str) -> None:
    """Refuse layers that don't compute in float32: a `.tflite` float model is float32, and quantizing is octavo's."""
    for layer in _layers(model):
        policy = layer.dtype_policy
        if getattr(policy, "quantization_mode", None):
            raise ConversionError(
                f"{where}: layer {layer.name!r} was already quantized by Keras ({policy.name}); "
                "convert the model as it was before model.quantize()"
            )
        if policy.compute_dtype in ("float16", "bfloat16", "float64"):
            raise ConversionError(
                f"{where}: layer {layer.name!r} computes in {policy.compute_dtype} (policy {policy.name!r}); build the "
                "model under the float32 policy, load its weights (model.set_weights) and convert that"
            )


def _inputs(model: Any, given: Any, where: str) -> tuple[list[Input], Any]:
    """The model's inputs, flat, and the structure of tensors that its call takes (names in place of tensors)."""
    keras = sys.modules["keras"]
    tensors = _symbolic(model, "inputs")
    if tensors is None:
        specs = _subclassed_inputs(model, given, where)
        names = [spec.name for spec in specs]
        return specs, {name: name for name in names} if isinstance(given, Mapping) else names
    for tensor in tensors:
        if tensor.sparse or tensor.dtype == "string":
            kind = "sparse" if tensor.sparse else "a string"
            raise ConversionError(f"{where}: input {tensor.name!r} is {kind}; a .tflite model takes dense numbers")
    own = [Input(_maker(tensor), tuple(tensor.shape), str(tensor.dtype)) for tensor in tensors]
    structure = getattr(model, "_inputs_struct", None)
    if structure is None:
        structure = list(tensors)
    return _replaced(own, given, where), keras.tree.map_structure(_maker, structure)


def _maker(tensor: Any) -> str:
    """The name of the layer that makes a symbolic tensor; where octavo.qat rounds it, the name that the tensor had."""
    operation, node_index, _ = tensor._keras_history
    if hasattr(operation, "slot_name"):
        return operation.slot_name(operation._inbound_nodes[node_index].arguments.kwargs.get("slot", 0))
    return operation.name


def _symbolic(model: Any, which: str) -> Sequence[Any] | None:
    """`model.inputs` or `model.outputs`; None for a subclassed model, which records neither."""
    tensors = getattr(model, which, None)
    return tensors if isinstance(tensors, list | tuple) and tensors else None


def _replaced(own: Sequence[Input], given: Any, where: str) -> list[Input]:
    """The model's own inputs with the shapes that the user gave instead; dtypes stay the model's."""
    if given is None:
        return list(own)
    names = [spec.name for spec in own]
    if isinstance(given, Mapping):
        if unknown := sorted(set(map(str, given)) - set(names)):
            raise ConversionError(f"{where} has no input {unknown[0]!r}; its inputs are {', '.join(names)}")
        entries = [given.get(spec.name, spec) for spec in own]
    else:
        entries = [given] if is_single(given) else list(given)
    if len(entries) != len(own):
        raise ConversionError(f"{where} has {len(own)} inputs ({', '.join(names)}); {len(entries)} were given")
    parsed = [parse_input(spec.name, entry, where) for spec, entry in zip(own, entries, strict=True)]
    for spec, new in zip(own, parsed, strict=True):
        fits = len(spec.shape) == len(new.shape) and all(
            a is None or b is None or a == b for a, b in zip(spec.shape, new.shape, strict=True)
        )
        if not fits:
            raise ConversionError(f"{where}: the given input {new} doesn't fit the model's {spec}")
    return [
        Input(new.name, tuple(b if a is None else a for a, b in zip(spec.shape, new.shape, strict=True)), spec.dtype)
        for spec, new in zip(own, parsed, strict=True)
    ]


def _subclassed_inputs(model: Any, given: Any, where: str) -> list[Input]:
    """The inputs of a subclassed model: as given, else the one tensor that it was built for."""
    if isinstance(given, Mapping):
        return [parse_input(str(key), entry, where) for key, entry in given.items()]
    if given is not None:
        entries = [given] if is_single(given) else list(given)
        names = ["input"] if len(entries) == 1 else [f"input_{index}" for index in range(len(entries))]
        return [parse_input(key, entry, where) for key, entry in zip(names, entries, strict=True)]
    shapes = list((getattr(model, "_build_shapes_dict", None) or {}).values())
    if len(shapes) != 1 or not is_single(shapes[0]):
        raise ConversionError(
            f"{where} is a subclassed model, which doesn't record its inputs; give their shapes: inputs=[(1, ...)]"
        )
    return [Input("input", (None, *shapes[0][1:]), str(model.input_dtype or "float32"))]


def _output_names(model: Any) -> list[str] | None:
    """For each output, flat: its key in the dict that the model returns, else its layer; None if not recorded."""
    tensors = _symbolic(model, "outputs")
    if tensors is None:
        return None
    tree = sys.modules["keras"].tree
    structure = getattr(model, "_outputs_struct", None)
    paths = [path for path, _ in tree.flatten_with_path(structure)] if structure is not None else [()] * len(tensors)
    return naming.unique(
        path[-1] if path and isinstance(path[-1], str) else _maker(tensor)
        for path, tensor in zip(paths, tensors, strict=True)
    )


def _prediction(model: Any, structure: Any, where: str) -> Any:
    """The model as a pure function of its flat inputs."""
    keras = sys.modules["keras"]
    single = isinstance(structure, list) and len(structure) == 1
    by_keyword = (
        isinstance(structure, Mapping)
        and _symbolic(model, "inputs") is None
        and set(structure) <= set(inspect.signature(model.call).parameters)
    )

    def predict(*arrays: Any) -> list[Any]:
        packed = arrays[0] if single else keras.tree.pack_sequence_as(structure, list(arrays))
        # In a stateless scope an assignment to a variable is recorded instead of carried out. Layers of octavo.qat
        # leave a mark with their range where they would round.
        with marking(), keras.StatelessScope() as scope:
            outputs = model(**packed, training=False) if by_keyword else model(packed, training=False)
        if scope.state_mapping:
            _refuse_state(model, set(scope.state_mapping), where)
        return keras.tree.flatten(outputs)

    return predict


def _refuse_state(model: Any, assigned: set[int], where: str) -> None:
    """Raise: predicting changed these variables (by `id`), and a `.tflite` file made here has none."""
    paths = [variable.path for variable in model.variables if id(variable) in assigned]
    stateful = [layer.name for layer in _layers(model) if getattr(layer, "stateful", False)]
    if paths and all("seed_generator" in path for path in paths):
        raise ConversionError(
            f"{where} draws random numbers when it predicts ({paths[0]}); a .tflite model has no generator: "
            "make the noise an input of the model"
        )
    named = ", ".join(paths or stateful) or "in a layer"
    raise ConversionError(
        f"{where} keeps state between calls ({named}), and a .tflite file made here can't: "
        "build the layer with stateful=False, or pass the state in and out"
    )
