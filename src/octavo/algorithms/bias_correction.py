"""Analytic bias correction: rounded weights shift the mean of a layer's output; its bias takes the shift back.

With W the real and Q the quantized weights and m the mean of the op's inputs, the output moves by (Q - W) @ m on
average, whatever activation follows: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
Correction" (2019), section 4.2, with measured means.

Needs: the mean of the op's inputs.
"""

from __future__ import annotations

import numpy as np


def corrected(bias: np.ndarray, weights: np.ndarray, restored: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """The bias that keeps the mean output.

    Args:
      bias: (groups * outputs,).
      weights: (groups, outputs, features), real values.
      restored: the same after quantization.
      mean: (groups, features), the mean input.

    Returns:
      float64, the shape of `bias`.
    """
    shift = np.einsum("gof,gf->go", np.asarray(weights, np.float64) - restored, mean)
    return np.asarray(bias, np.float64) + shift.reshape(-1)
