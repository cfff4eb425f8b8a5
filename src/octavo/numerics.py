"""All arithmetic of quantization: rounding, scales, zero points, codes, packing, and how far two arrays differ.

NumPy in, NumPy out. Scales are float32 because `.tflite` stores them so; everything in between is float64. Arguments
that make no sense (NaN, an empty range list, a wrong channel count) raise ValueError: a caller who knows the tensor's
name puts it into the message that users see.

Sources: LiteRT's quantization specification (https://ai.google.dev/edge/litert/models/quantization_spec), its
reference kernels (`kernels/internal/reference/quantize.h`, `dequantize.h`, `cppmath.h`, `kernels/kernel_util.cc`) and
its converter (`tools/optimize/quantization_utils.cc`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import EllipsisType

import numpy as np
from numpy.typing import ArrayLike

from octavo.qtypes import INT32_BIAS, QParams, QType

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_SMALLEST_NORMAL = float(np.finfo(np.float32).smallest_normal)
_FLOAT16_MAX = np.float16(65504)
_INT32_MAX = 2**31 - 1
_SLAB = 1 << 14  # elements that are held in float64 at a time: they stay in the processor's cache


# Rounding


def round_half_away(x: ArrayLike) -> np.ndarray:
    """Round to the nearest integer, ties away from zero: LiteRT's TfLiteRound (C's `round`).

    Adding 0.5 and truncating is wrong for the number just under 0.5, and for large odd ones; the distance to the
    nearest integer is exact in floating point, so ties, which are rare, are found and put right afterwards.

    Args:
      x: any shape; floats keep their dtype, everything else becomes float64.
    """
    values = np.asarray(x)
    if not np.issubdtype(values.dtype, np.floating):
        values = values.astype(np.float64)
    whole = np.rint(values)  # ties to even
    with np.errstate(invalid="ignore"):  # inf - inf: not a tie, so infinity stays
        ties = np.abs(values - whole) == 0.5
    return np.where(ties, np.trunc(values) + np.copysign(1, values), whole) if ties.any() else whole


# Parameters


def activation_params(low: float, high: float, qtype: QType) -> QParams:
    """Per-tensor scale and zero point for real values in [low, high].

    The range is widened to contain 0, and real 0 always has a code of its own: the zero point. Asymmetric:
    scale = (high - low) / (qmax - qmin), zero point = qmin - low / scale, rounded. Symmetric: zero point 0,
    scale = max(|low|, |high|) / qmax. A value inside the range is off by at most half a step (plus float32 rounding).

    A range so small that the scale would not be a normal float32 (so also low = high = 0) counts as [0, 1]: every
    value in it becomes exactly the code of 0, and the scale stays usable in products with other scales.

    Args:
      low: smallest value seen, in real units.
      high: largest value seen; not below `low`.
      qtype: the activation's type.

    Raises:
      ValueError: NaN, infinite, beyond float32, or low > high (nothing was observed).
    """
    low, high = float(low), float(high)
    if not (abs(low) <= _FLOAT32_MAX and abs(high) <= _FLOAT32_MAX and low <= high):
        raise ValueError(f"[{low}, {high}] is no range of finite float32 values")
    scale, zero_point = activation_scales(np.array([low]), np.array([high]), qtype)
    return QParams(scale, zero_point)


def activation_scales(low: np.ndarray, high: np.ndarray, qtype: QType) -> tuple[np.ndarray, np.ndarray]:
    """What `activation_params` gives for many ranges at once: (scales as float32, zero points).

    Args:
      low, high: the bounds of each range, of one shape, finite float32 values and in order.
      qtype: the activations' type.
    """
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    if qtype.symmetric:
        return _scales(np.maximum(-low, high), qtype.qmax), np.zeros(low.shape, np.int64)
    steps = qtype.qmax - qtype.qmin
    tiny = (high - low) / steps < _SMALLEST_NORMAL
    low, high = np.where(tiny, 0.0, low), np.where(tiny, 1.0, high)
    # low * steps / span and not low / scale: [-1, 1] has its zero point exactly between two codes, and must land on
    # the same one as in TensorFlow's converter whatever float32 does to the scale.
    return _scales(high - low, steps), round_half_away(qtype.qmin - low * steps / (high - low))


def weight_params(weights: np.ndarray, qtype: QType, axis: int | None) -> QParams:
    """Symmetric parameters from the largest magnitude: scale = max|w| / qmax, zero point 0.

    An all-zero (or empty, or subnormal) channel gets scale 1 / qmax, and all its codes are 0.

    Args:
      weights: real values, any shape.
      qtype: the weights' type.
      axis: channel dimension (negative counts from the end); None for one scale for the whole tensor.

    Raises:
      ValueError: NaN, infinity or values beyond float32; an axis that the tensor hasn't got.
    """
    weights = np.asarray(weights)
    if axis is not None and not -weights.ndim <= axis < weights.ndim:
        raise ValueError(f"axis {axis} of a tensor with {weights.ndim} dimensions")
    axis = None if axis is None else axis % weights.ndim
    others = tuple(d for d in range(weights.ndim) if d != axis)
    # Twice a reduction instead of max(abs(w)): no copy of the weights.
    largest = np.max(weights, axis=others, initial=0).astype(np.float64)
    smallest = np.min(weights, axis=others, initial=0).astype(np.float64)
    magnitude = np.atleast_1d(np.maximum(largest, -smallest))
    if not np.all(magnitude <= _FLOAT32_MAX):
        raise ValueError("weights hold NaN, infinity or values beyond float32")
    return QParams(_scales(magnitude, qtype.qmax), np.zeros(magnitude.shape, np.int64), axis)


def block_params(weights: np.ndarray, qtype: QType, block: int) -> QParams:
    """Symmetric parameters for each block of the last dimension: of the weights as (blocks, block).

    Args:
      weights: real values; `block` divides the last dimension.
      qtype: the weights' type.
      block: neighbours that share a scale.
    """
    params = weight_params(weights.reshape(-1, block), qtype, 0)
    return QParams(block_scales(params.scale), params.zero_point, 0)


def block_scales(scales: np.ndarray) -> np.ndarray:
    """The nearest scales that a blockwise file can hold exactly for every kernel: float16 with 8 significant bits.

    The file stores float16, XNNPACK works with bfloat16. Not below 2^-14, where float16 loses bits.
    """
    mantissa, exponent = np.frexp(np.clip(scales.astype(np.float64), 2.0**-14, 2.0**15))
    return np.ldexp(np.rint(mantissa * 256) / 256, exponent).astype(np.float32)


def merge_ranges(ranges: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """The smallest (low, high) that holds all of `ranges`: for tensors that must share one scale.

    Raises:
      ValueError: no ranges, or NaN among them.
    """
    pairs = [(float(low), float(high)) for low, high in ranges]
    if not pairs or np.isnan(pairs).any():
        raise ValueError(f"can't merge the ranges {pairs}")
    return min(low for low, _ in pairs), max(high for _, high in pairs)


def _scales(spans: np.ndarray, steps: int) -> np.ndarray:
    """Scale = spans / steps as float32; a span too small for a normal scale counts as 1."""
    scale = spans / steps
    return np.where(scale < _SMALLEST_NORMAL, 1.0 / steps, scale).astype(np.float32)


# Codes


def quantize(values: ArrayLike, qparams: QParams, qtype: QType) -> np.ndarray:
    """Codes: round(value / scale) + zero point, ties away from zero, saturated to [qmin, qmax].

    The quotient is taken in float64. For float32 values that is the code of the exact quotient wherever
    |code| < 2^28: a quotient of two 24-bit significands that isn't a tie is too far from one for float64 to miss.
    LiteRT's kernels divide in float32 (reference) or multiply by float32(1 / scale) (optimized, XNNPACK; the latter
    rounds ties to even), so a runtime QUANTIZE may differ by one step where the quotient is within float32 rounding
    of a tie. Infinities saturate.

    Args:
      values: real values, any shape.
      qparams: one scale, or one per index of `qparams.axis`.
      qtype: the codes' type.

    Returns:
      The values' shape; int8, uint8, int16, int32 or int64. Types under 8 bits come unpacked, one code per int8.

    Raises:
      ValueError: NaN, or scales that don't fit the shape.
    """
    real = np.asarray(values)
    scale, zero_point = _spread(qparams, real.shape)
    lowest, highest = _limits(qtype)
    codes = np.empty(real.shape, _storage(qtype))
    for slab in _slabs(real.shape):
        exact = round_half_away(real[slab].astype(np.float64) / scale[slab]) + zero_point[slab]
        if np.isnan(exact).any():
            raise ValueError("NaN has no code")
        codes[slab] = np.clip(exact, lowest, highest)
    return codes


def dequantize(codes: ArrayLike, qparams: QParams) -> np.ndarray:
    """Real values: scale * (code - zero point), float32, the codes' shape.

    The product is taken in float64 and rounded once, bit for bit as LiteRT's reference kernel and XNNPACK do; its
    optimized builtin kernel computes in float32, off by up to 2e-5 of a step. What would leave float32 (only possible
    for ranges near its largest value) saturates instead of becoming infinite.

    Raises:
      ValueError: scales that don't fit the shape.
    """
    stored = np.asarray(codes)
    scale, zero_point = _spread(qparams, stored.shape)
    real = np.empty(stored.shape, np.float32)
    for slab in _slabs(stored.shape):
        exact = (stored[slab].astype(np.int64) - zero_point[slab]) * scale[slab]
        real[slab] = np.clip(exact, -_FLOAT32_MAX, _FLOAT32_MAX)
    return real


def _spread(qparams: QParams, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Scale (float64) and zero point (int64) as views of `shape`."""
    aligned = [1] * len(shape)
    if qparams.axis is not None:
        if not 0 <= qparams.axis < len(shape) or shape[qparams.axis] != qparams.scale.size:
            raise ValueError(f"{qparams.scale.size} scales along axis {qparams.axis} don't fit the shape {shape}")
        aligned[qparams.axis] = qparams.scale.size
    scale = qparams.scale.astype(np.float64).reshape(aligned)
    return np.broadcast_to(scale, shape), np.broadcast_to(qparams.zero_point.reshape(aligned), shape)


