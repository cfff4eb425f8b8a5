"""Rows divided by their length become L2_NORMALIZATION.

Algebra: x / sqrt(sum of x^2 over the last dimension). It is spelled with RSQRT or with SQRT and DIV, with a MAXIMUM or
MINIMUM or a small addend against rows of zeros, and reshapes in between: so the ops from x to the result are run on
random rows of very different length, and compared with the definition. The op's integer kernel has a fixed scale of
1/128; the pieces would need the reciprocal of a length in 8 bits, and DIV has no right integer kernel.

Refuses sums over other dimensions, pieces that something else reads, dynamic shapes, and whatever differs from the
definition by more than float rounding for rows of length 0.01 to 1000 (because of an addend above 1e-9, say). Rows
shorter than the kernel's bound of 1e-6, which most spellings bound elsewhere, may differ.
"""

from __future__ import annotations

import numpy as np

from octavo.graph import DType, Op, Program, Tensor
from octavo.graph.edit import Editor, has_static_shape
from octavo.passes.trial import run_alone

_ARITHMETIC = ("MUL", "SQUARE", "ABS", "SUM", "SQRT", "RSQRT", "DIV", "POW", "ADD", "MAXIMUM", "MINIMUM")
_PIECES = frozenset((*_ARITHMETIC, "RESHAPE", "SQUEEZE", "EXPAND_DIMS"))
_MOST_PIECES = 10
_LARGEST = 1 << 22  # elements
_TOLERANCE = 1e-5


def recognise_l2_norm(program: Program) -> list[str]:
    """Edit every subgraph of `program` in place; there is nothing to tell."""
    for graph in program.graphs:
        editor = Editor(program, graph)
        for op in editor.ops():
            if op.code in ("MUL", "DIV") and op.outputs[0].dtype is DType.FLOAT32 and len(op.inputs) == 2:
                _recognise(editor, op)
        editor.finish()
    return []


def _recognise(editor: Editor, last: Op) -> None:
    first, second = last.inputs
    for x, factor in ((first, second), (second, first)):
        if x is None or factor is None or x.is_constant or x.is_variable or not x.shape or x.size > _LARGEST:
            continue
        rows = (*x.shape[:-1], 1)
        if factor.shape != rows or x.shape != last.outputs[0].shape or x.shape[-1] < 2 or not has_static_shape(x):
            continue
        pieces = _pieces(editor, x, factor)
        if pieces is not None and any(op.code == "SUM" for op in pieces) and _is_norm([*pieces, last], x, last):
            before = editor.maker(factor)
            editor.change(last, "L2_NORMALIZATION", [x], "L2NormOptions", {"fusedActivationFunction": 0})
            editor.prune(before)
            return


def _pieces(editor: Editor, x: Tensor, factor: Tensor) -> list[Op] | None:
    """The ops that make `factor` of x alone, in order; None if there is more to it."""
    found: dict[Op, None] = {}

    def visit(tensor: Tensor | None) -> bool:
        if tensor is None or tensor is x or tensor.is_constant:
            return tensor is not None
        op = editor.maker(tensor)
        if op is None or op.code not in _PIECES or len(found) >= _MOST_PIECES or editor.only_reader(tensor) is None:
            return op in found
        if not all(visit(operand) for operand in op.inputs):
            return False
        found[op] = None
        return True

    return list(found) if visit(factor) and found else None


def _is_norm(ops: list[Op], x: Tensor, last: Op) -> bool:
    rng = np.random.default_rng(0)
    lengths = 10.0 ** rng.uniform(-2, 3, (*x.shape[:-1], 1))
    rows = rng.normal(size=x.shape)
    rows = (rows / np.linalg.norm(rows, axis=-1, keepdims=True) * lengths).astype(np.float32)
    result = run_alone(ops, {x: rows}, last.outputs[0])
    exact = rows / np.linalg.norm(rows.astype(np.float64), axis=-1, keepdims=True)
    return result is not None and result.shape == exact.shape and bool(np.abs(result - exact).max() <= _TOLERANCE)
