"""Functions of one number, spelled in many ops, become the one op that they are.

Converters spell an activation in pieces: GELU by way of erfc takes sixty ops, ELU five. Each piece would round to int8
by itself, and some (DIV, infinities on the branch that isn't taken) have no integer form at all.

Algebra: a region of ops that work element by element, on one tensor x and constants that are one number each, is a
function y(x) of one number. LiteRT computes it at some ten thousand points in [-1e6, 1e6], dense around 0 and around
the region's constants; if that is one of the functions below to float rounding, the region becomes:

| y(x)                                     | ops |
|------------------------------------------|---|
| gelu, by erf or by tanh                  | GELU |
| x > 0 ? x : exp(x) - 1                   | ELU |
| scale * (x > 0 ? x : a * (exp(x) - 1))   | ELU, LEAKY_RELU(a), MUL by the scale (SELU, ELU with another alpha) |
| x * relu6(x + 3) / 6                     | HARD_SWISH |
| max(x, 0); min(max(x, 0), 6)             | RELU; RELU6 |
| |x|; x > 0 ? x : a * x, a > 0            | ABS; LEAKY_RELU(a) |
| the same, at most m                      | LEAKY_RELU(a), MINIMUM |
| min(max(x, low), high)                   | MAXIMUM, MINIMUM |
| 1 / (1 + exp(-x)); x / (1 + exp(-x))     | LOGISTIC; LOGISTIC, MUL |
| tanh(x)                                  | TANH |

Float rounding is 1e-5 of the larger of |y| and the function's scale where the function takes both signs, and 1e-5 of
|y| itself where it takes one: max(x, 1e-10) isn't RELU, for a LOG may stand behind it.

Refuses regions with fewer ops than they would become, constants that vary, tensors on the way whose range training
recorded, and a function that gives NaN or infinity anywhere on those points. Whatever else reads a piece of the region
keeps that piece.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from octavo.graph import DType, Op, Program, Tensor
from octavo.graph.edit import Editor, has_static_shape
from octavo.graph.queries import recorded_range
from octavo.passes.trial import run_alone

_COMPARE = ("EQUAL", "NOT_EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL")
_LOGIC = ("LOGICAL_AND", "LOGICAL_OR", "LOGICAL_NOT", "SELECT", "SELECT_V2")
_POLYNOMIAL = ("ADD", "SUB", "MUL", "NEG", "SQUARE", "SQUARED_DIFFERENCE")
_CURVED = ("ABS", "DIV", "EXP", "LOG", "SQRT", "RSQRT", "POW", "SIGN", "MAXIMUM", "MINIMUM", "TANH", "LOGISTIC")
_ACTIVATIONS = ("RELU", "RELU6", "RELU_N1_TO_1", "LEAKY_RELU", "ELU", "GELU", "HARD_SWISH")
_POINTWISE = frozenset((*_COMPARE, *_LOGIC, *_POLYNOMIAL, *_CURVED, *_ACTIVATIONS))
_MOST_STARTS = 6  # how many tensors back a region may begin: the search stays linear in the size of the graph
_TOLERANCE = 1e-5
_TINY = 1e-37  # kernels may take smaller numbers for 0

Step = tuple[str, str | None, dict[str, Any], float | None]
"""One op of a form: kind, options type, options, and its second operand if that is a number."""


def recognise_functions(program: Program) -> list[str]:
    """Edit every subgraph of `program` in place; there is nothing to tell."""
    known: dict[object, tuple[Step, ...] | None] = {}
    for graph in program.graphs:
        editor = Editor(program, graph)
        starts = _starts(list(editor.ops()))
        for op in reversed(list(editor.ops())):
            reached = [] if not op.outputs else starts.get(op.outputs[0], [])
            if reached and editor.maker(op.outputs[0]) is op:  # else a region before has taken it
                _recognise(editor, op, reached, known)
        editor.finish()
    return []


@dataclass(frozen=True)
class _Region:
    """Ops that make the function `y` of `x` alone.

    Attributes:
      ops: in an order in which they can run.
      numbers: what stands in each constant.
    """

    x: Tensor
    y: Tensor
    ops: tuple[Op, ...]
    numbers: dict[Tensor, np.ndarray]

    def key(self) -> object:
        """Equal for two regions that compute the same by the same ops."""
        names = {self.x: 0}
        rows = []
        for op in self.ops:
            operands = tuple(
                float(self.numbers[t]) if t in self.numbers else names.get(t) for t in op.inputs if t is not None
            )
            kinds = tuple(t.dtype for t in op.inputs if t is not None)
            names[op.outputs[0]] = len(names)
            rows.append((op.code, operands, kinds, repr(op.options)))
        return tuple(rows)


def _starts(ops: list[Op]) -> dict[Tensor, list[Tensor]]:
    """For what each pointwise op makes: the tensors of which alone it is a function, the farthest first."""
    starts: dict[Tensor, list[Tensor]] = {}
    for op in ops:
        if not _is_pointwise(op):
            continue
        common: list[Tensor] | None = None
        for tensor in op.inputs:
            if tensor is not None and not tensor.is_constant:
                its = [*starts.get(tensor, []), tensor]
                common = its if common is None else [t for t in common if t in its]
        if common:
            starts[op.outputs[0]] = common[-_MOST_STARTS:]
    return starts


def _is_pointwise(op: Op) -> bool:
    """Whether the op works element by element on tensors of its output's shape, and single numbers."""
    if op.code not in _POINTWISE or len(op.outputs) != 1:
        return False
    made = op.outputs[0]
    for tensor in [*op.inputs, made]:
        if tensor is None or tensor.dtype not in (DType.FLOAT32, DType.BOOL) or tensor.qparams is not None:
            return False
        if tensor.is_variable or not (_number(tensor) is not None if tensor.is_constant else _alike(tensor, made)):
            return False
    return True


