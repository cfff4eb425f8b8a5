"""Run a float model on representative data and note what the algorithms need to know of every tensor.

The copy that runs gives out every float tensor as an output (see `expose`): that way the runtime's fastest kernels can
be used and still nothing inside is hidden or overwritten. A few samples are in memory at a time.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from octavo.calibrate.blocks import Block, blocks
from octavo.calibrate.expose import Window, entries
from octavo.calibrate.halves import Halves
from octavo.calibrate.observers import ChannelBounds, Histogram, MinMax
from octavo.calibrate.probes import Probes
from octavo.calibrate.sequences import step_count
from octavo.errors import DataError, RunError
from octavo.graph import Op, Program, Signature, Tensor
from octavo.parallel import reduce
from octavo.unfold import data_of, input_rows, matrix_shape

_VALUES = 16384  # of each tensor and sample go into its histogram
GRAM_BYTES = 1 << 28
_TOGETHER = 64  # turns of a loop whose values are counted at once


@dataclass(frozen=True)
class Needs:
    """Which statistics the algorithms ask for, besides the range of every float tensor.

    Attributes:
      histograms: a histogram of every float tensor.
      moments: means of the inputs of these ops' matrix products ...
      gram: ... and the Gram matrices of those among them.
      bounds: ... and those of whose inputs the bounds of every channel are noted too.
      rows: how many of a sample's input vectors are looked at, for each op of `moments`.
      channels: bounds of every channel (index of the last dimension) of every float tensor.
      probes: how many samples are kept with the outputs of the main subgraph.
    """

    histograms: bool = False
    moments: tuple[Op, ...] = ()
    gram: frozenset[Op] = frozenset()
    bounds: frozenset[Op] = frozenset()
    rows: Mapping[Op, int] = field(default_factory=dict)
    channels: bool = False
    probes: int = 0


@dataclass
class Statistics:
    """What one pass over the data leaves behind. Merging those of two sets of samples gives exactly that of both.

    Attributes:
      bounds: lowest and highest value of each float tensor.
      histograms: see `Needs`.
      moments: likewise; by op.
      recorded: ranges that the model brought along; they count instead of observed ones.
      channels: see `Needs`.
      probes: likewise; None if there are none, or they can't be told from what came before them.
    """

    bounds: dict[Tensor, MinMax] = field(default_factory=dict)
    histograms: dict[Tensor, Histogram] = field(default_factory=dict)
    moments: dict[Op, Halves] = field(default_factory=dict)
    recorded: dict[Tensor, tuple[float, float]] = field(default_factory=dict)
    channels: dict[Tensor, ChannelBounds] = field(default_factory=dict)
    probes: Probes | None = None

    @property
    def ranges(self) -> dict[Tensor, tuple[float, float]]:
        """(low, high) of every tensor that was seen or recorded."""
        seen = {tensor: bounds.range for tensor, bounds in self.bounds.items() if bounds.range is not None}
        return {**seen, **self.recorded}

    def merge(self, other: Statistics) -> Statistics:
        """The statistics of both sets of samples together, of the same program."""
        return Statistics(
            _merged(self.bounds, other.bounds),
            _merged(self.histograms, other.histograms),
            _merged(self.moments, other.moments),
            {**self.recorded, **other.recorded},
            _merged(self.channels, other.channels),
            self.probes.merge(other.probes) if self.probes and other.probes else self.probes or other.probes,
        )


def _merged(a: dict[Any, Any], b: dict[Any, Any]) -> dict[Any, Any]:
    """Two dicts of statistics as one; a key that only one of them has (a branch not taken) keeps its own."""
    return {key: a[key].merge(b[key]) if key in a and key in b else a.get(key, b.get(key)) for key in {**a, **b}}


def collect(program: Program, data: Any, progress: bool = False, needs: Needs | None = None) -> Statistics:
    """Statistics of the float tensors of every entry point, and of the branches that it takes, in one pass over `data`.

    A sample counts by itself alone: a model's state starts anew with it, and which of its values are looked at follows
    from its own bytes. So the order of samples makes no difference, to the last bit. (`Sequences` keep their order
    within, and carry the state along.)

    Args:
      program: a float model.
      data: representative samples in any shape that `calibrate.data.samples` takes, or `Sequences` of them; or a dict
        of such data by signature.
      progress: show a progress bar.
      needs: what to note besides ranges.

    Raises:
      DataError: unusable samples; names the input and the sample.
      RunError: the runtime can't run the model.
    """
    needs = needs or Needs()
    passes = [(_Pass(program, signature, needs), given) for signature, given in _by_entry(program, data)]
    found, reached = Statistics(), set()
    for (one, given), specs in zip(passes, [one.window.specs for one, _ in passes], strict=True):
        seen = reduce(one, blocks(given, specs), step_count(given, specs), "calibrating", progress)
        found, reached = found.merge(seen.found), reached | seen.reached
    # An op that no sample reached (in a branch that none took) has no statistics.
    found.moments = {op: moments for op, moments in found.moments.items() if data_of(op) in reached}
    found.histograms = {tensor: seen for tensor, seen in found.histograms.items() if tensor in reached}
    if found.probes and (found.probes.carried or len(passes) > 1 or passes[0][0].window.graph is not program.main):
        found.probes = None
    return found


@dataclass
class _Seen:
    """What a pass found so far."""

    found: Statistics
    reached: set[Tensor] = field(default_factory=set)


def _parts(found: Statistics) -> tuple[dict[Any, Any], ...]:
    return found.bounds, found.histograms, found.moments, found.channels


_Packed = tuple[list[dict[int, Any]], Probes | None, set[int]]


@dataclass(frozen=True)
class _Pass:
    """One entry point of a program, to be shown samples: the `octavo.parallel.Work` of calibration."""

    program: Program
    signature: Signature | None
    needs: Needs

    @cached_property
    def window(self) -> Window:
        return Window(self.program, self.signature)

    @cached_property
    def members(self) -> list[Any]:
        return [*self.program.tensors(), *self.program.ops()]

    @property
    def nbytes(self) -> int:
        """Weights, and as many Gram matrices as may be kept."""
        return sum(tensor.nbytes for tensor in self.program.tensors()) + (GRAM_BYTES if self.needs.gram else 0)

    def __getstate__(self) -> dict[str, Any]:
        return {"program": self.program, "signature": self.signature, "needs": self.needs}

    def start(self) -> _Seen:
        return _Seen(_empty(self.window.watched, self.needs))

    def add(self, state: _Seen, unit: Block) -> None:
        for index, (sample, anew) in enumerate(unit.steps(self.window.specs)):
            try:
                self._show(state, sample, anew)
            except RunError as error:
                raise RunError(f"{unit.place(index)}: {error}") from error

    def pack(self, state: _Seen) -> _Packed:
        """The statistics with tensors and ops as numbers, for each copy of the program has its own."""
        numbers = {member: number for number, member in enumerate(self.members)}
        parts = [{numbers[key]: value for key, value in part.items()} for part in _parts(state.found)]
        return parts, state.found.probes, {numbers[tensor] for tensor in state.reached}

    def merge(self, state: _Seen, packed: _Packed) -> None:
        parts, probes, reached = packed
        for known, new in zip(_parts(state.found), parts, strict=True):
            for number in list(new):  # one by one: Gram matrices are large
                member, value = self.members[number], new.pop(number)
                known[member] = known[member].merge(value) if member in known else value
        if state.found.probes and probes:
            state.found.probes = state.found.probes.merge(probes)
        state.reached |= {self.members[number] for number in reached}

    def _show(self, state: _Seen, sample: dict[str, np.ndarray], anew: bool) -> None:
        arrays = [sample[spec.name] for spec in self.window.specs]
        seed = _seed(arrays)
        rng = np.random.default_rng(seed)
        for number, together in enumerate(_several(self.window.runs(arrays, anew, views=True))):
            if number == 0 and state.found.probes:
                self._probe(state.found.probes, seed, arrays, together[0], anew)
            state.reached.update(*together)
            _update(state.found, together, self.needs, rng, seed % 2)

    def _probe(
        self, probes: Probes, seed: int, arrays: list[np.ndarray], made: dict[Tensor, np.ndarray], anew: bool
    ) -> None:
        probes.carried |= not anew
        probes.update(seed, arrays, [made.get(tensor, np.zeros(0, bool)) for tensor in self.window.graph.outputs])


def _several(runs: Iterator[dict[Tensor, np.ndarray]]) -> Iterator[list[dict[Tensor, np.ndarray]]]:
    """A few runs at a time: the turns of a loop are many, and what each computes is small."""
    while together := list(itertools.islice(runs, _TOGETHER)):
        yield together


def _by_entry(program: Program, data: Any) -> list[tuple[Signature | None, Any]]:
    """(entry point, its samples): of the main subgraph, or, if `data` is a dict by signature, of each that it names.

    Raises:
      DataError: a program with several entry points gets data for some that it hasn't.
    """
    known = entries(program)
    keys = {signature.key: signature for signature in program.signatures}
    inputs = {name for signature in program.signatures for name, _ in signature.inputs}
    if not isinstance(data, Mapping) or not data or not set(data) <= set(keys) or set(data) <= inputs:
        if len(known) > 1 and isinstance(data, Mapping) and set(data) & set(keys):
            unknown = sorted(set(map(str, data)) - set(keys))
            raise DataError(f"there is no signature {unknown[0]!r}: the model has {', '.join(map(repr, keys))}")
        return [(next(iter(known.values())), data)]
    return [(keys[key], given) for key, given in data.items()]


def _empty(watched: list[Tensor], needs: Needs) -> Statistics:
    block = _block_size(needs.gram)
    moments = {}
    for op in needs.moments:
        features = matrix_shape(op)[2]
        blocks = -(-features // block)
        moments[op] = Halves.empty(-(-features // blocks), op in needs.gram)
    histograms = {tensor: Histogram() for tensor in watched} if needs.histograms else {}
    channels = {tensor: ChannelBounds() for tensor in watched if tensor.shape} if needs.channels else {}
    probes = Probes(needs.probes) if needs.probes else None
    return Statistics({tensor: MinMax() for tensor in watched}, histograms, moments, channels=channels, probes=probes)


def _block_size(ops: Iterable[Op]) -> int:
    """How many features a Gram matrix may span so that all of them together stay within the memory meant for them."""
    shapes = [matrix_shape(op) for op in ops]
    for block in (2048, 1024, 512, 256, 128):
        blocks = [(groups * -(-features // block), min(features, block)) for groups, _, features in shapes]
        if sum(2 * 8 * count * size * size for count, size in blocks) <= GRAM_BYTES:  # two halves
            return block
    return 64


def _seed(arrays: list[np.ndarray]) -> int:
    """A number that follows from the sample's bytes."""
    checksum = 0
    for array in arrays:
        checksum = zlib.crc32(array.tobytes(), checksum)
    return checksum


