"""Moments of two halves of the samples, kept apart: what only one half shows is chance."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from octavo.calibrate.observers import Moments


@dataclass
class Halves:
    """`Moments` of all samples, and of two halves of them.

    To which half a sample belongs follows from its own bytes, so that the order of samples makes no difference.

    Attributes:
      parts: the moments of each half.
      samples: number of samples.
      low, high: bounds of each channel of the data that the vectors are cut from, where they were asked for.
      factors: what the features have been multiplied with since, (groups, features); None for 1.
    """

    parts: tuple[Moments, Moments]
    samples: int = 0
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    factors: np.ndarray | None = None

    @classmethod
    def empty(cls, block: int, gram: bool) -> Halves:
        return cls((Moments(block, gram), Moments(block, gram)))

    @property
    def block(self) -> int:
        """How many features a block of second moments spans."""
        return self.parts[0].block

    @property
    def count(self) -> int:
        """Number of vectors."""
        return sum(part.count for part in self.parts)

    @property
    def nbytes(self) -> int:
        """Memory that the sums take."""
        return sum(part.nbytes for part in self.parts)

    def update(self, rows: np.ndarray, half: int) -> None:
        """Add one sample's vectors, (positions, groups, features), to a half: 0 or 1."""
        self.parts[half].update(rows)
        self.samples += 1

    def bound(self, data: np.ndarray) -> None:
        """Note the bounds of each channel of one sample's data, (..., channels): of all of it, not of drawn vectors."""
        flat = data.reshape(-1, data.shape[-1])
        if len(flat):
            self.low = _pairwise(np.minimum, self.low, flat.min(axis=0))
            self.high = _pairwise(np.maximum, self.high, flat.max(axis=0))

    def settle(self) -> None:
        """Add up what waits."""
        for part in self.parts:
            part.settle()

    def merge(self, other: Halves) -> Halves:
        """The moments of both sets of vectors together; exact."""
        first, second = (mine.merge(theirs) for mine, theirs in zip(self.parts, other.parts, strict=True))
        low, high = _pairwise(np.minimum, self.low, other.low), _pairwise(np.maximum, self.high, other.high)
        return Halves((first, second), self.samples + other.samples, low, high, self.factors)

    def scaled(self, factors: np.ndarray, channels: np.ndarray) -> Halves:
        """The moments of the same vectors after each channel was multiplied.

        Args:
          factors: what with, (channels,); positive.
          channels: the channel of each feature, (groups, features).
        """
        low, high = (None if bound is None else bound * factors for bound in (self.low, self.high))
        known = 1.0 if self.factors is None else self.factors
        return replace(self, low=low, high=high, factors=factors[channels] * known)

    def mean(self) -> np.ndarray | None:
        """(groups, features), float64; None if all inputs were zero."""
        mean = _average([(part.count, part.mean()) for part in self.parts])
        return mean if mean is None or self.factors is None else mean * self.factors

    def second(self) -> np.ndarray | None:
        """Mean products: (groups * blocks, block, block), float64; None if all inputs were zero or only means kept."""
        return self._rescaled(_average([(part.count, part.second()) for part in self.parts]))

    def _rescaled(self, products: np.ndarray | None) -> np.ndarray | None:
        if products is None or self.factors is None:
            return products
        factors = in_blocks(self.factors, self.block)
        return products * factors[:, :, None] * factors[:, None, :]

    def covariances(self) -> list[tuple[int, np.ndarray]]:
        """(number of vectors, how they scatter around the mean of all) of each half that saw something but zeros.

        In blocks as in `second`; float64.
        """
        together = _average([(part.count, part.mean()) for part in self.parts])
        found = []
        for part in self.parts:
            mean, second = part.mean(), part.second()
            if mean is not None and second is not None and together is not None:
                own, common = in_blocks(mean, part.block), in_blocks(together, part.block)
                crossed = own[:, :, None] * common[:, None, :]
                middle = common[:, :, None] * common[:, None, :]
                around = self._rescaled(second - crossed - crossed.swapaxes(1, 2) + middle)
                assert around is not None
                found.append((part.count, around))
        return found


def in_blocks(values: np.ndarray, block: int) -> np.ndarray:
    """(groups, features) as (groups * blocks, block), padded with zeros."""
    groups, features = values.shape
    blocks = -(-features // block)
    return np.pad(values, ((0, 0), (0, blocks * block - features))).reshape(groups * blocks, block)


def _pairwise(choose: np.ufunc, a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
    return choose(a, b) if a is not None and b is not None else b if a is None else a


def _average(parts: list[tuple[int, np.ndarray | None]]) -> np.ndarray | None:
    """The mean of means, each with its count; a half of which there is none counts as zeros."""
    known = [(count, values) for count, values in parts if values is not None]
    if not known:
        return None
    return np.sum([count * values for count, values in known], axis=0) / sum(count for count, _ in parts)
