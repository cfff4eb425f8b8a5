"""Coordinate descent: go over rounded weights again, and move each to the code that is best as the others now stand.

For an output channel with the weight errors e = w - q and the Gram matrix H of the inputs, the squared output error is
e.T @ H @ e. Changing code j by d steps of size s changes e[j] by -d s; the best whole d is (H @ e)[j] / (H[j, j] s),
rounded. No step makes the error larger. GPTQ looks at each weight once, in a fixed order; this finds what it missed:
Behdin et al., "QuantEase: Optimization-based Quantization for Language Models" (2023).

Needs: the Gram matrix of the op's inputs.
"""

from __future__ import annotations

import numpy as np

from octavo.qtypes import QType


def improve(
    weights: np.ndarray, codes: np.ndarray, scales: np.ndarray, gram: np.ndarray, qtype: QType, passes: int = 3
) -> np.ndarray:
    """Codes whose output error is at most that of the given ones.

    Args:
      weights: (groups, outputs, features), real values.
      codes: the same shape.
      scales: broadcasts against the weights.
      gram: (groups, features, features), symmetric; damp it first if it is singular.
      qtype: the weights' type.
      passes: how often to go over all features.

    Returns:
      int8, the shape of `codes`.
    """
    steps = np.broadcast_to(np.asarray(scales, np.float64), weights.shape)
    found = codes.astype(np.float64)
    gradient = (weights - found * steps) @ gram
    diagonal = np.diagonal(gram, axis1=1, axis2=2)
    for _ in range(passes):
        changed = False
        for j in range(weights.shape[2]):
            curvature = diagonal[:, j, None] * steps[:, :, j]
            with np.errstate(divide="ignore", invalid="ignore"):
                wanted = np.where(curvature > 0, gradient[:, :, j] / curvature, 0.0)
            moved = np.clip(np.rint(found[:, :, j] + wanted), qtype.qmin, qtype.qmax) - found[:, :, j]
            if moved.any():
                changed = True
                found[:, :, j] += moved
                gradient -= (moved * steps[:, :, j])[:, :, None] * gram[:, None, j, :]
        if not changed:
            break
    return found.astype(np.int8)
