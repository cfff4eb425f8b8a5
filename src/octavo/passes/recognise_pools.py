"""Pooling spelled as a windowed reduction becomes MAX_POOL_2D or AVERAGE_POOL_2D.

Converters leave one-dimensional pooling as STABLEHLO_REDUCE_WINDOW, which has a subgraph for a body and float kernels
only.

Algebra, with windows over the one or two dimensions between batch and channels:

| what stands there                          | becomes |
|--------------------------------------------|---|
| the largest of each window, from -infinity | MAX_POOL_2D |
| the sum of each window of n, no padding    | AVERAGE_POOL_2D, and a MUL by n |
| the same, * 1/n or / n behind it           | AVERAGE_POOL_2D |
| the sum / how many there are, SAME padding | AVERAGE_POOL_2D, whose kernel leaves the padding out too |

Length, channels become length, 1, channels by a RESHAPE around it; -infinity is the lowest float32 as well, since
nothing but the padding is below it.

Refuses windows over batch or channels, dilated ones, padding other than none or SAME, dynamic shapes, other bodies and
other first values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from octavo.graph import DType, Op, Program, Tensor
from octavo.graph.edit import Editor, float_values, has_static_shape
from octavo.passes.fold_pad import same_padding

_SAME, _VALID = 0, 1  # Padding in the schema
_LOWEST = float(np.finfo(np.float32).min)


@dataclass(frozen=True)
class _Window:
    """One windowed reduction: its body, window and strides (height, width), and padding of the schema (None: other)."""

    body: str
    size: tuple[int, int]
    strides: tuple[int, int]
    padding: int | None


def recognise_pools(program: Program) -> list[str]:
    """Edit every subgraph of `program` in place; there is nothing to tell."""
    for graph in program.graphs:
        editor = Editor(program, graph)
        for op in editor.ops():
            window = _window(program, op)
            if window is None or window.padding is None:
                continue
            if window.body == "MAXIMUM":
                _pool(editor, op, op, "MAX_POOL_2D", window)
            else:
                _average(program, editor, op, window)
        editor.finish()
    return []


def _window(program: Program, op: Op) -> _Window | None:
    """What a STABLEHLO_REDUCE_WINDOW does; None if it isn't pooling of float images or sequences."""
    if op.code != "STABLEHLO_REDUCE_WINDOW" or len(op.inputs) != 2:
        return None
    x, start = op.inputs[0], float_values(op.inputs[1])
    body = _body(program, op.option("bodySubgraphIndex", -1))
    first = {"MAXIMUM": _LOWEST, "ADD": 0.0}.get(body)
    if x is None or start is None or start.size != 1 or first is None or len(x.shape) not in (3, 4):
        return None
    begins = float(start.flat[0]) <= first if body == "MAXIMUM" else float(start.flat[0]) == first
    static = has_static_shape(x) and has_static_shape(op.outputs[0]) and x.dtype is DType.FLOAT32
    rank = len(x.shape)
    size, strides, pads, *dilations = (
        _numbers(op, key, rank * per)
        for key, per in (("windowDimensions", 1), ("windowStrides", 1), ("padding", 2), ("baseDilations", 1),
                         ("windowDilations", 1))
    )  # fmt: skip
    if not begins or not static or size is None or strides is None or pads is None:
        return None
    if any(values is None or any(n != 1 for n in values) for values in dilations):
        return None
    ends = (0, rank - 1)
    if any(size[i] != 1 or strides[i] != 1 or pads[2 * i] or pads[2 * i + 1] for i in ends):
        return None
    same = [same_padding(x.shape[i], size[i], strides[i]) for i in range(1, rank - 1)]
    asked = [pads[2 * i : 2 * i + 2] for i in range(1, rank - 1)]
    padding = _VALID if not any(pads) else _SAME if asked == same else None
    tail = [1] * (4 - rank)
    (h, w), (sh, sw) = [*size[1:-1], *tail], [*strides[1:-1], *tail]
    return _Window(body, (h, w), (sh, sw), padding)


def _body(program: Program, index: int) -> str:
    """The op by which a reduction's body joins its two arguments; "" if it does more."""
    if not 0 <= index < len(program.graphs):
        return ""
    body = program.graphs[index]
    whole = len(body.ops) == 1 and body.outputs == body.ops[0].outputs and len(body.inputs) == 2
    plain = whole and not body.ops[0].option("fusedActivationFunction") and set(body.ops[0].inputs) == set(body.inputs)
    return body.ops[0].code if plain else ""


