"""Recurrent ops: int8 weights with float activations for all, int8 throughout for those that octavo can."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import octavo
from graphs import Builder
from octavo import numerics, recurrent
from octavo.calibrate.run import collect
from octavo.graph import DType, Op, Program, Tensor
from octavo.graph.verify import verify
from octavo.model import Model
from octavo.qtypes import INT8
from octavo.runtime.session import Session

BATCH, TIME, FEATURES, UNITS = 1, 8, 6, 5
SEQUENCES = np.random.default_rng(0).normal(size=(24, BATCH, TIME, FEATURES)).astype(np.float32)
KERNELS = ("xnnpack", "builtin", "reference")


def variable(b: Builder, name: str, *shape: int) -> Tensor:
    return b.graph.add_tensor(Tensor(name, DType.FLOAT32, shape, is_variable=True))


def lstm(
    cifg: bool = False, peephole: bool = False, projection: bool = False, norm: bool = False, bias: float = 0.3,
    code: str = "UNIDIRECTIONAL_SEQUENCE_LSTM", **options: Any,
) -> Program:  # fmt: skip
    b = Builder()
    outputs = 4 if projection else UNITS
    single = code == "LSTM"  # one step, without a time dimension
    x = b.input("x", (BATCH, FEATURES) if single else (BATCH, TIME, FEATURES))
    inputs: list[Tensor | None] = [x]
    inputs += [b.weights(f"kernel{i}", UNITS, FEATURES, scale=0.5) for i in range(4)]
    inputs += [b.weights(f"recurrent{i}", UNITS, outputs, scale=0.5) for i in range(4)]
    inputs += [b.weights(f"peephole{i}", UNITS) if peephole else None for i in range(3)]
    inputs += [b.weights(f"bias{i}", UNITS, scale=bias) for i in range(4)]
    inputs += [b.weights("projection", outputs, UNITS) if projection else None, None]
    inputs += [variable(b, "hidden", BATCH, outputs), variable(b, "cell", BATCH, UNITS)]
    inputs += [b.const(f"norm{i}", np.ones(UNITS, np.float32)) if norm else None for i in range(4)]
    for index in (1, 5, 9, 12, 20) if cifg else ():
        inputs[index] = None
    table = "LSTMOptions" if single else "UnidirectionalSequenceLSTMOptions"
    shape = (BATCH, outputs) if single else (BATCH, TIME, outputs)
    y = b.op(code, inputs, "y", shape, table, **{"fusedActivationFunction": 4, "cellClip": 10.0, **options})
    return b.program(y)


def svdf(act: int = 1, rank: int = 2) -> Program:
    b = Builder()
    x = b.input("x", (BATCH, FEATURES))
    weights = [b.weights("features", UNITS * rank, FEATURES), b.weights("time", UNITS * rank, TIME)]
    state = variable(b, "memory", BATCH, UNITS * rank * TIME)
    y = b.op("SVDF", [x, *weights, b.weights("bias", UNITS), state], "y", (BATCH, UNITS), "SVDFOptions",
             rank=rank, fusedActivationFunction=act)  # fmt: skip
    return b.program(y)


def rnn(code: str) -> Program:
    b = Builder()
    sequence = code != "RNN"
    x = b.input("x", (BATCH, TIME, FEATURES) if sequence else (BATCH, FEATURES))

    def cell(name: str) -> list[Tensor | None]:
        kernels = [b.weights(f"{name}/kernel", UNITS, FEATURES), b.weights(f"{name}/recurrent", UNITS, UNITS)]
        return [*kernels, b.weights(f"{name}/bias", UNITS), variable(b, f"{name}/hidden", BATCH, UNITS)]

    if code == "BIDIRECTIONAL_SEQUENCE_RNN":
        inputs, width = [x, *cell("forward"), *cell("backward"), None, None, None], 2 * UNITS
        options: dict[str, Any] = {"mergeOutputs": True}
    else:
        inputs, width, options = [x, *cell("cell")], UNITS, {}
    table = {"RNN": "RNNOptions", "UNIDIRECTIONAL_SEQUENCE_RNN": "SequenceRNNOptions"}
    y = b.op(code, inputs, "y", (BATCH, TIME, width) if sequence else (BATCH, width),
             table.get(code, "BidirectionalSequenceRNNOptions"), fusedActivationFunction=4, **options)  # fmt: skip
    return b.program(y)


def both_ways() -> Program:
    """BIDIRECTIONAL_SEQUENCE_LSTM."""
    b = Builder()
    inputs: list[Tensor | None] = [b.input("x", (BATCH, TIME, FEATURES))]
    for way in ("forward", "backward"):
        inputs += [b.weights(f"{way}/kernel{i}", UNITS, FEATURES) for i in range(4)]
        inputs += [b.weights(f"{way}/recurrent{i}", UNITS, UNITS) for i in range(4)]
        inputs += [None, None, None, *(b.weights(f"{way}/bias{i}", UNITS) for i in range(4)), None, None]
    inputs += [variable(b, f"state{i}", BATCH, UNITS) for i in range(4)]
    inputs += [None] * 9
    y = b.op("BIDIRECTIONAL_SEQUENCE_LSTM", inputs, "y", (BATCH, TIME, 2 * UNITS), "BidirectionalSequenceLSTMOptions",
             fusedActivationFunction=4, mergeOutputs=True, timeMajor=False)  # fmt: skip
    return b.program(y)


PROGRAMS: dict[str, Callable[[], Program]] = {
    "lstm": lstm,
    "lstm cifg": lambda: lstm(cifg=True),
    "lstm peephole": lambda: lstm(peephole=True),
    "lstm projection": lambda: lstm(projection=True),
    "lstm norm": lambda: lstm(norm=True),
    "lstm one step": lambda: lstm(code="LSTM"),
    "svdf": svdf,
    "svdf linear": lambda: svdf(act=0),
    "rnn": lambda: rnn("RNN"),
    "sequence rnn": lambda: rnn("UNIDIRECTIONAL_SEQUENCE_RNN"),
    "bidirectional rnn": lambda: rnn("BIDIRECTIONAL_SEQUENCE_RNN"),
    "bidirectional lstm": both_ways,
}


def steps(program: Program) -> list[np.ndarray]:
    """What the program is fed, in order: sequences, or their steps."""
    return list(SEQUENCES) if len(program.main.inputs[0].shape) == 3 else list(SEQUENCES[0].swapaxes(0, 1)) * 2


def outputs(model: Model, kernels: str) -> np.ndarray:
    """State is carried from one input to the next."""
    session = Session(bytes(model), kernels=kernels)
    x, y = model.program.main.inputs[0].qparams, model.program.main.outputs[0].qparams
    fed = [step if x is None else numerics.quantize(step, x, INT8) for step in steps(model.program)]
    made = np.stack([next(iter(session.run([step]).values())) for step in fed])
    return made if y is None else numerics.dequantize(made, y)


@pytest.mark.parametrize("scheme", [octavo.dynamic_range(0), octavo.weight_only(0), octavo.float16(0)],
                         ids=["dynamic range", "weight only", "float16"])  # fmt: skip
@pytest.mark.parametrize("name", list(PROGRAMS))
def test_small_weights(name: str, scheme: octavo.Scheme) -> None:
    model = Model(PROGRAMS[name]())
    small = octavo.quantize(model, scheme)
    verify(small.program)
    (op,) = (op for op in small.program.ops() if op.code != "DEQUANTIZE")
    if scheme.kind == "dynamic_range":
        assert [decision.precision for decision in small.decisions] == ["dynamic"]
        assert op.option("asymmetricQuantizeInputs") is True and op.version > 1
    wanted = outputs(model, "builtin")
    for kernels in KERNELS:
        assert numerics.sqnr_db(wanted, outputs(small, kernels)) > (60 if scheme.kind == "float16" else 27)


@pytest.mark.parametrize("name", ["lstm", "svdf"])
def test_integer_throughout(name: str) -> None:
    program = PROGRAMS[name]()
    data = octavo.Sequences([steps(program)])
    small = octavo.quantize(Model(program), octavo.integer(fallback=False), data)
    verify(small.program)
    assert small.integer_only
    (op,) = small.program.ops()
    assert op.version == (1 if name == "lstm" else 3)
    wanted = outputs(Model(program), "builtin")
    for kernels in KERNELS:
        assert numerics.sqnr_db(wanted, outputs(small, kernels)) > 30


def test_the_state_of_an_lstm_is_that_of_the_kernel() -> None:
    program = lstm()
    session = Session(bytes(Model(program)), kernels="reference")
    index = program.main.tensors.index(program.main.ops[0].inputs[19])  # type: ignore[arg-type]
    watch = recurrent.Watch(program.main.ops[0])
    for number, step in enumerate(SEQUENCES[:4]):
        session.run([step])
        seen = watch.values({program.main.inputs[0]: step}, number == 0)[watch.tensor]
        assert seen.shape == (TIME, BATCH, UNITS)
        np.testing.assert_allclose(session.interpreter.get_tensor(index), seen[-1], rtol=1e-4, atol=1e-6)


def test_the_state_has_a_range_of_its_own() -> None:
    program = lstm(bias=2.0)
    cell = program.main.ops[0].inputs[19]
    assert cell is not None
    alone, carried = (collect(program, data).ranges[cell] for data in (SEQUENCES, octavo.Sequences(SEQUENCES, 24)))
    assert max(map(abs, carried)) > max(map(abs, alone)) > 0, "state that is carried along grows"
    small = octavo.quantize(Model(program), octavo.integer(), octavo.Sequences(SEQUENCES, 24))
    (op,) = (op for op in small.program.ops() if "LSTM" in op.code)
    state = op.inputs[19]
    assert state is not None and state.qparams is not None
    scale = float(state.qparams.scale[0])
    assert np.log2(scale).is_integer() and max(map(abs, carried)) <= scale * 2**15 < 4 * max(map(abs, carried))


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (lstm(cifg=True), "coupled to the forget gate"),
        (lstm(peephole=True), "peepholes"),
        (lstm(projection=True), "a projection"),
        (lstm(norm=True), "layer normalization"),
        (svdf(act=0), "RELU only"),
        (rnn("RNN"), "doesn't make this recurrent op integer"),
        (both_ways(), "doesn't make this recurrent op integer"),
    ],
    ids=["cifg", "peephole", "projection", "norm", "svdf", "rnn", "bidirectional"],
)
def test_what_stays_in_float_says_why(program: Program, reason: str) -> None:
    data = octavo.Sequences([steps(program)])
    small = octavo.quantize(Model(program), octavo.integer(), data)
    (decision,) = small.summary().in_float
    assert reason in decision.reason
    np.testing.assert_allclose(outputs(small, "builtin"), outputs(Model(program), "builtin"), rtol=1e-5, atol=1e-6)
    with pytest.raises(octavo.NotIntegerError, match=reason):
        octavo.quantize(Model(program), octavo.integer(fallback=False), data)


def test_int16_is_refused() -> None:
    with pytest.raises(octavo.NotIntegerError, match="int8 only"):
        octavo.quantize(Model(lstm()), octavo.integer(fallback=False, activations=16), SEQUENCES)


def test_a_float_initial_state_stays_in_float() -> None:
    program = lstm()
    state = program.main.ops[0].inputs[19]
    assert state is not None
    state.is_variable = False
    state.set_values(np.ones((BATCH, UNITS), np.float32))
    assert "isn't a float32 variable" in recurrent.why_not_integer(program.main.ops[0], {})


@pytest.mark.parametrize("name", ["lstm", "svdf"])
def test_back_to_float(name: str) -> None:
    program = PROGRAMS[name]()
    data = octavo.Sequences([steps(program)])
    small = octavo.quantize(Model(program), octavo.integer(fallback=False), data)
    back = octavo.dequantize(small)
    assert not [t for op in back.program.ops() for t in op.intermediates]
    wanted = outputs(Model(program), "builtin")
    assert numerics.sqnr_db(wanted, outputs(back, "builtin")) > 30
    again = octavo.quantize(back, octavo.integer(fallback=False))  # the ranges were kept
    assert numerics.sqnr_db(wanted, outputs(again, "builtin")) > 28


def test_op_kinds_are_those_of_the_table() -> None:
    codes = {op.code for build in PROGRAMS.values() for op in build().ops()}
    assert codes == {row.name for row in octavo.ops.OPS.values() if row.hybrid and row.sample is None}
    assert isinstance(lstm().main.ops[0], Op)
