"""The common layers of Keras as LiteRT's ops: a function for each, in the table `LAYERS`.

For a saved model of such layers neither Keras nor JAX need be imported, which was half of the time that converting it
took (`keras_saved.py`). What comes out is what tracing the layer and lowering it gives, op for op; the tests hold one
against the other.

Where the converter spells out what LiteRT has an op for (GELU, ELU, resizing), that op is written, as octavo's passes
would find it. A layer is written only if each of its arguments is understood: a function takes from the configuration
what it knows, and what nobody took, or a value that it has no ops for, raises `Unknown`. Then Keras reads the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from octavo.graph import DType, Graph, Op, Tensor

# Arguments that change nothing about what a layer computes when it predicts.
_TRAINING = ("_initializer", "_regularizer", "_constraint")
_IGNORED = frozenset(("name", "trainable", "seed", "momentum", "synchronized"))
_PADDINGS = {"same": 0, "valid": 1}  # Padding in the schema


class Unknown(Exception):  # noqa: N818  (no error: it says that Keras has to read the file)
    """Something that isn't in the table."""


class Layer:
    """One call of a layer: its arguments, each to be taken once, and where its ops go.

    Attributes:
      path: the names of the models inside the main one and of the layer, with slashes between.
      weights: its variables, as Keras has them and in its order.
    """

    def __init__(self, graph: Graph, path: str, arguments: Mapping[str, Any], weights: Sequence[np.ndarray]) -> None:
        self.path = path
        self.weights = list(weights)
        self._graph = graph
        self._left = {key: value for key, value in arguments.items() if not _is_ignored(key)}
        _check_float32(self._left.pop("dtype", "float32"))

    def take(self, name: str, *default: Any) -> Any:
        """The argument of that name; the default where the file has none."""
        if name not in self._left and not default:
            raise Unknown(f"{self.path} has no {name}")
        return self._left.pop(name, *default)

    def expect(self, **values: Any) -> None:
        """Take arguments that have to have these values, where the file has them."""
        for name, value in values.items():
            if self.take(name, value) != value:
                raise Unknown(f"{self.path}: {name}")

    def finish(self) -> None:
        """Raise if an argument is left that nobody took."""
        if self._left:
            raise Unknown(f"{self.path}: {', '.join(self._left)}")

    def op(
        self,
        code: str,
        inputs: Sequence[Tensor | None],
        shape: Sequence[int],
        what: str,
        options_type: str | None = None,
        **options: Any,
    ) -> Tensor:
        """Write an op and return what it makes, called `path/what`."""
        if min(shape, default=1) < 1:
            raise Unknown(f"{self.path} makes an empty tensor")
        made = self._graph.add_tensor(Tensor(f"{self.path}/{what}", DType.FLOAT32, tuple(shape)))
        self._graph.ops.append(Op(code, list(inputs), [made], options if options_type else None, options_type))
        return made

    def constant(self, what: str, values: np.ndarray) -> Tensor:
        """A constant in the file, float32 or int32."""
        tensor = self._graph.add_tensor(Tensor(f"{self.path}/{what}", DType.FLOAT32, ()))
        tensor.set_values(values)
        return tensor

    def with_constant(self, code: str, x: Tensor, values: Any, what: str) -> Tensor:
        """Write x + c, x - c or x * c, for a scalar or one number for each of the last dimension."""
        constant = self.constant("const", np.asarray(values, np.float32))
        return self.op(code, [x, constant], x.shape, what, f"{code.capitalize()}Options", **_NOT_FUSED)

    def variables(self, *shapes: tuple[int, ...] | None) -> list[np.ndarray]:
        """The variables, which must have these shapes; None stands for one that the layer doesn't have."""
        wanted = [shape for shape in shapes if shape is not None]
        if [weight.shape for weight in self.weights] != wanted:
            raise Unknown(f"{self.path}: its variables have other shapes")
        return self.weights


def _is_ignored(key: str) -> bool:
    return key in _IGNORED or key.endswith(_TRAINING)


