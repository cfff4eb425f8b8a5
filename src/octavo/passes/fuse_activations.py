"""RELU, RELU6 and RELU_N1_TO_1 move into the op before, as its fused activation.

Algebra: the kernel clips its own result, which is the same clipping. One op and one tensor less, and the range that is
calibrated is the clipped one. Over a fused activation: relu(relu(x)) = relu(x), relu6(relu(x)) = relu6(x),
relu(relu6(x)) = relu6(x).

Refuses where something else reads the unclipped result, where the op before has another fused activation, and ops whose
kernels take none (or, as TRANSPOSE_CONV's, only in some versions).
"""

from __future__ import annotations

from octavo.graph import DType, Op, Program
from octavo.graph.edit import Editor

# ActivationFunctionType in the schema.
_CODES = {"RELU": 1, "RELU_N1_TO_1": 2, "RELU6": 3}
_TOGETHER = {(0, 1): 1, (0, 2): 2, (0, 3): 3, (1, 1): 1, (2, 2): 2, (3, 3): 3, (1, 3): 3, (3, 1): 3}
_HOSTS = {
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "ADD": "AddOptions",
    "SUB": "SubOptions",
    "MUL": "MulOptions",
    "DIV": "DivOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "MAX_POOL_2D": "Pool2DOptions",
}


def fuse_activations(program: Program) -> list[str]:
    """Edit every subgraph of `program` in place; there is nothing to tell."""
    for graph in program.graphs:
        editor = Editor(program, graph)
        for op in editor.ops():
            if op.code in _CODES and op.outputs[0].dtype is DType.FLOAT32 and not op.outputs[0].is_variable:
                _fuse(editor, op)
        editor.finish()
    return []


def _fuse(editor: Editor, op: Op) -> None:
    host = editor.maker(op.inputs[0])
    if host is None or host.code not in _HOSTS or editor.only_reader(host.outputs[0]) is not op:
        return
    together = _TOGETHER.get((host.option("fusedActivationFunction", 0), _CODES[op.code]))
    if together is None:
        return
    editor.merge(op, host)
    host.options = {**(host.options or {}), "fusedActivationFunction": together}
    host.options_type = host.options_type or _HOSTS[host.code]
