"""What IF and WHILE hand to their subgraphs and get back, as integers.

Kernels copy what is handed over as it is. So a value has one scale on both sides of a call: at the op's operand, at the
parameters of the subgraphs, at their results and at the op's result; in a loop all four are one value. Each side
converts from and to it where its own ops want another.

Integers are handed over where the subgraphs make integers of all that they give back. Little is lost by that: the steps
are those of the wider of the ranges that a value has on both sides, which differ in a loop whose values grow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from octavo import numerics
from octavo.graph import DType, Graph, Op, Program, Tensor
from octavo.passes.drop_dead import called_graphs
from octavo.ranges import Range, range_of

CODES = ("IF", "WHILE")
_FLOATS = "it hands floats to its subgraphs"


@dataclass(frozen=True)
class Slot:
    """One float value that is handed over.

    Attributes:
      operand: number of the op's operand, None if it is only a result.
      result: the op's result, None if it is only handed in.
      parameters: what the subgraphs call it when it arrives.
      returned: what the subgraphs give back for it.
    """

    operand: int | None
    result: Tensor | None
    parameters: tuple[Tensor, ...] = ()
    returned: tuple[tuple[Graph, Tensor], ...] = ()

    def tensors(self, op: Op) -> Iterator[Tensor]:
        given = None if self.operand is None else op.inputs[self.operand]
        own = (tensor for tensor in (given, self.result) if tensor is not None)
        yield from (*own, *self.parameters, *(tensor for _, tensor in self.returned))

    def range(self, op: Op, ranges: Mapping[Tensor, Range]) -> Range:
        """The union of what is known of its range."""
        return numerics.merge_ranges(
            [range_of(tensor, ranges) for tensor in self.tensors(op) if tensor.is_constant or tensor in ranges]
        )


def called(program: Program, op: Op) -> list[Graph]:
    """The subgraphs of an IF (then, else) or a WHILE (condition, body)."""
    return [program.graphs[index] for index in called_graphs(op.options)]


def slots(program: Program, op: Op) -> list[Slot]:
    """The float values that an IF or a WHILE hands over."""
    graphs = called(program, op)
    if op.code == "WHILE":
        condition, body = graphs
        found = [
            Slot(i, result, (condition.inputs[i], body.inputs[i]), ((body, body.outputs[i]),))
            for i, result in enumerate(op.outputs)
        ]
    else:
        found = [Slot(i + 1, None, tuple(graph.inputs[i] for graph in graphs)) for i in range(len(op.inputs) - 1)]
        found += [
            Slot(None, result, (), tuple((graph, graph.outputs[i]) for graph in graphs))
            for i, result in enumerate(op.outputs)
        ]
    return [slot for slot in found if next(slot.tensors(op)).dtype is DType.FLOAT32]


def problem(program: Program, op: Op, ranges: Mapping[Tensor, Range], integer: Mapping[Graph, Mapping[Op, int]]) -> str:
    """Why an IF or WHILE can't hand over integers, or had better not; "" if it can.

    Args:
      program: a float model.
      op: one of `CODES`.
      ranges: of every tensor that calibration saw.
      integer: the integer ops of each subgraph, with the width of their activations.
    """
    indices = called_graphs(op.options)
    callers = [index for other in program.ops() for index in called_graphs(other.options)]
    entries = {0, *(program.graphs.index(signature.graph) for signature in program.signatures)}
    if any(callers.count(index) > 1 or index in entries for index in indices):
        return f"{_FLOATS}: they are used elsewhere too"
    found = slots(program, op)
    unseen = [t for slot in found if not any(t in ranges for t in slot.tensors(op)) for t in slot.tensors(op)]
    if unseen:
        return f"{_FLOATS}: no calibration data reached {unseen[0].name!r}"
    given = [pair for slot in found for pair in slot.returned]
    if len(set(given)) < len(given):
        return f"{_FLOATS}: one gives the same value twice"
    for graph, tensor in given:
        maker = graph.producers().get(tensor)
        if maker is not None and maker not in integer[graph]:
            return f"{_FLOATS}: {maker.name} makes floats there"
    return ""
