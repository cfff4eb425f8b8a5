"""Ops without a right int16 kernel, spelled in ops that have one, where a recipe asks for 16-bit activations.

And ops that a target hasn't got, in ops that it has, at any width.

| op                       | becomes                                        | exact? |
|--------------------------|------------------------------------------------|---|
| HARD_SWISH(x)            | x * (relu6(x + 3) * (1 / 6))                   | to rounding |
| GELU(x), by tanh         | x * logistic(a x + b x^3), by MULs and an ADD  | to rounding |
| GELU(x), by erf          | the same                                       | to 5e-4, absolute |
| PRELU(x, a), 0 <= a <= 1 | MAXIMUM(x, a * x)                              | yes |
| PRELU(x, a)              | RELU(x) + a * MINIMUM(x, 0)                    | yes |
| SQUARED_DIFFERENCE(x, y) | d * d with d = x - y                           | yes |
| RELU_N1_TO_1, RELU_0_TO_1 | MAXIMUM, MINIMUM                              | yes |
| DEPTH_TO_SPACE, SPACE_TO_DEPTH | RESHAPE, TRANSPOSE, RESHAPE              | yes |
| REVERSE_V2, TILE         | GATHER along each of the dimensions            | yes |

a = 2 sqrt(2 / pi), b = 0.044715 a (Hendrycks and Gimpel, https://arxiv.org/abs/1606.08415, with (1 + tanh(u)) / 2 =
logistic(2 u)). With 8 bits each piece rounds visibly, and there LiteRT has kernels of the op's own; with 16 it doesn't.

Refuses shapes that aren't known for the last two rows, and models from quantization-aware training, whose ranges are
those of the op as a whole. The other ops without an int16 kernel stay in float, and the summary says why: ELU, EXP,
LOG, RSQRT and what is made of them would need a division.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from octavo.graph import DType, Op, Program, Tensor
from octavo.graph.edit import Editor, float_values, has_static_shape
from octavo.graph.queries import is_trained
from octavo.recipe import Recipe
from octavo.versions import settle_versions

_RELU6 = 3  # ActivationFunctionType in the schema
_SLOPE = 2 * math.sqrt(2 / math.pi)
_CUBIC = 0.044715 * _SLOPE


def spell_out_int16(program: Program, recipe: Recipe, lacks: Callable[[Op], bool] = lambda op: False) -> bool:
    """Edit every subgraph of the float `program` in place; whether there was something to spell out.

    Args:
      program: what to edit.
      recipe: tells the width of activations.
      lacks: whether an op is to be spelled out whatever its width.
    """
    found = False
    for graph in [] if is_trained(program) else program.graphs:
        editor = Editor(program, graph)
        for op in editor.ops():
            activations = recipe.scheme_of(op.keys).activations if op.code in _SPELLED else None
            wanted = activations is not None and (activations.bits == 16 or lacks(op))
            if wanted and op.outputs[0].dtype is DType.FLOAT32:
                spell, _ = _SPELLED[op.code]
                found |= spell(_Speller(editor, op))
        editor.finish()
    if found:
        settle_versions(program)
    return found


class _Speller:
    """Puts ops in front of one op, and at last another in its place; rules for the op hold for all of them."""

    def __init__(self, editor: Editor, op: Op) -> None:
        self.editor, self.op, self.name = editor, op, op.outputs[0].name
        self.x = op.inputs[0]
        self._count = 0

    def number(self, value: float) -> Tensor:
        return self.editor.constant(f"{self.name}/{value:.6g}", np.array(value, np.float32))

    def ints(self, name: str, *values: int) -> Tensor:
        return self.editor.constant(f"{self.name}/{name}", np.array(values, np.int32))

    def put(
        self,
        code: str,
        *inputs: Tensor | None,
        fused: int = 0,
        shape: tuple[int, ...] | None = None,
        axis: int = 0,
    ) -> Tensor:
        """An op before; what it makes, which has the shape of the last op's result unless given."""
        self._count += 1
        changes: dict[str, Any] = {} if shape is None else {"shape": shape, "shape_signature": None}
        made = self.editor.tensor_like(self.op.outputs[0], f"{self.name}/piece{self._count}", **changes)
        kind, options = _options(code, fused, made.shape, axis)
        new = Op(code, list(inputs), [made], options, kind, origins=self.op.keys)
        self.editor.insert_before(self.op, new)
        return made

    def end(self, code: str, *inputs: Tensor | None, fused: int = 0, axis: int = 0) -> bool:
        kind, options = _options(code, fused, self.op.outputs[0].shape, axis)
        self.editor.change(self.op, code, list(inputs), kind, options)
        return True


