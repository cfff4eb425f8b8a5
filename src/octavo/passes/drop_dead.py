"""Ops that nobody reads, tensors that nobody mentions and subgraphs that nobody calls are dropped.

Algebra: what isn't observed needn't be computed. Refuses ops that do more than make their outputs (variables, calls,
control flow, custom ops), and the main subgraph. The writer stores only the buffers that are left.
"""

from __future__ import annotations

from octavo.graph import Graph, Program
from octavo.graph.edit import is_pure

_SUBGRAPH_OPTIONS = (
    "thenSubgraphIndex", "elseSubgraphIndex", "condSubgraphIndex", "bodySubgraphIndex", "initSubgraphIndex", "subgraph",
    "decompositionSubgraphIndex", "comparatorSubgraphIndex",
)  # fmt: skip
# Options that hold several subgraph indices, or ones inside attributes: too rare to renumber.
_OPAQUE = frozenset({"STABLEHLO_REDUCE", "STABLEHLO_SCATTER", "STABLEHLO_WHILE", "STABLEHLO_REDUCE_WINDOW",
                     "STABLEHLO_CASE"})  # fmt: skip


def drop_dead(program: Program) -> list[str]:
    """Edit `program` in place; there is nothing to tell."""
    for graph in program.graphs:
        _drop_ops(program, graph)
    _drop_graphs(program)
    return []


def _drop_ops(program: Program, graph: Graph) -> None:
    wanted = set(graph.outputs)
    for signature in program.signatures:
        if signature.graph is graph:
            wanted.update(tensor for _, tensor in signature.outputs)
    kept = []
    for op in reversed(graph.ops):
        if not is_pure(op) or any(tensor in wanted for tensor in op.outputs):
            kept.append(op)
            wanted.update(tensor for tensor in op.inputs if tensor is not None)
    graph.ops = kept[::-1]
    graph.drop_unused_tensors()


def _drop_graphs(program: Program) -> None:
    """Forget subgraphs that no signature starts and no op calls; the indices in options follow."""
    if len(program.graphs) == 1 or any(op.code in _OPAQUE for op in program.ops()):
        return
    reached, frontier = {0}, [0, *(program.graphs.index(signature.graph) for signature in program.signatures)]
    reached.update(frontier)
    while frontier:
        for op in program.graphs[frontier.pop()].ops:
            for index in called_graphs(op.options):
                if 0 <= index < len(program.graphs) and index not in reached:
                    reached.add(index)
                    frontier.append(index)
    if len(reached) == len(program.graphs):
        return
    renumbered = {old: new for new, old in enumerate(sorted(reached))}
    program.graphs = [graph for index, graph in enumerate(program.graphs) if index in reached]
    for op in program.ops():
        options = op.options or {}
        changed = {key: renumbered[index] for key in _SUBGRAPH_OPTIONS if (index := options.get(key)) in renumbered}
        if changed:
            op.options = {**options, **changed}


def called_graphs(options: dict[str, object] | None) -> list[int]:
    """Indices of the subgraphs that an op with these options calls."""
    found = [(options or {}).get(key) for key in _SUBGRAPH_OPTIONS]
    return [index for index in found if isinstance(index, int)]
