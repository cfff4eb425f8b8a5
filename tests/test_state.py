"""Models that keep state or call subgraphs: quantized where kernels can, otherwise in float, named, and right."""

from __future__ import annotations

import numpy as np
import pytest

import octavo
from graphs import Builder
from octavo import numerics
from octavo.graph import DType, Op, Program, Tensor
from octavo.graph.verify import verify
from octavo.model import Model
from octavo.runtime.session import Session
from test_passes import looping

STEPS = np.random.default_rng(0).normal(size=(12, 1, 6)).astype(np.float32)
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


def streaming() -> Program:
    """state = state + dense(x), out = dense(state), with the state set up by CALL_ONCE."""
    b = Builder()
    x = b.input("x", (1, 6))
    b.graph.ops.append(Op("CALL_ONCE", [], [], {"initSubgraphIndex": 1}, "CallOnceOptions"))
    place = handle(b)
    state = b.op("READ_VARIABLE", [place], "state", (1, 6), "ReadVariableOptions")
    new = b.op("ADD", [state, b.dense(x, "dense", 6)], "new", (1, 6), "AddOptions")
    b.graph.ops.append(Op("ASSIGN_VARIABLE", [place, new], [], {}, "AssignVariableOptions"))
    program = b.program(b.dense(new, "out", 4))
    start = Builder()
    zeros = start.const("zeros", np.zeros((1, 6), np.float32))
    start.graph.ops.append(Op("ASSIGN_VARIABLE", [handle(start), zeros], [], {}, "AssignVariableOptions"))
    program.graphs.append(start.program(signature=False).main)
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


def outputs(model: Model, kernels: str) -> np.ndarray:
    session = Session(bytes(model), kernels=kernels)
    return np.stack([next(iter(session.run([x]).values())) for x in STEPS])


@pytest.mark.parametrize("kernels", ["xnnpack", "builtin"])
@pytest.mark.parametrize("scheme", SCHEMES, ids=NAMES)
@pytest.mark.parametrize("program", [streaming(), recurrent(), looping()], ids=["variables", "lstm", "while"])
def test_state_survives(program: Program, scheme: octavo.Scheme, kernels: str) -> None:
    model = Model(program)
    small = octavo.quantize(model, scheme, STEPS if scheme.kind == "integer" else None)
    verify(small.program)
    assert numerics.sqnr_db(outputs(model, "builtin"), outputs(small, kernels)) > 25


def test_what_stays_in_float_is_named() -> None:
    for program, kind in ((streaming(), "ASSIGN_VARIABLE"), (recurrent(), "UNIDIRECTIONAL_SEQUENCE_LSTM"),
                          (looping(), "WHILE")):  # fmt: skip
        left = octavo.quantize(Model(program), octavo.integer(), STEPS).summary().in_float
        (why,) = {decision.reason for decision in left if decision.kind == kind}
        assert "float" in why
        with pytest.raises(octavo.NotIntegerError, match=kind):
            octavo.quantize(Model(program), octavo.integer(fallback=False), STEPS)


def test_a_stream_is_integer_around_its_state() -> None:
    small = octavo.quantize(Model(streaming()), octavo.integer(), STEPS)
    assert small.summary().counts["int8"] == 3
