"""Ops whose operands are all known become constants, and so does the SHAPE of a tensor with a static shape.

Algebra: f(constants) is a constant; LiteRT's own kernel computes it, so that not a bit differs.

Refuses ops with effects, ops outside of the list below (a kernel that would crash on a damaged file must not crash
octavo), results larger than both 64 KiB and what they are computed from (the file would grow), and integers with a
scale. Whatever LiteRT refuses to compute stays as it is.
"""

from __future__ import annotations

import numpy as np

from octavo.errors import OctavoError
from octavo.graph import DType, Graph, Op, Program, Tensor
from octavo.graph.edit import has_static_shape, int_values

_FOLDED = frozenset({
    "ABS", "ADD", "ADD_N", "ARG_MAX", "ARG_MIN", "BATCH_MATMUL", "BROADCAST_ARGS", "BROADCAST_TO", "CAST", "CEIL",
    "CONCATENATION", "COS", "CUMSUM", "DIV", "EQUAL", "EXP", "EXPAND_DIMS", "FILL", "FLOOR", "FLOOR_DIV", "FLOOR_MOD",
    "FULLY_CONNECTED", "GATHER", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL", "LOG", "LOGICAL_AND",
    "LOGICAL_NOT", "LOGICAL_OR", "LOGISTIC", "MAXIMUM", "MEAN", "MINIMUM", "MUL", "NEG", "NOT_EQUAL", "ONE_HOT",
    "PACK", "PAD", "PADV2", "POW", "RANGE", "REDUCE_ALL", "REDUCE_ANY", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD",
    "RELU", "RELU6", "RESHAPE", "REVERSE_V2", "ROUND", "RSQRT", "SELECT", "SELECT_V2", "SIGN", "SIN", "SLICE",
    "SOFTMAX", "SPLIT", "SPLIT_V", "SQRT", "SQUARE", "SQUARED_DIFFERENCE", "SQUEEZE", "STRIDED_SLICE", "SUB", "SUM",
    "TANH", "TILE", "TRANSPOSE", "UNPACK", "ZEROS_LIKE"
})  # fmt: skip
_TYPES = frozenset({DType.FLOAT32, DType.INT32, DType.INT64, DType.BOOL})
_ALWAYS_FINE = 1 << 16  # bytes


def fold_constants(program: Program) -> list[str]:
    """Edit every subgraph of `program` in place; there is nothing to tell."""
    for graph in program.graphs:
        outside = {*graph.inputs, *graph.outputs}
        gone = {op for op in graph.ops if outside.isdisjoint(op.outputs) and fold(op)}
        graph.ops = [op for op in graph.ops if op not in gone]
        graph.drop_unused_tensors()
    return []


def fold(op: Op) -> bool:
    """Make the op's outputs constants if they can be known now; the op itself is the caller's to remove."""
    if any(tensor.is_variable for tensor in op.outputs):
        return False
    results = _of_shape(op) if op.code in ("SHAPE", "RANK") else _evaluate(op) if _may_fold(op) else None
    if results is None:
        return False
    for tensor, values in zip(op.outputs, results, strict=True):
        tensor.set_values(values)
        tensor.shape_signature = None
    return True


def _of_shape(op: Op) -> list[np.ndarray] | None:
    source, target = op.inputs[0], op.outputs[0]
    if source is None or not has_static_shape(source) or target.dtype.numpy is None:
        return None
    value = len(source.shape) if op.code == "RANK" else source.shape
    return [np.array(value, target.dtype.numpy)]


def _may_fold(op: Op) -> bool:
    tensors = [t for t in [*op.inputs, *op.outputs] if t is not None]
    known = bool(op.inputs) and all(t is None or (t.is_constant and t.extra.get("sparsity") is None) for t in op.inputs)
    plain = all(t.dtype in _TYPES and t.qparams is None for t in tensors)
    if op.code not in _FOLDED or not known or not plain:
        return False
    read = sum(t.data.nbytes for t in op.inputs if t is not None and t.data is not None)
    return _result_bytes(op) <= max(_ALWAYS_FINE, read)


def _result_bytes(op: Op) -> int:
    """How much the op makes: as its operands ask for where they say so, else as the file declares."""
    counts = [tensor.size for tensor in op.outputs]
    operands = [int_values(tensor) for tensor in op.inputs]
    asked = {"FILL": 0, "BROADCAST_TO": 1, "RESHAPE": 1}.get(op.code, len(operands))
    target = operands[asked] if asked < len(operands) else None  # a RESHAPE may have its shape in the options only
    if target is not None:
        counts.append(_product(target))
    elif op.code == "TILE" and operands[1] is not None and op.inputs[0] is not None:
        counts.append(op.inputs[0].size * _product(operands[1]))
    elif op.code == "RANGE":
        start, limit, delta = (float(t.values.reshape(-1)[0]) for t in op.inputs if t is not None and t.size == 1)
        counts.append(int(abs((limit - start) / delta)) if delta else _ALWAYS_FINE)
    elif op.code in ("PAD", "PADV2") and operands[1] is not None and op.inputs[0] is not None:
        sides = operands[1].reshape(-1, 2).sum(1)
        counts.append(_product(np.array(op.inputs[0].shape) + sides) if len(sides) == len(op.inputs[0].shape) else 0)
    elif op.code == "ONE_HOT" and operands[1] is not None and op.inputs[0] is not None:
        counts.append(op.inputs[0].size * _product(operands[1]))
    return max(counts) * 8


def _product(numbers: np.ndarray) -> int:
    """Product in Python's integers, which don't overflow; -1 (as in RESHAPE) counts as 1."""
    result = 1
    for number in numbers.reshape(-1).tolist():
        result *= abs(number)
    return result


def _evaluate(op: Op) -> list[np.ndarray] | None:
    """What LiteRT makes of the op, None if it refuses."""
    from octavo.runtime.session import Session
    from octavo.tflite import write

    twins: dict[Tensor, Tensor] = {t: t.copy() for t in [*op.inputs, *op.outputs] if t is not None}
    outputs = [twins[tensor] for tensor in op.outputs]
    inputs = [None if tensor is None else twins[tensor] for tensor in op.inputs]
    alone = Op(op.code, inputs, outputs, op.options, op.options_type, op.version)
    graph = Graph("main", list(twins.values()), [], outputs, [alone])
    try:
        return Session(write(Program([graph])), kernels="builtin").invoke([])
    except OctavoError:
        return None
