"""SmoothQuant: move the outlier channels of an activation into the weights that multiply it.

In transformers a few channels are far larger than the others, and the one scale of the activation serves them alone.
Where the activation is linear in constants with one value for each channel (gamma and beta of a layer normalization,
whatever ADD, SUB and MUL it is spelled in), and read by fully connected layers only, channel i may be divided by any
s[i] > 0: the constants are divided by it, and the weights' columns multiplied; (x / s) @ (s w) = x @ w, so the function
stays the same. With a[i] the largest value and w[i] the largest weight of a channel, s[i] = a[i]^p / w[i]^(1 - p): Xiao
et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models" (2022), equation 4.

The paper takes one p for all layers. Here each group takes that of a few which leaves its outputs the least noise, from
rounding the activation and from rounding the weights (each error counted with the power of its input), or none at all.

Needs: bounds of each channel of the activations, and second moments of the layers' inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from octavo.calibrate.halves import Halves
from octavo.calibrate.observers import ChannelBounds
from octavo.graph import Graph, Op, Program, Tensor
from octavo.graph.queries import recorded_range
from octavo.qtypes import QType
from octavo.sites import Range
from octavo.unfold import data_of, weights_of

_POWERS = (0.25, 0.5, 0.75, 1.0)
_LEAST = 1e-3  # of the largest: a channel that is smaller than that counts as so large


@dataclass
class _Group:
    """An activation, what makes it and what reads it.

    Attributes:
      constants: what is divided.
      made: the tensors whose channels shrink by that.
      layers: the fully connected layers that read it.
    """

    constants: list[Tensor] = field(default_factory=list)
    made: list[Tensor] = field(default_factory=list)
    layers: list[Op] = field(default_factory=list)


def smooth(
    program: Program,
    type_of: Callable[[Op], QType | None],
    moments: dict[Op, Halves],
    channels: Mapping[Tensor, ChannelBounds],
    ranges: dict[Tensor, Range],
) -> list[Tensor]:
    """Smooth every activation of `program` that gains by it; edits constants, `moments` and `ranges` to match.

    Args:
      program: a float model in normal form.
      type_of: the type of an op's weights, None if it is to stay as it is.
      moments: of the ops' inputs.
      channels: bounds of each channel; an activation without them is left alone.
      ranges: lowest and highest value of each tensor.

    Returns:
      the tensors whose scale has changed.
    """
    changed = []
    for graph in program.graphs:
        for group in list(groups(program, graph)):
            seen, types = [moments.get(op) for op in group.layers], [type_of(op) for op in group.layers]
            bounds = [channels[tensor].known for tensor in group.made if tensor in channels]
            count = group.constants[0].size
            if len(bounds) < len(group.made) or any(ends is None or ends[0].size != count for ends in bounds):
                continue
            pairs = [(known, kind) for known, kind in zip(seen, types, strict=True) if known is not None and kind]
            if len(pairs) == len(group.layers):
                known, kinds = zip(*pairs, strict=True)
                factors = _best(group, list(kinds), list(known), channels)
                if (factors != 1).any():
                    _divide(group, factors, moments, channels, ranges)
                    changed += group.made
    return changed


def _divide(
    group: _Group,
    factors: np.ndarray,
    moments: dict[Op, Halves],
    channels: Mapping[Tensor, ChannelBounds],
    ranges: dict[Tensor, Range],
) -> None:
    for constant in group.constants:
        constant.set_values((constant.values / factors).astype(np.float32))
    for op in group.layers:
        _kernel(op).set_values((_kernel(op).values * factors).astype(np.float32))
        moments[op] = moments[op].scaled(1 / factors, np.arange(factors.size)[None])
    for tensor in group.made:
        ends = channels[tensor].known
        assert ends is not None
        ranges[tensor] = float((ends[0] / factors).min()), float((ends[1] / factors).max())


def _best(
    group: _Group, types: list[QType], seen: list[Halves], channels: Mapping[Tensor, ChannelBounds]
) -> np.ndarray:
    """What to divide each channel by: (channels,)."""
    read = next(tensor for tensor in group.made if data_of(group.layers[0]) is tensor)
    ends = channels[read].known
    assert ends is not None
    extremes = np.maximum(ends[1], -ends[0]).astype(np.float64)
    kernels = [np.asarray(_kernel(op).values, np.float64) for op in group.layers]
    largest = np.max([np.abs(kernel).max(axis=0) for kernel in kernels], axis=0)
    awake = (extremes > 0) & (largest > 0)
    a, w = (np.maximum(values, _LEAST * values.max(initial=0.0)) for values in (extremes, largest))
    ones = np.ones(extremes.shape)
    if not awake.any():
        return ones
    powers = [_power(halves, extremes.size) for halves in seen]
    tried = [ones]
    for power in _POWERS:
        factors = np.where(awake, a**power / w ** (1 - power), 1.0)
        tried.append(np.where(awake, factors / np.exp(np.log(factors[awake]).mean()), 1.0))
    layers = list(zip(kernels, types, powers, strict=True))
    noises = [sum(_noise(k * s, qtype, p / s**2, extremes / s) for k, qtype, p in layers) for s in tried]
    return tried[int(np.argmin(noises))]


def _power(seen: Halves, channels: int) -> np.ndarray:
    second = seen.second()
    return np.ones(channels) if second is None else np.diagonal(second, axis1=1, axis2=2).reshape(-1)[:channels]


def _noise(kernel: np.ndarray, qtype: QType, power: np.ndarray, extremes: np.ndarray) -> float:
    """Power of the noise on a layer's outputs, with a scale for each of its channels; kernel (outputs, features)."""
    steps = np.maximum(np.abs(kernel).max(axis=1, keepdims=True) / qtype.qmax, 1e-30)
    rounded = (kernel - np.rint(kernel / steps) * steps) ** 2 @ power
    step = float(extremes.max(initial=0.0)) / 127
    return float(rounded.sum() + step**2 / 12 * (kernel**2).sum())


