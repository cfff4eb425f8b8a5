"""A plain NumPy model of the arithmetic that a quantized file stands for, op by op, read from the file itself.

Every op is computed as LiteRT's quantization specification defines it: sums of products of codes in whole numbers,
requantized with the real multiplier in float64, rounded once, clamped. Ops in float are computed in float64. What is
compared is one op at a time, on the inputs that the runtime itself computed: errors don't add up, so one step is the
most that any op may be off.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from octavo.graph import DType, Op, Program, Tensor
from octavo.graph.views import exposed
from octavo.numerics import round_half_away, unpack_int4
from octavo.runtime.session import Session
from octavo.tflite import write

_LINEAR = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"}
_CODES = {DType.INT8: (-128, 127), DType.UINT8: (0, 255), DType.INT16: (-32768, 32767)}
_CLAMPS = {0: (-np.inf, np.inf), 1: (0.0, np.inf), 2: (-1.0, 1.0), 3: (0.0, 6.0)}
# Float kernels: float32 sums in any order, and polynomials for exp and tanh.
_FLOAT = 1e-5
# In int16 steps: the most over all 65,536 input codes at 68 input scales.
_INTERPOLATED = {"TANH": 3}


@dataclass(frozen=True)
class Difference:
    """How far the runtime was off for one op: `steps` of the output's scale, or of the float tolerance.

    `allowed` is one step, but for TANH in int16, which LiteRT interpolates between the 256 entries of a table.
    """

    op: Op
    kind: str
    steps: float

    @property
    def allowed(self) -> float:
        return _INTERPOLATED.get(self.op.code, 1) if self.kind == "int16" else 1


def differences(program: Program, inputs: Sequence[np.ndarray], kernels: str) -> list[Difference]:
    """Every op of the main subgraph on LiteRT, held against the NumPy model on the very inputs that it had.

    Args:
      program: as written to the file.
      inputs: one array per input, in the file's dtypes.
      kernels: as for `Session`.
    """
    known: dict[Tensor, np.ndarray] = dict(zip(program.main.inputs, inputs, strict=True))
    unpacking = [op for op in program.main.ops if op.code == "DEQUANTIZE" and _first(op).is_constant]
    for op in unpacking:
        known[op.outputs[0]] = _real(_first(op), {})
    shown = [tensor for op in program.main.ops for tensor in op.outputs if tensor not in known]
    computed = Session(write(exposed(program, shown)), kernels=kernels).invoke(inputs)
    known.update(zip(shown, computed, strict=True))
    return [_difference(op, known) for op in program.main.ops if op not in unpacking]


def _difference(op: Op, known: Mapping[Tensor, np.ndarray]) -> Difference:
    weights = op.inputs[1] if op.code in _LINEAR else None
    if weights is None:
        results = _REAL[op.code](op, [_real(t, known) for t in op.inputs if t is not None])
    elif _first(op).dtype.is_float:
        return _float_linear(op, known)
    else:
        results = [_integer_linear(op, known)]
    worst = 0.0
    for tensor, result in zip(op.outputs, results, strict=True):
        low, high = _CLAMPS[op.option("fusedActivationFunction", 0)]
        have = known[tensor]
        assert have.shape == result.shape, f"{op.name}: {have.shape} for {result.shape}"
        if tensor.dtype.is_float:
            activations = [t for t in op.inputs if t is not None and (t.dtype.is_float or t.qparams is not None)]
            largest = max(float(np.abs(_real(t, known)).max()) for t in activations)
            sizes = _FLOAT * (np.abs(result) + largest) + np.finfo(np.float32).tiny
            steps = np.abs(have - np.clip(result, low, high)) / sizes
        else:
            steps = np.abs(have.astype(np.int64) - _codes(np.clip(result, low, high), tensor))
        worst = max(worst, float(steps.max()))
    return Difference(op, "float" if op.outputs[0].dtype.is_float else op.outputs[0].dtype.value, worst)


def _codes(real: np.ndarray, tensor: Tensor) -> np.ndarray:
    assert tensor.qparams is not None and not tensor.qparams.per_channel
    steps = round_half_away(real / float(tensor.qparams.scale[0])) + int(tensor.qparams.zero_point[0])
    return np.clip(steps, *_CODES[tensor.dtype]).astype(np.int64)


def _stored(tensor: Tensor, known: Mapping[Tensor, np.ndarray]) -> np.ndarray:
    if not tensor.is_constant:
        return known[tensor]
    if tensor.dtype is DType.INT4:
        assert tensor.data is not None
        return unpack_int4(tensor.data, tensor.size).reshape(tensor.shape)
    return tensor.values


def _centred(tensor: Tensor, known: Mapping[Tensor, np.ndarray]) -> np.ndarray:
    """The codes less their zero point, int64."""
    assert tensor.qparams is not None
    return _stored(tensor, known).astype(np.int64) - _along(tensor, tensor.qparams.zero_point)


def _along(tensor: Tensor, values: np.ndarray) -> np.ndarray:
    """Values per channel (or one) so that they meet the tensor's channels."""
    assert tensor.qparams is not None
    shape = [1] * len(tensor.shape)
    if tensor.qparams.axis is not None:
        shape[tensor.qparams.axis] = -1
    return values.reshape(shape)


