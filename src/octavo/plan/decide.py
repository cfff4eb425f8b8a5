"""A precision for every op, and in words why it stays in float."""

from __future__ import annotations

from collections.abc import Mapping

from octavo import recurrent
from octavo.graph import DType, Graph, Op, Tensor
from octavo.ops import OPS, Row, Tie
from octavo.plan.operands import INFINITE, finite, float_constants, float_weights, operands, storable
from octavo.plan.records import Decision
from octavo.recipe import DYNAMIC_MIN_ELEMENTS, Scheme
from octavo.recurrent import LAYOUTS
from octavo.sites import Range


def decide(op: Op, scheme: Scheme, ranges: Mapping[Tensor, Range]) -> Decision:
    """What a scheme makes of one op, as far as the op and the ranges of its tensors tell."""
    if not any(tensor.dtype.is_float for tensor in operands(op)):
        return Decision(op.name, op.code, "as is")
    if scheme.kind == "integer":
        assert scheme.activations is not None
        precision = f"int{scheme.activations.bits}"
        why = why_not_integer(op, scheme.activations.bits, ranges)
        return Decision(op.name, op.code, precision) if why is None else in_float(op, scheme, *why)
    if scheme.kind == "dynamic_range":
        return _decide_dynamic(op, scheme)
    if scheme.kind in ("float16", "weight_only") and any(storable(t, scheme) for t in float_constants(op)):
        return Decision(op.name, op.code, scheme.kind)
    return Decision(op.name, op.code, "float32")


def in_float(op: Op, scheme: Scheme, reason: str, remedy: str = "") -> Decision:
    """It computes in float, but its weights needn't take four bytes each."""
    weights = float_weights(op, OPS.get(op.code))
    small = any(tensor.size >= DYNAMIC_MIN_ELEMENTS and storable(tensor, scheme) for tensor in weights)
    return Decision(op.name, op.code, "weight_only" if small else "float32", reason, remedy)


def _decide_dynamic(op: Op, scheme: Scheme) -> Decision:
    row = OPS.get(op.code)
    weights = max(float_weights(op, row), key=lambda tensor: tensor.size, default=None)
    if row is None or weights is None:
        return Decision(op.name, op.code, "float32")
    if row.dynamic is None:
        reason = row.because.get("dynamic", "LiteRT has no kernel for float activations with int8 weights")
        return Decision(op.name, op.code, "float32", reason, "weight_only() makes it small")
    if not all(finite(tensor) for tensor in float_weights(op, row)):
        return Decision(op.name, op.code, "float32", f"its weights {weights.name!r} hold infinity or NaN")
    if weights.size < scheme.min_elements:
        return Decision(op.name, op.code, "float32", f"its weights have fewer than {scheme.min_elements} elements")
    return Decision(op.name, op.code, "dynamic")


def why_not_integer(op: Op, bits: int, ranges: Mapping[Tensor, Range]) -> tuple[str, str] | None:
    """(reason, remedy) if `op` has no right integer form, else None."""
    row = OPS.get(op.code)
    if row is None:
        kind = "a custom op" if op.code == "CUSTOM" else "not an op that octavo can make integer"
        return kind, "replace it, or allow float for it with integer(fallback=True)"
    if row.version(bits) is None:
        default = f"LiteRT has no int{bits} kernel for it"
        return row.because.get(f"int{bits}", default), "replace it by ops that have one"
    if why := recurrent.why_not_integer(op, ranges):
        return why, ""
    if op.option("fusedActivationFunction") in (4, 5) and op.code not in LAYOUTS:
        return "its fused activation (tanh or sign) has no integer kernel", "apply the activation as its own op"
    problem = _operand_problem(op, row, ranges)
    return (problem, "") if problem else None


def _operand_problem(op: Op, row: Row, ranges: Mapping[Tensor, Range]) -> str:
    for index, tensor in enumerate(op.inputs):
        role = row.input_role(index)
        if tensor is None or role == ".":
            continue
        if tensor.dtype is not DType.FLOAT32:
            return f"its operand {tensor.name!r} is {tensor.dtype.value}, not float32"
        if role in "wb" and not tensor.is_constant:
            what = f"weights {tensor.name!r} are" if role == "w" else f"bias {tensor.name!r} is"
            return f"its {what} computed, not constant"
        if tensor.is_constant and not finite(tensor):
            return f"its constant {tensor.name!r} holds infinity, NaN or values beyond {INFINITE:g}"
        if not tensor.is_constant and (why := _range_problem(tensor, ranges)):
            return why
    for index, tensor in enumerate(op.outputs):
        if row.output_role(index) == "a" and tensor.dtype is DType.FLOAT32 and (why := _range_problem(tensor, ranges)):
            return why
    return ""


def _range_problem(tensor: Tensor, ranges: Mapping[Tensor, Range]) -> str:
    if tensor not in ranges:
        return f"no calibration data reached {tensor.name!r}"
    low, high = ranges[tensor]
    if not (-INFINITE < low <= high < INFINITE):
        return f"calibration saw infinity, NaN or values beyond {INFINITE:g} in {tensor.name!r}"
    return ""


def integer_borders(graph: Graph, scheme: Scheme) -> set[Tensor]:
    """Inputs and outputs that are integers in the written file."""
    if scheme.kind != "integer":
        return set()
    inputs = graph.inputs if scheme.io.input != "float32" else []
    outputs = graph.outputs if scheme.io.output != "float32" else []
    return {*inputs, *outputs}


def drop_islands(graph: Graph, decisions: dict[Op, Decision], borders: set[Tensor]) -> None:
    """Ops that only move values between float ops stay in float: two conversions to copy something gain nothing."""
    producers, consumers = graph.producers(), graph.consumers()
    moves = {op for op in graph.ops if decisions[op].precision in ("int8", "int16") and OPS[op.code].tie is Tie.SAME}

    def neighbours(op: Op) -> list[Op]:
        before = [producers[t] for t in op.inputs if t is not None and t in producers]
        after = [reader for t in op.outputs for reader in consumers.get(t, [])]
        return before + after

    seen: set[Op] = set()
    for start in graph.ops:
        if start not in moves or start in seen:
            continue
        island, frontier, anchored = [], [start], False
        seen.add(start)
        while frontier:
            op = frontier.pop()
            island.append(op)
            for other in neighbours(op):
                if other in moves and other not in seen:
                    seen.add(other)
                    frontier.append(other)
                anchored |= other not in moves and decisions[other].precision in ("int8", "int16")
        touches_border = any(t in borders for op in island for t in [*op.inputs, *op.outputs] if t is not None)
        if not anchored and not touches_border:
            for op in island:
                decisions[op] = Decision(op.name, op.code, "float32", "it only moves values between float ops")
