"""What calibration remembers of a tensor. Every statistic merges exactly, so the order of samples can't matter."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

# Codes of `Moments` lie in [-2^14, 2^14]: products of 2^28, so sums over 2^34 vectors stay exact in int64.
_MANTISSA = 14
# Vectors that are multiplied at once, one large matrix product instead of many small ones; and when they are too large.
_TOGETHER = 512
_TOGETHER_BYTES = 1 << 22


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
            # + 0.0 makes one zero of two: which of -0.0 and 0.0 is the lower depends on their order.
            self.low = float(np.minimum(self.low, values.min())) + 0.0
            self.high = float(np.maximum(self.high, values.max())) + 0.0

    def merge(self, other: MinMax) -> MinMax:
        """The statistic of both sets of values together."""
        return MinMax(float(np.minimum(self.low, other.low)), float(np.maximum(self.high, other.high)))

    @property
    def range(self) -> tuple[float, float] | None:
        """(low, high), None if no value was seen."""
        return None if self.low == np.inf and self.high == -np.inf else (self.low, self.high)


@dataclass
class ChannelBounds:
    """Lowest and highest value seen of each index of the last dimension, (channels,); None before the first value.

    Where samples differ in the size of that dimension, an index means nothing: the bounds are infinite.
    """

    low: np.ndarray | None = None
    high: np.ndarray | None = None

    @property
    def known(self) -> tuple[np.ndarray, np.ndarray] | None:
        """(low, high), None if no value was seen."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    def update(self, values: np.ndarray) -> None:
        if values.size:
            rows = values.reshape(-1, values.shape[-1])
            self._widen(rows.min(axis=0), rows.max(axis=0))

    def merge(self, other: ChannelBounds) -> ChannelBounds:
        """The statistic of both sets of values together."""
        both = ChannelBounds(self.low, self.high)
        if other.low is not None and other.high is not None:
            both._widen(other.low, other.high)
        return both

    def _widen(self, low: np.ndarray, high: np.ndarray) -> None:
        if self.low is not None and self.low.shape != low.shape:
            low, high = np.full(1, -np.inf), np.full(1, np.inf)
            self.low = self.high = None
        self.low = low if self.low is None else np.minimum(self.low, low)
        self.high = high if self.high is None else np.maximum(self.high, high)


