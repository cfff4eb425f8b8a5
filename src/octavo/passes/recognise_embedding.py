"""A table look-up that guards its indices becomes GATHER.

Algebra: jax.numpy.take, and so keras.layers.Embedding, means table[i] for i in 0..n-1, counts from the end for i in
-n..-1 and gives NaN for the rest: LESS, ADD and SELECT wrap the index, comparisons and REDUCE_ALL find those outside,
GATHER_ND looks up, and SELECT_V2 puts NaN. For indices in 0..n-1 all that is GATHER(table, i). An integer file has no
NaN to put, and the table would stay in float.

This is the one pass that narrows what a model takes: for other indices GATHER is an error in LiteRT (on its own
kernels; a microcontroller's may not check). The user is told. GATHER_ND with one index per row, unguarded, becomes
GATHER too, which is the same.

Refuses tables that aren't constant, a bound other than the table's last row, and another filling than NaN.
"""

from __future__ import annotations

import numpy as np

from octavo.graph import DType, Op, Program, Tensor
from octavo.graph.edit import Editor, float_values, int_values
from octavo.text import printable

_VIEWS = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS")


def recognise_embedding(program: Program) -> list[str]:
    """Edit every subgraph of `program` in place; returns a note if an index's guard went."""
    notes = []
    for graph in program.graphs:
        editor = Editor(program, graph)
        for op in editor.ops():
            if op.code in ("SELECT", "SELECT_V2") and op.outputs[0].dtype is DType.FLOAT32:
                notes += _guarded(editor, op)
        for op in editor.ops():
            if op.code == "GATHER_ND":
                _plain(editor, op)
        editor.finish()
    return notes


def _guarded(editor: Editor, op: Op) -> list[str]:
    condition, looked_up, filling = op.inputs
    gather = editor.maker(looked_up, "GATHER_ND")
    values = float_values(filling)
    if gather is None or values is None or not np.isnan(values).all() or op.outputs[0].shape != gather.outputs[0].shape:
        return []
    table, indices = _table(gather)
    if table is None or indices is None or editor.only_reader(gather.outputs[0]) is not op:
        return []
    rows = table.shape[0]
    if not _within(editor, _through(editor, condition), indices, rows):
        return []
    wrapped = _through(editor, indices)
    index = _unwrapped(editor, wrapped, rows)
    if index is None or index.shape != indices.shape[:-1]:
        return []
    guard = editor.maker(condition)
    editor.change(op, "GATHER", [table, index], "GatherOptions", {"axis": 0, "batchDims": 0})
    editor.prune(guard)
    editor.prune(gather)
    return [
        f"{printable(op.outputs[0].name)!r} looks up rows 0 to {rows - 1}: other indices, which in Keras and JAX count "
        "from the end or give NaN, are an error here"
    ]


def _table(gather: Op) -> tuple[Tensor | None, Tensor | None]:
    """The constant table of a GATHER_ND with one index per row, and its indices; (None, None) for another."""
    table, indices = gather.inputs
    if float_values(table) is None or table is None or indices is None or not indices.shape or indices.shape[-1] != 1:
        return None, None
    return table, indices


def _through(editor: Editor, tensor: Tensor | None) -> Tensor | None:
    """Where a tensor comes from, past ops that only give it another shape."""
    while (view := editor.maker(tensor, *_VIEWS)) is not None:
        tensor = view.inputs[0]
    return tensor


def _within(editor: Editor, condition: Tensor | None, indices: Tensor, rows: int) -> bool:
    """Whether the condition says that each index is in 0..rows-1."""
    every = editor.maker(condition, "REDUCE_ALL")
    both = editor.maker(every.inputs[0] if every is not None else condition, "LOGICAL_AND")
    if both is None:
        return False
    bounds = {}
    for tensor in both.inputs:
        compare = editor.maker(tensor, "GREATER_EQUAL", "LESS_EQUAL")
        bound = None if compare is None else int_values(compare.inputs[1])
        if compare is None or bound is None or _through(editor, compare.inputs[0]) is not _through(editor, indices):
            return False
        bounds[compare.code] = set(bound.reshape(-1).tolist())
    return bounds == {"GREATER_EQUAL": {0}, "LESS_EQUAL": {rows - 1}}


def _unwrapped(editor: Editor, index: Tensor | None, rows: int) -> Tensor | None:
    """The i of SELECT(i < 0, i + rows, i); the tensor itself if it is nothing of the kind."""
    select = editor.maker(index, "SELECT", "SELECT_V2")
    if select is None:
        return index
    less, add = editor.maker(select.inputs[0], "LESS"), editor.maker(select.inputs[1], "ADD")
    plain = select.inputs[2]
    if less is None or add is None or less.inputs[0] is not plain:
        return index
    zero = int_values(less.inputs[1])
    offsets = [int_values(tensor) for tensor in add.inputs if tensor is not plain]
    wraps = len(offsets) == 1 and offsets[0] is not None and (offsets[0] == rows).all()
    return plain if wraps and zero is not None and not zero.any() else index


def _plain(editor: Editor, op: Op) -> None:
    table, indices = _table(op)
    if table is None or indices is None:
        return
    flat = _through(editor, indices)
    if indices.is_constant:
        flat = editor.constant(f"{op.outputs[0].name}/rows", indices.values.reshape(indices.shape[:-1]))
    if flat is not None and flat.shape == indices.shape[:-1]:
        before = editor.maker(indices)
        editor.change(op, "GATHER", [table, flat], "GatherOptions", {"axis": 0, "batchDims": 0})
        editor.prune(before)
