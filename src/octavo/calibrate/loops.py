"""The loops of a model, run once more turn by turn, so that calibration sees what their bodies compute.

A WHILE gives out what its last turn made; whatever its body computed on the way is gone. But condition and body are
subgraphs, and what the loop was handed is known: condition and body run by themselves, each turn's results handed on to
the next, as the loop does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from octavo.graph import DType, Graph, Op, Program, Tensor
from octavo.graph.edit import is_pure
from octavo.passes.drop_dead import called_graphs

if TYPE_CHECKING:
    from octavo.calibrate.expose import Window

MOST_TURNS = 10_000  # of one run of one loop are looked at: more tell nothing new
_CONTROL = ("IF", "WHILE", "CALL")


class Loop:
    """One WHILE op.

    Args:
      op: it, in the original program.
      condition, body: its subgraphs, each running with everything shown.
    """

    def __init__(self, op: Op, condition: Window, body: Window) -> None:
        self.op, self.condition, self.body = op, condition, body

    def turns(self, values: Mapping[Tensor, np.ndarray]) -> Iterator[dict[Tensor, np.ndarray]]:
        """The values of each float tensor of the body, one dict per turn (and per turn of loops in it).

        Args:
          values: what the run around the loop computed; nothing comes of it if the loop wasn't reached.
        """
        if not all(t is not None and (t in values or t.is_constant) for t in self.op.inputs):
            return
        state = [_value(tensor, values) for tensor in self.op.inputs if tensor is not None]
        for _ in range(MOST_TURNS):
            decided = self.condition.run(state)
            if not _value(self.condition.graph.outputs[0], decided).reshape(-1)[0]:
                return
            made = self.body.run(state)
            yield from self.body.show(made)
            state = [_value(tensor, made) for tensor in self.body.graph.outputs]


def _value(tensor: Tensor, values: Mapping[Tensor, np.ndarray]) -> np.ndarray:
    return tensor.values if tensor.is_constant else values[tensor]


def called_by(program: Program, op: Op) -> tuple[Graph, Graph]:
    """Condition and body of a WHILE."""
    return program.graphs[op.option("condSubgraphIndex")], program.graphs[op.option("bodySubgraphIndex")]


def can_step(program: Program, op: Op) -> bool:
    """Whether condition and body compute the same by themselves: no state, nothing random, no resources handed in."""
    if any(t is None or t.dtype.numpy is None or t.dtype is DType.STRING for t in op.inputs):
        return False
    graphs, waiting = set(), [*called_by(program, op)]
    while waiting:
        graph = waiting.pop()
        if graph in graphs:
            continue
        graphs.add(graph)
        waiting += [program.graphs[index] for inner in graph.ops for index in called_graphs(inner.options)]
    return all(is_pure(inner) or inner.code in _CONTROL for graph in graphs for inner in graph.ops)
