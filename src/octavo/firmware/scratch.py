"""Memory that a device's optimised kernels take besides that of the plain ones, which is what can be measured here.

Arm's CMSIS-NN gathers the inputs of a convolution before it multiplies. Its sizes, for int8 and the vector unit that
takes most (arm_convolve_get_buffer_sizes_s8.c and arm_depthwise_conv_get_buffer_sizes_s8.c of
https://github.com/ARM-software/CMSIS-NN): a convolution 4 * K bytes, with K = kernel height * width * input channels
rounded up to 16; a depthwise convolution 4 * 124 * kernel height * width; a fully-connected layer 4 * outputs. int16
takes twice as much. The arena lends this memory to one op at a time.
"""

from __future__ import annotations

from octavo.graph import DType, Op, Program

_DEPTHWISE_BLOCK = 124  # channels that CMSIS-NN gathers at once


def scratch_bytes(program: Program) -> int:
    """The most that one op takes, in bytes; an estimate, 0 for a model without such ops."""
    return max((_scratch(op) for op in program.ops()), default=0)


def _scratch(op: Op) -> int:
    kernel = op.inputs[1] if len(op.inputs) > 1 else None
    if kernel is None or len(kernel.shape) < 2:
        return 0
    if op.code in ("CONV_2D", "TRANSPOSE_CONV"):
        size = 4 * -(-(kernel.size // kernel.shape[0]) // 16) * 16
    elif op.code == "DEPTHWISE_CONV_2D":
        size = 4 * _DEPTHWISE_BLOCK * kernel.shape[1] * kernel.shape[2]
    elif op.code == "FULLY_CONNECTED":
        size = 4 * kernel.shape[0]
    else:
        return 0
    return size * (2 if op.outputs[0].dtype is DType.INT16 else 1)
