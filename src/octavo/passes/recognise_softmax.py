"""Softmax with its shift beside it, or in pieces, becomes SOFTMAX or LOG_SOFTMAX.

Algebra, with m the same along the axis of the softmax (whatever it is, the largest element as a rule):

| what stands there                       | becomes |
|-----------------------------------------|---|
| softmax(x - m)                          | SOFTMAX(x): exp(-m) cancels |
| exp(x - m) / the sum of it along an axis | SOFTMAX(x), between two TRANSPOSEs if the axis isn't the last |
| (x - m) - log(the sum of exp(x - m))    | LOG_SOFTMAX(x), axis last |

The kernels subtract the largest element themselves, so nothing overflows. Without this, the shift is rounded to int8 on
its own, and its lower bound (MAXIMUM with the lowest float) has no integer form.

Refuses m that vary along the axis, sums over several axes, dynamic shapes where a TRANSPOSE would be needed, and
pieces that something else reads. Rows that are -infinity throughout are NaN in Keras and may differ here.
"""

from __future__ import annotations

import numpy as np

from octavo.graph import DType, Op, Program, Tensor
from octavo.graph.edit import Editor, has_static_shape, int_values

_VIEWS = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS")


def recognise_softmax(program: Program) -> list[str]:
    """Edit every subgraph of `program` in place; there is nothing to tell."""
    for graph in program.graphs:
        editor = Editor(program, graph)
        for op in editor.ops():
            if op.outputs and op.outputs[0].dtype is DType.FLOAT32 and not op.option("fusedActivationFunction"):
                if op.code == "SOFTMAX":
                    _unshift(editor, op)
                elif op.code == "DIV":
                    _quotient(editor, op)
                elif op.code == "SUB":
                    _logarithm(editor, op)
        editor.finish()
    return []


def _unshift(editor: Editor, op: Op) -> None:
    shifted = op.inputs[0]
    x = _unshifted(editor, shifted, -1)
    if shifted is not None and x is not shifted:
        shift = editor.maker(shifted)
        editor.set_input(op, 0, x)
        editor.prune(shift)


def _unshifted(editor: Editor, shifted: Tensor | None, axis: int) -> Tensor | None:
    """x, if the tensor is x - m with m the same along `axis`; else the tensor itself."""
    sub = editor.maker(shifted, "SUB")
    if shifted is None or sub is None or sub.option("fusedActivationFunction"):
        return shifted
    x, m = sub.inputs
    if x is None or m is None or x.shape != shifted.shape or not x.shape or x.is_constant:
        return shifted
    wide = (1,) * (len(x.shape) - len(m.shape)) + m.shape
    return x if len(wide) == len(x.shape) and wide[axis] == 1 and x.shape[axis] != 1 else shifted


def _sum_of_exponentials(editor: Editor, total: Tensor | None) -> tuple[Op, int] | None:
    """(EXP, axis) of whose sum `total` is made, by way of reshapes that keep the order; else None."""
    maker = editor.maker(total, "SUM", *_VIEWS)
    while maker is not None and maker.code in _VIEWS:
        maker = editor.maker(maker.inputs[0], "SUM", *_VIEWS)
    exp = None if maker is None else editor.maker(maker.inputs[0], "EXP")
    axes = None if maker is None else int_values(maker.inputs[1])
    if maker is None or exp is None or axes is None or axes.size != 1:
        return None
    return exp, int(axes.flat[0]) % max(len(exp.outputs[0].shape), 1)


def _lies_along(total: Tensor, shape: tuple[int, ...], axis: int) -> bool:
    """Whether a sum of `shape` over `axis` broadcasts back onto it in its place."""
    wide = (1,) * (len(shape) - len(total.shape)) + total.shape
    return wide == tuple(1 if i == axis else n for i, n in enumerate(shape))


def _quotient(editor: Editor, op: Op) -> None:
    """A softmax, exp(z) / sum(exp(z))."""
    numerator, total = op.inputs
    found = _sum_of_exponentials(editor, total)
    if found is None or total is None or numerator is None or found[0].outputs[0] is not numerator:
        return
    exp, axis = found
    shape = numerator.shape
    if op.outputs[0].shape != shape or not _lies_along(total, shape, axis) or _is_shared(editor, numerator):
        return
    z = exp.inputs[0]
    x = _unshifted(editor, z, axis)
    last = len(shape) - 1
    if x is None or (axis != last and not has_static_shape(x)):
        return
    options = {"beta": 1.0}
    before = editor.maker(total)
    if axis == last:
        editor.change(op, "SOFTMAX", [x], "SoftmaxOptions", options)
    else:
        order = [i for i in range(len(shape)) if i != axis] + [axis]
        turned = tuple(shape[i] for i in order)
        name = op.outputs[0].name
        front = editor.tensor_like(x, f"{name}/turned", shape=turned)
        soft = editor.tensor_like(op.outputs[0], f"{name}/softmax", shape=turned)
        there = editor.constant(f"{name}/order", np.array(order, np.int32))
        back = editor.constant(f"{name}/order_back", np.argsort(order).astype(np.int32))
        editor.insert_before(op, Op("TRANSPOSE", [x, there], [front], {}, "TransposeOptions"))
        editor.insert_before(op, Op("SOFTMAX", [front], [soft], options, "SoftmaxOptions"))
        editor.change(op, "TRANSPOSE", [soft, back], "TransposeOptions", {})
    editor.prune(before)
    editor.prune(exp)


def _logarithm(editor: Editor, op: Op) -> None:
    """The logarithm of a softmax, z - log(sum(exp(z)))."""
    z, log = op.inputs[0], editor.maker(op.inputs[1], "LOG", *_VIEWS)
    while log is not None and log.code in _VIEWS:
        log = editor.maker(log.inputs[0], "LOG", *_VIEWS)
    found = None if log is None else _sum_of_exponentials(editor, log.inputs[0])
    if found is None or z is None or op.inputs[1] is None or found[0].inputs[0] is not z:
        return
    axis = found[1]
    if op.outputs[0].shape != z.shape or axis != len(z.shape) - 1 or not _lies_along(op.inputs[1], z.shape, axis):
        return
    before = editor.maker(op.inputs[1])
    editor.change(op, "LOG_SOFTMAX", [_unshifted(editor, z, axis)], "LogSoftmaxOptions", {})
    editor.prune(before)
    editor.prune(editor.maker(z, "SUB"))


def _is_shared(editor: Editor, numerator: Tensor) -> bool:
    """Whether something besides its sum and its quotient reads the numerator, so that it has to stay."""
    return editor.is_border(numerator) or len(editor.readers(numerator)) != 2
