"""Element types by name, whoever wrote them: NumPy's, strings, TensorFlow's (which need not be installed)."""

from __future__ import annotations

from typing import Any

import numpy as np

from octavo.errors import RecipeError


def dtype_name(value: Any, setting: str) -> str:
    """NumPy's name of an element type: `np.uint8`, `np.dtype("uint8")`, "uint8" and `tf.uint8` are all "uint8".

    Args:
      value: the type.
      setting: where it was given, for messages.

    Raises:
      RecipeError: it is no element type.
    """
    known = getattr(value, "as_numpy_dtype", value)  # tf.DType
    if value is not None:  # np.dtype(None) is float64
        if known == "bfloat16":
            return "bfloat16"
        try:
            return np.dtype(known).name
        except TypeError:
            pass
    raise RecipeError(f"{setting}: {value!r} is no element type; write np.uint8, 'uint8' or tf.uint8")
