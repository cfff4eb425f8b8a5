"""Models that keep state or loop: quantized where kernels can, otherwise in float, named, and right."""

from __future__ import annotations

import numpy as np
import pytest

import octavo
from graphs import Builder
from octavo import numerics
from octavo.calibrate.observers import Histogram
from octavo.calibrate.run import Needs, collect
from octavo.graph import DType, Op, Program, Tensor
from octavo.graph.verify import verify
from octavo.making import prepare
from octavo.model import Model
from octavo.qtypes import INT8, INT16
from octavo.runtime.session import Session

STEPS = np.random.default_rng(0).normal(size=(12, 1, 6)).astype(np.float32)
STREAM = octavo.Sequences([STEPS])
SCHEMES = [
    octavo.float16(0),
    octavo.dynamic_range(0),
    octavo.weight_only(0),
    octavo.integer(),
    octavo.integer(activations=16),
]
NAMES = ["float16", "dynamic range", "weight only", "int8", "int16"]


def handle(b: Builder) -> Tensor:
    return b.op("VAR_HANDLE", [], "handle", (1,), "VarHandleOptions", dtype=DType.RESOURCE, sharedName="state")


def call_once(b: Builder) -> Tensor:
    b.graph.ops.append(Op("CALL_ONCE", [], [], {"initSubgraphIndex": 1}, "CallOnceOptions"))
    return handle(b)


def assign(b: Builder, place: Tensor, value: Tensor) -> None:
    b.graph.ops.append(Op("ASSIGN_VARIABLE", [place, value], [], {}, "AssignVariableOptions"))


def with_start(program: Program, start: np.ndarray) -> Program:
    """Subgraph 1 sets the state up."""
    b = Builder()
    assign(b, handle(b), b.const("start", start.astype(np.float32)))
    program.graphs.insert(1, b.program(signature=False).main)
    return program


def streaming(start: float = 0.0) -> Program:
    """state = state + dense(x), out = dense(state), with the state set up by CALL_ONCE."""
    b = Builder()
    x = b.input("x", (1, 6))
    place = call_once(b)
    state = b.op("READ_VARIABLE", [place], "state", (1, 6), "ReadVariableOptions")
    new = b.op("ADD", [state, b.dense(x, "dense", 6)], "new", (1, 6), "AddOptions")
    assign(b, place, new)
    return with_start(b.program(b.dense(new, "out", 4)), np.full((1, 6), start))


def ring() -> Program:
    """The last four inputs: window = concat(window[1:], x), out = dense(window)."""
    b = Builder()
    x = b.input("x", (1, 6))
    place = call_once(b)
    window = b.op("READ_VARIABLE", [place], "window", (4, 6), "ReadVariableOptions")
    ends = [b.const(name, np.array(at, np.int32)) for name, at in (("begin", [1, 0]), ("size", [3, 6]))]
    kept = b.op("SLICE", [window, *ends], "kept", (3, 6), "SliceOptions")
    new = b.op("CONCATENATION", [kept, x], "new", (4, 6), "ConcatenationOptions", axis=0)
    assign(b, place, new)
    return with_start(b.program(b.dense(b.reshape(new, "flat", (1, 24)), "out", 4)), np.zeros((4, 6)))


def looping() -> Program:
    """Three times: x = dense(x) + x."""
    b = Builder()
    x, zero = b.input("x", (1, 6)), b.const("zero", np.array(0, np.int32))
    outs = [b.graph.add_tensor(Tensor(f"out{i}", t.dtype, t.shape)) for i, t in enumerate((x, zero))]
    options = {"condSubgraphIndex": 1, "bodySubgraphIndex": 2}
    b.graph.ops.append(Op("WHILE", [x, zero], outs, options, "WhileOptions"))
    program = b.program(outs[0])
    cond, body = Builder(), Builder(1)
    for inner in (cond, body):
        for t in (x, zero):
            inner.input(t.name, t.shape, t.dtype)
    three, one = (inner.const("n", np.array(n, np.int32)) for inner, n in ((cond, 3), (body, 1)))
    more = cond.op("LESS", [cond.graph.inputs[1], three], "more", (), "LessOptions", dtype=DType.BOOL)
    y, count = body.graph.inputs
    y = body.op("ADD", [body.dense(y, "dense", 6), y], "sum", (1, 6), "AddOptions")
    count = body.op("ADD", [count, one], "count", (), "AddOptions", dtype=DType.INT32)
    program.graphs += [cond.program(more, signature=False).main, body.program(y, count, signature=False).main]
    return program


