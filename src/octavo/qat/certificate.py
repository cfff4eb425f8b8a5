"""The certificate: what the aware model computes is what the device computes, layer by layer, in steps.

For every tensor that the aware model rounds, its codes are compared with those of the file on LiteRT's reference
kernels. Two numbers each: the layer's own difference, where the layer gets exactly the codes that the aware model has
before it, and the inherited one at the end of the whole chain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from octavo import numerics
from octavo.errors import DataError
from octavo.graph import DType, Program, Signature, Tensor
from octavo.model import Model
from octavo.qat.layers import FakeQuant, FixedQuant
from octavo.recipe import Recipe, Scheme
from octavo.report.shown import Shown
from octavo.report.terminal import Column, Table
from octavo.runtime.session import Session


@dataclass(frozen=True)
class Layer:
    """One rounded tensor.

    Attributes:
      name: of the tensor, in the aware model and in the file.
      op: kind of the LiteRT op that makes it; "" for an input.
      step: size of a step.
      own: largest difference in steps, given equal inputs.
      differing: share of values that differ, given equal inputs.
      inherited: largest difference in steps with all earlier differences in it.
    """

    name: str
    op: str
    step: float
    own: int
    differing: float
    inherited: int


@dataclass(frozen=True)
class Parity(Shown):
    """What `parity` found: `layers` in the order in which they run; `missing`, the rounded tensors not in the file."""

    layers: tuple[Layer, ...]
    missing: tuple[str, ...] = ()
    samples: int = 0

    @property
    def own(self) -> int:
        """The largest difference of any layer, given equal inputs."""
        return max((layer.own for layer in self.layers), default=0)

    @property
    def holds(self) -> bool:
        """Every rounded tensor is in the file, and no layer is more than one step off."""
        return self.own <= 1 and not self.missing

    def _remarks(self) -> list[str]:
        verdict = "parity holds" if self.holds else "parity does not hold"
        lines = [f"{verdict}: at most {self.own} step(s) per layer over {self.samples} samples"]
        return lines + ([f"not in the file: {', '.join(self.missing)}"] if self.missing else [])

    def _table(self) -> Table:
        titles = [
            "layer",
            "op",
            *(Column(t, right=True) for t in ("step", "own steps", "differing", "inherited steps")),
        ]
        rows = [(x.name, x.op, f"{x.step:.6g}", x.own, f"{x.differing:.4%}", x.inherited) for x in self.layers]
        return Table(titles, rows)


def parity(aware: Any, small: Model | Recipe | Scheme, samples: Any, kernels: str = "reference") -> Parity:
    """Compare an aware model with its file, layer by layer.

    Args:
      aware: from `quantize_model`, with ranges.
      small: the quantized model made from it, or the recipe to make one.
      samples: inputs as the aware model takes them, samples first; a dict by name for several.
      kernels: LiteRT's kernel set ("reference", "builtin", "xnnpack").

    Raises:
      DataError: there is nothing to compare.
    """
    if not isinstance(small, Model):
        from octavo.api import convert, quantize

        small = quantize(convert(aware), small)
    points = _points(aware)
    if not points:
        raise DataError(f"{aware.name!r} has no rounded tensors; octavo.qat.quantize_model makes such a model")
    found = {name: tensor for name in points if (tensor := _stored(small.program, name)) is not None}
    if not found:
        raise DataError(f"none of the tensors that {aware.name!r} rounds is in the file: was it made from this model?")
    given = _as_inputs(aware, samples)
    codes = _aware_codes(aware, points, found, given)
    given_out = {tensor.name for tensor in small.program.main.outputs if tensor.dtype is DType.FLOAT32}
    missing = tuple(name for name in points if name not in found and name not in given_out)
    return _compare(small.program, found, {**given, **codes}, missing, kernels)


def _points(aware: Any) -> dict[str, Any]:
    """Name -> symbolic tensor of everything that the aware model rounds, in order."""
    points: dict[str, Any] = {}
    for depth in sorted(aware._nodes_by_depth, reverse=True):
        for node in aware._nodes_by_depth[depth]:
            layer = node.operation
            if isinstance(layer, FakeQuant | FixedQuant):
                points.setdefault(layer.slot_name(node.arguments.kwargs.get("slot", 0)), node.outputs[0])
    return points


def _stored(program: Program, name: str) -> Tensor | None:
    """The tensor that holds the codes of `name`; at a border it has the form's name behind its own."""
    graph = program.main
    wanted = (name, f"{name}/int8", f"{name}/int16", f"{name}/uint8", f"{name}/float32")
    for tensor in sorted((t for t in graph.tensors if t.name in wanted), key=lambda t: wanted.index(t.name)):
        if tensor.dtype in (DType.INT8, DType.INT16) and tensor.qparams is not None:
            return tensor
    return None