def _alike(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and (has_static_shape(a) or a.shape_signature == b.shape_signature)


def _number(tensor: Tensor) -> np.ndarray | None:
    """The one number that a constant holds, as a scalar; None if it holds several."""
    if tensor.extra.get("sparsity") is not None or not tensor.size:
        return None
    flat = tensor.values.reshape(-1)
    same = flat.size == 1 or bool((flat == flat[0]).all())
    return flat[0].reshape(()) if same else None


def _recognise(editor: Editor, last: Op, starts: list[Tensor], known: dict[object, tuple[Step, ...] | None]) -> None:
    """Replace the largest region that ends in `last` and is one of the functions."""
    if not last.outputs or last.outputs[0].dtype is not DType.FLOAT32:
        return
    for x in starts:
        region = _region(editor, x, last) if x.dtype is DType.FLOAT32 else None
        if region is None or all(op.code in _POLYNOMIAL for op in region.ops):
            continue
        key = region.key()
        if key not in known:
            known[key] = _form(region)
        steps = known[key]
        if steps is not None and len(steps) < len(region.ops):
            _replace(editor, region, steps)
            return


def _region(editor: Editor, x: Tensor, last: Op) -> _Region | None:
    found: dict[Op, None] = {}
    numbers: dict[Tensor, np.ndarray] = {}

    def visit(op: Op) -> bool:
        if op in found:
            return True
        for tensor in op.inputs:
            assert tensor is not None
            if tensor.is_constant:
                number = _number(tensor)
                assert number is not None
                numbers[tensor] = number
            elif tensor is not x:
                maker = editor.maker(tensor)
                if maker is None or recorded_range(tensor) is not None or not visit(maker):
                    return False
        found[op] = None
        return True

    if not _is_pointwise(last) or not visit(last) or len(found) < 2:
        return None
    return _Region(x, last.outputs[0], tuple(found), numbers)


# ---------------------------------------------------------------- which function it is


def _points(region: _Region) -> np.ndarray:
    far = np.logspace(-6, 6, 600)
    near = np.array([float(n) for n in region.numbers.values()])
    near = near[np.isfinite(near) & (np.abs(near) < 1e6)]
    around = np.concatenate([near * s for s in (1, 1 - 1e-5, 1 + 1e-5)]) if near.size else near
    # The step is odd, so that no run of points falls in with round numbers.
    dense = np.arange(-16, 16, 0.0037)
    return np.concatenate([dense, far, -far, around, -around, [0.0, 1.0, -1.0, -1e3]]).astype(np.float32)


def _form(region: _Region) -> tuple[Step, ...] | None:
    """The ops that compute the region's function, None if it is none of those in the table."""
    points = _points(region)
    y = run_alone(region.ops, {region.x: points, **region.numbers}, region.y)
    if y is None or y.shape != points.shape or not np.isfinite(y).all():
        return None
    return function_of(points, y)


def function_of(points: np.ndarray, y: np.ndarray) -> tuple[Step, ...] | None:
    """The ops of the function that is `y` at `points` (1-D, with -1000, -1 and 1), None if it isn't in the table."""
    x, y = points.astype(np.float64), y.astype(np.float64)
    near = np.abs(x) <= 8
    size = min(1.0, float(np.abs(y[near]).max()))
    if size == 0:
        return None

    def at(point: float) -> float:
        return float(y[np.abs(x - point).argmin()])

    def fits(expected: np.ndarray) -> bool:
        both_signs = expected.min() < 0 < expected.max()
        scale = np.maximum(size, np.abs(expected)) if both_signs else np.abs(expected)
        return bool((np.abs(y - expected) <= _TOLERANCE * scale + _TINY).all())

    for expected, steps in _CANDIDATES:
        if fits(expected(x)):
            return steps
    # Parameters are read off where the function shows them: far out for bounds, at +-1 for slopes.
    low, high = float(y[x.argmin()]), float(y[x.argmax()])
    for expected, steps in _with_parameters(x, low, high, at(-1.0) / -1.0, at(1.0), at(-1e3)):
        if fits(expected):
            return steps
    return None


def _with_parameters(
    x: np.ndarray, low: float, high: float, left: float, right: float, bottom: float
) -> list[tuple[np.ndarray, tuple[Step, ...]]]:
    """Candidates (values at x, ops) with the parameters that these samples of the function suggest.

    Args:
      low, high: the function at the lowest and highest point.
      left, right: its slopes from 0 to -1 and to 1.
      bottom: its value at -1000.
    """
    found: list[tuple[np.ndarray, tuple[Step, ...]]] = []
    top = float(x.max())
    if 0 < left <= 1e3:
        leaky = np.where(x > 0, x, left * x)
        found.append((leaky, (_leaky(left),)))
        if 0 < high < top:
            found.append((np.minimum(leaky, high), (_leaky(left), _bound("MINIMUM", high))))
    if low < high:
        steps = ((_bound("MAXIMUM", low),) if low > -top else ()) + ((_bound("MINIMUM", high),) if high < top else ())
        found.append((np.clip(x, low, high), steps))
    if right > 0 and bottom < 0:
        alpha = -bottom / right
        elu = right * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))
        steps = (("ELU", None, {}, None), _leaky(alpha))
        scale: tuple[Step, ...] = (("MUL", "MulOptions", {"fusedActivationFunction": 0}, right),)
        found.append((elu, steps if abs(right - 1) < _TOLERANCE else steps + scale))
    return found


