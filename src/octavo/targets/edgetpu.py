"""Coral Edge TPU, as its compiler (version 16.0, the last) maps ops."""

from __future__ import annotations

import numpy as np

from octavo.graph import Op, Tensor
from octavo.recipe import integer
from octavo.targets.limits import (
    DEFAULT_WEIGHTS_FORMAT,
    NO_BATCH_PACK,
    NO_BATCH_PAD,
    NO_BATCH_REDUCTION,
    NO_BATCH_SPLIT,
    NO_MASKS,
    SQUARE_DILATION,
    UNIT_STEPS,
    constants,
    data_input,
    fused,
    inner_dimensions,
    operand,
    reduced_axes,
    size,
)
from octavo.targets.rules import Limit, Source, Target, facts

_RELU = ("RELU", "RELU6", "RELU_N1_TO_1")
_Broken = tuple[str, Tensor | None] | None
_SOFTMAX_SIZE = 16_000


def _padded_with_values(op: Op) -> _Broken:
    parts = [tensor for tensor in op.inputs if tensor is not None]
    fixed = [tensor for tensor in parts if tensor.is_constant]
    if not fixed or (len(parts) == 2 and all(_all_zero(tensor) for tensor in fixed)):
        return None
    return "a constant among its inputs", fixed[0]


def _all_zero(tensor: Tensor) -> bool:
    zero = 0 if tensor.qparams is None else int(tensor.qparams.zero_point[0])
    return bool(np.all(tensor.values == zero))


def _long_softmax(op: Op) -> _Broken:
    tensor = data_input(op)
    if tensor is None or (all(n == 1 for n in tensor.shape[:-1]) and tensor.size <= _SOFTMAX_SIZE):
        return None
    return f"input {size(tensor)}", tensor


def _rows(op: Op) -> _Broken:
    result = op.outputs[0]
    return (f"output {size(result)}", result) if any(n > 1 for n in result.shape[:-1]) else None


def _moved_ones(op: Op) -> _Broken:
    tensor, result = data_input(op), op.outputs[0]
    if tensor is None or tensor.shape[len(tensor.shape) - len(result.shape) :] == result.shape:
        return None
    return f"{size(tensor)} to {size(result)}", tensor


def _wide_slopes(op: Op) -> _Broken:
    slopes = operand(op, 1)
    if slopes is None or all(n == 1 for n in slopes.shape[:-1]):
        return None
    return f"slopes {size(slopes)}", slopes


_ZERO_PADDING = Limit(
    "constants in CONCATENATION only as zeros, and with one other input", _padded_with_values, "use PAD"
)
_ONE_ROW = Limit(
    f"softmax over one row of at most {_SOFTMAX_SIZE:,} values", _long_softmax, "cut the model before the softmax"
)
_FLAT_OUTPUT = Limit("an output of one row", _rows, "use batch 1, or a 1x1 convolution")
_LEADING_ONES = Limit("only leading dimensions of 1 taken away", _moved_ones, "use RESHAPE")
_CHANNEL_SLOPES = Limit("slopes for channels only (Keras: shared_axes=[1, 2])", _wide_slopes, "share the slopes")
_MEAN = reduced_axes(
    lambda named, tensor: len(tensor.shape) < 4 or 3 not in named or tensor.shape[3] % 4 == 0,
    "a mean over channels only where their number is a multiple of 4",
    "reduce height and width only",
)

_8_BIT = "int8 uint8"

EDGETPU = Target(
    name="edgetpu",
    title="Edge TPU",
    # uint8, because Coral's own libraries feed images as they are; see "Model requirements" in the first source.
    scheme=integer(fallback=False, io="uint8"),
    elsewhere="such an op and all ops after it run on the CPU",
    first_only=True,
    customs=frozenset({"edgetpu-custom-op"}),
    limits=(inner_dimensions(3),),
    # Compiler 16.0 came with TensorFlow Lite 2.5, and refuses files with versions that it doesn't know:
    # https://github.com/google-coral/edgetpu/issues/384.
    newest=(2, 5),
    # "roughly 8 MB of SRAM that can cache the model's parameter data": the compiler's page.
    cache_bytes=8 << 20,
    sources=(
        Source("Coral: TensorFlow models on the Edge TPU", "https://coral.ai/docs/edgetpu/models-intro/"),
        Source("Coral: Edge TPU Compiler", "https://coral.ai/docs/edgetpu/compiler/"),
        Source("Axis: supported ops of the Edge TPU (ARTPEC-7)",
               "https://developer.axis.com/computer-vision/on-device/system-on-chip/artpec-7/supported-ops/"),
    ),
    ops={
        **facts("ADD SUB MUL", _8_BIT, fused(*_RELU)),
        **facts("AVERAGE_POOL_2D MAX_POOL_2D", _8_BIT, fused()),
        **facts("CONCATENATION", _8_BIT, fused(), _ZERO_PADDING),
        **facts("CONV_2D DEPTHWISE_CONV_2D", _8_BIT, fused(*_RELU), SQUARE_DILATION, constants(1, 2)),
        # The compiler is of 2021; converters and kernels have a scale per channel in FULLY_CONNECTED since 2024:
        # https://github.com/tensorflow/tflite-micro/pull/2602.
        **facts("FULLY_CONNECTED", _8_BIT, fused(*_RELU), DEFAULT_WEIGHTS_FORMAT, constants(1, 2), _FLAT_OUTPUT,
                per_channel=False),
        **facts("TRANSPOSE_CONV", _8_BIT, constants(1, 3)),
        **facts("MEAN", _8_BIT, NO_BATCH_REDUCTION, _MEAN),
        **facts("SUM REDUCE_MAX REDUCE_MIN", _8_BIT, NO_BATCH_REDUCTION),
        **facts("PACK", _8_BIT, NO_BATCH_PACK),
        **facts("PAD", _8_BIT, NO_BATCH_PAD),
        **facts("PRELU", _8_BIT, _CHANNEL_SLOPES),
        **facts("SOFTMAX", _8_BIT, _ONE_ROW),
        **facts("SPLIT", _8_BIT, NO_BATCH_SPLIT),
        **facts("SQUEEZE", _8_BIT, _LEADING_ONES),
        **facts("STRIDED_SLICE", _8_BIT, UNIT_STEPS, NO_MASKS),
        **facts("EXPAND_DIMS L2_NORMALIZATION LOGISTIC MAXIMUM MINIMUM RELU RELU6 RELU_N1_TO_1 RESHAPE", _8_BIT),
        **facts("RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR RSQRT SLICE SPACE_TO_DEPTH SQUARED_DIFFERENCE", _8_BIT),
        **facts("TANH TRANSPOSE UNIDIRECTIONAL_SEQUENCE_LSTM", _8_BIT),
        **facts("QUANTIZE", "int8>int8 uint8>int8 int8>uint8 uint8>uint8"),
    },
)  # fmt: skip
