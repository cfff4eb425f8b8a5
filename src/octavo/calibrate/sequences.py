"""Samples that follow on each other, for models that keep state from one run to the next.

A streaming model meets most of its state only after many steps, so calibrating each step from the first state would
see ranges that are too narrow. `Sequences` says which samples belong together: state is carried from one to the next
and starts anew with each sequence. Without it every sample stands alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from octavo.calibrate.data import InputSpec, count_hint, samples
from octavo.errors import DataError

Sample = dict[str, np.ndarray]


@dataclass(frozen=True)
class Sequences:
    """Calibration data for a model with state: pass it as `calibration=`.

    Attributes:
      data: an iterable of sequences, each of which is samples in order, in any shape in which `calibration=` takes
        them; or, with `steps`, the samples of all sequences one after the other.
      steps: how many samples make one sequence; an incomplete last one counts too.

    Raises:
      DataError: `steps` is less than 1.
    """

    data: Any
    steps: int | None = None

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise DataError(f"a sequence has at least one step, not {self.steps}")


def reads_once(data: Any) -> bool:
    """Whether the data is used up by reading it: a generator, or something made of generators."""
    if isinstance(data, Sequences):
        return reads_once(data.data)
    return isinstance(data, Iterator) or (isinstance(data, dict) and any(map(reads_once, data.values())))


def steps(data: Any, inputs: Sequence[InputSpec]) -> Iterator[tuple[Sample, bool]]:
    """Every sample of `data`, and whether the model's state starts anew with it.

    Raises:
      DataError: as `calibrate.data.samples`; or the data aren't sequences.
    """
    if not isinstance(data, Sequences):
        yield from ((sample, True) for sample in samples(data, inputs))
    elif data.steps is not None:
        yield from ((sample, i % data.steps == 0) for i, sample in enumerate(samples(data.data, inputs)))
    else:
        yield from _each(data.data, inputs)


def _each(data: Any, inputs: Sequence[InputSpec]) -> Iterator[tuple[Sample, bool]]:
    if callable(data):
        data = data()
    if not isinstance(data, Iterable) or isinstance(data, str | bytes | dict):
        raise DataError(f"a {type(data).__name__} is no iterable of sequences: give a list of them, or say steps=")
    number = -1
    for number, sequence in enumerate(data):
        try:
            for index, sample in enumerate(samples(sequence, inputs)):
                yield sample, index == 0
        except DataError as error:
            raise DataError(f"sequence {number}: {error}") from None
    if number < 0:
        raise DataError("the data has no sequences")


def step_count(data: Any, inputs: Sequence[InputSpec]) -> int | None:
    """How many samples there are, for progress bars; None if only iterating would tell."""
    if not isinstance(data, Sequences):
        return count_hint(data, inputs)
    return None if data.steps is None else count_hint(data.data, inputs)
