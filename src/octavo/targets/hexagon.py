"""Qualcomm's Hexagon DSP through TensorFlow Lite's Hexagon delegate; a fair guess for other NPUs of its time."""

from __future__ import annotations

from octavo.graph import Op, Tensor
from octavo.recipe import integer
from octavo.targets.limits import (
    DEFAULT_WEIGHTS_FORMAT,
    DILATION_OR_STRIDE,
    NO_DILATION,
    NO_MASKS,
    constants,
    data_input,
    fused,
    option,
    output_size,
    rank,
    size,
    strides,
)
from octavo.targets.rules import Limit, Source, Target, facts

_RELU = ("RELU", "RELU6", "RELU_N1_TO_1")
_8_BIT = "int8 uint8"


def _multiplied(op: Op) -> tuple[str, Tensor | None] | None:
    many, image = op.option("depthMultiplier", 1), data_input(op)
    if many == 1 or image is None or (NO_DILATION.broken(op) is None and image.shape[-1] == 1):
        return None
    return f"depth multiplier {many} on {size(image)}", image


_MULTIPLIER = Limit(
    "a depth multiplier only on one channel and without dilation", _multiplied, "use CONV_2D, or multiplier 1"
)
_NO_FOLDED_ROWS = option("keepNumDims", (False, 0), "outputs of two dimensions", "reshape around it", default=False)

HEXAGON = Target(
    name="hexagon",
    title="Hexagon delegate",
    scheme=integer(fallback=False, io="int8"),
    elsewhere="such an op runs on the CPU",
    limits=(rank(4),),
    sources=(
        Source("TensorFlow Lite: Hexagon delegate, README",
               "https://github.com/tensorflow/tensorflow/blob/master/tensorflow/lite/delegates/hexagon/README.md"),
        Source("TensorFlow Lite: Hexagon delegate, utils.cc (IsNodeSupportedByHexagon, CheckOpVersion)",
               "https://github.com/tensorflow/tensorflow/blob/master/tensorflow/lite/delegates/hexagon/utils.cc"),
    ),
    ops={
        **facts("ADD SUB MUL", _8_BIT, fused(*_RELU), version=2),
        **facts("CONV_2D", _8_BIT, fused(*_RELU), strides(3), NO_DILATION, version=3),
        **facts("DEPTHWISE_CONV_2D", _8_BIT, fused(*_RELU), strides(3), DILATION_OR_STRIDE, _MULTIPLIER, version=3),
        # Its builder takes the range of the weights as a whole (builders/matmul_builder.cc).
        **facts("FULLY_CONNECTED", _8_BIT, fused(*_RELU), DEFAULT_WEIGHTS_FORMAT, _NO_FOLDED_ROWS, constants(2),
                version=4, per_channel=False),
        **facts("TRANSPOSE_CONV", _8_BIT, strides(3), version=2),
        **facts("AVERAGE_POOL_2D MAX_POOL_2D L2_NORMALIZATION", _8_BIT, fused(), version=2),
        **facts("MEAN MIRROR_PAD PAD", _8_BIT, constants(1), version=2),
        **facts("RESIZE_NEAREST_NEIGHBOR", _8_BIT, constants(1), version=2),
        **facts("RESIZE_BILINEAR", _8_BIT, constants(1), output_size(65), version=2),
        **facts("SLICE", _8_BIT, constants(1, 2), version=2),
        **facts("STRIDED_SLICE", _8_BIT, constants(1, 2, 3), NO_MASKS, version=2),
        **facts("SPLIT", _8_BIT, constants(0), version=2),
        **facts("ARG_MAX ARG_MIN CONCATENATION LOGISTIC MAXIMUM MINIMUM PACK RELU RELU6 SOFTMAX", _8_BIT, version=2),
        **facts("SPACE_TO_DEPTH TANH TRANSPOSE", _8_BIT, version=2),
        **facts("DEPTH_TO_SPACE HARD_SWISH NEG RESHAPE", _8_BIT, version=1),
        **facts("QUANTIZE", "int8>int8 uint8>uint8 int8>uint8 uint8>int8", version=2),
    },
)  # fmt: skip
