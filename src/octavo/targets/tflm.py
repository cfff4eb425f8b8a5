"""TensorFlow Lite for Microcontrollers: its portable reference kernels.

Which ops and types it takes was tried on the package tflite-micro (0.dev20261023): a one-op model for each op of the
schema, for each type. `tests/test_targets_runs.py` tries it again. A vendor's kernels (CMSIS-NN, Xtensa, ...) take what
these take, save where they say otherwise.
"""

from __future__ import annotations

from octavo.graph import DType, Op, Tensor
from octavo.recipe import integer
from octavo.targets.limits import PLAIN_LSTM, operand
from octavo.targets.rules import Limit, Source, Target, facts, weights_of


def _short_bias(op: Op) -> tuple[str, Tensor | None] | None:
    data, bias = operand(op, 2), operand(op, 3)
    if data is None or bias is None or data.dtype is not DType.INT16 or bias.dtype is DType.INT64:
        return None
    return f"a {bias.dtype.value} bias", bias


def _int4_per_channel(op: Op) -> tuple[str, Tensor | None] | None:
    weights = weights_of(op)
    if weights is None or weights.dtype is not DType.INT4 or weights.qparams is None:
        return None
    return ("int4 weights with a scale per channel", weights) if weights.qparams.scale.size > 1 else None


_LONG_BIAS = Limit(
    "an int64 bias with int16 activations (its kernel reads any other as if it were int64)",
    _short_bias,
    "quantize it to int8",
)
_ONE_SCALE = Limit("one scale for int4 weights", _int4_per_channel, "quantize with per_channel=False, or to 8 bits")

TFLM = Target(
    name="tflm",
    title="TensorFlow Lite for Microcontrollers",
    scheme=integer(fallback=False, io="int8"),
    elsewhere="TFLM refuses to load a model with such an op",
    customs=frozenset({"TFLite_Detection_PostProcess", "CIRCULAR_BUFFER", "ethos-u"}),
    sources=(
        Source("tflite-micro: MicroMutableOpResolver",
               "https://github.com/tensorflow/tflite-micro/blob/main/tensorflow/lite/micro/micro_mutable_op_resolver.h"),
        Source("tflite-micro: kernels",
               "https://github.com/tensorflow/tflite-micro/tree/main/tensorflow/lite/micro/kernels"),
    ),
    ops={
        **facts("CONV_2D DEPTHWISE_CONV_2D", "float32 int8 int16 int8*int4"),
        **facts("FULLY_CONNECTED", "float32 int8 int16 int8*int4", _ONE_SCALE),
        **facts("TRANSPOSE_CONV", "float32 int8 int16", _LONG_BIAS),
        **facts("BATCH_MATMUL", "float32 int8"),
        **facts("SVDF", "float32 int8"),
        # With float activations and int8 weights it loads as well, and gives out NaN.
        **facts("UNIDIRECTIONAL_SEQUENCE_LSTM", "float32 int8", PLAIN_LSTM),
        **facts("ADD SUB MUL UNPACK SPLIT SPLIT_V PAD PADV2 DYNAMIC_UPDATE_SLICE", "float32 int8 int16 int32"),
        **facts("PACK MAXIMUM MINIMUM GREATER", "float32 int8 int16 int32 int64"),
        **facts("GREATER_EQUAL LESS LESS_EQUAL", "float32 int8 int32 int64"),
        **facts("EQUAL NOT_EQUAL", "float32 int8 int32 int64 bool"),
        **facts("CONCATENATION", "float32 int8 int16 int32 int64 bool"),
        **facts("SLICE STRIDED_SLICE", "float32 int8 int16 int32 bool"),
        **facts("RESHAPE SQUEEZE BROADCAST_TO SHAPE", "float32 int8 int16 uint8 int32 int64 bool"),
        **facts("REVERSE_V2", "float32 int8 uint8 int32 int64 bool"),
        **facts("SQUARED_DIFFERENCE DIV FILL", "float32 int8 int32"),
        **facts("MEAN SUM RELU RELU6 LEAKY_RELU ABS SOFTMAX LOGISTIC TANH", "float32 int8 int16"),
        **facts("MAX_POOL_2D AVERAGE_POOL_2D EXPAND_DIMS TRANSPOSE SELECT_V2", "float32 int8 int16"),
        **facts("RESIZE_NEAREST_NEIGHBOR", "float32 int8 int16"),
        **facts("PRELU ELU HARD_SWISH RSQRT LOG_SOFTMAX L2_NORMALIZATION MIRROR_PAD", "float32 int8"),
        **facts("GATHER GATHER_ND SPACE_TO_DEPTH DEPTH_TO_SPACE SPACE_TO_BATCH_ND", "float32 int8"),
        **facts("BATCH_TO_SPACE_ND RESIZE_BILINEAR REDUCE_MAX REDUCE_MIN ARG_MAX ARG_MIN", "float32 int8"),
        **facts("ADD_N CUMSUM EMBEDDING_LOOKUP", "float32 int8"),
        **facts("EXP LOG SQRT NEG FLOOR CEIL ROUND SQUARE SIN COS FLOOR_DIV FLOOR_MOD L2_POOL_2D", "float32"),
        **facts("ZEROS_LIKE", "float32 int8 int32 int64"),
        **facts("LOGICAL_AND LOGICAL_OR LOGICAL_NOT REDUCE_ALL", "bool"),
        **facts("QUANTIZE", "float32>int8 float32>int16 int8>int8 int8>uint8 int8>int16 uint8>int8 "
                            "int16>int8 int16>int16 int32>int8 int32>int16"),
        **facts("DEQUANTIZE", "int8>float32 uint8>float32 int16>float32"),
        **facts("CAST", "float32>int8 float32>int16 float32>int32 float32>bool int8>float32 int8>int16 int8>int32 "
                        "int8>bool int16>float32 int16>int8 int16>int32 int16>bool int32>float32 int32>int8 "
                        "int32>int16 int32>bool bool>float32 bool>int8 bool>int16 bool>int32"),
        # No activations of their own, or they only pass them on.
        **facts("IF WHILE CALL_ONCE VAR_HANDLE READ_VARIABLE ASSIGN_VARIABLE BROADCAST_ARGS",
                "float32 int8 int16 int32 int64 bool"),
    },
)  # fmt: skip
