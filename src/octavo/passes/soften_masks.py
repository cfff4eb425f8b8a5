"""Minus infinity in front of a softmax becomes a number that integers can hold.

Attention hides positions by putting -infinity, the lowest float, or -1e9 where a mask says so, or by adding it. With a
scale that reaches so far, all that isn't hidden would round to one code.

Algebra: exp(z - m) is below 2e-7, the rounding of float32 beside 1, where z lies 16 below the largest m of its row, and
no m is below the lowest z that isn't hidden. So with x in [low, high] as calibrated, and h the hidden constant:

| what stands before SOFTMAX  | h becomes |
|-----------------------------|---|
| SELECT(mask, x, h)          | low - 16 |
| x + h, and other constants c | low - high - 16 + the least c (at most 0) |

and the range of the result ends at 16 below the lowest that isn't hidden. A row that is hidden throughout comes out as
SELECT had it; after an addition it is the softmax of x, where in float it was flat or NaN.

Refuses results that anything but SOFTMAX reads, masks that are computed as numbers (SELECT's condition may be), and x
without a range.
"""

from __future__ import annotations

import numpy as np

from octavo.graph import DType, Graph, Op, Program, Tensor
from octavo.graph.edit import float_values

Ranges = dict[Tensor, tuple[float, float]]

_VIEWS = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS", "TRANSPOSE")
_BELOW = 16.0


def soften_masks(program: Program, ranges: Ranges, *others: Ranges) -> None:
    """Edit `program` in place, and the ranges to match.

    Args:
      program: a calibrated model.
      ranges: lowest and highest value of each tensor; says where x ends.
      others: further tables in which the results' ranges are to be the same.
    """
    for graph in program.graphs:
        for op in list(graph.ops):
            lowest = _soften(graph, op, ranges)
            if lowest is None:
                continue
            for tensor in _up_to_softmax(graph, op.outputs[0]) or ():
                # The highest of all: a range chosen for least error with the mask in it may cut off what counts.
                tables = [table for table in (ranges, *others) if tensor in table]
                high = max((table[tensor][1] for table in tables), default=lowest)
                for table in tables:
                    table[tensor] = (lowest, max(high, lowest))


def _soften(graph: Graph, op: Op, ranges: Ranges) -> float | None:
    """Replace the mask of an op; the lowest value of its result from now on, None if it has no such mask."""
    if op.code not in ("SELECT", "SELECT_V2", "ADD") or op.outputs[0].dtype is not DType.FLOAT32:
        return None
    first = 0 if op.code == "ADD" else 1
    for index in (first, first + 1):
        mask, x = op.inputs[index], op.inputs[2 * first + 1 - index]
        values = float_values(mask)
        if values is None or values.size == 0 or x is None or x not in ranges or np.isnan(values).any():
            continue
        if op.option("fusedActivationFunction") or _up_to_softmax(graph, op.outputs[0]) is None:
            return None
        low, high = ranges[x]
        changed = _changed(op, values, low, high)
        if changed is not None and mask is not None:
            softened, lowest = changed
            op.inputs[index] = graph.add_tensor(mask.copy(extra={}))
            softened_mask = op.inputs[index]
            assert softened_mask is not None
            softened_mask.set_values(softened)
            return lowest
    return None


def _changed(op: Op, values: np.ndarray, low: float, high: float) -> tuple[np.ndarray, float] | None:
    """(the softer mask, the lowest value that counts) for x in [low, high]; None if nothing in the mask hides x."""
    if op.code != "ADD":
        bound = low - _BELOW
        return (np.full_like(values, bound), bound) if (values < bound).all() else None
    hides = low - high - _BELOW
    others = values[values >= hides]
    least = min(float(others.min()), 0.0) if others.size else 0.0
    hidden = values < hides + least
    if not hidden.any() or (values < hides).sum() != hidden.sum():
        return None
    return np.where(hidden, np.float32(hides + least), values), low + least - _BELOW


def _up_to_softmax(graph: Graph, tensor: Tensor) -> list[Tensor] | None:
    """The tensor, and its views, if nothing but SOFTMAX reads any of them; else None."""
    found, frontier = [], [tensor]
    while frontier:
        current = frontier.pop()
        found.append(current)
        readers = [op for op in graph.ops if current in op.inputs]
        if current in graph.outputs or not readers:
            return None
        for reader in readers:
            if reader.code in _VIEWS:
                frontier.append(reader.outputs[0])
            elif reader.code != "SOFTMAX":
                return None
    return found
