"""Ops without a right integer kernel, or with a poor one, spelled in ops that have a good one.

| op                    | becomes                | exact? |
|-----------------------|------------------------|---|
| DIV(x, c), c constant | MUL(x, 1 / c)          | to one rounding; exact where c is a power of two |
| NEG(x)                | MUL(x, -1)             | yes |
| SQUARE(x)             | MUL(x, x)              | yes |
| POW(x, 2)             | MUL(x, x)              | as the runtime's pow is |
| POW(x, 1)             | x                      | yes |
| POW(x, 0.5)           | SQRT(x)                | as the runtime's pow is |
| ADD_N(a, b, c)        | ADD(ADD(a, b), c)      | yes: the kernel adds in this order |
| AVERAGE_POOL_2D(x) over the whole image | MEAN(x) over height and width | to rounding |

The last has an integer kernel, but one that must keep the scale of what it averages: means span a fraction of it, and
a handful of steps is all that is left of them. MEAN has a scale of its own.

Refuses a divisor that holds 0, infinity or a number whose reciprocal isn't normal (1 / c would lose digits), operands
that aren't float32, and any other exponent.
"""

from __future__ import annotations

import numpy as np

from octavo.graph import DType, Op, Program, Tensor
from octavo.graph.edit import Editor, float_values


def spell_out(program: Program) -> list[str]:
    """Edit every subgraph of `program` in place; there is nothing to tell."""
    for graph in program.graphs:
        editor = Editor(program, graph)
        for op in editor.ops():
            if op.code in _SPELLED and op.outputs[0].dtype is DType.FLOAT32:
                _SPELLED[op.code](editor, op)
        editor.finish()
    return []


def _div(editor: Editor, op: Op) -> None:
    values = float_values(op.inputs[1])
    if values is None:
        return
    smallest, largest = np.finfo(np.float32).tiny, np.finfo(np.float32).max
    size = np.abs(values)
    if not ((size >= 1 / float(largest)) & (size <= 1 / float(smallest))).all():
        return
    reciprocal = editor.constant(f"{op.outputs[0].name}/reciprocal", (1 / values.astype(np.float64)).astype(np.float32))
    _mul(editor, op, reciprocal)


def _mul(editor: Editor, op: Op, factor: Tensor | None = None) -> None:
    """MUL(x, factor), or MUL(x, x); a fused activation stays."""
    x = op.inputs[0]
    other = x if factor is None else factor
    options = {"fusedActivationFunction": op.option("fusedActivationFunction", 0)}
    editor.change(op, "MUL", [x, other], "MulOptions", options)


def _neg(editor: Editor, op: Op) -> None:
    _mul(editor, op, editor.constant(f"{op.outputs[0].name}/minus_one", np.array(-1, np.float32)))


def _pow(editor: Editor, op: Op) -> None:
    values = float_values(op.inputs[1])
    same_shape = op.inputs[0] is not None and op.inputs[0].shape == op.outputs[0].shape
    if values is None or values.size != 1 or not same_shape:
        return
    exponent = float(values.reshape(-1)[0])
    if exponent == 2:
        _mul(editor, op)
    elif exponent == 1:
        editor.bypass(op)
    elif exponent == 0.5:
        editor.change(op, "SQRT", op.inputs[:1])


def _add_n(editor: Editor, op: Op) -> None:
    terms = [tensor for tensor in op.inputs if tensor is not None]
    if len(terms) < 2:
        return
    total = terms[0]
    for number, term in enumerate(terms[1:-1]):
        partial = editor.tensor_like(op.outputs[0], f"{op.outputs[0].name}/sum{number}")
        add = Op("ADD", [total, term], [partial], {"fusedActivationFunction": 0}, "AddOptions")
        editor.insert_before(op, add)
        total = partial
    editor.change(op, "ADD", [total, terms[-1]], "AddOptions", {"fusedActivationFunction": 0})


def _whole_pool(editor: Editor, op: Op) -> None:
    x, y = op.inputs[0], op.outputs[0]
    if x is None or len(x.shape) != 4 or any(n < 0 for n in (x.shape_signature or ())[1:]):
        return
    whole = (op.option("filterHeight"), op.option("filterWidth")) == x.shape[1:3] and y.shape[1:3] == (1, 1)
    if not whole or op.option("fusedActivationFunction"):
        return
    axes = editor.constant(f"{y.name}/axes", np.array([1, 2], np.int32))
    editor.change(op, "MEAN", [x, axes], "ReducerOptions", {"keepDims": True})


_SPELLED = {
    "AVERAGE_POOL_2D": _whole_pool,
    "DIV": _div,
    "NEG": _neg,
    "SQUARE": lambda editor, op: _mul(editor, op),
    "POW": _pow,
    "ADD_N": _add_n,
}
