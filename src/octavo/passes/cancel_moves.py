"""Transposes that cancel, transposes that move nothing, and chains of reshapes.

Algebra: transpose(transpose(x, p), q) = transpose(x, r) with r[i] = p[q[i]], and no op at all if r is the identity. A
transpose that leaves the order of all dimensions but those of size 1 copies nothing: it is a RESHAPE, as are SQUEEZE
and EXPAND_DIMS. reshape(reshape(x, s), t) = reshape(x, t); a reshape to the same shape goes.

Refuses where more than one dimension is dynamic (a RESHAPE can leave only one open), permutations and shapes that
aren't constants, and merging two transposes of which something else reads the first.
"""

from __future__ import annotations

import numpy as np

from octavo.graph import Op, Program, Tensor
from octavo.graph.edit import Editor, int_values

_VIEWS = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS")


def cancel_moves(program: Program) -> list[str]:
    """Edit every subgraph of `program` in place; there is nothing to tell."""
    for graph in program.graphs:
        editor = Editor(program, graph)
        for op in editor.ops():
            if op.code == "TRANSPOSE":
                _transpose(editor, op)
        for op in editor.ops():
            if op.code in _VIEWS:
                _view(editor, op)
        editor.finish()
    return []


def shape_of(tensor: Tensor) -> tuple[int, ...] | None:
    """The shape with -1 for a dynamic dimension; None if more than one is, or the rank isn't known."""
    shape = tensor.shape_signature if tensor.shape_signature is not None else tensor.shape
    known = len(shape) == len(tensor.shape) and (tensor.has_rank or bool(shape))
    return shape if known and sum(n < 0 for n in shape) <= 1 else None


def _transpose(editor: Editor, op: Op) -> None:
    order = _order(op)
    before = editor.maker(op.inputs[0], "TRANSPOSE")
    first = None if before is None else _order(before)
    if order is None:
        return
    if before is not None and first is not None and len(first) == len(order):
        together = [first[i] for i in order]
        if together == sorted(together) and before.inputs[0] is not None:
            if editor.bypass(op, before.inputs[0]):
                return
        elif editor.only_reader(before.outputs[0]) is op:
            editor.set_input(op, 0, before.inputs[0])
            permutation = editor.constant(f"{op.outputs[0].name}/order", np.array(together, np.int32))
            editor.set_input(op, 1, permutation)
            editor.remove(before)
            order = together
    source = op.inputs[0]
    shape = None if source is None else shape_of(source)
    if shape is None or len(shape) != len(order) or shape_of(op.outputs[0]) is None:
        return
    if order == sorted(order) and editor.bypass(op):
        return
    moved = [i for i in order if shape[i] != 1]
    if moved == sorted(moved):
        _reshape(editor, op)


def _order(op: Op) -> list[int] | None:
    values = int_values(op.inputs[1])
    order = None if values is None else [int(i) % max(values.size, 1) for i in values.reshape(-1)]
    return order if order is not None and sorted(order) == list(range(len(order))) else None


def _reshape(editor: Editor, op: Op) -> None:
    """Make the op a RESHAPE of its first operand to the shape of its output."""
    shape = shape_of(op.outputs[0])
    target = editor.constant(f"{op.outputs[0].name}/shape", np.array(shape, np.int32))
    editor.change(op, "RESHAPE", [op.inputs[0], target], "ReshapeOptions", {"newShape": list(shape or ())})


def _view(editor: Editor, op: Op) -> None:
    source, target = op.inputs[0], op.outputs[0]
    if source is None or source.is_variable or source.is_constant or shape_of(target) is None:
        return
    if target.dtype is not source.dtype or source.qparams != target.qparams or target.size == 0:
        return
    if shape_of(source) == shape_of(target) and editor.bypass(op):
        return
    before = editor.maker(source, *_VIEWS)
    if before is None or before.inputs[0] is None or before.inputs[0].is_variable:
        return
    if op.code != "RESHAPE" or len(op.inputs) < 2 or int_values(op.inputs[1]) is None:
        if op.code == "RESHAPE" and len(op.inputs) > 1 and op.inputs[1] is not None:
            return  # the shape is computed: it may say more than the file declares
        _reshape(editor, op)
    editor.set_input(op, 0, before.inputs[0])
    if not editor.readers(source) and not editor.is_border(source):
        editor.remove(before)
    if shape_of(before.inputs[0]) == shape_of(target) and shape_of(target) is not None:
        editor.bypass(op)
