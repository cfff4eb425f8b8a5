"""Integer forms of recurrent ops: what the state holds, and in which formats the kernels want state and weights.

A row of `octavo.ops` says how an op's activations quantize. UNIDIRECTIONAL_SEQUENCE_LSTM and SVDF have more: state
between their steps, which no tensor of the float model shows, and integer formats of their own for it. Here stands,
for each, when it can be integer (`problem`), the values of its state (`State`), and all its other formats (`forms`).

Sources: `operator_property.cc` in LiteRT's tflite/converter/tools/optimize (SVDF: state int16, time weights 10 bits),
`unidirectional_sequence_lstm.cc` and `svdf.cc` in its kernels; tried on XNNPACK, builtin and reference kernels by
tests/test_recurrent.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from octavo import numerics
from octavo.graph import DType, Op, Tensor
from octavo.qtypes import INT8, INT16, INT32_BIAS, QParams, QType

Range = tuple[float, float]
Formats = dict[int, tuple[DType, QParams, QType]]

_TIME_WEIGHTS = QType(10, symmetric=True, narrow_range=True)  # so that sums over the memory fit 32 bits
_TANH, _RELU = 4, 1


class State(Protocol):
    """The state of one op while a float model runs on samples."""

    def step(self, x: np.ndarray, anew: bool) -> np.ndarray:
        """Values of the state during one run of the op on `x`; `anew`: it starts from zero."""
        ...


class Layout(Protocol):
    """One kind of recurrent op."""

    @property
    def state(self) -> int:
        """Operand that holds the state whose range has to be calibrated."""
        ...

    def problem(self, op: Op) -> str:
        """Why the op can't be integer, "" if it can."""
        ...

    def watch(self, op: Op) -> State:
        """The op's state, for an op without a problem."""
        ...

    def formats(self, op: Op, x: QParams, out: QParams, state: Range, weights: QType) -> Formats:
        """Format of each operand besides the activations: of input scale `x` and output scale `out`."""
        ...

    def intermediates(self, out: QParams) -> list[tuple[DType, QParams]]:
        """Format of each tensor inside the op."""
        ...


def _operand(op: Op, index: int) -> Tensor | None:
    return op.inputs[index] if index < len(op.inputs) else None


def _constants_problem(op: Op, indices: range | tuple[int, ...]) -> str:
    for index in indices:
        tensor = _operand(op, index)
        if tensor is None or not tensor.is_constant or tensor.dtype is not DType.FLOAT32:
            return f"its operand {index} isn't a float32 constant"
        if not np.isfinite(tensor.values).all():
            return f"its constant {tensor.name!r} holds infinity or NaN"
    return ""


def _state_problem(op: Op, indices: tuple[int, ...]) -> str:
    for index in indices:
        tensor = _operand(op, index)
        if tensor is None or not tensor.is_variable or tensor.is_constant or tensor.dtype is not DType.FLOAT32:
            return f"its state, operand {index}, isn't a float32 variable that starts at zero"
    return ""


def _weights(op: Op, index: int, qtype: QType) -> tuple[DType, QParams, QType]:
    tensor = op.inputs[index]
    assert tensor is not None
    dtype = DType.INT8 if qtype.bits <= 8 else DType.INT16
    return dtype, numerics.weight_params(tensor.values, qtype, None), qtype


def _weights_and_bias(
    op: Op, index: int, qtype: QType, bias_index: int, data: QParams
) -> tuple[tuple[DType, QParams, QType], tuple[DType, QParams, QType]]:
    """Formats of weights and of the bias that is added to their products with `data`."""
    dtype, qparams, _ = _weights(op, index, qtype)
    bias = op.inputs[bias_index]
    assert bias is not None
    qparams = numerics.widen_for_bias(qparams, float(data.scale[0]), bias.values)
    scale = numerics.bias_params(float(data.scale[0]), qparams.scale)
    return (dtype, qparams, qtype), (DType.INT32, scale, INT32_BIAS)


# ---------------------------------------------------------------- LSTM

_GATES = range(4)  # input, forget, cell, output: operands 1 to 4 and 5 to 8, biases 12 to 15
_LSTM_EXTRAS = {9: "peepholes", 10: "peepholes", 11: "peepholes", 16: "a projection", 17: "a projection",
                20: "layer normalization", 21: "layer normalization", 22: "layer normalization",
                23: "layer normalization"}  # fmt: skip
_CELL_EXPONENTS = (-15, -9)  # of the cell state's scale; the kernel refuses a larger one
_INSIDE = QParams.per_tensor(2.0**-12, 0)  # what the kernel takes for sums inside of the gates


@dataclass(frozen=True)
class _Lstm:
    """UNIDIRECTIONAL_SEQUENCE_LSTM without layer normalization, projection or peepholes."""

    state: int = 19

    def problem(self, op: Op) -> str:
        extra = next((name for index, name in _LSTM_EXTRAS.items() if _operand(op, index) is not None), "")
        if extra:
            return f"octavo doesn't make LSTMs with {extra} integer"
        if _operand(op, 1) is None:
            return "octavo doesn't make LSTMs whose input gate is coupled to the forget gate integer"
        if op.option("fusedActivationFunction", 0) != _TANH or op.option("diagonalRecurrentTensors"):
            return "its integer kernel takes tanh and full recurrent weights only"
        data = op.inputs[0]
        if data is None or len(data.shape) != 3:
            return "its input hasn't three dimensions"
        return _constants_problem(op, (*range(1, 9), *range(12, 16))) or _state_problem(op, (18, 19))

    def watch(self, op: Op) -> State:
        return _CellState(op)

    def formats(self, op: Op, x: QParams, out: QParams, state: Range, weights: QType) -> Formats:
        found: Formats = {18: (DType.INT8, out, INT8)}
        for gate in _GATES:
            found[5 + gate] = _weights(op, 5 + gate, weights)
            found[1 + gate], found[12 + gate] = _weights_and_bias(op, 1 + gate, weights, 12 + gate, x)
        largest = max(abs(bound) for bound in state)
        exponent = int(np.ceil(np.log2(largest / 2**15))) if largest else _CELL_EXPONENTS[0]
        exponent = int(np.clip(exponent, *_CELL_EXPONENTS))
        found[19] = (DType.INT16, QParams.per_tensor(2.0**exponent, 0), INT16)
        return found

    def intermediates(self, out: QParams) -> list[tuple[DType, QParams]]:
        return [(DType.INT16, _INSIDE)] * 4 + [(DType.INT8, out)]


