"""Which LiteRT op a Keras layer becomes: the one table between the two worlds.

It holds names only. What such an op does to scales, where its weights are and which activations fuse into it is read
from `octavo.ops`. A layer that isn't here computes in float, and what it takes and gives is still quantized.

A layer of your own says the same by a method: `def octavo_kind(self): return octavo.qat.kinds.Kind("CONV_2D", {...})`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from octavo.ops import OPS, Row


@dataclass(frozen=True)
class Kind:
    """What a layer is on the device.

    Attributes:
      op: the LiteRT op's name in `octavo.ops`; "" for none of them (float).
      weights: attribute that holds weights -> the dimensions of its output channels, as Keras stores it.
    """

    op: str
    weights: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def row(self) -> Row | None:
        """The op's row, None if it has no 8-bit kernel."""
        row = OPS.get(self.op)
        return row if row is not None and row.int8 is not None else None


FLOAT = Kind("")
# Layers that do nothing when the model predicts.
NOTHING = Kind("RESHAPE")

# Activation functions by their Keras name.
ACTIVATIONS: Mapping[str, str] = {
    "relu": "RELU",
    "relu6": "RELU6",
    "leaky_relu": "LEAKY_RELU",
    "elu": "ELU",
    "sigmoid": "LOGISTIC",
    "tanh": "TANH",
    "softmax": "SOFTMAX",
    "log_softmax": "LOG_SOFTMAX",
    "exponential": "EXP",
    "hard_silu": "HARD_SWISH",
    "hard_swish": "HARD_SWISH",
}


def activation_name(function: Any) -> str:
    """The Keras name of an activation function; "linear" for none."""
    return "linear" if function is None else getattr(function, "__name__", type(function).__name__)


def _activation(layer: Any) -> Kind:
    name = activation_name(layer.activation)
    return NOTHING if name == "linear" else Kind(ACTIVATIONS.get(name, ""))


def _relu(layer: Any) -> Kind:
    """keras.layers.ReLU covers several ops."""
    if layer.threshold:
        return FLOAT
    if layer.negative_slope:
        return Kind("LEAKY_RELU") if layer.max_value is None else FLOAT
    return {None: Kind("RELU"), 6.0: Kind("RELU6")}.get(layer.max_value, FLOAT)


def _relu_op(operation: Any) -> Kind:
    return Kind(ACTIVATIONS.get(type(operation).__name__.lower(), ""))


def _normalization(layer: Any) -> Kind:
    """Where it can't fold into the layer before, a factor and an offset per channel (see `passes.scale_channels`)."""
    return Kind("DEPTHWISE_CONV_2D") if layer.input_spec is not None and layer.input_spec.ndim == 4 else Kind("MUL")


_DEPTHWISE = Kind("DEPTHWISE_CONV_2D", {"kernel": (-2, -1)})
_CONV = Kind("CONV_2D", {"kernel": (-1,)})
_TRANSPOSE_CONV = Kind("TRANSPOSE_CONV", {"kernel": (-2,)})
_MAX_POOL, _AVERAGE_POOL = Kind("MAX_POOL_2D"), Kind("AVERAGE_POOL_2D")

