"""A `.keras` or `.h5` file -> a Keras 3 model -> `Program`. No code from the file is run (Keras's safe mode).

Classes and functions of the user's own are taken from modules that the caller names. Files of Keras 2 load where Keras
3 has all that they name; `.h5` files of layers that merely lost an argument, and of models inside models, are put right
first.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import shutil
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from octavo.errors import ConversionError, MissingDependencyError, ModelFileError
from octavo.frontends import keras as keras_frontend
from octavo.frontends import keras_process, keras_saved
from octavo.frontends.jax import Traced
from octavo.frontends.keras_archive import CUSTOM_OBJECTS, DAMAGE, without_initializers
from octavo.graph import Program
from octavo.text import first_line

# Arguments that Keras 3 took away, with the value at which they change nothing.
_DROPPED: Mapping[str, Mapping[str, Any]] = {
    "DepthwiseConv2D": {"groups": 1},
    "DepthwiseConv1D": {"groups": 1},
    "Conv2DTranspose": {"groups": 1},
    "Conv1DTranspose": {"groups": 1},
    "SeparableConv2D": {"groups": 1},
    "SeparableConv1D": {"groups": 1},
    "LSTM": {"time_major": False},
    "GRU": {"time_major": False},
    "SimpleRNN": {"time_major": False},
    "RNN": {"time_major": False},
}
# A layer of these is a model inside a model.
_MODELS = ("Functional", "Model", "Sequential")


def convert(
    path: str, *, inputs: Any = None, batch: int | None = 1, name: str | None = None, imports: Sequence[str] = ()
) -> Program:
    """Convert a `.keras` or `.h5` file, on whichever backend Keras runs here; see `octavo.frontends.keras.convert`.

    A `.keras` file of common layers is read without Keras (`keras_saved.py`). Other files are loaded by Keras: by a
    process of its own, unless Keras is imported here already.

    Args:
      path: the file.
      inputs, batch, name: as for a model in memory.
      imports: names of modules that hold classes and functions of the user's own.

    Raises:
      ConversionError: the model can't be converted, or a module can't be imported.
      ModelFileError: the file is missing, or Keras can't load it.
      MissingDependencyError: Keras, JAX or litert-converter isn't installed.
    """
    _check_exists(path)
    where = name or path
    if program := keras_saved.read(path, inputs=inputs, batch=batch, where=where, imports=imports):
        return program
    keras = sys.modules.get("keras")
    if keras is None or keras.config.backend() != "jax":
        return keras_process.convert(path, inputs=inputs, batch=batch, where=where, imports=imports)
    return keras_frontend.convert(load(path, imports), inputs=inputs, batch=batch, name=where)


def trace(
    path: str, *, inputs: Any, batch: int | None, name: str | None = None, imports: Sequence[str] = ()
) -> Iterator[Traced]:
    """Load a file and trace it on the JAX backend, which must be Keras's here; see `convert`."""
    return keras_frontend.trace(load(path, imports), inputs=inputs, batch=batch, where=name or path)


def load(path: str | os.PathLike[str], imports: Sequence[str] = ()) -> Any:
    """Load a `.keras` or `.h5` file, without its optimizer.

    Keras's backend is the one that the user chose; JAX if none was.

    Args:
      path: the file.
      imports: names of modules that hold classes and functions of the user's own.
    """
    path = os.fspath(path)
    _check_exists(path)
    keras = keras_frontend.import_keras()
    known = {**CUSTOM_OBJECTS, **custom_objects(imports)}
    with _repaired(path) as source, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Do not pass an `input_shape`")  # the file says so, not the user
        try:
            return keras.models.load_model(source, custom_objects=known, compile=False)
        except Exception as error:  # zip, JSON, HDF5 and the model's own errors all come through
            reason = _reason(error).replace(source, path)
            raise ModelFileError(f"{path}: Keras can't load it ({reason}); {_advice(path)}") from error


def custom_objects(imports: Sequence[str]) -> dict[str, Any]:
    """The classes and functions that these modules define, by name, as Keras looks for them.

    A module is looked for in the current folder too.

    Raises:
      ConversionError: a module can't be imported.
    """
    known: dict[str, Any] = {}
    for name in imports:
        try:
            with _current_folder():
                module = importlib.import_module(name)
        except Exception as error:  # whatever a user's module raises
            raise ConversionError(f"the module {name!r} can't be imported: {first_line(error)}") from error
        for key, value in vars(module).items():
            if (inspect.isclass(value) or inspect.isfunction(value)) and value.__module__ == module.__name__:
                known[key] = value
    return known


@contextmanager
def _current_folder() -> Iterator[None]:
    folder = os.getcwd()  # noqa: PTH109  (sys.path takes strings)
    if folder in sys.path:
        yield
        return
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _check_exists(path: str) -> None:
    if not Path(path).is_file():
        raise ModelFileError(f"{path}: no such file")


def _reason(error: Exception) -> str:
    """The class that Keras doesn't know, which it names far down in its message, or what it says first."""
    unknown = re.search(r"(?:Could not locate|Unknown) (\w+):? '([^']+)'", str(error))
    return f"it doesn't know the {unknown[1]} {unknown[2]!r}" if unknown else first_line(error)


