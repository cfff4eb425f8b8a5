"""A transpose goes into the op that reads it, where that op can do without: a dense layer, or a mean over an image.

Algebra: y = W r, where r is the flattened transpose of x: r[j] = x[s(j)], s a fixed order of the features. So
y = W' x' with x' the flattened x itself and W'[:, s(j)] = W[:, j]: the columns of W change places. And
reduce(transpose(x, p), axes) = reduce(x, p[axes]) where the dimensions that remain keep their order.

PyTorch models that flatten or average (batch, channels, height, width) need it once they work channels last.

Refuses where the transpose moves the batch, the flatten doesn't keep it as it is, something else reads what stands in
between, another op reads the weights, or axes aren't constant.
"""

from __future__ import annotations

import math

import numpy as np

from octavo.graph import Op, Program
from octavo.graph.edit import Editor, float_values, int_values

_REDUCTIONS = ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD")


def fold_transpose(program: Program) -> list[str]:
    """Edit every subgraph of `program` in place; there is nothing to tell."""
    for graph in program.graphs:
        editor = Editor(program, graph)
        for op in editor.ops():
            if op.code == "FULLY_CONNECTED":
                _into_weights(editor, op)
            elif op.code in _REDUCTIONS:
                _into_axes(editor, op)
        editor.finish()
    return []


def _into_weights(editor: Editor, dense: Op) -> None:
    flatten = editor.maker(dense.inputs[0], "RESHAPE")
    transpose = None if flatten is None else editor.maker(flatten.inputs[0], "TRANSPOSE")
    weights = dense.inputs[1] if len(dense.inputs) > 1 else None
    if flatten is None or transpose is None or weights is None:
        return
    source, moved, flat = transpose.inputs[0], transpose.outputs[0], flatten.outputs[0]
    order = int_values(transpose.inputs[1])
    if source is None or order is None or len(source.shape) != order.size or int(order[0]) != 0:
        return
    features = math.prod(source.shape[1:])
    if flat.shape != (source.shape[0], features) or weights.shape[1:] != (features,):
        return
    if editor.only_reader(moved) is not flatten or editor.only_reader(flat) is not dense:
        return
    values = float_values(weights)
    if values is None or editor.readers(weights) != [dense]:
        return
    # places[j]: where in the flattened source the feature stands that was number j.
    places = np.arange(features).reshape(source.shape[1:]).transpose([int(i) - 1 for i in order[1:]]).reshape(-1)
    columns = np.empty_like(values)
    columns[:, places] = values
    editor.set_input(dense, 1, editor.constant(weights.name, columns))
    editor.set_input(flatten, 0, source)
    editor.remove(transpose)


def _into_axes(editor: Editor, reduction: Op) -> None:
    transpose = editor.maker(reduction.inputs[0], "TRANSPOSE")
    axes = int_values(reduction.inputs[1])
    order = None if transpose is None else int_values(transpose.inputs[1])
    if transpose is None or axes is None or order is None or transpose.inputs[0] is None:
        return
    rank = order.size
    if len(transpose.inputs[0].shape) != rank or editor.only_reader(transpose.outputs[0]) is not reduction:
        return
    reduced = {int(axis) % rank for axis in axes.reshape(-1)}
    before = [int(order[axis]) for axis in sorted(reduced)]
    remaining = [int(order[axis]) for axis in range(rank) if axis not in reduced]
    # With keepDims each dimension has to stay where it is, so a permutation can't be left out.
    if remaining != sorted(remaining) or reduction.option("keepDims", False):
        return
    editor.set_input(reduction, 0, transpose.inputs[0])
    name = f"{reduction.outputs[0].name}/axes"
    editor.set_input(reduction, 1, editor.constant(name, np.array(sorted(before), np.int32)))
    editor.remove(transpose)
