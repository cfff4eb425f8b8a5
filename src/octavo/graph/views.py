"""Copies of a program that show or feed what is inside: for measuring, never for shipping."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from octavo.graph.model import Graph, Program, Signature, Tensor

_KEY = "octavo"


def exposed(program: Program, tensors: Sequence[Tensor]) -> Program:
    """A copy whose main subgraph gives out `tensors` (each once), in their order, and keeps its inputs.

    The copy has no signature on the main subgraph, so a session lists inputs and outputs in the graph's order.
    """
    copy, twins = _twins(program)
    copy.main.outputs = [twins[tensor] for tensor in tensors]
    return copy


def opened(program: Program, graph: Graph, tensors: Sequence[Tensor]) -> tuple[Program, str | None]:
    """A copy that runs any one subgraph and gives out `tensors` of it (each once), in their order.

    Returns:
      the copy, and the signature by which a session reaches the subgraph; None for the main one.
    """
    copy = program.clone()
    twins = dict(zip(program.tensors(), copy.tensors(), strict=True))
    own = copy.graphs[program.graphs.index(graph)]
    own.outputs = [twins[tensor] for tensor in tensors]
    copy.signatures = []
    if own is copy.main:
        return copy, None
    inputs, outputs = ([(str(i), tensor) for i, tensor in enumerate(listed)] for listed in (own.inputs, own.outputs))
    copy.signatures = [Signature(_KEY, inputs, outputs, own)]
    return copy, _KEY


def cut(program: Program, fed: Iterable[Tensor], tensors: Sequence[Tensor]) -> Program:
    """A copy where the readers of each tensor in `fed` take it from a new input instead of the op that makes it.

    Every op then runs on what it is given, whatever those before it made.

    Args:
      program: what to copy.
      fed: computed tensors of the main subgraph.
      tensors: what the copy gives out, in this order; a fed tensor is given out as its op made it.

    Returns:
      the copy; its inputs are the program's, then one for each of `fed`.
    """
    copy, twins = _twins(program)
    graph = copy.main
    replaced = {}
    for tensor in fed:
        made = twins[tensor]
        replaced[made] = graph.add_tensor(made.copy(name=f"{made.name}/fed"))
    for op in graph.ops:
        op.inputs = [replaced.get(t, t) if t is not None else None for t in op.inputs]
    graph.inputs = [*graph.inputs, *replaced.values()]
    graph.outputs = [twins[tensor] for tensor in tensors]
    return copy


def _twins(program: Program) -> tuple[Program, dict[Tensor, Tensor]]:
    copy = program.clone()
    copy.signatures = [signature for signature in copy.signatures if signature.graph is not copy.main]
    return copy, dict(zip(program.main.tensors, copy.main.tensors, strict=True))
