"""How sure a measured number is: confidence intervals, and tests of paired differences.

Variants of one model see the same samples, so their results are paired: what counts is on how many samples they
differ, not how wide the two intervals are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

DRAWS = 9999  # random sign patterns of the permutation test: p is known to about 0.005 at worst
_BLOCK = 1 << 22  # signs held in memory at once


@dataclass(frozen=True)
class Interval:
    """A confidence interval."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:.4g} to {self.high:.4g}"


def wilson(successes: float, count: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a share.

    Right near 0 and 1 too, where the textbook's p +- z * sqrt(p (1 - p) / n) has no width (E. B. Wilson, Probable
    inference, the law of succession, and statistical inference, J. Am. Stat. Assoc. 22, 1927).

    Raises:
      ValueError: no samples, or more successes than samples.
    """
    if count < 1 or not 0 <= successes <= count:
        raise ValueError(f"{successes} of {count} is no share")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / count
    centre = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    # The bounds at 0 and 1 are exact; rounding would put them a hair inside.
    low = 0.0 if successes == 0 else (centre - spread) / scale
    high = 1.0 if successes == count else (centre + spread) / scale
    return Interval(low, high)


def mean_interval(values: np.ndarray, confidence: float = 0.95) -> Interval | None:
    """Interval of a mean by the central limit theorem; None below 30 values, where that isn't trustworthy."""
    if values.size < 30:
        return None
    spread = NormalDist().inv_cdf(0.5 + confidence / 2) * float(np.std(values, ddof=1)) / math.sqrt(values.size)
    centre = float(np.mean(values))
    return Interval(centre - spread, centre + spread)


def median_interval(values: np.ndarray, confidence: float = 0.95) -> Interval:
    """Interval of a median from order statistics: no assumption on the distribution.

    The number of values below the median is binomial(n, 1/2); the ranks that it leaves out with less than
    (1 - confidence) / 2 on each side bound the median. With fewer than six values this is their whole span.
    """
    ordered = np.sort(np.asarray(values, np.float64).reshape(-1))
    count = ordered.size
    rank, tail = -1, 0.0
    while rank + 1 < count // 2:
        tail += _half_binomial(count, rank + 1)
        if tail > (1 - confidence) / 2:
            break
        rank += 1
    rank = max(rank, 0)
    return Interval(float(ordered[rank]), float(ordered[count - 1 - rank]))


def mcnemar(lost: int, gained: int) -> float:
    """Exact two-sided p-value of McNemar's test.

    Args:
      lost: samples that only the first model has right.
      gained: samples that only the second model has right.

    Returns:
      the probability of a split at least as uneven if each such sample were a fair coin. 1 if there are none. Below
      0.05 the difference is commonly taken to be more than chance.
    """
    total, fewer = lost + gained, min(lost, gained)
    if lost == gained:
        return 1.0
    return min(1.0, 2 * math.fsum(_half_binomial(total, k) for k in range(fewer + 1)))


def paired_permutation(differences: np.ndarray, seed: int = 0) -> float:
    """Two-sided p-value of the mean of paired differences being zero, by flipping signs at random.

    If neither model were better, each difference could as well have had the other sign. The seed makes it repeatable.
    """
    moved = np.asarray(differences, np.float64).reshape(-1)
    moved = moved[moved != 0]
    if moved.size == 0:
        return 1.0
    rng = np.random.default_rng(seed)
    observed = abs(float(moved.sum())) * (1 - 1e-12)
    extreme, done = 0, 0
    while done < DRAWS:
        many = min(DRAWS - done, max(1, _BLOCK // moved.size))
        signs = rng.integers(0, 2, (many, moved.size), np.int8) * 2 - 1
        extreme += int(np.count_nonzero(np.abs(signs @ moved) >= observed))
        done += many
    return (extreme + 1) / (DRAWS + 1)


def _half_binomial(count: int, k: int) -> float:
    """Probability of k heads among `count` throws of a fair coin; by logarithms, so that no count is too large."""
    log = math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1) - count * math.log(2)
    return math.exp(log)
