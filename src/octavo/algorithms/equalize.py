"""Cross-layer equalization: move scale from one layer to the next, so that one weight scale serves all channels.

Between two layers, channel i may be divided by any s[i] > 0 if the second layer's weights for it are multiplied by
s[i]: f(x / s) * s = f(x) for a ReLU and for no activation at all. With r1[i] and r2[i] the largest weights of channel i
in the first and the second layer, s[i] = sqrt(r1[i] / r2[i]) makes the two alike. Chains of layers are gone over until
nothing moves. Source: section 4.1 of Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
Correction" (2019).

Two limits that the paper hasn't got, both from what the samples showed of each channel. The activation's own range
never grows, for it has one scale too: a channel isn't made larger than the largest is. And RELU6 is a ReLU only below
6: a channel that came near its bound keeps its scale, the others stay clear of it (with a quarter to spare).

For weights with one scale per tensor; one scale per channel makes it needless.

Needs: bounds of the second layer's inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from octavo.calibrate.halves import Halves
from octavo.graph import Op, Program, Tensor
from octavo.graph.queries import recorded_range
from octavo.ops import Weights
from octavo.sites import Range
from octavo.unfold import data_of, from_matrix, input_channels, scale_matrix, to_matrix, weights_of

_ROUNDS = 20
_SETTLED = 0.01  # largest relative change of a factor in the last round
_SPARE = 1.25  # how far below RELU6's bound a channel has to stay
_BOUNDS = {0: np.inf, 1: np.inf, 3: 6.0}  # fused activation (none, RELU, RELU6) -> where it stops growing


def factors(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """What to divide each channel by, from its largest weights in the two layers; 1 where either has only zeros."""
    alive = (first > 0) & (second > 0)
    return np.sqrt(np.divide(first, second, out=np.ones(first.shape), where=alive))


def least_factors(extremes: np.ndarray, bound: float) -> np.ndarray:
    """The smallest factor that each channel may be divided by.

    Args:
      extremes: (channels,), largest magnitude seen.
      bound: where the activation stops growing.
    """
    return np.maximum(extremes / max(extremes.max(initial=0.0), 1e-30), _SPARE * extremes / bound)


@dataclass
class _Pair:
    """Two layers, one right after the other.

    Attributes:
      between: the tensor that the first makes and the second reads.
      least: the smallest total factor of each channel.
      fixed: channels that keep their scale.
      total: what each channel has been divided by so far.
    """

    first: Op
    second: Op
    between: Tensor
    least: np.ndarray
    fixed: np.ndarray
    total: np.ndarray


def equalize(
    program: Program,
    wanted: Callable[[Op], bool],
    moments: dict[Op, Halves],
    ranges: dict[Tensor, Range],
) -> list[Tensor]:
    """Equalize every pair of layers that can be; edits weights, biases, `moments` and `ranges` to match.

    Args:
      program: a float model in normal form.
      wanted: which ops may change.
      moments: of the ops' inputs; a pair without those of its second op is left alone.
      ranges: lowest and highest value of each tensor.

    Returns:
      the tensors whose scale has changed: their range is that of the vectors in `moments`.
    """
    found = list(_pairs(program, wanted, moments))
    for _ in range(_ROUNDS):
        if max((_step(pair) for pair in found), default=0.0) < _SETTLED:
            break
    changed = [pair for pair in found if (pair.total != 1).any()]
    for pair in changed:
        seen = moments[pair.second].scaled(1 / pair.total[input_channels(pair.second)])
        assert seen.low is not None and seen.high is not None
        moments[pair.second] = seen
        ranges[pair.between] = float(seen.low.min()), float(seen.high.max())
    return [pair.between for pair in changed]


def _pairs(program: Program, wanted: Callable[[Op], bool], moments: dict[Op, Halves]) -> Iterator[_Pair]:
    for graph in program.graphs:
        makers, readers = graph.producers(), graph.consumers()
        outputs = {*graph.outputs, *(t for s in program.signatures for _, t in s.outputs)}
        for second in graph.ops:
            seen = moments.get(second)
            if seen is None or seen.high is None or not wanted(second):
                continue
            between = data_of(second)
            first = makers.get(between)
            if first is None or not wanted(first) or between in outputs or len(readers[between]) != 1:
                continue
            if recorded_range(between) is None and _changeable(first, readers) and _changeable(second, readers):
                yield _pair(first, second, between, seen)


def _changeable(op: Op, readers: dict[Tensor, list[Op]]) -> bool:
    """Whether the op alone reads its weights and its bias, and its activation lets a scale through."""
    facts = weights_of(op)
    if facts is None or op.option("fusedActivationFunction", 0) not in _BOUNDS:
        return False
    own = [op.inputs[facts.index], _bias(op, facts)]
    return all(tensor is None or (tensor.is_constant and len(readers[tensor]) == 1) for tensor in own)


def _bias(op: Op, facts: Weights) -> Tensor | None:
    return op.inputs[facts.bias] if facts.bias is not None and facts.bias < len(op.inputs) else None


def _pair(first: Op, second: Op, between: Tensor, seen: Halves) -> _Pair:
    assert seen.low is not None and seen.high is not None
    extremes = np.zeros(between.shape[-1])
    np.maximum.at(extremes, input_channels(second), np.maximum(seen.high, -seen.low))
    bound = _BOUNDS[first.option("fusedActivationFunction", 0)]
    fixed = _SPARE * extremes >= bound
    return _Pair(first, second, between, least_factors(extremes, bound), fixed, np.ones(extremes.shape))


def _step(pair: _Pair) -> float:
    """Equalize one pair as it now stands; returns the largest relative change."""
    facts, next_facts = weights_of(pair.first), weights_of(pair.second)
    assert facts is not None and next_facts is not None
    kernel, next_kernel = pair.first.inputs[facts.index], pair.second.inputs[next_facts.index]
    assert kernel is not None and next_kernel is not None
    matrix, next_matrix = to_matrix(pair.first, kernel.values), to_matrix(pair.second, next_kernel.values)
    channels = input_channels(pair.second)
    largest = np.zeros(pair.total.shape)
    np.maximum.at(largest, channels, np.abs(next_matrix).max(axis=1))
    wanted = pair.total * factors(np.abs(matrix).max(axis=2).reshape(-1), largest)
    total = np.where(pair.fixed, 1.0, np.maximum(wanted, pair.least))
    step = total / pair.total
    pair.total = total
    _set(pair.first, kernel, matrix / scale_matrix(pair.first, step))
    _set(pair.second, next_kernel, next_matrix * step[channels][:, None, :])
    if (bias := _bias(pair.first, facts)) is not None:
        bias.set_values((bias.values / step).astype(np.float32))
    return float(np.abs(np.log(step)).max(initial=0.0))


def _set(op: Op, kernel: Tensor, matrix: np.ndarray) -> None:
    kernel.set_values(from_matrix(op, matrix, kernel.shape).astype(np.float32))
