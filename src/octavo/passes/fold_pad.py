"""PAD with zeros before a convolution becomes the convolution's own padding.

Algebra: a VALID convolution of x with t, b, l, r zeros around it is the SAME convolution of x exactly if these are the
zeros that SAME adds: per direction, with n inputs, kernel k (dilated) and stride s, m = ceil(n / s) outputs and
p = max((m - 1) * s + k - n, 0) zeros, of which floor(p / 2) stand before
(https://www.tensorflow.org/api_docs/python/tf/nn#notes_on_padding_2). One op less, and no padded copy in memory.

Refuses any other amount of padding (so the usual 1, 1 before a stride of 2), padding of batch or channels, values other
than 0, dynamic sizes, and padded tensors that something else reads. Pooling is refused too: its SAME isn't zeros.
"""

from __future__ import annotations

from octavo.graph import DType, Op, Program
from octavo.graph.edit import Editor, float_values, int_values

_SAME, _VALID = 0, 1  # Padding in the schema


def fold_pad(program: Program) -> list[str]:
    """Edit every subgraph of `program` in place; there is nothing to tell."""
    for graph in program.graphs:
        editor = Editor(program, graph)
        for op in editor.ops():
            if op.code in ("CONV_2D", "DEPTHWISE_CONV_2D") and op.option("padding", _SAME) == _VALID:
                _fold(editor, op)
        editor.finish()
    return []


def _fold(editor: Editor, op: Op) -> None:
    pad = editor.maker(op.inputs[0], "PAD", "PADV2")
    if pad is None or editor.only_reader(pad.outputs[0]) is not op or not _zeros(pad):
        return
    source, kernel, amounts = pad.inputs[0], op.inputs[1], int_values(pad.inputs[1])
    if source is None or kernel is None or amounts is None or amounts.shape != (4, 2):
        return
    if source.dtype is not DType.FLOAT32 or any(n < 0 for n in (source.shape_signature or ())[1:]):
        return
    dilation = (op.option("dilationHFactor", 1), op.option("dilationWFactor", 1))
    stride = (op.option("strideH", 1), op.option("strideW", 1))
    sizes = zip(source.shape[1:3], kernel.shape[1:3], dilation, stride, strict=True)
    wanted = [[0, 0], *(same_padding(n, (k - 1) * d + 1, s) for n, k, d, s in sizes), [0, 0]]
    if amounts.tolist() == wanted:
        editor.set_input(op, 0, source)
        op.options = {**(op.options or {}), "padding": _SAME}
        editor.remove(pad)


def same_padding(size: int, kernel: int, stride: int) -> list[int]:
    """Zeros before and after that SAME adds in one direction."""
    outputs = -(-size // stride)
    total = max((outputs - 1) * stride + kernel - size, 0)
    return [total // 2, total - total // 2]


def _zeros(pad: Op) -> bool:
    if pad.code == "PAD":
        return True
    values = float_values(pad.inputs[2]) if len(pad.inputs) > 2 else None
    return values is not None and bool((values == 0).all())
