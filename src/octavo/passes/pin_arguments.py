"""Constants that are handed to a branch or a loop stand inside of it.

Algebra: a parameter that always has the same value is that constant. Exporters pass the weights of an IF or WHILE body
as arguments; only as constants of the body can they be quantized as weights. A loop hands such a value on from turn to
turn unchanged, so it is no state of the loop.

Refuses subgraphs that are called from two places or are entry points, parameters that a branch gives out or a loop
changes, and loop results that something reads.
"""

from __future__ import annotations

from octavo.graph import Graph, Op, Program, Tensor
from octavo.graph.edit import Editor
from octavo.passes.drop_dead import called_graphs


def pin_arguments(program: Program) -> list[str]:
    """Edit `program` in place; there is nothing to tell."""
    calls: dict[int, int] = {}
    for op in program.ops():
        for index in called_graphs(op.options):
            calls[index] = calls.get(index, 0) + 1
    entries = {program.graphs.index(signature.graph) for signature in program.signatures} | {0}
    for graph in program.graphs:
        for op in graph.ops:
            called = called_graphs(op.options)
            inside = all(0 < i < len(program.graphs) and calls[i] == 1 and i not in entries for i in called)
            if op.code in ("IF", "WHILE") and inside and len(called) == 2:
                bodies = [program.graphs[index] for index in called]
                _pin_branch(op, bodies) if op.code == "IF" else _pin_loop(Editor(program, graph), op, bodies)
        graph.drop_unused_tensors()
    return []


def _plain(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.is_constant and not tensor.is_variable


def _pin_branch(op: Op, bodies: list[Graph]) -> None:
    if any(len(body.inputs) != len(op.inputs) - 1 for body in bodies):
        return
    for index in reversed(range(len(op.inputs) - 1)):
        value = op.inputs[index + 1]
        if value is None or not _plain(value) or any(body.inputs[index] in body.outputs for body in bodies):
            continue
        for body in bodies:
            _make_constant(body, index, value)
        del op.inputs[index + 1]


def _pin_loop(editor: Editor, op: Op, bodies: list[Graph]) -> None:
    count = len(op.inputs)
    body = next((b for b in bodies if len(b.outputs) == count and len(b.inputs) == count), None)
    if body is None or any(len(b.inputs) != count for b in bodies) or len(op.outputs) != count:
        return
    for index in reversed(range(count)):
        value, result, parameter = op.inputs[index], op.outputs[index], body.inputs[index]
        unchanged = body.outputs[index] is parameter and body.outputs.count(parameter) == 1
        unread = not editor.readers(result) and not editor.is_border(result)
        others = [b for b in bodies if b is not body]
        if value is None or not _plain(value) or not unchanged or not unread or count == 1:
            continue
        if any(b.inputs[index] in b.outputs for b in others):
            continue
        del body.outputs[index]
        for graph in bodies:
            _make_constant(graph, index, value)
        del op.inputs[index], op.outputs[index]
        count -= 1


def _make_constant(body: Graph, index: int, value: Tensor) -> None:
    """Parameter `index` of a subgraph becomes a constant of it."""
    parameter = body.inputs.pop(index)
    parameter.data, parameter.dtype, parameter.shape = value.data, value.dtype, value.shape
    parameter.shape_signature, parameter.qparams = None, value.qparams
    parameter.extra = dict(value.extra)
    body.drop_unused_tensors()
