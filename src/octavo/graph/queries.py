"""Questions about a whole program that more than one room asks."""

from __future__ import annotations

import numpy as np

from octavo.graph.model import DType, Program, Tensor


def float_tensors(program: Program) -> list[Tensor]:
    """The float tensors of every subgraph, constants too, in the file's order.

    An integer-only file has none. This reads what the file holds, not what octavo meant to write.
    """
    return [tensor for tensor in program.tensors() if tensor.dtype.is_float]


def quantized_tensors(program: Program) -> list[Tensor]:
    """The tensors that hold codes: integers of at most 16 bits with a scale."""
    narrow = {DType.INT8, DType.UINT8, DType.INT16, DType.INT4, DType.INT2, DType.UINT4}
    return [tensor for tensor in program.tensors() if tensor.qparams is not None and tensor.dtype in narrow]


def recorded_range(tensor: Tensor) -> tuple[float, float] | None:
    """The range that the file records for a tensor (`min` and `max` of its quantization), None if it has none.

    Quantization-aware training leaves one wherever it rounded.
    """
    record = tensor.extra.get("quantization", {})
    low, high = record.get("min"), record.get("max")
    if low is None or high is None or len(low) != 1 or len(high) != 1:
        return None
    return float(low[0]), float(high[0])


def recorded_ranges(program: Program) -> dict[Tensor, tuple[float, float]]:
    """Every range that the program's inputs and computed tensors carry."""
    found = ((tensor, recorded_range(tensor)) for tensor in program.tensors() if not tensor.is_constant)
    return {tensor: known for tensor, known in found if known is not None}


def is_trained(program: Program) -> bool:
    """Whether training recorded ranges: on more than the inputs, whose ranges may have been given."""
    inputs = {tensor for graph in program.graphs for tensor in graph.inputs}
    return any(tensor not in inputs for tensor in recorded_ranges(program))


def record_range(tensor: Tensor, low: float, high: float) -> None:
    """Write a range into a tensor's record."""
    known = tensor.extra.get("quantization", {})
    tensor.extra["quantization"] = {
        **known, "min": np.array([low], np.float32), "max": np.array([high], np.float32),
    }  # fmt: skip


def quantization_kind(program: Program) -> str:
    """In what way a model is quantized, in words; "" if it isn't.

    Weights that are only stored small (float16, weight-only, dynamic range) don't count: the activations are float.
    """
    narrow = {DType.INT8, DType.UINT8, DType.INT16}
    conversions = ("QUANTIZE", "DEQUANTIZE")
    integer = floating = pairs = 0
    for graph in program.graphs:
        for op in graph.ops:
            computed = [t for t in [*op.inputs, *op.outputs] if t is not None and not t.is_constant]
            codes = any(t.qparams is not None and t.dtype in narrow for t in computed)
            if op.code in conversions:
                pairs += codes
            else:
                integer += codes
                floating += not codes and any(t.dtype is DType.FLOAT32 for t in computed)
    if integer:
        return f"integer in {integer} of its {integer + floating} ops" if floating else "integer throughout"
    return "quantized and dequantized between float ops (QDQ)" if pairs else ""
