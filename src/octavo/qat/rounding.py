"""Fake quantization in `keras.ops`, on any backend: `octavo.numerics` with straight-through gradients.

Everything is float32 here, because training is; `numerics` computes scales in float64. Both give the same codes: the
zero point that training used is the one that is written to the file (see `octavo.marks.ends`).

Sources: gradients through rounding, Bengio et al. 2013 (https://arxiv.org/abs/1308.3432); fake quantization in
training, Jacob et al. 2018 (https://arxiv.org/abs/1712.05877); learned steps, Esser et al. 2020 (LSQ,
https://arxiv.org/abs/1902.08153).
"""

from __future__ import annotations

from typing import Any

import keras

from octavo.qtypes import QType

ops: Any = keras.ops  # a type checker takes its functions for ones that return None
_SMALLEST = 1.1754944e-38  # the smallest normal float32


def through(rounded: Any, x: Any) -> Any:
    """The value of `rounded` with the gradient of `x`."""
    return x + ops.stop_gradient(rounded - x)


def range_params(low: Any, high: Any, qtype: QType) -> tuple[Any, Any]:
    """Scale and zero point of a range, as `numerics.activation_params` makes them.

    Args:
      low, high: scalars; low <= 0 <= high.
      qtype: the activation's type.

    Returns:
      (scale, zero point), both float scalars; the zero point is a whole number, and passes gradients through.
    """
    if qtype.symmetric:
        span = ops.maximum(-low, high)
        scale = ops.where(span / qtype.qmax < _SMALLEST, 1.0 / qtype.qmax, span / qtype.qmax)
        return scale, ops.zeros_like(scale)
    steps = qtype.qmax - qtype.qmin
    span = high - low
    usable = span / steps >= _SMALLEST
    span = ops.where(usable, span, 1.0)
    exact = qtype.qmin - ops.where(usable, low, 0.0) * steps / span
    away = ops.sign(exact) * ops.floor(ops.abs(exact) + 0.5)  # ties away from zero
    return span / steps, through(ops.clip(away, qtype.qmin, qtype.qmax), exact)


def quantize_activation(x: Any, scale: Any, zero_point: Any, qtype: QType) -> Any:
    """`x` rounded to the codes of one scale; outside the range it saturates and its gradient is 0."""
    inside = ops.clip(x, (qtype.qmin - zero_point) * scale, (qtype.qmax - zero_point) * scale)
    return through(ops.round(inside * (1.0 / scale)) * scale, inside)


def learn_activation(x: Any, scale: Any, zero_point: Any, qtype: QType, gradient_scale: float) -> Any:
    """The same with gradients for scale and zero point too (LSQ): a range that is trained.

    Args:
      x: any shape.
      scale, zero_point: as from `range_params`.
      qtype: the activation's type.
      gradient_scale: damps the gradient of the scale, which sums over all elements: 1 / sqrt(elements * qmax).
    """
    scale = scale * gradient_scale + ops.stop_gradient(scale * (1.0 - gradient_scale))
    codes = ops.clip(x / scale, qtype.qmin - zero_point, qtype.qmax - zero_point)
    return through(ops.round(codes), codes) * scale


def quantize_weights(weights: Any, qtype: QType, axes: tuple[int, ...] | None) -> Any:
    """Weights rounded to symmetric codes, scale = max|w| / qmax, as `numerics.weight_params`; gradient 1 everywhere.

    Args:
      weights: any shape.
      qtype: the weights' type.
      axes: dimensions of the output channels, which have a scale each; None for one scale.
    """
    others = [d for d in range(len(weights.shape)) if axes is None or d not in {a % len(weights.shape) for a in axes}]
    fixed = ops.stop_gradient(weights)
    scale = ops.max(ops.abs(fixed), axis=others, keepdims=True) / qtype.qmax
    scale = ops.where(scale < _SMALLEST, 1.0 / qtype.qmax, scale)
    return weights + (ops.round(fixed * (1.0 / scale)) * scale - fixed)
