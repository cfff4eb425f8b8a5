"""Multiplications and additions of constants move into the weights and bias of the op next to them.

Algebra, for a linear op y = W x + b (CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED, TRANSPOSE_CONV) with o output and i
input channels:

| what stands there          | becomes                          |
|----------------------------|----------------------------------|
| (W x + b) * c[o]           | (c[o] W) x + c[o] b              |
| (W x + b) + c[o]           | W x + (b + c[o])                 |
| (W x + b) - c[o]           | W x + (b - c[o])                 |
| c[o] - (W x + b)           | (-W) x + (c[o] - b)              |
| W (x * c[i]) + b           | (W c[i]) x + b                   |
| W (x + c[i]) + b           | W x + (b + the sum of W c[i])    |

So BatchNorm that an exporter left as MUL and ADD goes, and with it two roundings to int8.

Refuses, after the op: constants that vary over anything but the channels; a fused activation in between, unless it is
RELU and all c > 0 (relu(y) * c = relu(y * c)); a fused activation onto TRANSPOSE_CONV, which takes one in few versions
only. Before the op: an added constant with SAME padding or a transposed
convolution, where zeros stand beside x and not c; grouped convolutions; a fused activation of the MUL or ADD. In both
places: results that something else reads, weights that several ops share or that aren't constants, and numbers that
would leave float32's range.
"""

from __future__ import annotations

import numpy as np

from octavo.graph import DType, Op, Program, Tensor
from octavo.graph.edit import Editor, float_values
from octavo.ops import OPS, Weights

_LINEAR = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
_AFFINE = ("MUL", "ADD", "SUB")
_NONE, _RELU = 0, 1  # ActivationFunctionType in the schema
_VALID = 1  # Padding in the schema


def fold_scales(program: Program) -> list[str]:
    """Edit every subgraph of `program` in place; there is nothing to tell."""
    for graph in program.graphs:
        editor = Editor(program, graph)
        for op in editor.ops():
            if op.code in _AFFINE:
                _fold_after(editor, op)
        for op in reversed(list(editor.ops())):  # the one next to the linear op first
            if op.code in _AFFINE:
                _fold_before(editor, op)
        editor.finish()
    return []


def _operand(op: Op) -> tuple[Tensor, np.ndarray, bool] | None:
    """(x, constant, whether the constant comes first) of an op of x and a constant that keeps x's shape."""
    if op.outputs[0].dtype is not DType.FLOAT32 or len(op.inputs) != 2:
        return None
    for index in (0, 1):
        x, values = op.inputs[1 - index], float_values(op.inputs[index])
        if x is not None and values is not None and not x.is_constant and x.shape == op.outputs[0].shape:
            return x, values, index == 0
    return None


def _per_channel(values: np.ndarray, channels: int, rank: int) -> np.ndarray | None:
    """The constant as one float64 number per channel (the last dimension); None if it varies over others."""
    if values.size == 1:
        return np.full(channels, values.reshape(-1)[0], np.float64)
    if values.shape and values.size == values.shape[-1] == channels and values.ndim <= rank:
        return values.reshape(-1).astype(np.float64)
    return None


def _linear_parts(editor: Editor, op: Op) -> tuple[Weights, np.ndarray, np.ndarray] | None:
    """(where the weights are, weights, bias) of a linear op; None if they aren't its own constants."""
    facts = OPS[op.code].weights
    assert facts is not None and facts.bias is not None and facts.axis is not None
    kernel = op.inputs[facts.index]
    bias = op.inputs[facts.bias] if facts.bias < len(op.inputs) else None
    values = float_values(kernel)
    if kernel is None or values is None or op.option("weightsFormat") or editor.readers(kernel) != [op]:
        return None
    offset = np.zeros(kernel.shape[facts.axis]) if bias is None else float_values(bias)
    if offset is None or offset.shape != (kernel.shape[facts.axis],):
        return None
    return facts, values, offset.astype(np.float64)