def _update(
    found: Statistics,
    together: Sequence[dict[Tensor, np.ndarray]],
    needs: Needs,
    rng: np.random.Generator,
    half: int,
) -> None:
    """Add some runs to one half of the samples: the values of every watched tensor that each computed."""
    for tensor in dict.fromkeys(tensor for values in together for tensor in values):
        arrays = [values[tensor] for values in together if tensor in values]
        found.bounds[tensor].update(_joined(arrays))
        if needs.histograms:
            found.histograms[tensor].update(_joined([_some(array, rng) for array in arrays]))
        if tensor in found.channels:
            for array in arrays:
                found.channels[tensor].update(array)
    for op, moments in found.moments.items():
        for values in together:
            if data_of(op) in values:
                moments.update(input_rows(op, values[data_of(op)], needs.rows[op], rng), half)
                if op in needs.bounds:
                    moments.bound(values[data_of(op)])


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return arrays[0] if len(arrays) == 1 else np.concatenate([array.reshape(-1) for array in arrays])


def _some(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """About `_VALUES` values, evenly spaced: the step has no divisor in common with the channels, so it visits all."""
    flat = array.reshape(-1)
    if flat.size <= _VALUES:
        return flat
    step = flat.size // _VALUES + 1
    while math.gcd(step, array.shape[-1]) > 1:
        step += 1
    return flat[int(rng.integers(step)) :: step]
