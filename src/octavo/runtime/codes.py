"""Between real values and the numbers that a model's file takes and gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from octavo import numerics
from octavo.errors import DataError
from octavo.qtypes import QParams, QType
from octavo.runtime.session import Port


def to_file(port: Port, values: np.ndarray, first: int, stacked: bool, model: str) -> np.ndarray:
    """A chunk of samples in the input's stored dtype.

    Quantized inputs get codes (half away from zero, saturated). Float inputs are cast; integer, boolean and string
    inputs without a scale pass after a range check.

    Args:
      port: the input.
      values: samples, the leading dimension counts them.
      first: number of the chunk's first sample, for messages.
      stacked: whether the leading dimension is not part of the tensor (see `batching.Samples`).
      model: what messages call the model.

    Raises:
      DataError: NaN for a quantized input, a number outside an integer input's range, or a wrong kind of number.
    """
    if port.dtype.kind in "SUO" or (values.dtype == port.dtype and port.qparams is None):
        return values
    if port.dtype.kind == "c" and values.dtype.kind in "biufc":
        return values.astype(port.dtype)
    if values.dtype.kind not in "biuf":
        raise DataError(f"input {port.name!r} of {model} takes numbers, got {values.dtype}")
    if port.qparams is not None:
        return _codes(port, port.qparams, values, first, stacked, model)
    if port.dtype.kind == "f":
        with np.errstate(over="ignore"):
            cast = values.astype(port.dtype)
        if np.isinf(cast).any():
            _refuse_where(np.isinf(cast) & ~np.isinf(values), port, values, first, model)
        return cast
    if values.dtype.kind == "f" or (values.dtype.kind != "b" and port.dtype.kind == "b"):
        raise DataError(
            f"input {port.name!r} of {model} takes {port.dtype.name} without a scale, got {values.dtype.name}: "
            f"convert it with .astype({port.dtype.name!r}) if that is meant"
        )
    if not np.can_cast(values.dtype, port.dtype, "safe"):
        limits = np.iinfo(port.dtype)
        _refuse_where((values < limits.min) | (values > limits.max), port, values, first, model)
    return values.astype(port.dtype)


def from_file(port: Port, values: np.ndarray) -> np.ndarray:
    """Outputs as real values: float32 for codes and for other floats, the stored dtype for everything else."""
    if port.qparams is not None:
        return numerics.dequantize(values, _aligned(port, port.qparams, values))
    return values.astype(np.float32) if port.dtype.kind == "f" and port.dtype != np.float32 else values


def qtype_of(dtype: np.dtype) -> QType:
    """The full range of a stored integer type."""
    return QType(8 * dtype.itemsize, signed=dtype.kind == "i")


def _codes(port: Port, qparams: QParams, values: np.ndarray, first: int, stacked: bool, model: str) -> np.ndarray:
    if values.dtype.kind == "f" and np.isnan(values).any():
        _refuse_where(np.isnan(values), port, values, first, model)
    try:
        return numerics.quantize(values, _aligned(port, qparams, values), qtype_of(port.dtype))
    except ValueError as error:
        raise DataError(f"input {port.name!r} of {model} can't be quantized: {error}") from None


def _aligned(port: Port, qparams: QParams, values: np.ndarray) -> QParams:
    """The parameters for an array that may have one more leading dimension than the tensor."""
    if qparams.axis is None:
        return qparams
    return replace(qparams, axis=qparams.axis + values.ndim - len(port.shape_signature))


def _refuse_where(wrong: np.ndarray, port: Port, values: np.ndarray, first: int, model: str) -> None:
    """Raise a `DataError` that names the first sample where `wrong` holds; nothing if it holds nowhere."""
    if not wrong.any():
        return
    where = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
    raise DataError(
        f"input {port.name!r} of {model}, sample {first + int(where[0])}: {values[where]} has no place in "
        f"{port.dtype.name}; check the data"
    )
