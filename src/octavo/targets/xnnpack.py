"""XNNPACK, LiteRT's fast kernels for CPUs of phones, desktops and browsers.

The README's list lags behind the delegate. Which ops and types it takes was therefore tried on ai-edge-litert 2.3.0: a
one-op model for each row of `octavo.ops`, in each precision. `tests/test_targets_runs.py` tries it again.
"""

from __future__ import annotations

from octavo.graph import DType, Op, Tensor
from octavo.recipe import integer
from octavo.targets.limits import (
    BIAS,
    NO_MASKS,
    NO_SHRINKING,
    UNIT_BETA,
    UNIT_STEPS,
    constants,
    fused,
    operand,
    option,
    scales,
)
from octavo.targets.rules import Limit, Source, Target, facts

_RELU = fused("RELU", "RELU_N1_TO_1", "RELU6")
_BOTH = "float32 int8 uint8"
_CONST_1 = constants(1)


def _pointless(op: Op) -> tuple[str, Tensor | None] | None:
    window = op.option("filterHeight", 1), op.option("filterWidth", 1)
    steps = op.option("strideH", 1), op.option("strideW", 1)
    return ("a 1x1 window with strides", None) if window == (1, 1) and steps != (1, 1) else None


def _parts(most: int) -> Limit:
    def broken(op: Op) -> tuple[str, Tensor | None] | None:
        count = max(len(op.inputs), len(op.outputs))
        return (f"{count} parts", None) if count > most else None

    return Limit(f"at most {most} parts", broken, "join or split in two steps")


def _computed(op: Op) -> tuple[str, Tensor | None] | None:
    tensor = operand(op, 0)
    if tensor is None or tensor.dtype is not DType.FLOAT16 or tensor.is_constant:
        return None
    return "a computed float16 tensor", tensor


_WINDOW = Limit("no strides with a 1x1 window", _pointless, "use STRIDED_SLICE")
_STORED = Limit("float16 constants", _computed, "use float32")
_BLOCK = option("blockSize", range(2, 1 << 10), "a block size above 1", "leave it out")

XNNPACK = Target(
    name="xnnpack",
    title="XNNPACK",
    scheme=integer(fallback=True, io="float32"),
    elsewhere="such an op runs on LiteRT's builtin kernels, which are slower",
    static_shapes=False,
    customs=frozenset({"Convolution2DTransposeBias", "MaxPoolingWithArgmax2D", "MaxUnpooling2D"}),
    sources=(
        Source("LiteRT: XNNPACK delegate, xnnpack_delegate.cc",
               "https://github.com/google-ai-edge/LiteRT/blob/main/tflite/delegates/xnnpack/xnnpack_delegate.cc"),
        Source("LiteRT: XNNPACK delegate, README",
               "https://github.com/google-ai-edge/LiteRT/blob/main/tflite/delegates/xnnpack/README.md"),
    ),
    ops={
        **facts("CONV_2D", "float32 int8 uint8 float32*int8", _RELU, BIAS, constants(1, 2)),
        **facts("DEPTHWISE_CONV_2D", _BOTH, _RELU, BIAS, constants(1, 2)),
        **facts("FULLY_CONNECTED", "float32 int8 uint8 int8*int4 float32*int8 float32*int4", _RELU, constants(1, 2)),
        **facts("TRANSPOSE_CONV", _BOTH, constants(0, 1, 3)),
        **facts("BATCH_MATMUL", "float32 int8 float32*int8"),
        **facts("ADD SUB", _BOTH, _RELU, scales(2**-10, 2**8)),
        **facts("MUL", _BOTH, _RELU, scales(2**-16, 2**8, product=True)),
        **facts("DIV", "float32", _RELU),
        **facts("MEAN SUM REDUCE_MAX REDUCE_MIN", _BOTH, _CONST_1),
        **facts("MAX_POOL_2D", _BOTH, _RELU, _WINDOW),
        **facts("AVERAGE_POOL_2D", "float32", _RELU, _WINDOW),
        **facts("PAD TRANSPOSE RESIZE_BILINEAR", _BOTH, _CONST_1),
        **facts("RESHAPE", _BOTH, _CONST_1),
        **facts("SLICE", _BOTH, constants(1, 2)),
        **facts("STRIDED_SLICE", _BOTH, constants(1, 2, 3), UNIT_STEPS, NO_MASKS, NO_SHRINKING),
        **facts("CONCATENATION", _BOTH, _parts(5)),
        **facts("SPLIT", _BOTH, _parts(4), constants(0)),
        **facts("DEPTH_TO_SPACE SPACE_TO_DEPTH", _BOTH, _BLOCK),
        **facts("LEAKY_RELU", _BOTH, scales(2**-8, 2**7)),
        **facts("LOGISTIC TANH", _BOTH),
        **facts("ELU", "float32 int8"),
        **facts("PRELU", "float32", _CONST_1),
        **facts("SOFTMAX", "float32", UNIT_BETA),
        **facts("RELU RELU6 RELU_N1_TO_1 HARD_SWISH GELU ABS NEG EXP LOG SQRT RSQRT SQUARE", "float32"),
        **facts("SQUARED_DIFFERENCE MAXIMUM MINIMUM FLOOR CEIL ROUND SIN COS", "float32"),
        **facts("DENSIFY", "float32 float16 int8"),
        **facts("READ_VARIABLE ASSIGN_VARIABLE VAR_HANDLE", "float32 int8"),
        **facts("QUANTIZE", "float32>int8 float32>uint8 float16>int8 float16>uint8 int8>int8 uint8>uint8",
                scales(2**-8, 2**7)),
        **facts("DEQUANTIZE", "int8>float32 uint8>float32 float16>float32", _STORED),
    },
)  # fmt: skip
