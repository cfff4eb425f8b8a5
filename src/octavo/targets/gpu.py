"""Phones' GPUs through LiteRT's GPU delegate (OpenCL, OpenGL)."""

from __future__ import annotations

from octavo.graph import DType, Op, Tensor
from octavo.recipe import float16
from octavo.targets.limits import (
    DEFAULT_WEIGHTS_FORMAT,
    NO_MASKS,
    NO_SHRINKING,
    UNIT_BETA,
    constants,
    data_input,
    fused,
    operand,
    option,
    rank,
    size,
)
from octavo.targets.rules import Limit, Source, Target, facts

_FUSED = fused("RELU", "RELU_N1_TO_1", "RELU6", "TANH")
_Broken = tuple[str, Tensor | None] | None
# Quantized models are taken too (they run in float): TFLITE_GPU_EXPERIMENTAL_FLAGS_ENABLE_QUANT, set by default.
_ANY = "float32 float16 int8 uint8 float32*int8"


def _crossed(op: Op) -> _Broken:
    one, other = operand(op, 0), operand(op, 1)
    if one is None or other is None or len(one.shape) != len(other.shape):
        return None
    pairs = list(zip(one.shape, other.shape, strict=True))
    if any(a < b for a, b in pairs) and any(b < a for a, b in pairs):
        return f"{size(one)} times {size(other)}", one
    return None


def _multiplied(op: Op) -> _Broken:
    many, image = op.option("depthMultiplier", 1), data_input(op)
    if many == 1 or image is None or image.shape[-1] == 1:
        return None
    return f"depth multiplier {many} on {size(image)}", image


def _paddings(op: Op) -> _Broken:
    paddings = operand(op, 1)
    if paddings is None or paddings.shape in ((3, 2), (4, 2)):
        return None
    return f"{paddings.shape[0] if paddings.shape else 0} dimensions", paddings


def _indices(op: Op) -> _Broken:
    indices = operand(op, 1)
    if indices is None or (len(indices.shape) == 1 and indices.dtype is DType.INT32):
        return None
    return f"{indices.dtype.value} indices {size(indices)}", indices


_BROADCAST = Limit("one factor that is at least as large as the other in every dimension", _crossed, "use CONV_2D")
_MULTIPLIER = Limit("a depth multiplier only on one channel", _multiplied, "use CONV_2D, or multiplier 1")
_PADDINGS = Limit("padding of 3 or 4 dimensions", _paddings, "reshape to 4 dimensions")
_INDICES = Limit("int32 indices of one dimension", _indices, "reshape the indices")
_BLOCK = option("blockSize", range(2, 1 << 10), "a block size above 1", "leave it out")
_REFLECT = option("mode", (0,), "MIRROR_PAD that reflects", "use mode REFLECT")
_CONST_AXES = constants(1)

GPU = Target(
    name="gpu",
    title="GPU delegate",
    scheme=float16(),
    elsewhere="such an op runs on the CPU, and the model is cut there",
    customs=frozenset({"Convolution2DTransposeBias", "MaxPoolingWithArgmax2D", "MaxUnpooling2D", "Resampler"}),
    sources=(
        Source("TensorFlow Lite: gpu_compatibility.cc (CheckGpuDelegateCompatibility)",
               "https://github.com/tensorflow/tensorflow/blob/master/tensorflow/lite/tools/versioning/gpu_compatibility.cc"),
        Source("LiteRT: GPU delegates", "https://ai.google.dev/edge/litert/performance/gpu"),
    ),
    ops={
        **facts("ADD ADD_N CONCATENATION PACK PRELU RELU RELU6 RELU_N1_TO_1 LEAKY_RELU SPLIT SPLIT_V TILE", _ANY),
        **facts("BATCH_MATMUL HARD_SWISH RESHAPE TRANSPOSE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR", _ANY),
        **facts("AVERAGE_POOL_2D MAX_POOL_2D SUB DIV", _ANY, _FUSED),
        **facts("CONV_2D", _ANY, _FUSED),
        **facts("DEPTHWISE_CONV_2D", _ANY, _FUSED, rank(4, 4), _MULTIPLIER),
        **facts("TRANSPOSE_CONV", _ANY),
        **facts("FULLY_CONNECTED", _ANY, DEFAULT_WEIGHTS_FORMAT),
        **facts("MUL", _ANY, _FUSED, _BROADCAST),
        **facts("MEAN REDUCE_MAX REDUCE_MIN REDUCE_PROD SUM", _ANY, _CONST_AXES),
        **facts("CUMSUM", "float32 float16", _CONST_AXES),
        **facts("DEPTH_TO_SPACE SPACE_TO_DEPTH", _ANY, _BLOCK),
        **facts("SLICE", _ANY, rank(4, 3)),
        **facts("STRIDED_SLICE", _ANY, NO_MASKS, NO_SHRINKING, rank(4, 3)),
        **facts("PAD PADV2", _ANY, _PADDINGS),
        **facts("MIRROR_PAD", _ANY, _PADDINGS, _REFLECT),
        **facts("SOFTMAX", _ANY, UNIT_BETA),
        **facts("GATHER", _ANY, _INDICES),
        **facts("ABS CEIL COS ELU EXP FLOOR GELU LOG LOGISTIC NEG RSQRT SIGN SIN SQRT SQUARE TANH", _ANY),
        **facts("ATAN2 EQUAL FLOOR_DIV FLOOR_MOD GREATER GREATER_EQUAL LESS LESS_EQUAL MAXIMUM MINIMUM", _ANY),
        **facts("NOT_EQUAL POW SQUARED_DIFFERENCE SELECT SELECT_V2 DYNAMIC_UPDATE_SLICE LSTM", _ANY),
        **facts("LOGICAL_AND", "bool"),
        **facts("EMBEDDING_LOOKUP", "float32 int8 float32*int8 float32*int4"),
        **facts("ONE_HOT", "float32"),
        **facts("QUANTIZE", "float32>int8 float32>uint8 int8>int8 int8>uint8 uint8>int8"),
        **facts("DEQUANTIZE", "float16>float32 int8>float32 uint8>float32"),
        **facts("CAST", "bool>float32 bool>float16 float32>bool float16>bool int32>float32 float32>int32"),
        **facts("DENSIFY", "float32 float16 int8"),
    },
)  # fmt: skip