def collecting() -> Program:
    """Three times: x = dense(x) + x, and all three are given out: row i of `kept` is replaced, as converters do it.

    The rows before the first and behind the last are tensors without elements.
    """
    program = looping()
    main, body = program.main, program.graphs[2]
    kept = main.add_tensor(Tensor("kept", DType.FLOAT32, ()))
    kept.set_values(np.zeros((3, 6), np.float32))
    loop = main.ops[0]
    loop.inputs.append(kept)
    loop.outputs.append(main.add_tensor(Tensor("rows", DType.FLOAT32, (3, 6))))
    main.outputs.append(loop.outputs[-1])
    program.signatures[0].outputs.append(("rows", loop.outputs[-1]))
    program.graphs[1].inputs.append(program.graphs[1].add_tensor(Tensor("kept", DType.FLOAT32, (3, 6))))
    b = Builder()
    b.graph = body
    old, count, (y, after) = b.input("kept", (3, 6)), body.inputs[1], body.outputs
    zero, six, rest = (b.const(f"n{n}", np.array(n, np.int32)) for n in (0, 6, -1))

    def rows(name: str, begin: Tensor, size: Tensor, shape: tuple[int, int]) -> Tensor:
        ends = [
            b.op("PACK", pair, f"{name}/{i}", (2,), "PackOptions", dtype=DType.INT32, valuesCount=2, axis=0)
            for i, pair in enumerate(([begin, zero], [size, six]))
        ]
        made = b.op("SLICE", [old, *ends], name, shape, "SliceOptions")
        made.shape_signature = (-1, 6)
        return made

    parts = [rows("before", zero, count, (0, 6)), y, rows("behind", after, rest, (2, 6))]
    body.outputs.append(b.op("CONCATENATION", parts, "all", (3, 6), "ConcatenationOptions", axis=0))
    return program


def recurrent() -> Program:
    """One UNIDIRECTIONAL_SEQUENCE_LSTM with five units over six inputs, its state in variable tensors."""
    b = Builder()
    x = b.input("x", (1, 6))
    sequence = b.reshape(x, "sequence", (1, 1, 6))
    kernels = [b.weights(f"input{i}", 5, 6) for i in range(4)] + [b.weights(f"recurrent{i}", 5, 5) for i in range(4)]
    biases = [b.weights(f"bias{i}", 5) for i in range(4)]
    states = [b.graph.add_tensor(Tensor(f"state{i}", DType.FLOAT32, (1, 5), is_variable=True)) for i in range(2)]
    operands: list[Tensor | None] = [sequence, *kernels, None, None, None, *biases, None, None, *states, *[None] * 4]
    y = b.op("UNIDIRECTIONAL_SEQUENCE_LSTM", operands, "lstm", (1, 1, 5), "UnidirectionalSequenceLSTMOptions",
             fusedActivationFunction=4)  # fmt: skip
    return b.program(b.dense(b.reshape(y, "last", (1, 5)), "out", 3))


PROGRAMS = {"variables": streaming, "ring": ring, "lstm": recurrent, "while": looping, "rows": collecting}


def outputs(model: Model, kernels: str) -> np.ndarray:
    session = Session(bytes(model), kernels=kernels)
    return np.stack([np.concatenate(list(session.run([x]).values())) for x in STEPS])


@pytest.mark.parametrize("kernels", ["xnnpack", "builtin"])
@pytest.mark.parametrize("scheme", SCHEMES, ids=NAMES)
@pytest.mark.parametrize("name", list(PROGRAMS))
def test_state_survives(name: str, scheme: octavo.Scheme, kernels: str) -> None:
    model = Model(PROGRAMS[name]())
    small = octavo.quantize(model, scheme, STREAM if scheme.kind == "integer" else None)
    verify(small.program)
    assert numerics.sqnr_db(outputs(model, "builtin"), outputs(small, kernels)) > 25


