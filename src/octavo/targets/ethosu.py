"""Arm Ethos-U55, U65 and U85, as their compiler Vela 5.2 places ops on them.

U55 and U65 take the same ops; U85 takes more, with fewer conditions. `tests/test_targets_runs.py` holds the ops and
types against Vela itself where it is installed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from octavo.graph import DType, Op, Tensor
from octavo.recipe import integer
from octavo.targets.limits import (
    PLAIN_LSTM,
    axes,
    bias_types,
    constant,
    constants,
    data_input,
    dilation,
    kernel,
    operand,
    option,
    rank,
    reduced_axes,
    resize,
    same_quantization,
    size,
    strides,
    window_of,
)
from octavo.targets.rules import Facts, Limit, Source, Target, data_of, facts, weights_of

_Broken = tuple[str, Tensor | None] | None
_INT8_16 = "int8 uint8 int16"
_INTEGERS = ("int8", "uint8", "int16", "int32")
_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
_WEIGHT_SUM = 8_323_072  # 127 * 65,536; on U85 with 16-bit data it is 256 times as much, which int8 weights can't reach
_VALID = 1


def _sums(op: Op) -> _Broken:
    """Weights of one output, summed up without their signs."""
    weights, data = weights_of(op), data_input(op)
    if weights is None or data is None or weights.dtype is not DType.INT8 or not weights.shape:
        return None
    channel = len(weights.shape) - 1 if op.code == "DEPTHWISE_CONV_2D" else 0
    others = tuple(axis for axis in range(len(weights.shape)) if axis != channel)
    # Nothing of it can be reached with fewer weights than this, and summing up takes time.
    if math.prod(weights.shape[axis] for axis in others) * 128 <= _WEIGHT_SUM:
        return None
    largest = int(np.abs(weights.values.astype(np.int64)).sum(axis=others).max())
    return (f"weights that sum up to {largest:,}", weights) if largest > _WEIGHT_SUM else None


def _long_strides(op: Op) -> _Broken:
    steps = op.option("strideH", 1), op.option("strideW", 1)
    if max(steps) <= 3 or (dilation(op) == (1, 1) and not _pads(op, steps)):
        return None
    return f"strides {steps[0]}x{steps[1]}", None


def _pads(op: Op, steps: tuple[int, int]) -> bool:
    """Whether windows reach past the image: padding SAME may need none."""
    image, result = data_input(op), op.outputs[0]
    if op.option("padding", 0) == _VALID or image is None:
        return False
    window = window_of(op)
    return any((result.shape[i + 1] - 1) * steps[i] + window[i] > image.shape[i + 1] for i in (0, 1))


def _stretched(op: Op) -> _Broken:
    high, wide = op.option("strideH", 1), op.option("strideW", 1)
    image, weights = data_input(op), weights_of(op)
    flat = tuple(
        image is not None and weights is not None and image.shape[axis] == weights.shape[axis] == 1 for axis in (1, 2)
    )
    if (high, wide) in ((1, 1), (2, 2)) or ((high, wide) == (1, 2) and flat[0]) or ((high, wide) == (2, 1) and flat[1]):
        return None
    return f"strides {high}x{wide}", None


def _large_softmax(op: Op) -> _Broken:
    tensor = data_input(op)
    if tensor is None or len(tensor.shape) < 2 or math.prod(tensor.shape[-3:-1]) < 1 << 16:
        return None
    return f"input {size(tensor)}", tensor


def _backwards(op: Op) -> _Broken:
    steps = constant(op, 3)
    return (f"strides {steps}", operand(op, 3)) if steps is not None and min(steps) < 0 else None


def _other_axis(op: Op) -> _Broken:
    tensor, named = data_input(op), axes(op)
    if tensor is None or named is None or named == [len(tensor.shape) - 1]:
        return None
    return f"axis {named[0]} of {size(tensor)}", tensor


def _many_channels(op: Op) -> _Broken:
    tensor = data_input(op)
    return (f"{tensor.shape[-1]} channels", tensor) if tensor is not None and tensor.shape[-1] > 127 else None


def _gathers(op: Op) -> _Broken:
    axis, batches = op.option("axis", 0), op.option("batchDims", 0)
    return None if axis == batches else (f"axis {axis}, {batches} batch dimensions", operand(op, 0))


def _per_channel(op: Op) -> _Broken:
    if op.code in _WEIGHTED:
        return None
    for tensor in data_of(op):
        if tensor.qparams is not None and tensor.qparams.scale.size > 1:
            return "a scale per channel", tensor
    return None


def _mean_depth(named: list[int], tensor: Tensor) -> bool:
    depth = len(tensor.shape) - 1
    return depth not in named or len(tensor.shape) < 3 or 1 in tensor.shape[-3:]


_ONE_SCALE = Limit(f"a scale per channel only in {', '.join(_WEIGHTED)}", _per_channel, "quantize with octavo")
_SUM = Limit(f"weights that sum up to at most {_WEIGHT_SUM:,} for an output", _sums, "split the layer")
_STRIDES = Limit("strides above 3 only without padding and dilation", _long_strides, "use smaller strides")
_UP_STRIDES = Limit("strides 1x1 or 2x2 (2x1 and 1x2 on images of height or width 1)", _stretched, "upsample twice")
_BIAS = bias_types(DType.INT32, DType.INT64)
_AVERAGE = kernel(
    lambda h, w, valid: h <= 256 and h * w <= 1 << 16 if valid else h <= 8 and w <= 8,
    "windows up to 8x8, or up to 256 high and 65,536 large with padding VALID",
)
_MAX = kernel(lambda h, w, _: h <= 256 and h * w <= 1 << 16, "windows up to 256 high and 65,536 large")
_MEAN_BATCH = reduced_axes(lambda _, tensor: len(tensor.shape) < 4 or tensor.shape[0] == 1, "batch 1", "use batch 1")
_MEAN_LENGTH = reduced_axes(
    lambda named, tensor: all(tensor.shape[axis] < 4096 for axis in named),
    "reduced axes shorter than 4,096",
    "reduce in two steps",
)
_MEAN_DEPTH = reduced_axes(
    _mean_depth, "reduction of channels only if height, width or channels are 1", "reduce height and width only"
)
_MEAN = (constants(1), _MEAN_BATCH, _MEAN_LENGTH, _MEAN_DEPTH)
_SOFTMAX = Limit("softmax over fewer than 65,536 rows", _large_softmax, "use smaller images")
_FORWARD = Limit("strides that aren't negative", _backwards, "use REVERSE_V2")
_DEPTH_AXIS = Limit("ARG_MAX along the last axis", _other_axis, "transpose before it")
_FEW_CHANNELS = Limit("at most 127 channels", _many_channels, "take the maximum outside the model")
_GATHER_AXIS = Limit("GATHER with its axis equal to its batch dimensions", _gathers, "transpose before it")
_NOT_BOTH = option("halfPixelCenters", (False, 0), "no half-pixel centres", "resize without", default=False)


def _u55_scale(high: float, wide: float, op: Op) -> bool:
    result = op.outputs[0]
    if high != wide and not ((result.shape[1] == 1 and high == 1) or (result.shape[2] == 1 and wide == 1)):
        return False
    centred = op.code == "RESIZE_BILINEAR" and op.option("halfPixelCenters", False)
    return max(high, wide) in ((2,) if centred else (1, 2, 4, 8))


def _u85_scale(high: float, wide: float, op: Op) -> bool:
    most = 2048 if op.option("alignCorners", False) else 1024
    powers = op.code == "RESIZE_NEAREST_NEIGHBOR" or all(math.log2(x) % 1 == 0 for x in (high, wide) if x > 0)
    return powers and max(high, wide) <= most


_U55_RESIZE = resize(
    _u55_scale, "2, 4 or 8 times as high and wide (2 times with half-pixel centres)", "resize by powers of two"
)
_U85_RESIZE = resize(
    _u85_scale,
    "a power of two times as high and wide, up to 1,024 (2,048 with aligned corners)",
    "resize by powers of two",
)

# Both kinds.
_COMMON: Mapping[str, Facts] = {
    **facts("ABS CONCATENATION EXP HARD_SWISH LEAKY_RELU LOGISTIC PACK PRELU REDUCE_MAX REDUCE_MIN RELU", _INT8_16),
    **facts("RELU6 RELU_0_TO_1 RELU_N1_TO_1 SPLIT SPLIT_V SQUARED_DIFFERENCE TANH TILE UNPACK", _INT8_16),
    **facts("ADD EXPAND_DIMS MUL NEG RESHAPE SQUEEZE SUB SUM", _INT8_16 + " int32"),
    **facts("MAXIMUM MINIMUM", _INT8_16, same_quantization()),
    **facts("ELU", "int8"),
    **facts("GELU", "int8 uint8"),
    **facts("LOG RSQRT", "int8 int16"),
    **facts("MEAN", _INT8_16, *_MEAN),
    **facts("PAD PADV2 MIRROR_PAD", _INT8_16, constants(1)),
    **facts("SLICE", _INT8_16, constants(1, 2)),
    **facts("STRIDED_SLICE", _INT8_16, constants(1, 2, 3), _FORWARD),
    **facts("SOFTMAX", _INT8_16, _SOFTMAX),
    **facts("TRANSPOSE", _INT8_16 + " int32", constants(1), rank(8)),
    **facts("UNIDIRECTIONAL_SEQUENCE_LSTM", "int8", PLAIN_LSTM),
    **facts("QUANTIZE", "int8>int8 int8>uint8 int8>int16 uint8>int8 uint8>uint8 uint8>int16 "
                        "int16>int8 int16>int16"),
}  # fmt: skip

_U55_OPS: Mapping[str, Facts] = {
    **_COMMON,
    **facts("ARG_MAX", "int8 uint8", _DEPTH_AXIS, _FEW_CHANNELS),
    **facts("AVERAGE_POOL_2D", _INT8_16, _AVERAGE, _STRIDES),
    **facts("MAX_POOL_2D", _INT8_16, _MAX, _STRIDES),
    **facts("BATCH_MATMUL", "int8"),
    **facts("CONV_2D", _INT8_16, _BIAS, _SUM, _STRIDES),
    **facts("DEPTHWISE_CONV_2D", _INT8_16, _BIAS, _SUM, strides(3)),
    **facts("FULLY_CONNECTED", _INT8_16, _BIAS, _SUM),
    **facts("TRANSPOSE_CONV", _INT8_16, _BIAS, _SUM, _UP_STRIDES),
    **facts("RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR", _INT8_16, _U55_RESIZE),
}  # fmt: skip

_U85_OPS: Mapping[str, Facts] = {
    **_COMMON,
    **facts("ARG_MAX", "int8 uint8"),
    **facts("AVERAGE_POOL_2D", _INT8_16, _AVERAGE),
    **facts("MAX_POOL_2D", _INT8_16, _MAX),
    **facts("BATCH_MATMUL", _INT8_16),
    **facts("CONV_2D DEPTHWISE_CONV_2D FULLY_CONNECTED TRANSPOSE_CONV", _INT8_16, _BIAS, _SUM),
    **facts("RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR", _INT8_16, _U85_RESIZE),
    **facts("EQUAL GREATER GREATER_EQUAL LESS LESS_EQUAL NOT_EQUAL SELECT SELECT_V2 REVERSE_V2 DIV", _INT8_16),
    **facts("GATHER", _INT8_16, _GATHER_AXIS),
    **facts("LOGICAL_AND LOGICAL_NOT LOGICAL_OR REDUCE_ALL REDUCE_ANY", "bool"),
    **facts("ASSIGN_VARIABLE READ_VARIABLE", _INT8_16 + " int32 bool"),
    **facts("SCATTER_ND", _INT8_16, constants(0, 2)),
    **facts("CAST", " ".join(f"{given}>{made}" for given in _INTEGERS for made in _INTEGERS)),
}  # fmt: skip

_SOURCE = Source(
    "Vela 5.2: SUPPORTED_OPS.md (vela --supported-ops-report)",
    "https://gitlab.arm.com/artificial-intelligence/ethos-u/ethos-u-vela/-/blob/main/SUPPORTED_OPS.md",
)


def _target(number: int, ops: Mapping[str, Facts]) -> Target:
    return Target(
        name=f"ethosu{number}",
        title=f"Ethos-U{number}",
        scheme=integer(fallback=False, io="int8"),
        elsewhere="Vela leaves such an op to the CPU",
        customs=frozenset({"ethos-u"}),
        limits=(_ONE_SCALE,),
        sources=(_SOURCE,),
        ops=ops,
    )


ETHOSU55, ETHOSU65, ETHOSU85 = _target(55, _U55_OPS), _target(65, _U55_OPS), _target(85, _U85_OPS)