# Class name of a layer, or of an operation from keras.ops -> its kind, or a function of the layer that tells.
KINDS: Mapping[str, Kind | Callable[[Any], Kind]] = {
    "Conv1D": _CONV,
    "Conv2D": _CONV,
    "DepthwiseConv1D": _DEPTHWISE,
    "DepthwiseConv2D": _DEPTHWISE,
    "Conv1DTranspose": _TRANSPOSE_CONV,
    "Conv2DTranspose": _TRANSPOSE_CONV,
    "Dense": Kind("FULLY_CONNECTED", {"kernel": (-1,)}),
    "Add": Kind("ADD"),
    "Subtract": Kind("SUB"),
    "Multiply": Kind("MUL"),
    "Maximum": Kind("MAXIMUM"),
    "Minimum": Kind("MINIMUM"),
    "Concatenate": Kind("CONCATENATION"),
    "MaxPooling1D": _MAX_POOL,
    "MaxPooling2D": _MAX_POOL,
    "AveragePooling1D": _AVERAGE_POOL,
    "AveragePooling2D": _AVERAGE_POOL,
    "GlobalAveragePooling1D": Kind("MEAN"),
    "GlobalAveragePooling2D": Kind("MEAN"),
    "GlobalMaxPooling1D": Kind("REDUCE_MAX"),
    "GlobalMaxPooling2D": Kind("REDUCE_MAX"),
    "Mean": Kind("MEAN"),
    "Reshape": Kind("RESHAPE"),
    "Flatten": Kind("RESHAPE"),
    "ExpandDims": Kind("RESHAPE"),
    "Squeeze": Kind("RESHAPE"),
    "Permute": Kind("TRANSPOSE"),
    "Transpose": Kind("TRANSPOSE"),
    "RepeatVector": Kind("BROADCAST_TO"),
    "Cropping1D": Kind("STRIDED_SLICE"),
    "Cropping2D": Kind("STRIDED_SLICE"),
    "GetItem": Kind("STRIDED_SLICE"),
    "Split": Kind("SPLIT"),
    "ZeroPadding1D": Kind("PAD"),
    "ZeroPadding2D": Kind("PAD"),
    "UpSampling1D": Kind("RESIZE_NEAREST_NEIGHBOR"),
    "UpSampling2D": lambda layer: Kind(
        {"nearest": "RESIZE_NEAREST_NEIGHBOR", "bilinear": "RESIZE_BILINEAR"}.get(layer.interpolation, "")
    ),
    "ReLU": _relu,
    "Relu": _relu_op,
    "Relu6": _relu_op,
    "LeakyReLU": Kind("LEAKY_RELU"),
    "PReLU": Kind("PRELU"),
    "ELU": Kind("ELU"),
    "Softmax": Kind("SOFTMAX"),
    "Sigmoid": Kind("LOGISTIC"),
    "Tanh": Kind("TANH"),
    "HardSilu": Kind("HARD_SWISH"),
    "Activation": _activation,
    "BatchNormalization": _normalization,
    "Normalization": Kind("MUL"),
    "Rescaling": Kind("MUL"),
    "Dropout": NOTHING,
    "SpatialDropout1D": NOTHING,
    "SpatialDropout2D": NOTHING,
    "GaussianNoise": NOTHING,
    "GaussianDropout": NOTHING,
    "AlphaDropout": NOTHING,
    "ActivityRegularization": NOTHING,
    "Identity": NOTHING,
}


def kind_of(operation: Any) -> Kind:
    """What a Keras layer or operation is on the device."""
    if hasattr(operation, "octavo_kind"):
        return operation.octavo_kind()
    for cls in type(operation).__mro__:
        entry = KINDS.get(cls.__name__) if cls.__module__.startswith("keras.") else None
        if entry is not None and type(operation).call is cls.call:  # a subclass that computes something else isn't one
            return entry(operation) if callable(entry) else entry
    return FLOAT


def fuses_activation(row: Row) -> bool:
    """Whether the kernel clamps its own output, so that nothing is rounded before the activation: by its options."""
    from octavo.tflite import schema

    options = getattr(schema.module(), f"{row.options_type}T", None) if row.options_type else None
    return options is not None and hasattr(options(), "fusedActivationFunction")


def is_clamp(row: Row) -> bool:
    """Whether an activation is one of those that kernels fuse as a clamp of their codes."""
    from octavo.ops import Tie
    from octavo.tflite import schema

    return row.tie is Tie.FREE and row.name in schema.values("ActivationFunctionType")


def copies_codes(row: Row) -> bool:
    """Whether the op gives out codes that went in, so that nothing is left to round (its test allows half a step)."""
    from octavo.ops import Tie

    return row.tie is Tie.SAME and row.steps <= 0.5
