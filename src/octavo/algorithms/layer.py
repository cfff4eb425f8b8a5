"""One op's weights: scales and codes, from what is known of its inputs alone. So layers can be done anywhere.

`Rounder` is the `octavo.parallel.Work` of it, `Layer` the unit: arrays, and neither graph nor plan.

Needs: the moments of the op's inputs; without, only scales of under eight bits are searched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from octavo import numerics
from octavo.algorithms import shrinkage, weight_scales
from octavo.algorithms.rounding import Rounding
from octavo.calibrate.halves import Halves, in_blocks
from octavo.qtypes import QParams, QType


@dataclass(frozen=True)
class Layer:
    """Weights to be rounded.

    Attributes:
      number: which one it is; results are told by it.
      name: of the op, for messages.
      weights: (groups, outputs, features), real values.
      scales: what the largest weights ask for, (groups or 1, outputs or 1, 1); in blocks (outputs, blocks).
      qtype: the weights' type.
      moments: of the inputs; None if nothing is known of them.
      biased: whether a bias will make up for the mean error.
      search: whether other scales may be better.
      block: features that share a scale; 0 if all do.
      bias: the scale of the input and the bias, which the weights' scales must leave room for; None if they needn't.
      thorough: see `Rounding`.
    """

    number: int
    name: str
    weights: np.ndarray
    scales: np.ndarray
    qtype: QType
    moments: Halves | None
    biased: bool
    search: bool = False
    block: int = 0
    bias: tuple[float, np.ndarray | None] | None = None
    thorough: bool = False

    @property
    def count(self) -> int:
        """About how much work it is: a Cholesky factor, and a few products with it."""
        return work(*self.weights.shape)

    @property
    def nbytes(self) -> int:
        return self.weights.nbytes + (0 if self.moments is None else self.moments.nbytes)

    def place(self, index: int = 0) -> str:
        return f"the weights of {self.name}"

    def chosen(self) -> Chosen:
        """The best scales that were found, and the codes to go with them."""
        rounding = self._rounding()
        if self.block:
            return Chosen() if rounding is None else self._in_blocks(rounding)
        scales = None
        if self.search:
            if rounding is None:
                scales = weight_scales.best_scales(self.weights, None, self.scales, self.qtype)
            else:
                scales = rounding.best_scales(self.scales)
            scales = self._wide_enough(scales)
        if rounding is None:
            return Chosen(scales)
        return Chosen(scales, rounding.codes(self.scales if scales is None else scales))

    def _in_blocks(self, rounding: Rounding) -> Chosen:
        scales = numerics.block_scales(rounding.best_block_scales(self.scales, self.block))
        return Chosen(scales, rounding.codes(scales.repeat(self.block, axis=1)[None]))

    def _wide_enough(self, scales: np.ndarray) -> np.ndarray:
        if self.bias is None:
            return scales
        params = QParams(scales, np.zeros(scales.size), axis=0 if scales.size > 1 else None)
        return numerics.widen_for_bias(params, *self.bias).scale.reshape(scales.shape)

    def _rounding(self) -> Rounding | None:
        """None if nothing is known of the op's inputs, or they were all zero."""
        mean = None if self.moments is None else self.moments.mean()
        if self.moments is None or mean is None:
            return None
        covariances = self.moments.covariances()
        if not covariances or not np.isfinite(mean).all():
            return None
        gram = shrinkage.shrunk(covariances, self.moments.samples)
        if not self.biased:
            rows = in_blocks(mean, self.moments.block)
            gram = gram + rows[:, :, None] * rows[:, None, :]
        return Rounding(self.weights, gram, self.qtype, thorough=self.thorough) if np.isfinite(gram).all() else None


def work(groups: int, outputs: int, features: int) -> int:
    """Multiplications that rounding takes, in millions; at least 1."""
    return max(1, groups * features * features * (features // 3 + 2 * outputs) // 1_000_000)


@dataclass(frozen=True)
class Chosen:
    """What became of a layer.

    Attributes:
      scales: as in `Layer`; None if those that it came with stay.
      codes: int8, the shape of the weights; None if they are to be rounded to nearest.
    """

    scales: np.ndarray | None = None
    codes: np.ndarray | None = None


_Found = dict[int, Chosen]


@dataclass(frozen=True)
class Rounder:
    """Rounds layers: number -> what was chosen."""

    nbytes: int = 0

    def start(self) -> _Found:
        return {}

    def add(self, state: _Found, unit: Layer) -> None:
        state[unit.number] = unit.chosen()

    def pack(self, state: _Found) -> Any:
        return state

    def merge(self, state: _Found, packed: Any) -> None:
        state.update(packed)
