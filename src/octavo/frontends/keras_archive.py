"""A `.keras` file that loads fast: without drawing random weights that the file's own then replace.

Keras builds a model before it loads its weights, and JAX compiles each random initializer for each shape: 10 of the 12
seconds that MobileNetV2 took to convert (python -m cProfile).
"""

from __future__ import annotations

import json
import shutil
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

# What draws random numbers in keras.initializers. Others are left alone: a layer may count on what they give.
_RANDOM = frozenset((
    "GlorotNormal", "GlorotUniform", "HeNormal", "HeUniform", "LecunNormal", "LecunUniform", "Orthogonal",
    "OrthogonalInitializer", "RandomNormal", "RandomUniform", "TruncatedNormal", "VarianceScaling",
))  # fmt: skip
_CONFIG = "config.json"
_COPIED_AT_A_TIME = 1 << 22  # bytes
# What zipfile, zlib and json raise on damaged files, and the disk.
DAMAGE = (OSError, ValueError, LookupError, TypeError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error)


class Unfilled:
    """An initializer that takes no time: zeros, made outside of any framework."""

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> np.ndarray:
        return np.zeros(shape, dtype or np.float32)

    def get_config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Unfilled:
        return cls(**config)


# For the `custom_objects` with which the file is loaded.
CUSTOM_OBJECTS = {Unfilled.__name__: Unfilled}
_UNFILLED = {"module": None, "class_name": Unfilled.__name__, "config": {}, "registered_name": Unfilled.__name__}


@contextmanager
def without_random(path: str) -> Iterator[str]:
    """The path of a copy whose layers draw no random weights; `path` itself where there is nothing to be gained.

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
        if node.get("module") == "keras.initializers" and node.get("class_name") in _RANDOM:
            return _UNFILLED
        return {key: _lean(value) for key, value in node.items()}
    return [_lean(value) for value in node] if isinstance(node, list) else node


def _rewrite(path: str, copy: Path, config: str) -> None:
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(copy, "w") as target:
        for entry in source.infolist():
            if entry.filename == _CONFIG:
                target.writestr(_CONFIG, config)
                continue
            with source.open(entry) as read, target.open(entry.filename, "w", force_zip64=True) as written:
                shutil.copyfileobj(read, written, _COPIED_AT_A_TIME)