def test_the_turns_of_a_loop_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three turns of twelve tensors: each histogram is brought up to date once per sample, and holds every value."""
    program = prepare(Model(looping())).program
    counted: list[int] = []
    update = Histogram.update
    monkeypatch.setattr(Histogram, "update", lambda self, values: (counted.append(values.size), update(self, values)))
    seen = collect(program, STEPS[:2], needs=Needs(histograms=True))
    assert len(counted) == 2 * len(seen.histograms)
    turned = next(tensor for op in program.graphs[2].ops if op.code == "FULLY_CONNECTED" for tensor in op.outputs)
    assert seen.histograms[turned].counts.sum() == 2 * 3 * 6


# ---------------------------------------------------------------- variables


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("program", [streaming(), streaming(0.75), ring()], ids=["sum", "sum from 0.75", "ring"])
def test_a_stream_is_integer_throughout(program: Program, bits: int) -> None:
    scheme = octavo.integer(fallback=False, activations=bits, io=f"int{bits}")
    small = octavo.quantize(Model(program), scheme, STREAM)
    assert small.integer_only
    stored = [op.inputs[1] for op in small.program.ops() if op.code == "ASSIGN_VARIABLE"]
    read = [op.outputs[0] for op in small.program.ops() if op.code == "READ_VARIABLE"]
    forms = {
        (t.dtype, float(t.qparams.scale[0]), int(t.qparams.zero_point[0])) for t in stored + read if t and t.qparams
    }
    assert len(forms) == 1 and len(stored + read) == 3, "one scale wherever the variable is read or written"
    wanted, x = outputs(Model(program), "builtin"), small.program.main.inputs[0]
    session = Session(bytes(small))
    codes = [numerics.quantize(step, x.qparams, INT8 if bits == 8 else INT16) for step in STEPS if x.qparams]
    got = np.stack([next(iter(session.run([code]).values())) for code in codes])
    out = small.program.main.outputs[0].qparams
    assert out is not None
    assert numerics.sqnr_db(wanted, numerics.dequantize(got, out)) > (
        25 if bits == 8 else 50
    )  # int16 is held down by its 8-bit weights


def test_samples_alone_start_from_the_first_state_whatever_their_order() -> None:
    program = streaming(0.5)
    here, there = (collect(program, data).ranges for data in (STEPS, STEPS[::-1]))
    assert here == there
    bounds = {tensor.name: found for tensor, found in here.items()}
    assert bounds["state"] == (0.5, 0.5)


def test_a_sequence_carries_the_state_along() -> None:
    program = streaming(0.5)
    dense = next(op for op in program.main.ops if op.code == "FULLY_CONNECTED")
    assert dense.inputs[1] and dense.inputs[2]
    steps = STEPS[:, 0] @ dense.inputs[1].values.T + dense.inputs[2].values
    states = 0.5 + np.concatenate([np.zeros((1, 6)), np.cumsum(steps, 0)[:-1]])
    halves = np.concatenate(
        [0.5 + np.concatenate([np.zeros((1, 6)), np.cumsum(part, 0)[:-1]]) for part in (steps[:6], steps[6:])]
    )
    for data, wanted in (
        (STREAM, states),
        (octavo.Sequences([STEPS[:6], STEPS[6:]]), halves),
        (octavo.Sequences(lambda: iter([{"x": STEPS[:6]}, list(STEPS[6:])])), halves),
        (octavo.Sequences(STEPS, steps=6), halves),
        (octavo.Sequences({"x": STEPS}, steps=100), states),
    ):  # fmt: skip
        bounds = {tensor.name: found for tensor, found in collect(program, data).ranges.items()}
        np.testing.assert_allclose(bounds["state"], (wanted.min(), wanted.max()), rtol=1e-5)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (octavo.Sequences([]), "no sequences"),
        (octavo.Sequences([STEPS, STEPS[:, :, :3]]), r"sequence 1: input 'x', sample 0: shape \(12, 1, 3\)"),
        (octavo.Sequences(3), "int is no iterable of sequences"),
        (octavo.Sequences({"x": STEPS}), "dict is no iterable of sequences"),
    ],
)
def test_sequences_that_are_none(data: octavo.Sequences, message: str) -> None:
    with pytest.raises(octavo.DataError, match=message):
        collect(streaming(), data)
    with pytest.raises(octavo.DataError, match="at least one step"):
        octavo.Sequences(STEPS, steps=0)


def test_a_variable_is_float_for_all_or_for_none() -> None:
    rule = octavo.Rule(octavo.keep_float(), kind="READ_VARIABLE")
    small = octavo.quantize(Model(streaming()), octavo.Recipe(octavo.integer(), (rule,)), STREAM)
    made = {decision.kind: decision for decision in small.decisions}
    assert made["READ_VARIABLE"].precision == made["ASSIGN_VARIABLE"].precision == "float32"
    assert "its variable is kept in float" in made["ASSIGN_VARIABLE"].reason
    assert numerics.sqnr_db(outputs(Model(streaming()), "builtin"), outputs(small, "xnnpack")) > 25


def test_two_signatures_share_a_variable() -> None:
    """One adds to the state, the other reads it: both must mean the same by its codes."""
    program = streaming()
    b = Builder()
    y = b.input("y", (1, 6))
    state = b.op("READ_VARIABLE", [call_once(b)], "seen", (1, 6), "ReadVariableOptions")
    out = b.op("MUL", [state, y], "out", (1, 6), "MulOptions")
    extra = b.program(out)
    extra.signatures[0].key = "look"
    program.graphs += extra.graphs
    program.signatures += extra.signatures
    data = {"serving_default": STREAM, "look": STEPS}
    small = octavo.quantize(Model(program), octavo.integer(), data)
    variable = [op for op in small.program.ops() if op.code in ("READ_VARIABLE", "ASSIGN_VARIABLE")]
    tensors = [t for op in variable for t in [*op.inputs[1:], *op.outputs] if t]
    assert {t.dtype for t in tensors} == {DType.INT8} and len({t.qparams for t in tensors}) == 1


@pytest.mark.parametrize("program", [streaming(0.5), ring()], ids=["sum", "ring"])
def test_layers_of_a_stream_can_be_inspected(program: Program) -> None:
    small = octavo.quantize(Model(program), octavo.integer(), STEPS)
    layers = octavo.inspect(Model(program), small, STEPS[:, 0]).layers
    assert {"FULLY_CONNECTED"} <= {layer.kind for layer in layers}


# ---------------------------------------------------------------- loops


def test_the_body_of_a_loop_is_calibrated_turn_by_turn_and_becomes_integer() -> None:
    program = looping()
    dense = program.graphs[2].ops[0]
    assert dense.inputs[1] and dense.inputs[2]
    x, seen = STEPS[:, 0], []
    for _ in range(3):
        seen.append(x)
        x = x @ dense.inputs[1].values.T + dense.inputs[2].values + x
    bounds = collect(program, STEPS).ranges
    np.testing.assert_allclose(bounds[program.graphs[2].inputs[0]], (np.min(seen), np.max(seen)), rtol=1e-5)
    small = octavo.quantize(Model(program), octavo.integer(), STEPS)
    body = small.program.graphs[2]
    assert [op.code for op in body.ops if op.outputs[0].dtype is DType.INT8] == ["FULLY_CONNECTED", "ADD"]
    assert [op.code for op in small.program.main.ops] == ["QUANTIZE", "WHILE", "DEQUANTIZE"]
    loop = small.program.main.ops[1]
    handed = [
        loop.inputs[0],
        loop.outputs[0],
        *(t for g in small.program.graphs[1:] for t in g.inputs[:1]),
        body.outputs[0],
    ]
    assert len({t.qparams for t in handed if t}) == 1, "one scale from turn to turn"


@pytest.mark.parametrize("bits", [8, 16])
def test_a_loop_is_integer_throughout(bits: int) -> None:
    scheme = octavo.integer(fallback=False, activations=bits)
    small = octavo.quantize(Model(looping()), scheme, STEPS)
    verify(small.program)
    assert small.integer_only and not [op for op in small.program.ops() if "QUANTIZE" in op.code]
    wanted = outputs(Model(looping()), "builtin")
    for kernels in ("xnnpack", "builtin", "reference"):
        got = np.asarray(octavo.Runner(small, kernels=kernels)(STEPS[:, 0]))
        assert numerics.sqnr_db(wanted[:, 0], got) > (28 if bits == 8 else 48)


def test_a_loop_whose_body_makes_floats_hands_floats_on_and_says_so() -> None:
    recipe = octavo.Recipe(octavo.integer(), (octavo.Rule(octavo.keep_float(), kind="ADD"),))
    small = octavo.quantize(Model(looping()), recipe, STEPS)
    reasons = {decision.kind: decision.reason for decision in small.decisions}
    assert reasons["WHILE"] == "it hands floats to its subgraphs: ADD 'sum' makes floats there"
    assert small.program.graphs[2].inputs[0].dtype is DType.FLOAT32
    assert numerics.sqnr_db(outputs(Model(looping()), "builtin"), outputs(small, "xnnpack")) > 25


def test_a_loop_that_never_turns_stays_in_float() -> None:
    program = looping()
    three = program.graphs[1].ops[0].inputs[1]
    assert three is not None
    three.set_values(np.array(0, np.int32))
    small = octavo.quantize(Model(program), octavo.integer(), STEPS)
    reasons = {decision.kind: decision.reason for decision in small.decisions}
    assert "no calibration data reached" in reasons["FULLY_CONNECTED"]


def test_a_loop_in_a_loop_is_calibrated() -> None:
    """The body of the outer loop runs the inner one and doubles what it gives."""
    inner, outer = looping(), looping()
    body = outer.graphs[2]
    call = Op("WHILE", [body.inputs[0], None], [], {"condSubgraphIndex": 3, "bodySubgraphIndex": 4}, "WhileOptions")
    zero = body.add_tensor(Tensor("zero", DType.INT32, ()))
    zero.set_values(np.array(0, np.int32))
    call.inputs[1] = zero
    call.outputs = [body.add_tensor(Tensor(f"inner{i}", t.dtype, t.shape)) for i, t in enumerate(call.inputs) if t]
    for op in body.ops[:2]:
        op.inputs = [call.outputs[0] if t is body.inputs[0] else t for t in op.inputs]
    body.ops.insert(0, call)
    outer.graphs += inner.graphs[1:]
    for graph in (outer.graphs[2], outer.graphs[4]):  # else nine turns grow without end
        kernel = next(op.inputs[1] for op in graph.ops if op.code == "FULLY_CONNECTED")
        assert kernel is not None
        kernel.set_values(kernel.values / 4)
    data = STEPS / 8
    bounds = collect(outer, data).ranges
    assert all(t in bounds for t in [*outer.graphs[2].inputs[:1], *outer.graphs[4].inputs[:1]])
    small = octavo.quantize(Model(outer), octavo.integer(fallback=False), data)
    assert small.integer_only
    inner_body = small.program.graphs[4]
    assert [op.code for op in inner_body.ops if op.outputs[0].dtype is DType.INT8] == ["FULLY_CONNECTED", "ADD"]
    wanted, got = (octavo.Runner(model)(data[:, 0]) for model in (Model(outer), small))
    assert numerics.sqnr_db(np.asarray(wanted), np.asarray(got)) > 20


# ---------------------------------------------------------------- damaged files


def without(program: Program, code: str, index: int) -> Program:
    """The op that is named lacks an operand."""
    next(op for op in program.ops() if op.code == code).inputs[index] = None
    return program


def turning(body: int) -> Program:
    """The body of the loop is another subgraph."""
    program = looping()
    program.main.ops[0].options = {"condSubgraphIndex": 1, "bodySubgraphIndex": body}
    return program


def starting_itself() -> Program:
    program = streaming()
    next(op for op in program.ops() if op.code == "CALL_ONCE").options = {"initSubgraphIndex": 0}
    return program


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (without(looping(), "WHILE", 0), r"WHILE 'out0' has 1 of the 2 operand"),
        (without(streaming(), "ASSIGN_VARIABLE", 1), r"ASSIGN_VARIABLE has 1 of the 2 operand"),
        (without(ring(), "CONCATENATION", 1), r"CONCATENATION 'new' has 1 of the 2 operand"),
        (without(recurrent(), "UNIDIRECTIONAL_SEQUENCE_LSTM", 2), r"LSTM 'lstm' has 11 of the 12 operand"),
        (turning(9), r"calls subgraph 9, which isn't there"),
        (turning(-1), r"calls subgraph -1, which isn't there"),
        (turning(0), r"hands 2 value\(s\) to a subgraph that takes 1"),
        (starting_itself(), r"CALL_ONCE calls a subgraph that it is part of"),
    ],
)  # fmt: skip
def test_damaged_calls_are_named_before_anything_runs(program: Program, message: str) -> None:
    for act in (
        lambda model: octavo.quantize(model, octavo.integer(), STEPS),
        lambda model: octavo.fix_shapes(model, (1, 6)),
        octavo.dequantize,
    ):
        with pytest.raises(octavo.ModelFileError, match=message):
            act(Model(program))
