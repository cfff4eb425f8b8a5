"""Small questions about the operands of one op that planning asks in several places."""

from __future__ import annotations

from octavo.graph import DType, Op, Tensor
from octavo.graph.constants import bounds
from octavo.ops import Row
from octavo.recipe import Scheme

INFINITE = 1e30  # what is larger counts as infinite


def operands(op: Op) -> list[Tensor]:
    """All that an op reads and makes."""
    return [tensor for tensor in op.inputs if tensor is not None] + op.outputs


def float_constants(op: Op) -> list[Tensor]:
    """The constants that it reads as float32."""
    return [t for t in op.inputs if t is not None and t.is_constant and t.dtype is DType.FLOAT32]


def weight_operands(row: Row) -> tuple[int, ...]:
    """Which operands are weights."""
    return row.hybrid if row.weights is None else (row.weights.index,)


def weight_axis(row: Row) -> int | None:
    """Their channel axis; None for one scale per tensor."""
    return row.hybrid_axis if row.weights is None else row.weights.axis


def float_weights(op: Op, row: Row | None) -> list[Tensor]:
    """The op's float weights, if all of them are constant; else none."""
    operands = () if row is None else weight_operands(row)
    present = [op.inputs[index] for index in operands if index < len(op.inputs)]
    found = [tensor for tensor in present if tensor is not None]
    return found if all(tensor.is_constant and tensor.dtype is DType.FLOAT32 for tensor in found) else []


def storable(tensor: Tensor, scheme: Scheme) -> bool:
    """Whether a constant gains from smaller storage: big enough, and within the range of the smaller type."""
    if tensor.size < scheme.min_elements or tensor.extra.get("sparsity") is not None:
        return False
    limit = 65504.0 if scheme.kind == "float16" else INFINITE
    low, high = bounds(tensor.values)
    return -limit <= low <= high <= limit


def finite(tensor: Tensor) -> bool:
    """Whether all values of a constant are numbers that a scale can stand for."""
    low, high = bounds(tensor.values)
    return -INFINITE < low <= high < INFINITE