def _numbers(op: Op, key: str, count: int) -> list[int] | None:
    values = op.option(key)
    found = None if values is None else [int(n) for n in np.asarray(values).reshape(-1)]
    if found is None and key in ("padding", "baseDilations", "windowDilations"):
        found = [0 if key == "padding" else 1] * count  # the schema's defaults
    return found if found is not None and len(found) == count else None


def _average(program: Program, editor: Editor, op: Op, window: _Window) -> None:
    count = window.size[0] * window.size[1]
    behind = editor.only_reader(op.outputs[0])
    divided = behind is not None and _divides(program, editor, behind, op, window)
    if divided and behind is not None and not behind.option("fusedActivationFunction"):
        _pool(editor, op, behind, "AVERAGE_POOL_2D", window)
    elif window.padding == _VALID:
        mean = editor.tensor_like(op.outputs[0], f"{op.outputs[0].name}/mean")
        factor = editor.constant(f"{op.outputs[0].name}/count", np.array(count, np.float32))
        x = op.inputs[0]
        editor.change(op, "MUL", [mean, factor], "MulOptions", {"fusedActivationFunction": 0})
        _insert(editor, op, "AVERAGE_POOL_2D", window, x, mean)


def _divides(program: Program, editor: Editor, behind: Op, op: Op, window: _Window) -> bool:
    """Whether `behind` turns the sums that `op` makes into means."""
    total, count = op.outputs[0], window.size[0] * window.size[1]
    if behind.code == "MUL":
        values = next((v for t in behind.inputs if t is not total and (v := float_values(t)) is not None), None)
        exact = values is not None and bool((np.abs(values * count - 1) < 1e-6).all())
        return exact and window.padding == _VALID and behind.outputs[0].shape == total.shape
    if behind.code != "DIV" or behind.inputs[0] is not total or behind.outputs[0].shape != total.shape:
        return False
    values = float_values(behind.inputs[1])
    if values is not None and window.padding == _VALID:
        return bool((values == count).all())
    counter = editor.maker(behind.inputs[1])
    ones = None if counter is None else float_values(counter.inputs[0]) if counter.inputs else None
    if counter is None or ones is None or not (ones == 1).all() or _window(program, counter) != window:
        return False
    x = op.inputs[0]
    return x is not None and ones.ndim == len(x.shape) and ones.shape[1:-1] == x.shape[1:-1]


def _pool(editor: Editor, op: Op, last: Op, code: str, window: _Window) -> None:
    """Let `last` give out the pooled x of the reduction `op`."""
    x, result = op.inputs[0], last.outputs[0]
    assert x is not None
    if op is not last:
        editor.remove(op)
    if len(x.shape) == 4:
        editor.change(last, code, [x], "Pool2DOptions", _options(window))
        return
    batch, length, channels = result.shape
    pooled = editor.tensor_like(result, f"{result.name}/pooled", shape=(batch, length, 1, channels))
    _reshape_back(editor, last, pooled)
    _insert(editor, last, code, window, x, pooled)


def _insert(editor: Editor, before: Op, code: str, window: _Window, x: Tensor | None, made: Tensor) -> None:
    """A pooling op in front of `before`; `made` has rank 4, or the op gets reshapes around it."""
    assert x is not None
    source, target = x, made
    if len(x.shape) == 3:
        source = editor.tensor_like(x, f"{made.name}/image", shape=(x.shape[0], x.shape[1], 1, x.shape[2]))
        _insert_reshape(editor, before, x, source)
        if len(made.shape) == 3:
            batch, length, channels = made.shape
            target = editor.tensor_like(made, f"{made.name}/pooled", shape=(batch, length, 1, channels))
    editor.insert_before(before, Op(code, [source], [target], _options(window), "Pool2DOptions"))
    if target is not made:
        _insert_reshape(editor, before, target, made)


def _insert_reshape(editor: Editor, before: Op, source: Tensor, target: Tensor) -> None:
    shape = editor.constant(f"{target.name}/shape", np.array(target.shape, np.int32))
    options = {"newShape": list(target.shape)}
    editor.insert_before(before, Op("RESHAPE", [source, shape], [target], options, "ReshapeOptions"))


def _reshape_back(editor: Editor, op: Op, source: Tensor) -> None:
    shape = op.outputs[0].shape
    target = editor.constant(f"{op.outputs[0].name}/shape", np.array(shape, np.int32))
    editor.change(op, "RESHAPE", [source, target], "ReshapeOptions", {"newShape": list(shape)})


def _options(window: _Window) -> dict[str, object]:
    return {
        "padding": window.padding, "filterHeight": window.size[0], "filterWidth": window.size[1],
        "strideH": window.strides[0], "strideW": window.strides[1], "fusedActivationFunction": 0,
    }  # fmt: skip
