"""Questions about a whole program that more than one room asks."""

from __future__ import annotations

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
