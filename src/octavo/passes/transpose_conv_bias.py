"""MediaPipe's custom op Convolution2DTransposeBias becomes the builtin TRANSPOSE_CONV.

Algebra: both compute the same transposed convolution and add a bias per channel. The operands (data, weights OHWI,
bias) become (output shape, weights, data, bias). The custom options are a C struct of three 32-bit integers: padding (1
SAME, 2 VALID), stride along the width, stride along the height (TfLiteTransposeConvParams in LiteRT's
core/c/builtin_op_data.h). LiteRT runs the custom op in XNNPACK only; the builtin runs everywhere, and in integers.

Refuses dynamic output shapes, options of another length or content, and outputs of a size that this padding and stride
don't make.
"""

from __future__ import annotations

import numpy as np

from octavo.graph import DType, Op, Program
from octavo.graph.edit import Editor, has_static_shape

_CODE = "Convolution2DTransposeBias"
_PADDING = {1: 0, 2: 1}  # TfLitePadding -> Padding in the schema


def transpose_conv_bias(program: Program) -> list[str]:
    """Edit every subgraph of `program` in place; says how many ops it turned."""
    count = 0
    for graph in program.graphs:
        editor = Editor(program, graph)
        for op in editor.ops():
            if op.code == "CUSTOM" and op.custom_code == _CODE and len(op.inputs) == 3:
                count += _turn(editor, op)
        editor.finish()
    return [f"{count} custom op(s) {_CODE} are TRANSPOSE_CONV with a bias now"] if count else []


def _turn(editor: Editor, op: Op) -> bool:
    data, weights, bias = op.inputs
    output = op.outputs[0]
    if data is None or weights is None or bias is None or op.custom_options is None or op.custom_options.size < 12:
        return False
    padding, stride_w, stride_h = (int(n) for n in op.custom_options[:12].view("<i4"))
    plain = all(t.dtype is DType.FLOAT32 and len(t.shape) == 4 for t in (data, weights, output))
    if not plain or padding not in _PADDING or min(stride_w, stride_h) < 1 or not has_static_shape(output):
        return False
    for n, k, s, m in zip(data.shape[1:3], weights.shape[1:3], (stride_h, stride_w), output.shape[1:3], strict=True):
        # The forward convolution of the output must have the data's size.
        if n != (-(-m // s) if padding == 1 else (m - k) // s + 1):
            return False
    if output.shape[0] != data.shape[0] or output.shape[3] != weights.shape[0] or data.shape[3] != weights.shape[3]:
        return False
    shape = editor.constant(f"{output.name}/shape", np.array(output.shape, np.int32))
    options = {"padding": _PADDING[padding], "strideW": stride_w, "strideH": stride_h}
    editor.change(op, "TRANSPOSE_CONV", [shape, weights, data, bias], "TransposeConvOptions", options, version=3)
    return True
