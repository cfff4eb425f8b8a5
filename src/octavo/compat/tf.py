"""The little of TensorFlow's own names that its tutorials on quantization use, without TensorFlow.

    from octavo.compat import tf    # in place of `import tensorflow as tf`

`tf.lite` is `octavo.compat.lite`, `tf.keras` is Keras 3, element types are NumPy's, `tf.data.Dataset` slices arrays.
Whoever needs more of TensorFlow has it installed, and changes `tf.lite` only.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from octavo.errors import DataError

float32, float16 = np.float32, np.float16
int8, int16, int32, int64, uint8 = np.int8, np.int16, np.int32, np.int64, np.uint8


def cast(x: Any, dtype: Any) -> np.ndarray:
    """An array in another element type."""
    return np.asarray(x).astype(dtype)


class Dataset:
    """Slices of an array, iterated over as often as one likes."""

    def __init__(self, rows: Callable[[], Iterator[Any]]) -> None:
        self._rows = rows

    @classmethod
    def from_tensor_slices(cls, tensors: Any) -> Dataset:
        """The rows of an array.

        Raises:
          DataError: not one array: a tuple or a dict of several.
        """
        if isinstance(tensors, tuple | dict):
            raise DataError("tf.data.Dataset.from_tensor_slices takes one array here; use NumPy for several")
        array = np.asarray(tensors)
        return cls(lambda: iter(array))

    def batch(self, batch_size: int) -> Dataset:
        """Several rows at a time; the last batch may be smaller."""

        def rows() -> Iterator[np.ndarray]:
            held: list[Any] = []
            for row in self._rows():
                held.append(row)
                if len(held) == batch_size:
                    yield np.stack(held)
                    held = []
            if held:
                yield np.stack(held)

        return Dataset(rows)

    def take(self, count: int) -> Dataset:
        """The first elements; all of them for -1."""

        def rows() -> Iterator[Any]:
            for number, row in enumerate(self._rows()):
                if number == count:
                    return
                yield row

        return Dataset(rows)

    def __iter__(self) -> Iterator[Any]:
        return self._rows()


data = SimpleNamespace(Dataset=Dataset)


def __getattr__(name: str) -> Any:
    if name == "lite":
        return importlib.import_module("octavo.compat.lite")
    if name in ("keras", "nn"):
        from octavo.frontends.keras import import_keras

        keras = import_keras()
        return keras if name == "keras" else keras.activations
    raise AttributeError(
        f"octavo.compat.tf has no {name!r}: it holds tf.lite, tf.keras, tf.data.Dataset, tf.nn's activations, tf.cast "
        "and element types; use NumPy, or TensorFlow itself with `from octavo.compat import lite` for tf.lite"
    )
