"""Where a quantized model loses: for each layer the error that it adds itself, and the error that it inherits.

Three copies of the models run on every sample:

- the float model, giving out every tensor: f
- the small model, giving out every tensor: q
- the small model cut apart, every op fed what the float model computed there (on the op's own input grid): c

Ops that only move values (reshapes, concatenations on one scale) pass on what they get: for them c is f.

What a layer adds itself is c - f, what it inherits from those before it is q - c; the two sum up to q - f. Each is
given as the root of its mean square over that of f: 0.01 is an error of one percent, or 40 dB.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from octavo import numerics
from octavo.calibrate.data import InputSpec, count_hint, samples
from octavo.errors import DataError
from octavo.graph import Op, Program, Signature, Tensor
from octavo.graph.views import cut, exposed
from octavo.layers import layer_of
from octavo.matching import CONVERSIONS, counterparts
from octavo.ops import OPS, Tie
from octavo.passes.pipeline import normalise
from octavo.progress import track
from octavo.runtime.codes import qtype_of, to_file
from octavo.runtime.session import Kernels, ModelLike, Session, model_bytes
from octavo.text import printable
from octavo.tflite import read, write
from octavo.tflite.files import write_whole

BINS = 64
WORST = 8  # layers that get a histogram
UNEQUAL = 8.0  # ranges under one scale that differ by more than this factor are called out


@dataclass(frozen=True)
class Histogram:
    """How often the float model's values of one layer fell where.

    Attributes:
      low, high: ends of the first and last bin.
      counts: of `BINS` equal bins.
    """

    low: float
    high: float
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """One op of the small model, against the float model.

    Attributes:
      index: its place among the ops of the small file.
      kind: "CONV_2D".
      name: the float model's name for what it makes.
      layer: the Keras or PyTorch layer: the path that `name` starts with; `name` itself where there is none.
      dtype: of what it makes, as stored ("int8").
      own: error that it adds itself, relative (see the module's docstring).
      inherited: error that reaches its output from the layers before it.
      total: both, as they add up.
      own_steps: root mean square of its own error in steps of its output's scale; None if that isn't quantized.
      max_error: largest total error of a value.
      low, high: range of the float values.
      scale, zero_point: of its output, None if that isn't quantized.
      clipped: share of the float values outside of what its output's scale can hold.
      codes_used: how many steps of its output's scale the float values span.
      weights: relative error of its weights, None if it has none that can be compared.
      histogram: of the float values, for the worst layers.
    """

    index: int
    kind: str
    name: str
    layer: str
    dtype: str
    own: float
    inherited: float
    total: float
    own_steps: float | None
    max_error: float
    low: float
    high: float
    scale: float | None
    zero_point: int | None
    clipped: float
    codes_used: float | None
    weights: float | None
    histogram: Histogram | None = None

    @property
    def cause(self) -> str:
        """The likeliest reason for its own error, in words; "" if nothing stands out."""
        if self.weights is not None and self.weights > 0.03 and self.weights > 0.3 * self.own:
            return f"its weights are off by {100 * self.weights:.1f} %"
        if self.clipped > 0.001:
            return f"its scale clips {100 * self.clipped:.1f} % of the values"
        if self.codes_used is not None and self.codes_used < 32:
            return f"its values span only {self.codes_used:.0f} steps of its scale"
        return ""


@dataclass(frozen=True)
class Operand:
    """One of the operands that share a scale: its range in the float model, and how many steps that spans."""

    name: str
    low: float
    high: float
    steps: float


@dataclass(frozen=True)
class TieFinding:
    """Operands of very different ranges that an op forces onto one scale, such as the heads of a detector."""

    kind: str
    name: str
    operands: tuple[Operand, ...]

    @property
    def advice(self) -> str:
        narrow = min(self.operands, key=lambda operand: operand.steps)
        return (
            f"{self.kind} {self.name!r} keeps all its operands on one scale: {narrow.name!r} spans only "
            f"{narrow.steps:.0f} of its steps. Give the operands out separately and join them after the model, or "
            f"keep this op in float: Rule(octavo.keep_float(), name={self.name!r})"
        )


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found.

    Attributes:
      layers: in the order of the file.
      ties: operands that suffer from a shared scale.
      samples: how many samples were run.
      unmatched: ops of the small model without a counterpart in the float model; their errors count for the next one.
    """

    layers: tuple[Layer, ...]
    ties: tuple[TieFinding, ...]
    samples: int
    unmatched: tuple[str, ...] = ()

    @property
    def ranked(self) -> tuple[Layer, ...]:
        """The layers, the one that adds most error itself first."""
        return tuple(sorted(self.layers, key=lambda layer: -layer.own))

    def as_dict(self) -> dict[str, Any]:
        """Plain values; numbers that JSON hasn't got are None."""
        layers = [{**asdict(layer), "cause": layer.cause} for layer in self.layers]
        ties = [{**asdict(tie), "advice": tie.advice} for tie in self.ties]
        return _plain({"samples": self.samples, "layers": layers, "ties": ties, "unmatched": self.unmatched})

    def to_json(self, path: str | os.PathLike[str]) -> Path:
        """Write `as_dict()`, whole or not at all.

        Raises:
          ModelFileError: the file can't be written.
        """
        text = json.dumps(self.as_dict(), indent=2, allow_nan=False) + "\n"
        write_whole(Path(path), [text.encode()], overwrite=True)
        return Path(path)

    def __str__(self) -> str:
        return "\n".join([str(self._table()), *self._remarks()])

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.text import Text

        return Group(self._table().__rich__(), *map(Text, self._remarks()))

    def _table(self) -> Any:
        from octavo.report.terminal import layers_table

        return layers_table([{**asdict(layer), "cause": layer.cause} for layer in self.ranked])

    def _remarks(self) -> list[str]:
        return [f"note: {printable(tie.advice)}" for tie in self.ties]


@dataclass
class _Sums:
    """What is summed up over the samples for one op's output."""

    count: int = 0
    signal: float = 0.0
    own: float = 0.0
    inherited: float = 0.0
    total: float = 0.0
    outside: int = 0
    max_error: float = 0.0


@dataclass
class _Pair:
    """One op of the small model and the float tensor that its (first matched) output stands for."""

    index: int
    op: Op
    small: Tensor
    original: Tensor
    moves: bool
    sums: _Sums = field(default_factory=_Sums)


def inspect(
    float_model: ModelLike,
    small: ModelLike,
    data: Any,
    *,
    kernels: Kernels | str = "xnnpack",
    limit: int = 64,
    progress: bool = False,
) -> Inspection:
    """Find the layers where a quantized model loses.

    Args:
      float_model: the model that `small` was made from.
      small: the quantized model, by octavo or not.
      data: samples, in any shape that calibration takes.
      kernels: see `octavo.runtime.Session`.
      limit: number of samples used at most.
      progress: show progress bars.

    Raises:
      DataError: unusable samples, or two models that have nothing in common.
      ModelFileError: a model can't be read.
      RunError: LiteRT refuses a model.
    """
    rig = _Rig(_normalised(float_model), read(model_bytes(small)), kernels)
    rows: list[dict[str, np.ndarray]] = []
    for row in track(samples(data, rig.specs), "inspecting", _at_most(limit, count_hint(data, rig.specs)), progress):
        rows.append(row)
        rig.run(row)
        if len(rows) == limit:
            break
    if not rows:
        raise DataError("there are no samples to inspect the model with")
    worst = sorted(rig.pairs, key=lambda pair: -_relative(pair.sums.own, pair.sums.signal))[:WORST]
    histograms = _histograms(rig, [pair.original for pair in worst], rows, progress)
    layers = tuple(rig.layer(pair, histograms.get(pair.original)) for pair in rig.pairs)
    return Inspection(layers, rig.ties(), len(rows), rig.unmatched())


class _Rig:
    """The three sessions, and the sums."""

    def __init__(self, original: Program, small: Program, kernels: Kernels | str) -> None:
        self.original, self.small, self.kernels = original, small, kernels
        self.match = counterparts(original.main, small.main)
        self.pairs = _pairs(small, self.match)
        if not self.pairs:
            raise DataError(
                "the two models have no tensor in common, by name or by order: give the float model that the small one "
                "was made from"
            )
        computed = dict.fromkeys(t for op in small.main.ops for t in op.outputs if t in self.match)
        self.fed = [tensor for tensor in computed if not tensor.is_variable]
        wanted = [*(self.match[t] for t in self.fed), *(pair.original for pair in self.pairs)]
        self.floats = list(dict.fromkeys([*wanted, *original.main.inputs]))
        self.makers = original.main.producers()
        inner = [tensor for tensor in self.floats if tensor not in original.main.inputs]
        self.whole = Session(write(_with_names(original, exposed(original, inner))), kernels, name="the float model")
        outputs = [pair.small for pair in self.pairs]
        self.quantized = Session(write(exposed(small, outputs)), kernels, name="the small model")
        self.apart = Session(write(cut(small, self.fed, outputs)), kernels, name="the small model, cut apart")
        self.inner = inner
        self.specs = [InputSpec(p.name, p.shape_signature, p.dtype) for p in self.whole.inputs]
        self.ranges = dict.fromkeys(self.floats, (math.inf, -math.inf))

    def run(self, row: Mapping[str, np.ndarray]) -> None:
        """Run one sample through all three, and add up."""
        values = self.values(row)
        inputs = [values[tensor] for tensor in self.original.main.inputs]
        feeds = [values[self.match[tensor]] for tensor in self.fed]
        q = _invoke(self.quantized, inputs)
        c = _invoke(self.apart, [*inputs, *feeds])
        for tensor, array in values.items():
            if array.size and array.dtype.kind == "f":
                low, high = self.ranges[tensor]
                self.ranges[tensor] = (min(low, float(array.min())), max(high, float(array.max())))
        for pair, inherited, own in zip(self.pairs, q, c, strict=True):
            _add(pair, values[pair.original], _real(inherited, pair.small), _real(own, pair.small))

    def values(self, row: Mapping[str, np.ndarray]) -> dict[Tensor, np.ndarray]:
        """Float tensor -> its values for one sample."""
        arrays = [row[p.name] for p in self.whole.inputs]
        self.whole.resize([array.shape for array in arrays])
        self.whole.reset()
        outputs = self.whole.invoke(arrays)
        given = dict(zip(self.original.main.inputs, arrays, strict=True))
        return {**given, **dict(zip(self.inner, outputs, strict=True))}

    def layer(self, pair: _Pair, histogram: Histogram | None) -> Layer:
        sums, low, high = pair.sums, *self.ranges[pair.original]
        scale, zero_point = _grid(pair.small)
        count = max(1, sums.count)
        return Layer(
            pair.index,
            pair.op.code if pair.op.code != "CUSTOM" else f"CUSTOM:{pair.op.custom_code}",
            pair.original.name,
            layer_of(pair.original, self.makers.get(pair.original)),
            pair.small.dtype.value,
            _relative(sums.own, sums.signal),
            _relative(sums.inherited, sums.signal),
            _relative(sums.total, sums.signal),
            None if scale is None else math.sqrt(sums.own / count) / scale,
            sums.max_error,
            low,
            high,
            scale,
            zero_point,
            sums.outside / count,
            None if scale is None else (high - low) / scale,
            _weight_error(pair.op, self.makers.get(pair.original)),
            histogram,
        )

    def ties(self) -> tuple[TieFinding, ...]:
        found = []
        for op in self.small.main.ops:
            row = OPS.get(op.code)
            if row is None or row.tie not in (Tie.SAME, Tie.INPUTS) or not op.outputs:
                continue
            operands = [o for o in map(self._operand, dict.fromkeys(op.inputs)) if o is not None]
            steps = [operand.steps for operand in operands if operand.steps > 0]
            if len(steps) > 1 and max(steps) > UNEQUAL * min(steps):
                name = self.match.get(op.outputs[0], op.outputs[0]).name
                found.append(TieFinding(op.code, name, tuple(operands)))
        return tuple(found)

    def _operand(self, tensor: Tensor | None) -> Operand | None:
        original = self.match.get(tensor) if tensor is not None else None
        if tensor is None or original is None or original not in self.ranges:
            return None
        (low, high), (scale, _) = self.ranges[original], _grid(tensor)
        return None if scale is None or low > high else Operand(original.name, low, high, (high - low) / scale)

    def unmatched(self) -> tuple[str, ...]:
        return tuple(
            op.name
            for op in self.small.main.ops
            if op.code not in CONVERSIONS and op.outputs and not any(t in self.match for t in op.outputs)
        )


def _normalised(model: ModelLike) -> Program:
    program = read(model_bytes(model))
    normalise(program)
    return program


def _with_names(program: Program, copy: Program) -> Program:
    """Give the copy's inputs the names that the program's signature gives them, so that samples may come by name."""
    signature = next((s for s in program.signatures if s.graph is program.main), None)
    if signature is not None:
        twins = dict(zip(program.main.inputs, copy.main.inputs, strict=True))
        inputs = [(name, twins[tensor]) for name, tensor in signature.inputs]
        outputs = [(str(index), tensor) for index, tensor in enumerate(copy.main.outputs)]
        copy.signatures.insert(0, Signature("inspect", inputs, outputs, copy.main))
    return copy


def _pairs(small: Program, match: Mapping[Tensor, Tensor]) -> list[_Pair]:
    """The ops whose error can be told. DEQUANTIZE is exact, so it has none."""
    pairs = []
    given_out = set()
    for index, op in enumerate(small.main.ops):
        for tensor in op.outputs:
            original = match.get(tensor)
            if original is None or not original.dtype.is_float or op.code == "DEQUANTIZE" or tensor in given_out:
                continue
            given_out.add(tensor)
            pairs.append(_Pair(index, op, tensor, original, _only_moves(op)))
            break
    return pairs


def _only_moves(op: Op) -> bool:
    """Whether an op copies, picks or compares codes on one grid, so that it can't add an error."""
    row = OPS.get(op.code)
    if row is None or row.tie is not Tie.SAME or row.steps > 0.5 or op.code == "AVERAGE_POOL_2D":
        return False
    inputs = [t for i, t in enumerate(op.inputs) if t is not None and row.input_role(i) == "a"]
    return all(t.qparams == op.outputs[0].qparams and not t.is_constant for t in inputs)


def _invoke(session: Session, values: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Real values in, the file's own numbers out."""
    arrays = [to_file(p, np.asarray(v), 0, True, session.name) for p, v in zip(session.inputs, values, strict=True)]
    session.resize([array.shape for array in arrays])
    session.reset()
    return session.invoke(arrays)


def _real(values: np.ndarray, tensor: Tensor) -> np.ndarray:
    if tensor.qparams is None or values.dtype.kind == "f":
        return values
    return numerics.dequantize(values, tensor.qparams)


def _add(pair: _Pair, f: np.ndarray, q: np.ndarray, c: np.ndarray) -> None:
    sums = pair.sums
    f = f.astype(np.float64)
    c = f if pair.moves else c
    sums.count += f.size
    sums.signal += float(np.sum(f * f))
    sums.own += float(np.sum((c - f) ** 2))
    sums.inherited += float(np.sum((q.astype(np.float64) - c) ** 2))
    difference = q - f
    sums.total += float(np.sum(difference * difference))
    sums.max_error = max(sums.max_error, float(np.abs(difference).max(initial=0.0)))
    bounds = _bounds(pair.small)
    if bounds is not None:
        sums.outside += int(np.count_nonzero((f < bounds[0]) | (f > bounds[1])))


def _bounds(tensor: Tensor) -> tuple[float, float] | None:
    """What a tensor's scale can hold, half a step beyond its last codes; None if not quantized."""
    scale, zero_point = _grid(tensor)
    if scale is None or zero_point is None or tensor.dtype.numpy is None:
        return None
    qtype = qtype_of(tensor.dtype.numpy)
    return (qtype.qmin - zero_point - 0.5) * scale, (qtype.qmax - zero_point + 0.5) * scale


def _grid(tensor: Tensor) -> tuple[float | None, int | None]:
    if tensor.qparams is None or tensor.qparams.per_channel or tensor.dtype.is_float:
        return None, None
    return float(tensor.qparams.scale[0]), int(tensor.qparams.zero_point[0])


def _weight_error(op: Op, original: Op | None) -> float | None:
    row = OPS.get(op.code)
    if row is None or row.weights is None or original is None or original.code != op.code:
        return None
    index = row.weights.index
    ours, theirs = (o.inputs[index] if index < len(o.inputs) else None for o in (op, original))
    if ours is None or theirs is None or ours.data is None or theirs.data is None or ours.shape != theirs.shape:
        return None
    try:
        mine, its = _real(ours.values, ours), _real(theirs.values, theirs).astype(np.float64)
    except ValueError:  # packed or sparse
        return None
    return _relative(float(np.sum((mine - its) ** 2)), float(np.sum(its * its)))


def _histograms(
    rig: _Rig, tensors: list[Tensor], rows: list[dict[str, np.ndarray]], progress: bool
) -> dict[Tensor, Histogram]:
    """A second pass over the samples, for ranges have to be known first."""
    counts = {tensor: np.zeros(BINS, np.int64) for tensor in tensors if rig.ranges[tensor][0] <= rig.ranges[tensor][1]}
    for row in track(rows, "histograms", len(rows), progress):
        values = rig.values(row)
        for tensor, total in counts.items():
            total += np.histogram(values[tensor], BINS, rig.ranges[tensor])[0]
    return {t: Histogram(*_edges(rig.ranges[t]), tuple(map(int, total))) for t, total in counts.items()}


def _edges(span: tuple[float, float]) -> tuple[float, float]:
    """As numpy.histogram widens an empty range."""
    return (span[0] - 0.5, span[1] + 0.5) if span[0] == span[1] else span


def _relative(noise: float, signal: float) -> float:
    """Root of noise over signal power; infinite where noise meets silence."""
    if noise == 0:
        return 0.0
    return math.inf if signal == 0 else math.sqrt(noise / signal)


def _at_most(limit: int, hint: int | None) -> int:
    return limit if hint is None else min(limit, hint)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