def _check_float32(policy: Any) -> None:
    name = policy
    if isinstance(policy, Mapping):
        name = policy.get("config", {}).get("name") if policy.get("class_name") == "DTypePolicy" else None
    if name != "float32":
        raise Unknown(f"dtype {name}")


_NOT_FUSED = {"fusedActivationFunction": 0}


def _one(x: Sequence[Tensor], rank: int | None = None) -> Tensor:
    """The only input of a layer."""
    if len(x) != 1 or (rank is not None and len(x[0].shape) != rank):
        raise Unknown("other inputs than expected")
    return x[0]


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    if isinstance(value, list) and len(value) == 2 and all(type(item) is int for item in value):
        return value[0], value[1]
    raise Unknown(f"{value} where a pair is expected")


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Unknown(f"{value} where a number is expected")
    return float(value)


def _window(
    layer: Layer, shape: Sequence[int], size: tuple[int, int], dilation: tuple[int, int] = (1, 1)
) -> tuple[tuple[int, int], dict[str, int]]:
    """Height and width of what a sliding window makes, and the options that say so."""
    strides, padding = _pair(layer.take("strides")), layer.take("padding")
    if padding not in _PADDINGS or min(*strides, *size, *dilation) < 1:
        raise Unknown(f"{layer.path}: padding {padding}")
    reach = [(window - 1) * rate + 1 for window, rate in zip(size, dilation, strict=True)]
    made = [
        -(-extent // stride) if padding == "same" else (extent - far) // stride + 1
        for extent, stride, far in zip(shape[1:3], strides, reach, strict=True)
    ]
    padded = any(
        (count - 1) * stride + far > extent
        for extent, stride, far, count in zip(shape[1:3], strides, reach, made, strict=True)
    )
    options = {"padding": _PADDINGS["same" if padded else "valid"], "strideH": strides[0], "strideW": strides[1]}
    return (made[0], made[1]), options


def _with_bias(layer: Layer, shape: tuple[int, ...], outputs: int) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias; zeros where the layer has no bias, because LiteRT loads no convolution without one."""
    has_bias = layer.take("use_bias")
    kernel, *bias = layer.variables(shape, (outputs,) if has_bias else None)
    return kernel, bias[0] if bias else np.zeros(outputs, np.float32)


def _conv_2d(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    x = _one(inputs, 4)
    layer.expect(data_format="channels_last", groups=1)
    size, dilation, filters = (
        _pair(layer.take("kernel_size")),
        _pair(layer.take("dilation_rate")),
        layer.take("filters"),
    )
    extent, options = _window(layer, x.shape, size, dilation)
    kernel, bias = _with_bias(layer, (*size, x.shape[3], filters), filters)
    made = _convolved(layer, x, kernel, bias, extent, {**options, **_dilated(dilation)})
    return _activated(layer, made, layer.take("activation"))


def _depthwise_conv_2d(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    x = _one(inputs, 4)
    layer.expect(data_format="channels_last")
    size, dilation = _pair(layer.take("kernel_size")), _pair(layer.take("dilation_rate"))
    multiplier = layer.take("depth_multiplier")
    extent, options = _window(layer, x.shape, size, dilation)
    kernel, bias = _with_bias(layer, (*size, x.shape[3], multiplier), x.shape[3] * multiplier)
    made = _convolved_by_depth(layer, x, kernel, bias, extent, {**options, **_dilated(dilation)})
    return _activated(layer, made, layer.take("activation"))


def _separable_conv_2d(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    x = _one(inputs, 4)
    layer.expect(data_format="channels_last")
    size, dilation = _pair(layer.take("kernel_size")), _pair(layer.take("dilation_rate"))
    multiplier, filters, has_bias = layer.take("depth_multiplier"), layer.take("filters"), layer.take("use_bias")
    extent, options = _window(layer, x.shape, size, dilation)
    between = x.shape[3] * multiplier
    depthwise, pointwise, *bias = layer.variables(
        (*size, x.shape[3], multiplier), (1, 1, between, filters), (filters,) if has_bias else None
    )
    options = {**options, **_dilated(dilation)}
    made = _convolved_by_depth(layer, x, depthwise, np.zeros(between, np.float32), extent, options)
    options = {"padding": _PADDINGS["valid"], "strideH": 1, "strideW": 1, **_dilated((1, 1))}
    made = _convolved(layer, made, pointwise, bias[0] if bias else np.zeros(filters, np.float32), extent, options)
    return _activated(layer, made, layer.take("activation"))


def _dilated(rate: tuple[int, int]) -> dict[str, int]:
    return {"dilationHFactor": rate[0], "dilationWFactor": rate[1]}


def _convolved(
    layer: Layer, x: Tensor, kernel: np.ndarray, bias: np.ndarray, extent: tuple[int, int], options: Mapping[str, int]
) -> Tensor:
    """CONV_2D; the kernel is (height, width, in, out), LiteRT's (out, height, width, in).

    With a single input channel it is the converter's DEPTHWISE_CONV_2D, whose multiplier is the number of outputs.
    """
    if kernel.shape[2] == 1:
        return _convolved_by_depth(layer, x, kernel, bias, extent, options)
    operands = [x, layer.constant("kernel", kernel.transpose(3, 0, 1, 2)), layer.constant("bias", bias)]
    shape = (x.shape[0], *extent, kernel.shape[3])
    return layer.op("CONV_2D", operands, shape, "conv_general_dilated", "Conv2DOptions", **_NOT_FUSED, **options)


def _convolved_by_depth(
    layer: Layer, x: Tensor, kernel: np.ndarray, bias: np.ndarray, extent: tuple[int, int], options: Mapping[str, int]
) -> Tensor:
    """DEPTHWISE_CONV_2D; the kernel is (height, width, in, multiplier), LiteRT's (1, height, width, outputs)."""
    height, width, channels, multiplier = kernel.shape
    made = channels * multiplier
    operands = [x, layer.constant("kernel", kernel.reshape(1, height, width, made)), layer.constant("bias", bias)]
    return layer.op(
        "DEPTHWISE_CONV_2D", operands, (x.shape[0], *extent, made), "conv_general_dilated", "DepthwiseConv2DOptions",
        **_NOT_FUSED, **options, depthMultiplier=multiplier,
    )  # fmt: skip


def _dense(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    x, units = _one(inputs), layer.take("units")
    layer.expect(quantization_config=None)
    if len(x.shape) < 2:
        raise Unknown(f"{layer.path}: a vector")
    kernel, bias = _with_bias(layer, (x.shape[-1], units), units)
    operands = [x, layer.constant("kernel", kernel.T), layer.constant("bias", bias)]
    options = {**_NOT_FUSED, "keepNumDims": True}
    made = layer.op(
        "FULLY_CONNECTED", operands, (*x.shape[:-1], units), "dot_general", "FullyConnectedOptions", **options
    )
    return _activated(layer, made, layer.take("activation"))


def _batch_normalization(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    """Write x * s + (beta - mean * s), with s = gamma / sqrt(variance + epsilon)."""
    x, axis = _one(inputs), layer.take("axis")
    layer.expect(renorm=False, renorm_clipping=None, renorm_momentum=0.99)
    epsilon, has_scale, has_offset = _number(layer.take("epsilon")), layer.take("scale"), layer.take("center")
    if axis not in (-1, len(x.shape) - 1, [-1], [len(x.shape) - 1]):
        raise Unknown(f"{layer.path}: axis {axis}")
    channels = (x.shape[-1],)
    *trained, mean, variance = layer.variables(
        channels if has_scale else None, channels if has_offset else None, channels, channels
    )
    scale = 1.0 / np.sqrt(variance.astype(np.float64) + epsilon)
    scale = scale * trained.pop(0) if has_scale else scale
    offset = (trained[0] if has_offset else 0.0) - mean * scale
    return layer.with_constant("ADD", layer.with_constant("MUL", x, scale, "mul"), offset, "add")


def _normalization(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    """Write (x - mean) / max(sqrt(variance), 1e-7); the numbers are arguments, or were found by `adapt`."""
    x, axis = _one(inputs), layer.take("axis")
    layer.expect(invert=False)
    mean, variance = layer.take("mean", None), layer.take("variance", None)
    if axis not in (None, [], -1, len(x.shape) - 1, [-1], [len(x.shape) - 1]):
        raise Unknown(f"{layer.path}: axis {axis}")
    if mean is None and len(layer.weights) == 3:  # the third counts the samples
        mean, variance, _ = layer.weights
    means, variances = (np.asarray(value, np.float64).reshape(-1) for value in (mean, variance))
    if means.size != variances.size or means.size not in ({x.shape[-1], 1} if axis else {1}):
        raise Unknown(f"{layer.path}: mean and variance have other shapes")
    centered = layer.with_constant("SUB", x, means, "sub")
    return layer.with_constant("MUL", centered, 1.0 / np.maximum(np.sqrt(variances), 1e-7), "div")


def _rescaling(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    x = _one(inputs)
    scale, offset = _number(layer.take("scale")), _number(layer.take("offset"))
    made = layer.with_constant("MUL", x, scale, "mul") if scale != 1 else x
    return layer.with_constant("ADD", made, offset, "add") if offset != 0 else made


def _re_lu(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    layer.expect(threshold=0.0)
    largest, slope = layer.take("max_value"), _number(layer.take("negative_slope"))
    known = {(None, 0.0): "relu", (6.0, 0.0): "relu6"}.get((largest, slope))
    if known is None and largest is not None:
        raise Unknown(f"{layer.path}: max_value {largest}")
    return _activated(layer, _one(inputs), known) if known else _leaky(layer, _one(inputs), slope)


def _leaky_re_lu(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    return _leaky(layer, _one(inputs), _number(layer.take("negative_slope")))


def _leaky(layer: Layer, x: Tensor, slope: float) -> Tensor:
    return layer.op("LEAKY_RELU", [x], x.shape, "select", "LeakyReluOptions", alpha=float(np.float32(slope)))


def _activation(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    return _activated(layer, _one(inputs), layer.take("activation"))


def _softmax(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    x = _one(inputs)
    if layer.take("axis") not in (-1, len(x.shape) - 1):
        raise Unknown(f"{layer.path}: axis")
    return _activated(layer, x, "softmax")


def _activated(layer: Layer, x: Tensor, name: Any) -> Tensor:
    """A function that layers name as their activation."""
    if not isinstance(name, str) or name not in _ACTIVATIONS:
        raise Unknown(f"{layer.path}: activation {name}")
    return _ACTIVATIONS[name](layer, x)


def _by_op(code: str, what: str, options_type: str | None = None, **options: Any) -> Callable[[Layer, Tensor], Tensor]:
    """An activation that one op computes."""
    return lambda layer, x: layer.op(code, [x], x.shape, what, options_type, **options)


def _silu(layer: Layer, x: Tensor) -> Tensor:
    gate = layer.op("LOGISTIC", [x], x.shape, "logistic")
    return layer.op("MUL", [x, gate], x.shape, "mul", "MulOptions", **_NOT_FUSED)


def _hard_sigmoid(layer: Layer, x: Tensor) -> Tensor:
    """relu6(x + 3) / 6."""
    shifted = layer.with_constant("ADD", x, 3.0, "add")
    clipped = layer.op("RELU6", [shifted], x.shape, "min")
    return layer.with_constant("MUL", clipped, np.float32(1) / np.float32(6), "mul")


_ACTIVATIONS: Mapping[str, Callable[[Layer, Tensor], Tensor]] = {
    "linear": lambda layer, x: x,
    "relu": _by_op("RELU", "max"),
    "relu6": _by_op("RELU6", "min"),
    "sigmoid": _by_op("LOGISTIC", "logistic"),
    "tanh": _by_op("TANH", "tanh"),
    "softmax": _by_op("SOFTMAX", "div", "SoftmaxOptions", beta=1.0),
    "exponential": _by_op("EXP", "exp"),
    "elu": _by_op("ELU", "select"),
    "gelu": _by_op("GELU", "mul", "GeluOptions", approximate=False),
    "leaky_relu": lambda layer, x: _leaky(layer, x, 0.2),
    "hard_sigmoid": _hard_sigmoid,
    **dict.fromkeys(("silu", "swish"), _silu),
    **dict.fromkeys(("hard_silu", "hard_swish"), _by_op("HARD_SWISH", "mul")),
}


def _merge(code: str, options_type: str | None, what: str, two: bool = False) -> Callable[..., Tensor]:
    """A layer that brings several tensors together, two at a time, with the broadcasting of NumPy."""

    def write(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
        if len(inputs) < 2 or (two and len(inputs) > 2) or len({len(x.shape) for x in inputs}) > 1:
            raise Unknown(f"{layer.path}: its inputs")
        options = _NOT_FUSED if options_type else {}
        made = inputs[0]
        for x in inputs[1:]:
            try:
                shape = np.broadcast_shapes(made.shape, x.shape)
            except ValueError as error:
                raise Unknown(f"{layer.path}: {error}") from error
            made = layer.op(code, [made, x], shape, what, options_type, **options)
        return made

    return write


def _concatenate(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    rank, axis = len(inputs[0].shape), layer.take("axis")
    if len(inputs) < 2 or type(axis) is not int or not -rank <= axis < rank or axis % rank == 0:
        raise Unknown(f"{layer.path}: axis {axis}")
    axis %= rank
    if len({(*x.shape[:axis], *x.shape[axis + 1 :]) for x in inputs}) > 1:
        raise Unknown(f"{layer.path}: its inputs")
    shape = list(inputs[0].shape)
    shape[axis] = sum(x.shape[axis] for x in inputs)
    return layer.op("CONCATENATION", inputs, shape, "concatenate", "ConcatenationOptions", **_NOT_FUSED, axis=axis)


def _pool(code: str, what: str) -> Callable[..., Tensor]:
    def write(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
        x = _one(inputs, 4)
        layer.expect(data_format="channels_last")
        size = _pair(layer.take("pool_size"))
        extent, options = _window(layer, x.shape, size)
        options |= {"filterHeight": size[0], "filterWidth": size[1], **_NOT_FUSED}
        return layer.op(code, [x], (x.shape[0], *extent, x.shape[3]), what, "Pool2DOptions", **options)

    return write


def _conv_2d_transpose(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    """TRANSPOSE_CONV; the kernel is (height, width, out, in), LiteRT's (out, height, width, in)."""
    x, filters = _one(inputs, 4), layer.take("filters")
    layer.expect(data_format="channels_last", output_padding=None, groups=1)
    size, strides, padding = _pair(layer.take("kernel_size")), _pair(layer.take("strides")), layer.take("padding")
    longer = all(taps >= stride for taps, stride in zip(size, strides, strict=True))  # else frameworks differ
    if padding not in _PADDINGS or not longer or min(strides) < 1 or _pair(layer.take("dilation_rate")) != (1, 1):
        raise Unknown(f"{layer.path}: padding {padding}")
    kernel, bias = _with_bias(layer, (*size, filters, x.shape[3]), filters)
    activation = layer.take("activation")
    clipped = {"relu": 1, "relu6": 3}.get(activation, 0)  # ActivationFunctionType in the schema; no pass fuses it here
    more = [taps - stride if padding == "valid" else 0 for taps, stride in zip(size, strides, strict=True)]
    extent = [count * stride + extra for count, stride, extra in zip(x.shape[1:3], strides, more, strict=True)]
    shape = (x.shape[0], *extent, filters)
    target = layer.constant("output_shape", np.array(shape, np.int32))
    operands = [target, layer.constant("kernel", kernel.transpose(2, 0, 1, 3)), x, layer.constant("bias", bias)]
    made = layer.op(
        "TRANSPOSE_CONV", operands, shape, "conv_general_dilated", "TransposeConvOptions",
        padding=_PADDINGS[padding], strideH=strides[0], strideW=strides[1], fusedActivationFunction=clipped,
    )  # fmt: skip
    return made if clipped else _activated(layer, made, activation)


def _p_re_lu(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    x, shared = _one(inputs), layer.take("shared_axes") or []
    slopes = tuple(1 if axis in shared else size for axis, size in enumerate(x.shape) if axis)
    (alpha,) = layer.variables(slopes)
    return layer.op("PRELU", [x, layer.constant("alpha", alpha)], x.shape, "add")


def _up_sampling_2d(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    x, size, interpolation = _one(inputs, 4), _pair(layer.take("size")), layer.take("interpolation")
    layer.expect(data_format="channels_last")
    code, options_type = {
        "nearest": ("RESIZE_NEAREST_NEIGHBOR", "ResizeNearestNeighborOptions"),
        "bilinear": ("RESIZE_BILINEAR", "ResizeBilinearOptions"),
    }.get(interpolation, ("", ""))
    if not code or min(size) < 1:
        raise Unknown(f"{layer.path}: interpolation {interpolation}")
    extent = (x.shape[1] * size[0], x.shape[2] * size[1])
    operands = [x, layer.constant("size", np.array(extent, np.int32))]
    options = {"alignCorners": False, "halfPixelCenters": True}
    return layer.op(code, operands, (x.shape[0], *extent, x.shape[3]), "resize", options_type, **options)


def _cropping_2d(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    x, cropping = _one(inputs, 4), layer.take("cropping")
    layer.expect(data_format="channels_last")
    if not isinstance(cropping, list) or len(cropping) != 2:
        raise Unknown(f"{layer.path}: cropping {cropping}")
    pairs = ((0, 0), _pair(cropping[0]), _pair(cropping[1]), (0, 0))
    shape = [extent - sum(pair) for extent, pair in zip(x.shape, pairs, strict=True)]
    begin = layer.constant("begin", np.array([before for before, _ in pairs], np.int32))
    return layer.op("SLICE", [x, begin, layer.constant("size", np.array(shape, np.int32))], shape, "slice")


def _permute(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    x, dims = _one(inputs), layer.take("dims")
    if not isinstance(dims, list) or sorted(dims) != list(range(1, len(x.shape))):
        raise Unknown(f"{layer.path}: dims {dims}")
    order = (0, *dims)
    perm = layer.constant("perm", np.array(order, np.int32))
    return layer.op("TRANSPOSE", [x, perm], [x.shape[axis] for axis in order], "transpose", "TransposeOptions")


def _average(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    total = _merge("ADD", "AddOptions", "sum")(layer, inputs)
    return layer.with_constant("MUL", total, 1 / len(inputs), "mul")


def _global_pool(code: str, what: str, operand: str) -> Callable[..., Tensor]:
    def write(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
        x = _one(inputs, 4)
        layer.expect(data_format="channels_last")
        keep = bool(layer.take("keepdims"))
        axes = layer.constant(operand, np.array([1, 2], np.int32))
        shape = (x.shape[0], 1, 1, x.shape[3]) if keep else (x.shape[0], x.shape[3])
        return layer.op(code, [x, axes], shape, what, "ReducerOptions", keepDims=keep)

    return write


def _zero_padding_2d(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    x, padding = _one(inputs, 4), layer.take("padding")
    layer.expect(data_format="channels_last")
    if not isinstance(padding, list) or len(padding) != 2:
        raise Unknown(f"{layer.path}: padding {padding}")
    pairs = ((0, 0), _pair(padding[0]), _pair(padding[1]), (0, 0))
    shape = [extent + sum(pair) for extent, pair in zip(x.shape, pairs, strict=True)]
    return layer.op("PAD", [x, layer.constant("paddings", np.array(pairs, np.int32))], shape, "pad", "PadOptions")


def _flatten(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    x = _one(inputs)
    layer.expect(data_format="channels_last")
    return _reshaped(layer, x, (x.shape[0], x.size // x.shape[0]))


def _reshape(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    x, target = _one(inputs), layer.take("target_shape")
    if not isinstance(target, list) or any(type(size) is not int for size in target) or target.count(-1) > 1:
        raise Unknown(f"{layer.path}: target_shape {target}")
    count, known = x.size // x.shape[0], math.prod(size for size in target if size != -1)
    if known < 1 or count % known or (-1 not in target and known != count):
        raise Unknown(f"{layer.path}: target_shape {target}")
    return _reshaped(layer, x, (x.shape[0], *(count // known if size == -1 else size for size in target)))


def _reshaped(layer: Layer, x: Tensor, shape: tuple[int, ...]) -> Tensor:
    if shape == x.shape:
        return x
    return layer.op("RESHAPE", [x, layer.constant("shape", np.array(shape, np.int32))], shape, "reshape")


def _training_only(*arguments: str) -> Callable[..., Tensor]:
    """A layer that does nothing when the model predicts."""

    def write(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
        for argument in arguments:
            layer.take(argument, None)
        return _one(inputs)

    return write


LAYERS: Mapping[str, Callable[[Layer, Sequence[Tensor]], Tensor]] = {
    "Activation": _activation,
    "ActivityRegularization": _training_only("l1", "l2"),
    "Add": _merge("ADD", "AddOptions", "add"),
    "AlphaDropout": _training_only("rate", "noise_shape"),
    "Average": _average,
    "AveragePooling2D": _pool("AVERAGE_POOL_2D", "reduce_window"),
    "BatchNormalization": _batch_normalization,
    "Concatenate": _concatenate,
    "Conv2D": _conv_2d,
    "Conv2DTranspose": _conv_2d_transpose,
    "Cropping2D": _cropping_2d,
    "Dense": _dense,
    "DepthwiseConv2D": _depthwise_conv_2d,
    "Dropout": _training_only("rate", "noise_shape"),
    "Flatten": _flatten,
    "GaussianDropout": _training_only("rate"),
    "GaussianNoise": _training_only("stddev"),
    "GlobalAveragePooling2D": _global_pool("MEAN", "reduce_sum", "axes"),
    "GlobalMaxPooling2D": _global_pool("REDUCE_MAX", "reduce_max", "const"),
    "LeakyReLU": _leaky_re_lu,
    "MaxPooling2D": _pool("MAX_POOL_2D", "reduce_window"),
    "Maximum": _merge("MAXIMUM", None, "max"),
    "Minimum": _merge("MINIMUM", None, "min"),
    "Multiply": _merge("MUL", "MulOptions", "mul"),
    "Normalization": _normalization,
    "PReLU": _p_re_lu,
    "Permute": _permute,
    "ReLU": _re_lu,
    "Rescaling": _rescaling,
    "Reshape": _reshape,
    "SeparableConv2D": _separable_conv_2d,
    "Softmax": _softmax,
    "SpatialDropout2D": _training_only("rate", "data_format"),
    "Subtract": _merge("SUB", "SubOptions", "sub", two=True),
    "UpSampling2D": _up_sampling_2d,
    "ZeroPadding2D": _zero_padding_2d,
}


def _arithmetic(code: str) -> Callable[[Layer, Sequence[Tensor | float]], Tensor]:
    """An operation of two tensors, or of a tensor and a number."""
    options_type, what = f"{code.capitalize()}Options", code.lower()

    def write(layer: Layer, read: Sequence[Tensor | float]) -> Tensor:
        first, second = read
        if isinstance(first, Tensor) and isinstance(second, Tensor):
            return _merge(code, options_type, what)(layer, (first, second))
        if isinstance(first, Tensor):
            return layer.with_constant(code, first, second, what)
        assert isinstance(second, Tensor)
        constant = layer.constant("const", np.asarray(first, np.float32))
        return layer.op(code, [constant, second], second.shape, what, options_type, **_NOT_FUSED)

    return write


# What `x + 3`, written with the tensors of a functional model, leaves in it.
OPERATIONS: Mapping[str, Callable[[Layer, Sequence[Tensor | float]], Tensor]] = {
    "Add": _arithmetic("ADD"),
    "Multiply": _arithmetic("MUL"),
    "Subtract": _arithmetic("SUB"),
}