def _fold_after(editor: Editor, op: Op) -> None:
    """Into the linear op that makes the operand."""
    found = _operand(op)
    linear = None if found is None else editor.maker(found[0], *_LINEAR)
    parts = None if linear is None else _linear_parts(editor, linear)
    if found is None or linear is None or parts is None or editor.only_reader(linear.outputs[0]) is not op:
        return
    (x, values, first), (facts, kernel, bias) = found, parts
    constant = _per_channel(values, bias.size, len(x.shape))
    if constant is None or not x.shape or x.shape[-1] != bias.size:
        return
    inner, outer = linear.option("fusedActivationFunction", _NONE), op.option("fusedActivationFunction", _NONE)
    scaled = inner == _RELU and op.code == "MUL" and bool((constant > 0).all()) and outer in (_NONE, _RELU)
    if (inner != _NONE and not scaled) or (outer != _NONE and linear.code == "TRANSPOSE_CONV"):
        return
    along = [1] * kernel.ndim
    along[facts.axis or 0] = -1
    factor = constant if op.code == "MUL" else np.full(bias.size, -1.0) if op.code == "SUB" and first else None
    added = {"MUL": np.zeros_like(constant), "ADD": constant, "SUB": constant if first else -constant}[op.code]
    scaled_kernel = None if factor is None else kernel * factor.reshape(along)
    if not _store(editor, linear, facts, scaled_kernel, (bias if factor is None else bias * factor) + added):
        return
    editor.merge(op, linear)
    if inner == _NONE and outer != _NONE:
        linear.options = {**(linear.options or {}), "fusedActivationFunction": outer}
        linear.options_type = linear.options_type or OPS[linear.code].options_type


def _fold_before(editor: Editor, op: Op) -> None:
    """Into the linear op that reads the result."""
    found = _operand(op)
    linear = editor.only_reader(op.outputs[0])
    if found is None or linear is None or linear.code not in _LINEAR or op.option("fusedActivationFunction", _NONE):
        return
    parts = _linear_parts(editor, linear)
    (x, values, first) = found
    if parts is None or linear.inputs[parts[0].data] is not op.outputs[0] or not x.shape:
        return
    facts, kernel, bias = parts
    constant = _per_channel(values, x.shape[-1], len(x.shape))
    spread = None if constant is None else _along_inputs(linear, kernel, constant)
    if spread is None:
        return
    weighted = np.multiply(kernel, spread, dtype=np.float64)
    new_kernel = None
    if op.code == "MUL":
        new_kernel = weighted
    else:
        if linear.code == "TRANSPOSE_CONV" or (linear.code != "FULLY_CONNECTED" and linear.option("padding") != _VALID):
            return
        axes = tuple(axis for axis in range(kernel.ndim) if axis != facts.axis)
        sign = -1.0 if op.code == "SUB" and not first else 1.0
        bias = bias + sign * weighted.sum(axis=axes)
        new_kernel = -kernel if op.code == "SUB" and first else None
    if _store(editor, linear, facts, new_kernel, bias):
        editor.set_input(linear, facts.data, x)
        editor.remove(op)


def _along_inputs(linear: Op, kernel: np.ndarray, constant: np.ndarray) -> np.ndarray | None:
    """One number per input channel, laid out to multiply the weights; None for grouped convolutions."""
    if linear.code == "DEPTHWISE_CONV_2D":
        multiplier, rest = divmod(kernel.shape[3], constant.size)
        return None if rest else np.repeat(constant, multiplier)
    if kernel.shape[-1] == constant.size:
        return constant
    return constant[0] if constant.size and (constant == constant[0]).all() else None


def _store(editor: Editor, linear: Op, facts: Weights, kernel: np.ndarray | None, bias: np.ndarray) -> bool:
    """Give the op new weights (None: it keeps its own) and bias; False if they would leave float32's range."""
    old = linear.inputs[facts.index]
    with np.errstate(over="ignore", under="ignore"):
        new_kernel, new_bias = None if kernel is None else kernel.astype(np.float32), bias.astype(np.float32)
    if not ((new_kernel is None or np.isfinite(new_kernel).all()) and np.isfinite(new_bias).all()):
        return False
    assert old is not None and facts.bias is not None
    had_bias = facts.bias < len(linear.inputs) and linear.inputs[facts.bias] is not None
    if new_kernel is not None:
        editor.set_input(linear, facts.index, editor.constant(old.name, new_kernel))
    if had_bias or new_bias.any():
        before = linear.inputs[facts.bias] if had_bias else None
        name = f"{linear.outputs[0].name}/bias" if before is None else before.name
        editor.set_input(linear, facts.bias, editor.constant(name, new_bias))
        if linear.code == "TRANSPOSE_CONV":
            linear.version = max(linear.version, 3)  # the first with a bias
    return True