def _leaky(alpha: float) -> Step:
    return "LEAKY_RELU", "LeakyReluOptions", {"alpha": float(np.float32(alpha))}, None


def _bound(code: str, bound: float) -> Step:
    return code, "MaximumMinimumOptions", {}, bound


def _gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.array([math.erf(v / math.sqrt(2)) for v in x]))


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    """Hendrycks and Gimpel, Gaussian Error Linear Units, https://arxiv.org/abs/1606.08415."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -x))


_PLAIN: dict[str, Any] = {}
_CANDIDATES: tuple[tuple[Callable[[np.ndarray], np.ndarray], tuple[Step, ...]], ...] = (
    (lambda x: np.maximum(x, 0), (("RELU", None, _PLAIN, None),)),
    (lambda x: np.clip(x, 0, 6), (("RELU6", None, _PLAIN, None),)),
    (lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))), (("ELU", None, _PLAIN, None),)),
    (lambda x: x * np.clip(x + 3, 0, 6) / 6, (("HARD_SWISH", "HardSwishOptions", _PLAIN, None),)),
    (np.abs, (("ABS", "AbsOptions", _PLAIN, None),)),
    (np.tanh, (("TANH", None, _PLAIN, None),)),
    (_sigmoid, (("LOGISTIC", None, _PLAIN, None),)),
    (_gelu, (("GELU", "GeluOptions", {"approximate": False}, None),)),
    (_gelu_tanh, (("GELU", "GeluOptions", {"approximate": True}, None),)),
    (lambda x: x * _sigmoid(x), (("LOGISTIC", None, _PLAIN, None), ("SWISH", None, _PLAIN, None))),
)


def _replace(editor: Editor, region: _Region, steps: tuple[Step, ...]) -> None:
    """Put the ops of `steps` in place of the region; its last op becomes the last of them."""
    last, current = region.ops[-1], region.x
    for number, (code, options_type, options, operand) in enumerate(steps):
        name = region.y.name
        inputs: list[Tensor | None] = [current]
        if code == "SWISH":  # x times the sigmoid before
            code, options_type, options = "MUL", "MulOptions", {"fusedActivationFunction": 0}
            inputs = [region.x, current]
        elif operand is not None:
            inputs.append(editor.constant(f"{name}/{code.lower()}", np.array(operand, np.float32)))
        if number == len(steps) - 1:
            editor.change(last, code, inputs, options_type, dict(options) if options_type else None)
        else:
            current = editor.tensor_like(region.y, f"{name}/{code.lower()}{number}")
            made = Op(code, inputs, [current], dict(options) if options_type else None, options_type)
            editor.insert_before(last, made)
    for op in reversed(region.ops[:-1]):
        editor.prune(op)
