"""Ranges that follow from other ranges.

Training marks only the tensors where the device rounds. What a reshape or a max-pool gives out has no mark, because its
kernel copies codes: the range is that of what goes in. This module fills such gaps, and those that arithmetic with
constants leaves (a rescaling, a batch normalization that couldn't be folded): there the range is computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from octavo import numerics
from octavo.graph import DType, Graph, Op, Tensor
from octavo.ops import OPS, Row, Tie
from octavo.qtypes import INT8

Range = tuple[float, float]

# What a fused activation leaves of a range (ActivationFunctionType in the schema).
_FUSED: Mapping[int, Range] = {0: (-np.inf, np.inf), 1: (0.0, np.inf), 2: (-1.0, 1.0), 3: (0.0, 6.0)}


def range_of(tensor: Tensor, ranges: Mapping[Tensor, Range]) -> Range:
    """The range of a computed tensor as known, or that of a constant's values and 0."""
    if not tensor.is_constant:
        return ranges[tensor]
    return float(np.min(tensor.values, initial=0.0)), float(np.max(tensor.values, initial=0.0))


def spread(graph: Graph, known: Mapping[Tensor, Range]) -> dict[Tensor, Range]:
    """`known`, and the ranges that follow from it.

    Args:
      graph: the subgraph.
      known: calibrated or recorded ranges; none of them changes.
    """
    ranges = dict(known)
    if not any(tensor in ranges for tensor in graph.tensors):
        return ranges
    grew = True
    while grew:
        grew = False
        # Backwards too: what goes into a concatenation takes the range that was recorded behind it.
        for op in (*graph.ops, *reversed(graph.ops)):
            for tensor, found in _follows(op, ranges):
                ranges[tensor] = found
                grew = True
    return ranges


def _follows(op: Op, ranges: Mapping[Tensor, Range]) -> Iterator[tuple[Tensor, Range]]:
    """The ranges that one op lets us conclude, for tensors that have none."""
    row = OPS.get(op.code)
    if row is None or (row.int8 is None and row.int16 is None):
        return
    missing = [t for t in _activations(op, row) if t not in ranges]
    if not missing:
        return
    if row.tie is Tie.FIXED:
        for tensor in (t for t in missing if t in op.outputs):
            yield tensor, _fixed(row)
    elif row.tie in (Tie.SAME, Tie.INPUTS):
        present = [ranges[t] for t in _activations(op, row) if t in ranges]
        if present:
            union = numerics.merge_ranges(present)
            for tensor in missing:
                yield tensor, union
    elif op.code in _ARITHMETIC and missing == op.outputs:
        found = _of_arithmetic(op, ranges)
        if found is not None:
            yield missing[0], found


def _activations(op: Op, row: Row) -> list[Tensor]:
    """The computed float tensors of an op that its row calls activations."""
    inputs = [t for i, t in enumerate(op.inputs) if t is not None and row.input_role(i) in "am"]
    outputs = [t for i, t in enumerate(op.outputs) if row.output_role(i) == "a"]
    return [t for t in dict.fromkeys(inputs + outputs) if not t.is_constant and t.dtype is DType.FLOAT32]


def _fixed(row: Row) -> Range:
    scale, zero_point = row.fixed[8]
    return (INT8.qmin - zero_point) * scale, (INT8.qmax - zero_point) * scale


_ARITHMETIC = {"ADD": np.add, "SUB": np.subtract, "MUL": np.multiply}


def _of_arithmetic(op: Op, ranges: Mapping[Tensor, Range]) -> Range | None:
    """Interval arithmetic with one constant: the bounds that the result can't leave."""
    ends = []
    for tensor in op.inputs:
        assert tensor is not None
        if tensor.is_constant:
            values = tensor.values.reshape(-1).astype(np.float64)
            ends.append((values, values))
        elif tensor in ranges:
            ends.append(tuple(np.array([end]) for end in ranges[tensor]))
    constants = sum(tensor is not None and tensor.is_constant for tensor in op.inputs)
    if len(ends) != 2 or constants != 1:
        return None
    combine = _ARITHMETIC[op.code]
    corners = np.stack([combine(a, b) for a in ends[0] for b in ends[1]])
    low, high = _FUSED.get(int(op.option("fusedActivationFunction", 0)), _FUSED[0])
    return float(np.clip(corners.min(), low, high)), float(np.clip(corners.max(), low, high))
