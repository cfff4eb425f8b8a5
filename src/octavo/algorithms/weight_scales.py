"""Weight scales with the least error, instead of the largest weight's.

Clipping the few largest weights of a channel lets all others round more finely. Each channel's scale is searched below
max|w| / qmax, for the least sum of squared weight errors, each counted with the importance of its input: Choukroun et
al., "Low-bit quantization of neural networks for efficient inference" (2019); the importance as in "Optimal Brain
Surgeon", the diagonal of the loss's Hessian, which for a layer's output error is the second moment of its inputs.

Needs: nothing (plain MSE), or the second moments of the op's inputs.
"""

from __future__ import annotations

import numpy as np

from octavo.qtypes import QType


def best_scales(
    weights: np.ndarray,
    importance: np.ndarray | None,
    scales: np.ndarray,
    qtype: QType,
    narrowest: float = 0.5,
    candidates: int = 32,
) -> np.ndarray:
    """For each channel the scale in [narrowest * scales, scales] with the least weighted squared error.

    Args:
      weights: (groups, outputs, features).
      importance: (groups, features), not negative; None counts all features alike.
      scales: (groups, outputs, 1) for a scale per channel, or (1, 1, 1) for one for all: the largest to try.
      qtype: the weights' type.
      narrowest: the smallest factor to try.
      candidates: how many factors to try.

    Returns:
      float32, the shape of `scales`. A channel whose error nothing improves keeps its scale.
    """
    importance = np.ones((1, 1, 1)) if importance is None else importance[:, None, :]
    best = np.asarray(scales, np.float32)
    least = _errors(weights, importance, best, qtype)
    for factor in np.linspace(1.0, narrowest, candidates)[1:]:
        tried = (np.asarray(scales, np.float64) * factor).astype(np.float32)
        errors = _errors(weights, importance, tried, qtype)
        better = errors < least
        best, least = np.where(better, tried, best), np.where(better, errors, least)
    return best


def _errors(weights: np.ndarray, importance: np.ndarray, scales: np.ndarray, qtype: QType) -> np.ndarray:
    steps = scales.astype(np.float64)
    codes = np.clip(np.rint(weights / steps), qtype.qmin, qtype.qmax)
    squares = (weights - codes * steps) ** 2 * importance
    return squares.sum(axis=2, keepdims=True) if scales.size > 1 else squares.sum(keepdims=True)
