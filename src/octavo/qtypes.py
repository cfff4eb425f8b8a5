"""What a quantized number is: its type and its parameters. Facts only; the arithmetic is in `numerics`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class QType:
    """An integer format.

    Attributes:
      bits: width of the stored integer.
      signed: two's complement if true, else unsigned.
      symmetric: the zero point is always 0.
      narrow_range: the lowest code is unused, so that -max..max is symmetric (weights: -127..127).
    """

    bits: int
    signed: bool = True
    symmetric: bool = False
    narrow_range: bool = False

    @property
    def qmin(self) -> int:
        """Smallest code."""
        return (-(1 << (self.bits - 1)) if self.signed else 0) + self.narrow_range

    @property
    def qmax(self) -> int:
        """Largest code."""
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1


# The formats of LiteRT's quantization specification (https://ai.google.dev/edge/litert/models/quantization_spec).
INT8 = QType(8)
UINT8 = QType(8, signed=False)
INT16 = QType(16, symmetric=True)
INT8_WEIGHT = QType(8, symmetric=True, narrow_range=True)
INT4_WEIGHT = QType(4, symmetric=True, narrow_range=True)
INT32_BIAS = QType(32, symmetric=True)
INT64_BIAS = QType(64, symmetric=True)


@dataclass(frozen=True, eq=False)
class QParams:
    """real = scale * (code - zero_point).

    Attributes:
      scale: float32, shape (1,) per tensor or (channels,) per channel; positive and normal.
      zero_point: int64, the shape of `scale`.
      axis: the channel dimension ("quantized_dimension"); None when per tensor.
    """

    scale: np.ndarray
    zero_point: np.ndarray
    axis: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", np.asarray(self.scale, np.float32).reshape(-1))
        object.__setattr__(self, "zero_point", np.asarray(self.zero_point, np.int64).reshape(-1))

    @classmethod
    def per_tensor(cls, scale: float, zero_point: int = 0) -> QParams:
        return cls(np.array([scale], np.float32), np.array([zero_point], np.int64))

    @property
    def per_channel(self) -> bool:
        return self.axis is not None

    @property
    def key(self) -> tuple[object, ...]:
        """Hashable identity: two parameters with the same key are interchangeable."""
        return (self.axis, self.scale.tobytes(), self.zero_point.tobytes())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, QParams) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)
