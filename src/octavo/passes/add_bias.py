"""CONV_2D and DEPTHWISE_CONV_2D get a bias of zeros where they have none; every bias is a vector.

Algebra: x + 0 = x. LiteRT refuses to load the one and crashes on the other without a bias, though the schema allows
it, so a file without one could be neither calibrated nor run. Which ops: `bias_required` in `ops.py`. Refuses nothing.
"""

from __future__ import annotations

import numpy as np

from octavo.graph import DType, Graph, Op, Program, Tensor
from octavo.ops import OPS, Weights


def add_bias(program: Program) -> list[str]:
    """Edit every subgraph of `program` in place; there is nothing to tell."""
    for graph in program.graphs:
        for op in graph.ops:
            row = OPS.get(op.code)
            if row is not None and row.weights is not None and row.weights.bias_required:
                complete(graph, op, row.weights)
            if row is not None and row.weights is not None:
                _flatten(graph, op, row.weights)
    return []


def _flatten(graph: Graph, op: Op, weights: Weights) -> None:
    """A bias of shape (1, 1, 1, channels), as the converter gives TRANSPOSE_CONV, has the same values as a vector."""
    bias = op.inputs[weights.bias] if weights.bias is not None and weights.bias < len(op.inputs) else None
    if bias is not None and bias.is_constant and len(bias.shape) > 1 and weights.bias is not None:
        op.inputs[weights.bias] = graph.add_tensor(bias.copy(shape=(bias.size,), shape_signature=None))
        graph.drop_unused_tensors()


def complete(graph: Graph, op: Op, weights: Weights) -> None:
    """Give an op whose row has a place for a bias, and a channel axis, a bias of zeros, unless it has one."""
    kernel = op.inputs[weights.index]
    assert weights.bias is not None
    assert weights.axis is not None
    present = weights.bias < len(op.inputs) and op.inputs[weights.bias] is not None
    if present or kernel is None or kernel.dtype is not DType.FLOAT32:
        return
    bias = graph.add_tensor(Tensor(f"{op.outputs[0].name}/bias", DType.FLOAT32, ()))
    bias.set_values(np.zeros(kernel.shape[weights.axis], np.float32))
    op.inputs[weights.bias :] = [bias]
