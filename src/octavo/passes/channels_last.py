"""Inputs and outputs from (batch, channels, height, width) to (batch, height, width, channels), as LiteRT works.

Algebra: x = transpose(y, (0, 3, 1, 2)) for a new input y that holds the same values channels last, and likewise at an
output. `cancel_moves` then finds this transpose next to the one that the converter put in front of the first
convolution, and both go.

Only tensors of rank 4 (and 5, with depth) are moved: with 3 dimensions, the last may be time or channels. A border
that nobody computes with channels last keeps one transpose, as it had before.
"""

from __future__ import annotations

import numpy as np

from octavo.graph import DType, Graph, Op, Program, Tensor
from octavo.passes.cancel_moves import cancel_moves
from octavo.passes.drop_dead import drop_dead

_RANKS = (4, 5)


def channels_last(program: Program) -> list[str]:
    """Edit the graphs of all signatures in place; returns a note that names what was moved."""
    moved: list[str] = []
    for graph in dict.fromkeys(signature.graph for signature in program.signatures):
        both = {*graph.inputs} & {*graph.outputs}
        for tensor in [t for t in graph.inputs if len(t.shape) in _RANKS and t not in both]:
            moved.append(tensor.name)
            _replace_input(program, graph, tensor)
        for tensor in [t for t in graph.outputs if len(t.shape) in _RANKS and t not in both]:
            moved.append(tensor.name)
            _replace_output(program, graph, tensor)
    cancel_moves(program)
    drop_dead(program)
    return [f"channels last: {', '.join(moved)}"] if moved else []


def _replace_input(program: Program, graph: Graph, tensor: Tensor) -> None:
    last = _moved(graph, tensor)
    rank = len(tensor.shape)
    graph.ops.insert(0, _transpose(graph, last, tensor, [0, rank - 1, *range(1, rank - 1)]))
    graph.inputs = [last if t is tensor else t for t in graph.inputs]
    for signature in program.signatures:
        if signature.graph is graph:
            signature.inputs = [(name, last if t is tensor else t) for name, t in signature.inputs]


def _replace_output(program: Program, graph: Graph, tensor: Tensor) -> None:
    last = _moved(graph, tensor)
    graph.ops.append(_transpose(graph, tensor, last, [0, *range(2, len(tensor.shape)), 1]))
    graph.outputs = [last if t is tensor else t for t in graph.outputs]
    for signature in program.signatures:
        if signature.graph is graph:
            signature.outputs = [(name, last if t is tensor else t) for name, t in signature.outputs]


def _moved(graph: Graph, tensor: Tensor) -> Tensor:
    """A tensor of the same name with the channels last; the old one gets another name."""

    def order(shape: tuple[int, ...]) -> tuple[int, ...]:
        return (shape[0], *shape[2:], shape[1])

    signature = None if tensor.shape_signature is None else order(tensor.shape_signature)
    last = graph.add_tensor(tensor.copy(shape=order(tensor.shape), shape_signature=signature))
    tensor.name = f"{tensor.name}/channels_first"
    return last


def _transpose(graph: Graph, source: Tensor, target: Tensor, order: list[int]) -> Op:
    permutation = graph.add_tensor(Tensor(f"{target.name}/order", DType.INT32, ()))
    permutation.set_values(np.array(order, np.int32))
    return Op("TRANSPOSE", [source, permutation], [target], {}, "TransposeOptions")
