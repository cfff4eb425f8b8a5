"""Fused activations become ops of their own, for ops whose kernel would leave them out.

Algebra: relu(f(x)) either way. LiteRT's builtin kernel for weights with a scale per block (FULLY_CONNECTED, int4) drops
the fused activation without a word (tried with ai-edge-litert 2.3.0; XNNPACK's applies it). Refuses nothing: the only
other activations that kernel loads with are none at all.
"""

from __future__ import annotations

from collections.abc import Callable

from octavo.graph import Graph, Op, Program

_KINDS = {1: "RELU", 2: "RELU_N1_TO_1", 3: "RELU6"}


def split_activations(program: Program, wanted: Callable[[Op], bool]) -> None:
    """Split the fused activations of the ops that are `wanted`; edits `program` in place."""
    for graph in program.graphs:
        graph.ops = [made for op in graph.ops for made in (_split(graph, op) if wanted(op) else [op])]


def _split(graph: Graph, op: Op) -> list[Op]:
    kind = _KINDS.get(op.option("fusedActivationFunction", 0))
    if kind is None:
        return [op]
    output = op.outputs[0]
    before = graph.add_tensor(output.copy(name=f"{output.name}/linear", extra={}))
    op.outputs = [before, *op.outputs[1:]]
    op.options = {**(op.options or {}), "fusedActivationFunction": 0}
    return [op, Op(kind, [before], [output])]
