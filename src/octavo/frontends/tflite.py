"""A `.tflite` path or bytes -> `Program`: nothing to convert, only to read."""

from __future__ import annotations

import os
from typing import Any

from octavo.errors import ConversionError
from octavo.graph import Program
from octavo.tflite import read


def convert(source: str | os.PathLike[str] | bytes, *, inputs: Any = None, name: str | None = None) -> Program:
    """Read a model that is LiteRT's already.

    Raises:
      ConversionError: `inputs` is given; a `.tflite` file's shapes are fixed when it is made.
      ModelFileError: the file is missing, damaged, or of another format.
    """
    if inputs is not None:
        raise ConversionError(
            f"{name or _label(source)}: the inputs of a .tflite model are what they are; leave inputs out, "
            "or convert the original model again with them"
        )
    return read(source, name or "")


def _label(source: str | os.PathLike[str] | bytes) -> str:
    return os.fspath(source) if isinstance(source, str | os.PathLike) else "the .tflite bytes"  # pyright: ignore[reportReturnType]
