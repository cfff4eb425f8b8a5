"""Cross-layer equalization: move scale from one layer to the next, so that one weight scale serves all channels.

Between two layers, channel i may be divided by any s[i] > 0 if the second layer's weights for it are multiplied by
s[i]: f(x / s) * s = f(x) for a ReLU and for no activation at all. With r1[i] and r2[i] the largest weights of channel i
in the first and the second layer, s[i] = sqrt(r1[i] / r2[i]) makes the two alike. Chains of layers are gone over until
nothing moves. Source: section 4.1 of Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
Correction" (2019).

What the paper hasn't got:

- Alike isn't always best: a channel of little weight takes the steps of one that counts. So of s, its roots and no
  factor at all that is taken which leaves the second layer's output the least noise: from rounding both layers' weights
  (each error counted with the power of its input) and from rounding the activation in between, which has one scale too.
- Neither the activation nor the bias grows beyond the largest that there is: a large bias widens the weights' scale.
- A channel that the samples never woke keeps its scale: nothing is known of it.
- RELU6 is no ReLU: a layer that ends in it is left alone. (To count on channels that the samples never showed near 6
  was tried on EfficientNet-Lite0: even in float the network was then only 18.7 dB from the original on other images.)

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
from octavo.qtypes import QType
from octavo.sites import Range
from octavo.unfold import (
    data_of,
    from_matrix,
    input_channels,
    matrix_shape,
    scale_matrix,
    to_matrix,
    weights_of,
)

_ROUNDS = 8
_SETTLED = 0.01  # largest relative change of a factor in the last round
_SCALABLE = (0, 1)  # fused activations: none, RELU
_POWERS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the factor that would make two layers alike


def factors(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """What to divide each channel by, from its largest weights in the two layers; 1 where either has only zeros."""
    alive = (first > 0) & (second > 0)
    return np.sqrt(np.divide(first, second, out=np.ones(first.shape), where=alive))


def least_factors(*magnitudes: np.ndarray) -> np.ndarray:
    """The smallest factor that each channel may be divided by, so that none outgrows what is the largest now.

    Args:
      magnitudes: one or more kinds of them, each (channels,).
    """
    return np.max([kind / max(kind.max(initial=0.0), 1e-30) for kind in magnitudes], axis=0)


@dataclass
class _Pair:
    """Two layers, one right after the other.

    Attributes:
      between: the tensor that the first makes and the second reads.
      awake: channels that the samples showed to be something other than 0.
      least: the smallest total factor of each channel.
      total: what each channel has been divided by so far.
      extremes: (channels,), largest magnitude of the tensor in between that was seen.
      power, next_power: mean square of each feature of the two layers' inputs, (groups, features).
      qtype, next_qtype: the types of their weights.
    """

    first: Op
    second: Op
    between: Tensor
    awake: np.ndarray
    least: np.ndarray
    total: np.ndarray
    extremes: np.ndarray
    power: np.ndarray
    next_power: np.ndarray
    qtype: QType
    next_qtype: QType


def equalize(
    program: Program,
    type_of: Callable[[Op], QType | None],
    moments: dict[Op, Halves],
    ranges: dict[Tensor, Range],
) -> list[Tensor]:
    """Equalize every pair of layers that can be; edits weights, biases, `moments` and `ranges` to match.

    Args:
      program: a float model in normal form.
      type_of: the type of an op's weights, None if it is to stay as it is.
      moments: of the ops' inputs; a pair without those of its second op is left alone.
      ranges: lowest and highest value of each tensor.

    Returns:
      the tensors whose scale has changed: their range is that of the vectors in `moments`.
    """
    found = list(_pairs(program, type_of, moments))
    for _ in range(_ROUNDS):
        if max((_step(pair) for pair in found), default=0.0) < _SETTLED:
            break
    changed = [pair for pair in found if (pair.total != 1).any()]
    for pair in changed:
        seen = moments[pair.second].scaled(1 / pair.total, input_channels(pair.second))
        assert seen.low is not None and seen.high is not None
        moments[pair.second] = seen
        ranges[pair.between] = float(seen.low.min()), float(seen.high.max())
    return [pair.between for pair in changed]


def _pairs(program: Program, type_of: Callable[[Op], QType | None], moments: dict[Op, Halves]) -> Iterator[_Pair]:
    for graph in program.graphs:
        makers, readers = graph.producers(), graph.consumers()
        outputs = {*graph.outputs, *(t for s in program.signatures for _, t in s.outputs)}
        for second in graph.ops:
            seen = moments.get(second)
            first = None if seen is None or seen.high is None else makers.get(data_of(second))
            before = None if first is None else moments.get(first)
            if first is None or seen is None or before is None:
                continue
            between, types = data_of(second), (type_of(first), type_of(second))
            if between in outputs or len(readers[between]) != 1 or recorded_range(between) is not None:
                continue
            scalable = first.option("fusedActivationFunction", 0) in _SCALABLE
            if not scalable or types[0] is None or types[1] is None:
                continue
            if _changeable(first, readers) and _changeable(second, readers):
                yield _pair(first, second, between, before, seen, (types[0], types[1]))


def _changeable(op: Op, readers: dict[Tensor, list[Op]]) -> bool:
    """Whether the op alone reads its weights and its bias."""
    facts = weights_of(op)
    assert facts is not None, "ops whose moments are known have weights"
    own = [op.inputs[facts.index], _bias(op, facts)]
    return all(tensor is None or (tensor.is_constant and len(readers[tensor]) == 1) for tensor in own)


def _bias(op: Op, facts: Weights) -> Tensor | None:
    return op.inputs[facts.bias] if facts.bias is not None and facts.bias < len(op.inputs) else None


def _pair(first: Op, second: Op, between: Tensor, before: Halves, seen: Halves, types: tuple[QType, QType]) -> _Pair:
    assert seen.low is not None and seen.high is not None
    extremes = np.maximum(seen.high, -seen.low).astype(np.float64)
    facts = weights_of(first)
    assert facts is not None
    bias = _bias(first, facts)
    offsets = np.zeros(extremes.shape) if bias is None else np.abs(bias.values)
    power, next_power = _powers(first, before), _powers(second, seen)
    least, ones = least_factors(extremes, offsets), np.ones(extremes.shape)
    return _Pair(first, second, between, extremes > 0, least, ones, extremes, power, next_power, *types)


def _powers(op: Op, moments: Halves) -> np.ndarray:
    """(groups, features): mean square of each feature of the op's inputs; all alike if nothing is known of them."""
    groups, _, features = matrix_shape(op)
    second = moments.second()
    if second is None:
        return np.ones((groups, features))
    return np.diagonal(second, axis1=1, axis2=2).reshape(groups, -1)[:, :features]


