"""Channels are scaled by powers of two, so that each makes use of the one scale that its activation has.

An int8 activation has one scale for all its channels: one that reaches a tenth of what the widest reaches has a tenth
of the 256 steps. Algebra: f(s x) = s f(x) for every s > 0 and every op that `octavo.channels` ties along; so what
makes a channel may be multiplied by s, and what reads it divided, and the outputs stay as they are. With s a power of
two they stay to the bit: no mantissa changes. Weights with a scale per channel don't mind s on the output's side.

How large s may be: (1) no range grows, at either end (but the shorter end may reach an eighth of the longer one);
(2) dividing the columns of a weight matrix makes its small ones smaller, whose rounding then counts for more. The noise
from activations falls with s^2 and that from weights rises with it, so their sum is least at s^4 = (noise from
activations) / (noise from weights), both at s = 1. The idea is that of cross-layer equalization (Nagel et al., 2019,
https://arxiv.org/abs/1906.04721) and SmoothQuant (Xiao et al., 2022, https://arxiv.org/abs/2211.10438), along whole
residual trunks.

A RELU6 clips a channel that was scaled at 6 / s, which calibration didn't see it reach; as with every range, what comes
later and is larger is clipped.

The exponents are kept in the file's metadata (`octavo.levels`, compressed), so that `octavo.inspect` can hold its
tensors against the float model's.

Refuses: tensors without calibration or with another number of channels than the file says, and whatever
`octavo.channels` pins.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np

from octavo.channels import Channels
from octavo.errors import DataError
from octavo.graph import Op, Program, Tensor
from octavo.ops import OPS, Weights
from octavo.qtypes import QType

KEY = "octavo.levels"
_MOST = 6  # 2^6: beyond, a channel has next to nothing to say
_SHORT_END = 1 / 8
_CREST = 16.0  # peak power over mean power, about, of what networks compute
_LEFT = 0.1  # what GPTQ leaves of the noise of rounding to nearest

Bounds = tuple[np.ndarray, np.ndarray]
"""Lowest and highest value of each channel of a tensor."""


def level_channels(program: Program, bounds: Mapping[Tensor, Bounds], activations: QType, weights: QType) -> list[str]:
    """Edit every subgraph of `program` in place; returns a note if there was something to scale.

    Args:
      program: a float model in normal form.
      bounds: of each float tensor that calibration saw.
      activations, weights: what they will be quantized to.
    """
    program.metadata = [(name, data) for name, data in program.metadata if name != KEY]
    bounds = {tensor: ends for tensor, ends in bounds.items() if ends[0].shape == tensor.shape[-1:]}
    exponents = []
    for graph in program.graphs:
        channels = Channels(program, graph)
        factors = _factors(channels, bounds, activations, weights)
        exponents.append(np.log2(factors[channels.free]).astype(np.int8))
        _scale(channels, factors)
    record = np.concatenate(exponents) if exponents else np.zeros(0, np.int8)
    changed = int(np.count_nonzero(record))
    if not changed:
        return []
    program.metadata.append((KEY, np.frombuffer(zlib.compress(record.tobytes(), 9), np.uint8)))
    return [f"{changed} channels are scaled by powers of two inside, to use the range of their activation in full"]


def restore_levels(program: Program, small: Program) -> None:
    """Scale the channels of the float `program` as those of `small`, which was made from it, are.

    Raises:
      DataError: `small` was made from another model.
    """
    record = next((data for name, data in small.metadata if name == KEY), None)
    if record is None:
        return
    exponents = np.frombuffer(zlib.decompress(record.tobytes()), np.int8)
    found = [Channels(program, graph) for graph in program.graphs]
    if sum(len(channels.free) for channels in found) != exponents.size:
        raise DataError("the small model was made from another float model: their channels differ in number")
    for channels in found:
        own, exponents = np.split(exponents, [len(channels.free)])
        factors = np.ones(channels.count)
        factors[channels.free] = np.exp2(own)
        _scale(channels, factors)


def _factors(channels: Channels, bounds: Mapping[Tensor, Bounds], activations: QType, weights: QType) -> np.ndarray:
    """The factor of each root."""
    largest = np.full(channels.count, 2.0**_MOST)
    for tensor in channels.ids:
        np.minimum.at(largest, channels.roots(tensor), _largest(tensor, bounds))
    rounded, weighed = np.zeros(channels.count), np.zeros(channels.count)
    for op, columns in channels.sinks.items():
        facts = _facts(op)
        data = op.inputs[facts.data]
        if data is None or data not in bounds:
            continue
        roots, (low, high) = channels.roots(data)[columns], bounds[data]
        matrix = _matrix(op, facts)
        step = (max(high.max(), 0) - min(low.min(), 0)) / (activations.qmax - activations.qmin)
        np.add.at(rounded, roots, step**2 * (matrix**2).sum(axis=(0, 1)))
        if op.code != "DEPTHWISE_CONV_2D":  # there a column is a row, with a scale of its own
            steps = np.abs(matrix).max(axis=(1, 2)) / weights.qmax
            power = np.maximum(np.abs(low), np.abs(high))[columns] ** 2 / _CREST
            np.add.at(weighed, roots, _LEFT * power * matrix.shape[1] * (steps**2).sum())
    with np.errstate(divide="ignore", invalid="ignore"):
        best = np.where(weighed > 0, (rounded / weighed) ** 0.25, np.inf)
    exponents = np.floor(np.log2(np.clip(np.minimum(best, largest), 1, 2.0**_MOST)) + 1e-6)
    factors = np.ones(channels.count)
    factors[channels.free] = np.exp2(exponents[channels.free])
    return factors


def _largest(tensor: Tensor, bounds: Mapping[Tensor, Bounds]) -> np.ndarray:
    """By how much each channel may be multiplied without its tensor's range growing."""
    if tensor not in bounds:
        return np.ones(tensor.shape[-1])
    low, high = np.minimum(bounds[tensor][0], 0), np.maximum(bounds[tensor][1], 0)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        return np.ones(tensor.shape[-1])
    bottom, top = low.min(initial=0), high.max(initial=0)
    bottom, top = min(bottom, -top * _SHORT_END if bottom else 0.0), max(top, -bottom * _SHORT_END if top else 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.minimum(np.where(high > 0, top / high, np.inf), np.where(low < 0, bottom / low, np.inf))


def _facts(op: Op) -> Weights:
    facts = OPS[op.code].weights
    assert facts is not None and facts.axis is not None
    return facts


def _matrix(op: Op, facts: Weights) -> np.ndarray:
    """The weights as (outputs, taps, columns), float64; a depthwise kernel's outputs are its columns."""
    kernel = op.inputs[facts.index]
    assert kernel is not None
    values = kernel.values.astype(np.float64)
    if op.code == "DEPTHWISE_CONV_2D":
        return values.reshape(1, -1, values.shape[3])
    return np.moveaxis(values, facts.axis or 0, 0).reshape(values.shape[facts.axis or 0], -1, values.shape[-1])


def _scale(channels: Channels, factors: np.ndarray) -> None:
    """Write the factors into weights, biases and what is added to channels."""
    editor = channels.editor
    for op in channels.sources:
        facts = _facts(op)
        rows = factors[channels.roots(op.outputs[0])]
        data, kernel = op.inputs[facts.data], op.inputs[facts.index]
        assert data is not None and kernel is not None and facts.axis is not None
        columns = factors[channels.roots(data)[channels.sinks[op]]] if op in channels.sinks else np.ones(1)
        if (rows == 1).all() and (columns == 1).all():
            continue
        along = [1] * len(kernel.shape)
        along[facts.axis] = -1
        values = kernel.values * rows.reshape(along) / columns
        editor.set_input(op, facts.index, editor.constant(kernel.name, values.astype(np.float32)))
        if facts.bias is not None and facts.bias < len(op.inputs):
            _multiply(channels, op, facts.bias, rows)
    for op, index in channels.offsets:
        _multiply(channels, op, index, factors[channels.roots(op.outputs[0])])
    editor.finish()


def _multiply(channels: Channels, op: Op, index: int, factors: np.ndarray) -> None:
    constant = op.inputs[index]
    if constant is not None and (factors != 1).any():
        made = channels.editor.constant(constant.name, (constant.values * factors).astype(np.float32))
        channels.editor.set_input(op, index, made)
