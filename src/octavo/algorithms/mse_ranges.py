"""Activation ranges with the least mean squared error.

A wide range clips nothing and rounds coarsely; a narrow one rounds finely and clips. The best bounds are found on a
histogram of the values, from the observed bounds inwards: Banner et al., "Post training 4-bit quantization of
convolutional networks for rapid-deployment" (2019), by search as in TensorRT's and AIMET's calibrators rather than
under an assumed distribution.

Needs: a histogram of each tensor.
"""

from __future__ import annotations

import numpy as np

from octavo import numerics
from octavo.qtypes import QType

_STEPS = 48  # candidates for each bound, per pass
_NARROWEST = 0.1  # of the observed bound
_PASSES = 2


def best_range(values: np.ndarray, counts: np.ndarray, low: float, high: float, qtype: QType) -> tuple[float, float]:
    """The bounds inside [low, high] whose quantization has the least squared error.

    Args:
      values: (bins,), a value for each bin.
      counts: (bins,), how often it was seen.
      low, high: the observed bounds.
      qtype: the activation's type.

    Returns:
      (low, high), contained in the given range widened to hold 0.
    """
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    best = (low, high)
    if not (counts.sum() > 0 and low < high):
        return best
    shares = counts / counts.sum()
    factors = np.linspace(1.0, _NARROWEST, _STEPS)
    for _ in range(_PASSES):
        for side in (1, 0):
            if (low, high)[side] == 0:
                continue
            bounds = (low, high)[side] * factors
            lows, highs = (np.full(_STEPS, best[0]), bounds) if side else (bounds, np.full(_STEPS, best[1]))
            least = int(np.argmin(squared_errors(values, shares, lows, highs, qtype)))
            best = (float(lows[least]), float(highs[least]))
    return best


def squared_errors(
    values: np.ndarray, shares: np.ndarray, lows: np.ndarray, highs: np.ndarray, qtype: QType
) -> np.ndarray:
    """Mean squared error of quantizing `values` (with weights `shares`) with each of some ranges."""
    scales, zero_points = numerics.activation_scales(lows, highs, qtype)
    scale, zero_point = scales.astype(np.float64)[:, None], zero_points[:, None]
    codes = np.clip(np.rint(values / scale), qtype.qmin - zero_point, qtype.qmax - zero_point)
    return ((values - codes * scale) ** 2) @ shares
