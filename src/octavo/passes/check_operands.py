"""Every op that octavo knows has the operands that its kernel needs; calls and signatures name what is there.

No rewrite: a check before all others and before anything runs, so that none has to ask. The schema allows an op to
leave out any operand, and a subgraph to call any other, itself too; LiteRT would refuse such a file or crash, and
octavo refuses it, naming the op. What is optional stays so: a bias, and the shape of a RESHAPE, which may stand in its
options.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from octavo.errors import ModelFileError
from octavo.graph import Graph, Op, Program
from octavo.ops import OPS, Row
from octavo.passes.drop_dead import called_graphs

_AT_LEAST = {"RESHAPE": 1, "DIV": 2, "FLOOR_DIV": 2, "FLOOR_MOD": 2, "POW": 2, "SQUARE": 1, "NEG": 1, "ADD_N": 1}
_AT_LEAST |= {"DEQUANTIZE": 1, "DENSIFY": 1, "QUANTIZE": 1}
_LSTM = (0, 2, 3, 4, 6, 7, 8, 13, 14, 15, 18, 19)
# Operands that recurrent ops can't do without.
_NEEDED = {
    "UNIDIRECTIONAL_SEQUENCE_LSTM": _LSTM,
    "BIDIRECTIONAL_SEQUENCE_LSTM": (*_LSTM[:-2], *(17 + i for i in _LSTM[1:-2]), 35, 36, 37, 38),
    "SVDF": (0, 1, 2, 4),
    "RNN": range(5),
    "UNIDIRECTIONAL_SEQUENCE_RNN": range(5),
    "BIDIRECTIONAL_SEQUENCE_RNN": range(9),
}
# Where weights and bias stand, and the axis of the weights that counts the channels.
_BIASED = {
    "CONV_2D": (1, 2, 0),
    "DEPTHWISE_CONV_2D": (1, 2, 3),
    "FULLY_CONNECTED": (1, 2, 0),
    "TRANSPOSE_CONV": (1, 3, 0),
}
_CALLING = ("IF", "WHILE", "CALL", "CALL_ONCE")
_NO_RESULT = ("ASSIGN_VARIABLE",)


def check_operands(program: Program) -> list[str]:
    """There is nothing to tell.

    Raises:
      ModelFileError: an op lacks an operand or a result, calls a subgraph that isn't there or that calls it in turn, or
        a signature names what is neither input nor output.
    """
    for op in program.ops():
        _check(program, op)
    _check_calls(program)
    for signature in program.signatures:
        known = {*signature.graph.inputs, *signature.graph.outputs}
        for name, tensor in (*signature.inputs, *signature.outputs):
            if tensor not in known:
                where = program.source or "the model"
                raise ModelFileError(
                    f"{where}: signature {signature.key!r} gives the name {name!r} to a tensor that is neither input "
                    "nor output: it is damaged"
                )
    return []


def _check(program: Program, op: Op) -> None:
    row = OPS.get(op.code)
    needed = _needed(op, row)
    where = program.source or "the model"
    given = sum(index < len(op.inputs) and op.inputs[index] is not None for index in needed)
    if given < len(needed):
        raise ModelFileError(
            f"{where}: {op.name} has {given} of the {len(needed)} operand(s) that it needs: it is damaged"
        )
    if (row is not None or op.code in _AT_LEAST) and not op.outputs and op.code not in _NO_RESULT:
        raise ModelFileError(f"{where}: {op.name} has no result: it is damaged")
    if op.code in _BIASED:
        _check_bias(op, where)


def _check_bias(op: Op, where: str) -> None:
    kernel, place, axis = _BIASED[op.code]
    weights, bias = op.inputs[kernel], op.inputs[place] if len(op.inputs) > place else None
    if weights is None or bias is None or len(weights.shape) <= axis:
        return
    count = math.prod(bias.shape)
    if count != weights.shape[axis]:
        raise ModelFileError(f"{where}: {op.name} has {count} biases for {weights.shape[axis]} channels: it is damaged")


def _needed(op: Op, row: Row | None) -> Sequence[int]:
    """The operands that an op can't do without, as far as its row tells."""
    if op.code in _NEEDED:
        return _NEEDED[op.code]
    if op.code in _AT_LEAST:
        return range(_AT_LEAST[op.code])
    if op.code in _CALLING:
        return range(len(op.inputs))
    if row is None or (row.int8 is None and row.sample is None):
        return range(0)
    return range(len(op.inputs) if row.inputs.endswith("*") else len(row.inputs.rstrip("b")))


def _check_calls(program: Program) -> None:
    """Calls lead to subgraphs that are there, and never back."""
    where = program.source or "the model"
    calls: dict[Graph, list[tuple[Op, Graph]]] = {graph: [] for graph in program.graphs}
    for graph in program.graphs:
        for op in graph.ops:
            for index in called_graphs(op.options):
                if op.code in _CALLING and not 0 <= index < len(program.graphs):
                    raise ModelFileError(f"{where}: {op.name} calls subgraph {index}, which isn't there: it is damaged")
                if op.code in _CALLING:
                    calls[graph].append((op, program.graphs[index]))
                    _check_handed(op, program.graphs[index], where)
    state: dict[Graph, bool] = {}  # False while its calls are followed
    for graph in program.graphs:
        _follow(graph, calls, state, where)


def _check_handed(op: Op, called: Graph, where: str) -> None:
    handed = len(op.inputs) - (op.code == "IF")
    if op.code != "CALL_ONCE" and handed != len(called.inputs):
        takes = f"a subgraph that takes {len(called.inputs)}"
        raise ModelFileError(f"{where}: {op.name} hands {handed} value(s) to {takes}: it is damaged")


def _follow(start: Graph, calls: Mapping[Graph, list[tuple[Op, Graph]]], state: dict[Graph, bool], where: str) -> None:
    """Depth first, without recursion: a file may hold a chain of any length."""
    if start in state:
        return
    state[start] = False
    path = [(start, iter(calls[start]))]
    while path:
        graph, rest = path[-1]
        op, called = next(rest, (None, graph))
        if op is None:
            state[graph] = True
            path.pop()
        elif called not in state:
            state[called] = False
            path.append((called, iter(calls[called])))
        elif not state[called]:
            raise ModelFileError(f"{where}: {op.name} calls a subgraph that it is part of: it would never end")
