"""What calibration remembers of a tensor. Every statistic merges exactly, so the order of samples can't matter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class MinMax:
    """Lowest and highest value seen. NaN is kept, so that it can be reported.

    Attributes:
      low, high: bounds so far; +inf and -inf before the first value.
    """

    low: float = np.inf
    high: float = -np.inf

    def update(self, values: np.ndarray) -> None:
        if values.size:
            self.low = float(np.minimum(self.low, values.min()))
            self.high = float(np.maximum(self.high, values.max()))

    def merge(self, other: MinMax) -> MinMax:
        """The statistic of both sets of values together."""
        return MinMax(float(np.minimum(self.low, other.low)), float(np.maximum(self.high, other.high)))

    @property
    def range(self) -> tuple[float, float] | None:
        """(low, high), None if no value was seen."""
        return None if self.low == np.inf and self.high == -np.inf else (self.low, self.high)
