"""Clipping spelled with MAXIMUM and MINIMUM becomes RELU and RELU6.

Algebra: max(x, 0) = relu(x). min(relu(x), 6) = max(min(x, 6), 0) = relu6(x). min(x, inf) = max(x, -inf) = x, and so
with the largest float32 in place of inf. The kernels of MAXIMUM and MINIMUM need one scale for what comes in and what
goes out, so clipping gains no resolution; RELU's rescale, and fuse into the op before.

Refuses bounds that differ within one constant, results of another shape, and other bounds: RELU_N1_TO_1 and
RELU_0_TO_1 have no int16 kernels.
"""

from __future__ import annotations

import numpy as np

from octavo.graph import DType, Op, Program, Tensor
from octavo.graph.edit import Editor, float_values

_RELU = 1  # ActivationFunctionType in the schema
_MOST = float(np.finfo(np.float32).max)  # converters write it for infinity


def recognise_relu(program: Program) -> list[str]:
    """Edit every subgraph of `program` in place; there is nothing to tell."""
    for graph in program.graphs:
        editor = Editor(program, graph)
        for op in editor.ops():
            found = clipping(op)
            if found is not None:
                _rewrite(editor, op, *found)
        editor.finish()
    return []


def clipping(op: Op) -> tuple[Tensor, float] | None:
    """(x, bound) of MAXIMUM(x, bound) or MINIMUM(x, bound) with one number as the bound; else None."""
    if op.code not in ("MAXIMUM", "MINIMUM") or op.outputs[0].dtype is not DType.FLOAT32:
        return None
    for x, bound in (op.inputs, op.inputs[::-1]):
        values = float_values(bound)
        if x is None or values is None or values.size == 0 or x.is_constant or x.shape != op.outputs[0].shape:
            continue
        if (values == values.flat[0]).all():
            return x, float(values.flat[0])
    return None


def _rewrite(editor: Editor, op: Op, x: Tensor, bound: float) -> None:
    before = editor.maker(x)
    if bound >= _MOST if op.code == "MINIMUM" else bound <= -_MOST:
        editor.bypass(op, x)
    elif op.code == "MAXIMUM" and bound == 0:
        inner = None if before is None else clipping(before)
        if before is not None and before.code == "MINIMUM" and inner is not None and inner[1] == 6:
            editor.change(op, "RELU6", [inner[0]])
        else:
            editor.change(op, "RELU", [x])
    elif op.code == "MINIMUM" and bound == 6 and before is not None:
        if before.code == "RELU":
            editor.change(op, "RELU6", before.inputs[:1])
        elif before.option("fusedActivationFunction") == _RELU:
            editor.change(op, "RELU6", [x])
