"""A choice that only NaN would turn is dropped.

Algebra: x != x holds for NaN alone, so select(x != x, a, b) = b, and select(x == x, a, b) = a, for every other x.
jax.numpy.logaddexp (softplus, mish) makes this choice so that infinities don't turn into NaN; integers have neither.

Refuses results of another shape than the branch taken. A NaN that enters the float model may come out as another NaN or
as the branch's value: calibration refuses such data anyway.
"""

from __future__ import annotations

from octavo.graph import DType, Program
from octavo.graph.edit import Editor


def drop_nan_guards(program: Program) -> list[str]:
    """Edit every subgraph of `program` in place; there is nothing to tell."""
    for graph in program.graphs:
        editor = Editor(program, graph)
        for op in editor.ops():
            if op.code not in ("SELECT", "SELECT_V2") or op.outputs[0].dtype is not DType.FLOAT32:
                continue
            compare = editor.maker(op.inputs[0], "NOT_EQUAL", "EQUAL")
            if compare is None or compare.inputs[0] is not compare.inputs[1]:
                continue
            taken, other = (2, 1) if compare.code == "NOT_EQUAL" else (1, 2)
            source, rest = op.inputs[taken], editor.maker(op.inputs[other])
            fits = source is not None and not source.is_constant and source.shape == op.outputs[0].shape
            if fits and editor.bypass(op, source):
                editor.prune(compare)
                editor.prune(rest)
        editor.finish()
    return []
