"""Whatever a user holds -> `Program`.

A framework is imported only when one of its objects arrives: its classes are known by the names of their modules.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from octavo.errors import ConversionError, ModelFileError
from octavo.graph import Program

KERAS_FILES = (".keras", ".h5", ".hdf5")

_SOURCES = (
    "a Keras 3 model, a .keras or .h5 file, a PyTorch module, a Flax module or a JAX function with inputs=[...], "
    "a .pt2 or .onnx file, a .tflite file or its bytes"
)

# What people also have, and what to do with it: file name endings ...
_OTHER_FILES = {
    ".pb": "a TensorFlow graph; convert the Keras model, or make a .tflite with TensorFlow and pass that",
    ".pt": "it holds weights or TorchScript; build the module, load its weights, and pass the module with inputs=[...]",
    ".pth": "it holds weights; build the module, load them, and pass the module with inputs=[...]",
    ".safetensors": "it holds weights without a model; build the model, load them, and pass the model",
}

# ... and the packages of objects.
_OTHER_OBJECTS = {
    "tf_keras": "a Keras 2 model: save it as .h5 and pass the path",
    "tensorflow": "a TensorFlow object: make a .tflite of it with TensorFlow and pass that",
    "onnx": "an ONNX model in memory: save it as a file and pass its path",
}


def to_program(
    source: Any, *, inputs: Any = None, batch: int | None = 1, name: str | None = None, imports: Sequence[str] = ()
) -> Program:
    """Read or convert a model.

    Args:
      source: a Keras 3 model, a PyTorch module or exported program, a Flax NNX module, a function of JAX arrays, the
        path of a `.keras`, `.h5`, `.pt2`, `.onnx` or `.tflite` file, or the bytes of a `.tflite` file.
      inputs: what goes in, for a function: a list of shapes, (shape, dtype) pairs, `jax.ShapeDtypeStruct`s or arrays,
        or a dict of them by argument name. For a Keras model: shapes that replace its own.
      batch: what stands for a batch size that is left open; None keeps it dynamic, where the model allows.
      name: what messages call the model, and `Program.source`.
      imports: modules that define classes and functions of the user's own, for Keras models.

    Raises:
      ConversionError: it can't be converted; the message says which part, and what to do.
      ModelFileError: the file is missing, damaged, or of another format.
      MissingDependencyError: the framework isn't installed; the message says how to.
    """
    if isinstance(source, str | os.PathLike):
        return _from_path(os.fspath(source), inputs, batch, name, imports)
    if isinstance(source, bytes | bytearray | memoryview):
        return _from_tflite(bytes(source), inputs, name)
    packages = _packages(source)
    # `keras` as installed; `tf.keras` of TensorFlow < 2.16 lives there too, as `keras.src.engine`.
    if "keras" in packages and "keras" in sys.modules:
        from octavo.frontends import keras

        keras.require_keras_3(sys.modules["keras"])
        return keras.convert(source, inputs=inputs, batch=batch, name=name, imports=imports)
    if "torch" in packages:
        from octavo.frontends import torch

        return torch.convert(source, inputs=inputs, batch=batch, name=name)
    if "flax" in packages:
        from octavo.frontends import flax

        return flax.convert(source, inputs, batch=batch, name=name)
    for package, advice in _OTHER_OBJECTS.items():
        if package in packages:
            raise ConversionError(f"{name or type(source).__name__}: this is {advice}")
    if callable(source):
        from octavo.frontends import jax

        return jax.convert(source, inputs, batch=batch, name=name)
    raise ConversionError(f"{name or type(source).__name__}: not a model that octavo converts: pass {_SOURCES}")


def is_channels_first(source: Any) -> bool:
    """Whether a model comes from PyTorch, which puts channels before height and width."""
    if isinstance(source, str | os.PathLike):
        return Path(os.fsdecode(source)).suffix.lower() == ".pt2"
    return "torch" in _packages(source) and "keras" not in _packages(source)


def _from_path(path: str | bytes, inputs: Any, batch: int | None, name: str | None, imports: Sequence[str]) -> Program:
    path = os.fsdecode(path)
    ending = Path(path).suffix.lower()
    if ending in KERAS_FILES:
        from octavo.frontends import keras_files

        return keras_files.convert(path, inputs=inputs, batch=batch, name=name, imports=imports)
    if ending == ".pt2":
        from octavo.frontends import torch

        return torch.convert_file(path, inputs=inputs, name=name)
    if ending == ".onnx":
        from octavo.frontends import onnx

        return onnx.convert(path, inputs=inputs, batch=batch, name=name)
    if ending in _OTHER_FILES:
        raise ConversionError(f"{path}: {_OTHER_FILES[ending]}")
    if Path(path).is_dir():
        raise ConversionError(
            f"{path}: a folder (a TensorFlow SavedModel?) isn't supported; convert the Keras model, or where "
            "TensorFlow is installed use octavo.compat.lite.TFLiteConverter.from_saved_model"
        )
    if ending not in (".tflite", ".lite"):
        if not Path(path).exists():
            raise ModelFileError(f"{path}: no such file")
        raise ConversionError(f"{path}: not a kind of file that octavo converts: pass {_SOURCES}")
    return _from_tflite(path, inputs, name)


def _from_tflite(source: str | bytes, inputs: Any, name: str | None) -> Program:
    from octavo.frontends import tflite

    return tflite.convert(source, inputs=inputs, name=name)


def _packages(source: Any) -> set[str]:
    """The top packages of an object's classes: {"keras", "builtins"} for a user's own subclass of keras.Model too."""
    return {cls.__module__.partition(".")[0] for cls in type(source).__mro__}