def _options(code: str, fused: int, shape: tuple[int, ...], axis: int) -> tuple[str | None, dict[str, Any] | None]:
    if code in ("ADD", "SUB", "MUL"):
        return f"{code.capitalize()}Options", {"fusedActivationFunction": fused}
    if code in ("MAXIMUM", "MINIMUM"):
        return "MaximumMinimumOptions", {}
    if code == "RESHAPE":
        return "ReshapeOptions", {"newShape": list(shape)}
    if code == "GATHER":
        return "GatherOptions", {"axis": axis, "batchDims": 0}
    return ("TransposeOptions", {}) if code == "TRANSPOSE" else (None, None)


def _hard_swish(s: _Speller) -> bool:
    gate = s.put("ADD", s.x, s.number(3), fused=_RELU6)
    return s.end("MUL", s.x, s.put("MUL", gate, s.number(1 / 6)))


def _gelu(s: _Speller) -> bool:
    curved = s.put("MUL", s.put("MUL", s.x, s.x), s.number(_CUBIC))
    gate = s.put("MUL", s.x, s.put("ADD", curved, s.number(_SLOPE)))
    return s.end("MUL", s.x, s.put("LOGISTIC", gate))


def _prelu(s: _Speller) -> bool:
    slopes = s.op.inputs[1]
    values = None if slopes is None else float_values(slopes)
    if values is not None and ((values >= 0) & (values <= 1)).all():
        return s.end("MAXIMUM", s.x, s.put("MUL", s.x, slopes))
    lower = s.put("MUL", s.put("MINIMUM", s.x, s.number(0)), slopes)
    return s.end("ADD", s.put("RELU", s.x), lower)


def _squared_difference(s: _Speller) -> bool:
    difference = s.put("SUB", *s.op.inputs)
    return s.end("MUL", difference, difference)


def _clip(low: float, high: float) -> Any:
    return lambda s: s.end("MINIMUM", s.put("MAXIMUM", s.x, s.number(low)), s.number(high))


def _depth(s: _Speller) -> bool:
    """Rows of b pixels with c channels each change places with the b rows of a block: (n h, w, b, b c)."""
    y, size = s.op.outputs[0], s.op.option("blockSize", 0)
    to_space = s.op.code == "DEPTH_TO_SPACE"
    deep, wide = (s.x, y) if to_space else (y, s.x)
    if deep is None or wide is None or not has_static_shape(deep) or not has_static_shape(wide) or size < 1:
        return False
    (n, h, w, _), channels = deep.shape, wide.shape[3]
    before, after = (n * h, w, size, size * channels), (n * h, size, w, size * channels)
    before, after = (before, after) if to_space else (after, before)
    split = s.put("RESHAPE", s.x, s.ints("split", *before), shape=before)
    moved = s.put("TRANSPOSE", split, s.ints("order", 0, 2, 1, 3), shape=after)
    return s.end("RESHAPE", moved, s.ints("joined", *y.shape))


def _picked(s: _Speller) -> bool:
    """Along each dimension that is turned or repeated, the elements are picked one by one."""
    named = s.op.inputs[1]
    if s.x is None or named is None or not named.is_constant or not has_static_shape(s.x):
        return False
    shape, values = list(s.x.shape), [int(value) for value in named.values.reshape(-1)]
    if s.op.code == "TILE":
        picks = {axis: np.tile(np.arange(shape[axis]), count) for axis, count in enumerate(values) if count != 1}
    else:
        picks = {axis % len(shape): np.arange(shape[axis])[::-1] for axis in values}
    here = s.x
    for number, (axis, which) in enumerate(picks.items(), 1):
        shape[axis] = which.size
        operands = here, s.ints(f"along{axis}", *which.tolist())
        if number == len(picks):
            return s.end("GATHER", *operands, axis=axis)
        here = s.put("GATHER", *operands, shape=tuple(shape), axis=axis)
    return False


# How each is spelled, and the kinds of ops that may come of it.
_SPELLED: Mapping[str, tuple[Callable[[_Speller], bool], frozenset[str]]] = {
    "HARD_SWISH": (_hard_swish, frozenset({"ADD", "MUL"})),
    "GELU": (_gelu, frozenset({"ADD", "LOGISTIC", "MUL"})),
    "PRELU": (_prelu, frozenset({"ADD", "MAXIMUM", "MINIMUM", "MUL", "RELU"})),
    "SQUARED_DIFFERENCE": (_squared_difference, frozenset({"MUL", "SUB"})),
    "RELU_N1_TO_1": (_clip(-1.0, 1.0), frozenset({"MAXIMUM", "MINIMUM"})),
    "RELU_0_TO_1": (_clip(0.0, 1.0), frozenset({"MAXIMUM", "MINIMUM"})),
    "DEPTH_TO_SPACE": (_depth, frozenset({"RESHAPE", "TRANSPOSE"})),
    "SPACE_TO_DEPTH": (_depth, frozenset({"RESHAPE", "TRANSPOSE"})),
    "REVERSE_V2": (_picked, frozenset({"GATHER"})),
    "TILE": (_picked, frozenset({"GATHER"})),
}
PIECES: Mapping[str, frozenset[str]] = {code: pieces for code, (_, pieces) in _SPELLED.items()}