class _CellState:
    """An LSTM computed by hand: the kernel keeps its cell state to itself until the last step."""

    def __init__(self, op: Op) -> None:
        values = {i: t.values.astype(np.float64) for i, t in enumerate(op.inputs) if t is not None and t.is_constant}
        self.kernel = np.concatenate([values[1 + gate] for gate in _GATES]).T
        self.recurrent = np.concatenate([values[5 + gate] for gate in _GATES]).T
        self.bias = np.concatenate([values[12 + gate] for gate in _GATES])
        self.clip = float(op.option("cellClip") or 0.0) or np.inf
        self.time_major = bool(op.option("timeMajor"))
        self.hidden = self.cell = np.zeros(0)

    def step(self, x: np.ndarray, anew: bool) -> np.ndarray:
        x = x if self.time_major else x.swapaxes(0, 1)
        units = self.recurrent.shape[0]
        if anew or self.cell.shape != (x.shape[1], units):
            self.hidden = self.cell = np.zeros((x.shape[1], units))
        seen = []
        for row in x.astype(np.float64):
            gates = np.split(row @ self.kernel + self.hidden @ self.recurrent + self.bias, 4, axis=1)
            enter, forget, give = (1 / (1 + np.exp(-np.clip(gates[i], -500, 500))) for i in (0, 1, 3))
            self.cell = np.clip(forget * self.cell + enter * np.tanh(gates[2]), -self.clip, self.clip)
            self.hidden = give * np.tanh(self.cell)
            seen.append(self.cell)
        return np.stack(seen).astype(np.float32)


# ---------------------------------------------------------------- SVDF


@dataclass(frozen=True)
class _Svdf:
    """SVDF: features of each input (operand 1), weighted over the last few inputs (operand 2)."""

    state: int = 4

    def problem(self, op: Op) -> str:
        if op.option("fusedActivationFunction", 0) != _RELU:
            return "its integer kernel takes a fused RELU only"
        constants = (1, 2) if _operand(op, 3) is None else (1, 2, 3)
        return _constants_problem(op, constants) or _state_problem(op, (4,))

    def watch(self, op: Op) -> State:
        return _Features(op)

    def formats(self, op: Op, x: QParams, out: QParams, state: Range, weights: QType) -> Formats:
        kept = numerics.activation_params(*state, INT16)
        found: Formats = {1: _weights(op, 1, weights), 4: (DType.INT16, kept, INT16)}
        if _operand(op, 3) is None:
            found[2] = _weights(op, 2, _TIME_WEIGHTS)
        else:
            found[2], found[3] = _weights_and_bias(op, 2, _TIME_WEIGHTS, 3, kept)
        return found

    def intermediates(self, out: QParams) -> list[tuple[DType, QParams]]:
        return []


class _Features:
    """What SVDF remembers of each input; here as if each had filled the memory (batch, features * steps) alone."""

    def __init__(self, op: Op) -> None:
        weights, time = op.inputs[1], op.inputs[2]
        assert weights is not None and time is not None
        self.weights, self.steps = weights.values.T, time.shape[1]

    def step(self, x: np.ndarray, anew: bool) -> np.ndarray:
        return np.repeat(x @ self.weights, self.steps, axis=1)


LAYOUTS: Mapping[str, Layout] = {"UNIDIRECTIONAL_SEQUENCE_LSTM": _Lstm(), "SVDF": _Svdf()}


def why_not_integer(op: Op, ranges: Mapping[Tensor, Range]) -> str:
    """Why a recurrent op can't be integer; "" if it can, or if it is no recurrent op."""
    layout = LAYOUTS.get(op.code)
    if layout is None:
        return ""
    state = _operand(op, layout.state)
    if any(tensor.dtype is not DType.FLOAT32 for tensor in op.outputs):
        return "its output isn't float32"
    unseen = f"no calibration data reached the state of {op.name}"
    return layout.problem(op) or ("" if state in ranges else unseen)


class Watch:
    """Tells the values of an op's state from the values of its input.

    Args:
      op: a recurrent op that `watchable` approves of.
    """

    def __init__(self, op: Op) -> None:
        layout = LAYOUTS[op.code]
        data, tensor = op.inputs[0], op.inputs[layout.state]
        assert data is not None and tensor is not None
        self.data, self.tensor, self._state = data, tensor, layout.watch(op)

    def values(self, values: Mapping[Tensor, np.ndarray], anew: bool) -> dict[Tensor, np.ndarray]:
        """The state's values in a run that gave its input the value in `values`; nothing if it didn't reach the op."""
        return {self.tensor: self._state.step(values[self.data], anew)} if self.data in values else {}


def watchable(op: Op) -> bool:
    """Whether the state of this op can be watched."""
    return op.code in LAYOUTS and not LAYOUTS[op.code].problem(op)
