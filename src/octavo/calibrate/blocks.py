"""Calibration data cut into blocks: what one worker takes at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from octavo.calibrate.data import InputSpec, as_sharded, layouts_of, rows_each, samples
from octavo.calibrate.sequences import Sequences, steps
from octavo.datasets.sharded import Sharded

_SAMPLES = 16
_BYTES = 8 << 20

Step = tuple[dict[str, np.ndarray], bool]


@dataclass(frozen=True)
class Block:
    """Samples that follow each other, and before which a model's state starts anew.

    Attributes:
      first: number of the first sample.
      count: how many there are.
      data: the samples themselves, each with whether state starts anew with it; or the files that they are in.
    """

    first: int
    count: int
    data: list[Step] | dict[str, Sharded]

    @property
    def nbytes(self) -> int:
        """Bytes of the samples, if they are here."""
        if not isinstance(self.data, list):
            return 0
        return sum(array.nbytes for sample, _ in self.data for array in sample.values())

    def steps(self, inputs: Sequence[InputSpec]) -> Iterator[Step]:
        """The samples, as from `octavo.calibrate.sequences.steps`."""
        if isinstance(self.data, list):
            yield from self.data
        else:
            yield from ((sample, True) for sample in samples(self.data, inputs))

    def place(self, index: int = 0) -> str:
        """Where a sample of the block is, for messages."""
        if isinstance(self.data, list):
            return f"sample {self.first + index}"
        lead = next(iter(self.data.values()))
        path, number = lead.place(index * len(lead) // self.count)
        return f"{path}, sample {number}"


def blocks(data: Any, inputs: Sequence[InputSpec]) -> Iterator[Block]:
    """The samples of `data` in blocks; where they begin follows from the data alone.

    Args:
      data: as for `octavo.calibrate.sequences.steps`.
      inputs: the model's inputs, in order.

    Raises:
      DataError: as in `steps`; what is in files is read, and judged, only by `Block.steps`.
    """
    sharded = None if isinstance(data, Sequences) else as_sharded(data, inputs)
    yield from _gathered(steps(data, inputs)) if sharded is None else _cut(sharded, inputs)


def _gathered(stream: Iterator[Step]) -> Iterator[Block]:
    """Blocks of samples that can be read only here."""
    first, size = 0, 0
    held: list[Step] = []
    for sample, anew in stream:
        if anew and (len(held) >= _SAMPLES or size >= _BYTES):
            yield Block(first, len(held), held)
            first, held, size = first + len(held), [], 0
        held.append((sample, anew))
        size += sum(array.nbytes for array in sample.values())
    if held:
        yield Block(first, len(held), held)


def _cut(sharded: dict[str, Sharded], inputs: Sequence[InputSpec]) -> Iterator[Block]:
    """Blocks of samples in files."""
    layouts = layouts_of(inputs)
    each, batch, lead = rows_each(sharded, layouts), layouts[0].batch, next(iter(sharded.values()))
    row_bytes = sum(array.row_bytes for array in sharded.values())
    step = batch * max(1, min(_SAMPLES, _BYTES // max(1, batch * row_bytes)))
    first = 0
    for start in range(0, max(len(lead), 1), step):
        data = {name: array.choose(slice(start, start + step)) for name, array in sharded.items()}
        count = len(data[inputs[0].name]) * each // batch
        if count or start == 0:  # too few samples even for one batch is an error, and `samples` says so
            yield Block(first, count, data)
        first += count
