"""PRELU, where a converter spelled it out.

Algebra: relu(x) + c * relu(-x) = prelu(x) with the slopes -c: for x > 0 the second term is 0, for x < 0 the first. The
four ops round three times as integers, and one of them (NEG) has no right integer kernel.

Refuses: slopes that aren't constant, or that differ within a batch; results in between that something else reads.
"""

from __future__ import annotations

import numpy as np

from octavo.graph import DType, Op, Program, Tensor
from octavo.graph.edit import Editor, float_values


def recognise_prelu(program: Program) -> list[str]:
    """Edit every subgraph of `program` in place; there is nothing to tell."""
    for graph in program.graphs:
        editor = Editor(program, graph)
        for op in editor.ops():
            if op.code == "ADD" and not op.option("fusedActivationFunction", 0):
                _recognise(editor, op)
        editor.finish()
    return []


def _recognise(editor: Editor, add: Op) -> None:
    for first, second in ((0, 1), (1, 0)):
        upper = editor.maker(add.inputs[first], "RELU")
        scaled = editor.maker(add.inputs[second], "MUL")
        if upper is None or scaled is None or scaled.option("fusedActivationFunction", 0):
            continue
        lower, slopes = _lower(editor, scaled)
        x = upper.inputs[0]
        if lower is None or slopes is None or x is None or x.dtype is not DType.FLOAT32:
            continue
        negated = editor.maker(lower.inputs[0], "NEG")
        inner = [upper.outputs[0], scaled.outputs[0], lower.outputs[0]]
        if negated is None or negated.inputs[0] is not x or not all(editor.only_reader(tensor) for tensor in inner):
            continue
        if slopes.ndim == len(x.shape) and slopes.shape[0] == 1 and slopes.ndim > 1:
            slopes = slopes[0]
        elif slopes.ndim >= len(x.shape):
            continue
        slopes = slopes.reshape((1,) * (len(x.shape) - 1 - slopes.ndim) + slopes.shape)
        alpha = editor.constant(f"{add.outputs[0].name}/alpha", np.ascontiguousarray(-slopes))
        for op in (upper, scaled, lower):
            editor.remove(op)
        if not editor.readers(negated.outputs[0]) and not editor.is_border(negated.outputs[0]):
            editor.remove(negated)
        editor.change(add, "PRELU", [x, alpha])
        return


def _lower(editor: Editor, scaled: Op) -> tuple[Op | None, np.ndarray | None]:
    """The RELU that a MUL scales, and the constant that it scales by."""
    for index, other in ((0, 1), (1, 0)):
        tensor: Tensor | None = scaled.inputs[index]
        values = float_values(scaled.inputs[other])
        if values is not None and (found := editor.maker(tensor, "RELU")) is not None:
            return found, values
    return None, None
