"""A `.keras` file that loads fast: without JAX making weights that the file's own then replace.

Keras builds a model before it loads its weights, and JAX compiles each initializer for each shape: of the 12 seconds
that MobileNetV2 took to convert, 10 for random ones, and half of the rest for zeros and ones (python -m cProfile).
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from octavo.errors import ModelFileError
from octavo.text import first_line

# What draws random numbers in keras.initializers, and what gives one number, which NumPy gives too. Others are left
# alone: a layer may count on what they give.
_RANDOM = frozenset((
    "GlorotNormal", "GlorotUniform", "HeNormal", "HeUniform", "LecunNormal", "LecunUniform", "Orthogonal",
    "OrthogonalInitializer", "RandomNormal", "RandomUniform", "TruncatedNormal", "VarianceScaling",
))  # fmt: skip
_EVEN = {"Zeros": 0.0, "Ones": 1.0}
_CONFIG = "config.json"
_COPIED_AT_A_TIME = 1 << 22  # bytes
# What zipfile, zlib and json raise on damaged files, and the disk.
DAMAGE = (OSError, ValueError, LookupError, TypeError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error)


class Filled:
    """An initializer that takes no time: one number everywhere, made by NumPy."""

    def __init__(self, value: float = 0.0) -> None:
        self.value = value

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> Any:
        dtype = dtype or "float32"
        # With its dtype named, JAX takes the array as it is; without, it compiles a program for each shape.
        return sys.modules["keras"].ops.convert_to_tensor(np.full(shape, self.value, dtype), dtype)

    def get_config(self) -> dict[str, Any]:
        return {"value": self.value}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Filled:
        return cls(**config)


# For the `custom_objects` with which the file is loaded.
CUSTOM_OBJECTS = {Filled.__name__: Filled}


@contextmanager
def without_initializers(path: str) -> Iterator[str]:
    """The path of a copy whose layers make no weights by JAX; `path` itself where there is nothing to be gained.

    The copy lives as long as the context. A file whose configuration can't be read comes back as it is, for Keras to
    refuse.

    Raises:
      ModelFileError: it is damaged behind its configuration.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read(_CONFIG))
        lean = _lean(config)
    except DAMAGE:
        yield path
        return
    if lean == config:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / Path(path).name
        try:
            _rewrite(path, copy, json.dumps(lean))
        except DAMAGE as error:
            raise ModelFileError(f"{path}: damaged, or it can't be copied: {first_line(error)}") from error
        yield str(copy)


def _lean(node: Any) -> Any:
    if isinstance(node, dict):
        name = node.get("class_name")
        if node.get("module") == "keras.initializers" and (name in _RANDOM or name in _EVEN):
            return _filled(_EVEN.get(name, 0.0))
        return {key: _lean(value) for key, value in node.items()}
    return [_lean(value) for value in node] if isinstance(node, list) else node


def _filled(value: float) -> dict[str, Any]:
    name = Filled.__name__
    return {"module": None, "class_name": name, "config": {"value": value}, "registered_name": name}


def _rewrite(path: str, copy: Path, config: str) -> None:
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(copy, "w") as target:
        for entry in source.infolist():
            if entry.filename == _CONFIG:
                target.writestr(_CONFIG, config)
                continue
            with source.open(entry) as read, target.open(entry.filename, "w", force_zip64=True) as written:
                shutil.copyfileobj(read, written, _COPIED_AT_A_TIME)
