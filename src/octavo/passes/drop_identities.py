"""Ops that give out what they take are dropped.

Algebra: x * 1 = x + 0 = x - 0 = x; a PAD by nothing, a TILE by ones, a CONCATENATION of one tensor and a CAST to the
same type change nothing; neither does a SLICE or STRIDED_SLICE of everything, nor a SELECT whose condition is the same
constant everywhere: jax.numpy.take with known indices chooses so between what it found and NaN.

Refuses a fused activation, a constant that would stretch x to another shape, and an op that stands between an input and
an output of the graph (one must be there).
"""

from __future__ import annotations

from collections.abc import Callable

from octavo.graph import Op, Program, Tensor
from octavo.graph.edit import Editor, float_values, int_values


def drop_identities(program: Program) -> list[str]:
    """Edit every subgraph of `program` in place; there is nothing to tell."""
    for graph in program.graphs:
        editor = Editor(program, graph)
        for op in editor.ops():
            find = _SAME.get(op.code)
            source = find(op) if find is not None and not op.option("fusedActivationFunction") else None
            if source is not None and not source.is_constant and _alike(source, op.outputs[0]):
                editor.bypass(op, source)
        editor.finish()
    return []


def _alike(a: Tensor, b: Tensor) -> bool:
    return (a.dtype, a.shape, a.shape_signature, a.qparams) == (b.dtype, b.shape, b.shape_signature, b.qparams)


def _neutral(number: float, either: bool) -> Callable[[Op], Tensor | None]:
    """The operand beside a constant that is `number` everywhere; `either`: the constant may come first."""

    def find(op: Op) -> Tensor | None:
        for constant, other in ((1, 0), (0, 1)) if either else ((1, 0),):
            values = float_values(op.inputs[constant])
            if values is not None and values.size and (values == number).all():
                return op.inputs[other]
        return None

    return find


def _zero_amounts(op: Op) -> Tensor | None:
    amounts = int_values(op.inputs[1])
    return op.inputs[0] if amounts is not None and not amounts.any() else None


def _first(op: Op) -> Tensor | None:
    return op.inputs[0]


def _alone(op: Op) -> Tensor | None:
    return op.inputs[0] if len(op.inputs) == 1 else None


def _whole_slice(op: Op) -> Tensor | None:
    """What is cut out has the size of the whole, so it is the whole (if sizes are static)."""
    source = op.inputs[0]
    static = source is not None and not any(n < 0 for n in source.shape_signature or ())
    return source if static else None


def _whole_strided_slice(op: Op) -> Tensor | None:
    """The same, but a stride of -1 turns the order, and a mask may swap dimensions for new ones."""
    steps = int_values(op.inputs[3]) if len(op.inputs) > 3 else None
    forward = steps is not None and bool((steps == 1).all())
    masks = op.option("ellipsisMask") or op.option("newAxisMask") or op.option("shrinkAxisMask") or op.option("offset")
    return _whole_slice(op) if forward and not masks else None


def _decided(op: Op) -> Tensor | None:
    condition = op.inputs[0]
    if condition is None or not condition.is_constant or not condition.size:
        return None
    values = condition.values
    return op.inputs[1] if values.all() else None if values.any() else op.inputs[2]


_SAME: dict[str, Callable[[Op], Tensor | None]] = {
    "MUL": _neutral(1.0, either=True),
    "ADD": _neutral(0.0, either=True),
    "SUB": _neutral(0.0, either=False),
    "PAD": _zero_amounts,
    "PADV2": _zero_amounts,
    "TILE": _whole_slice,  # the size is the same, so every multiple is 1
    "CONCATENATION": _alone,
    "CAST": _first,
    "SLICE": _whole_slice,
    "STRIDED_SLICE": _whole_strided_slice,
    "SELECT": _decided,
    "SELECT_V2": _decided,
}
