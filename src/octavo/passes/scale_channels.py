"""A factor and an offset per channel become one 1x1 depthwise convolution.

Algebra: x * c + d, with c and d one number per channel of x (batch, height, width, channels), is a DEPTHWISE_CONV_2D
with the kernel c (1, 1, 1, channels) and the bias d. In float it is the same; as integers it is one rounding instead of
two, and each channel's factor has a scale of its own, where MUL has one scale for all. So stands a BatchNormalization
that couldn't fold into a convolution, as in front of those of ResNetV2 and DenseNet.

Refuses: other ranks; factors that are one number or vary over more than the channels; a MUL whose result something else
reads, or that has a fused activation and an ADD behind it.
"""

from __future__ import annotations

import numpy as np

from octavo.graph import DType, Op, Program, Tensor
from octavo.graph.edit import Editor, float_values

_NONE = 0


def scale_channels(program: Program) -> list[str]:
    """Edit every subgraph of `program` in place; there is nothing to tell."""
    for graph in program.graphs:
        editor = Editor(program, graph)
        for op in editor.ops():
            if op.code == "MUL":
                _replace(editor, op)
        editor.finish()
    return []


def _replace(editor: Editor, mul: Op) -> None:
    found = _per_channel(mul)
    if found is None or found[1].size == 1:
        return
    data, factor = found
    bias, last = np.zeros_like(factor), mul
    add = editor.only_reader(mul.outputs[0])
    offset = _per_channel(add) if add is not None and add.code == "ADD" else None
    if add is not None and offset is not None and mul.option("fusedActivationFunction", _NONE) == _NONE:
        bias, last = np.broadcast_to(offset[1], factor.shape).astype(np.float32), add
    elif mul.option("fusedActivationFunction", _NONE) not in (0, 1, 2, 3):
        return
    activation = last.option("fusedActivationFunction", _NONE)
    name = mul.outputs[0].name
    kernel = editor.constant(f"{name}/kernel", factor.reshape(1, 1, 1, -1))
    offsets = editor.constant(f"{name}/bias", np.ascontiguousarray(bias.reshape(-1)))
    options = {"padding": 1, "strideW": 1, "strideH": 1, "depthMultiplier": 1, "dilationWFactor": 1,
               "dilationHFactor": 1, "fusedActivationFunction": activation}  # fmt: skip
    if last is not mul:
        editor.merge(last, mul)
    editor.change(mul, "DEPTHWISE_CONV_2D", [data, kernel, offsets], "DepthwiseConv2DOptions", options)


def _per_channel(op: Op) -> tuple[Tensor, np.ndarray] | None:
    """The computed operand of a MUL or ADD, and the constant one as (channels,) or (1,); None if it isn't like that."""
    for data, other in ((op.inputs[0], op.inputs[1]), (op.inputs[1], op.inputs[0])):
        values = float_values(other)
        if data is None or data.is_constant or values is None or data.dtype is not DType.FLOAT32:
            continue
        if len(data.shape) != 4 or data.shape != op.outputs[0].shape or values.ndim > 4:
            return None
        if values.size == 1 or (values.size == data.shape[-1] == values.shape[-1]):
            return data, values.reshape(-1)
    return None