def _step(pair: _Pair) -> float:
    """Move one pair as it now stands towards less noise; returns the largest relative change."""
    facts, next_facts = weights_of(pair.first), weights_of(pair.second)
    assert facts is not None and next_facts is not None
    kernel, next_kernel = pair.first.inputs[facts.index], pair.second.inputs[next_facts.index]
    assert kernel is not None and next_kernel is not None
    matrix, next_matrix = to_matrix(pair.first, kernel.values), to_matrix(pair.second, next_kernel.values)
    channels = input_channels(pair.second)
    largest = np.zeros(pair.total.shape)
    np.maximum.at(largest, channels, np.abs(next_matrix).max(axis=1))
    alike = factors(np.abs(matrix).max(axis=2).reshape(-1), largest)
    totals = [np.maximum(pair.total * alike**power, pair.least) for power in _POWERS]
    totals = [np.where(pair.awake, total, 1.0) for total in totals]
    steps = [total / pair.total for total in totals]
    made = [(matrix / scale_matrix(pair.first, step), next_matrix * step[channels][:, None, :]) for step in steps]
    best = int(np.argmin([_noise(pair, *both, total) for both, total in zip(made, totals, strict=True)]))
    if (steps[best] == 1).all():
        return 0.0
    pair.total = totals[best]
    _set(pair.first, kernel, made[best][0])
    _set(pair.second, next_kernel, made[best][1])
    if (bias := _bias(pair.first, facts)) is not None:
        bias.set_values((bias.values / steps[best]).astype(np.float32))
    return float(np.abs(np.log(steps[best])).max(initial=0.0))


def _noise(pair: _Pair, matrix: np.ndarray, next_matrix: np.ndarray, total: np.ndarray) -> float:
    """Power of the noise on the second layer's output, from both layers' weights and the activation in between."""
    channels = input_channels(pair.second)
    gain = np.zeros(total.shape)  # of the second layer, for noise on each channel
    np.add.at(gain, channels, (next_matrix**2).sum(axis=1))
    from_first = (_rounding_error(matrix, pair.qtype) ** 2 * pair.power[:, None, :]).sum(axis=2).reshape(-1) @ gain
    next_power = pair.next_power / total[channels] ** 2
    from_second = (_rounding_error(next_matrix, pair.next_qtype) ** 2 * next_power[:, None, :]).sum()
    step = (pair.extremes / total).max(initial=0.0) / 255
    return float(from_first + from_second + step**2 / 12 * gain.sum())


def _rounding_error(matrix: np.ndarray, qtype: QType) -> np.ndarray:
    """What rounding to nearest with one scale takes away."""
    step = max(float(np.abs(matrix).max(initial=0.0)) / qtype.qmax, 1e-30)
    return matrix - np.rint(matrix / step) * step


def _set(op: Op, kernel: Tensor, matrix: np.ndarray) -> None:
    kernel.set_values(from_matrix(op, matrix, kernel.shape).astype(np.float32))
