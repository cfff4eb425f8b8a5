"""Arithmetic per channel moves in front of a reshape that keeps the channels, next to the convolution before it.

Algebra: a RESHAPE whose last dimension stays only regroups the others, so reshape(x) * c = reshape(x * c) for a
constant c that varies over the last dimension alone; likewise + c, - c and activations that clip. A 1-D convolution is
a RESHAPE, a CONV_2D and a RESHAPE in LiteRT, and its bias and activation stand behind the last: here they come next to
the CONV_2D, where other passes fold them into it.

Refuses: reshapes whose result something else reads, and those that don't stand behind an op with weights or
arithmetic.
"""

from __future__ import annotations

import numpy as np

from octavo.graph import DType, Op, Program, Tensor
from octavo.graph.edit import Editor, float_values
from octavo.graph.queries import record_range, recorded_range
from octavo.ops import OPS

_ARITHMETIC = ("ADD", "SUB", "MUL")
_CLAMPS = ("RELU", "RELU6", "RELU_N1_TO_1")
_WEIGHTED = tuple(row.name for row in OPS.values() if row.weights is not None and row.weights.bias is not None)
_BEFORE = (*_WEIGHTED, *_ARITHMETIC, *_CLAMPS)  # what was moved stands between the weights and what moves next


def hoist_channelwise(program: Program) -> list[str]:
    """Edit every subgraph of `program` in place; there is nothing to tell."""
    for graph in program.graphs:
        editor = Editor(program, graph)
        for op in editor.ops():
            if op.code == "RESHAPE":
                while _hoist(editor, op):
                    pass
        editor.finish()
    return []


def _hoist(editor: Editor, reshape: Op) -> bool:
    """Move the one reader of a reshape in front of it; False if there is nothing to move."""
    source, target = reshape.inputs[0], reshape.outputs[0]
    reader = editor.only_reader(target)
    if source is None or reader is None or source.dtype is not DType.FLOAT32 or not source.shape or not target.shape:
        return False
    if source.shape[-1] != target.shape[-1] or editor.maker(source, *_BEFORE) is None or not _moves(reader, target):
        return False
    name = reader.outputs[0].name
    made = editor.tensor_like(source, f"{name}/flat")
    inputs = [source if tensor is target else _vector(editor, tensor, name) for tensor in reader.inputs]
    editor.insert_before(reshape, Op(reader.code, inputs, [made], reader.options, reader.options_type, reader.version))
    editor.set_input(reshape, 0, made)
    editor.merge(reader, reshape, target)
    known = recorded_range(reshape.outputs[0])
    if known is not None:  # trained: should the reshape go, range and name stay
        record_range(made, *known)
        if not editor.is_border(reshape.outputs[0]):
            made.name, reshape.outputs[0].name = name, made.name
    return True


def _moves(op: Op, target: Tensor) -> bool:
    """Whether the op treats every place along all but the last dimension alike."""
    if op.code in _CLAMPS:
        return True
    others = [tensor for tensor in op.inputs if tensor is not target]
    values = float_values(others[0]) if op.code in _ARITHMETIC and len(others) == 1 else None
    return values is not None and (values.size == 1 or values.size == values.shape[-1] == target.shape[-1])


def _vector(editor: Editor, tensor: Tensor | None, name: str) -> Tensor | None:
    values = float_values(tensor)
    return tensor if values is None else editor.constant(f"{name}/const", np.ascontiguousarray(values.reshape(-1)))