def _advice(path: str) -> str:
    if _saved_by_keras_2(path):
        return (
            "it was saved by Keras 2: save it there as .h5, of which Keras 3 loads more, or build the model in "
            "Keras 3, load its weights with model.load_weights, and pass the model"
        )
    return (
        "if it holds layers of your own, name the module that defines them: --import MODULE, or "
        "octavo.convert(path, imports=[...]); or load it with keras.models.load_model and pass the model"
    )


def _saved_by_keras_2(path: str) -> bool:
    try:
        if path.endswith(".keras"):
            with zipfile.ZipFile(path) as archive:
                version = json.loads(archive.read("metadata.json"))["keras_version"]
        else:
            version = _h5_text(path, "keras_version") or ""
    except DAMAGE:
        return False
    return str(version).startswith("2.")


@contextmanager
def _repaired(path: str) -> Iterator[str]:
    """The path, or that of a copy that Keras loads, or loads faster."""
    if path.lower().endswith(".keras"):
        with without_initializers(path) as copy:
            yield copy
        return
    text = _h5_text(path, "model_config")
    if text is None:
        raise ModelFileError(
            f"{path}: it holds weights without a model: build the model, load them with model.load_weights, and pass "
            "the model"
        )
    config = json.loads(text)
    if _has_code(config):
        raise ModelFileError(
            f"{path}: it holds a Lambda layer, whose code octavo doesn't run; if you trust it, load it with "
            "keras.models.load_model(path, safe_mode=False) and pass the model"
        )
    changed = [_drop(config), _renumber(config)]
    if not any(changed) and path.endswith((".h5", ".hdf5")):  # Keras knows files by their endings, in lower case
        yield path
        return
    import h5py

    with tempfile.TemporaryDirectory() as folder:
        copy = str(Path(folder) / "model.h5")
        shutil.copyfile(path, copy)
        with h5py.File(copy, "r+") as file:
            file.attrs["model_config"] = json.dumps(config)
        yield copy


def _h5_text(path: str, attribute: str) -> str | None:
    """An attribute of an HDF5 file, None if it has no such attribute.

    Raises:
      ModelFileError: it isn't an HDF5 file, or is damaged.
      MissingDependencyError: h5py isn't installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise MissingDependencyError(f"h5py is needed to read {path}: {keras_frontend.INSTALL}") from error
    try:
        with h5py.File(path) as file:
            value = file.attrs.get(attribute)
    except OSError as error:
        raise ModelFileError(f"{path}: it isn't an HDF5 file, or it is damaged ({first_line(error)})") from error
    return value.decode() if isinstance(value, bytes) else value


def _configs(node: Any) -> Iterator[dict[str, Any]]:
    """Every {"class_name": ..., "config": ...} in a model's configuration."""
    if isinstance(node, dict):
        if "class_name" in node:
            yield node
        for value in node.values():
            yield from _configs(value)
    elif isinstance(node, list):
        for value in node:
            yield from _configs(value)


def _has_code(config: Any) -> bool:
    """Older Keras runs the code of Lambda layers in `.h5` files even in safe mode."""
    return any(node["class_name"] in ("Lambda", "__lambda__") for node in _configs(config))


def _drop(config: Any) -> bool:
    """Take the dropped arguments out, where they change nothing; returns whether there were any."""
    found = False
    for node in _configs(config):
        arguments = node.get("config")
        for argument, harmless in _DROPPED.get(node["class_name"], {}).items():
            if isinstance(arguments, dict) and argument in arguments and arguments[argument] == harmless:
                del arguments[argument]
                found = True
    return found


def _renumber(config: Any) -> bool:
    """Count the calls of models inside models as Keras 3 does; returns whether any were counted otherwise.

    For Keras 2, a model's first call was that with its own inputs, so that those in the model around it counted from 1.
    Keras 3 still subtracts that 1 by itself for one case: a functional model that makes an output of the outer one.
    """
    found = False
    for outer in [node for node in _configs(config) if isinstance(node.get("config"), dict)]:
        layers = [layer for layer in outer["config"].get("layers", []) if isinstance(layer, dict)]
        calls = [list(_calls(layer.get("inbound_nodes"))) for layer in layers]
        made = list(_calls(outer["config"].get("output_layers")))
        for layer in [layer for layer in layers if layer.get("class_name") in _MODELS]:
            name, times = layer.get("name"), len(layer.get("inbound_nodes", []))
            inner = [call for listed in calls for call in listed if call[0] == name]
            last = [call for call in made if call[0] == name]
            if any(call[1] >= times for call in (*inner, *last)):
                for call in inner + (last if layer["class_name"] == "Sequential" else []):
                    call[1] -= 1
                    found = True
    return found


def _calls(node: Any) -> Iterator[list[Any]]:
    """Every [layer, number of its call, number of the tensor, ...], as Keras 2 wrote them."""
    if isinstance(node, list):
        if len(node) >= 3 and isinstance(node[0], str) and all(type(number) is int for number in node[1:3]):
            yield node
        for value in node:
            yield from _calls(value)
    elif isinstance(node, dict) and "class_name" not in node:
        for value in node.values():
            yield from _calls(value)
