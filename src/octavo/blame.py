"""The runs behind `inspect`: the float model, the small one, both cut apart; and what is added up over the samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from octavo import numerics
from octavo.calibrate.data import InputSpec
from octavo.errors import DataError
from octavo.findings import Histogram, Layer, Operand, TieFinding
from octavo.graph import DType, Op, Program, Signature, Tensor
from octavo.graph.views import cut, exposed
from octavo.layers import layer_of
from octavo.matching import CONVERSIONS, counterparts
from octavo.ops import OPS, Tie
from octavo.runtime.codes import qtype_of, to_file
from octavo.runtime.session import Kernels, Session
from octavo.tflite import write

UNEQUAL = 8.0  # ranges under one scale that differ by more than this factor are called out


@dataclass
class Sums:
    """What is summed up over the samples for one op's output."""

    count: int = 0
    signal: float = 0.0
    own: float = 0.0
    inherited: float = 0.0
    total: float = 0.0
    rounding: float = 0.0
    outside: int = 0
    max_error: float = 0.0


@dataclass
class Pair:
    """One op of the small model and the float tensor that its (first matched) output stands for."""

    index: int
    op: Op
    small: Tensor
    original: Tensor
    moves: bool
    sums: Sums = field(default_factory=Sums)


class Rig:
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
        # State isn't fed, nor the handles of resources: they mean something only to the interpreter that made them.
        self.fed = [tensor for tensor in computed if not tensor.is_variable and tensor.dtype.numpy is not None]
        wanted = [*(self.match[t] for t in self.fed), *(pair.original for pair in self.pairs)]
        self.floats = list(dict.fromkeys([*wanted, *original.main.inputs]))
        self.makers = original.main.producers()
        inner = [tensor for tensor in self.floats if tensor not in original.main.inputs]
        self.whole = Session(write(_with_names(original, exposed(original, inner))), kernels, name="the float model")
        outputs = [pair.small for pair in self.pairs]
        self.quantized = Session(write(exposed(small, outputs)), kernels, name="the small model")
        self.apart = Session(write(cut(small, self.fed, outputs)), kernels, name="the small model, cut apart")
        self.inner = inner
        # The grid of each float tensor: that of the last small tensor which stands for it.
        self.grids = {self.match[t]: t for t in self.fed if t.qparams is not None}
        self.refed = [tensor for tensor in dict.fromkeys(self.match[t] for t in self.fed) if tensor in self.makers]
        self.made = list(dict.fromkeys(pair.original for pair in self.pairs if pair.original in self.makers))
        self.rounded = Session(write(cut(original, self.refed, self.made)), kernels, name="the float model, cut apart")
        self.specs = [InputSpec(p.name, p.shape_signature, p.dtype) for p in self.whole.inputs]
        self.ranges = dict.fromkeys(self.floats, (math.inf, -math.inf))

    def run(self, row: Mapping[str, np.ndarray]) -> None:
        """Run one sample through all three, and add up."""
        values = self.values(row)
        given = self.original.main.inputs
        inputs = [values[tensor] for tensor in given]

        def on_grid(tensor: Tensor) -> np.ndarray:
            return _rounded(values[tensor], self.grids.get(tensor))

        feeds = [values[self.match[tensor]] for tensor in self.fed]
        q = _invoke(self.quantized, inputs)
        c = _invoke(self.apart, [*inputs, *feeds])
        for tensor, array in values.items():
            if array.size and array.dtype.kind == "f":
                low, high = self.ranges[tensor]
                self.ranges[tensor] = (min(low, float(array.min())), max(high, float(array.max())))
        for pair, inherited, own in zip(self.pairs, q, c, strict=True):
            _add(pair, values[pair.original], _real(inherited, pair.small), _real(own, pair.small))
        r = dict(zip(self.made, _invoke(self.rounded, [*map(on_grid, given), *map(on_grid, self.refed)]), strict=True))
        for pair in self.pairs:
            if pair.original in r and not pair.moves:
                pair.sums.rounding += float(np.sum((r[pair.original].astype(np.float64) - values[pair.original]) ** 2))

    def values(self, row: Mapping[str, np.ndarray]) -> dict[Tensor, np.ndarray]:
        """Float tensor -> its values for one sample."""
        arrays = [row[p.name] for p in self.whole.inputs]
        self.whole.resize([array.shape for array in arrays])
        self.whole.reset()
        outputs = self.whole.invoke(arrays)
        given = dict(zip(self.original.main.inputs, arrays, strict=True))
        return {**given, **dict(zip(self.inner, outputs, strict=True))}

    def layer(self, pair: Pair, histogram: Histogram | None) -> Layer:
        sums, low, high = pair.sums, *self.ranges[pair.original]
        scale, zero_point = _grid(pair.small)
        count = max(1, sums.count)
        return Layer(
            pair.index,
            pair.op.code if pair.op.code != "CUSTOM" else f"CUSTOM:{pair.op.custom_code}",
            pair.original.name,
            layer_of(pair.original, self.makers.get(pair.original)),
            pair.small.dtype.value,
            relative(sums.own, sums.signal),
            relative(sums.inherited, sums.signal),
            relative(sums.total, sums.signal),
            relative(sums.rounding, sums.signal),
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


def _with_names(program: Program, copy: Program) -> Program:
    """Give the copy's inputs the names that the program's signature gives them, so that samples may come by name."""
    signature = next((s for s in program.signatures if s.graph is program.main), None)
    if signature is not None:
        twins = dict(zip(program.main.inputs, copy.main.inputs, strict=True))
        inputs = [(name, twins[tensor]) for name, tensor in signature.inputs]
        outputs = [(str(index), tensor) for index, tensor in enumerate(copy.main.outputs)]
        copy.signatures.insert(0, Signature("inspect", inputs, outputs, copy.main))
    return copy


def _pairs(small: Program, match: Mapping[Tensor, Tensor]) -> list[Pair]:
    """The ops whose error can be told. DEQUANTIZE is exact, so it has none."""
    pairs = []
    given_out = set()
    for index, op in enumerate(small.main.ops):
        for tensor in op.outputs:
            original = match.get(tensor)
            if (
                original is None
                or original.dtype is not DType.FLOAT32
                or op.code == "DEQUANTIZE"
                or tensor in given_out
            ):
                continue
            given_out.add(tensor)
            pairs.append(Pair(index, op, tensor, original, _only_moves(op)))
            break
    return pairs


def _only_moves(op: Op) -> bool:
    """Whether an op copies, picks or compares codes on one grid, so that it can't add an error."""
    row = OPS.get(op.code)
    if row is None or row.tie is not Tie.SAME or row.steps > 0.5:
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


def _rounded(values: np.ndarray, tensor: Tensor | None) -> np.ndarray:
    """Real values on the grid of a tensor."""
    if tensor is None or tensor.qparams is None or tensor.dtype.numpy is None or values.dtype.kind != "f":
        return values
    return numerics.dequantize(numerics.quantize(values, tensor.qparams, qtype_of(tensor.dtype.numpy)), tensor.qparams)


def _add(pair: Pair, f: np.ndarray, q: np.ndarray, c: np.ndarray) -> None:
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
    return relative(float(np.sum(np.abs(mine - its) ** 2)), float(np.sum(np.abs(its) ** 2)))


def relative(noise: float, signal: float) -> float:
    """Root of noise over signal power; infinite where noise meets silence."""
    if noise == 0:
        return 0.0
    return math.inf if signal == 0 else math.sqrt(noise / signal)
