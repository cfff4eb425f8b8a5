"""A RESHAPE after a reduction that only puts the reduced dimensions back, or takes them away, is the reduction's own.

Algebra: mean(x, axes) with keepDims has size 1 where the reduced dimensions were; without, these are left out. The
numbers and their order are the same. Keras's squeeze-and-excitation is a global pool and a Reshape to (1, 1, channels).

Refuses other shapes, dynamic ones, axes that aren't constants, and results that something else reads.
"""

from __future__ import annotations

from octavo.graph import Op, Program
from octavo.graph.edit import Editor, has_static_shape, int_values

_REDUCTIONS = ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD")


def keep_dims(program: Program) -> list[str]:
    """Edit every subgraph of `program` in place; there is nothing to tell."""
    for graph in program.graphs:
        editor = Editor(program, graph)
        for op in editor.ops():
            if op.code == "RESHAPE":
                _merge(editor, op)
        editor.finish()
    return []


def _merge(editor: Editor, op: Op) -> None:
    reduction = editor.maker(op.inputs[0], *_REDUCTIONS)
    if reduction is None or editor.only_reader(reduction.outputs[0]) is not op:
        return
    source, axes = reduction.inputs[0], int_values(reduction.inputs[1])
    if source is None or axes is None or not (has_static_shape(source) and has_static_shape(op.outputs[0])):
        return
    reduced = {int(axis) % len(source.shape) for axis in axes.reshape(-1)}
    kept = tuple(1 if axis in reduced else size for axis, size in enumerate(source.shape))
    dropped = tuple(size for axis, size in enumerate(source.shape) if axis not in reduced)
    if op.outputs[0].shape not in (kept, dropped):
        return
    keeps = op.outputs[0].shape == kept
    editor.merge(op, reduction)
    reduction.options = {**(reduction.options or {}), "keepDims": keeps}
    reduction.options_type = "ReducerOptions"