def _real(tensor: Tensor, known: Mapping[Tensor, np.ndarray]) -> np.ndarray:
    """What a tensor's codes stand for, float64; shapes and axes as they are."""
    if tensor.qparams is None or tensor.dtype.is_float:
        stored = _stored(tensor, known)
        return stored.astype(np.float64) if tensor.dtype.is_float else stored
    return _centred(tensor, known) * _along(tensor, tensor.qparams.scale.astype(np.float64))


def _first(op: Op) -> Tensor:
    assert op.inputs[0] is not None
    return op.inputs[0]


def _integer_linear(op: Op, known: Mapping[Tensor, np.ndarray]) -> np.ndarray:
    """Convolutions and matrix products: whole numbers up to the one multiplication with the real scales."""
    data, weights, bias = op.inputs[0], op.inputs[1], op.inputs[2] if len(op.inputs) > 2 else None
    assert data is not None and weights is not None and data.qparams is not None and weights.qparams is not None
    sums = linear(op, _centred(data, known), _centred(weights, known))
    multiplier = float(data.qparams.scale[0]) * weights.qparams.scale.astype(np.float64)
    if bias is not None:
        assert bias.qparams is not None
        np.testing.assert_allclose(bias.qparams.scale, multiplier, rtol=1e-6)
        sums = sums + bias.values.astype(np.int64)
        if bias.dtype is DType.INT32:
            assert np.abs(sums).max() <= 2**31 - 1, f"{op.name} overflows its int32 accumulator"
    return sums * multiplier


def _float_linear(op: Op, known: Mapping[Tensor, np.ndarray]) -> Difference:
    """The same in float; with weights as integers LiteRT rounds the input to 8 bits, row by row, at run time.

    That moves each input by at most half a step of max|x| / 127, so each sum by at most half a step times sum|w|.
    """
    data, weights, bias = op.inputs[0], op.inputs[1], op.inputs[2] if len(op.inputs) > 2 else None
    assert data is not None and weights is not None
    x, w = _real(data, known), _real(weights, known)
    b = np.zeros(1) if bias is None else _real(bias, known)
    low, high = _CLAMPS[op.option("fusedActivationFunction", 0)]
    exact = np.clip(linear(op, x, w) + b, low, high)
    allowed = _FLOAT * (linear(op, np.abs(x), np.abs(w)) + np.abs(b)) + np.finfo(np.float32).tiny
    hybrid = not weights.dtype.is_float
    if hybrid:
        half_step = np.abs(x).max(axis=tuple(range(1, x.ndim)), keepdims=True) / 127 / 2
        allowed = allowed + linear(op, np.broadcast_to(half_step, x.shape), np.abs(w))
    steps = np.abs(known[op.outputs[0]] - exact) / allowed
    return Difference(op, "dynamic" if hybrid else "float", float(steps.max()))


