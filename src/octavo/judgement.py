"""Ops that have an integer kernel and had better not use it, as far as is known before anything is quantized.

Only with fallback to float; integer-only is integer-only.

- LOG and RSQRT turn relative errors into absolute ones, and one scale for all values has its largest relative error at
  the smallest: with inputs from a to b, values near a are off by up to b / (2 * levels * a). Where that passes a
  sixteenth, the op stays in float, and so does what leads to it, for its operand would be rounded before. From LOG
  (spectrograms, which span thousands to one) that goes back to the ops with weights, them included; from RSQRT
  (normalisation) only as long as values are positive, as squares are. A MUL by what RSQRT makes stays in float too.
- A kernel with a fixed output scale (LOGISTIC, SOFTMAX, ...) as the last op of a model with float outputs: its result
  leaves in float anyway, and probabilities below 1/256 would all be 0.
- A CONCATENATION or PACK whose result is only moved about and then leaves in float (the heads of a detector): all that
  it joins would share the scale of the widest. It stays in float where the narrowest has less than four fifths of that.
- An op whose int8 kernel is slower than the float one and two conversions: `slow_int8` in its row.
"""

from __future__ import annotations

from collections.abc import Mapping

from octavo.graph import DType, Graph, Op, Tensor
from octavo.ops import OPS, Tie

_STRICT = {"LOG", "RSQRT"}
_MOST_ERROR = 1 / 16
_JOINS = {"CONCATENATION", "PACK"}
_ALIKE = 0.8

Range = tuple[float, float]


def better_in_float(graph: Graph, bits: Mapping[Op, int], ranges: Mapping[Tensor, Range], float_outputs: bool,
                    ) -> dict[Op, str]:  # fmt: skip
    """The ops among `bits` that had better stay in float, each with the reason.

    Args:
      graph: the subgraph.
      bits: the ops that can be integer, with the width of their activations.
      ranges: observed range of each float tensor.
      float_outputs: the graph's outputs are given out in float.
    """
    found: dict[Op, str] = {}
    makers, readers = graph.producers(), graph.consumers()
    for op in graph.ops:
        if op.code in _STRICT and op in bits and _too_wide(op, bits[op], ranges):
            found[op] = f"its smallest inputs are less than a step of {bits[op]} bits, and it magnifies them"
            _back(op, op.code == "LOG", makers, bits, ranges, found)
            if op.code == "RSQRT":
                products = [r for r in readers.get(op.outputs[0], []) if r.code == "MUL" and r in bits]
                found.update(dict.fromkeys(products, f"it multiplies by {op.outputs[0].name!r}, which spans too much"))
    for op in graph.ops:
        if bits.get(op) == 8 and OPS[op.code].slow_int8:
            found.setdefault(op, "LiteRT's int8 kernel is slower than the one for float and the conversions around it")
    if float_outputs:
        for op in graph.ops:
            last = all(not readers.get(t) and t in graph.outputs for t in op.outputs)
            if op in bits and last and OPS[op.code].tie is Tie.FIXED:
                found.setdefault(op, "its result is given out in float, and the kernel's own scale would round it")
            if op in bits and op.code in _JOINS and _unequal(op, ranges) and _leaves(op, graph, readers):
                found.setdefault(op, "what it joins is given out in float, and would share the scale of the widest")
    return found


def _unequal(op: Op, ranges: Mapping[Tensor, Range]) -> bool:
    spans = [ranges[t][1] - ranges[t][0] for t in op.inputs if t is not None and t in ranges]
    return len(spans) > 1 and min(spans) < _ALIKE * max(spans)


def _leaves(op: Op, graph: Graph, readers: Mapping[Tensor, list[Op]]) -> bool:
    """Whether the op's result goes to the graph's outputs, through ops that only move values, and nowhere else."""
    frontier, given_out = list(op.outputs), False
    while frontier:
        tensor = frontier.pop()
        given_out |= tensor in graph.outputs
        for reader in readers.get(tensor, []):
            row = OPS.get(reader.code)
            if row is None or row.tie is not Tie.SAME:
                return False
            frontier += reader.outputs
    return given_out


def _too_wide(op: Op, bits: int, ranges: Mapping[Tensor, Range]) -> bool:
    operand = op.inputs[0]
    if operand is None or operand not in ranges:
        return False
    low, high = ranges[operand]
    return low <= 0 or high / (2 * (1 << bits) * low) > _MOST_ERROR


def _back(
    op: Op, far: bool, makers: Mapping[Tensor, Op], bits: Mapping[Op, int], ranges: Mapping[Tensor, Range],
    found: dict[Op, str],
) -> None:  # fmt: skip
    """Mark what leads to `op`."""
    reason = f"{op.code} {op.outputs[0].name!r} needs its result unrounded"
    frontier = [op]
    while frontier:
        for tensor in frontier.pop().inputs:
            if tensor is None or tensor.dtype is not DType.FLOAT32 or tensor not in ranges:
                continue
            maker = makers.get(tensor)
            if maker is None or maker not in bits or maker in found:
                continue
            if not far and ranges[tensor][0] < 0:
                continue
            found[maker] = reason
            if OPS[maker.code].weights is None or maker.code == "BATCH_MATMUL":
                frontier.append(maker)