def groups(program: Program, graph: Graph) -> Iterator[_Group]:
    """Every activation of `graph` that may be smoothed."""
    makers, readers = graph.producers(), graph.consumers()
    outputs = {*graph.outputs, *(t for s in program.signatures for _, t in s.outputs)}
    for op in graph.ops:
        if op.code not in ("ADD", "SUB", "MUL"):
            continue
        layers, passed = _layers(op.outputs[0], readers)
        group = _linear(op.outputs[0], op.outputs[0].shape[-1:], makers) if layers else None
        if group is None:
            continue
        own = {makers[tensor] for tensor in group.made}
        before = [*group.constants, *(tensor for tensor in group.made if tensor is not op.outputs[0])]
        group.made += passed
        group.layers = layers
        free = all(tensor not in outputs and recorded_range(tensor) is None for tensor in group.made)
        free = free and all(set(readers[tensor]) <= own for tensor in before)
        if free and all(len(readers[_kernel(layer)]) == 1 for layer in layers):
            yield group


def _linear(tensor: Tensor, channels: tuple[int, ...], makers: Mapping[Tensor, Op]) -> _Group | None:
    """The constants in which `tensor` is linear, and all that is made on the way; None if there are none."""
    if tensor.is_constant:
        alike = len(channels) == 1 and tensor.shape[-1:] == channels and tensor.size == channels[0] > 1
        return _Group([tensor]) if alike else None
    op = makers.get(tensor)
    if op is None or op.option("fusedActivationFunction", 0) != 0 or tensor.shape[-1:] != channels:
        return None
    if op.code not in ("ADD", "SUB", "MUL"):
        return None
    found = [_linear(operand, channels, makers) for operand in op.inputs if operand is not None]
    parts = [part for part in found if part is not None]
    if not parts or (op.code != "MUL" and len(parts) < len(found)):
        return None
    parts = parts[:1] if op.code == "MUL" else parts
    constants = [constant for part in parts for constant in part.constants]
    made = [other for part in parts for other in part.made]
    return _Group(list(dict.fromkeys(constants)), list(dict.fromkeys([*made, tensor])))


def _layers(tensor: Tensor, readers: dict[Tensor, list[Op]]) -> tuple[list[Op], list[Tensor]]:
    """The fully connected layers that read `tensor`, and its reshaped forms; none if anything else reads it."""
    layers, passed = [], []
    for op in readers.get(tensor, []):
        if op.code == "FULLY_CONNECTED" and weights_of(op) is not None and data_of(op) is tensor:
            if _kernel(op).shape[-1] != tensor.shape[-1]:
                return [], []
            layers.append(op)
        elif op.code == "RESHAPE" and op.outputs[0].shape[-1:] == tensor.shape[-1:]:
            more, through = _layers(op.outputs[0], readers)
            if not more:
                return [], []
            layers += more
            passed += [op.outputs[0], *through]
        else:
            return [], []
    return layers, passed


def _kernel(op: Op) -> Tensor:
    facts = weights_of(op)
    kernel = None if facts is None else op.inputs[facts.index]
    assert kernel is not None
    return kernel