def _slabs(shape: tuple[int, ...]) -> Iterator[slice | EllipsisType]:
    """Slices of the first axis of about `_SLAB` elements each: they bound the float64 copies."""
    if not shape:
        yield ...
        return
    rows = max(1, _SLAB // max(1, int(np.prod(shape[1:], dtype=np.int64))))
    for start in range(0, shape[0], rows):
        yield slice(start, start + rows)


def _storage(qtype: QType) -> np.dtype:
    """The NumPy type that holds a code: whole bytes, a power of two of them."""
    bits = max(8, 1 << (qtype.bits - 1).bit_length())
    return np.dtype(f"{'int' if qtype.signed else 'uint'}{bits}")


def _limits(qtype: QType) -> tuple[float, float]:
    """The limits qmin and qmax as float64; int64's qmax has none, so the largest float64 below stands in."""
    highest = float(qtype.qmax)
    return float(qtype.qmin), highest if int(highest) <= qtype.qmax else float(np.nextafter(highest, 0))


# Bias and accumulator


def bias_params(input_scale: float, weight_scale: np.ndarray) -> QParams:
    """Parameters of a bias: scale = input scale * weight scale, zero point 0, axis 0 if there are several scales.

    Kernels check the bias scale against the float32 product (within 2 % of the output scale, `kernel_util.cc`); the
    float64 product rounded to float32 is that very number.

    Raises:
      ValueError: a product that isn't a normal float32; `widen_for_bias` makes the small ones large enough.
    """
    scale = _products(input_scale, np.asarray(weight_scale))
    if not np.all((scale >= _SMALLEST_NORMAL) & (scale <= _FLOAT32_MAX)):
        raise ValueError(f"input scale {input_scale} times the weight scale leaves the normal float32 numbers")
    return QParams(scale, np.zeros(scale.shape, np.int64), 0 if scale.size > 1 else None)


def quantize_bias(bias: ArrayLike, qparams: QParams, qtype: QType) -> np.ndarray:
    """Codes of a bias, int32 or int64. Unlike `quantize` this refuses to saturate: a clipped bias shifts a channel.

    Args:
      bias: real values, (channels,).
      qparams: as from `bias_params`.
      qtype: INT32_BIAS or INT64_BIAS.

    Raises:
      ValueError: NaN, or a code outside `qtype`; widen the weight scale first (`widen_for_bias`).
    """
    real = np.asarray(bias, np.float64)
    scale, _ = _spread(qparams, real.shape)
    steps = round_half_away(real / scale)
    lowest, highest = _limits(qtype)
    outside = ~((steps >= lowest) & (steps <= highest))  # NaN is outside too
    if outside.any():
        raise ValueError(f"bias {real[outside][0]} has no {qtype.bits}-bit code at scale {scale[outside][0]}")
    return quantize(real, qparams, qtype)


def widen_for_bias(
    weight_params: QParams, input_scale: float, bias: ArrayLike | None, qtype: QType = INT32_BIAS
) -> QParams:
    """Enlarge weight scales just enough that each bias code stays under half of the bias type's range.

    Where |b| / (s_in * s_w) > qmax / 2 the weight scale becomes |b| / (s_in * qmax / 2), per channel, or for the one
    scale if per tensor. So do TensorFlow's converter and this library, for clipping the bias would be wrong, and the
    other half of the range is for the products. Also enlarged: scales whose product with the input scale would not be
    a normal float32. The weights must be quantized with what is returned.

    Args:
      weight_params: as from `weight_params`; returned as it is if nothing has to change.
      input_scale: scale of the op's input activation.
      bias: real values, (channels,); None if the op has none.
      qtype: the bias type, int32 unless the kernel takes int64.

    Raises:
      ValueError: NaN or infinity, a wrong number of biases, or a scale that would leave float32.
    """
    real = np.abs(np.asarray([] if bias is None else bias, np.float64).reshape(-1))
    input_scale = float(np.float32(input_scale))
    scale = weight_params.scale.astype(np.float64)
    if not np.all(real < np.inf):
        raise ValueError("a bias is NaN or infinite")
    if weight_params.per_channel and real.size not in (0, scale.size):
        raise ValueError(f"{real.size} biases for {scale.size} weight scales")
    magnitude = real if weight_params.per_channel and real.size else np.max(real, initial=0.0)
    needed = np.maximum(magnitude / (qtype.qmax / 2), _SMALLEST_NORMAL)  # the smallest bias scale that will do
    short = _products(input_scale, scale) < needed
    if not short.any():
        return weight_params
    wider = _to_float32(np.where(short, needed / input_scale, scale))
    with np.errstate(over="ignore"):  # what comes after the largest float32
        for _ in range(4):  # float32 may have rounded the scale or the product down, by an ulp each
            wider = np.where(_products(input_scale, wider) < needed, np.nextafter(wider, np.float32(np.inf)), wider)
    if not np.all(wider <= _FLOAT32_MAX):
        raise ValueError(f"a bias of {real.max()} is beyond any weight scale for the input scale {input_scale}")
    return QParams(wider, weight_params.zero_point, weight_params.axis)


def _products(input_scale: float, weight_scale: np.ndarray) -> np.ndarray:
    """The bias scales as float32: exact in float64 (2 x 24 bits), rounded once."""
    return _to_float32(float(np.float32(input_scale)) * np.asarray(weight_scale, np.float64).reshape(-1))


def _to_float32(values: np.ndarray) -> np.ndarray:
    """Rounded to float32; too large becomes infinite, which the callers test for."""
    with np.errstate(over="ignore"):
        return np.asarray(values).astype(np.float32)


def accumulator_fits_int32(
    codes_w: np.ndarray, axis: int, activation_qtype: QType, zero_point: int, bias_codes: np.ndarray | None
) -> bool:
    """True if no input whatsoever can overflow the int32 accumulator of a convolution or a matrix product.

    The bound is exact, and holds after every partial sum too: for each output channel
    sum |w| * max |code - zero point| + |bias| <= 2^31 - 1.

    Args:
      codes_w: weight codes, any shape.
      axis: the output channel's dimension in `codes_w`.
      activation_qtype: type of the input activation.
      zero_point: zero point of the input activation.
      bias_codes: (channels,), None if there is no bias.
    """
    codes = np.asarray(codes_w)
    others = tuple(d for d in range(codes.ndim) if d != axis % codes.ndim)
    largest = max(activation_qtype.qmax - zero_point, zero_point - activation_qtype.qmin)
    # Not np.abs: int8's -128 has no positive counterpart.
    positive = np.sum(codes, axis=others, where=codes > 0, dtype=np.int64)
    negative = np.sum(codes, axis=others, where=codes < 0, dtype=np.int64)
    weight_sum = positive - negative
    room = _INT32_MAX - weight_sum * largest  # below 0, no bias is within it
    bias = np.zeros(1, np.int64) if bias_codes is None else np.asarray(bias_codes, np.int64)
    return bool(np.all((bias <= room) & (bias >= -room)))


# Storage


def pack_int4(codes: np.ndarray) -> np.ndarray:
    """Two 4-bit codes per byte, the first in the low nibble; an odd count is padded with 0. `.tflite`'s INT4 layout.

    Args:
      codes: integers in [-8, 7], any shape, read row-major.

    Returns:
      uint8, ((count + 1) // 2,).

    Raises:
      ValueError: a code outside [-8, 7].
    """
    flat = np.asarray(codes).reshape(-1)
    if flat.size and (flat.min() < -8 or flat.max() > 7):
        raise ValueError(f"codes in [{flat.min()}, {flat.max()}] don't fit into 4 bits")
    nibbles = flat.astype(np.int8).view(np.uint8) & 0x0F
    if nibbles.size % 2:
        nibbles = np.append(nibbles, np.uint8(0))
    return nibbles[0::2] | (nibbles[1::2] << 4)


def unpack_int4(packed: np.ndarray, count: int) -> np.ndarray:
    """The inverse of `pack_int4`: int8, (count,).

    Raises:
      ValueError: the number of bytes isn't that of `count` codes.
    """
    stored = np.asarray(packed, np.uint8).reshape(-1)
    if stored.size != (count + 1) // 2:
        raise ValueError(f"{stored.size} bytes can't hold {count} codes of 4 bits")
    codes = np.empty(stored.size * 2, np.int8)
    codes[0::2] = (stored << 4).view(np.int8) >> 4  # the arithmetic shift extends the sign
    codes[1::2] = stored.view(np.int8) >> 4
    return codes[:count]


def to_float16(values: ArrayLike) -> np.ndarray:
    """Round to float16, nearest even. Finite values beyond 65504 saturate to +-65504; NaN and infinity are kept.

    An infinite weight would turn every output into NaN, a saturated one is merely off.
    """
    real = np.asarray(values)
    with np.errstate(over="ignore", under="ignore"):
        half = real.astype(np.float16)
    too_large = np.isinf(half)
    if not too_large.any():
        return half
    too_large &= np.isfinite(real)
    return np.where(too_large, np.copysign(_FLOAT16_MAX, half), half)


# Differences


def sqnr_db(reference: ArrayLike, other: ArrayLike) -> float:
    """Signal to quantization noise ratio in decibel: 10 log10(sum ref^2 / sum (ref - other)^2), in float64.

    inf if the two are identical, -inf if only the reference is all zero; NaN if either holds NaN or infinity.

    Raises:
      ValueError: shapes that differ.
    """
    signal, noisy = _flat_pair(reference, other)
    with np.errstate(invalid="ignore"):
        noise = signal - noisy
        noise_power, power = float(noise @ noise), float(signal @ signal)
    if noise_power == 0:
        return float("inf")
    if power == 0:
        return float("nan") if np.isnan(noise_power) else float("-inf")
    return float(10 * (np.log10(power) - np.log10(noise_power)))


def cosine(reference: ArrayLike, other: ArrayLike) -> float:
    """Cosine of the angle between two arrays read as vectors, in [-1, 1]: 1 if both are all zero, 0 if only one is.

    NaN if either holds NaN or infinity.

    Raises:
      ValueError: shapes that differ.
    """
    a, b = _flat_pair(reference, other)
    with np.errstate(invalid="ignore"):
        norms = float(np.linalg.norm(a) * np.linalg.norm(b))
        if norms == 0:
            return float(not a.any() and not b.any())
        return float(np.clip(float(a @ b) / norms, -1.0, 1.0))


def _flat_pair(reference: ArrayLike, other: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(reference, np.float64), np.asarray(other, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"shapes {a.shape} and {b.shape} differ")
    return a.reshape(-1), b.reshape(-1)
