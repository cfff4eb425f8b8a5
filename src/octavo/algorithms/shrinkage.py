"""How much of what inputs seem to have in common is chance, and the covariance without it.

With few samples every two features seem correlated, and rounding that counts on it does harm. So the covariance is
drawn towards its own diagonal: C + w * (diag(C) - C), where w is the share of the off-diagonal elements' squares that
is due to chance. Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices" (2004), with
the diagonal as target as in Schäfer and Strimmer, "A Shrinkage Approach to Large-Scale Covariance Matrix Estimation"
(2005). They take the chance from how vectors scatter; here vectors of one sample resemble each other, so it is taken
from how far two halves of the samples differ: with a and b vectors in them, chance moves the whole covariance by
|C_a - C_b|^2 a b / (a + b)^2 on average, and by (n - 1) / (n - 2) of that where n samples determined two means.

Needs: covariances of two halves of the samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def shrunk(halves: Sequence[tuple[int, np.ndarray]], samples: int) -> np.ndarray:
    """The covariance of all vectors, less what is chance.

    Args:
      halves: (number of vectors, covariance around the mean of all (groups, features, features)) of one half or both.
        With one nothing tells chance from fact, and only the diagonal is kept.
      samples: number of samples that the vectors come from.
    """
    count = sum(number for number, _ in halves)
    whole = np.sum([number / count * covariance for number, covariance in halves], axis=0)
    diagonal = whole * np.eye(whole.shape[1])
    if len(halves) < 2 or samples < 3:
        return diagonal
    (a, first), (b, second) = halves
    chance = _off_diagonal(first - second) * a * b / count**2 * (samples - 1) / (samples - 2)
    seen = _off_diagonal(whole)
    share = np.minimum(np.divide(chance, seen, out=np.ones_like(seen), where=seen > 0), 1.0)[:, None, None]
    return whole + share * (diagonal - whole)


def _off_diagonal(matrices: np.ndarray) -> np.ndarray:
    """(groups,): sum of squares off the diagonal."""
    return (matrices**2).sum(axis=(1, 2)) - (np.diagonal(matrices, axis1=1, axis2=2) ** 2).sum(axis=1)
