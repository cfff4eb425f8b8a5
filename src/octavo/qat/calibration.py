"""Ranges from samples, before (or instead of) training them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from octavo.calibrate.data import InputSpec, samples
from octavo.errors import ConversionError
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
      ConversionError: a subclassed model.
      DataError: no samples, or samples that don't fit the model.
    """
    specs = [InputSpec(t._keras_history.operation.name, _shape(t), np.dtype(str(t.dtype))) for t in _inputs(aware)]
    quants = [layer for layer in aware._flatten_layers() if isinstance(layer, FakeQuant)]
    found: dict[tuple[FakeQuant, int], tuple[float, float]] = {}
    for layer in quants:
        layer.watching = True  # values pass: ranges are those of the model with rounded weights and exact activations
    try:
        probe, places = _probe(aware)
        for batch in _batches(samples(data, specs)) if places else ():
            arrays = [np.concatenate([sample[spec.name] for sample in batch]) for spec in specs]
            for place, (low, high) in zip(places, probe.predict_on_batch(arrays)[0], strict=True):
                before = found.get(place, (0.0, 0.0))
                found[place] = min(before[0], float(low)), max(before[1], float(high))
    finally:
        for layer in quants:
            layer.watching = False
    for (layer, slot), (low, high) in found.items():
        layer.set_range(slot, low, high)
    return aware


def _inputs(aware: Any) -> list[Any]:
    if not getattr(aware, "inputs", None):
        raise ConversionError(
            f"{type(aware).__name__} {getattr(aware, 'name', '')!r} records no graph, so it can't be calibrated: "
            "its ranges are learned when it is trained"
        )
    return aware.inputs


def _probe(aware: Any) -> tuple[Any, list[tuple[FakeQuant, int]]]:
    """A model that gives (1, places, 2): lowest and highest value of each batch at each place; and those places."""
    places: dict[tuple[FakeQuant, int], Any] = {}
    for depth in sorted(aware._nodes_by_depth, reverse=True):
        for node in aware._nodes_by_depth[depth]:
            slot = node.arguments.kwargs.get("slot", 0)
            if isinstance(node.operation, FakeQuant) and slot < len(node.operation.tensors):
                values = node.outputs[0]
                places[node.operation, slot] = keras.ops.stack([keras.ops.min(values), keras.ops.max(values)])
    if not places:
        return None, []
    return keras.Model(aware.inputs, keras.ops.expand_dims(keras.ops.stack(list(places.values())), 0)), list(places)


def _shape(tensor: Any) -> tuple[int, ...]:
    """One sample: a batch of 1."""
    return tuple(1 if i == 0 else -1 if dim is None else dim for i, dim in enumerate(tensor.shape))


def _batches(stream: Iterator[dict[str, np.ndarray]]) -> Iterator[list[dict[str, np.ndarray]]]:
    while batch := list(itertools.islice(stream, _BATCH)):
        yield batch