def linear(op: Op, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Sums of products, in the arrays' own type."""
    if op.code == "FULLY_CONNECTED":
        return x.reshape(-1, w.shape[1]) @ w.T
    windows = _windows(op, x, w.shape[1], w.shape[2], 0)
    if op.code == "CONV_2D":
        return np.einsum("nhwcij,oijc->nhwo", windows, w)
    kernel = w.reshape(*w.shape[1:3], x.shape[3], -1)
    sums = np.einsum("nhwcij,ijcm->nhwcm", windows, kernel)
    return sums.reshape(*sums.shape[:3], -1)


def _windows(op: Op, x: np.ndarray, height: int, width: int, fill: float) -> np.ndarray:
    """(batch, out height, out width, channels, height, width): what each output position sees."""
    pads, strides = [(0, 0)], (op.option("strideH"), op.option("strideW"))
    for size, kernel, stride in zip(x.shape[1:3], (height, width), strides, strict=True):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0) if op.option("padding") == 0 else 0
        pads.append((total // 2, total - total // 2))
    padded = np.pad(x, [*pads, (0, 0)], constant_values=fill)
    return sliding_window_view(padded, (height, width), (1, 2))[:, :: strides[0], :: strides[1]]


def _pool(op: Op, x: np.ndarray) -> np.ndarray:
    size = (op.option("filterHeight"), op.option("filterWidth"))
    if op.code == "MAX_POOL_2D":
        return _windows(op, x, *size, -np.inf).max(axis=(4, 5))
    counts = _windows(op, np.ones_like(x), *size, 0).sum(axis=(4, 5))
    return _windows(op, x, *size, 0).sum(axis=(4, 5)) / counts


def _softmax(op: Op, x: np.ndarray) -> np.ndarray:
    raised = np.exp(op.option("beta") * (x - x.max(axis=-1, keepdims=True)))
    return raised / raised.sum(axis=-1, keepdims=True)


def _split(op: Op, axis: np.ndarray, x: np.ndarray) -> list[np.ndarray]:
    return np.split(x, op.option("numSplits"), int(axis.reshape(-1)[0]))


def _one(function: Callable[..., np.ndarray]) -> Callable[[Op, list[np.ndarray]], list[np.ndarray]]:
    return lambda op, operands: [function(op, *operands)]


_REAL: dict[str, Callable[[Op, list[np.ndarray]], list[np.ndarray]]] = {
    "ADD": _one(lambda op, a, b: a + b),
    "SUB": _one(lambda op, a, b: a - b),
    "MUL": _one(lambda op, a, b: a * b),
    "CONCATENATION": lambda op, parts: [np.concatenate(parts, op.option("axis"))],
    "SPLIT": lambda op, operands: _split(op, *operands),
    "RESHAPE": _one(lambda op, x, shape=None: x.reshape(op.outputs[0].shape)),
    "TRANSPOSE": _one(lambda op, x, order: x.transpose(order)),
    "PAD": _one(lambda op, x, pads: np.pad(x, pads)),
    "MEAN": _one(lambda op, x, axes: x.mean(tuple(axes.reshape(-1)), keepdims=bool(op.option("keepDims")))),
    "AVERAGE_POOL_2D": _one(_pool),
    "MAX_POOL_2D": _one(_pool),
    "MINIMUM": _one(lambda op, a, b: np.minimum(a, b)),
    "MAXIMUM": _one(lambda op, a, b: np.maximum(a, b)),
    "RELU": _one(lambda op, x: np.maximum(x, 0)),
    "RELU6": _one(lambda op, x: np.clip(x, 0, 6)),
    "LEAKY_RELU": _one(lambda op, x: np.where(x < 0, x * op.option("alpha"), x)),
    "HARD_SWISH": _one(lambda op, x: x * np.clip(x + 3, 0, 6) / 6),
    "LOGISTIC": _one(lambda op, x: 1 / (1 + np.exp(-x))),
    "TANH": _one(lambda op, x: np.tanh(x)),
    "SOFTMAX": _one(_softmax),
    "QUANTIZE": _one(lambda op, x: x),
    "DEQUANTIZE": _one(lambda op, x: x),
}
