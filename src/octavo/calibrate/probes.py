"""A few samples with what the float model makes of them, to hold a quantized model against."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

PROBES = 16  # samples on which models are measured


@dataclass
class Probes:
    """Samples chosen by their own bytes, so that neither their order nor who saw them makes a difference.

    Attributes:
      limit: how many are kept.
      kept: checksum of a sample -> (an array per input, an array per output; an empty one where it isn't float).
      carried: whether a sample's outputs depended on those before it: then it says nothing by itself.
    """

    limit: int
    kept: dict[int, tuple[list[np.ndarray], list[np.ndarray]]] = field(default_factory=dict)
    carried: bool = False

    def update(self, checksum: int, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> None:
        """Show one sample; it is copied if it is kept."""
        if checksum in self.kept or (len(self.kept) >= self.limit and checksum > max(self.kept, default=0)):
            return
        self.kept[checksum] = [np.array(array) for array in inputs], [np.array(array) for array in outputs]
        self._cut()

    def merge(self, other: Probes) -> Probes:
        """The probes of both sets of samples together."""
        both = Probes(self.limit, {**self.kept, **other.kept}, self.carried or other.carried)
        both._cut()
        return both

    def _cut(self) -> None:
        self.kept = {checksum: self.kept[checksum] for checksum in heapq.nsmallest(self.limit, self.kept)}