def _aware_codes(
    aware: Any, points: dict[str, Any], found: dict[str, Tensor], given: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The aware model's values as codes of the file, for each tensor: (samples, ...)."""
    probe: Any = keras.Model(aware.inputs, {name: points[name] for name in found})
    outputs = probe.predict(list(given.values()), verbose=0)
    codes: dict[str, np.ndarray] = {}
    for name, tensor in found.items():
        assert tensor.qparams is not None
        scale, zero_point = float(tensor.qparams.scale[0]), int(tensor.qparams.zero_point[0])
        exact = np.asarray(outputs[name], np.float64) / scale + zero_point
        info = np.iinfo(str(tensor.dtype.value))
        codes[name] = np.clip(numerics.round_half_away(exact), info.min, info.max).astype(info.dtype)
    return codes


def _as_inputs(aware: Any, samples: Any) -> dict[str, np.ndarray]:
    """The samples by input name, in the model's order."""
    names = [tensor._keras_history.operation.name for tensor in aware.inputs]
    if isinstance(samples, dict):
        arrays = [samples[name] for name in names]
    else:
        arrays = list(samples) if len(names) > 1 else [samples]
    return {name: np.asarray(array) for name, array in zip(names, arrays, strict=True)}


def _compare(
    program: Program, found: dict[str, Tensor], values: dict[str, np.ndarray], missing: tuple[str, ...], kernels: str
) -> Parity:
    """Run the file cut at every rounded tensor, and whole; both over all samples.

    `values` holds the codes of every rounded tensor, and inputs that the file reads in float.
    """
    whole, cut = (Session(bytes(Model(_opened(program, found, cut=flag))), kernels) for flag in (False, True))
    makers = program.main.producers()
    count = len(next(iter(values.values())))
    own, inherited = dict.fromkeys(found, 0), dict.fromkeys(found, 0)
    differing, total = dict.fromkeys(found, 0), dict.fromkeys(found, 0)

    def run(session: Session, index: int) -> dict[str, np.ndarray]:
        ports = {port.name: values[port.name.removeprefix("in:")][index : index + 1] for port in session.inputs}
        return session.run({port.name: ports[port.name].reshape(port.shape) for port in session.inputs})

    for index in range(count):
        near, far = run(cut, index), run(whole, index)
        sample = {name: values[name][index : index + 1].reshape(found[name].shape) for name in found}
        for name in found:
            apart = np.abs(near[f"out:{name}"].astype(np.int64) - sample[name])
            own[name] = max(own[name], int(apart.max(initial=0)))
            differing[name] += int(np.count_nonzero(apart))
            total[name] += apart.size
            apart = np.abs(far[f"out:{name}"].astype(np.int64) - sample[name])
            inherited[name] = max(inherited[name], int(apart.max(initial=0)))

    def layer(name: str, tensor: Tensor) -> Layer:
        assert tensor.qparams is not None
        op = makers.get(tensor)
        share = differing[name] / max(total[name], 1)
        return Layer(name, op.code if op else "", float(tensor.qparams.scale[0]), own[name], share, inherited[name])

    return Parity(tuple(layer(name, tensor) for name, tensor in found.items()), missing, count)


def _entry(program: Program, found: dict[str, Tensor]) -> set[Tensor]:
    """The rounded tensors that only depend on the model's inputs by a change of form."""
    makers = program.main.producers()
    entries = set()
    for tensor in found.values():
        maker = makers.get(tensor)
        if maker is None or (maker.code == "QUANTIZE" and maker.inputs[0] in program.main.inputs):
            entries.add(tensor)
    return entries


def _opened(program: Program, found: dict[str, Tensor], cut: bool) -> Program:
    """A copy that takes codes where values come in (`cut`: at every rounded tensor) and gives out every rounded one."""
    entries = _entry(program, found)
    copy = program.clone()
    twins = dict(zip(program.main.tensors, copy.main.tensors, strict=True))
    graph = copy.main
    inputs: list[tuple[str, Tensor]] = []
    outputs: list[tuple[str, Tensor]] = []
    for name, original in found.items():
        tensor = twins[original]
        outputs.append((f"out:{name}", tensor))
        if not cut and original not in entries:
            continue
        fed = graph.add_tensor(tensor.copy(name=f"in:{name}", data=None))
        inputs.append((f"in:{name}", fed))
        for op in graph.ops:
            op.inputs = [fed if t is tensor else t for t in op.inputs]
        if original in entries:
            graph.ops = [op for op in graph.ops if tensor not in op.outputs]
            outputs[-1] = (f"out:{name}", fed)
    used = {t for op in graph.ops for t in op.inputs if t is not None}
    kept = [(t.name, t) for t in graph.inputs if t in used]
    graph.inputs = [t for _, t in [*inputs, *kept]]
    graph.outputs = [t for _, t in outputs]
    copy.signatures = [Signature("parity", [*inputs, *kept], outputs, graph)]
    graph.drop_unused_tensors()
    return copy