@dataclass
class Histogram:
    """How often values fell into each bin of a power-of-two width, at most `bins` of them between lowest and highest.

    Bin i holds [i * width, (i + 1) * width). When the values outgrow the bins, neighbours are joined and the width
    doubles: floor(x / 2w) is floor(x / w) halved and floored, so the result depends on the values only, not on their
    order or on how they were divided among histograms that were merged. Exact zeros, many after a ReLU, are counted
    apart.

    Attributes:
      bins: greatest number of bins.
      exponent: the width is 2 ** exponent; None before the first value that isn't zero.
      first: number of the first bin.
      counts: int64, from that bin on.
      zeros: how many values were 0.
    """

    bins: int = 2048
    exponent: int | None = None
    first: int = 0
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    zeros: int = 0

    def update(self, values: np.ndarray) -> None:
        """Count finite values; others are ignored."""
        flat = values.reshape(-1)
        if not flat.size:
            return
        low, high = float(flat.min()), float(flat.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            self.update(flat[np.isfinite(flat)])
            return
        zeros = flat.size - int(np.count_nonzero(flat))
        self.zeros += zeros
        if zeros == flat.size:
            return
        other = (flat[flat != 0] if zeros else flat).astype(np.float64)
        # The smallest width that can do for these values alone; whole numbers below 2^53 are exact.
        exponent = int(np.frexp(max(abs(low), abs(high)) / self.bins)[1])
        indices = np.floor(_shifted(other, -exponent)).astype(np.int64)
        first = int(indices.min())
        self._add(exponent, first, np.bincount(indices - first))

    def merge(self, other: Histogram) -> Histogram:
        """The histogram of both sets of values together."""
        both = Histogram(self.bins, self.exponent, self.first, self.counts.copy(), self.zeros + other.zeros)
        if other.exponent is not None:
            both._add(other.exponent, other.first, other.counts)
        return both

    def _add(self, exponent: int, first: int, counts: np.ndarray) -> None:
        if self.exponent is None:
            self.exponent, self.first, self.counts = exponent, first, counts.astype(np.int64)
            return
        while exponent < self.exponent:
            exponent, first, counts = exponent + 1, *_halved(first, counts)
        while self.exponent < exponent:
            self.exponent, (self.first, self.counts) = self.exponent + 1, _halved(self.first, self.counts)
        start = min(self.first, first)
        end = max(self.first + self.counts.size, first + counts.size)
        joined = np.zeros(end - start, np.int64)
        joined[self.first - start :][: self.counts.size] = self.counts
        joined[first - start :][: counts.size] += counts
        self.first, self.counts = start, joined

    @property
    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """(values, counts): the middle of each bin that isn't empty, and 0 for the exact zeros."""
        if self.exponent is None:
            return np.zeros(1), np.array([self.zeros])
        used = np.flatnonzero(self.counts)
        middles = np.ldexp(self.first + used + 0.5, self.exponent)
        return np.append(middles, 0.0), np.append(self.counts[used], self.zeros)


def _shifted(rows: np.ndarray, exponent: int) -> np.ndarray:
    """Multiply by a power of two; exact, and by the faster of two ways where the factor is a float32."""
    return rows * np.float32(2.0**exponent) if abs(exponent) < 120 else np.ldexp(rows, exponent)


def _halved(first: int, counts: np.ndarray) -> tuple[int, np.ndarray]:
    """The bins of twice the width: (number of the first, counts)."""
    lead = first % 2
    padded = np.zeros(lead + counts.size + (lead + counts.size) % 2, np.int64)
    padded[lead : lead + counts.size] = counts
    return first // 2, padded.reshape(-1, 2).sum(axis=1)


@dataclass
class Moments:
    """First and second moments of vectors, added up without any rounding.

    Sums of floats depend on their order; sums of integers don't. So each sample's values are first rounded to whole
    multiples of a power of two, 2^-14 or less of the sample's largest magnitude (finer than eight bits can show), and
    the products of these integers are summed: a few at a time in float64, exact below 2^53, and all in int64. Samples
    of different magnitude go to different sums; only reading the result adds those up, in a fixed order.

    Attributes:
      block: features are cut into blocks of this many, and products across blocks are left out: a bound on memory.
      gram: whether second moments are wanted; else only means are kept.
      sums: exponent -> (sums of products (groups * blocks, block, block), sums (groups, features)), int64.
      count: number of vectors.
    """

    block: int
    gram: bool = True
    sums: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    count: int = 0
    _waiting: dict[int, list[np.ndarray]] = field(default_factory=dict, repr=False)

    @property
    def nbytes(self) -> int:
        """Memory that the sums take."""
        self.settle()
        return sum(products.nbytes + total.nbytes for products, total in self.sums.values())

    def update(self, rows: np.ndarray) -> None:
        """Add one sample's vectors: (positions, groups, features), finite."""
        self.count += len(rows)
        largest = max(float(rows.max(initial=0.0)), -float(rows.min(initial=0.0)))
        if largest == 0 or not np.isfinite(largest):
            return
        # Every second exponent: fewer sums to keep.
        exponent = 2 * -(-int(np.frexp(largest)[1]) // 2)
        codes = np.rint(_shifted(rows, _MANTISSA - exponent)).astype(np.int16)
        waiting = self._waiting.setdefault(exponent, [])
        waiting.append(codes)
        vectors, nbytes = sum(map(len, waiting)), sum(codes.nbytes for codes in waiting)
        if vectors >= _TOGETHER or nbytes >= _TOGETHER_BYTES:
            self._flush(exponent)

    def _flush(self, exponent: int) -> None:
        codes = np.concatenate(self._waiting.pop(exponent))
        products = self._products(codes).astype(np.int64) if self.gram else np.zeros(0, np.int64)
        self._add(exponent, products, codes.sum(axis=0, dtype=np.int64))

    def _add(self, exponent: int, products: np.ndarray, total: np.ndarray) -> None:
        if exponent in self.sums:
            known, known_total = self.sums[exponent]
            known += products
            known_total += total
        else:
            self.sums[exponent] = (products, total)

    def _products(self, codes: np.ndarray) -> np.ndarray:
        count, groups, features = codes.shape
        blocks = -(-features // self.block)
        if features < blocks * self.block:
            codes = np.pad(codes, ((0, 0), (0, 0), (0, blocks * self.block - features)))
        stacked = codes.reshape(count, groups * blocks, self.block).transpose(1, 0, 2).astype(np.float64, order="C")
        return np.matmul(stacked.transpose(0, 2, 1), stacked)

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets of vectors together; exact."""
        both = Moments(self.block, self.gram)
        both.absorb(self)
        both.absorb(other)
        return both

    def absorb(self, other: Moments) -> None:
        """Add another set of vectors; exact, and without a copy of what is here."""
        other.settle()
        self.count += other.count
        for exponent, (products, total) in other.sums.items():
            if exponent not in self.sums:
                self.sums[exponent] = (np.zeros_like(products), np.zeros_like(total))
            self._add(exponent, products, total)

    def __getstate__(self) -> dict[str, Any]:
        self.settle()
        return self.__dict__

    def settle(self) -> None:
        """Add up what waits."""
        for exponent in list(self._waiting):
            self._flush(exponent)

    def mean(self) -> np.ndarray | None:
        """(groups, features), float64; None if all inputs were zero."""
        self.settle()
        if not self.sums:
            return None
        parts = [np.ldexp(total, exponent - _MANTISSA) for exponent, (_, total) in sorted(self.sums.items())]
        return np.sum(parts, axis=0) / self.count

    def second(self) -> np.ndarray | None:
        """Mean products: (groups * blocks, block, block), float64; None if all inputs were zero or only means kept."""
        self.settle()
        if not self.sums or not self.gram:
            return None
        parts = [np.ldexp(total, 2 * (exponent - _MANTISSA)) for exponent, (total, _) in sorted(self.sums.items())]
        return np.sum(parts, axis=0) / self.count
