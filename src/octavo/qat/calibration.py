"""Ranges from samples, before (or instead of) training them."""

from __future__ import annotations

from typing import Any

import numpy as np

from octavo.calibrate.data import InputSpec, samples
from octavo.errors import DataError
from octavo.qat.layers import FakeQuant

_BATCH = 32


def calibrate(aware: Any, data: Any) -> Any:
    """Set every range of an aware model to what the samples show: lowest and highest value of all.

    Args:
      aware: a model with `FakeQuant` layers.
      data: representative inputs, in any shape that `octavo.quantize` takes as calibration.

    Returns:
      `aware`.

    Raises:
      DataError: no samples, or samples that don't fit the model.
    """
    specs = [InputSpec(t._keras_history.operation.name, _shape(t), np.dtype(str(t.dtype))) for t in aware.inputs]
    quants = [layer for layer in aware._flatten_layers() if isinstance(layer, FakeQuant)]
    for layer in quants:
        layer.watching = True
    count = 0
    try:
        pending: list[dict[str, np.ndarray]] = []
        for sample in samples(data, specs):
            pending.append(sample)
            count += 1
            if len(pending) == _BATCH:
                _run(aware, specs, pending)
                pending = []
        if pending:
            _run(aware, specs, pending)
    finally:
        for layer in quants:
            layer.watching = False
    if not count:
        raise DataError("there are no samples to calibrate with")
    return aware


def _shape(tensor: Any) -> tuple[int, ...]:
    """One sample: a batch of 1."""
    return tuple(1 if i == 0 else -1 if dim is None else dim for i, dim in enumerate(tensor.shape))


def _run(aware: Any, specs: list[InputSpec], pending: list[dict[str, np.ndarray]]) -> None:
    """One batch through the model, without compiling it."""
    arrays = [np.concatenate([sample[spec.name] for sample in pending]) for spec in specs]
    aware(arrays[0] if len(arrays) == 1 else _packed(aware, arrays), training=False)


def _packed(aware: Any, arrays: list[np.ndarray]) -> Any:
    import keras

    return keras.tree.pack_sequence_as(aware._inputs_struct, arrays)
